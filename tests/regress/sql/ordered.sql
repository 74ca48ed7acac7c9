-- Rows in the order of their similarity, from an index that covers all dimensions. The reference is the same query over a copy
-- of the table that has no index: every plan must return its scores, bit for bit, in its order.
CREATE TABLE shelf (id int PRIMARY KEY, year int, e mrl_vector(16));
-- Pseudo-random vectors, many copies of each of 4 vectors, zero vectors and NULLs.
INSERT INTO shelf SELECT i, 2000 + i % 20, CASE WHEN i % 50 = 0 THEN NULL WHEN i % 50 = 1 THEN array_fill(0, ARRAY[16])::mrl_vector WHEN i % 5 = 2 THEN some_vector(i % 20, 16) ELSE some_vector(i, 16) END FROM generate_series(1, 12000) AS i;
CREATE INDEX shelf_e ON shelf USING mrl (e) WITH (prefix_dims = 16);
-- The same rows without NULL. One of the two indexes has a prefix only, so it gives no order by the similarity of whole vectors.
CREATE TABLE wall (LIKE shelf, PRIMARY KEY (id));
ALTER TABLE wall ALTER e SET NOT NULL;
INSERT INTO wall SELECT * FROM shelf WHERE e IS NOT NULL;
CREATE INDEX wall_prefix ON wall USING mrl (e) WITH (prefix_dims = 8);
CREATE INDEX wall_e ON wall USING mrl (e) WITH (prefix_dims = 16);
CREATE TABLE copy_of_shelf AS TABLE shelf;
CREATE TABLE copy_of_wall AS TABLE wall;
CREATE TABLE sought (q mrl_vector(16), t float8);
INSERT INTO sought SELECT some_vector(i, 16), 0.5 FROM generate_series(7, 9) AS i;
ANALYZE shelf, wall, sought;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;

-- Runs a statement, which returns an id and a score, by each kind of scan, and compares the answers with that of the copy: the same
-- scores in the same order and, without LIMIT, the same rows. (With LIMIT, rows of equal scores may be exchanged.) Returns the number
-- of rows, or the first plan with another answer; and how an index has ordered the rows when index scans alone were enabled.
CREATE FUNCTION in_order(statement text, OUT answer text, OUT ordered_by text) LANGUAGE plpgsql AS $$
DECLARE
    kinds text[] := ARRAY['seqscan', 'bitmapscan', 'indexscan'];
    digest text := 'SELECT count(*), md5(string_agg(coalesce(s::text, ''-''), '','' ORDER BY n)), CASE WHEN $1 THEN md5(string_agg(id::text, '','' ORDER BY id)) END FROM (SELECT row_number() OVER () AS n, id, s FROM (%s) AS r (id, s)) AS r';
    is_all boolean := statement !~ 'LIMIT';
    workers int;
    kind text;
    other text;
    line text;
    plan text;
    expected record;
    found record;
    seen text[] := '{}';
BEGIN
    EXECUTE format(digest, regexp_replace(statement, '(shelf|wall)', 'copy_of_\1', 'g')) USING is_all INTO expected;
    FOREACH workers IN ARRAY ARRAY[0, 2] LOOP
        PERFORM set_config('max_parallel_workers_per_gather', workers::text, true);
        FOREACH kind IN ARRAY kinds LOOP
            FOREACH other IN ARRAY kinds LOOP
                PERFORM set_config('enable_' || other, (other = kind)::text, true);
            END LOOP;
            plan := '';
            FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
                plan := plan || line || E'\n';
            END LOOP;
            IF kind = 'indexscan' AND plan ~ 'Order By: ' THEN
                seen := seen || ('indexscan' || CASE WHEN plan ~ 'Gather Merge' THEN ' in parallel' ELSE '' END);
            END IF;
            EXECUTE format(digest, statement) USING is_all INTO found;
            IF found IS DISTINCT FROM expected THEN
                answer := format(E'%s with %s workers: %s, not %s\n%s', kind, workers, found, expected, plan);
                RETURN;
            END IF;
        END LOOP;
    END LOOP;
    FOREACH other IN ARRAY kinds LOOP
        PERFORM set_config('enable_' || other, 'on', true);
    END LOOP;
    answer := expected.count || ' rows';
    ordered_by := (SELECT string_agg(DISTINCT s, ', ' ORDER BY s) FROM unnest(seen) AS s);
EXCEPTION WHEN OTHERS THEN
    answer := SQLERRM;
END
$$;

SELECT statement, in_order.* FROM unnest(ARRAY[
    -- With a condition that excludes NULL.
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE fine_score(e, some_vector(7, 16)) >= 0.2 ORDER BY e <=> some_vector(7, 16) LIMIT 10',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE fine_score(e, some_vector(7, 16)) >= 0.2 ORDER BY e <=> some_vector(7, 16)',
    'SELECT id, fine_score(e, some_vector(7, 16)) AS s FROM shelf WHERE fine_score(e, some_vector(7, 16)) >= 0.2 ORDER BY s DESC LIMIT 10',
    'SELECT id, fine_score(e, some_vector(7, 16)) AS s FROM shelf WHERE fine_score(e, some_vector(7, 16)) >= 0.2 ORDER BY s DESC',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE e IS NOT NULL ORDER BY e <=> some_vector(7, 16) LIMIT 10',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE e IS NOT NULL ORDER BY e <=> some_vector(7, 16)',
    'SELECT id, fine_score(some_vector(7, 16), e) AS s FROM shelf WHERE e IS NOT NULL ORDER BY s DESC NULLS LAST LIMIT 10 OFFSET 2000',
    'SELECT id, 1 - (e <=> some_vector(7, 16)) AS s FROM shelf WHERE e IS NOT NULL ORDER BY s DESC',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE e <> some_vector(7, 16) AND year < 2005 ORDER BY e <=> some_vector(7, 16) LIMIT 10',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE coarse_match(e, some_vector(9, 16), 0.1, 8) AND NOT coarse_match(e, some_vector(8, 16), 0.1, 16) ORDER BY e <=> some_vector(7, 16) LIMIT 100',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE fine_score(e, some_vector(9, 16)) BETWEEN 0.1 AND 0.7 ORDER BY some_vector(7, 16) <=> e LIMIT 100',
    -- The answer may contain rows whose vector is NULL. An index has no entries for them, so it does not order the answer.
    'SELECT id, e <=> some_vector(7, 16) FROM shelf ORDER BY e <=> some_vector(7, 16) LIMIT 10',
    'SELECT id, fine_score(e, some_vector(7, 16)) AS s FROM shelf ORDER BY s DESC LIMIT 10',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE e IS NULL OR year < 2005 ORDER BY e <=> some_vector(7, 16)',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE coalesce(e, some_vector(7, 16)) <> some_vector(9, 16) ORDER BY e <=> some_vector(7, 16)',
    -- The column is declared NOT NULL, so the index has all rows.
    'SELECT id, e <=> some_vector(7, 16) FROM wall ORDER BY e <=> some_vector(7, 16) LIMIT 10',
    'SELECT id, e <=> some_vector(7, 16) FROM wall ORDER BY e <=> some_vector(7, 16)',
    'SELECT id, fine_score(e, some_vector(2, 16)) AS s FROM wall ORDER BY s DESC LIMIT 1500',
    'SELECT id, fine_score(e, some_vector(2, 16)) AS s FROM wall ORDER BY s DESC, id LIMIT 1500',
    'SELECT id, id FROM wall ORDER BY e <=> some_vector(2, 16), id',
    'SELECT id, e <=> some_vector(7, 16) FROM wall ORDER BY e <=> some_vector(2, 16), e <=> some_vector(7, 16)',
    'SELECT id, e <=> array_fill(0, ARRAY[16])::mrl_vector FROM wall ORDER BY e <=> array_fill(0, ARRAY[16])::mrl_vector',
    'SELECT id, e <=> NULL FROM wall ORDER BY e <=> NULL',
    'SELECT id, e <=> (SELECT q FROM sought WHERE q IS NULL) FROM wall ORDER BY e <=> (SELECT q FROM sought WHERE q IS NULL)',
    'SELECT id, e <=> (SELECT q FROM sought ORDER BY q LIMIT 1) FROM wall ORDER BY e <=> (SELECT q FROM sought ORDER BY q LIMIT 1) LIMIT 20',
    'SELECT id, e <=> l2_normalize(some_vector(7, 16)) FROM wall WHERE year = 2007 ORDER BY e <=> l2_normalize(some_vector(7, 16)) LIMIT 20',
    'SELECT id, row_number() OVER (ORDER BY e <=> some_vector(7, 16), id) FROM wall ORDER BY 2',
    'SELECT id, s FROM (SELECT id, e <=> some_vector(7, 16) AS s FROM wall UNION ALL SELECT id, e <=> some_vector(7, 16) AS s FROM shelf WHERE e IS NOT NULL) AS both_tables ORDER BY s LIMIT 100',
    'SELECT DISTINCT ON (e <=> some_vector(7, 16)) id, e <=> some_vector(7, 16) FROM wall ORDER BY e <=> some_vector(7, 16), id',
    -- An index does not give the order of other expressions, nor the least similar rows first.
    'SELECT id, e <=> some_vector(7, 16) FROM wall ORDER BY e <=> some_vector(7, 16) DESC LIMIT 10',
    'SELECT id, fine_score(e, some_vector(7, 16)) AS s FROM wall ORDER BY s LIMIT 10',
    'SELECT id, -fine_score(e, some_vector(7, 16)) AS s FROM wall ORDER BY s LIMIT 10',
    'SELECT id, fine_score(e, some_vector(year, 16)) AS s FROM wall ORDER BY s DESC LIMIT 10',
    'SELECT id, fine_score(e, some_vector(7, 16)) + random() * 0 AS s FROM wall ORDER BY s DESC LIMIT 10',
    -- Joins and subqueries.
    'SELECT id, e <=> q FROM sought, LATERAL (SELECT id, e FROM wall ORDER BY e <=> q LIMIT 20) AS best ORDER BY 2, 1',
    'SELECT id, e <=> q FROM sought, LATERAL (SELECT id, e FROM shelf WHERE fine_score(e, q) >= t ORDER BY fine_score(e, q) DESC LIMIT 20) AS best ORDER BY 2, 1',
    'SELECT w.id, e <=> some_vector(7, 16) FROM wall AS w LEFT JOIN sought ON w.e = q ORDER BY e <=> some_vector(7, 16) LIMIT 10',
    'SELECT id, e <=> some_vector(7, 16) FROM wall AS w WHERE EXISTS (SELECT FROM sought WHERE fine_score(w.e, q) > 0.3) ORDER BY e <=> some_vector(7, 16) LIMIT 10',
    'SELECT a.id, (SELECT b.id::float8 FROM wall AS b WHERE b.id <> a.id ORDER BY b.e <=> a.e, b.id LIMIT 1) FROM wall AS a WHERE a.id < 10 ORDER BY 1',
    'SELECT id, x FROM sought LEFT JOIN LATERAL (SELECT id, e, t + 1 AS x FROM wall) AS w ON id < 100 ORDER BY w.e <=> some_vector(7, 16)',
    -- The first sort key is NULL for every row, so the second one orders the rows.
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE coarse_match(e, some_vector(9, 16), 0.1, 16) ORDER BY e <=> (SELECT q FROM sought WHERE q IS NULL), e <=> some_vector(7, 16) LIMIT 10',
    'SELECT id, e <=> some_vector(7, 16) FROM shelf WHERE coarse_match(e, some_vector(9, 16), 0.1, 16) AND year = 1000 ORDER BY e <=> some_vector(7, 16), e <=> ''[1,2]''',
    -- Errors.
    'SELECT id, e <=> ''[1,2]'' FROM wall ORDER BY e <=> ''[1,2]'' LIMIT 1',
    'SELECT id, e <=> ''[1,2]'' FROM wall WHERE year = 1000 ORDER BY e <=> ''[1,2]'' LIMIT 1'
]) AS statement, in_order(statement);

-- With little memory, a scan sweeps the index several times to return all rows in order.
SET work_mem = '64kB';
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET max_parallel_workers_per_gather = 0;
SELECT count(*), count(*) FILTER (WHERE s < previous) AS descents FROM (SELECT s, lag(s) OVER () AS previous FROM (SELECT e <=> some_vector(7, 16) AS s FROM wall ORDER BY s OFFSET 0) AS r) AS r;
SELECT sweeps > 4 AS many_sweeps, entries = sweeps * 11760 AS all_entries FROM photosearch.last_sweep();
SELECT count(DISTINCT id), count(*) FROM (SELECT id FROM wall ORDER BY fine_score(e, some_vector(2, 16)) DESC OFFSET 0) AS r;
-- A sample of a table, and no row at all.
SELECT count(*) = (SELECT count(*) FROM wall TABLESAMPLE BERNOULLI (50) REPEATABLE (1)) AS equal FROM (SELECT id FROM wall TABLESAMPLE BERNOULLI (50) REPEATABLE (1) ORDER BY e <=> some_vector(7, 16) OFFSET 0) AS r;
SELECT count(*) FROM (SELECT id FROM wall WHERE fine_score(e, some_vector(7, 16)) > NULL ORDER BY e <=> some_vector(7, 16) OFFSET 0) AS r;
-- The upper bound on a similarity by the first level of codes can be lower than that by both levels. For the four last rows, only the
-- bound by both levels reaches the lowest bound that the first sweep keeps. A later sweep must return them.
CREATE TABLE ceilings (id int, e mrl_vector(3) NOT NULL);
INSERT INTO ceilings SELECT i, '[-0.734375,0.36181640625,0.1929931640625]' FROM generate_series(1, 1100) AS i;
INSERT INTO ceilings VALUES (-1, '[0.83740234375,0.12139892578125,-0.061004638671875]'), (-2, '[-0.90869140625,0.666015625,0.46435546875]'), (-3, '[0.953125,0.74609375,0.5908203125]'), (-4, '[0.69384765625,0.509765625,0.397216796875]');
CREATE INDEX ON ceilings USING mrl (e) WITH (prefix_dims = 3);
SELECT count(*), count(*) FILTER (WHERE id < 0) AS last FROM (SELECT id FROM ceilings ORDER BY e <=> '[0.0236358642578125,0.90087890625,-0.7119140625]' OFFSET 0) AS r;
RESET work_mem; RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_sort;

-- A cursor keeps its order while rows are changed, removed and added. Afterwards, VACUUM frees the places of removed entries.
BEGIN;
DECLARE nearest CURSOR FOR SELECT id FROM wall ORDER BY e <=> some_vector(7, 16);
FETCH 3 FROM nearest;
UPDATE wall SET e = some_vector(7, 16) WHERE id > 11900;
DELETE FROM wall WHERE id BETWEEN 11000 AND 11800;
INSERT INTO wall SELECT i, 2000, some_vector(7, 16) FROM generate_series(20001, 20500) AS i;
MOVE 11756 FROM nearest;
FETCH 2 FROM nearest;
COMMIT;
VACUUM wall;
SELECT count(*) FROM photosearch.check_index('wall_e');
TRUNCATE copy_of_wall;
INSERT INTO copy_of_wall TABLE wall;
SELECT in_order('SELECT id, e <=> some_vector(7, 16) FROM wall ORDER BY e <=> some_vector(7, 16) LIMIT 2000'), in_order('SELECT id, e <=> some_vector(7, 16) FROM wall ORDER BY e <=> some_vector(7, 16)');

-- Partitions, a partial index, an expression, and a prepared statement with a generic plan.
CREATE TABLE parted (id int, year int, e mrl_vector(16) NOT NULL) PARTITION BY LIST (year);
CREATE TABLE parted_2000 PARTITION OF parted FOR VALUES IN (2000, 2001, 2002);
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT id, year, e FROM wall;
CREATE INDEX ON parted USING mrl (e) WITH (prefix_dims = 16);
ANALYZE parted;
CREATE TABLE copy_of_parted AS TABLE parted;
SELECT md5(string_agg(s::text, ',')) = (SELECT md5(string_agg(s::text, ',')) FROM (SELECT e <=> some_vector(7, 16) AS s FROM copy_of_parted ORDER BY s LIMIT 3000) AS r) AS equal FROM (SELECT e <=> some_vector(7, 16) AS s FROM parted ORDER BY s LIMIT 3000) AS r;
SET enable_seqscan = off;
SELECT * FROM stable_plan_of('SELECT id FROM parted WHERE fine_score(e, (SELECT q FROM sought LIMIT 1)) > 0.1 ORDER BY e <=> (SELECT q FROM sought LIMIT 1) LIMIT 10');
SELECT * FROM stable_plan_of($$SELECT id FROM parted ORDER BY fine_score(e, array_fill(1, ARRAY[16])::mrl_vector) DESC LIMIT 10$$);
CREATE TABLE partial (id int, kind int, v real[]);
INSERT INTO partial SELECT id, year % 2, e::real[] FROM shelf;
CREATE INDEX ON partial USING mrl ((v::mrl_vector(16))) WITH (prefix_dims = 16) WHERE kind = 1;
ANALYZE partial;
PREPARE nearest(mrl_vector) AS SELECT id FROM partial WHERE kind = 1 AND fine_score(v::mrl_vector(16), $1) > 0.1 ORDER BY fine_score(v::mrl_vector(16), $1) DESC, id LIMIT 5;
SET plan_cache_mode = force_generic_plan;
-- (Some releases of Postgres repeat the predicate of a partial index as a filter.)
SELECT * FROM stable_plan_of('EXECUTE nearest(some_vector(7, 16))') WHERE plan !~ 'Filter: \(kind = 1\)';
EXECUTE nearest(some_vector(7, 16));
SELECT id FROM copy_of_shelf WHERE year % 2 = 1 AND e IS NOT NULL ORDER BY e <=> some_vector(7, 16), id LIMIT 5;

-- A constraint that is NOT VALID (for NOT NULL from Postgres 18 on) does not exclude the rows that violate it.
CREATE TABLE unchecked (id int, e mrl_vector(16));
INSERT INTO unchecked SELECT id, e FROM shelf WHERE id <= 200;
CREATE INDEX ON unchecked USING mrl (e) WITH (prefix_dims = 16);
DO $$ BEGIN IF current_setting('server_version_num')::int >= 180000 THEN EXECUTE 'ALTER TABLE unchecked ADD CONSTRAINT filled NOT NULL e NOT VALID'; END IF; END $$;
SELECT count(*), count(s) FROM (SELECT fine_score(e, some_vector(7, 16)) AS s FROM unchecked ORDER BY s DESC NULLS FIRST LIMIT 200) AS r;
SELECT count(*), count(s) FROM (SELECT e <=> some_vector(7, 16) AS s FROM unchecked ORDER BY s LIMIT 200) AS r;
DROP TABLE unchecked;

-- The ctid of rows in order. (Most versions of Postgres lose it in ordered scans, so such queries are answered without one.)
SET enable_seqscan = off;
SELECT count(*), count(*) FILTER (WHERE r.place = w.ctid) AS same FROM (SELECT ctid AS place, id FROM wall WHERE e IS NOT NULL ORDER BY e <=> some_vector(7, 16) LIMIT 300) AS r JOIN wall AS w USING (id);
SELECT count(*), count(*) FILTER (WHERE r.place = p.ctid) AS same FROM (SELECT ctid AS place, id FROM parted ORDER BY fine_score(e, some_vector(7, 16)) DESC LIMIT 300) AS r JOIN parted AS p USING (id);
SELECT count(*) FROM (SELECT id FROM wall WHERE fine_score(e, some_vector(7, 16)) > 0 AND ctid > '(1,1)' ORDER BY e <=> some_vector(7, 16) LIMIT 300) AS r;
-- Rows that wait in a queue of the executor, because the index knows only a bound of their distance.
CREATE TABLE few (id int, e mrl_vector(4) NOT NULL);
INSERT INTO few VALUES (1, '[1,0,0,0]'), (2, '[2,0,0,0]'), (3, '[0.8,0.6,0,0]'), (4, '[3,4,0,0]'), (5, '[0,1,0,0]'), (6, '[0,0,1,0]'), (7, '[-1,0,0,0]');
CREATE INDEX ON few USING mrl (e) WITH (prefix_dims = 4);
SELECT ctid, id FROM few ORDER BY e <=> '[1,0,0,0]', id;
SELECT id FROM few ORDER BY e <=> '[1,0,0,0]', id LIMIT 3 FOR UPDATE;
DROP TABLE few;
BEGIN;
CREATE TEMPORARY TABLE locked AS WITH r AS (SELECT id FROM wall WHERE e IS NOT NULL ORDER BY e <=> some_vector(7, 16), id LIMIT 20 FOR UPDATE) SELECT id FROM r;
CREATE TEMPORARY TABLE gone AS WITH d AS (DELETE FROM wall WHERE ctid IN (SELECT ctid FROM wall WHERE e IS NOT NULL ORDER BY e <=> some_vector(7, 16), id LIMIT 20) RETURNING id) SELECT id FROM d;
SELECT count(*), (SELECT count(*) FROM (TABLE locked EXCEPT TABLE gone) AS x) AS other FROM gone;
ROLLBACK;
RESET enable_seqscan;
