#!/usr/bin/env python3
"""Compares photos that are spread over servers by postgres_fdw with the same photos on one server.

usage: run_sharding.py        (needs postgres_fdw in the server of PG_CONFIG)

Three servers are started: a coordinator and two shards. The coordinator has two databases. In "photos" the table of that name is
partitioned, with a partition on each shard; in "whole" it is a plain table with the same rows. Each query runs in both, and has to give
the same rows with the same bits. The queries are those of README.md and of pages of docs/ (all that read from "photos"), and
those below. The servers are set up by the statements of docs/sharding.md, so that those are tested, too. For the queries below, EXPLAIN
also has to show what each declares: whether the shards test the condition, and whether vectors come back.
Run alone: VENV/bin/python tests/sharding/run_sharding.py, with the packages of tests/client/requirements.txt and of
tests/pictures/requirements.txt. The last line counts the checks; if one fails, the exit status is 1 and the data is kept.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[2]
# tests/crash has a module "pages" as well, so tests/docs comes first.
sys.path[:0] = [str(ROOT / "tests/docs"), str(ROOT / "tests/crash")]

import pages
from checks import Checks
from server import Server

PAGE = ROOT / "docs/sharding.md"
# Their queries read from a table "photos" with these columns.
PAGES = [ROOT / "README.md", ROOT / "docs/thresholds.md", ROOT / "docs/scale.md", PAGE]
COLUMNS = "id, path, taken_at, embedding"
SEED, PICTURES = 20261126, 300
SHARDS = ("shard-a", "shard-b")

MODEL = "photosearch-mini-1"
BABY = f"(SELECT embed_text('{MODEL}', 'a baby'))"


@dataclass
class Query:
    """A query, and what it has to send to the shards."""

    name: str
    sql: str
    # Whether the shards test the condition on vectors; None if there is no such condition.
    condition: bool | None = True
    # Whether whole vectors come back. None for a query of which one scan fetches vectors for another: this is checked only for
    # the scans with our operators.
    vectors: bool | None = False
    # Patterns that the text sent to each shard has to match.
    sent: list = field(default_factory=list)
    before: list = field(default_factory=list)


QUERIES = [
    Query("one threshold", f"SELECT id, path FROM photos WHERE fine_score(embedding, {BABY}) >= 0.18"),
    Query("one threshold, the query in FROM", "SELECT id, path FROM photos, embed_text('a baby') AS q WHERE fine_score(embedding, q) >= 0.18"),
    Query("a distance", f"SELECT id FROM photos WHERE embedding <=> {BABY} <= 0.82"),
    Query("one minus a distance", f"SELECT id FROM photos WHERE 1 - (embedding <=> {BABY}) >= 0.18"),
    Query("count", f"SELECT count(*) FROM photos WHERE fine_score(embedding, {BABY}) >= 0.18"),
    Query("two steps", f"SELECT id FROM photos WHERE coarse_match(embedding, {BABY}, 0.16, 64) AND fine_score(embedding, {BABY}) >= 0.18"),
    Query("by the settings, resolved once", f"SELECT id FROM photos WHERE embedding @~ (SELECT mrl_probe(embed_text('a baby')))"),
    Query("not by the settings, resolved once", f"SELECT id FROM photos WHERE embedding !@~ (SELECT mrl_probe(embed_text('a baby')))"),
    Query("by the settings of the session", f"SELECT id FROM photos WHERE coarse_match(embedding, {BABY})", condition=False, vectors=True),
    Query("a probe that is not a subselect", f"SELECT id FROM photos WHERE embedding @~ mrl_probe({BABY})", condition=False, vectors=True),
    Query("with and without", f"""
        SELECT id FROM photos WHERE fine_score(embedding, {BABY}) >= 0.18 AND fine_score(embedding, (SELECT embed_text('a dog'))) < 0.18
        AND taken_at >= '2018-01-01'"""),
    Query("either", f"SELECT id FROM photos WHERE fine_score(embedding, {BABY}) >= 0.3 OR fine_score(embedding, (SELECT embed_text('a dog'))) >= 0.3"),
    # postgres_fdw sends no arrays of a type of an extension.
    Query("several photos at once", f"""
        SELECT id FROM photos WHERE embedding @~ ANY (ARRAY[
            mrl_probe(embed_text('{MODEL}', 'a baby'), 0.3, 64), mrl_probe(embed_text('{MODEL}', 'a boat'), 0.3, 64)])""", condition=False, vectors=True),
    Query("several photos by OR", f"""
        SELECT id FROM photos WHERE embedding @~ mrl_probe(embed_text('{MODEL}', 'a baby'), 0.3, 64)
        OR embedding @~ mrl_probe(embed_text('{MODEL}', 'a boat'), 0.3, 64)"""),
    Query("scores", f"SELECT id, path, fine_score(embedding, {BABY}) AS score FROM photos WHERE fine_score(embedding, {BABY}) >= 0.18 ORDER BY score DESC", vectors=True),
    Query("scores from the shards", f"""
        SELECT id, path, max(fine_score(embedding, {BABY})) AS score FROM photos
        WHERE fine_score(embedding, {BABY}) >= 0.18 GROUP BY id, path ORDER BY score DESC""", sent=[r"max\(.*fine_score\(.*GROUP BY"]),
    Query("scores from the shards, as a group", f"""
        SELECT id, path, fine_score(embedding, {BABY}) AS score FROM photos
        WHERE fine_score(embedding, {BABY}) >= 0.18 GROUP BY id, path, score ORDER BY score DESC, id""", sent=[r"fine_score\(.*GROUP BY"]),
    Query("scores from the shards, of two steps", f"""
        SELECT id, path, max(fine_score(embedding, {BABY})) AS score FROM photos
        WHERE embedding @~ (SELECT mrl_probe(embed_text('a baby'))) AND fine_score(embedding, {BABY}) >= 0.18
        GROUP BY id, path ORDER BY score DESC, id""", sent=[r"@~.*GROUP BY"]),
    Query("the best few", f"""
        SELECT id, fine_score(embedding, {BABY}) AS score FROM photos WHERE embedding IS NOT NULL
        ORDER BY embedding <=> {BABY} LIMIT 10""", condition=None, vectors=True),
    Query("the best few of a threshold, scores from the shards", f"""
        SELECT id, max(fine_score(embedding, {BABY})) AS score FROM photos WHERE fine_score(embedding, {BABY}) >= 0.1
        GROUP BY id ORDER BY score DESC, id LIMIT 10""", sent=["GROUP BY"]),
    Query("more like this", f"""
        WITH this AS MATERIALIZED (SELECT id, embedding FROM photos WHERE path = '2019-00003.jpg')
        SELECT id, path, max(fine_score(embedding, (SELECT embedding FROM this))) AS score FROM photos
        WHERE fine_score(embedding, (SELECT embedding FROM this)) >= 0.5 AND id <> (SELECT id FROM this)
        GROUP BY id, path ORDER BY score DESC, id""", vectors=None),
    Query("a view", "SELECT id FROM babies", before=[f"CREATE OR REPLACE VIEW babies AS SELECT id, path FROM photos WHERE fine_score(embedding, {BABY}) >= 0.18"]),
    Query("a view by the settings", "SELECT id FROM coarse_babies", before=[
        "CREATE OR REPLACE VIEW coarse_babies AS SELECT id, path FROM photos WHERE embedding @~ (SELECT mrl_probe(embed_text('a baby')))"]),
    Query("prepared with a text", "EXECUTE by_text ('a baby', 0.18)", before=[
        f"PREPARE by_text (text, double precision) AS SELECT id, path FROM photos WHERE fine_score(embedding, (SELECT embed_text('{MODEL}', $1))) >= $2"]),
    Query("prepared with a text in FROM", "EXECUTE by_text_in_from ('a baby')", before=[
        f"PREPARE by_text_in_from (text) AS SELECT id FROM photos, embed_text('{MODEL}', $1) AS q WHERE coarse_match(embedding, q, 0.16, 64)"]),
    Query("prepared with a vector", f"EXECUTE by_vector (embed_text('{MODEL}', 'a baby'), 0.16)", before=[
        "PREPARE by_vector (mrl_vector, double precision) AS SELECT id, path FROM photos WHERE coarse_match(embedding, $1, $2, 64)"]),
    Query("prepared with a vector, by the settings", f"EXECUTE by_settings (embed_text('{MODEL}', 'a baby'))", before=[
        "PREPARE by_settings (mrl_vector) AS SELECT id, path FROM photos WHERE embedding @~ (SELECT mrl_probe($1))"]),
    Query("prepared with a probe", f"EXECUTE by_probe (mrl_probe(embed_text('{MODEL}', 'a baby')))", before=[
        "PREPARE by_probe (mrl_probe) AS SELECT id, path FROM photos WHERE embedding @~ $1"]),
    # postgres_fdw sends no function that takes a text, unless the text is a column of the shard. So no shard embeds a query.
    Query("prepared with a text, inline", "EXECUTE inline ('a baby')", condition=False, vectors=True, before=[
        f"PREPARE inline (text) AS SELECT id FROM photos WHERE fine_score(embedding, embed_text('{MODEL}', $1)) >= 0.18"]),
    Query("an average", f"SELECT count(*), avg(embedding), sum(embedding) FROM photos WHERE fine_score(embedding, {BABY}) >= 0.18", vectors=True),
    Query("vectors", "SELECT id, embedding, mrl_vector_send(embedding) FROM photos", condition=None, vectors=True),
    Query("deleted rows", f"DELETE FROM photos WHERE fine_score(embedding, {BABY}) >= 0.18 RETURNING id"),
]


# Queries that may find nothing, or end in an error, which then has to have the same SQLSTATE.
EDGES = [
    "SELECT id FROM photos WHERE embedding @~ (SELECT mrl_probe(NULL::mrl_vector))",
    "SELECT id FROM photos WHERE fine_score(embedding, (SELECT NULL::mrl_vector)) >= 0.1",
    f"SELECT id FROM photos WHERE embedding @~ (SELECT mrl_probe({BABY} * 0))",
    f"SELECT id FROM photos WHERE embedding !@~ (SELECT mrl_probe({BABY} * 0))",
    f"SELECT id FROM photos WHERE fine_score(embedding, (SELECT {BABY} * 0)) >= 0",
    "SELECT id FROM photos WHERE embedding @~ (SELECT mrl_probe('[1,2]'::mrl_vector))",
    "SELECT id FROM photos WHERE embedding @~ (SELECT mrl_probe('[1,2]'::mrl_vector, 0.5, 2))",
    "SELECT id FROM photos WHERE fine_score(embedding, '[1,2]') >= 0.1",
    "SELECT id FROM photos WHERE fine_score(embedding, (SELECT '[1,2]'::mrl_vector)) >= 0.1",
    f"SELECT id FROM photos WHERE fine_score(embedding, {BABY}) >= 'NaN'",
    f"SELECT id FROM photos WHERE embedding <=> {BABY} < 'NaN'",
    f"SELECT id FROM photos WHERE fine_score(embedding, {BABY}) > '-Infinity'",
    f"SELECT id FROM photos WHERE coarse_match(embedding, {BABY}, 1.5, 64)",
    f"SELECT id FROM photos WHERE coarse_match(embedding, {BABY}, 0.1, 193)",
]


class Cluster:
    """The coordinator and the shards."""

    def __init__(self, directory):
        self.directory = directory
        self.servers = {name: Server(directory / name) for name in ("coordinator", *SHARDS)}
        for server in self.servers.values():
            server.start()
        for name, database in (("coordinator", "whole"), ("coordinator", "photos"), *((shard, "photos") for shard in SHARDS)):
            with self.servers[name].connect() as connection:
                connection.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")
        self.photos = self.servers["coordinator"].connect("photos")
        self.whole = self.servers["coordinator"].connect("whole")
        self.shards = [self.servers[name].connect("photos") for name in SHARDS]

    def on(self, where):
        return {"every server": [*self.shards, self.photos], "the shards": self.shards, "the coordinator": [self.photos]}[where]

    def located(self, sql):
        """A statement of the manual with the directories of the sockets in place of the names of hosts."""
        for name in SHARDS:
            sql = sql.replace(f"'{name}.example.org'", f"'{self.directory / name}'")
        return sql

    def set_otherwise(self):
        """Gives the shards settings that find other rows, and no model. What they evaluate must not depend on these."""
        for shard in self.shards:
            for setting in ("coarse_threshold = 0.9", "coarse_dims = 5", "model = 'none'"):
                shard.execute(f"ALTER DATABASE photos SET photosearch.{setting}")

    def fill(self):
        """Embeds an album into the plain table, adds rows that are special, and sends all rows through the coordinator."""
        album = self.directory / "album"
        draw = [sys.executable, ROOT / "models/train/album.py", "--seed", SEED, "--count", PICTURES, "--out", album]
        subprocess.run(list(map(str, draw)), check=True, capture_output=True)
        for path in (album, *album.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.whole.execute("CREATE EXTENSION photosearch")
        self.whole.execute("CREATE TABLE photos (id bigint PRIMARY KEY, path text, taken_at timestamptz, embedding mrl_vector(192))")
        self.whole.execute(
            "INSERT INTO photos SELECT row_number() OVER (ORDER BY name), name, timestamptz '2016-01-01' + interval '9 days' * row_number() OVER (ORDER BY name),"
            f" embed_image('{MODEL}', pg_read_binary_file(%s || '/' || name)) FROM pg_ls_dir(%s) AS name WHERE name ~ 'jpg$'",
            [str(album), str(album)],
        )
        self.whole.execute("""
            INSERT INTO photos SELECT id + 1000, 'copy of ' || path, taken_at, embedding FROM photos WHERE id % 30 = 0;
            INSERT INTO photos SELECT id + 2000, 'other length ' || path, NULL, embedding * 0.37 FROM photos WHERE id % 40 = 0;
            INSERT INTO photos VALUES (3000, 'nothing', NULL, NULL), (3001, NULL, NULL, NULL);
            INSERT INTO photos SELECT 3002 + n, 'zero', NULL, array_fill(0, ARRAY[192])::mrl_vector FROM generate_series(0, 1) AS n;
            CREATE INDEX ON photos USING mrl (embedding) WITH (prefix_dims = 192); ANALYZE photos""")
        rows = self.whole.execute(f"SELECT {COLUMNS} FROM photos").fetchall()
        with self.photos.cursor() as cursor:
            cursor.executemany(f"INSERT INTO photos ({COLUMNS}) VALUES (%s, %s, %s, %s::mrl_vector)", rows)

    def stop(self):
        for connection in (self.photos, self.whole, *self.shards):
            connection.close()
        for server in self.servers.values():
            server.stop()


def rows_of(connection, sql):
    """The rows of a query, as texts; floating-point numbers with all their digits. Rows of equal scores have no order, so they are sorted."""
    cursor = connection.execute(sql.encode())
    return sorted(tuple(map(repr, row)) for row in cursor.fetchall())


def scores_in_order(connection, sql):
    """The column `score` of the rows if the query ends in ORDER BY score DESC, else None."""
    cursor = connection.execute(sql.encode())
    names = [column.name for column in cursor.description]
    if not re.search(r"ORDER BY (\w+\.)?score DESC", sql) or "score" not in names:
        return None
    return [row[names.index("score")] for row in cursor.fetchall()]


def plan_of(connection, sql):
    return [line for (line,) in connection.execute(f"EXPLAIN (VERBOSE, COSTS OFF) {sql}".encode())]


# Operators that mark a condition on vectors.
OURS = re.compile(r"fine_score|@~|@<=>|<=>")


def complaints_of_plan(cluster, query):
    """What a plan sends to the shards, compared with what the query has to send."""
    plan = plan_of(cluster.photos, query.sql)
    sent = [line.split("Remote SQL: ", 1)[1] for line in plan if "Remote SQL: " in line]
    if len(sent) < len(SHARDS):
        yield f"no query for each shard: {sent}"
    kept = [line for line in plan if "Filter: " in line and OURS.search(line)]
    # More like this: the first scan fetches one vector.
    scans = [text for text in sent if OURS.search(text)] if query.vectors is None else sent
    for text in scans:
        what, _, condition = text.partition(" WHERE ")
        if query.condition is not None and bool(OURS.search(condition)) != query.condition:
            yield f"the condition on vectors is {'not ' if query.condition else ''}sent: {text[:400]}"
        if query.vectors is not None and bool(re.search(r"(?<!fine_score\()\bembedding\b(?![^()]*\))", what)) != query.vectors and not what.startswith("DELETE"):
            yield f"vectors are {'not ' if query.vectors else ''}fetched: {text[:400]}"
        for pattern in query.sent:
            if not re.search(pattern, text):
                yield f"{pattern} is not sent: {text[:400]}"
    if query.condition is not None and bool(kept) == query.condition:
        yield f"the coordinator tests the condition: {kept}" if kept else "the coordinator does not test the condition"


def outcome(connection, sql):
    """The rows of a query, or the SQLSTATE of its error."""
    try:
        return rows_of(connection, sql)
    except psycopg.Error as error:
        return error.sqlstate


def compare(cluster, sql):
    """Differences between the answers of the two databases."""
    there, here = rows_of(cluster.photos, sql), rows_of(cluster.whole, sql)
    if there != here:
        missing, extra = sorted(set(here) - set(there)), sorted(set(there) - set(here))
        yield f"{len(here)} rows on one server, {len(there)} on several; missing {str(missing[:3])[:400]}, too many {str(extra[:3])[:400]}"
    if sql.lstrip().startswith("DELETE"):
        return
    scores = scores_in_order(cluster.photos, sql)
    if scores is not None and scores != scores_in_order(cluster.whole, sql):
        yield "the scores are in another order"
    if not here:
        yield "the query finds nothing, so it compares nothing"


def check(checks, name, problems):
    """A check whose complaints are made by a generator, which may fail."""
    try:
        checks.add(name, list(problems))
    except Exception:
        checks.add(name, traceback.format_exc().splitlines()[-4:])


def set_up(cluster):
    """Runs the blocks of docs/sharding.md that have the attribute `on`, each on the servers that it names."""
    for block in pages.read(PAGE).blocks:
        if block.language == "sql" and "on" in block.attributes:
            for statement in pages.statements(block):
                for connection in cluster.on(block.attributes["on"]):
                    connection.execute(cluster.located(statement.sql).encode())


def queries_of_manual():
    """(where, text) of each visible query of PAGES that reads from "photos" and is run."""
    for path in PAGES:
        for block in pages.read(path).blocks:
            if block.language != "sql" or block.hidden or "skip" in block.attributes:
                continue
            for statement in pages.statements(block):
                bare = re.sub(r"--[^\n]*", "", statement.sql).strip()
                if re.match(r"SELECT|WITH", bare) and re.search(r"\b(FROM|JOIN)\s+photos\b", bare) and "last_sweep" not in bare:
                    yield f"{path.relative_to(ROOT)}:{statement.line}", bare


def run_queries(cluster, checks):
    for connection in (cluster.photos, cluster.whole):
        # The first query of a session is planned without the library. With this setting, no plan depends on parameters.
        connection.execute("LOAD 'photosearch'; SET plan_cache_mode = force_generic_plan")
    for where, sql in queries_of_manual():
        check(checks, where, compare(cluster, sql))
    for query in QUERIES:
        for connection in (cluster.photos, cluster.whole):
            for statement in query.before:
                connection.execute(statement.encode())
        with cluster.photos.transaction(force_rollback=True), cluster.whole.transaction(force_rollback=True):
            check(checks, query.name, compare(cluster, query.sql))
    for sql in EDGES:
        there, here = outcome(cluster.photos, sql), outcome(cluster.whole, sql)
        checks.add(sql, [] if there == here else [f"{str(here)[:300]} on one server, {str(there)[:300]} on several"])


def run_plans(cluster, checks):
    """What is sent, by each of three ways in which the coordinator can estimate."""
    cluster.photos.execute("SET enable_partitionwise_aggregate = on")
    for way, statements in {
        "a guess": [],
        "the shards": [f"ALTER SERVER {name} OPTIONS (ADD use_remote_estimate 'true')" for name in ("shard_a", "shard_b")],
        "statistics": [
            *(f"ALTER SERVER {name} OPTIONS (DROP use_remote_estimate)" for name in ("shard_a", "shard_b")), "ANALYZE photos_a; ANALYZE photos_b; ANALYZE photos",
        ],
    }.items():
        for statement in statements:
            cluster.photos.execute(statement)
        for query in QUERIES:
            check(checks, f"{query.name}: plan, estimated by {way}", complaints_of_plan(cluster, query))


def run_settings(cluster, checks):
    """A plan that is kept follows the settings of the session, also of a role that is no superuser."""
    cluster.photos.execute("CREATE ROLE app LOGIN; GRANT SELECT ON photos TO app")
    cluster.whole.execute("GRANT SELECT ON photos TO app")
    for shard in cluster.shards:
        shard.execute("CREATE ROLE app LOGIN; GRANT SELECT ON photos TO app")
    for name in ("shard_a", "shard_b"):
        cluster.photos.execute(f"CREATE USER MAPPING FOR app SERVER {name} OPTIONS (user 'app', password_required 'false')")
    query = f"PREPARE baby AS SELECT id FROM photos WHERE embedding @~ (SELECT mrl_probe({BABY}))"
    sizes = []
    with cluster.servers["coordinator"].connect("photos") as photos, cluster.servers["coordinator"].connect("whole") as whole:
        for connection in (photos, whole):
            connection.execute("SET ROLE app; SELECT vector_dims('[1]'); SET plan_cache_mode = force_generic_plan")
            connection.execute(query.encode())
        for threshold, dims in ((-2, 0), (0.3, 16), (0.1, 192), (-1, 1), (0.3, 0), (-2, 64), (1, 192), (0.1, 193)):
            for connection in (photos, whole):
                connection.execute(f"SET photosearch.coarse_threshold = {threshold}; SET photosearch.coarse_dims = {dims}")
            found = outcome(whole, "EXECUTE baby")
            sizes.append(found if isinstance(found, str) else len(found))
            for name, sql in {"kept plan": "EXECUTE baby", "new plan": query.split(" AS ", 1)[1], "two arguments": f"SELECT id FROM photos WHERE coarse_match(embedding, {BABY})"}.items():
                there = outcome(photos, sql)
                checks.add(f"threshold {threshold}, dims {dims}, {name}", [] if there == found else [f"{len(found)} rows on one server, {len(there)} on several"])
    checks.add("settings find different rows", [] if len(set(sizes)) >= 5 and "22023" in sizes else [str(sizes)])


def run_digits(cluster, checks):
    """A threshold that is the score of a row arrives with all its digits."""
    cluster.photos.execute("SET extra_float_digits = -15")
    scores = cluster.whole.execute(f"SELECT id, fine_score(embedding, {BABY}) FROM photos WHERE id % 17 = 0 AND id < 300".encode()).fetchall()
    problems = []
    for number, score in scores:
        for operator in (">=", ">", "<=", "<"):
            sql = f"SELECT id FROM photos WHERE fine_score(embedding, {BABY}) {operator} {score!r}"
            if rows_of(cluster.photos, sql) != rows_of(cluster.whole, sql):
                problems.append(f"{number}: {operator} {score!r}")
    checks.add(f"{4 * len(scores)} thresholds with extra_float_digits = -15", problems)
    cluster.photos.execute("RESET extra_float_digits")


def run_mixed(cluster, checks):
    """A table with partitions on the shards and one here, and an index on the partitioned table."""
    cluster.photos.execute(f"""
        CREATE TABLE mixed (id bigint, path text, taken_at timestamptz, embedding mrl_vector(192)) PARTITION BY HASH (id);
        CREATE TABLE mixed_here PARTITION OF mixed FOR VALUES WITH (MODULUS 3, REMAINDER 0);
        CREATE FOREIGN TABLE mixed_a PARTITION OF mixed FOR VALUES WITH (MODULUS 3, REMAINDER 1) SERVER shard_a OPTIONS (table_name 'mixed');
        CREATE FOREIGN TABLE mixed_b PARTITION OF mixed FOR VALUES WITH (MODULUS 3, REMAINDER 2) SERVER shard_b OPTIONS (table_name 'mixed');
        CREATE INDEX ON mixed USING mrl (embedding) WITH (prefix_dims = 192)""")
    for shard in cluster.shards:
        shard.execute("CREATE TABLE mixed (LIKE photos); CREATE INDEX ON mixed USING mrl (embedding) WITH (prefix_dims = 192)")
    with cluster.photos.cursor() as cursor:
        cursor.executemany(f"INSERT INTO mixed ({COLUMNS}) VALUES (%s, %s, %s, %s::mrl_vector)", cluster.whole.execute(f"SELECT {COLUMNS} FROM photos").fetchall())
    for query in QUERIES:
        if query.before or not re.match(r"\s*(SELECT|WITH)", query.sql):
            continue
        there, here = rows_of(cluster.photos, re.sub(r"\bphotos\b", "mixed", query.sql)), rows_of(cluster.whole, query.sql)
        checks.add(f"{query.name}, with a partition here", [] if there == here else [f"{len(here)} rows on one server, {len(there)} on several"])
    cluster.photos.execute("SET enable_seqscan = off")
    plan = plan_of(cluster.photos, f"SELECT id FROM mixed WHERE fine_score(embedding, {BABY}) >= 0.18")
    sent = [line for line in plan if "Remote SQL: " in line]
    problems = [] if len(sent) == 2 and all("@<=>" in line for line in sent) else [f"sent: {sent}"]
    if not any("Index Cond" in line and "@<=>" in line for line in plan):
        problems.append("the partition here is not read by its index")
    checks.add("the condition of an index is sent", problems)
    cluster.photos.execute("RESET enable_seqscan")


def main():
    directory = Path(tempfile.mkdtemp(prefix="photosearch-sharding-", dir="/tmp"))
    directory.chmod(0o755)
    checks = Checks()
    cluster = Cluster(directory)
    set_up(cluster)
    cluster.set_otherwise()
    cluster.fill()
    for part in (run_queries, run_plans, run_settings, run_digits, run_mixed):
        try:
            part(cluster, checks)
        except Exception:
            checks.add(part.__name__, traceback.format_exc().splitlines())
    cluster.stop()
    checks.add("no server crashed", [line for server in cluster.servers.values() for line in server.disasters()])
    return checks.end(directory, shutil.rmtree)


if __name__ == "__main__":
    sys.exit(main())
