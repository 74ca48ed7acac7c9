-- A database is dumped by pg_dump and restored into another one, which must give the same answers.
CREATE DATABASE photosearch_original;
CREATE DATABASE photosearch_copy;
\c photosearch_original
CREATE SCHEMA vectors;
CREATE EXTENSION photosearch SCHEMA vectors;
SET search_path = public, vectors;
CREATE TABLE album (id int PRIMARY KEY, caption text,
    e mrl_vector(192) GENERATED ALWAYS AS (embed_text('photosearch-mini-1', caption)) STORED,
    given mrl_vector DEFAULT '[1,2]', seen mrl_probe, CHECK (vector_dims(given) < 10));
INSERT INTO album VALUES (1, 'a baby', DEFAULT, '[-0,65504]', mrl_probe('[0.1,0.2]', 0.3, 1)), (2, 'a dog', DEFAULT, DEFAULT, NULL), (3, NULL, DEFAULT, NULL, NULL);
CREATE VIEW near AS SELECT id FROM album WHERE coarse_match(given, '[1,2]', 0.9, 2) AND NOT given @~ mrl_probe('[1,-2]', 0.9, 2);
CREATE VIEW named AS SELECT id, caption FROM album WHERE coarse_match(e, embed_text('photosearch-mini-1', 'a baby'), 0.999, 192);
CREATE FUNCTION nearest(q mrl_vector) RETURNS int LANGUAGE sql STABLE RETURN (SELECT id FROM album WHERE vector_dims(given) = vector_dims(q) ORDER BY given <=> q LIMIT 1);
CREATE INDEX album_given ON album (given);
CREATE INDEX album_near ON album (id) WHERE coarse_match(given, '[1,2]', 0.9, 2);
ALTER TABLE album ADD EXCLUDE USING hash (given WITH =);
SELECT id, caption, given, seen FROM album ORDER BY id;
TABLE near; TABLE named; SELECT nearest('[2,2]');
SELECT e AS baby FROM album WHERE id = 1 \gset
\! pg_dump --dbname=photosearch_original | psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --dbname=photosearch_copy
\c photosearch_copy
SET search_path = public, vectors;
SELECT extname, extnamespace::regnamespace FROM pg_extension WHERE extname = 'photosearch';
SELECT id, caption, given, seen FROM album ORDER BY id;
SELECT id, fine_score(e, :'baby') > 0.9999 AS the_baby FROM album ORDER BY id;
TABLE near; TABLE named; SELECT nearest('[2,2]');
\d album
\c regression
DROP DATABASE photosearch_original;
DROP DATABASE photosearch_copy;
