"""A private server for the benchmarks, and psql sessions that time statements in it."""

import json
import os
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = str(ROOT / "tests/cluster.sh")

# By default a query runs in one process, and with a plan for its own query vector. (A driver's prepared statement gets such a
# plan in its first five executions.)
BASE = "SET max_parallel_workers_per_gather = 0; SET jit = off; SET plan_cache_mode = force_custom_plan;"


@dataclass
class Statement:
    """A statement to time, and the settings to run it with."""

    sql: str
    settings: str = ""
    # Runs before each execution and is not timed.
    before: str = ""


@dataclass
class Result:
    """The runs of one statement. The first run only warms the buffers, and is left out unless it is the only one."""

    # In milliseconds.
    times: list[float] = field(default_factory=list)
    # The rows of the last run, as psql prints them without alignment. No value may contain a space.
    rows: list[str] = field(default_factory=list)
    # photosearch.last_sweep() after each run, summed over the scans.
    sweeps: list[dict] = field(default_factory=list)

    @property
    def ms(self):
        return statistics.median(self.times)

    @property
    def sweep_ms(self):
        return statistics.median(sweep["milliseconds"] for sweep in self.sweeps)

    def counter(self, name):
        """A counter of the last run."""
        return self.sweeps[-1][name]


class Database:
    def __init__(self, directory, name):
        self.directory, self.name = directory, name
        self.command = [CLUSTER, "run", str(directory), "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        self.environment = os.environ | {"PGDATABASE": name}

    def psql(self, script):
        """Runs a script and returns its output."""
        done = subprocess.run(
            [*self.command, "-f", "-"], input=script, text=True, capture_output=True, env=self.environment
        )
        if done.returncode != 0:
            raise SystemExit(f"psql failed: {done.stderr}\n{script[:1000]}")
        return done.stdout

    def value(self, query):
        return self.psql(query).strip()

    def time(self, sql, before=""):
        """Runs a statement once, and returns the milliseconds. `before` is SQL that runs first, and is not timed."""
        return float(TIME.search(self.psql(f"{BASE} {before}\n\\timing on\n{sql};")).group(1))

    def copy(self, statement, chunks):
        """Feeds COPY FROM STDIN."""
        with subprocess.Popen([*self.command, "-c", statement], stdin=subprocess.PIPE, env=self.environment) as process:
            for chunk in chunks:
                process.stdin.write(chunk)
            process.stdin.close()
        if process.returncode != 0:
            raise SystemExit(f"{statement} failed")

    def in_turn(self, statements, runs, prepare="", sweeps=False):
        """Runs `prepare`, and then `runs` + 1 rounds in the same session, each of which times every statement once. Returns a
        Result for each name. As the statements take turns, a disturbance of the machine affects all of them."""
        script = [prepare]
        for _ in range(runs + 1):
            for name, statement in statements.items():
                script += ["RESET ALL;", BASE, statement.settings, statement.before, f"\\echo {MARK}{name}"]
                script += ["\\timing on", f"{statement.sql};", "\\timing off"]
                if sweeps:
                    # The counters of all index scans of a statement are summed. They are those of the session's last
                    # statement that swept an index, so the plan shows whether it was this one.
                    script += [f"\\echo {COUNTERS}", LAST_SWEEP, f"\\echo {PLAN}", f"EXPLAIN (COSTS OFF) {statement.sql};"]
                script.append(f"\\echo {END}")
        results = {name: Result() for name in statements}
        for block in self.psql("\n".join(script)).split(MARK)[1:]:
            name, _, body = block.partition("\n")
            body, _, _ = body.partition(END)
            body, _, counters = body.partition(COUNTERS)
            counters, _, plan = counters.partition(PLAN)
            if sweeps and "Index Scan" not in plan:
                raise SystemExit(f"{name}: a statement whose sweep is to be measured does not use an index:\n{plan}")
            result = results[name]
            result.times.append(float(TIME.search(body).group(1)))
            result.rows = TIME.sub("", body).split()
            if sweeps:
                result.sweeps.append(json.loads(counters))
        for result in results.values():
            result.times = result.times[1:] if runs else result.times
            result.sweeps = result.sweeps[1:] if runs else result.sweeps
        return results


TIME = re.compile(r"^Time: ([\d.]+) ms.*$", re.M)
MARK, COUNTERS, PLAN, END = "@statement ", "@counters", "@plan", "@end"
LAST_SWEEP = """
    SELECT to_json(s) FROM (
        SELECT sum(sweeps) AS sweeps, sum(pages) AS pages, sum(entries) AS entries, sum(matches) AS matches,
               sum(rejected) AS rejected, sum(undecided) AS undecided, sum(refined) AS refined,
               sum(milliseconds) AS milliseconds
        FROM photosearch.last_sweep()) AS s;
"""


class Server:
    """A server of tests/cluster.sh that runs within a `with` block. Its data is kept."""

    def __init__(self, directory, options):
        self.directory, self.options = directory, options

    def __enter__(self):
        subprocess.run([CLUSTER, "start", self.directory, self.options], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run([CLUSTER, "stop", self.directory], check=True)

    def database(self, name):
        return Database(self.directory, name)

    def connect(self, name="postgres"):
        """A psycopg connection. psycopg is imported here because only some benchmarks need it."""
        import psycopg

        return psycopg.connect(host=str(self.directory), user="postgres", dbname=name, autocommit=True)
