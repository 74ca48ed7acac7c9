-- Casts between photosearch's mrl_vector and pgvector's vector and halfvec.
--
-- This is an extension of its own. If these casts were members of photosearch, DROP EXTENSION
-- vector CASCADE would drop photosearch as well, and with it all embeddings.
--
-- No cast is implicit, because `embedding <=> '[…]'` would then be ambiguous. A cast goes through
-- real[], which represents every half exactly, so only a cast from vector rounds values.

\echo Use "CREATE EXTENSION photosearch_pgvector" to load this file. \quit

-- The two extensions may be in any schemas, and a type name must not be resolved to an object in a
-- third schema, because the script runs with superuser rights. So every type name is
-- schema-qualified. (Postgres 16 and later can substitute the schema of a required extension, but
-- also substitute it in comments, so this comment does not spell out the token.) The function
-- bodies are parsed here and do not depend on search_path later.
SET LOCAL search_path = pg_catalog, pg_temp;

DO $script$
DECLARE
    c record;
BEGIN
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
               format('%s.%I(%s)', '@extschema@', source.name || '_to_' || target.name, source.qualified) AS function,
               format('convert %s to %s', source.name, target.name) AS comment
        FROM types AS source, types AS target
        WHERE (source.name = 'mrl_vector') <> (target.name = 'mrl_vector')
    LOOP
        EXECUTE format('CREATE FUNCTION %s RETURNS %s LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN $1::real[]::%2$s',
            c.function, c.target);
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', c.function, c.comment);
        EXECUTE format('CREATE CAST (%s AS %s) WITH FUNCTION %s AS ASSIGNMENT',
            c.source, c.target, c.function);
    END LOOP;
END
$script$;
