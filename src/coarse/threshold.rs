//! Determines the threshold and the prefix length of a comparison whose SQL form has no arguments for
//! them: the settings state them, or else the model recommends them.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::guc;
use crate::inference::{self, catalog};
use crate::types::sql_error;

/// A snapshot of the settings. It is cheap to take for every row. Equal snapshots resolve to equal
/// parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct CoarseSettings {
    threshold: Option<f32>,
    dims: Option<usize>,
    /// Two counters: the first changes with the settings that name a model, the second with the models'
    /// files.
    generations: [u64; 2],
}

/// The threshold and the prefix length of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoarseParams {
    pub threshold: f32,
    pub dims: usize,
}

impl CoarseSettings {
    pub fn current() -> CoarseSettings {
        CoarseSettings {
            // Rounded to a real, like the argument of the explicit form.
            threshold: guc::coarse_threshold().map(|threshold| threshold as f32),
            dims: guc::coarse_dims(),
            generations: [guc::model_generation(), inference::generation()],
        }
    }

    /// The prefix length, if `photosearch.coarse_dims` is set.
    pub fn dims(&self) -> Option<usize> {
        self.dims
    }

    /// Returns the threshold and the prefix length for a query of `query_dims` dimensions. Where a
    /// setting is not set, takes what the model that `photosearch.model` names recommends.
    ///
    /// # Errors
    /// A setting is not set, and there is no such model, its vectors do not have `query_dims` dimensions, or it
    /// recommends no value.
    pub fn resolve(&self, query_dims: usize) -> Result<CoarseParams, ErrorReport> {
        if let (Some(threshold), Some(dims)) = (self.threshold, self.dims) {
            return Ok(CoarseParams { threshold, dims });
        }
        let name = guc::model();
        let info = catalog::describe(&name)?;
        let hint = "Set photosearch.coarse_threshold and photosearch.coarse_dims, or pass them as arguments: coarse_match(embedding, query, threshold, dims).";
        if info.dims != Some(query_dims) {
            let model_dims = match info.dims {
                Some(dims) => format!("has {dims}"),
                None => "produces no vectors".to_owned(),
            };
            return Err(sql_error(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!(
                    "no coarse threshold is known for vectors of {query_dims} dimensions: model \"{name}\" {model_dims}"
                ),
            )
            .set_hint(hint));
        }
        let threshold = self.threshold.or(info.coarse_threshold);
        match (threshold, self.dims.or(info.coarse_dims)) {
            (Some(threshold), Some(dims)) => Ok(CoarseParams { threshold, dims }),
            _ => Err(sql_error(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("model \"{name}\" recommends no coarse threshold and dims"),
            )
            .set_hint(hint)),
        }
    }
}
