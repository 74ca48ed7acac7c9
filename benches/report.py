"""The table that the bench prints."""

import textwrap
from dataclasses import dataclass

WHAT, MEASURED, AIM = 46, 66, 30


@dataclass
class Line:
    what: str
    measured: str
    aim: str = ""
    # None where there is no aim, or no figure.
    met: bool | None = None


def print_table(lines):
    print(f"\n{'what':{WHAT}} {'measured':{MEASURED}} {'aim':{AIM}} met")
    print("-" * (WHAT + MEASURED + AIM + 6))
    for line in lines:
        met = {True: "yes", False: "NO", None: ""}[line.met]
        print("\n".join(side_by_side((line.what, WHAT), (line.measured, MEASURED), (line.aim, AIM), (met, 3))))


def side_by_side(*cells):
    """The lines of a row: its cells wrapped to their widths."""
    wrapped = [textwrap.wrap(text, width) for text, width in cells]
    for n in range(max(map(len, wrapped))):
        parts = [(lines[n] if n < len(lines) else "").ljust(width) for lines, (_, width) in zip(wrapped, cells)]
        yield " ".join(parts).rstrip()
