"""mrl_vector for asyncpg.

After `await register(connection)`, for example as `init` of asyncpg.create_pool, a parameter of type mrl_vector may be a Vector,
a list or a numpy array of numbers, or the text form; and mrl_vector comes back as a Vector. All of them travel in binary form.

For a parameter of type mrl_vector[], give a list of text forms, `[str(vector), …]`: asyncpg takes a list, an array or a Vector
inside a list for another dimension of the array, but not a string.
"""

from __future__ import annotations

from typing import Any

from . import NOT_INSTALLED, TYPE_QUERY, Value, Vector

__all__ = ["register"]


def _encode(value: Value) -> bytes:
    return Vector(value).to_binary()


async def register(connection: Any) -> None:
    row = await connection.fetchrow(TYPE_QUERY)
    if row is None:
        raise LookupError(NOT_INSTALLED)
    await connection.set_type_codec(
        "mrl_vector", schema=row["nspname"], encoder=_encode, decoder=Vector.from_binary, format="binary"
    )
