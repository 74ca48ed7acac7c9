-- The types, their casts, operators, aggregates and operator classes.

CREATE SCHEMA photosearch;
COMMENT ON SCHEMA photosearch IS 'administration of photosearch: models';
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
COMMENT ON FUNCTION mrl_vector_typanalyze(internal) IS 'ANALYZE: keeps a sample of prefixes for the planner';

-- External storage: kept uncompressed, so that a prefix is read without the rest.
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

CREATE FUNCTION mrl_probe(query mrl_vector, threshold double precision, dims integer) RETURNS mrl_probe
    AS 'MODULE_PATHNAME', 'mrl_probe_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_probe(mrl_vector, double precision, integer) IS
    'what to look for with @~: vectors whose first dims dimensions have a cosine similarity of at least threshold with the query''s';

-- Casts

CREATE FUNCTION mrl_vector(mrl_vector, integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'mrl_vector_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(mrl_vector, integer, boolean) IS 'check the dimensions of an mrl_vector';

CREATE FUNCTION mrl_vector(real[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'real_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(real[], integer, boolean) IS 'convert real[] to mrl_vector';

CREATE FUNCTION mrl_vector(double precision[], integer, boolean) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'double_array_to_mrl_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector(double precision[], integer, boolean) IS 'convert double precision[] to mrl_vector';

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

CREATE OPERATOR + (LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_add, COMMUTATOR = +);
COMMENT ON OPERATOR + (mrl_vector, mrl_vector) IS 'add';
CREATE OPERATOR - (LEFTARG = mrl_vector, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_sub);
COMMENT ON OPERATOR - (mrl_vector, mrl_vector) IS 'subtract';
CREATE OPERATOR * (LEFTARG = mrl_vector, RIGHTARG = double precision, FUNCTION = mrl_vector_mul, COMMUTATOR = *);
COMMENT ON OPERATOR * (mrl_vector, double precision) IS 'multiply by a number';
CREATE OPERATOR * (LEFTARG = double precision, RIGHTARG = mrl_vector, FUNCTION = mrl_vector_mul, COMMUTATOR = *);
COMMENT ON OPERATOR * (double precision, mrl_vector) IS 'multiply by a number';

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
-- The pair: a coarse filter on a prefix, a fine score on all dimensions.

-- The price of a comparison depends on where the vector lies: COST is for whoever does not ask.

CREATE FUNCTION mrl_prefix_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_prefix_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_prefix_support(internal) IS 'planner support for functions that read a prefix: their price';

CREATE FUNCTION mrl_vector_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_vector_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_vector_support(internal) IS 'planner support for functions that read a whole vector: their price';

-- Behind the operators. Leakproof: all that they can tell of a row is its number of dimensions.
-- Without it a table under row-level security would be filtered only after its policy.

CREATE FUNCTION mrl_coarse_match(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_match(mrl_vector, mrl_probe) IS 'implementation of @~ operator';

CREATE FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_probe) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_probe_wrapper'
    LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_probe) IS 'implementation of !@~ operator';

CREATE FUNCTION mrl_coarse_match(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_wrapper'
    LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_match(mrl_vector, mrl_vector) IS 'implementation of @~ operator';

CREATE FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_vector) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_mismatch_wrapper'
    LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL SAFE COST 10 SUPPORT mrl_prefix_support;
COMMENT ON FUNCTION mrl_coarse_mismatch(mrl_vector, mrl_vector) IS 'implementation of !@~ operator';

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
COMMENT ON OPERATOR !@~ (mrl_vector, mrl_vector) IS 'not coarsely similar, by the settings';

-- The functions that people type: rewritten to the operators when a query is planned.

CREATE FUNCTION mrl_coarse_match_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION mrl_coarse_match_support(internal) IS 'planner support for coarse_match';

CREATE FUNCTION coarse_match(embedding mrl_vector, query mrl_vector, threshold double precision, dims integer) RETURNS boolean
    AS 'MODULE_PATHNAME', 'mrl_coarse_match_explicit_wrapper'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10 SUPPORT mrl_coarse_match_support;
COMMENT ON FUNCTION coarse_match(mrl_vector, mrl_vector, double precision, integer) IS
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
-- Embedding. With the model named the functions are immutable, as to_tsvector(config, text) is: a
-- model's name stands for fixed weights. Parallel restricted, so that no worker loads a model of
-- its own. The cost is that of a small model's forward pass.

CREATE FUNCTION embed_text(model text, content text, instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_text_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 1000000;
COMMENT ON FUNCTION embed_text(text, text, text) IS 'embedding of a text';

CREATE FUNCTION embed_text(content text) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_text_default_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000000;
COMMENT ON FUNCTION embed_text(text) IS 'embedding of a text by photosearch.model';

CREATE FUNCTION embed_image(model text, image bytea, instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_image_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000;
COMMENT ON FUNCTION embed_image(text, bytea, text) IS 'embedding of an encoded picture (JPEG, PNG, WebP, GIF, BMP, TIFF)';

CREATE FUNCTION embed_image(image bytea) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_image_default_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 10000000;
COMMENT ON FUNCTION embed_image(bytea) IS 'embedding of an encoded picture by photosearch.model';

CREATE FUNCTION embed(model text, content text, images bytea[] DEFAULT '{}', instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000;
COMMENT ON FUNCTION embed(text, text, bytea[], text) IS 'one embedding of pictures followed by a text';

CREATE FUNCTION embed_texts(model text, contents text[], instruction text DEFAULT NULL) RETURNS mrl_vector[]
    AS 'MODULE_PATHNAME', 'photosearch_embed_texts_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000;
COMMENT ON FUNCTION embed_texts(text, text[], text) IS 'embeddings of several texts, in order';

CREATE FUNCTION embed_images(model text, images bytea[], instruction text DEFAULT NULL) RETURNS mrl_vector[]
    AS 'MODULE_PATHNAME', 'photosearch_embed_images_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 100000000;
COMMENT ON FUNCTION embed_images(text, bytea[], text) IS 'embeddings of several encoded pictures, in order';

-- A cross-encoder reads query and content together.
CREATE FUNCTION rerank_score(model text, query text, content text) RETURNS real
    AS 'MODULE_PATHNAME', 'photosearch_rerank_score_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000000;
COMMENT ON FUNCTION rerank_score(text, text, text) IS 'how well a content answers a query, by a cross-encoder';

CREATE FUNCTION photosearch.list_models(
    OUT name text, OUT family text, OUT dimensions integer, OUT size bigint, OUT state text,
    OUT coarse_threshold real, OUT coarse_dims integer, OUT fine_threshold real,
    OUT packed boolean, OUT dtype text, OUT kernel text, OUT mapped_size bigint, OUT fingerprint text
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'photosearch_list_models_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION photosearch.list_models() IS 'the models that the server has';

CREATE VIEW photosearch.models AS SELECT * FROM photosearch.list_models();
COMMENT ON VIEW photosearch.models IS 'the models that the server has, with what each recommends for the coarse and the fine step, and how its packed copy is held';
GRANT SELECT ON photosearch.models TO PUBLIC;

CREATE FUNCTION photosearch.prepare_model(model text, replace boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'photosearch_prepare_model_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 100000000;
COMMENT ON FUNCTION photosearch.prepare_model(text, boolean) IS 'pack a model, read it into memory, and tell the bytes that sessions map';

CREATE FUNCTION photosearch.quantize_model(source text, target text) RETURNS double precision
    AS 'MODULE_PATHNAME', 'photosearch_quantize_model_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 100000000;
COMMENT ON FUNCTION photosearch.quantize_model(text, text) IS 'make the variant of a model in 8 bits, and tell the least cosine between vectors of the two';
REVOKE ALL ON FUNCTION photosearch.quantize_model(text, text) FROM PUBLIC;
-- The access method mrl.

CREATE FUNCTION mrl_handler(internal) RETURNS index_am_handler
    AS 'MODULE_PATHNAME', 'mrl_handler_wrapper' LANGUAGE C PARALLEL SAFE;
COMMENT ON FUNCTION mrl_handler(internal) IS 'mrl index access method handler';

CREATE ACCESS METHOD mrl TYPE INDEX HANDLER mrl_handler;
COMMENT ON ACCESS METHOD mrl IS 'complete answers to coarse_match by a sweep over packed prefixes';

CREATE OPERATOR CLASS mrl_ops DEFAULT FOR TYPE mrl_vector USING mrl AS
    OPERATOR 1 @~ (mrl_vector, mrl_vector),
    OPERATOR 2 @~ (mrl_vector, mrl_probe),
    OPERATOR 3 !@~ (mrl_vector, mrl_vector),
    OPERATOR 4 !@~ (mrl_vector, mrl_probe);

CREATE FUNCTION photosearch.check_index(
    index regclass, OUT block bigint, OUT entry integer, OUT row_id tid, OUT problem text
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'mrl_check_index_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 10000;
COMMENT ON FUNCTION photosearch.check_index(regclass) IS
    'every disagreement between an mrl index and its table; no rows if there is none';
REVOKE EXECUTE ON FUNCTION photosearch.check_index(regclass) FROM PUBLIC;

CREATE FUNCTION photosearch.last_sweep(
    OUT index regclass, OUT sweeps bigint, OUT pages bigint, OUT entries bigint, OUT matches bigint,
    OUT rejected bigint, OUT undecided bigint, OUT refined bigint, OUT milliseconds double precision
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'mrl_last_sweep_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION photosearch.last_sweep() IS
    'what this session''s last statement with scans of mrl indexes did in them, a row for each scan of a table that the user may read whole';
