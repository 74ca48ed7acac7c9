//! The right-hand side of the coarse filter.

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;

use super::settings::{Coarse, CoarseSettings};
use crate::types::{ProbeArg, VectorArg};

/// What a coarse filter compares rows with.
#[derive(Debug, Clone, PartialEq)]
pub struct CoarseQuery {
    /// The query's prefix, as much of it as is compared.
    pub prefix: Vec<f16>,
    /// Dimensions of the whole query vector.
    pub of: usize,
    pub threshold: f32,
}

impl CoarseQuery {
    /// The right-hand side of `embedding @~ probe`.
    pub fn of_probe(probe: ProbeArg<'_>) -> Result<CoarseQuery, ErrorReport> {
        let probe = probe.probe()?;
        Ok(CoarseQuery {
            prefix: probe.values,
            of: probe.of,
            threshold: probe.threshold,
        })
    }

    /// The right-hand side of `embedding @~ query`, under the settings as they are now. `resolved`
    /// is kept by the caller from one query to the next.
    pub fn of_vector(
        query: VectorArg<'_>,
        resolved: &mut Option<Resolved>,
    ) -> Result<CoarseQuery, ErrorReport> {
        let of = query.dims()?;
        let settings = CoarseSettings::current();
        let coarse = match resolved {
            Some(kept) if kept.settings == settings && kept.of == of => kept.coarse,
            _ => {
                let coarse = settings.resolve(of)?;
                *resolved = Some(Resolved {
                    settings,
                    of,
                    coarse,
                });
                coarse
            }
        };
        CoarseQuery::under(query, of, coarse)
    }

    /// The query with this threshold and prefix length. `of` is its number of dimensions.
    pub fn under(
        query: VectorArg<'_>,
        of: usize,
        coarse: Coarse,
    ) -> Result<CoarseQuery, ErrorReport> {
        Ok(CoarseQuery {
            prefix: query.exact_prefix(coarse.dims as i64)?.as_slice().to_vec(),
            of,
            threshold: coarse.threshold,
        })
    }
}

/// What some settings mean for queries of so many dimensions.
pub struct Resolved {
    settings: CoarseSettings,
    of: usize,
    coarse: Coarse,
}
