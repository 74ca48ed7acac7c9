#!/usr/bin/env python3
"""Measures the index against its aims, against pgvector, and against the speed of the machine.

Makes its tables once, in a server of its own, and keeps them: the first run takes some ten minutes, a later one half as long.
Each figure is the median of several runs that alternate with the runs of what it is compared with. The buffers are warm, a
query runs in one process unless stated otherwise, and jit is off. Needs python3-numpy, rustc and about 14 GB of disk, most of
it for WAL. Shortest run: benches/index.py --dir DIR --quick.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import speed
import upkeep
from report import print_table
from server import ROOT, Server
from tables import LARGE_DIMENSIONS, Tables
from vectors import DIMENSIONS, PREFIX


def compile_bare_loop(directory):
    program = directory / "bare_loop"
    flags = ["--edition", "2024", "-O", "-C", "target-cpu=native"]
    subprocess.run(["rustc", *flags, str(ROOT / "benches/bare_loop.rs"), "-o", str(program)], check=True)
    return str(program)


def page_size(server):
    """The size of the pages that hold the shared buffers, from the kernel. (Before version 17 the server does not report it.)"""
    pid = (Path(server.directory) / "data" / "postmaster.pid").read_text().split()[0]
    try:
        sizes = map(int, re.findall(r"^KernelPageSize:\s+(\d+)", Path(f"/proc/{pid}/smaps").read_text(), re.M))
    except OSError as error:
        return f"pages of unknown size ({error.strerror})"
    return "huge pages" if max(sizes) > os.sysconf("SC_PAGE_SIZE") // 1024 else "no huge pages"


def describe(server, database, shared_buffers):
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    cores = subprocess.check_output(["nproc"], text=True).strip()
    version, vector = (
        database.value("SHOW server_version"),
        database.value("SELECT extversion FROM pg_extension WHERE extname = 'vector'"),
    )
    print(f"""
{cpu.group(1) if cpu else platform.processor()}, {cores} cores; PostgreSQL {version}, pgvector {vector}
shared_buffers {shared_buffers}, {page_size(server)}; all tables and indexes that are read are in the buffers; max_parallel_workers_per_gather 0, jit off
Times of queries are measured by psql and include planning; the query vector is a parameter of a custom plan.""")


def measure(tables, program, arguments):
    """Yields the lines of the table."""
    runs = arguments.runs
    yield from upkeep.build(tables, 3)
    yield from upkeep.size(tables)
    yield from speed.sweep(tables, program, 2 * runs)
    yield from speed.main_query(tables, runs)
    yield from speed.many(tables, runs)
    yield from speed.other_dims(tables, runs)
    if tables.real_queries is not None:
        tables.database.psql(upkeep.create_index("real_vectors"))
    yield from speed.undecided(tables)
    yield speed.plans(tables, "full_vectors", DIMENSIONS, tables.full.queries(1), 3)
    yield speed.plans(tables, "prefixes", PREFIX, tables.prefixes.queries(1), 3)
    yield from upkeep.insert(tables, 3)
    yield from speed.without_index(tables, 3)
    yield from upkeep.whole(tables, 3)
    yield from speed.whole(tables, program, runs)
    yield from speed.in_rows(tables, program, runs)
    # These come last, because they displace the other tables from the buffers.
    yield from speed.parallel(tables, program, tables.prefixes, "prefixes", runs)
    yield from speed.pgvector_column(tables, runs)
    tables.database.psql(upkeep.create_index("large", LARGE_DIMENSIONS))
    yield from speed.large(tables, program, runs)
    if arguments.ten_million:
        tables.database.psql(upkeep.create_index("ten_million"))
        yield from speed.parallel(tables, program, tables.ten_million, "ten_million", runs, "≤ 0.6 × one process")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="directory for the tables and their server")
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each query")
    parser.add_argument("--shared-buffers", default="4GB")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and fewer runs, to test the benchmark itself")
    parser.add_argument(
        "--ten-million", action="store_true", help="also measure the parallel sweep over 10,000,000 prefixes; needs 6 GB more of disk"
    )
    arguments = parser.parse_args()
    rows, prefix_rows = (100_000, 1_000_000)
    directory = arguments.dir.resolve()
    if arguments.quick:
        rows, prefix_rows, arguments.runs = rows // 10, prefix_rows // 10, 3
        directory /= "quick"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    subprocess.run(["sh", str(ROOT / "tests/bridge/install_pgvector.sh")], check=True)
    program = compile_bare_loop(directory)
    options = (
        f"-c shared_buffers={arguments.shared_buffers} -c max_wal_size=8GB -c checkpoint_timeout=1h -c autovacuum=off"
    )
    with Server(directory / "server", options) as server:
        tables = Tables(server, directory, rows, prefix_rows)
        tables.make(arguments.ten_million)
        started = time.monotonic()
        describe(server, tables.database, arguments.shared_buffers)
        lines = list(measure(tables, program, arguments))
        print_table(lines)
        missed = sum(line.met is False for line in lines)
        print(
            f"\n{sum(line.met is True for line in lines)} aims met, {missed} missed, in {time.monotonic() - started:.0f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
