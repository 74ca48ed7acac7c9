//! What the planner asks us: other forms of an expression, how many rows it keeps, what it costs.

mod leaks;
mod objects;
mod operand;
mod price;
mod rewrite;
mod selectivity;
mod statistics;

pub use leaks::is_guarded;
pub use objects::Objects;
pub use operand::compared_dims;

use pgrx::pg_sys;

/// What a column in the query that is being planned is a column of.
///
/// # Safety
/// `var` stands in the query of `root`.
unsafe fn range_table_entry<'a>(
    root: &pg_sys::PlannerInfo,
    var: &pg_sys::Var,
) -> Option<&'a pg_sys::RangeTblEntry> {
    let index = var.varno as usize;
    let size = usize::try_from(root.simple_rel_array_size).unwrap_or(0);
    // Columns of an outer query, and what stands for subplans, are not in this array.
    if var.varlevelsup != 0 || index >= size || root.simple_rte_array.is_null() {
        return None;
    }
    // SAFETY: inside the array, whose entries are null or live as long as the planning.
    unsafe { (*root.simple_rte_array.add(index)).as_ref() }
}
