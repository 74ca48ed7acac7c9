//! Omits the check of dimensions where a column declares them, so that `embedding::mrl_vector(512)` is
//! `embedding::mrl_vector` with another type modifier, for a column `vector(512)` of pgvector.
//!
//! An index on the one then serves conditions on the other: Postgres simplifies the expression of an
//! index as it simplifies those of a query, and compares them without type modifiers
//! (`match_index_to_operand` of Postgres' `indxpath.c`). For the same reason it omits `varchar(n)` of a shorter
//! varchar (`varchar_support` of `varchar.c`).
//!
//! The call `mrl_vector(F(column), n, …)` becomes `F(column)`, marked with the type modifier n, where the
//! column declares n dimensions. `F` is a cast of `photosearch_pgvector`. A function takes part if this is its
//! support function: so it promises that its one argument has a type whose modifier is the number of
//! dimensions, and that it returns as many. Only a superuser can attach a support function.
//!
//! In `F(column)` itself, marks on the column are left out, so that the two are equal wherever a column comes
//! from.
//!
//! No expression gets another type modifier than its own, because Postgres takes the types of
//! columns from plans (`CREATE TABLE AS`). No cast becomes an implicit one, because postgres_fdw does not
//! send those, and the other server would compare values of pgvector's types.

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
    // expressions, which are simplified already. A node is cast only after its tag has been checked.
    unsafe {
        let call = &*request.fcall;
        // With GROUPING SETS, expressions that become equal would be taken for one grouping column.
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
        let vector = without_relabel(vector);
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

/// Returns the call `F(column)` for a call of `F` in which the column is marked with another type modifier;
/// `F` goes by what a value contains.
///
/// # Safety
/// `call` is a call of `F`, and `column` its argument.
unsafe fn without_type_modifier(
    call: &pg_sys::FuncExpr,
    column: *mut pg_sys::Node,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller guarantees the call. It lies on Postgres' stack, so a new node is made.
    unsafe {
        let bare = without_relabel(column);
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
