//! The SQL function `photosearch.check_index`.

use pgrx::iter::TableIterator;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::index::check;

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the macro reads the columns from the return type
fn mrl_check_index(
    index: pg_sys::Oid,
) -> Result<
    TableIterator<
        'static,
        (
            name!(block, Option<i64>),
            name!(entry, Option<i32>),
            name!(row_id, Option<pg_sys::ItemPointerData>),
            name!(problem, &'static str),
        ),
    >,
    ErrorReport,
> {
    // SAFETY: Postgres calls SQL functions in a transaction, which `check` requires.
    let problems = unsafe { check(index)? };
    Ok(TableIterator::new(problems.into_iter().map(|p| {
        (
            p.block.map(i64::from),
            p.entry.map(|entry| entry as i32),
            p.tid,
            p.problem,
        )
    })))
}
