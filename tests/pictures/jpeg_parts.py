"""Splits a JPEG into its segments, and joins segments to a JPEG (ITU-T T.81, annex B)."""

from dataclasses import dataclass

SOI, EOI, SOS, DHT, DNL, DRI = 0xD8, 0xD9, 0xDA, 0xC4, 0xDC, 0xDD
APP0, APP1, APP13, APP14, COM = 0xE0, 0xE1, 0xED, 0xEE, 0xFE
SOF0, SOF5 = 0xC0, 0xC5
FRAMES = {marker for marker in range(0xC0, 0xD0) if marker not in (DHT, 0xC8, 0xCC)}


@dataclass
class Part:
    """A segment, and the bytes between it and the next segment, which are entropy-coded data after SOS."""

    marker: int
    content: bytes
    data: bytes = b""

    def bytes(self):
        return segment(self.marker, self.content) + self.data


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def parts(jpeg):
    """The segments between the start and the end of the image."""
    at, found = 2, []
    while jpeg[at + 1] != EOI:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        content = jpeg[at + 4 : at + 2 + length]
        at = after = at + 2 + length
        while jpeg[at] != 0xFF or jpeg[at + 1] == 0 or 0xD0 <= jpeg[at + 1] <= 0xD7:
            at += 1
        found.append(Part(marker, content, jpeg[after:at]))
    return found


def joined(found, end=b"\xff\xd9"):
    return b"\xff\xd8" + b"".join(part.bytes() for part in found) + end


def restart_markers(data):
    """The offsets of the restart markers in entropy-coded data."""
    return [at for at in range(len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]


def with_segments(jpeg, position, *segments):
    """Inserts segments before the one at `position`, counted as in `parts`."""
    found = parts(jpeg)
    head = b"\xff\xd8" + b"".join(part.bytes() for part in found[:position])
    return head + b"".join(segments) + b"".join(part.bytes() for part in found[position:]) + b"\xff\xd9"
