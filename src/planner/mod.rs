//! Support for the planner: rewriting of expressions, selectivity estimates, cost estimates, and
//! the statistics that ANALYZE collects.

mod barrier;
mod cost;
mod declared_dims;
mod objects;
mod operand;
mod query_in_from;
mod rewrite;
mod selectivity;
mod statistics;

pub use barrier::leakproof_counterpart;
pub use objects::{Objects, is_vector_type};
pub use operand::{ALL_DIMS, compared_dims};

pub use query_in_from::register_hook;

use pgrx::pg_sys;

/// Returns the range table entry of a column in the query that is being planned. Returns `None` if
/// the column does not belong to this query level.
///
/// # Safety
/// `var` is an expression in the query of `root`.
unsafe fn range_table_entry<'a>(
    root: &pg_sys::PlannerInfo,
    var: &pg_sys::Var,
) -> Option<&'a pg_sys::RangeTblEntry> {
    let index = var.varno as usize;
    let size = usize::try_from(root.simple_rel_array_size).unwrap_or(0);
    // The array contains neither the relations of outer queries nor the special range table indexes
    // (INNER_VAR and others).
    if var.varlevelsup != 0 || index >= size || root.simple_rte_array.is_null() {
        return None;
    }
    // SAFETY: the index is within the array, whose entries are null or live until planning has
    // finished.
    unsafe { (*root.simple_rte_array.add(index)).as_ref() }
}
