"""The tables of the benchmark. Each is made once and kept, in a database in the benchmark's own directory."""

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np

import real_vectors
from vectors import DIMENSIONS, PREFIX, SEED, Clustered, copy_stream, literal

PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")
# The dimensions of CLIP ViT-B/32.
LARGE_DIMENSIONS = 512


def extension_scripts():
    """A hash of the scripts that CREATE EXTENSION photosearch runs. Tables made with other scripts are made again."""
    sharedir = Path(subprocess.check_output([PG_CONFIG, "--sharedir"], text=True).strip())
    scripts = sorted((sharedir / "extension").glob("photosearch--*.sql"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in scripts)).hexdigest()


class Tables:
    """The database and its sets of vectors. `full` has 2048 dimensions: the table `full_vectors` stores them in its TOAST
    table, and the table `in_rows` in its rows. `prefixes` (128 dimensions) and `large` (512) have as many rows as a large
    photo library. The table `vectors` has a part of `large` in a column of pgvector's type, and `vectors_own` the same part in
    a column of ours. The real vectors of WordLlama have 256 dimensions. `ten_million` (128 dimensions) is made only if asked
    for."""

    def __init__(self, server, directory, rows, prefix_rows):
        self.directory = directory
        self.full = Clustered(rows, DIMENSIONS)
        self.prefixes = Clustered(prefix_rows, PREFIX)
        self.large = Clustered(prefix_rows, LARGE_DIMENSIONS)
        self.ten_million = Clustered(10 * prefix_rows, PREFIX)
        self.real_queries = self.real_texts = None
        if server.database("postgres").value("SELECT 1 FROM pg_database WHERE datname = 'bench'") == "":
            server.database("postgres").psql("CREATE DATABASE bench")
        self.database = server.database("bench")
        self.database.psql("""
            SET client_min_messages = warning;
            CREATE EXTENSION IF NOT EXISTS vector;
            CREATE TABLE IF NOT EXISTS made (what text PRIMARY KEY, how text NOT NULL, seconds double precision);
        """)

    def make(self, ten_million):
        """Makes the tables that are missing or stale."""
        if self.how("photosearch") != extension_scripts():
            self.database.psql("""
                SET client_min_messages = warning;
                DROP EXTENSION IF EXISTS photosearch CASCADE;
                DROP TABLE IF EXISTS full_vectors, in_rows, prefixes, large, vectors, vectors_in_rows, vectors_own, ten_million, real_vectors;
                DELETE FROM made WHERE what NOT IN ('halfvecs', 'hnsw');
                CREATE EXTENSION photosearch_pgvector CASCADE;
            """)
            self.made("photosearch", extension_scripts(), 0)
        columns = f"id int, e mrl_vector({DIMENSIONS})"
        # An earlier version of the extension may have built the indexes, in another page format.
        self.database.psql("""
            SET client_min_messages = warning;
            DROP INDEX IF EXISTS full_vectors_index, in_rows_whole, in_rows_prefix, prefixes_index, large_index, vectors_index,
                vectors_in_rows_index, vectors_own_index, real_vectors_index, ten_million_index;
        """)
        self.fill("full_vectors", columns, self.full, [DIMENSIONS])
        self.fill("in_rows", columns, self.full, [DIMENSIONS], options="toast_tuple_target = 8160")
        self.fill("prefixes", f"id int, e mrl_vector({PREFIX})", self.prefixes, [PREFIX])
        self.fill("large", f"id int, e mrl_vector({LARGE_DIMENSIONS})", self.large, [LARGE_DIMENSIONS])
        self.fill_vectors(self.full.count)
        if ten_million:
            self.fill("ten_million", f"id int, e mrl_vector({PREFIX})", self.ten_million, [PREFIX])
        self.fill_real()
        columns = f"id int, p halfvec({PREFIX}), e halfvec({DIMENSIONS})"
        self.fill("halfvecs", columns, self.full, [PREFIX, DIMENSIONS])
        self.build_hnsw()
        self.database.psql("ANALYZE full_vectors; ANALYZE prefixes;")

    def how(self, what):
        return self.database.value(f"SELECT how FROM made WHERE what = '{what}'")

    def seconds(self, what):
        return float(self.database.value(f"SELECT seconds FROM made WHERE what = '{what}'"))

    def made(self, what, how, seconds):
        self.database.psql(f"""
            INSERT INTO made VALUES ('{what}', '{how}', {seconds})
            ON CONFLICT (what) DO UPDATE SET how = excluded.how, seconds = excluded.seconds;
        """)

    def fill(self, table, columns, vectors, dims, how="", options=""):
        """Fills a table from one of the sets, unless it was made in the same way before. A row is an id and one vector for each
        number of dimensions in `dims`, which are prefixes of the same vector. The column e has storage external."""
        how = how or f"{vectors.count} rows, {columns}, {options and options + ', '}seed {SEED}"
        if self.how(table) == how:
            return
        print(f"making {table}: {how}", flush=True)
        started = time.monotonic()
        self.database.psql(f"""
            SET client_min_messages = warning;
            DROP TABLE IF EXISTS {table}; CREATE TABLE {table} ({columns}) {options and f'WITH ({options})'};
            ALTER TABLE {table} ALTER e SET STORAGE external;
        """)
        self.database.copy(f"COPY {table} FROM STDIN WITH (FORMAT binary)", copy_stream(vectors.batches(), dims))
        self.database.psql(f"VACUUM ANALYZE {table}")
        self.made(table, how, time.monotonic() - started)

    def fill_vectors(self, rows):
        """Copies rows of `large` into two tables with a column of pgvector's type, in the TOAST table and in the rows, and into one
        with a column of ours."""
        how = f"in three tables, {rows} rows of {self.how('large')}"
        if self.how("vectors") == how:
            return
        print(f"making vectors: {how}", flush=True)
        started = time.monotonic()
        self.database.psql(f"""
            SET client_min_messages = warning;
            DROP TABLE IF EXISTS vectors, vectors_in_rows, vectors_own;
            CREATE TABLE vectors AS SELECT id, e::vector({LARGE_DIMENSIONS}) AS e FROM large WHERE id <= {rows};
            CREATE TABLE vectors_in_rows (id int, e vector({LARGE_DIMENSIONS})) WITH (toast_tuple_target = 8160);
            INSERT INTO vectors_in_rows SELECT * FROM vectors;
            CREATE TABLE vectors_own AS SELECT id, e FROM large WHERE id <= {rows};
            VACUUM ANALYZE vectors; VACUUM ANALYZE vectors_in_rows; VACUUM ANALYZE vectors_own;
        """)
        self.made("vectors", how, time.monotonic() - started)

    def fill_real(self):
        """Fills the table of WordLlama's vectors, if WordLlama's package can be installed."""
        file = self.directory / "real_vectors.npz"
        try:
            real_vectors.make(file)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            print(f"no real vectors: {error}", flush=True)
            return
        arrays = np.load(file)
        self.real_queries, self.real_texts = arrays["queries"], arrays["texts"].tolist()

        class Rows:
            count = len(arrays["rows"])

            def batches(self):
                yield arrays["rows"]

        dims = real_vectors.DIMENSIONS
        how = f"{Rows.count} descriptions, {real_vectors.MODEL}, {file.stat().st_mtime_ns}"
        self.fill("real_vectors", f"id int, e mrl_vector({dims})", Rows(), [dims], how)

    def build_hnsw(self):
        """Builds pgvector's HNSW graph over the whole vectors, with its default parameters and enough memory. The build takes
        minutes, so the graph and its build time are kept."""
        how = self.how("halfvecs")
        if self.how("hnsw") == how:
            return
        print("building pgvector's HNSW index, which takes minutes and is done once", flush=True)
        self.database.psql("DROP INDEX IF EXISTS halfvecs_hnsw")
        milliseconds = self.database.time(
            "CREATE INDEX halfvecs_hnsw ON halfvecs USING hnsw (e halfvec_cosine_ops)",
            before="SET maintenance_work_mem = '2GB';",
        )
        self.made("hnsw", how, milliseconds / 1000)

    def thresholds(self, table, stored, dims, queries, counts):
        """Returns, for each query, a list with one threshold for each number in `counts`: this many rows of the table (a few
        more if similarities are equal) reach it in the first `dims` of their `stored` dimensions. The thresholds are computed
        once, by fine_score in a sequential scan, and kept in a file."""
        file = self.directory / "thresholds.json"
        kept = json.loads(file.read_text()) if file.exists() else {}
        found = []
        for query in queries:
            text = literal(query)
            key = hashlib.sha256(f"{self.how(table)} {dims} {counts} {text}".encode()).hexdigest()
            if key not in kept:
                kept[key] = [between(self.scores(table, stored, dims, text), count) for count in counts]
                file.write_text(json.dumps(kept))
            found.append(kept[key])
        return found

    def scores(self, table, stored, dims, query):
        """The coarse similarity of every row, in descending order."""
        row, probe = "e", f"'{query}'::mrl_vector"
        if dims < stored:
            row, probe = f"subvector(e, 1, {dims})", f"subvector({probe}, 1, {dims})"
        values = self.database.psql(
            f"WITH q AS MATERIALIZED (SELECT {probe} AS v) SELECT fine_score({row}, v) FROM {table}, q"
        )
        return np.sort(np.array(values.split(), dtype=np.float64))[::-1]


def between(scores, count):
    """Returns a threshold that the first `count` of the descending scores reach (and those equal to the last of them): the
    middle between that score and the next lower one. For a count of 0, no score reaches it."""
    if count == 0:
        return float(scores[0] + 0.02)
    lower = scores[scores < scores[count - 1]]
    return float((scores[count - 1] + lower[0]) / 2)
