//! Keeps the operators leakproof in queries over tables with policies and over security barriers.
//!
//! Postgres moves a condition before a policy, and so into an index, only if every function in it
//! that sees a column is leakproof (`contain_leaked_vars` in `optimizer/util/clauses.c`). The
//! functions behind `@~` and `!@~` are. That is true as long as their arguments are plain
//! ([`is_plain`]), which a declaration cannot say. So two support functions, asked with
//! `SupportRequestSimplify`, change such conditions, in queries with policies or barriers only:
//!
//! - An argument of an operator that is not plain goes through `mrl_leaky`, a function that returns
//!   its argument and is not leakproof. The condition then waits for the policy.
//! - `mrl_probe`, which reports values of its arguments in errors, becomes `mrl_leakproof_probe`,
//!   where the query is plain and no column decides threshold and dims: all that this function can
//!   report then is what stands in the statement. The condition then reaches an index.

use std::ffi::CStr;
use std::ptr::null_mut;

use pgrx::prelude::*;
use pgrx::{Internal, PgList, is_a, pg_sys};

use super::objects::Objects;
use super::price::{self, Reads};
use crate::types::is_plain;

/// Support function of the functions behind `@~` and `!@~`.
#[pg_extern(sql = false)]
fn mrl_prefix_support(request: Internal) -> Internal {
    // SAFETY: the node is a request for a function behind `@~` or `!@~`.
    answer(request, |node| unsafe {
        match simplification(node) {
            Some(request) => guard_operator(request).unwrap_or(null_mut()),
            None => price::price(node, Reads::Prefix),
        }
    })
}

/// Support function of `mrl_probe`.
#[pg_extern(sql = false)]
fn mrl_probe_support(request: Internal) -> Internal {
    // SAFETY: the node is a request for `mrl_probe`.
    answer(request, |node| unsafe {
        simplification(node)
            .and_then(|request| leakproof_probe(request))
            .unwrap_or(null_mut())
    })
}

/// The argument. Declared as not leakproof, which is its purpose.
#[pg_extern(sql = false)]
fn mrl_leaky(value: pgrx::AnyElement) -> pgrx::AnyElement {
    value
}

fn answer(request: Internal, of: impl FnOnce(*mut pg_sys::Node) -> *mut pg_sys::Node) -> Internal {
    // What Postgres hands a support function is a node of some request type.
    let node = request.unwrap();
    let node = node.map_or(null_mut(), |datum| datum.cast_mut_ptr());
    Internal::from(Some(pg_sys::Datum::from(of(node))))
}

/// # Safety
/// `node` is null or a support request.
unsafe fn simplification<'a>(
    node: *mut pg_sys::Node,
) -> Option<&'a pg_sys::SupportRequestSimplify> {
    // SAFETY: cast after a look at the tag.
    unsafe {
        (!node.is_null() && is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify))
            .then(|| &*node.cast())
    }
}

/// Whether a leakproof operator of these arguments would be moved before a policy or a barrier
/// although one of them is not plain.
///
/// # Safety
/// `root` is null or being planned, `args` are expressions of its query, and called in a transaction.
pub unsafe fn would_leak(
    root: *mut pg_sys::PlannerInfo,
    args: &PgList<pg_sys::Expr>,
    objects: &Objects,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        is_guarded(root)
            && args.iter_ptr().any(|arg| {
                let arg = arg.cast();
                !is_plain_operand(arg, objects) && !pg_sys::contain_leaked_vars(arg)
            })
    }
}

/// `vector operator other`, with `mrl_leaky` around each argument that is not plain.
///
/// # Safety
/// `request` is for a function behind `@~` or `!@~`.
unsafe fn guard_operator(request: &pg_sys::SupportRequestSimplify) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; `fcall` is the call to simplify, with a list of expressions.
    unsafe {
        let call = &*request.fcall;
        let args = PgList::<pg_sys::Expr>::from_pg(call.args);
        if !is_guarded(request.root) {
            return None;
        }
        let objects = Objects::of_function(call.funcid)?;
        if !would_leak(request.root, &args, &objects) {
            return None;
        }
        let leaky = objects.leaky_function()?;
        let [left, right] = [args.get_ptr(0)?, args.get_ptr(1)?].map(|arg| {
            if is_plain_operand(arg.cast(), &objects) {
                return arg;
            }
            let mut of = PgList::<pg_sys::Expr>::new();
            of.push(arg);
            pg_sys::makeFuncExpr(
                leaky,
                pg_sys::exprType(arg.cast()),
                of.into_pg(),
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            )
            .cast()
        });
        let name = pg_sys::get_func_name(call.funcid);
        let negated = !name.is_null() && CStr::from_ptr(name) == c"mrl_coarse_mismatch";
        let name = if negated { c"!@~" } else { c"@~" };
        objects
            .filter(name, left, right, call.location)
            .map(|clause| clause.cast())
    }
}

/// The call of `mrl_leakproof_probe` instead of `mrl_probe`.
///
/// # Safety
/// `request` is for `mrl_probe(mrl_vector, double precision, integer)`.
unsafe fn leakproof_probe(request: &pg_sys::SupportRequestSimplify) -> Option<*mut pg_sys::Node> {
    // SAFETY: as above.
    unsafe {
        let call = &*request.fcall;
        let args = PgList::<pg_sys::Node>::from_pg(call.args);
        let (query, threshold, dims) = (args.get_ptr(0)?, args.get_ptr(1)?, args.get_ptr(2)?);
        let same_for_all_rows = |node| !pg_sys::contain_vars_of_level(node, 0);
        if !is_guarded(request.root)
            || !is_plain(query)
            || !same_for_all_rows(threshold)
            || !same_for_all_rows(dims)
        {
            return None;
        }
        let objects = Objects::of_function(call.funcid)?;
        Some(pg_sys::makeFuncExpr(
            objects.leakproof_probe_function()?,
            objects.probe,
            call.args,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        ))
        .map(|call| call.cast())
    }
}

/// A plain expression, or a probe made from one by `mrl_leakproof_probe`, which looks at its
/// arguments itself.
///
/// # Safety
/// As [`would_leak`].
unsafe fn is_plain_operand(node: *mut pg_sys::Node, objects: &Objects) -> bool {
    // SAFETY: the caller's promise; cast after a look at the tag.
    unsafe {
        is_plain(node)
            || is_a(node, pg_sys::NodeTag::T_FuncExpr)
                && Some((*node.cast::<pg_sys::FuncExpr>()).funcid)
                    == objects.leakproof_probe_function()
    }
}

/// Whether the query has a table with a policy or a view that is a security barrier.
///
/// # Safety
/// `root` is null or being planned.
pub unsafe fn is_guarded(root: *mut pg_sys::PlannerInfo) -> bool {
    // SAFETY: the caller's promise; the range table is a list of entries.
    unsafe {
        let Some(root) = root.as_ref() else {
            return false;
        };
        root.qual_security_level > 0
            || PgList::<pg_sys::RangeTblEntry>::from_pg((*root.parse).rtable)
                .iter_ptr()
                .any(|entry| (*entry).security_barrier)
    }
}
