-- Planning: the function forms become operators in every position of a query, so that each of them can use an index.
CREATE TABLE album (id int PRIMARY KEY, e mrl_vector(4));
INSERT INTO album SELECT i, some_vector(i, 4) FROM generate_series(1, 100) AS i;
ANALYZE album;
SET photosearch.coarse_threshold = 0.5; SET photosearch.coarse_dims = 2;
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, '[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE NOT coarse_match(e, '[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE e @~ mrl_probe('[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE NOT e @~ mrl_probe('[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, '[1,2,3,4]');
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE NOT coarse_match(e, '[1,2,3,4]');
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(query => '[1,2,3,4]', embedding => e, threshold => 0.5, dims => 1 + 1);
-- Two inclusions and one exclusion in one statement.
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, '[1,0,0,0]', 0.5, 2) AND NOT coarse_match(e, '[0,1,0,0]', 0.5, 2) OR coarse_match(e, '[0,0,0,1]', 0.1, 4);

-- Constants that are NULL or invalid: a NULL never matches; an invalid constant is an error that names it.
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, NULL, 0.5, 2);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, '[1,2,3,4]', NULL, 2);
SELECT split_part(raised('EXPLAIN SELECT id FROM album WHERE ' || condition), ' /', 1) AS raised
FROM unnest(ARRAY[$$coarse_match(e, '[1,2,3,4]', 0.5, 5)$$, $$coarse_match(e, '[1,2,3,4]', 'NaN', 2)$$, $$coarse_match(e, '[1,2', 0.5, 2)$$]) AS condition;

-- Outside WHERE, in joins, in a view, in an SQL function.
EXPLAIN (VERBOSE, COSTS OFF) SELECT coarse_match(e, '[1,2,3,4]', 0.5, 2) FROM album;
EXPLAIN (COSTS OFF) SELECT count(*) FROM album AS a JOIN album AS b ON coarse_match(a.e, b.e, 0.5, 2);
EXPLAIN (COSTS OFF) SELECT count(*) FROM album AS a LEFT JOIN album AS b ON coarse_match(a.e, b.e) AND a.id < b.id;
CREATE VIEW matches AS SELECT id, fine_score(e, '[1,2,3,4]') AS score FROM album WHERE coarse_match(e, '[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) SELECT * FROM matches ORDER BY score DESC;
SELECT replace(pg_get_viewdef('matches'), 'album.', '') AS definition;
CREATE FUNCTION find(q mrl_vector) RETURNS SETOF int LANGUAGE sql STABLE AS $$ SELECT id FROM album WHERE coarse_match(e, q, 0.5, 2) $$;
EXPLAIN (COSTS OFF) SELECT * FROM find('[1,2,3,4]');

-- Prepared statements with custom plans and with generic plans.
PREPARE by_query (mrl_vector, real, int) AS SELECT count(*) FROM album WHERE coarse_match(e, $1, $2, $3);
PREPARE by_settings (mrl_vector) AS SELECT count(*) FROM album WHERE coarse_match(e, $1);
EXPLAIN (COSTS OFF) EXECUTE by_query('[1,2,3,4]', 0.5, 2);
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE by_query('[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) EXECUTE by_settings('[1,2,3,4]');
CREATE TABLE answers (plan text, query mrl_vector, dims int, matches bigint);
DO $$
DECLARE
    query mrl_vector;
    dims int;
    plan text;
    matches bigint;
BEGIN
    FOR plan, query, dims IN SELECT p, some_vector(i, 4), d
        FROM unnest('{force_generic_plan,force_custom_plan,auto}'::text[]) AS p, generate_series(7, 9) AS i, generate_series(1, 4) AS d
    LOOP
        PERFORM set_config('plan_cache_mode', plan, false);
        EXECUTE format('EXECUTE by_query(%L, 0.5, %s)', query, dims) INTO matches;
        INSERT INTO answers VALUES (plan, query, dims, matches);
    END LOOP;
END
$$;
RESET plan_cache_mode;
SELECT plan, count(*), bool_and(matches = (SELECT count(*) FROM album WHERE slow_similarity(e, query, dims) >= 0.5)) AS right, count(DISTINCT matches) > 3 AS answers_differ
FROM answers GROUP BY plan ORDER BY plan;
-- The settings are read when the statement runs, not when it is planned.
SET plan_cache_mode = force_generic_plan;
SET photosearch.coarse_dims = 2; SET photosearch.coarse_threshold = -1;
EXECUTE by_settings('[1,2,3,4]');
SET photosearch.coarse_threshold = 1;
EXECUTE by_settings('[1,2,3,4]');
SET photosearch.coarse_threshold = 0.5;
RESET plan_cache_mode;
DEALLOCATE ALL;

-- Drivers send dims as a literal, as a parameter without a type, or as one of an integer type. Each of them reaches an index, with
-- a generic plan too.
CREATE INDEX album_e ON album USING mrl (e) WITH (prefix_dims = 4);
SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan;
PREPARE untyped AS SELECT count(*) FROM album WHERE coarse_match(e, $1, $2, $3);
PREPARE as_smallint (mrl_vector, double precision, smallint) AS SELECT count(*) FROM album WHERE coarse_match(e, $1, $2, $3);
PREPARE as_integer (mrl_vector, real, integer) AS SELECT count(*) FROM album WHERE coarse_match(e, $1, $2, $3);
PREPARE as_bigint (mrl_vector, numeric, bigint) AS SELECT count(*) FROM album WHERE NOT coarse_match(e, $1, $2, $3);
PREPARE as_operator (mrl_vector, double precision, bigint) AS SELECT count(*) FROM album WHERE e @~ mrl_probe($1, $2, $3);
SELECT name, parameter_types FROM pg_prepared_statements ORDER BY name;
EXPLAIN (COSTS OFF) EXECUTE untyped('[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) EXECUTE as_smallint('[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) EXECUTE as_integer('[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) EXECUTE as_bigint('[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) EXECUTE as_operator('[1,2,3,4]', 0.5, 2);
EXECUTE untyped('[1,2,3,4]', 0.5, 2);
EXECUTE as_smallint('[1,2,3,4]', 0.5, 2);
EXECUTE as_integer('[1,2,3,4]', 0.5, 2);
EXECUTE as_bigint('[1,2,3,4]', 0.5, 2);
EXECUTE as_operator('[1,2,3,4]', 0.5, 2);
RESET plan_cache_mode;
SELECT dims, raised(format('SELECT id FROM album WHERE coarse_match(e, %L, 0.5, %s)', '[1,2,3,4]', dims))
FROM unnest(ARRAY['2', '''2''', '2::smallint', '2::integer', '2::bigint', '(SELECT 2)', '(SELECT 2::bigint)']) AS dims;
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, '[1,2,3,4]', 0.5, '2');
SELECT * FROM stable_plan_of($$SELECT id FROM album WHERE coarse_match(e, '[1,2,3,4]', 0.5, (SELECT 2::bigint))$$);
SELECT dims, split_part(raised(format('EXPLAIN SELECT id FROM album WHERE coarse_match(e, %L, 0.5, %s)', '[1,2,3,4]', dims)), ' /', 1) AS constant,
       split_part(raised(format('SELECT id FROM album WHERE coarse_match(e, %L, 0.5, (SELECT %s))', '[1,2,3,4]', dims)), ' /', 1) AS subquery
FROM unnest(ARRAY['0', '-1', '4294967298', '9223372036854775807', '2.0']) AS dims;
DEALLOCATE ALL;
-- A database in which the extension was made when dims was an integer: the functions of that time reach the index too. Beside the
-- others they would make a parameter without a type ambiguous, so there is one form only.
CREATE FUNCTION mrl_probe(query mrl_vector, threshold double precision, dims integer) RETURNS mrl_probe
    AS '$libdir/photosearch', 'mrl_probe_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION mrl_leakproof_probe(mrl_vector, double precision, integer) RETURNS mrl_probe
    AS '$libdir/photosearch', 'mrl_leakproof_probe_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
CREATE FUNCTION coarse_match(embedding mrl_vector, query mrl_vector, threshold double precision, dims integer) RETURNS boolean
    AS '$libdir/photosearch', 'mrl_coarse_match_explicit_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT mrl_coarse_match_support;
CREATE VIEW guarded WITH (security_barrier) AS SELECT * FROM album WHERE id > 0;
SET plan_cache_mode = force_generic_plan;
PREPARE as_integer (mrl_vector, real, integer) AS SELECT count(*) FROM album WHERE coarse_match(e, $1, $2, $3);
EXPLAIN (COSTS OFF) EXECUTE as_integer('[1,2,3,4]', 0.5, 2);
EXECUTE as_integer('[1,2,3,4]', 0.5, 2);
PREPARE behind_barrier (mrl_vector, real, integer) AS SELECT count(*) FROM guarded WHERE coarse_match(e, $1, $2, $3);
EXPLAIN (COSTS OFF) EXECUTE behind_barrier('[1,2,3,4]', 0.5, 2);
EXECUTE behind_barrier('[1,2,3,4]', 0.5, 2);
SELECT coarse_match('[1,2]', '[1,2]', 0.5, 2::integer);
SELECT raised('SELECT coarse_match(''[1,2]'', ''[1,2]'', 0.5, ''2'')');
RESET plan_cache_mode; RESET enable_seqscan;
DEALLOCATE ALL;
DROP VIEW guarded;
DROP FUNCTION coarse_match(mrl_vector, mrl_vector, double precision, integer), mrl_leakproof_probe(mrl_vector, double precision, integer), mrl_probe(mrl_vector, double precision, integer);
DROP INDEX album_e;

-- With statistics on the column, no estimate fails and none lies outside 1 to the number of rows.
CREATE FUNCTION estimate(condition text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) SELECT id FROM album WHERE ' || condition INTO plan;
    RETURN plan -> 0 -> 'Plan' -> 'Plan Rows';
END
$$;
SELECT condition, estimate(condition) BETWEEN 1 AND 100 AS possible FROM unnest(ARRAY[
    $$coarse_match(e, '[1,2,3,4]', 0.5, 2)$$, $$NOT coarse_match(e, '[1,2,3,4]', 0.5, 2)$$, $$e @~ mrl_probe('[1,2,3,4]', -1, 2)$$,
    $$e @~ (SELECT mrl_probe('[1,2,3,4]', -1, 2))$$, $$e !@~ (SELECT mrl_probe('[1,2,3,4]', -1, 2))$$]) AS condition;

-- A scan is parallel if the query is a constant, a parameter or an uncorrelated subquery.
SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, '[1,2,3,4]', 0.5, 2);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, '[1,2,3,4]');
EXPLAIN (COSTS OFF) SELECT id, fine_score(e, '[1,2,3,4]') FROM album ORDER BY e <=> '[1,2,3,4]' LIMIT 3;
CREATE TABLE photos (id int, e mrl_vector(192));
INSERT INTO photos SELECT i, some_vector(i, 192) FROM generate_series(1, 200) AS i;
ANALYZE photos;
RESET photosearch.coarse_threshold; RESET photosearch.coarse_dims;
SELECT * FROM stable_plan_of($$SELECT id FROM photos WHERE coarse_match(e, (SELECT embed_text('a baby')))$$);
SELECT * FROM stable_plan_of($$SELECT id FROM photos WHERE coarse_match(e, (SELECT embed_text('a baby')), 0.2, 64)$$);
PREPARE parameter (mrl_vector) AS SELECT id FROM photos WHERE coarse_match(e, $1, 0.2, 64);
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE parameter('[1]');
RESET plan_cache_mode;
DEALLOCATE parameter;
-- The immutable form is folded to a constant, so its scan is parallel too. The vector is cut out of the plan shown.
DO $$
DECLARE
    plan text;
    seen text := '';
BEGIN
    FOR plan IN EXPLAIN (COSTS OFF) SELECT id FROM photos WHERE coarse_match(e, embed_text('photosearch-mini-1', 'a baby'), 0.2, 64) LOOP
        seen := seen || regexp_replace(plan, '\(64,0.2,192,\[.*\]\)', '(64,0.2,192,[...])') || E'\n';
    END LOOP;
    RAISE NOTICE E'\n%', seen;
END
$$;
-- No parallel worker embeds: if the stable form stands in FROM, the leader evaluates it once, for all.
SELECT * FROM stable_plan_of($$SELECT id FROM photos, embed_text('a baby') AS q WHERE coarse_match(e, q)$$);
-- Parallel and serial scans return the same rows.
SELECT count(*) AS parallel FROM photos WHERE coarse_match(e, some_vector(5, 192), 0.05, 32) \gset
SET max_parallel_workers_per_gather = 0;
SELECT count(*) = :parallel AS same, count(*) BETWEEN 1 AND 199 AS some_but_not_all FROM photos WHERE coarse_match(e, some_vector(5, 192), 0.05, 32);
RESET max_parallel_workers_per_gather; RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;
DROP VIEW matches;
DROP FUNCTION find, estimate;
DROP TABLE album, photos, answers;
