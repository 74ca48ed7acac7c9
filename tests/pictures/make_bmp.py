"""BMP files with every header, depth, mask and run-length coding, written by this module."""

import struct

import numpy
from cases import Case, Pixels, Unsupported
from make_png import palette
from PIL import Image
from tools import alpha_slope, deep_scene, encoded, on_white, scene, size_text, sizes

FORMAT = "bmp"


RGB, RLE8, RLE4, BITFIELDS, ALPHABITFIELDS = 0, 1, 2, 3, 6
# Lengths of headers: OS/2, Windows 3, with masks, with a mask for alpha, Windows 95, Windows 98.
HEADERS = [12, 40, 52, 56, 108, 124]

AS_ENCODED = "these pixels were encoded"
LEFT_OUT = Unsupported(("BMP", "run-length", "leaves pixels out"), "the format does not define their colour")


def header(length, size, bits, compression=RGB, colors=0, masks=(), top_down=False):
    """An information header of `length` bytes. Masks are inside a header of 52 bytes or more, and after a
    header of 40 bytes."""
    width, height = size
    if length == 12:
        return struct.pack("<IHHHH", 12, width, height, 1, bits)
    rows = -height if top_down else height
    start = struct.pack("<IiiHHIIiiII", length, width, rows, 1, bits, compression, 0, 2835, 2835, colors, 0)
    in_order = b"".join(mask.to_bytes(4, "little") for mask in masks)
    if length == 40:
        return start + in_order
    content = (start + in_order)[:length].ljust(length, b"\0")
    if length >= 108:  # sRGB
        content = content[:56] + b"BGRs" + content[60:]
    return content


def bmp(info, colors, pixels, gap=0):
    offset = 14 + len(info) + len(colors) + gap
    return struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset) + info + colors + bytes(gap) + pixels


def rows(data, top_down=False):
    """Height x length bytes as rows that are padded to a multiple of four bytes, from the bottom."""
    padded = numpy.pad(data, ((0, 0), (0, -data.shape[1] % 4)))
    return (padded if top_down else padded[::-1]).tobytes()


def packed(indices, bits):
    spread = (indices[..., None] >> numpy.arange(bits)[::-1]) & 1
    return numpy.packbits(spread.reshape(indices.shape[0], -1).astype(numpy.uint8), axis=1)


def color_table(colors, entry):
    """A color table with entries of blue, green and red, and a fourth byte if `entry` is 4."""
    return numpy.pad(colors[:, ::-1], ((0, 0), (0, entry - 3))).tobytes()


def indices_of(size, bits):
    """Indices with runs of one value, for run-length coding."""
    indices = deep_scene(*size, bits, 1)[..., 0] >> (16 - bits)
    indices[size[1] // 3 :, size[0] // 2 :] = (1 << bits) - 1
    return indices


def palettes(many):
    for size in sizes(many):
        for bits in (1, 4, 8):
            indices = indices_of(size, bits)
            colors = palette(1 << bits)
            expected = Pixels(colors[indices], AS_ENCODED)
            for length in HEADERS:
                if length in (52, 56):
                    continue  # these headers are for masks
                table = color_table(colors, 3 if length == 12 else 4)
                for top_down in (False, True) if length != 12 else (False,):
                    info = header(length, size, bits, top_down=top_down)
                    data = bmp(info, table, rows(packed(indices, bits), top_down))
                    coding = f"{bits} bits, header of {length}" + ", top-down" * top_down
                    yield Case(coding, size_text(size), data, expected)
            used = int(indices.max()) + 1
            info = header(40, size, bits, colors=used)
            data = bmp(info, color_table(colors[:used], 4), rows(packed(indices, bits)), gap=5)
            yield Case(f"{bits} bits, short palette", size_text(size), data, expected)


def run_length(row, bits, absolute):
    """A row as runs or, if `absolute`, as literal indices; fewer than three indices are always runs."""
    out, at = b"", 0
    while at < len(row):
        if absolute and len(row) - at >= 3:
            literal = row[at : at + 100]
            content = packed(literal[None], bits)[0].tobytes()
            out += bytes([0, len(literal)]) + content + b"\0" * (len(content) % 2)
            at += len(literal)
            continue
        end = at + 1
        while end < len(row) and end - at < 255 and row[end] == row[at]:
            end += 1
        value = row[at] * 17 if bits == 4 else row[at]
        out += bytes([end - at, value])
        at = end
    return out


def runs(many):
    for size in sizes(many):
        width, height = size
        for bits, compression in ((8, RLE8), (4, RLE4)):
            indices = indices_of(size, bits)
            colors = palette(1 << bits)
            table = color_table(colors, 4)
            info = header(40, size, bits, compression)
            name = f"{bits}_{width}x{height}"
            for absolute in (False, True):
                coded = [run_length(row, bits, absolute) for row in indices[::-1]]
                what = f"RLE{bits}" + ", absolute" * absolute
                for end, data in {
                    "end": b"\0\0".join(coded) + b"\0\1",
                    "line_and_end": b"\0\0".join(coded) + b"\0\0\0\1",
                }.items():
                    yield Case(what, f"{end}_{absolute}_{name}", bmp(info, table, data), Pixels(colors[indices], AS_ENCODED))
            half = width // 2
            if half == 0:
                continue
            lines = [run_length(row[:half], bits, False) for row in indices[::-1]]
            jump = b"\0\2" + bytes([half, 0])
            for what, line in (("rows that end early", b""), ("jumps", jump)):
                data = bmp(info, table, b"\0\0".join(line + coded for coded in lines) + b"\0\0\0\1")
                yield Case(f"RLE{bits}, {what}", name, data, LEFT_OUT)


# For each layout of a pixel: its bits, and the masks of red, green, blue and alpha; 0 if there is no alpha.
CHANNEL_MASKS = {
    "555": (16, (0x7C00, 0x03E0, 0x001F, 0)),
    "565": (16, (0xF800, 0x07E0, 0x001F, 0)),
    "444": (16, (0x0F00, 0x00F0, 0x000F, 0)),
    "1555": (16, (0x7C00, 0x03E0, 0x001F, 0x8000)),
    "4444": (16, (0x0F00, 0x00F0, 0x000F, 0xF000)),
    "888": (32, (0xFF0000, 0xFF00, 0xFF, 0)),
    "BGR": (32, (0xFF, 0xFF00, 0xFF0000, 0)),
    "XBGR": (32, (0xFF00, 0xFF0000, 0xFF000000, 0)),
    "8888": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "RGBA": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "ABGR": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
}


def scaled_to_mask(samples, mask):
    """Scales bytes to the bits of a mask. Returns them shifted to the mask's position, the unshifted
    values, and the largest value."""
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    values = (samples.astype(numpy.uint64) * most + 127) // 255
    return (values << shift).astype(numpy.uint32), values, most


def masked_pixels(size, bits, masks, samples):
    """A picture in a layout of CHANNEL_MASKS: rows of bytes, and the pixels that a decoder reads from them, alpha last."""
    packed_pixels, decoded = numpy.zeros(size[::-1], numpy.uint32), []
    for channel, mask in enumerate(masks):
        if mask:
            bits_in_place, values, most = scaled_to_mask(samples[..., channel], mask)
            packed_pixels |= bits_in_place
            decoded.append(((values * 255 + most // 2) // most).astype(numpy.uint8))
    kind = "<u2" if bits == 16 else "<u4"
    return packed_pixels.astype(kind).view(numpy.uint8).reshape(size[1], -1), numpy.stack(decoded, axis=-1)


def masks(many):
    for size in sizes(many):
        samples = numpy.dstack([scene(*size), alpha_slope(*size)])
        for what, (bits, channel_masks) in CHANNEL_MASKS.items():
            pixels, decoded = masked_pixels(size, bits, channel_masks, samples)
            truth = on_white(decoded[..., :3], decoded[..., 3]) if channel_masks[3] else decoded
            # Scaling of samples of 4 to 10 bits may round to the nearest level or down.
            expected = Pixels(truth, AS_ENCODED, tolerance=1 if bits == 16 or what == "10 bits" else 0)
            for length in (40, 52, 56, 108, 124):
                if channel_masks[3] and length < 56:
                    continue
                for top_down in (False, True):
                    info = header(length, size, bits, BITFIELDS, 0, channel_masks[: 3 if length < 56 else 4], top_down)
                    coding = f"masks {what}, header of {length}" + ", top-down" * top_down
                    yield Case(coding, size_text(size), bmp(info, b"", rows(pixels, top_down)), expected)
        for alpha in (0, 1, 255):
            samples[..., 3] = alpha
            for what in ("8888", "RGBA"):
                bits, channel_masks = CHANNEL_MASKS[what]
                pixels, decoded = masked_pixels(size, bits, channel_masks, samples)
                truth = decoded[..., :3] if alpha == 0 else on_white(decoded[..., :3], decoded[..., 3])
                info = header(124, size, bits, BITFIELDS, 0, channel_masks)
                why = "a picture whose alpha is 0 everywhere is opaque" if alpha == 0 else AS_ENCODED
                name = f"{alpha} {what} {size_text(size)}"
                yield Case("the same alpha everywhere", name, bmp(info, b"", rows(pixels)), Pixels(truth, why))


def true_colors(many):
    for size in sizes(many):
        picture = scene(*size)
        fourth = numpy.dstack([picture[..., ::-1], alpha_slope(*size)])
        for length in HEADERS:
            for top_down in (False, True) if length != 12 else (False,):
                pixels = {24: picture[..., ::-1], 32: fourth}
                for bits, of_bits in pixels.items():
                    if length == 12 and bits == 32:
                        continue
                    info = header(length, size, bits, top_down=top_down)
                    data = bmp(info, b"", rows(of_bits.reshape(size[1], -1), top_down))
                    coding = f"{bits} bits, header of {length}" + ", top-down" * top_down
                    yield Case(coding, size_text(size), data, Pixels(picture, AS_ENCODED))
        bits, channel_masks = CHANNEL_MASKS["555"]
        pixels, decoded = masked_pixels(size, bits, channel_masks, fourth[..., [2, 1, 0, 3]])
        data = bmp(header(40, size, 16), b"", rows(pixels))
        yield Case("16 bits without masks", size_text(size), data, Pixels(decoded, AS_ENCODED, tolerance=1))


def unsupported(many):
    for size in sizes(many):
        indices, picture = indices_of(size, 8), scene(*size)
        table, name = color_table(palette(256), 4), size_text(size)
        refused = Unsupported(("BMP", "header", "64"), "the crate image does not read headers of OS/2 2.x")
        data = bmp(header(64, size, 8), table, rows(indices.astype(numpy.uint8)))
        yield Case("header of 64", name, data, refused)
        for compression, kind in ((4, "JPEG"), (5, "PNG")):
            data = bmp(header(40, size, 0, compression), b"", encoded(picture, kind))
            refused = Unsupported(("BMP", kind), "only sent to printers, not written to files")
            yield Case(f"{kind} in BMP", name, data, refused)


def by_pillow(many):
    for size in sizes(many):
        for mode in ("1", "L", "P", "RGB", "RGBA"):
            image = Image.fromarray(scene(*size)).convert(mode)
            yield Case(f"by Pillow, mode {mode}", size_text(size), encoded(image, "BMP"))


def groups():
    return {
        "palettes": palettes,
        "runs": runs,
        "masks": masks,
        "true_colors": true_colors,
        "by_pillow": by_pillow,
        "unsupported": unsupported,
    }
