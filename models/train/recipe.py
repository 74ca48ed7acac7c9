"""Turns texts and pictures into the model's input, by the recipe of Qwen3-VL-Embedding.

Prompt, image sizes and patches are those of the reference (`src/models/qwen3_vl_embedding.py` of QwenLM/Qwen3-VL-Embedding and
the Qwen2-VL image processor); the numbers are this model's.
"""

from __future__ import annotations

import math
import unicodedata

import numpy as np
from PIL import Image

PATCH, MERGE, TEMPORAL = 8, 2, 2
FACTOR = PATCH * MERGE
MIN_PIXELS, MAX_PIXELS = 6400, 9600

DEFAULT_INSTRUCTION = "Represent the user's input."
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def prompt(text: str | None, image_tokens: int = 0, instruction: str | None = None) -> str:
    """The chat prompt for a text, a picture of `image_tokens` tokens, or both."""
    instruction = (instruction or DEFAULT_INSTRUCTION).strip()
    if not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += "."
    content = f"<|vision_start|>{'<|image_pad|>' * image_tokens}<|vision_end|>" if image_tokens else ""
    if text is None and not image_tokens:
        text = "NULL"
    return (
        f"<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{content}{text or ''}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def smart_resize(width: int, height: int) -> tuple[int, int]:
    """(width, height): multiples of `FACTOR` whose product is from `MIN_PIXELS` to `MAX_PIXELS`, with about the same aspect."""
    if max(width, height) / min(width, height) > 200:
        raise ValueError(f"aspect ratio of {width} x {height} is above 200")
    w, h = round(width / FACTOR) * FACTOR, round(height / FACTOR) * FACTOR
    if w * h > MAX_PIXELS:
        beta = math.sqrt(width * height / MAX_PIXELS)
        w = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
        h = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
    elif w * h < MIN_PIXELS:
        beta = math.sqrt(MIN_PIXELS / (width * height))
        w = math.ceil(width * beta / FACTOR) * FACTOR
        h = math.ceil(height * beta / FACTOR) * FACTOR
    return w, h


def prepare(image: Image.Image) -> np.ndarray:
    """Resizes an upright picture to the pixels [height, width, 3] u8 that the model takes."""
    image = image.convert("RGB")
    return np.asarray(image.resize(smart_resize(*image.size), Image.BICUBIC))


def patches(pixels: np.ndarray) -> np.ndarray:
    """Turns [height, width, 3] u8 into [patches, 3 * 2 * 8 * 8] f32 in merge order, with the frame repeated."""
    h, w, _ = pixels.shape
    values = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    split = values.reshape(h // FACTOR, MERGE, PATCH, w // FACTOR, MERGE, PATCH, 3)
    ordered = split.transpose(0, 3, 1, 4, 6, 2, 5)  # rows, columns, 2, 2, channel, 8, 8
    flat = ordered.reshape(-1, 3, 1, PATCH, PATCH)
    return np.repeat(flat, TEMPORAL, axis=2).reshape(len(flat), -1)
