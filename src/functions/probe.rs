//! `mrl_probe(query)`: a probe with the threshold and the prefix length that the settings name.
//!
//! The result carries both numbers. So `embedding @~ (SELECT mrl_probe(query))` means the same wherever the
//! comparison takes place, on a server with other settings too. `embedding @~ query` asks for the settings
//! of the session that compares.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::coarse::{CoarseQuery, CoarseSettings, ResolvedSettings};
use crate::types::{Prepared, Probe, VectorArg, call_site_state};
use crate::vector::MAX_DIMS;

/// The state of a call site: the probe of the last query. In a join the function is called for every
/// row, and the query vector may be out of line.
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
    // SAFETY: `fcinfo` is the current call's, and both functions that call this one keep only a
    // `ProbeSite`.
    let site: &mut ProbeSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    // The settings may change within a statement (set_config), or while a call site is kept.
    let settings = CoarseSettings::current();
    if site.settings.as_ref() != Some(&settings) {
        site.probe = Prepared::default();
        site.settings = Some(settings.clone());
    }
    // If the model determines the prefix length, it is not known yet, so all values identify the
    // query.
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

/// `mrl_probe(query)` for conditions that the planner adds: an error of `mrl_probe` gives an undecided
/// probe. The function is leakproof because it never raises an error.
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
