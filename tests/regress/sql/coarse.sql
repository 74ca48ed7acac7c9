-- The coarse filter and the fine score: definitions, forms, settings, errors. The reference for every similarity is
-- slow_similarity, plain SQL in double precision.
SELECT coarse_match('[3,4]', '[1,0]', 0.6, 2) AS at, coarse_match('[3,4]', '[1,0]', 0.61, 2) AS above, coarse_match('[3,4,-9]', '[1,0,9]', 0.6, 2) AS prefix;
SELECT fine_score('[3,4]', '[1,0]'), fine_score('[3,4]', '[30,40]'), fine_score('[3,4]', '[-3,-4]'), fine_score('[1,0]', '[0,1]');
SELECT '[3,4]'::mrl_vector <=> '[1,0]' AS distance, '[3,4]'::mrl_vector <=> '[3,4]' AS same, '[3,4]'::mrl_vector <=> '[-3,-4]' AS opposite;

-- A zero vector, or a zero prefix, has similarity 0 with everything.
SELECT fine_score('[0,0]', '[1,2]'), fine_score('[1,2]', '[0,0]'), fine_score('[0,0]', '[0,0]'), '[0,0]'::mrl_vector <=> '[0,0]' AS distance;
SELECT coarse_match('[0,0,1]', '[1,1,1]', 0, 2) AS at_zero, coarse_match('[0,0,1]', '[1,1,1]', 0.001, 2) AS above, coarse_match('[1,1,1]', '[0,0,1]', -0.5, 2) AS below;

-- Thresholds are cosines: -1 keeps every row, 1 only rows of the query's direction.
SELECT threshold, coarse_match('[1,2]', '[-1,-2]', threshold, 2) AS opposite, coarse_match('[1,2]', '[1,2]', threshold, 2) AS same
FROM unnest('{-1,-0.5,0,1}'::real[]) AS threshold;

-- Every form returns NULL if one of its arguments is NULL.
SELECT coarse_match(NULL, '[1]', 0.5, 1) IS NULL, coarse_match('[1]', NULL, 0.5, 1) IS NULL, coarse_match('[1]', '[1]', NULL, 1) IS NULL,
       coarse_match('[1]', '[1]', 0.5, NULL) IS NULL, coarse_match(NULL, '[1]') IS NULL, coarse_match('[1]', NULL) IS NULL,
       fine_score(NULL, '[1]') IS NULL, fine_score('[1]', NULL) IS NULL, ('[1]'::mrl_vector <=> NULL) IS NULL,
       (NULL::mrl_vector @~ '[1]'::mrl_vector) IS NULL, (NULL::mrl_vector !@~ '[1]'::mrl_vector) IS NULL,
       mrl_probe(NULL, 0.5, 1) IS NULL, ('[1]'::mrl_vector @~ NULL::mrl_probe) IS NULL, ('[1]'::mrl_vector !@~ NULL::mrl_probe) IS NULL;

-- An album in which some rows have no vector and some have a zero vector.
CREATE TABLE album (id int PRIMARY KEY, e mrl_vector(40));
INSERT INTO album SELECT i, some_vector(i, 40) FROM generate_series(1, 300) AS i;
UPDATE album SET e = NULL WHERE id % 50 = 7;
UPDATE album SET e = e * 0 WHERE id % 50 = 9;
ANALYZE album;
CREATE FUNCTION query() RETURNS mrl_vector LANGUAGE sql IMMUTABLE AS $$ SELECT some_vector(1000, 40) $$;

-- Every form decides as the sums in double precision do, unless the similarity is so close to the threshold that f32
-- rounding may decide. The negated forms select the other rows, without those that have no vector.
CREATE VIEW forms AS
    SELECT id, dims, threshold, slow_similarity(e, query(), dims) AS slow,
           coarse_match(e, query(), threshold, dims) AS function_form,
           e @~ mrl_probe(query(), threshold, dims) AS operator_form,
           NOT coarse_match(e, query(), threshold, dims) AS negated_function,
           e !@~ mrl_probe(query(), threshold, dims) AS negated_operator
    FROM album, unnest('{1,2,7,8,31,32,33,40}'::int[]) AS dims, unnest('{-0.5,0,0.1,0.35}'::real[]) AS threshold;
SELECT dims, count(*) AS compared, count(*) FILTER (WHERE function_form) > 0 AS some,
       bool_and(function_form = (slow >= threshold) OR abs(slow - threshold) < 1e-5) AS right,
       bool_and(function_form = operator_form AND function_form <> negated_function AND negated_function = negated_operator) AS forms_agree,
       bool_and((function_form IS NULL) = (id % 50 = 7)) AS nulls
FROM forms GROUP BY dims ORDER BY dims;
SELECT max(abs(fine_score(e, query()) - slow_similarity(e, query(), 40))) < 1e-6 AS fine, max(abs((e <=> query()) - 1 + fine_score(e, query()))) < 1e-15 AS distance,
       bool_and(fine_score(e, query()) = fine_score(query(), e)) AS symmetric
FROM album;

-- In WHERE.
SELECT count(*) FILTER (WHERE coarse_match(e, query(), 0.1, 8)) AS expected,
       (SELECT count(*) FROM album WHERE coarse_match(e, query(), 0.1, 8)) AS function_form,
       (SELECT count(*) FROM album WHERE e @~ mrl_probe(query(), 0.1, 8)) AS operator_form,
       (SELECT count(*) FROM album WHERE coarse_match(query => query(), dims => 8, threshold => 0.1, embedding => e)) AS by_name,
       count(*) FILTER (WHERE e !@~ mrl_probe(query(), 0.1, 8)) AS expected_rest,
       (SELECT count(*) FROM album WHERE NOT coarse_match(e, query(), 0.1, 8)) AS negated_function,
       (SELECT count(*) FROM album WHERE e !@~ mrl_probe(query(), 0.1, 8)) AS negated_operator,
       (SELECT count(*) FROM album WHERE NOT e @~ mrl_probe(query(), 0.1, 8)) AS not_operator
FROM album;

-- The query is a column: of another table, and of the same table with the operands in both orders.
SELECT count(*), count(*) FILTER (WHERE matched) AS matched, bool_and(matched = (slow_similarity(a, b, 8) >= 0.3)) AS right
FROM (SELECT a.e AS a, b.e AS b, coarse_match(a.e, b.e, 0.3, 8) AS matched FROM album AS a, album AS b WHERE a.id < 40 AND b.id < 40) AS pairs
WHERE abs(slow_similarity(a, b, 8) - 0.3) > 1e-5;
SET photosearch.coarse_threshold = 0.3; SET photosearch.coarse_dims = 8;
SELECT count(*) FILTER (WHERE a.e @~ b.e) > 1000 AS many, bool_and((a.e @~ b.e) = (b.e @~ a.e) AND (a.e @~ b.e) = coarse_match(a.e, b.e, 0.3, 8) AND (a.e @~ b.e) <> (a.e !@~ b.e)) AS agree
FROM album AS a, album AS b WHERE a.e IS NOT NULL AND b.e IS NOT NULL;

-- The settings take effect within a session and within a statement.
SELECT count(*) AS "threshold 0.3, 8 dims" FROM album WHERE coarse_match(e, query());
SELECT count(*) AS "same" FROM album WHERE coarse_match(e, query(), 0.3, 8);
SET photosearch.coarse_dims = 40;
SELECT (SELECT count(*) FROM album WHERE e @~ query()) = (SELECT count(*) FROM album WHERE coarse_match(e, query(), 0.3, 40)) AS same;
SET photosearch.coarse_threshold = -1;
SELECT count(*) AS "all with a vector" FROM album WHERE e @~ query();
SELECT count(*) AS "no row" FROM album WHERE e !@~ query();
SET photosearch.coarse_dims = 2;
SELECT threshold, CASE WHEN set_config('photosearch.coarse_threshold', threshold::text, false) <> '' THEN coarse_match('[3,4]', '[1,0]') END AS matches
FROM unnest('{0.5,0.6,0.7,0.5}'::real[]) AS threshold;
-- At the threshold itself, which a real represents inexactly, the setting and the explicit forms decide alike.
SELECT threshold, CASE WHEN set_config('photosearch.coarse_threshold', threshold, false) <> '' THEN '[3,4]'::mrl_vector @~ '[1,0]' END AS by_setting,
       coarse_match('[3,4]', '[1,0]', threshold::real, 2) AS explicit, '[3,4]'::mrl_vector @~ mrl_probe('[1,0]', threshold::real, 2) AS probe
FROM unnest('{0.59999996,0.6,0.60000001,0.60000008}'::text[]) AS threshold;

-- If one of the two settings, or both, are unset, the values that photosearch.model recommends apply, provided that the
-- vectors have that model's dimensions.
RESET photosearch.coarse_dims;
SELECT raised($$SELECT coarse_match('[3,4]', '[1,0]')$$);
RESET photosearch.coarse_threshold;
SELECT raised($$SELECT '[3,4]'::mrl_vector @~ '[1,0]'$$);
SELECT coarse_match(some_vector(1, dimensions), some_vector(1, dimensions)) AS itself,
       coarse_match(some_vector(1, dimensions), some_vector(1, dimensions) * -1) AS its_opposite,
       coarse_match(some_vector(1, dimensions), some_vector(2, dimensions)) = coarse_match(some_vector(1, dimensions), some_vector(2, dimensions), coarse_threshold, coarse_dims) AS as_recommended
FROM photosearch.models WHERE name = current_setting('photosearch.model');
SET photosearch.model = 'none';
SELECT raised($$SELECT coarse_match('[3,4]', '[1,0]')$$);
RESET photosearch.model;
SELECT setting, raised(format('SET photosearch.%s = %s', setting, value))
FROM (VALUES ('coarse_threshold', '''NaN'''), ('coarse_threshold', '1.5'), ('coarse_threshold', '-3'), ('coarse_threshold', 'high'),
    ('coarse_dims', '-1'), ('coarse_dims', '16001')) AS v (setting, value);
-- PostgreSQL 14 reserves no prefixes.
SELECT raised('SET photosearch.coarse_dim = 3') LIKE '42602 %"photosearch" is a reserved prefix.' = (current_setting('server_version_num')::int >= 150000) AS from_15_on;

-- Errors.
SELECT call, raised('SELECT ' || call) FROM unnest(ARRAY[
    $$coarse_match('[1,2]', '[1,2,3]', 0.5, 2)$$, $$coarse_match('[1,2,3]', '[1,2]', 0.5, 2)$$, $$coarse_match('[1,2]', '[1,2]', 0.5, 0)$$,
    $$coarse_match('[1,2]', '[1,2]', 0.5, -1)$$, $$coarse_match('[1,2]', '[1,2]', 0.5, 3)$$, $$coarse_match('[1,2]', '[1,2]', 0.5, 2147483647)$$,
    $$coarse_match('[1,2]', '[1,2]', 'NaN', 2)$$, $$coarse_match('[1,2]', '[1,2]', 1e39, 2)$$,
    $$'[1,2]'::mrl_vector @~ mrl_probe('[1,2,3]', 0.5, 2)$$, $$'[1,2]'::mrl_vector !@~ mrl_probe('[1]', 0.5, 1)$$,
    $$coarse_match('[1,2]', '[1,2]', 50, 2)$$, $$coarse_match('[1,2]', '[1,2]', -1.1, 2)$$, $$coarse_match('[1,2]', '[1,2]', '-Infinity', 2)$$,
    $$mrl_probe('[1,2]', 'NaN', 2)$$, $$mrl_probe('[1,2]', 0.5, 0)$$, $$mrl_probe('[1,2]', 0.5, 3)$$, $$mrl_probe('[1,2]', 50, 2)$$,
    $$fine_score('[1,2]', '[1]')$$, $$'[1]'::mrl_vector <=> '[1,2]'$$, $$coarse_match('[1]', 'a baby')$$, $$'[1]' @~ '[1]'$$]) AS call;
SELECT raised($$SELECT * FROM album WHERE coarse_match(e, '[1,2]', 0.5, 2)$$), raised($$SELECT * FROM album ORDER BY e <=> '[1,2]' LIMIT 1$$);
SET photosearch.coarse_threshold = 0.5; SET photosearch.coarse_dims = 3;
SELECT raised($$SELECT '[3,4]'::mrl_vector @~ '[1,0]'$$), raised($$SELECT '[3,4]'::mrl_vector @~ '[1,0,0]'$$);
RESET photosearch.coarse_threshold; RESET photosearch.coarse_dims;

-- If threshold or dims are known only when the query runs, an invalid value is an error once a row is compared. If they
-- are constants, it is an error while the query is planned.
CREATE FUNCTION compared(threshold float8, dims int, rows int) RETURNS text LANGUAGE sql AS $$
    SELECT raised(format('SELECT * FROM (SELECT ''[1,2]''::mrl_vector AS e FROM generate_series(1, %s)) AS t, (SELECT %s::float8 AS t, %s::int AS d OFFSET 0) AS q WHERE coarse_match(e, e, q.t, d)', rows, threshold, dims))
$$;
SELECT compared(0.5, 2, 1), compared(50, 2, 1), compared(50, 2, 0), compared(0.5, 3, 1), compared(0.5, 3, 0);
SELECT raised($$SELECT * FROM (SELECT '[1,2]'::mrl_vector AS e LIMIT 0) AS t WHERE coarse_match(e, e, 50, 2)$$),
       raised($$SELECT * FROM (SELECT '[1,2]'::mrl_vector AS e LIMIT 0) AS t WHERE coarse_match(e, e, 0.5, 0)$$);
DROP FUNCTION compared;
SELECT raised('SET photosearch.coarse_threshold = -1.5'), raised('SET photosearch.coarse_threshold = -2'), raised('SET photosearch.coarse_threshold = 50');
RESET photosearch.coarse_threshold;

-- A column without declared dimensions causes an error only if a row of other dimensions is compared.
CREATE TABLE mixed (e mrl_vector);
INSERT INTO mixed VALUES ('[1,2]'), ('[1,2,3]');
SELECT raised($$SELECT * FROM mixed WHERE coarse_match(e, '[1,2]', 0.5, 2)$$);
-- Planning compares no vectors of different dimensions, even if the column has statistics.
INSERT INTO mixed SELECT e FROM mixed, generate_series(1, 20);
ANALYZE mixed;
EXPLAIN (COSTS OFF) SELECT * FROM mixed WHERE coarse_match(e, '[1,2]', 0.5, 2);
TRUNCATE mixed;
INSERT INTO mixed VALUES ('[1,2]'), ('[1,2,3]');
SELECT * FROM mixed WHERE CASE WHEN vector_dims(e) = 2 THEN coarse_match(e, '[1,2]', 0.5, 2) END;
DROP TABLE mixed;
DROP VIEW forms;
DROP FUNCTION query;
DROP TABLE album;
