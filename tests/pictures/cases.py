"""Test cases: a file with the expected result, and the comparison of the result with it."""

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
    """The result differs from the expected one; the message says how."""


@dataclass
class Case:
    """One file. `name` is unique among the files of the same group and coding. `expected` is an object of
    one of the classes below. `wanted` is the size to which the caller will resize the picture, so that
    the decoder may return it at a fraction of its size."""

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


def same(got, expected, tolerance):
    return got.shape == expected.shape and numpy.abs(got.astype(int) - expected.astype(int)).max() <= tolerance


def must_be_equal(got, expected, tolerance=0):
    """Raises `Wrong` if any samples of two pictures differ by more than `tolerance` levels (of 0 to 255)."""
    must_have_size(got, expected)
    apart = numpy.abs(got.astype(int) - expected.astype(int)).max(axis=-1)
    wrong = apart > tolerance
    if wrong.any():
        y, x = map(int, numpy.argwhere(wrong)[0])
        raise Wrong(
            f"{wrong.sum()} of {wrong.size} pixels differ, by up to {apart.max()} levels; the first at "
            f"x {x}, y {y}: {got[y, x].tolist()}, should be {expected[y, x].tolist()}"
        )


def of_pillow(data, draft=None):
    """The pixels that Pillow decodes from an intact file."""
    try:
        return reference.pixels(data, draft)
    except reference.PillowRefuses as refusal:
        raise Wrong(f"Pillow refuses this file: {refusal}") from refusal
    except reference.PillowCannotJudge as reason:
        raise Wrong(f"Pillow cannot judge this file: {reason}") from reason


def must_have_pixels(answer):
    if isinstance(answer, Refusal):
        raise Wrong(f"{answer}, should be pixels")
    return answer


@dataclass
class Pillow:
    """Expects the pixels that Pillow decodes. `draft` is the divisor for the sides in Pillow's draft
    mode."""

    tolerance: int = 0
    draft: int | None = None

    def check(self, data, answer):
        must_be_equal(must_have_pixels(answer), of_pillow(data, self.draft), self.tolerance)
        return EQUAL


@dataclass
class Pixels:
    """Expects the given pixels. `why` says where they come from, or why Pillow's are not used."""

    expected: numpy.ndarray
    why: str
    tolerance: int = 0

    def check(self, _, answer):
        must_be_equal(must_have_pixels(answer), self.expected, self.tolerance)
        return EQUAL


@dataclass
class Close:
    """Expects pixels close to `expected`, or to Pillow's, for codings whose decoders differ in rounding.
    The measures are the mean difference in levels, and the cosine of the two vectors of all samples."""

    mean: float
    cosine: float
    expected: numpy.ndarray | None = None

    def check(self, data, answer):
        expected = of_pillow(data) if self.expected is None else self.expected
        got, expected = must_have_pixels(answer).astype(float), expected.astype(float)
        must_have_size(got, expected)
        mean = numpy.abs(got - expected).mean()
        lengths = numpy.linalg.norm(got) * numpy.linalg.norm(expected)
        cosine = (got * expected).sum() / lengths if lengths else 1
        # The cosine has no meaning if almost all samples are near 0, so a small mean suffices.
        if mean > self.mean or mean > 1 and cosine < self.cosine:
            raise Wrong(f"differs by {mean:.2f} levels in the mean, cosine {cosine:.5f}")
        return EQUAL


@dataclass
class Unsupported:
    """Expects an error of the class unsupported, for a valid file in a coding that is not read. The
    message has to contain each of `words`, so that it names the coding. `why` says why the coding is not
    read."""

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
    """Expects an error of the class malformed, because pixels are missing or wrong in the file."""

    def check(self, _, answer):
        if not isinstance(answer, Refusal) or answer.kind != "malformed":
            raise Wrong(f"{describe(answer)}, should be an error of the class malformed")
        return ERROR


@dataclass
class Maybe:
    """Expects an error, or Pillow's pixels, or `sound`, the pixels of the file before it was damaged, for
    a damaged file. `sound` is accepted even if Pillow refuses the file.

    `mended` is a function that repairs damage which only Pillow refuses; Pillow then decodes the repaired
    file. `incomparable` says why the pixels may differ from Pillow's, `resized` why they may differ if
    the damage has changed the size of the picture."""

    sound: numpy.ndarray
    mended: object = None
    tolerance: int = 0
    incomparable: str = ""
    resized: str = ""

    def check(self, data, answer):
        if isinstance(answer, Refusal):
            return ERROR
        if same(answer, self.sound, self.tolerance):
            return SOUND
        try:
            expected = self.judged(data)
        except reference.PillowRefuses as refusal:
            raise Wrong(f"{describe(answer)}, but Pillow refuses it: {refusal}") from refusal
        except reference.PillowCannotJudge as reason:
            raise Wrong(f"{describe(answer)}, but Pillow cannot judge it: {reason}") from reason
        if not self.incomparable and not (self.resized and expected.shape != self.sound.shape):
            must_be_equal(answer, expected, self.tolerance)
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
