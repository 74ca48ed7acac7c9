//! The threshold and prefix length of the forms that name neither.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::guc;
use crate::inference::catalog;
use crate::types::sql_error;

/// The settings that decide, as they are now. Cheap to read for every row; equal settings resolve
/// alike.
#[derive(Debug, Clone, PartialEq)]
pub struct CoarseSettings {
    threshold: Option<f32>,
    dims: Option<usize>,
    model_generation: u64,
}

/// Threshold and prefix length that a query is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coarse {
    pub threshold: f32,
    pub dims: usize,
}

impl CoarseSettings {
    pub fn current() -> CoarseSettings {
        CoarseSettings {
            // As the argument of the explicit form, a real.
            threshold: guc::coarse_threshold().map(|threshold| threshold as f32),
            dims: guc::coarse_dims(),
            model_generation: guc::model_generation(),
        }
    }

    /// The prefix length, where a setting names it.
    pub fn dims(&self) -> Option<usize> {
        self.dims
    }

    /// Threshold and prefix length for a query of `of` dimensions. What the user has not set is
    /// what `photosearch.model` recommends, if its vectors can be the query's.
    pub fn resolve(&self, of: usize) -> Result<Coarse, ErrorReport> {
        if let (Some(threshold), Some(dims)) = (self.threshold, self.dims) {
            return Ok(Coarse { threshold, dims });
        }
        let name = guc::model();
        let info = catalog::describe(&name)?;
        let hint = "Set photosearch.coarse_threshold and photosearch.coarse_dims, or name them: coarse_match(embedding, query, threshold, dims).";
        if info.dims != Some(of) {
            let makes = match info.dims {
                Some(dims) => format!("has {dims}"),
                None => "makes no vectors".to_owned(),
            };
            return Err(sql_error(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!(
                    "no coarse threshold is known for vectors of {of} dimensions: model \"{name}\" {makes}"
                ),
            )
            .set_hint(hint));
        }
        let threshold = self.threshold.or(info.coarse_threshold);
        match (threshold, self.dims.or(info.coarse_dims)) {
            (Some(threshold), Some(dims)) => Ok(Coarse { threshold, dims }),
            _ => Err(sql_error(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("model \"{name}\" recommends no coarse threshold and dims"),
            )
            .set_hint(hint)),
        }
    }
}
