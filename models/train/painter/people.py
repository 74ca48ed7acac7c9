"""Paints a baby, a child and an adult. Proportions tell them apart: the head is more than half as tall as a sitting baby, a
third of a child and a seventh of an adult."""

from __future__ import annotations

from random import Random

from .pen import Colour, Pen, dark, near, pastel, shade, vivid

SKIN: list[Colour] = [(255, 219, 190), (245, 200, 165), (224, 172, 130), (190, 135, 95), (141, 92, 60), (98, 63, 42)]
HAIR: list[Colour] = [
    (40, 28, 22),
    (85, 55, 30),
    (140, 90, 45),
    (215, 170, 90),
    (180, 75, 35),
    (20, 20, 24),
    (150, 150, 150),
]


def _face(pen: Pen, u: float, v: float, r: float, rng: Random, *, cheeks: bool = False) -> None:
    black = (30, 22, 22)
    for side in (-1, 1):
        pen.disc(u + side * 0.38 * r, v - 0.05 * r, 0.12 * r, black, edge=False)
        if cheeks:
            pen.disc(u + side * 0.58 * r, v + 0.3 * r, 0.18 * r, (250, 140, 130), edge=False)
    if rng.random() < 0.8:
        pen.arc(u, v + 0.2 * r, 0.4 * r, 0.35 * r, 20, 160, 0.1 * r, (150, 40, 45))


def _baby_head(pen: Pen, u: float, v: float, r: float, skin: Colour, rng: Random) -> None:
    for side in (-1, 1):
        pen.disc(u + side * r, v + 0.08 * r, 0.2 * r, skin)
    pen.disc(u, v, r, skin)
    _face(pen, u, v, r, rng, cheeks=True)
    look = rng.random()
    if look < 0.35:
        hair = rng.choice(HAIR[:5])
        pen.line(
            [(u - 0.05 * r, v - 0.95 * r), (u + 0.12 * r, v - 1.2 * r), (u + 0.25 * r, v - 1.0 * r)], 0.12 * r, hair
        )
    elif look < 0.6:  # a cap with a bobble
        cap = pastel(rng)
        pen.polygon(
            [
                (u - r, v - 0.3 * r),
                (u - 0.8 * r, v - 0.8 * r),
                (u, v - 1.12 * r),
                (u + 0.8 * r, v - 0.8 * r),
                (u + r, v - 0.3 * r),
            ],
            cap,
        )
        pen.disc(u, v - 1.12 * r, 0.18 * r, shade(cap, 0.85))
    if rng.random() < 0.5:  # a dummy
        pen.ellipse(u, v + 0.45 * r, 0.3 * r, 0.22 * r, vivid(rng), edge=False)
        pen.disc(u, v + 0.45 * r, 0.12 * r, (255, 250, 240), edge=False)


def baby(pen: Pen, rng: Random, pose: str) -> None:
    skin = near(rng, rng.choice(SKIN), 8)
    suit = pastel(rng)
    trim = shade(suit, 0.75)
    if pose == "sitting":
        bare = rng.random() < 0.3
        body = skin if bare else suit
        swing = rng.uniform(-0.12, 0.12)
        for side in (-1, 1):
            pen.limb((side * 0.2, -0.36), (side * (0.34 + swing * side), -0.2 - abs(swing)), 0.11, body)
            pen.disc(side * (0.36 + swing * side), -0.19 - abs(swing), 0.055, skin)
        pen.ellipse(0, -0.24, 0.23, 0.25, body)
        if bare:
            pen.ellipse(0, -0.11, 0.24, 0.12, (250, 250, 252))
        else:
            pen.ellipse(0, -0.24, 0.1, 0.14, trim, edge=False)
        for side in (-1, 1):
            pen.limb((side * 0.15, -0.08), (side * 0.33, -0.06), 0.13, body)
            pen.disc(side * 0.38, -0.08, 0.07, skin if bare else trim)
        _baby_head(pen, rng.uniform(-0.03, 0.03), -0.68, 0.28, skin, rng)
    elif pose == "crawling":
        for u in (-0.4, 0.22):
            pen.limb((u, -0.35), (u + rng.uniform(-0.06, 0.1), -0.07), 0.17, suit)
            pen.disc(u + 0.06, -0.06, 0.07, skin)
        pen.ellipse(-0.1, -0.4, 0.46, 0.24, suit)
        pen.ellipse(-0.38, -0.4, 0.2, 0.23, (248, 248, 252) if rng.random() < 0.5 else trim)
        _baby_head(pen, 0.4, -0.66, 0.31, skin, rng)
    else:  # wrapped in a blanket
        pen.ellipse(-0.2, -0.36, 0.72, 0.36, suit)
        for i in range(3):
            pen.line([(-0.72 + i * 0.32, -0.58), (-0.5 + i * 0.32, -0.12)], 0.045, trim)
        pen.disc(0.5, -0.5, 0.45, shade(suit, 1.06))
        _baby_head(pen, 0.5, -0.5, 0.36, skin, rng)


def child(pen: Pen, rng: Random, pose: str) -> None:
    skin = near(rng, rng.choice(SKIN), 8)
    hair = rng.choice(HAIR[:6])
    shirt, below = vivid(rng), vivid(rng)
    girl = rng.random() < 0.5
    stride = rng.uniform(0.05, 0.14) if pose == "running" else 0.07
    for side in (-1, 1):
        foot = side * stride * (1.5 if pose == "running" else 1.0)
        lift = 0.09 if pose == "running" and side > 0 else 0.0
        pen.limb((side * 0.06, -0.3), (foot, -0.05 - lift), 0.085, skin)
        pen.ellipse(foot + 0.025, -0.035 - lift, 0.075, 0.04, vivid(rng))
    if girl:
        pen.polygon([(-0.08, -0.6), (0.08, -0.6), (0.21, -0.22), (-0.21, -0.22)], shirt)
        pen.line([(-0.2, -0.25), (0.2, -0.25)], 0.035, shade(shirt, 0.7))
    else:
        pen.polygon(
            [(-0.13, -0.36), (0.13, -0.36), (0.15, -0.19), (0.01, -0.19), (0, -0.26), (-0.01, -0.19), (-0.15, -0.19)],
            below,
        )
        pen.polygon([(-0.11, -0.61), (0.11, -0.61), (0.135, -0.34), (-0.135, -0.34)], shirt)
        if rng.random() < 0.6:
            for v in (-0.54, -0.46, -0.38):
                pen.line([(-0.115, v), (0.115, v)], 0.03, (250, 250, 250))
    for side in (-1, 1):
        up = pose == "arms up" or rng.random() < 0.2
        hand = (side * rng.uniform(0.22, 0.3), -0.8 if up else rng.uniform(-0.4, -0.32))
        pen.limb((side * 0.11, -0.56), hand, 0.065, skin)
    if girl:
        for side in (-1, 1):
            pen.ellipse(side * 0.2, -0.74, 0.055, 0.1, hair, side * 0.3)
    pen.disc(0, -0.79, 0.175, skin)
    pen.polygon(
        [
            (-0.18, -0.8),
            (-0.16, -0.91),
            (-0.07, -0.985),
            (0.07, -0.985),
            (0.16, -0.91),
            (0.18, -0.8),
            (0.1, -0.88),
            (-0.06, -0.87),
        ],
        hair,
    )
    if rng.random() < 0.25:
        cap = vivid(rng)
        pen.polygon([(-0.18, -0.87), (-0.12, -0.98), (0.12, -0.98), (0.18, -0.87)], cap)
        pen.line([(0.05, -0.87), (0.29, -0.86)], 0.035, cap)
    _face(pen, 0, -0.77, 0.16, rng)


def adult(pen: Pen, rng: Random, pose: str) -> None:
    skin = near(rng, rng.choice(SKIN), 8)
    hair = rng.choice(HAIR)
    top = rng.choice([vivid, dark, pastel])(rng)
    legs = dark(rng)
    woman = rng.random() < 0.5
    skirt = woman and rng.random() < 0.5
    stride = 0.12 if pose == "walking" else 0.055
    for side in (-1, 1):
        pen.limb((side * 0.045, -0.48), (side * stride, -0.05), 0.085, skin if skirt else legs)
        pen.ellipse(side * stride + 0.03, -0.025, 0.06, 0.025, (40, 30, 28))
    if woman:  # long hair behind the shoulders
        pen.ellipse(0, -0.85, 0.09, 0.13, hair)
    for side in (-1, 1):
        if pose == "waving" and side > 0:
            hand = (0.24, -0.97)
        elif pose == "arms out":
            hand = (side * 0.3, -0.62)
        else:
            hand = (side * rng.uniform(0.14, 0.2), -0.45)
        pen.limb((side * 0.1, -0.77), hand, 0.055, top)
        pen.disc(hand[0], hand[1], 0.03, skin)
    if skirt:
        pen.polygon([(-0.07, -0.55), (0.07, -0.55), (0.17, -0.2), (-0.17, -0.2)], legs if rng.random() < 0.5 else top)
    pen.polygon([(-0.12, -0.81), (0.12, -0.81), (0.085, -0.47), (-0.085, -0.47)], top)
    if not woman and rng.random() < 0.4:  # a tie
        pen.line([(0, -0.8), (0, -0.6)], 0.03, vivid(rng))
    pen.limb((0, -0.85), (0, -0.82), 0.045, skin)
    pen.ellipse(0, -0.915, 0.062, 0.075, skin)
    if not woman and rng.random() < 0.35:  # a beard
        pen.polygon([(-0.06, -0.9), (0.06, -0.9), (0.03, -0.84), (-0.03, -0.84)], hair, edge=False)
    pen.polygon([(-0.065, -0.93), (-0.05, -0.98), (0, -1.0), (0.05, -0.98), (0.065, -0.93), (0, -0.955)], hair)
    if rng.random() < 0.2:
        hat = dark(rng)
        pen.line([(-0.12, -0.96), (0.12, -0.96)], 0.025, hat)
        pen.box(-0.065, -1.03, 0.065, -0.96, hat)
    for side in (-1, 1):
        pen.disc(side * 0.025, -0.915, 0.01, (25, 20, 20), edge=False)


# name -> (painter, {pose: width of the thing at height 1})
PEOPLE = {
    "baby": (baby, {"sitting": 0.9, "crawling": 1.45, "wrapped": 1.9}),
    "child": (child, {"standing": 0.6, "arms up": 0.6, "running": 0.64}),
    "adult": (adult, {"standing": 0.42, "walking": 0.46, "waving": 0.5, "arms out": 0.66}),
}
