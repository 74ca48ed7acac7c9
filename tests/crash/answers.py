"""Random queries for a table, and the comparison of their answers by the index with those of a sequential scan."""

from collections import Counter
from dataclasses import dataclass

from vectors import text

# Settings that leave the planner one kind of scan.
SEQUENTIAL = {"enable_seqscan": "on", "enable_bitmapscan": "off", "enable_indexscan": "off"}
BITMAP = {"enable_seqscan": "off", "enable_bitmapscan": "on", "enable_indexscan": "off"}
PLAIN = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_indexscan": "on"}
PARALLEL = PLAIN | {
    "max_parallel_workers_per_gather": "2",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_index_scan_size": "0",
    "min_parallel_table_scan_size": "0",
}
DEFAULTS = {"max_parallel_workers_per_gather": "0"}

# The shares of all rows that a threshold keeps.
SHARES = (0.001, 0.01, 0.1, 0.5)


@dataclass
class Table:
    name: str
    dims: int
    # index name: (prefix_dims, or None for the default; predicate, or None)
    indexes: dict
    storage: str = "external"
    persistence: str = ""

    def create(self, connection):
        connection.execute(
            f"CREATE {self.persistence} TABLE {self.name} (id bigint PRIMARY KEY, kind integer NOT NULL,"
            f" version integer NOT NULL, embedding mrl_vector({self.dims})) WITH (fillfactor = 80)"
        )
        connection.execute(f"ALTER TABLE {self.name} ALTER embedding SET STORAGE {self.storage}")

    def create_index(self, connection, index, name=None, how=""):
        prefix, predicate = self.indexes[index]
        options = "" if prefix is None else f"WITH (prefix_dims = {prefix})"
        where = f"WHERE {predicate}" if predicate else ""
        connection.execute(f"CREATE INDEX {how} {name or index} ON {self.name} USING mrl (embedding) {options} {where}")


@dataclass
class Question:
    """A condition with $1 and $2 for two query vectors, and the way in which the vectors are passed."""

    condition: str
    vectors: list
    manner: str
    settings: dict
    shapes: tuple = (BITMAP, PLAIN, PARALLEL)

    def ids(self, connection, table, predicate, shape):
        """Runs the query. Returns its ids, sorted and with duplicates, and its plan."""
        for name, value in (DEFAULTS | self.settings | shape).items():
            connection.execute(f"SET LOCAL {name} = {value}")
        where = f"({self.condition})" + (f" AND {predicate}" if predicate else "")
        if self.manner == "join":
            sql = f"SELECT id FROM unnest('{{{','.join(quoted(v) for v in self.vectors)}}}'::mrl_vector[]) AS q (q), {table} WHERE " + where.replace("$1", "q").replace("$2", "q")
            return answer(connection, sql)
        if self.manner == "parameter":
            connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            connection.execute(f"PREPARE question (mrl_vector, mrl_vector) AS SELECT id FROM {table} WHERE {where}")
            try:
                return answer(connection, f"EXECUTE question ('{self.vectors[0]}', '{self.vectors[1]}')")
            finally:
                if connection.info.transaction_status == connection.info.transaction_status.INTRANS:
                    connection.execute("DEALLOCATE question")
        for number, vector in enumerate(self.vectors, 1):
            literal = f"'{vector}'::mrl_vector"
            where = where.replace(f"${number}", f"(SELECT {literal})" if self.manner == "subselect" else literal)
        return answer(connection, f"SELECT id FROM {table} WHERE {where}")

    def describe(self):
        return f"{self.condition} as {self.manner} {self.settings or ''} for {[v[:60] for v in self.vectors]}"


def quoted(vector):
    return f'"{vector}"'


def answer(connection, sql):
    plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN (COSTS OFF) {sql}"))
    return sorted(number for (number,) in connection.execute(sql)), plan


def questions(rng, connection, table, vectors, count):
    """Random questions. Their thresholds equal scores of rows, so that rows lie exactly at the threshold."""
    asked = []
    for _ in range(count):
        pair = [query_vector(rng, connection, table, vectors) for _ in range(2)]
        atoms = []
        for number, vector in enumerate(pair, 1):
            dims = rng.choice(sorted({1, 2, table.dims // 3, table.dims // 2, min(table.dims, 64), min(table.dims, 128), table.dims - 1, table.dims}))
            atoms.append((number, dims, threshold(rng, connection, table, vector, dims)))
        asked.append(question(rng, table, pair, atoms))
    return asked


def question(rng, table, pair, atoms):
    def match(atom):
        number, dims, least = atom
        return rng.choice((f"coarse_match(embedding, ${number}, {least!r}, {dims})", f"embedding @~ mrl_probe(${number}, {least!r}, {dims})"))

    def mismatch(atom):
        number, dims, least = atom
        return rng.choice((f"NOT {match(atom)}", f"embedding !@~ mrl_probe(${number}, {least!r}, {dims})"))

    first, second = atoms
    manner = rng.choice(("literal", "subselect", "parameter", "join"))
    settings = {}
    shapes = (BITMAP, PLAIN, PARALLEL)
    match rng.randrange(8):
        case 0 | 1:
            condition = match(first)
        case 2:
            condition = mismatch(first)
        case 3:
            condition = f"{match(first)} AND {mismatch(second)}"
        case 4:
            condition = f"{match(first)} AND {match(second)}"
        case 5:
            # Only a bitmap scan combines two index scans by OR.
            condition, shapes = f"{match(first)} OR {match(second)}", (BITMAP,)
        case 6:
            condition, shapes = f"{match(first)} AND {mismatch(second)} OR {mismatch(first)} AND {match(second)}", (BITMAP,)
        case _:
            settings = {"photosearch.coarse_threshold": first[2], "photosearch.coarse_dims": first[1]}
            condition = rng.choice(("coarse_match(embedding, $1)", "embedding @~ $1", "embedding !@~ $1", "NOT coarse_match(embedding, $1)"))
    return Question(condition, pair, manner, settings, shapes)


def query_vector(rng, connection, table, vectors):
    """The vector of a row, or one that is in no row."""
    if rng.random() < 0.6:
        row = connection.execute(
            f"SELECT embedding::text FROM {table.name} WHERE embedding IS NOT NULL ORDER BY id OFFSET %s * (SELECT count(embedding) FROM {table.name}) LIMIT 1",
            [rng.random()],
        ).fetchone()
        if row:
            return row[0]
    return text(vectors.one(rng)) or text((0.5,) * table.dims)


def threshold(rng, connection, table, vector, dims):
    """The score of a row, a number next to one, or a threshold that every row or no row reaches."""
    if rng.random() < 0.1:
        return rng.choice((-1.0, 0.0, 1.0))
    share = rng.choice(SHARES)
    (score,) = connection.execute(
        f"SELECT percentile_disc(%s) WITHIN GROUP (ORDER BY fine_score(subvector(embedding, 1, %s), subvector(%s::mrl_vector, 1, %s))::real) FROM {table.name}",
        [1 - share, dims, vector, dims],
    ).fetchone()
    if score is None:
        return 0.5
    return max(-1.0, min(1.0, score + rng.choice((0, 0, 0, 2**-24, -(2**-24)))))


def compare(connection, table, indexes, asked):
    """Runs each question within one snapshot by each shape of plan. Yields (question, shape, error).

    indexes maps the indexes that a plan may use to their predicates. If it has one entry, the question is restricted to
    the rows that satisfy the predicate.
    """
    predicate = next(iter(indexes.values())) if len(indexes) == 1 else None
    for question in asked:
        expected, plan = question.ids(connection, table.name, predicate, SEQUENTIAL)
        if "Seq Scan on" not in plan or any(index in plan for index in indexes):
            yield question, SEQUENTIAL, f"no sequential scan:\n{plan}"
        for shape in question.shapes:
            found, plan = question.ids(connection, table.name, predicate, shape)
            if not any(f"on {index}\n" in plan + "\n" or f"using {index} on" in plan for index in indexes):
                yield question, shape, f"the index was not used:\n{plan}"
            elif found != expected:
                yield question, shape, difference(expected, found)


def difference(expected, found):
    missing = sorted((Counter(expected) - Counter(found)).elements())
    extra = sorted((Counter(found) - Counter(expected)).elements())
    return f"{len(expected)} rows expected, {len(found)} found; {len(missing)} missing: {missing[:10]}; {len(extra)} too many: {extra[:10]}"


def complaints_of_indexes(connection, tables):
    """What check_index reports for every index of the tables."""
    found = []
    for table in tables:
        for index in table.indexes:
            rows = connection.execute("SELECT * FROM photosearch.check_index(%s::regclass)", [index]).fetchall()
            if rows:
                found.append(f"check_index('{index}') has {len(rows)} rows: {rows[:5]}")
    return found


def complaints_of_answers(connection, tables, sources, rng, count):
    """Compares the answers of each index alone with a sequential scan. The other indexes of the table are dropped in a
    transaction that is rolled back. Returns the errors and the number of questions."""
    found, asked_in_all = [], 0
    for table in tables:
        for index, (_, predicate) in table.indexes.items():
            with connection.transaction(force_rollback=True):
                for other in table.indexes:
                    if other != index:
                        connection.execute(f"DROP INDEX {other}")
                asked = questions(rng, connection, table, sources[table.name], count)
                asked_in_all += len(asked)
                for question, shape, complaint in compare(connection, table, {index: predicate}, asked):
                    found.append(f"{index}: {question.describe()} by {shape}: {complaint}")
    return found, asked_in_all
