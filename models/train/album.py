"""Draws a family's photo album with its truth: `python3 album.py --seed 7 --count 2000 --out DIR`.

Needs Pillow and numpy only. Writes the photos (mostly JPEG, some PNG and WebP; some JPEGs are stored rotated, with an EXIF
orientation, as if a phone had been held sideways) and `truth.csv`: path, format, orientation, taken_at, then a column for each
concept with `t` or `f`. A file's time is the one at which the photo was taken. The same seed gives the same album. Albums, training
pictures and validation use different seeds, so no album contains a picture that the model was trained on.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

from PIL import Image

from painter import CONCEPTS, CROWDING, PLACE_WEIGHTS, Scene, paint_photo, pick

FORMATS = {"jpeg": 0.84, "png": 0.08, "webp": 0.08}
SUFFIX = {"jpeg": "jpg", "png": "png", "webp": "webp"}
# EXIF orientation -> frequency among the JPEGs.
ORIENTATIONS = {1: 0.94, 3: 0.02, 6: 0.02, 8: 0.02}
# EXIF orientation -> how the pixels are rotated before they are stored. A viewer that applies the orientation rotates them back.
STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
FIRST_DAY = datetime(2019, 1, 1)
DAYS = 2300


def moments(count: int, rng: Random) -> list[datetime]:
    """The times at which the photos were taken, in order: some days with a handful of photos each."""
    times: list[datetime] = []
    while len(times) < count:
        time = FIRST_DAY + timedelta(days=rng.randrange(DAYS), hours=rng.randint(8, 18), minutes=rng.randrange(60))
        for _ in range(min(rng.randint(1, 9), count - len(times))):
            times.append(time)
            time += timedelta(seconds=rng.randint(8, 1500))
    return sorted(times)


def place_for(month: int, rng: Random) -> str:
    """A place that fits the month: snow in winter, beaches mostly in summer."""
    weights = dict(PLACE_WEIGHTS)
    weights["snow"] *= 3.0 if month in (12, 1, 2) else 0.6 if month in (3, 11) else 0.0
    weights["beach"] *= 2.0 if month in (6, 7, 8) else 0.6
    return pick(rng, weights)


def write(scene: Scene, path: Path, kind: str, orientation: int, rng: Random) -> None:
    image = scene.image
    if orientation != 1:
        image = image.transpose(STORED[orientation])
    if kind == "jpeg":
        exif = Image.Exif()
        if orientation != 1:
            exif[0x0112] = orientation
        image.save(path, "JPEG", quality=rng.randint(60, 95), progressive=rng.random() < 0.2, exif=exif)
    elif kind == "webp":
        image.save(path, "WEBP", quality=rng.randint(60, 95), method=2)
    else:
        image.save(path, "PNG", compress_level=3)


def draw(seed: int, count: int, folder: Path, other_hand: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "truth.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "format", "orientation", "taken_at", *CONCEPTS])
        for i, time in enumerate(moments(count, Random(f"times {seed}"))):
            rng = Random(f"album {seed} {i}")
            scene = paint_photo(
                seed * 1_000_000 + i, place=place_for(time.month, rng), crowding=CROWDING, other_hand=other_hand
            )
            kind = pick(rng, FORMATS)
            orientation = pick(rng, ORIENTATIONS) if kind == "jpeg" else 1
            name = f"{time:%Y}-{i:05d}.{SUFFIX[kind]}"
            write(scene, folder / name, kind, orientation, rng)
            os.utime(folder / name, times=(time.replace(tzinfo=timezone.utc).timestamp(),) * 2)
            shows = ["t" if concept in scene.concepts else "f" for concept in CONCEPTS]
            table.writerow([name, kind, orientation, f"{time:%Y-%m-%d %H:%M:%S}", *shows])
            if (i + 1) % 100 == 0 or i + 1 == count:
                print(f"\rdrew {i + 1} of {count} photos", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="at least 1")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--other-hand", action="store_true", help="draw with proportions and lines that training never shows, as a harder test")
    arguments = parser.parse_args()
    if arguments.seed < 1 or not 1 <= arguments.count <= 1_000_000:
        parser.error("seed must be at least 1, count from 1 to 1000000")
    draw(arguments.seed, arguments.count, arguments.out, arguments.other_hand)


if __name__ == "__main__":
    main()
