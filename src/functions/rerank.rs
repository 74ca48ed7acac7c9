//! The SQL function `rerank_score`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::text;
use crate::guc;
use crate::inference::{catalog, model_thread};
use crate::model::Cache;
use crate::types::{TextArg, sql_error};

/// Returns the score of a cross-encoder for how well `content` answers `query`.
#[pg_extern(sql = false)]
fn photosearch_rerank_score(
    model: TextArg<'_>,
    query: TextArg<'_>,
    content: TextArg<'_>,
) -> Result<f32, ErrorReport> {
    let model = catalog::name(model)?;
    let dir = catalog::find(&model)?;
    let (cache, memory) = (Cache::new(guc::cache_dir()), guc::max_embed_memory());
    let (query, content) = (text::read(query, "query")?, text::read(content, "text")?);
    let scores = model_thread::run(move |models, cancel| {
        models
            .get(&dir, &cache, cancel)?
            .score(&[(&query, &content)], memory, cancel)
    })?;
    let scores = scores.map_err(|error| catalog::model_error(&model, error))?;
    scores.first().copied().ok_or_else(|| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "the model returned no score",
        )
    })
}
