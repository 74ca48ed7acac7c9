"""The vectors that the benchmark generates, and COPY's binary format for them.

They are clustered, their variance falls along the dimensions as in a Matryoshka model, and their length is one. The seeds are
constants, so every run has the same vectors.
"""

import numpy as np

DIMENSIONS, PREFIX = 2048, 128
CLUSTERS, SPREAD, DECAY, SEED = 200, 0.8, 0.35, 5
BATCH = 5000


class Clustered:
    """`count` vectors. Vectors of 128 dimensions follow the same distribution as prefixes of longer ones,
    but for their length, which cosine similarity ignores."""

    def __init__(self, count, dims):
        self.count, self.dims = count, dims
        self.scale = ((1 + np.arange(dims)) ** -DECAY).astype(np.float32)
        self.centres = self.draw(np.random.default_rng(SEED), CLUSTERS)

    def draw(self, rng, count):
        return rng.standard_normal((count, self.dims), dtype=np.float32) * self.scale

    def batch(self, rng, count):
        rows = self.centres[rng.integers(CLUSTERS, size=count)] + SPREAD * self.draw(rng, count)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)

    def batches(self):
        rng = np.random.default_rng(SEED + 1)
        for start in range(0, self.count, BATCH):
            yield self.batch(rng, min(BATCH, self.count - start))

    def queries(self, count):
        """Vectors from the same distribution that are not in the set."""
        return self.batch(np.random.default_rng(SEED + 2), count)


def literal(vector):
    return "[" + ",".join(map(str, vector.astype(np.float32).tolist())) + "]"


def copy_stream(batches, columns):
    """Yields rows in COPY's binary format: an integer id, then one vector for each entry of `columns`, which gives its number
    of dimensions. The format of a vector is the same for mrl_vector and for halfvec: dimensions and zero as int16, then the
    halves, all big-endian."""
    fields = [("id_length", ">i4"), ("id", ">i4")]
    for n, dims in enumerate(columns):
        fields += [(f"length{n}", ">i4"), (f"dims{n}", ">i2"), (f"zero{n}", ">i2"), (f"values{n}", ">f2", (dims,))]
    row = np.dtype([("columns", ">i2"), *fields])
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    number = 1
    for batch in batches:
        rows = np.zeros(len(batch), row)
        rows["columns"], rows["id_length"] = 1 + len(columns), 4
        rows["id"] = np.arange(number, number + len(batch))
        for n, dims in enumerate(columns):
            rows[f"length{n}"], rows[f"dims{n}"] = 4 + 2 * dims, dims
            rows[f"values{n}"] = batch[:, :dims]
        number += len(batch)
        yield rows.tobytes()
    yield b"\xff\xff"
