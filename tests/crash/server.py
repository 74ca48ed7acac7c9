"""A private server that a test may crash, copy and damage."""

import atexit
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

CLUSTER = Path(__file__).resolve().parent.parent / "cluster.sh"
PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")

# Lines that no log may have, whatever a test has done to the server or its files. (Signal 9 is sent by the test itself.)
DISASTER = re.compile(r"terminated by signal (?!9\b)|PANIC:|inconsistent page found|panicked at|TRAP:")


class Server:
    """A server with its data in directory/data, its socket in directory and its log in directory/data/server.log. `pg_config`
    names the installation whose programs run it."""

    def __init__(self, directory, *, checksums=True, pg_config=PG_CONFIG, **settings):
        self.directory = Path(directory)
        self.data = self.directory / "data"
        self.checksums = checksums
        self.pg_config = str(pg_config)
        self.bindir = Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())
        self.settings = {"fsync": "off", "max_connections": "40", "log_checkpoints": "off"} | settings
        # Stops the server even if an exception ends the program.
        atexit.register(self.stop, "immediate")

    def start(self, environment=None, **settings):
        """Starts the server; creates the cluster if there is none. Settings and environment apply until the next start."""
        options = [f"-c {name}={shlex.quote(value)}" for name, value in (self.settings | settings).items()]
        own = {"INITDB_OPTIONS": self.initdb_option(), "PG_CONFIG": self.pg_config}
        environment = os.environ | own | (environment or {})
        subprocess.run([CLUSTER, "start", self.directory, *options], check=True, env=environment)

    def initdb_option(self):
        """The option that makes initdb enable or disable checksums. From PostgreSQL 18 on, initdb enables them by default and
        has an option to disable them. Older versions have no such option, and disable them by default."""
        if self.checksums:
            return "--data-checksums"
        return "--no-data-checksums" if "--no-data-checksums" in self.program("initdb", "--help").stdout else ""

    def stop(self, mode="fast"):
        if self.data.exists() and self.running():
            self.program("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def running(self):
        return self.program("pg_ctl", "-D", self.data, "status", check=False).returncode == 0

    def program(self, name, *arguments, check=True, cwd="/"):
        """Runs one of Postgres' programs as the user who owns the server."""
        command = [self.bindir / name, *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"{name} failed: {done.stdout}{done.stderr}")
        return done

    def connect(self, database="postgres", **options):
        return psycopg.connect(host=str(self.directory), user="postgres", dbname=database, autocommit=True, **options)

    def wait(self, seconds=120):
        """Connects as soon as the server accepts connections; it may be recovering."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.connect()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def copy(self, directory, *arguments, **settings):
        """Returns a new server whose data are a base backup of this one, and does not start it. `arguments` are options of
        pg_basebackup, and `settings` replace settings of this server."""
        copy = Server(directory, checksums=self.checksums, pg_config=self.pg_config, **(self.settings | settings))
        copy.directory.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(copy.directory, "postgres")
        self.program("pg_basebackup", "-h", self.directory, "-U", "postgres", "-D", copy.data, "-c", "fast", *arguments)
        return copy

    def log(self):
        return (self.data / "server.log").read_text(errors="replace")

    def disasters(self):
        """Lines of the log that report an unexpected crash, a failed assertion or a failed replay."""
        return [line for line in self.log().splitlines() if DISASTER.search(line)]


def kill(pid):
    """Sends SIGKILL to a server process, and returns False if the process no longer exists. The postmaster then ends all other
    processes and recovers."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
