//! `mrl_probe(query)`: makes a probe, which is the right-hand operand of `@~`, with the threshold and the
//! prefix length that the settings determine.
//!
//! The probe contains both numbers. So `embedding @~ (SELECT mrl_probe(query))` means the same on every
//! server, even if the server that compares has other settings. `embedding @~ query` uses the settings of
//! the session that compares.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::coarse::{CoarseQuery, CoarseSettings, ResolvedSettings};
use crate::types::{Prepared, Probe, VectorArg, call_site_state};
use crate::vector::MAX_DIMS;

/// The state of a call site: the probe of the last query. A join calls the function for every row, and
/// reading a query vector that is stored out of line (TOAST) each time would be slow.
#[derive(Default)]
struct ProbeSite {
    settings: Option<CoarseSettings>,
    resolved: Option<ResolvedSettings>,
    probe: Prepared<Probe>,
}

/// `mrl_probe(query)`.
#[pg_extern(sql = false)]
fn mrl_probe_by_settings(
    query: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    let mut temporary = ProbeSite::default();
    // SAFETY: `fcinfo` is the current call's, and both SQL functions that end here keep only a
    // `ProbeSite`.
    let site: &mut ProbeSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    // The settings may change within a statement (set_config), or while a call site is kept.
    let settings = CoarseSettings::current();
    if site.settings.as_ref() != Some(&settings) {
        site.probe = Prepared::default();
        site.settings = Some(settings.clone());
    }
    // Only the values in the prefix have to be compared. If the model determines the prefix length, the
    // length is not known yet, so all values are compared.
    let compared = settings.dims().unwrap_or(MAX_DIMS);
    let probe = site.probe.get(query.identity(compared), || {
        let query = CoarseQuery::of_vector(query, &mut site.resolved)?;
        Ok::<_, ErrorReport>(Probe {
            threshold: query.threshold,
            query_dims: query.query_dims,
            values: query.prefix,
        })
    })?;
    Ok(probe.clone())
}

/// `mrl_leakproof_probe(query)`, for conditions that the planner adds. Where `mrl_probe` raises an error, this
/// function returns an undecided probe, which every vector may match, so it can be leakproof.
#[pg_extern(sql = false)]
fn mrl_leakproof_probe_by_settings(
    query: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    match mrl_probe_by_settings(query, fcinfo) {
        Ok(probe) => Ok(probe),
        Err(_) => Probe::undecided(query),
    }
}
