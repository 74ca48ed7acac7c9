//! The differences between the major versions of Postgres, as far as they concern the other rooms. No other
//! file asks which version it is compiled for.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

/// The name of a relation's file, as `ReadRecentBuffer` takes it.
#[cfg(any(feature = "pg14", feature = "pg15"))]
pub type RelationFile = pg_sys::RelFileNode;
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub type RelationFile = pg_sys::RelFileLocator;

/// # Safety
/// `relation` is open.
pub unsafe fn relation_file(relation: pg_sys::Relation) -> RelationFile {
    // SAFETY: the caller guarantees an open relation.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        {
            (*relation).rd_node
        }
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            (*relation).rd_locator
        }
    }
}

/// The subtransaction that has given a relation its current file, or `InvalidSubTransactionId` if the
/// file is older than the transaction.
///
/// # Safety
/// `relation` is open.
pub unsafe fn first_file_subtransaction(relation: pg_sys::Relation) -> pg_sys::SubTransactionId {
    // SAFETY: the caller guarantees an open relation.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        {
            (*relation).rd_firstRelfilenodeSubid
        }
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            (*relation).rd_firstRelfilelocatorSubid
        }
    }
}

/// # Safety
/// `descriptor` describes at least one column.
pub unsafe fn first_attribute(descriptor: pg_sys::TupleDesc) -> pg_sys::Form_pg_attribute {
    // SAFETY: the caller guarantees a column.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            (*descriptor).attrs.as_mut_ptr()
        }
        #[cfg(feature = "pg18")]
        {
            pg_sys::TupleDescAttr(descriptor, 0)
        }
    }
}

/// Makes Postgres warn of settings in its configuration whose names begin with a prefix and that nobody has
/// defined. From 15 on this also reserves the prefix: to SET such a name is an error.
pub fn reserve_setting_prefix(prefix: &CStr) {
    // SAFETY: a null-terminated string, which Postgres copies.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Sets `search_path` to a safe value until the current nest level of settings ends, as Postgres does for maintenance
/// commands from 17 on. Does nothing in earlier versions.
///
/// # Safety
/// The caller has opened a nest level of settings.
pub unsafe fn restrict_search_path() {
    // SAFETY: the caller guarantees a nest level, which restores the setting.
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
    unsafe {
        pg_sys::RestrictSearchPath()
    }
}

/// Processes interrupts, and applies the cost-based vacuum delay.
///
/// # Safety
/// The caller holds no buffer lock, because this may sleep and may raise an ERROR.
pub unsafe fn vacuum_delay_point(_is_analyze: bool) {
    // SAFETY: the caller holds no lock.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::vacuum_delay_point();
        #[cfg(feature = "pg18")]
        pg_sys::vacuum_delay_point(_is_analyze);
    }
}

/// The statistics target that is set for a column, negative if none is.
///
/// # Safety
/// ANALYZE has passed `stats`.
pub unsafe fn statistics_target(stats: &pg_sys::VacAttrStats) -> c_int {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    {
        // SAFETY: `attr` is the column's pg_attribute row, which is valid while ANALYZE runs.
        #[allow(clippy::unnecessary_cast)] // attstattarget is an int2 in Postgres 16
        unsafe {
            (*stats.attr).attstattarget as c_int
        }
    }
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
    {
        stats.attstattarget
    }
}

/// Returns whether a query is a MERGE, which versions before 15 do not have.
pub fn is_merge(query: &pg_sys::Query) -> bool {
    #[cfg(feature = "pg14")]
    {
        let _ = query;
        false
    }
    #[cfg(not(feature = "pg14"))]
    {
        query.commandType == pg_sys::CmdType::CMD_MERGE
    }
}

/// Whether a sort key is in descending order.
pub fn is_descending(pathkey: &pg_sys::PathKey) -> bool {
    #[cfg(not(feature = "pg18"))]
    {
        pathkey.pk_strategy == pg_sys::BTGreaterStrategyNumber as c_int
    }
    #[cfg(feature = "pg18")]
    {
        pathkey.pk_cmptype == pg_sys::CompareType::COMPARE_GT
    }
}

/// The members of an equivalence class for the whole query and, if `relids` are those of a partition, the members for
/// it. Before 18, one list holds all members, so those for other partitions are returned, too.
///
/// # Safety
/// Both belong to the query that is being planned.
pub unsafe fn members_of(
    class: *mut pg_sys::EquivalenceClass,
    relids: pg_sys::Relids,
) -> Vec<*mut pg_sys::EquivalenceMember> {
    // SAFETY: the caller guarantees nodes of the planner. `ec_members` is a list of EquivalenceMember.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            let _ = relids;
            let members = pgrx::PgList::<pg_sys::EquivalenceMember>::from_pg((*class).ec_members);
            members.iter_ptr().collect()
        }
        // The members for partitions are in lists of their own.
        #[cfg(feature = "pg18")]
        {
            let mut iterator = pg_sys::EquivalenceMemberIterator::default();
            pg_sys::setup_eclass_member_iterator(&mut iterator, class, relids);
            let next = || Some(pg_sys::eclass_member_iterator_next(&mut iterator));
            std::iter::from_fn(next)
                .take_while(|member| !member.is_null())
                .collect()
        }
    }
}

/// Returns whether a constraint that holds for every row excludes NULL in a column.
///
/// # Safety
/// `rel` is the planner's node for `table`, and a transaction is running.
pub unsafe fn is_declared_not_null(
    rel: &pg_sys::RelOptInfo,
    table: pg_sys::Oid,
    attribute: pg_sys::AttrNumber,
) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    {
        let _ = rel;
        // SAFETY: a catalog lookup requires a running transaction, which the caller guarantees. The row
        // of pg_attribute is read before it is released.
        unsafe {
            let tuple = pg_sys::SearchSysCache2(
                pg_sys::SysCacheIdentifier::ATTNUM as c_int,
                pg_sys::Datum::from(table),
                pg_sys::Datum::from(attribute),
            );
            if tuple.is_null() {
                return false;
            }
            let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_attribute>();
            let not_null = form.attnotnull;
            pg_sys::ReleaseSysCache(tuple);
            not_null
        }
    }
    // From 18 on, pg_attribute.attnotnull is also true for a constraint that is NOT VALID, and rows may
    // violate it. The planner's set has only the columns of valid constraints.
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
    {
        let _ = table;
        // SAFETY: the caller guarantees a node of the planner.
        unsafe { pg_sys::bms_is_member(c_int::from(attribute), rel.notnullattnums) }
    }
}

/// Makes the planner avoid a path as if a setting like `enable_indexscan` had disabled it. Called for a
/// path whose cost is being estimated.
///
/// # Safety
/// `path` is a path of the planner.
pub unsafe fn disable_path(
    path: *mut pg_sys::IndexPath,
    startup: &mut pg_sys::Cost,
    total: &mut pg_sys::Cost,
) {
    #[cfg(not(feature = "pg18"))]
    {
        let _ = path;
        // SAFETY: reads a constant of Postgres.
        let cost = unsafe { pg_sys::disable_cost };
        *startup += cost;
        *total += cost;
    }
    #[cfg(feature = "pg18")]
    {
        let _ = (startup, total);
        // SAFETY: the caller guarantees a path. `cost_index` has set the number before it asks for the
        // cost.
        unsafe { (*path).path.disabled_nodes += 1 }
    }
}

/// The access method's part of the shared state of a parallel scan.
///
/// # Safety
/// `parallel` is the descriptor of a parallel scan, whose access method has asked for room for a `T`.
pub unsafe fn parallel_state<'a, T>(parallel: pg_sys::ParallelIndexScanDesc) -> &'a T {
    // SAFETY: the caller guarantees a descriptor; the access method's part begins `offset` bytes after
    // its start, and Postgres aligns it to MAXALIGN.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let offset = (*parallel).ps_offset;
        #[cfg(feature = "pg18")]
        let offset = (*parallel).ps_offset_am;
        &*parallel.cast::<u8>().add(offset).cast::<T>()
    }
}

/// `amestimateparallelscan` of an access method that keeps a `T` in the shared state of a parallel scan,
/// whatever the number of scan keys is.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
pub unsafe extern "C-unwind" fn estimate_parallel_scan<T>() -> pg_sys::Size {
    size_of::<T>()
}

#[cfg(feature = "pg17")]
pub unsafe extern "C-unwind" fn estimate_parallel_scan<T>(
    _keys: c_int,
    _order_bys: c_int,
) -> pg_sys::Size {
    size_of::<T>()
}

#[cfg(feature = "pg18")]
pub unsafe extern "C-unwind" fn estimate_parallel_scan<T>(
    _index: pg_sys::Relation,
    _keys: c_int,
    _order_bys: c_int,
) -> pg_sys::Size {
    size_of::<T>()
}

/// Raises the error "snapshot too old" if vacuum may have removed entries from a page of an index
/// although the snapshot sees their rows: with `old_snapshot_threshold`, vacuum does not wait for old
/// snapshots. Postgres 17 has removed that setting.
///
/// # Safety
/// The snapshot is registered, `index` is open, and `buffer` is pinned and locked.
pub unsafe fn check_old_snapshot(
    snapshot: pg_sys::Snapshot,
    index: pg_sys::Relation,
    buffer: pg_sys::Buffer,
) {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    // SAFETY: the caller's promises.
    unsafe {
        if pg_sys::old_snapshot_threshold >= 0 {
            pg_sys::TestForOldSnapshot(snapshot, index, pg_sys::BufferGetPage(buffer));
        }
    }
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
    let _ = (snapshot, index, buffer);
}

/// pgstat_count_index_scan of `pgstat.h`: counts a scan of the index in `pg_stat_user_indexes`, and from
/// Postgres 18 on for "Index Searches" of EXPLAIN.
///
/// # Safety
/// `scan` is a scan of an open index.
pub unsafe fn count_index_scan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: the caller guarantees a scan of an open index.
    unsafe {
        let index = (*scan).indexRelation;
        #[cfg(feature = "pg18")]
        if let Some(instrument) = (*scan).instrument.as_mut() {
            instrument.nsearches += 1;
        }
        #[cfg(not(feature = "pg14"))]
        if (*index).pgstat_info.is_null() && (*index).pgstat_enabled {
            pg_sys::pgstat_assoc_relation(index);
        }
        if let Some(stats) = (*index).pgstat_info.as_mut() {
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            {
                stats.t_counts.t_numscans += 1;
            }
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            {
                stats.counts.numscans += 1;
            }
        }
    }
}
