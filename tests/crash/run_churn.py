#!/usr/bin/env python3
"""Replaces rows for a long time: the index must neither grow nor lose a row, and scans during vacuum must be exact.

usage: run_churn.py [--minutes M] [--seed S]

Four sessions insert at the same time. Then, in each cycle, they replace a fifth of the rows (by equal numbers of updates,
deletes and inserts) while another session vacuums, one compares answers within snapshots, and two read slowly from a
cursor, one of them rows in the order of their distance. Each cycle ends with a vacuum; afterwards the indexes must not
exceed 1.2 times the largest size that they had when built anew (the files do not shrink), and check_index must report
nothing. The references are a sequential scan within the same snapshot, and an index built anew over the same rows.
Run alone: VENV/bin/python tests/crash/run_churn.py (two cycles), with the packages of tests/client/requirements.txt. The
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

from answers import PLAIN, SEQUENTIAL, Table, answer, complaints_of_answers, complaints_of_indexes, difference
from checks import Checks
from ledger import ID_STRIDE
from pages import PAGE, Layout, read
from server import Server
from vectors import Vectors, copy_binary, text
from workload import Reader

WRITERS = 4
ROWS = 8000
CHURN = 0.2
GROWTH = 1.2

ALBUM = Table("album", 64, {"album_64": (64, None), "album_16": (16, None), "album_some": (64, "kind < 3")}, storage="plain")


class Writer:
    """One session and the rows that only it changes."""

    def __init__(self, server, source, number, seed):
        self.connection = server.connect()
        self.connection.execute("SET statement_timeout = '60s'")
        self.source, self.number, self.rng = source, number, random.Random(seed)
        self.own = []
        self.counter = 0

    def new_rows(self, count):
        rows = []
        for _ in range(count):
            self.counter += 1
            rows.append((self.counter * ID_STRIDE + self.number, self.rng.randrange(6), self.counter, self.source.one(self.rng)))
        return rows

    def insert(self, count):
        rows = self.new_rows(count)
        with self.connection.cursor() as cursor:
            copy_binary(cursor, ALBUM.name, rows)
        self.own += [row[0] for row in rows]

    def update(self, count):
        for number in self.rng.sample(self.own, count):
            self.connection.execute("UPDATE album SET embedding = %s WHERE id = %s", [text(self.source.one(self.rng)), number])

    def delete(self, count):
        self.rng.shuffle(self.own)
        gone, self.own = self.own[:count], self.own[count:]
        self.connection.execute("DELETE FROM album WHERE id = ANY(%s)", [gone])

    def churn(self, count):
        for _ in range(count // 15):
            for change in self.rng.sample((self.insert, self.update, self.delete), 3):
                change(5)
            time.sleep(0.05)


def concurrently(*tasks):
    """Runs functions in threads and returns the exceptions that they raised."""
    errors = []

    def guarded(task):
        try:
            task()
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def slow_reader(server, source, rng, stop, results):
    """Reads a plain index scan through a cursor, with pauses in which others write and vacuum, and compares the rows with a
    sequential scan in the same snapshot."""
    with server.connect() as connection:
        while not stop.is_set():
            index = rng.choice(("album_64", "album_16"))
            vector = text(source.one(rng) or source.centres[0])
            where = f"embedding @~ mrl_probe('{vector}', {rng.choice((-0.2, 0.0, 0.2))}, {rng.choice((16, 64))})"
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                for name, value in PLAIN.items():
                    connection.execute(f"SET LOCAL {name} = {value}")
                connection.execute(f"DECLARE slow NO SCROLL CURSOR FOR SELECT id FROM album WHERE {where}")
                found = []
                while rows := connection.execute("FETCH 200 FROM slow").fetchall():
                    found += [number for (number,) in rows]
                    time.sleep(0 if stop.is_set() else 0.02)
                for name, value in SEQUENTIAL.items():
                    connection.execute(f"SET LOCAL {name} = {value}")
                expected, _ = answer(connection, f"SELECT id FROM album WHERE {where}")
                results.append(None if sorted(found) == expected else f"{index}: {where[:90]}: {difference(expected, sorted(found))}")


def ordered_reader(server, source, rng, stop, results):
    """Reads rows in the order of their distance through a cursor, with so little memory that the scan sweeps several times
    while others write and vacuum, and compares rows and order with a sequential scan in the same snapshot."""
    with server.connect() as connection:
        while not stop.is_set():
            vector = text(source.one(rng) or source.centres[0])
            distance = f"embedding <=> '{vector}'"
            where = rng.choice(("embedding IS NOT NULL", f"fine_score(embedding, '{vector}') > {rng.choice((-0.5, 0.0))}"))
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                for name, value in (PLAIN | {"enable_sort": "off", "work_mem": "'64kB'"}).items():
                    connection.execute(f"SET LOCAL {name} = {value}")
                query = f"SELECT id, {distance} AS d FROM album WHERE {where} ORDER BY {distance}"
                plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN (COSTS OFF) {query}"))
                connection.execute(f"DECLARE near NO SCROLL CURSOR FOR {query}")
                found = []
                while rows := connection.execute("FETCH 300 FROM near").fetchall():
                    found += rows
                    time.sleep(0 if stop.is_set() else 0.02)
                for name, value in SEQUENTIAL.items():
                    connection.execute(f"SET LOCAL {name} = {value}")
                expected = connection.execute(f"SELECT id, {distance} FROM album WHERE {where}").fetchall()
                if "Order By" not in plan:
                    results.append(f"no ordered scan:\n{plan}")
                elif sorted(found) != sorted(expected):
                    ids = [[number for number, _ in rows] for rows in (expected, found)]
                    results.append(f"in order: {where[:90]}: {difference(*map(sorted, ids))}")
                else:
                    distances = [d for _, d in found]
                    results.append(None if distances == sorted(distances) else f"not in order: {where[:90]}")


def sizes(connection, index):
    """The pages of an index, and of one built anew over the same rows."""
    pages = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int"
    grown = connection.execute(pages, [index]).fetchone()[0]
    ALBUM.create_index(connection, index, "anew")
    anew = connection.execute(pages, ["anew"]).fetchone()[0]
    connection.execute("DROP INDEX anew")
    return grown, anew


def shared_pages(server, connection, index):
    """The number of pages of an index that hold rows of several sessions, and the number of all its pages."""
    sessions = {}
    for tid, number in connection.execute("SELECT ctid::text, id FROM album"):
        sessions[tuple(map(int, tid.strip("()").split(",")))] = number % ID_STRIDE
    connection.execute("CHECKPOINT")
    (path,) = connection.execute("SELECT pg_relation_filepath(%s::regclass)", [index]).fetchone()
    layout = Layout(ALBUM.indexes[index][0])
    pages = [read(server.data / path, block) for block in range(1, (server.data / path).stat().st_size // PAGE)]
    return sum(len({sessions[row] for row in layout.rows(page)}) > 1 for page in pages), len(pages)


def not_as_written(connection, writers):
    found = {number for (number,) in connection.execute("SELECT id FROM album")}
    expected = {number for writer in writers for number in writer.own}
    return [] if found == expected else [f"{len(found ^ expected)} rows differ from what was written"]


def cycle(server, connection, writers, source, rng, checks, name, largest_rebuilt):
    stop = threading.Event()
    results = []
    reader = Reader(server, [ALBUM], {ALBUM.name: source}, rng.random())

    def vacuum():
        while not stop.is_set():
            connection.execute("VACUUM (INDEX_CLEANUP on) album")
            stop.wait(0.2)

    def write():
        try:
            complaints.extend(concurrently(*(lambda writer=writer: writer.churn(int(CHURN * ROWS) // WRITERS) for writer in writers)))
        finally:
            stop.set()

    complaints = []
    reader.start()
    readers = [lambda reader=reader: reader(server, source, rng, stop, results) for reader in (slow_reader, ordered_reader)]
    complaints += concurrently(write, vacuum, *readers)
    reader.stopping.set()
    reader.join(90)
    checks.add(f"{name}: no session had an error", complaints + ([repr(reader.error)] if reader.error else []))
    checks.add(f"{name}: {reader.asked} questions and {len(results)} cursors during writes and vacuum", reader.wrong + [wrong for wrong in results if wrong])
    connection.execute("VACUUM album")
    grown = {index: sizes(connection, index) for index in ALBUM.indexes}
    said = ", ".join(f"{index} {now} pages, {anew} when built anew" for index, (now, anew) in grown.items())
    largest_rebuilt.update({index: max(anew, largest_rebuilt.get(index, 0)) for index, (_, anew) in grown.items()})
    too_large = [f"{index} exceeds {GROWTH} times {largest_rebuilt[index]} pages" for index, (now, _) in grown.items() if now > GROWTH * largest_rebuilt[index]]
    checks.add(f"{name}: {said}", too_large)
    checks.add(f"{name}: the table holds what was written", not_as_written(connection, writers))
    checks.add(f"{name}: check_index reports nothing", complaints_of_indexes(connection, [ALBUM]))
    found, asked = complaints_of_answers(connection, [ALBUM], {ALBUM.name: source}, rng, 2)
    checks.add(f"{name}: index and sequential scans agree on {asked} questions", found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.25, help="no cycle starts after this time, but at least two run")
    parser.add_argument("--seed", type=int, default=None, help="random if not given")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}")
    rng = random.Random(seed)
    deadline = time.monotonic() + 60 * arguments.minutes

    directory = Path(tempfile.mkdtemp(prefix="photosearch-churn-", dir="/tmp"))
    directory.chmod(0o755)
    server = Server(directory / "server", shared_buffers="32MB", autovacuum="off")
    server.start()
    checks = Checks()
    with server.connect() as connection:
        connection.execute("CREATE EXTENSION photosearch")
        ALBUM.create(connection)
        for index in ALBUM.indexes:
            ALBUM.create_index(connection, index)
        source = Vectors(ALBUM.dims, seed)
        writers = [Writer(server, source, n, f"{seed} {n}") for n in range(WRITERS)]
        # Many small transactions, so that each session chooses a page for its rows many times.
        errors = concurrently(*(lambda writer=writer: [writer.insert(20) for _ in range(ROWS // WRITERS // 20)] for writer in writers))
        checks.add(f"{WRITERS} sessions inserted {ROWS} rows at the same time", errors + not_as_written(connection, writers))
        checks.add("check_index reports nothing", complaints_of_indexes(connection, [ALBUM]))
        # Sessions that shared their pages would wait for each other's page locks.
        shared, pages = shared_pages(server, connection, "album_64")
        checks.add(f"{shared} of {pages} pages have rows of several sessions", ["more than a tenth of the pages are shared"] if shared > pages / 10 else [])
        number, largest_rebuilt = 0, {}
        while number < 2 or time.monotonic() < deadline and not checks.failed:
            number += 1
            cycle(server, connection, writers, source, rng, checks, f"cycle {number}", largest_rebuilt)
        for writer in writers:
            writer.connection.close()
    server.stop()
    checks.add("the log has no crash, panic or failed assertion", server.disasters())
    return checks.end(directory, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
