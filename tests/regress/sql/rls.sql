-- Row-level security. A role that a policy restricts can use the index, gets exactly the rows that the policy shows, and
-- learns nothing about the hidden rows from errors, estimates or functions.
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_photosearch_guest, regress_photosearch_nobody;
RESET client_min_messages;
CREATE ROLE regress_photosearch_guest;
CREATE TABLE album (id int PRIMARY KEY, owner name, e mrl_vector);
INSERT INTO album SELECT i, CASE WHEN i % 3 = 0 THEN 'regress_photosearch_guest' ELSE 'host' END, some_vector(i, 16) FROM generate_series(1, 90) AS i;
ANALYZE album;
ALTER TABLE album ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON album USING (owner = current_user);
GRANT SELECT ON album TO regress_photosearch_guest;

SET ROLE regress_photosearch_guest;
-- The operator is not leakproof, so it runs after the policy's condition.
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE coarse_match(e, some_vector(5, 16), 0.2, 8);
EXPLAIN (COSTS OFF) SELECT id FROM album WHERE NOT coarse_match(e, '[1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]');
SELECT count(*) AS mine, count(*) FILTER (WHERE id % 3 <> 0) AS others FROM album WHERE coarse_match(e, some_vector(5, 16), 0.2, 8);
SELECT count(*) AS mine, count(*) FILTER (WHERE id % 3 <> 0) AS others FROM album WHERE NOT coarse_match(e, some_vector(5, 16), 0.2, 8);
SELECT count(*) AS all_of_mine FROM album;

-- A function that raises notices is not leakproof: it is called for the role's own rows only.
CREATE FUNCTION pg_temp.tell(id int) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN IF id % 3 <> 0 THEN RAISE NOTICE 'saw %', id; END IF; RETURN true; END $$;
SELECT count(*) FROM album WHERE coarse_match(e, some_vector(5, 16), -1, 8) AND pg_temp.tell(id);
SELECT count(*) FROM album WHERE fine_score(e, some_vector(5, 16)) > -2 AND pg_temp.tell(id);

-- A hidden row of other dimensions causes no error: the policy rejects the row before it is compared.
RESET ROLE;
INSERT INTO album VALUES (91, 'host', '[0.125,0.25,0.375]');
SET ROLE regress_photosearch_guest;
SELECT raised($$SELECT count(*) FROM album WHERE coarse_match(e, some_vector(5, 16), 0.2, 8)$$);
SELECT count(*) FROM album WHERE fine_score(e, some_vector(5, 16)) > -2;
DROP FUNCTION pg_temp.tell;
RESET ROLE;

-- What EXPLAIN shows to a role that sees no row does not depend on the vectors of the hidden rows.
CREATE FUNCTION plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    plan text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
        plan := plan || regexp_replace(line, '\[.*\]', '[...]') || E'\n';
    END LOOP;
    RETURN plan;
END
$$;
CREATE TABLE hidden (id int, e mrl_vector(16));
INSERT INTO hidden SELECT i, CASE WHEN i % 10 = 0 THEN some_vector(2, 16) ELSE some_vector(1, 16) END FROM generate_series(1, 1000) AS i;
CREATE INDEX hidden_e ON hidden USING mrl (e);
ANALYZE hidden;
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE POLICY none ON hidden USING (false);
CREATE POLICY of_owner ON hidden TO regress_photosearch_guest USING (id < 0);
GRANT SELECT ON hidden TO regress_photosearch_guest;
CREATE TABLE asked (q mrl_vector(16), t float8, d int);
INSERT INTO asked VALUES (some_vector(1, 16), 0.5, 16);
ANALYZE asked;
GRANT SELECT ON asked TO regress_photosearch_guest;
SELECT count(DISTINCT plan_of(format('SELECT id FROM hidden WHERE coarse_match(e, some_vector(%s, 16), 0.9, 16)', seed))) > 1 AS owner_gets_different_plans FROM generate_series(1, 3) AS seed;
SET ROLE regress_photosearch_guest;
SELECT count(DISTINCT plan_of(format('SELECT id FROM hidden WHERE %scoarse_match(e, some_vector(%s, 16), 0.9, 16)', negation, seed))) AS plans FROM generate_series(1, 3) AS seed, unnest(ARRAY['', 'NOT ']) AS negation;
SELECT count(*) FROM hidden WHERE coarse_match(e, some_vector(1, 16), 0.9, 16);

-- Every form can use the index.
SET enable_seqscan = off;
SELECT form, plan_of('SELECT id FROM ' || form) ~ 'Index Scan .*hidden_e' AS indexed FROM unnest(ARRAY[
    'hidden WHERE coarse_match(e, some_vector(1, 16), 0.9, 16)', 'hidden WHERE coarse_match(e, (SELECT some_vector(1, 16)), 0.9, 16)',
    'hidden WHERE NOT coarse_match(e, (SELECT q FROM asked), 0.9, 16)', 'hidden, asked WHERE coarse_match(e, q, 0.9, 16)',
    'hidden, LATERAL (SELECT q FROM asked OFFSET 0) AS a WHERE coarse_match(e, a.q, 0.9, 16)', 'hidden, l2_normalize((SELECT q FROM asked)) AS n WHERE coarse_match(e, n, 0.9, 16)',
    'hidden, asked WHERE coarse_match(e, q, t, d)', 'hidden, asked WHERE coarse_match(e, CASE WHEN d > 3 THEN q END, 0.9, 16)', 'hidden WHERE NOT (e @~ (SELECT q FROM asked))',
    'hidden, asked WHERE e @~ mrl_probe(q, 0.9, 16)', 'hidden, asked WHERE e @~ q', 'hidden, asked WHERE fine_score(e, q) >= 0.9', 'hidden, asked WHERE e <=> q < 0.2', 'hidden, asked WHERE coarse_match(e, q)', 'hidden WHERE e @~ ANY (ARRAY(SELECT q FROM asked))']) AS form;
PREPARE by_parameter (mrl_vector, float8, int) AS SELECT id FROM hidden WHERE coarse_match(e, $1, $2, $3);
SET plan_cache_mode = force_generic_plan;
SELECT plan_of('EXECUTE by_parameter(NULL, 0.9, 16)') ~ 'Index Scan .*hidden_e' AS indexed;
DEALLOCATE by_parameter;
RESET plan_cache_mode; RESET enable_seqscan;
RESET ROLE;
DROP TABLE hidden, asked;
-- A condition may depend on a hidden row through its error: the error for different dimensions is raised or not, as another
-- condition, a CASE or the row's own vector decides. None of that is seen behind a security barrier or a policy. Each condition
-- is asked with two values of $x, one of which is above the hidden salary: "differ" says whether the errors do.
CREATE TYPE one_vector AS (e mrl_vector);
CREATE TABLE salaries (id int, salary int, ratio float8, e mrl_vector(1));
INSERT INTO salaries VALUES (1, 123456, 77.25, '[1]');
CREATE INDEX ON salaries (salary);
CREATE INDEX ON salaries USING mrl (e);
-- The function is expensive, so Postgres evaluates every other condition first that it may.
CREATE FUNCTION is_shown(id int) RETURNS boolean LANGUAGE plpgsql COST 1000000 AS 'BEGIN RETURN id < 0; END';
CREATE VIEW few WITH (security_barrier) AS SELECT * FROM salaries WHERE is_shown(id);
CREATE TABLE policed (LIKE salaries INCLUDING ALL);
INSERT INTO policed SELECT * FROM salaries;
ALTER TABLE policed ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON policed USING (is_shown(id));
CREATE TABLE open_to_all AS SELECT * FROM salaries;
GRANT SELECT ON few, policed, open_to_all TO regress_photosearch_guest;
-- An operator = of the role's own, which CASE and NULLIF take.
CREATE SCHEMA of_guest AUTHORIZATION regress_photosearch_guest;
CREATE FUNCTION differ(relation text, condition text) RETURNS boolean LANGUAGE sql AS $$
    SELECT raised(replace(format('SELECT id FROM %s WHERE %s', relation, condition), '$x', '100000'))
        <> raised(replace(format('SELECT id FROM %s WHERE %s', relation, condition), '$x', '200000'))
$$;
CREATE FUNCTION answer(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    ids text;
BEGIN
    EXECUTE format('SELECT string_agg(id::text, '','' ORDER BY id) FROM (%s) AS answer', query) INTO ids;
    RETURN coalesce(ids, 'none');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SET photosearch.coarse_threshold = 0.5; SET photosearch.coarse_dims = 1;
SET enable_seqscan = off;
SET ROLE regress_photosearch_guest;
SET search_path = of_guest, pg_catalog, public;
CREATE OPERATOR of_guest.= (LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_coarse_match);
SELECT condition, differ('few', condition) AS barrier, differ('policed', condition) AS policy, differ('open_to_all', condition) AS open_to_all
FROM unnest(ARRAY[
    $$salary > $x AND e @~ '[1,2,3]'$$,
    $$salary > $x AND e !@~ '[1,2,3]'$$,
    $$salary > $x AND coarse_match(e, '[1,2,3]', 0.5, 3)$$,
    $$salary > $x AND e @~ mrl_probe('[1]', 0.5, 7)$$,
    $$salary > $x AND fine_score(e, '[1,2,3]') > 0.5$$,
    $$CASE WHEN salary > $x THEN e @~ '[1,2,3]' ELSE false END$$,
    $$salary <= $x OR e @~ '[1,2,3]'$$,
    $$salary <= $x OR e @~ ANY ('{"[1,2,3]"}')$$,
    $$(e @~ '[1,2]') = (e @~ '[1,2]') AND salary > $x$$,
    $$e @~ ('[' || sign(salary - $x) || ']')::mrl_vector AND e @~ '[1,2,3]'$$,
    $$e @~ ANY (ARRAY[('[' || sign(salary - $x) || ']')::mrl_vector, '[1,2,3]'])$$,
    $$e @~ mrl_probe('[1]', 0.5, CASE WHEN salary > $x THEN 2 ELSE 1 END)$$,
    $$coarse_match(e, '[1]', CASE WHEN salary > $x THEN 2 ELSE 0.5 END, 1)$$,
    $$coarse_match(e, '[1]', ratio * (salary > $x)::int, 1)$$,
    $$e @~ CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END$$,
    $$CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END !@~ '[1]'$$,
    $$NOT coarse_match(CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END, '[1]', 0.5, 1)$$,
    $$e @~ CASE WHEN salary > $x THEN '(1,0.5,2,[1])'::mrl_probe ELSE '(1,0.5,1,[1])' END$$,
    $$e @~ (ARRAY['[1]', '[1,2]']::mrl_vector[])[1 + (salary > $x)::int]$$,
    $$e @~ (ROW(CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END)::one_vector).e$$,
    $$e @~ (SELECT CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END)$$,
    $$e @~ ANY (ARRAY[CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END])$$,
    $$e @~ ALL (CASE WHEN salary > $x THEN '{"[1,2]"}'::mrl_vector[] ELSE '{}' END)$$,
    $$e IS DISTINCT FROM CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END$$,
    $$NULLIF(e, CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END) IS NULL$$,
    $$CASE CASE WHEN salary > $x THEN '[1,2]'::mrl_vector ELSE '[1]' END WHEN e THEN true ELSE false END$$,
    $$e @~ mrl_leakproof_probe('[1]', 0.5, CASE WHEN salary > $x THEN 7 ELSE 1 END)$$]) AS condition;
-- The leakproof functions and operators, called directly, raise no error that depends on a row of any table.
SELECT condition, differ('few', condition) AS barrier, differ('policed', condition) AS policy, differ('open_to_all', condition) AS open_to_all
FROM unnest(ARRAY[
    $$salary > $x AND e @~? '[1,2,3]'$$,
    $$salary > $x AND e !@~? '[1,2,3]'$$,
    $$salary > $x AND e @~? '(1,0.5,3,[1])'$$,
    $$salary > $x AND e !@~? '(1,0.5,3,[1])'$$,
    $$e @~? mrl_leakproof_probe('[1]', ratio * (salary > $x)::int, (salary > $x)::int)$$,
    $$e @~? mrl_probe_at_least('[1]', ratio * (salary > $x)::int)$$,
    $$e !@~? mrl_probe_at_most('[1]', 'NaN'::float8 * (salary > $x)::int)$$]) AS condition;
RESET search_path;
RESET ROLE;
DROP SCHEMA of_guest CASCADE;
-- For rows that the policy shows, answers and errors are those of the condition itself.
INSERT INTO policed VALUES (-1, 10, 0.5, '[1]'), (-2, 10, 0.5, '[-1]');
SET ROLE regress_photosearch_guest;
EXPLAIN (COSTS OFF) SELECT id FROM policed WHERE coarse_match(e, '[1]');
EXPLAIN (COSTS OFF) SELECT id FROM few WHERE coarse_match(e, '[1]', 0.5, 1);
EXPLAIN (COSTS OFF) SELECT id FROM policed WHERE fine_score(e, '[1]') >= 0.5;
SELECT condition, answer(format('SELECT id FROM policed WHERE %s', condition)) FROM unnest(ARRAY[
    $$coarse_match(e, '[1]')$$, $$NOT coarse_match(e, '[1]', 0.5, 1)$$, $$e @~ ANY ('{"[1]","[-1]"}')$$, $$e @~ CASE WHEN salary > 100 THEN '[1,2]'::mrl_vector ELSE '[1]' END$$,
    $$coarse_match(e, '[1]', ratio, 1)$$, $$fine_score(e, '[1]') < 0.5$$, $$e <=> '[1]' BETWEEN 0 AND 0.5$$,
    $$e @~ '[1,2,3]'$$, $$e @~ mrl_probe('[1]', 0.5, 7)$$, $$coarse_match(e, '[1]', ratio + 1, 1)$$, $$fine_score(e, '[1,2]') > 0$$]) AS condition;
RESET ROLE;
RESET enable_seqscan;
DROP VIEW few;
DROP TABLE salaries, policed, open_to_all;
DROP FUNCTION is_shown, differ, answer;
RESET photosearch.coarse_threshold; RESET photosearch.coarse_dims;
DROP TYPE one_vector;
DROP FUNCTION plan_of;

-- The functions that are marked leakproof.
SELECT oid::regprocedure FROM pg_proc WHERE proleakproof AND probin LIKE '%photosearch%' ORDER BY oid::regprocedure::text;
DROP TABLE album;
DROP ROLE regress_photosearch_guest;

-- A role without any privilege can embed and list the models. It can neither set nor see the directory of models, nor set the
-- largest size of a picture.
CREATE ROLE regress_photosearch_nobody;
SET ROLE regress_photosearch_nobody;
SELECT vector_dims(embed_text('a baby')) > 0 AS embeds, (SELECT count(*) > 0 FROM photosearch.models) AS lists;
SELECT raised($$SET photosearch.model_dir = '/'$$), left(raised('SHOW photosearch.model_dir'), 5) AS shown, raised('SET photosearch.max_image_size = 1');
SET photosearch.model = 'photosearch-mini-1'; SET photosearch.coarse_dims = 3;
-- The role may neither prepare a model for all sessions nor make a variant of one.
SELECT raised($$SELECT photosearch.prepare_model('photosearch-mini-1')$$), raised($$SELECT photosearch.quantize_model('photosearch-mini-1', 'x')$$);
RESET ROLE;
RESET photosearch.model; RESET photosearch.coarse_dims;
-- Privileges on the functions restrict who may embed and who may list the models.
BEGIN;
REVOKE EXECUTE ON FUNCTION embed_text(text), embed_text(text, text, text), photosearch.list_models() FROM PUBLIC;
SET LOCAL ROLE regress_photosearch_nobody;
SELECT raised($$SELECT embed_text('a baby')$$), raised($$SELECT embed_text('photosearch-mini-1', 'a baby')$$), raised('SELECT * FROM photosearch.models');
ROLLBACK;
-- A role that may prepare models may still not accept changed files of a model, because that changes what its name denotes.
BEGIN;
GRANT EXECUTE ON FUNCTION photosearch.prepare_model(text, boolean) TO regress_photosearch_nobody;
SET LOCAL ROLE regress_photosearch_nobody;
SELECT photosearch.prepare_model('photosearch-mini-1') > 0 AS prepared, raised($$SELECT photosearch.prepare_model('photosearch-mini-1', true)$$);
ROLLBACK;
DROP ROLE regress_photosearch_nobody;
