//! Recognises similarities of two vectors, and the column that an index is on, in the expressions of a query.

use std::ffi::CStr;

use pgrx::{FromDatum, PgList, is_a, pg_sys};

use crate::planner::Objects;
use crate::vector::Measure;

/// An expression for the similarity or the distance of two vectors.
pub struct Similarity {
    pub vectors: [*mut pg_sys::Node; 2],
    /// The function that computes it.
    pub function: pg_sys::Oid,
    pub measure: Measure,
}

/// Recognises `fine_score(a, b)`, `a <=> b` and `1 - (a <=> b)`.
///
/// # Safety
/// `node` is an expression.
pub unsafe fn similarity_of(node: *mut pg_sys::Node) -> Option<Similarity> {
    // SAFETY: the caller guarantees an expression of the query; a node is cast only after its tag has
    // been checked. A name of the catalog is a null-terminated string.
    unsafe {
        let (function, [a, b]) = if is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            let call = &*node.cast::<pg_sys::FuncExpr>();
            let args = PgList::<pg_sys::Node>::from_pg(call.args);
            (call.funcid, two_operands(&args)?)
        } else {
            operator_of(node)?
        };
        if function == pg_sys::Oid::from(pg_sys::F_FLOAT8MI) {
            let one = is_a(a, pg_sys::NodeTag::T_Const) && {
                let constant = &*a.cast::<pg_sys::Const>();
                f64::from_datum(constant.constvalue, constant.constisnull) == Some(1.0)
            };
            return similarity_of(b)
                .filter(|inner| one && inner.measure == Measure::Distance)
                .map(|inner| Similarity {
                    measure: Measure::OneMinusDistance,
                    ..inner
                });
        }
        let name = pg_sys::get_func_name(function);
        if name.is_null() {
            return None;
        }
        let name = CStr::from_ptr(name);
        let measure = if name == c"fine_score" {
            Measure::Score
        } else if name == c"mrl_cosine_distance" {
            Measure::Distance
        } else {
            return None;
        };
        // The name alone could be that of somebody else's function.
        let is_ours = Objects::of_function(function)?.compares_vectors(name, function);
        is_ours.then_some(Similarity {
            vectors: [a, b],
            function,
            measure,
        })
    }
}

/// The function and the operands of a binary operator.
///
/// # Safety
/// `node` is an expression.
pub unsafe fn operator_of(
    node: *mut pg_sys::Node,
) -> Option<(pg_sys::Oid, [*mut pg_sys::Node; 2])> {
    // SAFETY: the caller guarantees an expression of the query; a node is cast only after its tag has
    // been checked.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_OpExpr) {
            return None;
        }
        let operator = &*node.cast::<pg_sys::OpExpr>();
        let args = PgList::<pg_sys::Node>::from_pg(operator.args);
        Some((pg_sys::get_opcode(operator.opno), two_operands(&args)?))
    }
}

pub fn two_operands(args: &PgList<pg_sys::Node>) -> Option<[*mut pg_sys::Node; 2]> {
    match (args.len(), args.get_ptr(0), args.get_ptr(1)) {
        (2, Some(a), Some(b)) => Some([a, b]),
        _ => None,
    }
}

/// Returns whether both are the same column. (`equal` would not do: `conditions` makes a key's Var without a type.)
///
/// # Safety
/// Both are expressions.
pub unsafe fn is_same_column(key: *mut pg_sys::Node, node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller guarantees an expression of the query; a node is cast only after its tag has
    // been checked.
    unsafe {
        if !is_a(key, pg_sys::NodeTag::T_Var) || !is_a(node, pg_sys::NodeTag::T_Var) {
            return false;
        }
        let (key, var) = (&*key.cast::<pg_sys::Var>(), &*node.cast::<pg_sys::Var>());
        key.varno == var.varno && key.varattno == var.varattno && var.varlevelsup == 0
    }
}

/// The expression below RelabelType nodes, which change only its declared type.
///
/// # Safety
/// `node` is an expression.
pub unsafe fn without_relabel(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees an expression of the query; a node is cast only after its tag has
    // been checked.
    unsafe {
        while is_a(node, pg_sys::NodeTag::T_RelabelType) {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
    }
    node
}
