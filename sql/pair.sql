-- The two steps of a search: a coarse filter on a prefix, and a fine score on all dimensions.

-- The cost of a comparison depends on where the vector is stored. The support functions take that into
-- account. COST applies where Postgres does not call the support function.

CREATE FUNCTION mrl_prefix_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_prefix_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_prefix_support(internal) IS 'planner support for the functions behind @~ and !@~: cost estimates, and behind a security barrier the leakproof operator @~? or !@~? beside @~ or !@~';

CREATE FUNCTION mrl_vector_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_vector_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_support(internal) IS 'planner support for functions that read a whole vector: cost estimates';

-- The functions behind the operators @~ and !@~. They are not leakproof, because an error about a row
-- reveals that the row exists.

CREATE FUNCTION mrl_coarse_match(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_match(mrl_vector, mrl_probe) IS 'implementation of @~ operator';

CREATE FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_probe) IS 'implementation of !@~ operator';

CREATE FUNCTION mrl_coarse_match(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_match(mrl_vector, mrl_vector) IS 'implementation of @~ operator';

CREATE FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_vector) IS 'implementation of !@~ operator';

-- The leakproof counterparts, which the planner adds to a query (src/index/conditions.rs,
-- src/planner/barrier.rs). They return true if the two operands cannot be compared, and never raise an
-- error.

CREATE FUNCTION mrl_may_match(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_may_match_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_may_match(mrl_vector, mrl_probe) IS 'implementation of @~? operator';

CREATE FUNCTION mrl_may_mismatch(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_may_mismatch_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_may_mismatch(mrl_vector, mrl_probe) IS 'implementation of !@~? operator';

CREATE FUNCTION mrl_may_match(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_may_match_wrapper'
    LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_may_match(mrl_vector, mrl_vector) IS 'implementation of @~? operator';

CREATE FUNCTION mrl_may_mismatch(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_may_mismatch_wrapper'
    LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_may_mismatch(mrl_vector, mrl_vector) IS 'implementation of !@~? operator';

CREATE FUNCTION mrl_coarse_match_sel(internal, oid, internal, integer) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_sel_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_coarse_match_sel(internal, oid, internal, integer) IS 'restriction selectivity of @~';

CREATE FUNCTION mrl_coarse_mismatch_sel(internal, oid, internal, integer) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_sel_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_coarse_mismatch_sel(internal, oid, internal, integer) IS 'restriction selectivity of !@~';

CREATE FUNCTION mrl_coarse_match_joinsel(internal, oid, internal, smallint, internal) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_joinsel_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_coarse_match_joinsel(internal, oid, internal, smallint, internal) IS 'join selectivity of @~';

CREATE FUNCTION mrl_coarse_mismatch_joinsel(internal, oid, internal, smallint, internal) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_joinsel_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_coarse_mismatch_joinsel(internal, oid, internal, smallint, internal) IS 'join selectivity of !@~';

CREATE OPERATOR @~ (
    LEFTARG = mrl_vector, RIGHTARG = mrl_probe, FUNCTION = mrl_coarse_match,
    NEGATOR = !@~, RESTRICT = mrl_coarse_match_sel, JOIN = mrl_coarse_match_joinsel
);
COMMENT ON OPERATOR @~ (mrl_vector, mrl_probe) IS 'coarsely similar to the probe''s query';

CREATE OPERATOR !@~ (
    LEFTARG = mrl_vector, RIGHTARG = mrl_probe, FUNCTION = mrl_coarse_mismatch,
    NEGATOR = @~, RESTRICT = mrl_coarse_mismatch_sel, JOIN = mrl_coarse_mismatch_joinsel
);
COMMENT ON OPERATOR !@~ (mrl_vector, mrl_probe) IS 'not coarsely similar to the probe''s query';

CREATE OPERATOR @~ (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_coarse_match,
    COMMUTATOR = @~, NEGATOR = !@~, RESTRICT = mrl_coarse_match_sel, JOIN = mrl_coarse_match_joinsel
);
COMMENT ON OPERATOR @~ (mrl_vector, mrl_vector) IS 'coarsely similar, by the settings photosearch.coarse_threshold and photosearch.coarse_dims';

CREATE OPERATOR !@~ (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_coarse_mismatch,
    COMMUTATOR = !@~, NEGATOR = @~, RESTRICT = mrl_coarse_mismatch_sel, JOIN = mrl_coarse_mismatch_joinsel
);
COMMENT ON OPERATOR !@~ (mrl_vector, mrl_vector) IS 'not coarsely similar, by the settings photosearch.coarse_threshold and photosearch.coarse_dims';

-- The leakproof counterparts have no negator: a row that cannot be compared with the query satisfies
-- both @~? and !@~?.

CREATE OPERATOR @~? (
    LEFTARG = mrl_vector, RIGHTARG = mrl_probe, FUNCTION = mrl_may_match,
    RESTRICT = mrl_coarse_match_sel, JOIN = mrl_coarse_match_joinsel
);
COMMENT ON OPERATOR @~? (mrl_vector, mrl_probe) IS 'is possibly coarsely similar to the probe''s query: put in a condition by the planner';

CREATE OPERATOR @~? (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_may_match,
    COMMUTATOR = @~?, RESTRICT = mrl_coarse_match_sel, JOIN = mrl_coarse_match_joinsel
);
COMMENT ON OPERATOR @~? (mrl_vector, mrl_vector) IS 'is possibly coarsely similar, by the settings: put in a condition by the planner';

CREATE OPERATOR !@~? (
    LEFTARG = mrl_vector, RIGHTARG = mrl_probe, FUNCTION = mrl_may_mismatch,
    RESTRICT = mrl_coarse_mismatch_sel, JOIN = mrl_coarse_mismatch_joinsel
);
COMMENT ON OPERATOR !@~? (mrl_vector, mrl_probe) IS 'is possibly not coarsely similar to the probe''s query: put in a condition by the planner';

CREATE OPERATOR !@~? (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_may_mismatch,
    COMMUTATOR = !@~?, RESTRICT = mrl_coarse_mismatch_sel, JOIN = mrl_coarse_mismatch_joinsel
);
COMMENT ON OPERATOR !@~? (mrl_vector, mrl_vector) IS 'is possibly not coarsely similar, by the settings: put in a condition by the planner';

-- The functions for users. The planner rewrites coarse_match to the operators.

CREATE FUNCTION mrl_coarse_match_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_coarse_match_support(internal) IS 'planner support for coarse_match';

CREATE FUNCTION coarse_match(embedding mrl_vector, query mrl_vector, threshold double precision, dims bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_explicit_bigint_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_coarse_match_support;
COMMENT ON FUNCTION coarse_match(mrl_vector, mrl_vector, double precision, bigint) IS
    'whether the first dims dimensions of both have a cosine similarity of at least threshold';

CREATE FUNCTION coarse_match(embedding mrl_vector, query mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_coarse_match_support;
COMMENT ON FUNCTION coarse_match(mrl_vector, mrl_vector) IS
    'coarse_match with photosearch.coarse_threshold and photosearch.coarse_dims';

CREATE FUNCTION fine_score(embedding mrl_vector, query mrl_vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_fine_score_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50 SUPPORT mrl_vector_support;
COMMENT ON FUNCTION fine_score(mrl_vector, mrl_vector) IS 'cosine similarity over all dimensions, from -1 to 1';

CREATE FUNCTION mrl_cosine_distance(mrl_vector, mrl_vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_cosine_distance_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50 SUPPORT mrl_vector_support;
COMMENT ON FUNCTION mrl_cosine_distance(mrl_vector, mrl_vector) IS 'implementation of <=> operator';

CREATE OPERATOR <=> (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_cosine_distance, COMMUTATOR = <=>
);
COMMENT ON OPERATOR <=> (mrl_vector, mrl_vector) IS 'cosine distance: 1 - fine_score';

-- The operators that the planner puts in place of fine_score and <=>, so that an index over all dimensions
-- can answer conditions (src/index/conditions.rs) and return rows in order (src/index/order_paths.rs).

CREATE FUNCTION mrl_score_within(mrl_vector, mrl_score_bound) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_score_within_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50 SUPPORT mrl_vector_support;
COMMENT ON FUNCTION mrl_score_within(mrl_vector, mrl_score_bound) IS 'implementation of @<=> operator';

CREATE OPERATOR @<=> (
    LEFTARG = mrl_vector, RIGHTARG = mrl_score_bound, FUNCTION = mrl_score_within,
    RESTRICT = mrl_coarse_match_sel, JOIN = mrl_coarse_match_joinsel
);
COMMENT ON OPERATOR @<=> (mrl_vector, mrl_score_bound) IS 'fine_score satisfies the bound: put in a condition by the planner';

CREATE FUNCTION mrl_negative_score(mrl_vector, mrl_vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_negative_score_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50 SUPPORT mrl_vector_support;
COMMENT ON FUNCTION mrl_negative_score(mrl_vector, mrl_vector) IS 'implementation of <~> operator';

CREATE OPERATOR <~> (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_negative_score, COMMUTATOR = <~>
);
COMMENT ON OPERATOR <~> (mrl_vector, mrl_vector) IS 'negative fine_score: the order in which an index returns rows with the highest score first';
