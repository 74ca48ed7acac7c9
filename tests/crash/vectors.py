"""Random vectors that resemble those of a Matryoshka model, and some extreme ones."""

import math
import random
import struct

CENTRES = 12
NOISE = 1 << 15


class Vectors:
    """A source of vectors with dims dimensions. The same seed gives the same centres and noise."""

    def __init__(self, dims, seed):
        rng = random.Random(f"{dims} {seed}")
        self.dims = dims
        self.decay = [(1 + i) ** -0.35 for i in range(dims)]
        self.noise = [rng.gauss(0, 1) for _ in range(NOISE + dims)]
        self.centres = [[scale * rng.gauss(0, 1) for scale in self.decay] for _ in range(CENTRES)]
        self.kept = []

    def one(self, rng):
        """A vector as a tuple of halves, or None. One in ten is special: NULL, zero, with a zero prefix, tiny, huge, a copy of
        an earlier vector, or such a copy with one value changed in its last place."""
        kind = rng.randrange(70)
        if kind == 0:
            return None
        if kind == 1:
            return (0.0,) * self.dims
        if kind in (2, 3) and self.kept:
            values = list(rng.choice(self.kept))
            if kind == 3:
                values[rng.randrange(min(self.dims, 16))] *= 1 + 2**-10
            return halves(values)
        centre = rng.choice(self.centres)
        start = rng.randrange(NOISE)
        values = [c + 0.7 * n * s for c, n, s in zip(centre, self.noise[start : start + self.dims], self.decay)]
        if kind == 4:
            values[: self.dims // 2] = [0.0] * (self.dims // 2)
        scale = {5: 1e-6, 6: 20000}.get(kind, 1) / math.hypot(*values)
        vector = halves([value * scale for value in values])
        if len(self.kept) < 20:
            self.kept.append(vector)
        return vector


def halves(values):
    """Rounds each value to the nearest half."""
    layout = f"<{len(values)}e"
    return struct.unpack(layout, struct.pack(layout, *values))


def text(vector):
    return None if vector is None else f"[{','.join(map(repr, vector))}]"


def copy_binary(cursor, table, rows):
    """Stores rows (id, kind, version, vector) by COPY BINARY."""
    with cursor.copy(f"COPY {table} (id, kind, version, embedding) FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for number, kind, version, vector in rows:
            copy.write(struct.pack(">hiqiiii", 4, 8, number, 4, kind, 4, version))
            if vector is None:
                copy.write(struct.pack(">i", -1))
            else:
                dims = len(vector)
                copy.write(struct.pack(f">iHH{dims}e", 4 + 2 * dims, dims, 0, *vector))
        copy.write(b"\xff\xff")
