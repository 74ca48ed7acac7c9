//! Which snapshots an index can answer.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::types::sql_error;

/// IsMVCCSnapshot of `utils/snapmgr.h`.
pub fn is_mvcc(snapshot: &pg_sys::SnapshotData) -> bool {
    matches!(
        snapshot.snapshot_type,
        pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
    )
}

/// Returns an error if the index is newer than a snapshot that was taken on a standby.
///
/// A build leaves out the rows that no snapshot *of the primary* can see any more. A snapshot of a
/// standby may still see them, even with `hot_standby_feedback`: CREATE INDEX CONCURRENTLY indexes
/// what its own snapshot sees, and then waits for the older snapshots of the primary alone. So a
/// standby's scan would miss these rows in silence. (With Postgres' own index types it does.)
///
/// The last transaction that made the index usable has written the index's row of pg_index (CREATE
/// INDEX, and CONCURRENTLY when it is done) or of pg_class (REINDEX, TRUNCATE: a new file). A row
/// that this transaction left out was deleted by one that committed before. A snapshot that sees
/// the former's commit sees the latter's, because a standby replays commits in the primary's order.
///
/// # Safety
/// `index` is an open index, and `snapshot` is valid.
pub unsafe fn check_age(
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> Result<(), ErrorReport> {
    // SAFETY: the caller guarantees both. The relation cache keeps a copy of the index's row of
    // pg_index as long as the index is open. The cached tuple is valid until it is released.
    unsafe {
        // This is still true of a snapshot that outlasts the standby's promotion.
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
        let name = CStr::from_ptr((*(*index).rd_rel).relname.data.as_ptr());
        Err(sql_error(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!(
                "index \"{}\" is newer than the snapshot of the query",
                name.to_string_lossy()
            ),
        )
        .set_detail("The primary built it without rows that only older snapshots on a standby see.")
        .set_hint("Repeat the transaction."))
    }
}
