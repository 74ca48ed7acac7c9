#!/usr/bin/env python3
"""Writes files from which the fuzzer starts: small files of every coding that tests/pictures makes.

usage: seeds.py DIRECTORY

The files are in the subdirectories jpeg, tiff, heif, webp and others of DIRECTORY. Needs what
tests/pictures/run_pictures.py needs, and takes a few minutes.
"""

import hashlib
import os
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "pictures"))

import run_pictures  # noqa: E402

# Larger files make the fuzzer slower and do not reach more code.
MOST_BYTES = 6000
OF_A_CODING = 2
TARGETS = ["jpeg", "tiff", "heif", "webp"]


def target(group):
    """The fuzz target for the files of a group: `jpeg` for `jpeg/grey` and for `damage/jpeg/0`."""
    return next((word for word in group.split("/") if word in TARGETS), "others")


def seeds(group):
    """The smallest files of each coding in a group."""
    codings = defaultdict(list)
    for case in run_pictures.groups(group)[group](False):
        if len(case.data) <= MOST_BYTES:
            codings[case.coding].append(case.data)
    return [data for files in codings.values() for data in sorted(files, key=len)[:OF_A_CODING]]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    for name in [*TARGETS, "others"]:
        (out / name).mkdir(parents=True, exist_ok=True)
    names = list(run_pictures.groups(""))
    with ProcessPoolExecutor(os.cpu_count(), initializer=run_pictures.silence) as pool:
        for group, files in zip(names, pool.map(seeds, names)):
            for data in files:
                (out / target(group) / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    for directory in sorted(out.iterdir()):
        files = list(directory.iterdir())
        size = sum(file.stat().st_size for file in files)
        print(f"{directory.name}: {len(files)} files, {size >> 10} KB")


if __name__ == "__main__":
    main()
