#!/usr/bin/env python3
"""Tests that all files state the same versions, and that SQL that was released does not change. Needs no server.

usage: run_versions.py

The version of the extension stands in Cargo.toml. Until its script is kept in tests/upgrade, it is the version that will be
released next, and its SQL may change; from then on a change of sql/ has to begin the version after it. The same holds for the
bridge, whose version stands in its control file. The last line counts the tests; the exit status is 1 if one failed.
"""

import json
import re
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def text(path):
    return (ROOT / path).read_text()


def statements(script):
    """The lines of a script without comments that are lines of their own, and without blank lines."""
    return [line for line in script.splitlines() if line.strip() and not line.lstrip().startswith("--")]


def in_order(versions):
    return sorted(versions, key=lambda version: [int(number) for number in version.split(".")])


def kept(extension):
    """The versions of an extension whose scripts are kept in tests/upgrade: those that were released, oldest first."""
    return in_order(re.sub(r".*--(.*)\.sql", r"\1", path.name) for path in (ROOT / "tests/upgrade").glob(f"{extension}--*.sql"))


def changed_since_its_release(extension, version):
    """Whether the script of a version differs from the one that was released."""
    released = ROOT / f"tests/upgrade/{extension}--{version}.sql"
    if not released.exists():
        return False
    with tempfile.TemporaryDirectory() as directory:
        package = text("Cargo.toml")
        subprocess.run(["sh", ROOT / "sql/assemble.sh", re.search(r'^version = "(.*)"', package, re.MULTILINE)[1], directory], check=True)
        current = (Path(directory) / released.name).read_text()
    return statements(current) != statements(released.read_text())


def main():
    version = re.search(r'^version = "(.*)"', text("Cargo.toml"), re.MULTILINE)[1]
    bridge = re.search(r"^default_version = '(.*)'", text("sql/photosearch_pgvector.control"), re.MULTILINE)[1]
    meta = json.loads(text("META.json"))
    provided = {name: entry["version"] for name, entry in meta["provides"].items()}
    files = [entry[key] for entry in meta["provides"].values() for key in ("file", "docfile")]
    order = re.findall(r'^pgrx::extension_sql_file!\("\.\./(sql/\w+\.sql)"', text("src/lib.rs"), re.MULTILINE)
    assembled = re.findall(r'"\$(sql/(?!photosearch)\w+\.sql)"', text("sql/assemble.sh"))
    changelog = re.findall(r"^## \[(.*)\]", text("CHANGELOG.md"), re.MULTILINE)
    unreleased = re.findall(r"^## \[(.*)\] - unreleased$", text("CHANGELOG.md"), re.MULTILINE)
    scripts = {path.name for path in (ROOT / "sql/upgrade").iterdir()}
    expected = set()
    tests = {
        "META.json: version": (meta["version"], version),
        "META.json: provides": (provided, {"photosearch": version, "photosearch_pgvector": bridge}),
        "META.json: files that do not exist": ([name for name in files if not (ROOT / name).is_file()], []),
        "sql/assemble.sh has the files of src/lib.rs in the same order": (assembled, order),
        "CHANGELOG.md: the first entry": (changelog[0], version),
        "CHANGELOG.md: entries that are not released": (unreleased, [] if version in kept("photosearch") else [version]),
        "CHANGELOG.md: entries that are released": (set(changelog) - set(unreleased), set(kept("photosearch"))),
    }
    for extension, current in (("photosearch", version), ("photosearch_pgvector", bridge)):
        versions = in_order({*kept(extension), current})
        expected |= {f"{extension}--{older}--{newer}.sql" for older, newer in pairwise(versions)}
        tests[f"{extension}: no release after the current version"] = (versions[-1], current)
        name = f"{extension}: sql/ has changed since the release of {current}, and needs a new version and a script that updates to it"
        tests[name] = (changed_since_its_release(extension, current), False)
    tests["sql/upgrade: a script from each release to the next version"] = (scripts, expected)
    failed = 0
    for name, (found, wanted) in tests.items():
        if found != wanted:
            failed += 1
            print(f"FAILED  {name}: {found!r}, expected {wanted!r}")
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
