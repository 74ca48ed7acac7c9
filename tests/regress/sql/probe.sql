-- The type mrl_probe (a query with its threshold and dims), which EXPLAIN and dumped views contain: text form, errors,
-- storage.
SELECT mrl_probe('[1,2.5,3]', 0.25, 2), mrl_probe('[1,2.5,3]', 0.1, 3), mrl_probe('[-0]', -1, 1), mrl_probe('[1]', 1, 1);
SELECT bool_and(p::text::mrl_probe::text = p::text) AS round_trip, bool_and((v @~ p) = (v @~ p::text::mrl_probe)) AS same_meaning
FROM generate_series(1, 50) AS i, some_vector(i, 70) AS v, mrl_probe(some_vector(i + 1, 70), (sin(i) / 3)::real, i) AS p;
SELECT ' ( 2 , 0.5 , 3 , [ 1 , 2 ] ) '::mrl_probe;
SELECT '[1,2,9]'::mrl_vector @~ '(2,1,3,[1,2])'::mrl_probe AS matches, '[1,2,9]'::mrl_vector !@~ '(2,1,3,[1,2])'::mrl_probe AS mismatches;
SELECT input, raised(format('SELECT %L::mrl_probe', input)) FROM unnest(ARRAY[
    '', '()', '(2,0.5,3)', '(2,0.5,3,[1,2]', '2,0.5,3,[1,2]', '(2,0.5,3,[1,2])x', '(3,0.5,3,[1,2])', '(-1,0.5,3,[1,2])', '(2,x,3,[1,2])',
    '(2,NaN,3,[1,2])', '(2,0.5,1,[1,2])', '(1,0.5,0,[1])', '(1,0.5,16001,[1])', '(1,0.5,-3,[1])', '(0,0.5,3,[])', '(1,0.5,3,[NaN])', '(1,0.5,3,[65520])',
    '(1,0.5,3,1)', '(99999999999999999999,0.5,3,[1])']) AS input;

-- A column of saved searches.
CREATE TABLE searches (name text, probe mrl_probe);
INSERT INTO searches VALUES ('both', mrl_probe('[1,1]', 0.7, 2)), ('first', mrl_probe('[1,0]', 0.9, 2)), ('none', NULL);
SELECT name, e, e @~ probe AS matches FROM searches, (VALUES ('[1,0]'::mrl_vector), ('[1,1]'), ('[0,1]')) AS v (e) ORDER BY name, e;
-- Only the operators @~ and !@~ take an mrl_probe.
SELECT raised('SELECT DISTINCT probe FROM searches');
DROP TABLE searches;
-- A probe that is stored out of line.
CREATE TABLE searches AS SELECT mrl_probe(some_vector(3, 4000), 0.9, 4000) AS probe;
SELECT some_vector(3, 4000) @~ probe AS itself, some_vector(4, 4000) @~ probe AS other FROM searches;
DROP TABLE searches;
