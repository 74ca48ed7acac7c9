//! Conversion of errors to Postgres error reports with SQLSTATE, message, detail and hint.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::vector::VectorError;

/// An ERROR with this SQLSTATE and message. A SQL function returns it, and pgrx raises it.
pub fn sql_error(code: PgSqlErrorCode, message: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code, message.into(), "")
}

/// What is wrong with a vector, as an ERROR.
pub fn vector_error(error: VectorError) -> ErrorReport {
    let code = match &error {
        VectorError::NotANumber
        | VectorError::Infinite
        | VectorError::NoDimensions
        | VectorError::DifferentDimensions(..) => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        VectorError::OutOfRange(_) => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        VectorError::TooManyDimensions(_) => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        VectorError::PrefixOutOfRange { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        VectorError::Syntax { .. } => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
    };
    let report = sql_error(code, error.to_string());
    match error {
        VectorError::Syntax { detail, .. } => report.set_detail(detail),
        _ => report,
    }
}
