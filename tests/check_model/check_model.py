#!/usr/bin/env python3
"""Computes similarities through SQL and compares them with those that the model's authors publish.

    check_model.py --model DIR                  uses a private server that finds the model in DIR
    check_model.py --dsn CONNINFO --name NAME   uses a server that has the model and the extension

Prints for each figure the published similarity, ours, the difference, and whether it is within the tolerance. The exit status
is 1 if one is not, or the model has other dimensions; 2 if SQL fails or a pickle cannot be read. With `--clone DIR`, a clone of the authors' repository, it also compares
the figures whose inputs only the repository holds, pictures among them. Needs psql and no Python package.
"""

import argparse
import io
import json
import os
import pickle
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLUSTER = HERE.parent / "cluster.sh"
PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")


@dataclass
class Figure:
    name: str
    published: float
    tolerance: float
    # SQL expressions of the two vectors whose similarity is published.
    left: str
    right: str
    ours: float | None = None

    @property
    def difference(self):
        return self.ours - self.published

    @property
    def off(self):
        return not abs(self.difference) <= self.tolerance


class Plain(pickle.Unpickler):
    """An unpickler that accepts plain built-in data only, and calls nothing."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"contains a {module}.{name}, but only plain data is read")


def read_plain(path):
    try:
        return Plain(io.BytesIO(path.read_bytes())).load()
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def literal(text):
    return "'" + text.replace("'", "''") + "'" if text is not None else "NULL"


def text_vector(model, text, instruction=None):
    return f"embed_text({literal(model)}, {literal(text)}, {literal(instruction)})"


def image_vector(model, path):
    return f"embed_image({literal(model)}, '\\x{path.read_bytes().hex()}'::bytea)"


def listed_figures(data, model):
    def vector(name):
        given = data["inputs"][name]
        return text_vector(model, given["text"], given.get("instruction"))

    for figure in data["figures"]:
        left, right = figure["of"]
        yield Figure(f"{left} | {right}", figure["similarity"], data["tolerance"], vector(left), vector(right))


def clone_figures(data, model, clone):
    """Figures from the authors' pickled results: for each query, the indices and scores of its best documents, best first."""
    about = data["clone"]["text"]
    found = read_plain(clone / about["results"])
    for n, result in enumerate(found["results"]):
        left = text_vector(model, result["query"], about["instruction"])
        for i, score in zip(result["ranked_indices"], result["ranked_scores"]):
            right = text_vector(model, found["corpus"][i])
            yield Figure(f"passages, query {n} | {i}", score, about["tolerance"], left, right)
    about = data["clone"]["image"]
    found = read_plain(clone / about["results"])
    # The pickle holds paths of the authors' machine, so only the file names are used.
    files = [clone / about["images"] / Path(path).name for path in found["corpus_paths"]]
    for n, result in enumerate(found["results"]):
        left = text_vector(model, result["caption"], about["instruction"])
        for i, score in zip(result["ranked_indices"], result["ranked_scores"]):
            yield Figure(f"pictures, query {n} | {files[i].name}", score, about["tolerance"], left, image_vector(model, files[i]))


@contextmanager
def private_server(model):
    """Starts a server that looks for models in the parent directory of model. Yields the command that runs psql in it."""
    with tempfile.TemporaryDirectory(prefix="photosearch-check-", dir="/tmp") as scratch:
        Path(scratch).chmod(0o755)
        directory = Path(scratch) / "server"
        subprocess.run(
            [CLUSTER, "start", directory, f"-c photosearch.model_dir={shlex.quote(str(model.parent))}"], check=True
        )
        try:
            command = [CLUSTER, "run", directory, "psql"]
            psql(command, "CREATE EXTENSION photosearch")
            yield command
        finally:
            subprocess.run([CLUSTER, "stop", directory], check=True)


def psql(command, script):
    """The output of a script that runs in one session. An SQL error ends the program."""
    done = subprocess.run(
        [*command, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input=script, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stderr.strip(), file=sys.stderr)
        raise SystemExit(2)
    return done.stdout.split()


def compute(command, model, figures):
    """Computes our similarity of each figure. Returns the model's dimensions."""
    vectors = list(dict.fromkeys(vector for figure in figures for vector in (figure.left, figure.right)))
    numbers = {vector: n for n, vector in enumerate(vectors)}
    script = ["SET client_min_messages = warning;", "CREATE TEMP TABLE embedded (n int PRIMARY KEY, e mrl_vector);"]
    script += [f"INSERT INTO embedded VALUES ({n}, {vector});" for vector, n in numbers.items()]
    script.append("SELECT vector_dims(e) FROM embedded LIMIT 1;")
    for figure in figures:
        left, right = numbers[figure.left], numbers[figure.right]
        script.append(
            f"SELECT fine_score(a.e, b.e) FROM embedded a, embedded b WHERE a.n = {left} AND b.n = {right};"
        )
    print(f"embedding {len(vectors)} inputs with {model}", flush=True)
    dimensions, *similarities = psql(command, "\n".join(script))
    for figure, similarity in zip(figures, similarities, strict=True):
        figure.ours = float(similarity)
    return int(dimensions)


def report(figures):
    width = max(len(figure.name) for figure in figures)
    print(f"\n{'similarity of':{width}}  published     ours  difference  tolerance")
    for figure in figures:
        verdict = "off" if figure.off else "ok"
        print(
            f"{figure.name:{width}}  {figure.published:9.4f}  {figure.ours:7.4f}"
            f"  {figure.difference:+10.4f}  {figure.tolerance:9g}  {verdict}"
        )
    off = sum(figure.off for figure in figures)
    largest = max(abs(figure.difference) for figure in figures)
    print(f"\n{len(figures) - off} of {len(figures)} figures within their tolerance, largest difference {largest:.4f}")
    return off


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the model's directory")
    parser.add_argument("--dsn", help="connection string of a server that has the model")
    parser.add_argument("--name", help="name of the model in that server")
    parser.add_argument("--figures", type=Path, default=HERE / "published.json")
    parser.add_argument("--clone", type=Path, help="a clone of the authors' repository")
    arguments = parser.parse_args()
    if (arguments.model is None) == (arguments.dsn is None) or (arguments.dsn is None) != (arguments.name is None):
        parser.error("give either --model, or --dsn and --name")
    data = json.loads(arguments.figures.read_text())
    model = arguments.name or arguments.model.resolve().name
    figures = list(listed_figures(data, model))
    if arguments.clone:
        figures += clone_figures(data, model, arguments.clone)
    if arguments.dsn is not None:
        dimensions = compute(["psql", arguments.dsn], model, figures)
    else:
        if not (arguments.model / "config.json").exists():
            parser.error(f"{arguments.model} is not a model: it has no config.json")
        with private_server(arguments.model.resolve()) as command:
            dimensions = compute(command, model, figures)
    off = report(figures)
    if dimensions != data["dimensions"]:
        print(f"the figures belong to {data['model']}, which has {data['dimensions']} dimensions; this model has {dimensions}")
        return 1
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
