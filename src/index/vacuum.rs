//! Taking out the entries of dead rows.
//!
//! An entry is never moved to another page: a scan would miss it, or see it twice. Pages with room,
//! empty ones too, go to the free space map.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use super::build::item_pointer;
use super::insert::entries_of;
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
        let mut is_dead = |tid: &mut pg_sys::ItemPointerData| match callback {
            Some(callback) => callback(tid, state),
            None => false,
        };
        pass(&*info, stats, Some(&mut is_dead)).unwrap_or_report()
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

/// Whether the row at a TID is dead.
type IsDead<'a> = &'a mut dyn FnMut(&mut pg_sys::ItemPointerData) -> bool;

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
    mut is_dead: Option<IsDead>,
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
        let lock = if is_dead.is_some() {
            pg_sys::BUFFER_LOCK_EXCLUSIVE
        } else {
            pg_sys::BUFFER_LOCK_SHARE
        };
        let (block, content) = index.read(number, lock, info.strategy)?;
        let mut count = entries_of(&content);
        if let Some(is_dead) = &mut is_dead {
            let slab = index.slab(&block, count)?;
            for (entry, dead) in dead.iter_mut().enumerate().take(count) {
                *dead = is_dead(&mut item_pointer(slab.tid(entry)));
            }
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
