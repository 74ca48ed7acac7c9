//! Rewrites `coarse_match(…)` to the operator `@~` while planning, so that the function form can
//! use an index and EXPLAIN shows the operator. A support function does so when it is called with a
//! `SupportRequestSimplify` (`nodes/supportnodes.h`).

use std::ptr::null_mut;

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;
use pgrx::{FromDatum, Internal, PgList, is_a, pg_sys};

use super::barrier;
use super::cost::{self, Reads};
use super::objects::Objects;
use super::operand::{const_dims, const_value};
use crate::types::{check_prefix_dims, check_threshold};

/// Support function of both forms of `coarse_match`. For a `SupportRequestSimplify` it returns the
/// replacement, or null if the call must stay as it is. For a cost request it returns the cost of a
/// call.
#[pg_extern(sql = false)]
fn mrl_coarse_match_support(request: Internal) -> Internal {
    // SAFETY: the argument of a support function is a request node; it is cast only after its tag
    // has been checked.
    let replacement = unsafe {
        let node = request
            .unwrap()
            .map_or(null_mut(), |d| d.cast_mut_ptr::<pg_sys::Node>());
        if !node.is_null() && is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify) {
            simplify(&*node.cast::<pg_sys::SupportRequestSimplify>())
        } else {
            cost::answer_cost_request(node, Reads::Prefix)
        }
    };
    Internal::from(Some(pg_sys::Datum::from(replacement)))
}

/// # Safety
/// The request is for a function `coarse_match` with two or four arguments.
unsafe fn simplify(request: &pg_sys::SupportRequestSimplify) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees the request; its `fcall` is the call to simplify, with a list
    // of expressions as arguments.
    unsafe {
        let call = &*request.fcall;
        let args = PgList::<pg_sys::Expr>::from_pg(call.args);
        let (Some(embedding), Some(query)) = (args.get_ptr(0), args.get_ptr(1)) else {
            return null_mut();
        };
        let Some(objects) = Objects::of_function(call.funcid) else {
            return null_mut();
        };
        let right = match (args.get_ptr(2), args.get_ptr(3)) {
            (Some(threshold), Some(dims)) => {
                check_constants(threshold, dims).unwrap_or_report();
                let Some(probe) = objects.probe_function(pg_sys::exprType(dims.cast())) else {
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
                // Postgres does not simplify the new call, so fold a probe of constants here. `root` may
                // be null.
                pg_sys::eval_const_expressions(request.root, probe.cast()).cast()
            }
            _ => query,
        };
        objects
            .filter(c"@~", embedding, right, call.location)
            .map_or(null_mut(), |clause| {
                barrier::with_leakproof(request.root, clause.cast(), &objects)
            })
    }
}

/// Reports an invalid threshold or prefix length that is a constant in the query. The error is
/// raised while planning, so it does not depend on the rows.
///
/// # Safety
/// The expressions have the types that `coarse_match` declares.
unsafe fn check_constants(
    threshold: *mut pg_sys::Expr,
    dims: *mut pg_sys::Expr,
) -> Result<(), ErrorReport> {
    // SAFETY: the caller guarantees the types, so the datum of a constant can be read as that type.
    unsafe {
        if let Some(Some(threshold)) = const_value(threshold.cast()) {
            check_threshold(f64::from_datum(threshold, false).unwrap_or(f64::NAN))?;
        }
        if let Some(dims) = const_dims(dims.cast()) {
            check_prefix_dims(dims)?;
        }
    }
    Ok(())
}
