-- Arithmetic on vectors: sums, differences, multiples. Every expected value is computed by hand.
SELECT '[1,2,3]'::mrl_vector + '[10,20,30]', '[1,2,3]'::mrl_vector - '[3,2,1]';
SELECT '[1,-2]'::mrl_vector * 2, 0.5 * '[1,-2]'::mrl_vector, '[1,-2]'::mrl_vector * -1::real, 2 * '[1,-2]'::mrl_vector;
SELECT '[1,2]'::mrl_vector + NULL AS plus, '[1,2]'::mrl_vector * NULL AS times;

-- A result is rounded to a half once: 2048 + 1 lies halfway between two halves and becomes the even one.
SELECT '[2048,2050]'::mrl_vector + '[1,1]', '[1]'::mrl_vector * 0.1, '[0.1]'::mrl_vector * 10;

-- Compositional queries such as "father minus beard": operators have the precedence that they have for numbers.
SELECT ('[4,4]'::mrl_vector + '[2,2]'::mrl_vector * 2 - '[1,1]'::mrl_vector) * 0.5;

SELECT expression, raised('SELECT ' || expression) FROM unnest(ARRAY[
    $$'[1,2]'::mrl_vector + '[1]'$$, $$'[1]'::mrl_vector - '[1,2]'$$,
    $$'[65504]'::mrl_vector + '[65504]'$$, $$'[-65504]'::mrl_vector - '[65504]'$$, $$'[65504]'::mrl_vector * 2$$, $$1e300 * '[-1]'::mrl_vector$$,
    $$'[1]'::mrl_vector * 'NaN'::float8$$, $$'[0]'::mrl_vector * 'Infinity'::float8$$,
    $$'[1]'::mrl_vector * '[1]'::mrl_vector$$, $$'[1]'::mrl_vector / 2$$, $$- '[1]'::mrl_vector$$]) AS expression;
