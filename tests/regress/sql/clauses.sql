-- Every kind of clause that the planner can hand to an index, by every kind of plan, serial and parallel. The reference is the
-- same query over a copy of the table that has no index: every plan must return its rows.
CREATE TABLE album (id int PRIMARY KEY, year int, e mrl_vector(32));
INSERT INTO album SELECT i, 2000 + i % 20, CASE WHEN i % 50 > 0 THEN some_vector(i, 32) END FROM generate_series(1, 3000) AS i;
CREATE INDEX album_e ON album USING mrl (e);
CREATE INDEX album_year ON album (year);
CREATE TABLE copy_of_album AS TABLE album;
CREATE TABLE queries (q mrl_vector(32), t float8);
INSERT INTO queries SELECT some_vector(i, 32), 0.8 FROM generate_series(7, 9) AS i;
INSERT INTO queries VALUES (NULL, 0.8);
ANALYZE album, queries;
SET photosearch.coarse_threshold = 0.8; SET photosearch.coarse_dims = 32;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;

-- Runs a statement by each kind of scan. Returns the number of rows and the scans of album that were used; or, if a plan
-- returns other rows than the copy, that plan and both answers.
CREATE FUNCTION agrees(statement text, OUT answer text, OUT scans text) LANGUAGE plpgsql AS $$
DECLARE
    kinds text[] := ARRAY['seqscan', 'bitmapscan', 'indexscan'];
    workers int;
    kind text;
    line text;
    ids text;
    expected text;
    plan text;
    seen text[] := '{}';
BEGIN
    EXECUTE 'SELECT count(*) || '' rows, '' || coalesce(sum(s::text::int), 0) FROM (' || replace(statement, 'album', 'copy_of_album') || ') AS s (s)' INTO expected;
    FOREACH workers IN ARRAY ARRAY[0, 2] LOOP
        PERFORM set_config('max_parallel_workers_per_gather', workers::text, true);
        FOREACH kind IN ARRAY kinds LOOP
            FOREACH line IN ARRAY kinds LOOP
                PERFORM set_config('enable_' || line, (line = kind)::text, true);
            END LOOP;
            plan := '';
            FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
                plan := plan || line || E'\n';
                line := substring(line FROM '((Parallel )?(Seq|Index|Bitmap Heap|Bitmap Index) Scan) (using album_e )?on album(_e)?( |$)');
                seen := seen || line;
            END LOOP;
            BEGIN
                EXECUTE 'SELECT count(*) || '' rows, '' || coalesce(sum(s::text::int), 0) FROM (' || statement || ') AS s (s)' INTO ids;
            EXCEPTION WHEN OTHERS THEN
                ids := SQLERRM;
            END;
            IF ids <> expected THEN
                answer := format(E'%s with %s workers: %s, not %s\n%s', kind, workers, ids, expected, plan);
                RETURN;
            END IF;
        END LOOP;
    END LOOP;
    FOREACH line IN ARRAY kinds LOOP
        PERFORM set_config('enable_' || line, 'on', true);
    END LOOP;
    answer := expected;
    scans := (SELECT string_agg(DISTINCT s, ', ' ORDER BY s) FROM unnest(seen) AS s WHERE s IS NOT NULL);
END
$$;

SELECT condition, agrees.* FROM unnest(ARRAY[
    -- One operator.
    'coarse_match(e, some_vector(7, 32), 0.8, 32)', 'NOT coarse_match(e, some_vector(7, 32), 0.8, 32)', 'e @~ some_vector(7, 32)', 'some_vector(7, 32) @~ e',
    -- Several conditions at once.
    'e @~ some_vector(7, 32) AND e !@~ some_vector(9, 32)', 'e @~ some_vector(7, 32) AND year = 2007', 'e @~ some_vector(7, 32) AND e IS NOT NULL',
    -- Arrays of queries.
    'e @~ ANY (ARRAY[some_vector(7, 32), some_vector(8, 32)])', 'e @~ ANY (ARRAY[some_vector(7, 32), NULL, some_vector(7, 32)])', 'e @~ ANY (NULL::mrl_vector[])', 'e @~ ANY (''{}''::mrl_vector[])',
    'e @~ ALL (ARRAY[some_vector(7, 32), some_vector(8, 32)])', 'NOT e @~ ANY (ARRAY[some_vector(7, 32), some_vector(8, 32)])', 'e !@~ ANY (ARRAY[some_vector(7, 32), some_vector(8, 32)])',
    'e @~ ANY (ARRAY(SELECT q FROM queries))', 'e @~ ANY (SELECT q FROM queries)', 'e @~ ALL (SELECT q FROM queries)', 'e @~ (SELECT q FROM queries ORDER BY q LIMIT 1)',
    'e @~ ANY (ARRAY[mrl_probe(some_vector(7, 32), 0.8, 32), mrl_probe(some_vector(8, 32), 0.9, 16)])',
    'e @~ ANY (ARRAY[some_vector(7, 32), some_vector(8, 32)]) AND e @~ some_vector(7, 32)', 'e @~ ANY (ARRAY[some_vector(7, 32), some_vector(8, 32)]) AND year < 2010',
    'e @~ ANY (ARRAY[some_vector(7, 32), some_vector(8, 32)]) AND e @~ ANY (ARRAY[some_vector(8, 32), some_vector(9, 32)])',
    -- OR, and AND within OR.
    'e @~ some_vector(7, 32) OR e @~ some_vector(8, 32)', '(e @~ some_vector(7, 32) AND e !@~ some_vector(9, 32)) OR (e @~ some_vector(8, 32) AND year = 2008)',
    'e @~ ANY (ARRAY[some_vector(7, 32), some_vector(8, 32)]) OR e @~ some_vector(9, 32)', 'e @~ some_vector(7, 32) OR year = 2008', 'NOT (e @~ some_vector(7, 32) OR e @~ some_vector(8, 32))',
    'e @~ some_vector(7, 32) AND (year = 2007 OR e @~ some_vector(8, 32))', '(e @~ some_vector(7, 32) OR e @~ some_vector(8, 32)) AND (e @~ some_vector(7, 32) OR e @~ some_vector(9, 32))',
    -- NULL tests and NULL queries.
    'e IS NULL', 'e IS NOT NULL', 'e @~ NULL', '(e @~ some_vector(7, 32)) IS NULL', '(e @~ some_vector(7, 32)) IS TRUE', '(e @~ some_vector(7, 32)) IS NOT TRUE', 'e @~ some_vector(7, 32) IS DISTINCT FROM true',
    -- Row comparisons, CASE and other expressions around the operator.
    '(e, year) = (some_vector(7, 32), 2007)', '(year, e) < (2001, some_vector(7, 32))', 'ROW(e @~ some_vector(7, 32), year) = ROW(true, 2007)', 'CASE WHEN year = 2007 THEN e @~ some_vector(7, 32) END',
    'COALESCE(e @~ some_vector(7, 32), true)', 'e @~ some_vector(year, 32)', 'e = some_vector(7, 32)', 'year = ANY (ARRAY[2007, 2008]) AND e @~ some_vector(7, 32)'
]) AS condition, agrees('SELECT id FROM album WHERE ' || condition);

-- Conditions on the whole similarity, which the planner replaces by one that the index can answer.
SELECT condition, agrees.* FROM unnest(ARRAY[
    'fine_score(e, some_vector(7, 32)) >= 0.8', 'fine_score(e, some_vector(7, 32)) > 0.8', '0.8 <= fine_score(some_vector(7, 32), e)', '0.8 < fine_score(e, some_vector(7, 32))',
    'fine_score(e, some_vector(7, 32)) <= -0.5', 'fine_score(e, some_vector(7, 32)) < -0.5', '-0.5 >= fine_score(e, some_vector(7, 32))', 'NOT fine_score(e, some_vector(7, 32)) < 0.8',
    'fine_score(e, some_vector(7, 32)) BETWEEN 0.5 AND 0.8', 'fine_score(e, some_vector(7, 32)) NOT BETWEEN -0.5 AND 0.8',
    'e <=> some_vector(7, 32) <= 0.2', 'some_vector(7, 32) <=> e < 0.2', '0.2 >= (e <=> some_vector(7, 32))', 'e <=> some_vector(7, 32) > 1.5', '1 - (e <=> some_vector(7, 32)) >= 0.8', '0.8 < 1 - (e <=> some_vector(7, 32))',
    -- At the score of a row, to the last bit.
    'fine_score(e, some_vector(7, 32)) >= (SELECT fine_score(e, some_vector(7, 32)) FROM album WHERE id = 1234)', 'fine_score(e, some_vector(7, 32)) > (SELECT fine_score(e, some_vector(7, 32)) FROM album WHERE id = 1234)',
    'fine_score(e, some_vector(7, 32)) <= (SELECT fine_score(e, some_vector(7, 32)) FROM album WHERE id = 1234)', 'fine_score(e, some_vector(7, 32)) < (SELECT fine_score(e, some_vector(7, 32)) FROM album WHERE id = 1234)',
    '1 - (e <=> some_vector(7, 32)) >= (SELECT fine_score(e, some_vector(7, 32)) FROM album WHERE id = 1234)', 'e <=> some_vector(7, 32) <= (SELECT e <=> some_vector(7, 32) FROM album WHERE id = 1234)',
    'fine_score(e, some_vector(7, 32)) >= (SELECT max(fine_score(e, some_vector(7, 32))) FROM album)', 'fine_score(e, some_vector(7, 32)) <= (SELECT min(fine_score(e, some_vector(7, 32))) FROM album)',
    -- Thresholds that are not cosines, NULL and other types.
    'fine_score(e, some_vector(7, 32)) >= 1', 'fine_score(e, some_vector(7, 32)) >= 1.5', 'fine_score(e, some_vector(7, 32)) >= -1', 'fine_score(e, some_vector(7, 32)) > -7', 'fine_score(e, some_vector(7, 32)) <= 1',
    'fine_score(e, some_vector(7, 32)) < 7', 'fine_score(e, some_vector(7, 32)) < -1', 'fine_score(e, some_vector(7, 32)) >= ''NaN''', 'fine_score(e, some_vector(7, 32)) < ''NaN''', 'fine_score(e, some_vector(7, 32)) >= ''-Infinity''',
    'fine_score(e, some_vector(7, 32)) <= ''NaN''', 'e <=> some_vector(7, 32) < ''NaN''', 'e <=> some_vector(7, 32) >= ''NaN''', 'e <=> some_vector(7, 32) <= ''Infinity''', '1 - (e <=> some_vector(7, 32)) < ''NaN''', 'fine_score(e, some_vector(7, 32)) >= NULL', 'fine_score(e, NULL) >= 0.8', 'fine_score(e, some_vector(7, 32)) >= 0.8::real', '0.8::real > fine_score(e, some_vector(7, 32))', 'e <=> some_vector(7, 32) < 0.2::real',
    -- With other conditions.
    'fine_score(e, some_vector(7, 32)) >= 0.8 AND fine_score(e, some_vector(9, 32)) < 0.3 AND year < 2010', 'coarse_match(e, some_vector(7, 32), 0.5, 8) AND fine_score(e, some_vector(7, 32)) >= 0.8',
    'fine_score(e, some_vector(7, 32)) >= 0.8 OR fine_score(e, some_vector(8, 32)) >= 0.8', 'fine_score(e, some_vector(7, 32)) >= 0.8 OR (e <=> some_vector(8, 32) < 0.2 AND year = 2008)', '(fine_score(e, some_vector(7, 32)) >= 0.8) IS NOT TRUE',
    'fine_score(e, l2_normalize(some_vector(7, 32))) >= 0.8', 'fine_score(e, e) >= 0.8', 'fine_score(e, some_vector(year, 32)) >= 0.8', 'fine_score(e, some_vector(7, 32)) >= year / 2500.0', 'fine_score(e, some_vector(7, 32)) >= 0.8 + random() * 0',
    'fine_score(e, (SELECT q FROM queries ORDER BY q LIMIT 1)) >= 0.8', 'fine_score(e, (SELECT q FROM queries WHERE q IS NULL)) >= 0.8', 'fine_score(e, ''[1,2,3]'') >= 0.8 AND year < 1000'
]) AS condition, agrees('SELECT id FROM album WHERE ' || condition);

-- Joins: the query is a column of another table, the result of a function in FROM, or a column of an outer query.
SELECT query, agrees.* FROM unnest(ARRAY[
    'SELECT id FROM queries, album WHERE e @~ q', 'SELECT id FROM queries LEFT JOIN album ON e @~ q', 'SELECT id FROM queries, album WHERE coarse_match(e, q, t, 32)', 'SELECT id FROM queries, album WHERE e @~ ANY (ARRAY[q, some_vector(7, 32)])',
    'SELECT id FROM album WHERE EXISTS (SELECT FROM queries WHERE e @~ q)', 'SELECT id FROM album WHERE NOT EXISTS (SELECT FROM queries WHERE e @~ q) AND id % 6 = 0',
    'SELECT (SELECT count(*) FROM album WHERE e @~ q) FROM queries', 'SELECT id FROM queries, LATERAL (SELECT id FROM album WHERE coarse_match(e, q, t, 16) ORDER BY fine_score(e, q) DESC, id LIMIT 5) AS best',
    'SELECT id FROM queries, LATERAL (SELECT id FROM album WHERE e @~ ANY (ARRAY[q, q]) OFFSET 0) AS s', 'SELECT b.id FROM album AS a JOIN album AS b ON b.e @~ a.e WHERE a.id < 20',
    'SELECT id FROM some_vector(7, 32) AS q, album WHERE coarse_match(e, q, 0.8, 32)', 'SELECT id FROM queries, album WHERE fine_score(e, q) >= t', 'SELECT id FROM album LEFT JOIN queries ON e <=> q < 0.2', 'SELECT b.id FROM album AS a JOIN album AS b ON fine_score(a.e, b.e) > 0.9 WHERE a.id < 20',
    'SELECT id FROM album WHERE NOT EXISTS (SELECT FROM queries WHERE fine_score(e, q) >= t) AND id % 6 = 0', 'SELECT id FROM queries, LATERAL (SELECT id FROM album WHERE fine_score(e, q) > t ORDER BY e <=> q, id LIMIT 5) AS best', 'SELECT id FROM album WHERE e @~ (SELECT q FROM queries WHERE q IS NULL)'
]) AS query, agrees(query);

-- An option that is changed takes effect with the next REINDEX, for these conditions too.
SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0;
ALTER INDEX album_e SET (prefix_dims = 4);
SELECT * FROM stable_plan_of('SELECT id FROM album WHERE fine_score(e, (SELECT q FROM queries LIMIT 1)) >= 0.8');
REINDEX INDEX album_e;
SELECT * FROM stable_plan_of('SELECT id FROM album WHERE fine_score(e, (SELECT q FROM queries LIMIT 1)) >= 0.8');
RESET enable_seqscan; RESET max_parallel_workers_per_gather;

-- A function of the same name that is not photosearch's is left alone.
CREATE DOMAIN signed AS mrl_vector(32);
CREATE FUNCTION fine_score(signed, signed) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT 1::float8';
SELECT agrees.* FROM agrees('SELECT id FROM album WHERE fine_score(e::signed, some_vector(7, 32)::signed) >= 0.8');
DROP FUNCTION fine_score(signed, signed);
DROP DOMAIN signed;

-- Behind a security barrier a condition keeps its form where it is a grouping set's.
CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM album WHERE id < 100;
SELECT e @~ some_vector(7, 32) AS matches, count(*) FROM barrier GROUP BY GROUPING SETS ((e @~ some_vector(7, 32)), ()) HAVING e @~ some_vector(7, 32);
SELECT (e @~ some_vector(7, 32)) AND count(*) > 1 AS both, count(*) FROM barrier GROUP BY ROLLUP (e @~ some_vector(7, 32)) ORDER BY 1, 2;
SELECT e @~ some_vector(7, 32) AS matches, count(*) FROM barrier GROUP BY e @~ some_vector(7, 32) ORDER BY 1;
-- So it does where ON CONFLICT names the predicate of a unique index.
CREATE TABLE found (id int, e mrl_vector(32));
CREATE UNIQUE INDEX ON found (id) WHERE e @~ mrl_probe(array_fill(1, ARRAY[32])::mrl_vector, 0.5, 32);
INSERT INTO found SELECT id, e FROM barrier WHERE id < 10 ON CONFLICT (id) WHERE e @~ mrl_probe(array_fill(1, ARRAY[32])::mrl_vector, 0.5, 32) DO NOTHING;
SELECT count(*) FROM found;
DROP TABLE found;
DROP VIEW barrier;
DROP FUNCTION agrees;
DROP TABLE album, copy_of_album, queries;
RESET photosearch.coarse_threshold; RESET photosearch.coarse_dims;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET min_parallel_index_scan_size;

-- A condition stays as it stands where the planner compares it with something else: a B-tree on the score, a partial index, partitions.
RESET enable_seqscan;
CREATE TABLE scored (id int, e mrl_vector(4));
INSERT INTO scored SELECT i, some_vector(i, 4) FROM generate_series(1, 2000) AS i;
CREATE INDEX scored_mrl ON scored USING mrl (e);
CREATE INDEX scored_btree ON scored (fine_score(e, '[1,2,3,4]'));
ANALYZE scored;
EXPLAIN (COSTS OFF) SELECT id FROM scored WHERE fine_score(e, '[1,2,3,4]') >= 0.99999;
DROP INDEX scored_btree;
CREATE INDEX scored_partial ON scored (id) WHERE fine_score(e, '[1,2,3,4]') >= 0.7;
EXPLAIN (COSTS OFF) SELECT e FROM scored WHERE fine_score(e, '[1,2,3,4]') >= 0.7 AND id = 5;
DROP INDEX scored_partial;
EXPLAIN (COSTS OFF) SELECT e FROM scored WHERE fine_score(e, '[1,2,3,4]') >= 0.7 AND id = 5;
CREATE TABLE split (id int, e mrl_vector(4)) PARTITION BY RANGE (fine_score(e, '[1,2,3,4]'));
CREATE TABLE split_low PARTITION OF split FOR VALUES FROM (-2) TO (0.5);
CREATE TABLE split_high PARTITION OF split FOR VALUES FROM (0.5) TO (2);
CREATE INDEX ON split USING mrl (e);
EXPLAIN (COSTS OFF) SELECT id FROM split WHERE fine_score(e, '[1,2,3,4]') >= 0.7;
-- Other conditions reject every row before a comparison that would be an error.
SELECT count(*) FROM scored WHERE id < 0 AND fine_score(e, '[1,2]') > 0.5;
DROP TABLE scored, split;
