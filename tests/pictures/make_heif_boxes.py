"""HEIC and AVIF files as telephones write them: grids of tiles, cropped or rotated by the properties of the
container (EXIF may state an orientation, too), with transparency in tiles. The installed encoders do not
write such files, so heif_boxes.py does."""

from itertools import product

import numpy
import reference
from cases import Case, Close, Pixels
from heif_boxes import clap, grid, imir, irot, rewrap
from make_heif import FULL_CHROMA, SMALL_HALVED_CHROMA, avifenc, soft_scene
from tools import alpha_slope, encoded, grey_scene, on_white, size_text, through_files

FORMAT = "heif"

AS_JOINED = "the pixels of the coded pictures, joined and rotated by numpy"

# Names, properties of the container, and their effect on an array.
TURNS = {
    f"irot {quarters}": ([irot(quarters)], lambda a, quarters=quarters: numpy.rot90(a, quarters))
    for quarters in range(4)
} | {
    "imir 0": ([imir(0)], lambda a: a[::-1]),
    "imir 1": ([imir(1)], lambda a: a[:, ::-1]),
    "irot 1, imir 0": ([irot(1), imir(0)], lambda a: numpy.rot90(a)[::-1]),
    "imir 0, irot 1": ([imir(0), irot(1)], lambda a: numpy.rot90(a[::-1])),
    "irot 3, imir 1": ([irot(3), imir(1)], lambda a: numpy.rot90(a, 3)[:, ::-1]),
}


def heif_enc(samples, *options):
    return through_files(["heif-enc", *options, "-o", "OUT", "IN0"], [(".png", encoded(samples, "PNG"))], ".heic")


def avif(samples, *options):
    return avifenc(encoded(samples, "PNG"), *options)


# Encoders, and the limits for the difference from the expected pixels; None allows one level.
ENCODERS = {
    "HEIC": (heif_enc, None),
    "HEIC 4:4:4": (lambda samples: heif_enc(samples, "-p", "chroma=444"), None),
    "AVIF": (lambda samples: avif(samples, "-y", "420"), SMALL_HALVED_CHROMA),
    "AVIF 4:4:4": (lambda samples: avif(samples, "-y", "444"), FULL_CHROMA),
}


def expected(pixels, limits):
    return Close(limits.mean, limits.cosine, pixels) if limits else Pixels(pixels, AS_JOINED, tolerance=1)


def turned(many):
    """Rotations by the container, without and with an EXIF orientation, which is ignored."""
    for what, (encode, limits) in ENCODERS.items():
        for size in ((64, 48), (33, 17)):
            plain = encode(soft_scene(*size))
            pixels = reference.pixels(plain)
            for turn, (properties, turn_array) in TURNS.items():
                for orientation in (None, 1, 6, 8):
                    data = rewrap(plain, transformations=properties, orientation=orientation)
                    name = f"{turn} EXIF {orientation} {size_text(size)}"
                    yield Case(f"{what}, turned", name, data, expected(turn_array(pixels), limits))
            for orientation in range(1, 9):
                data = rewrap(plain, orientation=orientation)
                name = f"{orientation} {size_text(size)}"
                yield Case(f"{what}, EXIF alone", name, data, expected(pixels, limits))
            data = rewrap(plain, large=True)
            yield Case(f"{what}, boxes with sizes of 64 bits", size_text(size), data, expected(pixels, limits))


def cropped(many):
    size, (left, top, width, height) = (64, 48), (10, 6, 40, 30)
    for what, (encode, limits) in ENCODERS.items():
        plain = encode(soft_scene(*size))
        part = reference.pixels(plain)[top : top + height, left : left + width]
        crop = clap(left, top, width, height, size)
        for turn, (properties, turn_array) in TURNS.items():
            data = rewrap(plain, transformations=[crop, *properties])
            name = turn
            yield Case(f"{what}, clap and turned", name, data, expected(turn_array(part), limits))


def tiled(many):
    """Grids, of which some have tiles that extend beyond the picture."""
    layouts = [(2, 2, 128, 128), (2, 2, 100, 90), (3, 2, 150, 66), (1, 3, 64, 190), (4, 1, 200, 64)]
    for (what, (encode, limits)), (columns, rows, width, height) in product(ENCODERS.items(), layouts):
        tiles = [encode(soft_scene(64, 64, seed)) for seed in range(columns * rows)]
        shown = [reference.pixels(tile) for tile in tiles]
        lines = [numpy.hstack(shown[row * columns :][:columns]) for row in range(rows)]
        pixels = numpy.vstack(lines)[:height, :width]
        for turn, (properties, turn_array) in TURNS.items():
            for orientation in (None, 6):
                data = grid(tiles, columns, rows, width, height, transformations=properties, orientation=orientation)
                name = f"{columns}x{rows} {width}x{height} {turn} EXIF {orientation}"
                yield Case(f"{what}, grid", name, data, expected(turn_array(pixels), limits))
        data = grid(tiles, columns, rows, width, height, wide=True, large=True)
        name = f"{columns}x{rows} {width}x{height}"
        yield Case(f"{what}, grid, sizes of 32 bits", name, data, expected(pixels, limits))


def transparent(many):
    for what, (encode, limits) in ENCODERS.items():
        plain, alpha = encode(soft_scene(64, 64)), encode(alpha_slope(64, 64))
        color, levels = reference.pixels(plain), reference.pixels(alpha)[..., 0]
        data = rewrap(plain, alpha=alpha)
        yield Case(f"{what}, alpha", "64x64", data, expected(on_white(color, levels), limits))
        tiles = [encode(soft_scene(64, 64, seed)) for seed in range(2)]
        alphas = [alpha, encode(grey_scene(64, 64))]
        parts = [
            on_white(reference.pixels(tile), reference.pixels(of_tile)[..., 0])
            for tile, of_tile in zip(tiles, alphas, strict=True)
        ]
        data = grid(tiles, 2, 1, 128, 64, alpha=alphas)
        name = "2x1"
        yield Case(f"{what}, alpha of tiles", name, data, expected(numpy.hstack(parts), limits))


def groups():
    return {"turned": turned, "cropped": cropped, "tiled": tiled, "transparent": transparent}
