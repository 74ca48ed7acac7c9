#!/usr/bin/env python3
"""Tests mrl_vector and the embedding functions through a client library: psycopg 3 with pgvector's codec for halfvec.

usage: run_client.py        (PGHOST, PGUSER and the other libpq variables name the server)

The text form of mrl_vector is that of pgvector's types, and its binary form is that of halfvec byte for byte, so that
pgvector's client libraries read and write it. The reference is pgvector's codec, which knows nothing of photosearch; Pillow
makes the pictures. The tests create a database of their own and drop it.
Run alone: tests/cluster.sh run DIR VENV/bin/python tests/client/run_client.py, where VENV has the packages of
tests/client/requirements.txt and of tests/pictures/requirements.txt. The last line counts the tests; the exit status is 1
if one failed.
"""

import io
import re
import struct
import sys
import threading
import traceback
import zlib
from pathlib import Path

import psycopg
from PIL import Image
from pgvector import HalfVector
from pgvector.psycopg.halfvec import register_halfvec_info
from psycopg.pq import ExecStatus, Format
from psycopg.types import TypeInfo

DATABASE = "photosearch_client"
MODEL = "photosearch-mini-1"
TESTS = []

# Every bit pattern of a finite half: exponents 0 to 30 (31 means infinity or NaN), both signs.
FINITE = [bits for bits in range(1 << 16) if bits >> 10 & 0x1F != 0x1F]


def test(function):
    TESTS.append(function)
    return function


def connect(**options):
    """Connects and registers HalfVector as the Python type of mrl_vector."""
    connection = psycopg.connect(dbname=DATABASE, autocommit=True, **options)
    register_halfvec_info(connection, TypeInfo.fetch(connection, "mrl_vector"))
    return connection


def message(*bits, dims=None, unused=0):
    """The binary form of a vector of halves with these bit patterns."""
    return struct.pack(f">HH{len(bits)}H", len(bits) if dims is None else dims, unused, *bits)


def sample(seed, dims):
    return HalfVector([((seed * 31 + i * 17) % 257 - 128) / 64 for i in range(dims)])


@test
def values_round_trip_in_both_formats(connection):
    for binary in (False, True):
        for dims in (1, 2, 3, 64, 2048, 16000):
            vector = sample(dims, dims)
            slot = "%b" if binary else "%t"
            cursor = connection.execute(f"SELECT {slot}, vector_dims({slot})", [vector, vector], binary=binary)
            assert cursor.fetchone() == (vector, dims), (binary, dims)
        assert connection.execute("SELECT NULL::mrl_vector", binary=binary).fetchone() == (None,)


@test
def text_input_and_binary_output_agree(connection):
    for vector in (sample(i, 100) for i in range(20)):
        rows = [connection.execute(f"SELECT {slot}", [vector], binary=binary).fetchone()[0] for slot in ("%t", "%b") for binary in (False, True)]
        assert rows == [vector] * 4


@test
def arrays_of_vectors(connection):
    vectors = [sample(1, 5), None, sample(2, 9)]
    for binary in (False, True):
        cursor = connection.execute("SELECT ARRAY[%s, NULL, %s]::mrl_vector[]", [vectors[0], vectors[2]], binary=binary)
        assert cursor.fetchone()[0] == vectors
        cursor = connection.execute("SELECT unnest(%s::mrl_vector[])", [[vectors[0], vectors[2]]], binary=binary)
        assert [row[0] for row in cursor] == [vectors[0], vectors[2]]


@test
def every_finite_half_keeps_its_bits(connection):
    oid = TypeInfo.fetch(connection, "mrl_vector").oid
    for start in range(0, len(FINITE), 15872):
        sent = message(*FINITE[start : start + 15872])
        # Once in binary form, then through the text form, which must keep -0 and subnormals too.
        for query in ("SELECT $1", "SELECT $1::text::mrl_vector", "SELECT $1::real[]::mrl_vector", "SELECT mrl_vector_send($1)"):
            result = connection.pgconn.exec_params(query.encode(), [sent], [oid], [Format.BINARY], Format.BINARY)
            assert result.status == ExecStatus.TUPLES_OK, result.error_message
            assert result.get_value(0, 0) == sent, query


@test
def copy_binary(connection):
    connection.execute("CREATE TABLE copied (id int, e mrl_vector(256)); CREATE TABLE again (LIKE copied)")
    rows = [(i, None if i % 7 == 0 else sample(i, 256)) for i in range(500)]
    with connection.cursor().copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "mrl_vector"])
        for row in rows:
            copy.write_row(row)
    assert connection.execute("SELECT * FROM copied ORDER BY id", binary=True).fetchall() == rows
    with connection.cursor().copy("COPY copied TO STDOUT (FORMAT binary)") as copy:
        data = b"".join(copy)
    with connection.cursor().copy("COPY again FROM STDIN (FORMAT binary)") as copy:
        copy.write(data)
    assert connection.execute("SELECT * FROM again ORDER BY id").fetchall() == rows
    with connection.cursor().copy("COPY copied TO STDOUT") as copy:
        copy.set_types(["int4", "mrl_vector"])
        assert sorted(copy.rows(), key=lambda row: row[0]) == rows


@test
def copy_with_one_wrong_row_stores_nothing(connection):
    connection.execute("CREATE TABLE refused (id int, e mrl_vector(4))")
    for bad, state in ((sample(1, 5), "22000"), (sample(1, 3), "22000")):
        try:
            with connection.cursor().copy("COPY refused FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "mrl_vector"])
                for i in range(100):
                    copy.write_row((i, sample(i, 4)))
                copy.write_row((100, bad))
        except psycopg.Error as error:
            assert error.sqlstate == state, error
        else:
            raise AssertionError("accepted a wrong number of dimensions")
        assert connection.execute("SELECT count(*) FROM refused").fetchone() == (0,)


@test
def malformed_messages_are_errors(connection):
    one, infinity, nan = 0x3C00, 0x7C00, 0x7E01
    cases = {
        "no bytes": (b"", "22P03"),
        "1 byte": (b"\0", "22P03"),
        "3 bytes": (b"\0\1\0", "22P03"),
        "no dimensions": (message(), "22000"),
        "no dimensions, but values": (message(one, dims=0), "22000"),
        "no values": (message(dims=1), "22P03"),
        "half a value": (message(dims=1) + b"\x3c", "22P03"),
        "fewer values than said": (message(one, one, dims=3), "22P03"),
        "more values than said": (message(one, one, dims=1), "22P03"),
        "trailing byte": (message(one) + b"\0", "22P03"),
        "unused not zero": (message(one, unused=1), "22P03"),
        "unused all ones": (message(one, unused=0xFFFF), "22P03"),
        "infinity": (message(one, infinity), "22000"),
        "minus infinity": (message(infinity | 0x8000), "22000"),
        "NaN": (message(one, nan, one), "22000"),
        "minus NaN": (message(nan | 0x8000), "22000"),
        "16001 dimensions": (message(*[one] * 16001), "54000"),
        "65535 dimensions": (message(*[one] * 65535), "54000"),
        "65535 dimensions, no values": (message(dims=65535), "54000"),
        "a vector of f32": (struct.pack(">HH3f", 3, 0, 1, 2, 3), "22P03"),
        "a text form": (b"[1,2,3]", "54000"),
    }
    oid = TypeInfo.fetch(connection, "mrl_vector").oid
    pid = connection.info.backend_pid
    for name, (sent, state) in cases.items():
        result = connection.pgconn.exec_params(b"SELECT $1", [sent], [oid], [Format.BINARY], Format.BINARY)
        assert result.status == ExecStatus.FATAL_ERROR, f"accepted: {name}"
        found = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE).decode()
        assert found == state, f"{name}: {found} {result.error_message.decode()}"
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == (pid,), name


@test
def every_single_byte_change_is_read_or_refused(connection):
    oid = TypeInfo.fetch(connection, "mrl_vector").oid
    sound = message(0x3C00, 0xBC00, 0x0001)
    outcomes = {"read": 0, "refused": 0}
    for position in range(len(sound)):
        for value in range(0, 256, 5):
            changed = sound[:position] + bytes([value]) + sound[position + 1 :]
            result = connection.pgconn.exec_params(b"SELECT $1", [changed], [oid], [Format.BINARY], Format.BINARY)
            if result.status == ExecStatus.TUPLES_OK:
                assert result.get_value(0, 0) == changed
                outcomes["read"] += 1
            else:
                assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)[:2] in (b"22", b"54")
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 50, outcomes


@test
def large_parameters(connection):
    vectors = [sample(i, 16000) for i in range(50)]
    cursor = connection.execute("SELECT sum(vector_dims(v)) FROM unnest(%b::mrl_vector[]) AS v", [vectors])
    assert cursor.fetchone() == (50 * 16000,)
    text = "[" + ",".join(["0.123456789012345678901234567890"] * 16000) + "]"
    assert connection.execute("SELECT vector_dims(%s::mrl_vector)", [text]).fetchone() == (16000,)
    try:
        connection.execute("SELECT vector_dims(%s::mrl_vector)", ["[" + "1," * 5_000_000 + "1]"])
    except psycopg.Error as error:
        assert error.sqlstate == "54000", error
    else:
        raise AssertionError("accepted 5,000,001 dimensions")


@test
def prepared_statements_in_every_plan_mode(connection):
    connection.execute("CREATE TABLE prepared AS SELECT i AS id, ARRAY[sin(i), cos(i), sin(i * 3)]::mrl_vector AS e FROM generate_series(1, 200) AS i")
    queries = [HalfVector([a, b, 0.25]) for a in (-1.0, 0.5) for b in (-0.5, 1.0)]
    expected = {}
    for plan in ("force_custom_plan", "force_generic_plan", "auto"):
        connection.execute(f"SET plan_cache_mode = {plan}")
        for form in ("coarse_match(e, %b, %b::real, %b::int)", "e @~ mrl_probe(%b, %b::real, %b::int)", "NOT e !@~ mrl_probe(%b, %b::real, %b::int)"):
            for round in range(3):
                for number, query in enumerate(queries):
                    for dims in (1, 2, 3):
                        sql = f"SELECT id FROM prepared WHERE {form} ORDER BY id"
                        ids = connection.execute(sql, [query, 0.3, dims], prepare=True).fetchall()
                        assert ids == expected.setdefault((number, dims), ids), (plan, form, round)
    assert len({tuple(ids) for ids in expected.values()}) > 6
    connection.execute("RESET plan_cache_mode")


@test
def client_query_vector_finds_its_photo(connection):
    connection.execute("CREATE TABLE found (id int, e mrl_vector(3))")
    connection.cursor().executemany("INSERT INTO found VALUES (%s, %s)", [(1, HalfVector([1, 0, 0])), (2, HalfVector([0, 1, 0])), (3, HalfVector([0.9, 0.1, 0]))])
    query = HalfVector([1, 0, 0])
    cursor = connection.execute("SELECT id, fine_score(e, %s) FROM found WHERE coarse_match(e, %s, 0.5, 2) ORDER BY e <=> %s", [query] * 3)
    rows = cursor.fetchall()
    assert [row[0] for row in rows] == [1, 3] and rows[0][1] == 1.0 and 0.9 < rows[1][1] < 1


@test
def concurrent_connections(_):
    """Each thread has its own connection; all embed, store and search at the same time."""
    with connect() as connection:
        connection.execute("CREATE TABLE shared (thread int, caption text, e mrl_vector)")
        alone = connection.execute("SELECT embed_text(%s, 'a baby')", [MODEL], binary=True).fetchone()[0]
    errors = []

    def work(thread):
        try:
            with connect() as connection:
                for i in range(5):
                    connection.execute("INSERT INTO shared SELECT %s, t, embed_text(%s, t) FROM (VALUES (%s)) AS x (t)", [thread, MODEL, f"photo {i} of {thread}"])
                again = connection.execute("SELECT fine_score(embed_text(%s, 'a baby'), %b)", [MODEL, alone]).fetchone()[0]
                assert again > 0.9999, again
                vectors = [(thread, "copied", sample(thread * 100 + i, 8)) for i in range(100)]
                with connection.cursor().copy("COPY shared FROM STDIN (FORMAT binary)") as copy:
                    copy.set_types(["int4", "text", "mrl_vector"])
                    for row in vectors:
                        copy.write_row(row)
                rows = connection.execute("SELECT thread, caption, e FROM shared WHERE thread = %s AND caption = 'copied'", [thread], binary=True).fetchall()
                assert sorted(map(repr, rows)) == sorted(map(repr, vectors))
        except Exception:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    with connect() as connection:
        assert connection.execute("SELECT count(*), count(e) FROM shared").fetchone() == (420, 420)


@test
def embedding_query_can_be_cancelled(connection):
    cancel = threading.Timer(0.2, connection.cancel_safe)
    cancel.start()
    try:
        connection.execute("SELECT embed_texts(%s, array_agg('a baby and ' || i)) FROM generate_series(1, 200000) AS i", [MODEL])
    except psycopg.errors.QueryCanceled:
        pass
    else:
        raise AssertionError("200,000 texts were embedded before the query was cancelled")
    finally:
        cancel.join()
    assert connection.execute("SELECT vector_dims(embed_text('a baby')) > 0").fetchone() == (True,)


def encoded(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@test
def manual_backfill_skips_unreadable_pictures(connection):
    manual = (Path(__file__).resolve().parents[2] / "docs/library.md").read_text()
    backfill = re.search(r"^WITH todo AS MATERIALIZED.*?;$", manual, re.DOTALL | re.MULTILINE).group()
    backfill = backfill.replace("qwen3-vl-embedding-2b", MODEL)
    connection.execute("CREATE TABLE photos (id int PRIMARY KEY, image bytea, embedding mrl_vector, problem text)")
    sound = encoded(Image.linear_gradient("L"), "JPEG")
    unreadable = [b"", b"no picture", sound[: len(sound) // 2]]
    for number in range(1, 91):
        image = None if number % 10 == 0 else unreadable[number % 3] if number % 5 == 1 else sound
        connection.execute("INSERT INTO photos VALUES (%s, %b)", [number, image])

    def run():
        with connect() as other:
            while other.execute(backfill).rowcount:
                pass

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = connection.execute("SELECT count(*), count(image), count(embedding), count(problem), count(*) FILTER (WHERE (embedding IS NULL) = (problem IS NULL)) FROM photos").fetchone()
    assert counts == (90, 81, 63, 18, 9), counts
    problems = connection.execute("SELECT DISTINCT problem FROM photos ORDER BY 1").fetchall()
    assert problems == [
        ("malformed JPEG image: the file is cut short",),
        ("unsupported image format: no bytes at all",),
        ("unsupported image format: text",),
        (None,),
    ], problems


@test
def reduced_jpeg_decoding_keeps_the_vector(connection):
    noise = Image.effect_noise((96, 72), 90).resize((2400, 1800), Image.Resampling.BICUBIC)
    photo = Image.merge("RGB", [noise, Image.linear_gradient("L").resize(noise.size), Image.radial_gradient("L").resize(noise.size)])
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        jpeg = encoded(photo, "JPEG", quality=90, **options)
        whole = encoded(Image.open(io.BytesIO(jpeg)), "BMP")
        score = connection.execute("SELECT fine_score(embed_image(%s, %b), embed_image(%s, %b))", [MODEL, jpeg, MODEL, whole]).fetchone()[0]
        assert score > 0.999, (options, score)


@test
def pictures_decoded_together_are_those_decoded_one_by_one(connection):
    """A session with one thread decodes one picture after the other. Its vectors and its errors are the reference."""
    photo = Image.merge("RGB", [Image.effect_noise((900, 700), 90), Image.linear_gradient("L").resize((900, 700)), Image.radial_gradient("L").resize((900, 700))])
    jpegs = [encoded(photo.rotate(30 * n).resize((900 - 40 * n, 500 + 60 * n)), "JPEG", progressive=n % 3 == 0) for n in range(11)]
    png, cut, junk = encoded(photo, "PNG"), jpegs[4][:2000], b"\xff\xd8\xffjunk"
    arrays = [
        jpegs,
        [*jpegs[:3], None, png, *jpegs[3:], jpegs[0]],
        [*jpegs[:4], cut, *jpegs[4:], junk],
        [junk, *jpegs],
        [*jpegs[:9], png[:100], cut],
    ]

    def answer(session, array):
        try:
            return session.execute("SELECT embed_images(%s, %b::bytea[])::text", [MODEL, array]).fetchone()[0]
        except psycopg.Error as error:
            return error.sqlstate, error.diag.message_primary, error.diag.message_detail

    with connect() as alone:
        alone.execute("SET photosearch.threads = 1")
        outcomes = set()
        for limit in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 40, 100, 1000):
            for array in arrays:
                for session in (connection, alone):
                    session.execute(f"SET photosearch.max_embed_memory = '{limit}MB'")
                together, one_by_one = answer(connection, array), answer(alone, array)
                assert together == one_by_one, (limit, together, one_by_one)
                outcomes.add(together[0] if isinstance(together, tuple) else "vectors")
    connection.execute("RESET photosearch.max_embed_memory")
    assert outcomes == {"vectors", "22P03", "54000"}, outcomes


def png_of_zeros(width, height):
    """A PNG of 16-bit RGBA: eight bytes a pixel when decoded, and a small file."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 8 * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@test
def decoding_stays_within_the_memory_setting(connection):
    def peak_mb():
        status = Path(f"/proc/{connection.info.backend_pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    # 36 million pixels: 108 MB of RGB; 288 MB of samples for the PNG; 216 MB of coefficients for the progressive JPEG,
    # which is decoded at an eighth of its size.
    large = Image.linear_gradient("L").resize((6000, 6000)).convert("RGB")
    # Name, picture, and a limit in MB that suffices for it.
    pictures = [
        ("PNG", png_of_zeros(6000, 6000), 200),
        ("progressive JPEG", encoded(large, "JPEG", progressive=True, subsampling=0), 300),
    ]
    connection.execute("SELECT embed_image(%s, %b)", [MODEL, encoded(Image.new("RGB", (64, 64)), "PNG")])
    for name, picture, enough in pictures:
        connection.execute("SET photosearch.max_embed_memory = '60MB'")
        before = peak_mb()
        try:
            connection.execute("SELECT embed_image(%s, %b)", [MODEL, picture])
        except psycopg.errors.ProgramLimitExceeded as error:
            assert "photosearch.max_embed_memory" in error.diag.message_hint, error
        else:
            raise AssertionError(f"{name} was decoded in 60 MB")
        # The limit covers decoding alone; the backend also holds a copy of the parameter.
        assert peak_mb() - before < 60, (name, before, peak_mb())
        connection.execute(f"SET photosearch.max_embed_memory = '{enough}MB'")
        connection.execute("SELECT embed_image(%s, %b)", [MODEL, picture])
        assert peak_mb() - before < enough, (name, before, peak_mb())
    connection.execute("RESET photosearch.max_embed_memory")


def main():
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        connection.execute(f"CREATE DATABASE {DATABASE}")
    with psycopg.connect(dbname=DATABASE, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION photosearch")
    failed = 0
    for function in TESTS:
        try:
            with connect() as connection:
                function(connection)
            print(f"ok      {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}\n{traceback.format_exc()}", flush=True)
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE}")
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
