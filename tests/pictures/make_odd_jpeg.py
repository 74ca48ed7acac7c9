"""Unusual JPEG files as cameras, scanners, webcams and memory cards leave them: readable ones,
unsupported ones, and damaged ones."""

import io

import imagecodecs
import reference
from cases import Case, Damaged, Maybe, Pixels, Unsupported
from jpeg_parts import (
    APP0,
    APP1,
    APP13,
    COM,
    DHT,
    DNL,
    FRAMES,
    SOF0,
    SOF5,
    SOS,
    Part,
    joined,
    parts,
    restart_markers,
    segment,
    with_segments,
)
from make_jpeg import ENTROPY, SCRIPTS, cjpeg
from PIL import Image
from tools import encoded, exif, grey_scene, scene, size_text

FORMAT = "jpeg"

SIZES = [(8, 8), (17, 33), (70, 45)]
MORE_SIZES = [(1, 1), (64, 48), (130, 70)]
CODINGS = [*ENTROPY, *SCRIPTS]


def sizes(many):
    return SIZES + MORE_SIZES if many else SIZES


def coded(coding, size, sampling="2x1"):
    script, options = SCRIPTS.get(coding, (None, ENTROPY.get(coding)))
    return cjpeg(scene(*size, 2), "-sample", sampling, *options, script=script)


def exif_segment(block):
    return segment(APP1, b"Exif\0\0" + block)


XMP = segment(APP1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
XMP_ORIENTATION = (
    b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF "
    b"xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description "
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
)
PHOTOSHOP = segment(APP13, b"Photoshop 3.0\0" + bytes(40))
# EXIF whose only entry is the unit of the resolution, not an orientation.
WITHOUT_ORIENTATION = exif_segment(b"II*\0\x08\0\0\0\x01\0\x28\x01\x03\0\x01\0\0\0\x02\0\0\0" + bytes(4))


def orientations(many):
    """EXIF with an orientation, at different positions in the file."""
    for size in [(17, 33), (40, 24)]:
        source = cjpeg(scene(*size, 1), "-sample", "2x2")
        for value in range(10):
            for order in "<>":
                block = exif_segment(exif(value, order))
                places = {
                    "first": (0, [block]),
                    "after JFIF": (1, [block]),
                    "after XMP": (1, [XMP, block]),
                    "after Photoshop's segment": (1, [PHOTOSHOP, block]),
                    "after a comment": (1, [segment(COM, b"\xff\xda made by a test"), block]),
                    "before the scan": (-1, [block]),
                }
                for place, (position, segments) in places.items():
                    data = with_segments(source, position, *segments)
                    name = f"{value} {'little' if order == '<' else 'big'} {size_text(size)}"
                    yield Case(f"EXIF {place}", name, data)
            upright = Pixels(
                reference.pixels(with_segments(source, 0, exif_segment(exif(value)))),
                "Pillow only reads the first EXIF segment; the first one that states an orientation counts",
            )
            xmp = XMP_ORIENTATION % value
            stored = Pixels(reference.pixels(source), "Pillow applies an orientation in XMP, browsers do not")
            data = with_segments(source, 1, segment(APP1, xmp))
            yield Case("orientation in XMP alone", f"{value} {size_text(size)}", data, stored)
            data = with_segments(source, 0, WITHOUT_ORIENTATION, exif_segment(exif(value)))
            yield Case("two EXIF segments", f"{value} {size_text(size)}", data, upright)


def ends(many):
    """Files without an end marker, or with other bytes in its place or after it."""
    for coding in CODINGS:
        for size in sizes(many):
            whole = coded(coding, size)
            expected = Pixels(reference.pixels(whole), "the pixels of the complete file: no coefficient is missing")
            body = whole[:-2]
            after = {
                "zeros after the end marker": whole + bytes(5000),
                "junk after the end marker": whole + bytes(range(256)) * 3,
                "another JPEG after the end marker": whole + whole,
                "fill bytes before the end marker": body + b"\xff" * 9 + b"\xff\xd9",
            }
            instead = {
                "no end marker": body,
                "half of the end marker": body + b"\xff",
                "zeros in place of the end marker": body + bytes(1000),
                "0xff in place of the end marker": body + b"\xff" * 700,
            }
            name = f"{coding} {size_text(size)}"
            for what, data in after.items():
                yield Case(what, name, data, expected)
            for what, data in instead.items():
                # An arithmetic encoder may omit zeros at the end of its data, so without an end marker
                # missing data cannot be detected.
                of_code = Damaged() if "arithmetic" in coding else expected
                yield Case(what, name, data, of_code)


def padding(many):
    """Files with bytes that belong to no segment and to no data."""
    for size in sizes(many):
        for coding in ("restart after each block", "restart after each row"):
            source = coded(coding, size)
            expected = Pixels(reference.pixels(source), "bytes before a restart marker are ignored")
            for count in (1, 2, 3, 4, 7, 16):
                for filling in (b"\0", b"\xff", b"\x5a"):
                    found = parts(source)
                    found[-1].data = padded_restarts(found[-1].data, filling * count)
                    name = f"{coding} {count} {filling.hex()} {size_text(size)}"
                    yield Case("bytes before restart markers", name, joined(found), expected)
        source = coded("baseline", size)
        expected = Pixels(reference.pixels(source), "bytes between segments are ignored")
        for position in range(1, len(parts(source))):
            for junk in (b"\0", b"\x01\x02\x03", b"\xff", b"\xff" * 40, b"\0" * 100, b"junk \xff\0 junk"):
                data = with_segments(source, position, junk)
                name = f"{position} {len(junk)} {junk[:1].hex()} {size_text(size)}"
                yield Case("bytes between segments", name, data, expected)


def padded_restarts(data, filling):
    pieces, start = [], 0
    for at in restart_markers(data):
        pieces += [data[start:at], filling]
        start = at
    return b"".join([*pieces, data[start:]])


def webcams(many):
    """Files without Huffman tables, as webcams write them. The tables are those of annex K."""
    for size in sizes(many):
        for color, data in {
            "YCbCr": cjpeg(scene(*size), "-sample", "2x1"),
            "grey": cjpeg(grey_scene(*size), "-grayscale"),
        }.items():
            stripped = joined([part for part in parts(data) if part.marker != DHT])
            yield Case("no Huffman tables", f"{color} {size_text(size)}", stripped)
            expected = Pixels(reference.pixels(data), "the omitted tables are those of annex K")
            yield Case("no Huffman tables", f"truth {color} {size_text(size)}", stripped, expected)


def several_pictures(many):
    """Files with several pictures, of which the first is shown."""
    for size in sizes(many):
        first, second = (Image.fromarray(scene(*size, seed)) for seed in (1, 2))
        out = io.BytesIO()
        first.save(out, "MPO", save_all=True, append_images=[second])
        yield Case("MPO", size_text(size), out.getvalue())
        thumbnail = encoded(first.resize((8, 6)), "JPEG")
        block = exif(6) + thumbnail
        data = with_segments(encoded(second, "JPEG"), 0, exif_segment(block))
        yield Case("thumbnail in EXIF", size_text(size), data)


def changed_frame(data, change):
    """The parts of a JPEG with a changed frame header: `change` gets it as a bytearray and changes it in place."""
    found = parts(data)
    for part in found:
        if part.marker in FRAMES:
            content = bytearray(part.content)
            change(content)
            part.content = bytes(content)
    return found


def unsupported(many):
    for size in sizes(many):
        name = size_text(size)
        source = coded("baseline", size)

        def without_height(content):
            content[1:3] = b"\0\0"

        found = changed_frame(source, without_height)
        lines = size[1].to_bytes(2, "big")
        found.append(Part(DNL, lines))
        refused = Unsupported(("JPEG", "DNL"), "libjpeg cannot read a height that follows the pixels")
        yield Case("height in a DNL marker", name, joined(found), refused)

        two = two_components(size)
        refused = Unsupported(("JPEG", "2 components"), "no standard defines the colours of two components")
        yield Case("two components", name, two, refused)

        for marker, what in ((SOF5, "hierarchical"), (0xC6, "hierarchical"), (0xC7, "hierarchical")):
            found = parts(source)
            for part in found:
                part.marker = marker if part.marker == SOF0 else part.marker
            refused = Unsupported(("JPEG", what), "neither libjpeg nor other libraries read it")
            yield Case(f"frame of SOF{marker - 0xC0}", name, joined(found), refused)
        found = parts(cjpeg(grey_scene(*size), "-grayscale"))
        for part in found:
            part.marker = 0xCB if part.marker == SOF0 else part.marker
        refused = Unsupported(("JPEG", "arithmetic"), "libjpeg does not read it")
        yield Case("lossless arithmetic", name, joined(found), refused)

        data = imagecodecs.jpeg8_encode(scene(*size), lossless=True, predictor=1, colorspace="RGB")
        refused = Unsupported(("JPEG", "lossless"), "libjpeg does not convert the colours of lossless files")
        ycbcr = with_segments(data, 0, segment(APP0, b"JFIF\0\1\1\0\0\1\0\1\0\0"))
        yield Case("lossless YCbCr", name, ycbcr, refused)

        def fractional(content):
            content[7], content[10], content[13] = 0x31, 0x21, 0x11

        refused = Unsupported(("JPEG", "fractional sampling"), "libjpeg only upsamples by integer factors")
        yield Case("fractional sampling", name, joined(changed_frame(source, fractional)), refused)


def two_components(size):
    """A JPEG with two grey components, in a scan each."""
    found = parts(coded("a scan for each component", size, "1x1"))
    for part in found:
        if part.marker == SOF0:
            content = part.content
            part.content = content[:5] + b"\x02" + content[6:12]
    scans = [part for part in found if part.marker == SOS]
    found.remove(scans[2])
    return joined(found)


def damaged(many):
    """Files with damage that must be noticed: restart markers in the wrong order, missing scans, missing
    data."""
    for size in [size for size in sizes(many) if size[0] > 8]:
        name = size_text(size)
        source = coded("restart after each block", size)
        for what, change in {
            "swapped": lambda digits: digits[:1] + digits[2:3] + digits[1:2] + digits[3:],
            "all the same": lambda digits: [0xD0] * len(digits),
            "with one missing": lambda digits: digits[:1] + [None] + digits[2:],
            "numbered from 1": lambda digits: [0xD0 + (digit - 0xD0 + 1) % 8 for digit in digits],
        }.items():
            found = parts(source)
            found[-1].data = renumbered(found[-1].data, change)
            yield Case(f"restart markers {what}", name, joined(found), Damaged())
        for coding in (*SCRIPTS, "progressive", "progressive arithmetic", "progressive with restarts"):
            found = parts(coded(coding, size))
            scans = [index for index, part in enumerate(found) if part.marker == SOS]
            for count, index in enumerate(scans[1:], 1):
                for end, what in ((b"\xff\xd9", "with"), (b"", "without"), (bytes(600), "zeros for")):
                    file_name = f"{coding} {count} {what} end {name}"
                    yield Case("cut between two scans", file_name, joined(found[:index], end), Damaged())
            for skipped in scans[:-1]:
                rest = found[:skipped] + found[skipped + 1 :]
                yield Case("a scan is missing", f"{coding} {skipped} {name}", joined(rest), Damaged())
        for coding in CODINGS:
            whole = coded(coding, size)
            # An arithmetic encoder may omit zeros at the end of its data, so missing data before an end
            # marker cannot be detected.
            ended = Maybe(reference.pixels(whole)) if "arithmetic" in coding else Damaged()
            start = whole.index(b"\xff\xda") + 14
            for step in range(1, 8):
                at = start + (len(whole) - 2 - start) * step // 8
                cut_name = f"{coding} {step} eighths {name}"
                yield Case("cut", cut_name, whole[:at], Damaged())
                yield Case("cut, with an end marker", cut_name, whole[:at] + b"\xff\xd9", ended)
                for zeros in (len(whole) - at, 4096):
                    zeros_name = f"{zeros} {cut_name}"
                    yield Case("cut, zeros appended", zeros_name, whole[:at] + bytes(zeros), Damaged())


def renumbered(data, change):
    """Entropy-coded data with the restart markers that `change` makes of the list of its markers. None
    removes a marker."""
    at = restart_markers(data)
    pieces, start = [], 0
    for position, marker in zip(at, change([data[position + 1] for position in at]), strict=True):
        pieces.append(data[start:position])
        if marker is not None:
            pieces.append(bytes([0xFF, marker]))
        start = position + 2
    return b"".join([*pieces, data[start:]])


def blocks(many):
    """Files in which entropy-coded data are overwritten, which must be noticed. Pillow does not always
    notice it."""
    for size in [(130, 70)]:
        source = cjpeg(scene(*size, 3), "-quality", "95")
        start = source.index(b"\xff\xda") + 14
        for at in range(start, len(source) - 520, 700):
            for filling in (b"\0", b"\x55"):
                data = source[:at] + filling * 512 + source[at + 512 :]
                yield Case("512 bytes overwritten", f"{at} {filling.hex()}", data, Damaged())


def groups():
    return {
        "odd_orientations": orientations,
        "odd_ends": ends,
        "odd_padding": padding,
        "odd_webcams": webcams,
        "odd_several_pictures": several_pictures,
        "odd_unsupported": unsupported,
        "odd_damaged": damaged,
        "odd_blocks": blocks,
    }
