"""Measures what it costs to have the index: its build, its inserts, its size."""

from report import Line
from server import Statement
from vectors import DIMENSIONS, PREFIX

# The bytes of a row in the index (src/sweep/layout.rs): codes of 8 bits per dimension, and of 4 bits for the second level,
# which is read where the first does not decide; then scale, bounds and TID.
CODES = PREFIX + PREFIX // 2
OVERHEAD = 14


def create_index(table, dims=PREFIX):
    return f"CREATE INDEX {table}_index ON {table} USING mrl (e) WITH (prefix_dims = {dims})"


def build(tables, runs):
    """Compares the build of an index over 128 dimensions with reading the vectors. The last indexes stay, for the queries
    of speed.py."""
    database = tables.database
    milliseconds = {}
    for table, vectors in [("prefixes", tables.prefixes), ("full_vectors", tables.full)]:
        results = database.in_turn(
            {
                # count(e) would not read the vectors from TOAST.
                "read": Statement(f"SELECT count(e + e) FROM {table}"),
                "build": Statement(
                    create_index(table),
                    before=f"DROP INDEX IF EXISTS {table}_index;",
                ),
            },
            runs,
        )
        read, built = results["read"].ms, results["build"].ms
        milliseconds[table] = built
        yield Line(
            f"build, {vectors.count:,} × {vectors.dims}",
            f"{built / 1000:.2f} s, {built / read:.2f} × reading the vectors with count(e + e) ({read / 1000:.2f} s)",
            "≤ 1.5 × reading",
            built <= 1.5 * read,
        )
    graph = tables.seconds("hnsw")
    yield Line(
        "  pgvector's HNSW build, made once and kept",
        f"{graph:.1f} s for {tables.full.count:,} × {DIMENSIONS}, {graph * 1000 / milliseconds['full_vectors']:.0f} × ours",
        "≥ 10 × ours",
        graph * 1000 >= 10 * milliseconds["full_vectors"],
    )


def whole(tables, runs):
    """Replaces the index of full_vectors by one over all dimensions."""
    rows, database = tables.full.count, tables.database
    statement = Statement(
        create_index("full_vectors", DIMENSIONS),
        before="DROP INDEX IF EXISTS full_vectors_index;",
    )
    built = database.in_turn({"build": statement}, runs)["build"].ms / 1000
    each = float(database.value("SELECT pg_relation_size('full_vectors_index')")) / rows
    graph = tables.seconds("hnsw")
    yield Line(
        f"index over all {DIMENSIONS} dimensions, {rows:,} rows",
        f"built in {built:.2f} s ({graph / built:.0f} × faster than HNSW); {each:,.0f} bytes a row",
        "≤ 1/20 of HNSW's time",
        built <= graph / 20,
    )


def size(tables):
    rows = tables.prefixes.count
    each = float(tables.database.value("SELECT pg_relation_size('prefixes_index')")) / rows
    yield Line(
        f"size, {rows:,} × {PREFIX}",
        f"{each:.1f} bytes a row, {each / (CODES + OVERHEAD):.3f} × (codes of {CODES} bytes + {OVERHEAD})",
        "≤ 1.1 × (codes + 14 bytes)",
        each <= 1.1 * (CODES + OVERHEAD),
    )


def insert(tables, runs):
    """Inserts vectors of 2048 dimensions into a table with the index and into one without: in one statement, and one
    transaction per row."""
    rows = min(10_000, tables.full.count // 10)
    single = rows // 5
    database = tables.database
    columns = f"id int, e mrl_vector({DIMENSIONS})"
    database.psql(f"""
        SET client_min_messages = warning;
        DROP TABLE IF EXISTS insert_source, insert_plain, insert_indexed;
        CREATE TABLE insert_source (id int PRIMARY KEY, e mrl_vector({DIMENSIONS}));
        INSERT INTO insert_source SELECT id, e FROM full_vectors WHERE id <= {rows};
        CREATE TABLE insert_plain ({columns});
        CREATE TABLE insert_indexed ({columns});
        CREATE INDEX ON insert_indexed USING mrl (e) WITH (prefix_dims = {PREFIX});
        VACUUM ANALYZE insert_source;
    """)
    statements = {}
    for table in ("insert_plain", "insert_indexed"):
        before = f"TRUNCATE {table}; CHECKPOINT;"
        statements[f"{table} batch"] = Statement(f"INSERT INTO {table} SELECT id, e FROM insert_source", before=before)
        statements[f"{table} single"] = Statement(
            f"""DO $$ BEGIN FOR i IN 1..{single} LOOP
                INSERT INTO {table} SELECT id, e FROM insert_source WHERE id = i; COMMIT;
            END LOOP; END $$""",
            settings="SET synchronous_commit = off;",
            before=before,
        )
    results = database.in_turn(statements, runs)
    database.psql("DROP TABLE insert_source, insert_plain, insert_indexed")
    for kind, count, title in [
        ("batch", rows, "INSERT … SELECT"),
        ("single", single, "one transaction per row, synchronous_commit off"),
    ]:
        plain, indexed = results[f"insert_plain {kind}"].ms, results[f"insert_indexed {kind}"].ms
        yield Line(
            f"insert, {count:,} × {DIMENSIONS}, {title}",
            f"{indexed / plain:.2f} × without the index ({indexed / count * 1000:.1f} and {plain / count * 1000:.1f} µs a row)",
            "≤ 1.3 × without",
            indexed <= 1.3 * plain,
        )
