//! `photosearch.check_index`: whether an index holds exactly what it should.
//!
//! In the manner of Postgres' amcheck. Writers are kept out while it runs (ShareLock on the table).
//! A page that Postgres itself refuses (by its checksum, or its header) ends the check with Postgres'
//! error, which names the block.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::build::ambuild;
use super::entry::{encode, item_pointer, tid_of};
use super::page::{FIRST_BLOCK, Index, META_BLOCK, Pin, relation_name};
use crate::sweep::{Encoder, Tid};
use crate::types::sql_error;

/// Something that is not as it should be.
pub struct Problem {
    pub block: Option<pg_sys::BlockNumber>,
    pub entry: Option<usize>,
    pub tid: Option<pg_sys::ItemPointerData>,
    pub problem: &'static str,
}

/// Where an entry is, for which row, and whether the table has that.
struct Place {
    tid: Tid,
    block: pg_sys::BlockNumber,
    entry: u16,
    seen: bool,
}

struct Check {
    index: Index,
    encoder: Encoder,
    /// All entries; ordered by TID, once all pages have been read.
    places: Vec<Place>,
    problems: Vec<Problem>,
}

/// Every disagreement between the index and its table; an error where `oid` is no index of ours, or is
/// one that can't be checked.
///
/// # Safety
/// Called in a transaction.
pub unsafe fn check(oid: pg_sys::Oid) -> Result<Vec<Problem>, ErrorReport> {
    let share = pg_sys::ShareLock as pg_sys::LOCKMODE;
    let access_share = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: relations are opened with a lock, the table before its index, as everywhere; they are
    // closed at the end, or with the transaction where an error comes, which also gives the user
    // back.
    unsafe {
        let table_oid = pg_sys::IndexGetRelation(oid, true);
        if table_oid == pg_sys::InvalidOid || !is_ours(oid) {
            return Err(not_ours(oid));
        }
        let table = pg_sys::table_open(table_oid, share);
        // Expressions of the index are code of the table's owner: they run with his rights.
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            (*(*table).rd_rel).relowner,
            context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32,
        );
        let settings = pg_sys::NewGUCNestLevel();
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        pg_sys::RestrictSearchPath();

        let relation = pg_sys::index_open(oid, access_share);
        // The table may have been another one's before it was locked.
        if pg_sys::IndexGetRelation(oid, true) != table_oid {
            return Err(not_ours(oid));
        }
        is_checkable(relation)?;
        let problems = check_open(relation, table)?;
        pg_sys::index_close(relation, access_share);

        pg_sys::AtEOXact_GUC(false, settings);
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        Ok(problems)
    }
}

/// # Safety
/// `relation` is an open index of ours, of the open table.
unsafe fn check_open(
    relation: pg_sys::Relation,
    table: pg_sys::Relation,
) -> Result<Vec<Problem>, ErrorReport> {
    // SAFETY: the caller's promise. What is cached of the index may be older than the damage, and
    // is not used.
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
            places: Vec::new(),
            problems: Vec::new(),
        };
        check.read_index()?;
        check.read_table(table);
        check.judge_unseen(table);
        Ok(check.problems)
    }
}

fn out_of_memory(entries: usize) -> ErrorReport {
    sql_error(
        PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        format!("out of memory while checking an index of more than {entries} entries"),
    )
}

/// Whether this is an index of ours, by its access method's handler.
///
/// # Safety
/// Called in a transaction.
unsafe fn is_ours(oid: pg_sys::Oid) -> bool {
    // SAFETY: reads the system catalogs; the routine is palloc'd.
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

fn not_ours(oid: pg_sys::Oid) -> ErrorReport {
    // SAFETY: reads the system catalogs; the name is palloc'd.
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
unsafe fn is_checkable(relation: pg_sys::Relation) -> Result<(), ErrorReport> {
    // SAFETY: the caller's promise. Each index has a row in pg_index.
    unsafe {
        let name = relation_name(relation);
        if !(*(*relation).rd_index).indisvalid {
            return Err(sql_error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("index \"{name}\" is not valid"),
            )
            .set_hint("REINDEX it, or drop it."));
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

    fn of_entry(place: &Place, problem: &'static str) -> Problem {
        Problem {
            block: Some(place.block),
            entry: Some(place.entry.into()),
            tid: Some(item_pointer(place.tid)),
            problem,
        }
    }
}

impl Check {
    /// Every page, and where each row's entry is.
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
            // An allocation that fails would end the server process, and with it all others.
            self.places
                .try_reserve(count)
                .map_err(|_| out_of_memory(self.places.len()))?;
            self.places.extend((0..count).map(|entry| Place {
                tid: slab.tid(entry),
                block,
                entry: entry as u16,
                seen: false,
            }));
        }
        self.places
            .sort_unstable_by_key(|place| (place.tid, place.block, place.entry));
        for pair in self.places.windows(2) {
            if pair[0].tid == pair[1].tid {
                let problem = "row has more than one entry";
                self.problems.push(Problem::of_entry(&pair[1], problem));
            }
        }
        Ok(())
    }

    /// Every row that the index is to have, and its entry.
    ///
    /// # Safety
    /// `table` is the index' table, open.
    unsafe fn read_table(&mut self, table: pg_sys::Relation) {
        // SAFETY: the scan ends, and lets go of itself, in table_index_build_scan. `ii_Concurrent`
        // makes it go by the snapshot that we give, as in amcheck. Where a scan is given, how that was
        // begun decides whether it may start in the middle of the table (it may not: the last
        // argument), and Postgres asserts that `allow_sync` is true.
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
    /// `datum` is the indexed value of the row at `tid`, unless `is_null`.
    unsafe fn check_row(&mut self, tid: Tid, datum: pg_sys::Datum, is_null: bool) {
        let first = self.places.partition_point(|place| place.tid < tid);
        let Some(place) = self.places.get_mut(first).filter(|p| p.tid == tid) else {
            if !is_null {
                self.problems
                    .push(Problem::of_row(tid, "row has no entry in the index"));
            }
            return;
        };
        place.seen = true;
        if is_null {
            let problem = "entry of a row whose value is NULL";
            self.problems.push(Problem::of_entry(place, problem));
            return;
        }
        let holds = encode(&self.index.meta, &mut self.encoder, datum).and_then(|()| {
            let (block, content) =
                self.index
                    .read(place.block, pg_sys::BUFFER_LOCK_SHARE, null_mut())?;
            let count = content.entries();
            let slab = self.index.slab(&block, count)?;
            let entry = usize::from(place.entry);
            Ok(entry < count && slab.holds(entry, &self.encoder))
        });
        if !matches!(holds, Ok(true)) {
            let problem = "entry does not agree with its row";
            self.problems.push(Problem::of_entry(place, problem));
        }
    }

    /// Entries for which the table's scan met no row: those of dead rows wait for vacuum, others
    /// should not be there.
    ///
    /// # Safety
    /// `table` is the index' table, open.
    unsafe fn judge_unseen(&mut self, table: pg_sys::Relation) {
        for place in self.places.iter().filter(|place| !place.seen) {
            pgrx::check_for_interrupts!();
            // SAFETY: the caller's promise.
            if let Some(problem) = unsafe { why_wrong(table, place.tid) } {
                self.problems.push(Problem::of_entry(place, problem));
            }
        }
    }
}

/// What is wrong with an entry for this TID, although no row that the index is to have is there.
/// `None`: the row is dead, and vacuum has yet to come.
///
/// # Safety
/// `table` is open.
unsafe fn why_wrong(table: pg_sys::Relation, tid: Tid) -> Option<&'static str> {
    const GONE: Option<&str> = Some("entry of a row that is gone");
    // SAFETY: the caller's promise; line pointers are read under a lock of their page.
    unsafe {
        let blocks =
            pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
        if tid.offset == 0 {
            return Some("entry has no valid row identifier");
        }
        // Only of Postgres' own heap do we know how its pages look.
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
                        return Some("entry of a row version that is reached through another one");
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
        visible.then_some("entry of a row that the index should not have")
    }
}

/// # Safety
/// Called by Postgres with the state that [`Check::read_table`] has given.
#[pg_guard]
unsafe extern "C-unwind" fn check_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: the state is the Check; one column.
    unsafe {
        let check = &mut *state.cast::<Check>();
        check.check_row(tid_of(&*tid), *values, *is_null);
    }
}
