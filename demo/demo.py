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
TITLES = f"{'':52} {'found':>6} {'recall':>9} {'precision':>10}"


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


def explain(server, sql, before=""):
    """Prints the plan of an execution by an index, without the values of vectors, and the counters of its sweep. `before` runs
    first, in the same session."""
    plan, sweep = server.psql(f"""
        SET client_min_messages = warning; SET enable_seqscan = off; {before}
        \\echo == plan
        EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {textwrap.dedent(sql).strip()}
        \\echo == sweep
        SELECT index, entries, matches, rejected, undecided, round(milliseconds::numeric, 3) AS ms FROM photosearch.last_sweep();
    """).split("== plan\n", 1)[1].split("== sweep\n", 1)
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


def two_steps(server, fine, reaches):
    """What a coarse step before the fine one finds and loses, by an index over a prefix."""
    coarse, dims = RECOMMENDED["coarse_threshold"], RECOMMENDED["coarse_dims"]
    heading(f"6. For a very large library: an index over the first {dims} dimensions")
    print("(A transaction makes the index and is rolled back.)\n")
    print(TITLES)
    both = f"coarse_match(embedding, q, {coarse}, {dims}) AND {reaches}"
    too_high = f"coarse_match(embedding, q, {fine}, {dims}) AND {reaches}"
    measure(server, f"coarse step: {coarse} on {dims} dimensions", f"coarse_match(embedding, q, {coarse}, {dims})")
    measure(server, f"coarse step {coarse}, then fine_score >= {fine}", both)
    measure(server, f"coarse step {fine}, then fine_score >= {fine}", too_high)
    print()
    for threshold, condition in [(coarse, both), (fine, too_high)]:
        kept, asked = server.rows(f"""
            SELECT count(*) FILTER (WHERE {condition}), count(*)
            FROM photos, embed_text('{MODEL}', 'a baby') AS q WHERE {reaches}
        """)[0]
        print(f"Of the {asked} photos that reach the fine threshold, a coarse step with the threshold {threshold} keeps {kept}.")
    if kept == asked:
        print(
            "This model's similarities are higher on a prefix than on the whole vector, so the fine threshold in both steps\n"
            "loses nothing here. Other models lose 3 to 5% of the answers that way: see docs/thresholds.md."
        )
    print()
    explain(
        server,
        f"""
        SELECT path, fine_score(embedding, q) AS score
        FROM photos, embed_text('{MODEL}', 'a baby') AS q
        WHERE {both}
        ORDER BY score DESC;
        """,
        before=f"BEGIN; DROP INDEX photos_embedding; CREATE INDEX ON photos USING mrl (embedding) WITH (prefix_dims = {dims});",
    )


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
    if server.rows("SELECT 1 FROM pg_available_extensions WHERE name = 'photosearch' AND installed_version <> default_version"):
        # Another version of the extension made the database, so make it anew.
        Server(cluster, "postgres").psql(f"DROP DATABASE {DATABASE}; CREATE DATABASE {DATABASE}")
    if server.value("SELECT to_regclass('photos') IS NULL") == "t":
        load(server, album)

    started = time.monotonic()

    def progress(done, total):
        rate = done / max(time.monotonic() - started, 0.1)
        print(f"\rembedded {done} of {total} photos, {rate:.0f} per second ", end="", flush=True)

    embed(server, progress)
    print(f"\nevery photo has an embedding of {DIMENSIONS} dimensions")
    # A later session then has the planner's hooks from its first statement on.
    server.psql(f"ALTER DATABASE {DATABASE} SET session_preload_libraries = 'photosearch'")
    server.psql(f"""
        SET client_min_messages = warning;
        DROP INDEX IF EXISTS photos_embedding;
        CREATE INDEX photos_embedding ON photos USING mrl (embedding) WITH (prefix_dims = {DIMENSIONS});
        ANALYZE photos;
    """)
    return server, album


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="directory for the album and the server")
    directory = parser.parse_args().dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    server, album = prepare(directory)

    fine = RECOMMENDED["fine_threshold"]
    reaches = f"fine_score(embedding, q) >= {fine}"

    heading("1. Find all the baby photos")
    all_babies = f"""
        SELECT path, fine_score(embedding, q) AS score
        FROM photos, embed_text('{MODEL}', 'a baby') AS q
        WHERE {reaches}
        ORDER BY score DESC;
    """
    show(server, all_babies)
    babies = int(server.value("SELECT count(*) FROM truth WHERE baby"))
    print(f"\n{babies} of {COUNT} pictures show a baby. Compared with that:\n")
    print(TITLES)
    measure(server, f"fine_score >= {fine}", reaches)
    print(f"\nThe plan of that query, by the index ({COUNT:,} photos are read as fast without it, hence enable_seqscan = off):\n")
    explain(server, all_babies)

    heading("2. Skip the ones with a dog, but show me all the baby photos")
    show(
        server,
        f"""
        SELECT path, fine_score(embedding, baby) AS score
        FROM photos, embed_text('{MODEL}', 'a baby') AS baby, embed_text('{MODEL}', 'a dog') AS dog
        WHERE fine_score(embedding, baby) >= {fine} AND fine_score(embedding, dog) < {fine}
        ORDER BY score DESC;
        """,
    )
    found, right, wanted = map(
        int,
        server.rows(f"""
            SELECT count(*) FILTER (WHERE found), count(*) FILTER (WHERE found AND baby AND NOT dog),
                   count(*) FILTER (WHERE baby AND NOT dog)
            FROM (SELECT t.baby, t.dog, fine_score(embedding, b) >= {fine} AND fine_score(embedding, d) < {fine} AS found
                  FROM photos JOIN truth t USING (path),
                       embed_text('{MODEL}', 'a baby') b, embed_text('{MODEL}', 'a dog') d) x
        """)[0],
    )
    print(f"\n{wanted} pictures show a baby and no dog: recall {right / wanted:.4f}, precision {right / max(found, 1):.4f}")

    heading("3. A particular picture: the best five")
    show(
        server,
        f"""
        SELECT path, fine_score(embedding, q) AS score
        FROM photos, embed_text('{MODEL}', 'a dog on the beach') AS q
        WHERE embedding IS NOT NULL
        ORDER BY embedding <=> q LIMIT 5;
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
    ours = int(server.value(f"SELECT count(*) FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') q WHERE {reaches} AND baby"))
    for k, name in [(40, "the 40 nearest (pgvector's default hnsw.ef_search)"), (100, "the 100 nearest (a common input of rerankers)")]:
        right = int(server.value(f"""
            SELECT count(*) FILTER (WHERE baby) FROM (
                SELECT baby FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') AS q
                ORDER BY embedding <=> q LIMIT {k}) AS top
        """))
        print(f"{name:52} {k:6} {right / babies:9.4f}")
    total = server.value(f"SELECT count(*) FROM photos, embed_text('{MODEL}', 'a baby') q WHERE {reaches}")
    print(f"{'photosearch, every match':52} {total:>6} {ours / babies:9.4f}")

    matches = server.rows(f"""
        SELECT path, baby FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') AS q
        WHERE {reaches} ORDER BY fine_score(embedding, q) DESC
    """)
    missing = server.rows(f"""
        SELECT path FROM photos JOIN truth USING (path), embed_text('{MODEL}', 'a baby') AS q
        WHERE baby AND NOT ({reaches}) ORDER BY fine_score(embedding, q) DESC
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
    two_steps(server, fine, reaches)

    heading("Next steps")
    print(f"""The matches as pictures:  {sheet}
psql on the album:        psql -h {server.directory} -U postgres {DATABASE}
stop the server:          make demo-stop       (make demo-clean also deletes the album)""")


if __name__ == "__main__":
    main()
