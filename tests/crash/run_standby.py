#!/usr/bin/env python3
"""Tests a streaming standby, and a base backup restored alone, of a server under random writes.

usage: run_standby.py [--seconds N] [--seed S]

While sessions write, the standby compares index and sequential scans within one snapshot each. When they have stopped and
the standby has replayed everything, its answers must equal the primary's. A backup taken during the writes must start alone,
recover, give the same answers by index as by sequential scan, and have valid checksums. Then the standby is promoted,
checked with check_index, written to, and checked again. Replay compares each page with the primary's image of it
(wal_consistency_checking). The references are sequential scans, the primary, pg_verifybackup and pg_checksums.

On other pairs of servers, transactions of the standby ask indexes that are newer than their snapshots, or that are being
dropped. The indexes must refuse: they lack rows that these snapshots see.

Run alone: VENV/bin/python tests/crash/run_standby.py --seconds 2, with the packages of tests/client/requirements.txt. The
last line counts the checks; if one fails, the exit status is 1 and the data is kept.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg
from answers import BITMAP, DEFAULTS, PARALLEL, PLAIN, SEQUENTIAL, compare, complaints_of_answers, complaints_of_indexes, questions
from checks import Checks
from run_crash import drop_leftovers
from server import Server
from workload import EAGER_AUTOVACUUM, TABLES, Reader, Writer, make

WRITERS = 3
# A standby has no unlogged tables before it is promoted.
LOGGED = [table for table in TABLES if table.persistence != "UNLOGGED"]


def write(server, ledger, sources, rng, seconds, readers=(), builds=True):
    """Lets sessions write and query for a while. Returns the errors."""
    maintenance = threading.Lock()
    writers = [Writer(server, ledger, TABLES, sources, n, f"{rng.random()} {n}", maintenance, builds) for n in range(WRITERS)]
    for session in (*writers, *readers):
        session.start()
    time.sleep(seconds)
    for session in (*writers, *readers):
        session.stopping.set()
    for session in (*writers, *readers):
        session.join(90)
    hanging = [f"{session} hangs" for session in (*writers, *readers) if session.is_alive()]
    return hanging + [repr(session.error) for session in (*writers, *readers) if session.error]


def wait_for_replay(primary, standby, seconds=120):
    """Waits until the standby has replayed everything that the primary has written. Returns the errors."""
    position = primary.execute("SELECT pg_current_wal_lsn()::text").fetchone()[0]
    deadline = time.monotonic() + seconds
    while not standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]).fetchone()[0]:
        if time.monotonic() > deadline:
            return [f"the standby has not replayed {position} in {seconds} s"]
        time.sleep(0.05)
    return []


def differing_answers(primary, standby, sources, rng, count):
    """Asks both servers, with each kind of plan. Yields the differences."""
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
    """Runs pg_checksums, for which the server must be stopped. Returns the errors."""
    done = server.program("pg_checksums", "--check", "-D", server.data, check=False)
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def check_backup(backup, sources, rng, checks):
    """Starts the backup alone and checks its indexes."""
    backup.start()
    with backup.wait() as connection:
        # The copy may hold an index that a session was about to drop; the questions name the indexes they may use.
        drop_leftovers(connection)
        checks.add("backup: check_index reports nothing", complaints_of_indexes(connection, LOGGED))
        checks.add("backup: index and sequential scans agree", complaints_of_answers(connection, LOGGED, sources, rng, 2)[0])
    backup.stop()
    checks.add("backup: checksums are valid", checksums(backup))
    checks.add("backup: the log has no panic, failed assertion or failed replay", backup.disasters())


def check_promoted(standby, ledger, sources, rng, checks):
    """Promotes the standby, checks it, writes to it, and checks it again."""
    standby.program("pg_ctl", "-D", standby.data, "-w", "promote")
    with standby.wait() as connection:
        # After promotion the unlogged tables exist and are empty.
        for table in TABLES:
            if table not in LOGGED:
                ledger.rows[table.name] = {}
        checks.add("promoted: what was committed is there", not_as_committed(connection, ledger))
        checks.add("promoted: check_index reports nothing", complaints_of_indexes(connection, TABLES))
        checks.add("promoted: index and sequential scans agree", complaints_of_answers(connection, TABLES, sources, rng, 2)[0])
    reader = Reader(standby, TABLES, sources, rng.random())
    checks.add("promoted: sessions wrote to it", write(standby, ledger, sources, rng, 1, [reader]))
    with standby.wait() as connection:
        for table in TABLES:
            connection.execute(f"VACUUM (INDEX_CLEANUP on) {table.name}")
        checks.add("promoted and written to: check_index reports nothing", complaints_of_indexes(connection, TABLES))
        checks.add("promoted and written to: index and sequential scans agree", complaints_of_answers(connection, TABLES, sources, rng, 1)[0] + reader.wrong)


# How the primary makes an index of a table, or makes it anew.
BUILDS = {
    "CREATE INDEX": "CREATE INDEX {table}_new ON {table} USING mrl (embedding)",
    "CREATE INDEX CONCURRENTLY": "CREATE INDEX CONCURRENTLY {table}_new ON {table} USING mrl (embedding)",
    "REINDEX": "REINDEX INDEX {table}_first",
    "REINDEX CONCURRENTLY": "REINDEX INDEX CONCURRENTLY {table}_first",
}


def other_refusal(error):
    """The error, unless the index says that it has changed."""
    return [] if "has changed since the snapshot" in str(error) else [str(error)]


def check_newer_indexes(directory, checks):
    """Asks a standby for rows that the primary has deleted before it built the index, in snapshots that still see them.

    The feedback of the standby keeps the rows in the table. It does not keep them in an index that is built CONCURRENTLY.
    """
    primary = Server(directory / "primary", autovacuum="off")
    primary.start()
    standby = primary.copy(directory / "standby", "-R", hot_standby_feedback="on", wal_receiver_status_interval="1s")
    standby.start()
    with primary.connect() as on_primary, standby.wait() as on_standby:
        on_primary.execute("CREATE EXTENSION photosearch")
        for number, build in enumerate(BUILDS.values()):
            on_primary.execute(f"CREATE TABLE t{number} AS SELECT i AS id, ARRAY[1, i]::mrl_vector(2) AS embedding FROM generate_series(1, 100) AS i")
            if "REINDEX" in build:
                on_primary.execute(f"CREATE INDEX t{number}_first ON t{number} USING mrl (embedding)")
        checks.add("newer index: the standby replays the tables", wait_for_replay(on_primary, on_standby))

        def count(session, number, shape):
            for name, value in (DEFAULTS | shape).items():
                session.execute(f"SET LOCAL {name} = {value}")
            return session.execute(f"SELECT count(*) FROM t{number} WHERE fine_score(embedding, '[1,0]') > 0").fetchone()[0]

        held = [standby.connect() for _ in BUILDS]
        for session in held:
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        oldest = [session.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchone()[0] for session in held]
        deadline = time.monotonic() + 60
        while on_primary.execute("SELECT backend_xmin::text FROM pg_stat_replication").fetchone() != (oldest[0],):
            if time.monotonic() > deadline:
                raise RuntimeError("the standby has sent no feedback in 60 s")
            time.sleep(0.05)
        for number, build in enumerate(BUILDS.values()):
            on_primary.execute(f"DELETE FROM t{number} WHERE id <= 10")
            on_primary.execute(build.format(table=f"t{number}"))
        checks.add("newer index: the standby replays the builds", wait_for_replay(on_primary, on_standby))

        for number, (name, session) in enumerate(zip(BUILDS, held)):
            wrong = []
            if (found := count(session, number, SEQUENTIAL)) != 100:
                wrong.append(f"the snapshot sees {found} rows")
            for shape in (BITMAP, PLAIN):
                session.execute("SAVEPOINT before")
                try:
                    wrong.append(f"the index answers with {count(session, number, shape)} of 100 rows")
                except psycopg.errors.SerializationFailure as refusal:
                    wrong += other_refusal(refusal)
                session.execute("ROLLBACK TO before")
            # A later snapshot can use the index.
            with on_standby.transaction():
                if (found := count(on_standby, number, BITMAP)) != 90:
                    wrong.append(f"in a later snapshot the index finds {found} of 90 rows")
            checks.add(f"newer index: {name} refuses an older snapshot of a standby", wrong)

        standby.program("pg_ctl", "-D", standby.data, "-w", "promote")
        wrong = []
        try:
            wrong.append(f"the index answers with {count(held[0], 0, BITMAP)} of 100 rows")
        except psycopg.errors.SerializationFailure as refusal:
            wrong += other_refusal(refusal)
        checks.add("newer index: it refuses a snapshot that is older than the promotion, too", wrong)
        for session in held:
            session.close()
    standby.stop()
    primary.stop()


def wait_until(connection, query):
    """Waits until a query returns true."""
    deadline = time.monotonic() + 60
    while not connection.execute(query).fetchone()[0]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not true within 60 s: {query}")
        time.sleep(0.02)


def check_dropped_index(directory, checks):
    """Runs a query on a standby that was planned before the primary began to drop its index CONCURRENTLY, and that sees rows
    inserted since."""
    primary = Server(directory / "primary", autovacuum="off")
    primary.start()
    standby = primary.copy(directory / "standby", "-R", hot_standby_feedback="on", max_standby_streaming_delay="-1")
    standby.start()
    with primary.connect() as on_primary, standby.wait() as on_standby, standby.connect() as querying, primary.connect() as dropping:
        on_primary.execute("CREATE EXTENSION photosearch")
        on_primary.execute("CREATE TABLE t AS SELECT i AS id, ARRAY[1, i]::mrl_vector(2) AS embedding FROM generate_series(1, 100) AS i")
        on_primary.execute("CREATE INDEX t_e ON t USING mrl (embedding)")
        # The planner evaluates it to estimate a condition, after it has looked up the indexes. There the query is held up.
        on_primary.execute("CREATE FUNCTION held_up() RETURNS int STABLE LANGUAGE sql AS 'SELECT pg_advisory_lock_shared(1); SELECT 0'")
        on_primary.execute("ANALYZE t")
        wait_for_replay(on_primary, on_standby)
        query = "SELECT count(*) FROM t WHERE fine_score(embedding, '[1,0]') > 0 AND id > held_up()"
        querying.execute("SET enable_seqscan = off")
        on_standby.execute("SELECT pg_advisory_lock(1)")
        answer = []

        def ask():
            try:
                answer.append(querying.execute(query).fetchone()[0])
            except psycopg.Error as error:
                answer.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(on_standby, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
        # DROP INDEX CONCURRENTLY waits for writers twice: before and after inserts begin to skip the index.
        first, second = primary.connect(), primary.connect()
        for writer in (first, second):
            writer.execute("BEGIN")
        first.execute("LOCK t IN ROW EXCLUSIVE MODE")
        drop = threading.Thread(target=lambda: dropping.execute("DROP INDEX CONCURRENTLY t_e"))
        drop.start()
        wait_until(on_primary, "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = 't_e'::regclass")
        second.execute("LOCK t IN ROW EXCLUSIVE MODE")
        first.execute("COMMIT")
        wait_until(on_primary, "SELECT NOT indislive FROM pg_index WHERE indexrelid = 't_e'::regclass")
        on_primary.execute("INSERT INTO t SELECT i, ARRAY[1, i]::mrl_vector(2) FROM generate_series(101, 150) AS i")
        checks.add("dropped index: the standby replays the inserts", wait_for_replay(on_primary, on_standby))
        on_standby.execute("SELECT pg_advisory_unlock(1)")
        asking.join()
        wrong = other_refusal(answer[0]) if isinstance(answer[0], psycopg.errors.SerializationFailure) else [f"the answer is {answer[0]!r}"]
        checks.add("dropped index: it refuses a query that sees rows inserted since", wrong)
        second.execute("COMMIT")
        drop.join()
        for session in (first, second):
            session.close()
    standby.stop()
    primary.stop()


def check_frozen_catalogs(directory, checks):
    """Asks a standby with a snapshot that is older than the index, after VACUUM FULL has frozen the catalogs' rows about it."""
    primary = Server(directory / "primary", autovacuum="off")
    primary.start()
    standby = primary.copy(directory / "standby", "-R", hot_standby_feedback="off", max_standby_streaming_delay="30s")
    standby.start()
    with primary.connect() as on_primary, standby.wait() as on_standby, standby.connect() as old:
        on_primary.execute("CREATE EXTENSION photosearch")
        on_primary.execute("CREATE TABLE t AS SELECT i AS id, ARRAY[1, i]::mrl_vector(2) AS embedding FROM generate_series(1, 100) AS i")
        # Room on the catalogs' pages. Without it Postgres would prune them, and that cancels queries with older snapshots.
        on_primary.execute("VACUUM FULL pg_class")
        for number in range(40):
            on_primary.execute(f"CREATE TABLE other_{number} ()")
            if number == 20:
                on_primary.execute("CREATE INDEX t_e ON t USING mrl (embedding)")
        for number in range(40):
            on_primary.execute(f"DROP TABLE other_{number}")
        on_primary.execute("VACUUM pg_class")
        on_primary.execute("VACUUM pg_index")
        wait_for_replay(on_primary, on_standby)
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SET LOCAL enable_seqscan = off")
        old.execute("SELECT pg_current_snapshot()")
        on_primary.execute("DELETE FROM t WHERE id <= 10")
        on_primary.execute("REINDEX INDEX t_e")
        on_primary.execute("VACUUM FULL pg_class")
        checks.add("frozen catalogs: the standby replays them", wait_for_replay(on_primary, on_standby))
        try:
            found = old.execute("SELECT count(*) FROM t WHERE fine_score(embedding, '[1,0]') > 0").fetchone()[0]
            wrong = [f"the index answers with {found} of 100 rows"]
        except psycopg.errors.SerializationFailure as refusal:
            wrong = other_refusal(refusal)
        checks.add("frozen catalogs: the index refuses a snapshot that is older than the index", wrong)
    standby.stop()
    primary.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="how long sessions write while the standby replays")
    parser.add_argument("--seed", type=int, default=None, help="random if not given")
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
        sources, ledger = make(connection, TABLES, seed, WRITERS)

    # Standby and backup are both copied while sessions write.
    writing = threading.Thread(target=lambda: checks.add("sessions wrote during the copies", write(primary, ledger, sources, rng, 3)))
    writing.start()
    time.sleep(0.5)
    feedback = rng.choice(("on", "off"))
    standby = primary.copy(directory / "standby", "-R", max_standby_streaming_delay="2s", hot_standby_feedback=feedback)
    backup = primary.copy(directory / "backup")
    verified = backup.program("pg_verifybackup", backup.data, check=False)
    checks.add("backup: pg_verifybackup accepts it", [] if verified.returncode == 0 else [verified.stderr])
    writing.join()

    standby.start()
    with primary.connect() as on_primary, standby.wait() as on_standby:
        # There are builds only without feedback. While a standby's feedback comes and goes, the primary may find dead rows
        # whose TOAST rows it has removed. Every build that reads TOAST values then fails there, that of Postgres' own index
        # types and VACUUM FULL included.
        readers = [Reader(standby, LOGGED, sources, rng.random()) for _ in range(2)]
        checks.add("sessions wrote while others queried the standby", write(primary, ledger, sources, rng, arguments.seconds, readers, builds=feedback == "off"))
        checks.add("standby: index and sequential scans agree during replay", [wrong for reader in readers for wrong in reader.wrong])
        checks.add("standby: it answered questions", [] if all(reader.asked for reader in readers) else ["a session had no answer"])
        print(f"        {ledger.commits} commits; {sum(r.asked for r in readers)} questions; replay cancelled {sum(r.conflicts for r in readers)}")
        checks.add("standby: it replays everything", wait_for_replay(on_primary, on_standby))
        checks.add("standby: what was committed is there", not_as_committed(on_standby, ledger))
        checks.add("standby: its answers equal the primary's", differing_answers(on_primary, on_standby, sources, rng, 3))
        checks.add("primary: check_index reports nothing", complaints_of_indexes(on_primary, TABLES))
    primary.stop()
    checks.add("primary: checksums are valid", checksums(primary))
    check_promoted(standby, ledger, sources, rng, checks)
    standby.stop()
    checks.add("standby: checksums are valid", checksums(standby))
    check_backup(backup, sources, rng, checks)
    for part, check in (("newer", check_newer_indexes), ("dropped", check_dropped_index), ("frozen", check_frozen_catalogs)):
        (directory / part).mkdir(mode=0o755)
        check(directory / part, checks)
    for server in (primary, standby):
        checks.add(f"{server.directory.name}: the log has no panic, failed assertion or failed replay", server.disasters())
    return checks.end(directory, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
