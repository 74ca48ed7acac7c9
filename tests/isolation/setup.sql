-- What the specs share.
CREATE EXTENSION photosearch;

-- Photos. Beside '[1,0,0,0]' the similarities are 1, 1, 0.8, exactly 0.6, 0, 0 and -1. Codes decide all of
-- them but number 4 at the threshold 0.6: its row is looked at. Vacuum and analyze come only when a spec says so.
CREATE PROCEDURE make_photos() LANGUAGE plpgsql AS $$
BEGIN
    CREATE TABLE photos (id int PRIMARY KEY, note text, e mrl_vector(4)) WITH (autovacuum_enabled = off, fillfactor = 50);
    INSERT INTO photos VALUES
        (1, 'baby', '[1,0,0,0]'), (2, 'baby', '[2,0,0,0]'), (3, 'baby', '[0.8,0.6,0,0]'), (4, 'edge', '[3,4,0,0]'),
        (5, 'dog', '[0,1,0,0]'), (6, 'dog', '[0,0,1,0]'), (7, 'dog', '[-1,0,0,0]'), (8, 'none', NULL);
    CREATE INDEX photos_e ON photos USING mrl (e) WITH (prefix_dims = 4);
END
$$;

-- The photos that match, as a condition that an index answers, and as one that is only good for a sequential scan.
-- Both are inlined.
CREATE FUNCTION is_baby(e mrl_vector) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    $$ SELECT coarse_match(e, '[1,0,0,0]', 0.6, 4) $$;
CREATE FUNCTION is_baby_by_scan(e mrl_vector) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    $$ SELECT coarse_match(e, '[1,0,0,0]', 0.6, 4) IS TRUE $$;

-- Lets the planner use one kind of scan alone, or all with NULL.
CREATE FUNCTION scan_by(kind text) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('enable_' || k, (k = coalesce(kind, k))::text, true) FROM unnest(ARRAY['seqscan', 'bitmapscan', 'indexscan']) AS k
$$;

-- What a statement returns by each kind of scan, all by one snapshot: a stable function goes by that of the statement
-- which calls it.
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

-- Which rows the condition finds. An error where a sequential scan, a bitmap scan and a plain index scan differ, or
-- the plan is another one.
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

-- How many entries the index has, dead ones too.
CREATE FUNCTION entries() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM scan_by('bitmapscan');
    PERFORM count(*) FROM photos WHERE is_baby(e);
    PERFORM scan_by(NULL);
    RETURN (SELECT entries FROM photosearch.last_sweep());
END
$$;

-- What a cursor has left: how many rows, what sums their ids have, which notes.
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
