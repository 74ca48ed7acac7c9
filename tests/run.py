#!/usr/bin/env python3
"""Runs all tests in stages and counts them. `make test` builds and installs the extension first.

usage: run.py [--servers] [--seeds N] [--only STAGE,STAGE...]

The stages run one after another. Some need no server, some share one, and some start servers of their own. A failed stage does
not stop the others. The last line says how many tests passed and failed; the exit status is 1 if one failed. To run a single
suite, see the head of its program.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")
IS_ROOT = os.geteuid() == 0

# The lines by which the programs of the stages report their counts.
COUNTS = [
    # cargo test
    re.compile(r"^test result: \w+\. (?P<passed>\d+) passed; (?P<failed>\d+) failed"),
    # the programs of tests/
    re.compile(r"^(?P<passed>\d+) passed, (?P<failed>\d+) failed"),
    # unittest; its exit status shows failures
    re.compile(r"^Ran (?P<passed>\d+) tests? in "),
    # pg_regress
    re.compile(r"^(?:# | )All (?P<passed>\d+) tests passed"),
    re.compile(r"^(?:# | )(?P<failed>\d+) of (?P<all>\d+) tests failed"),
]


def pg_config(option):
    return subprocess.check_output([PG_CONFIG, option], text=True).strip()


MAJOR = re.search(r"\d+", pg_config("--version")).group()
EXTRA = os.environ.get("FEATURES", "heif")
FEATURES = ["--no-default-features", "--features", f"pg{MAJOR} {EXTRA}"]


TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


class Results:
    def __init__(self, only=None):
        """only: the names of the stages to run; all if there are none."""
        self.passed = self.failed = 0
        self.stages = []
        self.only = set(only or ())
        self.skipped = set()

    def stage(self, name, command, **environment):
        """Runs a command, prints its output, and adds up the tests that it reports. A command that reports none counts as one
        test."""
        if self.only and name not in self.only:
            self.skipped.add(name)
            return
        print(f"\n=== {name}: {' '.join(map(str, command))}", flush=True)
        started = time.monotonic()
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        passed = failed = 0
        for line in process.stdout:
            print(line, end="", flush=True)
            for pattern in COUNTS:
                if match := pattern.match(line):
                    counts = {key: int(value) for key, value in match.groupdict().items()}
                    bad = counts.get("failed", 0)
                    passed += counts["passed"] if "passed" in counts else counts["all"] - bad
                    failed += bad
        ok = process.wait() == 0
        if passed + failed == 0:
            passed, failed = (1, 0) if ok else (0, 1)
        elif not ok and failed == 0:
            failed = 1
        self.passed += passed
        self.failed += failed
        self.stages.append((name, passed, failed, time.monotonic() - started))

    def report(self):
        for name in self.only - {stage[0] for stage in self.stages}:
            self.failed += 1
            print(f"there is no stage {name!r}; others are {', '.join(sorted(self.skipped))}")
        print()
        for name, passed, failed, seconds in self.stages:
            print(f"{name:40} {passed:5} passed {failed:5} failed {seconds:7.0f} s")
        print(f"\n{self.passed} passed, {self.failed} failed", flush=True)


def venv(directory, requirements):
    """Makes a virtual environment with the packages of these requirement files and our own Python package. Returns its
    interpreter."""
    python = directory / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    files = [argument for file in requirements for argument in ("-r", file)]
    subprocess.run([python, "-m", "pip", "install", "-q", *files, ROOT / "clients/python"], check=True)
    return python


def compile_and_lint(results, scratch):
    """Stages without a server, or with one that cargo-pgrx starts."""
    results.stage("formatting", ["cargo", "fmt", "--all", "--check"])
    results.stage(
        "lints",
        ["cargo", "clippy", "--release", "--workspace", "--all-targets", *FEATURES, "--", "-D", "warnings"],
    )

    results.stage("versions", [sys.executable, ROOT / "tests/versions/run_versions.py"])

    unittest = ["-m", "unittest", "discover", "-s", ROOT / "models/train"]
    results.stage("painter", [sys.executable, *unittest])

    pictures = ["cargo", "test", "--release", "--package", "photosearch-image"]
    results.stage("pictures without libheif", [*pictures, "--no-default-features"])
    results.stage("pictures", pictures)
    backend = ["cargo", "pgrx", "test", "--release", *FEATURES, f"pg{MAJOR}"]
    if IS_ROOT:
        shutil.chown(scratch, "postgres")
        backend += ["--runas", "postgres", "--pgdata", scratch / "pgrx"]
    results.stage("unit and backend tests", backend)
    # `cargo pgrx test` installed a library that contains the test functions; replace it.
    results.stage("install", ["make", "--no-print-directory", "install-extension"])


def one_server(results, python, scratch):
    """Stages that share a server."""
    cluster = ROOT / "tests" / "cluster.sh"
    server = scratch / "server"
    subprocess.run([cluster, "start", server], check=True)
    run = [cluster, "run", server]
    try:
        regress = ["sh", ROOT / "tests/regress/run.sh"]
        results.stage("regression", [*run, *regress, ROOT / "tests/regress"])
        results.stage("isolation", [*run, "sh", ROOT / "tests/isolation/run.sh"])
        results.stage("clients", [*run, python, ROOT / "tests/client/run_client.py"])
        results.stage("estimates", [*run, sys.executable, ROOT / "tests/estimates/run_estimates.py"])
        results.stage("hostile files", [*run, python, ROOT / "tests/hostile/run_hostile.py"])
        results.stage("text models", [*run, python, ROOT / "tests/text_models/run_text_models.py"])
        results.stage("pgvector", ["sh", ROOT / "tests/bridge/install_pgvector.sh"])
        results.stage("upgrade", [*run, python, ROOT / "tests/upgrade/run_upgrade.py"])
        results.stage("Python package", [*run, python, ROOT / "clients/python/tests/run_python.py"])
        results.stage("bridge", [*run, *regress, ROOT / "tests/bridge"])
        results.stage("manual", [*run, python, ROOT / "tests/docs/run_docs.py"])
        results.stage("check_model", [*run, sys.executable, ROOT / "tests/check_model/run_check_model.py"])
        results.stage("album", [*run, sys.executable, ROOT / "tests/album/run_album.py"])
    finally:
        subprocess.run([cluster, "stop", server], check=True)


def own_servers(results, python, seeds):
    """Stages that start servers of their own, which they crash, copy and damage. Without seeds, each stage draws one."""
    crash = ROOT / "tests" / "crash"
    results.stage("memory limits", [python, ROOT / "tests/memory/run_memory.py"])
    results.stage("several servers", [python, ROOT / "tests/sharding/run_sharding.py"])
    results.stage("old snapshots", [python, crash / "run_old_snapshot.py"])
    results.stage("models under faults", [python, ROOT / "tests/faults/run_faults.py"])
    for seed in seeds or [None]:
        chosen = [] if seed is None else ["--seed", seed]
        results.stage("crashes", [python, crash / "run_crash.py", *chosen])
        results.stage("standby and backup", [python, crash / "run_standby.py", *chosen])
        results.stage("corrupt pages", [python, crash / "run_corrupt.py", *chosen])
        results.stage("steady churn", [python, crash / "run_churn.py", *chosen])
    # The pg_config of a server of an older version, which has photosearch, too.
    if older := os.environ.get("UPGRADE_FROM"):
        results.stage("pg_upgrade", [python, ROOT / "tests/upgrade/run_pg_upgrade.py", older])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", action="store_true", help="run only the stages that use the installed server of PG_CONFIG")
    parser.add_argument("--seeds", type=int, default=0, help="run the stages that draw a seed with each of 1 to N, instead of once with a random seed")
    parser.add_argument("--only", type=lambda names: names.split(","), help="run only the stages with these names, separated by commas")
    arguments = parser.parse_args()
    results = Results(arguments.only)
    # The user who runs the server may not be able to read the clone, so temporary files go to /tmp.
    scratch = Path(tempfile.mkdtemp(prefix="photosearch-test-", dir="/tmp"))
    scratch.chmod(0o755)
    try:
        if not arguments.servers:
            compile_and_lint(results, scratch)
        pictures = ROOT / "tests" / "pictures"
        folders = [ROOT / "tests/client", pictures, ROOT / "tests/docs", ROOT / "clients/python/tests"]
        python = venv(scratch / "venv", [folder / "requirements.txt" for folder in folders])
        if not arguments.servers:
            decode = TARGET / "release/examples/decode"
            results.stage("pictures compared with Pillow", [python, pictures / "run_pictures.py", decode])
        one_server(results, python, scratch)
        own_servers(results, python, range(1, arguments.seeds + 1))
        if not arguments.servers and int(MAJOR) < 18:
            packaged = ROOT / "tests/versions/packaged.sh"
            results.stage("PostgreSQL 18", ["sh", packaged, scratch / "versions"], CARGO_TARGET_DIR=str(TARGET))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    results.report()
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
