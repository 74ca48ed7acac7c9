-- Preparing and quantising models, the privileges for it, and the limit on the memory of a forward pass.
SELECT photosearch.prepare_model('photosearch-mini-1') > 1000000 AS mapped;
SELECT packed, dtype, kernel IS NOT NULL AS kernel, mapped_size > 1000000 AS mapped, length(fingerprint) AS fingerprint
FROM photosearch.models WHERE name = 'photosearch-mini-1';

\set VERBOSITY sqlstate
SELECT photosearch.prepare_model('no-such-model');
SELECT photosearch.prepare_model('../photosearch-mini-1');
SELECT photosearch.quantize_model('photosearch-mini-1', '../x');
SELECT photosearch.quantize_model('photosearch-mini-1', 'photosearch-mini-1');
\set VERBOSITY default
SELECT photosearch.quantize_model('photosearch-mini-1', 'mini-int8');

-- Only a superuser may replace a prepared model or make a new one.
CREATE ROLE regress_photosearch_user;
SET ROLE regress_photosearch_user;
SELECT photosearch.prepare_model('photosearch-mini-1') > 1000000 AS mapped;
SELECT photosearch.prepare_model('photosearch-mini-1', replace => true);
SELECT photosearch.quantize_model('photosearch-mini-1', 'mini-int8');
\set VERBOSITY sqlstate
SHOW photosearch.cache_dir;
\set VERBOSITY default
RESET ROLE;
DROP ROLE regress_photosearch_user;

-- A forward pass that needs more than photosearch.max_embed_memory is refused, and the session goes on.
SET photosearch.max_embed_memory = '1MB';
\set VERBOSITY sqlstate
SELECT embed_text(repeat('a baby and a dog ', 500));
\set VERBOSITY default
SELECT fine_score(embed_text('a baby'), embed_text('a baby')) > 0.999999 AS same;
-- An array of many short texts is embedded in several passes that fit the limit.
SELECT array_length(embed_texts('photosearch-mini-1', array_agg('a baby ' || i)), 1) FROM generate_series(1, 100) i;
RESET photosearch.max_embed_memory;
