-- What the specs share: a table of photos, and functions that query it by each kind of scan. The reference for every index
-- scan is a sequential scan under the same snapshot.
CREATE EXTENSION photosearch;

-- Photos. Their similarities to '[1,0,0,0]' are 1, 1, 0.8, exactly 0.6, 0, 0 and -1. At the threshold 0.6 the codes of the
-- index decide all of them except number 4, whose row has to be read. The table is vacuumed and analyzed only by a step.
CREATE PROCEDURE make_photos() LANGUAGE plpgsql AS $$
BEGIN
    CREATE TABLE photos (id int PRIMARY KEY, note text, e mrl_vector(4)) WITH (autovacuum_enabled = off, fillfactor = 50);
    INSERT INTO photos VALUES
        (1, 'baby', '[1,0,0,0]'), (2, 'baby', '[2,0,0,0]'), (3, 'baby', '[0.8,0.6,0,0]'), (4, 'edge', '[3,4,0,0]'),
        (5, 'dog', '[0,1,0,0]'), (6, 'dog', '[0,0,1,0]'), (7, 'dog', '[-1,0,0,0]'), (8, 'none', NULL);
    CREATE INDEX photos_e ON photos USING mrl (e) WITH (prefix_dims = 4);
END
$$;

-- Whether a photo matches: as a condition that the index can answer, and as one that only a sequential scan can. Both
-- functions are inlined.
CREATE FUNCTION is_baby(e mrl_vector) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    $$ SELECT coarse_match(e, '[1,0,0,0]', 0.6, 4) $$;
CREATE FUNCTION is_baby_by_scan(e mrl_vector) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    $$ SELECT coarse_match(e, '[1,0,0,0]', 0.6, 4) IS TRUE $$;

-- Restricts the planner to one kind of scan; NULL allows all kinds.
CREATE FUNCTION scan_by(kind text) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('enable_' || k, (k = coalesce(kind, k))::text, true) FROM unnest(ARRAY['seqscan', 'bitmapscan', 'indexscan']) AS k
$$;

-- The answers of a statement by each kind of scan. All use one snapshot, because a stable function uses the snapshot of
-- the statement that calls it.
CREATE FUNCTION by_each_scan(statement text, kinds text[]) RETURNS text[] STABLE LANGUAGE plpgsql AS $$
DECLARE
    kind text;
    rows text;
    answers text[];
BEGIN
    FOREACH kind IN ARRAY kinds LOOP
        PERFORM scan_by(kind);
        EXECUTE statement INTO rows;
        answers := answers || rows;
    END LOOP;
    RETURN answers;
END
$$;

-- The rows that satisfy the condition. Raises an error if a sequential scan, a bitmap scan and a plain index scan find
-- different rows, or if a plan does not use its kind of scan.
CREATE FUNCTION found(condition text DEFAULT 'is_baby(e)') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    kinds text[] := ARRAY['seqscan', 'bitmapscan', 'indexscan'];
    nodes text[] := ARRAY['Seq Scan on photos', 'Bitmap Index Scan on photos_e', 'Index Scan using photos_e on photos'];
    statement text := 'SELECT coalesce(string_agg(id || '' '' || note, '', '' ORDER BY id), ''nothing'') FROM photos WHERE ' || condition;
    line text;
    plan text;
    answers text[];
BEGIN
    FOR number IN 1..3 LOOP
        PERFORM scan_by(kinds[number]);
        plan := '';
        FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
            plan := plan || line;
        END LOOP;
        IF strpos(plan, nodes[number]) = 0 THEN
            RAISE EXCEPTION 'not %: %', nodes[number], plan;
        END IF;
    END LOOP;
    answers := by_each_scan(statement, kinds);
    PERFORM scan_by(NULL);
    IF answers <> array_fill(answers[1], ARRAY[3]) THEN
        RAISE EXCEPTION 'scans differ: %', answers;
    END IF;
    RETURN answers[1];
END
$$;

-- The plan of a statement, without the marks that disabled nodes have from Postgres 18 on.
CREATE FUNCTION plan_of(statement text) RETURNS TABLE ("QUERY PLAN" text) LANGUAGE plpgsql AS $$
BEGIN
    FOR "QUERY PLAN" IN EXECUTE 'EXPLAIN (COSTS OFF) ' || statement LOOP
        CONTINUE WHEN "QUERY PLAN" ~ '^ *Disabled: ';
        RETURN NEXT;
    END LOOP;
END
$$;

-- The number of entries in the index, dead ones included.
CREATE FUNCTION entries() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM scan_by('bitmapscan');
    PERFORM count(*) FROM photos WHERE is_baby(e);
    PERFORM scan_by(NULL);
    RETURN (SELECT entries FROM photosearch.last_sweep());
END
$$;

-- Summarises the rows that remain in a cursor: their number, the sum of their ids, their notes.
CREATE FUNCTION rest(c refcursor) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    photo record;
    ids bigint[] := '{}';
    notes text[] := '{}';
BEGIN
    LOOP
        FETCH c INTO photo;
        EXIT WHEN NOT FOUND;
        ids := ids || photo.id::bigint;
        notes := notes || photo.note;
    END LOOP;
    RETURN (SELECT format('%s rows, %s ids, sum %s', count(*), count(DISTINCT id), sum(id)) FROM unnest(ids) AS id)
        || (SELECT coalesce(', notes ' || string_agg(DISTINCT note, ' '), '') FROM unnest(notes) AS note);
END
$$;
