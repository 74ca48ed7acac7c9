"""mrl_vector, the type of the PostgreSQL extension photosearch, in Python.

`Vector` is a value of the type. The modules photosearch.psycopg, photosearch.asyncpg, photosearch.sqlalchemy and
photosearch.django teach a driver or a framework the type. Each of them imports only the library after which it is named.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    import numpy

__all__ = ["Value", "Vector"]

# What is accepted as a vector: a list or an array of numbers, a Vector, or the text form.
Value = Union["Vector", Iterable[float], str]

# Finds the type by the extension that owns it. The extension may be in any schema, and another schema may have a type of the same
# name.
TYPE_QUERY = """
    SELECT t.oid, t.typarray, n.nspname
    FROM pg_catalog.pg_extension AS e
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
    JOIN pg_catalog.pg_type AS t ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
    WHERE e.extname = 'photosearch' AND t.typname = 'mrl_vector' AND d.deptype = 'e'
"""
NOT_INSTALLED = "this database does not have the extension photosearch"


class Vector:
    """A value of mrl_vector: numbers in half precision, rounded as the server rounds them.

    Raises ValueError for what the server would refuse too: no numbers, NaN, infinities, magnitudes of 65,520 and above.
    """

    __slots__ = ("_halves",)

    def __init__(self, values: Value) -> None:
        if isinstance(values, Vector):
            self._halves: bytes = values._halves
            return
        if isinstance(values, str):
            values = _numbers(values)
        numbers = values.tolist() if hasattr(values, "tolist") else list(values)
        # The server rounds to a real first, and then to a half. The two roundings can differ from one.
        try:
            reals = struct.unpack(f"{len(numbers)}f", struct.pack(f"{len(numbers)}f", *numbers))
            halves = struct.pack(f">{len(reals)}e", *reals)
        except OverflowError:
            raise ValueError("a value is out of range for mrl_vector") from None
        except struct.error as error:
            raise ValueError(f"a vector is a flat list of numbers: {error}") from None
        if not numbers or not all(map(math.isfinite, reals)):
            raise ValueError("an mrl_vector has at least one value, and neither NaN nor infinities")
        self._halves = halves

    @classmethod
    def from_text(cls, text: str) -> Vector:
        """Reads the text form that the server writes. `Vector(text)` also rounds text with more digits, as the server does."""
        numbers = _numbers(text)
        vector = cls.__new__(cls)
        vector._halves = struct.pack(f">{len(numbers)}e", *numbers)
        return vector

    @classmethod
    def from_binary(cls, message: bytes | bytearray | memoryview) -> Vector:
        """Reads the server's binary form: the number of values and a zero in 16 bits each, and the halves, big-endian."""
        dims, unused = struct.unpack_from(">HH", message)
        if unused != 0 or len(message) != 4 + 2 * dims:
            raise ValueError("malformed binary form of mrl_vector")
        vector = cls.__new__(cls)
        vector._halves = bytes(message[4:])
        return vector

    def to_binary(self) -> bytes:
        return struct.pack(">HH", len(self), 0) + self._halves

    def to_text(self) -> str:
        """A text form that the server reads back as the same halves, since five digits identify a half."""
        return "[" + ",".join([f"{value:.5g}" for value in self]) + "]"

    def to_list(self) -> list[float]:
        return list(self)

    def to_numpy(self) -> numpy.ndarray[Any, numpy.dtype[numpy.float32]]:
        """The values as float32, in which numpy computes faster than in float16. All of them are exact."""
        import numpy

        return numpy.frombuffer(self._halves, ">f2").astype(numpy.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("an array of a Vector is always a copy")
        array = self.to_numpy()
        return array if dtype is None else array.astype(dtype)

    def __len__(self) -> int:
        return len(self._halves) // 2

    def __iter__(self) -> Iterator[float]:
        return iter(struct.unpack(f">{len(self)}e", self._halves))

    def __getitem__(self, index: int | slice) -> Any:
        return self.to_list()[index]

    def __eq__(self, other: object) -> bool:
        """Whether the values are the same, as in SQL: 0 equals -0."""
        if not isinstance(other, Vector):
            return NotImplemented
        return self._halves == other._halves or self.to_list() == other.to_list()

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Vector({self.to_text()})"

    __str__ = to_text


def _numbers(text: str) -> list[float]:
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        raise ValueError('the text form of a vector is "[1,2,3]"')
    return list(map(float, inner[1:-1].split(",")))
