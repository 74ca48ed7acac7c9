//! What it costs to compare a stored vector: next to nothing where it lies in its row, a walk
//! through an index and a chunk or three where it lies in the TOAST table. Postgres counts neither;
//! a support function tells it (`SupportRequestCost` of `nodes/supportnodes.h`).
//!
//! In units of `cpu_operator_cost`, the price of a trivial operator: `int4 < int4` in a sequential
//! scan takes 4.2 ns. Measured against it on one machine (x86-64 with AVX2, tables of 50,000 rows,
//! all in shared buffers), a row in µs:
//!
//! | column | `coarse_match` at 128 | `fine_score` |
//! | --- | --- | --- |
//! | 128 dims, in the row | 0.24 | 0.14 |
//! | 768 dims, in the row | 0.30 | 0.28 |
//! | 1024 dims, out of line, 2 chunks | 1.57 | 1.75 |
//! | 2048 dims, out of line, 3 chunks | 1.77 | 2.67 |
//! | 2048 dims, storage plain | 0.49 | 0.72 |

use pgrx::prelude::*;
use pgrx::{FromDatum, Internal, PgList, is_a, pg_sys};

use crate::guc;
use crate::types::ProbeArg;

/// A call, whatever it compares.
const CALL: f64 = 40.0;
/// Each value compared.
const VALUE: f64 = 0.06;
/// To find a value in the TOAST table: its index is walked down.
const FETCH: f64 = 280.0;
/// Each chunk of it.
const CHUNK: f64 = 100.0;

/// Bytes of a value in a chunk, `TOAST_MAX_CHUNK_SIZE`.
const CHUNK_BYTES: f64 = 1996.0;
/// A row larger than this has its values moved out, `TOAST_TUPLE_THRESHOLD`.
const ROW_BYTES: f64 = 2032.0;
/// Bytes of a pointer into the TOAST table.
const POINTER: f64 = 18.0;
/// Bytes of a vector before its values.
const HEADER: f64 = 12.0;

/// Prefix length, where the query does not tell.
const PREFIX: f64 = 128.0;
/// Dimensions of a vector, where the column does not tell.
const DIMS: f64 = 1024.0;

/// Support function of `fine_score` and the like: they read whole vectors.
#[pg_extern(sql = false)]
fn mrl_vector_support(request: Internal) -> Internal {
    support(request, Reads::Whole)
}

#[derive(Clone, Copy, PartialEq)]
pub enum Reads {
    Prefix,
    Whole,
}

fn support(request: Internal, reads: Reads) -> Internal {
    // SAFETY: Postgres hands a support function a node of some request type.
    let answer = unsafe {
        let node = request.unwrap().map_or(std::ptr::null_mut(), |datum| {
            datum.cast_mut_ptr::<pg_sys::Node>()
        });
        price(node, reads)
    };
    Internal::from(Some(pg_sys::Datum::from(answer)))
}

/// Answers a request for a price; null for any other.
///
/// # Safety
/// `request` is null or a support request.
pub unsafe fn price(request: *mut pg_sys::Node, reads: Reads) -> *mut pg_sys::Node {
    // SAFETY: the request is cast after a look at its tag.
    unsafe {
        if request.is_null() || !is_a(request, pg_sys::NodeTag::T_SupportRequestCost) {
            return std::ptr::null_mut();
        }
        let cost = &mut *request.cast::<pg_sys::SupportRequestCost>();
        let args = arguments(cost.node);
        let compared = match reads {
            Reads::Prefix => Some(prefix(&args).unwrap_or(PREFIX)),
            Reads::Whole => None,
        };
        // The dearest argument: the other is the query, which is opened once, not for every row.
        let operators = match args.is_empty() {
            // An expression unknown: most vectors lie out of line.
            true => Stored::default().price(compared),
            false => args
                .iter()
                .map(|&arg| match column(cost.root, arg) {
                    Some(stored) => stored.price(compared),
                    None => CALL + VALUE * compared.unwrap_or(DIMS),
                })
                .fold(0.0, f64::max),
        };
        cost.startup = 0.0;
        cost.per_tuple = operators * pg_sys::cpu_operator_cost;
        request
    }
}

/// The arguments of a call or an operator; none where the node is anything else.
///
/// # Safety
/// `node` is null or a node.
unsafe fn arguments(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    // SAFETY: cast after a look at the tag.
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

/// What `embed_text` and the like take for each row after the first, where their arguments are the
/// same for all: a comparison of the arguments and a copy of the vector, measured 0.15 µs.
const REPEATED: f64 = 40.0;

/// Support function of the functions that embed. With arguments which no row changes, such a call
/// costs what it costs once a statement (see `functions/once.rs`).
#[pg_extern(sql = false)]
fn photosearch_embed_support(request: Internal) -> Internal {
    // SAFETY: Postgres hands a support function a node of some request type.
    let answer = unsafe {
        let node = request.unwrap().map_or(std::ptr::null_mut(), |datum| {
            datum.cast_mut_ptr::<pg_sys::Node>()
        });
        price_once(node)
    };
    Internal::from(Some(pg_sys::Datum::from(answer)))
}

/// # Safety
/// `request` is null or a support request.
unsafe fn price_once(request: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the request is cast after a look at its tag, and the call after a look at its.
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

/// How many values a filter compares, from a probe, the arguments or the settings.
///
/// # Safety
/// `args` are the arguments of a filter.
unsafe fn prefix(args: &[*mut pg_sys::Node]) -> Option<f64> {
    // SAFETY: constants are read as what their type, or the operator's, says.
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
            // mrl_probe(query, threshold, dims) or coarse_match(embedding, query, threshold, dims).
            let outer = if args.len() == 2 {
                arguments(last)
            } else {
                args.to_vec()
            };
            // mrl_probe_at_least(query, score) compares all dimensions.
            if args.len() == 2 && outer.len() == 2 {
                return Some(DIMS);
            }
            let dims = *outer.last()?;
            if !is_a(dims, pg_sys::NodeTag::T_Const) || pg_sys::exprType(dims) != pg_sys::INT4OID {
                return None;
            }
            let constant = &*dims.cast::<pg_sys::Const>();
            let dims = i32::from_datum(constant.constvalue, constant.constisnull)?;
            usize::try_from(dims).ok()?
        };
        Some(dims as f64)
    }
}

/// How a column's vectors are stored, as far as the catalogs tell.
#[derive(Default)]
struct Stored {
    /// `SET STORAGE plain`.
    plain: bool,
    /// Declared.
    dims: Option<f64>,
    /// Average bytes in the row, by ANALYZE.
    width: Option<f64>,
}

impl Stored {
    fn dims(&self) -> f64 {
        let of_width = |width: f64| (width > 4.0 * POINTER).then_some((width - HEADER) / 2.0);
        self.dims.or(self.width.and_then(of_width)).unwrap_or(DIMS)
    }

    /// The share of vectors out of line.
    fn out_of_line(&self) -> f64 {
        let whole = HEADER + 2.0 * self.dims();
        match self.width {
            _ if self.plain => 0.0,
            // In the row there is a pointer, or the whole.
            Some(width) if whole > POINTER => ((whole - width) / (whole - POINTER)).clamp(0.0, 1.0),
            Some(_) => 0.0,
            None if whole > ROW_BYTES => 1.0,
            None if self.dims.is_none() => 1.0,
            None => 0.0,
        }
    }

    /// For a comparison of `compared` values, or of all.
    fn price(&self, compared: Option<f64>) -> f64 {
        let values = compared.unwrap_or(f64::INFINITY).min(self.dims());
        let chunks = ((HEADER + 2.0 * values) / CHUNK_BYTES).ceil();
        CALL + VALUE * values + self.out_of_line() * (FETCH + CHUNK * chunks)
    }
}

/// How the values of an expression are stored, if it is a column of a table.
///
/// # Safety
/// `root` is null or being planned; `node` is an expression of its query.
unsafe fn column(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> Option<Stored> {
    // SAFETY: cast after a look at the tag; a row of the catalog cache is read before its release.
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
        Some(Stored {
            plain: storage == pg_sys::TYPSTORAGE_PLAIN,
            dims: (typmod > 0).then_some(f64::from(typmod)),
            width: (width > 0).then_some(f64::from(width)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(dims: u16, width: u16) -> Stored {
        Stored {
            plain: false,
            dims: (dims > 0).then_some(f64::from(dims)),
            width: (width > 0).then_some(f64::from(width)),
        }
    }

    #[test]
    fn where_vectors_lie() {
        // By their declared size, and by what ANALYZE has seen, which knows better.
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
        let plain = Stored {
            plain: true,
            ..stored(2048, 0)
        };
        assert_eq!(plain.out_of_line(), 0.0);
    }

    #[test]
    fn prices_are_those_measured() {
        // The table above, in units of 4.2 ns.
        for (stored, compared, microseconds) in [
            (stored(128, 268), Some(128.0), 0.24),
            (stored(128, 268), None, 0.14),
            (stored(768, 1548), Some(128.0), 0.30),
            (stored(768, 1548), None, 0.28),
            (stored(1024, 18), Some(128.0), 1.57),
            (stored(1024, 18), None, 1.75),
            (stored(2048, 18), Some(128.0), 1.77),
            (stored(2048, 18), None, 2.67),
        ] {
            let ratio = stored.price(compared) * 0.0042 / microseconds;
            assert!((0.6..1.6).contains(&ratio), "{microseconds}: {ratio}");
        }
    }
}
