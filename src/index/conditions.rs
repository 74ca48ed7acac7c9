//! Gives an index the conditions of a query that it can answer.
//!
//! Postgres matches an index only with conditions of the form `column operator value`, and under
//! row-level security only with leakproof ones. This file makes such conditions from two other kinds:
//!
//! - **A condition on the whole similarity**, `fine_score(e, q) >= t`, if the codes of an index cover
//!   all dimensions of the column. The operator `@<=>` takes its place, which is true for the same
//!   vectors and raises the same errors. The original stays as a filter, and a weaker condition is put
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

use std::ffi::CStr;
use std::sync::OnceLock;

use pgrx::prelude::*;
use pgrx::{IntoDatum, PgList, is_a, pg_sys};

use super::build::{ambuild, meta_of};
use super::operands::{
    Similarity, is_same_column, operator_of, similarity_of, two, without_relabel,
};
use super::page::Index;
use crate::planner::{Objects, leakproof_counterpart};
use crate::types::{ScoreBoundArg, condition_name};
use crate::vector::{CompareOp, Measure};

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
    /// What the table's indexes of this access method are on; `None` until it is looked up.
    keys: Option<Vec<IndexKey>>,
    /// What else the planner compares conditions with; `None` until it is looked up.
    other_uses: Option<Vec<String>>,
}

/// What an index is on.
struct IndexKey {
    /// A column (as a Var) or an expression.
    expression: *mut pg_sys::Node,
    /// Whether the codes of the index cover all dimensions.
    is_whole: bool,
}

/// A condition that an index can answer.
enum Answerable {
    /// It is equivalent to the condition of the query, and replaces it.
    Instead(*mut pg_sys::Node),
    /// It follows from the condition of the query, which stays.
    Beside(*mut pg_sys::Node),
}

/// A condition `similarity op value`, such as `fine_score(e, q) >= 0.35`.
struct SimilarityCondition {
    similarity: Similarity,
    op: CompareOp,
    /// The number that the similarity is compared with: an expression of type float8.
    value: *mut pg_sys::Node,
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
                .any(|key| (key.is_whole || !is_whole) && key.is_on(node))
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

impl IndexKey {
    /// # Safety
    /// `node` is an expression of the query.
    unsafe fn is_on(&self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: see above.
        unsafe {
            pg_sys::equal(self.expression.cast(), node.cast())
                || is_same_column(self.expression, node)
        }
    }
}

impl SimilarityCondition {
    /// Whether vectors with a higher score satisfy the condition, rather than those with a lower one.
    fn sets_minimum(&self) -> bool {
        let is_distance = self.similarity.measure == Measure::Distance;
        matches!(self.op, CompareOp::AtLeast | CompareOp::Above) != is_distance
    }

    /// The lowest or highest score that satisfies the condition, up to rounding.
    ///
    /// # Safety
    /// `value` is an expression of type float8.
    unsafe fn score_limit(&self) -> *mut pg_sys::Node {
        if self.similarity.measure != Measure::Distance {
            return self.value;
        }
        let mut args = PgList::<pg_sys::Node>::new();
        args.push(float8_const(1.0));
        args.push(self.value);
        let function = pg_sys::Oid::from(pg_sys::F_FLOAT8MI);
        // SAFETY: the function subtracts one float8 from another.
        unsafe { call(function, pg_sys::FLOAT8OID, args) }
    }
}

/// Recognises a condition on the similarity of two vectors.
///
/// # Safety
/// `node` is a condition.
unsafe fn similarity_condition_of(node: *mut pg_sys::Node) -> Option<SimilarityCondition> {
    // SAFETY: see above.
    unsafe {
        let (function, [left, right]) = operator_of(node)?;
        let op = match function.to_u32() {
            pg_sys::F_FLOAT8GE | pg_sys::F_FLOAT84GE | pg_sys::F_FLOAT48GE => CompareOp::AtLeast,
            pg_sys::F_FLOAT8GT | pg_sys::F_FLOAT84GT | pg_sys::F_FLOAT48GT => CompareOp::Above,
            pg_sys::F_FLOAT8LE | pg_sys::F_FLOAT84LE | pg_sys::F_FLOAT48LE => CompareOp::AtMost,
            pg_sys::F_FLOAT8LT | pg_sys::F_FLOAT84LT | pg_sys::F_FLOAT48LT => CompareOp::Below,
            _ => return None,
        };
        let (similarity, op, value) = match similarity_of(left) {
            Some(similarity) => (similarity, op, right),
            None => (similarity_of(right)?, op.commuted(), left),
        };
        Some(SimilarityCondition {
            similarity,
            op,
            value: to_float8(value),
        })
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

/// The number of the column `partexprs`, `Anum_pg_partitioned_table_partexprs` of
/// `catalog/pg_partitioned_table.h`.
const PARTITION_EXPRESSIONS: pg_sys::AttrNumber = 8;

/// Returns the expressions that the planner compares conditions with, in their text form: those of
/// indexes, their predicates, the partition key, and CHECK constraints.
///
/// # Safety
/// The planner holds a lock on the table.
unsafe fn other_uses_of(table: pg_sys::Oid) -> Vec<String> {
    let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    let access_share = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let mut texts = Vec::new();
    // SAFETY: the caller guarantees the lock on the table. Each index is closed, and its lock kept
    // until the end of the transaction, as the planner does. The texts are null-terminated.
    unsafe {
        let mut add = |text: *const std::ffi::c_char| {
            texts.push(CStr::from_ptr(text).to_string_lossy().into_owned());
        };
        let relation = pg_sys::table_open(table, no_lock);
        let indexes = PgList::<std::ffi::c_void>::from_pg(pg_sys::RelationGetIndexList(relation));
        for oid in indexes.iter_oid() {
            let index = pg_sys::index_open(oid, access_share);
            for list in [
                pg_sys::RelationGetIndexExpressions(index),
                pg_sys::RelationGetIndexPredicate(index),
            ] {
                if !list.is_null() {
                    add(pg_sys::nodeToString(list.cast()));
                }
            }
            pg_sys::index_close(index, no_lock);
        }
        let cache = pg_sys::SysCacheIdentifier::PARTRELID as i32;
        let key = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(table));
        if !key.is_null() {
            let mut is_null = false;
            let expressions =
                pg_sys::SysCacheGetAttr(cache, key, PARTITION_EXPRESSIONS, &mut is_null);
            if !is_null {
                add(pg_sys::text_to_cstring(expressions.cast_mut_ptr()));
            }
            pg_sys::ReleaseSysCache(key);
        }
        if let Some(constraints) = (*(*relation).rd_att).constr.as_ref() {
            for at in 0..usize::from(constraints.num_check) {
                add((*constraints.check.add(at)).ccbin);
            }
        }
        pg_sys::table_close(relation, no_lock);
    }
    texts
}

/// Returns whether an operand is a constant whose query vector has another number of dimensions than
/// `typmod`, the type modifier of the indexed expression.
///
/// # Safety
/// `operand` is an expression of type mrl_score_bound.
unsafe fn has_other_dims(operand: *mut pg_sys::Node, typmod: i32) -> bool {
    // SAFETY: the caller's promise; a node is cast only after its tag has been checked.
    unsafe {
        if !is_a(operand, pg_sys::NodeTag::T_Const) {
            return false;
        }
        let constant = &*operand.cast::<pg_sys::Const>();
        !constant.constisnull
            && ScoreBoundArg::from_datum(constant.constvalue)
                .bound()
                .is_ok_and(|bound| usize::try_from(typmod).is_ok_and(|n| n != bound.values.len()))
    }
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

/// Casts an expression of type float4 to float8, which changes no value.
///
/// # Safety
/// `node` is an expression of type float8 or float4.
unsafe fn to_float8(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller guarantees one of two types, and the cast takes a float4.
    unsafe {
        if pg_sys::exprType(node) == pg_sys::FLOAT8OID {
            return node;
        }
        let mut args = PgList::<pg_sys::Node>::new();
        args.push(node);
        let function = pg_sys::Oid::from(pg_sys::F_FLOAT8_FLOAT4);
        call(function, pg_sys::FLOAT8OID, args)
    }
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

fn text_const(value: &str) -> Option<*mut pg_sys::Node> {
    let datum = value.into_datum()?;
    // SAFETY: a text is a varlena, passed by reference.
    let constant = unsafe {
        let collation = pg_sys::DEFAULT_COLLATION_OID;
        pg_sys::makeConst(pg_sys::TEXTOID, -1, collation, -1, datum, false, false)
    };
    Some(constant.cast())
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
