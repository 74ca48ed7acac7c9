"""Valid files of every format, which damage.py damages. Each function yields the names of codings and
files."""

import numpy
from make_bmp import (
    BITFIELDS,
    CHANNEL_MASKS,
    RLE8,
    bmp,
    color_table,
    header,
    indices_of,
    masked_pixels,
    palette,
    rows,
    run_length,
)
from make_gif import quantized
from make_heif import avifenc
from make_jpeg import ENTROPY, SCRIPTS, cjpeg
from make_png import GREY_ALPHA, PALETTE, RGB, chunk, png, samples_of
from make_tiff import TIFFCP, tiffcp, written
from make_webp import cwebp
from PIL import Image
from tiff_parts import BLACK_IS_ZERO, tiff
from tools import alpha_slope, encoded, grey_scene, rgb, scene, through_files

SIZE = (130, 70)
SMALL = (40, 24)


def jpegs():
    for coding, options in ENTROPY.items():
        yield coding, cjpeg(scene(*SIZE), "-sample", "2x2", *options)
    for coding in ("a scan for each component", "luma, then chroma", "progressive, refined, one by one"):
        script, options = SCRIPTS[coding]
        yield coding, cjpeg(scene(*SIZE), *options, script=script)
    yield "grey", cjpeg(grey_scene(*SIZE), "-grayscale")
    yield "high quality", cjpeg(scene(*SIZE), "-quality", "97", "-sample", "1x1")
    yield "CMYK", encoded(Image.fromarray(scene(*SIZE)).convert("CMYK"), "JPEG")


def pngs():
    yield "RGB", png(samples_of(SMALL, 3, 8), RGB, 8, kind=5, pieces=4)
    yield "RGB, interlaced", png(samples_of(SMALL, 3, 8), RGB, 8, interlaced=True, kind=5)
    yield "stored", png(samples_of(SMALL, 3, 8), RGB, 8, level=0)
    yield "grey and alpha", png(samples_of(SMALL, 2, 8), GREY_ALPHA, 8, kind=4)
    plte = chunk(b"PLTE", palette(16).tobytes()) + chunk(b"tRNS", bytes(range(0, 250, 25)))
    yield "palette", png(samples_of(SMALL, 1, 4), PALETTE, 4, before=plte)
    yield "by Pillow", encoded(scene(*SIZE), "PNG")


def gifs():
    yield "256 colours", encoded(quantized(SIZE, 256), "GIF")
    yield "interlaced", encoded(quantized(SIZE, 256), "GIF", interlace=1)
    yield "transparent", encoded(quantized(SMALL, 256), "GIF", transparency=3)
    frames = [quantized(SMALL, 256, seed) for seed in range(3)]
    yield "animated", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def bmps():
    yield "24 bits", encoded(scene(*SMALL), "BMP")
    indices = indices_of(SMALL, 8)
    table = color_table(palette(256), 4)
    yield "palette", bmp(header(40, SMALL, 8), table, rows(indices.astype(numpy.uint8)))
    coded = b"\0\0".join(run_length(row, 8, False) for row in indices[::-1]) + b"\0\1"
    yield "RLE8", bmp(header(40, SMALL, 8, RLE8), table, coded)
    bits, masks = CHANNEL_MASKS["565"]
    pixels, _ = masked_pixels(SMALL, bits, masks, numpy.dstack([scene(*SMALL), alpha_slope(*SMALL)]))
    yield "565", bmp(header(40, SMALL, bits, BITFIELDS, 0, masks[:3]), b"", rows(pixels))


def webps():
    opaque = encoded(scene(*SIZE), "PNG")
    clear = encoded(numpy.dstack([scene(*SIZE), alpha_slope(*SIZE)]), "PNG")
    yield "lossy", cwebp(opaque)
    yield "lossy, high quality", cwebp(opaque, "-q", "97")
    yield "lossless", cwebp(opaque, "-lossless")
    yield "alpha", cwebp(clear)
    yield "alpha, lossless", cwebp(clear, "-lossless")
    frames = [Image.fromarray(scene(*SMALL, seed)) for seed in range(3)]
    yield "animated", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=50)


def tiffs():
    source = written(scene(*SMALL), photometric="rgb")
    # Without zstd: versions of libzstd differ in the damage that they notice.
    for compression in ("none", "packbits", "lzw", "lzw, predictor", "zip", "zip, predictor", "lzma"):
        yield compression, tiffcp(source, "-r", "8", *TIFFCP[compression])
    bits = tiff((grey_scene(*SIZE)[..., None] > 100).astype(numpy.uint64), 1, BLACK_IS_ZERO)
    for compression in ("g3", "g3, 2d", "g4"):
        yield compression, tiffcp(bits, *TIFFCP[compression])
    yield "JPEG", tiffcp(written(scene(*SIZE), photometric="rgb"), "-c", "jpeg:90", "-r", "16")
    yield "tiles", tiffcp(source, "-c", "lzw", "-t", "-w", "16", "-l", "16")


def heifs():
    for coding, options in {"HEIC": [], "HEIC 4:4:4": ["-p", "chroma=444"]}.items():
        command = ["heif-enc", *options, "-o", "OUT", "IN0"]
        yield coding, through_files(command, [(".png", encoded(scene(*SIZE), "PNG"))], ".heic")
    clear = encoded(numpy.dstack([scene(*SIZE), alpha_slope(*SIZE)]), "PNG")
    yield "HEIC, alpha", through_files(["heif-enc", "-o", "OUT", "IN0"], [(".png", clear)], ".heic")
    # Without colour, as decoders differ in the upsampling of chroma.
    yield "AVIF", avifenc(encoded(rgb(grey_scene(*SIZE)), "PNG"), "-y", "420")
    yield "AVIF 4:4:4", avifenc(encoded(scene(*SIZE), "PNG"))
    yield "AVIF, alpha", avifenc(clear)


# The function for each format.
FILES = {"jpeg": jpegs, "png": pngs, "gif": gifs, "bmp": bmps, "webp": webps, "tiff": tiffs, "heif": heifs}
