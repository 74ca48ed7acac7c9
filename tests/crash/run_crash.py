#!/usr/bin/env python3
"""Crashes a server under random writes, again and again, and looks at what is there afterwards.

usage: run_crash.py [--rounds N] [--seed S] [--keep DIRECTORY]

In each round some sessions insert, update, delete, roll back, vacuum, reindex, build and drop
indexes at random, and one asks and compares; then a process of the server is killed with SIGKILL, or
the whole is shut down at once. After recovery every row is as its session was told, check_index is
content with every index, and random questions have the same answer with each index as without. WAL
replay compares each page with the image that was logged of it (wal_consistency_checking).

A round is drawn from the seed and its number; what sessions meet of one another is not. Needs what
tests/client/requirements.txt names. The last line counts the checks; where one fails, the exit status
is 1 and the data directory stays.
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
from workload import EAGER_AUTOVACUUM, TABLES, Reader, Worker, make

WORKERS = 4


def settings(rng):
    """So that every page is in every state at some crash: in few buffers or many, written early or late."""
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
        # A table or index that is made in a transaction is then synced, not logged.
        chosen |= {"wal_level": "minimal", "max_wal_senders": "0", "wal_skip_threshold": rng.choice(("0", "2MB"))}
    return chosen


def crash(server, rng, pids):
    """Ends the server without warning. What did it is returned."""
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
    """Returns complaints by check, and what to print."""
    started = time.monotonic()
    server.start(**settings(rng))
    maintenance = threading.Lock()
    # In half of the rounds no index is built anew: it then holds what many rounds have left in it.
    builds = rng.random() < 0.5
    workers = [Worker(server, ledger, tables, sources, n, f"{rng.random()} {n}", maintenance, builds) for n in range(WORKERS)]
    reader = Reader(server, tables, sources, rng.random())
    for session in (*workers, reader):
        session.start()
    time.sleep(rng.uniform(0.3, 3))
    how = crash(server, rng, [session.pid for session in (*workers, reader)])
    for session in (*workers, reader):
        session.join(90)
    checks = {
        "every session ended": [str(s) for s in (*workers, reader) if s.is_alive()],
        "no session met an error": [f"{s.error!r}" for s in (*workers, reader) if s.error],
        "index and table agree beside writers": reader.wrong,
    }
    crashed = time.monotonic()
    if how == "immediate shutdown":
        server.start(**settings(rng))
    with server.wait() as connection:
        recovered = time.monotonic()
        connection.execute("SET statement_timeout = '60s'")
        checks["what was committed is there, and nothing else"] = ledger.settle(connection, tables)
        drop_leftovers(connection)
        checks["check_index is content"] = complaints_of_indexes(connection, tables)
        checks["index and table agree"], asked = complaints_of_answers(connection, tables, sources, rng, 3)
        if rng.random() < 0.5:
            for table in tables:
                connection.execute(f"VACUUM (INDEX_CLEANUP on) {table.name}")
            checks["check_index is content after vacuum"] = complaints_of_indexes(connection, tables)
            checks["index and table agree after vacuum"], more = complaints_of_answers(connection, tables, sources, rng, 1)
            asked += more
    checks["the log tells of nothing else"] = server.disasters()
    steps = sum(worker.done for worker in workers)
    print(
        f"round {number}: {how} after {steps} steps and {reader.asked} questions beside them; recovered in {recovered - crashed:.1f} s;"
        f" {sum(map(len, ledger.rows.values()))} rows, {asked} questions; {time.monotonic() - started:.1f} s",
        flush=True,
    )
    # The next round may want other settings.
    server.stop()
    return checks


def drop_leftovers(connection):
    """What a crash leaves of CREATE INDEX CONCURRENTLY and its like, by Postgres's own design."""
    rows = connection.execute(
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE NOT indisvalid OR relname LIKE '%\\_spare'"
    ).fetchall()
    for (index,) in rows:
        connection.execute(f"DROP INDEX {index}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=None, help="drawn where not given")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}")

    # A COPY whose session is killed is no news here.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    directory = Path(tempfile.mkdtemp(prefix="photosearch-crash-", dir="/tmp"))
    directory.chmod(0o755)
    server = Server(directory / "server")
    server.start(shared_buffers="64MB")
    with server.connect() as connection:
        sources, ledger = make(connection, TABLES, seed, WORKERS)
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
            print(f"the data directory stays: {server.data}")
            break
    else:
        shutil.rmtree(directory)
    print(f"{ledger.commits} commits acknowledged")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
