#!/usr/bin/env python3
"""Feeds the files of make_hostile.py to a running server, with one INSERT for each file.

usage: run_hostile.py [DIRECTORY]      (PGHOST, PGUSER and the other libpq variables name the server)

Without a directory the files are written to a temporary one first. One session reads them all. A file is either embedded, or
an error with SQLSTATE 22P03 (malformed), 22023 (not a supported picture) or 54000 (over a limit). After an error nothing is
inserted, the backend is still alive, and photosearch.image_problem returns the same message. The reference is manifest.csv, which
make_hostile.py writes without decoding anything.
Run alone: tests/cluster.sh run DIR VENV/bin/python tests/hostile/run_hostile.py, with the packages of
tests/client/requirements.txt. The last line counts the files; the exit status is 1 if one failed.
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
    """The backend's peak resident memory, or None if the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def insert(connection, name, data):
    """The outcome for a file: "ok", or the SQLSTATE and message of the error."""
    try:
        connection.execute("INSERT INTO album VALUES (%s, %b, embed_image(%s, %b))", [name, data, MODEL, data])
        # The same picture through a generated column.
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
            wrong.append("the message is not readable text")
        if wrong:
            print(f"FAILED  {name}: {', '.join(wrong)}; got {state} {said}")
            failed += 1
        else:
            passed += 1
    if not connection.closed:
        checks = {
            "every picture is stored as one row": connection.execute("SELECT (SELECT count(*) FROM album), (SELECT count(e) FROM generated)").fetchone() == (inserted, inserted),
            "one backend read all files": connection.execute("SELECT pg_backend_pid()").fetchone() == (pid,),
            "some files are pictures": inserted > 0,
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
