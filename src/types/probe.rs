//! The type `mrl_probe`: a prefix of a query vector and a similarity threshold. It is the
//! right-hand operand of `@~`, `!@~` and their leakproof counterparts.
//!
//! A probe contains only the first `dims` values of the query, because the filter needs no others.
//! This keeps a constant in a plan small and the output of EXPLAIN readable. The text form is
//! `(dims,threshold,dimensions of the query,[values])`.
//!
//! | bytes of the data | contents |
//! | --- | --- |
//! | 0..4 | threshold, f32 |
//! | 4..6 | dims, the number of values that follow, u16 |
//! | 6..8 | dimensions of the whole query vector, u16 |
//! | 8.. | the values, f16 |

use std::ffi::{CStr, CString};

use half::f16;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{impl_sql_translatable, pg_sys};

use super::call_site::{Prepared, call_site_state};
use super::error::{sql_error, vector_error};
use super::varlena::{RawVarlena, new_varlena, raw_argument};
use super::vector::VectorArg;
use super::vector_io::{cstring, write_f32, write_values};
use crate::vector::{MAX_DIMS, VectorError, check_dims, parse};

const HEADER: usize = 8;

/// A prefix of a query vector, and the minimum similarity of a matching row.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub threshold: f32,
    /// Dimensions of the whole query vector. A row with any other number of dimensions is an error.
    pub query_dims: usize,
    /// The prefix that is compared with the rows.
    pub values: Vec<f16>,
}

impl Probe {
    /// A probe without a threshold (NaN), for which both leakproof operators, `@~?` and `!@~?`, are true for every
    /// vector. Only the leakproof functions make one, and only these operators accept it.
    pub fn undecided(query: VectorArg<'_>) -> Result<Probe, ErrorReport> {
        Ok(Probe {
            threshold: f32::NAN,
            query_dims: query.dims()?,
            values: query.prefix(1)?.as_slice().to_vec(),
        })
    }

    fn check(self) -> Result<Probe, ErrorReport> {
        check_threshold(self.threshold.into())?;
        check_dims(self.query_dims).map_err(vector_error)?;
        if self.values.is_empty() || self.values.len() > self.query_dims {
            let dims = self.values.len() as i64;
            return Err(vector_error(VectorError::PrefixOutOfRange {
                dims,
                of: self.query_dims,
            }));
        }
        Ok(self)
    }

    fn decode(data: &[u8]) -> Option<Probe> {
        let (header, body) = data.split_first_chunk::<HEADER>()?;
        let [t0, t1, t2, t3, d0, d1, o0, o1] = *header;
        if body.len() != 2 * usize::from(u16::from_ne_bytes([d0, d1])) {
            return None;
        }
        let query_dims = usize::from(u16::from_ne_bytes([o0, o1]));
        if !(1..=query_dims).contains(&(body.len() / 2)) {
            return None;
        }
        Some(Probe {
            threshold: f32::from_ne_bytes([t0, t1, t2, t3]),
            query_dims,
            values: body
                .chunks_exact(2)
                .map(|b| f16::from_ne_bytes([b[0], b[1]]))
                .collect(),
        })
    }
}

/// The hint of an error for a threshold above 1.
pub const PERCENTAGE_HINT: &str = "If you meant a percentage, write 0.5 for 50 %.";

/// Returns an error unless the threshold lies in the range of a cosine. A threshold of 50, for
/// instance, would match no row, and the user would take the empty result for an answer.
pub fn check_threshold(threshold: f64) -> Result<(), ErrorReport> {
    let real = threshold as f32;
    if (-1.0..=1.0).contains(&real) {
        return Ok(());
    }
    let mut shown = Vec::new();
    write_f32(real, &mut shown);
    let report = sql_error(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!(
            "threshold {} is outside the range of a cosine similarity, -1 to 1",
            String::from_utf8_lossy(&shown)
        ),
    );
    Err(if real > 1.0 {
        report.set_hint(PERCENTAGE_HINT)
    } else {
        report
    })
}

/// Returns an error unless a vector can have a prefix of `dims` values, that is, unless `dims` is
/// in `1..=MAX_DIMS`.
pub fn check_prefix_dims(dims: i64) -> Result<(), ErrorReport> {
    if usize::try_from(dims).is_ok_and(|dims| (1..=MAX_DIMS).contains(&dims)) {
        return Ok(());
    }
    Err(vector_error(VectorError::PrefixOutOfRange {
        dims,
        of: MAX_DIMS,
    }))
}

/// An argument of type `mrl_probe`.
#[derive(Clone, Copy)]
pub struct ProbeArg<'fcx>(RawVarlena<'fcx>);

impl<'fcx> ProbeArg<'fcx> {
    /// # Safety
    /// `datum` is a non-null `mrl_probe` that lives as long as `'fcx`.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> ProbeArg<'fcx> {
        // SAFETY: the caller guarantees a non-null varlena that lives as long as `'fcx`.
        ProbeArg(unsafe { RawVarlena::from_datum(datum) })
    }

    /// Bytes that identify the probe (see [`RawVarlena::identity`]).
    pub fn identity(&self) -> Option<&'fcx [u8]> {
        self.0.identity(usize::MAX)
    }

    pub fn probe(&self) -> Result<Probe, ErrorReport> {
        Probe::decode(self.0.bytes().as_slice()).ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                "mrl_probe value is corrupted",
            )
        })
    }
}

/// `mrl_probe(query, threshold, dims)`. A prefix length is a `bigint`, because some drivers send whole
/// numbers as `bigint`, and because a function with `bigint` accepts `smallint` and `integer` too. A second
/// form with `integer` would make a parameter of unknown type ambiguous.
#[pg_extern(sql = false)]
fn mrl_probe_bigint(
    query: VectorArg<'_>,
    threshold: f64,
    dims: i64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    make_probe(query, threshold, dims, fcinfo)
}

/// [`mrl_probe_bigint`] for databases whose extension is still of version 0.1.0, in which `dims` is an `integer`.
#[pg_extern(sql = false)]
fn mrl_probe(
    query: VectorArg<'_>,
    threshold: f64,
    dims: i32,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    make_probe(query, threshold, dims.into(), fcinfo)
}

fn make_probe(
    query: VectorArg<'_>,
    threshold: f64,
    dims: i64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    let mut temporary = ProbeSite::default();
    // SAFETY: `fcinfo` is the current call's, and every SQL function that calls this one keeps only a
    // `ProbeSite`.
    let site: &mut ProbeSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    site.make(query, threshold, dims)
}

/// The state of a call site that makes probes: the prefix of the last query. If the query comes
/// from a subselect or a join, the probe is made for every row, and the query vector may be out of
/// line. Keeping the prefix avoids fetching it for every row.
#[derive(Default)]
struct ProbeSite {
    dims: i64,
    query: Prepared<(usize, Vec<f16>)>,
}

impl ProbeSite {
    fn make(
        &mut self,
        query: VectorArg<'_>,
        threshold: f64,
        dims: i64,
    ) -> Result<Probe, ErrorReport> {
        if self.dims != dims {
            self.dims = dims;
            self.query = Prepared::default();
        }
        let compared = usize::try_from(dims).unwrap_or(0);
        let (query_dims, values) = self.query.get(query.identity(compared), || {
            let values = query.exact_prefix(dims)?;
            Ok::<_, ErrorReport>((values.dims(), values.as_slice().to_vec()))
        })?;
        Probe {
            threshold: threshold as f32,
            query_dims: *query_dims,
            values: values.clone(),
        }
        .check()
    }
}

/// `mrl_leakproof_probe`, for conditions that the planner adds: for arguments for which `mrl_probe` raises an
/// error, it returns an undecided probe. It is leakproof because no threshold, dims or valid vector is an error.
#[pg_extern(sql = false)]
fn mrl_leakproof_probe_bigint(
    query: VectorArg<'_>,
    threshold: f64,
    dims: i64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    make_leakproof_probe(query, threshold, dims, fcinfo)
}

/// [`mrl_leakproof_probe_bigint`] for databases made by a build between two releases, in which `dims` was still an
/// `integer`. No release declares it.
#[pg_extern(sql = false)]
fn mrl_leakproof_probe(
    query: VectorArg<'_>,
    threshold: f64,
    dims: i32,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    make_leakproof_probe(query, threshold, dims.into(), fcinfo)
}

fn make_leakproof_probe(
    query: VectorArg<'_>,
    threshold: f64,
    dims: i64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    match make_probe(query, threshold, dims, fcinfo) {
        Ok(probe) => Ok(probe),
        Err(_) => Probe::undecided(query),
    }
}

/// The difference between the number with which a condition compares `fine_score`, and the threshold of the
/// probe that the planner derives from the condition. It is larger than all roundings together, so every row
/// that satisfies the condition satisfies the derived one: similarity and threshold are rounded to `real`
/// before they are compared, by at most 2^-24 (6e-8) each, and a distance is rounded by 2^-53.
const SCORE_MARGIN: f64 = 2e-7;

/// Returns a probe that every vector with `fine_score(vector, query) >= score` matches, and so every vector
/// with `> score`. Every score is accepted, NaN and infinities too.
#[pg_extern(sql = false)]
fn mrl_probe_at_least(
    query: VectorArg<'_>,
    score: f64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    // NaN stands for two conditions: `fine_score >= NaN`, which no row satisfies, because Postgres sorts
    // NaN above every number; and `distance <= NaN`, written as `fine_score >= 1 - NaN`, which every row
    // satisfies. Every vector reaches -1, which suits both.
    let threshold = if score.is_nan() {
        -1.0
    } else {
        score - SCORE_MARGIN
    };
    whole_probe(query, threshold.clamp(-1.0, 1.0), fcinfo)
}

/// Returns a probe that no vector with `fine_score(vector, query) <= score` matches, and so no vector with
/// `< score`. Every score is accepted, NaN and infinities too.
#[pg_extern(sql = false)]
fn mrl_probe_at_most(
    query: VectorArg<'_>,
    score: f64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    // `fine_score <= NaN` holds for every row, `distance >= NaN` for none. No vector reaches 2, so the negated
    // operators let every row pass, which suits both.
    let threshold = if score.is_nan() {
        2.0
    } else {
        score + SCORE_MARGIN
    };
    whole_probe(query, threshold.clamp(-1.0, 2.0), fcinfo)
}

fn whole_probe(
    query: VectorArg<'_>,
    threshold: f64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Probe, ErrorReport> {
    let mut temporary = Prepared::<Vec<f16>>::default();
    // SAFETY: `fcinfo` is the current call's, and the functions that call this one keep only such a
    // `Prepared`.
    let site: &mut Prepared<Vec<f16>> =
        unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let values = site.get(query.identity(MAX_DIMS), || {
        Ok::<_, ErrorReport>(query.values()?.as_slice().to_vec())
    })?;
    Ok(Probe {
        threshold: threshold as f32,
        query_dims: values.len(),
        values: values.clone(),
    })
}

#[pg_extern(sql = false)]
fn mrl_probe_in(text: &CStr) -> Result<Probe, ErrorReport> {
    let text = text.to_string_lossy();
    let syntax = || {
        sql_error(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type mrl_probe: \"{:.64}\"", text),
        )
        .set_detail("The text form of a probe is (dims,threshold,dimensions,[values]).")
    };
    // SQL takes `mrl_probe('…')` and `mrl_probe($1)` for a cast, because the type has the same name as the
    // function.
    if text.trim_start().starts_with('[') {
        return Err(syntax().set_hint("If this is a vector, write mrl_probe('[…]'::mrl_vector)."));
    }
    let inner = text
        .trim()
        .strip_prefix('(')
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(syntax)?;
    let mut parts = inner.splitn(4, ',').map(str::trim);
    let (Some(dims), Some(threshold), Some(query_dims), Some(values)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(syntax());
    };
    let dims: usize = dims.parse().map_err(|_| syntax())?;
    let probe = Probe {
        threshold: threshold.parse().map_err(|_| syntax())?,
        query_dims: query_dims.parse().map_err(|_| syntax())?,
        values: parse(values).map_err(vector_error)?,
    };
    if probe.values.len() != dims {
        return Err(syntax());
    }
    probe.check()
}

#[pg_extern(sql = false)]
fn mrl_probe_out(probe: ProbeArg<'_>) -> Result<CString, ErrorReport> {
    let Probe {
        threshold,
        query_dims,
        values,
    } = probe.probe()?;
    let mut text = format!("({},", values.len()).into_bytes();
    write_f32(threshold, &mut text);
    text.extend_from_slice(format!(",{query_dims},").as_bytes());
    write_values(&values, &mut text);
    text.push(b')');
    cstring(text)
}

impl_sql_translatable!(ProbeArg<'_>, "mrl_probe");
impl_sql_translatable!(Probe, "mrl_probe");

// SAFETY: the SQL declarations name `mrl_probe` for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for ProbeArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict, so the datum is not null.
        ProbeArg(unsafe { raw_argument(arg) })
    }
}

// SAFETY: `box_into` writes the layout of `mrl_probe` (the table at the top of this file).
unsafe impl BoxRet for Probe {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let datum = new_varlena(HEADER + 2 * self.values.len(), |data| {
            data[0..4].copy_from_slice(&self.threshold.to_ne_bytes());
            data[4..6].copy_from_slice(&(self.values.len() as u16).to_ne_bytes());
            data[6..8].copy_from_slice(&(self.query_dims as u16).to_ne_bytes());
            for (bytes, value) in data[HEADER..].chunks_exact_mut(2).zip(&self.values) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        });
        // SAFETY: the datum is of the return type that the SQL declaration names.
        unsafe { fcinfo.return_raw_datum(datum) }
    }
}
