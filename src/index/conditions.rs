//! Adds conditions that an index can answer beside the conditions of a query.
//!
//! Postgres matches an index only with conditions of the form `column operator value`, and under
//! row-level security only with conditions that cannot tell of a row which a policy hides. Two kinds of
//! conditions could use an index otherwise. For each, a condition that follows from it is added to the
//! query while it is planned. An index answers the added condition, in every kind of plan that Postgres
//! has. The condition in the query stays as a filter and decides.
//!
//! - **A condition on the whole similarity**, `fine_score(e, q) >= t`, if the codes of an index cover
//!   all dimensions of the column. The added condition is a little weaker than the original, so that no
//!   rounding loses a row.
//! - **`e @~ q` on a table with a policy.** The operator reports an error if the two sides cannot be
//!   compared. Whether it is called for a row, and so whether there is an error, can depend on hidden
//!   values. So Postgres evaluates it only after the policy. The added condition uses the quiet
//!   counterpart of the operator, which never raises an error and is declared leakproof.
//!
//! | in the query | added |
//! | --- | --- |
//! | `fine_score(e, q) >= t`, `> t`; `1 - (e <=> q) >= t`; `e <=> q <= 1 - t` | `e @~? mrl_probe_at_least(q, t)` |
//! | `fine_score(e, q) <= t`, `< t`; and so on | `e !@~? mrl_probe_at_most(q, t)` |
//! | `e @~ q`, `e !@~ q`, `e @~ ANY (…)` on a table with a policy | `e @~? q`, `e !@~? q`, `e @~? ANY (…)` |
//!
//! `get_relation_info_hook` (`optimizer/plancat.h`) is the moment for it: the planner calls the hook
//! after it has simplified the conditions of a query and before it distributes them to tables and joins
//! (`query_planner` in Postgres' `planmain.c`). The functions and operators in such conditions have
//! support functions, which the planner calls earlier, so the library is loaded by then.

use std::ffi::CStr;
use std::sync::OnceLock;

use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum, PgList, is_a, pg_sys};

use super::build::{ambuild, meta_of};
use super::page::Index;
use crate::planner::{Objects, quiet_counterpart};

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
    // SAFETY: the planner passes valid nodes. The join tree is the planner's own copy. For a table in
    // the query itself (not a partition) its conditions have not been distributed yet.
    unsafe {
        if let Some(Some(previous)) = PREVIOUS.get() {
            previous(root, table, is_parent, rel);
        }
        let jointree = (*(*root).parse).jointree;
        if (*rel).reloptkind == pg_sys::RelOptKind::RELOPT_BASEREL && !jointree.is_null() {
            let mut table = QueryTable {
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
struct QueryTable {
    root: *mut pg_sys::PlannerInfo,
    oid: pg_sys::Oid,
    /// The table's number in the query.
    relid: pg_sys::Index,
    /// What the table's indexes of this access method are on; `None` until it is looked up.
    keys: Option<Vec<IndexKey>>,
}

/// What an index is on.
struct IndexKey {
    /// A column (as a Var) or an expression.
    expression: *mut pg_sys::Node,
    /// Whether the codes of the index cover all dimensions.
    is_whole: bool,
}

/// A condition on the similarity of two vectors: a lower or an upper bound.
struct Bound {
    vectors: [*mut pg_sys::Node; 2],
    /// The expression for the bound, of type float8.
    score: *mut pg_sys::Node,
    is_lower: bool,
}

/// An expression for the similarity or the distance of two vectors.
struct Similarity {
    vectors: [*mut pg_sys::Node; 2],
    /// The function that computes it.
    function: pg_sys::Oid,
    is_distance: bool,
}

// In all that follows, "see above" stands for: the caller guarantees nodes of the query that is being
// planned. A node is cast only after its tag has been checked, and lists have the element types that
// `nodes/primnodes.h` documents.
impl QueryTable {
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

    /// Returns the conditions of an implicit AND together with the added ones.
    ///
    /// # Safety
    /// `conditions` is null or a list of conditions.
    unsafe fn with_conditions(&mut self, conditions: *mut pg_sys::List) -> *mut pg_sys::List {
        // SAFETY: see above.
        unsafe {
            if conditions.is_null() || !is_a(conditions.cast(), pg_sys::NodeTag::T_List) {
                return conditions;
            }
            let mut all = PgList::<pg_sys::Node>::new();
            for condition in PgList::<pg_sys::Node>::from_pg(conditions).iter_ptr() {
                // Postgres evaluates conditions of equal cost in the order of the list, so the added
                // condition comes first.
                if let Some(added) = self.added_condition(condition) {
                    all.push(added);
                }
                self.visit_alternatives(condition);
                all.push(condition);
            }
            all.into_pg()
        }
    }

    /// Adds conditions in the branches of an OR, which a bitmap of several sweeps can answer.
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
                        branches.push(match self.added_condition(branch) {
                            Some(added) => {
                                let mut both = PgList::<pg_sys::Node>::new();
                                both.push(added);
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

    /// Returns the condition to add beside another one, if an index of this table can answer it.
    ///
    /// # Safety
    /// `condition` is a condition.
    unsafe fn added_condition(
        &mut self,
        condition: *mut pg_sys::Node,
    ) -> Option<*mut pg_sys::Node> {
        // SAFETY: see above.
        unsafe {
            match self.condition_of_bound(condition) {
                Some(added) => Some(added),
                None => self.quiet_condition(condition),
            }
        }
    }

    /// The condition that follows from a bound on the whole similarity.
    ///
    /// # Safety
    /// `condition` is a condition.
    unsafe fn condition_of_bound(
        &mut self,
        condition: *mut pg_sys::Node,
    ) -> Option<*mut pg_sys::Node> {
        // SAFETY: see above.
        unsafe {
            let (bound, function) = bound_of(condition)?;
            let [a, b] = bound.vectors;
            let (key, query) = if self.is_key(a, true) {
                (a, b)
            } else if self.is_key(b, true) {
                (b, a)
            } else {
                return None;
            };
            if !self.can_repeat(query) || !self.can_repeat(bound.score) {
                return None;
            }
            let objects = Objects::of_function(function)?;
            let (operator, probe) = if bound.is_lower {
                (c"@~?", objects.probe_at_least_function()?)
            } else {
                (c"!@~?", objects.probe_at_most_function()?)
            };
            let mut args = PgList::<pg_sys::Node>::new();
            args.push(copy(query));
            args.push(copy(bound.score));
            let probe = call(probe, objects.probe, args);
            let probe = pg_sys::eval_const_expressions(self.root, probe);
            let added = objects.filter(operator, copy(key).cast(), probe.cast(), -1)?;
            Some(added.cast())
        }
    }

    /// The quiet counterpart of a condition `@~` or `!@~`, in a query with a policy.
    ///
    /// # Safety
    /// `condition` is a condition.
    unsafe fn quiet_condition(
        &mut self,
        condition: *mut pg_sys::Node,
    ) -> Option<*mut pg_sys::Node> {
        // SAFETY: see above.
        unsafe {
            if (*self.root).qual_security_level == 0 {
                return None;
            }
            let (operator, args) = if is_a(condition, pg_sys::NodeTag::T_OpExpr) {
                let condition = &*condition.cast::<pg_sys::OpExpr>();
                (condition.opno, condition.args)
            } else if is_a(condition, pg_sys::NodeTag::T_ScalarArrayOpExpr) {
                let condition = &*condition.cast::<pg_sys::ScalarArrayOpExpr>();
                (condition.opno, condition.args)
            } else {
                return None;
            };
            let [left, right] = two(&PgList::<pg_sys::Node>::from_pg(args))?;
            let other = if self.is_key(left, false) {
                right
            } else if self.is_key(right, false) {
                left
            } else {
                return None;
            };
            if !self.can_repeat(other) {
                return None;
            }
            let objects = Objects::of_function(pg_sys::get_opcode(operator))?;
            quiet_counterpart(condition, &objects)
        }
    }

    /// Returns whether an expression can stand in the query a second time as an operand for an index
    /// of this table: it has the same value both times, and it is none of the table's own columns.
    /// (A subplan belongs to one place of a plan.)
    ///
    /// # Safety
    /// `operand` is an expression.
    unsafe fn can_repeat(&self, operand: *mut pg_sys::Node) -> bool {
        // SAFETY: see above.
        unsafe {
            !pg_sys::bms_is_member(self.relid as i32, pg_sys::pull_varnos(self.root, operand))
                && !pg_sys::contain_volatile_functions(operand)
                && !pg_sys::contain_subplans(operand)
        }
    }

    /// Returns whether an index of this table is on an expression, over all dimensions if `is_whole`.
    ///
    /// # Safety
    /// `node` is an expression.
    unsafe fn is_key(&mut self, node: *mut pg_sys::Node, is_whole: bool) -> bool {
        // SAFETY: see above.
        unsafe {
            let node = without_relabel(node);
            // Most expressions do not belong to this table, and need no catalog lookup.
            let varnos = pg_sys::pull_varnos(self.root, node);
            if !pg_sys::bms_is_member(self.relid as i32, varnos) {
                return false;
            }
            let (oid, relid) = (self.oid, self.relid);
            let keys = self.keys.get_or_insert_with(|| keys_of(oid, relid));
            keys.iter()
                .filter(|key| key.is_whole || !is_whole)
                .any(|key| {
                    pg_sys::equal(key.expression.cast(), node.cast())
                        || is_same_column(key.expression, node)
                })
        }
    }
}

/// Returns the bound that a condition sets, and the function whose result it compares.
///
/// # Safety
/// `node` is a condition.
unsafe fn bound_of(node: *mut pg_sys::Node) -> Option<(Bound, pg_sys::Oid)> {
    // SAFETY: see above.
    unsafe {
        let (function, [left, right]) = operator_of(node)?;
        // Whether the right operand is a lower bound of the left one.
        let (is_lower, left, right) = match function.to_u32() {
            pg_sys::F_FLOAT8GE | pg_sys::F_FLOAT8GT => (true, left, right),
            pg_sys::F_FLOAT8LE | pg_sys::F_FLOAT8LT => (false, left, right),
            pg_sys::F_FLOAT84GE | pg_sys::F_FLOAT84GT => (true, left, to_float8(right)),
            pg_sys::F_FLOAT84LE | pg_sys::F_FLOAT84LT => (false, left, to_float8(right)),
            pg_sys::F_FLOAT48GE | pg_sys::F_FLOAT48GT => (true, to_float8(left), right),
            pg_sys::F_FLOAT48LE | pg_sys::F_FLOAT48LT => (false, to_float8(left), right),
            _ => return None,
        };
        let (similarity, value, is_lower) = match similarity_of(left) {
            Some(similarity) => (similarity, right, is_lower),
            None => (similarity_of(right)?, left, !is_lower),
        };
        let (score, is_lower) = if similarity.is_distance {
            let mut args = PgList::<pg_sys::Node>::new();
            args.push(float8_const(1.0));
            args.push(value);
            let function = pg_sys::Oid::from(pg_sys::F_FLOAT8MI);
            (call(function, pg_sys::FLOAT8OID, args), !is_lower)
        } else {
            (value, is_lower)
        };
        let bound = Bound {
            vectors: similarity.vectors,
            score,
            is_lower,
        };
        Some((bound, similarity.function))
    }
}

/// Recognises `fine_score(a, b)`, `a <=> b` and `1 - (a <=> b)`.
///
/// # Safety
/// `node` is an expression.
unsafe fn similarity_of(node: *mut pg_sys::Node) -> Option<Similarity> {
    // SAFETY: see above. A name of the catalog is a null-terminated string.
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
            return similarity_of(b)
                .filter(|inner| one && inner.is_distance)
                .map(|inner| Similarity {
                    is_distance: false,
                    ..inner
                });
        }
        let name = pg_sys::get_func_name(function);
        if name.is_null() {
            return None;
        }
        let name = CStr::from_ptr(name);
        if name != c"fine_score" && name != c"mrl_cosine_distance" {
            return None;
        }
        // The name alone could be that of somebody else's function.
        let is_ours = Objects::of_function(function)?.compares_vectors(name, function);
        is_ours.then_some(Similarity {
            vectors: [a, b],
            function,
            is_distance: name == c"mrl_cosine_distance",
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

/// Returns what the valid indexes of a table are on, those of this access method.
///
/// # Safety
/// The planner holds a lock on the table, whose number in the query is `relid`.
unsafe fn keys_of(table: pg_sys::Oid, relid: pg_sys::Index) -> Vec<IndexKey> {
    let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    let access_share = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let mut keys = Vec::new();
    // SAFETY: the caller guarantees the lock on the table. Each index is closed, and its lock kept
    // until the end of the transaction, as the planner does.
    unsafe {
        let relation = pg_sys::table_open(table, no_lock);
        let indexes = PgList::<std::ffi::c_void>::from_pg(pg_sys::RelationGetIndexList(relation));
        for oid in indexes.iter_oid() {
            let index = pg_sys::index_open(oid, access_share);
            keys.extend(key_of(index, relid));
            pg_sys::index_close(index, no_lock);
        }
        pg_sys::table_close(relation, no_lock);
    }
    keys
}

/// # Safety
/// `index` is open.
unsafe fn key_of(index: pg_sys::Relation, relid: pg_sys::Index) -> Option<IndexKey> {
    // SAFETY: the caller guarantees an open index, which has a row in pg_index. An index of this
    // access method has one column.
    unsafe {
        let routine = (*index).rd_indam.as_ref()?;
        let is_ours = routine
            .ambuild
            .is_some_and(|build| build as usize == ambuild as *const () as usize);
        let form = (*index).rd_index;
        if !is_ours || !(*form).indisvalid {
            return None;
        }
        // The index of a partitioned table has no file. Otherwise the file counts: a changed option takes
        // effect with the next REINDEX.
        let meta = if (*(*index).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_INDEX {
            meta_of(index).ok()?
        } else {
            Index::open(index).ok()?.meta
        };
        let attribute = *(*form).indkey.values.as_ptr();
        let expression = if attribute == 0 {
            let expressions =
                PgList::<pg_sys::Node>::from_pg(pg_sys::RelationGetIndexExpressions(index));
            let expression = expressions.get_ptr(0)?;
            pg_sys::ChangeVarNodes(expression, 1, relid as i32, 0);
            without_relabel(expression)
        } else {
            let no_type = pg_sys::InvalidOid;
            pg_sys::makeVar(relid as _, attribute, no_type, -1, no_type, 0).cast()
        };
        Some(IndexKey {
            expression,
            is_whole: meta.prefix_dims == meta.dims,
        })
    }
}

/// Returns whether both are the same column. (The type of a key's Var is not filled in.)
///
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
