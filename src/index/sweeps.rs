//! What the last sweeps of this session did, for whoever wants to see more than EXPLAIN shows.

use std::sync::Mutex;

use pgrx::pg_sys;

use crate::sweep::filter::Counters;

/// All sweeps of one scan: it sweeps again for every rescan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sweeps {
    pub index: pg_sys::Oid,
    pub sweeps: u64,
    pub pages: u64,
    pub counters: Counters,
    pub seconds: f64,
}

/// A statement with more index scans than this keeps the last ones.
const KEPT: usize = 100;

/// The scans of the statement that ended one last, with the time at which it began.
static LAST: Mutex<(pg_sys::TimestampTz, Vec<Sweeps>)> = Mutex::new((0, Vec::new()));

/// Remembers a scan that has ended.
pub fn record(sweeps: Sweeps) {
    // SAFETY: reads a variable of the backend.
    let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    let mut last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if last.0 != statement {
        *last = (statement, Vec::new());
    }
    if last.1.len() == KEPT {
        last.1.remove(0);
    }
    last.1.push(sweeps);
}

/// What this session's last statement with scans did, as far as the user may see it.
///
/// # Safety
/// Called in a transaction.
pub unsafe fn last() -> Vec<Sweeps> {
    let last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the caller's promise.
    let shown = last.1.iter().filter(|s| unsafe { may_see(s.index) });
    shown.copied().collect()
}

/// Whether the user may read the whole table: else the counters would tell of rows that are hidden,
/// by a policy, or behind a view or function that scanned the table with its owner's rights.
///
/// # Safety
/// Called in a transaction.
unsafe fn may_see(index: pg_sys::Oid) -> bool {
    // SAFETY: reads the system catalogs. An index that is gone has no table.
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
