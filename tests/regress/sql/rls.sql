-- Row-level security: a role under a policy gets the plans that its owner gets, the right rows,
-- and nothing of the hidden ones.
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_photosearch_guest, regress_photosearch_nobody;
RESET client_min_messages;
CREATE ROLE regress_photosearch_guest;
CREATE TABLE album (id int PRIMARY KEY, owner name, e mrl_vector);
INSERT INTO album SELECT i, CASE WHEN i % 3 = 0 THEN 'regress_photosearch_guest' ELSE 'host' END, some_vector(i, 16) FROM generate_series(1, 90) AS i;
ANALYZE album;
ALTER TABLE album ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON album USING (owner = current_user);
GRANT SELECT ON album TO regress_photosearch_guest;

SET ROLE regress_photosearch_guest;
-- One filter: the operator need not wait for the policy. (With an index it becomes its condition.)
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, some_vector(5, 16), 0.2, 8);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE NOT coarse_match(e, '[1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]');
SELECT count(*) AS mine, count(*) FILTER (WHERE id % 3 <> 0) AS others FROM album WHERE coarse_match(e, some_vector(5, 16), 0.2, 8);
SELECT count(*) AS mine, count(*) FILTER (WHERE id % 3 <> 0) AS others FROM album WHERE NOT coarse_match(e, some_vector(5, 16), 0.2, 8);
SELECT count(*) AS all_of_mine FROM album;

-- A function that tells is not leakproof: it sees only the role's own rows.
CREATE FUNCTION pg_temp.tell(id int) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN IF id % 3 <> 0 THEN RAISE NOTICE 'saw %', id; END IF; RETURN true; END $$;
SELECT count(*) FROM album WHERE coarse_match(e, some_vector(5, 16), -2, 8) AND pg_temp.tell(id);
SELECT count(*) FROM album WHERE fine_score(e, some_vector(5, 16)) > -2 AND pg_temp.tell(id);

-- A hidden row of other dimensions can make itself known by its number of dimensions, and by
-- nothing else.
RESET ROLE;
INSERT INTO album VALUES (91, 'host', '[0.125,0.25,0.375]');
SET ROLE regress_photosearch_guest;
SELECT raised($$SELECT count(*) FROM album WHERE coarse_match(e, some_vector(5, 16), 0.2, 8)$$) IN ('no error', '22000 different vector dimensions 3 and 16') AS only_dimensions;
SELECT count(*) FROM album WHERE fine_score(e, some_vector(5, 16)) > -2;
DROP FUNCTION pg_temp.tell;
RESET ROLE;

-- Which functions are leakproof.
SELECT oid::regprocedure FROM pg_proc WHERE proleakproof AND probin LIKE '%photosearch%' ORDER BY oid::regprocedure::text;
DROP TABLE album;
DROP ROLE regress_photosearch_guest;

-- A user without any privilege embeds and searches; the directory of models is the superuser's.
CREATE ROLE regress_photosearch_nobody;
SET ROLE regress_photosearch_nobody;
SELECT vector_dims(embed_text('a baby')) > 0 AS embeds, (SELECT count(*) > 0 FROM photosearch.models) AS lists;
SELECT raised($$SET photosearch.model_dir = '/'$$), raised('SHOW photosearch.model_dir'), raised('SET photosearch.max_image_size = 1');
SET photosearch.model = 'photosearch-mini-1'; SET photosearch.coarse_dims = 3;
RESET ROLE;
RESET photosearch.model; RESET photosearch.coarse_dims;
DROP ROLE regress_photosearch_nobody;
