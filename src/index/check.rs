//! Consistency check of an index, for `photosearch.check_index`: it verifies that the index
//! contains exactly the entries that it should contain.
//!
//! It works like Postgres' amcheck. A ShareLock on the table keeps out writers while it runs. If
//! Postgres itself rejects a page because of its checksum or its header, the check ends with
//! Postgres' error, which names the block.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::block::Pin;
use super::build::ambuild;
use super::entry::{encode, item_pointer, tid_of};
use super::page::{FIRST_BLOCK, META_BLOCK};
use super::relation::{Index, relation_name};
use crate::sweep::{Encoder, Tid};
use crate::types::sql_error;
use crate::version;

/// An inconsistency that the check has found.
pub struct Problem {
    pub block: Option<pg_sys::BlockNumber>,
    pub entry: Option<usize>,
    pub tid: Option<pg_sys::ItemPointerData>,
    pub problem: &'static str,
}

/// The location of an entry, the TID in it, and whether the table scan has found a row with this
/// TID.
struct EntryLocation {
    tid: Tid,
    block: pg_sys::BlockNumber,
    entry: u16,
    found_row: bool,
}

struct Check {
    index: Index,
    encoder: Encoder,
    /// The locations of all entries; sorted by TID after all pages have been read.
    locations: Vec<EntryLocation>,
    problems: Vec<Problem>,
}

/// Returns all inconsistencies between the index and its table. Returns an error if `oid` is not an
/// mrl index, or if the index cannot be checked.
///
/// # Safety
/// A transaction is running.
pub unsafe fn check(oid: pg_sys::Oid) -> Result<Vec<Problem>, ErrorReport> {
    let share = pg_sys::ShareLock as pg_sys::LOCKMODE;
    let access_share = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: each relation is locked when it is opened; the table is locked before its index, as
    // everywhere in Postgres. Relations are closed at the end, or by the abort of the transaction
    // after an error. The abort also restores the user id.
    unsafe {
        let table_oid = pg_sys::IndexGetRelation(oid, true);
        if table_oid == pg_sys::InvalidOid || !is_mrl_index(oid) {
            return Err(wrong_object_error(oid));
        }
        let table = pg_sys::table_open(table_oid, share);
        // The expressions of an index are code of the table's owner, so they run with the owner's
        // rights.
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            (*(*table).rd_rel).relowner,
            context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32,
        );
        let settings = pg_sys::NewGUCNestLevel();
        version::restrict_search_path();

        let relation = pg_sys::index_open(oid, access_share);
        // The index may have been dropped, and its OID reused for another table's index, before the
        // table was locked.
        if pg_sys::IndexGetRelation(oid, true) != table_oid {
            return Err(wrong_object_error(oid));
        }
        check_is_checkable(relation)?;
        let problems = check_open(relation, table)?;
        pg_sys::index_close(relation, access_share);

        pg_sys::AtEOXact_GUC(false, settings);
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(problems)
    }
}

/// # Safety
/// `relation` is an open mrl index, and `table` is its table, which is also open.
unsafe fn check_open(
    relation: pg_sys::Relation,
    table: pg_sys::Relation,
) -> Result<Vec<Problem>, ErrorReport> {
    // SAFETY: the caller guarantees open relations. The metapage is read from the file, because the
    // relcache may have cached it before it was damaged.
    unsafe {
        let meta = Index::read_meta(relation);
        let Some((meta, layout)) = meta.and_then(|meta| Some((meta, meta.layout()?))) else {
            return Ok(vec![Problem::of_block(META_BLOCK)]);
        };
        let mut check = Check {
            encoder: Encoder::new(&layout),
            index: Index {
                relation,
                meta,
                layout,
            },
            locations: Vec::new(),
            problems: Vec::new(),
        };
        check.read_index()?;
        check.read_table(table);
        check.check_unmatched_entries(table);
        Ok(check.problems)
    }
}

fn out_of_memory(entries: usize) -> ErrorReport {
    sql_error(
        PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        format!("out of memory while checking an index of more than {entries} entries"),
    )
}

/// Returns whether `oid` is an index of this access method. The test is whether the access method's
/// handler returns our `ambuild`.
///
/// # Safety
/// A transaction is running.
unsafe fn is_mrl_index(oid: pg_sys::Oid) -> bool {
    // SAFETY: catalog lookups require a running transaction, which the caller guarantees. The
    // pg_class row is read before it is released, and the IndexAmRoutine is palloc'd.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(oid),
        );
        if tuple.is_null() {
            return false;
        }
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let (kind, method) = (form.relkind as u8, form.relam);
        pg_sys::ReleaseSysCache(tuple);
        if kind != pg_sys::RELKIND_INDEX {
            return false;
        }
        let routine = pg_sys::GetIndexAmRoutineByAmId(method, true);
        routine.as_ref().is_some_and(|routine| {
            routine
                .ambuild
                .is_some_and(|build| build as usize == ambuild as *const () as usize)
        })
    }
}

fn wrong_object_error(oid: pg_sys::Oid) -> ErrorReport {
    // SAFETY: `check` runs in a transaction, which catalog lookups require. get_rel_name returns
    // null or a palloc'd string.
    let name = unsafe {
        let name = pg_sys::get_rel_name(oid);
        if name.is_null() {
            oid.to_u32().to_string()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    };
    sql_error(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!("\"{name}\" is not an mrl index"),
    )
}

/// # Safety
/// `relation` is an open index.
unsafe fn check_is_checkable(relation: pg_sys::Relation) -> Result<(), ErrorReport> {
    // SAFETY: the caller guarantees an open index, so `rd_index` (its pg_index row) is not null.
    unsafe {
        let name = relation_name(relation);
        if !(*(*relation).rd_index).indisvalid {
            return Err(sql_error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("index \"{name}\" is not valid"),
            )
            .set_hint("Rebuild the index with REINDEX, or drop it."));
        }
        let is_temporary =
            (*(*relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP;
        if is_temporary && !(*relation).rd_islocaltemp {
            return Err(sql_error(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("index \"{name}\" is a temporary index of another session"),
            ));
        }
        Ok(())
    }
}

impl Problem {
    fn of_block(block: pg_sys::BlockNumber) -> Problem {
        Problem {
            block: Some(block),
            entry: None,
            tid: None,
            problem: "page is corrupted",
        }
    }

    fn of_row(tid: Tid, problem: &'static str) -> Problem {
        Problem {
            block: None,
            entry: None,
            tid: Some(item_pointer(tid)),
            problem,
        }
    }

    fn of_entry(location: &EntryLocation, problem: &'static str) -> Problem {
        Problem {
            block: Some(location.block),
            entry: Some(location.entry.into()),
            tid: Some(item_pointer(location.tid)),
            problem,
        }
    }
}

impl Check {
    /// Reads all pages, and collects the location of every entry.
    fn read_index(&mut self) -> Result<(), ErrorReport> {
        for block in FIRST_BLOCK..self.index.block_count() {
            pgrx::check_for_interrupts!();
            let Ok((page, content)) = self
                .index
                .read(block, pg_sys::BUFFER_LOCK_SHARE, null_mut())
            else {
                self.problems.push(Problem::of_block(block));
                continue;
            };
            let count = content.entries();
            let Ok(slab) = self.index.slab(&page, count) else {
                self.problems.push(Problem::of_block(block));
                continue;
            };
            // An allocation that fails would abort the server process, and all other sessions with
            // it.
            self.locations
                .try_reserve(count)
                .map_err(|_| out_of_memory(self.locations.len()))?;
            self.locations.extend((0..count).map(|entry| EntryLocation {
                tid: slab.tid(entry),
                block,
                entry: entry as u16,
                found_row: false,
            }));
        }
        self.locations
            .sort_unstable_by_key(|location| (location.tid, location.block, location.entry));
        for pair in self.locations.windows(2) {
            if pair[0].tid == pair[1].tid {
                let problem = "row has more than one entry";
                self.problems.push(Problem::of_entry(&pair[1], problem));
            }
        }
        Ok(())
    }

    /// Scans the table, and checks the entry of every row that the index must contain.
    ///
    /// # Safety
    /// `table` is the index's table, and is open.
    unsafe fn read_table(&mut self, table: pg_sys::Relation) {
        // SAFETY: the caller guarantees the open table. table_index_build_scan ends the scan. With
        // `ii_Concurrent` it uses the snapshot of the scan, as in amcheck. The last argument of
        // table_beginscan_strat makes the scan start at the first block. The argument `allow_sync`
        // of table_index_build_scan has no effect on a scan that the caller has begun, but Postgres
        // asserts that it is true.
        unsafe {
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let info = pg_sys::BuildIndexInfo(self.index.relation);
            (*info).ii_Concurrent = true;
            let scan = pg_sys::table_beginscan_strat(table, snapshot, 0, null_mut(), true, false);
            pg_sys::table_index_build_scan(
                table,
                self.index.relation,
                info,
                true,
                false,
                Some(check_row),
                std::ptr::from_mut(self).cast(),
                scan,
            );
            pg_sys::UnregisterSnapshot(snapshot);
        }
    }

    /// # Safety
    /// `datum` is the indexed value of the row at `tid`, unless `is_null` is true.
    unsafe fn check_row(&mut self, tid: Tid, datum: pg_sys::Datum, is_null: bool) {
        let first = self
            .locations
            .partition_point(|location| location.tid < tid);
        let Some(location) = self.locations.get_mut(first).filter(|p| p.tid == tid) else {
            if !is_null {
                self.problems
                    .push(Problem::of_row(tid, "row has no entry in the index"));
            }
            return;
        };
        location.found_row = true;
        if is_null {
            let problem = "entry points to a row whose value is NULL";
            self.problems.push(Problem::of_entry(location, problem));
            return;
        }
        let agrees = encode(&self.index.meta, &mut self.encoder, datum).and_then(|()| {
            let (block, content) =
                self.index
                    .read(location.block, pg_sys::BUFFER_LOCK_SHARE, null_mut())?;
            let count = content.entries();
            let slab = self.index.slab(&block, count)?;
            let entry = usize::from(location.entry);
            Ok(entry < count && slab.holds(entry, &self.encoder))
        });
        if !matches!(agrees, Ok(true)) {
            let problem = "entry does not agree with its row";
            self.problems.push(Problem::of_entry(location, problem));
        }
    }

    /// Reports entries for which the table scan has found no row and which are not merely waiting
    /// for vacuum to remove them.
    ///
    /// # Safety
    /// `table` is the index's table, and is open.
    unsafe fn check_unmatched_entries(&mut self, table: pg_sys::Relation) {
        for location in self.locations.iter().filter(|location| !location.found_row) {
            pgrx::check_for_interrupts!();
            // SAFETY: the caller guarantees the open table.
            if let Some(problem) = unsafe { describe_dangling_entry(table, location.tid) } {
                self.problems.push(Problem::of_entry(location, problem));
            }
        }
    }
}

/// Describes the problem with an entry whose TID is not that of a row which the index must contain.
/// Returns `None` if the row is dead, because vacuum will remove the entry.
///
/// # Safety
/// `table` is open.
unsafe fn describe_dangling_entry(table: pg_sys::Relation, tid: Tid) -> Option<&'static str> {
    const GONE: Option<&str> = Some("entry points to a row that does not exist");
    // SAFETY: the caller guarantees the open table; the line pointer and the tuple header are read
    // while the page is pinned and locked.
    unsafe {
        let blocks =
            pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
        if tid.offset == 0 {
            return Some("entry has an invalid row identifier");
        }
        // The page layout is known only for tables of the access method heap.
        let is_heap = (*(*table).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID;
        if is_heap {
            if tid.block >= blocks {
                return GONE;
            }
            let block = Pin::read(table, tid.block, null_mut()).lock(pg_sys::BUFFER_LOCK_SHARE);
            let page = pg_sys::BufferGetPage(block.buffer());
            if pg_sys::PageIsNew(page) || tid.offset > pg_sys::PageGetMaxOffsetNumber(page) {
                return GONE;
            }
            let line = &*pg_sys::PageGetItemId(page, tid.offset);
            match line.lp_flags() {
                pg_sys::LP_UNUSED => return GONE,
                pg_sys::LP_NORMAL => {
                    let header = &*page
                        .cast::<u8>()
                        .add(line.lp_off() as usize)
                        .cast::<pg_sys::HeapTupleHeaderData>();
                    if header.t_infomask2 & pg_sys::HEAP_ONLY_TUPLE as u16 != 0 {
                        return Some("entry points to a heap-only tuple");
                    }
                }
                _ => {}
            }
        }
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let mut all_dead = false;
        let visible = pg_sys::table_index_fetch_tuple_check(
            table,
            &mut item_pointer(tid),
            snapshot,
            &mut all_dead,
        );
        pg_sys::UnregisterSnapshot(snapshot);
        visible.then_some("entry points to a row that the index must not contain")
    }
}

/// # Safety
/// Postgres calls this function with the state that [`Check::read_table`] has passed.
#[pg_guard]
unsafe extern "C-unwind" fn check_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `state` points to the Check in `read_table`. The arrays have one element, because the
    // index has one column.
    unsafe {
        let check = &mut *state.cast::<Check>();
        check.check_row(tid_of(&*tid), *values, *is_null);
    }
}
