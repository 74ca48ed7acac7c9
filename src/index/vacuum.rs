//! Taking out the entries of dead rows.
//!
//! An entry is never moved to another page: a scan would miss it, or see it twice. Pages with room,
//! empty ones too, go to the free space map.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use super::entry::{is_possible, item_pointer};
use super::page::{FIRST_BLOCK, Index};

#[pg_guard]
pub unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: Postgres passes an open index, and a callback for `state`.
    unsafe {
        let mut judge = |tids: &mut [pg_sys::ItemPointerData], dead: &mut [bool]| {
            let Some(callback) = callback else { return };
            // What Postgres raises in its callback, becomes a panic here, as everywhere.
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                for (tid, dead) in tids.iter_mut().zip(dead) {
                    *dead = callback(tid, state);
                }
            });
        };
        pass(&*info, stats, Some(&mut judge)).unwrap_or_report()
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: Postgres passes an open index.
    unsafe {
        if (*info).analyze_only {
            return stats;
        }
        let stats = if stats.is_null() {
            // Nothing was dead: count, and refresh the map.
            pass(&*info, stats, None).unwrap_or_report()
        } else {
            stats
        };
        pg_sys::IndexFreeSpaceMapVacuum((*info).index);
        stats
    }
}

/// Says of each row of a page whether it is dead.
type JudgeRows<'a> = &'a mut dyn FnMut(&mut [pg_sys::ItemPointerData], &mut [bool]);

/// Visits every page. Adds to `stats`, or makes them.
///
/// Pages that are added meanwhile hold no entry that this vacuum has to take out: the rows that it
/// collected as dead had theirs before.
///
/// # Safety
/// `info` and `stats` (which may be null) are Postgres'.
unsafe fn pass(
    info: &pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    mut judge: Option<JudgeRows>,
) -> Result<*mut pg_sys::IndexBulkDeleteResult, ErrorReport> {
    // SAFETY: the caller's promise; what `alloc0` gives is Postgres' to free.
    let (index, stats) = unsafe {
        let stats = if stats.is_null() {
            PgBox::<pg_sys::IndexBulkDeleteResult>::alloc0().into_pg()
        } else {
            stats
        };
        (Index::open(info.index)?, &mut *stats)
    };
    let (mut entries, mut removed, mut free) = (0, 0, 0);
    let blocks = index.block_count();
    let mut dead = vec![false; index.layout.capacity()];
    let mut tids = Vec::with_capacity(index.layout.capacity());
    for number in FIRST_BLOCK..blocks {
        // SAFETY: sleeps, and answers to cancel; no lock is held.
        #[cfg(not(feature = "pg18"))]
        unsafe {
            pg_sys::vacuum_delay_point()
        };
        #[cfg(feature = "pg18")]
        unsafe {
            pg_sys::vacuum_delay_point(false)
        };
        let lock = if judge.is_some() {
            pg_sys::BUFFER_LOCK_EXCLUSIVE
        } else {
            pg_sys::BUFFER_LOCK_SHARE
        };
        let (block, content) = index.read(number, lock, info.strategy)?;
        let mut count = content.entries();
        if let Some(judge) = &mut judge {
            let slab = index.slab(&block, count)?;
            tids.clear();
            for tid in (0..count).map(|entry| slab.tid(entry)) {
                // A damaged entry. Postgres may only be asked about what can be a row.
                if !is_possible(tid) {
                    return Err(index.corrupted(number));
                }
                tids.push(item_pointer(tid));
            }
            judge(&mut tids, &mut dead[..count]);
            if dead[..count].contains(&true) {
                // SAFETY: the block is of this index, and locked for writing.
                let left = unsafe {
                    index.change(&block, &content, |slab| {
                        slab.remove(|entry| dead[entry]);
                    })?
                };
                removed += count - left;
                count = left;
            }
        }
        drop(block);
        entries += count;
        free += u32::from(count == 0);
        index.record_room(number, count);
    }
    stats.num_pages = blocks;
    stats.num_index_tuples = entries as f64;
    stats.tuples_removed += removed as f64;
    stats.pages_free = free;
    Ok(stats)
}
