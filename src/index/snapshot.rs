//! Checks whether an index has entries for all rows that a snapshot sees.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::relation::relation_name;
use crate::types::sql_error;

/// Returns whether a snapshot sees a fixed set of transactions (IsMVCCSnapshot of
/// `utils/snapmgr.h`).
pub fn is_mvcc(snapshot: &pg_sys::SnapshotData) -> bool {
    matches!(
        snapshot.snapshot_type,
        pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
    )
}

/// Returns an error if the snapshot was taken on a standby, and the index may lack rows that it sees.
///
/// - **The index is newer than the snapshot.** A build leaves out the rows that no snapshot *of the
///   primary* can see any more. A snapshot of a standby may still see such rows, even with
///   `hot_standby_feedback`: CREATE INDEX CONCURRENTLY indexes what its own snapshot sees, and then
///   waits only for older snapshots of the primary.
/// - **The index is being dropped.** DROP INDEX CONCURRENTLY, and REINDEX CONCURRENTLY for the old
///   index, let inserts skip the index as soon as no query *of the primary* can use it any more. A
///   query of a standby, planned before, may see rows that were inserted after.
///
/// So a standby's scan would silently miss rows. (Scans of Postgres' own index types do.)
///
/// The first check uses the last transaction that made the index usable. This transaction has written
/// the index's row of pg_index (CREATE INDEX; the last step of CREATE INDEX CONCURRENTLY) or of
/// pg_class (REINDEX and TRUNCATE, which give the index a new file). A row that the build left out was
/// deleted by this transaction, or by one that had committed before. A standby replays commits in
/// the primary's order. So a snapshot that sees this transaction as committed also sees the deletion.
///
/// The second check reads the index's row of pg_index after all invalidation messages have been
/// processed. Inserts skip the index after the transaction that marked it as dead has committed, and a
/// standby sends that transaction's messages before it replays the commits of such inserts. So
/// whoever sees an inserted row gets the messages.
///
/// Other commands write a new version of one of these rows, too (ALTER INDEX … RENAME, for instance).
/// The error is unnecessary then. A statement of any isolation level can meet it, because it takes its
/// snapshot before it begins the scan.
///
/// # Safety
/// `index` is an open index, and `snapshot` is valid.
pub unsafe fn check_complete(
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> Result<(), ErrorReport> {
    // SAFETY: the caller guarantees an open index and a valid snapshot. The rows of the caches are
    // valid until they are released.
    unsafe {
        // `takenDuringRecovery` stays true for a snapshot that outlasts the standby's promotion.
        if !is_mvcc(&*snapshot) || !(*snapshot).takenDuringRecovery {
            return Ok(());
        }
        pg_sys::AcceptInvalidationMessages();
        // VACUUM FULL freezes a row of a catalog however young it is, but leaves its xmin in place. An
        // xmin of more than two thousand million transactions ago looks like one of the future.
        let is_newer = |row: pg_sys::HeapTuple| {
            let xmin = pg_sys::HeapTupleHeaderGetRawXmin((*row).t_data);
            pg_sys::TransactionIdIsNormal(xmin)
                && pg_sys::TransactionIdPrecedes(xmin, pg_sys::ReadNextTransactionId())
                && pg_sys::XidInMVCCSnapshot(xmin, snapshot)
        };
        let oid = (*index).rd_id;
        let has_new_file = look_up(pg_sys::SysCacheIdentifier::RELOID, oid, is_newer);
        let is_new_or_dead = look_up(pg_sys::SysCacheIdentifier::INDEXRELID, oid, |row| {
            let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>();
            is_newer(row) || !form.indisready || !form.indislive
        });
        // Without one of the rows, the index has been dropped.
        if let (Some(false), Some(false)) = (has_new_file, is_new_or_dead) {
            return Ok(());
        }
        Err(sql_error(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!(
                "index \"{}\" has changed since the snapshot of the query was taken",
                relation_name(index)
            ),
        )
        .set_detail("The index may lack rows that this snapshot of a standby sees.")
        .set_hint("Repeat the transaction."))
    }
}

/// Returns what `read` returns for an object's row in a catalog, or `None` if there is no such row.
///
/// # Safety
/// `cache` has the object's OID as its only key.
unsafe fn look_up(
    cache: pg_sys::SysCacheIdentifier::Type,
    oid: pg_sys::Oid,
    read: impl FnOnce(pg_sys::HeapTuple) -> bool,
) -> Option<bool> {
    // SAFETY: the caller guarantees the cache. The row is valid until it is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache as i32, pg_sys::Datum::from(oid));
        if row.is_null() {
            return None;
        }
        let result = read(row);
        pg_sys::ReleaseSysCache(row);
        Some(result)
    }
}
