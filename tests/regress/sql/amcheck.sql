-- Postgres' amcheck verifies the order of a btree index. (amcheck_1.out is for a server without its contrib modules.)
CREATE TABLE checked AS SELECT some_vector(i % 50, 5) AS e FROM generate_series(1, 500) AS i;
CREATE INDEX checked_btree ON checked (e);
\set VERBOSITY sqlstate
CREATE EXTENSION amcheck;
SELECT bt_index_parent_check('checked_btree', true);
DROP TABLE checked;
DROP EXTENSION amcheck;
