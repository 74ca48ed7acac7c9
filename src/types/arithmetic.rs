//! Arithmetic operators, norms and subvectors.

use std::fmt::{Display, LowerExp};

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::error::{sql_error, vector_error};
use super::vector::{MrlVector, VectorArg, check_same_dims};
use crate::vector::{VectorError, from_f32s, normalize, round_to_f16, to_f16};

fn element_wise(
    a: VectorArg<'_>,
    b: VectorArg<'_>,
    op: impl Fn(f32, f32) -> f32,
) -> Result<MrlVector, ErrorReport> {
    let (a, b) = (a.values()?, b.values()?);
    check_same_dims(a.dims(), b.dims())?;
    let values = a.as_slice().iter().zip(b.as_slice());
    let values: Vec<f32> = values.map(|(x, y)| op(x.to_f32(), y.to_f32())).collect();
    Ok(MrlVector(from_f32s(&values).map_err(vector_error)?))
}

#[pg_extern(sql = false)]
fn mrl_vector_add(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<MrlVector, ErrorReport> {
    element_wise(a, b, |x, y| x + y)
}

#[pg_extern(sql = false)]
fn mrl_vector_sub(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<MrlVector, ErrorReport> {
    element_wise(a, b, |x, y| x - y)
}

/// `vector * scalar`. The product is computed in f64 and rounded to f16.
#[pg_extern(sql = false)]
fn mrl_vector_mul(vector: VectorArg<'_>, scalar: f64) -> Result<MrlVector, ErrorReport> {
    scale(vector, scalar)
}

#[pg_extern(sql = false)]
fn mul_mrl_vector(scalar: f64, vector: VectorArg<'_>) -> Result<MrlVector, ErrorReport> {
    scale(vector, scalar)
}

/// `vector / scalar`. The quotient is computed in f64 and rounded to f16.
#[pg_extern(sql = false)]
fn mrl_vector_div(vector: VectorArg<'_>, scalar: f64) -> Result<MrlVector, ErrorReport> {
    if scalar == 0.0 {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_DIVISION_BY_ZERO,
            "division by zero",
        ));
    }
    with_scalar(vector, scalar, |value| value / scalar)
}

fn scale(vector: VectorArg<'_>, scalar: f64) -> Result<MrlVector, ErrorReport> {
    with_scalar(vector, scalar, |value| value * scalar)
}

/// Applies an operation with a scalar to each value.
fn with_scalar(
    vector: VectorArg<'_>,
    scalar: f64,
    op: impl Fn(f64) -> f64,
) -> Result<MrlVector, ErrorReport> {
    if scalar.is_nan() {
        return Err(vector_error(VectorError::NotANumber));
    }
    if scalar.is_infinite() {
        return Err(vector_error(VectorError::Infinite));
    }
    let values = vector.values()?;
    let results = values.as_slice().iter().map(|value| {
        let result = op(f64::from(*value));
        // Both operands are finite, so the result is too large even for f64.
        if result.is_infinite() {
            return Err(VectorError::OutOfRange("Infinity".to_owned()));
        }
        narrow(result)
    });
    Ok(MrlVector(
        results
            .collect::<Result<Vec<f16>, _>>()
            .map_err(vector_error)?,
    ))
}

/// Rounds an f64 to f16 in one step. If a finite value is too large for f16, the error names it.
pub(super) fn narrow(value: f64) -> Result<f16, VectorError> {
    let half = round_to_f16(value);
    if half.is_infinite() && value.is_finite() {
        return Err(out_of_range(value));
    }
    if half.is_finite() {
        Ok(half)
    } else {
        // The value is NaN or an infinity, which `to_f16` rejects.
        to_f16(value as f32)
    }
}

/// The error for an out-of-range value. Its message shows the value, in exponent form if it has
/// more than 15 digits before the point.
pub(super) fn out_of_range<T: Copy + Display + LowerExp + Into<f64>>(value: T) -> VectorError {
    let shown = if value.into().abs() < 1e15 {
        value.to_string()
    } else {
        format!("{value:e}")
    };
    VectorError::OutOfRange(shown)
}

#[pg_extern(sql = false)]
fn mrl_vector_dims(vector: VectorArg<'_>) -> Result<i32, ErrorReport> {
    Ok(vector.dims()? as i32)
}

#[pg_extern(sql = false)]
fn mrl_vector_l2_norm(vector: VectorArg<'_>) -> Result<f64, ErrorReport> {
    Ok(f64::from(vector.squared_norm()?).sqrt())
}

#[pg_extern(sql = false)]
fn mrl_vector_l2_normalize(vector: VectorArg<'_>) -> Result<MrlVector, ErrorReport> {
    Ok(MrlVector(normalize(vector.values()?.as_slice())))
}

/// Up to `count` values from `start`, which counts from 1. A range that exceeds the vector is
/// clipped, as in pgvector.
#[pg_extern(sql = false)]
fn mrl_vector_subvector(
    vector: VectorArg<'_>,
    start: i32,
    count: i32,
) -> Result<MrlVector, ErrorReport> {
    if count < 1 {
        return Err(vector_error(VectorError::NoDimensions));
    }
    // i64 prevents an overflow of start + count.
    let end = i64::from(start) + i64::from(count) - 1;
    let values = vector.prefix(usize::try_from(end).unwrap_or(0))?;
    let end = usize::try_from(end).unwrap_or(0).min(values.dims());
    let start = usize::try_from(i64::from(start) - 1).unwrap_or(0);
    if start >= end {
        return Err(vector_error(VectorError::NoDimensions));
    }
    Ok(MrlVector(values.as_slice()[start..end].to_vec()))
}

/// The first `dims` values, scaled to length 1. With a model that was trained as a Matryoshka model
/// the result is an embedding, too.
#[pg_extern(sql = false)]
fn mrl_truncate(vector: VectorArg<'_>, dims: i32) -> Result<MrlVector, ErrorReport> {
    Ok(MrlVector(normalize(
        vector.exact_prefix(dims.into())?.as_slice(),
    )))
}
