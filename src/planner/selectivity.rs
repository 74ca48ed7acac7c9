//! How many rows the planner expects of `@~` and `!@~`.
//!
//! A prior, whatever the query: no statistics of vectors are kept yet. (Postgres' own
//! `matchingsel` would run the operator on sampled values while it plans, which is an error where
//! a column holds vectors of several dimensions.)

use pgrx::prelude::*;
use pgrx::{Internal, pg_sys};

/// The share of rows that a filter is expected to keep, as `DEFAULT_MATCHING_SEL` of Postgres'
/// `utils/selfuncs.h`.
const MATCHING: f64 = 0.01;

#[pg_extern(sql = false)]
fn mrl_coarse_match_sel(
    _root: Internal,
    _operator: pg_sys::Oid,
    _args: Internal,
    _relation: i32,
) -> f64 {
    MATCHING
}

#[pg_extern(sql = false)]
fn mrl_coarse_mismatch_sel(
    _root: Internal,
    _operator: pg_sys::Oid,
    _args: Internal,
    _relation: i32,
) -> f64 {
    1.0 - MATCHING
}

#[pg_extern(sql = false)]
fn mrl_coarse_match_joinsel(
    _root: Internal,
    _operator: pg_sys::Oid,
    _args: Internal,
    _join_type: i16,
    _join: Internal,
) -> f64 {
    MATCHING
}

#[pg_extern(sql = false)]
fn mrl_coarse_mismatch_joinsel(
    _root: Internal,
    _operator: pg_sys::Oid,
    _args: Internal,
    _join_type: i16,
    _join: Internal,
) -> f64 {
    1.0 - MATCHING
}
