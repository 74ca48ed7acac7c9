-- The aggregates sum and avg: alone, in windows, in parallel and spilled to disk. The reference is plain SQL over arrays in
-- double precision.
SELECT sum(v), avg(v) FROM (VALUES ('[1,2,3]'::mrl_vector), (NULL), ('[4,-2,0.5]')) AS x (v);
SELECT sum(v), avg(v) FROM (SELECT '[1]'::mrl_vector AS v WHERE false) AS x;
SELECT sum(v), avg(v) FROM (VALUES (NULL::mrl_vector)) AS x (v);
SELECT g, avg(v) FROM (VALUES (1, '[1,2]'::mrl_vector), (1, '[3,4]'), (2, NULL), (3, '[1]')) AS x (g, v) GROUP BY g ORDER BY g;
SELECT sum(DISTINCT v), sum(v) FILTER (WHERE v > '[1]'), sum(v ORDER BY v) FROM (VALUES ('[1]'::mrl_vector), ('[1]'), ('[2]')) AS x (v);

-- Where the sum is exact, dividing it by the number of rows gives the average.
SELECT avg(v) = sum(v) / count(v) AS same FROM (SELECT ARRAY[i, -i, i % 7]::mrl_vector AS v FROM generate_series(1, 60) AS i) AS x;

-- The state is wider than a half: only the result has to be in the range of halves, not the intermediate sums.
SELECT avg(v) FROM (VALUES ('[65504]'::mrl_vector), ('[65504]')) AS x (v);
SELECT sum(v) FROM (VALUES ('[65504]'::mrl_vector), ('[65504]'), ('[-65504]')) AS x (v);
SELECT avg(v), sum(v) FROM (SELECT '[0.1]'::mrl_vector AS v FROM generate_series(1, 1000)) AS x;

-- In a window, the state is used again after a result has been read from it.
SELECT i, sum(v) OVER (ORDER BY i), avg(v) OVER (ORDER BY i ROWS 1 PRECEDING)
FROM (SELECT i, ARRAY[i, -i]::mrl_vector AS v FROM generate_series(1, 4) AS i) AS x;

SELECT raised($$SELECT sum(v) FROM (VALUES ('[65504]'::mrl_vector), ('[65504]')) AS x (v)$$);
SELECT raised($$SELECT avg(v) FROM (VALUES ('[1,2]'::mrl_vector), ('[1,2,3]')) AS x (v)$$);

-- Parallel workers give the same result as one process, per group and over all rows; so does a hash aggregate that spills.
CREATE TABLE many AS SELECT i % 100 AS g, some_vector(i, 24) AS v FROM generate_series(1, 5000) AS i;
ANALYZE many;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE serial AS SELECT g, sum(v) AS total, avg(v) AS mean FROM many GROUP BY g;
CREATE TABLE serial_all AS SELECT sum(v * 0.01) AS total, avg(v) AS mean FROM many;
SET max_parallel_workers_per_gather = 4;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT sum(v * 0.01), avg(v) FROM many;
SELECT total = sum(v * 0.01) AS same_sum, mean = avg(v) AS same_mean FROM many, serial_all GROUP BY total, mean;
SELECT count(*) AS groups, bool_and(parallel.total = serial.total) AS same_sums, bool_and(parallel.mean = serial.mean) AS same_means
FROM serial JOIN (SELECT g, sum(v) AS total, avg(v) AS mean FROM many GROUP BY g) AS parallel USING (g);
RESET max_parallel_workers_per_gather;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
SET work_mem = '64kB';
SELECT count(*) AS groups, bool_and(spilt.mean = v) AS mean_equals_value
FROM (SELECT v, avg(v) AS mean FROM many GROUP BY v) AS spilt;
RESET work_mem;
-- The results equal sums in double precision that are rounded to halves once.
SELECT count(*) AS groups, bool_and(total = slow) AS equal
FROM serial JOIN (
    SELECT g, array_agg(total ORDER BY d)::mrl_vector AS slow
    FROM (SELECT g, d, sum(x::float8) AS total FROM many, unnest(v::real[]) WITH ORDINALITY AS u (x, d) GROUP BY g, d) AS sums
    GROUP BY g) AS slow USING (g);
DROP TABLE many, serial, serial_all;

-- The states count towards work_mem: a hash aggregate spills to disk if they are larger than the planner estimates, here
-- 128 kB for each group.
CREATE TABLE groups AS SELECT g, array_fill(g % 7, ARRAY[16000])::mrl_vector AS v FROM generate_series(1, 300) AS g;
ANALYZE groups;
CREATE FUNCTION batches(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' -> 'HashAgg Batches';
END
$$;
SET max_parallel_workers_per_gather = 0; SET enable_sort = off; SET hash_mem_multiplier = 1; SET work_mem = '16MB';
SELECT batches('SELECT g, avg(v) FROM groups GROUP BY g') > 1 AS spilled;
SET work_mem = '256MB';
SELECT batches('SELECT g, avg(v) FROM groups GROUP BY g') AS in_memory;
RESET max_parallel_workers_per_gather; RESET enable_sort; RESET hash_mem_multiplier; RESET work_mem;
DROP FUNCTION batches;
DROP TABLE groups;
