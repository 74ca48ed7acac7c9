#!/usr/bin/env python3
"""Makes vectors with a real Matryoshka model: WordLlama (from PyPI, with its weights in the package, trained for 64 to 256
dimensions) over the one-line descriptions of Debian's packages that apt lists.

    benches/real_vectors.py FILE.npz

Makes a virtual environment for WordLlama beside FILE. Writes the arrays `rows` and `queries` (float16, 256 dimensions, length
one) and `texts`, the queries as text.
"""

import subprocess
import sys
import venv
from pathlib import Path

MODEL = "wordllama==0.4.0.post1"
DIMENSIONS = 256
FEWEST = 20_000

QUERIES = [
    "play music and manage a collection of songs",
    "a game with dungeons and monsters",
    "translate documentation into other languages",
    "library for linear algebra and matrices",
    "photo viewer",
    "check the spelling of a text",
    "read the sensors of the hardware",
    "web server",
    "draw maps from satellite data",
    "fonts for mathematics",
]


def descriptions():
    """The first line of every package's description: real texts, thousands of which occur more than once."""
    available = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    lines = [line.partition(":")[2].strip() for line in available.splitlines() if line.startswith("Description:")]
    if len(lines) < FEWEST:
        raise SystemExit(f"apt lists {len(lines)} packages, fewer than {FEWEST}: run apt-get update")
    return lines


def embed(file):
    """Runs in the virtual environment and writes the file."""
    import numpy as np
    import wordllama

    # The tokenizer is inside the package, but WordLlama looks for it only in its cache directory.
    model = wordllama.WordLlama.load(dim=DIMENSIONS, cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    def vectors(texts):
        rows = model.embed(texts)
        # A text without a word of the vocabulary has a zero vector, which is not normalised.
        return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float16)

    np.savez(file, rows=vectors(descriptions()), queries=vectors(QUERIES), texts=QUERIES)


def make(file):
    """Writes the file unless it exists."""
    if file.exists():
        return
    environment = file.parent / "wordllama"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", MODEL], check=True)
    subprocess.run([python, __file__, "--embed", file], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--embed"]:
        embed(Path(sys.argv[2]))
    elif len(sys.argv) == 2:
        make(Path(sys.argv[1]).resolve())
    else:
        raise SystemExit(__doc__)
