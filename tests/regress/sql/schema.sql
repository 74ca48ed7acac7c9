-- The extension in a schema with a name that needs quotes, and with a hostile search_path.
CREATE DATABASE photosearch_elsewhere;
\c photosearch_elsewhere
CREATE SCHEMA "My Photos";
CREATE EXTENSION photosearch SCHEMA "My Photos";
CREATE TABLE album (id int, e "My Photos".mrl_vector(2));
INSERT INTO album VALUES (1, '[1,0]'), (2, '[0,1]');
SELECT id, "My Photos".fine_score(e, '[3,4]') AS score, e OPERATOR("My Photos".<=>) '[3,4]' AS distance FROM album ORDER BY 2 DESC;
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE "My Photos".coarse_match(e, '[1,0]', 0.5, 2);
SELECT name, state FROM photosearch.models WHERE name = 'photosearch-mini-1';
SELECT "My Photos".vector_dims("My Photos".embed_text('a baby'));
SELECT "My Photos".embed_texts('photosearch-mini-1', '{a,NULL,b}') IS NOT NULL AS array_form;

-- A schema that comes first in search_path and holds a false version of everything that the rewritten query names.
CREATE SCHEMA trap;
CREATE DOMAIN trap.mrl_vector AS text;
CREATE DOMAIN trap.mrl_probe AS text;
CREATE FUNCTION trap.fail("My Photos".mrl_vector, "My Photos".mrl_probe) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
CREATE FUNCTION trap.mrl_probe("My Photos".mrl_vector, real, integer) RETURNS "My Photos".mrl_probe LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
CREATE OPERATOR trap.@~ (LEFTARG = "My Photos".mrl_vector, RIGHTARG = "My Photos".mrl_probe, FUNCTION = trap.fail);
CREATE FUNCTION trap.mrl_vector_to_real("My Photos".mrl_vector) RETURNS real[] LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
CREATE FUNCTION trap.float4eq(real, real) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
CREATE OPERATOR trap.= (LEFTARG = real, RIGHTARG = real, FUNCTION = trap.float4eq);
SET search_path = trap, pg_catalog;
SELECT id FROM public.album WHERE "My Photos".coarse_match(e, '[1,0]', 0.5, 2);
SELECT id FROM public.album WHERE NOT "My Photos".coarse_match(e, '[1,0]', 0.5, 2);
SELECT id, e::real[] FROM public.album ORDER BY e;
SELECT name FROM photosearch.models WHERE name = 'photosearch-mini-1';
SET search_path = '';
EXPLAIN (COSTS OFF) SELECT id FROM public.album WHERE "My Photos".coarse_match(e, '[1,0]', 0.5, 2);
RESET search_path;

-- CREATE EXTENSION does not take over an existing schema of the name photosearch.
DROP EXTENSION photosearch CASCADE;
CREATE SCHEMA photosearch;
\set VERBOSITY terse
CREATE EXTENSION photosearch;
\set VERBOSITY default
DROP SCHEMA photosearch;
CREATE EXTENSION photosearch;

-- DROP EXTENSION leaves no object, and the extension can be created again.
DROP SCHEMA trap CASCADE;
DROP TABLE album;
DROP EXTENSION photosearch;
SELECT count(*) AS left FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND refobjid NOT IN (SELECT oid FROM pg_extension);
SELECT proname AS left FROM pg_proc WHERE probin LIKE '%photosearch%';
SELECT nspname AS left FROM pg_namespace WHERE nspname = 'photosearch';
CREATE EXTENSION photosearch;
SELECT '[1,0]'::mrl_vector <=> '[0,1]';
\c regression
DROP DATABASE photosearch_elsewhere;
