//! Lets the operators `@~` and `!@~` reach an index behind a security barrier view.
//!
//! Postgres moves a condition into such a view, before the view's own conditions, only if every
//! function in it that sees a column is leakproof (`qual_is_pushdown_safe` of Postgres' `allpaths.c`).
//! The functions behind `@~` and `!@~` are not, since they raise errors. So, in a query with such a
//! view, a support function puts the leakproof counterpart beside a condition
//! (`SupportRequestSimplify` of `nodes/supportnodes.h`): `e @~ q` becomes `e @~? q AND e @~ q`. Postgres
//! moves the leakproof condition, and the other one stays and decides. For tables with a policy,
//! `index/conditions.rs` does the same.

use std::ffi::CStr;
use std::ptr::null_mut;

use pgrx::prelude::*;
use pgrx::{Internal, PgList, is_a, pg_sys};

use super::cost::{self, Reads};
use super::objects::Objects;
use super::operand::DIMS_TYPES;

/// Marks a condition whose leakproof counterpart stands beside it. The mark is in the field for the
/// collation, which means nothing for vectors. It prevents an endless recursion: if a support function
/// returns an AND for a part of another AND, Postgres simplifies the parts of the returned one as well
/// (`simplify_and_arguments` of Postgres' `clauses.c`).
const HAS_LEAKPROOF: pg_sys::Oid = pg_sys::C_COLLATION_OID;

/// Support function of the functions behind the operators.
#[pg_extern(sql = false)]
fn mrl_prefix_support(request: Internal) -> Internal {
    let node = request
        .unwrap()
        .map_or(null_mut(), |datum| datum.cast_mut_ptr::<pg_sys::Node>());
    // SAFETY: the argument of a support function is a request node, which is cast only after its tag
    // has been checked. The SQL declarations attach this function only to functions behind operators
    // of a vector with a vector or a probe.
    let answer = unsafe {
        if !node.is_null() && is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify) {
            simplify(&*node.cast::<pg_sys::SupportRequestSimplify>()).unwrap_or(null_mut())
        } else {
            cost::answer_cost_request(node, Reads::Prefix)
        }
    };
    Internal::from(Some(pg_sys::Datum::from(answer)))
}

/// # Safety
/// The request is for a function behind an operator of a vector with a vector or a probe.
unsafe fn simplify(request: &pg_sys::SupportRequestSimplify) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller guarantees the request. `fcall` is the call to simplify, with a list of two
    // expressions, and a name of the catalog is a null-terminated string.
    unsafe {
        if !has_barrier_view(request.root) {
            return None;
        }
        let call = &*request.fcall;
        if call.inputcollid == HAS_LEAKPROOF {
            return None;
        }
        let name = pg_sys::get_func_name(call.funcid);
        if name.is_null() {
            return None;
        }
        let operator = match CStr::from_ptr(name) {
            name if name == c"mrl_coarse_match" => c"@~",
            name if name == c"mrl_coarse_mismatch" => c"!@~",
            // A leakproof operator stays as it is.
            _ => return None,
        };
        let args = PgList::<pg_sys::Expr>::from_pg(call.args);
        let objects = Objects::of_function(call.funcid)?;
        let clause = objects.filter(operator, args.get_ptr(0)?, args.get_ptr(1)?, call.location)?;
        Some(with_leakproof(request.root, clause.cast(), &objects))
    }
}

/// Returns `leakproof counterpart AND condition` in a query with a security barrier view, else the condition.
///
/// # Safety
/// `root` is null or is being planned. `condition` is an operator `@~` or `!@~` of the extension that
/// nothing else refers to.
pub unsafe fn with_leakproof(
    root: *mut pg_sys::PlannerInfo,
    condition: *mut pg_sys::Node,
    objects: &Objects,
) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees the nodes.
    unsafe {
        if !has_barrier_view(root) {
            return condition;
        }
        match leakproof_counterpart(condition, objects) {
            Some(leakproof) => {
                if is_a(condition, pg_sys::NodeTag::T_OpExpr) {
                    (*condition.cast::<pg_sys::OpExpr>()).inputcollid = HAS_LEAKPROOF;
                }
                let mut both = PgList::<pg_sys::Node>::new();
                both.push(leakproof);
                both.push(condition);
                pg_sys::make_andclause(both.into_pg()).cast()
            }
            None => condition,
        }
    }
}

/// Returns the leakproof counterpart of a condition `@~` or `!@~`, also with ANY or ALL of an array, or
/// `None` for any other condition. Every row that the condition accepts is accepted by its counterpart,
/// which raises no error.
///
/// # Safety
/// `condition` is a condition of a query that is being planned.
pub unsafe fn leakproof_counterpart(
    condition: *mut pg_sys::Node,
    objects: &Objects,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller guarantees the node, which is copied, and cast only after its tag has been
    // checked.
    unsafe {
        if is_a(condition, pg_sys::NodeTag::T_OpExpr) {
            let leakproof = pg_sys::copyObjectImpl(condition.cast()).cast::<pg_sys::OpExpr>();
            (*leakproof).opno = objects.leakproof_operator((*leakproof).opno)?;
            (*leakproof).opfuncid = pg_sys::get_opcode((*leakproof).opno);
            use_leakproof_probe((*leakproof).args, objects);
            return Some(leakproof.cast());
        }
        if is_a(condition, pg_sys::NodeTag::T_ScalarArrayOpExpr) {
            let leakproof =
                pg_sys::copyObjectImpl(condition.cast()).cast::<pg_sys::ScalarArrayOpExpr>();
            (*leakproof).opno = objects.leakproof_operator((*leakproof).opno)?;
            (*leakproof).opfuncid = pg_sys::get_opcode((*leakproof).opno);
            return Some(leakproof.cast());
        }
        None
    }
}

/// Replaces a call of `mrl_probe` among the arguments by one of `mrl_leakproof_probe`.
///
/// # Safety
/// `args` is a list of expressions that nobody else uses.
unsafe fn use_leakproof_probe(args: *mut pg_sys::List, objects: &Objects) {
    // SAFETY: the caller guarantees the list; a node is cast only after its tag has been checked.
    unsafe {
        for arg in PgList::<pg_sys::Node>::from_pg(args).iter_ptr() {
            if is_a(arg, pg_sys::NodeTag::T_FuncExpr) {
                let call = &mut *arg.cast::<pg_sys::FuncExpr>();
                if let Some((probe, leakproof)) = objects.settings_probe_functions()
                    && probe == call.funcid
                {
                    call.funcid = leakproof;
                    continue;
                }
                for dims in DIMS_TYPES {
                    if objects.probe_function(dims) == Some(call.funcid)
                        && let Some(leakproof) = objects.leakproof_probe_function(dims)
                    {
                        call.funcid = leakproof;
                        break;
                    }
                }
            }
        }
    }
}

/// Returns whether the query reads a security barrier view.
///
/// The answer is no where a condition must keep its form. In a query with grouping sets, Postgres
/// recognises a set's expression in the select list and in HAVING by its form, to make it NULL in the
/// rows of other sets. In INSERT … ON CONFLICT … WHERE, it compares the condition with the predicates of
/// unique indexes.
///
/// # Safety
/// `root` is null or is being planned.
unsafe fn has_barrier_view(root: *mut pg_sys::PlannerInfo) -> bool {
    // SAFETY: the caller guarantees a valid `root` or null; the range table is a list of
    // RangeTblEntry nodes.
    unsafe {
        root.as_ref().is_some_and(|root| {
            let query = &*root.parse;
            query.groupingSets.is_null()
                && query.onConflict.is_null()
                && PgList::<pg_sys::RangeTblEntry>::from_pg(query.rtable)
                    .iter_ptr()
                    .any(|entry| (*entry).security_barrier)
        })
    }
}
