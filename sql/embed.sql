-- Embedding functions. A function with an explicit model is immutable, like to_tsvector(config,
-- text), because the name of a model stands for fixed weights. The functions are parallel
-- restricted, so that parallel workers do not load models of their own. COST is that of a forward
-- pass of a small model.

CREATE FUNCTION photosearch.embed_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'photosearch_embed_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION photosearch.embed_support(internal) IS 'planner support for functions that embed: if the arguments of such a function are the same for all rows, its cost is that of one embedding per statement';

CREATE FUNCTION embed_text(model text, content text, instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_text_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 1000000 SUPPORT photosearch.embed_support;
COMMENT ON FUNCTION embed_text(text, text, text) IS 'embedding of a text';

CREATE FUNCTION embed_text(content text) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_text_default_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000000 SUPPORT photosearch.embed_support;
COMMENT ON FUNCTION embed_text(text) IS 'embedding of a text by photosearch.model';

CREATE FUNCTION embed_image(model text, image bytea, instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_image_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000 SUPPORT photosearch.embed_support;
COMMENT ON FUNCTION embed_image(text, bytea, text) IS 'embedding of an encoded picture (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF)';

CREATE FUNCTION embed_image(image bytea) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_image_default_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 10000000 SUPPORT photosearch.embed_support;
COMMENT ON FUNCTION embed_image(bytea) IS 'embedding of an encoded picture by photosearch.model';

CREATE FUNCTION embed(model text, content text, images bytea[] DEFAULT '{}', instruction text DEFAULT NULL) RETURNS mrl_vector
    AS 'MODULE_PATHNAME', 'photosearch_embed_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000 SUPPORT photosearch.embed_support;
COMMENT ON FUNCTION embed(text, text, bytea[], text) IS 'one embedding of pictures followed by a text';

CREATE FUNCTION embed_texts(model text, contents text[], instruction text DEFAULT NULL) RETURNS mrl_vector[]
    AS 'MODULE_PATHNAME', 'photosearch_embed_texts_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000000;
COMMENT ON FUNCTION embed_texts(text, text[], text) IS 'embeddings of several texts, in order';

CREATE FUNCTION embed_images(model text, images bytea[], instruction text DEFAULT NULL) RETURNS mrl_vector[]
    AS 'MODULE_PATHNAME', 'photosearch_embed_images_wrapper'
    LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 100000000;
COMMENT ON FUNCTION embed_images(text, bytea[], text) IS 'embeddings of several encoded pictures, in order';

-- Stable and not immutable: the result depends on limits that are settings. For embed_image only
-- the errors depend on them.
CREATE FUNCTION photosearch.image_problem(image bytea, model text DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'photosearch_image_problem_wrapper'
    LANGUAGE C STABLE PARALLEL RESTRICTED COST 5000000;
COMMENT ON FUNCTION photosearch.image_problem(bytea, text) IS 'reason why a model (by default photosearch.model) cannot embed a picture; null if it can';

-- A cross-encoder evaluates the query together with the content.
CREATE FUNCTION rerank_score(model text, query text, content text) RETURNS real
    AS 'MODULE_PATHNAME', 'photosearch_rerank_score_wrapper'
    LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000000;
COMMENT ON FUNCTION rerank_score(text, text, text) IS 'score of a cross-encoder for how well a content answers a query';

CREATE FUNCTION photosearch.list_models(
    OUT name text, OUT family text, OUT dimensions integer, OUT size bigint, OUT state text,
    OUT coarse_threshold real, OUT coarse_dims integer, OUT fine_threshold real,
    OUT packed boolean, OUT dtype text, OUT kernel text, OUT mapped_size bigint, OUT fingerprint text
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'photosearch_list_models_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION photosearch.list_models() IS 'the models that the server has';

CREATE FUNCTION photosearch.session_size(model text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'photosearch_session_size_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION photosearch.session_size(text) IS 'bytes of weights that each session holds itself; 0 if all sessions share the packed copy';

CREATE VIEW photosearch.models AS
    SELECT models.*, photosearch.session_size(models.name) AS session_size FROM photosearch.list_models() AS models;
COMMENT ON VIEW photosearch.models IS 'the models that the server has, with the thresholds and the prefix length that each recommends, the properties of its packed copy, and what each session holds itself';
GRANT SELECT ON photosearch.models TO PUBLIC;

CREATE FUNCTION photosearch.prepare_model(model text, replace boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'photosearch_prepare_model_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 100000000;
COMMENT ON FUNCTION photosearch.prepare_model(text, boolean) IS 'pack a model, read it into memory, and return the number of bytes that each session maps';
REVOKE ALL ON FUNCTION photosearch.prepare_model(text, boolean) FROM PUBLIC;

CREATE FUNCTION photosearch.quantize_model(source text, target text) RETURNS double precision
    AS 'MODULE_PATHNAME', 'photosearch_quantize_model_wrapper'
    LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED COST 100000000;
COMMENT ON FUNCTION photosearch.quantize_model(text, text) IS 'make a variant of a model with 8-bit weights, and return the smallest cosine between vectors of the two';
REVOKE ALL ON FUNCTION photosearch.quantize_model(text, text) FROM PUBLIC;
