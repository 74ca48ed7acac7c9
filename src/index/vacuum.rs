//! Removal of the entries of dead rows.
//!
//! Vacuum never moves an entry to another page, because a concurrent scan would miss it or return
//! it twice. Pages with free space, including empty ones, are recorded in the free space map.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use super::entry::{is_valid_tid, item_pointer};
use super::page::FIRST_BLOCK;
use super::relation::Index;
use crate::version;

#[pg_guard]
pub unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: Postgres passes an open index, and a callback together with its `state`.
    unsafe {
        let mut mark_dead = |tids: &mut [pg_sys::ItemPointerData], dead: &mut [bool]| {
            let Some(callback) = callback else { return };
            // An ERROR of the callback becomes a Rust panic here, as in every call that pgrx
            // guards.
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                for (tid, dead) in tids.iter_mut().zip(dead) {
                    *dead = callback(tid, state);
                }
            });
        };
        vacuum_pages(&*info, stats, Some(&mut mark_dead)).unwrap_or_report()
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
            // VACUUM did not call ambulkdelete: it found no dead rows, or too few to be worth it. Count
            // the entries, and update the free space map.
            vacuum_pages(&*info, stats, None).unwrap_or_report()
        } else {
            stats
        };
        pg_sys::IndexFreeSpaceMapVacuum((*info).index);
        stats
    }
}

/// A function that sets, for each TID of a page, whether its row is dead.
type DeadRowTest<'a> = &'a mut dyn FnMut(&mut [pg_sys::ItemPointerData], &mut [bool]);

/// Visits every page, removes the entries of dead rows if `mark_dead` is given, and updates the
/// free space map. Sets the counts in `stats`, which is allocated if it is null; removed entries are added
/// to those of earlier passes.
///
/// Pages that other backends add in the meantime contain no entry that this vacuum must remove:
/// vacuum collected the TIDs of dead rows before, and those rows had their entries by then.
///
/// # Safety
/// `info` and `stats` are those that Postgres passed; `stats` may be null.
unsafe fn vacuum_pages(
    info: &pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    mut mark_dead: Option<DeadRowTest>,
) -> Result<*mut pg_sys::IndexBulkDeleteResult, ErrorReport> {
    // SAFETY: the caller guarantees an open index in `info`, and `stats` that is null or valid.
    // Postgres frees the struct that `alloc0` returns.
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
        // SAFETY: no buffer lock is held here.
        unsafe { version::vacuum_delay_point(false) };
        let lock = if mark_dead.is_some() {
            pg_sys::BUFFER_LOCK_EXCLUSIVE
        } else {
            pg_sys::BUFFER_LOCK_SHARE
        };
        let (block, content) = index.read(number, lock, info.strategy)?;
        let mut count = content.entries();
        if let Some(mark_dead) = &mut mark_dead {
            let slab = index.slab(&block, count)?;
            tids.clear();
            for tid in (0..count).map(|entry| slab.tid(entry)) {
                // The entry is corrupted. Postgres' callback requires a valid offset number.
                if !is_valid_tid(tid) {
                    return Err(index.corrupted(number));
                }
                tids.push(item_pointer(tid));
            }
            mark_dead(&mut tids, &mut dead[..count]);
            if dead[..count].contains(&true) {
                // SAFETY: `index.read` has returned the block with an exclusive lock, because
                // `mark_dead` is given.
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
        index.record_free_space(number, count);
    }
    stats.num_pages = blocks;
    stats.num_index_tuples = entries as f64;
    stats.tuples_removed += removed as f64;
    stats.pages_free = free;
    Ok(stats)
}
