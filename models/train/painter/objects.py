"""Paints things that are neither people nor animals: cake, car, bicycle, tree, flower, boat, house, balloon."""

from __future__ import annotations

import math
from random import Random

from .pen import Colour, Pen, dark, hsv, mix, near, pastel, shade, vivid

RUBBER: Colour = (35, 35, 38)
GLASS: Colour = (175, 215, 240)


def cake(pen: Pen, rng: Random, pose: str) -> None:
    """Paints a cake, always with burning candles."""
    sponge = rng.choice([(235, 190, 120), (120, 70, 40), (250, 215, 220), (250, 240, 215), (200, 225, 245)])
    icing = rng.choice([(255, 250, 245), (250, 160, 190), (95, 55, 35), (150, 210, 240), (190, 160, 230)])
    if sum(abs(a - b) for a, b in zip(sponge, icing, strict=True)) < 90:
        icing = shade(sponge, 0.55)
    pen.ellipse(0, -0.05, 0.62, 0.05, (225, 225, 230))
    tiers = 2 if pose == "tiered" else 1
    base, width, tall = -0.06, 0.5, 0.42 / tiers + 0.04
    for _ in range(tiers):
        pen.box(-width, base - tall, width, base, sponge)
        pen.box(-width, base - tall, width, base - tall * 0.68, icing, edge=False)
        drips = 5
        for i in range(drips):
            u = -width + (i + 0.5) * 2 * width / drips
            pen.ellipse(u, base - tall * 0.68, width / drips, tall * rng.uniform(0.1, 0.3), icing, edge=False)
        if rng.random() < 0.4:
            for _ in range(5):
                pen.disc(
                    rng.uniform(-width, width) * 0.9, base - rng.uniform(0.1, 0.5) * tall, 0.025, vivid(rng), edge=False
                )
        base -= tall
        width *= 0.68
    width /= 0.68
    count = rng.randint(2, 6)
    for i in range(count):
        u = (i + 0.5) / count * 2 * width * 0.85 - width * 0.85
        pen.line([(u, base), (u, -0.76)], 0.055, vivid(rng), edge=True)
        pen.ellipse(u, -0.87, 0.05, 0.105, (255, 160, 20), edge=False)
        pen.ellipse(u, -0.85, 0.025, 0.06, (255, 245, 150), edge=False)


def _wheel(pen: Pen, u: float, r: float) -> None:
    pen.disc(u, -r, r, RUBBER)
    pen.disc(u, -r, r * 0.5, (190, 190, 195), edge=False)


def car(pen: Pen, rng: Random, pose: str) -> None:
    paint = rng.choice([vivid(rng), vivid(rng), (235, 235, 238), (60, 62, 70), (150, 155, 165)])
    if pose == "van":
        pen.polygon([(-0.95, -0.2), (-0.95, -0.95), (0.55, -0.95), (0.78, -0.55), (0.95, -0.48), (0.95, -0.2)], paint)
        windows = [
            [(0.2, -0.85), (0.5, -0.85), (0.68, -0.56), (0.2, -0.56)],
            [(-0.3, -0.85), (0.1, -0.85), (0.1, -0.56), (-0.3, -0.56)],
            [(-0.82, -0.85), (-0.4, -0.85), (-0.4, -0.56), (-0.82, -0.56)],
        ]
    elif pose == "hatchback":
        pen.polygon(
            [(-0.85, -0.2), (-0.88, -0.6), (-0.68, -0.98), (0.2, -0.98), (0.5, -0.6), (0.88, -0.5), (0.92, -0.2)], paint
        )
        windows = [
            [(-0.58, -0.9), (-0.25, -0.9), (-0.25, -0.6), (-0.7, -0.6)],
            [(-0.17, -0.9), (0.15, -0.9), (0.36, -0.6), (-0.17, -0.6)],
        ]
    else:
        pen.polygon(
            [
                (-1.08, -0.22),
                (-1.1, -0.55),
                (-0.65, -0.62),
                (-0.4, -0.98),
                (0.25, -0.98),
                (0.58, -0.6),
                (1.05, -0.5),
                (1.1, -0.22),
            ],
            paint,
        )
        windows = [
            [(-0.34, -0.9), (-0.08, -0.9), (-0.08, -0.62), (-0.52, -0.62)],
            [(0.0, -0.9), (0.2, -0.9), (0.44, -0.62), (0.0, -0.62)],
        ]
    for window in windows:
        pen.polygon(window, GLASS)
    pen.line([(-0.85, -0.36), (0.85, -0.36)], 0.03, shade(paint, 0.7))
    pen.disc(0.88 if pose != "sedan" else 1.02, -0.42, 0.06, (255, 240, 160), edge=False)
    pen.disc(-0.86 if pose != "sedan" else -1.03, -0.45, 0.055, (220, 30, 30), edge=False)
    for u in (-0.56, 0.56):
        _wheel(pen, u, 0.24)


def bicycle(pen: Pen, rng: Random, pose: str) -> None:
    paint = rng.choice([vivid(rng), vivid(rng), dark(rng)])
    tyre = rng.choice([RUBBER, (60, 60, 64), (90, 70, 55)])
    r = 0.35
    for u in (-0.56, 0.56):
        for k in range(3):
            t = k * math.pi / 3 + 0.3
            pen.line(
                [(u - r * math.cos(t), -r - r * math.sin(t)), (u + r * math.cos(t), -r + r * math.sin(t))],
                0.015,
                (170, 170, 175),
            )
        pen.ring(u, -r, r, 0.07, tyre)
    saddle, crank, head = (-0.24, -0.8), (-0.08, -0.33), (0.38, -0.82)
    for a, b in (
        (saddle, crank),
        ((-0.19, -0.72), head),
        (crank, head),
        (crank, (-0.56, -r)),
        ((-0.2, -0.7), (-0.56, -r)),
        ((0.36, -0.92), (0.56, -r)),
    ):
        pen.line([a, b], 0.065, paint)
    pen.line([(-0.38, -0.85), (-0.12, -0.85)], 0.085, (45, 30, 25))
    pen.line([(0.36, -0.92), (0.3, -0.97), (0.52, -1.0)], 0.055, RUBBER)
    pen.disc(crank[0], crank[1], 0.08, shade(paint, 0.6))
    if pose == "basket":
        pen.box(0.45, -0.9, 0.72, -0.68, (190, 140, 80))


def tree(pen: Pen, rng: Random, pose: str) -> None:
    trunk = near(rng, (105, 70, 42), 20)
    leaf = rng.choice(
        [
            hsv(rng.uniform(0.25, 0.38), rng.uniform(0.5, 0.9), rng.uniform(0.35, 0.75)),
            hsv(rng.uniform(0.25, 0.36), 0.7, 0.5),
            hsv(rng.uniform(0.04, 0.13), 0.85, 0.8),
        ]
    )
    if pose == "fir":
        leaf = hsv(rng.uniform(0.33, 0.45), rng.uniform(0.5, 0.8), rng.uniform(0.25, 0.5))
        pen.box(-0.06, -0.2, 0.06, 0, trunk)
        for i, (half, low, high) in enumerate(((0.38, -0.15, -0.55), (0.3, -0.4, -0.78), (0.21, -0.64, -1.0))):
            pen.polygon([(-half, low), (half, low), (0, high)], shade(leaf, 1 + 0.12 * i))
    elif pose == "palm":
        leaf = hsv(rng.uniform(0.27, 0.36), 0.75, rng.uniform(0.45, 0.7))
        pen.line([(-0.1, 0), (-0.04, -0.4), (0.06, -0.78)], 0.09, trunk, edge=True)
        for t in (-2.9, -2.4, -1.9, -1.2, -0.7, -0.2):
            c, s = math.cos(t), math.sin(t)
            pen.polygon(
                [
                    (0.06, -0.8),
                    (0.06 + c * 0.25 - s * 0.06, -0.82 + s * 0.2 - 0.03),
                    (0.06 + c * 0.48, -0.72 + s * 0.22),
                    (0.06 + c * 0.25 + s * 0.06, -0.74 + s * 0.2),
                ],
                leaf,
            )
    else:
        pen.polygon([(-0.07, 0), (-0.045, -0.5), (0.045, -0.5), (0.07, 0)], trunk)
        for _ in range(5):
            pen.disc(
                rng.uniform(-0.22, 0.22), -0.66 + rng.uniform(-0.12, 0.12), rng.uniform(0.16, 0.21), near(rng, leaf, 12)
            )
        pen.disc(0, -0.7, 0.24, leaf, edge=False)
        for _ in range(4):
            pen.disc(rng.uniform(-0.2, 0.15), -0.74 + rng.uniform(-0.1, 0.12), 0.06, shade(leaf, 1.2), edge=False)
        if rng.random() < 0.2:
            for _ in range(6):
                pen.disc(rng.uniform(-0.25, 0.25), -0.68 + rng.uniform(-0.16, 0.16), 0.03, (215, 40, 40), edge=False)


def _bloom(pen: Pen, u: float, v: float, r: float, rng: Random, petal: Colour) -> None:
    kind = rng.random()
    if kind < 0.3:  # a tulip
        pen.polygon(
            [
                (u - 0.6 * r, v - 0.9 * r),
                (u - 0.3 * r, v - 0.45 * r),
                (u, v - r),
                (u + 0.3 * r, v - 0.45 * r),
                (u + 0.6 * r, v - 0.9 * r),
                (u + 0.55 * r, v + 0.4 * r),
                (u, v + 0.75 * r),
                (u - 0.55 * r, v + 0.4 * r),
            ],
            petal,
        )
        return
    petals = rng.choice([5, 6, 8])
    for i in range(petals):
        t = i * 2 * math.pi / petals
        pen.ellipse(
            u + 0.58 * r * math.cos(t), v + 0.58 * r * math.sin(t), 0.42 * r, 0.26 * r + 0.5 * r / petals, petal, t
        )
    pen.disc(u, v, 0.32 * r, rng.choice([(250, 205, 40), (95, 55, 30), (255, 235, 130)]))


def flower(pen: Pen, rng: Random, pose: str) -> None:
    green = hsv(rng.uniform(0.26, 0.38), 0.8, rng.uniform(0.4, 0.65))
    petal = hsv(
        rng.choice([0.0, 0.93, 0.85, 0.75, 0.13, 0.05, 0.65]) + rng.uniform(-0.02, 0.02),
        rng.uniform(0.55, 1),
        rng.uniform(0.8, 1),
    )
    if rng.random() < 0.15:
        petal = (252, 252, 250)
    if pose == "single":
        pen.line([(0, 0), (0.03, -0.4), (0, -0.7)], 0.05, green)
        for side in (-1, 1):
            pen.ellipse(side * 0.13, -0.25 + side * 0.05, 0.14, 0.055, green, side * -0.5)
        _bloom(pen, 0, -0.72, 0.28, rng, petal)
    else:
        heads = [(-0.3, -0.62), (0.3, -0.6), (0.0, -0.8), (-0.12, -0.52), (0.16, -0.5)][: rng.randint(3, 5)]
        for u, v in heads:
            pen.line([(u * 0.2, -0.1), (u, v)], 0.035, green)
        if pose == "pot":
            pen.polygon(
                [(-0.2, -0.3), (0.2, -0.3), (0.14, 0), (-0.14, 0)],
                rng.choice([(190, 95, 55), (225, 225, 230), (80, 120, 170)]),
            )
        for u, v in heads:
            _bloom(pen, u, v, 0.19, rng, petal if rng.random() < 0.6 else near(rng, petal, 60))


def boat(pen: Pen, rng: Random, pose: str) -> None:
    hull = rng.choice([vivid(rng), (245, 245, 245), (120, 70, 40), (35, 50, 90)])
    if pose == "sailing":
        sail = rng.choice([(252, 252, 248), (252, 252, 248), vivid(rng)])
        pen.line([(0, -0.2), (0, -1.0)], 0.04, (90, 65, 45))
        pen.polygon([(0.03, -0.96), (0.03, -0.3), (0.45, -0.3)], sail)
        pen.polygon([(-0.03, -0.88), (-0.03, -0.3), (-0.38, -0.3)], shade(sail, 0.88))
        pen.polygon([(-0.55, -0.23), (0.6, -0.23), (0.42, 0.0), (-0.4, 0.0)], hull)
    elif pose == "motor":
        pen.box(-0.5, -0.85, 0.3, -0.45, (240, 240, 245))
        for u in (-0.32, -0.02):
            pen.box(u - 0.1, -0.77, u + 0.1, -0.58, (70, 110, 150), edge=False)
        pen.box(-0.4, -1.0, -0.2, -0.85, vivid(rng))
        pen.polygon([(-0.9, -0.45), (1.0, -0.48), (0.7, 0.0), (-0.75, 0.0)], hull)
        pen.line([(-0.83, -0.25), (0.86, -0.27)], 0.06, (250, 250, 250) if sum(hull) < 600 else (200, 40, 40))
    else:  # a rowing boat
        pen.line([(-0.2, -0.9), (0.45, 0.05)], 0.06, (150, 100, 55))
        pen.polygon([(-1.0, -0.62), (-0.6, -0.5), (0.6, -0.5), (1.05, -0.66), (0.7, 0.0), (-0.65, 0.0)], hull)
        pen.line([(-0.8, -0.4), (0.86, -0.4)], 0.07, shade(hull, 0.65))
    for k in range(3):
        u = -0.5 + k * 0.45
        pen.line([(u, 0.03), (u + 0.28, 0.03)], 0.035, (235, 245, 255))


def house(pen: Pen, rng: Random, pose: str) -> None:
    wall = rng.choice([pastel(rng), (245, 240, 230), (200, 120, 90), (225, 200, 150)])
    roof = rng.choice([(165, 60, 45), (110, 55, 40), (80, 85, 100), (60, 90, 70)])
    pen.box(0.18, -0.98, 0.3, -0.6, shade(roof, 0.8))
    pen.box(-0.46, -0.58, 0.46, 0, wall)
    if pose == "broad":
        pen.polygon([(-0.58, -0.55), (-0.36, -0.92), (0.36, -0.92), (0.58, -0.55)], roof)
    else:
        pen.polygon([(-0.58, -0.55), (0, -1.0), (0.58, -0.55)], roof)
    pen.box(-0.09, -0.3, 0.09, 0, dark(rng))
    lit = rng.choice([GLASS, (255, 230, 130), (90, 110, 135)])
    for u in (-0.28, 0.28):
        pen.box(u - 0.1, -0.45, u + 0.1, -0.25, lit)
        pen.line([(u, -0.45), (u, -0.25)], 0.02, (250, 250, 250))


def balloon(pen: Pen, rng: Random, pose: str) -> None:
    count = 1 if pose == "one" else rng.randint(2, 4)
    r = 0.27 if count == 1 else 0.2
    spots = [(0.0, -0.68)] if count == 1 else [(-0.24, -0.66), (0.22, -0.62), (0.0, -0.76), (0.05, -0.5)][:count]
    for u, v in spots:
        pen.line(
            [(u, v + r), (u * 0.5 + rng.uniform(-0.03, 0.03), (v + r) * 0.5), (0, 0)],
            0.018,
            rng.choice([(90, 90, 95), (240, 240, 240)]),
        )
    for u, v in spots:
        colour = vivid(rng)
        pen.polygon([(u - 0.06, v + 1.32 * r), (u + 0.06, v + 1.32 * r), (u, v + r)], shade(colour, 0.8))
        pen.ellipse(u, v, r, 1.16 * r, colour)
        pen.ellipse(u - 0.38 * r, v - 0.45 * r, 0.16 * r, 0.28 * r, mix(colour, (255, 255, 255), 0.65), 0.5, edge=False)


OBJECTS = {
    "cake": (cake, {"plain": 1.25, "tiered": 1.25}),
    "car": (car, {"sedan": 2.25, "hatchback": 1.9, "van": 1.95}),
    "bicycle": (bicycle, {"plain": 1.9, "basket": 1.9}),
    "tree": (tree, {"round": 0.75, "fir": 0.78, "palm": 1.0}),
    "flower": (flower, {"single": 0.56, "bunch": 0.98, "pot": 0.98}),
    "boat": (boat, {"sailing": 1.2, "motor": 1.95, "rowing": 2.1}),
    "house": (house, {"gable": 1.18, "broad": 1.18}),
    "balloon": (balloon, {"one": 0.56, "several": 0.9}),
}
