//! The coarse filter: it compares the cosine similarity of a prefix with a threshold.
//!
//! The planner rewrites the function for users (`coarse_match`) to an operator (`@~`, `!@~`). Each
//! operator has a leakproof counterpart (`@~?`, `!@~?`), which the planner adds beside a condition under
//! row-level security, behind a security barrier view, and for some conditions on `fine_score` (see
//! `index/conditions.rs` and `planner/barrier.rs`). The counterpart never raises an error, and is true if the
//! two sides cannot be compared. The operator itself raises an error then, so it is not leakproof.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::coarse::{CoarseParams, CoarseQuery, CoarseSettings};
use crate::types::{
    Prepared, ProbeArg, VectorArg, call_site_state, check_threshold, first_argument_is_query,
    sql_error, vector_error,
};
use crate::vector::{MAX_DIMS, Query, VectorError};

impl From<CoarseQuery> for RowFilter {
    fn from(query: CoarseQuery) -> RowFilter {
        RowFilter {
            query: Query::from_prefix(&query.prefix, query.query_dims),
            threshold: query.threshold,
        }
    }
}

/// A query and its threshold, prepared for comparison with many rows.
struct RowFilter {
    query: Query,
    threshold: f32,
}

impl RowFilter {
    fn matches(&self, row: VectorArg<'_>) -> Result<bool, ErrorReport> {
        let values = row.prefix(self.query.compared_dims())?;
        if values.dims() != self.query.of() {
            return Err(vector_error(VectorError::DifferentDimensions(
                values.dims(),
                self.query.of(),
            )));
        }
        // A threshold has the type `real`. The similarity is rounded to `real` as well, so that a
        // similarity of 0.6 reaches a threshold of 0.6.
        Ok(self.query.similarity(values.as_slice()) as f32 >= self.threshold)
    }
}

/// Compares a row with a probe. `None` if the probe is undecided: its threshold is NaN, because
/// `mrl_leakproof_probe` was called with arguments for which `mrl_probe` raises an error.
fn compare_with_probe(
    embedding: VectorArg<'_>,
    probe: ProbeArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<bool>, ErrorReport> {
    let mut temporary = Prepared::default();
    // SAFETY: `fcinfo` is the current call's, and all functions of this signature keep only a
    // `Prepared<RowFilter>`.
    let site: &mut Prepared<RowFilter> =
        unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let filter = site.get(probe.identity(), || {
        CoarseQuery::of_probe(probe).map(RowFilter::from)
    })?;
    if filter.threshold.is_nan() {
        return Ok(None);
    }
    filter.matches(embedding).map(Some)
}

/// `embedding @~ mrl_probe(query, threshold, dims)`.
#[pg_extern(sql = false)]
fn mrl_coarse_match_probe(
    embedding: VectorArg<'_>,
    probe: ProbeArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    compare_with_probe(embedding, probe, fcinfo)?.ok_or_else(|| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "mrl_probe has no threshold",
        )
    })
}

#[pg_extern(sql = false)]
fn mrl_coarse_mismatch_probe(
    embedding: VectorArg<'_>,
    probe: ProbeArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    mrl_coarse_match_probe(embedding, probe, fcinfo).map(|matches| !matches)
}

/// `embedding @~? probe`.
#[pg_extern(sql = false)]
fn mrl_may_match_probe(
    embedding: VectorArg<'_>,
    probe: ProbeArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> bool {
    // If the policy or the view lets the row through, the original condition is evaluated too, and raises
    // the error.
    matches!(
        compare_with_probe(embedding, probe, fcinfo),
        Ok(Some(true) | None) | Err(_)
    )
}

/// `embedding !@~? probe`.
#[pg_extern(sql = false)]
fn mrl_may_mismatch_probe(
    embedding: VectorArg<'_>,
    probe: ProbeArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> bool {
    // As in `mrl_may_match_probe`.
    matches!(
        compare_with_probe(embedding, probe, fcinfo),
        Ok(Some(false) | None) | Err(_)
    )
}

/// The state of a call site whose threshold and prefix length follow the settings.
#[derive(Default)]
struct SettingsSite {
    first_is_query: Option<bool>,
    settings: Option<CoarseSettings>,
    /// The parameters that the settings resolve to for a query of the given number of dimensions.
    /// In a join the query changes with every row; keeping the parameters avoids reading the
    /// model's directory for each of them.
    resolved: Option<(usize, CoarseParams)>,
    filter: Prepared<RowFilter>,
}

/// `embedding @~ query`, and `coarse_match(embedding, query)`.
#[pg_extern(sql = false)]
fn mrl_coarse_match(
    a: VectorArg<'_>,
    b: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    let mut temporary = SettingsSite::default();
    // SAFETY: `fcinfo` is the current call's, and both functions of this signature keep only a
    // `SettingsSite`.
    let site: &mut SettingsSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let first_is_query = *site.first_is_query.get_or_insert_with(|| {
        // SAFETY: `fcinfo` is the current call's.
        unsafe { first_argument_is_query(fcinfo) }
    });
    let (query, row) = if first_is_query { (a, b) } else { (b, a) };

    // The settings may change within a statement (set_config), or while a call site is kept.
    let settings = CoarseSettings::current();
    if site.settings.as_ref() != Some(&settings) {
        site.filter = Prepared::default();
        site.resolved = None;
        site.settings = Some(settings.clone());
    }
    // Only the values in the prefix identify the query. If the model determines the prefix length, the
    // length is not known yet, so all values do.
    let compared = settings.dims().unwrap_or(MAX_DIMS);
    let filter = site.filter.get(query.identity(compared), || {
        let query_dims = query.dims()?;
        let params = match site.resolved {
            Some((dims, params)) if dims == query_dims => params,
            _ => {
                site.resolved
                    .insert((query_dims, settings.resolve(query_dims)?))
                    .1
            }
        };
        CoarseQuery::with_params(query, query_dims, params).map(RowFilter::from)
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

/// `embedding @~? query`.
#[pg_extern(sql = false)]
fn mrl_may_match(a: VectorArg<'_>, b: VectorArg<'_>, fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // As in `mrl_may_match_probe`.
    mrl_coarse_match(a, b, fcinfo).unwrap_or(true)
}

/// `embedding !@~? query`.
#[pg_extern(sql = false)]
fn mrl_may_mismatch(a: VectorArg<'_>, b: VectorArg<'_>, fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // As in `mrl_may_match_probe`.
    mrl_coarse_mismatch(a, b, fcinfo).unwrap_or(true)
}

/// `coarse_match(embedding, query, threshold, dims)`. It is called only when the planner folds a call with
/// constant arguments; the planner has rewritten every other call to the operator.
#[pg_extern(sql = false)]
fn mrl_coarse_match_explicit_bigint(
    embedding: VectorArg<'_>,
    query: VectorArg<'_>,
    threshold: f64,
    dims: i64,
) -> Result<bool, ErrorReport> {
    matches_explicitly(embedding, query, threshold, dims)
}

/// [`mrl_coarse_match_explicit_bigint`] for databases whose extension is still of version 0.1.0, in which `dims` is
/// an `integer`.
#[pg_extern(sql = false)]
fn mrl_coarse_match_explicit(
    embedding: VectorArg<'_>,
    query: VectorArg<'_>,
    threshold: f64,
    dims: i32,
) -> Result<bool, ErrorReport> {
    matches_explicitly(embedding, query, threshold, dims.into())
}

fn matches_explicitly(
    embedding: VectorArg<'_>,
    query: VectorArg<'_>,
    threshold: f64,
    dims: i64,
) -> Result<bool, ErrorReport> {
    check_threshold(threshold)?;
    let threshold = threshold as f32;
    let values = query.exact_prefix(dims)?;
    let query = Query::from_prefix(values.as_slice(), values.dims());
    RowFilter { query, threshold }.matches(embedding)
}
