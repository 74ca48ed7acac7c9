-- A function that embeds in FROM is planned as a subselect. The reference is the same query with a subquery that Postgres may not
-- take apart (OFFSET 0).
CREATE TABLE pictured (id int PRIMARY KEY, e mrl_vector(192) NOT NULL);
INSERT INTO pictured SELECT i, embed_text('photosearch-mini-1', (ARRAY['a baby', 'a dog', 'a boat', 'a tree', 'snow'])[1 + i % 5] || ' and ' || (ARRAY['a cat', 'a car', 'flowers', 'a cake'])[1 + i / 5 % 4] || ' ' || i) FROM generate_series(1, 200) AS i;
CREATE INDEX ON pictured USING mrl (e) WITH (prefix_dims = 192);
ANALYZE pictured;
-- The hook is in place once the library is loaded.
LOAD 'photosearch';
SET enable_seqscan = off;

CREATE FUNCTION agrees_in_from(statement text, OUT answer text, OUT function_scans bigint) LANGUAGE plpgsql AS $$
DECLARE
    digest text := 'SELECT concat_ws('' '', count(*), ''rows'', md5(string_agg(r::text, '','' ORDER BY n))) FROM (SELECT row_number() OVER () AS n, r FROM (%s) AS r) AS r';
    expected text;
    line text;
BEGIN
    EXECUTE format(digest, regexp_replace(statement, '(FROM|,|JOIN|LATERAL) embed_text\((''[^'']*''|NULL)\) AS (\w+)', '\1 (SELECT embed_text(\2) AS \3 OFFSET 0) AS \3', 'g')) INTO expected;
    EXECUTE format(digest, statement) INTO answer;
    IF answer <> expected THEN
        answer := answer || ', not ' || expected;
    ELSE
        answer := split_part(answer, ' ', 1) || ' rows';
    END IF;
    function_scans := 0;
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
        function_scans := function_scans + (line ~ 'Function Scan')::int;
    END LOOP;
END
$$;

SELECT statement, found.* FROM unnest(ARRAY[
    'SELECT id FROM pictured, embed_text(''a dog'') AS q ORDER BY e <=> q LIMIT 7',
    'SELECT id, fine_score(e, q) AS s FROM pictured, embed_text(''a dog'') AS q WHERE fine_score(e, q) > 0.2 ORDER BY s DESC, id',
    'SELECT id, q FROM embed_text(''a dog'') AS q CROSS JOIN pictured WHERE coarse_match(e, q) ORDER BY id',
    'SELECT id FROM pictured, embed_text(''a dog'') AS q, embed_text(''snow'') AS r WHERE coarse_match(e, q) AND NOT coarse_match(e, r, 0.2, 64) ORDER BY id',
    'SELECT id FROM embed_text(''a dog'') AS q JOIN pictured ON e @~ q ORDER BY id',
    -- Outer joins: a function whose row may be missing stays.
    'SELECT id, q IS NULL FROM pictured LEFT JOIN embed_text(''a dog'') AS q ON id < 5 ORDER BY id',
    'SELECT id, q IS NULL FROM embed_text(''a dog'') AS q LEFT JOIN pictured ON e <=> q < 0.1 ORDER BY id',
    'SELECT id, q IS NULL FROM embed_text(''a dog'') AS q RIGHT JOIN pictured ON e <=> q < 0.1 ORDER BY id',
    'SELECT id, q IS NULL FROM pictured RIGHT JOIN embed_text(''a dog'') AS q ON e <=> q < 0.1 ORDER BY id',
    'SELECT id, q IS NULL FROM pictured FULL JOIN embed_text(''a dog'') AS q ON id = (q <=> q)::int + 3 ORDER BY id',
    'SELECT id, q IS NULL FROM pictured LEFT JOIN (embed_text(''a dog'') AS q CROSS JOIN generate_series(1, 2) AS g) ON id = g ORDER BY id, g',
    -- Alone, grouped, twice, nested.
    'SELECT q FROM embed_text(''a dog'') AS q',
    'SELECT q.* FROM embed_text(''a dog'') AS q',
    'SELECT q, count(*), max(e <=> q) FROM pictured, embed_text(''a dog'') AS q GROUP BY q HAVING count(q) > 0',
    'SELECT q IS NULL, id > 57, count(*) FROM pictured, embed_text(''a dog'') AS q WHERE id > 55 GROUP BY GROUPING SETS ((q, id > 57), ()) ORDER BY 3',
    'SELECT s.* FROM embed_text(''a dog'') AS q, LATERAL (SELECT q IS NULL AS n, count(*) FROM pictured GROUP BY ROLLUP (q)) AS s ORDER BY n',
    'SELECT DISTINCT ON (q) id FROM pictured, embed_text(''a dog'') AS q ORDER BY q, e <=> q',
    'SELECT id, rank() OVER (PARTITION BY q ORDER BY e <=> q) FROM pictured, embed_text(''a dog'') AS q ORDER BY 2, 1',
    'SELECT (SELECT count(*) FROM pictured WHERE coarse_match(e, q)) FROM embed_text(''a dog'') AS q',
    'SELECT (SELECT count(q) FROM pictured LIMIT 1) FROM embed_text(''a dog'') AS q',
    'SELECT id FROM embed_text(''a dog'') AS q, LATERAL (SELECT id FROM pictured WHERE fine_score(e, q) > 0 ORDER BY e <=> q LIMIT 3) AS best ORDER BY id',
    'SELECT id FROM pictured AS p WHERE EXISTS (SELECT FROM embed_text(''a dog'') AS q WHERE p.e <=> q < 0.5) ORDER BY id',
    'WITH w AS MATERIALIZED (SELECT id, e <=> q AS d FROM pictured, embed_text(''a dog'') AS q) SELECT id FROM w ORDER BY d, id LIMIT 5',
    'SELECT id FROM (SELECT id, e <=> q AS d FROM pictured, embed_text(''a dog'') AS q UNION ALL SELECT id, e <=> q FROM pictured, embed_text(''snow'') AS q) AS both_texts ORDER BY d, id LIMIT 20',
    'SELECT id FROM pictured, embed_text(NULL) AS q WHERE coarse_match(e, q)',
    'SELECT id FROM pictured, embed_text(NULL) AS q ORDER BY e <=> q, id LIMIT 3'
]) AS statement, agrees_in_from(statement) AS found;

-- Functions that stay as they are: with ordinality, with a column as an argument, beside another in ROWS FROM, of another name.
EXPLAIN (COSTS OFF) SELECT id FROM pictured, embed_text('a dog') WITH ORDINALITY AS t (q, n) WHERE e @~ q;
SELECT * FROM stable_plan_of($$SELECT id FROM pictured, LATERAL embed_text('photo ' || id) AS q WHERE e @~ q$$);
EXPLAIN (COSTS OFF) SELECT id FROM pictured, ROWS FROM (embed_text('a dog'), embed_text('snow')) AS t (q, r) WHERE e @~ q;
EXPLAIN (COSTS OFF) SELECT * FROM version();
-- A function that the query does not use is called all the same, so its error is not lost.
SET photosearch.model = 'no-such-model';
SELECT count(*) FROM pictured, embed_text('a dog') AS q;
RESET photosearch.model;
-- UPDATE, DELETE and MERGE, a view with a security barrier, and a generic plan.
BEGIN;
WITH changed AS (UPDATE pictured SET id = id + 1000 FROM embed_text('a dog') AS q WHERE e <=> q < 0.48 RETURNING pictured.id, e <=> q AS d) SELECT count(*), max(d) < 0.48 AS below FROM changed;
DELETE FROM pictured USING embed_text('a dog') AS q WHERE e <=> q < 0.48 AND id < 1000;
SELECT count(*) FROM pictured, embed_text('a dog') AS q WHERE e <=> q < 0.48 AND id < 1000;
-- PostgreSQL 14 has no MERGE.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'MERGE INTO pictured USING embed_text(''a dog'') AS q ON e <=> q < 0.48 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (70000, q)';
    ELSE
        DELETE FROM pictured USING embed_text('a dog') AS q WHERE e <=> q < 0.48;
    END IF;
END
$$;
SELECT count(*) FROM pictured, embed_text('a dog') AS q WHERE e <=> q < 0.48;
ROLLBACK;
CREATE VIEW shown WITH (security_barrier) AS SELECT * FROM pictured WHERE id % 2 = 0;
SELECT * FROM stable_plan_of($$SELECT id FROM shown, embed_text('a dog') AS q WHERE coarse_match(e, q)$$);
PREPARE asked(text) AS SELECT id FROM pictured, embed_text('photosearch-mini-1', $1) AS q ORDER BY e <=> q LIMIT 1;
SET plan_cache_mode = force_generic_plan;
SELECT * FROM stable_plan_of($$EXECUTE asked('a dog and a car 7')$$);
EXECUTE asked('a dog and a car 6');
EXECUTE asked('snow and a cake 19');
-- A setting that changes while a cursor is open does not change its answer.
BEGIN;
DECLARE kept CURSOR FOR SELECT id, (e <=> q)::numeric(6, 4) AS d FROM pictured, embed_text('a dog') AS q ORDER BY e <=> q LIMIT 4;
FETCH 1 FROM kept;
SET LOCAL photosearch.model = 'no-such-model';
FETCH 3 FROM kept;
ROLLBACK;
SELECT id, (e <=> q)::numeric(6, 4) AS d FROM pictured, embed_text('a dog') AS q ORDER BY e <=> q LIMIT 4;
-- An error while planning keeps its context and its place.
CREATE FUNCTION fails(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1 / $1';
SELECT id FROM pictured, embed_text('a dog') AS q WHERE id = fails(0) AND e @~ q;
