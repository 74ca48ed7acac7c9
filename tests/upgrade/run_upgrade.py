#!/usr/bin/env python3
"""Tests ALTER EXTENSION … UPDATE: what it makes of the version that was released last has to equal a new installation.

usage: run_upgrade.py        (PGHOST, PGUSER and the other libpq variables name the server, PG_CONFIG its installation)

The scripts of the releases lie beside this program. During the tests, copies of the last release's script and of the script
that updates it lie in the server's directory of extensions. Their version has a name such as 0.1.0_released, so that they do
not overwrite a release that is installed there. The library is that of the new version in every test, as it is for a user who
has installed the files and not yet updated. The tests need the right to write to that directory. They create databases of
their own and drop them.
Run alone: tests/cluster.sh run DIR VENV/bin/python tests/upgrade/run_upgrade.py, where VENV has the packages of
tests/client/requirements.txt. The last line counts the tests; the exit status is 1 if one failed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import psycopg
from psycopg import errors

import catalog

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
BRIDGE = re.search(r"^default_version = '(.*)'", (ROOT / "sql/photosearch_pgvector.control").read_text(), re.MULTILINE)[1]
PREFIX = "photosearch_upgrade"
ROWS, DIMS, PREFIX_DIMS = 2000, 96, 64
# The size of a page; where the numbers of an index's block 0 begin, behind Postgres' page header; and how many there are
# (src/index/page.rs).
PAGE, META, NUMBERS = 8192, 24, 6
# The version of the page format, and the SHA-256 of an index in it.
PAGE_FORMAT = (2, "702a47419d5c5c3607ffa939e2ed39507f18e302f359916f2a180d3153703a74")
DATABASES = ("old", "new", "copy")


def last_release(extension, current):
    """The newest version whose script lies here, other than the current one."""
    found = (re.sub(r".*--(.*)\.sql", r"\1", path.name) for path in HERE.glob(f"{extension}--*.sql"))
    return max((version for version in found if version != current), key=lambda version: [int(n) for n in version.split(".")])


RELEASE = last_release("photosearch", VERSION)
OLD = f"{RELEASE}_released"
BRIDGE_RELEASE = last_release("photosearch_pgvector", BRIDGE)
OLD_BRIDGE = f"{BRIDGE_RELEASE}_released"
TESTS = []

# Every kind of object that holds on to functions of the extension. The vectors are random numbers of md5, the same
# every time.
OBJECTS = f"""
CREATE TABLE photos (id integer PRIMARY KEY, embedding mrl_vector({DIMS}));
INSERT INTO photos SELECT i, (
    SELECT array_agg((('x' || substr(md5(i || ' ' || d), 1, 4))::bit(16)::integer - 32768) / 32768.0 ORDER BY d)::real[]
    FROM generate_series(1, {DIMS}) AS d
)::mrl_vector FROM generate_series(1, {ROWS}) AS i;
CREATE INDEX photos_prefix ON photos USING mrl (embedding) WITH (prefix_dims = {PREFIX_DIMS});
CREATE TABLE copies (id integer PRIMARY KEY, embedding mrl_vector({DIMS}));
INSERT INTO copies SELECT * FROM photos;
CREATE INDEX copies_whole ON copies USING mrl (embedding) WITH (prefix_dims = {DIMS});
CREATE VIEW near AS SELECT a.id, fine_score(a.embedding, b.embedding) AS score
    FROM photos AS a, photos AS b WHERE b.id = 1 AND a.embedding @~ b.embedding;
CREATE TABLE texts (content text, embedding mrl_vector GENERATED ALWAYS AS (embed_text('photosearch-mini-1', content)) STORED);
INSERT INTO texts VALUES ('a baby');
CREATE INDEX ON texts (embedding);
ANALYZE;
"""

# Columns of pgvector's types with indexes and views over the casts of the bridge.
OBJECTS_OF_THE_BRIDGE = """
CREATE TABLE vectors (id integer PRIMARY KEY, v vector(48), h halfvec(48));
INSERT INTO vectors SELECT i, e::vector, e::halfvec FROM generate_series(1, 500) AS i, LATERAL (
    SELECT array_agg((('x' || substr(md5(i || ' ' || d), 1, 4))::bit(16)::integer - 32768) / 32768.0 ORDER BY d)::real[] AS e
    FROM generate_series(1, 48) AS d
) AS x;
CREATE INDEX vectors_v ON vectors USING mrl ((v::mrl_vector(48))) WITH (prefix_dims = 48);
CREATE INDEX vectors_h ON vectors USING mrl ((h::mrl_vector(48))) WITH (prefix_dims = 48);
CREATE VIEW near_v AS SELECT a.id FROM vectors AS a
    WHERE fine_score(a.v::mrl_vector(48), (SELECT v::mrl_vector(48) FROM vectors WHERE id = 7)) >= 0.1;
CREATE VIEW near_h AS SELECT a.id FROM vectors AS a
    WHERE fine_score(a.h::mrl_vector(48), (SELECT h::mrl_vector(48) FROM vectors WHERE id = 7)) >= 0.1;
"""

# Conditions that the planner rewrites, with the arguments as users write them.
QUESTIONS = [
    f"SELECT id FROM photos, (SELECT embedding AS q FROM copies WHERE id = 7) AS query WHERE coarse_match(embedding, q, 0.15, {PREFIX_DIMS})",
    f"SELECT id FROM photos WHERE coarse_match(embedding, (SELECT embedding FROM copies WHERE id = 7), 0.15, {PREFIX_DIMS})",
    f"SELECT id FROM photos WHERE embedding @~ mrl_probe((SELECT embedding FROM copies WHERE id = 7), 0.15, {PREFIX_DIMS})",
    "SELECT id FROM photos WHERE fine_score(embedding, (SELECT embedding FROM copies WHERE id = 7)) >= 0.15",
    "SELECT id FROM copies WHERE fine_score(embedding, (SELECT embedding FROM photos WHERE id = 7)) >= 0.15",
    "SELECT id FROM copies WHERE embedding IS NOT NULL ORDER BY embedding <=> (SELECT embedding FROM photos WHERE id = 7), id LIMIT 20",
    "SELECT id FROM near",
    "SELECT content FROM texts WHERE embedding = embed_text('photosearch-mini-1', 'a baby')",
]


def test(function):
    TESTS.append(function)
    return function


def connect(name):
    # The settings by which `@~` compares two vectors.
    settings = f"-c photosearch.coarse_threshold=0.15 -c photosearch.coarse_dims={PREFIX_DIMS}"
    return psycopg.connect(dbname=f"{PREFIX}_{name}", autocommit=True, options=settings)


def answers(connection):
    """What the questions return by indexes and without."""
    found = []
    for indexes in ("on", "off"):
        for setting in ("enable_indexscan", "enable_bitmapscan", "enable_indexonlyscan"):
            connection.execute(f"SET {setting} = {indexes}")
        connection.execute(f"SET enable_seqscan = {'off' if indexes == 'on' else 'on'}")
        found.append([sorted(connection.execute(question).fetchall()) for question in QUESTIONS])
    connection.execute("RESET ALL")
    by_index, without = found
    assert by_index == without, [q for q, a, b in zip(QUESTIONS, by_index, without) if a != b]
    assert all(by_index), "each question has to have an answer"
    assert any(len(rows) < ROWS for rows in by_index)
    return by_index


def problems_of_indexes(connection):
    found = []
    for index in ("photos_prefix", "copies_whole"):
        found += connection.execute("SELECT * FROM photosearch.check_index(%s)", [index]).fetchall()
    return found


@test
def an_update_equals_a_new_installation(old, new):
    before = catalog.contents(old, "photosearch")
    fresh = catalog.contents(new, "photosearch")
    # Otherwise the comparison would have nothing to find.
    assert len(catalog.differences(before, fresh)) > 100 and len(fresh) > 200, (len(before), len(fresh))
    old.execute(f"ALTER EXTENSION photosearch UPDATE TO '{VERSION}'")
    wrong = catalog.differences(catalog.contents(old, "photosearch"), fresh)
    assert not wrong, "\n".join(["- after the update, + after a new installation:", *wrong])


@test
def an_update_of_the_bridge_equals_a_new_installation(old, new):
    for connection, version in ((old, OLD_BRIDGE), (new, BRIDGE)):
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"CREATE EXTENSION photosearch_pgvector VERSION '{version}'")
    old.execute(OBJECTS_OF_THE_BRIDGE)
    before = [old.execute(f"SELECT id FROM {view} ORDER BY id").fetchall() for view in ("near_v", "near_h")]
    assert all(0 < len(rows) < 500 for rows in before), before
    old.execute(f"ALTER EXTENSION photosearch UPDATE TO '{VERSION}'")
    old.execute(f"ALTER EXTENSION photosearch_pgvector UPDATE TO '{BRIDGE}'")
    # An open session caches the expressions of indexes, so a new session asks.
    with connect("old") as after:
        after.execute("SET enable_seqscan = off")
        for view, rows in zip(("near_v", "near_h"), before):
            plan = "\n".join(row[0] for row in after.execute(f"EXPLAIN SELECT id FROM {view}"))
            assert f"vectors_{view[-1]}" in plan, plan
            assert after.execute(f"SELECT id FROM {view} ORDER BY id").fetchall() == rows
            problems = after.execute("SELECT * FROM photosearch.check_index(%s)", [f"vectors_{view[-1]}"]).fetchall()
            assert not problems, problems
    fresh = catalog.contents(new, "photosearch_pgvector")
    assert len(fresh) >= 4, fresh
    wrong = catalog.differences(catalog.contents(old, "photosearch_pgvector"), fresh)
    assert not wrong, "\n".join(["- after the update, + after a new installation:", *wrong])


@test
def tables_and_indexes_survive(old, new):
    old.execute(OBJECTS)
    before = answers(old)
    old.execute(f"ALTER EXTENSION photosearch UPDATE TO '{VERSION}'")
    assert answers(old) == before
    assert not problems_of_indexes(old), problems_of_indexes(old)
    old.execute("INSERT INTO photos SELECT id + 10000, embedding FROM photos")
    old.execute("DELETE FROM photos WHERE id % 50 = 0")
    old.execute("VACUUM photos")
    answers(old)
    assert not problems_of_indexes(old), problems_of_indexes(old)


@test
def an_updated_index_answers_new_conditions(old, new):
    old.execute(OBJECTS)
    condition = "EXPLAIN SELECT id FROM copies WHERE fine_score(embedding, (SELECT embedding FROM photos WHERE id = 7)) >= 0.15"
    old.execute("SET enable_seqscan = off")

    def plan():
        return "\n".join(row[0] for row in old.execute(condition))

    assert "copies_whole" not in plan()
    old.execute(f"ALTER EXTENSION photosearch UPDATE TO '{VERSION}'")
    assert "copies_whole" in plan(), plan()


@test
def privileges_that_were_granted_stay(old, new):
    old.execute("GRANT EXECUTE ON FUNCTION photosearch.prepare_model(text, boolean) TO pg_monitor")
    old.execute(f"ALTER EXTENSION photosearch UPDATE TO '{VERSION}'")

    def may(role):
        name = "photosearch.prepare_model(text, boolean)"
        return old.execute("SELECT has_function_privilege(%s, %s, 'EXECUTE')", [role, name]).fetchone()[0]

    assert may("pg_monitor") and not may("pg_read_all_data")


@test
def a_view_that_uses_a_dropped_function_is_named(old, new):
    old.execute(OBJECTS)
    view = f"CREATE VIEW matches AS SELECT id FROM photos WHERE coarse_match(embedding, embedding, 0.15, {PREFIX_DIMS})"
    old.execute(view)
    try:
        old.execute(f"ALTER EXTENSION photosearch UPDATE TO '{VERSION}'")
    except errors.DependentObjectsStillExist as error:
        assert "view matches" in error.diag.message_detail, error.diag.message_detail
    else:
        raise AssertionError("the update dropped a function that a view uses")
    assert old.execute("SELECT extversion FROM pg_extension WHERE extname = 'photosearch'").fetchone() == (OLD,)
    before = old.execute("SELECT count(*) FROM matches").fetchone()
    old.execute("DROP VIEW matches")
    old.execute(f"ALTER EXTENSION photosearch UPDATE TO '{VERSION}'")
    old.execute(view)
    assert old.execute("SELECT count(*) FROM matches").fetchone() == before


def index_file(connection, index):
    """The path of an index's file on the server's machine, and what is in it."""
    connection.execute("CHECKPOINT")
    file = connection.execute("SELECT current_setting('data_directory') || '/' || pg_relation_filepath(%s)", [index]).fetchone()[0]
    return file, bytearray(connection.execute("SELECT pg_read_binary_file(%s)", [file]).fetchone()[0])


@test
def the_page_format_changes_only_with_its_version(old, new):
    """If the digest differs, an index that was made before may be misread. Raise the version, or, if old indexes are read as
    before, record the new digest here."""
    new.execute(OBJECTS)
    _, data = index_file(new, "photos_prefix")
    for start in range(0, len(data), PAGE):
        # The page's position in the WAL and its checksum differ from server to server.
        data[start : start + 10] = bytes(10)
    version = int.from_bytes(data[META + 4 : META + 8], sys.byteorder)
    found = version, hashlib.sha256(data).hexdigest()
    assert sys.byteorder != "little" or found == PAGE_FORMAT, found


@test
def an_index_of_another_page_format_is_named(old, new):
    """The version of the page format is changed in the index's file. The server reads the file again in a copy of the database."""
    new.execute(OBJECTS)
    file, data = index_file(new, "photos_prefix")
    version = int.from_bytes(data[META + 4 : META + 8], sys.byteorder)
    for offset, value in ((4, version + 1), (4 * (NUMBERS + 1), ~(version + 1) & 0xFFFFFFFF)):
        data[META + offset : META + offset + 4] = value.to_bytes(4, sys.byteorder)
    large_object = new.execute("SELECT lo_from_bytea(0, %s)", [bytes(data)]).fetchone()[0]
    new.execute("SELECT lo_export(%s, %s)", [large_object, file])
    new.close()
    strategy = "STRATEGY file_copy" if old.info.server_version >= 150000 else ""
    old.execute(f"CREATE DATABASE {PREFIX}_copy TEMPLATE {PREFIX}_new {strategy}")
    text = f'index "photos_prefix" has page format {version + 1}, but this version of photosearch reads only page format {version}'
    statements = [QUESTIONS[2], "INSERT INTO photos SELECT id + 10000, embedding FROM photos"]
    with connect("copy") as copy:
        copy.execute("SET enable_seqscan = off")
        # From PostgreSQL 18 on, pages have checksums unless initdb is told otherwise, and this one's is wrong now.
        copy.execute("SET ignore_checksum_failure = on")
        for statement in statements:
            try:
                copy.execute(statement)
            except errors.IndexCorrupted as error:
                assert (error.diag.message_primary, error.diag.message_hint) == (text, "Please REINDEX it."), error
            else:
                raise AssertionError(f"an index of another page format was used: {statement}")
        # Conditions on fine_score leave the index out.
        assert copy.execute(QUESTIONS[3]).fetchall()
        copy.execute("REINDEX INDEX photos_prefix")
        assert all(answers(copy))


@test
def the_library_has_what_the_release_names(old, new):
    """Databases that are not updated keep working with the new library."""
    missing = []
    symbols = set(re.findall(r"'(\w+_wrapper)'", (HERE / f"photosearch--{RELEASE}.sql").read_text()))
    assert len(symbols) > 50
    for symbol in sorted(symbols):
        try:
            old.execute(f"CREATE FUNCTION pg_temp.f() RETURNS void AS '$libdir/photosearch', '{symbol}' LANGUAGE C")
            old.execute("DROP FUNCTION pg_temp.f()")
        except errors.UndefinedFunction:
            missing.append(symbol)
    assert not missing, missing


def install(directory):
    """Puts the scripts of the old versions into the directory of extensions. Returns their paths."""
    written = []
    for extension, release, old in (("photosearch", RELEASE, OLD), ("photosearch_pgvector", BRIDGE_RELEASE, OLD_BRIDGE)):
        scripts = [(HERE / f"{extension}--{release}.sql", f"{extension}--{old}.sql")]
        for update in (ROOT / "sql/upgrade").glob(f"{extension}--{release}--*.sql"):
            scripts.append((update, update.name.replace(f"--{release}--", f"--{old}--")))
        if len(scripts) < 2:
            raise SystemExit(f"sql/upgrade has no script from {release} of {extension}")
        for source, name in scripts:
            written.append(directory / name)
            shutil.copyfile(source, written[-1])
            written[-1].chmod(0o644)
    return written


def main():
    pg_config = os.environ.get("PG_CONFIG", "pg_config")
    sharedir = Path(subprocess.check_output([pg_config, "--sharedir"], text=True).strip())
    admin = psycopg.connect(autocommit=True)
    failed = 0
    scripts = install(sharedir / "extension")
    try:
        for function in TESTS:
            try:
                for name in DATABASES:
                    admin.execute(f"DROP DATABASE IF EXISTS {PREFIX}_{name}")
                for name, version in (("old", OLD), ("new", VERSION)):
                    admin.execute(f"CREATE DATABASE {PREFIX}_{name}")
                    with connect(name) as connection:
                        connection.execute(f"CREATE EXTENSION photosearch VERSION '{version}'")
                with connect("old") as old, connect("new") as new:
                    function(old, new)
                print(f"ok      {function.__name__}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED  {function.__name__}", flush=True)
                traceback.print_exc(file=sys.stdout)
    finally:
        for script in scripts:
            script.unlink(missing_ok=True)
        for name in DATABASES:
            admin.execute(f"DROP DATABASE IF EXISTS {PREFIX}_{name}")
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
