"""Paints a dog (long snout, hanging ears), a cat (pointed ears, whiskers, a long tail) and a bird."""

from __future__ import annotations

from random import Random

from .pen import Colour, Pen, hsv, near, shade, vivid

DOG: list[Colour] = [(150, 95, 50), (205, 150, 85), (70, 45, 30), (45, 42, 42), (235, 225, 210), (225, 180, 115)]
CAT: list[Colour] = [(235, 145, 55), (130, 130, 138), (38, 36, 40), (240, 236, 228), (190, 150, 115), (95, 90, 95)]
BLACK: Colour = (25, 20, 22)


def _dog_profile(pen: Pen, u: float, v: float, coat: Colour, dark: Colour, rng: Random) -> None:
    """Paints a head seen from the side, around (u, v), facing right."""
    pen.disc(u, v, 0.17, coat)
    pen.polygon(
        [(u + 0.04, v - 0.08), (u + 0.32, v + 0.0), (u + 0.34, v + 0.1), (u + 0.28, v + 0.14), (u + 0.02, v + 0.15)],
        shade(coat, 1.08),
    )
    pen.disc(u + 0.33, v + 0.02, 0.05, BLACK)
    if rng.random() < 0.5:
        pen.ellipse(u + 0.23, v + 0.2, 0.045, 0.09, (240, 105, 120))
    pen.disc(u + 0.07, v - 0.06, 0.028, BLACK, edge=False)
    pen.ellipse(u - 0.11, v + 0.08, 0.075, 0.17, dark, 0.2)


def dog(pen: Pen, rng: Random, pose: str) -> None:
    coat = near(rng, rng.choice(DOG), 12)
    dark = shade(coat, 0.6) if sum(coat) > 240 else shade(coat, 1.7)
    collar = vivid(rng)
    if pose == "standing":
        pen.limb((-0.5, -0.58), (-0.72, -0.85 + rng.uniform(-0.1, 0.15)), 0.08, coat)
        for u in (-0.42, -0.3, 0.2, 0.32):
            pen.limb((u, -0.35), (u + rng.uniform(-0.06, 0.06), -0.06), 0.11, coat)
        pen.ellipse(-0.06, -0.48, 0.48, 0.19, coat)
        if rng.random() < 0.5:
            pen.ellipse(-0.2, -0.55, 0.2, 0.1, dark, edge=False)
        pen.limb((0.3, -0.52), (0.44, -0.75), 0.2, coat)
        pen.line([(0.3, -0.7), (0.5, -0.58)], 0.06, collar)
        _dog_profile(pen, 0.5, -0.8, coat, dark, rng)
    elif pose == "sitting":
        pen.limb((-0.25, -0.1), (-0.48, -0.22), 0.08, coat)
        pen.ellipse(-0.05, -0.3, 0.26, 0.34, coat, -0.25)
        pen.ellipse(-0.14, -0.14, 0.2, 0.14, coat)
        for u in (0.08, 0.18):
            pen.limb((u, -0.36), (u + 0.02, -0.05), 0.1, coat)
        pen.line([(-0.04, -0.58), (0.22, -0.56)], 0.06, collar)
        _dog_profile(pen, 0.1, -0.76, coat, dark, rng)
    else:  # the head and chest, seen from the front
        pen.ellipse(0, -0.18, 0.28, 0.26, coat)
        for side in (-1, 1):
            pen.limb((side * 0.12, -0.2), (side * 0.14, -0.05), 0.12, coat)
        pen.line([(-0.2, -0.38), (0, -0.34), (0.2, -0.38)], 0.06, collar)
        pen.ellipse(0, -0.68, 0.27, 0.27, coat)
        for side in (-1, 1):
            pen.ellipse(side * 0.29, -0.62, 0.095, 0.25, dark, side * 0.2)
            pen.disc(side * 0.11, -0.74, 0.04, BLACK, edge=False)
        pen.ellipse(0, -0.54, 0.16, 0.14, shade(coat, 1.25))
        pen.ellipse(0, -0.6, 0.075, 0.055, BLACK)
        if rng.random() < 0.7:
            pen.ellipse(0, -0.41, 0.06, 0.1, (240, 105, 120))


def _cat_head(pen: Pen, u: float, v: float, r: float, coat: Colour, rng: Random) -> None:
    for side in (-1, 1):
        pen.polygon(
            [
                (u + side * 0.95 * r, v - 0.15 * r),
                (u + side * 0.9 * r, v - 1.5 * r),
                (u + side * 0.2 * r, v - 0.85 * r),
            ],
            coat,
        )
        pen.polygon(
            [(u + side * 0.8 * r, v - 0.5 * r), (u + side * 0.8 * r, v - 1.2 * r), (u + side * 0.4 * r, v - 0.8 * r)],
            (245, 160, 165),
            edge=False,
        )
    pen.ellipse(u, v, 1.08 * r, 0.95 * r, coat)
    iris = rng.choice([(150, 215, 70), (245, 210, 60), (110, 190, 235)])
    for side in (-1, 1):
        pen.ellipse(u + side * 0.42 * r, v - 0.12 * r, 0.23 * r, 0.26 * r, iris, edge=False)
        pen.ellipse(u + side * 0.42 * r, v - 0.12 * r, 0.08 * r, 0.22 * r, BLACK, edge=False)
        whisker = (250, 250, 250) if sum(coat) < 420 else (60, 55, 55)
        for dv in (-0.08, 0.14):
            pen.line(
                [(u + side * 0.4 * r, v + 0.4 * r), (u + side * 1.55 * r, v + (0.35 + dv * 2) * r)], 0.07 * r, whisker
            )
    pen.polygon(
        [(u - 0.14 * r, v + 0.22 * r), (u + 0.14 * r, v + 0.22 * r), (u, v + 0.4 * r)], (235, 110, 120), edge=False
    )


def cat(pen: Pen, rng: Random, pose: str) -> None:
    coat = near(rng, rng.choice(CAT), 12)
    stripe = shade(coat, 0.62) if sum(coat) > 200 else shade(coat, 1.6)
    striped = rng.random() < 0.55
    if pose == "sitting":
        pen.line([(0.15, -0.07), (0.42, -0.06), (0.5, -0.2), (0.42, -0.36), (0.5, -0.48)], 0.09, coat, edge=True)
        pen.ellipse(0, -0.27, 0.24, 0.28, coat)
        if striped:
            for v in (-0.4, -0.3, -0.2):
                pen.line([(-0.2, v), (-0.08, v + 0.03)], 0.04, stripe)
                pen.line([(0.2, v), (0.08, v + 0.03)], 0.04, stripe)
        for side in (-1, 1):
            pen.limb((side * 0.07, -0.26), (side * 0.08, -0.05), 0.1, coat)
        _cat_head(pen, 0, -0.66, 0.23, coat, rng)
    elif pose == "walking":
        pen.line([(-0.48, -0.46), (-0.66, -0.56), (-0.7, -0.78), (-0.6, -0.96)], 0.075, coat, edge=True)
        for u in (-0.42, -0.3, 0.24, 0.34):
            pen.limb((u, -0.35), (u + rng.uniform(-0.06, 0.06), -0.05), 0.08, coat)
        pen.ellipse(-0.06, -0.45, 0.45, 0.16, coat)
        if striped:
            for u in (-0.35, -0.2, -0.05, 0.1):
                pen.line([(u, -0.58), (u + 0.02, -0.42)], 0.045, stripe)
        _cat_head(pen, 0.44, -0.66, 0.22, coat, rng)
    else:  # lying
        pen.line([(-0.6, -0.2), (-0.85, -0.1), (-0.9, -0.3), (-0.8, -0.42)], 0.1, coat, edge=True)
        pen.ellipse(-0.12, -0.28, 0.6, 0.28, coat)
        if striped:
            for u in (-0.5, -0.3, -0.1):
                pen.line([(u, -0.5), (u + 0.03, -0.25)], 0.06, stripe)
        for u in (0.25, 0.5):
            pen.ellipse(u, -0.07, 0.14, 0.07, coat)
        _cat_head(pen, 0.42, -0.48, 0.33, coat, rng)


def bird(pen: Pen, rng: Random, pose: str) -> None:
    plain = rng.random()
    if plain < 0.15:
        coat: Colour = (245, 245, 245)
    elif plain < 0.22:
        coat = (40, 40, 46)
    else:
        coat = hsv(
            rng.choice([0.0, 0.08, 0.14, 0.33, 0.52, 0.6, 0.78]) + rng.uniform(-0.02, 0.02),
            rng.uniform(0.65, 1),
            rng.uniform(0.7, 1),
        )
    wing = shade(coat, rng.choice([0.6, 0.72])) if sum(coat) > 200 else shade(coat, 1.8)
    belly = rng.choice([(255, 240, 200), (250, 250, 250), shade(coat, 1.15)])
    beak = rng.choice([(250, 160, 20), (255, 195, 30), (235, 110, 25)])
    if pose == "flying":
        lift = rng.uniform(0.2, 0.48)
        pen.polygon(
            [(-0.1, -0.42), (-0.62, -0.42 - lift), (-0.5, -0.5), (-0.74, -0.5 - lift * 0.3), (-0.3, -0.36)],
            shade(wing, 0.85),
        )
        pen.polygon([(-0.42, -0.36), (-0.82, -0.46), (-0.85, -0.3), (-0.8, -0.22)], wing)
        pen.ellipse(-0.02, -0.36, 0.46, 0.17, coat)
        pen.ellipse(0.02, -0.3, 0.34, 0.1, belly, edge=False)
        pen.disc(0.44, -0.44, 0.17, coat)
        pen.polygon([(0.58, -0.51), (0.84, -0.43), (0.58, -0.36)], beak)
        pen.disc(0.48, -0.48, 0.035, BLACK, edge=False)
        pen.polygon(
            [
                (0.2, -0.44),
                (0.12, -0.62 - lift),
                (-0.06, -0.6 - lift * 0.9),
                (-0.22, -0.52 - lift * 0.5),
                (-0.26, -0.38),
            ],
            wing,
        )
    else:  # standing on thin legs
        leg = shade(beak, 0.8)
        for u in (-0.02, 0.12):
            pen.line([(u, -0.22), (u, -0.02), (u + 0.08, -0.01)], 0.04, leg)
        pen.polygon([(-0.28, -0.5), (-0.78, -0.3), (-0.7, -0.18), (-0.2, -0.28)], wing)
        pen.ellipse(0, -0.46, 0.36, 0.27, coat, -0.35)
        pen.ellipse(0.1, -0.38, 0.22, 0.18, belly, -0.35, edge=False)
        pen.disc(0.24, -0.76, 0.21, coat)
        pen.polygon([(0.41, -0.83), (0.72, -0.72), (0.41, -0.65)], beak)
        pen.disc(0.3, -0.8, 0.045, BLACK, edge=False)
        pen.ellipse(-0.1, -0.48, 0.25, 0.14, wing, 0.3)
        if rng.random() < 0.3:  # a crest
            pen.polygon([(0.14, -0.93), (0.1, -1.08), (0.22, -0.98), (0.26, -1.06), (0.32, -0.93)], wing)


ANIMALS = {
    "dog": (dog, {"standing": 1.75, "sitting": 1.05, "front": 0.85}),
    "cat": (cat, {"sitting": 0.95, "walking": 1.5, "lying": 2.0}),
    "bird": (bird, {"flying": 1.75, "standing": 1.6}),
}
