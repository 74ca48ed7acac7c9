-- Casts between mrl_vector and arrays, text and JSON.
SELECT '{1,-2.5,3e-3}'::real[]::mrl_vector, '{1,-2.5,3e-3}'::double precision[]::mrl_vector,
       '{1,-2,3}'::smallint[]::mrl_vector, '{1,-2,3}'::integer[]::mrl_vector, '{1,-2.5,3e-3}'::numeric[]::mrl_vector;
-- Every smallint gives the same vector as the same integer.
SELECT count(*), bool_and(ARRAY[i]::smallint[]::mrl_vector = ARRAY[i]::integer[]::mrl_vector) AS equal FROM generate_series(-32768, 32767) AS i;
SELECT '[1,-2.5,0.1,-0]'::mrl_vector::real[];
SELECT ARRAY[1, 2.5, 3]::mrl_vector(3), (ARRAY[9, 1, 2])[2:3]::mrl_vector;

-- An assignment casts an array to a vector, and a vector to real[], without an explicit cast.
CREATE TABLE arrays (e mrl_vector(2), r real[]);
INSERT INTO arrays VALUES (ARRAY[1, 2], '[1,2]'::mrl_vector), (ARRAY[1, 2]::smallint[], NULL), (ARRAY[0.5, 2], NULL), ('{1e0,2e0}'::real[], NULL), ('{1e0,2e0}'::double precision[], NULL);
TABLE arrays;
-- No cast is implicit: in an expression an array is not taken for a vector.
SELECT e FROM arrays WHERE e = ARRAY[1, 2];
SELECT fine_score('[1,2]', ARRAY[1, 2]);
SELECT castsource::regtype, casttarget::regtype, castcontext FROM pg_cast
WHERE 'mrl_vector'::regtype IN (castsource, casttarget) ORDER BY castsource::regtype::text, casttarget::regtype::text;

-- Casts through text, and vectors within rows, arrays and JSON.
SELECT '[1,2]'::text::mrl_vector, '[1,2]'::mrl_vector::text || '!', ARRAY['[1,2]', NULL]::mrl_vector[];
SELECT row_to_json(x) FROM (SELECT '[1,2]'::mrl_vector AS e) AS x;
SELECT * FROM jsonb_to_record('{"e": "[1,2]"}') AS x (e mrl_vector(2));
SELECT * FROM json_to_record('{"e": [1,2]}') AS x (e mrl_vector(2));

-- Every finite half is unchanged by a round trip through real[].
WITH halves AS (
    SELECT sign, exponent / 8 AS part, array_agg(
        sign::float8 * CASE exponent
            WHEN 0 THEN mantissa * 2::float8 ^ -24
            ELSE (1 + mantissa / 1024::float8) * 2::float8 ^ (exponent - 15)
        END ORDER BY exponent, mantissa)::real[] AS r
    FROM (VALUES (1), (-1)) AS s (sign), generate_series(0, 30) AS exponent, generate_series(0, 1023) AS mantissa
    GROUP BY sign, exponent / 8)
SELECT sum(cardinality(r)) AS halves, bool_and(r::mrl_vector::real[] = r) AS equal,
       bool_and(array_send(r::mrl_vector::real[]) = array_send(r)) AS same_bits
FROM halves;

-- Arrays that are not vectors.
SELECT value, raised(format('SELECT %s::mrl_vector', value)) FROM unnest(ARRAY[
    $$'{}'::real[]$$, $$'{NULL}'::real[]$$, $$'{1,NULL}'::integer[]$$, $$'{{1,2},{3,4}}'::real[]$$, $$'{{1,2}}'::numeric[]$$,
    $$'{NaN}'::real[]$$, $$'{Infinity}'::real[]$$, $$'{65520}'::real[]$$, $$'{-1e38}'::real[]$$,
    $$'{NaN}'::float8[]$$, $$'{-Infinity}'::float8[]$$, $$'{1e39}'::float8[]$$, $$'{1e308}'::float8[]$$,
    $$'{}'::smallint[]$$, $$'{1,NULL}'::smallint[]$$, $$'{{1,2}}'::smallint[]$$, $$'{65520}'::integer[]$$, $$'{2147483647}'::integer[]$$,
    $$'{NaN}'::numeric[]$$, $$'{Infinity}'::numeric[]$$, $$'{65520.5}'::numeric[]$$, $$ARRAY[10::numeric ^ 400]$$,
    $$array_fill(1, ARRAY[16001])$$, $$'{1,2}'::text[]$$, $$'{1,2}'::bigint[]$$, $$1$$, $$'(1,2)'::point$$]) AS value;
SELECT raised('INSERT INTO arrays VALUES (ARRAY[1, 2, 3])'), raised('SELECT ARRAY[1, 2]::mrl_vector(3)');
DROP TABLE arrays;

-- A double that lies just above the middle of two halves is rounded to real first, as real[] and the text form are, so
-- that every input gives the same vector.
SELECT '{1.00048828126}'::double precision[]::mrl_vector = '[1.00048828126]' AS same;
