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

/// Returns an error if the snapshot was taken on a standby and is older than the index.
///
/// A build leaves out the rows that no snapshot *of the primary* can see any more. A snapshot of a
/// standby may still see such rows, even with `hot_standby_feedback`: CREATE INDEX CONCURRENTLY
/// indexes what its own snapshot sees, and then waits only for older snapshots of the primary. So a
/// standby's scan would silently miss these rows. (Scans of Postgres' own index types do.)
///
/// The check uses the last transaction that made the index usable. This transaction has written the
/// index's row of pg_index (CREATE INDEX; the last step of CREATE INDEX CONCURRENTLY) or of pg_class
/// (REINDEX and TRUNCATE, which give the index a new file). A row that the build left out was
/// deleted by this transaction, or by one that had committed before. A standby replays commits in
/// the primary's order. So a snapshot that sees this transaction as committed also sees the deletion.
///
/// Other commands write a new version of one of these rows, too (ALTER INDEX … RENAME, for instance).
/// The error is unnecessary then, and does not recur when the transaction is repeated.
///
/// # Safety
/// `index` is an open index, and `snapshot` is valid.
pub unsafe fn check_not_newer(
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> Result<(), ErrorReport> {
    // SAFETY: the caller guarantees an open index and a valid snapshot. The relation cache keeps a
    // copy of the index's row of pg_index as long as the index is open. The row of pg_class is valid
    // until it is released.
    unsafe {
        // `takenDuringRecovery` stays true for a snapshot that outlasts the standby's promotion.
        if !is_mvcc(&*snapshot) || !(*snapshot).takenDuringRecovery {
            return Ok(());
        }
        let is_newer = |row: pg_sys::HeapTuple| {
            pg_sys::XidInMVCCSnapshot(pg_sys::HeapTupleHeaderGetXmin((*row).t_data), snapshot)
        };
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from((*index).rd_id),
        );
        let has_new_file = !row.is_null() && is_newer(row);
        if !row.is_null() {
            pg_sys::ReleaseSysCache(row);
        }
        if !has_new_file && !is_newer((*index).rd_indextuple) {
            return Ok(());
        }
        Err(sql_error(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!(
                "index \"{}\" is newer than the snapshot of the query",
                relation_name(index)
            ),
        )
        .set_detail("The primary may have built it without rows that only older snapshots on a standby see.")
        .set_hint("Repeat the transaction."))
    }
}
