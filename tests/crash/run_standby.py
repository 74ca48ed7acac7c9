#!/usr/bin/env python3
"""A streaming standby, and a base backup restored alone, of a server under random writes.

usage: run_standby.py [--seconds N] [--seed S]

While sessions write, the standby compares index and sequential scan within one snapshot each. When
they have stopped and it has replayed all, it answers as the primary does. A backup taken beside the
writers starts alone, recovers, agrees with itself, and its checksums are sound. Then the standby is
promoted, checked with check_index, written to, and checked again. Replay compares each page with
the primary's image of it (wal_consistency_checking). Needs what tests/client/requirements.txt names.
The last line counts the checks; where one fails, the exit status is 1 and the data stays.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from answers import BITMAP, PARALLEL, PLAIN, SEQUENTIAL, compare, complaints_of_answers, complaints_of_indexes, questions
from checks import Checks
from run_crash import drop_leftovers
from server import Server
from workload import EAGER_AUTOVACUUM, TABLES, Reader, Worker, make

WORKERS = 3
# A standby has no unlogged tables before it is promoted.
LOGGED = [table for table in TABLES if table.persistence != "UNLOGGED"]


def write(server, ledger, sources, rng, seconds, readers=(), builds=True):
    """Lets sessions write, and ask, for a while. Returns complaints."""
    maintenance = threading.Lock()
    workers = [Worker(server, ledger, TABLES, sources, n, f"{rng.random()} {n}", maintenance, builds) for n in range(WORKERS)]
    for session in (*workers, *readers):
        session.start()
    time.sleep(seconds)
    for session in (*workers, *readers):
        session.stopping.set()
    for session in (*workers, *readers):
        session.join(90)
    hanging = [f"{session} hangs" for session in (*workers, *readers) if session.is_alive()]
    return hanging + [repr(session.error) for session in (*workers, *readers) if session.error]


def caught_up(primary, standby, seconds=120):
    """Waits until the standby has replayed what the primary has written."""
    position = primary.execute("SELECT pg_current_wal_lsn()::text").fetchone()[0]
    deadline = time.monotonic() + seconds
    while not standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]).fetchone()[0]:
        if time.monotonic() > deadline:
            return [f"the standby has not replayed {position} in {seconds} s"]
        time.sleep(0.05)
    return []


def the_same(primary, standby, sources, rng, count):
    """Asks both, with each kind of plan."""
    for table in LOGGED:
        indexes = {index: None for index, (_, predicate) in table.indexes.items() if not predicate}
        with primary.transaction(), standby.transaction():
            for question in questions(rng, primary, table, sources[table.name], count):
                expected, _ = question.ids(primary, table.name, None, SEQUENTIAL)
                for shape in (SEQUENTIAL, BITMAP, PLAIN, PARALLEL):
                    found, _ = question.ids(standby, table.name, None, shape)
                    if found != expected:
                        yield f"{table.name}: {question.describe()} by {shape}: {len(expected)} on the primary, {len(found)} on the standby"
        with standby.transaction():
            asked = questions(rng, standby, table, sources[table.name], count)
            for question, shape, complaint in compare(standby, table, indexes, asked):
                yield f"{table.name} on the standby: {question.describe()} by {shape}: {complaint}"


def not_as_committed(connection, ledger):
    for table in LOGGED:
        found = dict(connection.execute(f"SELECT id, version FROM {table.name}").fetchall())
        if found != ledger.rows[table.name]:
            yield f"{table.name}: {len(found.items() ^ ledger.rows[table.name].items())} rows are not as committed"


def checksums(server):
    """The server is stopped."""
    done = server.program("pg_checksums", "--check", "-D", server.data, check=False)
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def restored(backup, sources, rng, checks):
    """A backup that starts alone."""
    backup.start()
    with backup.wait() as connection:
        # The copy may hold an index that a session was about to drop. The questions ask for others by name.
        drop_leftovers(connection)
        checks.add("backup: check_index is content", complaints_of_indexes(connection, LOGGED))
        checks.add("backup: index and table agree", complaints_of_answers(connection, LOGGED, sources, rng, 2)[0])
    backup.stop()
    checks.add("backup: checksums", checksums(backup))
    checks.add("backup: the log tells of nothing else", backup.disasters())


def promoted(standby, ledger, sources, rng, checks):
    standby.program("pg_ctl", "-D", standby.data, "-w", "promote")
    with standby.wait() as connection:
        # Unlogged tables are empty from here on.
        for table in TABLES:
            if table not in LOGGED:
                ledger.rows[table.name] = {}
        checks.add("promoted: what was committed is there", not_as_committed(connection, ledger))
        checks.add("promoted: check_index is content", complaints_of_indexes(connection, TABLES))
        checks.add("promoted: index and table agree", complaints_of_answers(connection, TABLES, sources, rng, 2)[0])
    reader = Reader(standby, TABLES, sources, rng.random())
    checks.add("promoted: it is written to", write(standby, ledger, sources, rng, 1, [reader]))
    with standby.wait() as connection:
        for table in TABLES:
            connection.execute(f"VACUUM (INDEX_CLEANUP on) {table.name}")
        checks.add("promoted and written to: check_index is content", complaints_of_indexes(connection, TABLES))
        checks.add("promoted and written to: index and table agree", complaints_of_answers(connection, TABLES, sources, rng, 1)[0] + reader.wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="how long the sessions write beside the standby")
    parser.add_argument("--seed", type=int, default=None, help="drawn where not given")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}")
    rng = random.Random(seed)

    directory = Path(tempfile.mkdtemp(prefix="photosearch-standby-", dir="/tmp"))
    directory.chmod(0o755)
    shared = {"shared_buffers": "4MB", "wal_consistency_checking": "generic", "max_wal_size": "64MB", "wal_keep_size": "2GB"}
    primary = Server(directory / "primary", **shared, **EAGER_AUTOVACUUM)
    primary.start()
    checks = Checks()
    with primary.connect() as connection:
        sources, ledger = make(connection, TABLES, seed, WORKERS)

    # Both copies are taken while sessions write.
    writing = threading.Thread(target=lambda: checks.add("sessions wrote beside the copies", write(primary, ledger, sources, rng, 3)))
    writing.start()
    time.sleep(0.5)
    standby = primary.copy(directory / "standby", "-R", max_standby_streaming_delay="2s", hot_standby_feedback=rng.choice(("on", "off")))
    backup = primary.copy(directory / "backup")
    verified = backup.program("pg_verifybackup", backup.data, check=False)
    checks.add("backup: its manifest holds", [] if verified.returncode == 0 else [verified.stderr])
    writing.join()

    standby.start()
    with primary.connect() as on_primary, standby.wait() as on_standby:
        # Without builds: an index that is built on the primary after a standby's snapshot was taken lacks
        # rows that are dead to the primary alone. That is so for Postgres' own indexes too.
        readers = [Reader(standby, LOGGED, sources, rng.random()) for _ in range(2)]
        checks.add("sessions wrote, others asked the standby", write(primary, ledger, sources, rng, arguments.seconds, readers, builds=False))
        checks.add("standby: index and table agree beside writers", [wrong for reader in readers for wrong in reader.wrong])
        checks.add("standby: it was asked", [] if all(reader.asked for reader in readers) else ["no question came through"])
        print(f"        {ledger.commits} commits; {sum(r.asked for r in readers)} questions; replay ended {sum(r.conflicts for r in readers)}")
        checks.add("standby: it replays all", caught_up(on_primary, on_standby))
        checks.add("standby: what was committed is there", not_as_committed(on_standby, ledger))
        checks.add("standby: it answers as the primary does", the_same(on_primary, on_standby, sources, rng, 3))
        checks.add("primary: check_index is content", complaints_of_indexes(on_primary, TABLES))
    primary.stop()
    checks.add("primary: checksums", checksums(primary))
    promoted(standby, ledger, sources, rng, checks)
    standby.stop()
    checks.add("standby: checksums", checksums(standby))
    restored(backup, sources, rng, checks)
    for server in (primary, standby):
        checks.add(f"{server.directory.name}: the log tells of nothing else", server.disasters())
    return checks.end(directory, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
