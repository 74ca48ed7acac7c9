-- Arithmetic on vectors: sums, differences, multiples, quotients. Expected values are computed by hand, except where a reference is
-- named.
SELECT '[1,2,3]'::mrl_vector + '[10,20,30]', '[1,2,3]'::mrl_vector - '[3,2,1]';
SELECT '[1,-2]'::mrl_vector * 2, 0.5 * '[1,-2]'::mrl_vector, '[1,-2]'::mrl_vector * -1::real, 2 * '[1,-2]'::mrl_vector;
SELECT '[1,-3]'::mrl_vector / 2, '[1,-2]'::mrl_vector / -4::real, '[6,9]'::mrl_vector / 3::bigint, '[1.5]'::mrl_vector / 3::numeric, '[0]'::mrl_vector / 1e-320;
SELECT '[1,2]'::mrl_vector + NULL AS plus, '[1,2]'::mrl_vector * NULL AS times, '[1,2]'::mrl_vector / NULL AS divided;

-- A result is the number of half precision that is nearest to the exact one, and the even one of two that are as near: 2048 + 1
-- becomes 2048.
SELECT '[2048,2050]'::mrl_vector + '[1,1]', '[1]'::mrl_vector * 0.1, '[0.1]'::mrl_vector * 10;
-- A quotient is the half that is nearest to it. The reference is a division in double precision.
SELECT count(*) AS pairs, count(*) FILTER (WHERE a / b = ARRAY[(a::real[])[1]::float8 / b]::mrl_vector) AS equal
FROM (SELECT ARRAY[i / 1024.0]::mrl_vector AS a, j::float8 AS b FROM generate_series(1024, 2047, 3) AS i, generate_series(3, 300, 7) AS j) AS x;

-- Compositional queries such as "father minus beard": operators have the precedence that they have for numbers.
SELECT ('[4,4]'::mrl_vector + '[2,2]'::mrl_vector * 2 - '[1,1]'::mrl_vector) * 0.5;

SELECT expression, raised('SELECT ' || expression) FROM unnest(ARRAY[
    $$'[1,2]'::mrl_vector + '[1]'$$, $$'[1]'::mrl_vector - '[1,2]'$$,
    $$'[65504]'::mrl_vector + '[65504]'$$, $$'[-65504]'::mrl_vector - '[65504]'$$, $$'[65504]'::mrl_vector * 2$$, $$1e300 * '[-1]'::mrl_vector$$,
    $$'[1]'::mrl_vector * 'NaN'::float8$$, $$'[0]'::mrl_vector * 'Infinity'::float8$$,
    $$'[1]'::mrl_vector * '[1]'::mrl_vector$$,
    $$'[1]'::mrl_vector / 0$$, $$'[0]'::mrl_vector / '-0'::float8$$, $$'[1]'::mrl_vector / 'NaN'::float8$$, $$'[1]'::mrl_vector / 'Infinity'::float8$$,
    $$'[65504]'::mrl_vector / 0.5$$, $$'[1]'::mrl_vector / 1e-320$$, $$'[65504]'::mrl_vector * 1.7e308$$,
    $$2 / '[1]'::mrl_vector$$, $$'[1]'::mrl_vector / '[1]'::mrl_vector$$, $$- '[1]'::mrl_vector$$]) AS expression;
