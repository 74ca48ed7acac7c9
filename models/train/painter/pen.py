"""A pen with a coordinate system of its own, so that a thing is drawn by the same code at every place and size.

A thing is drawn in its own units: the origin is the middle of its foot, y points down, and its height is 1 (so its top lies at
y = -1). The pen moves, scales, mirrors and tilts it.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from random import Random

from PIL import ImageDraw

Colour = tuple[int, int, int]

# Points of a unit circle, enough for curves of up to about 150 pixels.
_CIRCLE = [(math.cos(i * math.pi / 12), math.sin(i * math.pi / 12)) for i in range(24)]


@dataclass(frozen=True)
class Hand:
    """Another style of drawing, for a second test: other proportions and unsteady lines."""

    stretch: float
    """The factor of the width relative to the height."""
    wobble: float
    """The displacement of points, in units."""
    phase: float

    def move(self, u: float, v: float) -> tuple[float, float]:
        return (
            self.stretch * (u + self.wobble * math.sin(11.0 * v + 5.0 * u + self.phase)),
            v + self.wobble * math.sin(9.0 * u - 4.0 * v + 2.3 * self.phase),
        )

    @staticmethod
    def another(rng: Random) -> Hand:
        return Hand(
            rng.choice([rng.uniform(0.72, 0.86), rng.uniform(1.16, 1.35)]),
            rng.uniform(0.012, 0.03),
            rng.uniform(0, 6.3),
        )


class Pen:
    """Draws shapes given in a thing's own units (see the module's docstring)."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        x: float,
        y: float,
        size: float,
        *,
        mirrored: bool = False,
        lean: float = 0.0,
        ink: Colour | None = None,
        edge: float = 0.012,
        hand: Hand | None = None,
    ) -> None:
        """`x`, `y`: the foot in pixels. `size`: pixels per unit. `lean`: radians. `ink`: the colour of outlines, None for no
        outlines. `edge`: the width of outlines in units. `hand`: None for the usual style."""
        self.draw = draw
        self.x, self.y, self.size = x, y, size
        self.side = -1.0 if mirrored else 1.0
        self.cos, self.sin = math.cos(lean) * size, math.sin(lean) * size
        self.hand = hand
        self.upright = abs(lean) < 1e-9 and hand is None
        self.ink = ink
        self.edge = edge

    def at(self, u: float, v: float) -> tuple[float, float]:
        """The pixel of the point (u, v) of the thing."""
        if self.hand is not None:
            u, v = self.hand.move(u, v)
        return (
            self.x + self.side * (u * self.cos - v * self.sin),
            self.y + u * self.sin + v * self.cos,
        )

    def ellipse(
        self, u: float, v: float, ru: float, rv: float, fill: Colour, turn: float = 0.0, *, edge: bool = True
    ) -> None:
        """An ellipse around (u, v) with radii `ru`, `rv`, turned by `turn` radians."""
        if edge and self.ink is not None:
            self._ellipse(u, v, ru + self.edge, rv + self.edge, self.ink, turn)
        self._ellipse(u, v, ru, rv, fill, turn)

    def _ellipse(self, u: float, v: float, ru: float, rv: float, fill: Colour, turn: float) -> None:
        if self.upright and turn == 0.0:
            x, y = self.at(u, v)
            a, b = ru * self.size, rv * self.size
            self.draw.ellipse((x - a, y - b, x + a, y + b), fill=fill)
            return
        c, s = math.cos(turn), math.sin(turn)
        self.draw.polygon(
            [self.at(u + p * ru * c - q * rv * s, v + p * ru * s + q * rv * c) for p, q in _CIRCLE], fill=fill
        )

    def disc(self, u: float, v: float, r: float, fill: Colour, *, edge: bool = True) -> None:
        self.ellipse(u, v, r, r, fill, edge=edge)

    def polygon(self, points: list[tuple[float, float]], fill: Colour, *, edge: bool = True) -> None:
        pixels = [self.at(u, v) for u, v in points]
        if edge and self.ink is not None:
            width = max(1, round(2 * self.edge * self.size))
            self.draw.line(pixels + pixels[:2], fill=self.ink, width=width, joint="curve")
        self.draw.polygon(pixels, fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour, *, edge: bool = True) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill, edge=edge)

    def line(self, points: list[tuple[float, float]], width: float, fill: Colour, *, edge: bool = False) -> None:
        """A stroke of `width` units with round joints, and with round ends if it has three points or more."""
        pixels = [self.at(u, v) for u, v in points]
        if edge and self.ink is not None:
            self.draw.line(
                pixels, fill=self.ink, width=max(1, round((width + 2 * self.edge) * self.size)), joint="curve"
            )
        self.draw.line(pixels, fill=fill, width=max(1, round(width * self.size)), joint="curve")

    def limb(self, a: tuple[float, float], b: tuple[float, float], width: float, fill: Colour) -> None:
        """A thick stroke with round ends: an arm, a leg, a tail."""
        if self.ink is not None:
            self._limb(a, b, width + 2 * self.edge, self.ink)
        self._limb(a, b, width, fill)

    def _limb(self, a: tuple[float, float], b: tuple[float, float], width: float, fill: Colour) -> None:
        r = width * self.size / 2
        (x0, y0), (x1, y1) = self.at(*a), self.at(*b)
        self.draw.line((x0, y0, x1, y1), fill=fill, width=max(1, round(2 * r)))
        for x, y in ((x0, y0), (x1, y1)):
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def ring(self, u: float, v: float, r: float, width: float, fill: Colour) -> None:
        x, y = self.at(u, v)
        a = r * self.size
        self.draw.ellipse((x - a, y - a, x + a, y + a), outline=fill, width=max(1, round(width * self.size)))

    def arc(
        self, u: float, v: float, ru: float, rv: float, start: float, end: float, width: float, fill: Colour
    ) -> None:
        """Part of an ellipse as a stroke; angles in degrees, clockwise from the right."""
        steps = 7
        points = []
        for i in range(steps + 1):
            t = math.radians(start + (end - start) * i / steps)
            points.append((u + ru * math.cos(t), v + rv * math.sin(t)))
        self.line(points, width, fill)


def hsv(h: float, s: float, v: float) -> Colour:
    """A colour from hue, saturation and value, each from 0 to 1."""
    r, g, b = colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))
    return int(r * 255), int(g * 255), int(b * 255)


def near(rng: Random, colour: Colour, spread: int = 18) -> Colour:
    """A colour similar to `colour`."""
    return tuple(min(255, max(0, c + rng.randint(-spread, spread))) for c in colour)  # type: ignore[return-value]


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` darker (factor below 1) or lighter (above)."""
    return tuple(min(255, max(0, int(c * factor))) for c in colour)  # type: ignore[return-value]


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """The colour at `t`, from 0 to 1, between `a` and `b`."""
    return tuple(int(p + (q - p) * t) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def vivid(rng: Random) -> Colour:
    return hsv(rng.random(), rng.uniform(0.55, 1.0), rng.uniform(0.6, 1.0))


def pastel(rng: Random) -> Colour:
    return hsv(rng.random(), rng.uniform(0.15, 0.45), rng.uniform(0.85, 1.0))


def dark(rng: Random) -> Colour:
    return hsv(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.12, 0.45))
