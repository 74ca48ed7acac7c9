"""mrl_vector for psycopg 3.

After `register(connection)`, a Vector is a parameter of type mrl_vector, in text and in binary form, and mrl_vector comes back
as a Vector. With `arrays=True` a numpy array is such a parameter too, and values come back as numpy arrays of float32.

A connection that pgvector has registered its types on keeps them, for they are registered by OID. Only numpy arrays as
parameters belong to whoever registered last.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, BaseConnection, Connection, ProgrammingError
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.rows import tuple_row
from psycopg.types import TypeInfo

from . import NOT_INSTALLED, TYPE_QUERY, Vector

__all__ = ["register", "register_async"]


class _TextDumper(Dumper):
    def dump(self, obj: Any) -> Buffer:
        return Vector(obj).to_text().encode()


class _BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        return Vector(obj).to_binary()


class _TextLoader(Loader):
    def load(self, data: Buffer) -> Any:
        return Vector.from_text(bytes(data).decode())


class _BinaryLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        return Vector.from_binary(data)


class _TextArrayLoader(_TextLoader):
    def load(self, data: Buffer) -> Any:
        return super().load(data).to_numpy()


class _BinaryArrayLoader(_BinaryLoader):
    def load(self, data: Buffer) -> Any:
        return super().load(data).to_numpy()


def register(connection: Connection[Any], *, arrays: bool = False) -> None:
    """Registers the type on a connection, for example as `configure` of a psycopg_pool.ConnectionPool."""
    # In a transaction block of its own, so that the connection is left as it was: idle, or in a transaction.
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(TYPE_QUERY).fetchone()
    _register(connection, row, arrays)


async def register_async(connection: AsyncConnection[Any], *, arrays: bool = False) -> None:
    async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(TYPE_QUERY)
        row = await cursor.fetchone()
    _register(connection, row, arrays)


def _register(connection: BaseConnection[Any], row: tuple[Any, ...] | None, arrays: bool) -> None:
    if row is None:
        raise ProgrammingError(NOT_INSTALLED)
    oid, array_oid, _ = row
    TypeInfo("mrl_vector", oid, array_oid).register(connection)
    adapters = connection.adapters
    accepted: list[type | str] = [Vector, "numpy.ndarray"] if arrays else [Vector]
    for kind in accepted:
        for dumper in (_TextDumper, _BinaryDumper):
            adapters.register_dumper(kind, type(dumper.__name__, (dumper,), {"oid": oid}))
    loaders = (_TextArrayLoader, _BinaryArrayLoader) if arrays else (_TextLoader, _BinaryLoader)
    for loader in loaders:
        adapters.register_loader(oid, loader)
