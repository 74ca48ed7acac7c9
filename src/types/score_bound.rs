//! The type `mrl_score_bound`: a whole query vector and a condition on the similarity with it. It is
//! the right-hand operand of `@<=>`, which the planner puts in place of a condition on `fine_score` or
//! `<=>`.
//!
//! The text form is `(score >= 0.35,[values])`. Instead of `score` it can have `distance`, and
//! `1 - distance` for the similarity as it is computed from a distance; instead of `>=` also `>`, `<=`
//! and `<`.
//!
//! | bytes of the data | contents |
//! | --- | --- |
//! | 0..8 | the number with which the measure is compared, f64 |
//! | 8 | the measure that is compared: its index in [`MEASURES`] |
//! | 9 | the operator of the comparison: its index in [`OPS`] |
//! | 10..12 | zero |
//! | 12.. | the query vector's values, f16 |

use std::ffi::{CStr, CString};

use half::f16;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{impl_sql_translatable, pg_sys};

use super::call_site::{Prepared, call_site_state};
use super::error::{sql_error, vector_error};
use super::varlena::{RawVarlena, TextArg, new_varlena, raw_argument};
use super::vector::VectorArg;
use super::vector_io::{cstring, write_values};
use crate::vector::{CompareOp, MAX_DIMS, Measure, ScoreCondition, parse};

const HEADER: usize = 12;

/// More than the length of a condition's name, in bytes.
const MAX_NAME: usize = 64;

const MEASURES: [(Measure, &str); 3] = [
    (Measure::Score, "score"),
    (Measure::Distance, "distance"),
    (Measure::OneMinusDistance, "1 - distance"),
];

const OPS: [(CompareOp, &str); 4] = [
    (CompareOp::AtLeast, ">="),
    (CompareOp::Above, ">"),
    (CompareOp::AtMost, "<="),
    (CompareOp::Below, "<"),
];

/// The name of a condition in the text form, without its number.
pub fn condition_name(measure: Measure, op: CompareOp) -> String {
    let measure = MEASURES.iter().find(|(known, _)| *known == measure);
    let op = OPS.iter().find(|(known, _)| *known == op);
    format!("{} {}", measure.map_or("", |m| m.1), op.map_or("", |o| o.1))
}

/// The inverse of [`condition_name`].
pub fn condition_of_name(name: &str) -> Option<(Measure, CompareOp)> {
    let (measure, op) = name.trim().rsplit_once(' ')?;
    let (measure, _) = MEASURES.iter().find(|(_, known)| *known == measure)?;
    let (op, _) = OPS.iter().find(|(_, known)| *known == op)?;
    Some((*measure, *op))
}

/// A condition on the similarity with a query.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreBound {
    pub condition: ScoreCondition,
    /// All values of the query vector.
    pub values: Vec<f16>,
}

impl ScoreBound {
    fn decode(data: &[u8]) -> Option<ScoreBound> {
        let (header, body) = data.split_first_chunk::<HEADER>()?;
        let (value, rest) = header.split_first_chunk::<8>()?;
        let (measure, _) = MEASURES.get(usize::from(rest[0]))?;
        let (op, _) = OPS.get(usize::from(rest[1]))?;
        let (values, []) = body.as_chunks::<2>() else {
            return None;
        };
        (!values.is_empty()).then(|| ScoreBound {
            condition: ScoreCondition {
                measure: *measure,
                op: *op,
                value: f64::from_ne_bytes(*value),
            },
            values: values.iter().map(|b| f16::from_ne_bytes(*b)).collect(),
        })
    }
}

/// An argument of type `mrl_score_bound`.
#[derive(Clone, Copy)]
pub struct ScoreBoundArg<'fcx>(RawVarlena<'fcx>);

impl<'fcx> ScoreBoundArg<'fcx> {
    /// # Safety
    /// `datum` is a non-null `mrl_score_bound` that lives as long as `'fcx`.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> ScoreBoundArg<'fcx> {
        // SAFETY: the caller guarantees a non-null varlena that lives as long as `'fcx`.
        ScoreBoundArg(unsafe { RawVarlena::from_datum(datum) })
    }

    /// Bytes that identify the value (see [`RawVarlena::identity`]).
    pub fn identity(&self) -> Option<&'fcx [u8]> {
        self.0.identity(usize::MAX)
    }

    /// # Errors
    /// If the bytes are not those of a value of this type.
    pub fn bound(&self) -> Result<ScoreBound, ErrorReport> {
        ScoreBound::decode(self.0.bytes().as_slice()).ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                "mrl_score_bound value is corrupted",
            )
        })
    }
}

/// `mrl_score_bound(query, 'score >=', 0.35)`.
#[pg_extern(sql = false)]
fn mrl_score_bound(
    query: VectorArg<'_>,
    condition: TextArg<'_>,
    value: f64,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<ScoreBound, ErrorReport> {
    let bytes = condition.0.first_bytes(MAX_NAME);
    let name = String::from_utf8_lossy(bytes.as_slice());
    let (measure, op) = condition_of_name(&name).ok_or_else(|| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("unrecognized condition on a similarity: \"{name:.64}\""),
        )
        .set_hint("A condition is for example \"score >=\" or \"distance <\".")
    })?;
    // If the query comes from a subselect or a join, this function is called for every row, and the query
    // vector may be out of line. Keeping the values avoids fetching them for every row.
    let mut temporary = Prepared::<Vec<f16>>::default();
    // SAFETY: `fcinfo` is the current call's, and this SQL function keeps only such a `Prepared`.
    let site: &mut Prepared<Vec<f16>> =
        unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let values = site.get(query.identity(MAX_DIMS), || {
        Ok::<_, ErrorReport>(query.values()?.as_slice().to_vec())
    })?;
    Ok(ScoreBound {
        condition: ScoreCondition { measure, op, value },
        values: values.clone(),
    })
}

#[pg_extern(sql = false)]
fn mrl_score_bound_in(text: &CStr) -> Result<ScoreBound, ErrorReport> {
    let text = text.to_string_lossy();
    let syntax = || {
        sql_error(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            format!(
                "invalid input syntax for type mrl_score_bound: \"{:.64}\"",
                text
            ),
        )
        .set_detail("A value is for example (score >= 0.35,[values]).")
    };
    let inner = text
        .trim()
        .strip_prefix('(')
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(syntax)?;
    let (condition, values) = inner.split_once(',').ok_or_else(syntax)?;
    let (name, value) = condition.trim().rsplit_once(' ').ok_or_else(syntax)?;
    let (measure, op) = condition_of_name(name).ok_or_else(syntax)?;
    let value = value.parse().map_err(|_| syntax())?;
    Ok(ScoreBound {
        condition: ScoreCondition { measure, op, value },
        values: parse(values.trim()).map_err(vector_error)?,
    })
}

#[pg_extern(sql = false)]
fn mrl_score_bound_out(score_bound: ScoreBoundArg<'_>) -> Result<CString, ErrorReport> {
    let ScoreBound { condition, values } = score_bound.bound()?;
    let name = condition_name(condition.measure, condition.op);
    let mut text = format!("({name} {:?},", condition.value).into_bytes();
    write_values(&values, &mut text);
    text.push(b')');
    cstring(text)
}

impl_sql_translatable!(ScoreBoundArg<'_>, "mrl_score_bound");
impl_sql_translatable!(ScoreBound, "mrl_score_bound");

// SAFETY: the SQL declarations name `mrl_score_bound` for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for ScoreBoundArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict, so the datum is not null.
        ScoreBoundArg(unsafe { raw_argument(arg) })
    }
}

// SAFETY: `box_into` writes the layout of `mrl_score_bound` (the table at the top of this file).
unsafe impl BoxRet for ScoreBound {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let ScoreBound { condition, values } = self;
        let place = |at: Option<usize>| at.unwrap_or(0) as u8;
        let measure = MEASURES.iter().position(|(m, _)| *m == condition.measure);
        let op = OPS.iter().position(|(op, _)| *op == condition.op);
        let datum = new_varlena(HEADER + 2 * values.len(), |data| {
            data[0..8].copy_from_slice(&condition.value.to_ne_bytes());
            data[8..HEADER].copy_from_slice(&[place(measure), place(op), 0, 0]);
            for (bytes, value) in data[HEADER..].chunks_exact_mut(2).zip(&values) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        });
        // SAFETY: the datum is of the return type that the SQL declaration names.
        unsafe { fcinfo.return_raw_datum(datum) }
    }
}
