//! The hook with which this access method adds paths that Postgres does not make by itself, and corrects the
//! costs of others.

use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::foreign_cost::add_price_of_vectors;
use super::order_paths::add_ordered_scans;
use super::parallel::add_parallel_scans;

static PREVIOUS: OnceLock<pg_sys::set_rel_pathlist_hook_type> = OnceLock::new();

/// Installs the hook. Called once, when the library is loaded.
pub fn register_hook() {
    // SAFETY: `_PG_init` calls this, and a backend has only one thread that reads and writes hook
    // variables.
    unsafe {
        // `set` cannot fail, because a library is loaded only once.
        let _ = PREVIOUS.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(add_paths);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn add_paths(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner passes valid nodes.
    unsafe {
        if let Some(Some(previous)) = PREVIOUS.get() {
            previous(root, rel, rti, rte);
        }
        add_parallel_scans(root, rel);
        add_ordered_scans(root, rel, rte);
        add_price_of_vectors(rel, rte);
    }
}
