"""Measures the model through SQL: `python3 evaluate_sql.py --album ALBUM [--model NAME] [--keep]`.

Uses `psql` to talk to a server that has the extension; PGHOST, PGDATABASE and the other libpq variables name it. Creates the
table `photosearch_evaluation` anew, embeds the album's photos into it with `embed_image`, prints tables of the model card, and
drops the table. `--keep` uses the table of an earlier run if there is one, without checking that it holds the same album and
model, and keeps it. Every score comes from `fine_score`, on whole vectors or on vectors cut by `mrl_truncate`; the last lines use
`coarse_match`, too. Reads the recommended thresholds from models/NAME/photosearch.json beside this folder. Needs numpy and Pillow
(for the list of concepts), but not torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from evaluate import read_album, recommended, report
from painter import CONCEPTS

TABLE = "photosearch_evaluation"
BATCH = 50
MODELS = Path(__file__).resolve().parents[1]


def psql(script: str, *, quiet: bool = False) -> list[list[str]]:
    """Runs a script in one session and returns its rows, split at tabs. An SQL error ends the program."""
    done = subprocess.run(
        ["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input=script,
        text=True,
        capture_output=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"psql: {done.stderr.strip()}")
    if done.stderr and not quiet:
        print(done.stderr.strip(), file=sys.stderr)
    return [line.split("\t") for line in done.stdout.splitlines()]


def literal(text: str) -> str:
    """A SQL string constant."""
    return "'" + text.replace("'", "''") + "'"


def store(album: Path, paths: list[str], truth: np.ndarray, model: str) -> None:
    """Fills the table in batches. Each photo is embedded by the statement that stores it."""
    flags = ", ".join(f'"{concept}" boolean NOT NULL' for concept in CONCEPTS)
    psql(
        f"CREATE EXTENSION IF NOT EXISTS photosearch; DROP TABLE IF EXISTS {TABLE};"
        f"CREATE TABLE {TABLE} (id integer PRIMARY KEY, path text NOT NULL, {flags}, embedding mrl_vector NOT NULL);",
        quiet=True,
    )
    for start in range(0, len(paths), BATCH):
        rows = []
        for i in range(start, min(start + BATCH, len(paths))):
            image = (album / paths[i]).read_bytes().hex()
            flags = ", ".join("true" if yes else "false" for yes in truth[i])
            rows.append(f"({i}, {literal(paths[i])}, {flags}, embed_image({literal(model)}, '\\x{image}'::bytea))")
        psql(f"INSERT INTO {TABLE} VALUES {', '.join(rows)};")
        print(f"\rembedded {min(start + BATCH, len(paths))} of {len(paths)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    psql(f"ANALYZE {TABLE};")


def scores(text: str, width: int, model: str) -> np.ndarray:
    """fine_score of every photo with the query, on the first `width` dimensions (0 means all)."""
    photo, query = "embedding", f"(SELECT embed_text({literal(model)}, {literal(text)}))"
    if width:
        photo, query = (
            f"mrl_truncate({photo}, {width})",
            f"(SELECT mrl_truncate(embed_text({literal(model)}, {literal(text)}), {width}))",
        )
    rows = psql(f"SELECT fine_score({photo}, {query}) FROM {TABLE} ORDER BY id;")
    return np.array([float(row[0]) for row in rows])


def baby_in_two_steps(model: str, fine: float, coarse: float) -> str:
    """How many photos `coarse_match` finds for "a baby", how many of them reach the fine threshold, and recall and precision of
    both. One statement counts."""
    query = f"(SELECT embed_text({literal(model)}, 'a baby'))"
    both = f"coarse_match(embedding, {query}, {coarse}, 64)"
    row = psql(
        "SELECT count(*) FILTER (WHERE baby), count(*) FILTER (WHERE c), count(*) FILTER (WHERE c AND baby),"
        " count(*) FILTER (WHERE c AND f), count(*) FILTER (WHERE c AND f AND baby),"
        " count(*) FILTER (WHERE f AND NOT c)"
        f" FROM (SELECT baby, {both} AS c, fine_score(embedding, {query}) >= {fine} AS f FROM {TABLE}) AS t;"
    )[0]
    total, passed, right, found, good, lost = map(int, row)
    return (
        f"coarse ({coarse}, 64 dims): {passed} photos, recall {right / total:.4f},"
        f" precision {right / max(1, passed):.4f}\n"
        f"fine ({fine}): {found} photos, recall {good / total:.4f}, precision {good / max(1, found):.4f}\n"
        f"photos that reach the fine threshold but not the coarse one: {lost}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--album", type=Path, required=True, help="folder written by album.py")
    parser.add_argument("--model", default="photosearch-mini-1", help="the model's name in SQL")
    parser.add_argument("--keep", action="store_true", help="use the table of an earlier run if there is one, and keep it")
    arguments = parser.parse_args()
    paths, truth = read_album(arguments.album)
    if not arguments.keep or psql(f"SELECT to_regclass('{TABLE}') IS NULL;")[0][0] == "t":
        store(arguments.album, paths, truth, arguments.model)
    known: dict[tuple[str, int], np.ndarray] = {}

    def score(text: str, width: int) -> np.ndarray:
        if (text, width) not in known:
            known[(text, width)] = scores(text, width, arguments.model)
        return known[(text, width)]

    fine, coarse = recommended(MODELS / arguments.model)
    report(score, truth, fine, coarse)
    print("### Find all the baby photos\n")
    print(baby_in_two_steps(arguments.model, fine, coarse))
    if not arguments.keep:
        psql(f"DROP TABLE {TABLE};")


if __name__ == "__main__":
    main()
