-- The extension photosearch_pgvector: casts between mrl_vector and pgvector's types. The reference is pgvector itself, by its
-- binary output. Run alone: tests/cluster.sh run DIR sh tests/regress/run.sh tests/bridge
-- The rows are stored before the extension is created.
CREATE EXTENSION photosearch;
CREATE EXTENSION vector;
CREATE TABLE album (id int PRIMARY KEY, e mrl_vector(3), v vector(3), h halfvec(3));
INSERT INTO album VALUES (1, '[1,2,3]', '[4,5,6]', '[7,8,9]');

-- Without the extension, values are cast by way of real[].
SELECT v::real[]::mrl_vector AS from_vector, h::real[]::mrl_vector AS from_halfvec, e::real[]::vector AS to_vector FROM album;
SELECT v::mrl_vector FROM album;

CREATE EXTENSION photosearch_pgvector;
SELECT v::mrl_vector AS from_vector, h::mrl_vector AS from_halfvec, e::vector AS to_vector, e::halfvec AS to_halfvec FROM album;

-- An assignment needs no explicit cast, and it checks the column's dimensions.
UPDATE album SET e = v, v = e, h = e;
INSERT INTO album VALUES (2, '[-0,65504,6e-8]'::halfvec, '[-0,65504,6e-8]'::mrl_vector, '[-0,65504,6e-8]'::mrl_vector);
TABLE album ORDER BY id;
INSERT INTO album (id, e) VALUES (3, '[1,2]'::vector);
INSERT INTO album (id, e) VALUES (3, '[1,2,3,4]'::halfvec);
INSERT INTO album (id, v) VALUES (3, '[1,2]'::mrl_vector);
SELECT '[1,2]'::vector::mrl_vector(3);
SELECT NULL::vector::mrl_vector IS NULL AS no_vector, NULL::mrl_vector::halfvec IS NULL AS no_mrl_vector;

-- Each of the 63,488 finite halves keeps its bits in both directions, subnormals and -0 included.
CREATE TABLE halves AS
    SELECT sign, exponent / 8 AS part, array_agg(
        sign::float8 * CASE exponent
            WHEN 0 THEN mantissa * 2::float8 ^ -24
            ELSE (1 + mantissa / 1024::float8) * 2::float8 ^ (exponent - 15)
        END ORDER BY exponent, mantissa)::real[]::halfvec AS h
    FROM (VALUES (1), (-1)) AS s (sign), generate_series(0, 30) AS exponent, generate_series(0, 1023) AS mantissa
    GROUP BY sign, exponent / 8;
SELECT sum(vector_dims(h)) AS halves,
       bool_and(mrl_vector_send(h::mrl_vector) = halfvec_send(h)) AS halfvec_to_mrl_vector,
       bool_and(halfvec_send(h::mrl_vector::halfvec) = halfvec_send(h)) AS mrl_vector_to_halfvec,
       bool_and(mrl_vector_send(h::mrl_vector::vector::mrl_vector) = halfvec_send(h)) AS through_vector,
       bool_and(halfvec_send(h::mrl_vector::text::halfvec) = halfvec_send(h)) AS text_to_halfvec,
       count(DISTINCT halfvec_send(h)) AS vectors
FROM halves;
-- The text form has as many digits as a half needs, so that a reader of floats gets other values than the casts give.
SELECT '[0.1]'::mrl_vector AS text, '[0.1]'::mrl_vector::text::vector AS by_text, '[0.1]'::mrl_vector::vector AS by_cast;

-- From vector, values are rounded to the nearest half; a value that is out of range is named.
SELECT '[0.1,2049,65519]'::vector::mrl_vector;
SELECT '[1,70000]'::vector::mrl_vector;

-- Only the casts to mrl_vector are implicit, so no expression is ambiguous.
SELECT castsource::regtype, casttarget::regtype, castcontext FROM pg_cast
WHERE 'mrl_vector'::regtype IN (castsource, casttarget) AND ('{vector,halfvec}'::regtype[] && ARRAY[castsource, casttarget]::regtype[])
ORDER BY castsource::regtype::text, casttarget::regtype::text;
SELECT round((e <=> '[3,2,1]')::numeric, 6) AS mrl_vector,
       round(('[3,2,1]' <=> e)::numeric, 6) AS commuted,
       round((v <=> '[3,2,1]')::numeric, 6) AS vector,
       round((h <=> '[3,2,1]')::numeric, 6) AS halfvec
FROM album WHERE id = 1;
SELECT e @~ mrl_probe('[4,5,6]', 0.9, 2) AS coarse, fine_score(e, '[4,5,6]') AS fine FROM album WHERE id = 1;
SELECT sum(e) AS mrl_vector, sum(v) AS vector, avg(h) AS halfvec FROM album WHERE id = 1;
SELECT e = '[4,5,6]' AS equal, e + '[1,1,1]' AS plus, vector_dims(e) AS dims, l2_norm(e)::numeric(6, 3) AS norm FROM album WHERE id = 1;
SELECT e <=> v = e <=> v::mrl_vector AS mixed, h <=> e = h::mrl_vector <=> e AS mixed, pg_typeof(coalesce(v, e)), fine_score(e, v) = fine_score(v, e) AS score FROM album WHERE id = 1;
SELECT '[1,2,3]' <=> '[1,2,3]';

-- A cast from mrl_vector is inlined: the plan shows the casts through real[].
EXPLAIN (VERBOSE, COSTS OFF) SELECT v::mrl_vector, e::halfvec FROM album;

-- Dropping the extension keeps the rows, and it can be created again.
DROP EXTENSION photosearch_pgvector;
SELECT v::mrl_vector FROM album;
CREATE EXTENSION photosearch_pgvector;

-- Dropping pgvector drops photosearch_pgvector and the columns of pgvector's types, and nothing of photosearch.
DROP EXTENSION vector;
SET client_min_messages = warning;
DROP EXTENSION vector CASCADE;
RESET client_min_messages;
SELECT extname FROM pg_extension WHERE extname IN ('photosearch', 'vector', 'photosearch_pgvector');
TABLE album ORDER BY id;

-- Dropping photosearch drops photosearch_pgvector, and nothing of pgvector.
DROP TABLE album, halves;
CREATE EXTENSION vector;
CREATE EXTENSION photosearch_pgvector;
CREATE TABLE theirs (v vector(2));
INSERT INTO theirs VALUES ('[1,2]');
DROP EXTENSION photosearch;
SET client_min_messages = warning;
DROP EXTENSION photosearch CASCADE;
RESET client_min_messages;
SELECT extname FROM pg_extension WHERE extname IN ('photosearch', 'vector', 'photosearch_pgvector');
TABLE theirs;
DROP TABLE theirs;
DROP EXTENSION vector;

-- Each extension in its own schema, with a name that needs quotes; types of the same names in public; and another
-- search_path afterwards.
CREATE SCHEMA "Search";
CREATE SCHEMA "pg's vectors";
CREATE SCHEMA "100% bridge";
CREATE DOMAIN public.vector AS text;
CREATE DOMAIN public.mrl_vector AS text;
CREATE EXTENSION photosearch SCHEMA "Search";
CREATE EXTENSION vector SCHEMA "pg's vectors";
CREATE EXTENSION photosearch_pgvector SCHEMA "100% bridge";
SET search_path = public;
SELECT '[1,2]'::"pg's vectors".vector::"Search".mrl_vector, '[3,4]'::"Search".mrl_vector::"pg's vectors".halfvec;
RESET search_path;
DROP EXTENSION photosearch_pgvector, photosearch, vector;
DROP DOMAIN public.vector, public.mrl_vector;
DROP SCHEMA "Search", "pg's vectors", "100% bridge";

-- A schema's name may contain a statement: the extension's script does not run it.
\set hostile '"x\nCREATE ROLE regress_photosearch_planted SUPERUSER;\n--"'
CREATE SCHEMA :hostile;
CREATE EXTENSION vector SCHEMA :hostile;
CREATE EXTENSION photosearch;
CREATE EXTENSION photosearch_pgvector;
SELECT count(*) AS planted FROM pg_roles WHERE rolname = 'regress_photosearch_planted';
SELECT count(*) AS casts FROM pg_cast JOIN pg_proc AS p ON p.oid = castfunc JOIN pg_depend ON objid = p.oid AND deptype = 'e' JOIN pg_extension AS e ON e.oid = refobjid WHERE extname = 'photosearch_pgvector';
DROP EXTENSION photosearch_pgvector, photosearch, vector;
DROP SCHEMA :hostile;

-- CASCADE creates the extensions that photosearch_pgvector requires.
SET client_min_messages = warning;
CREATE EXTENSION photosearch_pgvector CASCADE;
RESET client_min_messages;
SELECT '[1,2]'::vector::mrl_vector;
DROP EXTENSION photosearch_pgvector, photosearch, vector;
