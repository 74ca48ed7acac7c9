-- The access method mrl. The reference for every index scan is a sequential scan, which must return the same rows;
-- photosearch.check_index compares the entries with the table.
CREATE TABLE photos (id int PRIMARY KEY, year int, e mrl_vector(64));
INSERT INTO photos SELECT i, 2000 + i % 20, some_vector(i, 64) FROM generate_series(1, 600) AS i;
-- Duplicates, opposites, zero vectors, zero prefixes, NULLs.
INSERT INTO photos SELECT 1000 + i, 2030, some_vector(i, 64) FROM generate_series(1, 30) AS i;
INSERT INTO photos SELECT 2000 + i, 2031, some_vector(i, 64) * -2 FROM generate_series(1, 30) AS i;
INSERT INTO photos SELECT 3000 + i, 2032, array_fill(0, ARRAY[64])::mrl_vector FROM generate_series(1, 3) AS i;
INSERT INTO photos SELECT 3010 + i, 2033, (array_fill(0::real, ARRAY[32]) || (some_vector(i, 32)::real[]))::mrl_vector FROM generate_series(1, 3) AS i;
INSERT INTO photos SELECT 4000 + i, 2034, NULL FROM generate_series(1, 5) AS i;
CREATE INDEX photos_e ON photos USING mrl (e) WITH (prefix_dims = 32);
ANALYZE photos;
SELECT * FROM photosearch.check_index('photos_e');

-- Runs a statement by a sequential scan, a bitmap scan and a plain index scan. Returns the number of rows; or "no index"
-- if a plan does not use the index; or "differs" if a scan returns other rows than the sequential scan.
CREATE FUNCTION found(statement text, index text DEFAULT 'photos_e') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    kinds text[] := ARRAY['seqscan', 'bitmapscan', 'indexscan'];
    kind text;
    ids int[];
    expected int[];
    line text;
    plan text;
BEGIN
    FOREACH kind IN ARRAY kinds LOOP
        FOR line IN SELECT unnest(kinds) LOOP
            PERFORM set_config('enable_' || line, (line = kind)::text, true);
        END LOOP;
        EXECUTE 'SELECT array_agg(id ORDER BY id) FROM (' || statement || ') AS s' INTO ids;
        plan := '';
        FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
            plan := plan || line;
        END LOOP;
        FOR line IN SELECT unnest(kinds) LOOP
            PERFORM set_config('enable_' || line, 'on', true);
        END LOOP;
        IF kind = 'seqscan' THEN
            expected := ids;
        ELSIF plan !~ (CASE kind WHEN 'bitmapscan' THEN 'Bitmap Index Scan on ' ELSE 'Index Scan using ' END || index) THEN
            RETURN 'no index: ' || plan;
        ELSIF ids IS DISTINCT FROM expected THEN
            RETURN format('%s differs: %s, not %s', kind, ids, expected);
        END IF;
    END LOOP;
    RETURN coalesce(cardinality(expected), 0) || ' rows';
END
$$;

-- Every form of the filter, alone and combined.
SET photosearch.coarse_threshold = 0.5; SET photosearch.coarse_dims = 32;
SELECT condition, found('SELECT id FROM photos WHERE ' || condition)
FROM unnest(ARRAY[
    $$coarse_match(e, some_vector(5, 64), 0.5, 32)$$,
    $$coarse_match(e, some_vector(5, 64))$$,
    $$e @~ some_vector(5, 64)$$,
    $$some_vector(5, 64) @~ e$$,
    $$e @~ mrl_probe(some_vector(5, 64), 0.5, 32)$$,
    $$NOT coarse_match(e, some_vector(5, 64), 0.5, 32)$$,
    $$NOT coarse_match(e, some_vector(5, 64))$$,
    $$e !@~ some_vector(5, 64)$$,
    $$e !@~ mrl_probe(some_vector(5, 64), 0.5, 32)$$,
    $$coarse_match(e, some_vector(5, 64), 0.2, 32) AND NOT coarse_match(e, some_vector(9, 64), 0.1, 32)$$,
    $$coarse_match(e, some_vector(5, 64), 0.2, 32) AND NOT coarse_match(e, some_vector(9, 64)) AND coarse_match(e, some_vector(6, 64), 0.1, 7)$$,
    $$coarse_match(e, some_vector(5, 64), 0.5, 32) AND year > 2010$$,
    $$coarse_match(e, NULL, 0.5, 32)$$,
    $$e IS NOT NULL AND coarse_match(e, array_fill(0, ARRAY[64])::mrl_vector, 0.0, 32)$$,
    $$coarse_match(e, array_fill(0, ARRAY[64])::mrl_vector, 0.1, 32)$$
]) AS condition;
-- The query is NULL, which is known only when the scan runs.
SELECT found('SELECT id FROM photos WHERE coarse_match(e, (SELECT e FROM photos WHERE id = 4001), 0.5, 32)');
EXPLAIN (COSTS OFF) SELECT id FROM photos WHERE e @~ mrl_probe('[1,2]', 0.5, 1) OR e !@~ mrl_probe('[1,2]', 0.5, 1);

-- Any number of dimensions and any threshold: the thresholds are similarities of rows, and the next numbers above and
-- below.
SELECT dims, count(*), array_agg(DISTINCT answer) FILTER (WHERE answer !~ '^\d+ rows$') AS wrong
FROM unnest(ARRAY[1, 2, 16, 31, 32, 33, 48, 64]) AS dims,
    LATERAL (SELECT slow_similarity(a.e, b.e, dims)::real AS t FROM photos AS a, photos AS b WHERE a.id IN (5, 17) AND b.id IN (5, 1005, 2005, 80, 333)) AS similarities,
    unnest(ARRAY[t, least(t + 1e-7, 1), greatest(t - 1e-7, -1)]) AS threshold,
    found(format('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), %s, %s)', threshold, dims)) AS answer
GROUP BY dims ORDER BY dims;
SELECT threshold, found(format('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), %L, 32)', threshold)) AS matches, found(format('SELECT id FROM photos WHERE NOT coarse_match(e, some_vector(5, 64), %L, 32)', threshold)) AS others
FROM unnest(ARRAY['-1', '-0.5', '0', '0.5', '1']) AS threshold;

-- The query comes from a subquery, a function in FROM, a parameter, or a column of another table.
SELECT found('SELECT id FROM photos WHERE coarse_match(e, (SELECT e FROM photos WHERE id = 7), 0.5, 32)');
SELECT found('SELECT id FROM photos, some_vector(3 + (random() * 0)::int, 64) AS q WHERE coarse_match(e, q, 0.5, 32)');
SELECT found('SELECT b.id FROM (SELECT e FROM photos WHERE id < 9 OFFSET 0) AS a, photos AS b WHERE coarse_match(b.e, a.e, 0.5, 32)');
SELECT found('SELECT b.id FROM (SELECT e FROM photos WHERE id < 9 OR id > 3000 OFFSET 0) AS a, photos AS b WHERE b.e @~ a.e');
SELECT found('SELECT id FROM photos WHERE id IN (SELECT b.id FROM (SELECT e FROM photos WHERE id = 4) AS a, photos AS b WHERE coarse_match(b.e, a.e, 0.5, 32))');
SET enable_seqscan = off;
PREPARE by_query (mrl_vector, real, int) AS SELECT count(*) FROM photos WHERE coarse_match(e, $1, $2, $3);
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE by_query(some_vector(5, 64), 0.5, 32);
EXECUTE by_query(some_vector(5, 64), 0.5, 32);
EXECUTE by_query(some_vector(6, 64), 0.5, 32);
EXECUTE by_query(some_vector(6, 64), 0.5, 20);
EXECUTE by_query(NULL, 0.5, 20);
RESET plan_cache_mode;
SELECT count(*) FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.5, 32) OR coarse_match(e, some_vector(6, 64), 0.5, 20);
EXPLAIN (COSTS OFF) SELECT count(*) FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.5, 1) OR coarse_match(e, some_vector(6, 64), 0.5, 2);
RESET enable_seqscan;
SELECT count(*) FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.5, 32) OR coarse_match(e, some_vector(6, 64), 0.5, 20);
DEALLOCATE by_query;

-- A part of an answer: LIMIT, and a cursor.
BEGIN;
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
SELECT count(*) FROM (SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.1, 32) LIMIT 7) AS s;
DECLARE c CURSOR FOR SELECT id, year FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.5, 32);
FETCH 2 FROM c;
UPDATE photos SET year = 1999 WHERE id = 5;
FETCH 2 FROM c;
MOVE ALL FROM c;
CLOSE c;
ROLLBACK;

-- A query that can't be compared with the rows is an error if there is a row to compare, and only then.
SELECT raised($$SELECT found('SELECT id FROM photos WHERE coarse_match(e, ''[1,2,3]'', 0.5, 2)')$$);
SET enable_seqscan = off;
SELECT raised($$SELECT id FROM photos WHERE coarse_match(e, '[1,2,3]', 0.5, 2)$$);
SET photosearch.coarse_dims = 100;
SELECT raised($$SELECT id FROM photos WHERE e @~ some_vector(5, 64)$$);
RESET photosearch.coarse_dims; RESET photosearch.coarse_threshold;
SELECT split_part(raised($$SELECT id FROM photos WHERE e @~ some_vector(5, 64)$$), ' /', 1);
CREATE TABLE empty (id int, e mrl_vector(64));
CREATE INDEX empty_e ON empty USING mrl (e);
SELECT id FROM empty WHERE coarse_match(e, '[1,2,3]', 0.5, 2);
SELECT id FROM empty WHERE e @~ some_vector(5, 64);
-- All rows are dead or invisible.
INSERT INTO empty VALUES (1, some_vector(1, 64));
DELETE FROM empty;
SELECT id FROM empty WHERE coarse_match(e, '[1,2,3]', 0.5, 2);
DROP TABLE empty;
RESET enable_seqscan;

-- Changes: insert, delete, update, rollback, vacuum.
DELETE FROM photos WHERE id % 3 = 0;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');
VACUUM photos;
SELECT * FROM photosearch.check_index('photos_e');
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');
INSERT INTO photos SELECT 5000 + i, 2040, some_vector(i, 64) FROM generate_series(1, 300) AS i;
UPDATE photos SET e = some_vector(id + 1, 64) WHERE id % 7 = 1 AND e IS NOT NULL;
UPDATE photos SET year = year + 1 WHERE id % 5 = 1;
UPDATE photos SET e = NULL WHERE id = 10;
BEGIN;
INSERT INTO photos SELECT 6000 + i, 2041, some_vector(i, 64) FROM generate_series(1, 100) AS i;
SAVEPOINT s;
INSERT INTO photos SELECT 7000 + i, 2041, some_vector(i, 64) FROM generate_series(1, 100) AS i;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');
ROLLBACK TO s;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');
ROLLBACK;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');
SELECT * FROM photosearch.check_index('photos_e');
VACUUM photos;
SELECT * FROM photosearch.check_index('photos_e');
REINDEX INDEX photos_e;
SELECT * FROM photosearch.check_index('photos_e');
REINDEX INDEX CONCURRENTLY photos_e;
SELECT * FROM photosearch.check_index('photos_e');
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');
TRUNCATE photos;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');
INSERT INTO photos SELECT i, 2000 + i % 20, some_vector(i, 64) FROM generate_series(1, 300) AS i;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)');

-- Kinds of indexes: several on one table, partial, on an expression, built concurrently, with a longer prefix.
CREATE INDEX CONCURRENTLY photos_whole ON photos USING mrl (e) WITH (prefix_dims = 64);
CREATE INDEX photos_new ON photos USING mrl (e) WITH (prefix_dims = 8) WHERE year >= 2010;
CREATE INDEX photos_half ON photos USING mrl ((subvector(e, 1, 16)::mrl_vector(16)));
SELECT * FROM photosearch.check_index('photos_whole');
SELECT * FROM photosearch.check_index('photos_new');
SELECT * FROM photosearch.check_index('photos_half');
DROP INDEX photos_e;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 48)', 'photos_whole');
DROP INDEX photos_whole;
SELECT found('SELECT id FROM photos WHERE year >= 2010 AND coarse_match(e, some_vector(5, 64), 0.3, 48)', 'photos_new');
SELECT found('SELECT id FROM photos WHERE coarse_match(subvector(e, 1, 16)::mrl_vector(16), some_vector(5, 16), 0.3, 16)', 'photos_half');
UPDATE photos SET year = year + 15 WHERE id % 4 = 0;
UPDATE photos SET year = year - 15 WHERE id % 6 = 0;
SELECT found('SELECT id FROM photos WHERE year >= 2010 AND coarse_match(e, some_vector(5, 64), 0.3, 8)', 'photos_new');
SELECT * FROM photosearch.check_index('photos_new');
DROP INDEX photos_new, photos_half;

-- Kinds of tables: unlogged, temporary, partitioned, with a domain as type, with other storage.
CREATE UNLOGGED TABLE fast AS SELECT id, e::mrl_vector FROM photos;
SELECT raised('CREATE INDEX ON fast USING mrl (e)');
ALTER TABLE fast ALTER e TYPE mrl_vector(64);
CREATE INDEX fast_e ON fast USING mrl (e);
SELECT found('SELECT id FROM fast WHERE coarse_match(e, some_vector(5, 64), 0.3, 64)', 'fast_e');
ALTER TABLE fast SET LOGGED;
SELECT found('SELECT id FROM fast WHERE coarse_match(e, some_vector(5, 64), 0.3, 64)', 'fast_e');
ALTER TABLE fast ALTER e SET STORAGE EXTERNAL;
INSERT INTO fast SELECT id + 1000, e FROM photos;
ALTER TABLE fast ALTER e SET STORAGE PLAIN;
INSERT INTO fast SELECT id + 2000, e FROM photos;
SELECT found('SELECT id FROM fast WHERE coarse_match(e, some_vector(5, 64), 0.3, 64)', 'fast_e');
VACUUM FULL fast;
SELECT found('SELECT id FROM fast WHERE coarse_match(e, some_vector(5, 64), 0.3, 64)', 'fast_e');
SELECT * FROM photosearch.check_index('fast_e');
DROP TABLE fast;
CREATE TEMP TABLE mine (id int, e mrl_vector(64));
CREATE INDEX mine_e ON mine USING mrl (e) WITH (prefix_dims = 16);
INSERT INTO mine SELECT id, e FROM photos;
DELETE FROM mine WHERE id % 2 = 0;
VACUUM mine;
SELECT found('SELECT id FROM mine WHERE coarse_match(e, some_vector(5, 64), 0.3, 16)', 'mine_e');
SELECT * FROM photosearch.check_index('mine_e');
DROP TABLE mine;
CREATE TABLE parts (id int, e mrl_vector(64)) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (150);
CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (150) TO (1000);
INSERT INTO parts SELECT id, e FROM photos;
CREATE INDEX parts_e ON parts USING mrl (e) WITH (prefix_dims = 32);
SELECT found('SELECT id FROM parts WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)', 'part_1_e_idx');
SELECT found('SELECT id FROM parts WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)', 'part_2_e_idx');
SELECT raised($$SELECT photosearch.check_index('parts_e')$$);
DROP TABLE parts;
CREATE DOMAIN embedding AS mrl_vector(64) CHECK (VALUE IS NOT NULL);
CREATE TABLE with_domain (id int, e embedding);
INSERT INTO with_domain SELECT id, e FROM photos;
CREATE INDEX with_domain_e ON with_domain USING mrl (e);
SELECT found('SELECT id FROM with_domain WHERE coarse_match(e, some_vector(5, 64), 0.3, 64)', 'with_domain_e');
DROP TABLE with_domain;
DROP DOMAIN embedding;

-- Storage parameters.
SELECT statement, raised(statement) FROM unnest(ARRAY[
    'CREATE INDEX ON photos USING mrl (e) WITH (prefix_dims = 65)',
    'CREATE INDEX ON photos USING mrl (e) WITH (prefix_dims = 0)',
    'CREATE INDEX ON photos USING mrl (e) WITH (prefix_dims = 5000)',
    'CREATE INDEX ON photos USING mrl (e) WITH (lists = 5)',
    'CREATE INDEX ON photos USING mrl (e, e)',
    'CREATE UNIQUE INDEX ON photos USING mrl (e)',
    'CREATE INDEX ON photos USING mrl (e DESC)',
    'CREATE INDEX ON photos USING mrl (e) INCLUDE (id)',
    'CREATE INDEX ON photos USING mrl (year)'
]) AS statement;
CREATE INDEX photos_e ON photos USING mrl (e) WITH (prefix_dims = 40);
ALTER INDEX photos_e SET (prefix_dims = 20);
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 40)');
INSERT INTO photos VALUES (500, 2000, some_vector(500, 64));
SELECT * FROM photosearch.check_index('photos_e');
REINDEX INDEX photos_e;
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 64), 0.3, 20)');
ALTER INDEX photos_e RESET (prefix_dims);
ALTER TABLE photos ALTER e TYPE mrl_vector(32) USING subvector(e, 1, 32);
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 32), 0.3, 20)');
SELECT * FROM photosearch.check_index('photos_e');
-- The column loses its declared dimensions: the index still accepts only vectors of the dimensions it was built for.
ALTER TABLE photos ALTER e TYPE mrl_vector;
SELECT raised('INSERT INTO photos VALUES (600, 2000, ''[1,2,3]'')');
SELECT raised('REINDEX INDEX photos_e');
SELECT found('SELECT id FROM photos WHERE coarse_match(e, some_vector(5, 32), 0.3, 20)');

-- An exclusion constraint with @~ would depend on each session's settings, so it is refused, also for an empty table.
CREATE TABLE apart (id int, e mrl_vector(64));
SELECT raised('ALTER TABLE apart ADD CONSTRAINT apart_e EXCLUDE USING mrl (e WITH @~)'),
       split_part(raised('CREATE TABLE apart_too (e mrl_vector(64), EXCLUDE USING mrl (e WITH @~))'), ' /', 1),
       split_part(raised('CREATE UNLOGGED TABLE apart_too (e mrl_vector(64), EXCLUDE USING mrl (e WITH @~))'), ' /', 1);
DROP TABLE apart;

-- A table access method of another name is accepted if its handler is that of heap.
CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE other (id int, e mrl_vector(64)) USING heap_too;
INSERT INTO other SELECT i, some_vector(i, 64) FROM generate_series(1, 20) AS i;
CREATE INDEX ON other USING mrl (e);
DROP TABLE other;
DROP ACCESS METHOD heap_too;

-- The counters of sweeps (scans over the codes of all entries).
CREATE TABLE album (id int, e mrl_vector(64));
INSERT INTO album SELECT i, some_vector(i, 64) FROM generate_series(1, 400) AS i;
CREATE INDEX album_e ON album USING mrl (e) WITH (prefix_dims = 32);
SET enable_seqscan = off;
SELECT count(*) FROM album WHERE coarse_match(e, some_vector(5, 64), 0.9, 32);
SELECT index, sweeps, entries, matches + undecided > 0 AS some, entries = matches + rejected + undecided AS adds_up, undecided < 3 AS few, milliseconds > 0 AS timed FROM photosearch.last_sweep();
SELECT count(*) FROM album WHERE coarse_match(e, some_vector(5, 64), 1, 32);
SELECT index, sweeps, entries, matches, rejected, undecided, refined FROM photosearch.last_sweep();
SELECT count(*) FROM generate_series(1, 5) AS i, album WHERE coarse_match(e, some_vector(i, 64), 1, 32);
SELECT index, sweeps, entries FROM photosearch.last_sweep();
SELECT count(*) FROM album WHERE coarse_match(e, some_vector(5, 64), 0.9, 32) OR coarse_match(e, some_vector(6, 64), 0.9, 32);
SELECT index, sweeps, entries FROM photosearch.last_sweep();
-- Of vectors stored out of line, only those of undecided rows are read.
CREATE TABLE wide (id int, e mrl_vector(1100));
INSERT INTO wide SELECT i, some_vector(i, 1100) FROM generate_series(1, 60) AS i;
CREATE INDEX wide_e ON wide USING mrl (e);
SELECT reltoastrelid AS toast FROM pg_class WHERE oid = 'wide'::regclass \gset
BEGIN;
SELECT pg_stat_get_xact_blocks_fetched(:toast) AS before \gset
SELECT count(*) BETWEEN 1 AND 59 AS some FROM wide WHERE coarse_match(e, some_vector(5, 1100), 0.1, 128);
SELECT undecided, pg_stat_get_xact_blocks_fetched(:toast) - :before AS toast_blocks FROM photosearch.last_sweep();
SELECT count(*) BETWEEN 1 AND 59 AS some FROM wide WHERE coarse_match(e, some_vector(5, 1100), 0.1, 1100);
SELECT undecided, pg_stat_get_xact_blocks_fetched(:toast) - :before >= 60 AS toast_read FROM photosearch.last_sweep();
COMMIT;
DROP TABLE wide;
RESET enable_seqscan;

-- Costs of a sweep: the coded prefix costs less than a shorter one; a prefix longer than the coded one costs most, and
-- a sequential scan is cheaper for it.
CREATE FUNCTION cost(dims int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE format('EXPLAIN (FORMAT JSON) SELECT id FROM album WHERE coarse_match(e, some_vector(5, 64), 0.9, %s)', dims) INTO plan;
    RETURN plan #>> '{0,Plan,Total Cost}';
END
$$;
SET enable_seqscan = off;
SELECT cost(32) < cost(16) AS shorter_costs_more, cost(16) < cost(48) AS longer_costs_most;
RESET enable_seqscan;
DROP FUNCTION cost;
SELECT raised($$SELECT photosearch.check_index('photos_pkey')$$), raised($$SELECT photosearch.check_index('photos')$$);
BEGIN;
SET LOCAL enable_seqscan = off;
SELECT pg_stat_get_xact_numscans('album_e'::regclass) AS before \gset
SELECT count(*) FROM generate_series(1, 3) AS i, album WHERE coarse_match(e, some_vector(i, 64), 1, 32);
SELECT pg_stat_get_xact_numscans('album_e'::regclass) - :before AS counted;
COMMIT;

-- The operator class.
SELECT opcname, opcdefault, amvalidate(c.oid) FROM pg_opclass AS c JOIN pg_am AS a ON opcmethod = a.oid WHERE amname = 'mrl';
SELECT amopstrategy, amopopr::regoperator FROM pg_amop JOIN pg_am AS a ON amopmethod = a.oid WHERE amname = 'mrl' ORDER BY 1;
SELECT name, pg_index_has_property('album_e'::regclass, name) FROM unnest(ARRAY['clusterable', 'index_scan', 'bitmap_scan', 'backward_scan']) AS name;

-- Row-level security, a security-barrier view, and a role without privilege on the table.
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_photosearch_guest;
RESET client_min_messages;
CREATE ROLE regress_photosearch_guest;
CREATE TABLE owned (id int, owner name, e mrl_vector(64));
INSERT INTO owned SELECT i, CASE WHEN i % 3 = 0 THEN 'regress_photosearch_guest' ELSE 'host' END, some_vector(i, 64) FROM generate_series(1, 300) AS i;
CREATE INDEX owned_e ON owned USING mrl (e) WITH (prefix_dims = 32);
ANALYZE owned;
ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON owned USING (owner = current_user);
CREATE VIEW shown WITH (security_barrier) AS SELECT id, e FROM owned WHERE id % 3 <> 1;
GRANT SELECT ON owned, shown TO regress_photosearch_guest;
SELECT found('SELECT id FROM owned WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)', 'owned_e');
SET ROLE regress_photosearch_guest;
SELECT found('SELECT id FROM owned WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)', 'owned_e');
SELECT found('SELECT id FROM shown WHERE e !@~ mrl_probe(some_vector(5, 64), 0.3, 32)', 'owned_e');
-- Behind a security barrier, NOT of a condition cannot use the index. It has the same rows.
SELECT count(*) FROM shown WHERE NOT coarse_match(e, some_vector(5, 64), 0.3, 32);
SELECT raised($$SELECT * FROM photosearch.check_index('owned_e')$$);
-- The counters could reveal hidden rows, so a role that a policy or a view restricts gets no counters.
SET enable_seqscan = off;
SELECT count(*) FROM owned WHERE coarse_match(e, some_vector(5, 64), 0.3, 32);
SELECT count(*) FROM photosearch.last_sweep();
SELECT count(*) FROM shown WHERE coarse_match(e, some_vector(5, 64), 0.3, 32);
SELECT count(*) FROM photosearch.last_sweep();
RESET ROLE;
SELECT index, entries FROM photosearch.last_sweep();
RESET enable_seqscan;
REVOKE SELECT ON owned FROM regress_photosearch_guest;
SET ROLE regress_photosearch_guest;
SELECT raised($$SELECT id FROM owned WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)$$);
SELECT found('SELECT id FROM shown WHERE coarse_match(e, some_vector(5, 64), 0.3, 32)', 'owned_e');
RESET ROLE;
DROP TABLE owned CASCADE;
DROP ROLE regress_photosearch_guest;

-- check_index evaluates index expressions as the owner of the index, not as the superuser who calls it.
CREATE ROLE regress_photosearch_owner;
GRANT CREATE ON SCHEMA public TO regress_photosearch_owner;
SET ROLE regress_photosearch_owner;
CREATE TABLE trap (id int, e mrl_vector(4));
CREATE FUNCTION whoami() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT current_user::text';
CREATE FUNCTION tell(v mrl_vector) RETURNS mrl_vector LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE NOTICE 'as %', public.whoami(); RETURN v; END $$;
INSERT INTO trap VALUES (1, '[1,2,3,4]');
CREATE INDEX trap_e ON trap USING mrl ((tell(e)::mrl_vector(4)));
RESET ROLE;
SELECT * FROM photosearch.check_index('trap_e');
SELECT current_user = session_user AS role_is_restored;
DROP TABLE trap;
DROP FUNCTION tell;
DROP FUNCTION whoami;
REVOKE CREATE ON SCHEMA public FROM regress_photosearch_owner;
DROP ROLE regress_photosearch_owner;

-- Space that vacuum has freed is used again, also on pages that hold one entry.
CREATE TABLE churn (id int, e mrl_vector(4096));
CREATE INDEX churn_e ON churn USING mrl (e) WITH (prefix_dims = 4096);
CREATE INDEX churn_f ON churn USING mrl (e) WITH (prefix_dims = 1504);
INSERT INTO churn SELECT i, array_fill(i, ARRAY[4096])::mrl_vector FROM generate_series(1, 30) AS i;
SELECT pg_relation_size('churn_e') AS e, pg_relation_size('churn_f') AS f \gset
DELETE FROM churn WHERE id % 3 = 0;
VACUUM churn;
INSERT INTO churn SELECT i, array_fill(i, ARRAY[4096])::mrl_vector FROM generate_series(31, 40) AS i;
SELECT pg_relation_size('churn_e') = :e AS no_growth, pg_relation_size('churn_f') = :f AS no_growth_either;
SELECT * FROM photosearch.check_index('churn_e');
DROP TABLE churn;
-- A build writes 1,024 pages at a time. Here each page holds one entry.
CREATE TABLE wide AS SELECT i AS id, ARRAY[i, 1] || array_fill(0, ARRAY[4094]) AS e FROM generate_series(1, 1025) AS i;
ALTER TABLE wide ALTER e TYPE mrl_vector(4096) USING e::mrl_vector;
CREATE INDEX wide_e ON wide USING mrl (e) WITH (prefix_dims = 4096);
SELECT pg_relation_size('wide_e') / 8192 AS pages;
SELECT * FROM photosearch.check_index('wide_e');
DELETE FROM wide WHERE id = 1025;
REINDEX INDEX wide_e;
SELECT pg_relation_size('wide_e') / 8192 AS pages;
SELECT * FROM photosearch.check_index('wide_e');
DROP TABLE wide;

-- A parallel scan returns the same rows as a serial one.
SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 2;
INSERT INTO album SELECT i, some_vector(i, 64) FROM generate_series(401, 3000) AS i;
ANALYZE album;
EXPLAIN (COSTS OFF) SELECT count(*), sum(id) FROM album WHERE coarse_match(e, some_vector(5, 64), 0.3, 2);
SELECT count(*), sum(id) FROM album WHERE coarse_match(e, some_vector(5, 64), 0.3, 32);
-- A scan that returns few rows may be parallel too, because it sweeps all pages of the index.
RESET min_parallel_table_scan_size; SET seq_page_cost = 0;
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, some_vector(5, 64), 0.99, 32);
RESET seq_page_cost;
RESET enable_seqscan; SET enable_indexscan = off; SET max_parallel_workers_per_gather = 0;
SELECT count(*), sum(id) FROM album WHERE coarse_match(e, some_vector(5, 64), 0.3, 32);
RESET ALL;
DROP TABLE album, photos;
DROP FUNCTION found;
