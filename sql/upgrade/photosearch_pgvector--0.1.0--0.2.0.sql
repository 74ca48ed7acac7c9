-- The casts to mrl_vector become functions in C, and implicit. The functions stay the same objects, so
-- that indexes and views that use them stay as they are, and the values are the same to the last bit.
-- photosearch_pgvector--0.2.0.sql says why the casts are as they are.

\echo Use "ALTER EXTENSION photosearch_pgvector UPDATE" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

DO $script$
DECLARE
    c record;
    support text;
BEGIN
    SELECT format('%I.mrl_declared_dims_support', nspname) INTO STRICT support
    FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace WHERE extname = 'photosearch';
    IF to_regprocedure(support || '(internal)') IS NULL THEN
        RAISE EXCEPTION 'photosearch_pgvector 0.2.0 needs a later version of the extension photosearch'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Run ALTER EXTENSION photosearch UPDATE first.';
    END IF;
    -- The extension's casts to mrl_vector. pg_depend says which casts are the extension's.
    FOR c IN
        SELECT castsource::regtype AS source,
               casttarget::regtype AS target,
               castfunc::regprocedure AS function,
               format('pgvector_%s_to_mrl_vector_wrapper', s.typname) AS symbol
        FROM pg_cast
        JOIN pg_depend ON classid = 'pg_cast'::regclass AND objid = pg_cast.oid AND deptype = 'e'
            AND refclassid = 'pg_extension'::regclass
        JOIN pg_extension AS e ON e.oid = refobjid AND extname = 'photosearch_pgvector'
        JOIN pg_type AS s ON s.oid = castsource
        JOIN pg_type AS t ON t.oid = casttarget
        WHERE t.typname = 'mrl_vector'
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION %s RETURNS %s AS ''MODULE_PATHNAME'', %L LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100 SUPPORT %s',
            c.function, c.target, c.symbol, support);
        EXECUTE format('DROP CAST (%s AS %s)', c.source, c.target);
        EXECUTE format('CREATE CAST (%s AS %s) WITH FUNCTION %s AS IMPLICIT', c.source, c.target, c.function);
    END LOOP;
END
$script$;
