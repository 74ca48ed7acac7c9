//! Adds to a query the conditions that an index can answer.
//!
//! Postgres matches an index only with conditions of the form `column operator value`, and under
//! row-level security only with leakproof ones. This file makes such conditions from two other kinds:
//!
//! - **A condition on the whole similarity**, `fine_score(e, q) >= t`, if the codes of an index cover
//!   all dimensions of the column. It is replaced by one with the operator `@<=>`, which is true for the
//!   same vectors and raises the same errors. The original stays as a filter, and a weaker condition is put
//!   beside it, in three cases: under a policy, because the operator is not leakproof; in a join of two
//!   such columns, because either index may be used; and if the planner compares the condition with
//!   something else, such as a partial index.
//! - **`e @~ q` on a table with a policy.** The operator reports an error if the two sides cannot be
//!   compared. Whether it is called for a row, and so whether there is an error, can depend on hidden
//!   values. So Postgres evaluates it only after the policy. The planner gets a second condition, its
//!   leakproof counterpart, which raises no error.
//!
//! | in the query | |
//! | --- | --- |
//! | `fine_score(e, q) >= t`, `> t`, `<= t`, `< t` | `e @<=> mrl_score_bound(q, 'score >=', t)` and so on in place of it |
//! | `e <=> q <= t`, `1 - (e <=> q) >= t` and so on | `e @<=> mrl_score_bound(q, 'distance <=', t)` and so on in place of it |
//! | one of these that sets a minimum for the score, if it stays | `e @~? mrl_probe_at_least(q, t)` beside it |
//! | one that sets a maximum, if it stays | `e !@~? mrl_probe_at_most(q, t)` beside it |
//! | `e @~ q`, `e !@~ q`, `e @~ ANY (…)` on a table with a policy | `e @~? q`, `e !@~? q`, `e @~? ANY (…)` beside it |
//!
//! The hook `get_relation_info_hook` (`optimizer/plancat.h`) does this, because the planner calls it
//! after it has simplified the conditions of a query and before it distributes them to tables and joins
//! (`query_planner` in Postgres' `planmain.c`). The functions and operators in such conditions have
//! support functions, which the planner calls earlier, so the library is loaded by then.

mod catalog;
mod nodes;
mod similarity;

use std::sync::OnceLock;

use pgrx::prelude::*;
use pgrx::{PgList, is_a, pg_sys};

use super::operands::{two_operands, without_relabel};
use crate::planner::{Objects, leakproof_counterpart};
use crate::types::condition_name;
use catalog::{IndexKey, keys_of, other_uses_of};
use nodes::{call, copy, text_const};
use similarity::{SimilarityCondition, has_other_dims, similarity_condition_of};

static PREVIOUS: OnceLock<pg_sys::get_relation_info_hook_type> = OnceLock::new();

/// Called once, when the library is loaded.
pub fn register_hook() {
    // SAFETY: nothing else runs while a library is loaded.
    unsafe {
        // `set` cannot fail, because a library is loaded only once.
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
                other_uses: None,
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
    /// The keys of the table's indexes of this access method; `None` until they are looked up.
    keys: Option<Vec<IndexKey>>,
    /// The other expressions that the planner compares conditions with, in their text form; `None` until
    /// they are looked up.
    other_uses: Option<Vec<String>>,
}

/// A condition that an index can answer.
enum Answerable {
    /// Replaces the condition of the query, to which it is equivalent.
    Instead(*mut pg_sys::Node),
    /// Follows from the condition of the query, which stays.
    Beside(*mut pg_sys::Node),
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
                match self.answerable(condition) {
                    Some(Answerable::Instead(other)) => all.push(other),
                    // Postgres evaluates conditions of equal cost in the order of the list, so the
                    // added condition comes first.
                    Some(Answerable::Beside(added)) => {
                        all.push(added);
                        all.push(condition);
                    }
                    None => {
                        self.visit_alternatives(condition);
                        all.push(condition);
                    }
                }
            }
            all.into_pg()
        }
    }

    /// Does the same in the branches of an OR, which a bitmap of several sweeps can answer.
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
                        branches.push(match self.answerable(branch) {
                            Some(Answerable::Instead(other)) => other,
                            Some(Answerable::Beside(added)) => {
                                let mut both = PgList::<pg_sys::Node>::new();
                                both.push(added);
                                both.push(branch);
                                pg_sys::make_andclause(both.into_pg()).cast()
                            }
                            None => {
                                self.visit_alternatives(branch);
                                branch
                            }
                        });
                    }
                    expression.args = branches.into_pg();
                }
                _ => {}
            }
        }
    }

    /// Returns what an index of this table can answer of a condition.
    ///
    /// # Safety
    /// `condition` is a condition.
    unsafe fn answerable(&mut self, condition: *mut pg_sys::Node) -> Option<Answerable> {
        // SAFETY: see above.
        unsafe {
            match similarity_condition_of(condition) {
                Some(condition) => self.answerable_similarity(condition),
                None => self.leakproof_condition(condition).map(Answerable::Beside),
            }
        }
    }

    /// # Safety
    /// The nodes in `condition` are those of a condition of the query.
    unsafe fn answerable_similarity(
        &mut self,
        condition: SimilarityCondition,
    ) -> Option<Answerable> {
        // SAFETY: see above.
        unsafe {
            let [a, b] = condition.similarity.vectors;
            let (key, query) = if self.is_key(a, true) {
                (a, b)
            } else if self.is_key(b, true) {
                (b, a)
            } else {
                return None;
            };
            if !self.can_repeat(query) || !self.can_repeat(condition.value) {
                return None;
            }
            let objects = Objects::of_function(condition.similarity.function)?;
            // The condition stays if an index of another table, or something else that the planner
            // compares it with, may need it, too.
            let stays = (*self.root).qual_security_level != 0
                || self.is_other_key(query)
                || self.is_used_otherwise(condition.similarity.function);
            let mut args = PgList::<pg_sys::Node>::new();
            args.push(copy(query));
            let (operator, function, result) = if !stays {
                let name = condition_name(condition.similarity.measure, condition.op);
                args.push(text_const(&name)?);
                args.push(copy(condition.value));
                let function = objects.score_bound_function()?;
                (c"@<=>", function, objects.score_bound()?)
            } else {
                args.push(copy(condition.score_limit()));
                if condition.sets_minimum() {
                    (c"@~?", objects.probe_at_least_function()?, objects.probe)
                } else {
                    (c"!@~?", objects.probe_at_most_function()?, objects.probe)
                }
            };
            let operand = call(function, result, args);
            let operand = pg_sys::eval_const_expressions(self.root, operand);
            // A condition that would raise an error is not replaced, so that rows which other conditions
            // reject raise no error.
            if !stays && has_other_dims(operand, pg_sys::exprTypmod(key)) {
                return None;
            }
            let other = objects.filter(operator, copy(key).cast(), operand.cast(), -1)?;
            Some(if stays {
                Answerable::Beside(other.cast())
            } else {
                Answerable::Instead(other.cast())
            })
        }
    }

    /// The leakproof counterpart of a condition `@~` or `!@~`, in a query with a policy.
    ///
    /// # Safety
    /// `condition` is a condition.
    unsafe fn leakproof_condition(
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
            let [left, right] = two_operands(&PgList::<pg_sys::Node>::from_pg(args))?;
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
            leakproof_counterpart(condition, &objects)
        }
    }

    /// Returns whether an expression can stand in the query a second time as an operand for an index
    /// of this table: it has the same value both times, and it contains no column of the table.
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

    /// Returns whether an index of this table is on an expression, over all dimensions if `must_be_whole`.
    ///
    /// # Safety
    /// `node` is an expression.
    unsafe fn is_key(&mut self, node: *mut pg_sys::Node, must_be_whole: bool) -> bool {
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
                .any(|key| (key.is_whole || !must_be_whole) && key.is_on(node))
        }
    }

    /// Returns whether a function occurs in an expression that the planner compares conditions with: of
    /// an index, of a partial index, of the partition key, or of a CHECK constraint.
    ///
    /// # Safety
    /// The planner holds a lock on the table.
    unsafe fn is_used_otherwise(&mut self, function: pg_sys::Oid) -> bool {
        // The names of the fields with functions in the text form of an expression (`outfuncs.c`).
        let fields = [
            format!(":funcid {} ", function.to_u32()),
            format!(":opfuncid {} ", function.to_u32()),
        ];
        let oid = self.oid;
        // SAFETY: the caller's promise.
        let uses = self
            .other_uses
            .get_or_insert_with(|| unsafe { other_uses_of(oid) });
        uses.iter()
            .any(|text| fields.iter().any(|field| text.contains(field.as_str())))
    }

    /// Returns whether an index of another table is on an expression, over all dimensions.
    ///
    /// # Safety
    /// `node` is an expression.
    unsafe fn is_other_key(&self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: see above. The planner holds a lock on each table of the query.
        unsafe {
            let node = without_relabel(node);
            let mut relid = 0;
            // No index is on an expression with columns of several tables.
            if !pg_sys::bms_get_singleton_member(pg_sys::pull_varnos(self.root, node), &mut relid) {
                return false;
            }
            let tables = (*(*self.root).parse).rtable;
            let table = PgList::<pg_sys::RangeTblEntry>::from_pg(tables)
                .get_ptr(usize::try_from(relid - 1).unwrap_or(usize::MAX));
            table.is_some_and(|table| {
                (*table).rtekind == pg_sys::RTEKind::RTE_RELATION
                    && keys_of((*table).relid, relid as pg_sys::Index)
                        .iter()
                        .any(|key| key.is_whole && key.is_on(node))
            })
        }
    }
}
