#!/usr/bin/env python3
"""Decodes files in every coding that the installed encoders write, and compares their pixels.

usage: run_pictures.py DECODE [--only PREFIX] [--many] [--list] [--times] [--keep DIRECTORY]

DECODE is the example `decode` of the crate photosearch-image:

    cargo build --release -p photosearch-image --example decode
    python run_pictures.py target/release/examples/decode

Each file is a test. The files are made when the test runs, and are the same every time. A test passes
if:
- the upright RGB pixels equal Pillow's, or, if Pillow is known to be wrong, those that were encoded;
- the case expects `Unsupported`, and the error names the coding;
- the file is damaged, and an error is returned, or the pixels of `Maybe` in cases.py: those of the
  intact file, or Pillow's. If Pillow refuses the file, other pixels than the intact file's are a failure.
  A damaged file that Pillow opens in a mode without a defined black and white is a failure, too: nothing
  judges its pixels.

--only PREFIX     only the groups whose names start with PREFIX, such as `jpeg`, `damage/tiff` or
                  `png/grey`; --times shows the names
--many            more sizes, and ten times as many damaged files; takes about five minutes
--list            only print the number of files of each coding
--times           print the time that each group took
--keep DIRECTORY  leave the files in DIRECTORY, in a subdirectory for each group

Needs the packages in requirements.txt, and from Debian: libheif-examples, libavif-bin,
libjpeg-turbo-progs, libtiff-tools, webp. The last line states how many files passed and failed; the exit
status is 1 if any failed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cases
import damage
import make_bmp
import make_gif
import make_heif
import make_heif_boxes
import make_jpeg
import make_odd_jpeg
import make_png
import make_tiff
import make_webp
from decoder import Decoder, Died

# Each module has `FORMAT`, and `groups()`, which returns a dictionary from a group's name to a function.
# The function yields the group's cases; its argument is the option --many.
MAKERS = [
    make_jpeg,
    make_odd_jpeg,
    make_png,
    make_gif,
    make_bmp,
    make_webp,
    make_tiff,
    make_heif,
    make_heif_boxes,
    damage,
]

# The files are small, so a longer time is a failure.
SECONDS = 2


@dataclass
class Result:
    group: str
    coding: str
    name: str
    outcome: str
    what: str = ""
    seconds: float = 0


def groups(only):
    """A dictionary from the names of groups that start with `only` to their functions."""
    return {
        f"{maker.FORMAT}/{name}": make
        for maker in MAKERS
        for name, make in maker.groups().items()
        if f"{maker.FORMAT}/{name}".startswith(only)
    }


def run_case(case, decoder, path):
    """Runs a case. Returns the outcome, a description of the failure, and the seconds it took."""
    path.write_bytes(case.data)
    try:
        answer, seconds = decoder.decode(path)
    except Died as death:
        return cases.FAILED, str(death), 0
    if seconds > SECONDS:
        return cases.FAILED, f"took {seconds:.1f} s", seconds
    try:
        return case.expected.check(case.data, answer), "", seconds
    except cases.Wrong as wrong:
        return cases.FAILED, str(wrong), seconds


def silence():
    """Discards standard error, to which the libraries below Pillow write warnings about damaged files."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run_group(name, arguments, directory):
    """Runs all cases of a group, in a process of its own. Returns their results, and the seconds it took."""
    started = time.monotonic()
    directory = Path(directory) / name
    directory.mkdir(parents=True, exist_ok=True)
    decoders, results, names = {}, [], set()
    try:
        for case in groups(name)[name](arguments.many):
            assert case.file_name not in names, f"two files of {name} are named {case.file_name}"
            names.add(case.file_name)
            if arguments.list:
                results.append(Result(name, case.coding, case.file_name, cases.EQUAL))
                continue
            if case.wanted not in decoders:
                decoders[case.wanted] = Decoder(arguments.decode, case.wanted)
            path = directory / case.file_name
            outcome = run_case(case, decoders[case.wanted], path)
            results.append(Result(name, case.coding, case.file_name, *outcome))
            if not arguments.keep:
                path.unlink()
    finally:
        for decoder in decoders.values():
            decoder.close()
    return results, time.monotonic() - started


def run_all(arguments, directory):
    """Runs all groups. Returns their results, and the seconds for each group. A group whose files cannot
    be made counts as a failed test."""
    results, seconds = [], {}
    with ProcessPoolExecutor(os.cpu_count(), initializer=silence) as pool:
        names = groups(arguments.only)
        pending = {pool.submit(run_group, name, arguments, directory): name for name in names}
        for done in as_completed(pending):
            name = pending[done]
            try:
                group, seconds[name] = done.result()
            except Exception as error:  # any error: the other groups go on
                group = [Result(name, "(none)", "", cases.FAILED, f"{type(error).__name__}: {error}")]
            for result in group:
                if result.outcome == cases.FAILED:
                    print(f"FAILED {result.group}/{result.name}: {result.what}", flush=True)
            results += group
    return results, seconds


def show_list(results):
    codings = Counter((result.group.rsplit("/", 1)[0], result.coding) for result in results)
    for (kind, coding), count in sorted(codings.items()):
        print(f"{kind:14} {coding:60} {count:6}")


def show_table(results):
    columns = [cases.EQUAL, cases.REFUSED, cases.ERROR, cases.SOUND, cases.UNNOTICED, cases.FAILED]
    formats = defaultdict(list)
    for result in results:
        formats[result.group.rsplit("/", 1)[0]].append(result)
    print(f"\n{'format':14}{'codings':>9}{'files':>8}" + "".join(f"{column:>27}" for column in columns))
    for kind, of_format in sorted(formats.items()):
        counts = Counter(result.outcome for result in of_format)
        codings = len({result.coding for result in of_format})
        print(f"{kind:14}{codings:9}{len(of_format):8}" + "".join(f"{counts[column]:27}" for column in columns))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decode", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--many", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    if not groups(arguments.only):
        sys.exit(f"no group's name starts with {arguments.only}")
    with tempfile.TemporaryDirectory(prefix="photosearch-pictures-") as scratch:
        results, seconds = run_all(arguments, arguments.keep or scratch)
    if arguments.times:
        for name, spent in sorted(seconds.items(), key=lambda item: item[1]):
            print(f"{spent:7.1f} s  {name}")
    if arguments.list:
        show_list(results)
        return 0
    show_table(results)
    failed = sum(result.outcome == cases.FAILED for result in results)
    print(f"\n{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
