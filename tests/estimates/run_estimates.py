#!/usr/bin/env python3
"""Compares the planner's estimates for coarse filters with the rows that the filters return.

The reference is the row count itself. The table holds clustered vectors of 2048 dimensions whose variance falls along the
dimensions as in a Matryoshka model, or the vectors of a file; the queries are not among the rows; the thresholds keep from
0.3% to half of the rows. For 95% of the filters on prefixes that the statistics hold, and for 90% of those on longer prefixes
and whole vectors, the estimate shown by EXPLAIN must lie within a factor of 3 of the count.
Run alone: tests/cluster.sh run DIR /usr/bin/python3 tests/estimates/run_estimates.py --rows 5000
(PGHOST names the server; needs python3-numpy). The last line counts the checks.

    run_estimates.py [--rows 20000] [--vectors rows.npy --queries queries.npy] [--details]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "demo"))

from album import Server  # noqa: E402

DIMENSIONS, CLUSTERS, SEED = 2048, 200, 11
QUERIES = 60
SHARES = [0.003, 0.005, 0.01, 0.03, 0.1, 0.5]
COMPARED = [32, 64, 128, 256]
# Longer than the prefixes in the statistics, for which only the distribution of the rest is known. Every sixth query uses them,
# because reading whole vectors takes most of the time of this test.
LONGER, EVERY = [512, 1500, 2048], 6
FACTOR, WANTED, WANTED_LONGER = 3, 0.95, 0.9

failures = []
checks = 0


def check(name, ok, detail=""):
    global checks
    checks += 1
    print(f"{'ok  ' if ok else 'FAIL'} {name} {detail}", flush=True)
    if not ok:
        failures.append(name)


def clustered(count, rng, centres, scale):
    """Float16 rows of length one."""
    noise = 0.8 * rng.standard_normal((count, DIMENSIONS), dtype=np.float32) * scale
    rows = centres[rng.integers(CLUSTERS, size=count)] + noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def make_clustered(rows, rng):
    """Rows and queries from the same clusters."""
    scale = ((1 + np.arange(DIMENSIONS)) ** -0.35).astype(np.float32)
    centres = rng.standard_normal((CLUSTERS, DIMENSIONS), dtype=np.float32) * scale
    batches = [clustered(min(2000, rows - start), rng, centres, scale) for start in range(0, rows, 2000)]
    return np.concatenate(batches), clustered(QUERIES, rng, centres, scale)


def copy(server_directory, database, table, vectors):
    """Fills a table (id integer, vector) by COPY BINARY."""
    command = [str(ROOT / "tests/cluster.sh"), "run", server_directory, "psql", "-X", "-q", "-d", database]
    command += ["-c", f"COPY {table} FROM STDIN WITH (FORMAT binary)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for number, row in enumerate(vectors, 1):
            body = len(row).to_bytes(2, "big") + bytes(2) + row.astype(">f2").tobytes()
            process.stdin.write(b"\0\2\0\0\0\4" + number.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body)
        process.stdin.write(b"\xff\xff")
        process.stdin.close()
    if process.returncode != 0:
        raise SystemExit(f"could not fill {table}")


def thresholds(rows, query, dims):
    """For each of SHARES, the threshold that this share of the rows reaches."""
    prefixes, prefix = rows[:, :dims].astype(np.float32), query[:dims].astype(np.float32)
    norms = np.linalg.norm(prefixes, axis=1) * np.linalg.norm(prefix)
    # A vector with zeros as its prefix has the similarity 0.
    similarities = prefixes @ prefix / np.where(norms == 0, 1, norms)
    return np.quantile(similarities, [1 - share for share in SHARES])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--vectors", help="float16 rows (.npy) instead of clustered ones")
    parser.add_argument("--queries", help="float16 queries (.npy)")
    parser.add_argument("--details", action="store_true", help="also show the results by prefix length and share of rows")
    arguments = parser.parse_args()
    rng = np.random.default_rng(SEED)
    if arguments.vectors:
        rows, queries = np.load(arguments.vectors), np.load(arguments.queries)
    else:
        rows, queries = make_clustered(arguments.rows, rng)
    dimensions = rows.shape[1]

    directory = os.environ["PGHOST"]
    Server(directory, "postgres").psql("DROP DATABASE IF EXISTS estimates_test; CREATE DATABASE estimates_test;")
    server = Server(directory, "estimates_test")
    server.psql(f"""
        CREATE EXTENSION photosearch;
        CREATE UNLOGGED TABLE photos (id int, e mrl_vector({dimensions}));
        CREATE UNLOGGED TABLE queries (id int, q mrl_vector);
        CREATE TABLE filters (query int, dims int, share float, threshold float);
    """)
    copy(directory, "estimates_test", "photos", rows)
    copy(directory, "estimates_test", "queries", queries)
    compared = {min(dims, dimensions) for dims in COMPARED}
    longer = {min(dims, dimensions) for dims in LONGER if dimensions > max(COMPARED)}
    filters = [
        f"({number}, {dims}, {share}, {threshold})"
        for number, query in enumerate(queries, 1)
        for dims in (compared | longer if number % EVERY == 0 else compared)
        # Each query uses all shares at one of the prefix lengths and at longer ones, and two shares at the others.
        for place, (share, threshold) in enumerate(zip(SHARES, thresholds(rows, query, dims)))
        if dims in longer or COMPARED[number % len(COMPARED)] == dims or place in (number % 2, 2 + number % 4)
    ]
    server.psql(f"INSERT INTO filters VALUES {', '.join(filters)};")
    server.psql("""
        VACUUM ANALYZE photos;
        CREATE FUNCTION estimate(q mrl_vector, threshold float, dims int) RETURNS float LANGUAGE plpgsql AS $$
        DECLARE
            plan json;
        BEGIN
            EXECUTE format('EXPLAIN (FORMAT json) SELECT FROM photos WHERE coarse_match(e, %L, %s, %s)', q, threshold, dims) INTO plan;
            RETURN plan -> 0 -> 'Plan' -> 'Plan Rows';
        END
        $$;
        SET max_parallel_workers_per_gather = 0;
        CREATE TABLE answers AS
            SELECT f.dims, f.share, estimate(q, threshold, dims) AS estimate,
                (SELECT count(*) FROM photos WHERE coarse_match(e, q, threshold, dims)) AS matches
            FROM filters AS f JOIN queries AS q ON q.id = f.query;
    """)
    within = f"avg((greatest(estimate, matches) <= {FACTOR} * least(estimate, matches))::int)"
    if arguments.details:
        error = "greatest(estimate / matches, matches / estimate)"
        quantiles = [f"round((percentile_cont({level}) WITHIN GROUP (ORDER BY {error}))::numeric, 2)" for level in (0.5, 0.9)]
        columns = f"dims, share, count(*), round({within}, 3), {', '.join(quantiles)}"
        for row in server.rows(f"SELECT {columns} FROM answers GROUP BY dims, share ORDER BY dims, share"):
            print("dims {:>5}  share {:>6}  queries {:>4}  within {}  factor: median {}, 90% {}".format(*row))
    for name, lengths, wanted in ("prefixes", compared, WANTED), ("longer prefixes", longer, WANTED_LONGER):
        if lengths:
            selected = f"matches >= 0.003 * {len(rows)} AND dims IN ({', '.join(map(str, lengths))})"
            count, share = server.rows(f"SELECT count(*), round({within}, 3) FROM answers WHERE {selected}")[0]
            detail = f"{float(share):.1%} of {count}, {len(rows)} rows"
            check(f"estimates for {name} within a factor of {FACTOR}", float(share) >= wanted, detail)
    Server(directory, "postgres").psql("DROP DATABASE estimates_test;")
    print(f"{checks - len(failures)} passed, {len(failures)} failed", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
