#!/usr/bin/env python3
"""Decodes files of every coding that the encoders at hand write, and compares their pixels.

usage: run_pictures.py DECODE [--only PREFIX] [--many] [--list] [--times] [--keep DIRECTORY]

DECODE is the example of the crate photosearch-image:

    cargo build --release -p photosearch-image --example decode
    python run_pictures.py target/release/examples/decode

The rule: the upright RGB pixels of a file equal Pillow's, or those that the file's maker put in
where Pillow is the odd one; or the file is refused by the name of its coding, where its maker says
that it is not read (`Unsupported`): a coding that is refused newly is a failure. What Pillow refuses
as damaged is an error here. Each file is a test; all are made when the test runs, the same ones every
time.

--only PREFIX   only the groups whose names start so: `jpeg`, `damage/tiff`, `png/grey`, which takes
                seconds; --times shows the names
--many          more sizes, and ten times as many damaged files: about five minutes, for one
--list          only the number of files of each coding
--times         how long each group took
--keep          leaves the files in this directory, each under its group's name

Needs what requirements.txt names, and from Debian: libheif-examples, libavif-bin,
libjpeg-turbo-progs, libtiff-tools, webp. The last line counts the files; the exit status is 1
where one failed.
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

# Modules with `FORMAT`, and `groups()`: from a name to a function that yields cases, given whether many
# are wanted.
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

# A file that takes longer is a failure: all of them are small.
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
    """From the name of each group to its maker."""
    return {
        f"{maker.FORMAT}/{name}": make
        for maker in MAKERS
        for name, make in maker.groups().items()
        if f"{maker.FORMAT}/{name}".startswith(only)
    }


def run_case(case, decoder, path):
    """Outcome, what is wrong, seconds."""
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
    """The libraries below Pillow write what they think of damaged files to standard error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run_group(name, arguments, directory):
    """The results of a group's files, and how long all of it took. Runs in a process of its own."""
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
    """The results of all groups. A group that fails to make its files is a failed test."""
    results, seconds = [], {}
    with ProcessPoolExecutor(os.cpu_count(), initializer=silence) as pool:
        names = groups(arguments.only)
        pending = {pool.submit(run_group, name, arguments, directory): name for name in names}
        for done in as_completed(pending):
            name = pending[done]
            try:
                group, seconds[name] = done.result()
            except Exception as error:  # whatever stopped it, the other groups go on
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
