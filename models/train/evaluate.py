"""Measures an exported model on an album: `python3 evaluate.py --model DIR --album ALBUM`.

The forward pass is that of transformers' `Qwen3VLModel`, in f32 from the exported f16 weights. Prints the tables of the model
card. `--recommend` first chooses thresholds on this album and writes them into photosearch.json; they should then be measured
on another album.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path

import numpy as np

from painter import CONCEPTS

WIDTHS = (0, 64, 32, 16)  # prefixes of the embedding; 0 means all dimensions
PHRASINGS = 12  # queries per concept or group in the comparison of phrasings
PHOTOS_OF_A_PAIR = 8  # photos that must show both concepts of a pair for it to be queried
RECALL = 0.99
PRECISION = 0.97
COARSE_WIDTH = 64


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean of the precision at the rank of each true row; NaN if no row is true."""
    hits = truth[np.argsort(-scores, kind="stable")]
    if not hits.any():
        return float("nan")
    return float((np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).mean())


def threshold_for(scores: np.ndarray, truth: np.ndarray, recall: float = RECALL) -> tuple[float, float, float]:
    """The greatest threshold that reaches `recall`, and the recall and precision at it."""
    order = np.sort(scores[truth])[::-1]
    threshold = float(order[int(np.ceil(recall * len(order))) - 1])
    found = scores >= threshold
    return threshold, float(found[truth].mean()), float(truth[found].mean())


def prefix(vectors: np.ndarray, width: int) -> np.ndarray:
    """The first `width` dimensions (0 means all), normalised."""
    cut = vectors[:, :width] if width else vectors
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def read_album(folder: Path) -> tuple[list[str], np.ndarray]:
    """The paths in the order of truth.csv, and the truth as bool [photos, concepts]."""
    with open(folder / "truth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    truth = np.array([[row[concept] == "t" for concept in CONCEPTS] for row in rows])
    return [row["path"] for row in rows], truth


class Model:
    """An exported model, run by stock transformers."""

    def __init__(self, folder: Path) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import Qwen3VLModel

        self.torch = torch
        self.model = Qwen3VLModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def texts(self, texts: list[str]) -> np.ndarray:
        from recipe import prompt

        return np.stack([self._embed([prompt(text)]) for text in texts])[:, 0]

    def pictures(self, paths: list[Path], batch: int = 50) -> np.ndarray:
        from PIL import Image, ImageOps

        from recipe import prepare

        pixels = []
        for path in paths:
            with Image.open(path) as image:
                pixels.append(prepare(ImageOps.exif_transpose(image)))
        vectors: np.ndarray | None = None
        shapes = {p.shape for p in pixels}
        for shape in sorted(shapes):
            rows = [i for i, p in enumerate(pixels) if p.shape == shape]
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                embedded = self._embed_pictures([pixels[i] for i in part])
                if vectors is None:
                    vectors = np.empty((len(pixels), embedded.shape[1]), dtype=np.float32)
                vectors[part] = embedded
        assert vectors is not None
        return vectors

    def _embed(self, prompts: list[str], **pictures) -> np.ndarray:
        torch = self.torch
        ids = torch.tensor([self.tokenizer.encode(text).ids for text in prompts])
        with torch.inference_mode():
            kinds = (ids == self.model.config.image_token_id).int()
            hidden = self.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, **pictures
            ).last_hidden_state
        return prefix(hidden[:, -1].numpy(), 0)

    def _embed_pictures(self, pixels: list[np.ndarray]) -> np.ndarray:
        from recipe import FACTOR, PATCH, patches, prompt

        torch = self.torch
        h, w, _ = pixels[0].shape
        return self._embed(
            [prompt(None, (h // FACTOR) * (w // FACTOR))] * len(pixels),
            pixel_values=torch.from_numpy(np.concatenate([patches(p) for p in pixels])),
            image_grid_thw=torch.tensor([[1, h // PATCH, w // PATCH]] * len(pixels)),
        )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def figure(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:.3f}".removeprefix("0") if value < 1 else "1.000"


def asked(concept: str) -> str:
    """The plain query for a concept: "a baby"."""
    from phrases import NAMES

    return NAMES[concept][0][1]


def concept_table(score, truth: np.ndarray) -> str:
    """Average precision for each concept and prefix. `score(text, width)` gives the score of every photo."""
    rows, columns = [], []
    for i, concept in enumerate(CONCEPTS):
        values = [average_precision(score(asked(concept), width), truth[:, i]) for width in WIDTHS]
        columns.append(values)
        rows.append([f"{asked(concept)} ({int(truth[:, i].sum())})", *map(figure, values)])
    rows.append(["mean", *(figure(v) for v in np.mean(columns, axis=0))])
    rows.append(["least", *(figure(v) for v in np.min(columns, axis=0))])
    return table(["query (photos that show it)", *("all dims" if w == 0 else f"{w}" for w in WIDTHS)], rows)


def threshold_table(score, truth: np.ndarray) -> str:
    """The threshold at which "a baby" has a recall of at least .99, and both by the number of things in a photo, too."""
    scores, wanted = score(asked("baby"), 0), truth[:, CONCEPTS.index("baby")]
    threshold, recall, precision = threshold_for(scores, wanted)
    rows = [[f"all photos ({len(truth)})", figure(recall), figure(precision)]]
    crowd = truth.sum(axis=1)
    for name, part in (
        ("at most one thing", crowd <= 1),
        ("two", crowd == 2),
        ("three", crowd == 3),
        ("four and more", crowd >= 4),
    ):
        found, true = part & (scores >= threshold), part & wanted
        if true.any() and found.any():
            rows.append([f"{name} ({int(part.sum())})", figure(found[true].mean()), figure(wanted[found].mean())])
    return table([f"threshold {threshold:.3f}", "recall", "precision"], rows)


def phrasing_table(score, truth: np.ndarray, seed: int = 1) -> str:
    """Mean average precision of phrasings from training and of phrasings that training never used. Pairs of concepts are
    drawn from those of which the album has at least `PHOTOS_OF_A_PAIR` photos."""
    import phrases

    rng = random.Random(f"phrasings {seed}")
    counts = truth.T.astype(int) @ truth
    pairs = [
        (a, b) for a in CONCEPTS for b in CONCEPTS if a != b and counts[CONCEPTS.index(a), CONCEPTS.index(b)] >= PHOTOS_OF_A_PAIR
    ]
    rows = []
    for name, unseen in (("from training", False), ("never seen", True)):
        batches = [
            [phrases.single(c, rng, unseen=unseen) for c in (*CONCEPTS, *phrases.GROUPS) for _ in range(PHRASINGS)],
            [phrases.pair(*rng.choice(pairs), rng, unseen=unseen) for _ in range(60 if pairs else 0)],
            [phrases.nobody(rng, unseen=unseen) for _ in range(4)],
        ]
        rows.append([name, *(figure(_mean([_ap(query, score, truth) for query in queries])) for queries in batches)])
    return table(["phrasings", "one thing", "two at once", "nobody"], rows)


def _mean(values: list[float]) -> float:
    """The mean of the values that are not NaN."""
    numbers = [value for value in values if value == value]
    return float(np.mean(numbers)) if numbers else float("nan")


def _ap(query, score, truth: np.ndarray) -> float:
    wanted = [query.answered_by(frozenset(c for c, yes in zip(CONCEPTS, row, strict=True) if yes)) for row in truth]
    return average_precision(score(query.text, 0), np.array(wanted))


def example_table(score, truth: np.ndarray) -> str:
    """Average precision of example queries for concepts, groups and pairs."""
    index = {c: truth[:, i] for i, c in enumerate(CONCEPTS)}
    people = index["baby"] | index["child"] | index["adult"]
    rows = []
    for text, wanted in (
        ("all the baby photos", index["baby"]),
        ("find all the baby photos", index["baby"]),
        ("birthday", index["cake"]),
        ("people", people),
        ("no people", ~people),
        ("a pet", index["dog"] | index["cat"]),
        ("a dog on the beach", index["dog"] & index["beach"]),
        ("a baby in the snow", index["baby"] & index["snow"]),
        ("an adult with a baby", index["adult"] & index["baby"]),
        ("a child with a balloon", index["child"] & index["balloon"]),
    ):
        rows.append(
            [
                f"{text} ({int(wanted.sum())})",
                *(figure(average_precision(score(text, width), wanted)) for width in WIDTHS),
            ]
        )
    return table(["query (photos that show it)", *("all dims" if w == 0 else f"{w}" for w in WIDTHS)], rows)


def neighbour_table(vectors: np.ndarray, truth: np.ndarray) -> str:
    """Search by a stored photo: the mean Jaccard similarity of the concepts of a photo and of its ten nearest neighbours. Pairs of
    photos that show nothing are left out."""
    rows = []
    values = []
    for width in WIDTHS:
        cut = prefix(vectors, width)
        scores = cut @ cut.T
        np.fill_diagonal(scores, -2)
        near = np.argsort(-scores, axis=1)[:, :10]
        both = (truth[:, None, :] & truth[near]).sum(-1)
        either = (truth[:, None, :] | truth[near]).sum(-1)
        values.append(float((both[either > 0] / either[either > 0]).mean()))
    rows.append(["ten nearest to a photo, what they share", *map(figure, values)])
    return table(["search by a photo", *("all dims" if w == 0 else f"{w}" for w in WIDTHS)], rows)


def fixed_table(score, truth: np.ndarray, fine: float, coarse: float) -> str:
    """The results of the recommended thresholds for the plain query of every concept."""
    rows, total, gone = [], 0, 0
    for i, concept in enumerate(CONCEPTS):
        passed = score(asked(concept), 0) >= fine
        lost = passed & (score(asked(concept), COARSE_WIDTH) < coarse)
        found, wanted = passed & ~lost, truth[:, i]
        total, gone = total + int(passed.sum()), gone + int(lost.sum())
        precision = wanted[found].mean() if found.any() else float("nan")
        recall = found[wanted].mean() if wanted.any() else float("nan")
        rows.append([asked(concept), str(int(found.sum())), figure(recall), figure(precision), str(int(lost.sum()))])
    rows.append(["all", str(total - gone), "", "", f"{gone} of {total}"])
    return table(["query", "found", "recall", "precision", "lost at the coarse step"], rows)


def recommend(score, truth: np.ndarray) -> tuple[float, float]:
    """Chooses (fine threshold, coarse threshold), multiples of 0.01. Fine: the least threshold at which the plain query of each
    concept finds nothing or has a precision of `PRECISION`, since a user who asks for every match prefers a wrong photo to a missing one.
    Coarse: at most one in two thousand of the photos that the fine threshold returns for these queries lies below it; at most
    the fine threshold; and then lowered by 0.02."""
    fine = next(
        t
        for t in range(1, 100)
        if all(_precise(score(asked(c), 0) >= t / 100, truth[:, i]) for i, c in enumerate(CONCEPTS))
    )
    kept = [score(asked(c), COARSE_WIDTH)[score(asked(c), 0) >= fine / 100] for c in CONCEPTS]
    lowest = np.sort(np.concatenate(kept))
    coarse = int(float(lowest[int(len(lowest) * 0.0005)]) * 100)
    return fine / 100, (min(coarse, fine) - 2) / 100


def _precise(found: np.ndarray, wanted: np.ndarray) -> bool:
    return not found.any() or wanted[found].mean() >= PRECISION


def recommended(folder: Path) -> tuple[float, float]:
    """(fine threshold, coarse threshold) of the model's photosearch.json."""
    values = json.loads((folder / "photosearch.json").read_text())
    return values["fine_threshold"], values["coarse_threshold"]


def report(score, truth: np.ndarray, fine: float, coarse: float) -> None:
    print("### Average precision\n")
    print(concept_table(score, truth), "\n")
    print(example_table(score, truth), "\n")
    print('### One threshold for "a baby"\n')
    print(threshold_table(score, truth), "\n")
    print("### The recommended thresholds\n")
    print(f"`fine_score` {fine:.2f}, `coarse_match` {coarse:.2f} at {COARSE_WIDTH} dimensions:\n")
    print(fixed_table(score, truth, fine, coarse), "\n")
    print("### Phrasings\n")
    print(phrasing_table(score, truth), "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--album", type=Path, required=True, help="folder written by album.py")
    parser.add_argument("--recommend", action="store_true", help="choose the thresholds on this album")
    arguments = parser.parse_args()
    paths, truth = read_album(arguments.album)
    model = Model(arguments.model)
    pictures = model.pictures([arguments.album / path for path in paths])
    queries: dict[str, np.ndarray] = {}

    def score(text: str, width: int) -> np.ndarray:
        if text not in queries:
            queries[text] = model.texts([text])
        return prefix(pictures, width) @ prefix(queries[text], width)[0]

    if arguments.recommend:
        from export import write_recommendation

        fine, coarse = recommend(score, truth)
        write_recommendation(arguments.model, coarse, fine)
    report(score, truth, *recommended(arguments.model))
    print("### Search by a photo\n")
    print(neighbour_table(pictures, truth), "\n")


if __name__ == "__main__":
    main()
