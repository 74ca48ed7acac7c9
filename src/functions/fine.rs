//! The fine score: the cosine similarity over all dimensions, for ranking.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::types::{
    Prepared, ScoreBoundArg, VectorArg, call_site_state, first_argument_is_query, vector_error,
};
use crate::vector::{MAX_DIMS, Query, ScoreCondition, VectorError};

#[derive(Default)]
struct ScoreSite {
    first_is_query: Option<bool>,
    query: Prepared<Query>,
}

/// `fine_score(embedding, query)`: in [-1, 1], and 0 if a vector is zero.
#[pg_extern(sql = false)]
fn mrl_fine_score(
    a: VectorArg<'_>,
    b: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<f64, ErrorReport> {
    let mut temporary = ScoreSite::default();
    // SAFETY: `fcinfo` is the current call's, and the functions that call this one keep only a
    // `ScoreSite`.
    let site: &mut ScoreSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let first_is_query = *site.first_is_query.get_or_insert_with(|| {
        // SAFETY: `fcinfo` is the current call's.
        unsafe { first_argument_is_query(fcinfo) }
    });
    let (query, row) = if first_is_query { (a, b) } else { (b, a) };
    let query = site.query.get(query.identity(MAX_DIMS), || {
        let values = query.values()?;
        Ok::<_, ErrorReport>(Query::from_prefix(values.as_slice(), values.dims()))
    })?;
    similarity(query, row)
}

fn similarity(query: &Query, row: VectorArg<'_>) -> Result<f64, ErrorReport> {
    let values = row.values()?;
    if values.dims() != query.of() {
        return Err(vector_error(VectorError::DifferentDimensions(
            values.dims(),
            query.of(),
        )));
    }
    Ok(query.similarity(values.as_slice()))
}

/// `embedding <=> query`: 1 - `fine_score`, in [0, 2].
#[pg_extern(sql = false)]
fn mrl_cosine_distance(
    a: VectorArg<'_>,
    b: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<f64, ErrorReport> {
    mrl_fine_score(a, b, fcinfo).map(|score| 1.0 - score)
}

/// `embedding <~> query`: `fine_score` with the opposite sign, for an index, which returns rows in ascending
/// order of an operator. `<=>` would not do: 1 - score is rounded, so two scores can have the same distance.
#[pg_extern(sql = false)]
fn mrl_negative_score(
    a: VectorArg<'_>,
    b: VectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<f64, ErrorReport> {
    mrl_fine_score(a, b, fcinfo).map(|score| -score)
}

/// `embedding @<=> score_bound`: whether the similarity satisfies the condition in `score_bound`. For every row, the
/// result is that of the comparison in SQL from which the planner made `score_bound` (`fine_score(…) >= 0.35`).
#[pg_extern(sql = false)]
fn mrl_score_within(
    embedding: VectorArg<'_>,
    score_bound: ScoreBoundArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<bool, ErrorReport> {
    let mut temporary = Prepared::default();
    // SAFETY: `fcinfo` is the current call's, and this SQL function keeps only such a `Prepared`.
    let site: &mut Prepared<(ScoreCondition, Query)> =
        unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let (condition, query) = site.get(score_bound.identity(), || {
        let bound = score_bound.bound()?;
        let query = Query::from_prefix(&bound.values, bound.values.len());
        Ok::<_, ErrorReport>((bound.condition, query))
    })?;
    Ok(condition.holds(similarity(query, embedding)?))
}
