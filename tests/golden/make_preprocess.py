"""Writes preprocess.json, preprocess.safetensors and modes/: the reference's preprocessing of pictures.

The reference embedding script hands each picture to qwen_vl_utils.fetch_image, which alone decides the pixels: `to_rgb` (RGBA
is pasted on white; every other mode goes through PIL's convert), then its own `smart_resize` for the size, then
`Image.resize`, whose default filter is PIL's bicubic with antialiasing on 8-bit channels. The Hugging Face image processor
then runs with do_resize=False: it only normalises and cuts patches. transformers has a `smart_resize` too, which this path
does not use and which gives another size for some very long pictures; if the two differ, both results are stored.

The source pictures are computed by the integer formula in `picture`, so only results are stored: small pictures as a whole,
large ones as strided samples and channel sums.
"""

import io
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image
from qwen_vl_utils.vision_process import fetch_image, smart_resize, to_rgb
from safetensors.numpy import save_file
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as transformers_smart_resize

HERE = Path(__file__).resolve().parent
SEED = 7
SAMPLE_BYTES = 7_000  # a larger result is stored as a strided sample of about this size

CONFIGS = {
    # The constants that the embedding script uses for the released models.
    "large": {"patch_size": 16, "merge_size": 2, "min_pixels": 4 * 32 * 32, "max_pixels": 1800 * 32 * 32},
    # A small model whose range of pixel counts is so narrow that most pictures reach one of its limits.
    "small": {"patch_size": 8, "merge_size": 2, "min_pixels": 4096, "max_pixels": 9216},
}

FORMULA = (
    "channel c of the pixel in column x and row y, all integers: with k = (x/16 + y/16) mod 3, "
    "k = 0: (x*x*(c+1) + 3*x*y + 7*y*y + 29*c) mod 256; "
    "k = 1: (tri(x*(c+3)) + tri(y*(5-c)))/2 where tri(t) = min(t mod 512, 511 - t mod 512); "
    "k = 2: 255 if (x + y + c) is odd, else 0. Divisions round down."
)


def picture(width: int, height: int) -> Image.Image:
    """A picture by FORMULA: blocks of noise, of a smooth ramp and of a chequerboard."""
    x = np.arange(width, dtype=np.int64)[None, :]
    y = np.arange(height, dtype=np.int64)[:, None]
    kind = (x // 16 + y // 16) % 3

    def tri(t):
        return np.minimum(t % 512, 511 - t % 512)

    channels = []
    for c in range(3):
        noise = (x * x * (c + 1) + 3 * x * y + 7 * y * y + 29 * c) % 256
        ramp = (tri(x * (c + 3)) + tri(y * (5 - c))) // 2
        board = (x + y + c) % 2 * 255
        channels.append(np.choose(kind, [noise, ramp, board]))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def size_after(width: int, height: int, config: dict) -> dict:
    """The resized size and grid, or the error, that the reference gives."""
    factor = config["patch_size"] * config["merge_size"]
    limits = dict(min_pixels=config["min_pixels"], max_pixels=config["max_pixels"])
    entry = {"width": width, "height": height}
    try:
        to_height, to_width = smart_resize(height, width, factor=factor, **limits)
    except ValueError:
        return entry | {"error": "aspect ratio"}
    other = transformers_smart_resize(height, width, factor, **limits)
    if other != (to_height, to_width):
        entry["transformers"] = [other[1], other[0]]
    if to_height == 0 or to_width == 0:
        return entry | {"error": "empty"}
    grid = [1, to_height // config["patch_size"], to_width // config["patch_size"]]
    return entry | {"to": [to_width, to_height], "grid": grid}


def sizes() -> list[tuple[int, int]]:
    """(width, height): ties in rounding, sizes at the limits, extreme ratios, then log-uniform sides."""
    chosen = [
        (1, 1), (2, 3), (1, 200), (200, 1), (1, 201), (201, 1), (20, 4000), (4000, 20), (19, 4000), (4000, 19),
        (16, 16), (48, 48), (80, 80), (112, 48), (144, 80), (24, 40), (40, 24), (56, 72), (8, 8), (15, 17),
        (32, 32), (64, 64), (63, 65), (96, 96), (95, 97), (97, 95), (90, 102), (1357, 1358), (1360, 1355),
        (1344, 1376), (1376, 1344), (640, 480), (480, 640), (1280, 960), (3000, 4000), (4000, 3000),
        (4000, 4000), (3999, 21), (300, 2), (2, 300), (400, 2), (402, 2), (36, 1296), (37, 1369), (600, 16),
        (640, 12), (3000, 80), (80, 3000), (1920, 1080), (1079, 1919),
    ]  # fmt: skip
    generator = random.Random(SEED)
    while len(chosen) < 200:
        width, height = (int(round(4000 ** generator.random())) for _ in range(2))
        if (width, height) not in chosen:
            chosen.append((width, height))
    return chosen


RESIZED = {
    "large": [
        (64, 64), (65, 63), (60, 70), (1, 1), (2, 3), (7, 1), (17, 900), (900, 17), (100, 100), (50, 130),
        (33, 31), (128, 96), (127, 97), (150, 150), (161, 143), (200, 140), (257, 255), (320, 200), (333, 500),
        (640, 480), (1000, 37), (1283, 967), (1500, 1400), (2100, 1500),
    ],
    "small": [
        (64, 64), (63, 66), (96, 96), (3, 2), (9, 170), (170, 9), (70, 80), (128, 128), (255, 257), (300, 40),
        (101, 333), (640, 480), (479, 641), (1000, 999), (1601, 1203), (61, 2000),
    ],
}  # fmt: skip

PATCHES = {"large": [(64, 64), (130, 30)], "small": [(90, 60)]}


def fetched(source: Image.Image, config: dict) -> Image.Image:
    """The reference's path from a picture to resized pixels."""
    request = {"image": source, "min_pixels": config["min_pixels"], "max_pixels": config["max_pixels"]}
    return fetch_image(request, image_patch_size=config["patch_size"])


def resize_entries(tensors: dict) -> list[dict]:
    entries = []
    for name, pairs in RESIZED.items():
        for width, height in pairs:
            result = np.asarray(fetched(picture(width, height), CONFIGS[name]))
            stride = 1
            while (-(-result.shape[0] // stride)) * (-(-result.shape[1] // stride)) * 3 > SAMPLE_BYTES:
                # An odd stride samples every phase of the patterns.
                stride += 2
            if len(entries) % 6 == 0 and result.size <= 13_000:
                stride = 1
            key = f"resize.{len(entries)}"
            tensors[key] = np.ascontiguousarray(result[::stride, ::stride])
            entries.append(
                {
                    "config": name,
                    "width": width,
                    "height": height,
                    "to": [result.shape[1], result.shape[0]],
                    "stride": stride,
                    "sums": result.sum(axis=(0, 1), dtype=np.int64).tolist(),
                    "tensor": key,
                }
            )
    return entries


def patch_entries(tensors: dict) -> list[dict]:
    entries = []
    for name, pairs in PATCHES.items():
        config = CONFIGS[name]
        processor = Qwen2VLImageProcessor(
            patch_size=config["patch_size"],
            merge_size=config["merge_size"],
            temporal_patch_size=2,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        for width, height in pairs:
            resized = fetched(picture(width, height), config)
            out = processor(images=[resized], do_resize=False, return_tensors="np")
            key = f"patches.{len(entries)}"
            tensors[key] = out["pixel_values"].astype(np.float32)
            entries.append(
                {
                    "config": name,
                    "width": width,
                    "height": height,
                    "to": list(resized.size),
                    "grid": out["image_grid_thw"][0].tolist(),
                    "tensor": key,
                }
            )
    return entries


def mode_pictures() -> dict[str, tuple[Image.Image, dict]]:
    """File name → picture and the options to save it with. Each picture has 20×14 pixels."""
    width, height = 20, 14
    rgb = picture(width, height)
    smooth = Image.fromarray(
        np.stack(
            [
                np.add.outer(9 * np.arange(height), 6 * np.arange(width)),
                np.add.outer(4 * np.arange(height), 200 - 9 * np.arange(width)),
                np.add.outer(230 - 15 * np.arange(height), np.arange(width)),
            ],
            axis=-1,
        ).clip(0, 255).astype(np.uint8)
    )
    alpha = Image.fromarray(np.add.outer(11 * np.arange(height), 7 * np.arange(width)).clip(0, 255).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey = rgb.convert("L")
    grey_alpha = Image.merge("LA", (grey, alpha))
    palette = rgb.quantize(13, dither=Image.Dither.NONE)
    sixteen = Image.fromarray(
        (np.add.outer(4001 * np.arange(height), 617 * np.arange(width)) % 65536).astype(np.uint16)
    )
    bits = grey.point(lambda value: 255 if value > 127 else 0).convert("1", dither=Image.Dither.NONE)
    cmyk = smooth.convert("CMYK")
    fine = {"quality": 97, "subsampling": 0}
    return {
        "rgb.png": (rgb, {}),
        "rgba.png": (rgba, {}),
        "grey.png": (grey, {}),
        "grey_alpha.png": (grey_alpha, {}),
        "palette.png": (palette, {}),
        "palette_transparent.png": (palette, {"transparency": bytes(range(0, 250, 20))}),
        "rgb_transparent.png": (rgb, {"transparency": rgb.getpixel((3, 2))}),
        "sixteen.png": (sixteen, {}),
        "bits.png": (bits, {}),
        "rgb.jpg": (smooth, fine),
        "progressive.jpg": (smooth, fine | {"progressive": True}),
        "grey.jpg": (smooth.convert("L"), {"quality": 97}),
        "cmyk.jpg": (cmyk, fine),
        "rgb.tif": (rgb, {}),
        "rgba.tif": (rgba, {"compression": "tiff_lzw"}),
        "cmyk.tif": (cmyk, {}),
        "sixteen.tif": (sixteen, {}),
        "palette_transparent.gif": (palette, {"transparency": palette.getpixel((0, 0))}),
        "rgba.webp": (rgba, {"lossless": True, "exact": True}),
        "rgb.bmp": (rgb, {}),
    }


def write_modes(directory: Path) -> None:
    """Writes each file, the reference's pixels for it, and the pixels with alpha on white (or with 16 bits scaled)."""
    directory.mkdir(exist_ok=True)
    tensors, entries = {}, []
    for name, (source, options) in mode_pictures().items():
        path = directory / name
        source.save(path, **options)
        opened = Image.open(io.BytesIO(path.read_bytes()))
        opened.load()
        reference = np.asarray(to_rgb(opened))
        if opened.mode.startswith("I;16"):
            high = (np.asarray(opened).astype(np.uint16) >> 8).astype(np.uint8)
            intended = np.repeat(high[:, :, None], 3, axis=2)
        elif opened.mode in ("LA", "PA") or "transparency" in opened.info:
            intended = np.asarray(to_rgb(opened.convert("RGBA")))
        else:
            intended = reference
        entry = {"file": name, "mode": opened.mode, "lossy": path.suffix == ".jpg"}
        tensors[name] = reference
        if not np.array_equal(intended, reference):
            entry["differs"] = "sixteen bits scaled" if opened.mode.startswith("I;16") else "alpha on white"
            tensors[f"{name}.intended"] = intended
        entries.append(entry)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, directory / "pixels.safetensors")
    (directory / "pixels.safetensors").chmod(0o644)
    rows = ",\n".join(f" {json.dumps(entry)}" for entry in entries)
    (directory / "modes.json").write_text(f"[\n{rows}\n]\n")


def write_json(path: Path, sections: dict) -> None:
    """Writes one entry per line, so that a diff shows single entries."""
    parts = []
    for name, value in sections.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f' "{name}": [\n  {rows}\n ]')
        else:
            parts.append(f' "{name}": {json.dumps(value, ensure_ascii=False)}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    tensors: dict[str, np.ndarray] = {}
    size_rows = [
        {"config": name} | size_after(width, height, config)
        for name, config in CONFIGS.items()
        for width, height in sizes()
    ]
    sections = {
        "formula": FORMULA,
        "configs": CONFIGS,
        "sizes": size_rows,
        "resizes": resize_entries(tensors),
        "patches": patch_entries(tensors),
    }
    write_json(HERE / "preprocess.json", sections)
    save_file(tensors, HERE / "preprocess.safetensors")
    (HERE / "preprocess.safetensors").chmod(0o644)
    write_modes(HERE / "modes")


if __name__ == "__main__":
    main()
