-- An index over a column of pgvector answers as a sequential scan does: rows, and scores to the last bit.
-- The casts read pgvector's layout, and refuse other bytes.
CREATE EXTENSION vector;
CREATE EXTENSION photosearch;
CREATE EXTENSION photosearch_pgvector;

CREATE FUNCTION numbers(seed integer, dims integer) RETURNS real[] LANGUAGE sql IMMUTABLE
RETURN (SELECT array_agg(round(sin(seed * 1.7 + i * i * 0.37 + seed * i * 0.11)::numeric, 4) ORDER BY i)::real[] FROM generate_series(1, dims) AS i);
CREATE TABLE album (id int PRIMARY KEY, v vector(48), h halfvec(48), loose vector);
INSERT INTO album SELECT n, numbers(n, 48)::vector, numbers(n, 48)::halfvec, numbers(n, 48)::vector FROM generate_series(1, 2000) AS n;
UPDATE album SET v = NULL, h = NULL, loose = NULL WHERE id % 40 = 0;
CREATE INDEX album_v ON album USING mrl ((v::mrl_vector(48))) WITH (prefix_dims = 48);
CREATE INDEX album_h ON album USING mrl ((h::mrl_vector(48))) WITH (prefix_dims = 48);
CREATE INDEX album_loose ON album USING mrl ((loose::mrl_vector(48))) WITH (prefix_dims = 16);
CREATE INDEX album_partial ON album USING mrl ((v::mrl_vector(48))) WITH (prefix_dims = 16) WHERE id <= 500;
ANALYZE album;

-- Compares a condition on e (the vector's expression) and the scores of its rows by indexes and without.
CREATE FUNCTION compared(e text, condition text, OUT index text, OUT rows bigint, OUT same boolean) LANGUAGE plpgsql AS $$
DECLARE
    query text := format('SELECT id, float8send(fine_score(%s, numbers(7, 48)::mrl_vector)) AS bits FROM album WHERE %s', e, replace(condition, '{e}', e));
    line text;
BEGIN
    CREATE TEMPORARY TABLE by_index (id int, bits bytea) ON COMMIT DROP;
    CREATE TEMPORARY TABLE by_scan (id int, bits bytea) ON COMMIT DROP;
    SET LOCAL enable_seqscan = off;
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        index := coalesce(index, substring(line FROM 'Index Scan (?:on|using) (album_\w+)'));
    END LOOP;
    EXECUTE 'INSERT INTO by_index ' || query;
    SET LOCAL enable_seqscan = on;
    SET LOCAL enable_indexscan = off;
    SET LOCAL enable_bitmapscan = off;
    EXECUTE 'INSERT INTO by_scan ' || query;
    SELECT count(*) INTO rows FROM by_scan;
    same := NOT EXISTS ((TABLE by_index EXCEPT ALL TABLE by_scan) UNION ALL (TABLE by_scan EXCEPT ALL TABLE by_index));
    DROP TABLE by_index, by_scan;
    SET LOCAL enable_indexscan = on;
    SET LOCAL enable_bitmapscan = on;
END
$$;
CREATE TABLE conditions AS
SELECT e, condition FROM (VALUES
    ('v'), ('v::mrl_vector'), ('v::mrl_vector(48)'), ('CAST(v AS mrl_vector(48))'), ('h'), ('h::mrl_vector(48)'), ('loose::mrl_vector(48)'), ('loose')) AS expression (e),
    unnest(ARRAY[
        $$fine_score({e}, numbers(7, 48)::mrl_vector) >= 0.3$$,
        $$fine_score(numbers(7, 48)::vector, {e}) BETWEEN 0.25 AND 0.75$$,
        $$({e} <=> numbers(7, 48)::mrl_vector) < 0.6$$,
        $$coarse_match({e}, numbers(7, 48)::vector, 0.3, 16)$$,
        $$NOT coarse_match({e}, numbers(9, 48)::mrl_vector, 0.1, 16) AND fine_score({e}, numbers(7, 48)::halfvec) > 0.2$$,
        $${e} @~ mrl_probe(numbers(7, 48)::vector, 0.3, 48)$$
    ]) AS condition;
-- `loose` without dimensions is another expression than that of its index.
SELECT e, condition, (compared(e, condition)).* FROM conditions ORDER BY condition, e;

-- The same after changes, deletions, a vacuum, and with rows of all kinds of storage.
UPDATE album SET v = numbers(id + 3, 48)::vector, h = numbers(id + 3, 48)::halfvec, loose = numbers(id + 3, 48)::vector WHERE id % 3 = 0;
DELETE FROM album WHERE id % 7 = 1;
UPDATE album SET v = NULL WHERE id % 11 = 0;
INSERT INTO album SELECT n + 2000, numbers(n, 48)::vector, NULL, numbers(n, 48)::vector FROM generate_series(1, 50) AS n;
SELECT bool_and(c.same) AS same, sum(c.rows) > 1000 AS many FROM conditions, compared(e, condition) AS c;
VACUUM album;
UPDATE album SET v = l2_normalize(v) WHERE id % 5 = 0;
SELECT bool_and(c.same) AS same, sum(c.rows) > 1000 AS many FROM conditions, compared(e, condition) AS c;
SELECT count(*) FROM photosearch.check_index('album_v');
SELECT count(*) FROM photosearch.check_index('album_h');

-- A generic plan with a parameter of pgvector's type, and in the order of the score.
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
PREPARE near (vector) AS SELECT id FROM album WHERE fine_score(v, $1) >= 0.5 ORDER BY fine_score(v, $1) DESC, id;
EXPLAIN (COSTS OFF) EXECUTE near (NULL);
EXECUTE near (numbers(7, 48)::vector);
EXECUTE near (NULL);
PREPARE best (vector) AS SELECT id FROM album WHERE v::mrl_vector IS NOT NULL ORDER BY v <=> $1::mrl_vector LIMIT 3;
EXPLAIN (COSTS OFF) EXECUTE best (NULL);
EXECUTE best (numbers(7, 48)::vector);
DEALLOCATE ALL;
-- A query of other dimensions raises no error for rows that other conditions reject.
SELECT id FROM album WHERE fine_score(v, '[1,2]') >= 0.5 AND id < 0;
SELECT id FROM album WHERE fine_score(v, '[1,2]') >= 0.5;
-- A view, a partitioned table, UNION ALL, a correlated subselect.
CREATE VIEW seen AS SELECT id, v FROM album WHERE id % 2 = 0;
PREPARE seen (vector) AS SELECT id FROM seen WHERE coarse_match(v, $1, 0.5, 48);
EXPLAIN (COSTS OFF) EXECUTE seen (NULL);
DEALLOCATE seen;
RESET plan_cache_mode;
CREATE TABLE parts (id int, v vector(3)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
CREATE INDEX ON parts USING mrl ((v::mrl_vector(3))) WITH (prefix_dims = 3);
INSERT INTO parts SELECT n, ARRAY[n, 1, 2]::vector FROM generate_series(0, 19) AS n;
EXPLAIN (COSTS OFF) SELECT id FROM parts WHERE fine_score(v, '[1,9,9]') >= 0.9;
SELECT id FROM parts WHERE fine_score(v, '[1,9,9]') >= 0.9 ORDER BY id;
EXPLAIN (COSTS OFF) SELECT id FROM (SELECT id, v FROM parts_1 UNION ALL SELECT id, v FROM parts_2) AS u WHERE coarse_match(v::mrl_vector(3), '[1,9,9]', 0.9, 3);
-- The plan without the marks that disabled nodes have from Postgres 18 on.
CREATE FUNCTION plan_of(statement text) RETURNS TABLE (plan text) LANGUAGE plpgsql AS $$
BEGIN
    FOR plan IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
        CONTINUE WHEN plan ~ '^ *Disabled: ';
        RETURN NEXT;
    END LOOP;
END
$$;
SELECT * FROM plan_of('SELECT (SELECT count(*) FROM parts_1 AS p WHERE fine_score(p.v, a.v) >= 0.9) FROM parts_2 AS a');
RESET enable_seqscan;

-- Dimensions are checked unless a table's column declares them.
SELECT v::mrl_vector(47) FROM album WHERE id = 2;
CREATE FUNCTION undeclared() RETURNS SETOF record LANGUAGE sql AS $$SELECT '[1,2]'::vector$$;
\set SHOW_CONTEXT never
SELECT x::mrl_vector(3) FROM undeclared() AS f (x vector(3));
\set SHOW_CONTEXT errors
SELECT loose::mrl_vector(47) FROM album WHERE id = 2;
SELECT x::mrl_vector(3) FROM (VALUES ('[1,2]'::vector)) AS f (x);
SELECT x::vector(3)::mrl_vector(3) FROM (VALUES ('[1,2]'::vector)) AS f (x);
CREATE TABLE ours (e mrl_vector(47));
INSERT INTO ours SELECT v FROM album WHERE id = 2;
INSERT INTO ours VALUES ('[1,2]'::vector);
INSERT INTO album VALUES (-1, '[1,2]');
INSERT INTO album (id, loose) VALUES (-1, '[1,2]');
DROP VIEW seen;
ALTER TABLE album ALTER COLUMN v TYPE vector(2) USING '[1,2]';
-- A column that changes its dimensions makes a prepared statement check again.
CREATE TABLE changed (v vector(48));
PREPARE short AS SELECT count(v::mrl_vector(48)) FROM changed;
INSERT INTO changed VALUES (numbers(1, 48)::vector);
EXECUTE short;
ALTER TABLE changed ALTER COLUMN v TYPE vector(2) USING '[1,2]';
EXECUTE short;
DEALLOCATE short;

-- 1 and 16,000 dimensions, in the row and out of line, and every finite half.
CREATE TABLE extremes (v vector, h halfvec);
INSERT INTO extremes VALUES ('[3]', '[3]'), (array_fill(0.1, ARRAY[16000])::real[]::vector, array_fill(0.1, ARRAY[16000])::real[]::halfvec);
SELECT vector_dims(v::mrl_vector) AS dims, v::mrl_vector = v::real[]::mrl_vector AS v, h::mrl_vector = h::real[]::mrl_vector AS h,
       mrl_vector_send(v::mrl_vector) = mrl_vector_send(v::real[]::mrl_vector) AS bits FROM extremes ORDER BY 1;
ALTER TABLE extremes ALTER COLUMN v SET STORAGE main, ALTER COLUMN h SET STORAGE main;
INSERT INTO extremes SELECT v + v, h + h FROM extremes;
SELECT vector_dims(v::mrl_vector) AS dims, mrl_vector_send(v::mrl_vector) = mrl_vector_send(v::real[]::mrl_vector) AS v, mrl_vector_send(h::mrl_vector) = mrl_vector_send(h::real[]::mrl_vector) AS h FROM extremes ORDER BY 1;
-- Rounding to the nearest half, ties to even, as by way of real[]; with lengths that no vector instruction divides.
SELECT count(*) AS vectors, bool_and(mrl_vector_send(v::mrl_vector) = mrl_vector_send(v::real[]::mrl_vector)) AS same_bits
FROM (SELECT array_agg((CASE WHEN i % 5 = 0 THEN 1 + i / 2048.0 ELSE sin(i) * 10 ^ (i % 14 - 9) END)::real)::vector AS v FROM generate_series(1, 4000) AS i, generate_series(1, 37) AS n WHERE i % 37 <= n GROUP BY n) AS x;

-- Values that a half cannot hold are named.
SELECT '[1,70000]'::vector::mrl_vector;
SELECT fine_score(v, v) FROM (VALUES ('[1,-1e38]'::vector)) AS x (v);

-- Bytes of another type. Only a superuser can declare a function of the library with them.
CREATE FUNCTION of_vector(bytea) RETURNS mrl_vector AS '$libdir/photosearch', 'pgvector_vector_to_mrl_vector_wrapper' LANGUAGE C STRICT;
CREATE FUNCTION of_halfvec(bytea) RETURNS mrl_vector AS '$libdir/photosearch', 'pgvector_halfvec_to_mrl_vector_wrapper' LANGUAGE C STRICT;
CREATE FUNCTION of_text(text) RETURNS mrl_vector AS '$libdir/photosearch', 'pgvector_vector_to_mrl_vector_wrapper' LANGUAGE C STRICT;
CREATE FUNCTION message(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
-- The first two are right on a machine whose lowest byte comes first: 1 and 2 dimensions.
SELECT of_vector('\x010000000000803f'), of_halfvec('\x02000000003c0040') WHERE substr(int4send(1), 1, 1) = '\x00';
SELECT bytes, message(format('SELECT of_vector(%L)', bytes)) AS vector, message(format('SELECT of_halfvec(%L)', bytes)) AS halfvec
FROM unnest('{"","\\x00","\\x010000","\\x00000000","\\x01000000","\\x0100000000","\\x01000000000080","\\x010000000000803f00","\\x02000000000080","\\x010001000000803f","\\x010000010000803f","\\xffff0000","\\x0080000000000000","\\x010000000000c07f","\\x010000000000807f","\\x01000000007e","\\x01000000007c","\\x0100000000fc","\\x01000000ffff7f7f"}'::bytea[]) AS bytes;
SELECT message($$SELECT of_text('abcd efgh')$$), message($$SELECT of_text('')$$);
-- A value that is compressed is measured before it is expanded.
CREATE TABLE large (b bytea);
INSERT INTO large VALUES (decode(repeat('00', 10000000), 'hex')), (decode('81' || '3e' || repeat('00', 2 + 4 * 16001), 'hex')), (decode('80' || '3e' || repeat('00', 2 + 4 * 16000), 'hex'));
SELECT length(b), message(format('SELECT of_vector(b) FROM large WHERE length(b) = %s', length(b))) AS vector FROM large ORDER BY 1;
DROP FUNCTION of_vector, of_halfvec, of_text;

-- Another role: no rights but on the table.
CREATE ROLE regress_photosearch_reader;
GRANT SELECT ON album TO regress_photosearch_reader;
GRANT EXECUTE ON FUNCTION numbers TO regress_photosearch_reader;
SET ROLE regress_photosearch_reader;
SELECT count(*) FROM album WHERE fine_score(v, numbers(7, 48)::mrl_vector) >= 0.5;
DROP CAST (vector AS mrl_vector);
CREATE CAST (vector AS mrl_vector) WITH INOUT AS IMPLICIT;
RESET ROLE;
DROP OWNED BY regress_photosearch_reader;
DROP ROLE regress_photosearch_reader;

-- The casts with and without dimensions stay two expressions for GROUPING SETS, and columns get the types that the query says,
-- with data and without (as pg_dump writes it).
CREATE TABLE grouped (v vector(3));
INSERT INTO grouped VALUES ('[1,2,3]'), ('[3,2,1]');
SELECT v, v::mrl_vector AS m, count(*) FROM grouped GROUP BY GROUPING SETS ((v::mrl_vector(3)), (v)) ORDER BY 1, 2;
CREATE MATERIALIZED VIEW filled AS SELECT v::mrl_vector AS bare, v::mrl_vector(3) AS declared FROM grouped;
CREATE MATERIALIZED VIEW empty AS SELECT v::mrl_vector AS bare, v::mrl_vector(3) AS declared FROM grouped WITH NO DATA;
SELECT attrelid::regclass, attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid IN ('filled'::regclass, 'empty'::regclass) AND attnum > 0 ORDER BY attrelid::regclass::text, attname;
-- A cast that a query writes stays in sight. (postgres_fdw sends what EXPLAIN shows, so that a foreign partition compares in the
-- same type.)
EXPLAIN (COSTS OFF) SELECT FROM grouped WHERE v::mrl_vector(3) = (v + v)::mrl_vector(3);
EXPLAIN (COSTS OFF) SELECT FROM grouped WHERE v::mrl_vector <> l2_normalize(v)::mrl_vector;
DROP MATERIALIZED VIEW filled, empty;
DROP TABLE grouped;

-- A dump is restored, with an index, a view that casts in silence, and a generated column.
DROP TABLE album, extremes, ours, parts, changed, large, conditions;
CREATE DATABASE photosearch_original;
CREATE DATABASE photosearch_copy;
\c photosearch_original
CREATE SCHEMA theirs;
CREATE SCHEMA ours;
CREATE EXTENSION vector SCHEMA theirs;
CREATE EXTENSION photosearch SCHEMA ours;
CREATE EXTENSION photosearch_pgvector SCHEMA ours;
SET search_path = public, theirs, ours;
CREATE TABLE album (id int PRIMARY KEY, v vector(3), e mrl_vector(3) GENERATED ALWAYS AS (v) STORED);
INSERT INTO album SELECT n, ARRAY[n, 1, 2]::vector FROM generate_series(1, 20) AS n;
CREATE INDEX album_v ON album USING mrl ((v::mrl_vector(3))) WITH (prefix_dims = 3);
CREATE VIEW near AS SELECT id, fine_score(v, e) AS self FROM album WHERE fine_score(v, '[1,1,2]') >= 0.9;
\! pg_dump --dbname=photosearch_original | psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --dbname=photosearch_copy
\c photosearch_copy
SET search_path = public, theirs, ours;
\d album
SELECT extname, extnamespace::regnamespace FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY extname;
SELECT id, self > 0.9999 AS self FROM near ORDER BY id;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM near;
RESET enable_seqscan;
-- Dropping pgvector drops what is made of its types, and the vectors of photosearch stay.
SET client_min_messages = warning;
DROP EXTENSION vector CASCADE;
RESET client_min_messages;
SELECT relname, relkind FROM pg_class WHERE relname ~ '^(album|near)' ORDER BY relname;
SELECT extname FROM pg_extension WHERE extname <> 'plpgsql';
\c regression
DROP DATABASE photosearch_original;
DROP DATABASE photosearch_copy;
DROP EXTENSION photosearch_pgvector, photosearch;
DROP FUNCTION numbers, message, compared, undeclared, plan_of;
DROP EXTENSION vector;
