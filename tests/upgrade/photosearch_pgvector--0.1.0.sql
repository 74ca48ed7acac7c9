-- Casts between photosearch's mrl_vector and pgvector's vector and halfvec.
--
-- An extension of its own: as members of photosearch these casts would make
-- DROP EXTENSION vector CASCADE take photosearch with it, and every embedding.
--
-- Never implicit, or `embedding <=> '[…]'` would have more than one reading. A cast goes through
-- real[], which holds every half exactly; only a vector's values have to be rounded.

\echo Use "CREATE EXTENSION photosearch_pgvector" to load this file. \quit

-- The two extensions may lie in any schemas, and a name must not be found in a third: the script
-- runs as a superuser. So each type is written with its schema (@extschema:vector@ exists only
-- from version 16 on). The bodies are parsed here, once, and follow no search_path later.
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
