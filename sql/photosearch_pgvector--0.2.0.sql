-- Casts between photosearch's mrl_vector and pgvector's vector and halfvec.
--
-- This is an extension of its own. If these casts were members of photosearch, DROP EXTENSION
-- vector CASCADE would drop photosearch as well, and with it all embeddings.
--
-- The casts to mrl_vector are implicit, so that a column of pgvector can stand where a function or an
-- operator takes an mrl_vector. No call or operator of pgvector is resolved differently for it:
-- Postgres prefers candidates with more arguments of exactly the given types, and pgvector has each of
-- its functions and operators for its own types. (tests/bridge compares the resolution of all of them.)
-- The casts from mrl_vector are not implicit: with both directions, `embedding <=> v` would be
-- ambiguous.
--
-- The casts to mrl_vector read pgvector's layout, and check it (src/types/pgvector.rs). The casts from
-- mrl_vector go through real[], which represents every half exactly, so that pgvector itself makes its
-- values.

\echo Use "CREATE EXTENSION photosearch_pgvector" to load this file. \quit

-- The two extensions may be in any schemas, and a type name must not be resolved to an object in a
-- third schema, because the script runs with superuser rights. So every name is schema-qualified.
-- (Postgres 16 and later can substitute the schema of a required extension, but also substitute it in
-- comments, so this comment does not spell out the token.) The bodies of SQL functions are parsed here
-- and do not depend on search_path later.
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
    FOR c IN
        WITH types (name, qualified) AS (
            SELECT name, format('%I.%I', nspname, name)
            FROM (VALUES ('photosearch', 'mrl_vector'), ('vector', 'vector'), ('vector', 'halfvec')) AS member (extension, name)
            JOIN pg_extension ON extname = extension
            JOIN pg_namespace AS n ON n.oid = extnamespace
            -- Types of the extension itself: pgvector has halfvec from version 0.7 on, and before that
            -- anybody could have made a type of that name.
            JOIN pg_type AS t ON typnamespace = n.oid AND typname = name
            JOIN pg_depend ON classid = 'pg_type'::regclass AND objid = t.oid AND deptype = 'e' AND refobjid = pg_extension.oid
        )
        SELECT source.qualified AS source,
               target.qualified AS target,
               target.name = 'mrl_vector' AS to_ours,
               format('pgvector_%s_to_mrl_vector_wrapper', source.name) AS symbol,
               format('%s.%I(%s)', '@extschema@', source.name || '_to_' || target.name, source.qualified) AS function,
               format('convert %s to %s', source.name, target.name) AS comment
        FROM types AS source, types AS target
        WHERE (source.name = 'mrl_vector') <> (target.name = 'mrl_vector')
    LOOP
        IF c.to_ours THEN
            EXECUTE format('CREATE FUNCTION %s RETURNS %s AS ''MODULE_PATHNAME'', %L LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100 SUPPORT %s',
                c.function, c.target, c.symbol, support);
        ELSE
            EXECUTE format('CREATE FUNCTION %s RETURNS %s LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN $1::real[]::%2$s',
                c.function, c.target);
        END IF;
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', c.function, c.comment);
        EXECUTE format('CREATE CAST (%s AS %s) WITH FUNCTION %s AS %s',
            c.source, c.target, c.function, CASE WHEN c.to_ours THEN 'IMPLICIT' ELSE 'ASSIGNMENT' END);
    END LOOP;
END
$script$;
