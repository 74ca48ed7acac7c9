//! Plans with parallel sweeps.
//!
//! Postgres shares out among the workers what a parallel index scan spends on the table's rows, and
//! takes what it spends in the index for spent by each (`cost_index`, "we don't have much info").
//! So a sweep, nearly all of which happens in the index, would never be planned in parallel. Here
//! the planner gets such a path with its real price.

use std::sync::OnceLock;

use pgrx::prelude::*;
use pgrx::{PgList, is_a, pg_sys};

use super::cost::amcostestimate;

/// What it takes to judge a page in memory, apart from its entries, in units of `seq_page_cost`: a
/// sweep is priced as if its pages came from disk, and workers save no time there. About 0.2 µs.
const PAGE_IN_MEMORY: f64 = 0.1;
/// What it takes a worker besides: without huge pages, the kernel maps every page of shared memory into
/// each process that reads it. (Measured over 256,000 pages: a worker that joined at once would have
/// swept them at half the leader's pace.)
const PAGE_MAPPED: f64 = 0.2;
/// In units of `parallel_setup_cost`. With that one at its default some 20 ms in the units above: a
/// worker starts, loads the library, and unmaps at its end what it has mapped.
const WORKERS: f64 = 10.0;

static PREVIOUS: OnceLock<pg_sys::set_rel_pathlist_hook_type> = OnceLock::new();

/// Called once, when the library is loaded.
pub fn register_hook() {
    // SAFETY: nothing else runs while a library is loaded.
    unsafe {
        // A library is loaded once.
        let _ = PREVIOUS.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(add_parallel_scans);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn add_parallel_scans(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner passes valid nodes; Gather paths are made from what is added here later
    // (`set_rel_pathlist` of Postgres' `allpaths.c`).
    unsafe {
        if let Some(Some(previous)) = PREVIOUS.get() {
            previous(root, rel, rti, rte);
        }
        if !(*rel).consider_parallel {
            return;
        }
        let paths = PgList::<pg_sys::Path>::from_pg((*rel).pathlist);
        let scans: Vec<*mut pg_sys::IndexPath> =
            paths.iter_ptr().filter_map(|path| sweep_of(path)).collect();
        for scan in scans {
            add_parallel_scan(root, rel, scan);
        }
    }
}

/// The scan of one of our indexes in a path, plain or for a bitmap.
///
/// # Safety
/// `path` is a path.
unsafe fn sweep_of(path: *mut pg_sys::Path) -> Option<*mut pg_sys::IndexPath> {
    // SAFETY: cast after a look at the tags. The callback's type in IndexOptInfo says nothing.
    unsafe {
        if !(*path).param_info.is_null() {
            return None;
        }
        let inner = if is_a(path.cast(), pg_sys::NodeTag::T_BitmapHeapPath) {
            (*path.cast::<pg_sys::BitmapHeapPath>()).bitmapqual
        } else {
            path
        };
        if !is_a(inner.cast(), pg_sys::NodeTag::T_IndexPath) {
            return None;
        }
        let scan = inner.cast::<pg_sys::IndexPath>();
        let is_ours = (*(*scan).indexinfo)
            .amcostestimate
            .is_some_and(|cost| cost as usize == amcostestimate as *const () as usize);
        (is_ours && has_plain_clauses(&*scan)).then_some(scan)
    }
}

/// Whether every condition is an operator. A bitmap has an array's elements (`e @~ ANY (…)`) looked
/// for one after another; a plain scan of an access method without `amsearcharray` can't.
///
/// # Safety
/// A path of the planner's.
unsafe fn has_plain_clauses(scan: &pg_sys::IndexPath) -> bool {
    // SAFETY: a list of IndexClauses, each with a list of RestrictInfos.
    unsafe {
        let clauses =
            PgList::<pg_sys::Node>::from_pg(pg_sys::get_quals_from_indexclauses(scan.indexclauses));
        clauses.iter_ptr().all(|info| {
            let clause = (*info.cast::<pg_sys::RestrictInfo>()).clause;
            is_a(clause.cast(), pg_sys::NodeTag::T_OpExpr)
        })
    }
}

/// # Safety
/// As [`add_parallel_scans`]; `scan` is a path of `rel`.
unsafe fn add_parallel_scan(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    scan: *mut pg_sys::IndexPath,
) {
    // SAFETY: the caller's promise. Nothing of the path is ordered, and nothing parameterised.
    unsafe {
        let nil = std::ptr::null_mut();
        let path = pg_sys::create_index_path(
            root,
            (*scan).indexinfo,
            (*scan).indexclauses,
            nil,
            nil,
            nil,
            pg_sys::ScanDirection::ForwardScanDirection,
            false,
            std::ptr::null_mut(),
            1.0,
            true,
        );
        let workers = f64::from((*path).path.parallel_workers);
        if workers == 0.0 {
            return;
        }
        // As in get_parallel_divisor of Postgres' `costsize.c`.
        let leader = if pg_sys::parallel_leader_participation {
            (1.0 - 0.3 * workers).max(0.0)
        } else {
            0.0
        };
        let info = &*(*scan).indexinfo;
        let (mut random_page, mut seq_page) = (0.0, 0.0);
        pg_sys::get_tablespace_page_costs(info.reltablespace, &mut random_page, &mut seq_page);
        let pages = f64::from(info.pages) * seq_page;
        // What it takes to compute the operands is at the start, and every process pays it.
        let computed = (*path).indextotalcost - (*path).path.startup_cost - pages;
        let alone = pages * PAGE_IN_MEMORY + computed.max(0.0);
        let worker = alone + pages * PAGE_MAPPED;
        // Costs may be set to zero.
        let together = if alone > 0.0 {
            1.0 / (leader / alone + workers / worker)
        } else {
            0.0
        };
        (*path).path.total_cost += together - alone + WORKERS * pg_sys::parallel_setup_cost;
        pg_sys::add_partial_path(rel, path.cast());
    }
}
