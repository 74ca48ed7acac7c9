"""GIF files by Pillow, and files into which this module puts Pillow's frames: local palettes, offsets,
other canvases."""

import struct
from dataclasses import dataclass

import numpy
from cases import Case, Pillow, Pixels
from PIL import Image
from tools import encoded, scene, size_text, sizes

FORMAT = "gif"


@dataclass
class Frame:
    """One picture of a GIF. The palette is RGB bytes; `data` are the indices in LZW."""

    size: tuple
    palette: bytes
    interlaced: bool
    data: bytes

    def bytes(self, offset=(0, 0), local=True, control=b""):
        flags = 0x40 * self.interlaced
        table = b""
        if local:
            flags |= 0x80 | depth(self.palette) - 1
            table = self.palette
        return control + struct.pack("<BHHHHB", 0x2C, *offset, *self.size, flags) + table + self.data


def depth(palette):
    return (len(palette) // 3 - 1).bit_length()


def frame_of(gif):
    """The first picture of a GIF that Pillow has written."""
    at, palette = 13, b""
    if gif[10] & 0x80:
        palette = gif[at : at + (6 << (gif[10] & 7))]
        at += len(palette)
    while gif[at] == 0x21:
        at += 2
        while gif[at]:
            at += 1 + gif[at]
        at += 1
    _, _, _, width, height, flags = struct.unpack_from("<BHHHHB", gif, at)
    at += 10
    if flags & 0x80:
        palette = gif[at : at + (6 << (flags & 7))]
        at += len(palette)
    return Frame((width, height), palette, bool(flags & 0x40), gif[at : gif.rindex(b";")])


def gif(canvas, frames, palette=b"", version=b"GIF89a", background=0):
    """A GIF with `frames`, which are bytes."""
    flags = 0x80 | depth(palette) - 1 if palette else 0
    return version + struct.pack("<HHBBB", *canvas, flags | 0x70, background, 0) + palette + b"".join(frames) + b";"


def control(transparent=None, disposal=0):
    """The graphic control extension, which precedes a frame."""
    flags = disposal << 2 | (transparent is not None)
    return b"\x21\xf9\4" + struct.pack("<BHB", flags, 5, transparent or 0) + b"\0"


def quantized(size, colors, seed=0):
    return Image.fromarray(scene(*size, seed)).quantize(colors)


def by_pillow(many):
    for size in sizes(many):
        for colors in (2, 3, 16, 60, 256):
            image = quantized(size, colors)
            for interlace in (0, 1):
                for transparent in (None, 0, 1):
                    options = {} if transparent is None else {"transparency": transparent}
                    data = encoded(image, "GIF", interlace=interlace, optimize=False, **options)
                    what = f"{colors} colours" + ", interlaced" * interlace + ", transparent" * bool(options)
                    name = f"{transparent} {size_text(size)}"
                    yield Case(what, name, data)
        name = size_text(size)
        yield Case("grey", name, encoded(Image.fromarray(scene(*size)).convert("L"), "GIF"))
        yield Case("black and white", name, encoded(Image.fromarray(scene(*size)).convert("1"), "GIF"))


def containers(many):
    for size in sizes(many):
        for colors in (4, 200):
            image = quantized(size, colors)
            shown = numpy.asarray(image.convert("RGB"))
            transparent = int(numpy.asarray(image)[0, 0])
            hidden = shown.copy()
            hidden[numpy.asarray(image) == transparent] = 255
            frame = frame_of(encoded(image, "GIF", optimize=False))
            other = frame_of(encoded(quantized(size, colors, 1), "GIF", optimize=False))
            name = f"{colors} {size_text(size)}"
            yield Case("GIF87a", name, gif(size, [frame.bytes(local=False)], frame.palette, b"GIF87a"))
            yield Case("local palette", name, gif(size, [frame.bytes()]))
            both = gif(size, [frame.bytes()], other.palette)
            yield Case("local and global palette", name, both)
            data = gif(size, [frame.bytes(control=control(transparent))], background=1)
            expected = Pixels(hidden, "the graphic control extension states the transparent index")
            yield Case("local palette, transparent", name, data, expected)
            comment = b"\x21\xfe\7comment\0"
            looped = b"\x21\xff\x0bNETSCAPE2.0\3\1\0\0\0"
            data = gif(size, [comment, looped, frame.bytes(), comment])
            yield Case("other extensions", name, data)
            for disposal in range(4):
                # The first frame is shown, whatever its disposal method.
                frames = [frame.bytes(control=control(None, disposal)), other.bytes(control=control(0, disposal))]
                yield Case("several frames", f"{disposal} {name}", gif(size, frames))
            for offset, canvas in (((0, 0), (3, 2)), ((2, 1), (3, 2)), ((3, 2), (3, 2))):
                canvas = (size[0] + canvas[0], size[1] + canvas[1])
                on_canvas = numpy.full((canvas[1], canvas[0], 3), 255, numpy.uint8)
                on_canvas[offset[1] :, offset[0] :][: size[1], : size[0]] = shown
                expected = Pixels(on_canvas, "the canvas around the frame is transparent, as in browsers")
                place = f"{offset[0]} {offset[1]} {size_text(canvas)} {name}"
                yield Case("frame within the canvas", place, gif(canvas, [frame.bytes(offset)]), expected)
                with_palette = gif(canvas, [frame.bytes(offset, local=False)], frame.palette, background=1)
                yield Case("frame within the canvas, background", place, with_palette, expected)
            small = (max(size[0] // 2, 1), max(size[1] - 3, 1))
            yield Case("frame larger than the canvas", name, gif(small, [frame.bytes()]))
            whole = gif(size, [frame.bytes()])
            expected = Pixels(shown, "the trailer is missing or followed by junk, and no index is missing")
            yield Case("no trailer", name, whole[:-1], expected)
            yield Case("zeros in place of the trailer", name, whole[:-1] + bytes(500), expected)
            yield Case("junk after the trailer", name, whole + b"junk" * 50, expected)


def animations(many):
    for size in sizes(many):
        frames = [quantized(size, 40, seed) for seed in range(4)]
        for disposal in range(4):
            for transparent in (None, 3):
                options = {} if transparent is None else {"transparency": transparent}
                data = encoded(
                    frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal, duration=50, **options
                )
                name = f"{disposal} {transparent} {size_text(size)}"
                yield Case("animated", name, data, Pillow())


def groups():
    return {"by_pillow": by_pillow, "containers": containers, "animations": animations}
