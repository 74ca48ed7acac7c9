"""Trains photosearch-mini-1 on drawn pictures and exports it as a Hugging Face model directory.

    python3 pool.py --out POOL --shards 100
    python3 train.py --pool POOL --work WORK --export ../photosearch-mini-1 --minutes 60

Loss: for every step, it is known which pictures answer which queries. The loss is the sigmoid loss of SigLIP (Zhai et al. 2023,
arXiv:2303.15343) over all pairs, summed over prefixes of the embedding (Matryoshka representation learning, Kusupati et al.
2022, arXiv:2205.13147), with a learned scale and bias for each prefix. Two auxiliary heads, which are not exported, speed up
the start of the vision model: one predicts from each image token which things lie there, the other predicts the concepts from
an embedding, of pictures and of queries alike.

Schedule: warm-up, then a constant rate, then decay to zero. `--minutes` bounds the time, and a file WORK/decay starts the decay
at once, so that a run can be finished early without harm. A checkpoint is written every five minutes, and the next run with
the same WORK continues from it.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import network
import phrases
import tokenizer as tokenizers
from evaluate import average_precision
from export import export
from painter import CONCEPTS, paint_photo
from pool import GRIDS, Pool
from questions import Questions, bits
from recipe import prepare

PREFIX_WEIGHTS = {16: 0.5, 32: 0.6, 64: 1.0, 128: 0.6, network.WIDTH: 1.0}
MINUTES_BETWEEN_CHECKPOINTS = 5.0


def unpack(masks: np.ndarray) -> Tensor:
    """Bit masks [...] to [..., concepts] f32."""
    return torch.from_numpy(((masks[..., None] >> np.arange(len(CONCEPTS))) & 1).astype(np.float32))


class Heads(nn.Module):
    """Parameters that only training needs: scales, biases and the two auxiliary heads."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((len(network.PREFIXES),), math.log(12.0)))
        self.bias = nn.Parameter(torch.full((len(network.PREFIXES),), -5.0))
        self.cells = nn.Linear(network.WIDTH, len(CONCEPTS))
        self.concepts = nn.Linear(network.WIDTH, len(CONCEPTS))


def loss_of(
    pictures: Tensor,
    image: Tensor,
    queries: Tensor,
    asked: list[phrases.Query],
    truth: np.ndarray,
    cells: np.ndarray,
    heads: Heads,
    auxiliary_weight: float,
) -> Tensor:
    answers = Questions.answers(asked, truth)
    total = pictures.new_zeros(())
    for k, width in enumerate(network.PREFIXES):
        score = F.normalize(pictures[:, :width], dim=-1) @ F.normalize(queries[:, :width], dim=-1).T
        logits = heads.scale[k].exp() * score + heads.bias[k]
        total = total + PREFIX_WEIGHTS[width] * F.binary_cross_entropy_with_logits(logits, answers)
    if auxiliary_weight > 0:
        where = F.binary_cross_entropy_with_logits(heads.cells(image.float()), unpack(cells))
        root = network.WIDTH**0.5  # embeddings have unit length
        what = F.binary_cross_entropy_with_logits(heads.concepts(pictures * root), unpack(truth))
        singles = [i for i, query in enumerate(asked) if len(query.rule) == 1 and len(query.rule[0]) == 1]
        named = unpack(np.array([bits(asked[i].rule[0]) for i in singles]))
        what = what + F.binary_cross_entropy_with_logits(heads.concepts(queries[singles] * root), named)
        total = total + auxiliary_weight * (where + 0.5 * what)
    return total


def optimizers(model: nn.Module, heads: Heads, args) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for all other parameters."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        hidden = p.ndim == 2 and "embed" not in name
        (matrices if hidden and args.muon else others).append(p)
    others += list(heads.parameters())
    decayed, plain = [p for p in others if p.ndim >= 2], [p for p in others if p.ndim < 2]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=args.rate,
        betas=(0.9, 0.98),
    )
    if not matrices:
        return [adam]
    muon = torch.optim.Muon(
        matrices, lr=args.muon_rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return [adam, muon]


class Run:
    def __init__(self, args) -> None:
        self.args = args
        args.work.mkdir(parents=True, exist_ok=True)
        self.tokenizer = tokenizers.build()
        self.model = network.build(self.tokenizer, args.seed)
        self.encoder = network.Encoder(self.model)
        self.grids = {name: network.Grid(self.model, self.tokenizer, *grid) for name, (grid, _) in GRIDS.items()}
        for (width, height), grid in ((GRIDS[name][0], grid) for name, grid in self.grids.items()):
            noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
            difference = network.check_forward(self.model, self.tokenizer, grid, noise, "a dog on the beach")
            if difference > 1e-5:
                raise SystemExit(f"the fast forward differs from the stock one by {difference} at {width} x {height}")
        self.heads = Heads()
        self.optimizers = optimizers(self.model, self.heads, args)
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.average = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self.pool = Pool(args.pool, np.random.default_rng(args.seed))
        self.pool.refresh()
        self.questions = Questions(self.tokenizer, args.seed)
        self.step, self.spent, self.decay_from = 0, 0.0, None
        compile = torch.compile if args.compile else (lambda f, **_: f)
        self.pictures = compile(self.encoder.pictures, dynamic=False)
        self.texts = compile(self.encoder.texts, dynamic=False)

    # -- training step ----------------------------------------------------------------------------

    def factor(self) -> float:
        """The factor of the learning rates at this step."""
        warm = min(1.0, (self.step + 1) / 150)
        if self.decay_from is None:
            return warm
        length = max(self.args.minutes * 60 * self.args.decay_share, 1.0)
        return warm * max(0.0, 1 - (self.spent - self.decay_from) / length)

    def train_step(self) -> float:
        grid, pictures, truth, cells = self.pool.batch()
        asked = self.questions.draw(truth)
        ids, last = self.questions.encode(asked)
        factor = self.factor()
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        with torch.autocast("cpu", torch.bfloat16):
            pictures, image = self.grids[grid].run(self.pictures, torch.from_numpy(pictures))
            queries = self.texts(ids, last)
        auxiliary_weight = 1.0 if self.decay_from is None else 0.3
        loss = loss_of(pictures.float(), image, queries.float(), asked, truth, cells, self.heads, auxiliary_weight)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(0.995, self.step / (self.step + 20))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name].lerp_(parameter, 1 - keep)
        return loss.item()

    # -- validation -------------------------------------------------------------------------------

    def validation(self, count: int = 500) -> list[tuple[str, Tensor, np.ndarray]]:
        """Photos of seeds that neither training nor the evaluation uses, grouped by grid."""
        rows: dict[str, tuple[list, list]] = {}
        names = {grid: name for name, (grid, _) in GRIDS.items()}
        for seed in range(count):
            scene = paint_photo(-1 - seed)
            pixels = prepare(scene.image)
            h, w, _ = pixels.shape
            pictures, truth = rows.setdefault(names[(w, h)], ([], []))
            pictures.append(pixels)
            truth.append(bits(scene.concepts))
        return [(name, torch.from_numpy(np.stack(p)), np.array(t)) for name, (p, t) in rows.items()]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The average precision of each concept's plain query."""
        vectors, truth = [], []
        with self.averaged(), torch.autocast("cpu", torch.bfloat16):
            for grid, pixels, masks in self.photos:
                for i in range(0, len(pixels), 100):
                    vectors.append(self.grids[grid].run(self.encoder.pictures, pixels[i : i + 100])[0].float())
                truth.append(masks)
            ids, last = self.questions.encode([phrases.Query(phrases.NAMES[c][0][1], ()) for c in CONCEPTS])
            queries = self.encoder.texts(ids, last).float()
        scores = (torch.cat(vectors) @ queries.T).numpy()
        masks = np.concatenate(truth)
        return {c: average_precision(scores[:, i], (masks >> i & 1).astype(bool)) for i, c in enumerate(CONCEPTS)}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives the model the running average of its weights within a `with` block. The averaged model is the better one."""
        parameters = dict(self.model.named_parameters())
        kept = {name: p.detach().clone() for name, p in parameters.items()}
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(kept[name])

    # -- checkpoints and export -------------------------------------------------------------------

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "spent": self.spent,
            "decay_from": self.decay_from,
            "seen": self.pool.seen,
        }
        partial = self.args.work / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.args.work / "checkpoint.pt")

    def resume(self) -> None:
        path = self.args.work / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.spent, self.decay_from = state["step"], state["spent"], state["decay_from"]
        self.pool.seen = state["seen"]
        # Draw other pictures and queries than before the interruption.
        self.pool.rng = np.random.default_rng([self.args.seed, self.step])
        self.questions.rng = random.Random(f"questions {self.args.seed} {self.step}")
        print(f"resumed at step {self.step}, {self.spent / 60:.1f} minutes", flush=True)

    def export(self) -> None:
        if self.args.export is not None:
            with self.averaged():
                export(self.model, self.tokenizer, self.args.export)

    def train(self) -> None:
        args = self.args
        self.resume()
        self.photos = self.validation()
        seconds, losses = args.minutes * 60, []
        checkpoint_at = self.spent + 60 * MINUTES_BETWEEN_CHECKPOINTS
        report_at = self.spent + 60 * args.report
        clock = time.monotonic()
        while self.spent < seconds and (self.decay_from is None or self.factor() > 0):
            losses.append(self.train_step())
            now = time.monotonic()
            if self.step > 8:  # the first steps compile
                self.spent += now - clock
            clock = now
            asked_to_end = (args.work / "decay").exists()
            if self.decay_from is None and (asked_to_end or self.spent > seconds * (1 - args.decay_share)):
                self.decay_from = self.spent
                print(f"step {self.step}: decay begins", flush=True)
            if self.step % 100 == 0:
                print(
                    f"step {self.step} {self.spent / 60:.1f} min, {self.pool.seen} seen,"
                    f" loss {np.mean(losses[-100:]):.4f}, rate x {self.factor():.2f}",
                    flush=True,
                )
                self.pool.refresh()
            if self.spent > report_at:
                report_at = self.spent + 60 * args.report
                self.report()
            if self.spent > checkpoint_at:
                checkpoint_at = self.spent + 60 * MINUTES_BETWEEN_CHECKPOINTS
                self.save()
                self.export()
        self.save()
        self.export()
        self.report()

    def report(self) -> None:
        result = self.validate()
        mean = np.mean(list(result.values()))
        scales = " ".join(f"{s:.1f}" for s in self.heads.scale.exp().tolist())
        print(
            f"validation at step {self.step}, {self.spent / 60:.1f} min: mean AP {mean:.4f}; "
            + " ".join(f"{k} {v:.3f}" for k, v in result.items())
            + f"; scales {scales}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of shards painted by pool.py")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--export", type=Path, help="model directory to write")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time without compilation")
    parser.add_argument(
        "--decay-share", type=float, default=0.3, help="share of the time in which the learning rates fall to zero"
    )
    parser.add_argument("--report", type=float, default=2.0, help="minutes between validations")
    parser.add_argument("--rate", type=float, default=1e-3, help="AdamW's learning rate")
    parser.add_argument("--muon-rate", type=float, default=2e-3, help="Muon's learning rate, on AdamW's scale")
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Run(args).train()


if __name__ == "__main__":
    main()
