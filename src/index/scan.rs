//! Index scans. A sweep reads all blocks of the index, and evaluates all conditions for every entry.
//! A scan makes one sweep; a scan with ORDER BY may make several (`ordered_rows.rs`).
//!
//! # Why a scan returns every matching row once, and no other row, while other backends write
//!
//! A row that is visible to the scan's snapshot was inserted by a transaction that had ended before
//! the snapshot was taken, or by an earlier command of the scan's own transaction, so its entry
//! existed by then. (A build that is younger than the snapshot indexes this row, too. Where it could
//! not, because of a broken HOT chain, Postgres does not use the index for the snapshot:
//! `indcheckxmin`.) Vacuum cannot remove the row while the snapshot is in use (with `old_snapshot_threshold`
//! it can; the scan then raises an error, `version::check_old_snapshot`). The scan reads the
//! number of blocks after the snapshot was taken, so the entry is on one of these blocks. An entry
//! stays on its page. Vacuum may move it within the page, but only under an exclusive lock, and the
//! scan judges a page under a share lock. So each sweep judges the entry exactly once.
//!
//! When the executor fetches a row that the scan has returned, the row may have been removed and
//! its TID reused: vacuum removes the entries of dead rows and then frees their line pointers,
//! without waiting for scans that have already judged the page. The row that then has this TID was
//! inserted after the snapshot was taken, or by a transaction that the snapshot considers running,
//! so it is not visible to the scan. This argument holds for MVCC snapshots. Postgres uses another
//! kind of snapshot only to check exclusion constraints, which `build.rs` rejects. With any
//! snapshot that is not an MVCC snapshot, every row is rechecked.
//!
//! (Postgres itself had a bug here before 13.21, 14.18, 15.13, 16.9 and 17.5: a bitmap scan that
//! needs no column of the rows did not fetch rows of all-visible pages, so it counted rows that
//! vacuum had removed in the meantime.)
//!
//! The argument holds on a standby, too. Before replay removes an entry, it has replayed the
//! pruning of the heap page, and the pruning cancels every query whose snapshot sees the row. An
//! index that was built after a standby's snapshot was taken can lack rows that this snapshot sees, and
//! so can an index that is being dropped, so such a scan is an error (`snapshot.rs`).

use std::ffi::c_void;
use std::ptr::null_mut;
use std::time::Instant;

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

use super::block_queue::{BlockQueue, Shared};
use super::entry::item_pointer;
use super::matches::Matches;
use super::opclass::Strategy;
use super::ordered_rows::OrderedRows;
use super::page::Content;
use super::reader::{BufferGuesses, Reader};
use super::relation::Index;
use super::snapshot::{check_complete, is_mvcc};
use super::sweeps::{self, ScanStatistics};
use crate::coarse::{CoarseQuery, ResolvedSettings};
use crate::sweep::{Ahead, Ceilings, CodeFilter, Judge};
use crate::types::{ProbeArg, ScoreBoundArg, VectorArg, check_memory, sql_error};
use crate::version;

/// The maximum number of matches that a scan collects before it returns the first. The matches on
/// the pages that are pinned by then are added.
const BATCH: usize = 1024;

/// The state of a scan in one process.
struct Scan {
    /// The memory context that contains this struct.
    context: pg_sys::MemoryContext,
    index: Index,
    /// Null until the first call of `amrescan`.
    snapshot: pg_sys::Snapshot,
    /// The parameters that the settings resolve to for queries of a given number of dimensions. A
    /// join starts a sweep for every outer row; keeping the parameters avoids reading the model's
    /// directory for each of them.
    resolved: Option<ResolvedSettings>,
    /// `None` if a scan key is NULL, because no row matches then.
    judge: Option<Judge>,
    /// Whether the current sweep has been counted.
    is_sweep_counted: bool,
    blocks: BlockQueue,
    buffer_strategy: pg_sys::BufferAccessStrategy,
    buffer_guesses: BufferGuesses,
    matches: Matches,
    /// The rows of a scan with ORDER BY.
    ordered: Option<OrderedRows>,
    /// The number of matches that a plain scan collects before it returns the first of them. It
    /// starts at 1, so that a LIMIT causes little extra work, and doubles each time up to
    /// [`BATCH`]. If the sweep stopped for every match, the executor would evict the sweep's data
    /// from the CPU caches each time.
    batch: usize,
    statistics: ScanStatistics,
}

impl Scan {
    /// Prepares a sweep from the first block.
    ///
    /// # Safety
    /// `keys` and `order_bys` are the scan keys, whose arguments have the right-hand types of the
    /// operators.
    unsafe fn begin_rescan(
        &mut self,
        keys: &[pg_sys::ScanKeyData],
        order_bys: &[pg_sys::ScanKeyData],
    ) -> Result<(), ErrorReport> {
        self.add_counters();
        let mut filters = Vec::with_capacity(keys.len());
        let mut has_null = false;
        for key in keys {
            let strategy = strategy_of(key)?;
            if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
                has_null = true;
                continue;
            }
            // SAFETY: the caller guarantees the type of the argument.
            filters.push(unsafe { self.filter(strategy, key.sk_argument) });
        }
        self.judge = (!has_null).then(|| Judge::new(&self.index.layout, filters));
        self.ordered = match order_bys.first() {
            // SAFETY: the caller guarantees the type of the argument.
            Some(key) => Some(unsafe { self.order(key) }?),
            None => None,
        };
        self.is_sweep_counted = false;
        self.blocks = BlockQueue::new(self.index.block_count());
        self.buffer_guesses.next_sweep();
        self.matches.clear();
        self.batch = 1;
        Ok(())
    }

    /// Makes the order of a scan. If the query cannot be compared with the column's vectors, the rows
    /// have no order. The executor then raises the error when it evaluates the expression of ORDER BY
    /// for a row, as in a sequential scan.
    ///
    /// # Safety
    /// The argument of the key has the right-hand type of its operator.
    unsafe fn order(&self, key: &pg_sys::ScanKeyData) -> Result<OrderedRows, ErrorReport> {
        let strategy = strategy_of(key)?;
        let layout = &self.index.layout;
        if key.sk_flags & pg_sys::SK_ISNULL as i32 == 0 {
            // SAFETY: the caller guarantees the type of the argument.
            let query = unsafe { VectorArg::from_datum(key.sk_argument) }.values()?;
            if query.dims() == self.index.meta.dims {
                let ceilings = Ceilings::new(layout, query.as_slice());
                return Ok(OrderedRows::new(ceilings, Some(strategy)));
            }
        }
        Ok(OrderedRows::new(Ceilings::unknown(layout), None))
    }

    /// Returns the filter of one scan key, and whether the filter is negated. If the query cannot be
    /// compared with the column's vectors, the filter decides nothing. The executor's recheck then
    /// raises the error, and only if there is a row to compare, as in a sequential scan.
    ///
    /// # Safety
    /// `argument` has the right-hand type of the strategy's operator.
    unsafe fn filter(&mut self, strategy: Strategy, argument: pg_sys::Datum) -> (CodeFilter, bool) {
        let layout = &self.index.layout;
        let undecided = || (CodeFilter::undecided(), false);
        if strategy == Strategy::ScoreWithin {
            // SAFETY: the caller guarantees the type of the argument.
            return match unsafe { ScoreBoundArg::from_datum(argument) }.bound() {
                Ok(bound) if bound.values.len() == self.index.meta.dims => {
                    let cutoffs = bound.condition.cutoffs();
                    let (no_below, yes_from) = (cutoffs.no_below, cutoffs.yes_from);
                    let filter = CodeFilter::between(layout, &bound.values, no_below, yes_from);
                    (filter, cutoffs.is_negated)
                }
                _ => undecided(),
            };
        }
        // SAFETY: the caller guarantees the type of the argument.
        let query = unsafe {
            if strategy.right_type().is_some() {
                CoarseQuery::of_probe(ProbeArg::from_datum(argument))
            } else {
                CoarseQuery::of_vector(VectorArg::from_datum(argument), &mut self.resolved)
            }
        };
        match query {
            // The threshold is NaN in a probe that every vector may match (`Probe::undecided`).
            Ok(query) if query.query_dims == self.index.meta.dims && !query.threshold.is_nan() => {
                let filter = CodeFilter::new(layout, &query.prefix, query.threshold);
                (filter, strategy.is_negated())
            }
            _ => undecided(),
        }
    }

    /// Judges blocks until it has collected `wanted` matches or no block is left. Returns false if
    /// it has found no match.
    fn fill_batch(&mut self, shared: Option<&Shared>, wanted: usize) -> Result<bool, ErrorReport> {
        check_memory();
        let start = Instant::now();
        let (blocks, matches) = (&mut self.blocks, &mut self.matches);
        matches.clear();
        let Some(judge) = &mut self.judge else {
            return Ok(false);
        };
        let mut reader = Reader::new(&self.index, self.buffer_strategy, &mut self.buffer_guesses);
        while let Some((block, ahead)) = {
            let is_enough = matches.len() >= wanted;
            reader.next(|| (!is_enough).then(|| blocks.take(shared)).flatten())
        } {
            self.statistics.pages += 1;
            // SAFETY: the scan's snapshot is registered, and a block is pinned and locked.
            unsafe {
                version::check_old_snapshot(self.snapshot, self.index.relation, block.buffer())
            }
            matches.collect(&self.index, block, judge, ahead)?;
        }
        self.statistics.seconds += start.elapsed().as_secs_f64();
        Ok(matches.len() > 0)
    }

    /// Judges all blocks, and keeps the rows that come next in order.
    fn sweep_in_order(&mut self, shared: Option<&Shared>) -> Result<(), ErrorReport> {
        check_memory();
        let start = Instant::now();
        let Some(rows) = &mut self.ordered else {
            return Ok(());
        };
        if let Some(judge) = &mut self.judge {
            let (blocks, table) = (&mut self.blocks, &mut self.matches.table);
            let mut reader =
                Reader::new(&self.index, self.buffer_strategy, &mut self.buffer_guesses);
            while let Some((block, ahead)) = reader.next(|| blocks.take(shared)) {
                self.statistics.pages += 1;
                // SAFETY: the scan's snapshot is registered, and a block is pinned and locked.
                unsafe {
                    version::check_old_snapshot(self.snapshot, self.index.relation, block.buffer())
                }
                let Content::Entries(count) = self.index.content(block)? else {
                    continue;
                };
                let slab = self.index.slab(block, count)?;
                // Whichever reads the codes of this page first, the filters or the ceilings, also
                // prefetches the next pages.
                let (judging, ordering) = if judge.has_filters() {
                    (ahead, Ahead::none())
                } else {
                    (Ahead::none(), ahead)
                };
                let verdicts = judge.judge_prefetching(&slab, judging);
                if !rows.collect(&slab, verdicts, ordering, |tid| table.can_have(tid))? {
                    return Err(self.index.corrupted(block.number()));
                }
            }
            blocks.repeat();
        }
        rows.finish_sweep();
        self.statistics.seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Counts the current sweep, unless that has happened. Returns whether this call has counted it.
    fn count_sweep_once(&mut self) -> bool {
        let is_first_call = !std::mem::replace(&mut self.is_sweep_counted, true);
        self.statistics.sweeps += u64::from(is_first_call);
        is_first_call
    }

    /// Adds the counters of the sweeps since the last `amrescan` to those of the scan.
    fn add_counters(&mut self) {
        if let Some(judge) = self.judge.take() {
            let (sum, one) = (&mut self.statistics.counters, judge.counters());
            sum.entries += one.entries;
            sum.matches += one.matches;
            sum.rejected += one.rejected;
            sum.undecided += one.undecided;
            sum.refined += one.refined;
        }
    }
}

fn strategy_of(key: &pg_sys::ScanKeyData) -> Result<Strategy, ErrorReport> {
    Strategy::from_number(key.sk_strategy).ok_or_else(|| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("unrecognized strategy number: {}", key.sk_strategy),
        )
    })
}

/// # Safety
/// `ambeginscan` has made `scan`.
unsafe fn state<'a>(scan: pg_sys::IndexScanDesc) -> &'a mut Scan {
    // SAFETY: the caller guarantees that `ambeginscan` has set `opaque` to a `Scan`.
    unsafe { &mut *(*scan).opaque.cast() }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: Postgres passes an open index, and keeps it open until the end of the scan. A query
    // may have many scans, so each of them has a memory context of its own, which `amendscan`
    // deletes.
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
            statistics: ScanStatistics {
                index: (*index.relation).rd_id,
                ..ScanStatistics::default()
            },
            buffer_strategy: own.switch_to(|_| buffer_strategy(&index)),
            buffer_guesses: BufferGuesses::initial(),
            index,
            judge: None,
            is_sweep_counted: false,
            blocks: BlockQueue::new(0),
            matches: Matches::new(),
            ordered: None,
            batch: 1,
        };
        let order_bys = usize::try_from(order_bys).unwrap_or(0);
        if order_bys > 0 {
            own.switch_to(|_| {
                (*scan).xs_orderbyvals =
                    pg_sys::palloc0(order_bys * size_of::<pg_sys::Datum>()).cast();
                (*scan).xs_orderbynulls = pg_sys::palloc0(order_bys * size_of::<bool>()).cast();
            });
        }
        (*scan).opaque = own.leak_and_drop_on_delete(state).cast();
        scan
    }
}

/// Selects the buffer access strategy. Every query reads the whole index, so the index should stay
/// in shared buffers. Only a scan of an index that is larger than half of shared buffers uses a ring
/// of a few buffers, so that it does not evict everything else.
fn buffer_strategy(index: &Index) -> pg_sys::BufferAccessStrategy {
    // SAFETY: reads a setting and the open relation; the strategy is palloc'd in the scan's memory
    // context.
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
    order_bys: pg_sys::ScanKey,
    _order_by_count: i32,
) {
    // SAFETY: `keyData` has room for `numberOfKeys` keys, `orderByData` for `numberOfOrderBys`, and
    // Postgres passes that many, or null if they have not changed.
    unsafe {
        let keys = kept_keys((*scan).keyData, (*scan).numberOfKeys, keys);
        let order_bys = kept_keys((*scan).orderByData, (*scan).numberOfOrderBys, order_bys);
        let state = state(scan);
        // Postgres sets both fields after it has called `ambeginscan`.
        if state.snapshot != (*scan).xs_snapshot {
            state.snapshot = (*scan).xs_snapshot;
            check_complete(state.index.relation, state.snapshot).unwrap_or_report();
        }
        state.matches.table.set((*scan).heapRelation);
        state.begin_rescan(keys, order_bys).unwrap_or_report();
    }
}

/// Copies the scan keys `new`, unless the pointer is null, to `kept`, the scan descriptor's keys.
/// Returns the descriptor's keys.
///
/// # Safety
/// `kept` has room for `count` keys, and `new` is null or points to `count` keys.
unsafe fn kept_keys<'a>(
    kept: pg_sys::ScanKey,
    count: i32,
    new: pg_sys::ScanKey,
) -> &'a [pg_sys::ScanKeyData] {
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller guarantees arrays of `count` keys.
    unsafe {
        if !new.is_null() {
            std::ptr::copy(new, kept, count);
        }
        std::slice::from_raw_parts(kept, count)
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: `ambeginscan` has made `scan`. `aminitparallelscan` has written the shared state of a
    // parallel scan.
    unsafe {
        let state = state(scan);
        let parallel = (*scan).parallel_scan;
        let shared = (!parallel.is_null()).then(|| version::parallel_state::<Shared>(parallel));
        if state.ordered.is_some() {
            return next_in_order(scan, state, shared);
        }
        loop {
            if let Some((tid, recheck)) = state.matches.next() {
                (*scan).xs_heaptid = tid;
                (*scan).xs_recheck = recheck || !is_mvcc(&*(*scan).xs_snapshot);
                return true;
            }
            if state.count_sweep_once() {
                version::count_index_scan(scan);
            }
            let wanted = state.batch;
            state.batch = (2 * wanted).min(BATCH);
            if !state.fill_batch(shared, wanted).unwrap_or_report() {
                return false;
            }
        }
    }
}

/// Returns the next row of a scan with ORDER BY.
///
/// # Safety
/// `ambeginscan` has made `scan`, and `state` is its state.
unsafe fn next_in_order(
    scan: pg_sys::IndexScanDesc,
    state: &mut Scan,
    shared: Option<&Shared>,
) -> bool {
    loop {
        let Some(rows) = &mut state.ordered else {
            return false;
        };
        if let Some(row) = rows.next() {
            let bound = rows.lower_bound(&row);
            // SAFETY: the caller guarantees the scan, and `ambeginscan` has allocated the arrays with
            // `numberOfOrderBys` elements, at least one.
            unsafe {
                let count = usize::try_from((*scan).numberOfOrderBys).unwrap_or(0);
                let values = std::slice::from_raw_parts_mut((*scan).xs_orderbyvals, count);
                let nulls = std::slice::from_raw_parts_mut((*scan).xs_orderbynulls, count);
                // Nothing is known about the second operator and the following ones.
                values.fill(pg_sys::Datum::from(f64::NEG_INFINITY.to_bits()));
                values[0] = pg_sys::Datum::from(bound.unwrap_or(0.0).to_bits());
                nulls.fill(bound.is_none());
                (*scan).xs_recheckorderby = bound.is_some();
                (*scan).xs_heaptid = item_pointer(row.tid);
                (*scan).xs_recheck = row.recheck || !is_mvcc(&*(*scan).xs_snapshot);
            }
            return true;
        }
        if !rows.needs_sweep() {
            return false;
        }
        if state.count_sweep_once() {
            // SAFETY: the caller guarantees a scan of an open index.
            unsafe { version::count_index_scan(scan) }
        } else {
            state.statistics.sweeps += 1;
        }
        state.sweep_in_order(shared).unwrap_or_report();
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amgetbitmap(
    scan: pg_sys::IndexScanDesc,
    bitmap: *mut pg_sys::TIDBitmap,
) -> i64 {
    // SAFETY: `ambeginscan` has made `scan`; tbm_add_tuples copies the TIDs.
    unsafe {
        let state = state(scan);
        if state.count_sweep_once() {
            version::count_index_scan(scan);
        }
        let mut count = 0;
        while state.fill_batch(None, BATCH).unwrap_or_report() {
            let Matches {
                certain, undecided, ..
            } = &mut state.matches;
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
    // SAFETY: `ambeginscan` has made `scan`, and Postgres does not use it after this call.
    unsafe {
        let state = state(scan);
        state.add_counters();
        if state.statistics.sweeps > 0 {
            sweeps::record(state.statistics);
        }
        (*scan).opaque = null_mut();
        pg_sys::MemoryContextDelete(state.context);
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn aminitparallelscan(target: *mut c_void) {
    // SAFETY: `amestimateparallelscan` (`handler.rs`) has requested this amount of memory, and Postgres
    // aligns it to MAXALIGN.
    unsafe {
        target.cast::<Shared>().write(Shared::new());
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amparallelrescan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: Postgres calls this between two executions of a parallel scan, so the parallel scan
    // descriptor has been initialized.
    unsafe {
        let shared = version::parallel_state::<Shared>((*scan).parallel_scan);
        shared.restart();
    }
}
