#!/usr/bin/env python3
"""Searches a small drawn album through SQL and compares the results with what the album's pictures show.

The reference is the album's truth.csv (table truth), in which the painter records what it drew into each picture.
Run alone: tests/cluster.sh run DIR /usr/bin/python3 tests/album/run_album.py (PGHOST names the server). The last line counts
the checks.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "demo"))

from album import MODEL, Server, draw, embed, load  # noqa: E402

SEED = 424242
COUNT = 300

CARD = json.loads((ROOT / "models" / MODEL / "photosearch.json").read_text())
COARSE, DIMS, FINE = CARD["coarse_threshold"], CARD["coarse_dims"], CARD["fine_threshold"]

failures = []
checks = 0


def check(name, ok, detail=""):
    global checks
    checks += 1
    print(f"{'ok  ' if ok else 'FAIL'} {name} {detail}", flush=True)
    if not ok:
        failures.append(name)


def found(server, text):
    """Paths of the photos that the coarse filter and the fine score find, best first."""
    return [
        path
        for (path,) in server.rows(f"""
            SELECT path FROM photos, embed_text('{MODEL}', '{text}') AS q
            WHERE coarse_match(embedding, q, {COARSE}, {DIMS}) AND fine_score(embedding, q) >= {FINE}
            ORDER BY fine_score(embedding, q) DESC
        """)
    ]


def truth(server, condition):
    return {path for (path,) in server.rows(f"SELECT path FROM truth WHERE {condition}")}


def main():
    scratch = Path(tempfile.mkdtemp(prefix="photosearch-album-", dir="/tmp"))
    scratch.chmod(0o755)
    directory = os.environ["PGHOST"]
    maintenance = Server(directory, "postgres")
    maintenance.psql("DROP DATABASE IF EXISTS album_test; CREATE DATABASE album_test;")
    server = Server(directory, "album_test")
    draw(scratch / "album", SEED, COUNT)
    load(server, scratch / "album")
    embed(server)

    check("every photo is embedded", server.value("SELECT count(embedding) FROM photos") == str(COUNT))
    unit = server.value("SELECT bool_and(abs(l2_norm(embedding) - 1) < 1e-3) FROM photos")
    check("embeddings have length one", unit == "t")

    babies = truth(server, "baby")
    hits = found(server, "a baby")
    recall = len(babies & set(hits)) / len(babies)
    precision = len(babies & set(hits)) / max(len(hits), 1)
    check("recall of baby photos", recall >= 0.97, f"{recall:.3f}")
    check("precision of baby photos", precision >= 0.9, f"{precision:.3f}")

    # The coarse filter only saves work for the fine score: it must not cost results.
    lost = server.value(f"""
        SELECT count(*) FROM photos, embed_text('{MODEL}', 'a baby') AS q
        WHERE fine_score(embedding, q) >= {FINE} AND NOT coarse_match(embedding, q, {COARSE}, {DIMS})
    """)
    check("the coarse filter drops no photo that reaches the fine threshold", lost == "0", lost)
    by_settings = server.value(f"""
        SELECT count(*) FROM photos, embed_text('a baby') AS q
        WHERE coarse_match(embedding, q) IS DISTINCT FROM coarse_match(embedding, q, {COARSE}, {DIMS})
    """)
    check("without settings, the model's recommended threshold and dims apply", by_settings == "0", by_settings)

    # The planner's estimates, for queries that are embedded in FROM.
    server.psql("ANALYZE photos;")
    questions = ["a baby", "a dog", "a cat", "a car", "a beach", "a birthday cake", "mountains", "people", "a boat", "snow"]
    missed = []
    for question in questions:
        for threshold, dims in [(COARSE, DIMS), (COARSE - 0.1, DIMS), (COARSE, 192), (COARSE + 0.1, 32)]:
            query = f"FROM photos, embed_text('{question}') AS q WHERE coarse_match(embedding, q, {threshold}, {dims})"
            plan = json.loads(server.psql(f"EXPLAIN (FORMAT json) SELECT {query};", "-A", "-t"))
            expected, counted = plan[0]["Plan"]["Plan Rows"], int(server.value(f"SELECT count(*) {query}"))
            if max(expected, counted) > 3 * max(min(expected, counted), 1):
                missed.append((question, threshold, dims, expected, counted))
    check("the planner's estimates are within a factor of 3", len(missed) <= 2, str(missed))

    # Some files are stored rotated, with an EXIF orientation that says so.
    turned = server.rows("SELECT path FROM truth WHERE orientation <> 1 ORDER BY path")
    check("the album has rotated photos", len(turned) >= 3, str(len(turned)))
    sideways = truth(server, "orientation <> 1 AND baby")
    check("rotated baby photos are found", sideways <= set(hits), str(sideways - set(hits)))

    without_dogs = server.rows(f"""
        SELECT path FROM photos, embed_text('{MODEL}', 'a baby') AS baby, embed_text('{MODEL}', 'a dog') AS dog
        WHERE coarse_match(embedding, baby, {COARSE}, {DIMS}) AND fine_score(embedding, baby) >= {FINE}
          AND NOT coarse_match(embedding, dog, {FINE}, 192)
    """)
    wanted = truth(server, "baby AND NOT dog")
    recall = len(wanted & {path for (path,) in without_dogs}) / len(wanted)
    check("recall of babies without dogs", recall >= 0.9, f"{recall:.3f}")
    dogs = len({path for (path,) in without_dogs} & truth(server, "baby AND dog"))
    check("most photos with a dog are excluded", dogs <= 0.3 * len(truth(server, "baby AND dog")), str(dogs))

    itself = server.rows("""
        SELECT count(*) FILTER (WHERE nearest = id), count(*) FROM (
            SELECT this.id, (SELECT other.id FROM photos other
                             ORDER BY other.embedding <=> this.embedding, other.id <> this.id LIMIT 1) AS nearest
            FROM photos this) AS x
    """)[0]
    check("a search by photo finds the photo itself first", itself[0] == itself[1], "/".join(itself))

    again = server.value(f"""
        SELECT max(1 - fine_score(embedding, embed_image('{MODEL}', image))) < 1e-5
        FROM (SELECT * FROM photos ORDER BY id LIMIT 20) AS x
    """)
    check("embedding a photo again gives the same vector", again == "t")
    batched = server.value(f"""
        SELECT max(1 - fine_score(p.embedding, b.vector)) < 1e-5
        FROM (SELECT embed_images('{MODEL}', array_agg(image ORDER BY id)) AS vectors
              FROM (SELECT * FROM photos ORDER BY id LIMIT 20) AS x) AS y,
             unnest(y.vectors) WITH ORDINALITY AS b (vector, place)
             JOIN (SELECT embedding, row_number() OVER (ORDER BY id) AS place FROM photos) p USING (place)
    """)
    check("embed_images gives the same vectors", batched == "t")

    maintenance.psql("DROP DATABASE album_test")
    print(f"{checks - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
