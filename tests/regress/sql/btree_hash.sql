-- Comparison, hashing, and what builds on them: sorting, grouping, joins, btree and hash indexes, exclusion constraints.
-- Vectors compare value by value, then by length.
SELECT v FROM (VALUES ('[2]'::mrl_vector), ('[1,5]'), ('[1]'), ('[-1,9,9]'), ('[1,5,0]'), (NULL), ('[1,-5]')) AS x (v) ORDER BY v;
SELECT v FROM (VALUES ('[2]'::mrl_vector), ('[1,5]'), ('[1]')) AS x (v) ORDER BY v DESC;
SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, mrl_vector_cmp(a, b) AS cmp
FROM (VALUES ('[1,2]'::mrl_vector, '[1,3]'::mrl_vector), ('[1,2]', '[1,2]'), ('[1,2]', '[1]'), ('[-1]', '[-2,5]')) AS x (a, b);

-- 0 and -0 are one value: they are equal and have the same hash.
SELECT '[0,1]'::mrl_vector = '[-0,1]' AS equal, mrl_vector_hash('[0,1]') = mrl_vector_hash('[-0,1]') AS hash,
       mrl_vector_hash_extended('[0,1]', 7) = mrl_vector_hash_extended('[-0,1]', 7) AS seeded,
       mrl_vector_hash('[0,1]') = mrl_vector_hash('[1,0]') AS other,
       mrl_vector_hash_extended('[0,1]', 7) = mrl_vector_hash_extended('[0,1]', 8) AS other_seed;

CREATE TABLE vectors (id int, e mrl_vector);
INSERT INTO vectors SELECT i, ARRAY[i % 5, CASE WHEN i % 2 = 0 THEN 0 ELSE '-0'::float8 END]::mrl_vector FROM generate_series(1, 40) AS i;
ANALYZE vectors;
SELECT count(*), count(DISTINCT e) FROM vectors;
SET enable_hashagg = off;
SELECT count(*) FROM (SELECT DISTINCT e FROM vectors) AS x;
SELECT min(id), count(*) FROM vectors GROUP BY e ORDER BY 1;
RESET enable_hashagg;
SET enable_sort = off;
SELECT count(*) FROM (SELECT DISTINCT e FROM vectors) AS x;
EXPLAIN (COSTS OFF) SELECT e, count(*) FROM vectors GROUP BY e;
RESET enable_sort;

-- Hash join, merge join and nested loop find the same pairs.
SET enable_mergejoin = off; SET enable_nestloop = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM vectors AS a JOIN vectors AS b USING (e);
SELECT count(*) FROM vectors AS a JOIN vectors AS b USING (e);
RESET enable_mergejoin; SET enable_hashjoin = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM vectors AS a JOIN vectors AS b USING (e);
SELECT count(*) FROM vectors AS a JOIN vectors AS b USING (e);
SET enable_mergejoin = off; RESET enable_nestloop;
SELECT count(*) FROM vectors AS a JOIN vectors AS b USING (e);
RESET enable_mergejoin; RESET enable_hashjoin;

-- A btree index and a hash index find the rows that the operators define.
CREATE INDEX vectors_btree ON vectors (e);
CREATE INDEX vectors_hash ON vectors USING hash (e);
SET enable_seqscan = off; SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM vectors WHERE e >= '[2]' AND e < '[4]';
SELECT count(*) FROM vectors WHERE e >= '[2]' AND e < '[4]';
SELECT count(*) FROM vectors WHERE e = '[3,-0]';
DROP INDEX vectors_btree;
EXPLAIN (COSTS OFF) SELECT count(*) FROM vectors WHERE e = '[3,0]';
SELECT count(*) FROM vectors WHERE e = '[3,0]';
RESET enable_seqscan; RESET enable_bitmapscan;
DROP TABLE vectors;

-- An exclusion constraint keeps duplicates out, at any number of dimensions.
CREATE TABLE album (id int GENERATED ALWAYS AS IDENTITY, e mrl_vector, EXCLUDE USING hash (e WITH =));
INSERT INTO album (e) VALUES (some_vector(1, 2048)), (some_vector(2, 2048)), (NULL), (NULL);
SELECT raised('INSERT INTO album (e) VALUES (some_vector(2, 2048))') LIKE '23P01 conflicting key value %' AS refused;
INSERT INTO album (e) VALUES (some_vector(2, 2048)) ON CONFLICT DO NOTHING;
SELECT count(*), count(e) FROM album;
DROP TABLE album;

-- A btree index takes rows of up to 2,704 bytes, which is somewhat more than 1,340 dimensions.
CREATE TABLE album (e mrl_vector PRIMARY KEY);
INSERT INTO album VALUES (some_vector(1, 1340)), (some_vector(2, 8));
SELECT raised('INSERT INTO album VALUES (some_vector(1, 1340))') LIKE '23505 %' AS refused;
SELECT raised('INSERT INTO album VALUES (some_vector(1, 2048))') LIKE '54000 index row size % exceeds btree %' AS too_long;
DROP TABLE album;
