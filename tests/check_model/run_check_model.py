#!/usr/bin/env python3
"""Tests check_model.py with the bundled model, whose similarities stand_in.json holds as if they were published.

check_model.py must accept figures that are right by construction and refuse figures that were altered.
Run alone: tests/cluster.sh run DIR /usr/bin/python3 tests/check_model/run_check_model.py (PGHOST names the server). The last
line counts the checks.
"""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "models/train"))

from painter import CROWDING, paint_photo  # noqa: E402

MODEL, DATABASE = "photosearch-mini-1", "photosearch_check"
DSN = f"dbname={DATABASE}"
QUERY, PASSAGE, CAPTION = "a dog", "the dog runs on the beach", "a beach. "

passed = failed = 0


def check(name, ok, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {name}" + ("" if ok else f"\n{detail}"), flush=True)


def psql(database, query):
    command = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
    return subprocess.run(command, input=query, text=True, check=True, stdout=subprocess.PIPE).stdout.strip()


def run(*arguments):
    command = [sys.executable, HERE / "check_model.py", *arguments]
    return subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def clone(directory, text_scores, image_scores):
    """Makes a directory like a clone of the authors' repository, with one passage and one picture."""
    data = json.loads((HERE / "published.json").read_text())["clone"]
    images = directory / data["image"]["images"]
    images.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    paint_photo(3, place="beach", crowding=CROWDING).image.save(picture, "PNG")
    (images / "img_0.png").write_bytes(picture.getvalue())
    text = {"ranked_indices": [0], "ranked_scores": text_scores, "query": QUERY}
    image = {"ranked_indices": [0], "ranked_scores": image_scores, "caption": CAPTION}
    for kind, results in (
        ("text", {"corpus": [PASSAGE], "results": [text]}),
        ("image", {"corpus_paths": ["/elsewhere/img_0.png"], "results": [image]}),
    ):
        (directory / data[kind]["results"]).write_bytes(pickle.dumps(results))
    return data, picture.getvalue()


def main():
    psql("postgres", f"DROP DATABASE IF EXISTS {DATABASE}")
    psql("postgres", f"CREATE DATABASE {DATABASE}")
    psql(DATABASE, "CREATE EXTENSION photosearch")
    stand_in = HERE / "stand_in.json"
    server = ["--dsn", DSN, "--name", MODEL]

    done = run(*server, "--figures", stand_in)
    check("a model passes with its own figures", done.returncode == 0, done.stdout)
    check("every figure is printed", done.stdout.count("  ok\n") == 5, done.stdout)

    done = run(*server)
    check("a model fails with another model's figures", done.returncode == 1 and "  off\n" in done.stdout, done.stdout)
    check("the report names the model that the figures belong to", "Qwen3-VL-Embedding-2B" in done.stdout, done.stdout)

    with tempfile.TemporaryDirectory(prefix="photosearch-check-", dir="/tmp") as scratch:
        scratch = Path(scratch)
        scratch.chmod(0o755)
        data = json.loads(stand_in.read_text())
        data["figures"][2]["similarity"] += 3 * data["tolerance"]
        (scratch / "one_off.json").write_text(json.dumps(data))
        done = run(*server, "--figures", scratch / "one_off.json")
        off = [line for line in done.stdout.splitlines() if line.endswith("off")]
        check("one wrong figure fails", done.returncode == 1 and len(off) == 1, done.stdout)

        # A model given by its directory, in a private server that check_model.py starts.
        directory = scratch / "models" / "a-copy"
        shutil.copytree(HERE.parent.parent / "models" / MODEL, directory)
        done = run("--model", directory, "--figures", stand_in)
        check("a model given by its directory passes", done.returncode == 0 and "a-copy" in done.stdout, done.stdout)
        (directory / "model.safetensors").unlink()
        done = run("--model", directory, "--figures", stand_in)
        check("a model without weights is reported", done.returncode == 2 and "model.safetensors" in done.stdout, done.stdout)
        done = run("--model", scratch, "--figures", stand_in)
        check("a directory without a model is reported", done.returncode == 2 and "config.json" in done.stdout, done.stdout)

        clone_data, picture = clone(scratch / "clone", [0.0], [0.0])
        ours = [
            float(psql(DATABASE, f"SELECT fine_score(embed_text('{MODEL}', '{content}', '{instruction}'), {other})"))
            for content, instruction, other in (
                (QUERY, clone_data["text"]["instruction"], f"embed_text('{MODEL}', '{PASSAGE}')"),
                (CAPTION, clone_data["image"]["instruction"], f"embed_image('{MODEL}', '\\x{picture.hex()}'::bytea)"),
            )
        ]
        for name, scores, code in (
            ("the figures of a clone pass", ours, 0),
            ("a wrong figure of a clone's passage fails", [ours[0] + 0.02, ours[1]], 1),
            ("a wrong figure of a clone's picture fails", [ours[0], ours[1] + 0.06], 1),
        ):
            clone(scratch / "clone", scores[:1], scores[1:])
            figures = json.loads(stand_in.read_text()) | {"clone": clone_data}
            (scratch / "with_clone.json").write_text(json.dumps(figures))
            done = run(*server, "--figures", scratch / "with_clone.json", "--clone", scratch / "clone")
            check(name, done.returncode == code and " of 7 figures" in done.stdout, done.stdout)

        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(scratch / "was-run"),)

        (scratch / "clone" / clone_data["text"]["results"]).write_bytes(pickle.dumps(Hostile()))
        done = run(*server, "--figures", scratch / "with_clone.json", "--clone", scratch / "clone")
        refused = done.returncode == 2 and "mkdir" in done.stdout and not (scratch / "was-run").exists()
        check("a pickle that is not plain data is refused and not run", refused, done.stdout)

    psql("postgres", f"DROP DATABASE {DATABASE}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
