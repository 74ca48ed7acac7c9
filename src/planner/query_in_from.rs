//! Plans `FROM photos, embed_text('a baby') AS q` as a query over one table.
//!
//! In this form, the query vector is a column of a join. Postgres joins before it sorts, so an index gives
//! no order. `embed_text` is parallel restricted, so the join is not parallel. And a security barrier view
//! keeps join conditions out. Therefore, before a query is planned, each reference to such a column becomes
//! a subselect, `(SELECT embed_text('a baby'))`, which Postgres evaluates once, and the function leaves
//! FROM. Postgres does the same with a function that it can fold into a constant
//! (`pull_up_constant_function` of Postgres' `prepjointree.c`).
//!
//! A function stays in FROM if an outer join may replace its row by NULLs, if the query uses its row as a
//! whole or not at all, with ORDINALITY, if its arguments are columns, with GROUPING SETS, in MERGE, in a
//! subquery of WHERE, and in the query of a cursor. Postgres inlines SQL functions later, so a call in the
//! FROM of such a function stays as well.
//!
//! A library that is not preloaded is loaded while a session's first query is planned, after the place where
//! the hook would be called. So that query is still planned as a join, with the same result.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use pgrx::prelude::*;
use pgrx::{PgBox, PgList, is_a, pg_sys};

use crate::version;

static PREVIOUS: OnceLock<pg_sys::planner_hook_type> = OnceLock::new();

/// Called once, when the library is loaded.
pub fn register_hook() {
    // SAFETY: `_PG_init` calls this, and a backend has only one thread that reads and writes hook
    // variables.
    unsafe {
        // `set` cannot fail, because a library is loaded only once.
        let _ = PREVIOUS.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
    }
}

/// The hook. It has no guard of pgrx, which would catch each error of planning and raise it anew, without
/// its context. An error leaves this function by a long jump; no value in it has to be dropped.
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: Postgres passes a query that the planner may change.
    unsafe {
        prepare(query, options, params);
        match PREVIOUS.get() {
            Some(Some(previous)) => previous(query, text, options, params),
            _ => standard_planner(query, text, options, params),
        }
    }
}

// Postgres' own function without pgrx's guard.
unsafe extern "C-unwind" {
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

#[pg_guard]
unsafe extern "C-unwind" fn prepare(
    query: *mut pg_sys::Query,
    options: c_int,
    params: pg_sys::ParamListInfo,
) {
    // Each subselect is evaluated when its value is needed first. Between two fetches from a cursor, a
    // setting could change, so that one query would use the vectors of two models. Postgres plans the
    // queries of DECLARE and of PL/pgSQL's cursors without this option. (One that a client fetches in
    // parts by a row limit of the protocol has it.)
    if options & pg_sys::CURSOR_OPT_PARALLEL_OK as c_int != 0 {
        // SAFETY: Postgres passes a query that the planner may change.
        unsafe { simplify(query, params.is_null(), 0) }
    }
}

/// Simplifies a query and the queries in its FROM and WITH. `is_generic` says that the planner knows no
/// values of parameters; `depth` is the number of queries around this one.
///
/// # Safety
/// The query is the planner's own.
unsafe fn simplify(query: *mut pg_sys::Query, is_generic: bool, depth: c_int) {
    // SAFETY: the caller's promise. Lists have the element types that `nodes/parsenodes.h` documents.
    unsafe {
        pg_sys::check_stack_depth();
        for cte in PgList::<pg_sys::CommonTableExpr>::from_pg((*query).cteList).iter_ptr() {
            if is_a((*cte).ctequery, pg_sys::NodeTag::T_Query) {
                simplify((*cte).ctequery.cast(), is_generic, depth + 1);
            }
        }
        for table in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
            if (*table).rtekind == pg_sys::RTEKind::RTE_SUBQUERY {
                simplify((*table).subquery, is_generic, depth + 1);
            }
        }
        // The jointree of MERGE, before planning, does not show which rows an outer join can add.
        if version::is_merge(&*query) || (*query).jointree.is_null() {
            return;
        }
        let mut present = Vec::new();
        always_present((*query).jointree.cast(), &mut present);
        for relid in present {
            if let Some(table) = table_of(query, relid)
                && let Some(call) = query_function(&*table, is_generic, depth)
                && only_its_value_is_used(query, relid)
                && !has_grouping_sets(query.cast(), std::ptr::null_mut())
            {
                replace(query, relid, call);
            }
        }
    }
}

/// # Safety
/// The query is the planner's own.
unsafe fn table_of(query: *mut pg_sys::Query, relid: c_int) -> Option<*mut pg_sys::RangeTblEntry> {
    // SAFETY: the caller's promise.
    unsafe {
        let tables = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
        tables.get_ptr(usize::try_from(relid - 1).ok()?)
    }
}

/// Collects the tables in FROM whose rows no outer join can replace by NULLs.
///
/// # Safety
/// `node` is a part of a join tree.
unsafe fn always_present(node: *mut pg_sys::Node, found: &mut Vec<c_int>) {
    // SAFETY: the caller's promise; a node is cast only after its tag has been checked.
    unsafe {
        pg_sys::check_stack_depth();
        if is_a(node, pg_sys::NodeTag::T_RangeTblRef) {
            found.push((*node.cast::<pg_sys::RangeTblRef>()).rtindex);
        } else if is_a(node, pg_sys::NodeTag::T_FromExpr) {
            let from = &*node.cast::<pg_sys::FromExpr>();
            for item in PgList::<pg_sys::Node>::from_pg(from.fromlist).iter_ptr() {
                always_present(item, found);
            }
        } else if is_a(node, pg_sys::NodeTag::T_JoinExpr) {
            let join = &*node.cast::<pg_sys::JoinExpr>();
            let (left, right) = match join.jointype {
                pg_sys::JoinType::JOIN_INNER => (true, true),
                pg_sys::JoinType::JOIN_LEFT => (true, false),
                pg_sys::JoinType::JOIN_RIGHT => (false, true),
                _ => (false, false),
            };
            if left {
                always_present(join.larg, found);
            }
            if right {
                always_present(join.rarg, found);
            }
        }
    }
}

/// Returns the call of a function in FROM if it is one of `embed_text`, if its value is the same for the
/// whole statement, and if Postgres does not fold it into a constant. (Only `embed_text`: the session keeps
/// the vectors of texts, so a query with several subselects embeds once. It does not keep those of pictures.)
///
/// # Safety
/// `table` belongs to a query with `depth` queries around it.
unsafe fn query_function(
    table: &pg_sys::RangeTblEntry,
    is_generic: bool,
    depth: c_int,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; a node is cast only after its tag has been checked.
    unsafe {
        if table.rtekind != pg_sys::RTEKind::RTE_FUNCTION || table.funcordinality {
            return None;
        }
        let functions = PgList::<pg_sys::RangeTblFunction>::from_pg(table.functions);
        let (1, Some(function)) = (functions.len(), functions.get_ptr(0)) else {
            return None;
        };
        let node = (*function).funcexpr;
        if (*function).funccolcount != 1 || !is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            return None;
        }
        let call = &*node.cast::<pg_sys::FuncExpr>();
        if call.funcretset
            || pg_sys::contain_volatile_functions(node)
            || pg_sys::checkExprHasSubLink(node)
            || (0..=depth).any(|level| pg_sys::contain_vars_of_level(node, level))
        {
            return None;
        }
        // Postgres folds an immutable function of constants, and of parameters whose values it knows.
        let has_parameter = || {
            PgList::<pg_sys::Node>::from_pg(call.args)
                .iter_ptr()
                .any(|arg| is_a(arg, pg_sys::NodeTag::T_Param))
        };
        let is_not_folded =
            pg_sys::contain_mutable_functions(node) || (is_generic && has_parameter());
        let is_named = |function: pg_sys::Oid, expected: &CStr| {
            let name = pg_sys::get_func_name(function);
            !name.is_null() && CStr::from_ptr(name) == expected
        };
        let embeds_text = is_named(call.funcid, c"embed_text")
            && is_named(pg_sys::get_func_support(call.funcid), c"embed_support");
        (is_not_folded && embeds_text).then_some(node)
    }
}

/// How a query uses a function in FROM.
#[derive(Default)]
struct Uses {
    value: bool,
    /// The row as a whole.
    row: bool,
}

/// Returns whether a query uses a function in FROM, and only by the column that it returns. A function that
/// the query does not use stays, because Postgres calls it all the same: the call checks the privilege
/// EXECUTE, and it can raise an error.
///
/// # Safety
/// `relid` is a function in FROM of the query.
unsafe fn only_its_value_is_used(query: *mut pg_sys::Query, relid: c_int) -> bool {
    let mut uses = Uses::default();
    // SAFETY: the caller's promise. replace_rte_variables makes a copy of the query, in which the
    // callback replaces each variable by itself. The copy is not used.
    unsafe {
        let callback: pg_sys::replace_rte_variables_callback = Some(check_variable);
        pg_sys::replace_rte_variables(
            query.cast(),
            relid,
            0,
            callback,
            (&raw mut uses).cast(),
            std::ptr::null_mut(),
        );
    }
    uses.value && !uses.row
}

#[pg_guard]
unsafe extern "C-unwind" fn check_variable(
    var: *mut pg_sys::Var,
    context: *mut pg_sys::replace_rte_variables_context,
) -> *mut pg_sys::Node {
    // SAFETY: Postgres passes the argument of `only_its_value_is_used`.
    unsafe {
        let uses = &mut *(*context).callback_arg.cast::<Uses>();
        if (*var).varattno == 1 {
            uses.value = true;
        } else {
            uses.row = true;
        }
        pg_sys::copyObjectImpl(var.cast()).cast()
    }
}

/// Returns whether a query, or any query in it, has GROUPING SETS, ROLLUP or CUBE. The column is then NULL
/// in some of the groups. Postgres recognises a grouped column by equality of expressions, but each
/// subselect becomes a parameter of its own, so an expression such as `q IS NULL` would not see the NULL.
///
/// # Safety
/// `node` is null or a part of a query.
#[pg_guard]
unsafe extern "C-unwind" fn has_grouping_sets(
    node: *mut pg_sys::Node,
    context: *mut c_void,
) -> bool {
    // SAFETY: the caller's promise; a node is cast only after its tag has been checked.
    unsafe {
        if node.is_null() {
            return false;
        }
        if is_a(node, pg_sys::NodeTag::T_Query) {
            let query = node.cast::<pg_sys::Query>();
            return !(*query).groupingSets.is_null()
                || pg_sys::query_tree_walker(query, Some(has_grouping_sets), context, 0);
        }
        pg_sys::expression_tree_walker(node, Some(has_grouping_sets), context)
    }
}

/// Puts `(SELECT call)` in place of each reference to a function in FROM, and one empty row in place of
/// the function.
///
/// # Safety
/// As for [`only_its_value_is_used`], and `call` contains no variables.
unsafe fn replace(query: *mut pg_sys::Query, relid: c_int, call: *mut pg_sys::Node) {
    // SAFETY: the caller's promise. replace_rte_variables returns a changed copy of the query, whose
    // fields take the place of the old ones.
    unsafe {
        let changed: *mut pg_sys::Query = pg_sys::replace_rte_variables(
            query.cast(),
            relid,
            0,
            Some(subselect_for_variable),
            call.cast::<c_void>(),
            std::ptr::null_mut(),
        )
        .cast();
        *query = std::ptr::read(changed);
        if let Some(table) = table_of(query, relid) {
            (*table).rtekind = pg_sys::RTEKind::RTE_RESULT;
            (*table).functions = std::ptr::null_mut();
            (*table).lateral = false;
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subselect_for_variable(
    _var: *mut pg_sys::Var,
    context: *mut pg_sys::replace_rte_variables_context,
) -> *mut pg_sys::Node {
    // SAFETY: Postgres passes the argument of `replace`: a function call. The fields of the new nodes
    // are set as `nodes/parsenodes.h` and `nodes/primnodes.h` require; the others are zero.
    unsafe {
        let call: *mut pg_sys::Expr =
            pg_sys::copyObjectImpl((*context).callback_arg.cast_const()).cast();
        let entry = pg_sys::makeTargetEntry(call, 1, c"q".as_ptr().cast_mut(), false);
        let mut select = PgBox::<pg_sys::Query>::alloc_node(pg_sys::NodeTag::T_Query);
        select.commandType = pg_sys::CmdType::CMD_SELECT;
        select.canSetTag = true;
        select.targetList = pg_sys::lappend(std::ptr::null_mut(), entry.cast());
        select.jointree = pg_sys::makeFromExpr(std::ptr::null_mut(), std::ptr::null_mut());
        let mut link = PgBox::<pg_sys::SubLink>::alloc_node(pg_sys::NodeTag::T_SubLink);
        link.subLinkType = pg_sys::SubLinkType::EXPR_SUBLINK;
        link.subselect = select.into_pg().cast();
        link.location = -1;
        link.into_pg().cast()
    }
}
