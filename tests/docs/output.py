"""What psql prints, and whether it is what a page shows."""

import re

# By their numbers in pg_type: int8, int2, int4, oid, float4, float8, numeric. psql aligns them to the right.
NUMBERS = {20, 21, 23, 26, 700, 701, 1700}


def table(result):
    """A result in psql's aligned format."""
    columns = range(result.nfields)
    heads = [result.fname(column).decode() for column in columns]
    rows = [[(result.get_value(row, column) or b"").decode() for column in columns] for row in range(result.ntuples)]
    widths = [max(map(len, cells)) for cells in zip(heads, *rows)]
    right = [result.ftype(column) in NUMBERS for column in columns]
    lines = [
        "|".join(f" {head:^{width}} " for head, width in zip(heads, widths)),
        "+".join("-" * (width + 2) for width in widths),
    ]
    for row in rows:
        cells = (f"{cell:>{width}}" if is_right else f"{cell:<{width}}" for cell, width, is_right in zip(row, widths, right))
        lines.append("|".join(f" {cell} " for cell in cells))
    lines.append(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def error_text(diagnostic):
    """A notice as psql prints it."""
    fields = [
        (diagnostic.severity, diagnostic.message_primary),
        ("DETAIL", diagnostic.message_detail),
        ("HINT", diagnostic.message_hint),
    ]
    return "\n".join(f"{name}:  {text}" for name, text in fields if text)


def squeezed(line):
    """A line without the widths of columns: a run of spaces or of hyphens is one."""
    return re.sub(r"-{2,}", "-", " ".join(line.split()))


def agree(shown, printed):
    """Whether the output is what the page shows. `…` stands for anything within a line, and alone on a line for any
    lines."""
    pattern = ""
    for line in filter(None, map(squeezed, shown.splitlines())):
        pattern += r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
    lines = "".join(line + "\n" for line in map(squeezed, printed.splitlines()) if line)
    return re.fullmatch(pattern, lines) is not None
