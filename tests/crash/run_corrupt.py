#!/usr/bin/env python3
"""Damages the files of indexes in every way and checks how the server behaves.

usage: run_corrupt.py [--copies N] [--flips N] [--seed S]

Without checksums: N tables hold the same rows, and each index is damaged in its own way while the server is stopped. Then
each index is scanned, checked, inserted into, vacuumed and built anew. No backend may crash or hang. An error must have
SQLSTATE XX002, or XX001 if Postgres itself finds that a page or a row is missing. If a scan gives a wrong answer, check_index
must report the index. Hundreds of single bits are flipped in the codes, bounds, scales and TIDs of as many entries, and
check_index must find each. An entry whose row no page can hold must be an error of scans and of vacuum. With checksums, each
damaged page must be an error of the sweep.
The references are a sequential scan, and the layout of a page as pages.py states it.
Run alone: VENV/bin/python tests/crash/run_corrupt.py --copies 36 (each of the 18 kinds of damage to two indexes), with the
packages of tests/client/requirements.txt. The last line counts the checks; if one fails, the exit status is 1 and the data
is kept.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psycopg

import damage
from answers import BITMAP, PLAIN, SEQUENTIAL, Table, answer
from checks import Checks
from pages import PAGE, Layout, flip, read, write
from server import Server
from vectors import Vectors, copy_binary, text

DIMS = 128
ROWS = 220
PREFIXES = (128, 20)
# SQLSTATE of corruption that the index reports, and of corruption that Postgres reports: an invalid page, a missing block.
CORRUPTED, POSTGRES = "XX002", "XX001"
# A TID so far beyond the table's end that it lies in a missing segment file. Postgres then raises XX000, as it does for
# every kind of index.
BEYOND = re.compile(r"error XX000 could not open file .*: previous segment is only")


def fill(connection, table, rows):
    """Stores rows, and makes an index with free places and a free space map."""
    table.create(connection)
    with connection.cursor() as cursor:
        copy_binary(cursor, table.name, rows)
    for index in table.indexes:
        table.create_index(connection, index)
    connection.execute(f"DELETE FROM {table.name} WHERE id % 8 = 0")
    connection.execute(f"VACUUM (INDEX_CLEANUP on) {table.name}")


def paths(server, connection, relations):
    rows = connection.execute("SELECT relname, pg_relation_filepath(oid) FROM pg_class WHERE relname = ANY(%s)", [list(relations)])
    return {name: server.data / path for name, path in rows}


def conditions(source, rng):
    """Conditions that few rows match, that most rows match, and (the last one) that every row matches."""
    vector = text(source.centres[0])
    return [f"embedding @~ mrl_probe('{vector}', {least}, {dims})" for least, dims in ((0.6, 128), (0.6, 20), (-0.2, 16), (-1, 128))]


def described(error):
    outcome = f"error {error.sqlstate} {error.diag.message_primary}"
    return f"error {POSTGRES} {outcome}" if BEYOND.match(outcome) else outcome


class DamagedIndex:
    """A table with a damaged index, and the outcome of each action on it."""

    def __init__(self, connection, table, asked):
        self.connection, self.table, self.asked = connection, table, asked
        (self.index,) = table.indexes
        self.outcomes = {}

    def attempt(self, name, action):
        try:
            with self.connection.transaction():
                outcome = action()
        except psycopg.Error as error:
            if error.sqlstate is None or self.connection.closed:
                raise
            outcome = described(error)
        self.outcomes[name] = outcome
        return outcome

    def scan(self, shape):
        for condition in self.asked:
            expected = found = None
            for settings in (SEQUENTIAL, shape):
                for name, value in settings.items():
                    self.connection.execute(f"SET LOCAL {name} = {value}")
                found, plan = answer(self.connection, f"SELECT id FROM {self.table.name} WHERE {condition}")
                expected = found if expected is None else expected
            assert self.index in plan, plan
            if found != expected:
                return "wrong"
        return "right"

    def check(self):
        rows = self.connection.execute("SELECT * FROM photosearch.check_index(%s::regclass)", [self.index]).fetchall()
        return "clean" if not rows else f"reports {len(rows)}: {rows[0]}"

    def insert(self):
        # Enough rows to reach every page that the free space map names.
        self.connection.execute(f"INSERT INTO {self.table.name} SELECT 100000 + id * 2, kind, 0, embedding FROM {self.table.name} WHERE id < 100")
        return "done"

    def vacuum(self):
        try:
            self.connection.execute(f"VACUUM (INDEX_CLEANUP on) {self.table.name}")
            return "done"
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            return described(error)

    def examine(self):
        """Scans, checks and writes. Then the index is built anew and must be sound."""
        self.attempt("bitmap scan", lambda: self.scan(BITMAP))
        self.attempt("index scan", lambda: self.scan(PLAIN))
        self.attempt("check", self.check)
        self.attempt("delete", lambda: self.connection.execute(f"DELETE FROM {self.table.name} WHERE id % 8 = 1").statusmessage)
        self.outcomes["vacuum"] = self.vacuum()
        self.attempt("insert", self.insert)
        self.attempt("check after writes", self.check)
        self.attempt("reindex", lambda: self.connection.execute(f"REINDEX INDEX {self.index}").statusmessage)
        self.attempt("bitmap scan after reindex", lambda: self.scan(BITMAP))
        self.attempt("check after reindex", self.check)

    def complaints(self, must_be_noticed):
        outcomes = self.outcomes
        states = {name: outcome.split()[1] for name, outcome in outcomes.items() if outcome.startswith("error")}
        noticed = any(state in (CORRUPTED, POSTGRES) for state in states.values()) or outcomes["check"].startswith("reports")
        for name, state in states.items():
            if state not in (CORRUPTED, POSTGRES):
                yield f"{name}: {outcomes[name]}"
        if states.get("check") == CORRUPTED:
            yield f"check_index raised an error: {outcomes['check']}"
        if outcomes["check"] == "clean" and "wrong" in (outcomes["bitmap scan"], outcomes["index scan"]):
            yield "a scan gave a wrong answer, and check_index reported nothing"
        if must_be_noticed and not noticed:
            yield "the damage was not noticed"
        if must_be_noticed is False and noticed:
            yield f"only unused space was damaged, and an error was reported: {outcomes}"
        sound = {"reindex": "REINDEX", "bitmap scan after reindex": "right", "check after reindex": "clean"}
        for name, outcome in sound.items():
            if outcomes[name] != outcome:
                yield f"{name}: {outcomes[name]}"


def damage_file(number, file, rng):
    """Damages one file. Returns a description of the damage and whether it must be noticed."""
    kind = damage.KINDS[number % len(damage.KINDS)]
    block = rng.randrange(file.blocks)
    if kind in (damage.entry_count, damage.tids, damage.scales):
        block = rng.randrange(1, file.blocks)
    elif kind is damage.meta_field:
        block = 0
    return f"{kind.__name__.replace('_', ' ')}, block {block}", kind(file, block, rng)


def without_checksums(server, copies, rng, checks, source):
    tables = [Table(f"c{n}", DIMS, {f"i{n}": (PREFIXES[n % 2], None)}, storage="plain") for n in range(copies)]
    rows = [(i, i % 6, 0, source.one(rng)) for i in range(ROWS)]
    with server.connect() as connection:
        for table in tables:
            fill(connection, table, rows)
        asked = conditions(source, rng)
        names = {name for table in tables for name in (table.name, *table.indexes)} | {"pg_class", "c0_pkey"}
        files = paths(server, connection, names)
    server.stop()
    damaged = []
    for number, table in enumerate(tables):
        (index,) = table.indexes
        file = damage.File(files[index], Layout(PREFIXES[number % 2]), [files["c0"], files["c0_pkey"], files["i1"]])
        damaged.append((table, *damage_file(number // 2, file, rng)))
    server.start()
    outcomes = {}
    with server.connect() as connection:
        connection.execute("SET statement_timeout = '30s'")
        pid = connection.info.backend_pid
        for table, what, must_be_noticed in damaged:
            index = DamagedIndex(connection, table, asked)
            try:
                index.examine()
            except psycopg.OperationalError as error:
                checks.add(f"{table.name}, {what}", [f"the session ended: {error}", *server.disasters(), str(index.outcomes)])
                return
            complaints = list(index.complaints(must_be_noticed))
            checks.add(f"{table.name}, {what}{' (unused space)' if must_be_noticed is False else ''}", complaints + ([str(index.outcomes)] if complaints else []))
            for name, outcome in index.outcomes.items():
                outcome = " ".join(outcome.split()[: 2 if outcome.startswith("error") else 1])
                outcomes.setdefault(name, Counter())[outcome] += 1
        checks.add("one backend ran all actions", [] if connection.info.backend_pid == pid else ["the backend was replaced"])
    for name, counts in outcomes.items():
        print(f"        {name}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    checks.add("the log has no crash", server.disasters())


def flipped_bits(server, rng, checks, source, flips):
    """Flips one bit in each of many entries."""
    prefixes = {"flips_128": 128, "flips_100": 100, "flips_7": 7}
    table = Table("flips", DIMS, {index: (prefix, None) for index, prefix in prefixes.items()}, storage="plain")
    rows = [(i, i % 6, 0, source.one(rng)) for i in range(2500)]
    with server.connect() as connection:
        fill(connection, table, rows)
        files = paths(server, connection, prefixes)
    server.stop()
    flipped = {}
    for index, file in files.items():
        layout = Layout(prefixes[index])
        places = [(block, entry) for block in range(1, file.stat().st_size // PAGE) for entry in range(layout.count(read(file, block)))]
        for block, entry in rng.sample(places, flips):
            part = rng.choice(list(layout.arrays))
            byte = rng.randrange(*layout.part(part, entry))
            page = read(file, block)
            flip(page, byte, rng.randrange(8))
            write(file, block, page)
            flipped[index, block, entry] = part
    server.start()
    with server.connect() as connection:
        reported = {}
        for index in prefixes:
            found = connection.execute("SELECT block, entry, row_id FROM photosearch.check_index(%s::regclass)", [index]).fetchall()
            reported |= {(index, block, entry): (index, row) for block, entry, row in found if entry is not None}
    missed = [f"{place}: {part}" for place, part in flipped.items() if place not in reported]
    parts = ", ".join(f"{list(flipped.values()).count(part)} of {part}" for part in sorted(set(flipped.values())))
    checks.add(f"check_index finds {len(flipped)} flipped bits ({parts})", missed and [f"{len(missed)} missed", *missed])
    # An intact entry may be reported if a damaged TID names the same row.
    named = {row for place, row in reported.items() if flipped.get(place) == "TID"}
    others = [f"{place}: row {row}" for place, row in reported.items() if place not in flipped and row not in named]
    checks.add("check_index reports no intact entry", others)


def impossible_rows(server, checks, source, rng):
    """An entry that names a row which no page can hold. The index must not pass it to Postgres, whose assertions fail on it."""
    offsets = (0, 292, 0xFFFF)
    tables = [Table(f"o{n}", DIMS, {f"io{n}": (128, None)}, storage="plain") for n in range(len(offsets))]
    rows = [(i, i % 6, 0, source.one(rng)) for i in range(ROWS)]
    with server.connect() as connection:
        for table in tables:
            fill(connection, table, rows)
        files = paths(server, connection, {name for table in tables for name in table.indexes})
        # The condition that every row matches.
        condition = conditions(source, rng)[-1]
    server.stop()
    layout = Layout(128)
    for table, offset in zip(tables, offsets):
        (index,) = table.indexes
        page = read(files[index], 1)
        at = layout.part("TID", 3)[0] + 4
        page[at : at + 2] = offset.to_bytes(2, sys.byteorder)
        write(files[index], 1, page)
    server.start()
    with server.connect() as connection:
        for table, offset in zip(tables, offsets):
            index = DamagedIndex(connection, table, [condition])
            index.examine()
            wanted = {name: f"error {CORRUPTED}" for name in ("bitmap scan", "index scan", "vacuum")}
            wrong = [f"{name}: {index.outcomes[name]}" for name, start in wanted.items() if not index.outcomes[name].startswith(start)]
            if not index.outcomes["check"].startswith("reports"):
                wrong.append(f"check: {index.outcomes['check']}")
            checks.add(f"an entry for row {offset} of a page is an error of scans and vacuum", wrong + list(index.complaints(True)))
    checks.add("the log has no crash", server.disasters())


def with_checksums(server, copies, rng, checks, source):
    tables = [Table(f"c{n}", DIMS, {f"i{n}": (PREFIXES[n % 2], None)}, storage="plain") for n in range(copies)]
    rows = [(i, i % 6, 0, source.one(rng)) for i in range(ROWS)]
    with server.connect() as connection:
        for table in tables:
            fill(connection, table, rows)
        (condition,) = conditions(source, rng)[:1]
        files = paths(server, connection, {name for table in tables for name in (table.name, *table.indexes)})
    server.stop()
    # Other kinds are left out: Postgres takes a page of zeros for a new page and does not notice that a file is too short.
    kinds = (damage.one_bit, damage.random_page, damage.random_behind_header, damage.another_block)
    for number, table in enumerate(tables):
        (index,) = table.indexes
        file = damage.File(files[index], Layout(PREFIXES[number % 2]), [])
        kinds[number % len(kinds)](file, rng.randrange(1, file.blocks), rng)
    server.start()
    missed = []
    with server.connect() as connection:
        for table in tables:
            index = DamagedIndex(connection, table, [condition])
            for name, shape in (("bitmap scan", BITMAP), ("index scan", PLAIN)):
                outcome = index.attempt(name, lambda shape=shape: index.scan(shape))
                if not outcome.startswith(f"error {POSTGRES}"):
                    missed.append(f"{table.name}: {name}: {outcome}")
            if not index.attempt("check", index.check).startswith((f"error {POSTGRES}", "reports")):
                missed.append(f"{table.name}: {index.outcomes}")
    checks.add(f"with checksums the sweep reports {copies} damaged pages", missed)
    checks.add("the log has no crash", server.disasters())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=108, help="number of indexes that are damaged, one kind of damage each")
    parser.add_argument("--flips", type=int, default=250, help="number of bits that are flipped in each of three indexes")
    parser.add_argument("--seed", type=int, default=None, help="random if not given")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}")
    rng = random.Random(seed)
    source = Vectors(DIMS, seed)
    directory = Path(tempfile.mkdtemp(prefix="photosearch-corrupt-", dir="/tmp"))
    directory.chmod(0o755)
    checks = Checks()
    for name, checksums in (("plain", False), ("checksums", True)):
        server = Server(directory / name, checksums=checksums, autovacuum="off", shared_buffers="16MB")
        server.start()
        with server.connect() as connection:
            connection.execute("CREATE EXTENSION photosearch")
        if checksums:
            with_checksums(server, 40, rng, checks, source)
        else:
            flipped_bits(server, rng, checks, source, arguments.flips)
            impossible_rows(server, checks, source, rng)
            without_checksums(server, arguments.copies, rng, checks, source)
        server.stop()
    return checks.end(directory, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
