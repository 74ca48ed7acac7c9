//! What a scan costs.

use pgrx::PgList;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::page::{Index, Meta};
use crate::planner::compared_dims;

/// Comparing one entry with one query, in `cpu_operator_cost`s: a few nanoseconds, where that
/// setting's unit is a comparison of integers through the executor.
const ENTRY: f64 = 0.5;
/// The same where the query compares fewer dimensions than the index keeps: both levels are read.
const ENTRY_BOTH_LEVELS: f64 = 10.0;
/// The share of entries that the codes leave undecided; the executor looks at their rows.
const UNDECIDED: f64 = 0.0005;
/// Entries lie in the order of the table after a build, and where nothing has been deleted since.
const CORRELATION: f64 = 0.95;

/// How a query's length relates to the index'.
#[derive(Clone, Copy, PartialEq)]
enum Compared {
    Equal,
    Shorter,
    Longer,
}

#[pg_guard]
#[expect(clippy::too_many_arguments, reason = "the signature is Postgres'")]
pub unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: the planner passes valid nodes, and places for the results.
    unsafe {
        let info = (*path).indexinfo;
        let clauses = pg_sys::get_quals_from_indexclauses((*path).indexclauses);
        let with_predicate = pg_sys::add_predicate_to_index_quals(info, clauses);
        let matching = pg_sys::clauselist_selectivity(
            root,
            with_predicate,
            (*(*info).rel).relid as i32,
            pg_sys::JoinType::JOIN_INNER,
            std::ptr::null_mut(),
        );

        let (mut random_page, mut seq_page) = (0.0, 0.0);
        pg_sys::get_tablespace_page_costs((*info).reltablespace, &mut random_page, &mut seq_page);
        // Every sweep reads every page; the sweeps of an inner side of a join find them cached, as
        // far as they fit (genericcostestimate of Postgres' `selfuncs.c`).
        let all_pages = f64::from((*info).pages);
        let read = if loop_count > 1.0 {
            pg_sys::index_pages_fetched(all_pages * loop_count, (*info).pages, all_pages, root)
                / loop_count
        } else {
            all_pages
        };

        let clauses = PgList::<pg_sys::Node>::from_pg(clauses);
        // One that somebody only imagines has no file.
        let meta = (!(*info).hypothetical)
            .then(|| meta((*info).indexoid))
            .flatten();
        let compared: Vec<Compared> = clauses
            .iter_ptr()
            .map(|clause| {
                meta.map_or(Compared::Equal, |meta| {
                    Compared::of(compared_dims(root, clause), &meta)
                })
            })
            .collect();
        let an_entry: f64 = compared
            .iter()
            .map(|compared| match compared {
                Compared::Shorter => ENTRY_BOTH_LEVELS,
                Compared::Equal | Compared::Longer => ENTRY,
            })
            .sum();
        // Codes say little of a query that compares more than they cover: the executor looks at most
        // rows, as in a sequential scan.
        let undecided = if compared.iter().all(|c| *c == Compared::Longer) {
            1.0
        } else {
            UNDECIDED
        };
        let mut recheck = pg_sys::QualCost::default();
        pg_sys::cost_qual_eval(&mut recheck, clauses.as_ptr(), root);

        // A bitmap has a whole page of the table rechecked where one row of it is undecided; Postgres
        // charges the recheck of every row of a bitmap anyway (`cost_bitmap_heap_scan`).
        let entries = (*info).tuples;
        let returned = matching.max(undecided);
        *startup = pg_sys::index_other_operands_eval_cost(root, clauses.as_ptr());
        *total = *startup
            + read * seq_page
            + entries * an_entry * pg_sys::cpu_operator_cost
            + entries * undecided * recheck.per_tuple
            + entries * returned * pg_sys::cpu_index_tuple_cost;
        *selectivity = returned;
        *correlation = CORRELATION;
        *pages = all_pages;
    }
}

/// What the index is for. A corrupted one is for the scan to report: a query that does not use it
/// goes on.
///
/// # Safety
/// The planner holds a lock on the index.
unsafe fn meta(index: pg_sys::Oid) -> Option<Meta> {
    // SAFETY: the caller's promise.
    unsafe {
        let relation = pg_sys::index_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let meta = Index::open(relation).ok().map(|index| index.meta);
        pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        meta
    }
}

impl Compared {
    fn of(dims: Option<usize>, meta: &Meta) -> Compared {
        match dims {
            Some(dims) if dims < meta.prefix_dims => Compared::Shorter,
            Some(dims) if dims > meta.prefix_dims => Compared::Longer,
            // Not known while planning: most probably what the index was made for.
            _ => Compared::Equal,
        }
    }
}
