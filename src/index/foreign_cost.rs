//! Adds the price of sending vectors to the scans of foreign tables.
//!
//! A foreign data wrapper counts the rows that it fetches, and not their size: a vector of 2048 dimensions is
//! 17 kB of text, which one server writes and the other one reads. If that had no price, the planner would fetch
//! all vectors in order to compute their scores here, although the other server could compute them in a pushed
//! aggregate (`max(fine_score(embedding, q)) … GROUP BY id`). The paths of pushed joins and aggregates keep
//! their price, because they are of use only where they send no vector.

use pgrx::{PgList, is_a, pg_sys};

use crate::planner::is_vector_type;

/// The price of a byte of a stored vector, in units of `cpu_operator_cost`. The text of a dimension, which is stored
/// in two bytes, is written and read in some 50 ns. A unit stands for 4 to 8 ns: a score of 2048 dimensions takes 3
/// to 6 µs and has a price of some 750 units.
const PRICE_OF_BYTE: f64 = 3.0;

/// # Safety
/// The arguments are those of `set_rel_pathlist_hook`.
pub unsafe fn add_price_of_vectors(
    rel: *mut pg_sys::RelOptInfo,
    table: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner passes valid nodes; a node is cast only after its tag has been checked. The list of
    // paths has only paths in it.
    unsafe {
        let is_foreign = (*table).rtekind == pg_sys::RTEKind::RTE_RELATION
            && (*table).relkind as u8 == pg_sys::RELKIND_FOREIGN_TABLE;
        if !is_foreign {
            return;
        }
        let price = PRICE_OF_BYTE * pg_sys::cpu_operator_cost * bytes_of_vectors(&*rel);
        if price == 0.0 {
            return;
        }
        let paths = PgList::<pg_sys::Path>::from_pg((*rel).pathlist);
        // The paths are added anew, because add_path keeps the list in the order of costs.
        (*rel).pathlist = std::ptr::null_mut();
        for path in paths.iter_ptr() {
            if is_a(path.cast(), pg_sys::NodeTag::T_ForeignPath) {
                (*path).total_cost += price * (*path).rows;
            }
            pg_sys::add_path(rel, path);
        }
    }
}

/// The bytes of the vectors that a scan returns for a row.
///
/// # Safety
/// `rel` is a table of a query that is being planned.
unsafe fn bytes_of_vectors(rel: &pg_sys::RelOptInfo) -> f64 {
    // SAFETY: the caller's promise; a node is cast only after its tag has been checked.
    unsafe {
        let mut bytes = 0;
        for node in PgList::<pg_sys::Node>::from_pg((*rel.reltarget).exprs).iter_ptr() {
            if !is_a(node, pg_sys::NodeTag::T_Var) {
                continue;
            }
            let var = &*node.cast::<pg_sys::Var>();
            if is_vector_type(pg_sys::getBaseType(var.vartype)) {
                let declared = 2 * var.vartypmod.max(0);
                // What ANALYZE has found, else a guess.
                let place = usize::try_from(var.varattno - rel.min_attr).unwrap_or(0);
                bytes += declared.max(*rel.attr_widths.add(place));
            }
        }
        f64::from(bytes)
    }
}
