-- Creates the extension and the functions that the other files use. Every file can run alone after this one:
-- tests/cluster.sh run DIR sh tests/regress/run.sh tests/regress setup NAME
CREATE EXTENSION photosearch;

-- Runs a statement that must fail and returns its SQLSTATE, message, detail and hint.
CREATE FUNCTION raised(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' ', SQLSTATE, SQLERRM, '/ ' || nullif(detail, ''), '/ ' || nullif(hint, ''));
END
$$;
SELECT raised('SELECT 1'), raised('SELECT 1 / 0');

-- Cosine similarity of the first dims values, in double precision, by plain SQL over arrays: the independent reference for
-- the extension's scores. A zero vector has similarity 0.
CREATE FUNCTION slow_similarity(a mrl_vector, b mrl_vector, dims integer) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(x * y) / nullif(sqrt(sum(x * x)) * sqrt(sum(y * y)), 0), 0)
    FROM unnest((a::real[])[:dims]::double precision[], (b::real[])[:dims]::double precision[]) AS pairs (x, y)
$$;
SELECT slow_similarity('[3,4,9]', '[3,4,-9]', 2), slow_similarity('[3,4]', '[1,0]', 2), slow_similarity('[0,0]', '[1,0]', 2);

-- A deterministic vector: its values depend on seed and on the number of dimensions alone.
CREATE FUNCTION some_vector(seed integer, dims integer) RETURNS mrl_vector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(round(sin(seed * 1.7 + i * i * 0.37 + seed * i * 0.11)::numeric, 3) ORDER BY i)::mrl_vector FROM generate_series(1, dims) AS i
$$;
SELECT some_vector(1, 4), vector_dims(some_vector(2, 700));

-- The plan of a statement in words that all versions of Postgres share: they name the parameters of subplans differently, and
-- mark disabled nodes differently.
CREATE FUNCTION stable_plan_of(statement text) RETURNS TABLE (plan text) LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
        CONTINUE WHEN line ~ '^ *(Params Evaluated|Disabled): ';
        line := regexp_replace(line, ' \(returns \$\d+\)', '');
        plan := regexp_replace(line, '\$\d+|\(InitPlan \d+\)\.col1', '(parameter)', 'g');
        RETURN NEXT;
    END LOOP;
END
$$;
SELECT * FROM stable_plan_of('SELECT (SELECT 1 OFFSET 0)');
