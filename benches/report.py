"""Prints the tables of the benchmarks."""

import textwrap
from dataclasses import dataclass

WHAT, MEASURED, AIM = 46, 66, 30
MET = {True: "yes", False: "NO", None: ""}


@dataclass
class Line:
    what: str
    measured: str
    aim: str = ""
    # None if there is no aim or no figure.
    met: bool | None = None


def print_table(lines):
    columns = {"what": WHAT, "measured": MEASURED, "aim": AIM, "met": 3}
    print_columns(columns, [(line.what, line.measured, line.aim, MET[line.met]) for line in lines])


def print_columns(columns, rows):
    """Prints rows of cells under their headings; `columns` maps headings to widths."""
    widths = list(columns.values())
    print("\n" + next(side_by_side(*zip(columns, widths))))
    print("-" * (sum(widths) + len(widths) - 1))
    for row in rows:
        print("\n".join(side_by_side(*zip(row, widths))))


def side_by_side(*cells):
    """Yields the lines of a row whose cells are wrapped to their widths."""
    wrapped = [textwrap.wrap(text, width) for text, width in cells]
    for n in range(max(map(len, wrapped))):
        parts = [(lines[n] if n < len(lines) else "").ljust(width) for lines, (_, width) in zip(wrapped, cells)]
        yield " ".join(parts).rstrip()
