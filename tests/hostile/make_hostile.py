#!/usr/bin/env python3
"""Writes hostile and unusual image files, to test any image decoder with.

usage: make_hostile.py DIRECTORY

Needs Pillow. Every run writes the same files. manifest.csv lists them with the columns `file` and `expected`:
    ok      a picture, even if unusual
    error   no picture can be decoded, or the file exceeds the default limits
    either  damaged in a way that a decoder may or may not notice
A decoder must not crash, hang or use disproportionate memory for any of them.
"""

import csv
import io
import random
import struct
import sys
import zlib
from pathlib import Path

from PIL import Image

CUTS = 28  # truncations per intact file, spread over its length
DAMAGED_COPIES = 15  # damaged copies per intact file


def scene(width=28, height=20):
    """A picture with edges and slopes whose corners all differ."""
    image = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            inside = (x - 9) ** 2 + (y - 8) ** 2 < 30
            image.putpixel((x, y), (250, 40, 30) if inside else (x * 9 % 256, y * 12, (x * y) % 256))
    return image


def encoded(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def sound_files():
    """Intact files by name, at least one for each format and coding."""
    image = scene()
    alpha = Image.linear_gradient("L").resize(image.size)
    transparent = image.copy()
    transparent.putalpha(alpha)
    palette = image.quantize(16)
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "baseline.jpg": encoded(image, "JPEG", exif=exif),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "restarts.jpg": encoded(image, "JPEG", restart_marker_blocks=1),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "rgb.png": encoded(image, "PNG", exif=exif),
        "alpha.png": encoded(transparent, "PNG"),
        "palette.png": encoded(palette, "PNG", transparency=3),
        "bits.png": encoded(image.convert("1"), "PNG"),
        "lossy.webp": encoded(image, "WEBP", exif=exif),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "alpha.webp": encoded(transparent, "WEBP"),
        "animated.webp": encoded(image, "WEBP", save_all=True, append_images=[flipped]),
        "palette.gif": encoded(palette, "GIF", transparency=3),
        "rgb.bmp": encoded(image, "BMP"),
        "palette.bmp": encoded(palette, "BMP"),
        "raw.tif": encoded(image, "TIFF"),
        "lzw.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        "packbits.tif": encoded(image, "TIFF", compression="packbits"),
        "group4.tif": encoded(image.convert("1"), "TIFF", compression="group4"),
    }


def truncated(name, data):
    """Truncations near both ends, which hold headers and trailers, and some between."""
    lengths = set(range(1, 11)) | {len(data) - back for back in range(1, 11)}
    lengths |= {len(data) * step // CUTS for step in range(1, CUTS)}
    # Only the first picture of an animation is decoded.
    second = data.find(b"ANMF", data.find(b"ANMF") + 1) if name.endswith(".webp") else -1
    for length in sorted(length for length in lengths if 0 < length < len(data)):
        # The last bytes may be only an end marker or a checksum, and a file that lacks only those is decoded.
        # tests/pictures compares its pixels with those of the intact file.
        trailer = length >= len(data) - 24 or 0 < second <= length
        yield data[:length], "either" if trailer else "error"


def damaged(data, rng):
    """Copies with one to four changed bits or bytes; half of the copies are changed within their first 100 bytes."""
    for count in range(DAMAGED_COPIES):
        copy = bytearray(data)
        for _ in range(1 + count % 4):
            at = rng.randrange(min(len(copy), 100) if count % 2 else len(copy))
            copy[at] = rng.randrange(256) if count % 3 == 0 else copy[at] ^ 1 << rng.randrange(8)
        yield bytes(copy)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, color, data, *before):
    """A PNG with `data`, which is already compressed, and with the chunks of `before` in front of it."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *before, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def zeros(count):
    """`count` zero bytes, deflated to about a thousandth."""
    packer = zlib.compressobj(9)
    piece = bytes(1 << 20)
    parts = [packer.compress(piece) for _ in range(count >> 20)]
    parts.append(packer.compress(bytes(count & (1 << 20) - 1)))
    return b"".join(parts) + packer.flush()


def hostile_png():
    small = zeros(11 * 10)  # 10 × 10 pixels: a byte per pixel and a filter byte per row
    bomb = zeros(256 << 20)
    sound = encoded(scene(), "PNG")
    idat = sound.index(b"IDAT") + 10
    yield "bomb_30000.png", png(30_000, 30_000, 1, 0, zeros(30_000 * 3_751)), "error"
    yield "bomb_within_limits.png", png(8_000, 8_000, 1, 0, zeros(8_000 * 1_001)), "ok"
    yield "claims_100000.png", png(100_000, 100_000, 8, 2, small), "error"
    yield "claims_two_billion_wide.png", png(2**31 - 1, 1, 8, 6, small), "error"
    yield "claims_9000_has_100.png", png(9_000, 9_000, 8, 0, small), "error"
    yield "no_width.png", png(0, 10, 8, 0, small), "error"
    yield "no_height.png", png(10, 0, 8, 0, small), "error"
    yield "depth_3.png", png(10, 10, 3, 0, small), "error"
    yield "palette_missing.png", png(10, 10, 8, 3, small), "error"
    yield "palette_too_short.png", png(10, 10, 8, 3, zlib.compress(b"\0" + b"\xff" * 10), png_chunk(b"PLTE", b"abc")), "either"
    yield "data_bomb.png", png(10, 10, 8, 0, bomb), "either"
    yield "profile_bomb.png", png(10, 10, 8, 0, small, png_chunk(b"iCCP", b"x\0\0" + bomb)), "ok"
    yield "text_bomb.png", png(10, 10, 8, 0, small, png_chunk(b"zTXt", b"x\0\0" + bomb)), "ok"
    yield "exif_junk.png", png(10, 10, 8, 0, small, png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")), "ok"
    yield "no_data.png", sound[:8] + png_chunk(b"IHDR", sound[16:29]) + png_chunk(b"IEND", b""), "error"
    yield "endless_chunk.png", sound[:33] + b"\xff\xff\xff\xffIDAT" + sound[41:], "either"
    yield "wrong_checksum.png", sound[:idat] + bytes([sound[idat] ^ 1]) + sound[idat + 1 :], "error"
    yield "signature_only.png", sound[:8], "error"
    yield "junk_behind.png", sound + b"junk" * 100, "ok"


def jpeg_segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def hostile_jpeg():
    sound = encoded(scene(), "JPEG")
    frame = sound.index(b"\xff\xc0") + 5  # offset of height and width, behind marker, length and precision
    progressive = encoded(scene(), "JPEG", progressive=True)
    scans = progressive.index(b"\xff\xda")

    def sized(height, width):
        return sound[:frame] + struct.pack(">HH", height, width) + sound[frame + 4 :]

    def with_exif(exif):
        return sound[:2] + jpeg_segment(0xE1, b"Exif\0\0" + exif) + sound[2:]

    def entry(tag, kind, count, value):
        return struct.pack("<HHIHH", tag, kind, count, value, 0)

    yield "claims_65535.jpg", sized(65_535, 65_535), "error"
    yield "claims_more_rows.jpg", sized(5_000, 28), "either"
    yield "no_rows.jpg", sized(0, 28), "error"
    yield "no_columns.jpg", sized(20, 0), "error"
    yield "thousand_scans.jpg", progressive[:-2] + progressive[scans:-2] * 1_000 + b"\xff\xd9", "error"
    yield "header_only.jpg", sound[: sound.index(b"\xff\xda")], "error"
    yield "ends_at_once.jpg", b"\xff\xd8\xff\xd9", "error"
    yield "only_fill.jpg", b"\xff\xd8" + b"\xff" * 5_000, "error"
    yield "half_then_end.jpg", sound[: len(sound) - 100] + b"\xff\xd9", "either"
    yield "junk_behind.jpg", sound + b"\xff\xd8junk" * 100, "ok"
    yield "junk_between.jpg", sound[:20] + b"junk" + sound[20:], "either"
    yield "exif_empty.jpg", with_exif(b""), "ok"
    yield "exif_noise.jpg", with_exif(bytes(range(256)) * 4), "ok"
    yield "exif_far_offset.jpg", with_exif(b"II*\0\xff\xff\xff\xff"), "ok"
    yield "exif_many_entries.jpg", with_exif(b"II*\0\x08\0\0\0\xff\xff"), "ok"
    yield "exif_loop.jpg", with_exif(b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), "ok"
    for value in (0, 9, 65_535):
        ifd = struct.pack("<H", 1) + entry(0x0112, 3, 1, value) + bytes(4)
        yield f"exif_orientation_{value}.jpg", with_exif(b"II*\0\x08\0\0\0" + ifd), "ok"
    yield "exif_orientation_as_text.jpg", with_exif(
        b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry(0x0112, 2, 2, 54) + bytes(4)
    ), "ok"


def hostile_gif():
    def gif(canvas, frame, offset=(0, 0)):
        screen = struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
        picture = struct.pack("<BHHHHB", 0x2C, *offset, *frame, 0)
        # Three-bit codes of LZW: clear, one pixel, end.
        return b"GIF89a" + screen + picture + b"\x02\x02\x44\x01\x00;"

    yield "one_pixel.gif", gif((1, 1), (1, 1)), "ok"
    yield "canvas_65535.gif", gif((65_535, 65_535), (1, 1)), "error"
    yield "canvas_0.gif", gif((0, 0), (1, 1)), "ok"
    yield "frame_65535.gif", gif((1, 1), (65_535, 65_535)), "error"
    yield "frame_0.gif", gif((10, 10), (0, 0)), "either"
    yield "frame_outside.gif", gif((10, 10), (1, 1), (500, 500)), "either"
    yield "no_frame.gif", gif((10, 10), (1, 1))[:19] + b";", "error"


def hostile_webp():
    sound = encoded(scene(), "WEBP")
    lossless = encoded(scene(), "WEBP", lossless=True)

    def riff(*chunks):
        body = b"WEBP" + b"".join(chunks)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    def chunk(kind, content, length=None):
        padding = b"\0" * (len(content) % 2)
        return kind + struct.pack("<I", len(content) if length is None else length) + content + padding

    def canvas(flags, width, height):
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sides)

    picture = sound[sound.index(b"VP8 ") + 8 :]
    large = picture[:6] + struct.pack("<HH", 16_383, 16_383) + picture[10:]
    bits = struct.pack("<I", 16_382 | 16_382 << 14)
    large_lossless = lossless[20:21] + bits + lossless[25:]
    header = struct.pack("<I", 28 - 1)[:3] + struct.pack("<I", 20 - 1)[:3]
    frame = bytes(6) + header + bytes(4)
    yield "canvas_of_its_size.webp", riff(canvas(0, 28, 20), chunk(b"VP8 ", picture)), "ok"
    yield "longer_than_the_file.webp", sound[:4] + b"\xff\xff\xff\x7f" + sound[8:], "ok"
    yield "shorter_than_the_file.webp", sound[:4] + b"\x10\0\0\0" + sound[8:], "error"
    yield "length_0.webp", sound[:4] + b"\0\0\0\0" + sound[8:], "error"
    yield "endless_chunk.webp", riff(chunk(b"VP8 ", picture, 0xFFFFFFFF)), "error"
    yield "claims_16383.webp", riff(chunk(b"VP8 ", large)), "error"
    yield "lossless_claims_16383.webp", riff(chunk(b"VP8L", large_lossless)), "error"
    yield "canvas_16777216.webp", riff(canvas(0, 1 << 24, 1 << 24), chunk(b"VP8 ", picture)), "error"
    yield "canvas_smaller.webp", riff(canvas(0, 4, 4), chunk(b"VP8 ", picture)), "error"
    yield "inside_larger.webp", riff(canvas(0, 28, 20), chunk(b"VP8 ", large)), "error"
    yield "frame_larger.webp", riff(
        canvas(2, 28, 20), chunk(b"ANIM", bytes(6)), chunk(b"ANMF", frame + chunk(b"VP8 ", large))
    ), "error"
    yield "endless_exif.webp", riff(
        canvas(8, 28, 20), chunk(b"VP8 ", picture), chunk(b"EXIF", b"", 0xFFFFFFF0)
    ), "error"
    yield "exif_junk.webp", riff(canvas(8, 28, 20), chunk(b"VP8 ", picture), chunk(b"EXIF", b"junk")), "ok"
    yield "no_picture.webp", riff(canvas(0, 28, 20)), "error"
    yield "no_chunks.webp", riff(), "error"


def hostile_bmp():
    def bmp(width, height, bits=24, colors=0, pixels=b"\0" * 64, compression=0):
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colors, 0)
        return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + info + pixels

    yield "four_pixels.bmp", bmp(2, 2, pixels=bytes(range(16))), "ok"
    yield "top_down.bmp", bmp(2, -2, pixels=bytes(range(16))), "ok"
    yield "claims_two_billion.bmp", bmp(2**31 - 1, 2**31 - 1), "error"
    yield "least_height.bmp", bmp(2, -(2**31)), "error"
    yield "negative_width.bmp", bmp(-2, 2), "error"
    yield "no_width.bmp", bmp(0, 2), "error"
    yield "four_billion_colors.bmp", bmp(2, 2, 8, 0xFFFFFFFF), "error"
    yield "bits_7.bmp", bmp(2, 2, 7), "error"
    yield "run_beyond_the_end.bmp", bmp(4, 4, 8, 1, b"\0\0\0\0" + b"\xff\0" * 40, 1), "either"
    yield "jumps_out.bmp", bmp(4, 4, 8, 1, b"\0\0\0\0" + b"\0\2\xff\xff" * 40, 1), "either"


def hostile_tiff():
    def tiff(entries, next_ifd=0, pixels=b"\x80" * 16, ifd_at=8):
        """A TIFF with a directory of (tag, type, count, value) and the pixels behind it. The value None is their offset."""
        directory = struct.pack("<H", len(entries))
        at = 8 + 2 + 12 * len(entries) + 4
        for tag, kind, count, value in entries:
            directory += struct.pack("<HHII", tag, kind, count, at if value is None else value)
        return b"II*\0" + struct.pack("<I", ifd_at) + directory + struct.pack("<I", next_ifd) + pixels

    def grey(width=4, height=4, **changed):
        tags = {
            "width": (256, 4, 1, width),
            "height": (257, 4, 1, height),
            "bits": (258, 3, 1, 8),
            "compression": (259, 3, 1, 1),
            "photometric": (262, 3, 1, 1),
            "offsets": (273, 4, 1, None),
            "samples": (277, 3, 1, 1),
            "rows": (278, 4, 1, height),
            "counts": (279, 4, 1, width * height),
        }
        tags.update(changed)
        return [tag for tag in tags.values() if tag]

    yield "grey.tif", tiff(grey()), "ok"
    yield "directory_loop.tif", tiff(grey(), next_ifd=8), "either"
    yield "directory_far.tif", tiff(grey(), ifd_at=0xFFFFFFF0), "error"
    yield "directory_in_header.tif", tiff(grey(), ifd_at=0), "error"
    yield "claims_four_billion.tif", tiff(grey(0xFFFFFFFF, 0xFFFFFFFF, counts=(279, 4, 1, 16))), "error"
    yield "claims_9000.tif", tiff(grey(9_000, 9_000)), "error"
    yield "no_width.tif", tiff(grey(0)), "error"
    yield "strip_far.tif", tiff(grey(offsets=(273, 4, 1, 0xFFFFFFF0))), "error"
    yield "strip_too_long.tif", tiff(grey(counts=(279, 4, 1, 0xFFFFFFFF))), "either"
    yield "four_billion_strips.tif", tiff(grey(offsets=(273, 4, 0xFFFFFFFF, 8))), "error"
    yield "rows_0.tif", tiff(grey(rows=(278, 4, 1, 0))), "either"
    yield "bits_65535.tif", tiff(grey(bits=(258, 3, 1, 65_535))), "error"
    yield "samples_65535.tif", tiff(grey(samples=(277, 3, 1, 65_535))), "error"
    yield "compression_9999.tif", tiff(grey(compression=(259, 3, 1, 9_999))), "error"
    yield "deflate_bomb.tif", tiff(
        grey(compression=(259, 3, 1, 8), counts=(279, 4, 1, len(zeros(64 << 20)))), pixels=zeros(64 << 20)
    ), "either"
    yield "no_strips.tif", tiff(grey(offsets=None)), "error"
    yield "huge_tile.tif", tiff(
        grey(offsets=None, counts=None, rows=None)
        + [(322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8), (325, 4, 1, 16)]
    ), "error"


def no_pictures():
    yield "empty.jpg", b"", "error"
    yield "one_byte.jpg", b"\xff", "error"
    yield "text.txt", b"This is not a picture.\n" * 10, "error"
    yield "text_as.jpg", b"This is not a picture.\n", "error"
    yield "zeros.png", bytes(1_000), "error"
    yield "vector.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "error"
    yield "vector_with_prolog.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "error"
    yield "photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "error"
    yield "photo.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100), "error"
    yield "video.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(100), "error"
    yield "paper.pdf", b"%PDF-1.7\n" + bytes(100), "error"
    yield "archive.zip", b"PK\x03\x04" + bytes(100), "error"
    yield "sound.wav", b"RIFF\x24\0\0\0WAVEfmt " + bytes(28), "error"
    for name, start in (("jpg", b"\xff\xd8\xff\xe0"), ("gif", b"GIF89a"), ("bmp", b"BM"), ("tif", b"MM\0*")):
        yield f"noise.{name}", start + random.Random(name).randbytes(2_000), "error"


def everything():
    rng = random.Random(20_260)
    for name, data in sound_files().items():
        stem, suffix = name.split(".")
        yield f"sound_{name}", data, "ok"
        for cut, expected in truncated(name, data):
            yield f"cut_{stem}_{len(cut):05}.{suffix}", cut, expected
        for count, copy in enumerate(damaged(data, rng)):
            yield f"damaged_{stem}_{count:02}.{suffix}", copy, "either"
    yield from hostile_png()
    yield from hostile_jpeg()
    yield from hostile_gif()
    yield from hostile_webp()
    yield from hostile_bmp()
    yield from hostile_tiff()
    yield from no_pictures()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "manifest.csv", "w", newline="") as manifest:
        rows = csv.writer(manifest, lineterminator="\n")
        rows.writerow(["file", "expected"])
        for name, data, expected in everything():
            (directory / name).write_bytes(data)
            rows.writerow([name, expected])


if __name__ == "__main__":
    main()
