-- The type mrl_vector: text form, rounding, dimensions of a column, storage, norms and parts. Every expected value is
-- computed by hand from the definition of IEEE half precision.
SELECT '[1,2,3]'::mrl_vector;
SELECT ' [ 1 , -2.5 ,	3e-3, .5, 5., +1 ] '::mrl_vector;
SELECT '[0.1,65504,-65504,-0]'::mrl_vector;

-- Values are rounded to the nearest half. Subnormals are kept; values below half of the smallest subnormal become zero.
SELECT '[2047,2048,2049,2051,65519,6e-8,1e-8,1e-60]'::mrl_vector;

-- The printed form reads back as the same bits.
SELECT bool_and(mrl_vector_send(v) = mrl_vector_send(v::text::mrl_vector)) FROM generate_series(1, 100) AS i, some_vector(i, 64) AS v;

-- Invalid text.
SELECT left(input, 12) AS input, raised(format('SELECT %L::mrl_vector', input))
FROM unnest(ARRAY['', ' ', '1,2', '[', '[]', '[ ]', '[1', '[1,', '[1,]', '[,1]', '[1,,2]', '[1 2]', '[1]x', '[1]]', '[[1]]',
    '{1}', '[a]', '[0x1]', '[1_0]', '[1;2]', '[--1]', '[NaN]', '[1,inf]', '[-Infinity]', '[1,65520]', '[-1e60]', '[１]',
    '[1' || repeat(',junk', 100)]) AS input;
SELECT raised(format('SELECT %L::mrl_vector', '[' || repeat('1,', 16000) || '1]'));
SELECT vector_dims(('[' || repeat('1,', 15999) || '1]')::mrl_vector);
SELECT '[1,2'::mrl_vector;

-- A column with a declared number of dimensions refuses vectors of any other.
CREATE TABLE typed (e mrl_vector(3));
\d typed
INSERT INTO typed VALUES ('[1,2,3]'), (NULL);
INSERT INTO typed VALUES ('[1,2]');
INSERT INTO typed VALUES (ARRAY[1,2,3,4]);
UPDATE typed SET e = subvector(e, 1, 2);
TABLE typed;
ALTER TABLE typed ALTER e TYPE mrl_vector;
INSERT INTO typed VALUES ('[1,2]');
ALTER TABLE typed ALTER e TYPE mrl_vector(3);
DROP TABLE typed;
SELECT '[1,2,3]'::mrl_vector(3), '[1,2,3]'::mrl_vector::mrl_vector(3), NULL::mrl_vector(3) IS NULL AS null;
SELECT typmod, raised(format('SELECT %L::mrl_vector(%s)', '[1,2]', typmod))
FROM unnest('{2,3,16000,0,-1,16001,99999999999,"2,2",2.5,"''x''"}'::text[]) AS typmod;

-- Large vectors are stored out of line and uncompressed, so that a prefix can be read without the rest.
SELECT typlen, typalign, typstorage FROM pg_type WHERE oid = 'mrl_vector'::regtype;
CREATE TABLE stored (e mrl_vector);
INSERT INTO stored VALUES (some_vector(1, 8)), (some_vector(1, 100)), (some_vector(1, 2048)), (array_fill(1, ARRAY[2048])::mrl_vector);
SELECT vector_dims(e), pg_column_size(e) FROM stored;
ALTER TABLE stored ALTER e SET STORAGE extended;
INSERT INTO stored SELECT array_fill(0.5, ARRAY[2048])::mrl_vector;
SELECT bool_and(e = e::text::mrl_vector) AS intact, min(pg_column_size(e)) < 200 AS compressed FROM stored WHERE vector_dims(e) >= 100;
DROP TABLE stored;

-- Norms, subvectors and truncation.
SELECT vector_dims('[1,2,3]'::mrl_vector), l2_norm('[3,4]'::mrl_vector), l2_norm('[0,0]'::mrl_vector);
SELECT l2_normalize('[3,-4]'::mrl_vector), l2_normalize('[0,0]'::mrl_vector), l2_normalize('[6e-8]'::mrl_vector);
SELECT subvector('[1,2,3,4]'::mrl_vector, 2, 2), subvector('[1,2,3,4]'::mrl_vector, 3, 10), subvector('[1,2,3,4]'::mrl_vector, -1, 3);
SELECT start, count, raised(format('SELECT subvector(%L::mrl_vector, %s, %s)', '[1,2,3]', start, count))
FROM (VALUES (1, 0), (1, -1), (4, 1), (-5, 2), (2147483647, 2147483647), (-2147483648, 2147483647)) AS v (start, count);
SELECT mrl_truncate('[3,4,100]', 2), mrl_truncate('[0,0,1]', 2), mrl_truncate('[5]', 1);
SELECT dims, raised(format('SELECT mrl_truncate(%L, %s)', '[1,2,3]', dims)) FROM unnest('{0,-1,4,2147483647}'::int[]) AS dims;
