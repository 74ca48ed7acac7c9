//! [`CoarseQuery`], the right-hand operand of the coarse filter. It is made from a probe, or from a
//! vector and the settings.

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;

use super::threshold::{CoarseParams, CoarseSettings};
use crate::types::{ProbeArg, VectorArg};

/// The prefix and the threshold that the coarse filter compares rows with.
#[derive(Debug, Clone, PartialEq)]
pub struct CoarseQuery {
    /// The prefix of the query vector, with as many values as the filter compares.
    pub prefix: Vec<f16>,
    /// Dimensions of the whole query vector.
    pub query_dims: usize,
    pub threshold: f32,
}

impl CoarseQuery {
    /// The query of `embedding @~ probe`.
    pub fn of_probe(probe: ProbeArg<'_>) -> Result<CoarseQuery, ErrorReport> {
        let probe = probe.probe()?;
        Ok(CoarseQuery {
            prefix: probe.values,
            query_dims: probe.query_dims,
            threshold: probe.threshold,
        })
    }

    /// The query of `embedding @~ query` under the current settings. The caller keeps `resolved`
    /// from one query to the next, so that equal settings are resolved only once.
    pub fn of_vector(
        query: VectorArg<'_>,
        resolved: &mut Option<ResolvedSettings>,
    ) -> Result<CoarseQuery, ErrorReport> {
        let query_dims = query.dims()?;
        let settings = CoarseSettings::current();
        let params = match resolved {
            Some(kept) if kept.settings == settings && kept.query_dims == query_dims => kept.params,
            _ => {
                let params = settings.resolve(query_dims)?;
                *resolved = Some(ResolvedSettings {
                    settings,
                    query_dims,
                    params,
                });
                params
            }
        };
        CoarseQuery::with_params(query, query_dims, params)
    }

    /// The query for explicit parameters. `query_dims` is the number of dimensions of `query`.
    pub fn with_params(
        query: VectorArg<'_>,
        query_dims: usize,
        params: CoarseParams,
    ) -> Result<CoarseQuery, ErrorReport> {
        Ok(CoarseQuery {
            prefix: query.exact_prefix(params.dims as i64)?.as_slice().to_vec(),
            query_dims,
            threshold: params.threshold,
        })
    }
}

/// Settings and a number of dimensions, with the parameters that they resolve to.
pub struct ResolvedSettings {
    settings: CoarseSettings,
    query_dims: usize,
    params: CoarseParams,
}
