//! Paths for parallel index scans.
//!
//! For a parallel index scan, `cost_index` divides the CPU cost of the table's rows by the number
//! of participants, but it charges the whole cost of the index access to each of them ("we don't
//! have much info"). Nearly all of a sweep's cost is index access, so the planner would never
//! choose a parallel sweep. This file adds parallel paths with a realistic cost.

use pgrx::{PgList, is_a, pg_sys};

use super::cost::is_mrl;

/// The cost of judging a page that is in memory, without its entries, in units of `seq_page_cost`;
/// about 0.2 µs. The cost estimate assumes that pages come from disk, and parallel workers do
/// not make reading from disk faster.
const PAGE_IN_MEMORY: f64 = 0.1;
/// The additional cost per page for a parallel worker: without huge pages, the kernel maps every page of
/// shared memory into each process that reads it. (Measured over 256,000 pages: a parallel worker that
/// started without delay would have swept them at half the leader's speed.)
const PAGE_MAPPING: f64 = 0.2;
/// The additional startup cost of parallel workers, in units of `parallel_setup_cost`. With the
/// default of that setting it corresponds to about 20 ms, the time that a parallel worker takes to start, to
/// load the library, and to unmap its memory at the end.
const WORKER_STARTUP: f64 = 10.0;

/// Adds parallel paths for the index scans that the planner considers for a table.
///
/// # Safety
/// The planner passes the nodes to `set_rel_pathlist_hook`. It makes Gather paths from the partial paths
/// after it has called this hook (`set_rel_pathlist` of Postgres' `allpaths.c`).
pub unsafe fn add_parallel_scans(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: the caller guarantees the nodes.
    unsafe {
        if !(*rel).consider_parallel {
            return;
        }
        let paths = PgList::<pg_sys::Path>::from_pg((*rel).pathlist);
        let scans: Vec<*mut pg_sys::IndexPath> = paths
            .iter_ptr()
            .filter_map(|path| mrl_index_path(path))
            .collect();
        for scan in scans {
            add_parallel_scan(root, rel, scan);
        }
    }
}

/// Returns the index path of an mrl index in `path`, which is an index path or a bitmap path.
/// Returns `None` for parameterized paths and for all other paths.
///
/// # Safety
/// `path` is a path of the planner.
unsafe fn mrl_index_path(path: *mut pg_sys::Path) -> Option<*mut pg_sys::IndexPath> {
    // SAFETY: the caller guarantees a path; it is cast only after its tag has been checked.
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
        (is_mrl(&*(*scan).indexinfo) && has_plain_clauses(&*scan)).then_some(scan)
    }
}

/// Returns whether every index condition is an operator expression. A bitmap scan evaluates `e @~
/// ANY (…)` with one index scan per element; a plain index scan of an access method without
/// `amsearcharray` cannot.
///
/// # Safety
/// `scan` is a path of the planner.
unsafe fn has_plain_clauses(scan: &pg_sys::IndexPath) -> bool {
    // SAFETY: the caller guarantees a path of the planner, so get_quals_from_indexclauses returns a
    // list of RestrictInfo nodes.
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
/// As for [`add_parallel_scans`]; `scan` is a path of `rel`.
unsafe fn add_parallel_scan(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    scan: *mut pg_sys::IndexPath,
) {
    // SAFETY: the caller guarantees the nodes. The new path has no ordering and no
    // parameterization, so the empty lists and the null set are valid arguments.
    unsafe {
        let nil = std::ptr::null_mut();
        let info = &*(*scan).indexinfo;
        // Postgres would plan no worker for a scan that returns few rows. A sweep reads all pages of the
        // index in any case, so their number must decide. For this call it takes the place of the
        // table's storage parameter `parallel_workers`, which Postgres uses instead of its own rule.
        let stored = (*rel).rel_parallel_workers;
        if stored == -1 {
            (*rel).rel_parallel_workers = pg_sys::compute_parallel_worker(
                rel,
                -1.0,
                f64::from(info.pages),
                pg_sys::max_parallel_workers_per_gather,
            );
        }
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
        (*rel).rel_parallel_workers = stored;
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
        let (mut random_page, mut seq_page) = (0.0, 0.0);
        pg_sys::get_tablespace_page_costs(info.reltablespace, &mut random_page, &mut seq_page);
        let pages = f64::from(info.pages) * seq_page;
        // The cost of evaluating the operands is part of the startup cost, and every process pays
        // it.
        let computed = (*path).indextotalcost - (*path).path.startup_cost - pages;
        let leader_cost = pages * PAGE_IN_MEMORY + computed.max(0.0);
        let worker_cost = leader_cost + pages * PAGE_MAPPING;
        // All cost settings may be zero.
        let parallel_cost = if leader_cost > 0.0 {
            1.0 / (leader / leader_cost + workers / worker_cost)
        } else {
            0.0
        };
        (*path).path.total_cost +=
            parallel_cost - leader_cost + WORKER_STARTUP * pg_sys::parallel_setup_cost;
        pg_sys::add_partial_path(rel, path.cast());
    }
}
