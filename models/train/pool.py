"""The pool of training pictures, painted in advance into a folder of shards, so that training does not wait for the painter:
`python3 pool.py --out DIR --shards 100`. A shard has `SHARD` pictures of one grid and depends on its number alone. Training may
start while later shards are still being painted."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from painter import CONCEPTS, Scene, paint_small

SHARD = 2048
BATCH = 96
FACTOR = 16  # side of an image token's cell in pixels: patch size times merge size

# The grids (width, height) that the model's preprocessing makes of photos, and the aspect ratios of those photos.
GRIDS = {
    "landscape": ((112, 80), [(4, 3), (4, 3), (4, 3), (3, 2)]),
    "portrait": ((80, 112), [(3, 4), (3, 4), (3, 4), (2, 3)]),
    "square": ((96, 96), [(1, 1)]),
    "wide": ((128, 64), [(16, 9)]),
}
ORDER = (
    "landscape",
    "portrait",
    "landscape",
    "square",
    "landscape",
    "portrait",
    "landscape",
    "wide",
    "landscape",
    "square",
)


def truth_bits(scene: Scene) -> int:
    """The concepts of a scene as a bit mask, in the order of `CONCEPTS`."""
    return sum(1 << i for i, name in enumerate(CONCEPTS) if name in scene.concepts)


def cell_bits(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """For each image token's cell, the things whose boxes cover its middle, as a bit mask."""
    columns, rows = grid[0] // FACTOR, grid[1] // FACTOR
    u = (np.arange(columns) + 0.5) / columns
    v = (np.arange(rows) + 0.5) / rows
    cells = np.zeros((rows, columns), dtype=np.uint16)
    for thing in scene.things:
        left, top, right, bottom = thing.box
        inside = ((v >= top) & (v <= bottom))[:, None] & ((u >= left) & (u <= right))[None, :]
        cells |= inside.astype(np.uint16) << CONCEPTS.index(thing.name)
    return cells.reshape(-1)


def paint_shard(index: int) -> dict[str, np.ndarray]:
    """A shard: pictures [n, height, width, 3] u8, truth [n] u16, cells [n, tokens] u16."""
    grid, shapes = GRIDS[ORDER[index % len(ORDER)]]
    pictures = np.empty((SHARD, grid[1], grid[0], 3), dtype=np.uint8)
    truth = np.empty(SHARD, dtype=np.uint16)
    cells = np.empty((SHARD, grid[0] * grid[1] // FACTOR**2), dtype=np.uint16)
    for i in range(SHARD):
        scene = paint_small(index * SHARD + i, shapes[i % len(shapes)], grid)
        pictures[i] = np.asarray(scene.image)
        truth[i] = truth_bits(scene)
        cells[i] = cell_bits(scene, grid)
    return {"pictures": pictures, "truth": truth, "cells": cells}


class Pool:
    """Draws batches at random from the shards painted so far; refresh() finds new shards."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.folder, self.rng = folder, rng
        self.shards: dict[str, dict[str, np.ndarray]] = {}
        self.orders: dict[str, list[tuple[str, np.ndarray]]] = {}
        self.seen = 0

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("shard-*.npz")):
            if path.name not in self.shards:
                with np.load(path) as arrays:
                    self.shards[path.name] = {key: arrays[key] for key in arrays}
        if not self.shards:
            raise SystemExit(f"no shards in {self.folder}: run pool.py first")

    @staticmethod
    def grid_of(name: str) -> str:
        return ORDER[int(name[6:10]) % len(ORDER)]

    def batch(self) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        """A random batch: the grid's name, pixels [BATCH, height, width, 3] u8, truth [BATCH], cells [BATCH, tokens]."""
        grid = ORDER[self.rng.integers(len(ORDER))]
        left = self.orders.setdefault(grid, [])
        if not left:
            names = [name for name in self.shards if self.grid_of(name) == grid]
            for name in self.rng.permutation(names):
                order = self.rng.permutation(len(self.shards[name]["truth"]))
                left += [(name, order[i : i + BATCH]) for i in range(0, len(order) - BATCH + 1, BATCH)]
            self.rng.shuffle(left)
        name, rows = left.pop()
        shard = self.shards[name]
        self.seen += len(rows)
        pixels, cells = shard["pictures"][rows], shard["cells"][rows]
        if self.rng.random() < 0.5:  # mirrored
            columns = GRIDS[grid][0][0] // FACTOR
            pixels = pixels[:, :, ::-1]
            cells = cells.reshape(len(rows), -1, columns)[:, :, ::-1].reshape(len(rows), -1)
        return grid, np.ascontiguousarray(pixels), shard["truth"][rows], np.ascontiguousarray(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index in range(arguments.first, arguments.shards):
        path = arguments.out / f"shard-{index:04d}.npz"
        if path.exists():
            continue
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            np.savez(file, **paint_shard(index))
        os.replace(partial, path)


if __name__ == "__main__":
    main()
