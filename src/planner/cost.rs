//! Cost estimates for comparing a stored vector and for embedding. A comparison is cheap if the
//! vector lies in its row; if it lies in the TOAST table, the comparison includes an index lookup
//! and the reading of one or more chunks. Postgres' own estimates do not include that difference,
//! so a support function provides them (`SupportRequestCost` of `nodes/supportnodes.h`).
//!
//! Costs are in units of `cpu_operator_cost`, the cost of a trivial operator: `int4 < int4` in a
//! sequential scan takes 4.2 ns. The constants follow from measurements on one machine (x86-64 with
//! AVX2, tables of 50,000 rows, all in shared buffers), in µs per row:
//!
//! | column | `coarse_match` at 128 | `fine_score` |
//! | --- | --- | --- |
//! | 128 dims, in the row | 0.24 | 0.14 |
//! | 768 dims, in the row | 0.30 | 0.28 |
//! | 1024 dims, out of line, 2 chunks | 1.57 | 1.75 |
//! | 2048 dims, out of line, 3 chunks | 1.77 | 2.67 |
//! | 2048 dims, storage plain | 0.49 | 0.72 |

use pgrx::prelude::*;
use pgrx::{Internal, PgList, is_a, pg_sys};

use super::operand::const_dims;
use crate::guc;
use crate::types::ProbeArg;

/// The cost of a call, without the values that it compares.
const CALL: f64 = 40.0;
/// The cost per compared value.
const VALUE: f64 = 0.06;
/// The cost of finding a value in the TOAST table, which is a descent of its index.
const FETCH: f64 = 280.0;
/// The cost of each TOAST chunk.
const CHUNK: f64 = 100.0;

/// Bytes of a value per TOAST chunk, `TOAST_MAX_CHUNK_SIZE`.
const CHUNK_BYTES: f64 = 1996.0;
/// If a row is larger than this, its values are moved out of line; `TOAST_TUPLE_THRESHOLD`.
const ROW_BYTES: f64 = 2032.0;
/// Bytes of a TOAST pointer.
const POINTER: f64 = 18.0;
/// Bytes of a vector before its values, including the varlena header.
const HEADER: f64 = 12.0;

/// The prefix length if the query does not determine it.
const PREFIX: f64 = 128.0;
/// Stands for the number of compared values if all dimensions of the vectors are compared.
const ALL: f64 = f64::INFINITY;
/// The dimensions of a vector if neither the column nor its statistics determine them.
const DIMS: f64 = 1024.0;

/// Support function of the functions that read whole vectors, such as `fine_score`.
#[pg_extern(sql = false)]
fn mrl_vector_support(request: Internal) -> Internal {
    cost_support(request, Reads::Whole)
}

#[derive(Clone, Copy, PartialEq)]
pub enum Reads {
    Prefix,
    Whole,
}

fn cost_support(request: Internal, reads: Reads) -> Internal {
    // SAFETY: the argument of a support function is a request node.
    let answer = unsafe {
        let node = request.unwrap().map_or(std::ptr::null_mut(), |datum| {
            datum.cast_mut_ptr::<pg_sys::Node>()
        });
        answer_cost_request(node, reads)
    };
    Internal::from(Some(pg_sys::Datum::from(answer)))
}

/// Answers a cost request. Returns null for any other request.
///
/// # Safety
/// `request` is null or a support request.
pub unsafe fn answer_cost_request(request: *mut pg_sys::Node, reads: Reads) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees a node or null; it is cast only after its tag has been checked.
    unsafe {
        if request.is_null() || !is_a(request, pg_sys::NodeTag::T_SupportRequestCost) {
            return std::ptr::null_mut();
        }
        let cost = &mut *request.cast::<pg_sys::SupportRequestCost>();
        let args = arguments(cost.node);
        let compared = match reads {
            Reads::Prefix => compared_values(&args).unwrap_or(PREFIX),
            Reads::Whole => ALL,
        };
        // The most expensive argument determines the cost. The other argument is the query, which
        // is detoasted once and not for every row.
        let operators = match args.is_empty() {
            // The arguments are unknown; assume that the vector is out of line, as most are.
            true => ColumnStorage::default().cost(compared),
            false => args
                .iter()
                .map(|&arg| match column_storage(cost.root, arg) {
                    Some(stored) => stored.cost(compared),
                    None if compared == ALL => CALL + VALUE * DIMS,
                    None => CALL + VALUE * compared,
                })
                .fold(0.0, f64::max),
        };
        cost.startup = 0.0;
        cost.per_tuple = operators * pg_sys::cpu_operator_cost;
        request
    }
}

/// Returns the arguments of a function call or an operator; an empty list if the node is anything
/// else.
///
/// # Safety
/// `node` is null or a node.
unsafe fn arguments(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the caller guarantees a node or null; it is cast only after its tag has been checked.
    unsafe {
        let list = if node.is_null() {
            return Vec::new();
        } else if is_a(node, pg_sys::NodeTag::T_OpExpr) {
            (*node.cast::<pg_sys::OpExpr>()).args
        } else if is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            (*node.cast::<pg_sys::FuncExpr>()).args
        } else {
            return Vec::new();
        };
        PgList::<pg_sys::Node>::from_pg(list).iter_ptr().collect()
    }
}

/// The cost per row of `embed_text` and similar functions if their arguments are the same for all
/// rows: every row after the first takes a comparison of the arguments and a copy of the vector,
/// measured at 0.15 µs.
const REPEATED: f64 = 40.0;

/// Support function of the functions that embed. If the arguments do not depend on the row, a call
/// embeds once per statement (see `functions/once.rs`), and the cost is estimated accordingly.
#[pg_extern(sql = false)]
fn photosearch_embed_support(request: Internal) -> Internal {
    // SAFETY: the argument of a support function is a request node.
    let answer = unsafe {
        let node = request.unwrap().map_or(std::ptr::null_mut(), |datum| {
            datum.cast_mut_ptr::<pg_sys::Node>()
        });
        answer_embed_cost_request(node)
    };
    Internal::from(Some(pg_sys::Datum::from(answer)))
}

/// # Safety
/// `request` is null or a support request.
unsafe fn answer_embed_cost_request(request: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees a node or null; request and call are cast only after their tags
    // have been checked. The pg_proc row is read before it is released.
    unsafe {
        if request.is_null() || !is_a(request, pg_sys::NodeTag::T_SupportRequestCost) {
            return std::ptr::null_mut();
        }
        let cost = &mut *request.cast::<pg_sys::SupportRequestCost>();
        if cost.node.is_null() || !is_a(cost.node, pg_sys::NodeTag::T_FuncExpr) {
            return std::ptr::null_mut();
        }
        let args = (*cost.node.cast::<pg_sys::FuncExpr>()).args.cast();
        let changes = pg_sys::contain_var_clause(args)
            || pg_sys::contain_volatile_functions(args)
            || pg_sys::contain_agg_clause(args)
            || pg_sys::contain_window_function(args);
        if changes {
            return std::ptr::null_mut();
        }
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::PROCOID as i32,
            pg_sys::Datum::from(cost.funcid),
        );
        if tuple.is_null() {
            return std::ptr::null_mut();
        }
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let procost = f64::from(form.procost);
        pg_sys::ReleaseSysCache(tuple);
        cost.startup = procost * pg_sys::cpu_operator_cost;
        cost.per_tuple = REPEATED * pg_sys::cpu_operator_cost;
        request
    }
}

/// Returns the number of values that a filter compares, or [`ALL`], taken from a probe, from the
/// arguments or from the settings. Returns `None` if none of them determines it.
///
/// # Safety
/// `args` are the arguments of a filter.
unsafe fn compared_values(args: &[*mut pg_sys::Node]) -> Option<f64> {
    // SAFETY: the caller guarantees the arguments of a filter, so a constant on the right-hand side
    // whose type is not that of the left-hand side is a probe. Every other constant is read after its
    // type has been checked.
    unsafe {
        let last = *args.last()?;
        let probe = pg_sys::exprType(*args.first()?) != pg_sys::exprType(last);
        let dims = if args.len() == 2 && !probe {
            guc::coarse_dims()?
        } else if args.len() == 2 && is_a(last, pg_sys::NodeTag::T_Const) {
            let constant = &*last.cast::<pg_sys::Const>();
            if constant.constisnull {
                return None;
            }
            ProbeArg::from_datum(constant.constvalue)
                .probe()
                .ok()?
                .values
                .len()
        } else {
            // `args` are the arguments of coarse_match(embedding, query, threshold, dims), or their
            // last one is a call mrl_probe(query, threshold, dims).
            let outer = if args.len() == 2 {
                arguments(last)
            } else {
                args.to_vec()
            };
            // mrl_probe_at_least and mrl_probe_at_most have two arguments and compare all dimensions.
            if args.len() == 2 && outer.len() == 2 {
                return Some(ALL);
            }
            usize::try_from(const_dims(*outer.last()?)?).ok()?
        };
        Some(dims as f64)
    }
}

/// How the vectors of a column are stored, as far as the catalogs say.
#[derive(Default)]
struct ColumnStorage {
    /// Whether the column has `SET STORAGE plain`.
    plain: bool,
    /// The declared number of dimensions.
    dims: Option<f64>,
    /// The average number of bytes in the row, according to ANALYZE.
    width: Option<f64>,
}

impl ColumnStorage {
    fn dims(&self) -> f64 {
        // A smaller average is mostly that of TOAST pointers, so it does not tell the dimensions.
        let of_width = |width: f64| (width > 4.0 * POINTER).then_some((width - HEADER) / 2.0);
        self.dims.or(self.width.and_then(of_width)).unwrap_or(DIMS)
    }

    /// The estimated fraction of vectors that are out of line.
    fn out_of_line(&self) -> f64 {
        let whole = HEADER + 2.0 * self.dims();
        match self.width {
            _ if self.plain => 0.0,
            // A row contains either a TOAST pointer or the whole vector, so the average determines
            // the fraction.
            Some(width) if whole > POINTER => ((whole - width) / (whole - POINTER)).clamp(0.0, 1.0),
            Some(_) => 0.0,
            None if whole > ROW_BYTES => 1.0,
            None if self.dims.is_none() => 1.0,
            None => 0.0,
        }
    }

    /// The cost of comparing `compared` values, which may be [`ALL`].
    fn cost(&self, compared: f64) -> f64 {
        let values = compared.min(self.dims());
        let chunks = ((HEADER + 2.0 * values) / CHUNK_BYTES).ceil();
        CALL + VALUE * values + self.out_of_line() * (FETCH + CHUNK * chunks)
    }
}

/// Returns how the values of an expression are stored, if the expression is a column of a table.
///
/// # Safety
/// `root` is null or is being planned; `node` is an expression of its query.
unsafe fn column_storage(
    root: *mut pg_sys::PlannerInfo,
    node: *mut pg_sys::Node,
) -> Option<ColumnStorage> {
    // SAFETY: the caller guarantees an expression of the query; it is cast only after its tag has
    // been checked. The pg_attribute row is read before it is released.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_Var) {
            return None;
        }
        let var = &*node.cast::<pg_sys::Var>();
        let entry = super::range_table_entry(root.as_ref()?, var)?;
        if entry.rtekind != pg_sys::RTEKind::RTE_RELATION || var.varattno <= 0 {
            return None;
        }
        let tuple = pg_sys::SearchSysCache2(
            pg_sys::SysCacheIdentifier::ATTNUM as i32,
            pg_sys::Datum::from(entry.relid),
            pg_sys::Datum::from(var.varattno),
        );
        if tuple.is_null() {
            return None;
        }
        let form: &pg_sys::FormData_pg_attribute = &*pg_sys::GETSTRUCT(tuple).cast();
        let (storage, typmod) = (form.attstorage as u8, form.atttypmod);
        pg_sys::ReleaseSysCache(tuple);
        let width = pg_sys::get_attavgwidth(entry.relid, var.varattno);
        Some(ColumnStorage {
            plain: storage == pg_sys::TYPSTORAGE_PLAIN,
            dims: (typmod > 0).then_some(f64::from(typmod)),
            width: (width > 0).then_some(f64::from(width)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(dims: u16, width: u16) -> ColumnStorage {
        ColumnStorage {
            plain: false,
            dims: (dims > 0).then_some(f64::from(dims)),
            width: (width > 0).then_some(f64::from(width)),
        }
    }

    #[test]
    fn vectors_out_of_line() {
        // The width that ANALYZE has measured takes precedence over the declared size.
        assert_eq!(stored(128, 0).out_of_line(), 0.0);
        assert_eq!(stored(2048, 0).out_of_line(), 1.0);
        assert_eq!(stored(0, 0).out_of_line(), 1.0);
        assert_eq!(stored(2048, 18).out_of_line(), 1.0);
        assert_eq!(stored(2048, 4108).out_of_line(), 0.0);
        assert_eq!(stored(0, 268).out_of_line(), 0.0);
        assert_eq!(stored(0, 18).out_of_line(), 1.0);
        assert_eq!(stored(1, 14).out_of_line(), 0.0);
        let half = stored(768, (18 + 1548) / 2).out_of_line();
        assert!((half - 0.5).abs() < 0.01, "{half}");
        let plain = ColumnStorage {
            plain: true,
            ..stored(2048, 0)
        };
        assert_eq!(plain.out_of_line(), 0.0);
    }

    #[test]
    fn costs_match_the_measurements() {
        // The measurements of the table above, converted with 4.2 ns per unit.
        for (stored, compared, microseconds) in [
            (stored(128, 268), 128.0, 0.24),
            (stored(128, 268), ALL, 0.14),
            (stored(768, 1548), 128.0, 0.30),
            (stored(768, 1548), ALL, 0.28),
            (stored(1024, 18), 128.0, 1.57),
            (stored(1024, 18), ALL, 1.75),
            (stored(2048, 18), 128.0, 1.77),
            (stored(2048, 18), ALL, 2.67),
        ] {
            let ratio = stored.cost(compared) * 0.0042 / microseconds;
            assert!((0.6..1.6).contains(&ratio), "{microseconds}: {ratio}");
        }
    }
}
