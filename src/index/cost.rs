//! The cost estimate of a scan.

use pgrx::PgList;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::ordered_rows::sweeps_for;
use super::page::Meta;
use super::relation::Index;
use crate::planner::{ALL_DIMS, compared_dims};
use crate::version;

/// The cost of comparing one entry with one query, in units of `cpu_operator_cost`. It takes a few
/// nanoseconds, while the unit is a comparison of integers by the executor.
const ENTRY: f64 = 0.5;
/// The same cost if the query compares fewer dimensions than the index encodes: both levels of the
/// codes are read.
const ENTRY_BOTH_LEVELS: f64 = 10.0;
/// The fraction of entries that their codes leave undecided, so that the executor rechecks the
/// rows. With vectors of a real Matryoshka model, of which 1% match, it is 0.0003 (docs/scale.md).
const UNDECIDED: f64 = 0.0005;
/// The correlation with the order of the table. The entries of a build are in the order of the
/// table, and later ones too, unless rows have been deleted.
const CORRELATION: f64 = 0.95;

/// How the prefix length of a query compares with that of the index.
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
    // SAFETY: the planner passes valid nodes, and pointers to the results.
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
        // Every sweep reads all pages. On the inner side of a nested loop, later sweeps find the
        // pages in the cache as far as it holds them (genericcostestimate of Postgres'
        // `selfuncs.c`).
        let all_pages = f64::from((*info).pages);
        let read = if loop_count > 1.0 {
            pg_sys::index_pages_fetched(all_pages * loop_count, (*info).pages, all_pages, root)
                / loop_count
        } else {
            all_pages
        };

        let clauses = PgList::<pg_sys::Node>::from_pg(clauses);
        // A hypothetical index has no file.
        let meta = (!(*info).hypothetical)
            .then(|| read_meta((*info).indexoid))
            .flatten();
        let compared: Vec<Compared> = clauses
            .iter_ptr()
            .map(|clause| {
                meta.map_or(Compared::Equal, |meta| {
                    Compared::of(compared_dims(root, clause), &meta)
                })
            })
            .collect();
        let per_entry: f64 = compared
            .iter()
            .map(|compared| match compared {
                Compared::Shorter => ENTRY_BOTH_LEVELS,
                Compared::Equal | Compared::Longer => ENTRY,
            })
            .sum();
        // If a query compares more dimensions than the codes cover, the codes reject few rows. The
        // executor then rechecks most rows, as in a sequential scan.
        let undecided = if compared.iter().all(|c| *c == Compared::Longer) {
            1.0
        } else {
            UNDECIDED
        };
        let mut recheck = pg_sys::QualCost::default();
        pg_sys::cost_qual_eval(&mut recheck, clauses.as_ptr(), root);

        // A lossy page of a bitmap makes the executor recheck all rows of the page, but Postgres
        // charges the recheck of every row of a bitmap scan anyway (`cost_bitmap_heap_scan`).
        let entries = (*info).tuples;
        let returned = matching.max(undecided);
        let order_bys = PgList::<pg_sys::Node>::from_pg((*path).indexorderbys);
        *startup = pg_sys::index_other_operands_eval_cost(root, clauses.as_ptr());
        *correlation = CORRELATION;
        let mut per_row = pg_sys::cpu_index_tuple_cost;
        if !order_bys.is_empty() {
            // The first row comes after the whole sweep. The executor computes the order of every row
            // that is returned.
            let mut order = pg_sys::QualCost::default();
            pg_sys::cost_qual_eval(&mut order, order_bys.as_ptr(), root);
            let sweep = read * seq_page + entries * (per_entry + ENTRY) * pg_sys::cpu_operator_cost;
            // With LIMIT, the scan ends after this many rows of the index.
            let all = entries * matching;
            let limit = (*root).limit_tuples;
            let fetched = if limit > 0.0 {
                (limit * all / (*(*info).rel).rows).min(all)
            } else {
                all
            };
            *startup += pg_sys::index_other_operands_eval_cost(root, order_bys.as_ptr())
                + sweep * sweeps_for(fetched);
            *total = *startup + sweep * (sweeps_for(all) - sweeps_for(fetched));
            *correlation = 0.0;
            per_row += order.per_tuple;
            // Codes of a prefix do not give an order of the whole similarity.
            if meta.is_none_or(|meta| meta.prefix_dims < meta.dims) {
                version::disable_path(path, &mut *startup, &mut *total);
            }
        } else {
            *total = *startup + read * seq_page + entries * per_entry * pg_sys::cpu_operator_cost;
        }
        *total += entries * undecided * recheck.per_tuple + entries * returned * per_row;
        *selectivity = returned;
        *pages = all_pages;
    }
}

/// Returns whether an index has this access method. The function pointer is only compared, because its
/// declared type in IndexOptInfo is not the real one.
pub fn is_mrl(index: &pg_sys::IndexOptInfo) -> bool {
    index
        .amcostestimate
        .is_some_and(|cost| cost as usize == amcostestimate as *const () as usize)
}

/// Reads the parameters of the index. Returns `None` if the index is corrupted: the scan reports
/// that, so that a query which does not use the index succeeds.
///
/// # Safety
/// The planner holds a lock on the index.
pub unsafe fn read_meta(index: pg_sys::Oid) -> Option<Meta> {
    // SAFETY: the caller guarantees a lock on the index, so it can be opened without another one.
    unsafe {
        let relation = pg_sys::index_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let meta = Index::open(relation).ok().map(|index| index.meta);
        pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        meta
    }
}

impl Compared {
    fn of(dims: Option<usize>, meta: &Meta) -> Compared {
        match dims.map(|dims| if dims == ALL_DIMS { meta.dims } else { dims }) {
            Some(dims) if dims < meta.prefix_dims => Compared::Shorter,
            Some(dims) if dims > meta.prefix_dims => Compared::Longer,
            // If the prefix length is not known while planning, it is most likely the one for which
            // the index was created.
            _ => Compared::Equal,
        }
    }
}
