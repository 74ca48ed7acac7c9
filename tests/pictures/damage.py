"""Damaged files of each format: bytes are overwritten, bits flipped, ends cut off.

The decoder must not crash or take long. It may return an error, the pixels of the intact file, or those
that Pillow decodes from the damaged one. `Maybe` has the exact rules.
"""

import random
from functools import partial

import reference
from cases import Case, Maybe
from make_png import chunk
from sound import FILES

FORMAT = "damage"


def with_right_lengths(webp):
    """Changes the lengths in the container of a cut WebP so that it seems complete."""
    webp = bytearray(webp[: len(webp) & ~1])
    at = 12
    while at + 8 < len(webp):
        length = int.from_bytes(webp[at + 4 : at + 8], "little")
        webp[at + 4 : at + 8] = min(length, len(webp) - at - 8).to_bytes(4, "little")
        at += 8 + length + length % 2
    if len(webp) > 8:
        webp[4:8] = (len(webp) - 8).to_bytes(4, "little")
    return bytes(webp)


# Functions that make a cut file seem complete. TIFF and HEIF have no end marker, so their files stay as they were cut.
ENDED = {
    "jpeg": lambda data: data + b"\xff\xd9",
    "png": lambda data: data + chunk(b"IEND", b""),
    "gif": lambda data: data + b"\0;",
    "bmp": lambda data: data + b"\0\1",
    "webp": with_right_lengths,
    "tiff": bytes,
    "heif": bytes,
}


def damaged(data, ended, rng, count):
    """Yields the names and contents of at most `count` damaged copies. A copy that equals the original is left out."""
    for number in range(count):
        at = rng.randrange(len(data))
        length = rng.choice((16, 40, 100, 512))
        kind = ("zeros", "ones", "noise", "flip", "cut", "end")[number % 6]
        copy = bytearray(data)
        if kind in ("zeros", "ones", "noise"):
            filling = {"zeros": bytes(length), "ones": b"\xff" * length}.get(kind) or rng.randbytes(length)
            copy[at : at + length] = filling[: len(data) - at]
        elif kind == "flip":
            copy[at] ^= 1 << rng.randrange(8)
        else:
            del copy[at:]
            copy = ended(bytes(copy)) if kind == "end" else copy
        if copy != data:
            yield f"{number:05}_{kind}", bytes(copy)


def cases(kind, total, share, many):
    """Yields one share of the damaged files, whose codings are divided into shares. `share` is the index of the
    share and the number of shares. All shares have about `total` files, or ten times as many with `many`."""
    every = list(FILES[kind]())
    count = total * (10 if many else 1) // len(every)
    for coding, data in every[share[0] :: share[1]]:
        sound = reference.pixels(data)
        rng = random.Random(f"{kind} {coding}")
        for name, copy in damaged(data, ENDED[kind], rng, count):
            expected = Maybe(sound, MENDED.get(kind), **RULES.get(kind, {}).get(coding, {}))
            yield Case(coding, name, copy, expected)


# Repairs of damage that only Pillow refuses: a JPEG may lack its end marker.
MENDED = {"jpeg": ENDED["jpeg"]}

# A difference that is accepted where damage has changed the size of the canvas.
AROUND_FRAME = {"resized": "the canvas around the frame is transparent, Pillow fills it with a colour"}
CONCEALED = {"tolerance": 2, "incomparable": "decoders differ in what they show in place of damaged data"}
RULES = {
    # Samples of 5 and 6 bits are scaled to the nearest level; Pillow rounds down.
    "bmp": {"565": {"tolerance": 1}},
    "gif": dict.fromkeys(("256 colours", "interlaced", "transparent", "animated"), AROUND_FRAME),
    "heif": dict.fromkeys(("HEIC", "HEIC 4:4:4", "HEIC, alpha", "AVIF", "AVIF 4:4:4", "AVIF, alpha"), CONCEALED),
}

# For each format, the number of damaged files and the number of groups.
COUNTS = {
    "jpeg": (4500, 2),
    "png": (1500, 1),
    "gif": (1200, 1),
    "bmp": (1200, 1),
    "webp": (1500, 1),
    "tiff": (2000, 2),
    "heif": (1200, 2),
}


def groups():
    return {
        f"{kind}/{part}": partial(cases, kind, total, (part, parts))
        for kind, (total, parts) in COUNTS.items()
        for part in range(parts)
    }
