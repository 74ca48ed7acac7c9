"""HEIC and AVIF files by libheif's and libavif's programs, by pillow-heif and by Pillow: subsamplings,
depths, ranges, matrices, alpha, grids, crops, rotations."""

from functools import partial
from itertools import product

import numpy
import reference
from cases import Case, Close, Pillow, Pixels, Unsupported
from PIL import Image, ImageFilter
from tools import alpha_slope, deep_scene, encoded, exif, grey_scene, scene, size_text, through_files

FORMAT = "heif"

SIZES = [(16, 16), (17, 33), (64, 48), (130, 70)]
MORE_SIZES = [(1, 1), (1, 17), (2, 3), (33, 17), (100, 100), (257, 129), (640, 480)]

# libheif's conversion to RGB rounds once more.
HEIC = Pillow(tolerance=1)
# Pillow divides colours of 8 bits by alpha, which loses precision if alpha is small.
PREMULTIPLIED = Pillow(tolerance=2)
# AVIF decoders differ in the upsampling of chroma, with the largest differences in small pictures.
HALVED_CHROMA = Close(mean=4, cosine=0.999)
SMALL_HALVED_CHROMA = Close(mean=8, cosine=0.997)
# Pillow's conversion of YCbCr with more than 8 bits or a limited range is off by more than one level.
FULL_CHROMA = Close(mean=1.5, cosine=0.9999)
LOSSLESS = "lossless: these pixels were encoded"


def sizes(many):
    return SIZES + MORE_SIZES if many else SIZES


def halved_chroma(size):
    return HALVED_CHROMA if min(size) >= 48 else SMALL_HALVED_CHROMA


def soft_scene(width, height, seed=0):
    """A blurred `scene`, for pictures with subsampled chroma."""
    return numpy.asarray(Image.fromarray(scene(width, height, seed)).filter(ImageFilter.GaussianBlur(3)))


def pngs(size, color):
    return {
        "RGB": encoded(color, "PNG"),
        "alpha": encoded(numpy.dstack([color, alpha_slope(*size)]), "PNG"),
        "grey": encoded(grey_scene(*size), "PNG"),
        "grey, 16 bits": encoded(Image.fromarray(deep_scene(*size, 1, 1)[..., 0]), "PNG"),
    }


HEIF_ENC = {
    "default": [],
    "lossless": ["-L"],
    "lossless RGB": ["-L", "-p", "chroma=444", "--matrix_coefficients=0"],
    "lossless 4:4:4": ["-L", "-p", "chroma=444"],
    "4:2:2": ["-p", "chroma=422"],
    "4:4:4": ["-p", "chroma=444"],
    "low quality": ["-q", "5"],
    "high quality": ["-q", "95"],
    "BT.709": ["--matrix_coefficients=1"],
    "BT.2020": ["--matrix_coefficients=9", "--colour_primaries=9"],
    "4:4:4 BT.709": ["-p", "chroma=444", "--matrix_coefficients=1"],
    "limited range": ["--full_range_flag=0"],
    "4:4:4 limited range": ["-p", "chroma=444", "--full_range_flag=0"],
    "thumbnail": ["-t", "16"],
    "10 bits": ["-b", "10"],
    "12 bits": ["-b", "12"],
    "fast": ["-p", "preset=ultrafast"],
    "slow": ["-p", "preset=slow"],
    "no filters": ["-p", "x265:deblock=0", "-p", "x265:sao=0"],
    "premultiplied alpha": ["--premultiplied-alpha"],
}


def by_heif_enc(content, many):
    for size, (what, options) in product(sizes(many), HEIF_ENC.items()):
        if "alpha" in what and content != "alpha" or what == "thumbnail" and min(size) <= 16:
            continue
        png = pngs(size, scene(*size))[content]
        expected = PREMULTIPLIED if "premultiplied" in what else HEIC
        data = through_files(["heif-enc", *options, "-o", "OUT", "IN0"], [(".png", png)], ".heic")
        yield Case(f"HEIC by heif-enc, {content}, {what}", size_text(size), data, expected)


def by_pillow_heif(many):
    options = {
        "default": {},
        "lossless": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
        "4:4:4": {"chroma": 444},
        "4:2:2": {"chroma": 422},
        "quality 10": {"quality": 10},
        "quality 100": {"quality": 100},
        "BT.709": {"matrix_coefficients": 1},
        "limited range": {"full_range_flag": 0},
    }
    for size, (what, of_case), mode in product(sizes(many), options.items(), ("RGB", "RGBA", "L", "LA")):
        if mode.startswith("L") and "limited" in what:
            continue  # libheif states a range for grey that it does not write
        image = Image.fromarray(numpy.dstack([scene(*size), alpha_slope(*size)])).convert(mode)
        data = encoded(image, "HEIF", **of_case)
        expected = HEIC
        if what == "lossless" and mode.startswith("RGB"):
            expected = Pixels(reference.pixels(encoded(image, "PNG")), LOSSLESS)
        yield Case(f"HEIC by pillow-heif, {mode}, {what}", size_text(size), data, expected)
    for size in sizes(many):
        upright = Image.fromarray(reference.pixels(encoded(scene(*size), "HEIF")))
        for value in range(1, 9):
            # pillow-heif writes an orientation as irot and imir. When it decodes, it rotates subsampled
            # chroma before it upsamples it, which shifts the chroma by half a pixel if a side is odd.
            data = encoded(scene(*size), "HEIF", exif=exif(value, prefix=b"Exif\0\0"))
            expected = Pixels(reference.turned(upright, value), "rotated after the upsampling of chroma", tolerance=1)
            yield Case("HEIC, turned", f"{value} {size_text(size)}", data, expected)
        frames = [Image.fromarray(scene(*size, seed)) for seed in range(3)]
        data = encoded(frames[0], "HEIF", save_all=True, append_images=frames[1:])
        yield Case("several pictures", size_text(size), data, HEIC)
        data = encoded(frames[0], "HEIF", save_all=True, append_images=frames[1:], primary_index=2)
        yield Case("several pictures", f"third {size_text(size)}", data, HEIC)


AVIFENC = {
    "default": [],
    "4:2:0": ["-y", "420"],
    "4:2:2": ["-y", "422"],
    "4:4:4": ["-y", "444"],
    "4:0:0": ["-y", "400"],
    "10 bits": ["-d", "10"],
    "10 bits 4:2:0": ["-d", "10", "-y", "420"],
    "12 bits": ["-d", "12"],
    "12 bits 4:2:2": ["-d", "12", "-y", "422"],
    "12 bits 4:0:0": ["-d", "12", "-y", "400"],
    "lossless": ["-l"],
    "limited range": ["-r", "l"],
    "limited range 4:2:0": ["-r", "l", "-y", "420"],
    "10 bits limited range": ["-d", "10", "-r", "l"],
    "BT.709": ["--cicp", "1/13/1"],
    "BT.2020": ["--cicp", "9/16/9"],
    "SMPTE 240M": ["--cicp", "2/2/7"],
    "YCgCo": ["--cicp", "1/13/8"],
    "from the primaries": ["--cicp", "9/13/12"],
    "RGB": ["--cicp", "1/13/0", "-y", "444"],
    "low quality": ["--min", "55", "--max", "63"],
    "high quality": ["--min", "0", "--max", "5"],
    "by rav1e": ["-c", "rav1e"],
    "by rav1e 4:2:0": ["-c", "rav1e", "-y", "420"],
    "by SVT": ["-c", "svt", "-y", "420"],
    "film grain": ["-y", "420", "-a", "film-grain-test=1"],
    "tune for SSIM": ["-a", "tune=ssim"],
    "tiles": ["--tilerowslog2", "1", "--tilecolslog2", "1"],
    "premultiplied alpha": ["-p"],
    "lossy alpha": ["--minalpha", "40", "--maxalpha", "50"],
    "pixels that are not square": ["--pasp", "2,1"],
} | {
    f"irot {turn} imir {mirror}": [*(["--irot", turn] if turn else []), *(["--imir", mirror] if mirror else [])]
    for turn, mirror in product((None, "0", "1", "2", "3"), (None, "0", "1"))
    if turn or mirror
}


def avifenc(png, *options):
    return through_files(["avifenc", "-s", "9", "-j", "1", *options, "IN0", "OUT"], [(".png", png)], ".avif")


def svt_takes(size, content):
    return min(size) >= 64 and size[0] % 2 == size[1] % 2 == 0 and "16 bits" not in content


def by_avifenc(content, many):
    for size, (what, options) in product(sizes(many), AVIFENC.items()):
        if "alpha" in what and content != "alpha" or "SVT" in what and not svt_takes(size, content):
            continue
        png = pngs(size, soft_scene(*size))[content]
        data = avifenc(png, *options)
        halved = any(mark in what for mark in ("4:2:", "SVT", "film"))
        expected = halved_chroma(size) if halved else FULL_CHROMA
        if what == "YCgCo" and not content.startswith("grey"):
            expected = Unsupported(("AVIF", "colour matrix 8"), "libheif does not convert it")
        if what == "lossless" and "16" not in content:
            expected = Pixels(reference.pixels(png), LOSSLESS)
        yield Case(f"AVIF by avifenc, {content}, {what}", size_text(size), data, expected)


def grids(many):
    """AVIF grids, and cropped AVIF, which Pillow does not crop."""
    for columns, rows in ((2, 1), (1, 2), (2, 2), (3, 2)):
        for chroma in ("420", "444"):
            cells = [encoded(soft_scene(64, 64, seed), "PNG") for seed in range(columns * rows)]
            inputs = [(".png", cell) for cell in cells]
            names = [f"IN{index}" for index in range(len(cells))]
            command = ["avifenc", "-s", "9", "-j", "1", "-y", chroma, "--grid", f"{columns}x{rows}", *names, "OUT"]
            expected = SMALL_HALVED_CHROMA if chroma == "420" else FULL_CHROMA
            data = through_files(command, inputs, ".avif")
            yield Case(f"AVIF, grid, {chroma}", f"{columns}x{rows}", data, expected)
    for chroma, (left, top, width, height) in product(
        ("420", "444"), ((0, 0, 64, 64), (10, 6, 40, 30), (66, 22, 64, 48))
    ):
        png = encoded(soft_scene(130, 70), "PNG")
        whole = reference.pixels(avifenc(png, "-y", chroma))
        data = avifenc(png, "-y", chroma, "--crop", f"{left},{top},{width},{height}")
        limits = halved_chroma((width, height)) if chroma == "420" else FULL_CHROMA
        expected = Close(limits.mean, limits.cosine, whole[top : top + height, left : left + width])
        yield Case(f"AVIF, clap, {chroma}", f"{left} {top} {width}x{height}", data, expected)


def by_pillow_avif(many):
    options = {
        "default": {},
        "4:4:4": {"subsampling": "4:4:4"},
        "4:2:2": {"subsampling": "4:2:2"},
        "4:0:0": {"subsampling": "4:0:0"},
        "limited range": {"range": "limited"},
        "quality 5": {"quality": 5},
        "quality 100": {"quality": 100, "subsampling": "4:4:4"},
        "premultiplied": {"alpha_premultiplied": True},
        "tiles": {"tile_rows": 1, "tile_cols": 1},
    }
    for size, (what, of_case), mode in product(sizes(many), options.items(), ("RGB", "RGBA")):
        image = Image.fromarray(numpy.dstack([soft_scene(*size), alpha_slope(*size)])).convert(mode)
        data = encoded(image, "AVIF", speed=9, max_threads=1, **of_case)
        full = of_case.get("subsampling") in ("4:4:4", "4:0:0")
        yield Case(
            f"AVIF by Pillow, {mode}, {what}",
            size_text(size),
            data,
            FULL_CHROMA if full else halved_chroma(size),
        )
    for size in sizes(many):
        for value in range(1, 9):
            data = encoded(soft_scene(*size), "AVIF", speed=9, max_threads=1, exif=exif(value))
            yield Case("AVIF, turned", f"{value} {size_text(size)}", data, halved_chroma(size))
        frames = [Image.fromarray(soft_scene(*size, seed)) for seed in range(3)]
        data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=9, max_threads=1)
        yield Case("AVIF, animated", size_text(size), data, halved_chroma(size))


def groups():
    contents = {"RGB": "RGB", "alpha": "alpha", "grey": "grey", "wide": "grey, 16 bits"}
    found = {f"heif_enc_{name}": partial(by_heif_enc, content) for name, content in contents.items()}
    found |= {f"avifenc_{name}": partial(by_avifenc, content) for name, content in contents.items()}
    return found | {"pillow_heif": by_pillow_heif, "pillow_avif": by_pillow_avif, "grids": grids}
