"""The layout of a page of an mrl index, as src/sweep/layout.rs and src/index/page.rs define it."""

import struct
import sys

PAGE = 8192
HEADER = 24
SPECIAL = 8
# Six numbers, followed by the bitwise complement of each.
META_LENGTH = 48
LINE = 64


class Layout:
    """The arrays on a page of entries for prefixes of prefix_dims dimensions."""

    def __init__(self, prefix_dims):
        stride = -(-prefix_dims // 16) * 16
        length = PAGE - HEADER - SPECIAL
        for capacity in range(length // (8 + stride + stride // 2 + 6), 0, -1):
            codes = -(-(HEADER + 8 * capacity) // LINE) * LINE
            end, second = PAGE - SPECIAL, stride // 2
            self.capacity = capacity
            # name: (offset of the first entry's part, its bytes, the distance to the next entry's part)
            self.arrays = {
                "scale": (HEADER, 4, 4),
                "bounds": (HEADER + 4 * capacity, 4, 4),
                "codes": (codes, stride, stride),
                "second level": (end - second - 6, second, -second - 6),
                "TID": (end - 6, 6, -second - 6),
            }
            if codes + capacity * stride <= end - capacity * (second + 6):
                break

    def count(self, page):
        return int.from_bytes(page[PAGE - SPECIAL : PAGE - SPECIAL + 2], sys.byteorder)

    def part(self, name, entry):
        """The position of a part of an entry: its first byte and the byte after its last."""
        start, length, step = self.arrays[name]
        return start + entry * step, start + entry * step + length

    def rows(self, page):
        """The TIDs of a page of entries, as (block, offset)."""
        for entry in range(self.count(page)):
            high, low, offset = struct.unpack_from("=HHH", page, self.part("TID", entry)[0])
            yield high << 16 | low, offset

    def used(self, page):
        """The bytes of a page of entries that carry information: those of the entries; the bound of 0 that ends them; the
        fields of the page header that describe the page's form; the special space."""
        where = set(FORM)
        count = self.count(page)
        for entry in range(count):
            for name in self.arrays:
                where.update(range(*self.part(name, entry)))
        if count < self.capacity:
            start, _ = self.part("bounds", count)
            where.update((start, start + 1))
        return where

    def later_end_bounds(self, page):
        """The bounds of the free places after the first one. Each becomes the end of the entries when the places before
        it have been filled."""
        where = set()
        for entry in range(self.count(page) + 1, self.capacity):
            start, _ = self.part("bounds", entry)
            where.update((start, start + 1))
        return where


# pd_lower to pd_pagesize_version, and the special space.
FORM = frozenset((*range(12, 20), *range(PAGE - SPECIAL, PAGE)))
# pd_flags. Postgres rejects some values, so a change may be noticed at once, later or never.
FLAGS = frozenset((10, 11))
META_USED = FORM | frozenset(range(HEADER, HEADER + META_LENGTH))


def read(file, block):
    with open(file, "rb") as stream:
        stream.seek(block * PAGE)
        return bytearray(stream.read(PAGE))


def write(file, block, page):
    with open(file, "r+b") as stream:
        stream.seek(block * PAGE)
        stream.write(page)


def flip(page, byte, bit):
    page[byte] ^= 1 << bit
