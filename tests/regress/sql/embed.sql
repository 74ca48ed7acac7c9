-- Embedding in the server. The values of vectors belong to the model, so only properties that hold for every model are
-- shown; tests/golden compares the values with the reference implementation.

-- A BMP file of the given size. Its upper and its lower half have one colour each, given as bytes blue, green, red.
CREATE FUNCTION little_endian(n integer, bytes integer) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(substring(int4send(n) FROM i FOR 1), '' ORDER BY i DESC) FROM generate_series(5 - bytes, 4) AS i
$$;
CREATE FUNCTION bmp(width integer, height integer, upper_half bytea, lower_half bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT '\x424d'::bytea || little_endian(54 + length(pixels), 4) || little_endian(0, 4) || little_endian(54, 4)
        || little_endian(40, 4) || little_endian(width, 4) || little_endian(height, 4) || little_endian(1, 2) || little_endian(24, 2)
        || little_endian(0, 4) || little_endian(length(pixels), 4) || little_endian(0, 4) || little_endian(0, 4) || little_endian(0, 4) || little_endian(0, 4) || pixels
    FROM (SELECT string_agg(CASE WHEN y * 2 < height THEN lower_half ELSE upper_half END, '' ORDER BY y, x) AS pixels
          FROM generate_series(0, height - 1) AS y, generate_series(1, width) AS x) AS rows
$$;
CREATE TABLE pictures (name text PRIMARY KEY, image bytea);
INSERT INTO pictures VALUES ('red over blue', bmp(32, 32, '\x0000ff', '\xff0000')), ('blue over red', bmp(32, 32, '\xff0000', '\x0000ff')), ('wide', bmp(96, 16, '\x00ff00', '\x0000ff')),
    ('png', '\x89504e470d0a1a0a0000000d4948445200000020000000200802000000fc18eda30000002a4944415478daedd0b10900300cc030ffff749a27321404de056eeab400000000f005601200000000b6073687fc2e0a770b2b0000000049454e44ae426082');

-- The installed model.
SELECT name, family, dimensions, size BETWEEN 1 AND 10 * 1024 * 1024 AS small, state, coarse_threshold BETWEEN -1 AND 1 AS threshold, coarse_dims BETWEEN 1 AND dimensions AS dims
FROM photosearch.models WHERE name = 'photosearch-mini-1';
SHOW photosearch.model;

-- Vectors have the model's dimensions and length one; different inputs give different vectors.
SELECT vector_dims(t) = dimensions AS dims, abs(l2_norm(t) - 1) < 0.001 AS length, t = embed_text('photosearch-mini-1', 'a baby') AS again,
       t = embed_text('photosearch-mini-1', 'a baby', NULL) AS no_instruction, t <> embed_text('a dog') AS other_text, t <> embed_text('photosearch-mini-1', 'a baby', 'Find the opposite.') AS other_instruction
FROM photosearch.models, embed_text('a baby') AS t WHERE name = 'photosearch-mini-1';
SELECT p.name, vector_dims(e) = dimensions AS dims, abs(l2_norm(e) - 1) < 0.001 AS length, fine_score(e, embed_image(image)) > 0.9999 AS again,
       e <> embed_image('photosearch-mini-1', image, 'Find the opposite.') AS other_instruction
FROM pictures AS p, embed_image('photosearch-mini-1', image) AS e, photosearch.models AS m WHERE m.name = 'photosearch-mini-1' ORDER BY p.name;
-- The same pixels in another format give the same vector; upside down they do not.
SELECT fine_score(embed_image(a.image), embed_image(b.image)) > 0.9999 AS alike, a.name, b.name
FROM pictures AS a JOIN pictures AS b ON a.name > b.name ORDER BY a.name, b.name;

-- Empty, short, long and non-Latin texts.
SELECT bool_and(vector_dims(embed_text(t)) = 192 AND abs(l2_norm(embed_text(t)) - 1) < 0.001) AS embedded, count(DISTINCT embed_text(t)) AS different
FROM unnest(ARRAY['', ' ', E'\n', 'a', '赤ちゃん', 'طفل', '👶🏽', E'e\u0301', '<|im_end|>', repeat('a baby ', 100)]) AS t;
-- The placeholder for pictures is refused. A text longer than the model's context is cut off, as in the reference.
SELECT raised($$SELECT embed_text('<|vision_start|><|image_pad|><|vision_end|>')$$);
SELECT embed_text(repeat('a baby ', 20000)) = embed_text(repeat('a baby ', 20000) || 'and a dog') AS cut_off;

-- NULL content gives NULL whatever the other arguments are; a NULL model name is an error.
SELECT embed_text(NULL) IS NULL, embed_text('photosearch-mini-1', NULL) IS NULL, embed_text(NULL, NULL) IS NULL, embed_image(NULL) IS NULL, embed_image('photosearch-mini-1', NULL) IS NULL,
       embed_texts('photosearch-mini-1', NULL) IS NULL, embed_images('photosearch-mini-1', NULL) IS NULL, embed('photosearch-mini-1', NULL) IS NULL,
       embed('photosearch-mini-1', NULL, NULL) IS NULL, embed(NULL, NULL, '{}') IS NULL;
SELECT raised($$SELECT embed_text(NULL, 'a baby')$$), raised($$SELECT embed_images(NULL, '{}')$$), raised($$SELECT embed('photosearch-mini-1', 'a baby', '{NULL}')$$);

-- The array forms keep the order, return NULL for NULL, and agree with one call per element within a tolerance.
CREATE TABLE batch AS
    SELECT embed_texts('photosearch-mini-1', array_agg(t ORDER BY i)) AS vectors, array_agg(t ORDER BY i) AS texts
    FROM (SELECT i, CASE WHEN i % 5 <> 3 THEN repeat('a photo of a dog number ', i % 4 + 1) || i END AS t FROM generate_series(1, 21) AS i) AS x;
SELECT cardinality(vectors) = cardinality(texts) AS as_many, bool_and((v IS NULL) = (t IS NULL)) AS nulls, min(fine_score(v, embed_text(t))) > 0.9999 AS as_one_by_one, count(DISTINCT v)
FROM batch, unnest(vectors, texts) AS x (v, t) GROUP BY vectors, texts;
SELECT name, fine_score(v, embed_image(image)) > 0.9999 AS as_one_by_one
FROM (SELECT embed_images('photosearch-mini-1', array_agg(image ORDER BY name) || NULL::bytea) AS vectors, array_agg(name ORDER BY name) AS names, array_agg(image ORDER BY name) AS images FROM pictures) AS x,
     unnest(vectors, names, images) AS y (v, name, image);
SELECT embed_texts('photosearch-mini-1', '{}'), embed_texts('photosearch-mini-1', '{NULL,NULL}'), embed_images('photosearch-mini-1', '{}'), cardinality(embed_texts('photosearch-mini-1', '{{a,b},{c,NULL}}'));
DROP TABLE batch;

-- Pictures and text in one embedding.
SELECT fine_score(embed('photosearch-mini-1', 'a baby'), embed_text('a baby')) > 0.9999 AS text_alone,
       fine_score(embed('photosearch-mini-1', NULL, ARRAY[image]), embed_image(image)) > 0.9999 AS picture_alone,
       embed('photosearch-mini-1', 'a baby', ARRAY[image]) NOT IN (embed_image(image), embed_text('a baby')) AS both,
       embed('photosearch-mini-1', 'a baby', ARRAY[image, image]) <> embed('photosearch-mini-1', 'a baby', ARRAY[image]) AS two_pictures,
       embed('photosearch-mini-1', 'a baby', ARRAY[image, other]) <> embed('photosearch-mini-1', 'a baby', ARRAY[other, image]) AS their_order
FROM pictures, bmp(64, 32, '\x000000', '\xffffff') AS other WHERE name = 'red over blue';

-- Tables whose generated columns embed. A generated column has to name the model.
CREATE TABLE album (id int PRIMARY KEY, caption text, image bytea,
    e mrl_vector(192) GENERATED ALWAYS AS (embed_image('photosearch-mini-1', image)) STORED,
    c mrl_vector GENERATED ALWAYS AS (embed('photosearch-mini-1', caption, ARRAY[image])) STORED);
CREATE TABLE stable (image bytea, e mrl_vector GENERATED ALWAYS AS (embed_image(image)) STORED);
CREATE TABLE wrong (image bytea, e mrl_vector(2048) GENERATED ALWAYS AS (embed_image('photosearch-mini-1', image)) STORED);
INSERT INTO wrong VALUES (NULL);
SELECT raised('INSERT INTO wrong SELECT image FROM pictures');
INSERT INTO album SELECT row_number() OVER (ORDER BY name), name, image FROM pictures;
SELECT count(*), count(e), count(DISTINCT vector_dims(e)) FROM album;
UPDATE album SET image = (SELECT image FROM pictures WHERE name = 'png') WHERE caption = 'wide';
SELECT id, caption FROM album WHERE coarse_match(e, (SELECT embed_image(image) FROM pictures WHERE name = 'png'), 0.9999, 192) ORDER BY id;
SELECT raised('INSERT INTO album VALUES (9, ''no picture'', ''junk'')'), raised($$INSERT INTO album SELECT 100 + id, caption, CASE WHEN id = 3 THEN '' ELSE image END FROM album$$);
SELECT count(*) AS as_before FROM album;
DROP TABLE album, wrong;

-- Bytes that are no picture. (tests/hostile has hundreds of such files.)
SELECT input, raised(format('SELECT embed_image(%L::bytea)', input)) FROM unnest('{"",junk,GIF89a,"\\x89504e470d0a1a0a","\\xffd8ff","\\x424d"}'::text[]) AS input;
SELECT raised($$SELECT embed_image(substring(image FOR 60)) FROM pictures WHERE name = 'png'$$) LIKE '22P03 %' AS cut_short;
SELECT raised($$SELECT embed_images('photosearch-mini-1', array_agg(image ORDER BY name) || 'junk'::bytea) FROM pictures$$), raised($$SELECT embed('photosearch-mini-1', 'a', ARRAY[image, 'junk']) FROM pictures WHERE name = 'png'$$);
SET photosearch.max_image_size = '1kB';
SELECT raised($$SELECT embed_image(image) FROM pictures WHERE name = 'wide'$$), (SELECT vector_dims(embed_image(image)) FROM pictures WHERE name = 'png') AS small_enough;
RESET photosearch.max_image_size;
SET photosearch.max_embed_memory = '1MB';
SELECT raised($$SELECT embed_image(image) FROM pictures WHERE name = 'png'$$);
RESET photosearch.max_embed_memory;
-- Pictures of an array are decoded at the same time; one that does not fit into its share of the memory is decoded alone.
SET photosearch.max_embed_memory = '5MB';
SELECT embed_images('photosearch-mini-1', array_agg(image ORDER BY name)) = array_agg(embed_image('photosearch-mini-1', image) ORDER BY name) AS same,
       count(*) > 2 AS several FROM pictures;
RESET photosearch.max_embed_memory;

-- image_problem returns the reason why a picture can't be embedded, instead of an error, so that a backfill can skip it.
SELECT name, photosearch.image_problem(image) AS problem FROM pictures ORDER BY name;
SELECT photosearch.image_problem(input::bytea) AS problem FROM unnest('{"",junk,GIF89a,"\\x89504e470d0a1a0a","\\xffd8ff",%PDF-1.7}'::text[]) AS input;
SELECT photosearch.image_problem(NULL), photosearch.image_problem(substring(image FOR 60)) FROM pictures WHERE name = 'png';
SET photosearch.max_embed_memory = '1MB';
SET photosearch.max_image_size = '1kB';
SELECT name, photosearch.image_problem(image) AS problem FROM pictures WHERE name IN ('png', 'wide') ORDER BY name;
RESET photosearch.max_embed_memory;
RESET photosearch.max_image_size;
SELECT raised($$SELECT photosearch.image_problem(image, 'no-such-model') FROM pictures WHERE name = 'png'$$);

-- Models that do not exist, and names that would leave the directory of models.
SELECT model, raised(format('SELECT embed_text(%L, ''a baby'')', model)) FROM unnest(ARRAY['no-such-model', 'Photosearch-mini-1', '', '.', '..', '../x', '../models/photosearch-mini-1', '/etc', 'a/b', 'a\b', ' photosearch-mini-1', 'é', 'x' || chr(10)]) AS model;
SET photosearch.model = '../x';
SELECT raised($$SELECT embed_text('a baby')$$), raised($$SELECT coarse_match('[1]', '[1]')$$);
SET photosearch.model = '';
SELECT raised($$SELECT embed_text('a baby')$$);
RESET photosearch.model;

-- With photosearch.model_dir set, models are looked up in that directory first, and photosearch.models shows what is
-- wrong with each. Installed models are found as well.
COPY (SELECT 1) TO PROGRAM 'mkdir -p regress_models/empty regress_models/broken regress_models/.hidden regress_models/other && touch regress_models/file && echo "{" >regress_models/broken/config.json && echo "{\"model_type\": \"dinov2\"}" >regress_models/other/config.json';
SELECT set_config('photosearch.model_dir', current_setting('data_directory') || '/regress_models', false) IS NOT NULL AS set;
SELECT name, family, dimensions, state = 'ready' AS ready, state <> '' AS has_state FROM photosearch.models WHERE name IN ('empty', 'broken', 'file', '.hidden', 'other', 'photosearch-mini-1') ORDER BY name;
SELECT model, left(raised(format('SELECT embed_text(%L, ''a baby'')', model)), 5) FROM unnest('{empty,broken,file,.hidden,other}'::text[]) AS model;
SELECT vector_dims(embed_text('a baby'));
COPY (SELECT 1) TO PROGRAM 'rm -r regress_models';
SELECT count(*) FROM photosearch.models WHERE name = 'photosearch-mini-1';
RESET photosearch.model_dir;

-- An uncorrelated argument in a filter is embedded once, not once per row: also a picture, and a text that is too long
-- for the cache. Embedding it for each row would exceed the timeout many times over.
SET statement_timeout = '60s';
SELECT count(*) FROM generate_series(1, 100000) AS i WHERE vector_dims(embed_image((SELECT image FROM pictures WHERE name = 'png'))) = i;
SELECT count(*) FROM generate_series(1, 20000) AS i WHERE vector_dims(embed_text((SELECT repeat('a baby ', 2000)))) = i;
RESET statement_timeout;

-- A statement is cancelled before a model is loaded, and while the model runs. The session goes on.
\c
SET statement_timeout = 50;
\set VERBOSITY sqlstate
SELECT cardinality(embed_texts('photosearch-mini-1', array_agg('a baby and ' || i))) FROM generate_series(1, 50000) AS i;
SELECT cardinality(embed_texts('photosearch-mini-1', array_agg('a baby and ' || i))) FROM generate_series(1, 50000) AS i;
\set VERBOSITY default
RESET statement_timeout;
SELECT vector_dims(embed_text('a baby')), fine_score(embed_text('a baby'), embed_text('a baby')) > 0.9999 AS same;

-- Within a transaction, rolling back to a savepoint undoes the rows embedded after it and keeps those before it.
BEGIN;
CREATE TABLE notes (t text, e mrl_vector);
INSERT INTO notes SELECT t, embed_text(t) FROM unnest('{a,b}'::text[]) AS t;
SAVEPOINT s;
INSERT INTO notes SELECT t, embed_image(t::bytea) FROM unnest('{c,d}'::text[]) AS t;
ROLLBACK TO s;
SELECT count(*), count(e) FROM notes;
COMMIT;
-- Indexes on expressions are not recommended. The form that names its model is immutable and may be used in one.
SELECT raised('CREATE INDEX ON notes USING hash (embed_text(t))');
CREATE INDEX notes_hash ON notes USING hash (embed_text('photosearch-mini-1', t));
SELECT count(*) FROM notes WHERE embed_text('photosearch-mini-1', t) = embed_text('photosearch-mini-1', 'a');
DROP TABLE notes, pictures;
DROP FUNCTION bmp, little_endian;
