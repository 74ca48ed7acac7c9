"""Tests the painter, the albums and the phrases. Boxes of things are compared with each other and with
the pixels that changed, files with truth.csv.

Run alone: `python3 -m unittest` in this folder; needs Pillow and numpy only.
"""

from __future__ import annotations

import csv
import tempfile
import unittest
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageOps

import album
import phrases
from painter import CONCEPTS, paint_photo, paint_small
from painter.pen import Pen
from painter.places import PLACES
from painter.scene import INSIDE, SIZES, THINGS, TRAINING_INSIDE


def overlap(a: tuple, b: tuple) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def area(box: tuple) -> float:
    return overlap(box, box)


class Scenes(unittest.TestCase):
    def test_a_seed_determines_the_picture(self) -> None:
        for paint in (lambda seed: paint_small(seed, (4, 3), (112, 80)), paint_photo):
            one, again, other = paint(5), paint(5), paint(6)
            self.assertEqual(one.image.tobytes(), again.image.tobytes())
            self.assertEqual(one.concepts, again.concepts)
            self.assertNotEqual(one.image.tobytes(), other.image.tobytes())

    def test_counted_things_are_inside_the_picture_and_not_hidden(self) -> None:
        for seed in range(300):
            for scene, inside in (
                (paint_small(seed, (3, 4), (80, 112)), TRAINING_INSIDE),
                (paint_photo(seed, longest=120), INSIDE),
            ):
                for i, thing in enumerate(scene.things):
                    self.assertGreaterEqual(overlap(thing.box, (0, 0, 1, 1)), inside * area(thing.box) - 1e-9)
                    for other in scene.things[i + 1 :]:
                        least = min(area(thing.box), area(other.box))
                        self.assertLessEqual(overlap(thing.box, other.box), 0.2 * least + 1e-9)

    def test_no_thing_is_smaller_than_its_least_size(self) -> None:
        for seed in range(300):
            scene = paint_photo(seed, longest=120)
            w, h = scene.image.size
            for thing in scene.things:
                tall = (thing.box[3] - thing.box[1]) * h / min(w, h)
                self.assertGreaterEqual(tall, 0.8 * SIZES[thing.name][0] - 1e-9, thing)

    def test_truth_equals_what_was_painted(self) -> None:
        seen = set()
        for seed in range(400):
            scene = paint_photo(seed, longest=120)
            expected = {thing.name for thing in scene.things} | ({scene.place} & {"beach", "snow"})
            self.assertEqual(scene.concepts, expected)
            seen |= scene.concepts
        self.assertEqual(seen, set(CONCEPTS))

    def test_a_painter_draws_within_its_box(self) -> None:
        """Nearly all pixels that a painter changes lie in its box, and they fill a part of it."""
        for name, (painter, poses) in THINGS.items():
            for pose in poses:
                image = Image.new("RGB", (300, 120))
                draw = ImageDraw.Draw(image)
                PLACES["backdrop"](image, draw, Random(1))
                before = np.asarray(image).copy()
                painter(Pen(draw, 150, 110, 100), Random(2), pose)
                changed = (np.asarray(image) != before).any(axis=2)
                half = poses[pose] * 50
                box = changed[10:110, int(150 - half) : int(150 + half)]
                self.assertGreater(box.mean(), 0.12, f"{name} {pose}")
                self.assertGreater(box.sum(), 0.9 * changed.sum(), f"{name} {pose} is drawn outside its box")


class Albums(unittest.TestCase):
    def test_files_agree_with_the_truth(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            album.draw(4, 120, Path(folder))
            with open(Path(folder) / "truth.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            self.assertEqual(len(rows), 120)
            self.assertEqual(sorted(row["taken_at"] for row in rows), [row["taken_at"] for row in rows])
            turned = 0
            for row in rows:
                with Image.open(Path(folder) / row["path"]) as image:
                    self.assertEqual(image.format.lower(), row["format"])
                    self.assertEqual(str(image.getexif().get(0x0112, 1)), row["orientation"])
                    turned += row["orientation"] != "1"
                    ImageOps.exif_transpose(image).load()
            self.assertGreater(turned, 0)

    def test_a_rotated_photo_is_shown_upright(self) -> None:
        scene = paint_photo(11)
        upright = np.asarray(scene.image, dtype=np.int16)
        for orientation in (3, 6, 8):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "photo.jpg"
                album.write(scene, path, "jpeg", orientation, Random(1))
                with Image.open(path) as image:
                    shown = np.asarray(ImageOps.exif_transpose(image), dtype=np.int16)
            self.assertEqual(shown.shape, upright.shape)
            self.assertLess(np.abs(shown - upright).mean(), 8)


class Phrases(unittest.TestCase):
    def test_rules_decide_which_pictures_answer(self) -> None:
        rng = Random(1)
        both = frozenset({"baby", "snow"})
        self.assertTrue(phrases.single("baby", rng).answered_by(both))
        self.assertFalse(phrases.single("dog", rng).answered_by(both))
        self.assertTrue(phrases.single("people", rng).answered_by(both))
        self.assertTrue(phrases.pair("baby", "snow", rng).answered_by(both))
        self.assertFalse(phrases.pair("baby", "beach", rng).answered_by(both))
        self.assertFalse(phrases.nobody(rng).answered_by(both))
        self.assertTrue(phrases.nobody(rng).answered_by(frozenset({"cat"})))

    def test_training_has_no_phrasing_of_the_evaluation(self) -> None:
        self.assertFalse(set(phrases.TEMPLATES) & set(phrases.TEMPLATES_UNSEEN))
        self.assertFalse(set(phrases.PAIRS) & set(phrases.PAIRS_UNSEEN))
        self.assertFalse(set(phrases.NOBODY) & set(phrases.NOBODY_UNSEEN))


if __name__ == "__main__":
    unittest.main()
