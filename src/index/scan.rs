//! Scans: one sweep over the file answers all conditions.
//!
//! # Why a scan misses no row, and returns no wrong one, whatever happens meanwhile
//!
//! A row that the scan's snapshot sees was inserted, with its entry, by a transaction that had ended
//! before the snapshot was taken, and vacuum can't remove it while the snapshot lives. The number
//! of blocks is read after that: the entry is on one of them. It stays on its page; vacuum may
//! move it only within the page, under an exclusive lock, while a page is judged under a share
//! lock. So it is judged once.
//!
//! What the scan returns may be gone by the time the executor looks at the row, and its TID used
//! again: entries of dead rows are taken out, and then their line pointers freed, without waiting
//! for scans that have judged the page. The row that is there then was inserted after the snapshot
//! was taken, or by a transaction that the snapshot takes for running: it is not visible to the
//! scan. That holds for MVCC snapshots. Postgres uses another kind only to check an exclusion
//! constraint, which `build.rs` refuses; under such a snapshot every row is rechecked as it is.
//!
//! (Postgres itself had a gap here until 13.21, 14.18, 15.13, 16.9 and 17.5: a bitmap scan that needs
//! nothing of the rows did not look at pages that are visible to all, and counted rows that vacuum
//! had removed meanwhile.)
//!
//! On a standby the same holds: replay of the heap's pruning has ended every query with a snapshot
//! that sees the row, before it comes to the index.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

use super::entry::{is_possible, item_pointer};
use super::opclass::Strategy;
use super::page::{Block, Content, FIRST_BLOCK, Index, block_count};
use super::reader::{Places, Reader};
use super::sweeps::{self, Sweeps};
use crate::coarse::{CoarseQuery, Resolved};
use crate::sweep::filter::Verdict;
use crate::sweep::kernel::Ahead;
use crate::sweep::{Filter, Judge};
use crate::types::{ProbeArg, VectorArg, check_memory, sql_error};

/// Blocks that a participant of a parallel scan takes at a time: 256 kB.
const PARALLEL_BLOCKS: u32 = 32;

/// Matches that a scan collects at once, at most, and those of the pages that it has pinned by then.
const BATCH: usize = 1024;

/// What the participants of a parallel scan share.
struct Shared {
    /// The first block that nobody has taken.
    next: AtomicU32,
}

/// A scan's own state.
struct Scan {
    /// Where it lives.
    context: pg_sys::MemoryContext,
    index: Index,
    /// Null until the scan is started.
    snapshot: pg_sys::Snapshot,
    /// What the settings mean for queries of so many dimensions: a join starts a sweep for every
    /// row, and the model's directory is not read for each.
    resolved: Option<Resolved>,
    /// `None` where a condition is NULL: no row can match.
    judge: Option<Judge>,
    /// Whether this sweep has been counted.
    begun: bool,
    blocks: Blocks,
    strategy: pg_sys::BufferAccessStrategy,
    places: Places,
    matches: Matches,
    /// How many a plain scan collects next before it returns the first. It begins with one, so that
    /// a LIMIT costs hardly more than it has to, and doubles: a sweep that stops for every match finds
    /// the caches of the CPU full of the executor's data each time.
    batch: usize,
    sweeps: Sweeps,
}

/// The blocks that a sweep has to judge.
struct Blocks {
    /// So many has the index.
    count: pg_sys::BlockNumber,
    /// Those left of what this process has taken.
    taken: Range<pg_sys::BlockNumber>,
}

impl Blocks {
    fn new(count: pg_sys::BlockNumber) -> Blocks {
        Blocks {
            count,
            taken: FIRST_BLOCK..FIRST_BLOCK,
        }
    }

    /// The next one, taking some from what is shared if need be.
    ///
    /// Participants may see files of different lengths. The shorter one is long enough: see the
    /// head of this file.
    fn take(&mut self, shared: Option<&Shared>) -> Option<pg_sys::BlockNumber> {
        if self.taken.is_empty() {
            let (first, some) = match shared {
                Some(shared) => (
                    shared.next.fetch_add(PARALLEL_BLOCKS, Ordering::Relaxed),
                    PARALLEL_BLOCKS,
                ),
                None => (self.taken.end, self.count),
            };
            self.taken = first..self.count.min(first.saturating_add(some));
        }
        self.taken.next()
    }
}

/// Matches of the pages that were judged last.
struct Matches {
    /// The table; null in a scan for a bitmap.
    table: pg_sys::Relation,
    /// How many blocks it has, or had.
    table_blocks: pg_sys::BlockNumber,
    certain: Vec<pg_sys::ItemPointerData>,
    /// Ones to recheck.
    undecided: Vec<pg_sys::ItemPointerData>,
    /// How many of both have been returned.
    returned: usize,
}

impl Matches {
    fn len(&self) -> usize {
        self.certain.len() + self.undecided.len()
    }

    fn clear(&mut self) {
        self.certain.clear();
        self.undecided.clear();
        self.returned = 0;
    }

    /// The next one to return, and whether to recheck it.
    fn next(&mut self) -> Option<(pg_sys::ItemPointerData, bool)> {
        let certain = self.certain.len();
        let is_certain = self.returned < certain;
        let tid = if is_certain {
            self.certain.get(self.returned)
        } else {
            self.undecided.get(self.returned - certain)
        }?;
        self.returned += 1;
        Some((*tid, !is_certain))
    }

    /// Judges one block, and adds its matches.
    fn collect(
        &mut self,
        index: &Index,
        block: &Block,
        judge: &mut Judge,
        ahead: Ahead,
    ) -> Result<(), ErrorReport> {
        let Content::Entries(count) = index.content(block)? else {
            return Ok(());
        };
        let slab = index.slab(block, count)?;
        for (entry, verdict) in judge.judge_and_ask(&slab, ahead).left() {
            let list = match verdict {
                Verdict::No => continue,
                Verdict::Maybe => &mut self.undecided,
                Verdict::Yes => &mut self.certain,
            };
            let tid = slab.tid(entry);
            if tid.block >= self.table_blocks && !self.table.is_null() {
                // SAFETY: the table is open as long as the scan. Others may have extended it.
                self.table_blocks = unsafe { block_count(self.table) };
            }
            if tid.block >= self.table_blocks || !is_possible(tid) {
                return Err(index.corrupted(block.number()));
            }
            list.push(item_pointer(tid));
        }
        Ok(())
    }
}

impl Scan {
    /// Makes ready for a sweep from the start.
    ///
    /// # Safety
    /// `keys` are the scan's keys, with arguments of the operators' types.
    unsafe fn restart(&mut self, keys: &[pg_sys::ScanKeyData]) -> Result<(), ErrorReport> {
        self.publish_counters();
        let mut filters = Vec::with_capacity(keys.len());
        let mut has_null = false;
        for key in keys {
            let strategy = Strategy::from_number(key.sk_strategy).ok_or_else(|| {
                sql_error(
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    format!("unrecognized strategy number: {}", key.sk_strategy),
                )
            })?;
            if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
                has_null = true;
                continue;
            }
            // SAFETY: the caller's promise.
            let filter = unsafe { self.filter(strategy, key.sk_argument) };
            filters.push((filter, strategy.is_negated()));
        }
        self.judge = (!has_null).then(|| Judge::new(&self.index.layout, filters));
        self.begun = false;
        self.blocks = Blocks::new(self.index.block_count());
        self.places.turn();
        self.matches.clear();
        self.batch = 1;
        Ok(())
    }

    /// The filter of one key. A query that can't be compared with the column's vectors is an error
    /// where a row is compared with it, and only there: the executor's recheck raises it, as a
    /// sequential scan would.
    ///
    /// # Safety
    /// `argument` is of the type that the strategy's operator has on its right.
    unsafe fn filter(&mut self, strategy: Strategy, argument: pg_sys::Datum) -> Filter {
        // SAFETY: the caller's promise.
        let query = unsafe {
            if strategy.takes_probe() {
                CoarseQuery::of_probe(ProbeArg::from_datum(argument))
            } else {
                CoarseQuery::of_vector(VectorArg::from_datum(argument), &mut self.resolved)
            }
        };
        match query {
            Ok(query) if query.of == self.index.meta.dims => {
                Filter::new(&self.index.layout, &query.prefix, query.threshold)
            }
            _ => Filter::undecided(),
        }
    }

    /// Judges blocks until there are `wanted` matches, or no more blocks; false where there are no
    /// more matches either.
    fn advance(&mut self, shared: Option<&Shared>, wanted: usize) -> Result<bool, ErrorReport> {
        check_memory();
        let start = Instant::now();
        let (blocks, matches) = (&mut self.blocks, &mut self.matches);
        matches.clear();
        let Some(judge) = &mut self.judge else {
            return Ok(false);
        };
        let mut reader = Reader::new(&self.index, self.strategy, &mut self.places);
        while let Some((block, ahead)) = {
            let is_enough = matches.len() >= wanted;
            reader.next(|| (!is_enough).then(|| blocks.take(shared)).flatten())
        } {
            self.sweeps.pages += 1;
            check_old_snapshot(self.snapshot, &self.index, block);
            matches.collect(&self.index, block, judge, ahead)?;
        }
        self.sweeps.seconds += start.elapsed().as_secs_f64();
        Ok(matches.len() > 0)
    }

    /// Whether this is the start of a sweep; if so, it is counted.
    fn begins(&mut self) -> bool {
        let begins = !std::mem::replace(&mut self.begun, true);
        self.sweeps.sweeps += u64::from(begins);
        begins
    }

    /// The counters of the sweep that ends here become part of the scan's.
    fn publish_counters(&mut self) {
        if let Some(judge) = self.judge.take() {
            let (sum, one) = (&mut self.sweeps.counters, judge.counters());
            sum.entries += one.entries;
            sum.matches += one.matches;
            sum.rejected += one.rejected;
            sum.undecided += one.undecided;
            sum.refined += one.refined;
        }
    }
}

/// # Safety
/// `scan` is one that `ambeginscan` has made.
unsafe fn state<'a>(scan: pg_sys::IndexScanDesc) -> &'a mut Scan {
    // SAFETY: the caller's promise.
    unsafe { &mut *(*scan).opaque.cast() }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: Postgres passes an open index, and keeps it open. The scan has a memory context of its
    // own, which goes with the scan: one query may have many scans.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, keys, order_bys);
        let index = Index::open(index).unwrap_or_report();
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"mrl scan".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let mut own = PgMemoryContexts::For(context);
        let state = Scan {
            context,
            snapshot: null_mut(),
            resolved: None,
            sweeps: Sweeps {
                index: (*index.relation).rd_id,
                ..Sweeps::default()
            },
            strategy: own.switch_to(|_| strategy(&index)),
            places: Places::unknown(),
            index,
            judge: None,
            begun: false,
            blocks: Blocks::new(0),
            matches: Matches {
                table: null_mut(),
                // No block has this number, and a scan for a bitmap passes over those that the
                // table does not have.
                table_blocks: pg_sys::InvalidBlockNumber,
                certain: Vec::new(),
                undecided: Vec::new(),
                returned: 0,
            },
            batch: 1,
        };
        (*scan).opaque = own.leak_and_drop_on_delete(state).cast();
        scan
    }
}

/// An index is swept whole by every query: it is worth its place in shared buffers, unless it would
/// take more than half of them. Then a ring of a few buffers spares the others.
fn strategy(index: &Index) -> pg_sys::BufferAccessStrategy {
    // SAFETY: reads a setting; the strategy is palloc'd.
    unsafe {
        let is_large = u64::from(index.block_count()) > pg_sys::NBuffers as u64 / 2;
        if is_large
            && (*(*index.relation).rd_rel).relpersistence as u8 != pg_sys::RELPERSISTENCE_TEMP
        {
            pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_BULKREAD)
        } else {
            null_mut()
        }
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    _key_count: i32,
    _order_bys: pg_sys::ScanKey,
    _order_by_count: i32,
) {
    // SAFETY: `keyData` has room for `numberOfKeys`, and so many come.
    unsafe {
        let count = usize::try_from((*scan).numberOfKeys).unwrap_or(0);
        if !keys.is_null() && count > 0 {
            std::ptr::copy(keys, (*scan).keyData, count);
        }
        let keys = if count > 0 {
            std::slice::from_raw_parts((*scan).keyData, count)
        } else {
            &[]
        };
        let own = state(scan);
        // Postgres sets both after `ambeginscan`.
        own.snapshot = (*scan).xs_snapshot;
        own.matches.table = (*scan).heapRelation;
        if !own.matches.table.is_null() {
            own.matches.table_blocks = block_count(own.matches.table);
        }
        own.restart(keys).unwrap_or_report();
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: `scan` is ours; the shared part lies `ps_offset` behind what is Postgres' own.
    unsafe {
        let own = state(scan);
        let parallel = (*scan).parallel_scan;
        let shared = parallel.as_ref().map(|p| {
            #[cfg(not(feature = "pg18"))]
            let offset = p.ps_offset;
            #[cfg(feature = "pg18")]
            let offset = p.ps_offset_am;
            &*parallel.cast::<u8>().add(offset).cast::<Shared>()
        });
        loop {
            if let Some((tid, recheck)) = own.matches.next() {
                (*scan).xs_heaptid = tid;
                (*scan).xs_recheck = recheck || !is_mvcc(&*(*scan).xs_snapshot);
                return true;
            }
            if own.begins() {
                count_scan(scan);
            }
            let wanted = own.batch;
            own.batch = (2 * wanted).min(BATCH);
            if !own.advance(shared, wanted).unwrap_or_report() {
                return false;
            }
        }
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amgetbitmap(
    scan: pg_sys::IndexScanDesc,
    bitmap: *mut pg_sys::TIDBitmap,
) -> i64 {
    // SAFETY: `scan` is ours; tbm_add_tuples copies the TIDs.
    unsafe {
        let own = state(scan);
        if own.begins() {
            count_scan(scan);
        }
        let mut count = 0;
        while own.advance(None, BATCH).unwrap_or_report() {
            let Matches {
                certain, undecided, ..
            } = &mut own.matches;
            for (tids, recheck) in [(certain, false), (undecided, true)] {
                if !tids.is_empty() {
                    pg_sys::tbm_add_tuples(bitmap, tids.as_mut_ptr(), tids.len() as i32, recheck);
                    count += tids.len() as i64;
                }
            }
        }
        count
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: `scan` is ours.
    unsafe {
        let own = state(scan);
        own.publish_counters();
        if own.sweeps.sweeps > 0 {
            sweeps::record(own.sweeps);
        }
        (*scan).opaque = null_mut();
        pg_sys::MemoryContextDelete(own.context);
    }
}

// What differs here between versions is only what is passed for array keys.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
#[pg_guard]
pub unsafe extern "C-unwind" fn amestimateparallelscan() -> pg_sys::Size {
    size_of::<Shared>()
}

#[cfg(feature = "pg17")]
#[pg_guard]
pub unsafe extern "C-unwind" fn amestimateparallelscan(
    _keys: i32,
    _order_bys: i32,
) -> pg_sys::Size {
    size_of::<Shared>()
}

#[cfg(feature = "pg18")]
#[pg_guard]
pub unsafe extern "C-unwind" fn amestimateparallelscan(
    _index: pg_sys::Relation,
    _keys: i32,
    _order_bys: i32,
) -> pg_sys::Size {
    size_of::<Shared>()
}

#[pg_guard]
pub unsafe extern "C-unwind" fn aminitparallelscan(target: *mut c_void) {
    // SAFETY: `amestimateparallelscan` has asked for this room, which is aligned for anything.
    unsafe {
        target.cast::<Shared>().write(Shared {
            next: AtomicU32::new(FIRST_BLOCK),
        });
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amparallelrescan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: Postgres calls this between scans, with the shared part in place.
    unsafe {
        let parallel = (*scan).parallel_scan;
        #[cfg(not(feature = "pg18"))]
        let offset = (*parallel).ps_offset;
        #[cfg(feature = "pg18")]
        let offset = (*parallel).ps_offset_am;
        let shared = &*parallel.cast::<u8>().add(offset).cast::<Shared>();
        shared.next.store(FIRST_BLOCK, Ordering::Relaxed);
    }
}

/// Reports "snapshot too old" where vacuum may have taken entries out of the block that the snapshot
/// still sees: with `old_snapshot_threshold` it does not wait for old snapshots.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
fn check_old_snapshot(snapshot: pg_sys::Snapshot, index: &Index, block: &Block) {
    // SAFETY: reads a setting.
    if unsafe { pg_sys::old_snapshot_threshold } >= 0 {
        // SAFETY: the snapshot is the scan's, and the block's page is locked.
        unsafe {
            let page = pg_sys::BufferGetPage(block.buffer());
            pg_sys::TestForOldSnapshot(snapshot, index.relation, page);
        }
    }
}

/// There is no `old_snapshot_threshold` any more.
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
fn check_old_snapshot(_snapshot: pg_sys::Snapshot, _index: &Index, _block: &Block) {}

/// IsMVCCSnapshot of `utils/snapmgr.h`.
fn is_mvcc(snapshot: &pg_sys::SnapshotData) -> bool {
    matches!(
        snapshot.snapshot_type,
        pg_sys::SnapshotType::SNAPSHOT_MVCC | pg_sys::SnapshotType::SNAPSHOT_HISTORIC_MVCC
    )
}

/// pgstat_count_index_scan of `pgstat.h`: counts a scan of the index in `pg_stat_user_indexes`.
///
/// # Safety
/// `scan` is a scan of an open index.
unsafe fn count_scan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: the caller's promise.
    unsafe {
        let index = (*scan).indexRelation;
        // What EXPLAIN shows as "Index Searches".
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
