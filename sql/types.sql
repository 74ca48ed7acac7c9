-- The types, and their casts, operators, aggregates and operator classes.

CREATE SCHEMA photosearch;
COMMENT ON SCHEMA photosearch IS 'administration of photosearch: models, check_index for indexes, last_sweep for scans, image_problem for pictures that cannot be embedded';
GRANT USAGE ON SCHEMA photosearch TO PUBLIC;

-- mrl_vector

CREATE TYPE mrl_vector;

CREATE FUNCTION mrl_vector_in(cstring, oid, integer) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_in(cstring, oid, integer) IS 'I/O';

CREATE FUNCTION mrl_vector_out(mrl_vector) RETURNS cstring
    AS 'MODULE_PATHNAME', 'mrl_vector_out_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_out(mrl_vector) IS 'I/O';

CREATE FUNCTION mrl_vector_recv(internal, oid, integer) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_recv_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_recv(internal, oid, integer) IS 'I/O';

CREATE FUNCTION mrl_vector_send(mrl_vector) RETURNS bytea
    AS 'MODULE_PATHNAME', 'mrl_vector_send_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_send(mrl_vector) IS 'I/O';

CREATE FUNCTION mrl_vector_typmod_in(cstring[]) RETURNS integer
    AS 'MODULE_PATHNAME', 'mrl_vector_typmod_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_typmod_in(cstring[]) IS 'I/O typmod';

CREATE FUNCTION mrl_vector_typanalyze(internal) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_vector_typanalyze_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_typanalyze(internal) IS 'ANALYZE function: stores a sample of prefixes for the planner';

-- STORAGE = external keeps values uncompressed, so that a prefix can be read without the rest.
CREATE TYPE mrl_vector (
    INPUT = mrl_vector_in,
    OUTPUT = mrl_vector_out,
    RECEIVE = mrl_vector_recv,
    SEND = mrl_vector_send,
    TYPMOD_IN = mrl_vector_typmod_in,
    ANALYZE = mrl_vector_typanalyze,
    ALIGNMENT = int4,
    STORAGE = external
);
COMMENT ON TYPE mrl_vector IS 'embedding of a Matryoshka model: half-precision values, any prefix of which is an embedding too';

-- mrl_probe

CREATE TYPE mrl_probe;

CREATE FUNCTION mrl_probe_in(cstring) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe_in(cstring) IS 'I/O';

CREATE FUNCTION mrl_probe_out(mrl_probe) RETURNS cstring
    AS 'MODULE_PATHNAME', 'mrl_probe_out_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe_out(mrl_probe) IS 'I/O';

CREATE TYPE mrl_probe (
    INPUT = mrl_probe_in,
    OUTPUT = mrl_probe_out,
    ALIGNMENT = int4,
    STORAGE = external
);
COMMENT ON TYPE mrl_probe IS 'prefix of a query vector with a similarity threshold, the right-hand side of @~';

-- dims is a bigint, which accepts smallint and integer as well. A second function with integer would
-- make a parameter of unknown type ambiguous. The same holds for coarse_match.
CREATE FUNCTION mrl_probe(query mrl_vector, threshold double precision, dims bigint) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_bigint_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe(mrl_vector, double precision, bigint) IS
    'right-hand side of @~: matches vectors whose first dims dimensions have a cosine similarity of at least threshold with the query''s';

-- Stable: the settings decide. The planner puts no constant in its place, but evaluates it for estimates.
CREATE FUNCTION mrl_probe(query mrl_vector) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_by_settings_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe(mrl_vector) IS
    'mrl_probe with photosearch.coarse_threshold and photosearch.coarse_dims';

-- For conditions that the planner adds. These functions are leakproof: no valid vector and no other argument is an error.

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

-- mrl_score_bound

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

-- Casts

CREATE FUNCTION mrl_declared_dims_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_declared_dims_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_declared_dims_support(internal) IS 'planner support for casts: removes the check of dimensions that a column declares';

CREATE FUNCTION mrl_vector(mrl_vector, integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    SUPPORT mrl_declared_dims_support;
COMMENT ON FUNCTION mrl_vector(mrl_vector, integer, boolean) IS 'check the dimensions of an mrl_vector';

CREATE FUNCTION mrl_vector(real[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'real_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(real[], integer, boolean) IS 'convert real[] to mrl_vector';

CREATE FUNCTION mrl_vector(double precision[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'double_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(double precision[], integer, boolean) IS 'convert double precision[] to mrl_vector';

CREATE FUNCTION mrl_vector(smallint[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'smallint_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(smallint[], integer, boolean) IS 'convert smallint[] to mrl_vector';

CREATE FUNCTION mrl_vector(integer[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'integer_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(integer[], integer, boolean) IS 'convert integer[] to mrl_vector';

CREATE FUNCTION mrl_vector(numeric[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'numeric_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(numeric[], integer, boolean) IS 'convert numeric[] to mrl_vector';

CREATE FUNCTION mrl_vector_to_real(mrl_vector) RETURNS real[]
    AS 'MODULE_PATHNAME', 'mrl_vector_to_real_array_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_to_real(mrl_vector) IS 'convert mrl_vector to real[]';

CREATE CAST (mrl_vector AS mrl_vector)
    WITH FUNCTION mrl_vector(mrl_vector, integer, boolean) AS IMPLICIT;
CREATE CAST (real[] AS mrl_vector)
    WITH FUNCTION mrl_vector(real[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (double precision[] AS mrl_vector)
    WITH FUNCTION mrl_vector(double precision[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (smallint[] AS mrl_vector)
    WITH FUNCTION mrl_vector(smallint[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (integer[] AS mrl_vector)
    WITH FUNCTION mrl_vector(integer[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (numeric[] AS mrl_vector)
    WITH FUNCTION mrl_vector(numeric[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (mrl_vector AS real[])
    WITH FUNCTION mrl_vector_to_real(mrl_vector) AS ASSIGNMENT;

-- Parts, norms, arithmetic

CREATE FUNCTION vector_dims(mrl_vector) RETURNS integer
    AS 'MODULE_PATHNAME', 'mrl_vector_dims_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_dims(mrl_vector) IS 'number of dimensions';

CREATE FUNCTION l2_norm(mrl_vector) RETURNS double precision
    AS 'MODULE_PATHNAME', 'mrl_vector_l2_norm_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION l2_norm(mrl_vector) IS 'Euclidean length';

CREATE FUNCTION l2_normalize(mrl_vector) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_l2_normalize_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION l2_normalize(mrl_vector) IS 'scaled to Euclidean length 1; a zero vector stays zero';

CREATE FUNCTION subvector(mrl_vector, start integer, count integer) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_subvector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION subvector(mrl_vector, integer, integer) IS 'count values from start, which counts from 1';

CREATE FUNCTION mrl_truncate(mrl_vector, dims integer) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_truncate_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_truncate(mrl_vector, integer) IS 'the first dims dimensions as an embedding of their own, scaled to length 1';

CREATE FUNCTION mrl_vector_add(mrl_vector, mrl_vector) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_add_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_add(mrl_vector, mrl_vector) IS 'implementation of + operator';

CREATE FUNCTION mrl_vector_sub(mrl_vector, mrl_vector) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_sub_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_sub(mrl_vector, mrl_vector) IS 'implementation of - operator';

CREATE FUNCTION mrl_vector_mul(mrl_vector, double precision) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_mul_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_mul(mrl_vector, double precision) IS 'implementation of * operator';

CREATE FUNCTION mrl_vector_mul(double precision, mrl_vector) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mul_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_mul(double precision, mrl_vector) IS 'implementation of * operator';

CREATE FUNCTION mrl_vector_div(mrl_vector, double precision) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_div_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_div(mrl_vector, double precision) IS 'implementation of / operator';

CREATE OPERATOR + (LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_add, COMMUTATOR = +);
COMMENT ON OPERATOR + (mrl_vector, mrl_vector) IS 'add';
CREATE OPERATOR - (LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_sub);
COMMENT ON OPERATOR - (mrl_vector, mrl_vector) IS 'subtract';
CREATE OPERATOR * (LEFTARG = mrl_vector, RIGHTARG = double precision, FUNCTION = mrl_vector_mul, COMMUTATOR = *);
COMMENT ON OPERATOR * (mrl_vector, double precision) IS 'multiply by a number';
CREATE OPERATOR * (LEFTARG = double precision, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_mul, COMMUTATOR = *);
COMMENT ON OPERATOR * (double precision, mrl_vector) IS 'multiply by a number';
CREATE OPERATOR / (LEFTARG = mrl_vector, RIGHTARG = double precision, FUNCTION = mrl_vector_div);
COMMENT ON OPERATOR / (mrl_vector, double precision) IS 'divide by a number';

-- Aggregates

CREATE FUNCTION mrl_vector_accum(internal, mrl_vector) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_vector_accum_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_accum(internal, mrl_vector) IS 'aggregate transition function';

CREATE FUNCTION mrl_vector_combine(internal, internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_vector_combine_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_combine(internal, internal) IS 'aggregate combine function';

CREATE FUNCTION mrl_vector_serialize(internal) RETURNS bytea
    AS 'MODULE_PATHNAME', 'mrl_vector_serialize_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_serialize(internal) IS 'aggregate serial function';

CREATE FUNCTION mrl_vector_deserialize(bytea, internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_vector_deserialize_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_deserialize(bytea, internal) IS 'aggregate deserial function';

CREATE FUNCTION mrl_vector_sum(internal) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_sum_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_sum(internal) IS 'aggregate final function';

CREATE FUNCTION mrl_vector_avg(internal) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_avg_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_avg(internal) IS 'aggregate final function';

CREATE AGGREGATE sum(mrl_vector) (
    SFUNC = mrl_vector_accum, STYPE = internal, SSPACE = 16384, FINALFUNC = mrl_vector_sum,
    COMBINEFUNC = mrl_vector_combine, SERIALFUNC = mrl_vector_serialize,
    DESERIALFUNC = mrl_vector_deserialize, PARALLEL = SAFE
);
COMMENT ON AGGREGATE sum(mrl_vector) IS 'sum, dimension by dimension';

CREATE AGGREGATE avg(mrl_vector) (
    SFUNC = mrl_vector_accum, STYPE = internal, SSPACE = 16384, FINALFUNC = mrl_vector_avg,
    COMBINEFUNC = mrl_vector_combine, SERIALFUNC = mrl_vector_serialize,
    DESERIALFUNC = mrl_vector_deserialize, PARALLEL = SAFE
);
COMMENT ON AGGREGATE avg(mrl_vector) IS 'average, dimension by dimension';

-- Comparison

CREATE FUNCTION mrl_vector_lt(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_vector_lt_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_lt(mrl_vector, mrl_vector) IS 'implementation of < operator';

CREATE FUNCTION mrl_vector_le(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_vector_le_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_le(mrl_vector, mrl_vector) IS 'implementation of <= operator';

CREATE FUNCTION mrl_vector_eq(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_vector_eq_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_eq(mrl_vector, mrl_vector) IS 'implementation of = operator';

CREATE FUNCTION mrl_vector_ne(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_vector_ne_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_ne(mrl_vector, mrl_vector) IS 'implementation of <> operator';

CREATE FUNCTION mrl_vector_ge(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_vector_ge_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_ge(mrl_vector, mrl_vector) IS 'implementation of >= operator';

CREATE FUNCTION mrl_vector_gt(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_vector_gt_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_gt(mrl_vector, mrl_vector) IS 'implementation of > operator';

CREATE FUNCTION mrl_vector_cmp(mrl_vector, mrl_vector) RETURNS integer
    AS 'MODULE_PATHNAME', 'mrl_vector_cmp_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_cmp(mrl_vector, mrl_vector) IS 'less-equal-greater';

CREATE FUNCTION mrl_vector_hash(mrl_vector) RETURNS integer
    AS 'MODULE_PATHNAME', 'mrl_vector_hash_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_hash(mrl_vector) IS 'hash';

CREATE FUNCTION mrl_vector_hash_extended(mrl_vector, bigint) RETURNS bigint
    AS 'MODULE_PATHNAME', 'mrl_vector_hash_extended_wrapper' LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_hash_extended(mrl_vector, bigint) IS 'hash';

CREATE OPERATOR < (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_lt,
    COMMUTATOR = >, NEGATOR = >=, RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR < (mrl_vector, mrl_vector) IS 'less than';

CREATE OPERATOR <= (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_le,
    COMMUTATOR = >=, NEGATOR = >, RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR <= (mrl_vector, mrl_vector) IS 'less than or equal';

CREATE OPERATOR = (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_eq,
    COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
COMMENT ON OPERATOR = (mrl_vector, mrl_vector) IS 'equal';

CREATE OPERATOR <> (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_ne,
    COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel, JOIN = neqjoinsel
);
COMMENT ON OPERATOR <> (mrl_vector, mrl_vector) IS 'not equal';

CREATE OPERATOR >= (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_ge,
    COMMUTATOR = <=, NEGATOR = <, RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR >= (mrl_vector, mrl_vector) IS 'greater than or equal';

CREATE OPERATOR > (
    LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_gt,
    COMMUTATOR = <, NEGATOR = <=, RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR > (mrl_vector, mrl_vector) IS 'greater than';

CREATE OPERATOR CLASS mrl_vector_ops DEFAULT FOR TYPE mrl_vector USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 mrl_vector_cmp(mrl_vector, mrl_vector);

CREATE OPERATOR CLASS mrl_vector_ops DEFAULT FOR TYPE mrl_vector USING hash AS
    OPERATOR 1 =,
    FUNCTION 1 mrl_vector_hash(mrl_vector),
    FUNCTION 2 mrl_vector_hash_extended(mrl_vector, bigint);
