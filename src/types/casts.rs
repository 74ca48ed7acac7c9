//! Casts: to a dimension count, from arrays of numbers, to `real[]`.

use pgrx::Array;
use pgrx::array::RawArray;
use pgrx::datum::UnboxDatum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::error::sql_error;
use super::vector::{MrlVector, VectorArg};
use super::vector_io::check_typmod;
use crate::vector::{VectorError, check_dims, to_f16};

/// `mrl_vector::mrl_vector(n)`: the same vector, its dimensions checked.
#[pg_extern(sql = false)]
fn mrl_vector_to_mrl_vector(
    vector: VectorArg<'_>,
    typmod: i32,
    _explicit: bool,
) -> Result<MrlVector, ErrorReport> {
    let values = vector.values()?;
    check_typmod(values.dims(), typmod)?;
    Ok(MrlVector(values.as_slice().to_vec()))
}

/// Collects an array's elements, each narrowed by `to_f32`.
fn from_array<T>(
    array: Array<'_, T>,
    typmod: i32,
    to_f32: impl Fn(T) -> Result<f32, ErrorReport>,
) -> Result<MrlVector, ErrorReport>
where
    T: for<'a> UnboxDatum<As<'a> = T> + 'static,
{
    check_dims(array.len())?;
    let mut values = Vec::with_capacity(array.len());
    for element in array.iter() {
        let element = element.ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "array must not contain nulls",
            )
        })?;
        values.push(to_f16(to_f32(element)?)?);
    }
    // SAFETY: nothing that was borrowed from the array is used any more.
    let shape = unsafe { RawArray::from_array(array) }.map_or(1, |array| array.dims().len());
    if shape > 1 {
        return Err(
            sql_error(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "array must be 1-D")
                .set_detail(format!("The array has {shape} dimensions.")),
        );
    }
    check_typmod(values.len(), typmod)?;
    Ok(MrlVector(values))
}

/// Narrowing as Postgres' own cast to `real` does it, where that would be an error: ours names
/// the value.
fn narrow(value: f64) -> Result<f32, ErrorReport> {
    let narrowed = value as f32;
    if narrowed.is_infinite() && value.is_finite() {
        return Err(VectorError::OutOfRange(value.to_string()).into());
    }
    Ok(narrowed)
}

#[pg_extern(sql = false)]
fn real_array_to_mrl_vector(
    array: Array<'_, f32>,
    typmod: i32,
    _explicit: bool,
) -> Result<MrlVector, ErrorReport> {
    from_array(array, typmod, Ok)
}

#[pg_extern(sql = false)]
fn double_array_to_mrl_vector(
    array: Array<'_, f64>,
    typmod: i32,
    _explicit: bool,
) -> Result<MrlVector, ErrorReport> {
    from_array(array, typmod, narrow)
}

#[pg_extern(sql = false)]
fn integer_array_to_mrl_vector(
    array: Array<'_, i32>,
    typmod: i32,
    _explicit: bool,
) -> Result<MrlVector, ErrorReport> {
    from_array(array, typmod, |value| Ok(value as f32))
}

#[pg_extern(sql = false)]
fn numeric_array_to_mrl_vector(
    array: Array<'_, pgrx::AnyNumeric>,
    typmod: i32,
    _explicit: bool,
) -> Result<MrlVector, ErrorReport> {
    from_array(array, typmod, |value| {
        // A numeric reads as the text that it prints: exact, and no error of Postgres' own.
        let text = value.to_string();
        let wide: f64 = text.parse().map_err(|_| {
            sql_error(
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!("\"{text}\" is out of range for type mrl_vector"),
            )
        })?;
        if wide.is_infinite() && text.bytes().any(|b| b.is_ascii_digit()) {
            return Err(VectorError::OutOfRange(text).into());
        }
        narrow(wide)
    })
}

#[pg_extern(sql = false)]
fn mrl_vector_to_real_array(vector: VectorArg<'_>) -> Result<Vec<f32>, ErrorReport> {
    Ok(vector
        .values()?
        .as_slice()
        .iter()
        .map(|value| value.to_f32())
        .collect())
}
