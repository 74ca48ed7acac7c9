//! What a scan costs.

use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::{PgList, is_a};

use super::page::{Index, Meta};
use crate::functions::CoarseQuery;
use crate::types::{ProbeArg, VectorArg};

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
        let meta = meta((*info).indexoid);
        let compared: Vec<Compared> = clauses
            .iter_ptr()
            .map(|clause| meta.map_or(Compared::Equal, |meta| compared(clause, &meta)))
            .collect();
        let an_entry: f64 = compared
            .iter()
            .map(|compared| match compared {
                Compared::Shorter => ENTRY_BOTH_LEVELS,
                Compared::Equal | Compared::Longer => ENTRY,
            })
            .sum();
        // Codes say little of a query that compares more than they cover: most rows are left to
        // the executor, on top of the sweep.
        let all_longer = !compared.is_empty() && compared.iter().all(|c| *c == Compared::Longer);
        let returned = if all_longer {
            1.0
        } else {
            (matching + UNDECIDED).min(1.0)
        };

        let entries = (*info).tuples;
        *startup = 0.0;
        *total = read * seq_page + entries * an_entry * pg_sys::cpu_operator_cost;
        *selectivity = returned;
        *correlation = CORRELATION;
        *pages = all_pages;
    }
}

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

/// # Safety
/// `clause` is a condition of an index of `meta`, an operator of the opclass with the column on its
/// left.
unsafe fn compared(clause: *mut pg_sys::Node, meta: &Meta) -> Compared {
    // SAFETY: the caller's promise.
    let query = unsafe { constant_query(clause) };
    match query {
        Some(query) if query.prefix.len() < meta.prefix_dims => Compared::Shorter,
        Some(query) if query.prefix.len() > meta.prefix_dims => Compared::Longer,
        // Not known while planning: most probably what the index was made for.
        _ => Compared::Equal,
    }
}

/// The query of `column operator constant`.
///
/// # Safety
/// As [`compared`].
unsafe fn constant_query(clause: *mut pg_sys::Node) -> Option<CoarseQuery> {
    // SAFETY: the caller's promise; a constant has the type that the operator takes.
    unsafe {
        if !is_a(clause, pg_sys::NodeTag::T_OpExpr) {
            return None;
        }
        let args = PgList::<pg_sys::Node>::from_pg((*clause.cast::<pg_sys::OpExpr>()).args);
        let right = args.get_ptr(1)?;
        if !is_a(right, pg_sys::NodeTag::T_Const) {
            return None;
        }
        let right = &*right.cast::<pg_sys::Const>();
        if right.constisnull {
            return None;
        }
        let left_type = pg_sys::exprType(args.get_ptr(0)?);
        let query = if pg_sys::getBaseType(right.consttype) == pg_sys::getBaseType(left_type) {
            CoarseQuery::of_vector(VectorArg::from_datum(right.constvalue))
        } else {
            CoarseQuery::of_probe(ProbeArg::from_datum(right.constvalue))
        };
        query.ok()
    }
}
