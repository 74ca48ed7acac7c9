//! `coarse_match(…)` becomes `… @~ …` when a query is planned, so that the function form reaches
//! an index and EXPLAIN shows the operator. As PostGIS's `ST_DWithin` and Postgres' own
//! `starts_with` do it: a support function, asked with `SupportRequestSimplify`
//! (`nodes/supportnodes.h`).

use std::ptr::null_mut;

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;
use pgrx::{FromDatum, Internal, PgList, is_a, pg_sys};

use super::leaks;
use super::objects::Objects;
use super::operand::constant;
use super::price::{self, Reads};
use crate::types::{check_prefix_dims, check_threshold};

/// Support function of both forms of `coarse_match`. Returns the replacement, or null for "as it
/// is"; where one stays a call, its price.
#[pg_extern(sql = false)]
fn mrl_coarse_match_support(request: Internal) -> Internal {
    // SAFETY: Postgres hands a support function a node of some request type.
    let replacement = unsafe {
        let node = request
            .unwrap()
            .map_or(null_mut(), |d| d.cast_mut_ptr::<pg_sys::Node>());
        if !node.is_null() && is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify) {
            simplify(&*node.cast::<pg_sys::SupportRequestSimplify>())
        } else {
            price::price(node, Reads::Prefix)
        }
    };
    Internal::from(Some(pg_sys::Datum::from(replacement)))
}

/// # Safety
/// The request is a valid one, for a function with two or four arguments.
unsafe fn simplify(request: &pg_sys::SupportRequestSimplify) -> *mut pg_sys::Node {
    // SAFETY: `fcall` is the call to simplify, its arguments a list of expressions.
    unsafe {
        let call = &*request.fcall;
        let args = PgList::<pg_sys::Expr>::from_pg(call.args);
        let (Some(embedding), Some(query)) = (args.get_ptr(0), args.get_ptr(1)) else {
            return null_mut();
        };
        let Some(objects) = Objects::of_function(call.funcid) else {
            return null_mut();
        };
        // The call is not leakproof, the operator is: see `leaks`.
        if leaks::would_leak(request.root, &args, &objects) {
            return null_mut();
        }
        let right = match (args.get_ptr(2), args.get_ptr(3)) {
            (Some(threshold), Some(dims)) => {
                check_constants(threshold, dims).unwrap_or_report();
                let Some(probe) = objects.probe_function() else {
                    return null_mut();
                };
                let mut probe_args = PgList::<pg_sys::Expr>::new();
                (1..4)
                    .filter_map(|i| args.get_ptr(i))
                    .for_each(|arg| probe_args.push(arg));
                let probe = pg_sys::makeFuncExpr(
                    probe,
                    objects.probe,
                    probe_args.into_pg(),
                    pg_sys::InvalidOid,
                    pg_sys::InvalidOid,
                    pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
                );
                // What we return is not simplified again: a probe of constants is folded here, and
                // another becomes leakproof where it has to be. `root` may be null.
                pg_sys::eval_const_expressions(request.root, probe.cast()).cast()
            }
            _ => query,
        };
        objects
            .filter(c"@~", embedding, right, call.location)
            .map_or(null_mut(), |clause| clause.cast())
    }
}

/// Reports a threshold or prefix length that stands in the query and is wrong, whichever rows there
/// are.
///
/// # Safety
/// Expressions of the types that `coarse_match` takes.
unsafe fn check_constants(
    threshold: *mut pg_sys::Expr,
    dims: *mut pg_sys::Expr,
) -> Result<(), ErrorReport> {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(Some(threshold)) = constant(threshold.cast()) {
            check_threshold(f64::from_datum(threshold, false).unwrap_or(f64::NAN))?;
        }
        if let Some(Some(dims)) = constant(dims.cast()) {
            check_prefix_dims(i32::from_datum(dims, false).unwrap_or(0))?;
        }
    }
    Ok(())
}
