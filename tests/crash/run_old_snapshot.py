#!/usr/bin/env python3
"""A query with a snapshot that is too old must raise an error, and must never return an incomplete answer.

usage: run_old_snapshot.py        (needs Debian's package faketime)

With old_snapshot_threshold (PostgreSQL 14 to 16) vacuum removes rows that an old snapshot still sees. A scan with that
snapshot must raise 72000, as a btree scan does, or find all rows. The reference is Postgres' own btree, which gets the same
treatment. Run alone: VENV/bin/python tests/crash/run_old_snapshot.py, with the packages of tests/client/requirements.txt.
The last line counts the checks.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import psycopg

from checks import Checks
from server import Server

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
ROWS = 8000
TOO_OLD = "72000"
QUERIES = {
    "btree": "SELECT count(*) FROM photos WHERE id >= 0",
    "mrl": "SELECT count(*) FROM photos WHERE coarse_match(e, '[1,0,0,0]', -1, 4)",
}
SCANS = {"plain": ("indexscan",), "bitmap": ("bitmapscan",), "parallel": ("indexscan", "parallel")}


def ask(connection, query, scan):
    """The number of rows that a query finds by a kind of index scan, or the SQLSTATE of its error."""
    try:
        with connection.transaction():
            for kind in ("seqscan", "bitmapscan", "indexscan", "indexonlyscan"):
                connection.execute(f"SET LOCAL enable_{kind} = {'on' if kind in scan else 'off'}")
            workers = 2 if "parallel" in scan else 0
            connection.execute(f"SET LOCAL max_parallel_workers_per_gather = {workers}")
            for cost in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_index_scan_size", "min_parallel_table_scan_size"):
                connection.execute(f"SET LOCAL {cost} = 0")
            return connection.execute(query).fetchone()[0]
    except psycopg.Error as error:
        return error.sqlstate


def main():
    directory = Path(tempfile.mkdtemp(prefix="photosearch-snapshot-", dir="/tmp"))
    directory.chmod(0o755)
    server = Server(directory / "server", autovacuum="off")
    server.start()
    checks = Checks()
    with server.connect() as connection:
        if connection.info.server_version >= 170000:
            print("this version of PostgreSQL has no old_snapshot_threshold")
            server.stop()
            checks.add("a version without the setting", [])
            return checks.end(directory, shutil.rmtree)
        connection.execute("CREATE EXTENSION photosearch")
    server.stop()
    # The shortest threshold is one minute, and the server maps snapshots to ages by the minute. Instead of waiting,
    # faketime moves the server's clock forward by what the file says.
    clock = directory / "clock"
    clock.write_text("+0")
    clock.chmod(0o644)
    fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    server.start(environment=fake, old_snapshot_threshold="1min")
    asked = [(name, scan, f"photos_{name}_{scan}") for name in QUERIES for scan in SCANS]
    readers = {}
    with server.connect() as writer:
        for name, scan, table in asked:
            writer.execute(f"CREATE TABLE {table} (id int, e mrl_vector(4))")
            writer.execute(f"INSERT INTO {table} SELECT i, ARRAY[i % 7 + 1, i % 5, i % 3, 1]::mrl_vector FROM generate_series(1, {ROWS}) AS i")
            writer.execute(f"CREATE INDEX ON {table} USING mrl (e)" if name == "mrl" else f"CREATE INDEX ON {table} (id)")
            writer.execute(f"ANALYZE {table}")
            # A transaction whose snapshot is taken before the rows are deleted.
            readers[table] = server.connect()
            readers[table].execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            readers[table].execute("SELECT 1 FROM pg_class LIMIT 1")
        for _, _, table in asked:
            writer.execute(f"DELETE FROM {table} WHERE id % 2 = 0")
        for minute in range(1, 6):
            clock.write_text(f"+{minute}m")
            # The server records the age of snapshots whenever one is taken.
            for _ in range(3):
                writer.execute("SELECT txid_current()")
        for _, _, table in asked:
            writer.execute(f"VACUUM {table}")
        for name, scan, table in asked:
            found = ask(readers[table], QUERIES[name].replace("photos", table), SCANS[scan])
            readers[table].close()
            checks.add(f"{name}, {scan}: all rows or an error", [] if found in (ROWS, TOO_OLD) else [f"{found} of {ROWS} rows"])
            # Otherwise the first check would prove nothing.
            checks.add(f"{name}, {scan}: the snapshot was too old", [] if found == TOO_OLD else [f"{found} of {ROWS} rows"])
    checks.add("the log has no crash, panic or failed assertion", server.disasters())
    server.stop()
    return checks.end(directory, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
