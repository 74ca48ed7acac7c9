//! CREATE INDEX and REINDEX.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use super::block::Block;
use super::entry::{encode, tid_of};
use super::options::Options;
use super::page::{Meta, PAGE, empty_page, meta_page, set_count, slab_mut};
use super::relation::relation_name;
use crate::sweep::{Encoder, Layout, MAX_PREFIX_DIMS, Tid};
use crate::types::{check_memory, sql_error};
use crate::version;

/// The number of encoded dimensions if the index does not specify it. The codes of an entry then
/// take 192 bytes (8 + 4 bits per dimension).
const DEFAULT_PREFIX_DIMS: usize = 128;

/// The number of pages that a build writes at a time: 8 MB. While it writes them, it reads no page of
/// the table, so they get neighbouring buffers. A sweep reads neighbouring buffers faster than buffers
/// between which pages of the table lie (by a quarter, measured with two entries on a page).
const PAGES_AT_A_TIME: usize = 1024;

/// The state of a build. It fills one page after another, in the order of the table.
struct Build {
    index: pg_sys::Relation,
    meta: Meta,
    layout: Layout,
    encoder: Encoder,
    /// Full pages that have not been written yet, at most [`PAGES_AT_A_TIME`].
    full: Vec<[u8; PAGE]>,
    /// The page that is being filled.
    page: Box<[u8; PAGE]>,
    /// Entries on `page`.
    count: usize,
    /// Entries that the build has added so far.
    entries: u64,
}

impl Build {
    fn add(&mut self, datum: pg_sys::Datum, tid: Tid) -> Result<(), ErrorReport> {
        encode(&self.meta, &mut self.encoder, datum)?;
        self.count = {
            let mut slab = slab_mut(&self.layout, &mut self.page, self.count)
                .expect("the page was made for this layout");
            slab.push(&self.encoder, tid);
            slab.count()
        };
        self.entries += 1;
        if self.count == self.layout.capacity() {
            self.finish_page()?;
            check_memory();
            // SAFETY: this only sets a counter in the backend's own progress report, which is that of a
            // CREATE INDEX.
            unsafe {
                pg_sys::pgstat_progress_update_param(
                    pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE as i32,
                    self.entries as i64,
                );
            }
        }
        Ok(())
    }

    /// Adds the page to the full pages, and begins an empty one.
    fn finish_page(&mut self) -> Result<(), ErrorReport> {
        if self.full.len() == PAGES_AT_A_TIME {
            self.write_full_pages();
        }
        self.full
            .try_reserve(1)
            .map_err(|_| sql_error(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory"))?;
        set_count(&self.layout, &mut self.page, self.count);
        self.full.push(*self.page);
        self.page = empty_page(&self.layout);
        self.count = 0;
        Ok(())
    }

    /// Writes the pages that are still in memory.
    fn finish(&mut self) -> Result<(), ErrorReport> {
        if self.count > 0 {
            self.finish_page()?;
        }
        self.write_full_pages();
        Ok(())
    }

    fn write_full_pages(&mut self) {
        for page in self.full.drain(..) {
            // SAFETY: the file is new, and no other backend can see it yet.
            let mut block = unsafe { Block::extend(self.index, pg_sys::ForkNumber::MAIN_FORKNUM) };
            block.overwrite(&page);
        }
    }
}

/// Determines the parameters of an index from its column and its storage parameters.
///
/// # Safety
/// `index` is open.
pub unsafe fn meta_of(index: pg_sys::Relation) -> Result<Meta, ErrorReport> {
    // SAFETY: the caller guarantees an open index, which has at least one key column.
    // getBaseTypeAndTypmod resolves domains.
    let (dims, option) = unsafe {
        let descriptor = (*index).rd_att;
        let attribute = &*version::first_attribute(descriptor);
        let mut typmod = attribute.atttypmod;
        pg_sys::getBaseTypeAndTypmod(attribute.atttypid, &mut typmod);
        (typmod, Options::prefix_dims(index))
    };
    let dims = usize::try_from(dims).map_err(|_| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "column of an mrl index must declare its number of dimensions",
        )
        .set_hint("Declare the column as mrl_vector(n), for example mrl_vector(2048).")
    })?;
    let prefix_dims = option.unwrap_or(DEFAULT_PREFIX_DIMS.min(dims));
    if prefix_dims > dims {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("prefix_dims {prefix_dims} exceeds the column's {dims} dimensions"),
        ));
    }
    Ok(Meta { dims, prefix_dims })
}

fn layout_of(meta: &Meta) -> Result<Layout, ErrorReport> {
    meta.layout().ok_or_else(|| {
        sql_error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "prefix_dims {} is outside 1 .. {MAX_PREFIX_DIMS}",
                meta.prefix_dims
            ),
        )
    })
}

/// Returns an error if the access method does not support this use of the index.
///
/// # Safety
/// `table` is open, and `info` describes the index.
unsafe fn check_supported(
    table: pg_sys::Relation,
    info: *const pg_sys::IndexInfo,
) -> Result<(), ErrorReport> {
    let unsupported =
        |message: String| sql_error(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message);
    // SAFETY: the caller guarantees an open table and a valid `info`.
    unsafe {
        // An exclusion constraint needs a commutative operator. Only the operators on two vectors
        // are commutative, and their results depend on the settings of the session. So a REINDEX or
        // a restore in one session could reject rows that another session has accepted.
        if !(*info).ii_ExclusionOps.is_null() {
            return Err(unsupported(
                "access method \"mrl\" does not support exclusion constraints".to_owned(),
            )
            .set_detail(
                "Whether two vectors conflict under the operator @~ depends on the session's settings.",
            ));
        }
        // A scan reports an entry as corrupted if its TID cannot be that of a row in a heap. In a table of
        // another access method, rows may have such TIDs.
        if !std::ptr::eq((*table).rd_tableam, pg_sys::GetHeapamTableAmRoutine()) {
            return Err(unsupported(format!(
                "access method \"mrl\" does not support table \"{}\"",
                relation_name(table)
            ))
            .set_detail("Only tables with the access method \"heap\" can be indexed."));
        }
    }
    Ok(())
}

#[pg_guard]
pub unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: Postgres passes open relations. `build` outlives the table scan, which uses its
    // address.
    unsafe {
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        if pg_sys::RelationGetNumberOfBlocksInFork(index, main) != 0 {
            let name = relation_name(index);
            sql_error(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("index \"{name}\" already contains data"),
            )
            .report(PgLogLevel::ERROR);
        }
        check_supported(heap, info).unwrap_or_report();
        let meta = meta_of(index).unwrap_or_report();
        let layout = layout_of(&meta).unwrap_or_report();
        Block::extend(index, pg_sys::ForkNumber::MAIN_FORKNUM).overwrite(&meta_page(&meta));
        let mut build = Build {
            index,
            meta,
            encoder: Encoder::new(&layout),
            full: Vec::new(),
            page: empty_page(&layout),
            layout,
            count: 0,
            entries: 0,
        };
        let heap_tuples = pg_sys::table_index_build_scan(
            heap,
            index,
            info,
            true,
            true,
            Some(add_row),
            (&raw mut build).cast(),
            std::ptr::null_mut(),
        );
        build.finish().unwrap_or_report();
        if needs_wal(index) {
            let blocks =
                pg_sys::RelationGetNumberOfBlocksInFork(index, pg_sys::ForkNumber::MAIN_FORKNUM);
            pg_sys::log_newpage_range(index, pg_sys::ForkNumber::MAIN_FORKNUM, 0, blocks, true);
        }
        let mut result = PgBox::<pg_sys::IndexBuildResult>::alloc0();
        result.heap_tuples = heap_tuples;
        result.index_tuples = build.entries as f64;
        result.into_pg()
    }
}

/// Adds a row to the index. The table scan calls this function for every row that the index must
/// contain. The table scan also processes interrupts.
#[pg_guard]
unsafe extern "C-unwind" fn add_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `state` points to the `Build` in `ambuild`. The arrays have one element, because the
    // index has one column.
    unsafe {
        if !*is_null {
            let build = &mut *state.cast::<Build>();
            build.add(*values, tid_of(&*tid)).unwrap_or_report();
        }
    }
}

/// Writes the init fork of an unlogged index, which replaces the main fork after a crash.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: Postgres passes an open relation with an empty init fork.
    unsafe {
        let meta = meta_of(index).unwrap_or_report();
        layout_of(&meta).unwrap_or_report();
        let mut block = Block::extend(index, pg_sys::ForkNumber::INIT_FORKNUM);
        let page = meta_page(&meta);
        // START_CRIT_SECTION and END_CRIT_SECTION of `miscadmin.h`: no error may occur between
        // marking the buffer dirty and logging the page.
        pg_sys::CritSectionCount += 1;
        block.overwrite(&page);
        pg_sys::log_newpage_buffer(block.buffer(), true);
        pg_sys::CritSectionCount -= 1;
    }
}

/// RelationNeedsWAL of `utils/rel.h`: true for a permanent relation, unless its file was created in
/// this transaction and `wal_level` is minimal (Postgres then syncs the file at commit).
///
/// # Safety
/// `relation` is open.
unsafe fn needs_wal(relation: pg_sys::Relation) -> bool {
    const WAL_LEVEL_REPLICA: i32 = 1;
    const INVALID_SUB_TRANSACTION_ID: pg_sys::SubTransactionId = 0;
    // SAFETY: the caller guarantees an open relation.
    unsafe {
        let first = version::first_file_subtransaction(relation);
        let is_permanent =
            (*(*relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT;
        let is_new = (*relation).rd_createSubid != INVALID_SUB_TRANSACTION_ID
            || first != INVALID_SUB_TRANSACTION_ID;
        is_permanent && (pg_sys::wal_level >= WAL_LEVEL_REPLICA || !is_new)
    }
}
