-- The type mrl_probe (a query with its threshold and dims), which EXPLAIN shows: text form, errors,
-- storage.
SELECT mrl_probe('[1,2.5,3]', 0.25, 2), mrl_probe('[1,2.5,3]', 0.1, 3), mrl_probe('[-0]', -1, 1), mrl_probe('[1]', 1, 1);
SELECT bool_and(p::text::mrl_probe::text = p::text) AS round_trip, bool_and((v @~ p) = (v @~ p::text::mrl_probe)) AS same_meaning
FROM generate_series(1, 50) AS i, some_vector(i, 70) AS v, mrl_probe(some_vector(i + 1, 70), (sin(i) / 3)::real, i) AS p;
SELECT ' ( 2 , 0.5 , 3 , [ 1 , 2 ] ) '::mrl_probe;
SELECT '[1,2,9]'::mrl_vector @~ '(2,1,3,[1,2])'::mrl_probe AS matches, '[1,2,9]'::mrl_vector !@~ '(2,1,3,[1,2])'::mrl_probe AS mismatches;
SELECT input, raised(format('SELECT %L::mrl_probe', input)) FROM unnest(ARRAY[
    '', '()', '(2,0.5,3)', '(2,0.5,3,[1,2]', '2,0.5,3,[1,2]', '(2,0.5,3,[1,2])x', '(3,0.5,3,[1,2])', '(-1,0.5,3,[1,2])', '(2,x,3,[1,2])',
    '(2,NaN,3,[1,2])', '(2,0.5,1,[1,2])', '(1,0.5,0,[1])', '(1,0.5,16001,[1])', '(1,0.5,-3,[1])', '(0,0.5,3,[])', '(1,0.5,3,[NaN])', '(1,0.5,3,[65520])',
    '(1,0.5,3,1)', '(99999999999999999999,0.5,3,[1])']) AS input;

-- A column of saved searches.
CREATE TABLE searches (name text, probe mrl_probe);
INSERT INTO searches VALUES ('both', mrl_probe('[1,1]', 0.7, 2)), ('first', mrl_probe('[1,0]', 0.9, 2)), ('none', NULL);
SELECT name, e, e @~ probe AS matches FROM searches, (VALUES ('[1,0]'::mrl_vector), ('[1,1]'), ('[0,1]')) AS v (e) ORDER BY name, e;
-- An mrl_probe cannot be compared or sorted.
SELECT raised('SELECT DISTINCT probe FROM searches');
DROP TABLE searches;
-- A probe that is stored out of line.
CREATE TABLE searches AS SELECT mrl_probe(some_vector(3, 4000), 0.9, 4000) AS probe;
SELECT some_vector(3, 4000) @~ probe AS itself, some_vector(4, 4000) @~ probe AS other FROM searches;
DROP TABLE searches;

-- By the settings: such a probe contains the threshold and the dims that coarse_match(embedding, query) uses at that moment.
SET photosearch.coarse_threshold = 0.25; SET photosearch.coarse_dims = 3;
SELECT mrl_probe('[1,2.5,3,4]'::mrl_vector), mrl_probe('[0,0,0,1]'::mrl_vector) AS zero, mrl_probe(NULL::mrl_vector) IS NULL AS "null";
SELECT dims, CASE WHEN set_config('photosearch.coarse_dims', dims, false) <> '' THEN mrl_probe('[1,2,3,4]'::mrl_vector) END AS probe FROM unnest('{3,3,1,4}'::text[]) AS dims;
RESET photosearch.coarse_threshold; RESET photosearch.coarse_dims;
-- SQL takes a call with one literal of no type for a cast to the type mrl_probe.
SELECT mrl_probe('(1,0.5,2,[1])'), raised($$SELECT mrl_probe('[1,2]')$$), raised($$SELECT mrl_probe('[1,2]', 0.5)$$);

-- The same rows as those of coarse_match(embedding, query), or the same error, under several settings. The vectors have 192
-- dimensions, because a setting without a value takes what the model of photosearch.model recommends, for its vectors only.
CREATE TABLE album (id int PRIMARY KEY, e mrl_vector(192));
INSERT INTO album SELECT i, CASE WHEN i % 50 <> 7 THEN some_vector(i, 192) * (i % 50 <> 9)::int END FROM generate_series(1, 300) AS i;
CREATE INDEX album_index ON album USING mrl (e) WITH (prefix_dims = 64);
ANALYZE album;
CREATE FUNCTION found(threshold text, dims text, condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    ids text;
BEGIN
    PERFORM set_config('photosearch.coarse_threshold', threshold, true), set_config('photosearch.coarse_dims', dims, true);
    EXECUTE 'SELECT string_agg(id::text, '','' ORDER BY id) FROM album WHERE ' || condition INTO ids;
    RETURN ids;
EXCEPTION WHEN OTHERS THEN
    RETURN concat_ws(' ', SQLSTATE, SQLERRM);
END
$$;
CREATE TABLE settings (threshold text, dims text);
INSERT INTO settings SELECT t, d FROM unnest('{-2,-1,0,0.05,0.2,1}'::text[]) AS t, unnest('{0,1,63,64,65,192,193}'::text[]) AS d;
CREATE FUNCTION compared(query text) RETURNS TABLE (settings bigint, several bigint, errors bigint, same boolean) LANGUAGE sql AS $$
    SELECT count(*), count(*) FILTER (WHERE matches ~ '^[0-9]+,' AND matches <> every), count(*) FILTER (WHERE matches ~ '^[0-9A-Z]{5} '),
        bool_and(matches IS NOT DISTINCT FROM subselect AND matches IS NOT DISTINCT FROM call AND mismatches IS NOT DISTINCT FROM negated AND mismatches IS NOT DISTINCT FROM negator)
    FROM (SELECT string_agg(id::text, ',' ORDER BY id) AS every FROM album WHERE e IS NOT NULL) AS e, settings,
        LATERAL (SELECT found(threshold, dims, format('coarse_match(e, %s)', query)) AS matches,
            found(threshold, dims, format('e @~ (SELECT mrl_probe(%s))', query)) AS subselect,
            found(threshold, dims, format('e @~ mrl_probe(%s)', query)) AS call,
            found(threshold, dims, format('NOT coarse_match(e, %s)', query)) AS mismatches,
            found(threshold, dims, format('e !@~ (SELECT mrl_probe(%s))', query)) AS negated,
            found(threshold, dims, format('NOT e @~ mrl_probe(%s)', query)) AS negator) AS x
$$;
SELECT * FROM compared('some_vector(1000, 192)');
SET enable_seqscan = off;
SELECT * FROM compared('some_vector(1000, 192)');
SET enable_indexscan = off;
SELECT * FROM compared('some_vector(1000, 192)');
SELECT * FROM compared('''[1,2]''::mrl_vector');
SELECT * FROM compared('NULL::mrl_vector');
RESET enable_indexscan;
DROP FUNCTION compared, found;
DROP TABLE settings;

-- An index answers e @~ (SELECT mrl_probe(query)): the subselect is computed once. Estimates use its value, and a kept plan follows
-- later settings.
SET photosearch.coarse_threshold = 0.05; SET photosearch.coarse_dims = 64;
SELECT * FROM stable_plan_of('SELECT id FROM album WHERE e @~ (SELECT mrl_probe(some_vector(1000, 192)))');
SELECT * FROM stable_plan_of('SELECT a.id FROM album AS a JOIN album AS b ON b.id = 1 AND a.e @~ mrl_probe(b.e)');
RESET enable_seqscan;
CREATE FUNCTION expected(statement text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || statement INTO plan;
    RETURN plan -> 0 -> 'Plan' -> 'Plan Rows';
END
$$;
SELECT threshold, set_config('photosearch.coarse_threshold', threshold, false) IS NULL AS failed,
    expected('SELECT FROM album WHERE e @~ (SELECT mrl_probe(some_vector(1000, 192)))') = expected('SELECT FROM album WHERE coarse_match(e, some_vector(1000, 192))') AS same,
    expected('SELECT FROM album WHERE e @~ mrl_probe(some_vector(1000, 192))') = expected('SELECT FROM album WHERE coarse_match(e, some_vector(1000, 192))') AS same_call
FROM unnest('{-1,0.05,0.9}'::text[]) AS threshold;
DROP FUNCTION expected;
SET plan_cache_mode = force_generic_plan;
PREPARE by_settings (mrl_vector) AS SELECT count(*) FROM album WHERE e @~ (SELECT mrl_probe($1));
SET photosearch.coarse_threshold = -1;
EXECUTE by_settings (some_vector(1000, 192));
SET photosearch.coarse_threshold = 1;
EXECUTE by_settings (some_vector(1000, 192));
EXECUTE by_settings (some_vector(1, 192));
RESET plan_cache_mode;
DEALLOCATE by_settings;

-- Behind a security barrier, where the condition is moved by its leakproof counterpart.
SET enable_seqscan = off;
SET photosearch.coarse_threshold = 0.05;
CREATE VIEW barred WITH (security_barrier) AS SELECT * FROM album WHERE id % 2 = 0;
SELECT * FROM stable_plan_of('SELECT id FROM barred WHERE e @~ (SELECT mrl_probe(some_vector(1000, 192)))');
SELECT * FROM stable_plan_of('SELECT x.id FROM album AS a, barred AS x WHERE a.id = 1 AND x.e @~ mrl_probe(a.e)');
SELECT (SELECT array_agg(id ORDER BY id) FROM barred WHERE e @~ (SELECT mrl_probe(some_vector(1000, 192)))) = array_agg(id ORDER BY id) AS same FROM album WHERE id % 2 = 0 AND coarse_match(e, some_vector(1000, 192));
SELECT (SELECT array_agg(x.id ORDER BY x.id) FROM album AS a, barred AS x WHERE a.id = 1 AND x.e @~ mrl_probe(a.e)) = array_agg(id ORDER BY id) AS same FROM album WHERE id % 2 = 0 AND coarse_match(e, some_vector(1, 192));
-- Settings that do not suit the vectors are an error there, too.
SET photosearch.coarse_dims = 193;
SELECT raised('SELECT x.id FROM album AS a, barred AS x WHERE a.id = 1 AND x.e @~ mrl_probe(a.e)'), raised('SELECT id FROM barred WHERE e @~ (SELECT mrl_probe(some_vector(1, 192)))');
-- The leakproof function raises no error. What it returns then may match any vector.
SELECT probe, e @~? probe AS may_match, e !@~? probe AS may_mismatch, raised('SELECT mrl_probe(some_vector(1, 192))') FROM album, mrl_leakproof_probe(e) AS probe WHERE id = 1;
RESET enable_seqscan; RESET photosearch.coarse_threshold; RESET photosearch.coarse_dims;
DROP TABLE album CASCADE;
