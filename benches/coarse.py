#!/usr/bin/env python3
"""The coarse filter in a sequential scan, beside pgvector's way of saying the same.

100,000 vectors of 2048 dimensions, clustered, with variances that fall along the dimensions as those
of a Matryoshka model do; storage external; warm. Each query runs several times in turn with the
others; printed are medians and the ratio to pgvector's, all of one run. Needs python3-numpy.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DIMENSIONS, PREFIX, CLUSTERS, SEED = 2048, 128, 200, 5


def vectors(count, rng):
    """Float16 rows of length one, in batches."""
    scale = (1 + np.arange(DIMENSIONS)) ** -0.35
    centres = rng.normal(size=(CLUSTERS, DIMENSIONS)) * scale
    for start in range(0, count, 2000):
        size = min(2000, count - start)
        rows = centres[rng.integers(CLUSTERS, size=size)] + 0.8 * rng.normal(size=(size, DIMENSIONS)) * scale
        yield (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(">f2")


class Server:
    def __init__(self, directory):
        self.prefix = [str(ROOT / "tests/cluster.sh"), "run", str(directory), "psql", "-X", "-q", "-A", "-t"]

    def psql(self, script, **options):
        done = subprocess.run([*self.prefix, "-v", "ON_ERROR_STOP=1", "-f", "-"], input=script, text=True,
                              capture_output=True, **options)  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return done.stdout

    def copy(self, statement, chunks):
        """Feeds COPY BINARY."""
        with subprocess.Popen([*self.prefix, "-c", statement], stdin=subprocess.PIPE) as process:
            for chunk in chunks:
                process.stdin.write(chunk)
            process.stdin.close()
        if process.returncode != 0:
            raise SystemExit(f"{statement} failed")


def copy_stream(batches):
    """Rows (id integer, vector) in COPY's binary format; halfvec's and mrl_vector's are the same."""
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    number = 0
    for batch in batches:
        rows = []
        for row in batch:
            number += 1
            body = DIMENSIONS.to_bytes(2, "big") + bytes(2) + row.tobytes()
            rows.append(b"\0\2\0\0\0\4" + number.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body)
        yield b"".join(rows)
    yield b"\xff\xff"


QUERIES = {
    "pgvector: subvector(e, 1, 128)::halfvec(128) <=> q < 0.7": """
        SELECT count(*) FROM halfvecs
        WHERE subvector(e, 1, {prefix})::halfvec({prefix}) <=> (SELECT subvector(e, 1, {prefix})::halfvec({prefix}) FROM halfvecs WHERE id = 1) < 0.7""",
    "photosearch: coarse_match(e, q, 0.3, 128)": """
        SELECT count(*) FROM mrl_vectors WHERE coarse_match(e, (SELECT e FROM mrl_vectors WHERE id = 1), 0.3, {prefix})""",
    "pgvector: e <=> q < 0.7": """
        SELECT count(*) FROM halfvecs WHERE e <=> (SELECT e FROM halfvecs WHERE id = 1) < 0.7""",
    "photosearch: fine_score(e, q) > 0.3": """
        SELECT count(*) FROM mrl_vectors WHERE fine_score(e, (SELECT e FROM mrl_vectors WHERE id = 1)) > 0.3""",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    subprocess.run(["sh", str(ROOT / "tests/bridge/install_pgvector.sh")], check=True)
    with tempfile.TemporaryDirectory(prefix="photosearch-bench-", dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o755)
        directory = Path(scratch) / "server"
        cluster = str(ROOT / "tests/cluster.sh")
        subprocess.run([cluster, "start", directory, "-c shared_buffers=2GB -c max_wal_size=8GB"], check=True)
        try:
            bench(Server(directory), arguments)
        finally:
            subprocess.run([cluster, "stop", directory], check=True)


def bench(server, arguments):
    server.psql("""
        CREATE EXTENSION photosearch; CREATE EXTENSION vector;
        CREATE UNLOGGED TABLE mrl_vectors (id int, e mrl_vector(2048));
        CREATE UNLOGGED TABLE halfvecs (id int, e halfvec(2048));
        ALTER TABLE halfvecs ALTER e SET STORAGE external;
    """)
    for table in ["mrl_vectors", "halfvecs"]:
        batches = vectors(arguments.rows, np.random.default_rng(SEED))
        server.copy(f"COPY {table} FROM STDIN WITH (FORMAT binary)", copy_stream(batches))
    server.psql("VACUUM ANALYZE mrl_vectors; VACUUM ANALYZE halfvecs;")
    times = {name: [] for name in QUERIES}
    rows = {}
    for run in range(arguments.runs + 1):
        for name, query in QUERIES.items():
            script = f"SET max_parallel_workers_per_gather = 0; SET jit = off;\n\\timing on\n{query.format(prefix=PREFIX)};"
            output = server.psql(script)
            rows[name] = int(re.search(r"^(\d+)$", output, re.M).group(1))
            if run > 0:  # the first warms the buffers
                times[name].append(float(re.search(r"Time: ([\d.]+) ms", output).group(1)))
    print(f"{arguments.rows} rows of {DIMENSIONS} dimensions, storage external, medians of {arguments.runs} runs in turn\n")
    names = list(QUERIES)
    for ours, theirs in [(names[1], names[0]), (names[3], names[2])]:
        for name in (theirs, ours):
            print(f"{name:62} {statistics.median(times[name]):9.1f} ms {rows[name]:8} rows")
        print(f"{'  ratio':62} {statistics.median(times[theirs]) / statistics.median(times[ours]):9.2f}\n")


if __name__ == "__main__":
    sys.exit(main())
