"""A file with what has to become of it, and the verdict on what became of it."""

import re
from dataclasses import dataclass, field

import numpy
import reference
from decoder import Refusal

# Outcomes, the columns of the table at the end.
EQUAL = "equal"
REFUSED = "refused by name"
ERROR = "error"
SOUND = "damage without effect"
UNNOTICED = "damage unnoticed by both"
FAILED = "failed"


class Wrong(Exception):
    """What differs from what was expected."""


@dataclass
class Case:
    """One file; `name` tells it from the others of its group and coding. `expected` is one of the
    classes below. `wanted` is the size at which the caller will look at the picture, by which a
    decoder may make it smaller."""

    coding: str
    name: str
    data: bytes
    expected: object = field(default_factory=lambda: Pillow())
    wanted: tuple | None = None

    @property
    def file_name(self):
        return re.sub(r"[^\w.+-]+", "_", f"{self.coding} {self.name}")


def must_have_size(got, expected):
    if got.shape != expected.shape:
        raise Wrong(f"is {got.shape[1]} x {got.shape[0]}, should be {expected.shape[1]} x {expected.shape[0]}")


def same(got, expected, levels):
    return got.shape == expected.shape and numpy.abs(got.astype(int) - expected.astype(int)).max() <= levels


def differences(got, expected, levels=0):
    """Raises `Wrong` where two pictures differ by more than `levels` anywhere."""
    must_have_size(got, expected)
    apart = numpy.abs(got.astype(int) - expected.astype(int)).max(axis=-1)
    wrong = apart > levels
    if wrong.any():
        y, x = map(int, numpy.argwhere(wrong)[0])
        raise Wrong(
            f"{wrong.sum()} of {wrong.size} pixels differ, by up to {apart.max()} levels; the first at "
            f"x {x}, y {y}: {got[y, x].tolist()}, should be {expected[y, x].tolist()}"
        )


def must_have_pixels(answer):
    if isinstance(answer, Refusal):
        raise Wrong(f"{answer}, should be pixels")
    return answer


@dataclass
class Pillow:
    """Equal to what Pillow makes of the file. `draft` is what Pillow divides the sides by."""

    levels: int = 0
    draft: int | None = None

    def check(self, data, answer):
        try:
            expected = reference.pixels(data, self.draft)
        except reference.PillowRefuses as refusal:
            raise Wrong(f"Pillow can't judge this file: {refusal}") from refusal
        differences(must_have_pixels(answer), expected, self.levels)
        return EQUAL


@dataclass
class Pixels:
    """Equal to pixels that the maker of the file knows. `why` says why Pillow is not the judge."""

    expected: numpy.ndarray
    why: str
    levels: int = 0

    def check(self, _, answer):
        differences(must_have_pixels(answer), self.expected, self.levels)
        return EQUAL


@dataclass
class Close:
    """Close to Pillow's pixels, or to `expected`, for codings whose decoders round in their own way:
    by the mean difference in levels, and by the cosine of all samples."""

    mean: float
    cosine: float
    expected: numpy.ndarray | None = None

    def check(self, data, answer):
        expected = reference.pixels(data) if self.expected is None else self.expected
        got, expected = must_have_pixels(answer).astype(float), expected.astype(float)
        must_have_size(got, expected)
        mean = numpy.abs(got - expected).mean()
        lengths = numpy.linalg.norm(got) * numpy.linalg.norm(expected)
        cosine = (got * expected).sum() / lengths if lengths else 1
        # Where hardly a sample differs from 0 the cosine says nothing.
        if mean > self.mean or mean > 1 and cosine < self.cosine:
            raise Wrong(f"differs by {mean:.2f} levels in the mean, cosine {cosine:.5f}")
        return EQUAL


@dataclass
class Unsupported:
    """A sound file of a coding that is not read: the message has to contain every one of `words`,
    so that people learn which coding it is. `why` says why it is not read."""

    words: tuple
    why: str

    def check(self, _, answer):
        if not isinstance(answer, Refusal) or answer.kind != "unsupported":
            raise Wrong(f"{describe(answer)}, should be an error of the class unsupported")
        for word in self.words:
            if word.lower() not in answer.message.lower():
                raise Wrong(f"{answer}; does not name {word!r}")
        return REFUSED


@dataclass
class Damaged:
    """A file that must be an error, because pixels are missing or wrong in it."""

    def check(self, _, answer):
        if not isinstance(answer, Refusal) or answer.kind != "malformed":
            raise Wrong(f"{describe(answer)}, should be an error of the class malformed")
        return ERROR


@dataclass
class Maybe:
    """A damaged file: an error, or, where Pillow shows a picture, that same picture. The pixels of
    the file before it was damaged, `sound`, are right even where Pillow refuses what is left.

    `mended` adds what a file may lack here, but not in Pillow, which then judges the mended file.
    `incomparable` says why the pixels of both decoders may differ, `resized` why they may where the
    damage gives the picture another size."""

    sound: numpy.ndarray
    mended: object = None
    levels: int = 0
    incomparable: str = ""
    resized: str = ""

    def check(self, data, answer):
        if isinstance(answer, Refusal):
            return ERROR
        if same(answer, self.sound, self.levels):
            return SOUND
        try:
            expected = self.judged(data)
        except reference.PillowRefuses as refusal:
            raise Wrong(f"{describe(answer)}, but Pillow refuses it: {refusal}") from refusal
        if not self.incomparable and not (self.resized and expected.shape != self.sound.shape):
            differences(answer, expected, self.levels)
        return UNNOTICED

    def judged(self, data):
        try:
            return reference.pixels(data)
        except reference.PillowRefuses:
            if not self.mended:
                raise
        return reference.pixels(self.mended(data))


def describe(answer):
    return str(answer) if isinstance(answer, Refusal) else f"{answer.shape[1]} x {answer.shape[0]} pixels"
