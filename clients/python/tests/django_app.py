"""Tests photosearch.django with a Django application on a server. run_python.py starts this program.

usage: django_app.py DATABASE [server_side_binding]      (PGHOST, PGUSER and the like name the server)

Prints the number of checks as JSON in the last line; a check that fails raises an exception. All tables are in the schema
django_app, which the program drops and creates first.
"""

import json
import random
import sys
import types
from pathlib import Path

import django
import numpy as np
import psycopg
from django.conf import settings

# Django requires that models belong to an app: those below belong to the app "album", a module that exists only here.
album = sys.modules["album"] = types.ModuleType("album")
album.__file__ = __file__
options = {"options": "-c search_path=django_app,public"}
if "server_side_binding" in sys.argv:
    options["server_side_binding"] = True
database = {"ENGINE": "django.db.backends.postgresql", "NAME": sys.argv[1], "OPTIONS": options}
settings.configure(DATABASES={"default": database}, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", INSTALLED_APPS=["django.contrib.postgres", "album"])
django.setup()

from django.core import serializers
from django.db import DataError, connection, models, transaction
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.state import ModelState, ProjectState
from django.db.migrations.writer import MigrationWriter
from django.db.models.functions import Cast
from django.test.utils import CaptureQueriesContext

import photosearch.psycopg
from photosearch import Vector
from photosearch.django import CoarseMatch, CosineDistance, EmbedImage, EmbedText, FineScore, MrlIndex, MrlManager, MrlVectorField

MODEL = "photosearch-mini-1"
DIMS = 32
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def drawn(seed):
    generator = random.Random(seed)
    return [generator.gauss(0, 1) for _ in range(DIMS)]


class Photo(models.Model):
    name = models.TextField()
    embedding = MrlVectorField(dims=DIMS, null=True)
    objects = MrlManager()

    class Meta:
        app_label = "album"
        indexes = [MrlIndex("embedding", name="photo_embedding", prefix_dims=16)]


class Drawing(models.Model):
    embedding = MrlVectorField(dims=192)
    loose = MrlVectorField(null=True)

    class Meta:
        app_label = "album"
        indexes = [MrlIndex(Cast("loose", MrlVectorField(dims=192)), name="drawing_cast"), MrlIndex(fields=["embedding"], name="drawing_all")]


def rows(sql, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


@check
def tables_and_indexes_are_made():
    types_of = dict(rows("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'album_photo'::regclass AND attnum > 0"))
    assert types_of["embedding"] == "mrl_vector(32)", types_of
    definitions = [text for (text,) in rows("SELECT indexdef FROM pg_indexes WHERE schemaname = 'django_app' AND indexdef LIKE '%%mrl%%' ORDER BY indexname")]
    assert len(definitions) == 3
    assert definitions[0].endswith("USING mrl (embedding)"), definitions
    assert definitions[1].endswith("USING mrl (((loose)::mrl_vector(192)))"), definitions
    assert definitions[2].endswith("USING mrl (embedding) WITH (prefix_dims='16')"), definitions


@check
def migrations_are_written_and_do_not_repeat():
    def state_of(*models):
        state = ProjectState()
        for model in models:
            state.add_model(model)
        return state

    changes = MigrationAutodetector(ProjectState(), state_of(ModelState.from_model(Photo)))._detect_changes()
    text = MigrationWriter(changes["album"][0]).as_string()
    assert "photosearch.django.MrlVectorField(dims=32" in text, text
    assert "photosearch.django.MrlIndex(fields=['embedding'], name='photo_embedding', prefix_dims=16)" in text, text
    # The written migration results in the state of the model, so a second run finds no changes.
    module = types.ModuleType("written")
    exec(text, module.__dict__)
    again = state_of()
    for operation in module.Migration.operations:
        operation.state_forwards("album", again)
    assert MigrationAutodetector(again, state_of(ModelState.from_model(Photo)))._detect_changes() == {}
    old, new = (state_of(ModelState("album", "Photo", [("embedding", MrlVectorField(dims=dims))])) for dims in (32, 64))
    (operation,) = MigrationAutodetector(old, new)._detect_changes()["album"][0].operations
    assert operation.field.dims == 64


@check
def values_are_stored_and_loaded():
    for number, value in enumerate((drawn(1), Vector(drawn(1)), np.array(drawn(1)), str(Vector(drawn(1)))), 1):
        photo = Photo.objects.create(name=f"{number}.jpg", embedding=value)
        loaded = Photo.objects.get(pk=photo.pk)
        assert loaded.embedding == Vector(drawn(1)), value
        loaded.name = "renamed"
        loaded.save()
    photo = Photo.objects.create(name="none")
    assert Photo.objects.get(pk=photo.pk).embedding is None
    assert Photo.objects.filter(embedding=None).count() == 1 and Photo.objects.filter(embedding=drawn(1)).count() == 4
    photo.embedding = drawn(2)
    photo.save()
    assert Photo.objects.with_vectors().get(pk=photo.pk).embedding == Vector(drawn(2))
    assert Photo.objects.filter(embedding__in=[drawn(2), drawn(3)]).count() == 1
    Photo.objects.all().delete()
    Photo.objects.bulk_create([Photo(name=f"{i}.jpg", embedding=drawn(i)) for i in range(200)])
    Photo.objects.bulk_update([Photo(pk=photo.pk, embedding=drawn(300)) for photo in Photo.objects.filter(name="199.jpg")], ["embedding"])
    assert Photo.objects.get(name="199.jpg").embedding == Vector(drawn(300))


@check
def searches_agree_with_sql():
    text = Vector(drawn(5)).to_text()
    expected = [pk for (pk,) in rows("SELECT id FROM album_photo WHERE coarse_match(embedding, %s, 0.2, 16) ORDER BY fine_score(embedding, %s) DESC", text, text)]
    assert 1 < len(expected) < 100
    stored = models.Subquery(Photo.objects.filter(name="5.jpg").values("embedding"))
    for query in (drawn(5), Vector(drawn(5)), np.array(drawn(5)), stored):
        found = Photo.objects.filter(CoarseMatch("embedding", query, 0.2, 16)).annotate(score=FineScore("embedding", query))
        assert [photo.pk for photo in found.order_by("-score")] == expected
        assert abs(found.order_by("-score")[0].score - 1) < 1e-6
        assert found.order_by(CosineDistance("embedding", query))[0].name == "5.jpg"
        assert found.filter(score__gte=0.9).count() == 1
        assert Photo.objects.exclude(CoarseMatch("embedding", query, 0.2, 16)).count() == 200 - len(expected)
        with transaction.atomic():
            rows("SELECT vector_dims('[1]'::mrl_vector)")
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL photosearch.coarse_threshold = 0.2; SET LOCAL photosearch.coarse_dims = 16")
            assert sorted(Photo.objects.filter(embedding__coarse_match=query).values_list("pk", flat=True)) == sorted(expected)
            assert Photo.objects.filter(CoarseMatch("embedding", query)).count() == len(expected)


@check
def searches_use_the_index():
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
        plan = Photo.objects.filter(CoarseMatch("embedding", drawn(5), 0.2, 16)).explain()
        assert "photo_embedding" in plan and "Seq Scan" not in plan, plan


@check
def vectors_stay_in_the_database():
    with CaptureQueriesContext(connection) as queries:
        photos = list(Photo.objects.filter(CoarseMatch("embedding", drawn(5), 0.2, 16)))
    select = queries[0]["sql"].split("FROM")[0]
    assert "embedding" not in select and "name" in select, select
    assert photos[0].get_deferred_fields() == {"embedding"}
    with CaptureQueriesContext(connection) as queries:
        assert photos[0].embedding is not None
    assert len(queries) == 1
    with CaptureQueriesContext(connection) as queries:
        assert all(photo.embedding is not None for photo in Photo.objects.with_vectors())
    assert len(queries) == 1


@check
def the_server_embeds():
    picture = Path(__file__).parents[3].joinpath("docs/images/contact-sheet.png").read_bytes()
    Drawing.objects.create(embedding=EmbedText(MODEL, "a baby"))
    Drawing.objects.create(embedding=EmbedText(MODEL, "a boat"))
    Drawing.objects.create(embedding=EmbedImage(MODEL, picture))
    query = EmbedText(MODEL, "baby photos")
    best = Drawing.objects.annotate(score=FineScore("embedding", query)).order_by("-score")
    assert best[0].score > 0.9 > best[1].score
    assert best[0].embedding == Drawing.objects.annotate(again=EmbedText("a baby")).first().again


@check
def fixtures_keep_the_vectors():
    photo = Photo.objects.get(name="7.jpg")
    text = serializers.serialize("json", [photo])
    (loaded,) = serializers.deserialize("json", text)
    assert loaded.object.embedding == photo.embedding == Vector(drawn(7))
    assert not Photo._meta.get_field("embedding").editable


@check
def wrong_dimensions_are_the_servers_errors():
    for call in (
        lambda: Photo.objects.create(name="wrong", embedding=[1, 2]),
        lambda: list(Photo.objects.filter(CoarseMatch("embedding", [1, 2], 0.2, 1))),
        lambda: list(Photo.objects.filter(embedding__coarse_match=[1, 2])),
    ):
        try:
            with transaction.atomic():
                call()
        except DataError as error:
            assert error.__cause__.sqlstate in ("22000", "22023"), error
        else:
            raise AssertionError("accepted a wrong number of dimensions")
    for value in ([], [float("nan")], "1,2"):
        try:
            Photo.objects.create(name="wrong", embedding=value)
        except ValueError:
            pass
        else:
            raise AssertionError(f"accepted {value}")


with connection.cursor() as cursor:
    cursor.execute("DROP SCHEMA IF EXISTS django_app CASCADE; CREATE SCHEMA django_app")
with connection.schema_editor() as editor:
    editor.create_model(Photo)
    editor.create_model(Drawing)
for function in CHECKS:
    function()
# Run all checks again with photosearch's codec registered on Django's connection, as in an application that also uses psycopg's
# cursors on it.
Photo.objects.all().delete()
Drawing.objects.all().delete()
photosearch.psycopg.register(connection.connection)
assert isinstance(connection.connection, psycopg.Connection)
for function in CHECKS:
    function()
print(json.dumps({"checks": len(CHECKS)}))
