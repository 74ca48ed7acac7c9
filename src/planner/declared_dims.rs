//! Omits the check of dimensions where a column declares them, so that `embedding` and
//! `embedding::mrl_vector(512)` are the same expression for a column `vector(512)` of pgvector.
//!
//! An index on the one then serves conditions on the other: Postgres simplifies the expression of an
//! index as it simplifies those of a query. For the same reason it omits `varchar(n)` of a shorter
//! varchar (`varchar_support` of Postgres' `varchar.c`).
//!
//! | expression | becomes |
//! | --- | --- |
//! | the cast `F(column)`, where the column declares n dimensions | the same, marked with the type modifier n |
//! | `mrl_vector(…, n)` of an expression that is marked with n | that expression |
//!
//! `F` is a cast of `photosearch_pgvector`. A function takes part if this is its support function: so
//! it promises that its one argument has a type whose modifier is the number of dimensions, and that it
//! returns as many. Only a superuser can attach a support function.

use std::ptr::null_mut;

use pgrx::prelude::*;
use pgrx::{FromDatum, Internal, PgList, is_a, pg_sys};

use super::operand::const_value;

/// Support function of `mrl_vector(mrl_vector, integer, boolean)` and of the casts `F`.
#[pg_extern(sql = false)]
fn mrl_declared_dims_support(request: Internal, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    let node = request
        .unwrap()
        .map_or(null_mut(), |datum| datum.cast_mut_ptr::<pg_sys::Node>());
    // SAFETY: the argument of a support function is a request node, which is cast only after its tag
    // has been checked. Postgres calls a support function with a flinfo.
    let answer = unsafe {
        if !node.is_null() && is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify) {
            let this = (*(*fcinfo).flinfo).fn_oid;
            simplify(&*node.cast::<pg_sys::SupportRequestSimplify>(), this).unwrap_or(null_mut())
        } else {
            null_mut()
        }
    };
    Internal::from(Some(pg_sys::Datum::from(answer)))
}

/// # Safety
/// The request is for a function whose support function is `this`.
unsafe fn simplify(
    request: &pg_sys::SupportRequestSimplify,
    this: pg_sys::Oid,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller guarantees the request. `fcall` is the call to simplify, with a list of
    // expressions, which are simplified already. It lies on Postgres' stack, so a new node is made.
    unsafe {
        let call = &*request.fcall;
        let args = PgList::<pg_sys::Node>::from_pg(call.args);
        let first = args.get_ptr(0)?;
        match args.len() {
            1 => {
                let column = without_relabel(first);
                let dims = declared_dims(request.root, column)?;
                let mut args = PgList::<pg_sys::Node>::new();
                args.push(column);
                let cast = pg_sys::makeFuncExpr(
                    call.funcid,
                    call.funcresulttype,
                    args.into_pg(),
                    call.funccollid,
                    call.inputcollid,
                    // EXPLAIN leaves an implicit cast out below the mark, which it shows.
                    pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
                );
                Some(marked(cast, dims))
            }
            3 => {
                let length = args.get_ptr(1)?;
                if pg_sys::exprType(length) != pg_sys::INT4OID {
                    return None;
                }
                let dims = i32::from_datum(const_value(length)??, false)?;
                is_marked(first, dims, this).then_some(first)
            }
            _ => None,
        }
    }
}

/// Returns the expression below the marks with other type modifiers that Postgres puts around it: where
/// a function in FROM is inlined whose declaration has no dimensions, for instance.
///
/// # Safety
/// `node` is an expression.
unsafe fn without_relabel(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees an expression; a node is cast only after its tag has been checked.
    unsafe {
        let of = pg_sys::exprType(node);
        while is_a(node, pg_sys::NodeTag::T_RelabelType) {
            let inner: *mut pg_sys::Node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
            if pg_sys::exprType(inner) != of {
                break;
            }
            node = inner;
        }
        node
    }
}

/// Returns the number of dimensions that the declaration of a table's column guarantees.
///
/// A Var of anything else may have a type modifier that nobody has checked: of a function in FROM, for
/// instance, or of a foreign table.
///
/// # Safety
/// `root` is null, or `node` is an expression in its query.
unsafe fn declared_dims(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> Option<i32> {
    // SAFETY: the caller guarantees the expression; a node is cast only after its tag has been checked.
    // The lists of a query contain the node types that `nodes/parsenodes.h` documents.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_Var) {
            return None;
        }
        let var = &*node.cast::<pg_sys::Var>();
        let is_column = if root.is_null() {
            // An expression of a table: of an index or of a constraint.
            var.varlevelsup == 0
        } else {
            let mut level = root.as_ref();
            for _ in 0..var.varlevelsup {
                level = level.and_then(|level| level.parent_root.as_ref());
            }
            let tables = PgList::<pg_sys::RangeTblEntry>::from_pg((*level?.parse).rtable);
            let index = usize::try_from(i64::from(var.varno) - 1).ok()?;
            let table = &*tables.get_ptr(index)?;
            table.rtekind == pg_sys::RTEKind::RTE_RELATION
                && [
                    pg_sys::RELKIND_RELATION,
                    pg_sys::RELKIND_PARTITIONED_TABLE,
                    pg_sys::RELKIND_MATVIEW,
                ]
                .contains(&(table.relkind as u8))
        };
        (is_column && var.varattno > 0 && var.vartypmod > 0).then_some(var.vartypmod)
    }
}

/// # Safety
/// `cast` is an expression of type mrl_vector.
unsafe fn marked(cast: *mut pg_sys::FuncExpr, dims: i32) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees the expression. A RelabelType only changes the type modifier.
    unsafe {
        let result = (*cast).funcresulttype;
        pg_sys::makeRelabelType(
            cast.cast(),
            result,
            dims,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
        )
        .cast()
    }
}

/// Returns whether `node` is what [`marked`] returns, with this number of dimensions.
///
/// # Safety
/// `node` is an expression.
unsafe fn is_marked(node: *mut pg_sys::Node, dims: i32, this: pg_sys::Oid) -> bool {
    // SAFETY: the caller guarantees an expression; a node is cast only after its tag has been checked.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_RelabelType) {
            return false;
        }
        let relabel = &*node.cast::<pg_sys::RelabelType>();
        let cast: *mut pg_sys::Node = relabel.arg.cast();
        relabel.resulttypmod == dims
            && is_a(cast, pg_sys::NodeTag::T_FuncExpr)
            && pg_sys::get_func_support((*cast.cast::<pg_sys::FuncExpr>()).funcid) == this
    }
}
