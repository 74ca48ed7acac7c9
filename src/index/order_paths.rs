//! Paths that return rows in the order of their similarity, the most similar first.
//!
//! Postgres itself makes such a path for `ORDER BY embedding <=> query` if the statement also has a
//! condition that the index answers. This file makes the others:
//!
//! - for `ORDER BY fine_score(embedding, query) DESC` and `1 - (embedding <=> query) DESC`. An index
//!   returns rows only in ascending order of an operator's result, so the path orders by `<~>`, the
//!   negative score. The executor compares the results of that operator in ascending order, even if the
//!   statement sorts in descending order (`cmp_orderbyvals` of Postgres' `nodeIndexscan.c` ignores
//!   `ssup_reverse`);
//! - without a condition that the index answers, if a constraint or another condition of the statement
//!   excludes NULL vectors. The index has no entries for NULL vectors, so it cannot return their rows.
//!   This path orders by `<~>` as well: rows with ascending negative scores have ascending distances.

use pgrx::{PgBox, PgList, is_a, pg_sys};

use super::cost::{is_mrl, read_meta};
use super::operands::{Similarity, is_same_column, similarity_of, two_operands, without_relabel};
use crate::planner::Objects;
use crate::vector::Measure;
use crate::version;

/// The operator family `float_ops` of B-trees, `FLOAT_BTREE_FAM_OID` of `catalog/pg_opfamily.dat`.
const FLOAT_FAMILY: u32 = 1970;

/// Adds the paths for a table, and corrects those that Postgres has made.
///
/// # Safety
/// The planner passes the nodes to `set_rel_pathlist_hook`.
pub unsafe fn add_ordered_scans(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rte: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the caller guarantees the nodes.
    unsafe {
        let no_order = reads_ctid(&*rel);
        let kept = if no_order { 0 } else { 1 };
        limit_keys((*rel).pathlist, kept);
        limit_keys((*rel).partial_pathlist, kept);
        if no_order {
            return;
        }
        let pathkeys = PgList::<pg_sys::PathKey>::from_pg((*root).query_pathkeys);
        let Some(pathkey) = pathkeys.get_ptr(0) else {
            return;
        };
        if (*rte).rtekind != pg_sys::RTEKind::RTE_RELATION || (*rel).indexlist.is_null() {
            return;
        }
        // The path returns all rows of the table that satisfy the conditions, not only those of a
        // sample (TABLESAMPLE). If the scan computes expressions of the rows of another table
        // (LATERAL), the path would have to be parameterized, and such a path has no order. If
        // no row can satisfy the conditions, the planner has not set `indrestrictinfo`, from which
        // the plan takes the conditions.
        if !(*rte).tablesample.is_null()
            || !(*rel).lateral_relids.is_null()
            || pg_sys::is_dummy_rel(rel)
        {
            return;
        }
        let Some(similarity) = similarity_of_pathkey(&*pathkey, &*rel) else {
            return;
        };
        let table = OrderedTable {
            root,
            rel,
            oid: (*rte).relid,
        };
        for index in PgList::<pg_sys::IndexOptInfo>::from_pg((*rel).indexlist).iter_ptr() {
            table.add_path(index, &similarity, pathkey);
        }
    }
}

/// Removes all but the first `kept` ordering keys (0 or 1) from the paths that Postgres has made for
/// indexes of this access method. The planner adds a sort for the removed keys.
///
/// The executor cannot order rows by several keys if the first key is NULL for all rows, as it is for a
/// NULL parameter: it treats rows as equal whose first keys are NULL (`cmp_orderbyvals` of
/// `nodeIndexscan.c`). The executor also computes all keys of rows that a policy hides. Whether the first
/// key raises an error does not depend on the row, because all vectors of an index have the same
/// dimensions; a second key can be any operator's.
///
/// # Safety
/// `paths` is the planner's list of paths of a table.
unsafe fn limit_keys(paths: *mut pg_sys::List, kept: usize) {
    // SAFETY: the caller guarantees a list of paths. A path is cast only after its tag has been
    // checked. Paths can share lists, so the path gets new lists, and the old ones stay unchanged.
    unsafe {
        for path in PgList::<pg_sys::Path>::from_pg(paths).iter_ptr() {
            if !is_a(path.cast(), pg_sys::NodeTag::T_IndexPath) {
                continue;
            }
            let path = &mut *path.cast::<pg_sys::IndexPath>();
            let order_bys = PgList::<pg_sys::Node>::from_pg(path.indexorderbys);
            let pathkeys = PgList::<pg_sys::PathKey>::from_pg(path.path.pathkeys);
            if order_bys.len() > kept
                && is_mrl(&*path.indexinfo)
                && let (Some(order_by), Some(pathkey)) = (order_bys.get_ptr(0), pathkeys.get_ptr(0))
            {
                let nil = std::ptr::null_mut();
                (
                    path.indexorderbys,
                    path.indexorderbycols,
                    path.path.pathkeys,
                ) = match kept {
                    0 => (nil, nil, nil),
                    _ => (
                        pg_sys::lappend(nil, order_by.cast()),
                        pg_sys::lappend_int(nil, 0),
                        pg_sys::lappend(nil, pathkey.cast()),
                    ),
                };
            }
        }
    }
}

/// Returns whether the query reads the `ctid` of a table's rows, as FOR UPDATE does. Rows that an index
/// scan has put in order may have none: the executor copies them without it (`IndexNextWithReorder` of
/// `nodeIndexscan.c`; seen in 14.23, 16.2, 17.9 and 18.6, not in 15.20). Such a query gets
/// (4294967295,0) as `ctid`, and FOR UPDATE fails with "attempted to lock invisible tuple".
///
/// # Safety
/// `rel` is a table of the query that is being planned.
unsafe fn reads_ctid(rel: &pg_sys::RelOptInfo) -> bool {
    // SAFETY: the caller guarantees a table, whose lists have the element types that `nodes/pathnodes.h` documents.
    unsafe {
        let mut attributes = std::ptr::null_mut();
        pg_sys::pull_varattnos((*rel.reltarget).exprs.cast(), rel.relid, &mut attributes);
        for info in PgList::<pg_sys::RestrictInfo>::from_pg(rel.baserestrictinfo).iter_ptr() {
            pg_sys::pull_varattnos((*info).clause.cast(), rel.relid, &mut attributes);
        }
        let ctid =
            pg_sys::SelfItemPointerAttributeNumber - pg_sys::FirstLowInvalidHeapAttributeNumber;
        pg_sys::bms_is_member(ctid, attributes)
    }
}

/// Returns the similarity or distance by which a pathkey sorts the rows of this table, the most similar
/// first. Returns `None` if the pathkey sorts by something else or in the other direction.
///
/// # Safety
/// Both belong to the query that is being planned.
unsafe fn similarity_of_pathkey(
    pathkey: &pg_sys::PathKey,
    rel: &pg_sys::RelOptInfo,
) -> Option<Similarity> {
    // SAFETY: the caller guarantees nodes of the planner.
    unsafe {
        let class = &*pathkey.pk_eclass;
        if class.ec_has_volatile || pathkey.pk_opfamily.to_u32() != FLOAT_FAMILY {
            return None;
        }
        version::members_of(pathkey.pk_eclass, rel.relids)
            .into_iter()
            .filter(|&member| pg_sys::bms_equal((*member).em_relids, rel.relids))
            .filter_map(|member| similarity_of((*member).em_expr.cast()))
            .find(|similarity| {
                let is_distance = similarity.measure == Measure::Distance;
                version::is_descending(pathkey) != is_distance
            })
    }
}

/// A table of the query that is being planned.
struct OrderedTable {
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    oid: pg_sys::Oid,
}

// In the rest of this file, "see above" means: the caller guarantees nodes of the query that is being
// planned. A node is cast only after its tag has been checked, and lists have the element types that
// `nodes/pathnodes.h` documents.
impl OrderedTable {
    /// Adds a path for one index, if the index can return the rows in this order. Returns `None`
    /// otherwise.
    ///
    /// # Safety
    /// The nodes are those that the planner has made for this table.
    unsafe fn add_path(
        &self,
        index: *mut pg_sys::IndexOptInfo,
        similarity: &Similarity,
        pathkey: *mut pg_sys::PathKey,
    ) -> Option<()> {
        // SAFETY: see above.
        unsafe {
            let info = &*index;
            if !is_mrl(info) || info.hypothetical || !(info.indpred.is_null() || info.predOK) {
                return None;
            }
            let key = self.key_of(info)?;
            let [a, b] = similarity.vectors;
            let query = if is_same(key, a) {
                b
            } else if is_same(key, b) {
                a
            } else {
                return None;
            };
            // An index over a prefix cannot order rows by the similarity over all dimensions.
            let is_whole =
                read_meta(info.indexoid).is_some_and(|meta| meta.prefix_dims == meta.dims);
            let is_constant = pg_sys::pull_varnos(self.root, query).is_null()
                && !pg_sys::contain_volatile_functions(query)
                && !pg_sys::contain_subplans(query);
            if !is_whole || !is_constant || !self.excludes_null(key, info) {
                return None;
            }
            let objects = Objects::of_function(similarity.function)?;
            let order = objects.negative_score(copy(key).cast(), copy(query).cast())?;
            let mut order_bys = PgList::<pg_sys::Node>::new();
            order_bys.push(order.cast());
            let mut pathkeys = PgList::<pg_sys::PathKey>::new();
            pathkeys.push(pathkey);
            let path = pg_sys::create_index_path(
                self.root,
                index,
                self.index_clauses(key, info),
                order_bys.into_pg(),
                pg_sys::lappend_int(std::ptr::null_mut(), 0),
                pathkeys.into_pg(),
                pg_sys::ScanDirection::ForwardScanDirection,
                false,
                std::ptr::null_mut(),
                1.0,
                false,
            );
            pg_sys::add_path(self.rel, path.cast());
            Some(())
        }
    }

    /// The indexed expression, or a Var for an indexed column.
    ///
    /// # Safety
    /// `index` is an index of this table.
    unsafe fn key_of(&self, index: &pg_sys::IndexOptInfo) -> Option<*mut pg_sys::Node> {
        // SAFETY: see above. An index of this access method has one column.
        unsafe {
            let attribute = *index.indexkeys;
            if attribute == 0 {
                let expression = PgList::<pg_sys::Node>::from_pg(index.indexprs).get_ptr(0)?;
                return Some(without_relabel(expression));
            }
            let entry = PgList::<pg_sys::TargetEntry>::from_pg(index.indextlist).get_ptr(0)?;
            Some(without_relabel((*entry).expr.cast()))
        }
    }

    /// Returns whether a constraint or a condition of the query excludes rows in which the key is NULL.
    ///
    /// # Safety
    /// `key` is the result of `key_of` for `index`.
    unsafe fn excludes_null(&self, key: *mut pg_sys::Node, index: &pg_sys::IndexOptInfo) -> bool {
        // SAFETY: see above.
        unsafe {
            let has_constraint = is_a(key, pg_sys::NodeTag::T_Var) && {
                let attribute = (*key.cast::<pg_sys::Var>()).varattno;
                version::is_declared_not_null(&*self.rel, self.oid, attribute)
            };
            let conditions = (*self.rel).baserestrictinfo;
            has_constraint
                || PgList::<pg_sys::RestrictInfo>::from_pg(conditions)
                    .iter_ptr()
                    .any(|info| rejects_null((*info).clause.cast(), key))
                || PgList::<pg_sys::Node>::from_pg(index.indpred)
                    .iter_ptr()
                    .any(|condition| rejects_null(condition, key))
        }
    }

    /// The conditions that the index answers while it sweeps.
    ///
    /// # Safety
    /// `key` is the result of `key_of` for `index`.
    unsafe fn index_clauses(
        &self,
        key: *mut pg_sys::Node,
        index: &pg_sys::IndexOptInfo,
    ) -> *mut pg_sys::List {
        // SAFETY: see above. The fields of an IndexClause are set as `nodes/pathnodes.h` requires.
        unsafe {
            let mut clauses = PgList::<pg_sys::IndexClause>::new();
            for info in PgList::<pg_sys::RestrictInfo>::from_pg(index.indrestrictinfo).iter_ptr() {
                let clause: *mut pg_sys::Node = (*info).clause.cast();
                if (*info).pseudoconstant || !is_a(clause, pg_sys::NodeTag::T_OpExpr) {
                    continue;
                }
                let operator = &*clause.cast::<pg_sys::OpExpr>();
                let Some([left, right]) = two_operands(&PgList::from_pg(operator.args)) else {
                    continue;
                };
                if is_same(key, left)
                    && pg_sys::op_in_opfamily(operator.opno, *index.opfamily)
                    && pg_sys::pull_varnos(self.root, right).is_null()
                    && !pg_sys::contain_volatile_functions(right)
                    && pg_sys::restriction_is_securely_promotable(info, self.rel)
                {
                    let mut clause =
                        PgBox::<pg_sys::IndexClause>::alloc_node(pg_sys::NodeTag::T_IndexClause);
                    clause.rinfo = info;
                    clause.indexquals =
                        pg_sys::lappend(std::ptr::null_mut(), info.cast::<std::ffi::c_void>());
                    clause.lossy = false;
                    clause.indexcol = 0;
                    clauses.push(clause.into_pg());
                }
            }
            clauses.into_pg()
        }
    }
}

/// Returns whether a condition is never true if `key` is NULL: `key IS NOT NULL`, or a strict operator
/// with `key` as an operand. Returns false for conditions of any other form.
///
/// # Safety
/// Both are expressions of the query.
unsafe fn rejects_null(condition: *mut pg_sys::Node, key: *mut pg_sys::Node) -> bool {
    // SAFETY: see above.
    unsafe {
        if is_a(condition, pg_sys::NodeTag::T_NullTest) {
            let test = &*condition.cast::<pg_sys::NullTest>();
            test.nulltesttype == pg_sys::NullTestType::IS_NOT_NULL && is_same(key, test.arg.cast())
        } else if is_a(condition, pg_sys::NodeTag::T_OpExpr) {
            let operator = &*condition.cast::<pg_sys::OpExpr>();
            pg_sys::func_strict(pg_sys::get_opcode(operator.opno))
                && PgList::<pg_sys::Node>::from_pg(operator.args)
                    .iter_ptr()
                    .any(|arg| is_same(key, arg))
        } else {
            false
        }
    }
}

/// Returns whether an expression of the query is the indexed expression `key`, apart from RelabelType
/// nodes.
///
/// # Safety
/// Both are expressions of the query.
unsafe fn is_same(key: *mut pg_sys::Node, node: *mut pg_sys::Node) -> bool {
    // SAFETY: see above.
    unsafe {
        let node = without_relabel(node);
        is_same_column(key, node) || pg_sys::equal(key.cast(), node.cast())
    }
}

/// # Safety
/// `node` is an expression.
unsafe fn copy(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}
