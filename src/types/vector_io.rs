//! Text and binary input and output of `mrl_vector`, and its type modifier in `mrl_vector(n)`.

use std::ffi::{CStr, CString};

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Internal, pg_sys};

use super::error::{sql_error, vector_error};
use super::vector::{MrlVector, VectorArg};
use crate::vector::{MAX_DIMS, VectorError, check_dims, parse, write_f16};

/// The typmod of a column that declares no number of dimensions.
pub(super) const NO_TYPMOD: i32 = -1;

/// The buffer size for the shortest decimal form of an f32, `FLOAT_SHORTEST_DECIMAL_LEN` of
/// `common/shortest_dec.h`.
const FLOAT_SHORTEST_DECIMAL_LEN: usize = 16;

unsafe extern "C" {
    /// Writes the shortest decimal form of a `real` (`src/common/f2s.c`, in the server since
    /// version 12). It writes at most 15 bytes, without a terminator, and returns their number.
    fn float_to_shortest_decimal_bufn(value: f32, result: *mut std::ffi::c_char) -> i32;
}

/// Returns an error unless `dims` equals the number of dimensions that `typmod` declares.
pub(super) fn check_typmod(dims: usize, typmod: i32) -> Result<(), ErrorReport> {
    if typmod == NO_TYPMOD || usize::try_from(typmod) == Ok(dims) {
        return Ok(());
    }
    Err(sql_error(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("expected {typmod} dimensions, not {dims}"),
    ))
}

#[pg_extern(sql = false)]
fn mrl_vector_in(
    text: &CStr,
    _typioparam: pg_sys::Oid,
    typmod: i32,
) -> Result<MrlVector, ErrorReport> {
    // In a database whose encoding is not UTF-8 the bytes may be invalid UTF-8. A valid vector is
    // ASCII, so a lossy conversion only affects input that is an error anyway.
    let values = parse(&text.to_string_lossy()).map_err(vector_error)?;
    check_typmod(values.len(), typmod)?;
    Ok(MrlVector(values))
}

#[pg_extern(sql = false)]
fn mrl_vector_out(vector: VectorArg<'_>) -> Result<CString, ErrorReport> {
    let mut text = Vec::new();
    write_values(vector.values()?.as_slice(), &mut text);
    cstring(text)
}

/// Appends the values in the form `[0.1,0.2]`, each as [`write_f16`] writes it.
pub(super) fn write_values(values: &[f16], text: &mut Vec<u8>) {
    text.reserve(values.len() * 9 + 2);
    text.push(b'[');
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        write_f16(*value, text);
    }
    text.push(b']');
}

/// Appends a `real` in the form in which Postgres prints it.
pub(super) fn write_f32(value: f32, text: &mut Vec<u8>) {
    let mut buffer = [0u8; FLOAT_SHORTEST_DECIMAL_LEN];
    // SAFETY: the buffer has the size that `common/shortest_dec.h` requires.
    let len = unsafe { float_to_shortest_decimal_bufn(value, buffer.as_mut_ptr().cast()) };
    text.extend_from_slice(&buffer[..usize::try_from(len).unwrap_or(0).min(buffer.len())]);
}

pub(super) fn cstring(text: Vec<u8>) -> Result<CString, ErrorReport> {
    CString::new(text).map_err(|_| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "text form contains a zero byte",
        )
    })
}

#[pg_extern(sql = false)]
fn mrl_vector_typmod_in(modifiers: pgrx::Array<'_, &CStr>) -> Result<i32, ErrorReport> {
    let invalid =
        |message: String| sql_error(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message);
    let mut modifiers = modifiers.iter();
    let (Some(Some(dims)), None) = (modifiers.next(), modifiers.next()) else {
        return Err(invalid(
            "invalid type modifier: mrl_vector takes one modifier, its number of dimensions".into(),
        ));
    };
    let dims = dims.to_string_lossy();
    match dims.trim().parse::<i64>() {
        Ok(n) if n < 1 => Err(invalid(format!(
            "dimensions for type mrl_vector must be at least 1, not {n}"
        ))),
        Ok(n) if n > MAX_DIMS as i64 => Err(invalid(format!(
            "dimensions for type mrl_vector cannot exceed {MAX_DIMS}, not {n}"
        ))),
        Ok(n) => Ok(n as i32),
        Err(_) => Err(invalid(format!("invalid type modifier: \"{dims}\""))),
    }
}

/// The binary form, byte for byte that of pgvector's `halfvec`: the number of dimensions and a
/// zero, both int16, then the f16 values, all big-endian.
#[pg_extern(sql = false)]
fn mrl_vector_send(vector: VectorArg<'_>) -> Result<Vec<u8>, ErrorReport> {
    let values = vector.values()?;
    let mut message = Vec::with_capacity(4 + 2 * values.dims());
    message.extend_from_slice(&(values.dims() as u16).to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    for value in values.as_slice() {
        message.extend_from_slice(&value.to_be_bytes());
    }
    Ok(message)
}

#[pg_extern(sql = false)]
fn mrl_vector_recv(
    buffer: Internal,
    _typioparam: pg_sys::Oid,
    typmod: i32,
) -> Result<MrlVector, ErrorReport> {
    let values = decode(take_message(buffer)?)?;
    check_typmod(values.len(), typmod)?;
    Ok(MrlVector(values))
}

/// Returns the unread bytes of the `StringInfo` that a receive function gets, and marks them as
/// read.
pub(super) fn take_message<'a>(buffer: Internal) -> Result<&'a [u8], ErrorReport> {
    let missing = || {
        sql_error(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "no message to receive",
        )
    };
    // SAFETY: the argument of a receive function is a StringInfo that lives until the function
    // returns. The SQL declaration says `internal`, and SQL users cannot make a value of that type.
    unsafe {
        let buffer = buffer
            .unwrap()
            .ok_or_else(missing)?
            .cast_mut_ptr::<pg_sys::StringInfoData>();
        let buffer = buffer.as_mut().ok_or_else(missing)?;
        let (len, cursor) = (buffer.len as usize, buffer.cursor as usize);
        buffer.cursor = buffer.len;
        Ok(&std::slice::from_raw_parts(buffer.data.cast::<u8>(), len)[cursor.min(len)..])
    }
}

/// The inverse of [`mrl_vector_send`].
fn decode(message: &[u8]) -> Result<Vec<f16>, ErrorReport> {
    let malformed =
        |what: String| sql_error(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, what);
    let Some((header, body)) = message.split_at_checked(4) else {
        return Err(malformed(format!(
            "mrl_vector message of {} bytes is too short",
            message.len()
        )));
    };
    let dims = usize::from(u16::from_be_bytes([header[0], header[1]]));
    let unused = u16::from_be_bytes([header[2], header[3]]);
    check_dims(dims).map_err(vector_error)?;
    if unused != 0 {
        return Err(malformed(format!("expected unused to be 0, not {unused}")));
    }
    if body.len() != 2 * dims {
        return Err(malformed(format!(
            "mrl_vector message of {dims} dimensions has {} bytes of values, not {}",
            body.len(),
            2 * dims
        )));
    }
    body.chunks_exact(2)
        .map(|bytes| {
            let value = f16::from_be_bytes([bytes[0], bytes[1]]);
            match value {
                v if v.is_nan() => Err(vector_error(VectorError::NotANumber)),
                v if v.is_infinite() => Err(vector_error(VectorError::Infinite)),
                v => Ok(v),
            }
        })
        .collect()
}
