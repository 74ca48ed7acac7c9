-- The index access method mrl.

CREATE FUNCTION mrl_handler(internal) RETURNS index_am_handler
    AS 'MODULE_PATHNAME', 'mrl_handler_wrapper' LANGUAGE C PARALLEL SAFE;
COMMENT ON FUNCTION mrl_handler(internal) IS 'mrl index access method handler';

CREATE ACCESS METHOD mrl TYPE INDEX HANDLER mrl_handler;
COMMENT ON ACCESS METHOD mrl IS 'index access method for coarse_match and fine_score: returns all matches by a sweep over encoded prefixes';

CREATE OPERATOR CLASS mrl_ops DEFAULT FOR TYPE mrl_vector USING mrl AS
    OPERATOR 1 @~ (mrl_vector, mrl_vector),
    OPERATOR 2 @~ (mrl_vector, mrl_probe),
    OPERATOR 3 !@~ (mrl_vector, mrl_vector),
    OPERATOR 4 !@~ (mrl_vector, mrl_probe),
    OPERATOR 5 @~? (mrl_vector, mrl_vector),
    OPERATOR 6 @~? (mrl_vector, mrl_probe),
    OPERATOR 7 !@~? (mrl_vector, mrl_vector),
    OPERATOR 8 !@~? (mrl_vector, mrl_probe),
    OPERATOR 9 @<=> (mrl_vector, mrl_score_bound),
    OPERATOR 10 <=> (mrl_vector, mrl_vector) FOR ORDER BY pg_catalog.float_ops,
    OPERATOR 11 <~> (mrl_vector, mrl_vector) FOR ORDER BY pg_catalog.float_ops;

CREATE FUNCTION photosearch.check_index(
    index regclass, OUT block bigint, OUT entry integer, OUT row_id tid, OUT problem text
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'mrl_check_index_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
COMMENT ON FUNCTION photosearch.check_index(regclass) IS
    'inconsistencies between an mrl index and its table; no rows if there are none';
REVOKE EXECUTE ON FUNCTION photosearch.check_index(regclass) FROM PUBLIC;

CREATE FUNCTION photosearch.last_sweep(
    OUT index regclass, OUT sweeps bigint, OUT pages bigint, OUT entries bigint, OUT matches bigint,
    OUT rejected bigint, OUT undecided bigint, OUT refined bigint, OUT milliseconds double precision
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'mrl_last_sweep_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION photosearch.last_sweep() IS
    'statistics of the last statement of this session that scanned mrl indexes: one row for each scan of a table that the user may read as a whole';
