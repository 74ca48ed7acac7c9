//! Casts from pgvector's types `vector` and `halfvec` to `mrl_vector`, without an array in between.
//!
//! The extension `photosearch_pgvector` declares these functions in SQL. They read the layout that
//! pgvector's `vector.h` and `halfvec.h` define, in the byte order of the machine:
//!
//! | bytes behind the varlena header | contents |
//! | --- | --- |
//! | 0..2 | dimensions, i16 |
//! | 2..4 | zero |
//! | 4.. | the values, f32 (`vector`) or f16 (`halfvec`) |
//!
//! The type belongs to another extension, so its bytes are checked before they are read: a value of
//! any other type of variable length, or of a future layout, is an error.

use half::f16;
use half::slice::HalfBitsSliceExt;
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{impl_sql_translatable, pg_sys};

use super::call_site::{Prepared, call_site_state};
use super::error::{sql_error, vector_error};
use super::varlena::{RawVarlena, raw_argument};
use super::vector::{MrlVector, StoredVector, VectorDatum};
use crate::vector::{MAX_DIMS, VectorError, from_f32s};

const HEADER: usize = 4;

/// An argument of type `vector`.
#[derive(Clone, Copy)]
struct PgvectorArg<'fcx>(RawVarlena<'fcx>);

/// An argument of type `halfvec`.
#[derive(Clone, Copy)]
struct HalfvecArg<'fcx>(RawVarlena<'fcx>);

impl_sql_translatable!(PgvectorArg<'_>, "vector");
impl_sql_translatable!(HalfvecArg<'_>, "halfvec");

// SAFETY: the SQL declarations name `vector`, a varlena, for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for PgvectorArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict, so the datum is not null.
        PgvectorArg(unsafe { raw_argument(arg) })
    }
}

// SAFETY: the SQL declarations name `halfvec`, a varlena, for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for HalfvecArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict, so the datum is not null.
        HalfvecArg(unsafe { raw_argument(arg) })
    }
}

#[pg_extern(sql = false)]
fn pgvector_vector_to_mrl_vector(
    vector: PgvectorArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    cast(vector.0, fcinfo, "vector", from_f32s)
}

#[pg_extern(sql = false)]
fn pgvector_halfvec_to_mrl_vector(
    vector: HalfvecArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    cast(vector.0, fcinfo, "halfvec", |bits: &[u16]| {
        let halves: &[f16] = bits.reinterpret_cast();
        // Without an early end, so that the loop is vectorized.
        if halves.iter().fold(true, |all, half| all & half.is_finite()) {
            return Ok(halves.to_vec());
        }
        Err(match halves.iter().any(|half| half.is_nan()) {
            true => VectorError::NotANumber,
            false => VectorError::Infinite,
        })
    })
}

/// Casts a value whose elements are stored as `T`. A generic plan casts a parameter once for every
/// row, so the call site keeps the last vector if Postgres calls the argument stable. Of the values
/// of a column it keeps nothing, because each is another one.
fn cast<T: Number>(
    value: RawVarlena<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
    type_name: &str,
    to_halves: impl FnOnce(&[T]) -> Result<Vec<f16>, VectorError>,
) -> Result<VectorDatum, ErrorReport> {
    let convert = || convert(value, type_name, to_halves);
    // SAFETY: `fcinfo` is the current call's; the function accepts a null flinfo.
    if !unsafe { pg_sys::get_fn_expr_arg_stable((*fcinfo).flinfo, 0) } {
        return convert().map(VectorDatum::from);
    }
    let mut temporary = Prepared::default();
    // SAFETY: `fcinfo` is the current call's; every function of this file that keeps state keeps a
    // `Prepared<StoredVector>`.
    let site: &mut Prepared<StoredVector> =
        unsafe { call_site_state(fcinfo) }.unwrap_or(&mut temporary);
    let vector = site.get(value.identity(usize::MAX), || {
        convert().map(StoredVector::from)
    })?;
    Ok(vector.to_datum())
}

fn convert<T: Number>(
    value: RawVarlena<'_>,
    type_name: &str,
    to_halves: impl FnOnce(&[T]) -> Result<Vec<f16>, VectorError>,
) -> Result<MrlVector, ErrorReport> {
    let size = size_of::<T>();
    // The length is checked before detoasting, which may allocate as much.
    if value.len() > HEADER + size * MAX_DIMS {
        return Err(invalid(type_name, value.len()));
    }
    let bytes = value.bytes();
    let values = match bytes.as_slice() {
        [d0, d1, 0, 0, values @ ..] => {
            let dims = i16::from_ne_bytes([*d0, *d1]);
            usize::try_from(dims)
                .is_ok_and(|dims| dims > 0 && values.len() == size * dims)
                .then_some(values)
        }
        _ => None,
    };
    let values = values.ok_or_else(|| invalid(type_name, bytes.as_slice().len()))?;
    // SAFETY: every bit pattern is a valid `Number`.
    let (before, values, after) = unsafe { values.align_to::<T>() };
    if !before.is_empty() || !after.is_empty() {
        // `Bytes` guarantees an address that is a multiple of 4, and the header has 4 bytes.
        return Err(invalid(type_name, bytes.as_slice().len()));
    }
    to_halves(values).map(MrlVector).map_err(vector_error)
}

/// A number of which every bit pattern is valid and whose alignment is 4 or less.
///
/// # Safety
/// The implementing type is such a number.
unsafe trait Number: Copy {}

// SAFETY: every bit pattern is an f32, and its alignment is 4.
unsafe impl Number for f32 {}

// SAFETY: every bit pattern is a u16, and its alignment is 2.
unsafe impl Number for u16 {}

/// The error for bytes that are not a value of the type.
fn invalid(type_name: &str, len: usize) -> ErrorReport {
    sql_error(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("value is not a valid {type_name} of pgvector"),
    )
    .set_detail(format!(
        "Its {len} bytes do not begin with the number of dimensions that they hold."
    ))
}
