//! The SQL function `photosearch.last_sweep`.

use pgrx::iter::TableIterator;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::index::last_sweeps;

type Row = (pg_sys::Oid, i64, i64, i64, i64, i64, i64, i64, f64);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the macro reads the columns from the return type
fn mrl_last_sweep() -> TableIterator<
    'static,
    (
        name!(index, pg_sys::Oid),
        name!(sweeps, i64),
        name!(pages, i64),
        name!(entries, i64),
        name!(matches, i64),
        name!(rejected, i64),
        name!(undecided, i64),
        name!(refined, i64),
        name!(milliseconds, f64),
    ),
> {
    // SAFETY: Postgres calls SQL functions in a transaction.
    let sweeps = unsafe { last_sweeps() };
    let rows: Vec<Row> = sweeps
        .iter()
        .map(|s| {
            let c = s.counters;
            (
                s.index,
                s.sweeps as i64,
                s.pages as i64,
                c.entries as i64,
                c.matches as i64,
                c.rejected as i64,
                c.undecided as i64,
                c.refined as i64,
                s.seconds * 1000.0,
            )
        })
        .collect();
    TableIterator::new(rows)
}
