"""Draws an album, loads it into a database with its truth (what each picture shows), and embeds it.

The demo, tests/album and tests/estimates use these functions. Those that need the server reach it through psql.
"""

import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "photosearch-mini-1"
DIMENSIONS = 192
BATCH = 25


class Server:
    """A server of tests/cluster.sh and one database in it."""

    def __init__(self, directory, database):
        self.directory = directory
        self.database = database

    def psql(self, script, *options, capture=True):
        """Runs a script in psql, which stops at the first error. Returns its output."""
        command = [ROOT / "tests" / "cluster.sh", "run", self.directory, "psql", "-X", "-q"]
        done = subprocess.run(
            [*map(str, command), "-v", "ON_ERROR_STOP=1", *options, "-f", "-"],
            input=script,
            text=True,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.PIPE if capture else None,
            env=os.environ | {"PGDATABASE": self.database},
        )
        if done.returncode != 0:
            raise SystemExit(f"psql failed: {done.stderr or ''}\n{script}")
        return done.stdout

    def rows(self, query):
        """The rows of one query, as lists of strings."""
        return [line.split("\t") for line in self.psql(query, "-A", "-t", "-F", "\t").splitlines()]

    def value(self, query):
        """The single value of a query."""
        return self.rows(query)[0][0]


def draw(directory, seed, count):
    """Draws an album unless it exists. Returns whether it drew."""
    if (directory / "truth.csv").exists():
        return False
    album = [sys.executable, ROOT / "models/train/album.py", "--seed", seed, "--count", count]
    subprocess.run([*map(str, album), "--out", str(directory)], check=True)
    # The server's user must be able to read the pictures.
    directory.chmod(0o755)
    for path in directory.iterdir():
        path.chmod(0o644)
    return True


def concepts(directory):
    """The concepts in the album's truth.csv."""
    with open(directory / "truth.csv", newline="") as file:
        header = next(csv.reader(file))
    return header[header.index("taken_at") + 1 :]


def load(server, directory):
    """Creates the tables `photos` and `truth` and fills them, without embeddings."""
    things = concepts(directory)
    flags = ", ".join(f"{thing} boolean" for thing in things)
    server.psql(f"""
        CREATE EXTENSION IF NOT EXISTS photosearch;
        CREATE TABLE truth (path text PRIMARY KEY, format text, orientation int,
                            taken_at timestamp, {flags});
        \\copy truth FROM '{directory / "truth.csv"}' WITH (FORMAT csv, HEADER)
        CREATE TABLE photos (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            path text NOT NULL UNIQUE,
            taken_at timestamp,
            image bytea NOT NULL,
            embedding mrl_vector({DIMENSIONS})
        );
        INSERT INTO photos (path, taken_at, image)
            SELECT path, taken_at, pg_read_binary_file('{directory}/' || path)
            FROM truth ORDER BY path;
    """)


def embed(server, progress=lambda done, total: None):
    """Embeds every photo without an embedding, by as many workers as there are cores. Each batch is a session of its own. The
    function may be interrupted and called again."""
    total = int(server.value("SELECT count(*) FROM photos"))
    workers = os.cpu_count() or 1

    def next_batch(worker):
        return int(
            server.value(f"""
                SET photosearch.threads = 1;
                WITH todo AS (
                    SELECT id FROM photos WHERE embedding IS NULL AND id % {workers} = {worker}
                    ORDER BY id LIMIT {BATCH}
                ), done AS (
                    UPDATE photos SET embedding = embed_image('{MODEL}', image)
                    WHERE id IN (SELECT id FROM todo) RETURNING 1
                )
                SELECT count(*) FROM done;
            """)
        )

    def work(worker):
        while next_batch(worker):
            progress(int(server.value("SELECT count(embedding) FROM photos")), total)

    with ThreadPoolExecutor(workers) as pool:
        for finished in [pool.submit(work, worker) for worker in range(workers)]:
            finished.result()
    server.psql("ANALYZE photos")
