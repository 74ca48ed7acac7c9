//! Statistics of this session's last sweeps, with more details than EXPLAIN shows. The SQL function
//! `photosearch.last_sweep` returns them.

use std::sync::Mutex;

use pgrx::pg_sys;

use crate::sweep::Counters;

/// The statistics of all sweeps of one scan. A scan performs one sweep (with ORDER BY, one or more),
/// and as many again for each rescan.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanStatistics {
    pub index: pg_sys::Oid,
    pub sweeps: u64,
    pub pages: u64,
    pub counters: Counters,
    pub seconds: f64,
}

/// The maximum number of scans that are kept. If a statement has more, the first ones are dropped.
const MAX_SCANS: usize = 100;

/// The start time of the last statement in which a scan ended, and the scans of that statement.
static LAST: Mutex<(pg_sys::TimestampTz, Vec<ScanStatistics>)> = Mutex::new((0, Vec::new()));

/// Adds a scan that has ended.
pub fn record(scan: ScanStatistics) {
    // SAFETY: reads a variable of the backend.
    let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    let mut last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if last.0 != statement {
        *last = (statement, Vec::new());
    }
    if last.1.len() == MAX_SCANS {
        last.1.remove(0);
    }
    last.1.push(scan);
}

/// Returns the scans of this session's last statement with scans, without those that the user may
/// not see.
///
/// # Safety
/// A transaction is running.
pub unsafe fn last() -> Vec<ScanStatistics> {
    let last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the caller guarantees a running transaction.
    let shown = last.1.iter().filter(|s| unsafe { may_read_table(s.index) });
    shown.copied().collect()
}

/// Returns whether the user may read all rows of the index's table. If not, the counters could
/// reveal rows that a policy hides, or that a view or function with the rights of its owner has
/// scanned.
///
/// # Safety
/// A transaction is running.
unsafe fn may_read_table(index: pg_sys::Oid) -> bool {
    // SAFETY: catalog lookups require a running transaction, which the caller guarantees. For an
    // index that has been dropped, IndexGetRelation returns InvalidOid.
    unsafe {
        let table = pg_sys::IndexGetRelation(index, true);
        let select = pg_sys::ACL_SELECT as pg_sys::AclMode;
        table != pg_sys::InvalidOid
            && pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), select)
                == pg_sys::AclResult::ACLCHECK_OK
            && pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true)
                != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
    }
}
