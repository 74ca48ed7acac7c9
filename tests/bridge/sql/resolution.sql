-- With the implicit casts of photosearch_pgvector, pgvector's own operators and functions are resolved as before: with columns,
-- untyped literals and parameters of untyped kind as operands. The reference is the parse tree without the extension.
CREATE EXTENSION vector;
CREATE TABLE operands (vector vector(3), halfvec halfvec(3), sparsevec sparsevec(3), bits bit(3), reals real[],
    doubles double precision[], integers integer[], numerics numeric[], "double" double precision, integer integer, text text);

-- The parse tree of an expression, or its SQLSTATE. What differs from view to view is left out.
CREATE FUNCTION tree_of(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    tree text;
BEGIN
    EXECUTE 'CREATE VIEW resolved AS SELECT ' || expression || ' AS x FROM operands';
    SELECT regexp_replace(ev_action::text, ':(relid|location|stmt_len|stmt_location) -?\d+', '', 'g') INTO tree
    FROM pg_rewrite WHERE ev_class = 'resolved'::regclass;
    DROP VIEW resolved;
    RETURN tree;
EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
    RETURN SQLSTATE;
END
$$;

-- The types that a statement gives its parameters and its result, or its SQLSTATE.
CREATE FUNCTION types_of(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    types text;
BEGIN
    EXECUTE 'PREPARE resolved AS SELECT ' || expression || ' FROM operands';
    SELECT parameter_types::text INTO types FROM pg_prepared_statements WHERE name = 'resolved';
    DEALLOCATE resolved;
    RETURN types;
EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
    RETURN SQLSTATE;
END
$$;

-- Every operator and function of pgvector, with all pairs of operands. NULL is an untyped literal that every type accepts.
CREATE TABLE expressions AS
WITH operand (o) AS (
    SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = 'operands'::regclass AND attnum > 0
    UNION ALL VALUES ('NULL'), ('$1')
), operator (name) AS (
    SELECT DISTINCT oprname FROM pg_operator AS o JOIN pg_depend ON classid = 'pg_operator'::regclass AND objid = o.oid AND deptype = 'e'
    JOIN pg_extension AS e ON e.oid = refobjid AND extname = 'vector'
), function (name, arguments) AS (
    SELECT DISTINCT proname, pronargs FROM pg_proc AS p JOIN pg_depend ON classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e'
    JOIN pg_extension AS e ON e.oid = refobjid AND extname = 'vector'
    WHERE prorettype <> 'internal'::regtype AND NOT proargtypes::oid[] && '{internal,cstring,cstring[]}'::regtype[]::oid[]
)
SELECT format('%s %s %s', a.o, name, b.o) AS expression FROM operator, operand AS a, operand AS b
UNION ALL SELECT format('%I(%s)', name, a.o) FROM function, operand AS a WHERE arguments = 1
UNION ALL SELECT format('%I(%s, %s)', name, a.o, b.o) FROM function, operand AS a, operand AS b WHERE arguments = 2
UNION ALL SELECT format('%I(%s, 1, 2)', name, a.o) FROM function, operand AS a WHERE arguments = 3
UNION ALL SELECT format('%I(%s, 1, true)', name, a.o) FROM function, operand AS a WHERE arguments = 3
UNION ALL SELECT format('%s = ANY (ARRAY[%s])', a.o, b.o) FROM operand AS a, operand AS b
UNION ALL SELECT format('%s IN (%s, NULL)', a.o, b.o) FROM operand AS a, operand AS b
UNION ALL SELECT format('%s BETWEEN %s AND NULL', a.o, b.o) FROM operand AS a, operand AS b
UNION ALL SELECT format('coalesce(%s, %s)', a.o, b.o) FROM operand AS a, operand AS b
UNION ALL SELECT format('CASE WHEN true THEN %s ELSE %s END', a.o, b.o) FROM operand AS a, operand AS b
UNION ALL SELECT format('array_length(%s, 1)', a.o) FROM operand AS a
UNION ALL SELECT format('%s::%s', a.o, t) FROM operand AS a, unnest('{vector,halfvec,sparsevec,real[],double precision[],text}'::text[]) AS t;
CREATE FUNCTION resolution(expression text) RETURNS text LANGUAGE sql
RETURN CASE WHEN position('$1' IN expression) > 0 THEN types_of(expression) ELSE tree_of(expression) END;

CREATE TABLE alone AS SELECT expression, resolution(expression) AS how FROM expressions;
CREATE EXTENSION photosearch;
CREATE TABLE beside AS SELECT expression, resolution(expression) AS how FROM expressions;
CREATE EXTENSION photosearch_pgvector;
CREATE TABLE bridged AS SELECT expression, resolution(expression) AS how FROM expressions;

SELECT count(*) > 3000 AS enough, count(*) FILTER (WHERE how !~ '^\w{5}$') > 400 AS resolved FROM alone;
-- What photosearch changes without the bridge: operators of bit strings where neither operand has a type.
SELECT expression, left(beside.how, 5) AS error FROM alone JOIN beside USING (expression) WHERE alone.how <> beside.how AND alone.how !~ '^\w{5}$' ORDER BY expression;
-- What the bridge changes of that: nothing that was resolved before.
SELECT expression, beside.how, bridged.how FROM beside JOIN bridged USING (expression) WHERE beside.how <> bridged.how AND beside.how !~ '^\w{5}$';
SELECT expression, alone.how, bridged.how FROM alone JOIN bridged USING (expression)
WHERE alone.how <> bridged.how AND alone.how !~ '^\w{5}$' AND expression NOT IN (SELECT expression FROM alone JOIN beside USING (expression) WHERE alone.how <> beside.how);
-- What was an error and is none: operands of two kinds of which only one is cast to mrl_vector, and operators that pgvector does not have for its types.
SELECT expression, beside.how AS error FROM beside JOIN bridged USING (expression) WHERE beside.how <> bridged.how ORDER BY expression;

-- The same with a column of photosearch's type as an operand, and with its own operators and functions.
DROP EXTENSION photosearch_pgvector;
ALTER TABLE operands ADD COLUMN ours mrl_vector(3);
CREATE TABLE own_expressions AS
WITH operand (o) AS (
    SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = 'operands'::regclass AND attnum > 0
    UNION ALL VALUES ('NULL'), ('$1')
), operator (name) AS (
    SELECT DISTINCT oprname FROM pg_operator AS o JOIN pg_depend ON classid = 'pg_operator'::regclass AND objid = o.oid AND deptype = 'e'
    JOIN pg_extension AS e ON e.oid = refobjid AND extname IN ('vector', 'photosearch')
), function (name, rest) AS (
    VALUES ('coarse_match', ', NULL'), ('coarse_match', ', NULL, 0.5, 3'), ('fine_score', ', NULL'), ('mrl_probe', ', 0.5, 3'), ('mrl_truncate', ', 2'), ('subvector', ', 1, 2'),
        ('l2_norm', ''), ('l2_normalize', ''), ('vector_dims', ''), ('sum', ''), ('avg', ''), ('mrl_vector', ', 3, true')
)
SELECT format('%s %s %s', a.o, name, b.o) AS expression FROM operator, operand AS a, operand AS b WHERE 'ours' IN (a.o, b.o) OR name ~ '~'
UNION ALL SELECT format('%I(%s%s)', name, o, rest) FROM function, operand
UNION ALL SELECT format('coalesce(%s, %s)', a.o, b.o) FROM operand AS a, operand AS b WHERE 'ours' IN (a.o, b.o)
UNION ALL SELECT format('ours::%s', t) FROM unnest('{vector,halfvec,real[],text,mrl_vector(2)}'::text[]) AS t;
CREATE TABLE own_beside AS SELECT expression, resolution(expression) AS how FROM own_expressions;
CREATE EXTENSION photosearch_pgvector;
CREATE TABLE own_bridged AS SELECT expression, resolution(expression) AS how FROM own_expressions;
SELECT count(*) FILTER (WHERE how !~ '^\w{5}$') > 50 AS resolved FROM own_beside;
-- Only a call of the cast's function by its name, with a vector of pgvector, was resolved before and is not.
SELECT expression, bridged.how FROM own_beside AS beside JOIN own_bridged AS bridged USING (expression) WHERE beside.how <> bridged.how AND beside.how !~ '^\w{5}$';

-- The queries that pgvector's manual shows, with values.
INSERT INTO operands (vector, halfvec, sparsevec, reals) VALUES ('[1,2,3]', '[1,2,3]', '{1:1,2:2,3:3}/3', '{1,2,3}');
SELECT pg_typeof(vector <=> '[3,1,2]'), round((vector <-> '[3,1,2]')::numeric, 4) AS l2, vector <#> '[3,1,2]' AS inner_product,
       vector + '[1,1,1]' AS sum, halfvec <=> '[3,1,2]' = vector <=> '[3,1,2]' AS half, sparsevec <#> '{1:1}/3' AS sparse FROM operands;
SELECT avg(vector), sum(vector), avg(halfvec), pg_typeof(sum(vector)) FROM operands;
SELECT pg_typeof(l2_normalize(vector)), pg_typeof(subvector(vector, 1, 2)), pg_typeof(l2_normalize(halfvec)), vector_dims(vector), vector_dims(halfvec) FROM operands;
PREPARE nearest AS SELECT vector FROM operands ORDER BY vector <=> $1 LIMIT 5;
SELECT parameter_types FROM pg_prepared_statements WHERE name = 'nearest';
EXECUTE nearest ('[1,2,3]');
DEALLOCATE nearest;
-- pgvector's index serves its own operators.
CREATE INDEX ON operands USING hnsw (vector vector_cosine_ops);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT vector FROM operands ORDER BY vector <=> '[1,2,3]' LIMIT 5;
RESET enable_seqscan;

-- With a vector of photosearch, `<=>` is photosearch's.
SELECT round((vector <=> '[3,1,2]'::mrl_vector)::numeric, 4) AS distance, fine_score(vector, '[3,1,2]') = fine_score('[3,1,2]', halfvec) AS score FROM operands;
EXPLAIN (VERBOSE, COSTS OFF) SELECT vector <=> '[3,1,2]'::mrl_vector FROM operands;

DROP TABLE operands, expressions, alone, beside, bridged, own_expressions, own_beside, own_bridged;
DROP FUNCTION tree_of, types_of, resolution;
DROP EXTENSION photosearch_pgvector, photosearch;
DROP EXTENSION vector;
