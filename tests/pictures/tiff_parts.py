"""Writes TIFF files that encoders do not write: samples of any number of bits and of any meaning, in
strips or tiles, in either byte order, in classic TIFF or BigTIFF (TIFF 6.0; BigTIFF)."""

import struct

import numpy

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 4, 5, 6, 8
UNSPECIFIED, PREMULTIPLIED, STRAIGHT = 0, 1, 2
UNSIGNED, SIGNED, FLOAT = 1, 2, 3

SHORT, LONG, LONG8 = 3, 4, 16


def packed(samples, bits, order):
    """Height x length samples as height x bytes. Rows are padded to whole bytes."""
    if samples.dtype.kind == "f" or bits in (16, 32, 64):
        kind = samples.dtype.kind if samples.dtype.kind == "f" else "u"
        return samples.astype(f"{order}{kind}{bits // 8}").view(numpy.uint8).reshape(samples.shape[0], -1)
    spread = (samples.astype(numpy.uint32)[..., None] >> numpy.arange(bits, dtype=numpy.uint32)[::-1]) & 1
    return numpy.packbits(spread.reshape(samples.shape[0], -1).astype(numpy.uint8), axis=1)


def pieces(plane, rows, tile):
    """Splits height x width x channels samples into strips of `rows` rows or, if `tile` is not None, into
    tiles of `tile` x `tile` pixels."""
    if not tile:
        return [plane[top : top + rows] for top in range(0, plane.shape[0], rows)]
    height, width = plane.shape[:2]
    padded = numpy.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)), "edge")
    return [
        padded[top : top + tile, left : left + tile] for top in range(0, height, tile) for left in range(0, width, tile)
    ]


def tiff(
    samples,
    bits,
    photometric,
    *,
    extra=(),
    order="<",
    big=False,
    separate=False,
    rows=None,
    tile=None,
    fill_order=1,
    sample_format=UNSIGNED,
    compression=1,
    compress=bytes,
    tags=(),
):
    """A TIFF of height x width x channels samples. `compress` is applied to each strip or tile. `tags` are
    additional entries: tag, type, values."""
    height, width, channels = samples.shape
    rows = rows or height
    planes = [samples[..., channel, None] for channel in range(channels)] if separate else [samples]
    data = []
    for plane in planes:
        for piece in pieces(plane, rows, tile):
            content = packed(piece.reshape(piece.shape[0], -1), bits, order).tobytes()
            data.append(reversed_bits(compress(content)) if fill_order == 2 else compress(content))
    entries = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [bits] * channels),
        (259, SHORT, [compression]),
        (262, SHORT, [photometric]),
        (266, SHORT, [fill_order]),
        (277, SHORT, [channels]),
        (284, SHORT, [2 if separate else 1]),
        (339, SHORT, [sample_format] * channels),
    ]
    if extra:
        entries.append((338, SHORT, list(extra)))
    if tile:
        entries += [(322, LONG, [tile]), (323, LONG, [tile])]
    else:
        entries.append((278, LONG, [rows]))
    return file(entries + list(tags), data, (324, 325) if tile else (273, 279), order, big)


def file(entries, data, of_data, order, big):
    """A TIFF with a directory of `entries`, and `data`, whose offsets and lengths become the two tags
    `of_data`."""
    pointer, count_kind, space = (LONG8, "Q", 8) if big else (LONG, "I", 4)
    at = 16 if big else 8
    offsets = []
    for content in data:
        offsets.append(at)
        at += len(content) + len(content) % 2
    body = b"".join(content + b"\0" * (len(content) % 2) for content in data)
    entries = [*entries, (of_data[0], pointer, offsets), (of_data[1], pointer, [len(content) for content in data])]
    directory = struct.pack(order + ("Q" if big else "H"), len(entries))
    values_after = b""
    after = at + len(directory) + len(entries) * (20 if big else 12) + space
    for tag, kind, values in sorted(entries):
        value = struct.pack(f"{order}{len(values)}{ {SHORT: 'H', LONG: 'I', LONG8: 'Q'}[kind] }", *values)
        if len(value) > space:
            value, values_after = (
                struct.pack(order + count_kind, after + len(values_after)),
                values_after + value + b"\0" * (len(value) % 2),
            )
        directory += struct.pack(f"{order}HH{count_kind}", tag, kind, len(values)) + value.ljust(space, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at)
    return mark + head + body + directory + bytes(space) + values_after


def reversed_bits(data):
    """Reverses the bits of each byte."""
    return numpy.packbits(numpy.unpackbits(numpy.frombuffer(data, numpy.uint8), bitorder="little")).tobytes()
