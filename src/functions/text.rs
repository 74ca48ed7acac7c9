//! Reading of text arguments: texts to embed or to rerank, and instructions.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::types::{TextArg, sql_error};

/// The maximum length of a text in bytes, which is also Postgres' limit for a `tsvector`. A model reads only
/// the first few thousand tokens anyway, and the tokenizer takes many times the memory of the text.
const MAX_BYTES: usize = (1 << 20) - 1;

/// Copies an argument. `what` names the argument in error messages. A value that is too long is not
/// detoasted.
pub fn read(argument: TextArg<'_>, what: &str) -> Result<String, ErrorReport> {
    check(argument.0.len(), what)?;
    let bytes = argument.0.bytes();
    let text = std::str::from_utf8(bytes.as_slice()).map_err(|_| {
        sql_error(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{what} is not in UTF-8"),
        )
        .set_hint("Models read UTF-8, so the encoding of the database must be UTF8.")
    })?;
    owned(text)
}

/// Copies an element of an array.
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
