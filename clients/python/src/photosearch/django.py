"""mrl_vector for Django: a field, an index, expressions, and a manager that leaves vectors in the database.

    class Photo(models.Model):
        embedding = MrlVectorField(dims=2048, null=True)
        objects = MrlManager()

        class Meta:
            indexes = [MrlIndex("embedding", name="photo_embedding", prefix_dims=128)]

    query = EmbedText("qwen3-vl-embedding-2b", "a baby")
    Photo.objects.filter(CoarseMatch("embedding", query, 0.16, 64)).annotate(score=FineScore("embedding", query)).order_by("-score")

The extension itself is made by a migration: `django.contrib.postgres.operations.CreateExtension("photosearch")`.
"""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.indexes import PostgresIndex
from django.db import models
from django.db.models.expressions import BaseExpression

from . import Vector

__all__ = ["CoarseMatch", "CosineDistance", "EmbedImage", "EmbedText", "FineScore", "MrlIndex", "MrlManager", "MrlVectorField"]


class MrlVectorField(models.Field):
    """A column of type mrl_vector(dims). Values are Vectors; lists and numpy arrays of numbers are accepted as well.

    A form has no field for it, unless the column is made with editable=True.
    """

    def __init__(self, *args: Any, dims: int | None = None, **kwargs: Any) -> None:
        self.dims = dims
        kwargs.setdefault("editable", False)
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        if self.dims is not None:
            kwargs["dims"] = self.dims
        return name, path, args, kwargs

    def db_type(self, connection: Any) -> str:
        return "mrl_vector" if self.dims is None else f"mrl_vector({self.dims})"

    def to_python(self, value: Any) -> Vector | None:
        return None if value is None else Vector(value)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Vector | None:
        return Vector.from_text(value) if isinstance(value, str) else self.to_python(value)

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return value if value is None or isinstance(value, BaseExpression) else Vector(value).to_text()

    def value_to_string(self, obj: models.Model) -> str | None:
        value = self.value_from_object(obj)
        return None if value is None else Vector(value).to_text()


class MrlManager(models.Manager):
    """Does not load the vectors of the objects, 4 KB each of 2048 dimensions: only the database needs them for a search.

    An object's vector is loaded when it is asked for; `with_vectors()` loads all of them with the objects.
    """

    def get_queryset(self) -> models.QuerySet:
        vectors = [field.attname for field in self.model._meta.concrete_fields if isinstance(field, MrlVectorField)]
        return super().get_queryset().defer(*vectors)

    def with_vectors(self) -> models.QuerySet:
        return self.get_queryset().defer(None)


class MrlIndex(PostgresIndex):
    """An index of the access method mrl, on a field or an expression."""

    suffix = "mrl"

    def __init__(self, *expressions: Any, prefix_dims: int | None = None, **kwargs: Any) -> None:
        # Strings alone are names of fields, as for `fields=`. As expressions, they would require that the index has a name.
        if expressions and all(isinstance(expression, str) for expression in expressions):
            expressions, kwargs["fields"] = (), list(expressions)
        self.prefix_dims = prefix_dims
        super().__init__(*expressions, **kwargs)

    def deconstruct(self) -> Any:
        path, args, kwargs = super().deconstruct()
        if self.prefix_dims is not None:
            kwargs["prefix_dims"] = self.prefix_dims
        return path, args, kwargs

    def get_with_params(self) -> list[str]:
        return [] if self.prefix_dims is None else [f"prefix_dims = {int(self.prefix_dims)}"]


class EmbedText(models.Func):
    """`embed_text(model, content)`, or `embed_text(content)` with the model of the settings."""

    function = "embed_text"
    output_field = MrlVectorField()

    def __init__(self, *arguments: Any, **extra: Any) -> None:
        super().__init__(*map(_value, arguments), **extra)


class EmbedImage(EmbedText):
    function = "embed_image"


class _Comparison(models.Func):
    """A function of a vector, given by the name of its field, and of a query, given as a value or an expression."""

    def __init__(self, embedding: Any, query: Any, *numbers: Any, **extra: Any) -> None:
        if not hasattr(query, "resolve_expression"):
            query = models.Value(query, output_field=MrlVectorField())
        super().__init__(embedding, query, *map(_value, numbers), **extra)


class CoarseMatch(_Comparison):
    """`coarse_match(embedding, query, threshold, dims)`, or `coarse_match(embedding, query)` by the settings: for `filter()`."""

    function = "coarse_match"
    output_field = models.BooleanField()


class FineScore(_Comparison):
    function = "fine_score"
    output_field = models.FloatField()


class CosineDistance(_Comparison):
    """`embedding <=> query`, for `order_by()`."""

    template = "(%(expressions)s)"
    arg_joiner = " <=> "
    output_field = models.FloatField()


def _value(argument: Any) -> Any:
    return argument if hasattr(argument, "resolve_expression") else models.Value(argument)


@MrlVectorField.register_lookup
class _CoarseMatchLookup(models.Lookup):
    """`filter(embedding__coarse_match=query)`, by the settings."""

    lookup_name = "coarse_match"

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        left, left_params = self.process_lhs(compiler, connection)
        right, right_params = self.process_rhs(compiler, connection)
        return f"coarse_match({left}, {right})", [*left_params, *right_params]
