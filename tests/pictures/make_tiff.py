"""TIFF files by tifffile, libtiff's tools and tiff_parts.py: photometrics, depths, extra samples,
compressions, predictors, planes, strips and tiles, byte orders, fill orders."""

import io
from functools import partial
from itertools import cycle, product

import imagecodecs
import numpy
import tifffile
from cases import Case, Close, Pixels, Unsupported
from make_png import palette
from PIL import Image, ImageCms
from tiff_parts import (
    BLACK_IS_ZERO,
    CIELAB,
    CMYK,
    FLOAT,
    MASK,
    PALETTE,
    PREMULTIPLIED,
    RGB,
    SHORT,
    STRAIGHT,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    YCBCR,
    tiff,
)
from tools import alpha_slope, deep_scene, grey_scene, levels_of, on_white, rgb, scene, size_text, through_files

FORMAT = "tiff"

SIZES = [(1, 1), (1, 17), (33, 17), (40, 24)]
MORE_SIZES = [(2, 1), (3, 5), (16, 16), (17, 33), (130, 70)]

AS_ENCODED = "these samples were encoded"
ORDERS = [("<", False), (">", False), ("<", True), (">", True)]


SRGB, LAB = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 6500)
LOSSLESS_WEBP = {"lossless": True, "level": 100}
TO_LAB = ImageCms.buildTransform(SRGB, LAB, "RGB", "LAB")


def sizes(many):
    return SIZES + MORE_SIZES if many else SIZES


def written(samples, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, samples, metadata=None, **options)
    return out.getvalue()


def inks_shown(inks):
    """CMYK of 8 bits converted to RGB by Pillow."""
    return numpy.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))


def kinds(size):
    """A dictionary from names to samples, options of tifffile, and the expected pixels."""
    color, grey, alpha = scene(*size), grey_scene(*size), alpha_slope(*size)
    wide, wide_grey = deep_scene(*size), deep_scene(*size, 1, 1)[..., 0]
    wide_alpha = alpha.astype(numpy.uint16) * 257
    inks = numpy.dstack([color, grey_scene(*size, 5)])
    premultiplied = (color.astype(int) * alpha[..., None] + 127) // 255
    colors = palette(256)

    def extra(*names):
        return {"photometric": "rgb", "extrasamples": names}

    return {
        "grey": (grey, {"photometric": "minisblack"}, rgb(grey)),
        "grey, white is 0": (grey, {"photometric": "miniswhite"}, 255 - rgb(grey)),
        "grey, 16 bits": (wide_grey, {"photometric": "minisblack"}, rgb(levels_of(wide_grey, 65535))),
        "grey, alpha": (
            numpy.dstack([grey, alpha]),
            {"photometric": "minisblack", "extrasamples": ["unassalpha"]},
            on_white(grey, alpha),
        ),
        "RGB": (color, {"photometric": "rgb"}, color),
        "RGB, 16 bits": (wide, {"photometric": "rgb"}, levels_of(wide, 65535)),
        "RGB, alpha": (numpy.dstack([color, alpha]), extra("unassalpha"), on_white(color, alpha)),
        "RGB, alpha, 16 bits": (
            numpy.dstack([wide, wide_alpha]),
            extra("unassalpha"),
            on_white(levels_of(wide, 65535), alpha),
        ),
        "RGB, premultiplied alpha": (
            numpy.dstack([premultiplied, alpha]).astype(numpy.uint8),
            extra("assocalpha"),
            (premultiplied + 255 - alpha[..., None]).astype(numpy.uint8),
        ),
        "RGB, a sample of kind 0": (numpy.dstack([color, alpha]), extra("unspecified"), color),
        "RGB, two samples of kind 0": (
            numpy.dstack([color, alpha, grey]),
            extra("unspecified", "unspecified"),
            color,
        ),
        "CMYK": (inks, {"photometric": "separated"}, inks_shown(inks)),
        "palette": (
            grey,
            {"photometric": "palette", "colormap": colors.T.astype(numpy.uint16) * 257},
            colors[grey],
        ),
    }


COMPRESSIONS = [
    (compression, predictor)
    for compression in (None, "packbits", "lzw", "adobe_deflate", "deflate", "zstd", "lzma")
    for predictor in ((False,) if compression in (None, "packbits") else (False, True))
]


def matrix(what, many):
    """The samples `what` of `kinds` in every compression and layout. The byte orders take turns, or all with `many`."""
    orders = cycle(ORDERS)
    for size in sizes(many):
        samples, options, shown = kinds(size)[what]
        for (compression, predictor), layout, separate in product(COMPRESSIONS, LAYOUTS, (False, True)):
            if separate and samples.ndim == 2:
                continue
            for order, big in ORDERS if many else [next(orders)]:
                data = written(
                    numpy.moveaxis(samples, -1, 0).copy() if separate else samples,
                    compression=compression,
                    predictor=predictor,
                    byteorder=order,
                    bigtiff=big,
                    **planes(samples, separate),
                    **LAYOUTS[layout],
                    **options,
                )
                coding = f"{what}, {compression or 'uncompressed'}" + ", predictor" * predictor
                name = f"{layout}{' separate' * separate} {order_name(order, big)} {size_text(size)}"
                yield Case(coding, name, data, Pixels(shown, AS_ENCODED))


LAYOUTS = {"strip": {}, "strips": {"rowsperstrip": 5}, "tiles": {"tile": (16, 16)}}


def order_name(order, big):
    return f"{'little' if order == '<' else 'big'}-endian" + " BigTIFF" * big


def planes(samples, separate):
    return {"planarconfig": "separate" if separate else "contig"} if samples.ndim == 3 else {}


DEPTHS = {
    # Photometric, channels, extra samples, bits.
    "grey": (BLACK_IS_ZERO, 1, (), (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32)),
    "grey, white is 0": (WHITE_IS_ZERO, 1, (), (1, 2, 4, 8, 12, 16)),
    "grey, alpha": (BLACK_IS_ZERO, 2, (STRAIGHT,), (4, 8, 12, 16)),
    "RGB": (RGB, 3, (), (1, 2, 4, 5, 8, 10, 12, 16, 32)),
    "RGB, alpha": (RGB, 4, (STRAIGHT,), (2, 4, 8, 12, 16)),
    "RGB, premultiplied alpha": (RGB, 4, (PREMULTIPLIED,), (16,)),
    "CMYK": (CMYK, 4, (), (4, 8, 16)),
    "palette": (PALETTE, 1, (), (1, 2, 4, 8)),
    "palette, a sample of kind 0": (PALETTE, 2, (UNSPECIFIED,), (8,)),
}


def deep_samples(size, channels, bits):
    samples = deep_scene(*size, bits, channels).astype(numpy.uint64)
    return samples >> (16 - bits) if bits <= 16 else samples * ((1 << bits) - 1) // 65535


def deep_shown(what, samples, bits):
    if what.startswith("palette"):
        return palette(1 << bits)[samples[..., 0].astype(int)]
    most = (1 << bits) - 1
    levels = levels_of(samples, most)
    if what == "CMYK":
        return inks_shown(levels)
    if "premultiplied" in what:
        return (levels[..., :3].astype(int) + 255 - levels[..., 3:]).astype(numpy.uint8)
    color = rgb(levels[..., 0]) if what.startswith("grey") else levels[..., :3]
    color = 255 - color if "white" in what else color
    return on_white(color, levels[..., -1]) if "alpha" in what else color


def depths(what, many):
    """Samples of the numbers of bits in DEPTHS, written by tiff_parts.py."""
    photometric, channels, extra, of_bits = DEPTHS[what]
    orders = cycle(ORDERS)
    for bits, size in product(of_bits, sizes(many)):
        samples = deep_samples(size, channels, bits)
        if "premultiplied" in what:
            samples[..., :3] = samples[..., :3] * samples[..., 3:] // 65535
        tags = []
        if photometric == PALETTE:
            tags = [(320, SHORT, (palette(1 << bits).T.astype(int) * 257).ravel().tolist())]
        if photometric == CMYK:
            tags = [(332, SHORT, [1])]
        expected = Pixels(deep_shown(what, samples, bits), AS_ENCODED)
        expected = UNUSUAL.get((what, bits), expected)
        for layout, separate, fill_order in product(("strip", "strips", "tiles"), (False, True), (1, 2)):
            if separate and channels == 1 or fill_order == 2 and separate:
                continue
            order, big = next(orders)
            data = tiff(
                samples,
                bits,
                photometric,
                extra=extra,
                order=order,
                big=big,
                separate=separate,
                fill_order=fill_order,
                tags=tags,
                **{"strip": {}, "strips": {"rows": 3}, "tiles": {"tile": 16}}[layout],
            )
            name = f"{layout}{' separate' * separate} {order_name(order, big)} {size_text(size)}"
            yield Case(f"{what}, {bits} bits" + ", bits reversed" * (fill_order == 2), name, data, expected)


# Depths with another expected result.
UNUSUAL = {("grey", 24): Unsupported(("TIFF", "24 bits"), "no program writes such pictures")}

TIFFCP = {
    "none": ["-c", "none"],
    "packbits": ["-c", "packbits"],
    "lzw": ["-c", "lzw"],
    "lzw, predictor": ["-c", "lzw:2"],
    "zip": ["-c", "zip"],
    "zip, predictor": ["-c", "zip:2"],
    "lzma": ["-c", "lzma"],
    "zstd": ["-c", "zstd"],
    "g3": ["-c", "g3"],
    "g3, 2d": ["-c", "g3:2d"],
    "g3, fill": ["-c", "g3:fill"],
    "g3, 2d, fill": ["-c", "g3:2d:fill"],
    "g4": ["-c", "g4"],
}
TIFFCP_LAYOUTS = {
    "strip": ["-r", "9999"],
    "strips": ["-r", "7"],
    "tiles": ["-t", "-w", "16", "-l", "32"],
    "separate": ["-p", "separate"],
    "separate tiles": ["-p", "separate", "-t", "-w", "32", "-l", "16"],
    "big-endian": ["-B"],
    "little-endian": ["-L"],
    "BigTIFF": ["-8"],
    "bits reversed": ["-f", "lsb2msb"],
    "bits reversed, big-endian tiles": ["-f", "lsb2msb", "-B", "-t", "-w", "16", "-l", "16"],
}


def tiffcp(data, *options):
    return through_files(["tiffcp", *options, "IN0", "OUT"], [(".tif", data)], ".tif")


def by_tiffcp(what, many):
    for size in sizes(many):
        bits = 1 if what.startswith("bilevel") else 8
        if bits == 1:
            photometric = WHITE_IS_ZERO if "white" in what else BLACK_IS_ZERO
            samples = (grey_scene(*size)[..., None] > 100).astype(numpy.uint64)
            source = tiff(samples, 1, photometric)
            grey = rgb((samples[..., 0] * 255).astype(numpy.uint8))
            shown = 255 - grey if "white" in what else grey
        else:
            samples, options, shown = kinds(size)[what]
            source = written(samples, **options)
        for compression, layout in product(TIFFCP, TIFFCP_LAYOUTS):
            if compression.startswith("g") and bits != 1 or "predictor" in compression and bits == 1:
                continue
            if "separate" in layout and (not what.startswith("RGB") or "16 bits" in what):
                continue  # tiffcp only separates samples of 8 bits
            data = tiffcp(source, *TIFFCP[compression], *TIFFCP_LAYOUTS[layout])
            expected = Pixels(shown, AS_ENCODED)
            yield Case(f"{what}, {compression} by tiffcp, {layout}", size_text(size), data, expected)


def jpegs(many):
    """JPEG in TIFF, in strips and tiles."""
    for size in sizes(many):
        sources = {
            "RGB": written(scene(*size), photometric="rgb"),
            "grey": written(grey_scene(*size), photometric="minisblack"),
        }
        for color, source in sources.items():
            for options in ("jpeg", "jpeg:95", "jpeg:10", "jpeg:r", "jpeg:r:90"):
                for layout in ("strip", "tiles", "big-endian", "BigTIFF", "separate"):
                    if color == "grey" and (layout == "separate" or "r" in options.split(":")):
                        continue
                    if layout == "separate" and ":r" not in options:
                        continue
                    data = tiffcp(source, "-c", options, "-r", "16", *TIFFCP_LAYOUTS[layout])
                    yield Case(f"{color}, {options} by tiffcp", f"{layout} {size_text(size)}", data)
        for subsampling in ((1, 1), (2, 1), (2, 2), (4, 1)):
            for layout, options in {"strip": {}, "strips": {"rowsperstrip": 16}, "tiles": {"tile": (32, 32)}}.items():
                data = written(scene(*size), photometric="rgb", compression="jpeg", subsampling=subsampling, **options)
                name = f"{layout} {size_text(size)}"
                yield Case("JPEG by tifffile, sampling {}x{}".format(*subsampling), name, data)


def ycbcr(many):
    """YCbCr without JPEG, with chroma subsampling."""
    for size, (across, down) in product(sizes(many), ((1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (1, 2))):
        picture = numpy.asarray(Image.fromarray(scene(*size)).convert("YCbCr"))
        units, shown = chroma_units(picture, across, down)
        expected = Pixels(shown, AS_ENCODED, tolerance=2)  # the conversions round differently
        for compression, code, compress in ((1, "uncompressed", bytes), (5, "LZW", imagecodecs.lzw_encode)):
            data = tiff(
                picture,
                8,
                YCBCR,
                compression=compression,
                compress=lambda _, units=units, compress=compress: compress(units),
                tags=[(530, SHORT, [across, down]), (531, SHORT, [1])],
            )
            yield Case(f"YCbCr, {code}, sampling {across}x{down}", size_text(size), data, expected)


def chroma_units(picture, across, down):
    """Data units, which have for each block of across x down pixels the luma and one Cb and Cr (TIFF 6.0,
    section 21), and the RGB pixels that they represent."""
    height, width = picture.shape[:2]
    padded = numpy.pad(picture, ((0, -height % down), (0, -width % across), (0, 0)), "edge")
    blocks = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across, 3).swapaxes(1, 2)
    luma = blocks[..., 0].reshape(*blocks.shape[:2], -1)
    chroma = blocks[..., 1:].mean(axis=(2, 3)).astype(numpy.uint8)
    full = chroma.repeat(down, axis=0).repeat(across, axis=1)[:height, :width]
    shown = Image.fromarray(numpy.dstack([picture[..., 0], full]), "YCbCr").convert("RGB")
    return numpy.concatenate([luma, chroma], axis=-1).tobytes(), numpy.asarray(shown)


def odd(many):
    """Orientations, several pages, CIELab, WebP in TIFF and floating-point samples."""
    for size in sizes(many):
        picture = scene(*size)
        for value in range(10):
            data = written(picture, photometric="rgb", extratags=[(274, 3, 1, value, True)])
            yield Case("orientation", f"{value} {size_text(size)}", data)
        out = io.BytesIO()
        with tifffile.TiffWriter(out) as pages:
            pages.write(picture, photometric="rgb", metadata=None)
            pages.write(grey_scene(*size), photometric="minisblack", metadata=None)
        yield Case("several pages", size_text(size), out.getvalue())
        lab = numpy.asarray(ImageCms.applyTransform(Image.fromarray(picture), TO_LAB))
        webp = written(picture, photometric="rgb", compression="webp", compressionargs=LOSSLESS_WEBP)
        refused = Unsupported(("TIFF", "WebP"), "libtiff does not check that the WebP picture has the size of its strip")
        yield Case("WebP in TIFF", size_text(size), webp, refused)
        yield Case("CIELab", size_text(size), tiff(lab, 8, CIELAB), Close(1.5, 0.999, picture))
        for bits, kind in ((32, numpy.float32), (64, numpy.float64), (16, numpy.float16)):
            for photometric, channels, color in ((BLACK_IS_ZERO, 1, "grey"), (RGB, 3, "RGB")):
                samples = (picture[..., :channels] / 255).astype(kind)
                data = tiff(samples, bits, photometric, sample_format=FLOAT)
                refused = Unsupported(("TIFF", "float"), "no standard defines which numbers are black and white")
                yield Case(f"floats of {bits} bits, {color}", size_text(size), data, refused)


# Compressions of tifffile, and their numbers, which the message has to name.
COMPRESSIONS_REFUSED = {"jpeg2000": 34712, "jpegxr": 34934, "jpegxl": 50002, "png": 34933, "lerc": 34887}
PHOTOMETRICS_REFUSED = {"colour filter array": 32803, "ICCLab": 9, "linear raw": 34892, "mask": MASK}


def unsupported(many):
    for size in sizes(many):
        color = scene(*size)
        for compression, number in COMPRESSIONS_REFUSED.items():
            data = written(color, photometric="rgb", compression=compression)
            refused = Unsupported(("TIFF", str(number)), "libtiff does not read it, or photos do not use it")
            yield Case(f"{compression} in TIFF", size_text(size), data, refused)
        bits = tiff((color[..., :1] > 100).astype(numpy.uint64), 1, BLACK_IS_ZERO)
        refused = Unsupported(("TIFF", "34661"), "photos do not use it")
        yield Case("JBIG in TIFF", size_text(size), tiffcp(bits, "-c", "jbig"), refused)
        old = tiff(color, 8, YCBCR, compression=6, tags=[(530, SHORT, [1, 1])])
        refused = Unsupported(("TIFF", "JPEG", "old"), "programs differ in how they write it")
        yield Case("old-style JPEG in TIFF", size_text(size), old, refused)
        for what, photometric in PHOTOMETRICS_REFUSED.items():
            channels = 3 if photometric in (9, 34892) else 1
            bits = 1 if photometric == MASK else 8
            data = tiff(color[..., :channels].astype(numpy.uint64) >> (8 - bits), bits, photometric)
            refused = Unsupported(("TIFF", str(photometric)), "not for viewing, or libtiff does not convert it")
            yield Case(what, size_text(size), data, refused)


def named(prefix, make, names):
    return {f"{prefix}_{name}".replace(", ", "_").replace(" ", "_"): partial(make, name) for name in names}


def groups():
    found = named("matrix", matrix, kinds((1, 1))) | named("bits", depths, DEPTHS)
    sources = ("bilevel", "bilevel, white is 0", "grey", "RGB", "RGB, alpha", "RGB, a sample of kind 0", "RGB, 16 bits")
    found |= named("tiffcp", by_tiffcp, sources)
    return found | {"jpeg": jpegs, "ycbcr": ycbcr, "odd": odd, "unsupported": unsupported}
