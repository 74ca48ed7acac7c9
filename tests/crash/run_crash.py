#!/usr/bin/env python3
"""Crashes a server during random writes, again and again, and checks its contents after recovery.

usage: run_crash.py [--rounds N] [--seed S]

In each round several sessions insert, update, delete, roll back, vacuum, reindex, build and drop indexes at random, and one
session queries and compares. Then a server process is killed with SIGKILL, or the server is shut down in immediate mode.
After recovery every row must be as the server acknowledged it to its session, check_index must report nothing for every
index, and random questions must have the same answer by each index as by a sequential scan. WAL replay compares each page
with its logged image (wal_consistency_checking).

The seed and the number of a round determine its random choices, but not how the sessions interleave.
Run alone: VENV/bin/python tests/crash/run_crash.py --rounds 1, with the packages of tests/client/requirements.txt. The last
line counts the checks; if one fails, the exit status is 1 and the data directory is kept.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from answers import complaints_of_answers, complaints_of_indexes
from server import Server, kill
from workload import EAGER_AUTOVACUUM, TABLES, Reader, Writer, make

WRITERS = 4


def settings(rng):
    """Random settings, so that crashes meet pages in every state: few or many buffers, written early or late."""
    chosen = {
        "shared_buffers": rng.choice(("1MB", "4MB", "64MB")),
        "checkpoint_timeout": "30s",
        "max_wal_size": rng.choice(("32MB", "1GB")),
        "bgwriter_delay": rng.choice(("10ms", "10s")),
        "bgwriter_lru_maxpages": "1000",
        "wal_consistency_checking": "generic",
        "wal_compression": rng.choice(("on", "off")),
        "synchronous_commit": "on",
        "maintenance_work_mem": rng.choice(("1MB", "64MB")),
        "log_autovacuum_min_duration": "-1",
        "autovacuum": rng.choice(("on", "off")),
    } | EAGER_AUTOVACUUM
    if rng.random() < 0.3:
        # A table or index made in this transaction is then synced at commit instead of WAL-logged.
        chosen |= {"wal_level": "minimal", "max_wal_senders": "0", "wal_skip_threshold": rng.choice(("0", "2MB"))}
    return chosen


def crash(server, rng, pids):
    """Ends the server without warning. Returns a description of how."""
    if rng.random() < 0.35:
        server.stop("immediate")
        return "immediate shutdown"
    backends = [(pid, "one of the sessions") for pid in pids if pid]
    while True:
        with server.connect() as connection:
            own = connection.info.backend_pid
            processes = connection.execute("SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> %s ORDER BY pid", [own]).fetchall()
        pid, kind = rng.choice(backends if rng.random() < 0.7 else processes)
        if kill(pid):
            return f"SIGKILL for {kind}"


def one_round(server, tables, sources, ledger, rng, number):
    """Returns the complaints by check, and prints a summary."""
    started = time.monotonic()
    server.start(**settings(rng))
    maintenance = threading.Lock()
    # In half of the rounds no index is built anew, so that the indexes carry the history of many rounds.
    builds = rng.random() < 0.5
    writers = [Writer(server, ledger, tables, sources, n, f"{rng.random()} {n}", maintenance, builds) for n in range(WRITERS)]
    reader = Reader(server, tables, sources, rng.random())
    for session in (*writers, reader):
        session.start()
    time.sleep(rng.uniform(0.3, 3))
    how = crash(server, rng, [session.pid for session in (*writers, reader)])
    for session in (*writers, reader):
        session.join(90)
    checks = {
        "every session ended": [str(s) for s in (*writers, reader) if s.is_alive()],
        "no session had an error": [f"{s.error!r}" for s in (*writers, reader) if s.error],
        "index and sequential scans agree during writes": reader.wrong,
    }
    crashed = time.monotonic()
    if how == "immediate shutdown":
        server.start(**settings(rng))
    with server.wait() as connection:
        recovered = time.monotonic()
        connection.execute("SET statement_timeout = '60s'")
        checks["the tables hold exactly what was committed"] = ledger.settle(connection, tables)
        drop_leftovers(connection)
        checks["check_index reports nothing"] = complaints_of_indexes(connection, tables)
        checks["index and sequential scans agree"], asked = complaints_of_answers(connection, tables, sources, rng, 3)
        if rng.random() < 0.5:
            for table in tables:
                connection.execute(f"VACUUM (INDEX_CLEANUP on) {table.name}")
            checks["check_index reports nothing after vacuum"] = complaints_of_indexes(connection, tables)
            checks["index and sequential scans agree after vacuum"], more = complaints_of_answers(connection, tables, sources, rng, 1)
            asked += more
    checks["the log has no panic, failed assertion or failed replay"] = server.disasters()
    steps = sum(writer.done for writer in writers)
    print(
        f"round {number}: {how} after {steps} steps and {reader.asked} questions during writes; recovered in {recovered - crashed:.1f} s;"
        f" {sum(map(len, ledger.rows.values()))} rows, {asked} questions; {time.monotonic() - started:.1f} s",
        flush=True,
    )
    # The next round may use other settings.
    server.stop()
    return checks


def drop_leftovers(connection):
    """Drops the invalid indexes that a crash leaves of CREATE INDEX CONCURRENTLY and similar commands, as Postgres documents."""
    rows = connection.execute(
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE NOT indisvalid OR relname LIKE '%\\_spare'"
    ).fetchall()
    for (index,) in rows:
        connection.execute(f"DROP INDEX {index}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=None, help="random if not given")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}")

    # psycopg logs a warning when the session of a COPY is killed, which is expected here.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    directory = Path(tempfile.mkdtemp(prefix="photosearch-crash-", dir="/tmp"))
    directory.chmod(0o755)
    server = Server(directory / "server")
    server.start(shared_buffers="64MB")
    with server.connect() as connection:
        sources, ledger = make(connection, TABLES, seed, WRITERS)
    server.stop()
    passed = 0
    failed = []
    for number in range(1, arguments.rounds + 1):
        checks = one_round(server, TABLES, sources, ledger, random.Random(f"{seed} {number}"), number)
        for check, complaints in checks.items():
            if complaints:
                failed.append(check)
                print(f"FAILED  round {number} of seed {seed}: {check}")
                for complaint in complaints[:10]:
                    print(f"        {complaint}")
        passed += len(checks) - len(failed)
        if failed:
            print(f"the data is kept in {server.data}")
            break
    else:
        shutil.rmtree(directory)
    print(f"{ledger.commits} commits acknowledged")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
