"""Applies a camera's effects to a scene: light, tint, blur, noise, compression."""

from __future__ import annotations

import io
from random import Random

import numpy as np
from PIL import Image, ImageFilter


def develop(image: Image.Image, rng: Random, *, sharpness: float) -> Image.Image:
    """Applies light, tint, blur and noise. `sharpness`: pixels of this picture per pixel of the model's input, so that blur has
    the same effect at every size."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.55) * sharpness))
    gain = rng.uniform(0.78, 1.18)
    tint = [gain * rng.uniform(0.93, 1.07) for _ in range(3)]
    lift = rng.uniform(-14, 16)
    noise = np.random.default_rng(rng.getrandbits(32)) if rng.random() < 0.5 else None
    pixels = np.asarray(image, dtype=np.float32) * np.array(tint, dtype=np.float32) + lift
    if noise is not None:
        pixels += noise.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 9)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG compression with that quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
