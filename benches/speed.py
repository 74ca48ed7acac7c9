"""Measures what a query costs: the sweep, the rest of the query, and the same query by pgvector."""

import re
import statistics
import subprocess

from report import Line
from server import BASE, Statement
from tables import LARGE_DIMENSIONS
from vectors import DIMENSIONS, PREFIX, literal

MATCHES, MANY = 400, 5000

# A way to read a table, by its name in EXPLAIN, and the settings that leave the planner only that way.
FORCED = {
    "Seq Scan": "SET enable_indexscan = off; SET enable_bitmapscan = off;",
    "Bitmap Heap Scan": "SET enable_seqscan = off; SET enable_indexscan = off;",
    "Index Scan": "SET enable_seqscan = off; SET enable_bitmapscan = off;",
}
ONE_WORKER = "SET max_parallel_workers_per_gather = 1;"
# In the planner's estimate workers and pages cost nothing, and operators much. Workers share that cost, so it chooses them.
FORCED_PARALLEL = f"""
    {FORCED["Index Scan"]} {ONE_WORKER} SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
    SET min_parallel_index_scan_size = 0; SET seq_page_cost = 0; SET cpu_operator_cost = 10;
"""


def count(table, dims=PREFIX, name="matching"):
    return f"""
        PREPARE {name}(mrl_vector, double precision) AS
        SELECT count(*) FROM {table} WHERE coarse_match(e, $1, $2, {dims});
    """


def matching(query, threshold, settings="", name="matching"):
    return Statement(f"EXECUTE {name}('{literal(query)}', {threshold!r})", settings)


def bare_loop(program, rows, runs, dims=PREFIX):
    """Runs bare_loop.rs, dot products with codes in memory and nothing else. Returns the milliseconds and the kernel's name."""
    [result] = bare_loops(program, rows, runs, 1, dims)
    return result


def bare_loops(program, rows, runs, processes, dims=PREFIX):
    """The same for several concurrent processes, each with its own rows."""
    command = [program, str(rows), str(dims), str(runs)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    results = []
    for process in running:
        output, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{program} failed")
        milliseconds, name = re.match(r"([\d.]+) ms, (.+)", output).groups()
        results.append((float(milliseconds), name))
    return results


def two_at_once(program, rows):
    """The time of two concurrent bare loops, relative to one after the other: what a second core can save."""
    one, two = [], []
    for _ in range(3):
        one += [milliseconds for milliseconds, _ in bare_loops(program, rows, 20, 1)]
        two += [milliseconds for milliseconds, _ in bare_loops(program, rows, 20, 2)]
    return statistics.median(two) / 2 / statistics.median(one)


def sweep(tables, program, runs):
    """The sweep compared with the bare loop, in alternation, and psql's time compared with the sweep."""
    rows = tables.prefixes.count
    query = tables.prefixes.queries(1)[0]
    [[threshold]] = tables.thresholds("prefixes", PREFIX, PREFIX, [query], [0])
    loops, sweeps, times = [], [], []
    for _ in range(3):
        milliseconds, kernel = bare_loop(program, rows, runs)
        loops.append(milliseconds)
        result = tables.database.in_turn({"empty": matching(query, threshold)}, runs, count("prefixes"), sweeps=True)[
            "empty"
        ]
        sweeps.append(result.sweep_ms)
        times.append(result.ms)
    loop, swept, time = map(statistics.median, (loops, sweeps, times))
    checked = f"{result.rows[0]} rows found, {result.counter('entries')} entries in {result.counter('pages')} pages"
    yield Line(
        f"the sweep, {rows:,} × {PREFIX} (prefixes only on disk), one core",
        f"{swept:.2f} ms, {swept / loop:.2f} × a bare loop ({loop:.2f} ms, {kernel}); {checked}",
        "≤ 1.5 × the bare loop",
        swept <= 1.5 * loop,
    )
    yield Line(
        f"a query without matches over {rows:,} rows, timed by psql",
        f"{time:.2f} ms, {time / swept:.2f} × the sweep",
        "≤ 1.2 × the sweep",
        time <= 1.2 * swept,
    )


def main_query(tables, runs):
    """All matches in order: by the index, by pgvector with a column of prefixes, by pgvector's HNSW graph."""
    matches = min(MATCHES, tables.full.count // 25)
    queries = tables.full.queries(3)
    thresholds = tables.thresholds("full_vectors", DIMENSIONS, PREFIX, queries, [matches])
    # Without index scans, or the planner would take the order from the graph, whose answer is incomplete.
    exact, graph = "SET enable_indexscan = off;", "SET enable_seqscan = off;"
    prepare = f"""
        PREPARE main_query(mrl_vector, double precision) AS
        SELECT id FROM full_vectors WHERE coarse_match(e, $1, $2, {PREFIX}) ORDER BY fine_score(e, $1) DESC;
        PREPARE exact(halfvec, halfvec, double precision) AS
        SELECT id FROM halfvecs WHERE p <=> $2 <= $3 ORDER BY e <=> $1;
        PREPARE graph(halfvec) AS SELECT id FROM halfvecs ORDER BY e <=> $1 LIMIT {matches};
    """
    statements, truth = {}, {}
    for n, (query, [threshold]) in enumerate(zip(queries, thresholds)):
        whole, prefix = literal(query), literal(query[:PREFIX])
        statements[f"ours {n}"] = Statement(f"EXECUTE main_query('{whole}', {threshold!r})")
        statements[f"exact {n}"] = Statement(f"EXECUTE exact('{whole}', '{prefix}', {1 - threshold!r})", exact)
        statements[f"graph {n}"] = Statement(
            f"EXECUTE graph('{whole}')", f"{graph} SET hnsw.ef_search = {min(1000, matches)};"
        )
        truth[f"graph {n}"] = Statement(f"EXECUTE graph('{whole}')", exact)
    results = tables.database.in_turn(statements, runs, prepare)
    truth = tables.database.in_turn(truth, 0, prepare)

    def median(way):
        return statistics.median(time for name, result in results.items() if way in name for time in result.times)

    def rows(way):
        return " / ".join(str(len(result.rows)) for name, result in results.items() if way in name)

    recall = statistics.mean(len({*results[name].rows} & {*best.rows}) / matches for name, best in truth.items())
    ours, theirs, approximate = map(median, ("ours", "exact", "graph"))
    of = f"{matches} matches of {tables.full.count:,}"
    yield Line(
        f"the main query: {of}, complete and ordered",
        f"{ours:.2f} ms ({rows('ours')} rows)",
    )
    yield Line(
        "  pgvector, exact, with a separate halfvec(128) column",
        f"{theirs:.2f} ms ({rows('exact')} rows), {theirs / ours:.1f} × ours",
        "≥ 4 × ours",
        theirs >= 4 * ours,
    )
    yield Line(
        f"  pgvector, HNSW, ef_search = {min(1000, matches)}",
        f"{approximate:.2f} ms ({rows('graph')} rows, recall {recall:.3f}), {approximate / ours:.1f} × ours",
        "> ours",
        approximate > ours,
    )


def many(tables, runs):
    """Thousands of matches, where the cost of the fine scores dominates."""
    matches = min(MANY, tables.full.count // 10)
    query = tables.full.queries(1)[0]
    [[threshold]] = tables.thresholds("full_vectors", DIMENSIONS, PREFIX, [query], [matches])
    prepare = f"""
        PREPARE main_query(mrl_vector, double precision) AS
        SELECT id FROM full_vectors WHERE coarse_match(e, $1, $2, {PREFIX}) ORDER BY fine_score(e, $1) DESC;
        PREPARE refine(mrl_vector) AS SELECT count(fine_score(e, $1)) FROM full_vectors;
    """
    result = tables.database.in_turn(
        {"main_query": Statement(f"EXECUTE main_query('{literal(query)}', {threshold!r})")}, runs, prepare, sweeps=True
    )["main_query"]
    # The matches are few among the table's rows, so each fine score reads TOAST pages that no earlier row has just read.
    apart = tables.full.count // matches
    prepare += f"PREPARE refine_apart(mrl_vector) AS SELECT count(fine_score(e, $1)) FROM full_vectors WHERE id % {apart} = 0;"
    prices = tables.database.in_turn(
        {
            "refine": Statement(f"EXECUTE refine('{literal(query)}')"),
            "read": Statement("SELECT count(id) FROM full_vectors"),
            "refine apart": Statement(f"EXECUTE refine_apart('{literal(query)}')"),
            "read apart": Statement(f"SELECT count(id) FROM full_vectors WHERE id % {apart} = 0"),
        },
        2,
        prepare,
    )
    price = (prices["refine"].ms - prices["read"].ms) / tables.full.count
    price_apart = (prices["refine apart"].ms - prices["read apart"].ms) / int(prices["read apart"].rows[0])
    expected = result.sweep_ms + len(result.rows) * price
    yield Line(
        f"{matches:,} matches of {tables.full.count:,}, ordered",
        f"{result.ms:.1f} ms, {result.ms / expected:.2f} × (the sweep, {result.sweep_ms:.2f} ms, "
        f"+ {len(result.rows)} fine scores at {price * 1000:.2f} µs, on consecutive rows; {price_apart * 1000:.2f} µs "
        f"if every {apart}th row is scored)",
        "≤ 1.3 × their sum",
        result.ms <= 1.3 * expected,
    )


def whole(tables, program, runs):
    """Conditions on fine_score, and the best ten, by an index over all dimensions. They need no coarse threshold, which could
    be too high and lose matches."""
    rows = tables.full.count
    matches, many = min(MATCHES, rows // 25), min(MANY, rows // 10)
    query = tables.full.queries(1)[0]
    [[threshold, low]] = tables.thresholds("full_vectors", DIMENSIONS, DIMENSIONS, [query], [matches, many])
    text = literal(query)
    prepare = """
        PREPARE found(mrl_vector, double precision) AS
        SELECT id, fine_score(e, $1) AS score FROM full_vectors WHERE fine_score(e, $1) >= $2 ORDER BY score DESC;
        PREPARE counted(mrl_vector, double precision) AS
        SELECT count(*) FROM full_vectors WHERE fine_score(e, $1) >= $2;
        PREPARE best(mrl_vector) AS SELECT id FROM full_vectors WHERE e IS NOT NULL ORDER BY e <=> $1 LIMIT 10;
        PREPARE theirs(halfvec, double precision) AS
        SELECT id, 1 - (e <=> $1) AS score FROM halfvecs WHERE e <=> $1 <= $2 ORDER BY e <=> $1;
        PREPARE their_best(halfvec) AS SELECT id FROM halfvecs ORDER BY e <=> $1 LIMIT 10;
    """
    sequential = FORCED["Seq Scan"]
    ours = {
        "found": Statement(f"EXECUTE found('{text}', {threshold!r})"),
        "counted": Statement(f"EXECUTE counted('{text}', {threshold!r})"),
        "best": Statement(f"EXECUTE best('{text}')"),
        "many": Statement(f"EXECUTE found('{text}', {low!r})"),
    }
    loops, times = [], {name: [] for name in ours}
    sweeps = []
    for _ in range(3):
        loops.append(bare_loop(program, rows, runs, DIMENSIONS)[0])
        results = tables.database.in_turn(ours, runs, prepare, sweeps=True)
        for name, result in results.items():
            times[name].append(result.ms)
        sweeps.append(results["counted"].sweep_ms)
    loop, sweep = statistics.median(loops), statistics.median(sweeps)
    ms = {name: statistics.median(each) for name, each in times.items()}
    scans = {name: Statement(statement.sql, sequential) for name, statement in ours.items()}
    exact = tables.database.in_turn(scans, 1, prepare)
    for name in ours:
        same_rows({"index": results[name], "sequential": exact[name]})
    their = tables.database.in_turn(
        {
            "theirs": Statement(f"EXECUTE theirs('{text}', {1 - threshold!r})", sequential),
            "their_best": Statement(f"EXECUTE their_best('{text}')", sequential),
        },
        2,
        prepare,
    )
    theirs = their["theirs"].ms
    yield Line(
        f"fine_score >= t by an index over all {DIMENSIONS} dimensions: {matches} of {rows:,}, scores, ordered",
        f"{ms['found']:.1f} ms, {ms['found'] / loop:.2f} × a bare loop over the same codes ({loop:.1f} ms); "
        f"sequential {exact['found'].ms:.0f} ms; pgvector's exact scan {theirs:.0f} ms, {theirs / ms['found']:.0f} × ours; "
        f"undecided {results['found'].counter('undecided')}",
        "≤ 1.6 × the bare loop, ≤ 1/20 of pgvector",
        ms["found"] <= 1.6 * loop and ms["found"] <= theirs / 20,
    )
    yield Line(
        f"the best ten of {rows:,}, exact",
        f"{ms['best']:.1f} ms, {ms['best'] / ms['found']:.2f} × the line above; sequential {exact['best'].ms:.0f} ms; "
        f"pgvector's exact scan {their['their_best'].ms:.0f} ms",
        "≤ 1.2 × the line above",
        ms["best"] <= 1.2 * ms["found"],
    )
    yield Line(
        "count(*) at the same threshold",
        f"{ms['counted']:.1f} ms, {ms['counted'] / sweep:.2f} × the sweep ({sweep:.1f} ms)",
        "≤ 1.1 × the sweep",
        ms["counted"] <= 1.1 * sweep,
    )
    scored = len(results["many"].rows)
    yield Line(
        f"fine_score >= t: {scored} of {rows:,}, scores, ordered",
        f"{ms['many']:.1f} ms; sequential {exact['many'].ms:.0f} ms",
    )


def in_rows(tables, program, runs):
    """The same vectors in the rows of the table instead of its TOAST table. A score then needs no search in the TOAST index for
    the three chunks of a vector."""
    rows, database = tables.full.count, tables.database
    matches, many = min(MATCHES, rows // 25), min(MANY, rows // 10)
    query = tables.full.queries(1)[0]
    [[threshold, low]] = tables.thresholds("full_vectors", DIMENSIONS, DIMENSIONS, [query], [matches, many])
    [[coarse]] = tables.thresholds("full_vectors", DIMENSIONS, PREFIX, [query], [matches])
    [[coarse_low]] = tables.thresholds("full_vectors", DIMENSIONS, PREFIX, [query], [many])
    text = literal(query)
    prepare = f"""
        SET client_min_messages = warning;
        DROP INDEX IF EXISTS in_rows_whole, in_rows_prefix, full_vectors_prefix;
        CREATE INDEX in_rows_whole ON in_rows USING mrl (e) WITH (prefix_dims = {DIMENSIONS});
        CREATE INDEX in_rows_prefix ON in_rows USING mrl (e) WITH (prefix_dims = {PREFIX});
        CREATE INDEX full_vectors_prefix ON full_vectors USING mrl (e) WITH (prefix_dims = {PREFIX});
        RESET client_min_messages;
        PREPARE graph(halfvec) AS SELECT id FROM halfvecs ORDER BY e <=> $1 LIMIT {matches};
    """
    for table in ("full_vectors", "in_rows"):
        prepare += f"""
            PREPARE found_{table}(mrl_vector, double precision) AS
            SELECT id, fine_score(e, $1) AS score FROM {table} WHERE fine_score(e, $1) >= $2 ORDER BY score DESC;
            PREPARE two_steps_{table}(mrl_vector, double precision) AS
            SELECT id, fine_score(e, $1) AS score FROM {table} WHERE coarse_match(e, $1, $2, {PREFIX}) ORDER BY score DESC;
        """
    statements = {"graph": Statement(f"EXECUTE graph('{text}')", f"SET enable_seqscan = off; SET hnsw.ef_search = {matches};")}
    sequential = {}
    for table in ("full_vectors", "in_rows"):
        forms = {
            "found": f"EXECUTE found_{table}('{text}', {threshold!r})",
            "many": f"EXECUTE found_{table}('{text}', {low!r})",
            "two steps": f"EXECUTE two_steps_{table}('{text}', {coarse!r})",
            "many in two steps": f"EXECUTE two_steps_{table}('{text}', {coarse_low!r})",
        }
        statements |= {f"{form} {table}": Statement(sql) for form, sql in forms.items()}
        sequential |= {f"{form} {table}": Statement(sql, FORCED["Seq Scan"]) for form, sql in forms.items()}
    loop = bare_loop(program, rows, runs, DIMENSIONS)[0]
    results = database.in_turn(statements, runs, prepare)
    exact = database.in_turn(sequential, 1, prepare)
    for form in ("found", "many", "two steps", "many in two steps"):
        ways = {"index": results, "sequential": exact}
        same_rows(
            {f"{table} {way}": by[f"{form} {table}"] for table in ("full_vectors", "in_rows") for way, by in ways.items()}
        )
    ms = {name: result.ms for name, result in results.items()}
    pages = [int(database.value(f"SELECT pg_table_size('{table}')")) / rows for table in ("in_rows", "full_vectors")]
    yield Line(
        "vectors in the rows (toast_tuple_target = 8160)",
        f"{pages[0]:,.0f} bytes a row; in the TOAST table {pages[1]:,.0f}; a sequential scan "
        f"{exact['found in_rows'].ms:.0f} ms and {exact['found full_vectors'].ms:.0f} ms",
    )

    def beside(form):
        return f"{ms[f'{form} in_rows']:.2f} ms, {ms[f'{form} in_rows'] / ms[f'{form} full_vectors']:.2f} × from the TOAST table"

    yield Line(
        f"  fine_score >= t: {matches} of {rows:,}, scores, ordered",
        f"{beside('found')}, {ms['found in_rows'] / loop:.2f} × a bare loop ({loop:.1f} ms)",
        "≤ 1.6 × the bare loop",
        ms["found in_rows"] <= 1.6 * loop,
    )
    yield Line(f"  fine_score >= t: {many:,}, scores, ordered", beside("many"))
    yield Line(
        f"  the main query in two steps, {matches} matches",
        f"{beside('two steps')}, {ms['two steps in_rows'] / ms['graph']:.2f} × HNSW's partial answer ({ms['graph']:.2f} ms)",
        "≤ 0.5 × HNSW",
        ms["two steps in_rows"] <= 0.5 * ms["graph"],
    )
    yield Line(
        f"  {many:,} matches in two steps",
        beside("many in two steps"),
        "≤ 0.3 × from the TOAST table",
        ms["many in two steps in_rows"] <= 0.3 * ms["many in two steps full_vectors"],
    )


def pgvector_column(tables, runs):
    """The same vectors in a column of pgvector's type, with an index on the cast, and in a column of ours."""
    rows, matches = tables.full.count, min(MATCHES, tables.full.count // 25)
    query = tables.large.queries(1)[0]
    [[threshold]] = tables.thresholds("vectors_own", LARGE_DIMENSIONS, LARGE_DIMENSIONS, [query], [matches])
    text = literal(query)
    prepare = f"""
        SET client_min_messages = warning;
        DROP INDEX IF EXISTS vectors_index, vectors_in_rows_index, vectors_own_index;
        CREATE INDEX vectors_index ON vectors USING mrl ((e::mrl_vector({LARGE_DIMENSIONS}))) WITH (prefix_dims = {LARGE_DIMENSIONS});
        CREATE INDEX vectors_in_rows_index ON vectors_in_rows USING mrl ((e::mrl_vector({LARGE_DIMENSIONS}))) WITH (prefix_dims = {LARGE_DIMENSIONS});
        CREATE INDEX vectors_own_index ON vectors_own USING mrl (e) WITH (prefix_dims = {LARGE_DIMENSIONS});
        RESET client_min_messages;
        PREPARE exact(vector, double precision) AS
        SELECT id, 1 - (e <=> $1) AS score FROM vectors WHERE e <=> $1 <= $2 ORDER BY e <=> $1;
    """
    ways = {}
    for table in ("vectors", "vectors_in_rows", "vectors_own"):
        ways[table] = f"EXECUTE found_{table}('{text}', {threshold!r})"
        prepare += f"""
            PREPARE found_{table}(mrl_vector, double precision) AS
            SELECT id, fine_score(e, $1) AS score FROM {table} WHERE fine_score(e, $1) >= $2 ORDER BY score DESC;
        """
    results = tables.database.in_turn({table: Statement(sql) for table, sql in ways.items()}, runs, prepare)
    exact = {table: Statement(sql, FORCED["Seq Scan"]) for table, sql in ways.items()}
    exact["pgvector"] = Statement(f"EXECUTE exact('{text}', {1 - threshold!r})", FORCED["Seq Scan"])
    scans = tables.database.in_turn(exact, 1, prepare)
    for table in ways:
        same_rows({"index": results[table], "sequential": scans[table]})
    theirs, in_rows, own = (results[table].ms for table in ("vectors", "vectors_in_rows", "vectors_own"))
    yield Line(
        f"a column vector({LARGE_DIMENSIONS}) of pgvector, {rows:,}: {matches} matches, scores, ordered",
        f"{in_rows:.2f} ms in the rows (toast_tuple_target = 8160), {in_rows / own:.2f} × a column of ours ({own:.2f} ms); "
        f"{theirs:.2f} ms from the TOAST table; pgvector's exact scan {scans['pgvector'].ms:.0f} ms",
        "≤ 1.2 × a column of ours",
        in_rows <= 1.2 * own,
    )


def large(tables, program, runs):
    """One threshold over a large library with vectors of the size that CLIP makes."""
    rows, matches = tables.large.count, min(MATCHES, tables.large.count // 25)
    query = tables.large.queries(1)[0]
    [[threshold]] = tables.thresholds("large", LARGE_DIMENSIONS, LARGE_DIMENSIONS, [query], [matches])
    prepare = """
        PREPARE found(mrl_vector, double precision) AS
        SELECT id, fine_score(e, $1) AS score FROM large WHERE fine_score(e, $1) >= $2 ORDER BY score DESC;
    """
    sql = f"EXECUTE found('{literal(query)}', {threshold!r})"
    loops, times, sweeps = [], [], []
    for _ in range(3):
        loops.append(bare_loop(program, rows, runs, LARGE_DIMENSIONS)[0])
        result = tables.database.in_turn({"found": Statement(sql)}, runs, prepare, sweeps=True)["found"]
        times.append(result.ms)
        sweeps.append(result.sweep_ms)
    scan = tables.database.in_turn({"scan": Statement(sql, FORCED["Seq Scan"])}, 0, prepare)["scan"]
    same_rows({"index": result, "sequential": scan})
    loop, ms, swept = map(statistics.median, (loops, times, sweeps))
    yield Line(
        f"fine_score >= t, {matches} of {rows:,} × {LARGE_DIMENSIONS}, scores, ordered",
        f"{ms:.1f} ms, {ms / loop:.2f} × a bare loop over the same codes ({loop:.1f} ms); the sweep {swept:.1f} ms; "
        f"sequential {scan.ms:.0f} ms",
        "≤ 1.6 × the bare loop",
        ms <= 1.6 * loop,
    )
    yield from parallel(tables, program, tables.large, "large", runs, "≤ 0.6 × one process", LARGE_DIMENSIONS)


def undecided(tables):
    """The share of rows that the bounds of the codes leave undecided, with real vectors."""
    if tables.real_queries is None:
        yield Line("undecided rows, real MRL vectors", "not measured: WordLlama could not be installed", "≤ 0.1%")
        return
    rows = int(tables.database.value("SELECT count(*) FROM real_vectors"))
    shares = [0.0005, 0.01, 0.05]
    counts = [round(rows * share) for share in shares]
    dims = tables.real_queries.shape[1]
    thresholds = tables.thresholds("real_vectors", dims, PREFIX, tables.real_queries, counts)
    statements = {
        f"{share} {n}": matching(query, at[number], FORCED["Bitmap Heap Scan"])
        for n, (query, at) in enumerate(zip(tables.real_queries, thresholds))
        for number, share in enumerate(shares)
    }
    results = tables.database.in_turn(statements, 0, count("real_vectors"), sweeps=True)
    for share in shares:
        of = [result for name, result in results.items() if name.startswith(f"{share} ")]
        swept = sum(result.counter("entries") for result in of)
        left = [result.counter("undecided") / result.counter("entries") for result in of]
        refined = sum(result.counter("refined") for result in of)
        mean = sum(result.counter("undecided") for result in of) / swept
        yield Line(
            f"undecided, thresholds that keep {share:.2%} of {rows:,} real vectors",
            f"{mean:.4%} of the swept entries (worst of {len(of)} queries {max(left):.4%}); "
            f"second level of the codes read for {refined / swept:.3%}",
            "≤ 0.1%" if share == 0.01 else "",
            mean <= 0.001 if share == 0.01 else None,
        )


def other_dims(tables, runs):
    """Queries whose prefix is shorter or longer than the index's."""
    matches = min(MATCHES, tables.full.count // 25)
    query = tables.full.queries(1)[0]
    for dims in (PREFIX // 2, 2 * PREFIX):
        [[threshold]] = tables.thresholds("full_vectors", DIMENSIONS, dims, [query], [matches])
        prepare = count("full_vectors", dims)
        chosen = tables.database.in_turn({"chosen": matching(query, threshold)}, runs, prepare)["chosen"]
        forced = tables.database.in_turn(
            {"index": matching(query, threshold, FORCED["Bitmap Heap Scan"])}, runs, prepare, sweeps=True
        )["index"]
        scan = tables.database.in_turn({"scan": matching(query, threshold, FORCED["Seq Scan"])}, 1, prepare)["scan"]
        same_rows({"chosen": chosen, "index": forced, "scan": scan})
        yield Line(
            f"{forced.rows[0]} matches by {dims} dims, index of {PREFIX}",
            f"{chosen.ms:.2f} ms (by the index {forced.ms:.2f}, sequential {scan.ms:.1f}); "
            f"undecided {forced.counter('undecided')}, refined {forced.counter('refined')}",
        )


def parallel(tables, program, vectors, table, runs, aim="", dims=PREFIX):
    """The sweep by a leader and one worker, compared with one process. The leader sweeps until nothing is left, so its time is
    that of the whole sweep."""
    query = vectors.queries(1)[0]
    [[threshold]] = tables.thresholds(table, dims, dims, [query], [0])
    statement = matching(query, threshold)
    results = tables.database.in_turn(
        {
            "one": matching(query, threshold, FORCED["Index Scan"]),
            "two": matching(query, threshold, FORCED_PARALLEL),
        },
        runs,
        count(table, dims),
        sweeps=True,
    )
    one, two = results["one"], results["two"]
    share = two.counter("entries") / one.counter("entries")
    if share == 1:
        yield Line(f"parallel sweep, {vectors.count:,} × {dims}", "no worker took part", aim, False if aim else None)
        return
    plan = tables.database.psql(f"{BASE} {ONE_WORKER} {count(table, dims)} EXPLAIN {statement.sql};")
    ratio = two.sweep_ms / one.sweep_ms
    yield Line(
        f"parallel sweep, {vectors.count:,} × {dims}, leader and one worker",
        f"{ratio:.2f} × one process ({two.sweep_ms:.2f} and {one.sweep_ms:.2f} ms; timed by psql {two.ms:.1f} and "
        f"{one.ms:.1f}); the leader swept {share:.0%}; two concurrent bare loops take "
        f"{two_at_once(program, 1_000_000):.2f} × the time of one after the other; chosen by the planner: "
        f"{'yes' if 'Parallel Index Scan' in plan else 'no'}",
        aim,
        ratio <= 0.6 if aim else None,
    )


def without_index(tables, runs):
    """Sequential scans of photosearch and of pgvector."""
    query = tables.full.queries(1)[0]
    whole, prefix = literal(query), literal(query[:PREFIX])
    matches = min(MATCHES, tables.full.count // 25)
    [[threshold]] = tables.thresholds("full_vectors", DIMENSIONS, PREFIX, [query], [matches])
    prepare = f"""
        {count("full_vectors")}
        PREPARE subvectors(halfvec, double precision) AS
        SELECT count(*) FROM halfvecs WHERE subvector(e, 1, {PREFIX})::halfvec({PREFIX}) <=> $1 <= $2;
        PREPARE fine(mrl_vector) AS SELECT count(*) FROM full_vectors WHERE fine_score(e, $1) > 0.3;
        PREPARE distances(halfvec) AS SELECT count(*) FROM halfvecs WHERE e <=> $1 < 0.7;
    """
    results = tables.database.in_turn(
        {
            "coarse": matching(query, threshold, FORCED["Seq Scan"]),
            "subvectors": Statement(f"EXECUTE subvectors('{prefix}', {1 - threshold!r})"),
            "fine": Statement(f"EXECUTE fine('{whole}')"),
            "distances": Statement(f"EXECUTE distances('{whole}')"),
        },
        runs,
        prepare,
    )
    for title, ours, theirs in [
        ("no index: coarse_match, 128 of 2048 dims", "coarse", "subvectors"),
        ("no index: fine_score, all 2048 dims", "fine", "distances"),
    ]:
        ours, theirs = results[ours], results[theirs]
        yield Line(
            f"{title}, {tables.full.count:,} rows",
            f"{ours.ms:.1f} ms ({ours.rows[0]} rows); pgvector {theirs.ms:.1f} ms ({theirs.rows[0]} rows), "
            f"{theirs.ms / ours.ms:.2f} × ours",
        )


def same_rows(results):
    counts = {name: result.rows for name, result in results.items()}
    if len({tuple(rows) for rows in counts.values()}) > 1:
        raise SystemExit(f"wrong answers: the ways to read a table give different rows: {counts}")


def plans(tables, table, stored, queries, runs):
    """For each selectivity, the time of each way to read the table, and the planner's choice. Prints a table of its own and
    returns the line for the main one."""
    rows = int(tables.database.value(f"SELECT count(*) FROM {table}"))
    shares = [0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5]
    [thresholds] = tables.thresholds(table, stored, PREFIX, queries, [round(rows * share) for share in shares])
    print(f"\ncount(*) of the matches in {table}, in milliseconds; brackets mark the planner's choice")
    print(f"{'matches':>9} {'estimated':>9} " + " ".join(f"{name:>18}" for name in FORCED))
    good, loss = 0, 0.0
    for share, threshold in zip(shares, thresholds):
        statements = {name: matching(queries[0], threshold, settings) for name, settings in FORCED.items()}
        results = tables.database.in_turn(statements, runs, count(table))
        same_rows(results)
        execute = matching(queries[0], threshold).sql
        explain = tables.database.psql(f"SET max_parallel_workers_per_gather = 0; {count(table)} EXPLAIN {execute};")
        [(chosen, estimated)] = re.findall(rf"({'|'.join(FORCED)})\b.* on {table}.*rows=(\d+)", explain)
        ratio = results[chosen].ms / min(result.ms for result in results.values())
        loss = max(loss, ratio)
        good += ratio <= 1.1
        cells = [f"[{r.ms:.2f}]" if name == chosen else f"{r.ms:.2f} " for name, r in results.items()]
        print(f"{results[chosen].rows[0]:>9} {estimated:>9} " + " ".join(f"{cell:>18}" for cell in cells), flush=True)
    return Line(
        f"plans chosen in {table}, selectivities 0.01% to 50%",
        f"{good} of {len(shares)} within 10% of the fastest; the slowest choice takes {loss:.2f} × the fastest",
        "all",
        good == len(shares),
    )
