//! What the catalogs know about a table of the query: the keys of its indexes, and the other expressions
//! that the planner compares conditions with.

use std::ffi::CStr;

use pgrx::{PgList, pg_sys};

use crate::index::build::{ambuild, meta_of};
use crate::index::operands::{is_same_column, without_relabel};
use crate::index::relation::Index;

/// The key of an index.
pub struct IndexKey {
    /// A column (as a Var) or an expression.
    pub expression: *mut pg_sys::Node,
    /// Whether the codes of the index cover all dimensions.
    pub is_whole: bool,
}

impl IndexKey {
    /// # Safety
    /// `node` is an expression of the query.
    pub unsafe fn is_on(&self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: the caller guarantees two expressions.
        unsafe {
            pg_sys::equal(self.expression.cast(), node.cast())
                || is_same_column(self.expression, node)
        }
    }
}

/// Returns the keys of a table's valid indexes of this access method.
///
/// # Safety
/// The planner holds a lock on the table, whose number in the query is `relid`.
pub unsafe fn keys_of(table: pg_sys::Oid, relid: pg_sys::Index) -> Vec<IndexKey> {
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

/// The number of the column `partexprs`, `Anum_pg_partitioned_table_partexprs` of
/// `catalog/pg_partitioned_table.h`.
const PARTITION_EXPRESSIONS: pg_sys::AttrNumber = 8;

/// Returns the expressions that the planner compares conditions with, in their text form: those of
/// indexes, their predicates, the partition key, and CHECK constraints.
///
/// # Safety
/// The planner holds a lock on the table.
pub unsafe fn other_uses_of(table: pg_sys::Oid) -> Vec<String> {
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
