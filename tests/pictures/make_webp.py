"""WebP files by libwebp's programs and by Pillow: lossy, lossless, with alpha, animated, with EXIF."""

import numpy
from cases import Case, Pillow
from make_gif import quantized
from PIL import Image
from tools import alpha_slope, encoded, exif, grey_scene, piped, scene, size_text, sizes, through_files

FORMAT = "webp"


LOSSY = {
    "default": [],
    "lowest quality": ["-q", "0"],
    "highest quality": ["-q", "100"],
    "sharp YUV": ["-sharp_yuv"],
    "simple filter": ["-nostrong", "-f", "60"],
    "simple filter, sharp": ["-nostrong", "-f", "100", "-sharpness", "7"],
    "strong filter": ["-strong", "-f", "100"],
    "strong filter, sharp": ["-strong", "-f", "80", "-sharpness", "4"],
    "no filter": ["-f", "0"],
    "one segment": ["-segments", "1"],
    "two segments": ["-segments", "2", "-sns", "100"],
    "partitions": ["-partition_limit", "50"],
    "passes": ["-pass", "3", "-size", "900"],
    "drawing": ["-preset", "drawing"],
    "text": ["-preset", "text"],
    "photo": ["-preset", "photo"],
} | {f"method {method}": ["-m", str(method)] for method in range(7)}
LOSSLESS = {f"lossless {level}": ["-z", str(level)] for level in range(10)} | {
    "near lossless": ["-near_lossless", "40"],
    "lossless, graph": ["-lossless", "-hint", "graph"],
    "lossless, fast": ["-lossless", "-m", "0", "-q", "0"],
    "lossless, slow": ["-lossless", "-m", "6", "-q", "100"],
    "lossless, exact": ["-lossless", "-exact"],
}
ALPHA = {
    "alpha, method 0": ["-alpha_method", "0"],
    "alpha, method 1": ["-alpha_method", "1"],
    "alpha, no filter": ["-alpha_filter", "none"],
    "alpha, best filter": ["-alpha_filter", "best"],
    "alpha, fast filter": ["-alpha_filter", "fast"],
    "alpha, lossy": ["-alpha_q", "30"],
    "alpha, no filter, raw": ["-alpha_filter", "none", "-alpha_method", "0"],
    "alpha, best filter, raw": ["-alpha_filter", "best", "-alpha_method", "0"],
    "alpha, exact": ["-exact"],
    "alpha blended": ["-blend_alpha", "0x80c0ff"],
    "alpha dropped": ["-noalpha"],
}


def cwebp(png, *options):
    return piped(["cwebp", "-quiet", *options, "-o", "-", "--", "-"], png)


def pictures(size):
    """PNG files of the same picture: in RGB, with alpha, in grey, with few colours."""
    color = scene(*size)
    few = Image.fromarray(color).quantize(5).convert("RGB")
    return {
        "RGB": encoded(color, "PNG"),
        "alpha": encoded(numpy.dstack([color, alpha_slope(*size)]), "PNG"),
        "grey": encoded(grey_scene(*size), "PNG"),
        "few colours": encoded(few, "PNG"),
    }


def by_cwebp(options_of, contents):
    def make(many):
        for size in sizes(many):
            pngs = pictures(size)
            for what, options in options_of.items():
                for content in contents:
                    data = cwebp(pngs[content], *options)
                    yield Case(f"{what}, {content}", size_text(size), data)

    return make


def orientations(many):
    for size in [(33, 17), (16, 16)]:
        for value in range(10):
            for lossless in (False, True):
                for prefix in (b"", b"Exif\0\0"):
                    data = encoded(scene(*size), "WEBP", lossless=lossless, exif=exif(value, prefix=prefix))
                    name = f"{value} {lossless} {len(prefix)} {size_text(size)}"
                    yield Case("EXIF", name, data)


def animations(many):
    """Animations, of which the first frame is shown."""
    for size in sizes(many):
        name = size_text(size)
        frames = [Image.fromarray(scene(*size, seed)) for seed in range(3)]
        clear = [Image.fromarray(numpy.dstack([scene(*size, seed), alpha_slope(*size)])) for seed in range(3)]
        for what, images in (("animated", frames), ("animated, alpha", clear)):
            for lossless in (False, True):
                data = encoded(
                    images[0], "WEBP", save_all=True, append_images=images[1:], lossless=lossless, duration=50
                )
                yield Case(what, f"{lossless} {name}", data)
        gif = encoded(
            quantized(size, 30), "GIF", save_all=True, append_images=[quantized(size, 30, 1)], duration=50, loop=0
        )
        for options in ([], ["-lossy"], ["-mixed"]):
            data = through_files(["gif2webp", *options, "IN0", "-o", "OUT"], [(".gif", gif)], ".webp")
            yield Case("by gif2webp", " ".join([*options, name]), data, Pillow())
        inputs = [(".png", encoded(frame, "PNG")) for frame in frames[:2]]
        for options in (["-lossy"], ["-lossless"]):
            data = through_files(["img2webp", *options, "IN0", "IN1", "-o", "OUT"], inputs, ".webp")
            yield Case("by img2webp", " ".join([*options, name]), data, Pillow())


def canvases(many):
    """Animations whose first frame does not cover the canvas."""
    for size in sizes(many):
        name = size_text(size)
        color = scene(*size)
        clear = numpy.dstack([color, alpha_slope(*size)])
        for what, picture in (("RGB", color), ("alpha", clear)):
            for lossless in (False, True):
                first = encoded(Image.fromarray(picture), "WEBP", lossless=lossless)
                second = encoded(Image.fromarray(scene(*size, 1)), "WEBP", lossless=lossless)
                frames = ["-frame", "IN0", "+50+2+4+0+b", "-frame", "IN1", "+50+6+2"]
                inputs = [(".webp", first), (".webp", second)]
                data = through_files(["webpmux", *frames, "-bgcolor", "255,9,99,199", "-o", "OUT"], inputs, ".webp")
                yield Case("around the frame", f"{what} {lossless} {name}", data)


def ends(many):
    """Files with bytes after the end that their header states, which are ignored."""
    for size in sizes(many):
        for lossless in (False, True):
            whole = encoded(scene(*size), "WEBP", lossless=lossless)
            for what, rest in (("zeros", bytes(500)), ("junk", b"junk" * 50)):
                name = f"{lossless} {size_text(size)}"
                yield Case(f"{what} after the end", name, whole + rest)


def groups():
    every = ("RGB", "alpha", "grey", "few colours")
    return {
        "lossy": by_cwebp(LOSSY, every),
        "lossless": by_cwebp(LOSSLESS, every),
        "alpha": by_cwebp(ALPHA, ("alpha",)),
        "orientations": orientations,
        "animations": animations,
        "canvases": canvases,
        "ends": ends,
    }
