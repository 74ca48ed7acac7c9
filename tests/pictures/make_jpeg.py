"""JPEG files as encoders write them: all samplings, entropy codings, scans, colours, precisions, sizes."""

from functools import partial

import imagecodecs
import numpy
import reference
from cases import Case, Pillow, Pixels
from PIL import Image
from tools import deep_scene, encoded, exif, grey_scene, levels_of, piped, pnm, rgb, scene, size_text, sizes, through_files

FORMAT = "jpeg"


# Sampling factors, horizontal x vertical, of Y, Cb and Cr. Components that are not listed have 1x1.
SAMPLINGS = [
    "1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "3x1", "1x3", "3x2", "2x3",
    "2x2,2x1,2x1", "2x2,1x2,1x2", "2x2,2x1,1x2", "2x2,1x1,2x2", "4x1,2x1,1x1",
    "1x1,2x2,2x2", "1x1,2x1,1x1", "1x1,1x1,2x2", "1x1,1x2,2x1", "1x2,2x1,1x1", "2x1,1x1,2x1",
    "2x1,2x2,2x2", "1x2,2x2,2x2", "2x1,2x1,2x1", "1x2,1x2,1x2",
]  # fmt: skip
# Factors that are too large for a scan with all three components.
LARGE_SAMPLINGS = ["2x2,2x2,2x2", "4x2,2x1,2x1", "4x4", "3x3", "4x3", "3x4", "4x4,2x2,2x2", "1x1,4x4,4x4"]

# Scripts of `cjpeg -scans`.
EACH_ALONE = "0; 1; 2;"
LUMA_THEN_CHROMA = "0; 1 2;"
LUMA_LAST = "2; 1; 0;"
SPECTRAL = "0: 0-0, 0, 0; 1: 0-0, 0, 0; 2: 0-0, 0, 0; 0: 1-63, 0, 0; 1: 1-63, 0, 0; 2: 1-63, 0, 0;"
REFINED = (
    "0,1,2: 0-0, 0, 2; 0: 1-63, 0, 3; 1: 1-63, 0, 1; 2: 1-63, 0, 1; 0: 1-63, 3, 2; 0,1,2: 0-0, 2, 1;"
    "0: 1-63, 2, 1; 0,1,2: 0-0, 1, 0; 0: 1-63, 1, 0; 1: 1-63, 1, 0; 2: 1-63, 1, 0;"
)

ENTROPY = {
    "baseline": [],
    "optimized Huffman": ["-optimize"],
    "progressive": ["-progressive"],
    "arithmetic": ["-arithmetic"],
    "progressive arithmetic": ["-arithmetic", "-progressive"],
    "restart after each block": ["-restart", "1B"],
    "restart after each row": ["-restart", "1"],
    "progressive with restarts": ["-progressive", "-restart", "3B"],
    "arithmetic with restarts": ["-arithmetic", "-restart", "2B"],
}
SCRIPTS = {
    "a scan for each component": (EACH_ALONE, []),
    "a scan for each component, arithmetic": (EACH_ALONE, ["-arithmetic"]),
    "a scan for each component, restarts": (EACH_ALONE, ["-restart", "2B"]),
    "luma, then chroma": (LUMA_THEN_CHROMA, []),
    "luma last": (LUMA_LAST, []),
    "progressive by spectral selection": (SPECTRAL, []),
    "progressive, refined, one by one": (REFINED, ["-progressive"]),
    "progressive, refined, arithmetic": (REFINED, ["-arithmetic"]),
}
INTERLEAVED = {LUMA_THEN_CHROMA, REFINED}


def cjpeg(samples, *options, script=None):
    if script:
        inputs = [(".pnm", pnm(samples)), (".txt", script.encode())]
        return through_files(["cjpeg", *options, "-scans", "IN1", "-outfile", "OUT", "IN0"], inputs, ".jpg")
    return piped(["cjpeg", *options], pnm(samples))


def jpegtran(data, *options):
    return piped(["jpegtran", "-copy", "all", *options], data)


def samplings(coding, many):
    options, script = ENTROPY.get(coding), None
    factors = SAMPLINGS
    if options is None:
        script, options = SCRIPTS[coding]
        factors = SAMPLINGS if script in INTERLEAVED else SAMPLINGS + LARGE_SAMPLINGS
    for sampling in factors:
        for size in sizes(many) if script is None or many else [(1, 1), (17, 33), (130, 70)]:
            data = cjpeg(scene(*size), "-sample", sampling, "-quality", "85", *options, script=script)
            yield Case(coding, f"{sampling} {size_text(size)}", data)


def colors(many):
    """Grey, RGB, CMYK and YCCK in every entropy coding."""
    for size in sizes(many):
        inks = Image.fromarray(numpy.dstack([scene(*size), grey_scene(*size, 5)]), "CMYK")
        sources = {
            "grey": cjpeg(grey_scene(*size), "-grayscale"),
            "grey, sampling 2x2": cjpeg(grey_scene(*size), "-grayscale", "-sample", "2x2"),
            "RGB": cjpeg(scene(*size), "-rgb"),
            "RGB, sampling 2x2": cjpeg(scene(*size), "-rgb", "-sample", "2x2,1x1,1x1"),
            "CMYK": encoded(inks, "JPEG", quality=90),
        }
        sources["YCCK"] = with_transform(sources["CMYK"], 2)
        sources["CMYK without Adobe's marker"] = without_adobe(sources["CMYK"])
        for color, source in sources.items():
            for coding in ENTROPY:
                data = jpegtran(source, *ENTROPY[coding])
                yield Case(f"{color}, {coding}", size_text(size), data)


def with_transform(data, transform):
    """Changes the colour transform in Adobe's marker segment, its last byte."""
    at = data.index(b"\xff\xee\x00\x0eAdobe") + 15
    return data[:at] + bytes([transform]) + data[at + 1 :]


def without_adobe(data):
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:at] + data[at + 16 :]


def adobe(transform):
    """Adobe's marker segment with a colour transform."""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


def transforms(many):
    """Files with and without Adobe's marker, which states the colours of three or four components."""
    for size in sizes(many):
        name = size_text(size)
        jfif = cjpeg(scene(*size))
        bare = jfif[:2] + jfif[20:]
        for transform in (0, 1, 2, 7):
            with_marker = bare[:2] + adobe(transform) + bare[2:]
            yield Case(f"Adobe's transform {transform}", name, with_marker)
            both = jfif[:20] + adobe(transform) + jfif[20:]
            yield Case(f"JFIF and Adobe's transform {transform}", name, both)
        yield Case("neither JFIF nor Adobe's marker", name, bare)


def qualities(many):
    for quality in range(1, 101, 3) if many else (1, 5, 25, 50, 75, 90, 95, 100):
        for coding in ("baseline", "progressive", "arithmetic"):
            for extra in ([], ["-baseline"], ["-dct", "fast"], ["-smooth", "30"], ["-qslots", "0,1,1"]):
                data = cjpeg(scene(65, 43, quality), "-quality", str(quality), *ENTROPY[coding], *extra)
                name = " ".join([coding, *extra])
                yield Case(f"quality {quality}", name, data)


def twins(many):
    """Files with the same coefficients in different codings, which have the same pixels."""
    for size in sizes(many):
        for sampling in ("1x1", "2x1", "2x2", "1x1,2x2,2x2"):
            source = cjpeg(scene(*size, 9), "-sample", sampling, "-quality", "92")
            expected = Pixels(reference.pixels(source), "the pixels of the same coefficients in a baseline file")
            for coding, (script, options) in SCRIPTS.items():
                inputs = [(".jpg", source), (".txt", script.encode())]
                command = ["jpegtran", *options, "-scans", "IN1", "-outfile", "OUT", "IN0"]
                name = f"{sampling} {size_text(size)}"
                yield Case(f"transcoded: {coding}", name, through_files(command, inputs, ".jpg"), expected)
            for coding, options in ENTROPY.items():
                name = f"{sampling} {size_text(size)}"
                yield Case(f"transcoded: {coding}", name, jpegtran(source, *options), expected)


# For a picture of 130 x 70 pixels: divisors, and wanted sizes for which the decoder uses them. Both sides
# of the result are at least twice the wanted ones.
DIVIDED = {1: (33, 18), 2: (32, 17), 4: (16, 9), 8: (8, 4)}


def scaled(coding, many):
    """Files that are decoded at a half, a quarter and an eighth of their size, as in Pillow's draft mode."""
    script, options = SCRIPTS.get(coding, (None, ENTROPY.get(coding)))
    for sampling in SAMPLINGS if many else SAMPLINGS[:14] + SAMPLINGS[18:21]:
        data = cjpeg(scene(130, 70), "-sample", sampling, *options, script=script)
        for divisor, wanted in DIVIDED.items():
            name = sampling
            yield Case(f"{coding} at 1/{divisor}", name, data, Pillow(draft=divisor), wanted)


def scaled_colors(many):
    inks = Image.fromarray(numpy.dstack([scene(130, 70), grey_scene(130, 70, 5)]), "CMYK")
    sources = {
        "grey": cjpeg(grey_scene(130, 70), "-grayscale"),
        "CMYK": encoded(inks, "JPEG", quality=90),
        "RGB": cjpeg(scene(130, 70), "-rgb"),
    }
    for color, data in sources.items():
        for divisor, wanted in DIVIDED.items():
            yield Case(f"{color} at 1/{divisor}", "130x70", data, Pillow(draft=divisor), wanted)
    source = cjpeg(scene(130, 70), "-sample", "2x2")
    for orientation in range(1, 9):
        block = exif(orientation, prefix=b"Exif\0\0")
        data = source[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + source[2:]
        for divisor, (across, down) in DIVIDED.items():
            wanted = (down, across) if orientation > 4 else (across, down)
            name = str(orientation)
            yield Case(f"EXIF orientation, at 1/{divisor}", name, data, Pillow(draft=divisor), wanted)


def lossless(many):
    """Lossless files (SOF3) with samples of 2 to 16 bits. Pillow only opens those of 8 bits."""
    for bits in range(2, 17):
        kind = numpy.uint8 if bits <= 8 else numpy.uint16
        for size in sizes(many) if bits in (8, 12, 16) or many else [(17, 33)]:
            for channels, color in ((1, "grey"), (3, "RGB")):
                samples = (deep_scene(*size, bits, channels) >> (16 - bits)).astype(kind)
                samples = samples[..., 0] if channels == 1 else samples
                shown = rgb(levels_of(samples, (1 << bits) - 1))
                for predictor in range(1, 8) if size == (17, 33) else (1, 4):
                    data = imagecodecs.jpeg8_encode(
                        samples, bitspersample=bits, lossless=True, predictor=predictor, colorspace=color_of(channels)
                    )
                    name = f"predictor {predictor} {size_text(size)}"
                    expected = Pixels(shown, "lossless: these samples were encoded")
                    yield Case(f"lossless {color}, {bits} bits", name, data, expected)


def color_of(channels):
    return "GRAYSCALE" if channels == 1 else "RGB"


def twelve_bits(many):
    """Extended sequential DCT with samples of 12 bits. Pillow does not open these files, so imagecodecs,
    with a libjpeg-turbo of its own, decodes the expected samples."""
    for size in sizes(many):
        for channels, color in ((1, "grey"), (3, "YCbCr")):
            samples = deep_scene(*size, 3, channels) >> 4
            samples = samples[..., 0] if channels == 1 else samples
            for subsampling in ("444", "422", "420") if channels == 3 else (None,):
                data = imagecodecs.jpeg8_encode(samples, level=95, bitspersample=12, subsampling=subsampling)
                shown = rgb(levels_of(imagecodecs.jpeg8_decode(data), 4095))
                name = f"{subsampling} {size_text(size)}"
                expected = Pixels(shown, "decoded by imagecodecs, as Pillow only reads 8 bits")
                yield Case(f"12 bits, {color}", name, data, expected)


def groups():
    found = {}
    for coding in [*ENTROPY, *SCRIPTS]:
        found[f"sampling {coding}"] = partial(samplings, coding)
    for coding in ("baseline", "progressive", "arithmetic", "a scan for each component"):
        found[f"scaled {coding}"] = partial(scaled, coding)
    found |= {
        "colors": colors,
        "transforms": transforms,
        "qualities": qualities,
        "twins": twins,
        "scaled colors": scaled_colors,
        "lossless": lossless,
        "12 bits": twelve_bits,
    }
    return {name.replace(" ", "_").replace(",", ""): make for name, make in found.items()}
