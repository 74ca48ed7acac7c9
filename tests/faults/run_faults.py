#!/usr/bin/env python3
"""Tests models under faults: killed backends, a full disk, two servers that share a cache, model files that change.

usage: run_faults.py [--python INTERPRETER]

A random checkpoint (tests/real_size/make_checkpoint.py --small) is used through SQL. The reference for each answer is the vector
that an undisturbed server gives. Needs the packages of tests/client/requirements.txt, an interpreter with numpy for the
checkpoint (--python, by default Debian's), and root, which mounts the disk that fills up.
Run alone: VENV/bin/python tests/faults/run_faults.py. The last line counts the checks; if one fails, the exit status is 1
and the data is kept.
"""

import argparse
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/crash"))

from checks import Checks  # noqa: E402
from server import DISASTER, Server  # noqa: E402

MODEL = "random-small"
TEXT = "a baby in the snow"
# More sessions than a machine of two processors can run at the same time.
SESSIONS = 16


def picture(width, height):
    """A BMP of coloured squares."""
    row = b"".join(bytes((x // 32 * 40 % 256, x % 256, 90)) for x in range(width))
    size = 54 + len(row) * height
    header = struct.pack("<2sIHHI", b"BM", size, 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + row * height


def vector(connection, text=TEXT):
    return connection.execute("SELECT embed_text(%s, %s)::text", [MODEL, text]).fetchone()[0]


def failure(connection, query, arguments=()):
    """The SQLSTATE of the error that a query raises, "lost" if the connection ends, or None if the query succeeds."""
    try:
        connection.execute(query, arguments)
    except psycopg.Error as error:
        return error.sqlstate or "lost"
    return None


def overwrite(weights, tensor):
    """Writes zeros over a tensor of a safetensors file, in place."""
    with open(weights, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        [(start, end)] = [entry["data_offsets"] for name, entry in header.items() if name.endswith(tensor)]
        file.seek(8 + length + start)
        file.write(bytes(end - start))


class Faults:
    def __init__(self, scratch, python):
        self.scratch = scratch
        self.checks = Checks()
        self.models = scratch / "models"
        self.models.mkdir(mode=0o755)
        self.model = self.models / MODEL
        make = [python, ROOT / "tests/real_size/make_checkpoint.py", "--small", "--out", self.model]
        make += ["--tokenizer", ROOT / "tests/golden/tokenizer/tokenizer.json"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        self.saved = scratch / "saved"
        shutil.copytree(self.model, self.saved)
        self.server = self.start_server("server")
        with self.server.connect() as connection:
            self.expected = vector(connection)

    def check(self, name, ok, detail="the condition does not hold"):
        self.checks.add(name, [] if ok else [detail])

    def start_server(self, name, **settings):
        """A server with the extension, which finds the test's models."""
        server = Server(self.scratch / name, **{"photosearch.model_dir": str(self.models)} | settings)
        server.start()
        with server.connect() as connection:
            connection.execute("CREATE EXTENSION photosearch")
        return server

    def restore(self):
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.copytree(self.saved, self.model)

    def unfinished(self, cache):
        """The files in a cache of copies that have not been completed."""
        return list(cache.glob("*/*unfinished"))

    def kill_backend(self, server, query, arguments, when):
        """Kills the backend that runs a query as soon as when() is true, and waits until the postmaster has noticed, which
        then refuses connections until recovery has ended. Returns whether the backend was killed within the query."""
        connection, witness = server.connect(), server.connect()
        pid = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
        ended = []
        thread = threading.Thread(target=lambda: ended.append(failure(connection, query, arguments) or "done"))
        thread.start()
        deadline = time.monotonic() + 60
        while not when() and time.monotonic() < deadline and thread.is_alive():
            time.sleep(0.001)
        in_time = thread.is_alive()
        if in_time:
            os.kill(pid, signal.SIGKILL)
            # The killed backend's connection ends first; the witness's ends when the postmaster stops all sessions.
            while not failure(witness, "SELECT 1") and time.monotonic() < deadline:
                time.sleep(0.01)
        witness.close()
        thread.join(60)
        return in_time and ended != ["done"]

    def killed_while_packing(self):
        cache = self.server.data / "pgsql_tmp_photosearch"
        shutil.rmtree(cache)
        killed = self.kill_backend(
            self.server, "SELECT photosearch.prepare_model(%s)", [MODEL], lambda: self.unfinished(cache)
        )
        self.check("a backend is killed while it packs a model", killed)
        with self.server.wait() as connection:
            self.check("the unfinished copy is still there", len(self.unfinished(cache)) == 1)
            self.check("the next session packs the model", vector(connection) == self.expected)
            self.check("no unfinished copy remains", not self.unfinished(cache))

    def killed_in_forward_pass(self):
        started = time.monotonic()
        query, image = "SELECT embed_image(%s, %s)", picture(1600, 1120)
        killed = self.kill_backend(self.server, query, [MODEL, image], lambda: time.monotonic() > started + 0.4)
        self.check("a backend is killed in a forward pass", killed)
        with self.server.wait() as connection:
            self.check("after recovery the server embeds", vector(connection) == self.expected)
            connection.execute("SET statement_timeout = '300ms'")
            began = time.monotonic()
            state = failure(connection, query, [MODEL, image])
            self.check("statement_timeout ends a forward pass", state == "57014", str(state))
            self.check("a forward pass ends within 3 s of its start", time.monotonic() < began + 3)
            connection.execute("RESET statement_timeout")
            self.check("the session goes on after the timeout", vector(connection) == self.expected)

    def full_disk(self):
        small = self.scratch / "small"
        small.mkdir()

        def mount(*options):
            subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", small], check=True)

        mount("-o", "size=16m,mode=0700")
        try:
            shutil.chown(small, "postgres")
            server = self.start_server("full", **{"photosearch.cache_dir": str(small)})
            with server.connect() as connection:
                query = "SELECT embed_text(%s, %s)"
                state = failure(connection, query, [MODEL, TEXT])
                self.check("a full disk raises 53100", state == "53100", str(state))
                self.check("no unfinished copy remains on the full disk", not self.unfinished(small))
                mount("-o", "remount,size=1g,mode=0700")
                self.check("with free space the same session embeds", vector(connection) == self.expected)
            self.check("the log has no crash, panic or failed assertion", not DISASTER.search(server.log()))
            server.stop()
        finally:
            subprocess.run(["umount", "--lazy", small], check=True)

    def two_servers(self):
        cache = self.scratch / "shared"
        cache.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(cache, "postgres")
        servers = [self.start_server(f"two{i}", **{"photosearch.cache_dir": str(cache)}) for i in range(2)]
        got = []

        def run(server):
            with server.connect() as connection:
                got.append(vector(connection))

        threads = [threading.Thread(target=run, args=[server]) for server in servers for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.check("two servers that share a cache agree", got == [self.expected] * 6, f"{len(got)} answers")
        packs = list(cache.glob("*/*.pack"))
        self.check("the shared cache holds one copy", len(packs) == 1, str(packs))
        self.check("the copy is read-only", all(pack.stat().st_mode & 0o777 == 0o400 for pack in packs))
        for server in servers:
            server.stop()

    def files_that_change(self):
        weights = sorted(self.model.glob("*.safetensors"))[0]
        with self.server.connect() as old:
            before = vector(old)
            shutil.rmtree(self.model)
            self.check("a session with a loaded model goes on without the model's directory", vector(old, "a dog") != before)
            with self.server.connect() as new:
                state = failure(new, "SELECT embed_text(%s, %s)", [MODEL, TEXT])
                self.check("a new session reports that the model does not exist", state == "42704", str(state))
            self.restore()
            with self.server.connect() as new:
                self.check("restored files are the same model", vector(new) == before)

            os.truncate(weights, weights.stat().st_size // 2)
            self.check("a session with a loaded model goes on with truncated weights", bool(vector(old, "a cat")))
            with self.server.connect() as new:
                state = failure(new, "SELECT embed_text(%s, %s)", [MODEL, TEXT])
                self.check("a new session reports the truncated file", state == "58P01", str(state))
            self.restore()
            overwrite(weights, "language_model.layers.0.mlp.down_proj.weight")
            self.check("a session with a loaded model goes on with overwritten weights", bool(vector(old, "a boat")))
            with self.server.connect() as new:
                state = failure(new, "SELECT embed_text(%s, %s)", [MODEL, TEXT])
                self.check("a new session reports that the file changed", state == "55000", str(state))
                new.execute("SELECT photosearch.prepare_model(%s, replace => true)", [MODEL])
                replaced = vector(new)
                self.check("the replaced model gives another vector", replaced != before)
            self.check("older sessions use the replaced model, for cached texts too", vector(old) == replaced)
        self.restore()
        with self.server.connect() as new:
            new.execute("SELECT photosearch.prepare_model(%s, replace => true)", [MODEL])
            self.check("replacing it back gives the first vector", vector(new) == before)

    def plans_that_hold_vectors(self):
        """Sessions of every database use a replaced model, also in statements that were planned before. (The embedding of a
        constant is folded into the plan.)"""
        statement = f"SELECT embed_text('{MODEL}', '{TEXT}')::text"
        weights = sorted(self.model.glob("*.safetensors"))[0]
        with self.server.connect() as admin:
            admin.execute("CREATE DATABASE other")
            standby = self.server.copy(self.scratch / "standby", "-R", **{"photosearch.model_dir": str(self.models)})
        standby.start()

        def prepared(server, database):
            connection = server.connect(database)
            if server is self.server:
                connection.execute("CREATE EXTENSION IF NOT EXISTS photosearch")
                connection.execute(f"CREATE OR REPLACE FUNCTION kept() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN ({statement}); END $$")
            connection.execute("SET plan_cache_mode = force_generic_plan")
            connection.execute(f"PREPARE kept AS {statement}")
            return connection

        def asked(connection):
            found = [connection.execute(query).fetchone()[0] for query in ("EXECUTE kept", "SELECT kept()", statement)]
            return found[0] if len(set(found)) == 1 else found

        with prepared(self.server, "postgres") as same, prepared(self.server, "other") as other, self.server.connect() as admin:
            sessions = [same, other]
            before = [asked(session) for session in sessions]
            self.check("plans contain the vector", before == [vector(admin)] * 2)
            self.wait_for_replay(admin, standby)
            with prepared(standby, "postgres") as apart, standby.connect() as admin_apart:
                self.check("a standby gives the same vector", asked(apart) == before[0])
                same.execute("BEGIN")
                same.execute("EXECUTE kept")
                overwrite(weights, "language_model.layers.0.mlp.down_proj.weight")
                # A rollback can't undo what happened to the files.
                admin.execute("BEGIN")
                admin.execute("SELECT photosearch.prepare_model(%s, replace => true)", [MODEL])
                admin.execute("ROLLBACK")
                replaced = vector(admin)
                self.check("the replaced model gives another vector to a new plan", replaced != before[0])
                same.execute("COMMIT")
                after = [asked(session) for session in sessions]
                self.check("plans of every database are made again", after == [replaced] * 2, str([a == before[0] for a in after]))
                state = failure(standby.connect(), "SELECT embed_text(%s, %s)", [MODEL, TEXT])
                self.check("a standby reports changed files until it replaces its own copy", state == "55000", str(state))
                admin_apart.execute("SELECT photosearch.prepare_model(%s, replace => true)", [MODEL])
                self.check("sessions of the standby use the model replaced there", asked(apart) == replaced)
            self.restore()
            admin.execute("SELECT photosearch.prepare_model(%s, replace => true)", [MODEL])
            self.check("replacing it back gives the first vectors", [asked(session) for session in sessions] == before)
        self.check("the standby's log has no crash, panic or failed assertion", not DISASTER.search(standby.log()))
        standby.stop()

    def killed_postmaster(self):
        server = self.start_server("orphaned")
        connection = server.connect()
        # More threads than processors would not embed faster.
        connection.execute("SET photosearch.threads = 1024")
        vector(connection)
        tasks = len(os.listdir(f"/proc/{connection.info.backend_pid}/task"))
        self.check("a session has no more threads than processors", tasks <= 1 + (os.cpu_count() or 1), f"{tasks} threads")
        postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
        ended = []
        query = [connection, "SELECT embed_image(%s, %s)", [MODEL, picture(1600, 1120)]]
        thread = threading.Thread(target=lambda: ended.append(failure(*query)))
        thread.start()
        time.sleep(0.4)
        os.kill(postmaster, signal.SIGKILL)
        began = time.monotonic()
        thread.join(60)
        self.check("a session that embeds ends with its postmaster", ended != [None] and time.monotonic() < began + 2, f"{ended}, {time.monotonic() - began:.1f} s")

    def wait_for_replay(self, connection, standby):
        """Waits until the standby has replayed everything that the primary has written."""
        position = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()[0]
        with standby.wait() as other:
            deadline = time.monotonic() + 60
            while not other.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]).fetchone()[0]:
                if time.monotonic() > deadline:
                    raise AssertionError("the standby does not replay within 60 s")
                time.sleep(0.05)

    def many_sessions(self):
        got, threads = [], []

        def run(connection, pid):
            with connection:
                vectors = {vector(connection, f"{TEXT} {i % 3}") for i in range(6)}
                got.append((len(vectors), len(os.listdir(f"/proc/{pid}/task"))))

        for _ in range(SESSIONS):
            connection = self.server.connect()
            pid = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
            threads.append(threading.Thread(target=run, args=[connection, pid]))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        self.check(f"{SESSIONS} concurrent sessions finish", [n for n, _ in got] == [3] * SESSIONS, str(got))

    def run(self):
        try:
            self.killed_while_packing()
            self.killed_in_forward_pass()
            self.full_disk()
            self.two_servers()
            self.files_that_change()
            self.plans_that_hold_vectors()
            self.killed_postmaster()
            self.many_sessions()
            # The log must hold no signal but the SIGKILLs of this test. A bus error would mean that a session has read a
            # truncated file through its mapping.
            self.check("the log has no crash, panic or failed assertion", not DISASTER.search(self.server.log()))
        finally:
            self.server.stop("immediate")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="/usr/bin/python3", help="an interpreter with numpy, for the checkpoint")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="photosearch-faults-", dir="/tmp"))
    scratch.chmod(0o755)
    faults = Faults(scratch, arguments.python)
    faults.run()
    return faults.checks.end(scratch, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
