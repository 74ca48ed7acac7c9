//! Removes a cast's check of the number of dimensions where the declaration of a column guarantees the
//! number. For a column `embedding vector(512)` of pgvector, `embedding::mrl_vector(512)` and
//! `embedding::mrl_vector` become the same expression, except for the type modifier.
//!
//! An index on one of the two expressions then serves conditions on the other, because Postgres
//! simplifies the expressions of an index and of a query alike, and compares them without their type
//! modifiers (`match_index_to_operand` of Postgres' `indxpath.c`). Postgres removes the cast of a varchar
//! to a longer varchar in the same way (`varchar_support` of `varchar.c`).
//!
//! The call `mrl_vector(F(column), n, …)` becomes a RelabelType node with the type modifier n around
//! `F(column)`, where the column declares n dimensions. `F` is a cast of `photosearch_pgvector`, or any other
//! function of one argument that has `mrl_declared_dims_support` as its support function. Such a function
//! promises that the type modifier of its argument is the number of dimensions, and that its result has
//! as many dimensions. Only a superuser can attach a support function.
//!
//! RelabelType nodes around the column in `F(column)` are removed, because Postgres adds them depending
//! on where the column comes from, and equal expressions must look equal.
//!
//! The result has the type modifier of the call that it replaces, because Postgres takes the types of
//! columns from plans (`CREATE TABLE AS`). Every cast in it is an explicit one: postgres_fdw does not
//! send implicit casts, so the other server would compare values of pgvector's types.

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
    // has been checked. Postgres calls a support function with an FmgrInfo (`flinfo`).
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

/// Returns the simplified call, or `None` if it stays as it is.
///
/// # Safety
/// The request is for a function whose support function is `this`.
unsafe fn simplify(
    request: &pg_sys::SupportRequestSimplify,
    this: pg_sys::Oid,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller guarantees the request. `fcall` is the call to simplify, with a list of
    // expressions, which are simplified already. A node is cast only after its tag has been checked.
    unsafe {
        let call = &*request.fcall;
        // With GROUPING SETS, Postgres would take two grouping expressions that have become equal for
        // one.
        if !request.root.is_null() && !(*(*request.root).parse).groupingSets.is_null() {
            return None;
        }
        let args = PgList::<pg_sys::Node>::from_pg(call.args);
        if let (1, Some(column)) = (args.len(), args.get_ptr(0)) {
            return without_type_modifier(call, column);
        }
        let (3, Some(vector), Some(length)) = (args.len(), args.get_ptr(0), args.get_ptr(1)) else {
            return None;
        };
        let vector = without_type_modifiers(vector);
        if pg_sys::exprType(length) != pg_sys::INT4OID || !is_a(vector, pg_sys::NodeTag::T_FuncExpr)
        {
            return None;
        }
        let dims = i32::from_datum(const_value(length)??, false)?;
        let cast = &*vector.cast::<pg_sys::FuncExpr>();
        let cast_args = PgList::<pg_sys::Node>::from_pg(cast.args);
        let (1, Some(column)) = (cast_args.len(), cast_args.get_ptr(0)) else {
            return None;
        };
        if pg_sys::get_func_support(cast.funcid) != this
            || declared_dims(request.root, column) != Some(dims)
        {
            return None;
        }
        let marked = pg_sys::makeRelabelType(
            vector.cast(),
            call.funcresulttype,
            dims,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
        );
        Some(marked.cast())
    }
}

/// Removes RelabelType nodes around the argument of a call `F(column)`; returns `None` if there are
/// none. The result of `F` does not depend on them, because `F` takes the number of dimensions from the
/// value.
///
/// # Safety
/// `call` is a call of `F`, and `column` its argument.
unsafe fn without_type_modifier(
    call: &pg_sys::FuncExpr,
    column: *mut pg_sys::Node,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller guarantees the call. Postgres keeps the call node of a request on its stack, so
    // the result has to be a new node.
    unsafe {
        let bare = without_type_modifiers(column);
        if bare == column {
            return None;
        }
        let mut args = PgList::<pg_sys::Node>::new();
        args.push(bare);
        let cast = pg_sys::makeFuncExpr(
            call.funcid,
            call.funcresulttype,
            args.into_pg(),
            call.funccollid,
            call.inputcollid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
        );
        Some(cast.cast())
    }
}

/// Returns the expression inside RelabelType nodes that change only the type modifier. Postgres adds
/// such nodes, for instance when it inlines a function in FROM whose result is declared without
/// dimensions.
///
/// # Safety
/// `node` is an expression.
unsafe fn without_type_modifiers(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
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

/// Returns the number of dimensions that the declaration of a table's column guarantees. Returns `None`
/// for all other expressions.
///
/// A Var of another source, such as a function in FROM or a foreign table, can have a type modifier that
/// its values were not checked against.
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
            // Without a query, the expression belongs to a table (to an index or a constraint).
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
