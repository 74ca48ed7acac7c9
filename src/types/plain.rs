//! Which expressions an error for different dimensions may look at.
//!
//! The operators `@~` and `!@~` are leakproof: under a policy or behind a security barrier the
//! planner may evaluate them on rows that the user must not see. All that such a row can tell is how
//! many dimensions its vectors have. An argument that *chooses* between vectors by another column,
//! `CASE WHEN salary > 100000 THEN '[1]' ELSE '[1,2]' END`, would make the error for different
//! dimensions tell about that column. So the operators are leakproof only for plain arguments.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgList, is_a, pg_sys};

use super::error::sql_error;

/// Whether the dimensions of the vectors in `node` do not depend on any other value of a row: `node`
/// has no column in it, or is a column, a field of a column, or an array of such.
///
/// # Safety
/// `node` is null or an expression (also a list of expressions).
pub unsafe fn is_plain(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; cast after a look at the tag.
    unsafe {
        if !pg_sys::contain_vars_of_level(node, 0) {
            return true;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_Var => true,
            pg_sys::NodeTag::T_RelabelType => {
                is_plain((*node.cast::<pg_sys::RelabelType>()).arg.cast())
            }
            pg_sys::NodeTag::T_FieldSelect => {
                is_plain((*node.cast::<pg_sys::FieldSelect>()).arg.cast())
            }
            pg_sys::NodeTag::T_ArrayExpr => {
                let elements = (*node.cast::<pg_sys::ArrayExpr>()).elements;
                PgList::<pg_sys::Node>::from_pg(elements)
                    .iter_ptr()
                    .all(|element| is_plain(element))
            }
            _ => false,
        }
    }
}

/// The call in an expression that a function has been called by: its node, and its arguments. `None`
/// where it was not called from an expression.
///
/// # Safety
/// `fcinfo` is the current call's.
unsafe fn call(fcinfo: pg_sys::FunctionCallInfo) -> Option<*mut pg_sys::Node> {
    // SAFETY: `flinfo` and `fn_expr` are null or valid during the call.
    unsafe {
        let call = (*fcinfo).flinfo.as_ref()?.fn_expr.cast::<pg_sys::Node>();
        (!call.is_null()).then_some(call)
    }
}

/// The arguments of the function call in an expression that a function has been called by; none
/// where it was called in another way.
///
/// # Safety
/// `fcinfo` is the current call's.
pub unsafe fn call_arguments(fcinfo: pg_sys::FunctionCallInfo) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; cast after a look at the tag.
    unsafe {
        match call(fcinfo) {
            Some(call) if is_a(call, pg_sys::NodeTag::T_FuncExpr) => {
                PgList::from_pg((*call.cast::<pg_sys::FuncExpr>()).args)
                    .iter_ptr()
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

/// An error where an operator is called for `vector @~ ANY (array)`, or ALL, and the operands are
/// not plain though no function in them is leaky. The planner, which deals with other calls, is not
/// asked about these. The error does not depend on any value.
///
/// # Safety
/// `fcinfo` is the current call's.
pub unsafe fn check_any_of_array(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    // SAFETY: the caller's promise; cast after a look at the tag.
    let chooses = unsafe {
        match call(fcinfo) {
            Some(call) if is_a(call, pg_sys::NodeTag::T_ScalarArrayOpExpr) => {
                let args = (*call.cast::<pg_sys::ScalarArrayOpExpr>()).args;
                !pg_sys::contain_leaked_vars(args.cast())
                    && !PgList::<pg_sys::Node>::from_pg(args)
                        .iter_ptr()
                        .all(|arg| is_plain(arg))
            }
            _ => false,
        }
    };
    if chooses {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "operands of ANY and ALL with @~ cannot choose between vectors by the columns of a row",
        )
        .set_hint("Write one condition for each vector, combined with OR or AND."));
    }
    Ok(())
}
