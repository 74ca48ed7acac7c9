//! Lets an index answer conditions on the whole similarity: `fine_score(embedding, query) >= 0.35`.
//!
//! An index whose codes cover all dimensions of its column can find every row that such a condition
//! accepts, but Postgres matches an index with conditions of the form `column operator value` only.
//! So, while a query is planned, a condition that follows from the one in the query is put beside
//! it: `embedding @~ mrl_probe_at_least(query, 0.35)`. An index takes the new condition, in every
//! kind of plan that Postgres knows; the condition in the query stays as a filter and decides, to the
//! last bit. The new condition is a little weaker, so that no rounding loses a row.
//!
//! The moment for that is `get_relation_info_hook` (`optimizer/plancat.h`): the planner calls it after
//! it has simplified all conditions and before it hands them out to tables and joins. `fine_score` and
//! `<=>` have support functions, which Postgres calls earlier, so that the library is loaded by then.
//!
//! | in the query | put beside it |
//! | --- | --- |
//! | `fine_score(e, q) >= t`, `> t`, `1 - (e <=> q) >= t`, `e <=> q <= 1 - t` | `e @~ mrl_probe_at_least(q, t)` |
//! | `fine_score(e, q) <= t`, `< t`, and so on | `e !@~ mrl_probe_at_most(q, t)` |

use std::ffi::CStr;
use std::sync::OnceLock;

use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum, PgList, is_a, pg_sys};

use super::build::{ambuild, meta_of};
use crate::planner::{Objects, is_guarded};
use crate::types::is_plain;

static PREVIOUS: OnceLock<pg_sys::get_relation_info_hook_type> = OnceLock::new();

/// Called once, when the library is loaded.
pub fn register_hook() {
    // SAFETY: nothing else runs while a library is loaded.
    unsafe {
        // A library is loaded once.
        let _ = PREVIOUS.set(pg_sys::get_relation_info_hook);
        pg_sys::get_relation_info_hook = Some(add_conditions);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn add_conditions(
    root: *mut pg_sys::PlannerInfo,
    table: pg_sys::Oid,
    is_parent: bool,
    rel: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: the planner passes valid nodes. The join tree is the planner's own copy, and its
    // conditions have not been handed out yet for a table that stands in the query itself
    // (`query_planner` of Postgres' `planmain.c`).
    unsafe {
        if let Some(Some(previous)) = PREVIOUS.get() {
            previous(root, table, is_parent, rel);
        }
        let jointree = (*(*root).parse).jointree;
        if (*rel).reloptkind == pg_sys::RelOptKind::RELOPT_BASEREL && !jointree.is_null() {
            let mut table = Table {
                root,
                oid: table,
                relid: (*rel).relid,
                keys: None,
            };
            table.visit_join_tree(jointree.cast());
        }
    }
}

/// A table of the query that is being planned.
struct Table {
    root: *mut pg_sys::PlannerInfo,
    oid: pg_sys::Oid,
    /// The table's number in the query.
    relid: pg_sys::Index,
    /// The columns and expressions with an index over all their dimensions; `None` until they are
    /// looked up.
    keys: Option<Vec<*mut pg_sys::Node>>,
}

/// What a condition asks of the similarity of two vectors.
struct Bound {
    vectors: [*mut pg_sys::Node; 2],
    /// The similarity, of type float8, that it compares with.
    score: *mut pg_sys::Node,
    is_lower: bool,
}

/// An expression for how close two vectors are.
struct Closeness {
    vectors: [*mut pg_sys::Node; 2],
    /// The function that computes it.
    function: pg_sys::Oid,
    is_distance: bool,
}

// SAFETY of all that follows: the nodes are those of the query that is being planned, and are cast
// after a look at their tags. Lists are of the element type that `primnodes.h` documents.
impl Table {
    /// # Safety
    /// `node` is a part of the query's join tree.
    unsafe fn visit_join_tree(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: see above.
        unsafe {
            if is_a(node, pg_sys::NodeTag::T_FromExpr) {
                let from = &mut *node.cast::<pg_sys::FromExpr>();
                for item in PgList::<pg_sys::Node>::from_pg(from.fromlist).iter_ptr() {
                    self.visit_join_tree(item);
                }
                from.quals = self.with_conditions(from.quals.cast()).cast();
            } else if is_a(node, pg_sys::NodeTag::T_JoinExpr) {
                let join = &mut *node.cast::<pg_sys::JoinExpr>();
                self.visit_join_tree(join.larg);
                self.visit_join_tree(join.rarg);
                join.quals = self.with_conditions(join.quals.cast()).cast();
            }
        }
    }

    /// A list of conditions that all have to hold, with those put beside them that follow.
    ///
    /// # Safety
    /// `conditions` is null or such a list.
    unsafe fn with_conditions(&mut self, conditions: *mut pg_sys::List) -> *mut pg_sys::List {
        // SAFETY: see above.
        unsafe {
            if conditions.is_null() || !is_a(conditions.cast(), pg_sys::NodeTag::T_List) {
                return conditions;
            }
            let mut all = PgList::<pg_sys::Node>::new();
            for condition in PgList::<pg_sys::Node>::from_pg(conditions).iter_ptr() {
                // In front: of two conditions of the same cost Postgres evaluates the first one first.
                if let Some(new) = self.condition_from(condition) {
                    all.push(new);
                }
                self.visit_alternatives(condition);
                all.push(condition);
            }
            all.into_pg()
        }
    }

    /// Puts conditions beside those in the branches of an OR, for a bitmap of several sweeps.
    ///
    /// # Safety
    /// `node` is a condition.
    unsafe fn visit_alternatives(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: see above.
        unsafe {
            if !is_a(node, pg_sys::NodeTag::T_BoolExpr) {
                return;
            }
            let expression = &mut *node.cast::<pg_sys::BoolExpr>();
            match expression.boolop {
                pg_sys::BoolExprType::AND_EXPR => {
                    expression.args = self.with_conditions(expression.args);
                }
                pg_sys::BoolExprType::OR_EXPR => {
                    let mut branches = PgList::<pg_sys::Node>::new();
                    for branch in PgList::<pg_sys::Node>::from_pg(expression.args).iter_ptr() {
                        self.visit_alternatives(branch);
                        branches.push(match self.condition_from(branch) {
                            Some(new) => {
                                let mut both = PgList::<pg_sys::Node>::new();
                                both.push(new);
                                both.push(branch);
                                pg_sys::make_andclause(both.into_pg()).cast()
                            }
                            None => branch,
                        });
                    }
                    expression.args = branches.into_pg();
                }
                _ => {}
            }
        }
    }

    /// The condition that follows from another one, for an index of this table.
    ///
    /// # Safety
    /// `node` is a condition.
    unsafe fn condition_from(&mut self, node: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
        // SAFETY: see above.
        unsafe {
            let (bound, function) = bound_of(node)?;
            let [a, b] = bound.vectors;
            let (key, query) = if self.is_key(a) {
                (a, b)
            } else if self.is_key(b) {
                (b, a)
            } else {
                return None;
            };
            for operand in [query, bound.score] {
                let own = pg_sys::bms_is_member(
                    self.relid as i32,
                    pg_sys::pull_varnos(self.root, operand),
                );
                // What is evaluated twice must come out the same, and a subplan belongs to one place.
                if own
                    || pg_sys::contain_volatile_functions(operand)
                    || pg_sys::contain_subplans(operand)
                {
                    return None;
                }
            }
            // The new condition would be evaluated before a policy: see `planner/leaks.rs`.
            if is_guarded(self.root) && !is_plain(query) {
                return None;
            }
            let objects = Objects::of_function(function)?;
            let (operator, probe) = if bound.is_lower {
                (c"@~", objects.probe_at_least_function()?)
            } else {
                (c"!@~", objects.probe_at_most_function()?)
            };
            let mut args = PgList::<pg_sys::Node>::new();
            args.push(copy(query));
            args.push(copy(bound.score));
            let probe = call(probe, objects.probe, args);
            let probe = pg_sys::eval_const_expressions(self.root, probe);
            let condition = objects.filter(operator, copy(key).cast(), probe.cast(), -1)?;
            Some(condition.cast())
        }
    }

    /// Whether an index of this table covers all dimensions of an expression.
    ///
    /// # Safety
    /// `node` is an expression.
    unsafe fn is_key(&mut self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: see above.
        unsafe {
            let node = without_relabel(node);
            // Most expressions are no column of this table: the catalogs need not be asked.
            let varnos = pg_sys::pull_varnos(self.root, node);
            if !pg_sys::bms_is_member(self.relid as i32, varnos) {
                return false;
            }
            let (oid, relid) = (self.oid, self.relid);
            let keys = self.keys.get_or_insert_with(|| whole_keys(oid, relid));
            keys.iter()
                .any(|&key| pg_sys::equal(key.cast(), node.cast()) || is_same_column(key, node))
        }
    }
}

/// What the condition asks, and the function whose result it compares.
///
/// # Safety
/// `node` is a condition.
unsafe fn bound_of(node: *mut pg_sys::Node) -> Option<(Bound, pg_sys::Oid)> {
    // SAFETY: see above.
    unsafe {
        let (function, [left, right]) = operator_of(node)?;
        // In terms of the left operand: whether the right one is a lower bound.
        let (is_lower, left, right) = match function.to_u32() {
            pg_sys::F_FLOAT8GE | pg_sys::F_FLOAT8GT => (true, left, right),
            pg_sys::F_FLOAT8LE | pg_sys::F_FLOAT8LT => (false, left, right),
            pg_sys::F_FLOAT84GE | pg_sys::F_FLOAT84GT => (true, left, to_float8(right)),
            pg_sys::F_FLOAT84LE | pg_sys::F_FLOAT84LT => (false, left, to_float8(right)),
            pg_sys::F_FLOAT48GE | pg_sys::F_FLOAT48GT => (true, to_float8(left), right),
            pg_sys::F_FLOAT48LE | pg_sys::F_FLOAT48LT => (false, to_float8(left), right),
            _ => return None,
        };
        let (closeness, value, is_lower) = match closeness_of(left) {
            Some(closeness) => (closeness, right, is_lower),
            None => (closeness_of(right)?, left, !is_lower),
        };
        let (score, is_lower) = if closeness.is_distance {
            let mut args = PgList::<pg_sys::Node>::new();
            args.push(float8_const(1.0));
            args.push(value);
            let function = pg_sys::Oid::from(pg_sys::F_FLOAT8MI);
            (call(function, pg_sys::FLOAT8OID, args), !is_lower)
        } else {
            (value, is_lower)
        };
        let bound = Bound {
            vectors: closeness.vectors,
            score,
            is_lower,
        };
        Some((bound, closeness.function))
    }
}

/// `fine_score(a, b)`, `a <=> b` or `1 - (a <=> b)`.
///
/// # Safety
/// `node` is an expression.
unsafe fn closeness_of(node: *mut pg_sys::Node) -> Option<Closeness> {
    // SAFETY: see above; names in the catalog cache are copied into the current context.
    unsafe {
        let (function, [a, b]) = if is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            let call = &*node.cast::<pg_sys::FuncExpr>();
            let args = PgList::<pg_sys::Node>::from_pg(call.args);
            (call.funcid, two(&args)?)
        } else {
            operator_of(node)?
        };
        if function == pg_sys::Oid::from(pg_sys::F_FLOAT8MI) {
            let one = is_a(a, pg_sys::NodeTag::T_Const) && {
                let constant = &*a.cast::<pg_sys::Const>();
                f64::from_datum(constant.constvalue, constant.constisnull) == Some(1.0)
            };
            return closeness_of(b)
                .filter(|inner| one && inner.is_distance)
                .map(|inner| Closeness {
                    is_distance: false,
                    ..inner
                });
        }
        let name = pg_sys::get_func_name(function);
        if name.is_null() {
            return None;
        }
        let is_distance = match CStr::from_ptr(name) {
            name if name == c"fine_score" => false,
            name if name == c"mrl_cosine_distance" => true,
            _ => return None,
        };
        // Of this extension, and not of another schema that has a function of this name.
        let objects = Objects::of_function(function)?;
        let is_ours =
            [a, b].map(|arg| pg_sys::getBaseType(pg_sys::exprType(arg))) == [objects.vector; 2];
        is_ours.then_some(Closeness {
            vectors: [a, b],
            function,
            is_distance,
        })
    }
}

/// The function and the operands of a binary operator.
///
/// # Safety
/// `node` is an expression.
unsafe fn operator_of(node: *mut pg_sys::Node) -> Option<(pg_sys::Oid, [*mut pg_sys::Node; 2])> {
    // SAFETY: see above.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_OpExpr) {
            return None;
        }
        let operator = &*node.cast::<pg_sys::OpExpr>();
        let args = PgList::<pg_sys::Node>::from_pg(operator.args);
        Some((pg_sys::get_opcode(operator.opno), two(&args)?))
    }
}

fn two(args: &PgList<pg_sys::Node>) -> Option<[*mut pg_sys::Node; 2]> {
    match (args.len(), args.get_ptr(0), args.get_ptr(1)) {
        (2, Some(a), Some(b)) => Some([a, b]),
        _ => None,
    }
}

/// The columns (as Vars) and expressions of a table that a valid index covers whole.
///
/// # Safety
/// The planner holds a lock on the table, whose number in the query is `relid`.
unsafe fn whole_keys(table: pg_sys::Oid, relid: pg_sys::Index) -> Vec<*mut pg_sys::Node> {
    let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    let access_share = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let mut keys = Vec::new();
    // SAFETY: the caller's promise; each relation is closed, and its lock kept, as the planner does.
    unsafe {
        let relation = pg_sys::table_open(table, no_lock);
        let indexes = PgList::<std::ffi::c_void>::from_pg(pg_sys::RelationGetIndexList(relation));
        for oid in indexes.iter_oid() {
            let index = pg_sys::index_open(oid, access_share);
            if let Some(key) = whole_key(index, relid) {
                keys.push(key);
            }
            pg_sys::index_close(index, no_lock);
        }
        pg_sys::table_close(relation, no_lock);
    }
    keys
}

/// # Safety
/// `index` is open.
unsafe fn whole_key(index: pg_sys::Relation, relid: pg_sys::Index) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; an index has a row in pg_index, and ours have one column.
    unsafe {
        let routine = (*index).rd_indam.as_ref()?;
        let is_ours = routine
            .ambuild
            .is_some_and(|build| build as usize == ambuild as *const () as usize);
        let form = (*index).rd_index;
        if !is_ours || !(*form).indisvalid {
            return None;
        }
        let meta = meta_of(index).ok()?;
        if meta.prefix_dims != meta.dims {
            return None;
        }
        let attribute = *(*form).indkey.values.as_ptr();
        if attribute == 0 {
            let expressions =
                PgList::<pg_sys::Node>::from_pg(pg_sys::RelationGetIndexExpressions(index));
            let expression = expressions.get_ptr(0)?;
            pg_sys::ChangeVarNodes(expression, 1, relid as i32, 0);
            return Some(without_relabel(expression));
        }
        let key = pg_sys::makeVar(
            relid as _,
            attribute,
            pg_sys::InvalidOid,
            -1,
            pg_sys::InvalidOid,
            0,
        );
        Some(key.cast())
    }
}

/// # Safety
/// Both are expressions.
unsafe fn is_same_column(key: *mut pg_sys::Node, node: *mut pg_sys::Node) -> bool {
    // SAFETY: see above.
    unsafe {
        if !is_a(key, pg_sys::NodeTag::T_Var) || !is_a(node, pg_sys::NodeTag::T_Var) {
            return false;
        }
        let (key, var) = (&*key.cast::<pg_sys::Var>(), &*node.cast::<pg_sys::Var>());
        key.varno == var.varno && key.varattno == var.varattno && var.varlevelsup == 0
    }
}

/// # Safety
/// `node` is an expression.
unsafe fn without_relabel(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: see above.
    unsafe {
        while is_a(node, pg_sys::NodeTag::T_RelabelType) {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
    }
    node
}

/// # Safety
/// `node` is an expression of type float4.
unsafe fn to_float8(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    let mut args = PgList::<pg_sys::Node>::new();
    args.push(node);
    let function = pg_sys::Oid::from(pg_sys::F_FLOAT8_FLOAT4);
    // SAFETY: the cast takes a float4.
    unsafe { call(function, pg_sys::FLOAT8OID, args) }
}

/// # Safety
/// The arguments are those of the function, which returns the type.
unsafe fn call(
    function: pg_sys::Oid,
    result: pg_sys::Oid,
    args: PgList<pg_sys::Node>,
) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::makeFuncExpr(
            function,
            result,
            args.into_pg(),
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        )
        .cast()
    }
}

fn float8_const(value: f64) -> *mut pg_sys::Node {
    let datum = value.into_datum().unwrap_or(pg_sys::Datum::null());
    // SAFETY: a float8 is passed by value in every build that pgrx supports (64 bits).
    unsafe {
        pg_sys::makeConst(
            pg_sys::FLOAT8OID,
            -1,
            pg_sys::InvalidOid,
            8,
            datum,
            false,
            true,
        )
        .cast()
    }
}

/// # Safety
/// `node` is an expression.
unsafe fn copy(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}
