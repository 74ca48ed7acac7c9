"""Paints the place of a scene: the background, and where things can stand, float and hang in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw

from .pen import Colour, Pen, dark, hsv, mix, near, pastel, shade, vivid


@dataclass(frozen=True)
class Place:
    """A place. Heights are fractions of the picture's height, from the top."""

    name: str
    horizon: float
    """The height below which feet stand."""
    water: tuple[float, float] | None = None
    """The band that contains the waterline of a boat."""
    shows: str | None = None
    """The concept that the place itself shows: beach or snow."""


def _bands(image: Image.Image, stops: list[tuple[float, Colour]]) -> None:
    """Fills the picture with a vertical gradient through the stops."""
    column = Image.new("RGB", (1, 64))
    pixels = []
    for i in range(64):
        t = i / 63
        for (a, low), (b, high) in pairwise(stops):
            if t <= b or (b, high) == stops[-1]:
                pixels.append(mix(low, high, 0 if b == a else min(1.0, max(0.0, (t - a) / (b - a)))))
                break
    column.putdata(pixels)
    image.paste(column.resize(image.size, Image.BILINEAR))


def _bands_below(image: Image.Image, horizon: float, near_horizon: Colour, bottom: Colour) -> None:
    """Fills the part below the horizon with a vertical gradient."""
    w, h = image.size
    top = int(horizon * h)
    column = Image.new("RGB", (1, 2))
    column.putdata([near_horizon, bottom])
    image.paste(column.resize((w, h - top), Image.BILINEAR), (0, top))


def _sky(rng: Random) -> tuple[Colour, Colour]:
    kind = rng.random()
    if kind < 0.6:
        top = hsv(rng.uniform(0.54, 0.62), rng.uniform(0.35, 0.75), rng.uniform(0.75, 1))
        return top, mix(top, (255, 255, 255), rng.uniform(0.3, 0.7))
    if kind < 0.78:  # overcast
        grey = rng.randint(150, 215)
        return (grey, grey, min(255, grey + 8)), (grey + 25, grey + 25, grey + 28)
    if kind < 0.92:  # evening
        return hsv(rng.uniform(0.6, 0.75), 0.5, rng.uniform(0.45, 0.8)), hsv(
            rng.uniform(0.02, 0.1), rng.uniform(0.4, 0.7), 1
        )
    night = hsv(rng.uniform(0.6, 0.68), 0.6, rng.uniform(0.2, 0.38))
    return night, shade(night, 1.5)


def _sun_and_clouds(draw: ImageDraw.ImageDraw, w: int, h: int, horizon: float, rng: Random) -> None:
    if rng.random() < 0.3:
        r = h * rng.uniform(0.04, 0.08)
        x, y = rng.uniform(0.1, 0.9) * w, rng.uniform(0.08, max(0.1, horizon * 0.5)) * h
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice([(255, 235, 130), (255, 250, 220), (255, 200, 90)]))
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        x, y, r = rng.uniform(0, w), rng.uniform(0.05, max(0.08, horizon * 0.6)) * h, h * rng.uniform(0.03, 0.07)
        tone = rng.randint(225, 255)
        for k in (-1, 0, 1):
            draw.ellipse((x + k * 1.3 * r - 1.4 * r, y - r, x + k * 1.3 * r + 1.4 * r, y + r), fill=(tone, tone, tone))


def _hills(draw: ImageDraw.ImageDraw, w: int, h: int, horizon: float, colour: Colour, rng: Random) -> None:
    for _ in range(rng.choice([0, 1, 2, 3])):
        x, rx, ry = rng.uniform(0, w), rng.uniform(0.25, 0.6) * w, rng.uniform(0.05, 0.16) * h
        draw.ellipse((x - rx, horizon * h - ry, x + rx, horizon * h + ry * 2), fill=near(rng, colour, 16))


def _specks(draw: ImageDraw.ImageDraw, w: int, h: int, top: float, colour: Colour, count: int, rng: Random) -> None:
    for _ in range(count):
        x, y, r = rng.uniform(0, w), rng.uniform(top, 1.0) * h, rng.uniform(0.004, 0.012) * h
        draw.ellipse((x - 2 * r, y - r, x + 2 * r, y + r), fill=near(rng, colour, 14))


def meadow(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Random) -> Place:
    w, h = image.size
    horizon = rng.uniform(0.35, 0.62)
    top, low = _sky(rng)
    grass = hsv(rng.uniform(0.2, 0.36), rng.uniform(0.4, 0.75), rng.uniform(0.45, 0.8))
    _bands(image, [(0, top), (horizon, low), (horizon, grass), (1, shade(grass, rng.uniform(0.7, 1.1)))])
    _sun_and_clouds(draw, w, h, horizon, rng)
    _hills(draw, w, h, horizon, shade(grass, 0.85), rng)
    _bands_below(image, horizon, grass, shade(grass, rng.uniform(0.7, 1.1)))
    _specks(draw, w, h, horizon + 0.04, shade(grass, 0.8), rng.randint(0, 18), rng)
    if rng.random() < 0.25:  # a fence
        colour = rng.choice([(245, 245, 240), (150, 105, 65)])
        y = (horizon + 0.03) * h
        for x in range(0, w, max(6, w // 16)):
            draw.rectangle((x, y - 0.1 * h, x + w // 60, y + 0.03 * h), fill=colour)
        draw.rectangle((0, y - 0.07 * h, w, y - 0.05 * h), fill=colour)
    return Place("meadow", horizon)


def street(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Random) -> Place:
    w, h = image.size
    horizon = rng.uniform(0.42, 0.62)
    top, low = _sky(rng)
    tone = rng.randint(90, 150)
    road = (tone, tone, tone + 4)
    _bands(image, [(0, top), (horizon, low), (horizon, road), (1, shade(road, rng.uniform(0.75, 1.1)))])
    _sun_and_clouds(draw, w, h, horizon, rng)
    if rng.random() < 0.5:  # a long wall
        wall = near(rng, rng.choice([(190, 120, 95), (205, 195, 180), (150, 155, 160)]), 15)
        up = horizon - rng.uniform(0.1, 0.3)
        draw.rectangle((0, up * h, w, horizon * h), fill=wall)
        for k in range(1, 4):
            y = (up + (horizon - up) * k / 4) * h
            draw.line((0, y, w, y), fill=shade(wall, 0.9))
    kerb = (horizon + 0.06) * h
    draw.rectangle((0, horizon * h, w, kerb), fill=(185, 182, 176))
    if rng.random() < 0.6:
        y = rng.uniform(0.75, 0.92) * h
        for x in range(-w // 8, w, w // 5):
            draw.rectangle((x, y, x + w // 10, y + 0.02 * h), fill=(240, 235, 215))
    return Place("street", horizon + 0.05)


def beach(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Random) -> Place:
    w, h = image.size
    horizon = rng.uniform(0.25, 0.45)
    shore = horizon + rng.uniform(0.14, 0.24)
    top, low = _sky(rng)
    sea = hsv(rng.uniform(0.48, 0.6), rng.uniform(0.5, 0.85), rng.uniform(0.5, 0.85))
    sand = hsv(rng.uniform(0.1, 0.14), rng.uniform(0.25, 0.5), rng.uniform(0.82, 1))
    _bands(
        image,
        [
            (0, top),
            (horizon, low),
            (horizon, shade(sea, 0.85)),
            (shore, shade(sea, 1.15)),
            (shore, sand),
            (1, shade(sand, 0.93)),
        ],
    )
    _sun_and_clouds(draw, w, h, horizon, rng)
    for k in range(7):  # the line of foam
        x, r = (k + rng.uniform(-0.3, 0.3)) * w / 6, w * 0.1
        draw.ellipse((x - r, (shore - 0.02) * h, x + r, (shore + 0.025) * h), fill=(248, 250, 252))
        draw.ellipse((x - r, (shore + 0.005) * h, x + r, (shore + 0.05) * h), fill=sand)
    for _ in range(rng.randint(2, 6)):
        x, y = rng.uniform(0, w), rng.uniform(horizon + 0.02, shore - 0.04) * h
        draw.line((x, y, x + w * 0.06, y), fill=shade(sea, 1.35), width=max(1, h // 120))
    _specks(draw, w, h, shore + 0.06, shade(sand, 0.88), rng.randint(5, 25), rng)
    if rng.random() < 0.35:  # a sunshade
        pen = Pen(draw, rng.choice([0.1, 0.9]) * w, (shore + 0.2) * h, 0.34 * h, lean=rng.uniform(-0.15, 0.15))
        pen.line([(0, 0), (0, -0.9)], 0.04, (240, 240, 235))
        a, b = vivid(rng), (250, 250, 245)
        for k in range(4):
            pen.polygon([(0, -1), (-0.5 + k * 0.25, -0.68), (-0.25 + k * 0.25, -0.68)], a if k % 2 else b)
    if rng.random() < 0.3:  # a towel
        x, y = rng.uniform(0.1, 0.7) * w, rng.uniform(shore + 0.12, 0.9) * h
        draw.polygon(
            [(x, y), (x + 0.18 * w, y), (x + 0.22 * w, y + 0.07 * h), (x + 0.04 * w, y + 0.07 * h)], fill=vivid(rng)
        )
    return Place("beach", shore + 0.05, water=(horizon + 0.05, shore - 0.02), shows="beach")


def snow(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Random) -> Place:
    w, h = image.size
    horizon = rng.uniform(0.35, 0.58)
    tone = rng.randint(140, 225)
    top: Colour = (tone - 25, tone - 8, min(255, tone + 18))
    if rng.random() < 0.3:
        top = hsv(0.58, 0.5, rng.uniform(0.5, 0.95))
    white: Colour = (rng.randint(232, 250), rng.randint(238, 252), 255)
    _bands(
        image, [(0, top), (horizon, mix(top, white, 0.5)), (horizon, white), (1, shade(white, rng.uniform(0.88, 1)))]
    )
    for _ in range(rng.randint(1, 4)):
        x, rx, ry = rng.uniform(0, w), rng.uniform(0.2, 0.6) * w, rng.uniform(0.05, 0.15) * h
        draw.ellipse((x - rx, horizon * h - ry, x + rx, horizon * h + ry * 2), fill=near(rng, (236, 242, 250), 7))
    for _ in range(rng.randint(0, 5)):
        x, y, r = rng.uniform(0, w), rng.uniform(horizon + 0.08, 1) * h, rng.uniform(0.03, 0.12) * w
        draw.ellipse((x - r, y, x + r, y + 0.03 * h), fill=shade(white, 0.92))
    if rng.random() < 0.25:  # a snowman
        pen = Pen(draw, rng.choice([0.12, 0.88]) * w, (horizon + 0.14) * h, 0.3 * h, ink=(150, 160, 180))
        pen.disc(0, -0.25, 0.26, (252, 252, 255))
        pen.disc(0, -0.65, 0.18, (252, 252, 255))
        pen.polygon([(0, -0.68), (0.2, -0.63), (0, -0.6)], (240, 130, 40), edge=False)
    return Place("snow", horizon + 0.03, shows="snow")


def flakes(draw: ImageDraw.ImageDraw, w: int, h: int, rng: Random) -> None:
    """Falling snow in front of everything, with small flakes."""
    for _ in range(rng.randint(25, 80)):
        x, y, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.004, 0.011) * h
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(252, 253, 255))


def lake(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Random) -> Place:
    w, h = image.size
    horizon = rng.uniform(0.3, 0.45)
    shore = horizon + rng.uniform(0.18, 0.3)
    top, low = _sky(rng)
    water = hsv(rng.uniform(0.5, 0.62), rng.uniform(0.35, 0.7), rng.uniform(0.4, 0.75))
    grass = hsv(rng.uniform(0.22, 0.36), rng.uniform(0.4, 0.75), rng.uniform(0.4, 0.7))
    _bands(
        image,
        [
            (0, top),
            (horizon, low),
            (horizon, water),
            (shore, shade(water, 1.15)),
            (shore, grass),
            (1, shade(grass, 0.85)),
        ],
    )
    _sun_and_clouds(draw, w, h, horizon, rng)
    far = shade(grass, 0.75)
    for _ in range(rng.randint(1, 3)):
        x, rx, ry = rng.uniform(0, w), rng.uniform(0.2, 0.5) * w, rng.uniform(0.03, 0.12) * h
        draw.pieslice((x - rx, horizon * h - ry, x + rx, horizon * h + ry), 180, 360, fill=near(rng, far, 14))
    draw.rectangle((0, (horizon - 0.012) * h, w, horizon * h), fill=far)
    for _ in range(rng.randint(2, 7)):
        x, y = rng.uniform(0, w), rng.uniform(horizon + 0.02, shore - 0.02) * h
        draw.line((x, y, x + w * 0.07, y), fill=shade(water, 1.3), width=max(1, h // 120))
    return Place("lake", shore + 0.05, water=(horizon + 0.06, shore - 0.02))


def room(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Random) -> Place:
    w, h = image.size
    horizon = rng.uniform(0.5, 0.68)
    wall = rng.choice([pastel(rng), near(rng, (225, 215, 200), 20), hsv(rng.random(), 0.3, rng.uniform(0.4, 0.75))])
    floor = near(rng, rng.choice([(165, 115, 70), (200, 165, 120), (120, 85, 60), (170, 165, 165)]), 15)
    _bands(image, [(0, shade(wall, 1.05)), (horizon, shade(wall, 0.93)), (horizon, floor), (1, shade(floor, 0.85))])
    draw.rectangle((0, (horizon - 0.02) * h, w, horizon * h), fill=rng.choice([(245, 245, 240), shade(wall, 0.7)]))
    if rng.random() < 0.4:  # a window
        x, y = rng.uniform(0.05, 0.7) * w, rng.uniform(0.06, 0.14) * h
        ww, hh = 0.24 * w, 0.28 * h
        draw.rectangle((x, y, x + ww, y + hh), fill=(250, 250, 248))
        glass = _sky(rng)[0]
        for k in (0, 1):
            draw.rectangle(
                (x + ww * (0.06 + 0.48 * k), y + hh * 0.06, x + ww * (0.46 + 0.48 * k), y + hh * 0.94), fill=glass
            )
    if rng.random() < 0.3:  # a framed pattern on the wall
        x, y = rng.uniform(0.05, 0.8) * w, rng.uniform(0.08, 0.2) * h
        draw.rectangle((x, y, x + 0.14 * w, y + 0.14 * h), fill=dark(rng))
        draw.rectangle((x + 0.015 * w, y + 0.02 * h, x + 0.125 * w, y + 0.12 * h), fill=pastel(rng))
    if rng.random() < 0.3:  # a sofa
        x, colour = rng.uniform(-0.1, 0.6) * w, hsv(rng.random(), rng.uniform(0.2, 0.6), rng.uniform(0.4, 0.8))
        draw.rounded_rectangle(
            (x, (horizon - 0.2) * h, x + 0.45 * w, (horizon + 0.05) * h), radius=0.04 * h, fill=colour
        )
        draw.rounded_rectangle(
            (x - 0.03 * w, (horizon - 0.08) * h, x + 0.48 * w, (horizon + 0.08) * h),
            radius=0.03 * h,
            fill=shade(colour, 0.85),
        )
    if rng.random() < 0.4:  # a rug
        colour = vivid(rng)
        draw.ellipse(
            (rng.uniform(0, 0.3) * w, (horizon + 0.08) * h, rng.uniform(0.6, 1) * w, 0.97 * h),
            fill=mix(colour, floor, 0.4),
        )
    return Place("room", horizon + 0.04)


def backdrop(image: Image.Image, _: ImageDraw.ImageDraw, rng: Random) -> Place:
    """A photographer's backdrop: a gradient between two colours."""
    tone = rng.choice([pastel(rng), dark(rng), hsv(rng.random(), 0.4, 0.7)])
    _bands(image, [(0, tone), (1, shade(tone, rng.uniform(0.75, 1.25)))])
    return Place("backdrop", rng.uniform(0.35, 0.6))


PLACES = {
    "meadow": meadow,
    "street": street,
    "beach": beach,
    "snow": snow,
    "lake": lake,
    "room": room,
    "backdrop": backdrop,
}
