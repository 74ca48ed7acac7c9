//! Texts to embed, and instructions.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::types::{TextArg, sql_error};

/// The most bytes of a text, as `to_tsvector` has it: a model reads some thousand tokens of it
/// anyhow, and tokenizing takes many times the memory of the text.
const MAX_BYTES: usize = (1 << 20) - 1;

/// A copy of an argument. `what` it is goes into the error. What is too long is not read.
pub fn read(argument: TextArg<'_>, what: &str) -> Result<String, ErrorReport> {
    check(argument.0.len(), what)?;
    let bytes = argument.0.bytes();
    let text = std::str::from_utf8(bytes.as_slice()).map_err(|_| {
        sql_error(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{what} is not in UTF-8"),
        )
        .set_hint("Models read UTF-8: the database must have this encoding.")
    })?;
    owned(text)
}

/// A copy of an element of an array.
pub fn copy(text: &str) -> Result<String, ErrorReport> {
    check(text.len(), "text")?;
    owned(text)
}

fn owned(text: &str) -> Result<String, ErrorReport> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len())
        .map_err(|_| sql_error(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory"))?;
    copy.push_str(text);
    Ok(copy)
}

fn check(bytes: usize, what: &str) -> Result<(), ErrorReport> {
    if bytes > MAX_BYTES {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("{what} of {bytes} bytes exceeds the limit of {MAX_BYTES} bytes"),
        )
        .set_hint("Embed a long document in parts."));
    }
    Ok(())
}
