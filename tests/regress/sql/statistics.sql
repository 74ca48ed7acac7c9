-- The statistics that ANALYZE keeps for a column of vectors, and the planner's estimates from them. The reference for an
-- estimate is the number of rows that the statement returns.
CREATE TABLE album (id int, e mrl_vector(32));
-- Ten scenes of 400 photos each; every twentieth photo has no embedding.
INSERT INTO album SELECT i, CASE WHEN i % 20 <> 0 THEN some_vector(i % 10, 32) * 2 + some_vector(i, 32) END FROM generate_series(1, 4000) AS i;
ANALYZE album;
-- The one value of the slot (kind 18256) is the sample: a header of 12 bytes, and for each of 3,000 rows, the most that a sample holds,
-- the number of dimensions in 2 bytes and a byte for each of the 32 values (src/vector/sample.rs). The distinct vectors are counted as
-- minus the share of rows that are not NULL, since no two photos have the same vector.
SELECT round(stanullfrac::numeric, 2) AS nulls, stawidth, round(stadistinct::numeric, 2) AS "distinct", stakind1, stakind2, staop1, array_length(stavalues1::text::text[], 1) AS values, length((stavalues1::text::text[])[1]::bytea) = 12 + 3000 * (2 + 32) AS size
FROM pg_statistic WHERE starelid = 'album'::regclass AND staattnum = 2;
SELECT most_common_vals, histogram_bounds, n_distinct < 0 AS "distinct" FROM pg_stats WHERE tablename = 'album' AND attname = 'e';

-- estimated_rows: the rows that EXPLAIN estimates for a query. is_near: whether that estimate is within a factor of 3 of the rows that
-- the query returns.
CREATE FUNCTION estimated_rows(query text) RETURNS float LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' -> 'Plan Rows';
END
$$;
CREATE FUNCTION is_near(query text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    estimate float := estimated_rows(query);
    counted float;
BEGIN
    EXECUTE format('SELECT count(*) FROM (%s) AS x', query) INTO counted;
    -- The planner estimates at least one row, except for conditions that are never true.
    counted := greatest(counted, 1);
    estimate := greatest(estimate, 1);
    IF counted <= 3 * estimate AND estimate <= 3 * counted THEN
        RETURN true;
    END IF;
    RAISE NOTICE 'estimated %, counted %: %', estimate, counted, query;
    RETURN false;
END
$$;
-- The thresholds below differ in how many of the 3,800 vectors reach them: about one scene (0.6), several scenes (0.1), almost none
-- (0.999). The estimate without statistics, 1% of the rows, would be wrong for most.
SELECT count(*) FILTER (WHERE coarse_match(e, q, 0.6, 16)) BETWEEN 200 AND 800 AS some, count(*) FILTER (WHERE coarse_match(e, q, 0.1, 16)) > 1200 AS many, count(*) FILTER (WHERE coarse_match(e, q, 0.999, 16)) < 5 AS none
FROM album, some_vector(3, 32) AS q;

-- Constants, folded calls, settings, negations, and combinations.
SET photosearch.coarse_threshold = 0.6; SET photosearch.coarse_dims = 16;
SELECT condition, is_near('SELECT FROM album WHERE ' || condition) FROM unnest(ARRAY[
    'coarse_match(e, some_vector(3, 32), 0.6, 16)', 'coarse_match(e, some_vector(3, 32), 0.1, 16)', 'coarse_match(e, some_vector(3, 32), 0.999, 16)',
    'coarse_match(e, some_vector(3, 32), 0.6, 32)', 'coarse_match(e, some_vector(3, 32), 0.6, 3)', 'coarse_match(e, some_vector(3, 32), 1, 32)', 'coarse_match(e, some_vector(3, 32), -1, 32)',
    'NOT coarse_match(e, some_vector(3, 32), 0.6, 16)', 'e !@~ mrl_probe(some_vector(3, 32), 0.1, 16)',
    'coarse_match(e, some_vector(3, 32))', 'coarse_match(some_vector(3, 32), e)', 'NOT coarse_match(e, some_vector(3, 32))', 'some_vector(3, 32) !@~ e',
    'coarse_match(e, some_vector(3, 32)) AND NOT coarse_match(e, some_vector(4, 32))', 'coarse_match(e, some_vector(3, 32)) OR coarse_match(e, some_vector(4, 32))',
    'coarse_match(e, NULL)', 'coarse_match(e, NULL::mrl_vector, 0.6, 16)', 'NOT coarse_match(e, NULL::mrl_vector, 0.6, 16)',
    'coarse_match(e, some_vector(3, 32) * 0, 0, 16)', 'coarse_match(e, some_vector(3, 32) * 0, 0.1, 16)']) AS condition
UNION ALL SELECT 'a literal', is_near(format('SELECT FROM album WHERE coarse_match(e, %L, 0.6, 16)', some_vector(3, 32)));

-- Stable calls are evaluated while planning: in the filter, in FROM, in a subquery. Volatile calls and calls that cost too much are not,
-- so the estimate is that without statistics: 38 rows, 1% of those that have a vector.
CREATE FUNCTION stable_query(seed int) RETURNS mrl_vector LANGUAGE plpgsql STABLE COST 1 AS $$ BEGIN RETURN some_vector(seed, 32); END $$;
CREATE FUNCTION volatile_query(seed int) RETURNS mrl_vector LANGUAGE plpgsql VOLATILE COST 1 AS $$ BEGIN RETURN some_vector(seed, 32); END $$;
CREATE FUNCTION expensive_query(seed int) RETURNS mrl_vector LANGUAGE plpgsql STABLE COST 10000000 AS $$ BEGIN RAISE NOTICE 'called'; RETURN some_vector(seed, 32); END $$;
SELECT query, is_near(query) FROM unnest(ARRAY[
    'SELECT FROM album WHERE coarse_match(e, stable_query(3))', 'SELECT FROM album WHERE coarse_match(e, stable_query(3), 0.1, 16)',
    'SELECT FROM album, stable_query(3) AS q WHERE coarse_match(e, q)', 'SELECT FROM album, stable_query(3) AS q WHERE coarse_match(e, q, 0.1, 16)', 'SELECT FROM album, stable_query(3) AS q WHERE NOT coarse_match(e, q, 0.1, 16)',
    'SELECT FROM album, stable_query(3) AS q (vector) WHERE coarse_match(vector, e)', 'SELECT FROM album, stable_query(3) AS a, stable_query(4) AS b WHERE coarse_match(e, a) AND NOT coarse_match(e, b)',
    'SELECT FROM album, (SELECT stable_query(3) AS v) AS q WHERE coarse_match(e, q.v)', 'WITH q AS (SELECT stable_query(3) AS v) SELECT FROM album, q WHERE coarse_match(e, q.v)',
    'SELECT FROM album WHERE coarse_match(e, (SELECT stable_query(3)))', 'SELECT FROM album WHERE coarse_match(e, (SELECT stable_query(3)), 0.1, 16)',
    'SELECT FROM album LEFT JOIN stable_query(3) AS q ON true WHERE coarse_match(e, q)']) AS query;
SELECT query, estimated_rows(query) FROM unnest(ARRAY[
    'SELECT FROM album, volatile_query(3) AS q WHERE coarse_match(e, q)', 'SELECT FROM album WHERE coarse_match(e, (SELECT volatile_query(3)), 0.1, 16)', 'SELECT FROM album, expensive_query(3) AS q WHERE coarse_match(e, q)',
    'SELECT FROM album, LATERAL stable_query(id) AS q WHERE coarse_match(e, q)', 'SELECT FROM album WHERE coarse_match(e, (SELECT stable_query(3) LIMIT 1))',
    -- For the threshold -1 the estimate does not need the query.
    'SELECT FROM album, volatile_query(3) AS q WHERE coarse_match(e, q, -1, 16)']) AS query;

-- Prepared statements: a custom plan is estimated by the parameters' values.
PREPARE by_query (mrl_vector, float) AS SELECT FROM album WHERE coarse_match(e, $1, $2, 16);
SET plan_cache_mode = force_custom_plan;
SELECT threshold, estimated_rows(format('EXECUTE by_query(%L, %s)', some_vector(3, 32), threshold)) / count(*) FILTER (WHERE coarse_match(e, some_vector(3, 32), threshold, 16)) BETWEEN 1.0 / 3 AND 3 AS is_near
FROM album, unnest(ARRAY[0.1, 0.6]) AS threshold GROUP BY threshold ORDER BY threshold;
SET plan_cache_mode = force_generic_plan;
SELECT estimated_rows(format('EXECUTE by_query(%L, 0.1)', some_vector(3, 32)));
RESET plan_cache_mode;
DEALLOCATE by_query;

-- Joins: similar photos in the same table and in another one, and semi- and anti-joins.
CREATE TABLE others AS SELECT id, e FROM album WHERE id <= 300;
ALTER TABLE others ALTER e TYPE mrl_vector(32);
ANALYZE others;
SELECT query, is_near(query) FROM unnest(ARRAY[
    'SELECT FROM album, others WHERE coarse_match(album.e, others.e, 0.6, 16)', 'SELECT FROM album, others WHERE coarse_match(album.e, others.e)', 'SELECT FROM album, others WHERE NOT coarse_match(others.e, album.e)',
    'SELECT FROM others AS a, others AS b WHERE coarse_match(a.e, b.e, 0.6, 16)', 'SELECT FROM others AS a, others AS b WHERE coarse_match(a.e, b.e, 0.99, 32)',
    'SELECT FROM album WHERE EXISTS (SELECT FROM others WHERE coarse_match(album.e, others.e, 0.6, 16) AND others.id < 4)',
    'SELECT FROM album WHERE NOT EXISTS (SELECT FROM others WHERE coarse_match(album.e, others.e, 0.6, 16) AND others.id < 4)']) AS query;

-- A column without declared dimensions that holds vectors of several dimensions: planning raises no error, and the estimate for a
-- query is made from the vectors of its dimensions.
CREATE TABLE mixed (model text, e mrl_vector);
INSERT INTO mixed SELECT CASE WHEN i % 4 = 0 THEN 'short' ELSE 'long' END, CASE WHEN i % 4 = 0 THEN some_vector(i % 10, 8) + some_vector(i, 8) ELSE some_vector(i % 10, 300) * 2 + some_vector(i, 300) END FROM generate_series(1, 2000) AS i;
ANALYZE mixed;
SELECT estimated_rows($$SELECT FROM mixed WHERE model = 'short' AND coarse_match(e, some_vector(3, 8), 0.5, 8)$$) /
    (SELECT count(*) FROM (SELECT e FROM mixed WHERE model = 'short' OFFSET 0) AS x WHERE coarse_match(e, some_vector(3, 8), 0.5, 8)) BETWEEN 1.0 / 3 AND 3 AS short, estimated_rows($$SELECT FROM mixed WHERE model = 'long' AND coarse_match(e, some_vector(3, 300), 0.6, 300)$$) /
    (SELECT count(*) FROM (SELECT e FROM mixed WHERE model = 'long' OFFSET 0) AS x WHERE coarse_match(e, some_vector(3, 300), 0.6, 300)) BETWEEN 1.0 / 3 AND 3 AS long;
-- The sample has no vectors of 5 or of 32 dimensions, so the estimate is 1% of the 2,000 rows.
SELECT estimated_rows('SELECT FROM mixed WHERE ' || condition) FROM unnest(ARRAY['coarse_match(e, some_vector(3, 5), 0.5, 5)', 'coarse_match(e, stable_query(3), 0.5, 16)', 'e @~ (SELECT stable_query(3))']) AS condition;
SELECT estimated_rows('SELECT FROM album, some_vector(3, 5) AS q WHERE ' || condition) > 0 AS no_error FROM unnest(ARRAY['coarse_match(e, q)', 'coarse_match(e, q, 0.5, 3)']) AS condition;
-- An unknown model, or a model of other dimensions, causes no error while planning; the execution reports it.
RESET photosearch.coarse_threshold; RESET photosearch.coarse_dims;
SELECT estimated_rows('SELECT FROM album WHERE coarse_match(e, some_vector(3, 32))'), estimated_rows('SELECT FROM album AS a, others AS b WHERE coarse_match(a.e, b.e)');
SELECT split_part(raised('SELECT count(*) FROM album WHERE coarse_match(e, some_vector(3, 32))'), ' /', 1) AS raised;
SET photosearch.model = 'none';
SELECT estimated_rows('SELECT FROM album WHERE coarse_match(e, some_vector(3, 32))');
RESET photosearch.model;

-- No statistics, no rows, only NULLs, a statistics target of 0.
CREATE TABLE bare (e mrl_vector(32)) WITH (autovacuum_enabled = off);
ANALYZE bare;
SELECT count(*) FROM pg_statistic WHERE starelid = 'bare'::regclass;
INSERT INTO bare SELECT NULL FROM generate_series(1, 100);
SELECT estimated_rows('SELECT FROM bare WHERE coarse_match(e, some_vector(3, 32), 0.1, 16)') < 10 AS prior;
ANALYZE bare;
SELECT stanullfrac, stadistinct, stakind1 FROM pg_statistic WHERE starelid = 'bare'::regclass;
SELECT is_near('SELECT FROM bare WHERE coarse_match(e, some_vector(3, 32), 0.1, 16)'), is_near('SELECT FROM bare WHERE NOT coarse_match(e, some_vector(3, 32), 0.1, 16)');
TRUNCATE bare;
INSERT INTO bare SELECT e FROM album;
ALTER TABLE bare ALTER e SET STATISTICS 10;
ANALYZE bare;
-- ANALYZE fetches 300 rows for each unit of the target, and every tenth goes into the sample: 300 rows.
SELECT length((stavalues1::text::text[])[1]::bytea) = 12 + 300 * (2 + 32) AS size FROM pg_statistic WHERE starelid = 'bare'::regclass;
SELECT is_near('SELECT FROM bare WHERE coarse_match(e, some_vector(3, 32), 0.6, 16)');
ALTER TABLE bare ALTER e SET STATISTICS 0;
DELETE FROM pg_statistic WHERE starelid = 'bare'::regclass;
ANALYZE bare;
SELECT count(*) FROM pg_statistic WHERE starelid = 'bare'::regclass;
-- A slot of another kind than 18256, or without values, counts as missing statistics.
ALTER TABLE bare ALTER e SET STATISTICS -1;
ANALYZE bare;
SET allow_system_table_mods = on;
SELECT estimated_rows('SELECT FROM bare WHERE coarse_match(e, some_vector(3, 32), 0.6, 16)') AS known \gset
UPDATE pg_statistic SET stakind1 = 18257 WHERE starelid = 'bare'::regclass;
SELECT estimated_rows('SELECT FROM bare WHERE coarse_match(e, some_vector(3, 32), 0.6, 16)') <> :known AS prior;
UPDATE pg_statistic SET stakind1 = 18256, stavalues1 = NULL WHERE starelid = 'bare'::regclass;
SELECT estimated_rows('SELECT FROM bare WHERE coarse_match(e, some_vector(3, 32), 0.6, 16)') <> :known AS prior;
RESET allow_system_table_mods;

-- For longer vectors, the sample holds the first 256 values, and what ANALYZE has learnt about the rest. One in ten photos whose
-- first 256 values resemble the query also resembles it in the rest.
CREATE TABLE longer (id int, e mrl_vector(600));
INSERT INTO longer SELECT i, (subvector(near, 1, 256)::real[] || subvector(CASE WHEN i % 100 < 10 THEN near ELSE own END, 257, 344)::real[])::mrl_vector
FROM generate_series(1, 1000) AS i, LATERAL (SELECT some_vector(i, 600) AS own) AS x, LATERAL (SELECT some_vector(i % 10, 600) * 2 + own AS near) AS y;
INSERT INTO longer SELECT -i FROM generate_series(1, 50) AS i;
ANALYZE longer;
-- Besides the header, the sample has for each row its number of dimensions, 256 codes and two norms of 2 bytes. What ANALYZE has learnt
-- comes on top.
SELECT length((stavalues1::text::text[])[1]::bytea) > 12 + 1000 * (2 + 256 + 4) AS more FROM pg_statistic WHERE starelid = 'longer'::regclass AND staattnum = 2;
SELECT dims, threshold, is_near(format('SELECT FROM longer WHERE coarse_match(e, some_vector(3, 600), %s, %s)', threshold, dims)) FROM unnest('{256,257,400,512,600}'::int[]) AS dims, unnest('{-1,0.2,0.5,0.7,1}'::float8[]) AS threshold;
SELECT dims, is_near(format('SELECT FROM longer AS a JOIN longer AS b ON coarse_match(a.e, b.e, 0.6, %s)', dims)) FROM unnest('{400,600}'::int[]) AS dims;

-- Partitions and their parent; a domain; an indexed expression.
CREATE TABLE years (year int, e mrl_vector(32)) PARTITION BY LIST (year);
CREATE TABLE year_1 PARTITION OF years FOR VALUES IN (1);
CREATE TABLE year_2 PARTITION OF years FOR VALUES IN (2);
INSERT INTO years SELECT 1 + id % 2, e FROM album;
ANALYZE years;
SELECT starelid::regclass, stainherit, stakind1 FROM pg_statistic WHERE starelid IN ('years'::regclass, 'year_1'::regclass, 'year_2'::regclass) AND staattnum = 2 ORDER BY 1::text, 2;
SELECT is_near('SELECT FROM years WHERE coarse_match(e, some_vector(3, 32), 0.6, 16)'), is_near('SELECT FROM years WHERE year = 2 AND coarse_match(e, some_vector(3, 32), 0.6, 16)');
CREATE DOMAIN embedding AS mrl_vector(32);
CREATE TABLE domains (e embedding, more mrl_vector(64));
INSERT INTO domains SELECT e, (e::real[] || e::real[])::mrl_vector FROM album;
CREATE INDEX ON domains (subvector(more, 1, 32));
ANALYZE domains;
SELECT is_near('SELECT FROM domains WHERE coarse_match(e, some_vector(3, 32), 0.6, 16)'), is_near('SELECT FROM domains WHERE coarse_match(subvector(more, 1, 32), some_vector(3, 32), 0.6, 16)');

-- A role that may not see all rows gets the estimate without statistics for every query, because EXPLAIN would otherwise
-- reveal what hidden rows contain.
CREATE ROLE regress_photosearch_guest;
ALTER TABLE album ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON album USING (id % 2 = 0);
GRANT SELECT ON album TO regress_photosearch_guest;
SET ROLE regress_photosearch_guest;
SELECT count(DISTINCT estimated_rows(format('SELECT FROM album WHERE coarse_match(e, some_vector(%s, 32), %s, 16)', seed, threshold))) AS estimates,
       count(DISTINCT estimated_rows(format('SELECT FROM album AS a JOIN album AS b ON coarse_match(a.e, b.e, %s, 16)', threshold))) AS of_joins, (SELECT count(*) FROM pg_stats WHERE tablename = 'album') AS sees
FROM generate_series(1, 10) AS seed, unnest('{-0.5,0.1,0.9}'::float8[]) AS threshold;
RESET ROLE;
SELECT count(DISTINCT estimated_rows(format('SELECT FROM album WHERE coarse_match(e, some_vector(%s, 32), 0.1, 16)', seed))) > 1 AS owner_gets_different_estimates FROM generate_series(1, 10) AS seed;
DROP TABLE album, others, mixed, bare, longer, years, domains;
DROP DOMAIN embedding;
DROP ROLE regress_photosearch_guest;

-- Costs: reading a vector that is stored out of line costs many times as much as one in its row, and a whole vector costs more than a
-- prefix. By src/planner/cost.rs, a call costs 40 and a value 0.06, so comparing 128 values costs 48. Out of line, finding the vector costs
-- 280 more, and each chunk 100.
CREATE TABLE inside (e mrl_vector(128));
INSERT INTO inside SELECT some_vector(1, 128) FROM generate_series(1, 100);
CREATE TABLE outside (e mrl_vector(2048));
INSERT INTO outside SELECT some_vector(1, 2048) FROM generate_series(1, 100);
CREATE TABLE plain (e mrl_vector(2048));
ALTER TABLE plain ALTER e SET STORAGE plain;
INSERT INTO plain SELECT some_vector(1, 2048) FROM generate_series(1, 100);
ANALYZE inside; ANALYZE outside; ANALYZE plain;
-- The cost of a condition per row, in units of cpu_operator_cost, without the cost of the scan itself.
CREATE FUNCTION condition_cost(relation regclass, condition text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    whole json;
    scan json;
BEGIN
    EXECUTE format('EXPLAIN (FORMAT json) SELECT FROM %s', relation) INTO scan;
    EXECUTE format('EXPLAIN (FORMAT json) SELECT FROM %s WHERE %s', relation, condition) INTO whole;
    RETURN ((whole -> 0 -> 'Plan' ->> 'Total Cost')::numeric - (scan -> 0 -> 'Plan' ->> 'Total Cost')::numeric) / 100 / current_setting('cpu_operator_cost')::numeric;
END
$$;
SELECT relation, condition_cost(relation, format('coarse_match(e, some_vector(2, vector_dims(%L)), 0.5, 128)', e)) AS coarse, condition_cost(relation, format('fine_score(e, some_vector(2, vector_dims(%L))) > 0.5', e)) AS fine, condition_cost(relation, format('coarse_match(e, some_vector(2, vector_dims(%L)))', e)) AS by_settings
FROM (SELECT 'inside'::regclass AS relation, (SELECT e FROM inside LIMIT 1) AS e UNION ALL SELECT 'outside', (SELECT e FROM outside LIMIT 1) UNION ALL SELECT 'plain', (SELECT e FROM plain LIMIT 1)) AS x;
SELECT condition_cost('outside', 'coarse_match(e, some_vector(2, 2048), 0.5, 2048)') > condition_cost('outside', 'coarse_match(e, some_vector(2, 2048), 0.5, 128)') AS longer, condition_cost('outside', 'NOT coarse_match(e, some_vector(2, 2048), 0.5, 128)') = condition_cost('outside', 'coarse_match(e, some_vector(2, 2048), 0.5, 128)') AS negated;
-- mrl_probe_at_least and mrl_probe_at_most compare all dimensions, also where the planner does not know the query.
SELECT relation, condition_cost(relation, format('e @~? mrl_probe_at_least((SELECT some_vector(2, %s)), 0.5)', dims)) AS at_least, condition_cost(relation, format('e !@~? mrl_probe_at_most((SELECT some_vector(2, %s)), 0.5)', dims)) AS at_most
FROM (VALUES ('inside'::regclass, 128), ('outside', 2048), ('plain', 2048)) AS x (relation, dims);
DROP TABLE inside, outside, plain;
DROP FUNCTION estimated_rows, is_near, condition_cost, stable_query, volatile_query, expensive_query;
