"""PNG files of every colour type, depth, interlacing, filter and transparency, written by this module,
and animations by Pillow."""

import io
import zlib
from functools import partial

import numpy
from cases import Case, Pillow, Pixels, Unsupported
from PIL import Image
from tools import deep_scene, encoded, exif, levels_of, on_white, rgb, scene, size_text, sizes

FORMAT = "png"


SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
COLORS = {
    GREY: ("grey", 1, (1, 2, 4, 8, 16)),
    RGB: ("RGB", 3, (8, 16)),
    PALETTE: ("palette", 1, (1, 2, 4, 8)),
    GREY_ALPHA: ("grey and alpha", 2, (8, 16)),
    RGB_ALPHA: ("RGB and alpha", 4, (8, 16)),
}
# The passes of Adam7 interlacing: first column, first row, column step, row step.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
# The last one uses a different filter for each row, in turn.
FILTERS = ["none", "sub", "up", "average", "Paeth", "in turn"]


def chunk(name, content):
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def filtered(rows, step, kind):
    """Applies the filter `kind` to rows of bytes, with `step` bytes per pixel. Each row is preceded by the
    number of its filter."""
    out = []
    above = numpy.zeros(rows.shape[1], int)
    for y, row in enumerate(rows.astype(int)):
        left = numpy.concatenate([numpy.zeros(step, int), row])[: len(row)]
        corner = numpy.concatenate([numpy.zeros(step, int), above])[: len(row)]
        guess = left + above - corner
        apart = numpy.abs([guess - left, guess - above, guess - corner])
        paeth = numpy.choose(apart.argmin(axis=0), [left, above, corner])
        number = y % 5 if kind == 5 else kind
        predicted = [0, left, above, (left + above) // 2, paeth][number]
        out.append(bytes([number]) + ((row - predicted) % 256).astype(numpy.uint8).tobytes())
        above = row
    return b"".join(out)


def packed(samples, depth):
    """Height x width x channels samples as height x bytes."""
    rows = samples.reshape(samples.shape[0], -1)
    if depth == 16:
        return rows.astype(">u2").view(numpy.uint8).reshape(rows.shape[0], -1)
    bits = (rows[..., None] >> numpy.arange(depth)[::-1]) & 1
    return numpy.packbits(bits.reshape(rows.shape[0], -1).astype(numpy.uint8), axis=1)


def png(samples, color, depth, interlaced=False, kind=0, before=b"", after=b"", level=6, pieces=1, ended=True):
    """A PNG of height x width x channels samples. `before` and `after` are chunks around the IDAT chunks,
    of which there are `pieces`."""
    height, width, channels = samples.shape
    step = max(channels * depth // 8, 1)
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    reduced = (samples[top::down, left::across] for left, top, across, down in passes)
    data = b"".join(filtered(packed(part, depth), step, kind) for part in reduced if part.size)
    data = zlib.compress(data, level)
    cut = -(-len(data) // pieces)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, color, 0, 0, interlaced])
    idat = b"".join(chunk(b"IDAT", data[at : at + cut]) for at in range(0, len(data), cut))
    end = chunk(b"IEND", b"") if ended else b""
    return SIGNATURE + chunk(b"IHDR", header) + before + idat + after + end


def samples_of(size, channels, depth):
    return deep_scene(*size, depth, channels) >> (16 - depth)


def palette(entries):
    rng = numpy.random.default_rng(entries)
    return rng.integers(0, 256, (entries, 3), dtype=numpy.uint8)


def transparency(color, depth, samples):
    """The content of a tRNS chunk, and the alpha of each pixel."""
    if color == PALETTE:
        alphas = (numpy.arange((1 << depth) // 2 + 1) * 83 % 256).astype(numpy.uint8)
        return alphas.tobytes(), numpy.append(alphas, numpy.full(256, 255, numpy.uint8))[samples[..., 0]]
    value = samples[samples.shape[0] // 2, samples.shape[1] // 2]
    shown = numpy.where((samples == value).all(axis=-1), 0, 255)
    return value.astype(">u2").tobytes(), shown


def shown(samples, color, depth):
    """The colours of samples, and their alpha or None."""
    if color == PALETTE:
        return palette(1 << depth)[samples[..., 0]], None
    levels = levels_of(samples, (1 << depth) - 1)
    alpha = levels[..., -1] if color in (GREY_ALPHA, RGB_ALPHA) else None
    return rgb(levels[..., 0]) if color in (GREY, GREY_ALPHA) else levels[..., :3], alpha


def combinations(color, many):
    what, channels, depths = COLORS[color]
    for depth in depths:
        for size in sizes(many):
            samples = samples_of(size, channels, depth)
            colors, alpha = shown(samples, color, depth)
            plte = chunk(b"PLTE", palette(1 << depth).tobytes()) if color == PALETTE else b""
            for transparent in (False, True) if color in (GREY, RGB, PALETTE) else (False,):
                extra = b""
                if transparent:
                    content, alpha = transparency(color, depth, samples)
                    extra = chunk(b"tRNS", content)
                truth = colors if alpha is None else on_white(colors, alpha)
                expected = Pixels(truth, "the samples that were encoded; 16 bits become round(v / 257)")
                for interlaced in (False, True):
                    for kind, filters in enumerate(FILTERS):
                        data = png(samples, color, depth, interlaced, kind, plte + extra)
                        coding = f"{what}, {depth} bits" + ", transparent" * transparent + ", interlaced" * interlaced
                        yield Case(coding, f"{filters} {size_text(size)}", data, expected)


def by_pillow(many):
    """The same codings compared with Pillow, to check the expected pixels of `combinations`."""
    for color, (what, channels, depths) in COLORS.items():
        for depth in depths:
            if depth == 16:
                continue  # Pillow keeps the high byte of colours, and shows grey as white
            for size in sizes(many):
                samples = samples_of(size, channels, depth)
                extra = chunk(b"PLTE", palette(1 << depth).tobytes()) if color == PALETTE else b""
                for transparent in (
                    (False, True) if color in (RGB, PALETTE) or (color, depth) == (GREY, 8) else (False,)
                ):
                    if transparent:
                        extra += chunk(b"tRNS", transparency(color, depth, samples)[0])
                    data = png(samples, color, depth, kind=5, before=extra)
                    yield Case(f"{what}, {depth} bits" + ", transparent" * transparent, size_text(size), data)


def containers(many):
    """Files with additional chunks, with several IDAT chunks, and with different compression levels."""
    for size in sizes(many):
        samples = samples_of(size, 3, 8)
        name = size_text(size)
        whole = png(samples, RGB, 8)
        for pieces in (2, 7, 1000):
            yield Case("data in several chunks", f"{pieces} {name}", png(samples, RGB, 8, pieces=pieces))
        for level in range(10):
            yield Case("levels of compression", f"{level} {name}", png(samples, RGB, 8, level=level))
        for value in range(10):
            for order in "<>":
                block = chunk(b"eXIf", exif(value, order))
                for place, around in (("before", {"before": block}), ("after", {"after": block})):
                    data = png(samples, RGB, 8, **around)
                    yield Case(f"EXIF {place} the data", f"{value} {'little' if order == '<' else 'big'} {name}", data)
        prefixed = chunk(b"eXIf", exif(6, prefix=b"Exif\0\0"))
        yield Case("EXIF with JPEG's prefix", name, png(samples, RGB, 8, before=prefixed))
        others = {
            "gamma": chunk(b"gAMA", (100_000).to_bytes(4, "big")),
            "background": chunk(b"bKGD", bytes(6)),
            "significant bits": chunk(b"sBIT", b"\5\6\5"),
            "text": chunk(b"tEXt", b"Comment\0none") + chunk(b"zTXt", b"More\0\0" + zlib.compress(b"text")),
            "time": chunk(b"tIME", b"\7\xe9\1\1\0\0\0"),
            "resolution": chunk(b"pHYs", bytes(9)),
            "private": chunk(b"prVt", b"anything"),
            "suggested palette": chunk(b"PLTE", palette(16).tobytes()),
        }
        for what, extra in others.items():
            data = png(samples, RGB, 8, before=extra)
            yield Case("other chunks", f"{what} {name}", data)
        expected = Pixels(samples.astype(numpy.uint8), "only IEND is damaged or missing")
        yield Case("no IEND", name, png(samples, RGB, 8, ended=False), expected)
        yield Case("half of IEND", name, whole[:-6], expected)
        yield Case("zeros in place of IEND", name, png(samples, RGB, 8, ended=False) + bytes(600), expected)
        yield Case("zeros after IEND", name, whole + bytes(600), expected)
        yield Case("junk after IEND", name, whole + b"junk" * 100, expected)
        refused = Unsupported(("PNG", "CgBI"), "Apple's variant, whose pixels are premultiplied and swapped")
        apple = SIGNATURE + chunk(b"CgBI", b"\x50\0\x20\2") + whole[8:]
        yield Case("CgBI", name, apple, refused)


def animations(many):
    """Animations, which show the picture that programs without support for animations show."""
    for size in sizes(many):
        frames = [Image.fromarray(scene(*size, seed)) for seed in range(3)]
        for default in (False, True):
            data = encoded(
                frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=default, duration=50
            )
            yield Case("animated", f"{default} {size_text(size)}", data)
    out = io.BytesIO()
    Image.fromarray(scene(64, 48)).quantize(200).save(out, "PNG", optimize=True, transparency=9)
    yield Case("palette by Pillow", "64x48", out.getvalue(), Pillow())


def groups():
    found = {what.replace(" ", "_"): partial(combinations, color) for color, (what, *_) in COLORS.items()}
    return found | {"by_pillow": by_pillow, "containers": containers, "animations": animations}
