#!/usr/bin/env python3
"""Tests the Python package photosearch on a server: psycopg, asyncpg, SQLAlchemy, Alembic, Django, PgBouncer.

usage: run_python.py        (PGHOST, PGUSER and the other libpq variables name the server)

The references are the server itself (its text and binary output, what it finds without the package) and numpy's halves. The
tests create databases of their own and drop them. Needs the package installed, what tests/client, tests/docs and
clients/python/tests require, pgvector in the server, and pgbouncer.
Run alone: tests/cluster.sh run DIR VENV/bin/python clients/python/tests/run_python.py. The last line counts the tests; the exit
status is 1 if one failed.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import asyncpg
import numpy as np
import pgvector
import pgvector.psycopg
import psycopg
import sqlalchemy as sa
from psycopg.types import TypeInfo
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

import photosearch.asyncpg
import photosearch.psycopg
from photosearch import Vector
from photosearch.sqlalchemy import MrlVector

DATABASE = "photosearch_python"
# The extension lies in a schema that no search_path names, and public has another type of the same name.
HIDDEN = "photosearch_hidden"
MODEL = "photosearch-mini-1"
DIMS = 64
ROWS = 600
TESTS = []

# Every finite half, both zeros included.
FINITE = np.array([bits for bits in range(1 << 16) if bits >> 10 & 0x1F != 0x1F], np.uint16).view(np.float16)


def test(function):
    TESTS.append(function)
    return function


def connect(database=DATABASE, arrays=None, **options):
    """A connection; with `arrays` the type is registered."""
    connection = psycopg.connect(dbname=database, autocommit=True, **options)
    if arrays is not None:
        photosearch.psycopg.register(connection, arrays=arrays)
    return connection


def drawn(seed, dims=DIMS):
    generator = random.Random(seed)
    return [generator.gauss(0, 1) for _ in range(dims)]


def same_bits(a, b):
    return Vector(a).to_binary() == Vector(b).to_binary()


def raises(kind, call, sqlstate=None):
    """Runs a call that has to raise an exception of this kind, with this SQLSTATE if one is given. Returns the exception."""
    try:
        call()
    except kind as error:
        found = getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
        assert sqlstate is None or found == sqlstate, (found, error)
        return error
    raise AssertionError(f"no {kind.__name__}")


def uses_index(lines, index):
    text = "\n".join(lines)
    return f"Index Scan using {index}" in text or f"Index Scan on {index}" in text


# The value class


@test
def values_are_rounded_as_the_server_rounds():
    with connect() as connection:
        # Beside random values, doubles around the middle of two halves, where two roundings differ from one.
        middles = [(1 + (2 * i + 1) / 2048) * (1 + sign * 2.0**-shift) for i in range(40) for sign in (-1, 1) for shift in (24, 26, 30)]
        for values in (drawn(1, 2000), middles, [1e-8, 6e-8, -0.0, 65519.99, -65504.0, 1 / 3]):
            server = connection.execute("SELECT mrl_vector_send(%s::float8[]::mrl_vector)", [values], binary=True).fetchone()[0]
            assert Vector(values).to_binary() == server
            assert Vector(np.array(values, np.float64)).to_binary() == server
            assert Vector("[" + ",".join(map(repr, values)) + "]").to_binary() == server


@test
def every_half_is_the_same_in_text_and_binary():
    with connect() as connection:
        oid = connection.execute("SELECT 'mrl_vector'::regtype::oid").fetchone()[0]
        assert len(FINITE) == 63_488
        for part in np.array_split(FINITE, 8):
            message = len(part).to_bytes(2, "big") + b"\0\0" + part.astype(">f2").tobytes()
            vector = Vector.from_binary(message)
            assert vector.to_binary() == message
            result = connection.pgconn.exec_params(b"SELECT $1, $1", [message], [oid], [1], 0)
            server = result.get_value(0, 0).decode()
            assert Vector(server).to_binary() == Vector.from_text(server).to_binary() == message
            # The package's own text, read by the server.
            returned = connection.execute("SELECT mrl_vector_send(%s::text::mrl_vector)", [vector.to_text()], binary=True).fetchone()[0]
            assert returned == message
            # The server prints as few digits as numpy does, which has an implementation of its own. Integers it prints in full.
            for value, text in zip(part, server[1:-1].split(","), strict=True):
                if value != np.trunc(value):
                    assert float(text) == float(np.format_float_positional(value, unique=True)), (value, text)
                else:
                    assert text == f"{float(value):.0f}", (value, text)


@test
def values_that_the_server_refuses_are_refused():
    for values in ([], [float("nan")], [float("inf")], [65520], [1e300], [[1, 2]], [None], ["a"], "1,2", "[]", np.ones((2, 2))):
        raises(ValueError, lambda: Vector(values))
    for message in (b"\0\1\0\0", b"\0\1\0\1\0\0", b"\0\1\0\0\0\0\0"):
        raises(ValueError, lambda: Vector.from_binary(message))


@test
def vectors_behave_as_values():
    vector = Vector([1, -0.0, 0.5])
    assert vector == Vector(np.float32([1, 0, 0.5])) and hash(vector) == hash(Vector("[1,0,0.5]"))
    assert vector != Vector([1, 0]) and vector != [1, 0, 0.5]
    assert (len(vector), vector[2], vector[:2], list(vector)) == (3, 0.5, [1.0, 0.0], [1.0, 0.0, 0.5])
    assert str(vector) == "[1,-0,0.5]" and repr(vector) == "Vector([1,-0,0.5])" and eval(repr(vector)) == vector
    assert vector.to_numpy().dtype == np.float32 and np.asarray(vector).tolist() == [1, 0, 0.5]
    assert np.asarray(vector, np.float64).dtype == np.float64
    assert Vector(vector) == vector == Vector(vector.to_list()) == Vector.from_binary(memoryview(vector.to_binary()))


@test
def each_module_imports_its_own_library_only():
    libraries = {"": set(), "psycopg": {"psycopg"}, "asyncpg": set(), "sqlalchemy": {"sqlalchemy"}, "django": {"django"}}
    for name, needed in libraries.items():
        module = "photosearch" + (name and f".{name}")
        program = (
            f"import sys, {module}; loaded = {{name.split('.')[0] for name in sys.modules}}; "
            "print(*loaded & {'psycopg', 'psycopg2', 'asyncpg', 'sqlalchemy', 'django', 'numpy'})"
        )
        # Django imports the driver with its PostgreSQL support.
        allowed = needed | ({"psycopg"} if name == "django" else set())
        found = set(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())
        assert needed <= found <= allowed, (module, found)
    assert (Path(photosearch.__file__).parent / "py.typed").exists()


# psycopg


@test
def psycopg_sends_and_reads_both_formats():
    values = drawn(2)
    expected = Vector(values)
    for arrays in (False, True):
        with connect(arrays=arrays) as connection:
            for parameter in [expected, *([np.array(values), np.array(values, np.float32)] if arrays else [])]:
                for slot in ("%s", "%t", "%b"):
                    for binary in (False, True):
                        sql = f"SELECT {slot}, pg_typeof({slot})::text, mrl_vector_send({slot})"
                        found, kind, sent = connection.execute(sql, [parameter] * 3, binary=binary).fetchone()
                        assert kind == "mrl_vector" and bytes(sent) == expected.to_binary()
                        assert same_bits(found, expected) and type(found) is (np.ndarray if arrays else Vector)
                        assert not arrays or found.dtype == np.float32
            for binary in (False, True):
                assert connection.execute("SELECT NULL::mrl_vector", binary=binary).fetchone() == (None,)
                cursor = connection.execute("SELECT ARRAY[%s, NULL, '[1]']::mrl_vector[]", [expected], binary=binary)
                first, second, third = cursor.fetchone()[0]
                assert same_bits(first, expected) and second is None and same_bits(third, [1])
            found = connection.execute("SELECT sum(vector_dims(v)) FROM unnest(%s) AS v", [[expected, expected]]).fetchone()
            assert found == (2 * DIMS,)


@test
def psycopg_lists_are_cast():
    with connect(arrays=False) as connection:
        # psycopg sends small whole numbers as smallint[], larger ones as integer[], others as double precision[].
        for values in ([1, 2, -3], [1, 70, 40_000], [0.1, -2.5], [1, 32767]):
            assert connection.execute("SELECT %s::mrl_vector", [values]).fetchone() == (Vector(values),)
        connection.execute("CREATE TABLE listed (e mrl_vector(3))")
        connection.execute("INSERT INTO listed VALUES (%s), (%s)", [[1, 2, 3], [0.5, 1.5, 2.0]])
        assert connection.execute("SELECT e FROM listed").fetchall() == [(Vector([1, 2, 3]),), (Vector([0.5, 1.5, 2]),)]
        # psycopg has no array type for a list of integers and floats; a Vector takes such a list.
        raises(psycopg.DataError, lambda: connection.execute("SELECT %s::mrl_vector", [[1.5, 2]]))
        assert connection.execute("SELECT %s", [Vector([1.5, 2])]).fetchone() == (Vector([1.5, 2]),)


@test
def psycopg_finds_the_type_in_any_schema():
    with connect(HIDDEN) as connection:
        assert TypeInfo.fetch(connection, "mrl_vector").oid != TypeInfo.fetch(connection, "hidden.mrl_vector").oid
        photosearch.psycopg.register(connection)
        assert connection.execute("SELECT e FROM hidden_photos").fetchone() == (Vector([1, 2]),)
        found = connection.execute("SELECT hidden.fine_score(e, %s) FROM hidden_photos", [Vector([1, 2])]).fetchone()
        assert found == (1,)
    with connect("postgres") as connection:
        error = raises(psycopg.ProgrammingError, lambda: photosearch.psycopg.register(connection))
        assert "does not have the extension photosearch" in str(error)


@test
def psycopg_registers_beside_pgvector():
    query = "SELECT '[1,2]'::mrl_vector, '[1,2]'::halfvec, '[1,2]'::vector"
    expected = (Vector([1, 2]), pgvector.HalfVector([1, 2]), pgvector.Vector([1, 2]))
    for ours_first in (True, False):
        with connect() as connection:
            registrations = [photosearch.psycopg.register, pgvector.psycopg.register_vector]
            for register in registrations if ours_first else reversed(registrations):
                register(connection)
            for binary in (False, True):
                assert connection.execute(query, binary=binary).fetchone() == expected
                cursor = connection.execute("SELECT pg_typeof(%s)::text, pg_typeof(%s)::text, pg_typeof(%s)::text", expected, binary=binary)
                assert cursor.fetchone() == ("mrl_vector", "halfvec", "vector")


@test
def pgvectors_own_registrations_fall_short():
    """As the manual says: one needs pgvector in the database, the other takes HalfVector away from halfvec."""
    from pgvector.psycopg.halfvec import register_halfvec_info

    with connect(HIDDEN) as connection:
        raises(Exception, lambda: pgvector.psycopg.register_vector(connection))
    with connect() as connection:
        pgvector.psycopg.register_vector(connection)
        assert connection.execute("SELECT pg_typeof(%s)::text", [pgvector.HalfVector([1])]).fetchone() == ("halfvec",)
        register_halfvec_info(connection, TypeInfo.fetch(connection, "mrl_vector"))
        assert connection.execute("SELECT pg_typeof(%s)::text", [pgvector.HalfVector([1])]).fetchone() == ("mrl_vector",)


@test
def psycopg_copies_in_and_out():
    rows = [(i, None if i % 7 == 0 else Vector(drawn(i, 16))) for i in range(200)]
    with connect(arrays=False) as connection:
        connection.execute("CREATE TABLE copied (id int, e mrl_vector(16))")
        for form in ("BINARY", "TEXT"):
            with connection.cursor().copy(f"COPY copied FROM STDIN (FORMAT {form})") as copy:
                copy.set_types(["int4", "mrl_vector"])
                for row in rows:
                    copy.write_row(row)
            with connection.cursor().copy(f"COPY copied TO STDOUT (FORMAT {form})") as copy:
                copy.set_types(["int4", "mrl_vector"])
                assert list(copy.rows()) == rows
            connection.execute("TRUNCATE copied")


@test
def psycopg_leaves_the_transaction_as_it_was():
    with psycopg.connect(dbname=DATABASE) as connection:
        photosearch.psycopg.register(connection)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        connection.execute("SET LOCAL work_mem = '5MB'")
        photosearch.psycopg.register(connection)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)


@test
def psycopg_errors_have_their_classes():
    with connect(arrays=False) as connection:
        three = Vector([1, 2, 3])
        mismatch = lambda sql, *parameters: raises(psycopg.errors.DataException, lambda: connection.execute(sql, parameters), "22000")
        mismatch("SELECT fine_score('[1,2]', %s)", three)
        mismatch("SELECT id FROM photos WHERE coarse_match(e, %s, 0.3, 2)", three)
        mismatch("INSERT INTO photos (id, e) VALUES (-1, %s)", three)
        mismatch("SELECT %s::mrl_vector(2)", three)
        wrong = lambda *parameters: raises(
            psycopg.errors.InvalidParameterValue,
            lambda: connection.execute("SELECT id FROM photos WHERE coarse_match(e, %s, %s, %s)", parameters),
            "22023",
        )
        query = Vector(drawn(3))
        wrong(query, 30, 16)
        wrong(query, 0.3, DIMS + 1)
        wrong(query, 0.3, 2**40)


@test
def psycopg_prepared_statements_use_the_index():
    with connect(arrays=False) as connection:
        connection.execute("SET enable_seqscan = off")
        sql = "SELECT id FROM photos WHERE coarse_match(e, %s, %s, %s) ORDER BY fine_score(e, %s) DESC, id"
        for statement in (sql, sql.replace("%s, %s, %s)", "%s, %s::real, %s::bigint)")):
            for round in range(9):
                query = Vector(drawn(round))
                parameters = [query, 0.2, 16, query]
                found = connection.execute(statement, parameters, prepare=True).fetchall()
                reference = connection.execute(
                    "SELECT id FROM plain WHERE fine_score(subvector(e, 1, 16), subvector(%s, 1, 16))::real >= 0.2::real ORDER BY fine_score(e, %s) DESC, id",
                    [query, query],
                ).fetchall()
                assert found == reference and 0 < len(found) < ROWS, (round, len(found))
        statements = connection.execute(
            "SELECT name, parameter_types[3]::text, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%coarse_match%' ORDER BY 1"
        ).fetchall()
        assert [dims for _, dims, _ in statements] == ["smallint"] * 2, statements
        # With known types, the sixth execution and the later ones have a generic plan.
        assert statements[0][2] >= 3, statements
        for mode in ("auto", "force_generic_plan"):
            connection.execute(f"SET plan_cache_mode = {mode}")
            for name, *_ in statements:
                plan = connection.execute(f"EXPLAIN (COSTS OFF) EXECUTE {name} ('{drawn_text(3)}', 0.2, 16, '{drawn_text(3)}')")
                lines = [line for (line,) in plan]
                assert uses_index(lines, "photos_e"), (mode, statements, lines)
                assert mode == "auto" or "$1" in "\n".join(lines), (statements, lines)


def drawn_text(seed):
    return Vector(drawn(seed)).to_text()


@test
def psycopg_works_asynchronously():
    async def main():
        connection = await psycopg.AsyncConnection.connect(dbname=DATABASE)
        async with connection:
            await photosearch.psycopg.register_async(connection, arrays=True)
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            for binary in (False, True):
                cursor = await connection.execute("SELECT %s, e FROM photos WHERE id = 1", [np.float32([1, 2])], binary=binary)
                first, stored = await cursor.fetchone()
                assert first.tolist() == [1, 2] and same_bits(stored, drawn(1))

    asyncio.run(main())


# asyncpg


@test
def asyncpg_speaks_the_binary_form():
    async def main():
        connection = await asyncpg.connect(database=DATABASE)
        try:
            await photosearch.asyncpg.register(connection)
            values = drawn(4)
            expected = Vector(values)
            for parameter in (expected, values, np.array(values), np.float32(values), str(expected), tuple(values)):
                row = await connection.fetchrow("SELECT $1::mrl_vector AS e, mrl_vector_send($1) AS sent", parameter)
                assert row["sent"] == Vector(parameter).to_binary() and row["e"] == Vector(parameter)
            assert await connection.fetchval("SELECT $1::mrl_vector", None) is None
            assert await connection.fetchval("SELECT $1::mrl_vector[]", [str(expected), None]) == [expected, None]
            await connection.execute("CREATE TABLE by_asyncpg (id int, e mrl_vector(64))")
            await connection.copy_records_to_table("by_asyncpg", records=[(i, Vector(drawn(i))) for i in range(50)])
            assert await connection.fetchval("SELECT count(*) FROM by_asyncpg JOIN photos USING (id, e)") == 49
            for sql, sqlstate in (("SELECT fine_score('[1,2]', $1)", "22000"), ("INSERT INTO by_asyncpg (e) VALUES ($1)", "22000")):
                try:
                    await connection.execute(sql, [1, 2, 3])
                except asyncpg.DataError as error:
                    assert error.sqlstate == sqlstate, error
                else:
                    raise AssertionError("accepted a wrong number of dimensions")

            await connection.execute("SET enable_seqscan = off")
            statement = await connection.prepare("SELECT id FROM photos WHERE coarse_match(e, $1, $2, $3) ORDER BY id")
            assert [parameter.name for parameter in statement.get_parameters()] == ["mrl_vector", "float8", "int8"]
            for round in range(9):
                found = [row["id"] for row in await statement.fetch(drawn(round), 0.2, 16)]
                reference = "SELECT id FROM plain WHERE fine_score(subvector(e, 1, 16), subvector($1::mrl_vector, 1, 16))::real >= 0.2::real ORDER BY id"
                assert found == [row["id"] for row in await connection.fetch(reference, drawn(round))] and found
            plan = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE {statement.get_name()} ('{drawn_text(3)}', 0.2, 16)")
            lines = [row[0] for row in plan]
            assert uses_index(lines, "photos_e") and "$1" in "\n".join(lines), lines
        finally:
            await connection.close()

        connection = await asyncpg.connect(database=HIDDEN)
        try:
            await photosearch.asyncpg.register(connection)
            assert await connection.fetchval("SELECT e FROM hidden_photos") == Vector([1, 2])
        finally:
            await connection.close()

        connection = await asyncpg.connect(database="postgres")
        try:
            await photosearch.asyncpg.register(connection)
        except LookupError as error:
            assert "photosearch" in str(error)
        else:
            raise AssertionError("registered a type that is not there")
        finally:
            await connection.close()

    asyncio.run(main())


# PgBouncer


class PgBouncer:
    """PgBouncer in transaction mode with two connections to the server, and a socket in a directory of its own."""

    def __enter__(self):
        program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise AssertionError("pgbouncer is not installed")
        self.directory = Path(tempfile.mkdtemp(prefix="photosearch-pgbouncer-", dir="/tmp"))
        user = os.environ.get("PGUSER", "postgres")
        (self.directory / "users").write_text(f'"{user}" ""\n')
        (self.directory / "config").write_text(
            f"[databases]\n* = host={os.environ['PGHOST']}\n[pgbouncer]\nlisten_addr =\nlisten_port = 6543\n"
            f"unix_socket_dir = {self.directory}\nauth_type = trust\nauth_file = {self.directory}/users\n"
            f"pool_mode = transaction\ndefault_pool_size = 2\nserver_round_robin = 1\n"
        )
        command = [program, "-q", str(self.directory / "config")]
        if os.geteuid() == 0:
            # PgBouncer does not run as root.
            for path in (self.directory, *self.directory.iterdir()):
                shutil.chown(path, "postgres")
            command = ["runuser", "-u", "postgres", "--", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(self.directory / "log").open("w"))
        deadline = time.monotonic() + 20
        while not (self.directory / ".s.PGSQL.6543").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"pgbouncer did not start: {(self.directory / 'log').read_text()}")
            time.sleep(0.05)
        return {"host": str(self.directory), "port": 6543}

    def __exit__(self, *_):
        # runuser passes the signal on.
        self.process.terminate()
        self.process.wait(timeout=20)
        shutil.rmtree(self.directory)


@test
def transaction_pooled_connections():
    query = Vector(drawn(5))
    sql = "SELECT id FROM photos WHERE coarse_match(e, %s, 0.2, 16) ORDER BY id"
    with connect(arrays=False) as direct:
        expected = direct.execute(sql, [query]).fetchall()
    with PgBouncer() as address:
        clients = [connect(**address, prepare_threshold=None) for _ in range(4)]
        try:
            for client in clients:
                photosearch.psycopg.register(client)
            pids = set()
            # Two transactions at a time hold both connections to the server, so that each client meets both.
            generator = random.Random(1)
            for _ in range(12):
                a, b = generator.sample(clients, 2)
                with a.transaction(), b.transaction():
                    for client in (a, b):
                        for binary in (False, True):
                            assert client.execute(sql, [query], binary=binary).fetchall() == expected
                            assert client.execute("SELECT e FROM photos WHERE id = 3", binary=binary).fetchone() == (Vector(drawn(3)),)
                        pids.add((id(client), client.execute("SELECT pg_backend_pid()").fetchone()[0]))
            assert len({pid for _, pid in pids}) == 2 and len(pids) > 4, pids

            # A setting of a session stays in the connection to the server; one of a transaction does not.
            a, b = clients[:2]
            with a.transaction():
                a.execute("SET LOCAL photosearch.coarse_threshold = 0.25")
            leaks = lambda: any(
                client.execute("SELECT current_setting('photosearch.coarse_threshold', true) = '0.25'").fetchone()[0]
                for client in clients * 3
            )
            assert not leaks()
            a.execute("LOAD 'photosearch'; SET photosearch.coarse_threshold = 0.25")
            assert leaks()
        finally:
            for client in clients:
                client.close()

        async def main():
            connection = await asyncpg.connect(**address, database=DATABASE, statement_cache_size=0)
            try:
                async with connection.transaction():
                    await photosearch.asyncpg.register(connection)
                    for _ in range(8):
                        found = await connection.fetch("SELECT id FROM photos WHERE coarse_match(e, $1, 0.2, 16) ORDER BY id", query)
                        assert [(row["id"],) for row in found] == expected
                    assert await connection.fetchval("SELECT e FROM photos WHERE id = 3") == Vector(drawn(3))
            finally:
                await connection.close()

        asyncio.run(main())


# SQLAlchemy


class Base(DeclarativeBase):
    pass


class Picture(Base):
    __tablename__ = "pictures"
    id = mapped_column(sa.Integer, primary_key=True)
    embedding = mapped_column(MrlVector(DIMS))
    free = mapped_column(MrlVector)
    __table_args__ = (sa.Index("pictures_e", "embedding", postgresql_using="mrl", postgresql_with={"prefix_dims": 16}),)


def engines():
    """Engines of psycopg: without the codec, and with its two kinds of values."""
    for arrays in (None, False, True):
        engine = sa.create_engine(f"postgresql+psycopg:///{DATABASE}")
        if arrays is not None:
            sa.event.listen(engine, "connect", lambda connection, _: photosearch.psycopg.register(connection, arrays=arrays))
        yield engine
        engine.dispose()


@test
def sqlalchemy_stores_searches_and_loads():
    for engine in engines():
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add_all([Picture(id=i, embedding=drawn(i)) for i in range(1, 100)])
            session.add_all([Picture(id=100, embedding=np.float32(drawn(100)), free=[1, 2]), Picture(id=101)])
            session.commit()
            assert session.get(Picture, 7).embedding == Vector(drawn(7)) and session.get(Picture, 101).embedding is None
            assert session.get(Picture, 100).free == Vector([1, 2])

            e = Picture.embedding
            for query in (drawn(5), Vector(drawn(5)), np.array(drawn(5)), sa.select(e).where(Picture.id == 5).scalar_subquery()):
                expected = session.execute(
                    sa.text("SELECT id FROM pictures WHERE coarse_match(embedding, :q, 0.1, 16) ORDER BY id"), {"q": drawn_text(5)}
                ).scalars().all()
                assert 1 < len(expected) < 100
                for condition in (e.coarse_match(query, 0.1, 16), e.matches(query, 0.1, 16)):
                    assert session.scalars(sa.select(Picture.id).where(condition).order_by(Picture.id)).all() == expected
                    others = session.scalars(sa.select(Picture.id).where(~condition)).all()
                    assert len(others) == 100 - len(expected)
                first = sa.select(Picture.id, e.fine_score(query), e.cosine_distance(query)).order_by(e.cosine_distance(query))
                row = session.execute(first.limit(1)).one()
                assert row[0] == 5 and row[1] == 1 and abs(row[2]) < 1e-6
                assert session.scalars(sa.select(Picture.id).where(e.fine_score(query) >= 0.9)).all() == [5]
            for condition in (e.coarse_match(drawn(5)), e.matches(drawn(5))):
                session.execute(sa.text("LOAD 'photosearch'"))
                session.execute(sa.text("SET LOCAL photosearch.coarse_threshold = 0.1; SET LOCAL photosearch.coarse_dims = 16"))
                assert session.scalars(sa.select(Picture.id).where(condition).order_by(Picture.id)).all() == expected
            for call in (e.coarse_match, e.matches):
                raises(TypeError, lambda: call(drawn(5), 0.1))
                raises(TypeError, lambda: call(drawn(5), dims=16))
            error = raises(sa.exc.DBAPIError, lambda: session.scalars(sa.select(Picture.id).where(e.coarse_match([1, 2], 0.1, 1))).all())
            assert isinstance(error.orig, psycopg.errors.DataException) and error.orig.sqlstate == "22000", error
            session.rollback()
            raises(sa.exc.DBAPIError, lambda: (session.add(Picture(id=200, embedding=[1, 2])), session.flush()), "22000")
            session.rollback()
            raises(sa.exc.StatementError, lambda: (session.add(Picture(id=200, embedding=[float("nan")])), session.flush()))
            session.rollback()

            session.execute(sa.text("SET LOCAL enable_seqscan = off"))
            for condition in (e.coarse_match(drawn(5), 0.1, 16), e.matches(drawn(5), 0.1, 16)):
                statement = sa.select(Picture.id).where(condition)
                text = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
                lines = session.scalars(sa.text("EXPLAIN (COSTS OFF) " + text.replace(":", "\\:"))).all()
                assert uses_index(lines, "pictures_e"), lines
        Base.metadata.drop_all(engine)


@test
def sqlalchemy_keeps_the_vectors_in_the_database():
    """deferred() keeps a column out of a query until it is asked for."""
    Large = type("Large", (Base,), {
        "__tablename__": "large",
        "id": mapped_column(sa.Integer, primary_key=True),
        "embedding": mapped_column(MrlVector(4), deferred=True),
    })
    engine = sa.create_engine(f"postgresql+psycopg:///{DATABASE}")
    Large.__table__.create(engine)
    with Session(engine) as session:
        session.add(Large(id=1, embedding=[1, 2, 3, 4]))
        session.commit()
    sent = []
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: sent.append(statement))
    with Session(engine) as session:
        (found,) = session.scalars(sa.select(Large).where(Large.embedding.fine_score([1, 2, 3, 4]) > 0.5)).all()
        assert "embedding AS" not in sent[-1].split("FROM")[0]
        assert found.embedding == Vector([1, 2, 3, 4]) and len(sent) == 2
    Large.__table__.drop(engine)
    Base.metadata.remove(Large.__table__)
    engine.dispose()


@test
def sqlalchemy_runs_on_asyncpg():
    async def main():
        for registered in (False, True):
            engine = create_async_engine(f"postgresql+asyncpg:///{DATABASE}")
            if registered:
                sa.event.listen(
                    engine.sync_engine, "connect", lambda driver, _: driver.run_async(photosearch.asyncpg.register)
                )
            async with engine.begin() as connection:
                table = sa.table("photos", sa.column("id"), sa.column("e", MrlVector(DIMS)))
                e = table.c.e
                found = await connection.execute(
                    sa.select(table.c.id, e).where(e.coarse_match(drawn(5), 0.2, 16)).order_by(e.cosine_distance(drawn(5))).limit(1)
                )
                assert found.one() == (5, Vector(drawn(5)))
                await connection.execute(sa.insert(table).values(id=-5, e=drawn(6)))
                assert (await connection.execute(sa.select(e).where(table.c.id == -5))).scalar() == Vector(drawn(6))
                await connection.rollback()
            await engine.dispose()

    asyncio.run(main())


@test
def sqlalchemy_reflects_the_type_and_the_index():
    engine = sa.create_engine(f"postgresql+psycopg:///{DATABASE}")
    Base.metadata.create_all(engine)
    with warnings.catch_warnings():
        # SQLAlchemy warns where it does not know a type.
        warnings.simplefilter("error")
        reflected = sa.MetaData()
        reflected.reflect(engine, only=["pictures"])
    table = reflected.tables["pictures"]
    assert isinstance(table.c.embedding.type, MrlVector) and table.c.embedding.type.dims == DIMS
    assert isinstance(table.c.free.type, MrlVector) and table.c.free.type.dims is None
    (index,) = table.indexes
    options = index.dialect_options["postgresql"]
    assert options["using"] == "mrl" and {key: int(value) for key, value in options["with"].items()} == {"prefix_dims": 16}
    # What was reflected makes the same table again.
    Base.metadata.drop_all(engine)
    reflected.create_all(engine)
    with engine.connect() as connection:
        definition = connection.scalar(sa.text("SELECT pg_get_indexdef('pictures_e'::regclass)"))
    assert "USING mrl (embedding) WITH (prefix_dims='16')" in definition, definition
    Base.metadata.drop_all(engine)
    engine.dispose()


@test
def alembic_autogenerate_knows_the_type():
    from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
    from alembic.migration import MigrationContext

    engine = sa.create_engine(f"postgresql+psycopg:///{DATABASE}")
    Base.metadata.create_all(engine)
    ours = lambda name, kind, *_: kind != "table" or name == "pictures"
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": lambda name, kind, _: ours(name, kind)})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert compare_metadata(context, Base.metadata) == []
            changed = sa.MetaData()
            sa.Table(
                "pictures", changed, sa.Column("id", sa.Integer, primary_key=True), sa.Column("embedding", MrlVector(128)),
                sa.Column("free", MrlVector), sa.Column("added", MrlVector(32)),
                sa.Index("pictures_e", "embedding", postgresql_using="mrl", postgresql_with={"prefix_dims": 16}),
            )
            code = render_python_code(produce_migrations(context, changed).upgrade_ops)
    assert "photosearch.sqlalchemy.MrlVector(dims=32)" in code, code
    assert "type_=photosearch.sqlalchemy.MrlVector(dims=128)" in code and "free" not in code, code
    Base.metadata.drop_all(engine)
    engine.dispose()


# Django


@test
def django():
    """In a process of its own for each kind of cursor, because Django is configured once a process."""
    program = Path(__file__).with_name("django_app.py")
    for server_side in ("", "server_side_binding"):
        done = subprocess.run([sys.executable, program, DATABASE, server_side], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == {"checks": 9}, done.stdout


def main():
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        for name in (DATABASE, HIDDEN):
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    with connect() as connection:
        connection.execute("CREATE EXTENSION photosearch; CREATE EXTENSION vector")
        connection.execute(f"CREATE TABLE photos (id int, e mrl_vector({DIMS}))")
        photosearch.psycopg.register(connection)
        with connection.cursor().copy("COPY photos FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "mrl_vector"])
            for i in range(1, ROWS + 1):
                copy.write_row((i, Vector(drawn(i))))
        connection.execute("CREATE INDEX photos_e ON photos USING mrl (e) WITH (prefix_dims = 16)")
        # The same rows without an index.
        connection.execute("CREATE TABLE plain AS TABLE photos; ANALYZE")
    with connect(HIDDEN) as connection:
        connection.execute("CREATE SCHEMA hidden; CREATE EXTENSION photosearch SCHEMA hidden; CREATE TYPE public.mrl_vector AS (a int)")
        connection.execute("CREATE TABLE hidden_photos (e hidden.mrl_vector); INSERT INTO hidden_photos VALUES ('[1,2]')")
    failed = 0
    for function in TESTS:
        try:
            function()
            print(f"ok      {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}\n{traceback.format_exc()}", flush=True)
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        for name in (DATABASE, HIDDEN):
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
