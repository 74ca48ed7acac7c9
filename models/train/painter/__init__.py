"""Draws photo albums in which the contents of every picture are known; `scene` states the rule of truth."""

from .scene import (
    CONCEPTS,
    CROWDING,
    PLACE_WEIGHTS,
    SHAPES,
    TRAINING_CROWDING,
    Scene,
    Thing,
    compose,
    paint_photo,
    paint_small,
    pick,
)

__all__ = [
    "CONCEPTS",
    "CROWDING",
    "PLACE_WEIGHTS",
    "SHAPES",
    "TRAINING_CROWDING",
    "Scene",
    "Thing",
    "compose",
    "paint_photo",
    "paint_small",
    "pick",
]
