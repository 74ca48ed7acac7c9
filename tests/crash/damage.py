"""Ways to damage the file of an index.

Each function returns whether the damage must be noticed: True; False if only unused space of a page has changed; None if
the damage may or may not be noticed.
"""

import os
import struct
import sys

from pages import FLAGS, HEADER, META_USED, PAGE, SPECIAL, flip, read, write

# The fields of block 0 (the meta page) in their order.
META_FIELDS = ("magic", "version", "dims", "prefix_dims", "bits of the first level", "bits of the second level")


class File:
    """The file of an index while the server is stopped. foreign_files are files of other relations."""

    def __init__(self, path, layout, foreign_files):
        self.path, self.layout, self.foreign_files = path, layout, foreign_files
        self.blocks = os.path.getsize(path) // PAGE

    def overwrite(self, block, start, data):
        """Writes bytes onto a page. Returns whether the change must be noticed."""
        page = read(self.path, block)
        used = META_USED if block == 0 else self.layout.used(page)
        later = FLAGS if block == 0 else FLAGS | self.layout.later_end_bounds(page)
        changed = {start + i for i, byte in enumerate(data) if page[start + i] != byte}
        page[start : start + len(data)] = data
        write(self.path, block, page)
        if changed & used:
            return True
        return None if changed & later else False


def random_page(file, block, rng):
    return file.overwrite(block, 0, rng.randbytes(PAGE))


def random_behind_header(file, block, rng):
    return file.overwrite(block, HEADER, rng.randbytes(PAGE - HEADER - SPECIAL))


def random_header(file, block, rng):
    return file.overwrite(block, 0, rng.randbytes(HEADER))


def random_special(file, block, rng):
    return file.overwrite(block, PAGE - SPECIAL, rng.randbytes(SPECIAL))


def header_word(file, block, rng):
    """Replaces one of pd_lower, pd_upper, pd_special and pd_pagesize_version."""
    return file.overwrite(block, rng.choice((12, 14, 16, 18)), rng.choice((0, 1, PAGE, 0xFFFF, rng.randrange(1 << 16))).to_bytes(2, sys.byteorder))


def entry_count(file, block, rng):
    return file.overwrite(block, PAGE - SPECIAL, rng.choice((0, 1, file.layout.capacity, file.layout.capacity + 1, 0xFFFF, rng.randrange(1 << 16))).to_bytes(2, sys.byteorder))


def zero_page(file, block, rng):
    return file.overwrite(block, 0, bytes(PAGE))


def zero_behind_header(file, block, rng):
    return file.overwrite(block, HEADER, bytes(PAGE - HEADER - SPECIAL))


def ones(file, block, rng):
    return file.overwrite(block, HEADER, b"\xff" * (PAGE - HEADER - SPECIAL))


def one_bit(file, block, rng):
    page = read(file.path, block)
    flip(page, rng.randrange(PAGE), rng.randrange(8))
    return file.overwrite(block, 0, page)


def some_bits(file, block, rng):
    page = read(file.path, block)
    for byte in rng.sample(range(PAGE), rng.randint(2, 40)):
        flip(page, byte, rng.randrange(8))
    return file.overwrite(block, 0, page)


def every(file, block, name, make):
    """Replaces one part of every entry."""
    page = read(file.path, block)
    for entry in range(file.layout.count(page)):
        start, end = file.layout.part(name, entry)
        page[start:end] = make(end - start)
    return file.overwrite(block, 0, page)


def tids(file, block, rng):
    """TIDs beyond the table, beyond a page, or of no possible row."""
    return every(file, block, "TID", rng.choice((rng.randbytes, lambda n: b"\xff" * n, bytes)))


def scales(file, block, rng):
    """Scales that may be infinite, NaN or huge."""
    return every(file, block, "scale", rng.choice((rng.randbytes, lambda n: struct.pack("=f", float("inf")), lambda n: b"\xff" * n)))


def another_block(file, block, rng):
    other = rng.choice([b for b in range(file.blocks) if b != block])
    return file.overwrite(block, 0, read(file.path, other))


def page_of_another_relation(file, block, rng):
    return file.overwrite(block, 0, read(rng.choice(file.foreign_files), rng.randrange(2)))


def cut(file, block, rng):
    """Truncates the file within a block or at its start."""
    os.truncate(file.path, block * PAGE + rng.choice((0, 0, 1, HEADER, PAGE - 1)))
    return True


def meta_field(file, block, rng):
    number = rng.randrange(len(META_FIELDS))
    value = rng.choice((0, 1, 16, 64, 127, 129, 4097, 16001, 0xFFFFFFFF, rng.randrange(1 << 32)))
    return file.overwrite(block, HEADER + 4 * number, value.to_bytes(4, sys.byteorder))


def free_space_map(file, block, rng):
    """The free space map is a hint: whatever it holds, inserts must find a page."""
    path = f"{file.path}_fsm"
    for block in range(os.path.getsize(path) // PAGE):
        page = read(path, block)
        page[HEADER + 4 :] = rng.choice((rng.randbytes(PAGE - HEADER - 4), b"\xff" * (PAGE - HEADER - 4)))
        write(path, block, page)
    return False


KINDS = (random_page, random_behind_header, random_header, random_special, header_word, entry_count, zero_page, zero_behind_header,
         ones, one_bit, some_bits, tids, scales, another_block, page_of_another_relation, cut, meta_field, free_space_map)  # fmt: skip
