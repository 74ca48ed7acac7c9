#!/usr/bin/env python3
"""Tests that all files state the same versions. Needs no server.

usage: run_versions.py

The version of the extension stands in Cargo.toml. A release changes it in all the files that this program reads, and gives
a number to the update script that is called `next` until then. The last line counts the tests; the exit status is 1 if one
failed.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def text(path):
    return (ROOT / path).read_text()


def main():
    version = re.search(r'^version = "(.*)"', text("Cargo.toml"), re.MULTILINE)[1]
    bridge = re.search(r"^default_version = '(.*)'", text("sql/photosearch_pgvector.control"), re.MULTILINE)[1]
    meta = json.loads(text("META.json"))
    provided = {name: entry["version"] for name, entry in meta["provides"].items()}
    files = [entry[key] for entry in meta["provides"].values() for key in ("file", "docfile")]
    order = re.findall(r'^pgrx::extension_sql_file!\("\.\./(sql/\w+\.sql)"', text("src/lib.rs"), re.MULTILINE)
    assembled = re.findall(r'"\$(sql/(?!photosearch)\w+\.sql)"', text("sql/assemble.sh"))
    changelog = re.findall(r"^## \[(.*)\]", text("CHANGELOG.md"), re.MULTILINE)
    scripts = {path.name for path in (ROOT / "sql/upgrade").iterdir()}
    expected = set()
    for older, newer in zip(changelog[2:], changelog[1:]):
        expected.add(f"photosearch--{older}--{newer}.sql")
    tests = {
        "META.json: version": (meta["version"], version),
        "META.json: provides": (provided, {"photosearch": version, "photosearch_pgvector": bridge}),
        "META.json: files that do not exist": ([name for name in files if not (ROOT / name).is_file()], []),
        "sql/assemble.sh has the files of src/lib.rs in the same order": (assembled, order),
        "CHANGELOG.md: the first entries": (changelog[:2], ["Unreleased", version]),
        "sql/upgrade: a script from each release to the one after it": (expected - scripts, set()),
        "sql/upgrade: a script to the next version": ("photosearch--" + version + "--next.sql" in scripts, True),
        "sql/upgrade: scripts of releases that CHANGELOG.md does not have": (
            scripts - expected - {f"photosearch--{version}--next.sql"},
            set(),
        ),
    }
    failed = 0
    for name, (found, wanted) in tests.items():
        if found != wanted:
            failed += 1
            print(f"FAILED  {name}: {found!r}, expected {wanted!r}")
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
