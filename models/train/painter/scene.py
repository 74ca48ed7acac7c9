"""Composes scenes: which things are shown together, and the truth about what can be seen.

The rule of truth: a thing is present if and only if it was painted. It is painted only if at least `INSIDE` of its box (in
training `TRAINING_INSIDE`) lies within the picture, its box and another one overlap by at most a fifth of the smaller, and it is as tall as `SIZES` says (a
thing too wide for the picture: down to four fifths of the least height). A thing that cannot be placed so is left out of the picture and of the truth.
`beach` and `snow` are places: they fill the background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, TypeVar

from PIL import Image, ImageDraw

from .animals import ANIMALS
from .camera import develop, recompress
from .objects import OBJECTS
from .pen import Hand, Pen, shade
from .people import PEOPLE
from .places import PLACES, Place, flakes

CONCEPTS = (
    "baby", "child", "adult", "dog", "cat", "bird", "cake", "beach",
    "car", "bicycle", "tree", "snow", "flower", "boat", "house", "balloon",
)  # fmt: skip
THINGS = {**PEOPLE, **ANIMALS, **OBJECTS}

# Least and greatest height of a thing that is alone, as fractions of the picture's shorter side.
SIZES = {
    "baby": (0.36, 0.75), "child": (0.48, 0.85), "adult": (0.62, 0.95),
    "dog": (0.38, 0.7), "cat": (0.38, 0.7), "bird": (0.34, 0.65),
    "cake": (0.34, 0.65), "car": (0.28, 0.5), "bicycle": (0.36, 0.58), "tree": (0.5, 0.9),
    "flower": (0.36, 0.75), "boat": (0.26, 0.5), "house": (0.42, 0.75), "balloon": (0.42, 0.75),
}  # fmt: skip
# Relative frequencies of the things.
WEIGHTS = {
    "baby": 1.5, "child": 1.1, "adult": 1.2, "dog": 1.6, "cat": 1.5, "bird": 1.5,
    "cake": 0.9, "car": 0.9, "bicycle": 0.9, "tree": 0.9,
    "flower": 0.9, "boat": 0.9, "house": 0.9, "balloon": 0.9,
}  # fmt: skip
# Relative frequencies of the places, and the things that do not occur in them.
PLACE_WEIGHTS = {"meadow": 2.2, "street": 1.6, "beach": 1.4, "snow": 1.4, "lake": 1.2, "room": 2.2, "backdrop": 0.8}
NOT_IN = {
    "room": {"car", "tree", "house", "boat"},
    "street": {"boat"}, "meadow": {"boat"}, "snow": {"boat", "cake"}, "backdrop": {"boat", "house"},
    "beach": set(), "lake": set(),
}  # fmt: skip

# Least part of a thing's box that lies within the picture: in albums, and in training, whose pictures are meant to be harder.
INSIDE, TRAINING_INSIDE = 0.92, 0.85

# Aspect ratio of a photo -> frequency.
SHAPES = {(4, 3): 0.45, (3, 4): 0.25, (1, 1): 0.12, (3, 2): 0.12, (16, 9): 0.06}
# Number of kinds of things in a photo besides its place -> frequency. A family's album has mostly one or two.
CROWDING = {0: 0.04, 1: 0.44, 2: 0.31, 3: 0.13, 4: 0.06, 5: 0.02}
# The same for training, with more crowded pictures, because these are harder.
TRAINING_CROWDING = {0: 0.04, 1: 0.34, 2: 0.32, 3: 0.18, 4: 0.08, 5: 0.04}


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Key = TypeVar("Key")


@dataclass
class Thing:
    """A thing in a picture. Its box is given in fractions of the picture."""

    name: str
    pose: str
    box: Box


class Site(NamedTuple):
    """The place where a thing is to be painted: its foot (x, y), its height and its box, in pixels."""

    name: str
    painter: Callable[[Pen, Random, str], None]
    pose: str
    x: float
    y: float
    size: float
    box: Box


@dataclass
class Scene:
    """A picture and what it shows."""

    image: Image.Image
    place: str
    things: list[Thing] = field(default_factory=list)
    place_shows: str | None = None

    @property
    def concepts(self) -> frozenset[str]:
        """The concepts that the picture shows."""
        names = {thing.name for thing in self.things}
        return frozenset(names | {self.place_shows} if self.place_shows else names)


def pick(rng: Random, weights: dict[Key, float]) -> Key:
    """A random key of `weights`, drawn with its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _foot(name: str, width: float, size: float, place: Place, w: int, h: int, rng: Random) -> tuple[float, float]:
    """A random position for the foot of a thing, in pixels."""
    half = width * size / 2
    x = rng.uniform(min(half * 0.8, w / 2), max(w - half * 0.8, w / 2))
    if name == "boat" and place.water:
        low, high = place.water
        return x, rng.uniform(low, high) * h
    if name == "balloon":
        return x, rng.uniform(min(size * 1.02, 0.9 * h), 0.98 * h)
    highest = max(place.horizon * h + 0.04 * h, size * 1.02)  # heads stay in the picture
    return x, rng.uniform(min(highest, h), 1.03 * h)


def _arrange(names: list[str], place: Place, w: int, h: int, inside: float, stretch: float, rng: Random) -> list[Site]:
    """Places the things one after another by the rule of truth. Returns them from far to near."""
    placed: list[Site] = []
    crowd = min(1.0, max(0.0, (len(names) - 1) / 4))
    for name in names:
        painter, poses = THINGS[name]
        least, most = SIZES[name]
        most = most - (most - least) * 0.75 * crowd
        for _ in range(12):
            pose = rng.choice(list(poses))
            if name == "bird" and pose == "flying" and rng.random() < 0.3:
                pose = "standing"
            width = poses[pose] * stretch
            size = rng.uniform(least, most) * min(w, h)
            if width * size > 0.98 * w:
                size = 0.98 * w / width
                if size < least * 0.8 * min(w, h):
                    continue
            if name == "bird" and pose == "flying":
                x, y = rng.uniform(0.1, 0.9) * w, rng.uniform(size, max(size, 0.75 * h))
            else:
                x, y = _foot(name, width, size, place, w, h, rng)
            box = (x - width * size / 2, y - size, x + width * size / 2, y)
            if _overlap(box, (0, 0, w, h)) < inside * _area(box):
                continue
            if any(_overlap(box, other.box) > 0.2 * min(_area(box), _area(other.box)) for other in placed):
                continue
            placed.append(Site(name, painter, pose, x, y, size, box))
            break
    # Far things are painted first, things in the air last.
    return sorted(placed, key=lambda site: (site.name == "balloon" or site.pose == "flying", site.y))


def compose(
    rng: Random,
    width: int,
    height: int,
    *,
    crowding: dict[int, float] = CROWDING,
    inside: float = INSIDE,
    place: str | None = None,
    hand: Hand | None = None,
) -> Scene:
    """Paints a scene of `width` x `height` pixels, without antialiasing and without a camera's effects."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    name = place or pick(rng, PLACE_WEIGHTS)
    ground = PLACES[name](image, draw, rng)
    weights = {k: v for k, v in WEIGHTS.items() if k not in NOT_IN[name]}
    if ground.water:
        weights["boat"] *= 3.0
    names: list[str] = []
    for _ in range(pick(rng, crowding)):
        chosen = pick(rng, {k: v for k, v in weights.items() if k not in names})
        names.append(chosen)
        if chosen == "baby":  # an adult is often with the baby
            weights["adult"] *= 1.5
    if len(names) == 1 and rng.random() < 0.12:
        names.append(names[0])  # two of the same kind
    things = []
    for thing, painter, pose, x, y, size, box in _arrange(
        names, ground, width, height, inside, hand.stretch if hand else 1.0, rng
    ):
        soft = rng.random() < 0.25
        lean = (
            rng.uniform(-0.12, 0.12)
            if thing not in ("car", "house", "tree", "bicycle", "cake", "boat")
            else rng.uniform(-0.03, 0.03)
        )
        if thing not in ("balloon", "boat") and pose != "flying" and ground.name != "backdrop" and rng.random() < 0.7:
            _shadow(draw, box, y, height, image, rng)
        ink = None if soft else shade((60, 50, 55), rng.uniform(0.3, 1.1))
        edge = rng.uniform(0.008, 0.018) * 0.5 * min(width, height) / size
        painter(Pen(draw, x, y, size, mirrored=rng.random() < 0.5, lean=lean, ink=ink, edge=edge, hand=hand), rng, pose)
        things.append(Thing(thing, pose, (box[0] / width, box[1] / height, box[2] / width, box[3] / height)))
    if name == "snow" and rng.random() < 0.7:
        flakes(draw, width, height, rng)
    return Scene(image, name, things, ground.shows)


def _shadow(draw: ImageDraw.ImageDraw, box: Box, y: float, h: int, image: Image.Image, rng: Random) -> None:
    x = min(max(int((box[0] + box[2]) / 2), 0), image.width - 1)
    under = image.getpixel((x, min(max(int(y), 0), image.height - 1)))
    flat = rng.uniform(0.015, 0.03) * h
    draw.ellipse((box[0], y - flat, box[2], y + flat), fill=shade(under, 0.75))


def paint_small(seed: int, shape: tuple[int, int], grid: tuple[int, int]) -> Scene:
    """A training picture: painted at about three times the size of the model's input, then resized as in the model's
    preprocessing. `shape`: the photo's aspect ratio; `grid`: (width, height) of the model's input."""
    rng = Random(f"train {seed}")
    w, h = photo_size(shape, 336)
    scene = compose(rng, w, h, crowding=TRAINING_CROWDING, inside=TRAINING_INSIDE)
    scene.image = develop(scene.image.resize(grid, Image.BICUBIC), rng, sharpness=1.0)
    if rng.random() < 0.3:
        scene.image = recompress(scene.image, rng.randint(55, 95))
    return scene


def paint_photo(
    seed: int,
    *,
    longest: int = 480,
    place: str | None = None,
    crowding: dict[int, float] = CROWDING,
    other_hand: bool = False,
) -> Scene:
    """A photo for an album or an evaluation, with a camera's effects, not yet compressed. `other_hand`: draw with proportions
    and lines that training never shows."""
    rng = Random(f"photo {seed}")
    w, h = photo_size(pick(rng, SHAPES), longest)
    hand = Hand.another(Random(f"hand {seed}")) if other_hand else None
    scene = compose(rng, 2 * w, 2 * h, crowding=crowding, place=place, hand=hand)
    scene.image = develop(scene.image.reduce(2), rng, sharpness=longest / 112)
    return scene


def photo_size(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) in pixels of a photo of that aspect ratio; a square photo is a little smaller."""
    a, b = shape
    if a == b:
        longest = longest * 5 // 6
    return (longest, longest * b // a) if a >= b else (longest * a // b, longest)
