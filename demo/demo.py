#!/usr/bin/env python3
"""The demo of `make demo`: finds all the baby photos.

Draws an album of 2,000 pictures that the model was not trained on, embeds it in a private Postgres, searches it, and compares
the results with what the pictures show.
"""

import argparse
import json
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import contact_sheet
from album import DIMENSIONS, MODEL, ROOT, Server, draw, embed, load

SEED = 20261124
COUNT = 2000
DATABASE = "album"
RECOMMENDED = json.loads((ROOT / "models" / MODEL / "photosearch.json").read_text())
COARSE_DIMS = RECOMMENDED["coarse_dims"]


def heading(text):
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def show(server, sql, rows=8):
    """Prints a statement, the first rows of its result, and the number of rows."""
    sql = textwrap.dedent(sql).strip()
    print("\n" + textwrap.indent(sql, "    ") + "\n", flush=True)
    started = time.monotonic()
    lines = server.psql(sql).rstrip().splitlines()
    seconds = time.monotonic() - started
    body, count = lines[2:-1], lines[-1]
    print("\n".join(lines[:2] + body[:rows]))
    if len(body) > rows:
        print(f" … {len(body) - rows} more")
    print(f"{count} in {seconds * 1000:.0f} ms, including the start of a session")


def explain(server, sql):
    """Prints the plan of an execution, without the values of vectors, and the counters of its sweep."""
    plan, sweep = server.psql(f"""
        EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {textwrap.dedent(sql).strip()}
        \\echo == sweep
        SELECT index, entries, matches, rejected, undecided, round(milliseconds::numeric, 3) AS ms FROM photosearch.last_sweep();
    """).split("== sweep\n", 1)
    for line in plan.rstrip().splitlines()[2:-1]:
        print("   " + re.sub(r"\[[-0-9.e,]{20,}\]", "[…]", line))
    print("\nCounters of the sweep over the index:\n")
    print("\n".join(sweep.rstrip().splitlines()[:-1]))


def measure(server, title, condition):
    """Prints a line: the number of photos that a condition finds, and its recall and precision for babies."""
    found, right, all_babies = map(
        int,
        server.rows(f"""
            SELECT count(*) FILTER (WHERE {condition}),
                   count(*) FILTER (WHERE {condition} AND baby), count(*) FILTER (WHERE baby)
            FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') AS q
        """)[0],
    )
    recall, precision = right / all_babies, right / max(found, 1)
    print(f"{title:52} {found:6} {recall:9.4f} {precision:10.4f}")
    return recall


def prepare(directory):
    started = time.monotonic()
    album = directory / "album"
    heading("The album")
    if draw(album, SEED, COUNT):
        print(f"drew {COUNT} pictures into {album} in {time.monotonic() - started:.0f} s")
    else:
        print(f"{COUNT} pictures are in {album}")
    cluster = directory / "server"
    subprocess.run([ROOT / "tests/cluster.sh", "start", cluster, "-c shared_buffers=256MB"], check=True)
    if not Server(cluster, "postgres").rows(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):
        Server(cluster, "postgres").psql(f"CREATE DATABASE {DATABASE}")
    server = Server(cluster, DATABASE)
    if server.value("SELECT to_regclass('photos') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_am WHERE amname = 'mrl')") == "t":
        # The database was made by a version of the extension without the index.
        Server(cluster, "postgres").psql(f"DROP DATABASE {DATABASE}; CREATE DATABASE {DATABASE}")
    if server.value("SELECT to_regclass('photos') IS NULL") == "t":
        load(server, album)

    started = time.monotonic()

    def progress(done, total):
        rate = done / max(time.monotonic() - started, 0.1)
        print(f"\rembedded {done} of {total} photos, {rate:.0f} per second ", end="", flush=True)

    embed(server, progress)
    print(f"\nevery photo has an embedding of {DIMENSIONS} dimensions")
    server.psql(f"CREATE INDEX IF NOT EXISTS photos_embedding ON photos USING mrl (embedding) WITH (prefix_dims = {COARSE_DIMS}); ANALYZE photos")
    return server, album


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory for the album and the server")
    directory = parser.parse_args().dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    server, album = prepare(directory)

    coarse, dims, fine = RECOMMENDED["coarse_threshold"], COARSE_DIMS, RECOMMENDED["fine_threshold"]

    heading("1. Find all the baby photos")
    all_babies = f"""
        SELECT path, fine_score(embedding, q) AS score
        FROM photos, embed_text('{MODEL}', 'a baby') AS q
        WHERE coarse_match(embedding, q, {coarse}, {dims}) AND fine_score(embedding, q) >= {fine}
        ORDER BY score DESC;
    """
    show(server, all_babies)
    babies = int(server.value("SELECT count(*) FROM truth WHERE baby"))
    print(f"\n{babies} of {COUNT} pictures show a baby. Compared with that:\n")
    print(f"{'':52} {'found':>6} {'recall':>9} {'precision':>10}")
    measure(server, f"coarse step: {coarse} on {dims} dimensions", f"coarse_match(embedding, q, {coarse}, {dims})")
    fine_alone = f"fine_score(embedding, q) >= {fine}"
    measure(server, f"fine step alone: {fine} on {DIMENSIONS} dimensions", fine_alone)
    both = f"coarse_match(embedding, q, {coarse}, {dims}) AND {fine_alone}"
    measure(server, "both steps", both)
    too_high = f"coarse_match(embedding, q, {fine}, {dims}) AND {fine_alone}"
    measure(server, f"both steps, with the threshold {fine} in both", too_high)
    print()
    for name, condition in [("the coarse step", both), (f"a coarse step with the threshold {fine}", too_high)]:
        kept, asked = server.rows(f"""
            SELECT count(*) FILTER (WHERE {condition}), count(*)
            FROM photos, embed_text('{MODEL}', 'a baby') AS q WHERE {fine_alone}
        """)[0]
        print(f"Of the {asked} photos that reach the fine threshold, {name} keeps {kept}.")
    if kept == asked:
        print(
            "This model's similarities are higher on a prefix than on the whole vector, so the fine threshold in both steps\n"
            "loses nothing here. Other models lose 3 to 5% of the answers that way: see docs/thresholds.md."
        )

    print("\nThe plan of that query:\n")
    explain(server, all_babies)

    heading("2. Skip the ones with a dog, but show me all the baby photos")
    show(
        server,
        f"""
        SELECT path, fine_score(embedding, baby) AS score
        FROM photos, embed_text('{MODEL}', 'a baby') AS baby, embed_text('{MODEL}', 'a dog') AS dog
        WHERE coarse_match(embedding, baby, {coarse}, {dims}) AND fine_score(embedding, baby) >= {fine}
          AND NOT coarse_match(embedding, dog, {fine}, {DIMENSIONS})
        ORDER BY score DESC;
        """,
    )
    found, right, wanted = map(
        int,
        server.rows(f"""
            SELECT count(*) FILTER (WHERE found), count(*) FILTER (WHERE found AND baby AND NOT dog),
                   count(*) FILTER (WHERE baby AND NOT dog)
            FROM (SELECT t.baby, t.dog, coarse_match(embedding, b, {coarse}, {dims})
                         AND fine_score(embedding, b) >= {fine}
                         AND NOT coarse_match(embedding, d, {fine}, {DIMENSIONS}) AS found
                  FROM photos JOIN truth t USING (path),
                       embed_text('{MODEL}', 'a baby') b, embed_text('{MODEL}', 'a dog') d) x
        """)[0],
    )
    print(f"\n{wanted} pictures show a baby and no dog: recall {right / wanted:.4f}, precision {right / max(found, 1):.4f}")

    heading("3. A particular picture: the same query with a LIMIT")
    show(
        server,
        f"""
        SELECT path, fine_score(embedding, q) AS score
        FROM photos, embed_text('{MODEL}', 'a dog on the beach') AS q
        WHERE coarse_match(embedding, q, {coarse}, {dims})
        ORDER BY score DESC LIMIT 5;
        """,
    )

    heading("4. More like this one")
    like = server.value("SELECT path FROM truth WHERE boat ORDER BY path LIMIT 1")
    show(
        server,
        f"""
        SELECT other.path, fine_score(other.embedding, this.embedding) AS score
        FROM photos this JOIN photos other ON other.id <> this.id
        WHERE this.path = '{like}'
        ORDER BY other.embedding <=> this.embedding LIMIT 5;
        """,
    )

    heading("5. What a top-k search loses")
    print(f"{'':52} {'found':>6} {'recall':>9}")
    ours = int(server.value(f"SELECT count(*) FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') q WHERE {both} AND baby"))
    for k, name in [(40, "the 40 nearest (pgvector's default hnsw.ef_search)"), (100, "the 100 nearest (a common input of rerankers)")]:
        right = int(server.value(f"""
            SELECT count(*) FILTER (WHERE baby) FROM (
                SELECT baby FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') AS q
                ORDER BY embedding <=> q LIMIT {k}) AS top
        """))
        print(f"{name:52} {k:6} {right / babies:9.4f}")
    total = server.value(f"SELECT count(*) FROM photos, embed_text('{MODEL}', 'a baby') q WHERE {both}")
    print(f"{'photosearch, every match':52} {total:>6} {ours / babies:9.4f}")

    matches = server.rows(f"""
        SELECT path, baby FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') AS q
        WHERE {both} ORDER BY fine_score(embedding, q) DESC
    """)
    missing = server.rows(f"""
        SELECT path FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') AS q
        WHERE baby AND NOT ({both}) ORDER BY fine_score(embedding, q) DESC
    """)
    sheet = ROOT / "demo" / "contact-sheet.png"
    wrong = sum(baby == "f" for _, baby in matches)
    contact_sheet.write(
        sheet,
        [
            (
                f"a baby: {len(matches)} matches, best first; {wrong} wrong ones in red",
                [(album / path, None if baby == "t" else contact_sheet.WRONG) for path, baby in matches],
            ),
            (
                f"{len(missing)} baby photos that are missing, in blue",
                [(album / path, contact_sheet.MISSING) for (path,) in missing],
            ),
        ],
    )
    heading("Next steps")
    print(f"""The matches as pictures:  {sheet}
psql on the album:        psql -h {server.directory} -U postgres {DATABASE}
stop the server:          make demo-stop       (make demo-clean also deletes the album)""")


if __name__ == "__main__":
    main()
