-- Updates a database from version 0.1.0 to 0.2.0. tests/upgrade compares the result with a new
-- installation.

\echo Use "ALTER EXTENSION photosearch UPDATE" to load this file. \quit

-- Two functions now take the number of dimensions as a bigint. The old functions are dropped, because with both a call whose
-- dims is a parameter of unknown type would be ambiguous. If a view or another object uses an old function, the update fails
-- with an error that names the object: drop that object, update, and create it again with the same text.
DROP FUNCTION mrl_probe(mrl_vector, double precision, integer);
DROP FUNCTION coarse_match(mrl_vector, mrl_vector, double precision, integer);

-- sql/types.sql

COMMENT ON SCHEMA photosearch IS 'administration of photosearch: models, check_index for indexes, last_sweep for scans, image_problem for pictures that cannot be embedded';

COMMENT ON FUNCTION mrl_vector_typanalyze(internal) IS 'ANALYZE function: stores a sample of prefixes for the planner';

CREATE FUNCTION mrl_probe(query mrl_vector, threshold double precision, dims bigint) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_bigint_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe(mrl_vector, double precision, bigint) IS
    'right-hand side of @~: matches vectors whose first dims dimensions have a cosine similarity of at least threshold with the query''s';

CREATE FUNCTION mrl_probe(query mrl_vector) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_by_settings_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe(mrl_vector) IS
    'mrl_probe with photosearch.coarse_threshold and photosearch.coarse_dims';

CREATE FUNCTION mrl_leakproof_probe(mrl_vector, double precision, bigint) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_leakproof_probe_bigint_wrapper'
    LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_leakproof_probe(mrl_vector, double precision, bigint) IS
    'put in place of mrl_probe by the planner: a probe that any vector may match if the arguments are wrong';

CREATE FUNCTION mrl_leakproof_probe(mrl_vector) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_leakproof_probe_by_settings_wrapper'
    LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_leakproof_probe(mrl_vector) IS
    'put in place of mrl_probe by the planner: a probe that any vector may match if the settings do not suit the query';

CREATE FUNCTION mrl_probe_at_least(mrl_vector, double precision) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_at_least_wrapper'
    LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe_at_least(mrl_vector, double precision) IS
    'put in a condition by the planner: a probe that every vector with at least this fine_score matches by @~?';

CREATE FUNCTION mrl_probe_at_most(mrl_vector, double precision) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_at_most_wrapper'
    LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe_at_most(mrl_vector, double precision) IS
    'put in a condition by the planner: a probe that every vector with at most this fine_score matches by !@~?';

CREATE TYPE mrl_score_bound;

CREATE FUNCTION mrl_score_bound_in(cstring) RETURNS mrl_score_bound
    AS 'MODULE_PATHNAME', 'mrl_score_bound_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_score_bound_in(cstring) IS 'I/O';

CREATE FUNCTION mrl_score_bound_out(mrl_score_bound) RETURNS cstring
    AS 'MODULE_PATHNAME', 'mrl_score_bound_out_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_score_bound_out(mrl_score_bound) IS 'I/O';

CREATE TYPE mrl_score_bound (
    INPUT = mrl_score_bound_in,
    OUTPUT = mrl_score_bound_out,
    ALIGNMENT = int4,
    STORAGE = external
);
COMMENT ON TYPE mrl_score_bound IS 'query vector with a condition on fine_score, the right-hand side of @<=>';

CREATE FUNCTION mrl_score_bound(query mrl_vector, condition text, value double precision) RETURNS mrl_score_bound
    AS 'MODULE_PATHNAME', 'mrl_score_bound_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_score_bound(mrl_vector, text, double precision) IS
    'put in a condition by the planner: right-hand side of @<=>, with a condition such as ''score >=''';

CREATE FUNCTION mrl_declared_dims_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_declared_dims_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_declared_dims_support(internal) IS 'planner support for casts: removes the check of dimensions that a column declares';

CREATE OR REPLACE FUNCTION mrl_vector(mrl_vector, integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT mrl_declared_dims_support;

CREATE FUNCTION mrl_vector(smallint[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'smallint_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(smallint[], integer, boolean) IS 'convert smallint[] to mrl_vector';

CREATE CAST (smallint[] AS mrl_vector)
    WITH FUNCTION mrl_vector(smallint[], integer, boolean) AS ASSIGNMENT;

CREATE FUNCTION mrl_vector_div(mrl_vector, double precision) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_div_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_div(mrl_vector, double precision) IS 'implementation of / operator';

CREATE OPERATOR / (LEFTARG = mrl_vector, RIGHTARG = double precision, FUNCTION = mrl_vector_div);
COMMENT ON OPERATOR / (mrl_vector, double precision) IS 'divide by a number';

-- sql/pair.sql

COMMENT ON FUNCTION mrl_prefix_support(internal) IS 'planner support for the functions behind @~ and !@~: cost estimates, and behind a security barrier the leakproof operator @~? or !@~? beside @~ or !@~';
COMMENT ON FUNCTION mrl_vector_support(internal) IS 'planner support for functions that read a whole vector: cost estimates';

-- These four functions are no longer leakproof: their errors reveal that a row exists.
CREATE OR REPLACE FUNCTION mrl_coarse_match(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;

CREATE OR REPLACE FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;

CREATE OR REPLACE FUNCTION mrl_coarse_match(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;

CREATE OR REPLACE FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;

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
COMMENT ON OPERATOR !@~ (mrl_vector, mrl_vector) IS 'not coarsely similar, by the settings photosearch.coarse_threshold and photosearch.coarse_dims';

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

CREATE FUNCTION coarse_match(embedding mrl_vector, query mrl_vector, threshold double precision, dims bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_explicit_bigint_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_coarse_match_support;
COMMENT ON FUNCTION coarse_match(mrl_vector, mrl_vector, double precision, bigint) IS
    'whether the first dims dimensions of both have a cosine similarity of at least threshold';

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

-- sql/embed.sql

CREATE FUNCTION photosearch.embed_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'photosearch_embed_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION photosearch.embed_support(internal) IS 'planner support for functions that embed: if the arguments of such a function are the same for all rows, its cost is that of one embedding per statement';

CREATE OR REPLACE FUNCTION embed_text(model text, content text, instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_text_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 1000000 SUPPORT photosearch.embed_support;

CREATE OR REPLACE FUNCTION embed_text(content text) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_text_default_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000000 SUPPORT photosearch.embed_support;

CREATE OR REPLACE FUNCTION embed_image(model text, image bytea, instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_image_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000 SUPPORT photosearch.embed_support;
COMMENT ON FUNCTION embed_image(text, bytea, text) IS 'embedding of an encoded picture (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF)';

CREATE OR REPLACE FUNCTION embed_image(image bytea) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_image_default_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 10000000 SUPPORT photosearch.embed_support;

CREATE OR REPLACE FUNCTION embed(model text, content text, images bytea[] DEFAULT '{}', instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000 SUPPORT photosearch.embed_support;

CREATE FUNCTION photosearch.image_problem(image bytea, model text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'photosearch_image_problem_wrapper'
    LANGUAGE C STABLE PARALLEL RESTRICTED COST 5000000;
COMMENT ON FUNCTION photosearch.image_problem(bytea, text) IS 'reason why a model (by default photosearch.model) cannot embed a picture; null if it can';
COMMENT ON FUNCTION rerank_score(text, text, text) IS 'score of a cross-encoder for how well a content answers a query';

CREATE FUNCTION photosearch.session_size(model text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'photosearch_session_size_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION photosearch.session_size(text) IS 'bytes of weights that each session holds itself; 0 if all sessions share the packed copy';

CREATE OR REPLACE VIEW photosearch.models AS
    SELECT models.*, photosearch.session_size(models.name) AS session_size FROM photosearch.list_models() AS models;
COMMENT ON VIEW photosearch.models IS 'the models that the server has, with the thresholds and the prefix length that each recommends, the properties of its packed copy, and what each session holds itself';
COMMENT ON FUNCTION photosearch.prepare_model(text, boolean) IS 'pack a model, read it into memory, and return the number of bytes that each session maps';
REVOKE ALL ON FUNCTION photosearch.prepare_model(text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION photosearch.quantize_model(text, text) IS 'make a variant of a model with 8-bit weights, and return the smallest cosine between vectors of the two';

-- sql/index.sql

COMMENT ON ACCESS METHOD mrl IS 'index access method for coarse_match and fine_score: returns all matches by a sweep over encoded prefixes';

-- Existing indexes answer the new operators without a rebuild, because the page format has not changed.
ALTER OPERATOR FAMILY mrl_ops USING mrl ADD
    OPERATOR 5 @~? (mrl_vector, mrl_vector),
    OPERATOR 6 @~? (mrl_vector, mrl_probe),
    OPERATOR 7 !@~? (mrl_vector, mrl_vector),
    OPERATOR 8 !@~? (mrl_vector, mrl_probe),
    OPERATOR 9 @<=> (mrl_vector, mrl_score_bound),
    OPERATOR 10 <=> (mrl_vector, mrl_vector) FOR ORDER BY pg_catalog.float_ops,
    OPERATOR 11 <~> (mrl_vector, mrl_vector) FOR ORDER BY pg_catalog.float_ops;
COMMENT ON FUNCTION photosearch.check_index(regclass) IS
    'inconsistencies between an mrl index and its table; no rows if there are none';
COMMENT ON FUNCTION photosearch.last_sweep() IS
    'statistics of the last statement of this session that scanned mrl indexes: one row for each scan of a table that the user may read as a whole';
