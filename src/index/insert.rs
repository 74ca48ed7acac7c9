//! Insertion of an entry.
//!
//! Each backend inserts on the same page as the last time, so that concurrent writers rarely
//! compete for a page. When that page is full, the free space map provides another one. If the map
//! has none, the index is extended.

use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use super::block::{Block, Pin};
use super::entry::{encode, tid_of};
use super::page::{Content, FIRST_BLOCK, SPACE_FOR_ONE_ENTRY};
use super::relation::Index;
use crate::sweep::{Encoder, Tid};

#[pg_guard]
#[expect(clippy::too_many_arguments, reason = "the signature is Postgres'")]
pub unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _unique: pg_sys::IndexUniqueCheck::Type,
    _unchanged: bool,
    _info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: Postgres passes an open index, arrays of one element (the index has one column), and
    // the row's TID.
    unsafe {
        if !*is_null {
            let index = Index::open(index).unwrap_or_report();
            let mut encoder = Encoder::new(&index.layout);
            encode(&index.meta, &mut encoder, *values).unwrap_or_report();
            insert(&index, &encoder, tid_of(&*tid)).unwrap_or_report();
        }
    }
    // The result is meaningful only for unique indexes.
    false
}

fn insert(index: &Index, encoder: &Encoder, tid: Tid) -> Result<(), ErrorReport> {
    let own = index.insert_block()?;
    if own != pg_sys::InvalidBlockNumber {
        let (block, content) = index.read(own, pg_sys::BUFFER_LOCK_EXCLUSIVE, null_mut())?;
        if add(index, &block, &content, encoder, tid)? {
            return Ok(());
        }
    } else if let Some(last) = index
        .block_count()
        .checked_sub(1)
        .filter(|b| *b >= FIRST_BLOCK)
    {
        // This backend inserts into the index for the first time. Try the last block, which another
        // backend may have left partly filled, unless it is locked at the moment. The free space
        // map learns of that block only from vacuum.
        // SAFETY: the block exists, because an index is not truncated while it is open.
        let last = unsafe { Pin::read(index.relation, last, null_mut()) }.try_lock();
        if let Some(block) = last {
            let content = index.content(&block)?;
            if add(index, &block, &content, encoder, tid)? {
                return index.set_insert_block(block.number());
            }
        }
    }

    // SAFETY: `Index::open` guarantees an open relation.
    let mut number = unsafe { pg_sys::GetPageWithFreeSpace(index.relation, SPACE_FOR_ONE_ENTRY) };
    while number != pg_sys::InvalidBlockNumber {
        pgrx::check_for_interrupts!();
        // The free space map is only a hint. After a crash it may contain blocks that do not exist.
        let count = if (FIRST_BLOCK..index.block_count()).contains(&number) {
            let (block, content) = index.read(number, pg_sys::BUFFER_LOCK_EXCLUSIVE, null_mut())?;
            if add(index, &block, &content, encoder, tid)? {
                return index.set_insert_block(number);
            }
            content.entries()
        } else {
            index.layout.capacity()
        };
        // SAFETY: `Index::open` guarantees an open relation. The call corrects the map and searches
        // again.
        number = unsafe {
            pg_sys::RecordAndGetPageWithFreeSpace(
                index.relation,
                number,
                index.free_space(count),
                SPACE_FOR_ONE_ENTRY,
            )
        };
    }

    loop {
        let block = extend(index);
        let content = index.content(&block)?;
        if add(index, &block, &content, encoder, tid)? {
            return index.set_insert_block(block.number());
        }
    }
}

/// Adds the entry if the page has space for it; returns false if it has none.
#[must_use = "an entry that is not added is a row that is not found"]
fn add(
    index: &Index,
    block: &Block,
    content: &Content,
    encoder: &Encoder,
    tid: Tid,
) -> Result<bool, ErrorReport> {
    if content.entries() == index.layout.capacity() {
        return Ok(false);
    }
    // SAFETY: every caller passes a block of this index with an exclusive lock, and `content` is
    // its current state.
    unsafe { index.change(block, content, |slab| slab.push(encoder, tid))? };
    Ok(true)
}

/// Extends the index by one block, which is returned with an exclusive lock.
fn extend(index: &Index) -> Block {
    // SAFETY: `Index::open` guarantees an open relation; the extension lock keeps other backends
    // from extending it.
    unsafe {
        let lock = pg_sys::ExclusiveLock as i32;
        pg_sys::LockRelationForExtension(index.relation, lock);
        let block = Block::extend(index.relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::UnlockRelationForExtension(index.relation, lock);
        block
    }
}
