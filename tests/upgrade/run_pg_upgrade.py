#!/usr/bin/env python3
"""Tests pg_upgrade from a server of an older major version: tables, indexes, answers, sweeps, and the files behind a model's name.

usage: run_pg_upgrade.py OLD_PG_CONFIG        (PG_CONFIG names the installation of the newer version)

Both installations have this version of photosearch. One old cluster is made, and a copy of it is upgraded in each way that
the new version's pg_upgrade offers: by copies of the files, by links, and from PostgreSQL 18 on by --swap. Run alone:
VENV/bin/python tests/upgrade/run_pg_upgrade.py OLD_PG_CONFIG, where VENV has the packages of tests/client/requirements.txt.
The last line counts the checks; if one fails, the exit status is 1 and the data is kept.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/crash"))

import run_upgrade  # noqa: E402
from checks import Checks  # noqa: E402
from server import PG_CONFIG, Server  # noqa: E402

DATABASE = "photos"
MODEL = "tested"
# The default of photosearch.cache_dir, a directory in the data directory.
CACHE = "pgsql_tmp_photosearch"
LONG_DIMS = 1500
# What sweeps and estimates depend on, the same for both servers.
OPTIONS = (
    f"-c photosearch.coarse_threshold=0.15 -c photosearch.coarse_dims={run_upgrade.PREFIX_DIMS}"
    " -c max_parallel_workers_per_gather=0 -c jit=off"
)
# Beside the objects of run_upgrade.py: vectors that are stored out of line, partitions, an index on an expression, a partial one.
OBJECTS = f"""
CREATE TABLE long (id integer PRIMARY KEY, embedding mrl_vector({LONG_DIMS}) NOT NULL);
INSERT INTO long SELECT i, (
    SELECT array_agg((('x' || substr(md5(i || ' ' || d), 1, 4))::bit(16)::integer - 32768) / 32768.0 ORDER BY d)::real[]
    FROM generate_series(1, {LONG_DIMS}) AS d
)::mrl_vector FROM generate_series(1, 300) AS i;
CREATE INDEX long_prefix ON long USING mrl (embedding) WITH (prefix_dims = {run_upgrade.PREFIX_DIMS});
CREATE TABLE parts (id integer, embedding mrl_vector({run_upgrade.DIMS})) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (1000);
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT * FROM photos;
CREATE INDEX parts_whole ON parts USING mrl (embedding) WITH (prefix_dims = {run_upgrade.DIMS});
CREATE INDEX photos_normal ON photos USING mrl ((l2_normalize(embedding)::mrl_vector({run_upgrade.DIMS}))) WITH (prefix_dims = 8);
CREATE INDEX photos_odd ON photos USING mrl (embedding) WITH (prefix_dims = 8) WHERE id % 2 = 1;
"""
TABLES = ("photos", "copies", "texts", "long", "parts")
INDEXES = ("photos_prefix", "photos_normal", "photos_odd", "copies_whole", "long_prefix", "parts_1_embedding_idx", "parts_2_embedding_idx")
QUESTIONS = [
    f"SELECT id FROM long WHERE coarse_match(embedding, (SELECT embedding FROM long WHERE id = 7), 0.1, {run_upgrade.PREFIX_DIMS})",
    "SELECT id FROM parts WHERE fine_score(embedding, (SELECT embedding FROM copies WHERE id = 7)) >= 0.15",
    "SELECT id FROM parts WHERE embedding IS NOT NULL ORDER BY embedding <=> (SELECT embedding FROM copies WHERE id = 7), id LIMIT 20",
    "SELECT id FROM photos WHERE id % 2 = 1 AND coarse_match(embedding, (SELECT embedding FROM copies WHERE id = 7), 0.15, 8)",
]
# No index has all dimensions of photos, and texts has a B-tree only.
WITHOUT_SWEEP = ("SELECT id FROM photos WHERE fine_score(", "SELECT content FROM texts ")


def connect(server):
    return server.connect(DATABASE, options=OPTIONS)


def last_sweep(connection):
    columns = "index::text, sweeps, pages, entries, matches, rejected, undecided, refined, milliseconds"
    return connection.execute(f"SELECT {columns} FROM photosearch.last_sweep() ORDER BY 1").fetchall()


def sweeps(connection):
    """The rows that answer each question, and the counters of its sweeps, without their time."""
    found = {}
    connection.execute("SET enable_seqscan = off")
    connection.execute("SET enable_bitmapscan = off")
    for question in run_upgrade.QUESTIONS + QUESTIONS:
        before = last_sweep(connection)
        rows = sorted(connection.execute(question).fetchall())
        after = last_sweep(connection)
        # After a statement that does not sweep, last_sweep() still returns the sweeps of an earlier one, with the same time.
        found[question] = (rows, [] if after == before else [counters for *counters, _ in after])
    connection.execute("RESET ALL")
    return found


def values(connection):
    """A digest of all values of each table, in their binary form."""
    found = {}
    for table in TABLES:
        order = "content" if table == "texts" else "id"
        found[table] = connection.execute(
            f"SELECT count(*), md5(string_agg(mrl_vector_send(embedding), '' ORDER BY {order})) FROM {table}"
        ).fetchone()
    return found


def files(server, connection):
    """A digest of the file of each index. A checkpoint has written it, and nothing writes it while indexes are only read."""
    connection.execute("CHECKPOINT")
    found = {}
    for index in INDEXES:
        path = connection.execute("SELECT pg_relation_filepath(%s)", [index]).fetchone()[0]
        found[index] = hashlib.sha256((server.data / path).read_bytes()).hexdigest()
    return found


def problems(connection):
    found = []
    for index in INDEXES:
        found += connection.execute("SELECT * FROM photosearch.check_index(%s)", [index]).fetchall()
    return found


def estimate(connection):
    """The number of rows that the planner expects for a coarse filter. With a sample of vectors, it is near the true one."""
    vector = connection.execute("SELECT embedding::text FROM copies WHERE id = 7").fetchone()[0]
    condition = f"coarse_match(embedding, '{vector}', 0.15, {run_upgrade.PREFIX_DIMS})"
    plan = connection.execute(f"EXPLAIN (FORMAT JSON) SELECT FROM photos WHERE {condition}").fetchone()[0]
    return plan[0]["Plan"]["Plan Rows"]


def embedding(connection):
    return connection.execute("SELECT embed_text(%s, 'a baby')::text", [MODEL]).fetchone()[0]


def fingerprint(connection):
    return connection.execute("SELECT fingerprint FROM photosearch.models WHERE name = %s", [MODEL]).fetchone()[0]


def differences(before, after):
    return [f"{name}: {before[name]} before, {after[name]} after" for name in before if after[name] != before[name]]


class Test:
    def __init__(self, scratch, old_pg_config):
        self.scratch = scratch
        self.checks = Checks()
        self.models = scratch / "models"
        sharedir = Path(subprocess.check_output([PG_CONFIG, "--sharedir"], text=True).strip())
        shutil.copytree(sharedir / "photosearch/models/photosearch-mini-1", self.models / MODEL)
        self.settings = {"photosearch.model_dir": str(self.models), "autovacuum": "off"}
        self.old = Server(scratch / "old", pg_config=old_pg_config, **self.settings)

    def make(self):
        """Makes the old cluster, and keeps its answers for the comparison."""
        self.old.start()
        with self.old.connect() as admin:
            admin.execute(f"CREATE DATABASE {DATABASE}")
        with connect(self.old) as connection:
            connection.execute("CREATE EXTENSION photosearch")
            connection.execute(run_upgrade.OBJECTS)
            connection.execute(OBJECTS)
            # Completes the visibility map, so that only changed rows give a later VACUUM work.
            connection.execute("VACUUM ANALYZE")
            self.values = values(connection)
            self.sweeps = sweeps(connection)
            self.estimate = estimate(connection)
            self.embedding = embedding(connection)
            self.fingerprint = fingerprint(connection)
            self.files = files(self.old, connection)
            # Some builds of Postgres, such as Debian's 15.20, stamp every column with an option that other builds refuse.
            connection.execute("UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '%pg_attver%'")
        empty = [question for question, (rows, _) in self.sweeps.items() if not rows]
        unswept = [question for question, (_, counters) in self.sweeps.items() if not counters and not question.startswith(WITHOUT_SWEEP)]
        self.checks.add("questions have answers", empty)
        self.checks.add("questions sweep", unswept)
        self.old.stop()

    def upgrade(self, option):
        """Upgrades a copy of the old cluster. Returns the new server, which is not started."""
        name = option.strip("-") or "copy"
        old = Server(self.scratch / f"{name}-old", pg_config=self.old.pg_config)
        subprocess.run(["cp", "-a", self.old.directory, old.directory], check=True)
        new = Server(self.scratch / f"{name}-new", **self.settings)
        new.start()
        new.stop()
        arguments = ["-b", old.bindir, "-B", new.bindir, "-d", old.data, "-D", new.data, "-U", "postgres", "-s", new.directory]
        new.program("pg_upgrade", *arguments, *filter(None, [option]), cwd=new.directory)
        return old, new

    def test(self, option):
        old, new = self.upgrade(option)
        title = f"pg_upgrade {option}".strip()
        add = lambda name, complaints: self.checks.add(f"{title}: {name}", complaints)  # noqa: E731
        # As docs/models.md says, copy the cache, too. It records which files each model's name stands for.
        subprocess.run(["cp", "-a", old.data / CACHE, new.data], check=True)
        new.start()
        self.replaced_weights(add, new)
        with connect(new) as connection:
            add("files of the indexes", differences(self.files, files(new, connection)))
            add("values", differences(self.values, values(connection)))
            add("answers and sweeps", differences(self.sweeps, sweeps(connection)))
            add("check_index", problems(connection))
            add("a model's vector and fingerprint", self.problems_of_model(connection))
            guessed = estimate(connection)
            new.program("vacuumdb", "-h", new.directory, "-U", "postgres", "--all", "--analyze-only")
            learned = estimate(connection)
            far = abs(learned - self.estimate) > 0.1 * self.estimate
            add(
                f"the sample of vectors, by vacuumdb --analyze-only ({self.estimate} rows expected before, {guessed} without the sample)",
                [f"{learned} rows expected after"] if far else [],
            )
            connection.execute("INSERT INTO photos SELECT id + 10000, embedding FROM photos")
            connection.execute("DELETE FROM photos WHERE id % 50 = 0")
            connection.execute("VACUUM photos")
            run_upgrade.answers(connection)
            add("check_index after writes", problems(connection))
        add("the server's log", new.disasters())
        new.stop()

    def problems_of_model(self, connection):
        found = {"vector": embedding(connection), "fingerprint": fingerprint(connection)}
        return differences({"vector": self.embedding, "fingerprint": self.fingerprint}, found)

    def replaced_weights(self, add, server):
        """The weights change before the new server has used the model. The new server can only know that from the copied cache."""
        weights = self.models / MODEL / "model.safetensors"
        before = weights.read_bytes()
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        try:
            with connect(server) as connection:
                embedding(connection)
            complaints = ["the changed model was used"]
        except psycopg.errors.ObjectNotInPrerequisiteState:
            complaints = []
        finally:
            weights.write_bytes(before)
        add("changed weights are an error", complaints)


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    scratch = Path(tempfile.mkdtemp(prefix="photosearch-pg-upgrade-", dir="/tmp"))
    scratch.chmod(0o755)
    test = Test(scratch, sys.argv[1])
    test.make()
    new = Server(scratch / "unused")
    options = ["", "--link"] + (["--swap"] if "--swap" in new.program("pg_upgrade", "--help").stdout else [])
    for option in options:
        test.test(option)
    return test.checks.end(scratch, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
