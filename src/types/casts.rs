//! Casts: from `mrl_vector` to `mrl_vector(n)`, from arrays of numbers, and to `real[]`.

use std::fmt::{Display, LowerExp};

use half::f16;
use pgrx::array::RawArray;
use pgrx::datum::UnboxDatum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Array, pg_sys};

use super::arithmetic::out_of_range;
use super::call_site::{Prepared, call_site_state};
use super::error::{sql_error, vector_error};
use super::varlena::ArrayArg;
use super::vector::{MrlVector, StoredVector, VectorArg, VectorDatum};
use super::vector_io::check_typmod;
use crate::vector::{VectorError, check_dims, parse, to_f16};

/// The cast `mrl_vector::mrl_vector(n)`: returns the same vector, or an error if its number of
/// dimensions is not n.
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

/// Converts the elements of an array with `to_half`. If a generic plan casts a parameter, the cast
/// is evaluated for every row, so the call site keeps the last vector.
fn from_array<T>(
    array: ArrayArg<'_>,
    typmod: i32,
    fcinfo: pg_sys::FunctionCallInfo,
    to_half: impl Fn(T) -> Result<f16, VectorError>,
) -> Result<VectorDatum, ErrorReport>
where
    T: for<'a> UnboxDatum<As<'a> = T> + 'static,
{
    #[derive(Default)]
    struct CastSite {
        typmod: i32,
        vector: Prepared<StoredVector>,
    }
    let mut temporary = CastSite::default();
    // SAFETY: `fcinfo` is the current call's; every function of this file that keeps state keeps a
    // `CastSite`.
    let site: &mut CastSite = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    if site.typmod != typmod {
        *site = CastSite {
            typmod,
            ..CastSite::default()
        };
    }
    let vector = site.vector.get(array.0.identity(usize::MAX), || {
        // SAFETY: `T` is the element type of the argument in the SQL declaration; every caller
        // chooses it so.
        let array = unsafe { array.open::<T>() };
        collect(array, typmod, to_half).map(StoredVector::from)
    })?;
    Ok(vector.to_datum())
}

fn collect<T>(
    array: Array<'_, T>,
    typmod: i32,
    to_half: impl Fn(T) -> Result<f16, VectorError>,
) -> Result<MrlVector, ErrorReport>
where
    T: for<'a> UnboxDatum<As<'a> = T> + 'static,
{
    check_dims(array.len()).map_err(vector_error)?;
    let mut values = Vec::with_capacity(array.len());
    for element in array.iter() {
        let element = element.ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "array must not contain nulls",
            )
        })?;
        values.push(to_half(element).map_err(vector_error)?);
    }
    // SAFETY: `array` is consumed here, and `values` borrows nothing from it.
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

/// Rounds to f32 and then to f16, as the input function does. An error names the original value.
fn round_as_input<T: Copy + Display + LowerExp + Into<f64>>(value: T) -> Result<f16, VectorError> {
    let wide: f64 = value.into();
    match to_f16(wide as f32) {
        Err(VectorError::Infinite | VectorError::OutOfRange(_)) if wide.is_finite() => {
            Err(out_of_range(value))
        }
        rounded => rounded,
    }
}

#[pg_extern(sql = false)]
fn real_array_to_mrl_vector(
    array: ArrayArg<'_>,
    typmod: i32,
    _explicit: bool,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    from_array(array, typmod, fcinfo, round_as_input::<f32>)
}

#[pg_extern(sql = false)]
fn double_array_to_mrl_vector(
    array: ArrayArg<'_>,
    typmod: i32,
    _explicit: bool,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    from_array(array, typmod, fcinfo, round_as_input::<f64>)
}

#[pg_extern(sql = false)]
fn smallint_array_to_mrl_vector(
    array: ArrayArg<'_>,
    typmod: i32,
    _explicit: bool,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    from_array(array, typmod, fcinfo, round_as_input::<i16>)
}

#[pg_extern(sql = false)]
fn integer_array_to_mrl_vector(
    array: ArrayArg<'_>,
    typmod: i32,
    _explicit: bool,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    from_array(array, typmod, fcinfo, round_as_input::<i32>)
}

#[pg_extern(sql = false)]
fn numeric_array_to_mrl_vector(
    array: ArrayArg<'_>,
    typmod: i32,
    _explicit: bool,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    // A numeric is parsed from the text that it prints. The text is exact, and reading it raises only
    // errors of `parse`, none of Postgres' casts.
    from_array(array, typmod, fcinfo, |value: pgrx::AnyNumeric| {
        let values = parse(&format!("[{value}]"))?;
        values.first().copied().ok_or(VectorError::NoDimensions)
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
