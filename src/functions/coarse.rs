//! The coarse filter: cosine similarity on a prefix against a threshold.
//!
//! Each form exists twice: the function that people type (`coarse_match`), which the planner
//! rewrites, and the one behind the operator (`@~`, `!@~`), which is leakproof.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::coarse::{Coarse, CoarseQuery, CoarseSettings};
use crate::types::{
    Prepared, ProbeArg, VectorArg, call_site_state, check_any_of_array, check_threshold,
    first_argument_is_query, vector_error,
};
use crate::vector::{MAX_DIMS, Query, VectorError};

impl From<CoarseQuery> for RowFilter {
    fn from(query: CoarseQuery) -> RowFilter {
        RowFilter {
            query: Query::from_prefix(&query.prefix, query.of),
            threshold: query.threshold,
        }
    }
}

/// A query and its threshold, ready for many rows.
struct RowFilter {
    query: Query,
    threshold: f32,
}

impl RowFilter {
    fn matches(&self, row: VectorArg<'_>) -> Result<bool, ErrorReport> {
        let values = row.prefix(self.query.dims())?;
        if values.dims() != self.query.of() {
            return Err(vector_error(VectorError::DifferentDimensions(
                values.dims(),
                self.query.of(),
            )));
        }
        // A threshold is a real: against it the similarity is one too, so that 0.6 reaches 0.6.
        Ok(self.query.similarity(values.as_slice()) as f32 >= self.threshold)
    }
}

/// What the forms with a probe keep.
#[derive(Default)]
struct ProbeSite {
    checked: bool,
    filter: Prepared<RowFilter>,
}

/// `embedding @~ mrl_probe(query, threshold, dims)`.
#[pg_extern(sql = false)]
fn mrl_coarse_match_probe(
    embedding: VectorArg<'_>,
    probe: ProbeArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    let mut own = ProbeSite::default();
    // SAFETY: this call's fcinfo; the functions of this signature keep a ProbeSite.
    let site: &mut ProbeSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut own);
    if !site.checked {
        // SAFETY: this call's fcinfo.
        unsafe { check_any_of_array(fcinfo) }?;
        site.checked = true;
    }
    let filter = site.filter.get(probe.identity(), || {
        CoarseQuery::of_probe(probe).map(RowFilter::from)
    })?;
    filter.matches(embedding)
}

#[pg_extern(sql = false)]
fn mrl_coarse_mismatch_probe(
    embedding: VectorArg<'_>,
    probe: ProbeArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    mrl_coarse_match_probe(embedding, probe, fcinfo).map(|matches| !matches)
}

/// What the forms that follow the settings keep.
#[derive(Default)]
struct SettingsSite {
    first_is_query: Option<bool>,
    settings: Option<CoarseSettings>,
    /// What the settings mean for queries of so many dimensions: in a join the query changes with
    /// every row, and the model's directory is not read for each.
    resolved: Option<(usize, Coarse)>,
    filter: Prepared<RowFilter>,
}

/// `embedding @~ query`, and `coarse_match(embedding, query)`.
#[pg_extern(sql = false)]
fn mrl_coarse_match(
    a: VectorArg<'_>,
    b: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    let mut own = SettingsSite::default();
    // SAFETY: this call's fcinfo; the functions of this signature keep a SettingsSite.
    let site: &mut SettingsSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut own);
    let first_is_query = match site.first_is_query {
        Some(first_is_query) => first_is_query,
        None => {
            // SAFETY: this call's fcinfo.
            let first_is_query = unsafe {
                check_any_of_array(fcinfo)?;
                first_argument_is_query(fcinfo)
            };
            *site.first_is_query.insert(first_is_query)
        }
    };
    let (query, row) = if first_is_query { (a, b) } else { (b, a) };

    // Settings may change under a running statement (set_config) and under a kept call site.
    let settings = CoarseSettings::current();
    if site.settings.as_ref() != Some(&settings) {
        site.filter = Prepared::default();
        site.resolved = None;
        site.settings = Some(settings.clone());
    }
    // With dims from the model, not yet known here, the whole query stands for itself.
    let compared = settings.dims().unwrap_or(MAX_DIMS);
    let filter = site.filter.get(query.identity(compared), || {
        let of = query.dims()?;
        let coarse = match site.resolved {
            Some((dims, coarse)) if dims == of => coarse,
            _ => site.resolved.insert((of, settings.resolve(of)?)).1,
        };
        CoarseQuery::under(query, of, coarse).map(RowFilter::from)
    })?;
    filter.matches(row)
}

#[pg_extern(sql = false)]
fn mrl_coarse_mismatch(
    a: VectorArg<'_>,
    b: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    mrl_coarse_match(a, b, fcinfo).map(|matches| !matches)
}

/// `coarse_match(embedding, query, threshold, dims)` of constants, which the planner folds: every
/// other call has become the operator before it runs.
#[pg_extern(sql = false)]
fn mrl_coarse_match_explicit(
    embedding: VectorArg<'_>,
    query: VectorArg<'_>,
    threshold: f64,
    dims: i32,
) -> Result<bool, ErrorReport> {
    check_threshold(threshold)?;
    let threshold = threshold as f32;
    let values = query.exact_prefix(dims.into())?;
    let query = Query::from_prefix(values.as_slice(), values.dims());
    RowFilter { query, threshold }.matches(embedding)
}
