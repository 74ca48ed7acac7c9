//! The view `photosearch.models`, and the functions with which administrators prepare and quantize
//! models.

use std::path::Path;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::guc;
use crate::inference::{InvalidateOnDrop, catalog, model_thread};
use crate::model::{self, Cache, ModelError};
use crate::types::{TextArg, sql_error};

/// A row of the view `photosearch.models`.
type ModelRow = (
    name!(name, String),
    name!(family, Option<String>),
    name!(dimensions, Option<i32>),
    name!(size, Option<i64>),
    name!(state, String),
    name!(coarse_threshold, Option<f32>),
    name!(coarse_dims, Option<i32>),
    name!(fine_threshold, Option<f32>),
    name!(packed, bool),
    name!(dtype, Option<String>),
    name!(kernel, Option<String>),
    name!(mapped_size, Option<i64>),
    name!(fingerprint, Option<String>),
);

/// Lists every directory that may contain a model, with the model's properties. A directory whose
/// model cannot be used is listed, too; the column `state` says why.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the macro reads the columns from the return type
fn photosearch_list_models() -> Result<
    TableIterator<
        'static,
        (
            name!(name, String),
            name!(family, Option<String>),
            name!(dimensions, Option<i32>),
            name!(size, Option<i64>),
            name!(state, String),
            name!(coarse_threshold, Option<f32>),
            name!(coarse_dims, Option<i32>),
            name!(fine_threshold, Option<f32>),
            name!(packed, bool),
            name!(dtype, Option<String>),
            name!(kernel, Option<String>),
            name!(mapped_size, Option<i64>),
            name!(fingerprint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let cache = Cache::new(guc::cache_dir());
    let rows: Vec<ModelRow> = catalog::list()
        .into_iter()
        .map(|(name, dir)| row(name, &dir, &cache))
        .collect();
    Ok(TableIterator::new(rows))
}

fn row(name: String, dir: &Path, cache: &Cache) -> ModelRow {
    let info = model::describe(dir);
    let state = match &info {
        Ok(info) if info.missing.is_empty() => match model::check(dir) {
            Ok(()) => "ready".to_owned(),
            Err(error) => error.to_string(),
        },
        Ok(info) => format!("lacks {}", info.missing.join(", ")),
        Err(error) => error.to_string(),
    };
    let info = info.ok();
    let info = info.as_ref();
    let packed = cache.packed(dir);
    // The pack of a model that candle runs has the checkpoint's number format, but candle computes in
    // f32. The columns `dtype` and `kernel` show how the model is computed.
    let by_candle = info.is_some_and(|info| info.session_bytes > 0);
    (
        name,
        info.map(|info| info.family.to_owned()),
        info.and_then(|info| i32::try_from(info.dims?).ok()),
        info.and_then(|info| i64::try_from(info.bytes).ok()),
        state,
        info.and_then(|info| info.coarse_threshold),
        info.and_then(|info| i32::try_from(info.coarse_dims?).ok()),
        info.and_then(|info| info.fine_threshold),
        packed.is_some(),
        packed.as_ref().map(|packed| match by_candle {
            true => "float32".to_owned(),
            false => packed.dtype.to_owned(),
        }),
        packed.as_ref().map(|packed| match by_candle {
            true => "candle".to_owned(),
            false => packed.kernel.clone(),
        }),
        packed
            .as_ref()
            .and_then(|packed| i64::try_from(packed.bytes).ok()),
        packed.map(|packed| packed.fingerprint),
    )
}

/// Returns the size of the weights that each session holds itself, in bytes. Returns NULL instead of
/// an error for a directory without a usable description, so that the view can list it.
#[pg_extern(sql = false)]
fn photosearch_session_size(name: TextArg<'_>) -> Result<Option<i64>, ErrorReport> {
    let dir = catalog::find(&catalog::name(name)?)?;
    let info = model::describe(&dir).ok();
    Ok(info.and_then(|info| i64::try_from(info.session_bytes).ok()))
}

/// Packs the model if it has not been packed yet, reads the packed copy into memory, and returns
/// the number of bytes that each session maps.
#[pg_extern(sql = false)]
fn photosearch_prepare_model(name: TextArg<'_>, replace: bool) -> Result<i64, ErrorReport> {
    // SAFETY: `superuser` has no preconditions other than a running transaction, which a SQL
    // function has.
    if replace && !unsafe { pg_sys::superuser() } {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "must be superuser to accept a model's changed files",
        ));
    }
    let name = catalog::name(name)?;
    let dir = catalog::find(&name)?;
    let cache = Cache::new(guc::cache_dir());
    // The invalidation messages are sent even if `prepare` fails, because sessions may use the new
    // files already.
    let _invalidation = replace.then_some(InvalidateOnDrop);
    let prepared =
        model_thread::run(move |_, cancel| model::prepare(&dir, &cache, replace, cancel))?;
    let packed = prepared.map_err(|error| catalog::model_error(&name, error))?;
    Ok(i64::try_from(packed.bytes).unwrap_or(i64::MAX))
}

/// Makes a variant of a model with 8-bit weights in `photosearch.model_dir`. Returns the smallest
/// cosine between the vectors that the model and the variant give the same text or picture.
#[pg_extern(sql = false)]
fn photosearch_quantize_model(
    source: TextArg<'_>,
    target: TextArg<'_>,
) -> Result<f64, ErrorReport> {
    // SAFETY: `superuser` has no preconditions other than a running transaction, which a SQL
    // function has.
    if !unsafe { pg_sys::superuser() } {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "must be superuser to quantize a model",
        ));
    }
    let (source, target) = (catalog::name(source)?, catalog::name(target)?);
    let model_dir = guc::model_dir();
    if model_dir.is_empty() {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "photosearch.model_dir is not set",
        )
        .set_hint(
            "The new model is written to a subdirectory of photosearch.model_dir, in which the server needs write permission.",
        ));
    }
    if catalog::search_dirs()
        .iter()
        .any(|dir| dir.join(&target).exists())
    {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("model \"{target}\" already exists"),
        ));
    }
    let (from, to) = (catalog::find(&source)?, Path::new(&model_dir).join(&target));
    let (cache, memory) = (Cache::new(guc::cache_dir()), guc::max_embed_memory());
    let quantized =
        model_thread::run(move |_, cancel| model::quantize(&from, &to, &cache, memory, cancel))?;
    let closeness = quantized.map_err(|error| match error {
        ModelError::Cache(error) => sql_error(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("could not write model \"{target}\": {error}"),
        ),
        error => catalog::model_error(&source, error),
    })?;
    Ok(closeness.least())
}
