#!/usr/bin/env python3
"""Feeds the files that make_hostile.py wrote to a running server, one INSERT for each.

usage: run_hostile.py [DIRECTORY]      (PGHOST, PGUSER and the like say where the server is)

Without a directory the files are made first, in a temporary one. One session reads them all. A
file is embedded, or is an error with SQLSTATE 22P03 (malformed), 22023 (no picture that is read) or
54000 (over a limit); nothing is inserted then, the backend lives, and photosearch.image_problem
says the same. Needs what tests/client/requirements.txt
names. The last line counts the files; the exit status is 1 where one failed.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

MODEL = "photosearch-mini-1"
DATABASE = "photosearch_hostile"
STATES = ("22P03", "22023", "54000")


def resident_peak_mib(pid):
    """The most memory that the backend has had, where this machine can tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def insert(connection, name, data):
    """What became of a file: "ok", or the error's SQLSTATE and message."""
    try:
        connection.execute("INSERT INTO album VALUES (%s, %b, embed_image(%s, %b))", [name, data, MODEL, data])
        # The same through a generated column.
        connection.execute("INSERT INTO generated (name, image) VALUES (%s, %b)", [name, data])
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise
        return error.sqlstate, error.diag.message_primary
    return "ok", ""


def main(directory):
    with open(directory / "manifest.csv", newline="") as file:
        manifest = [(row["file"], row["expected"]) for row in csv.DictReader(file)]
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        connection.execute(f"CREATE DATABASE {DATABASE}")
    connection = psycopg.connect(dbname=DATABASE, autocommit=True)
    connection.execute("CREATE EXTENSION photosearch")
    connection.execute("CREATE TABLE album (name text PRIMARY KEY, image bytea, e mrl_vector NOT NULL)")
    connection.execute(f"CREATE TABLE generated (name text PRIMARY KEY, image bytea, e mrl_vector GENERATED ALWAYS AS (embed_image('{MODEL}', image)) STORED)")
    connection.execute("SET statement_timeout = '60s'")
    pid = connection.info.backend_pid
    inserted = passed = failed = 0
    for name, expected in manifest:
        try:
            state, said = insert(connection, name, (directory / name).read_bytes())
        except psycopg.OperationalError as error:
            print(f"FAILED  {name}: the session ended: {error}")
            failed += 1
            break
        inserted += state == "ok"
        wrong = []
        problem = connection.execute("SELECT photosearch.image_problem(%b, %s)", [(directory / name).read_bytes(), MODEL]).fetchone()[0]
        if (problem or "") != said:
            wrong.append(f"image_problem says {problem}")
        if state != "ok" and state not in STATES:
            wrong.append(f"SQLSTATE {state}")
        if expected != "either" and (state == "ok") != (expected == "ok"):
            wrong.append(f"expected {expected}")
        if any(c in said for c in "\n\0") or "panic" in said:
            wrong.append("not a message for a person")
        if wrong:
            print(f"FAILED  {name}: {', '.join(wrong)}; got {state} {said}")
            failed += 1
        else:
            passed += 1
    if not connection.closed:
        checks = {
            "one row for each picture": connection.execute("SELECT (SELECT count(*) FROM album), (SELECT count(e) FROM generated)").fetchone() == (inserted, inserted),
            "one backend for all": connection.execute("SELECT pg_backend_pid()").fetchone() == (pid,),
            "pictures among them": inserted > 0,
        }
        for check, holds in checks.items():
            passed, failed = passed + holds, failed + (not holds)
            if not holds:
                print(f"FAILED  {check}")
        print(f"{inserted} of {len(manifest)} files are pictures; the backend took {resident_peak_mib(pid)} MiB at most")
        connection.close()
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    if len(sys.argv) == 2:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([sys.executable, Path(__file__).with_name("make_hostile.py"), made], check=True)
        sys.exit(main(Path(made)))
