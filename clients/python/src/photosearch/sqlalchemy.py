"""mrl_vector for SQLAlchemy 2, with any of its drivers for PostgreSQL.

Importing this module adds the type to those that SQLAlchemy's reflection knows, and with it Alembic's autogenerate. SQLAlchemy
writes and reads the type's name without a schema, so the extension's schema has to be in search_path. An index is
`Index("name", Model.embedding, postgresql_using="mrl", postgresql_with={"prefix_dims": 128})`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Float, func, literal
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.sql.operators import ColumnOperators, custom_op
from sqlalchemy.types import UserDefinedType

from . import Value, Vector

__all__ = ["MrlVector"]


class MrlVector(UserDefinedType[Vector]):
    """The type of a column, `MrlVector(2048)`. Values are Vectors; lists and numpy arrays of numbers are accepted as well."""

    cache_ok = True

    def __init__(self, dims: int | None = None) -> None:
        self.dims = None if dims is None else int(dims)

    def get_col_spec(self, **_: Any) -> str:
        return "mrl_vector" if self.dims is None else f"mrl_vector({self.dims})"

    # Values travel in text form, which every driver sends as it is.
    def bind_processor(self, dialect: Any) -> Callable[[Value | None], str | None]:
        return lambda value: None if value is None else Vector(value).to_text()

    def literal_processor(self, dialect: Any) -> Callable[[Value], str]:
        return lambda value: f"'{Vector(value).to_text()}'"

    # A connection on which photosearch.psycopg or photosearch.asyncpg is registered gives Vectors or numpy arrays.
    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[Value | None], Vector | None]:
        def read(value: Value | None) -> Vector | None:
            if value is None:
                return None
            return Vector.from_text(value) if isinstance(value, str) else Vector(value)

        return read

    class Comparator(UserDefinedType.Comparator[Vector]):
        """A query is a value of the type or an expression, such as `func.embed_text("model", "a baby")`."""

        def _query(self, query: Any) -> Any:
            if isinstance(query, ColumnOperators) or hasattr(query, "__clause_element__"):
                return query
            # The type has no dims here, so a query of other dims than the column's reaches the server, whose error names both.
            return literal(query, MrlVector())

        def _numbers(self, threshold: Any, dims: Any) -> tuple[Any, ...]:
            if (threshold is None) != (dims is None):
                raise TypeError("give both threshold and dims, or neither: then the settings hold")
            return () if threshold is None else (threshold, dims)

        def coarse_match(
            self, query: Any, threshold: Any = None, dims: Any = None
        ) -> ColumnElement[bool]:
            """`coarse_match(embedding, query, threshold, dims)`. Without threshold and dims, the settings state them."""
            numbers = self._numbers(threshold, dims)
            return func.coarse_match(self.expr, self._query(query), *numbers, type_=Boolean)

        def matches(self, query: Any, threshold: Any = None, dims: Any = None) -> ColumnElement[Any]:
            """As `coarse_match`, by the operator `@~`."""
            right = self._query(query)
            if numbers := self._numbers(threshold, dims):
                right = func.mrl_probe(right, *numbers)
            return self.operate(custom_op("@~", is_comparison=True, return_type=Boolean()), right)

        def fine_score(self, query: Any) -> ColumnElement[float]:
            return func.fine_score(self.expr, self._query(query), type_=Float)

        def cosine_distance(self, query: Any) -> ColumnElement[Any]:
            """`embedding <=> query`"""
            return self.operate(custom_op("<=>", return_type=Float()), self._query(query))

    comparator_factory = Comparator


ischema_names["mrl_vector"] = MrlVector
