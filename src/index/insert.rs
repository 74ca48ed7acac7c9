//! A new entry.
//!
//! Each backend goes on with the page on which it inserted last, so that writers rarely meet on a
//! page. When that is full, the free space map names another one; when it knows none, the index
//! grows.

use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

use super::entry::{encode, tid_of};
use super::page::{Block, Content, FIRST_BLOCK, Index, Pin, ROOM_FOR_ONE};
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
    // SAFETY: Postgres passes an open index of one column, and the row's TID.
    unsafe {
        if !*is_null {
            let index = Index::open(index).unwrap_or_report();
            let mut encoder = Encoder::new(&index.layout);
            encode(&index.meta, &mut encoder, *values).unwrap_or_report();
            insert(&index, &encoder, tid_of(&*tid)).unwrap_or_report();
        }
    }
    // What a unique index would say.
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
        // A backend's first entry: what the last one left of the last page, unless somebody is
        // busy there. (The map learns of that page only from vacuum.)
        // SAFETY: the block is there; an index never shrinks while it is open.
        let last = unsafe { Pin::read(index.relation, last, null_mut()) }.try_lock();
        if let Some(block) = last {
            let content = index.content(&block)?;
            if add(index, &block, &content, encoder, tid)? {
                return index.set_insert_block(block.number());
            }
        }
    }

    // SAFETY: the relation is open.
    let mut number = unsafe { pg_sys::GetPageWithFreeSpace(index.relation, ROOM_FOR_ONE) };
    while number != pg_sys::InvalidBlockNumber {
        pgrx::check_for_interrupts!();
        // The map is a hint, and after a crash may speak of blocks that are not there.
        let count = if (FIRST_BLOCK..index.block_count()).contains(&number) {
            let (block, content) = index.read(number, pg_sys::BUFFER_LOCK_EXCLUSIVE, null_mut())?;
            if add(index, &block, &content, encoder, tid)? {
                return index.set_insert_block(number);
            }
            content.entries()
        } else {
            index.layout.capacity()
        };
        // SAFETY: as above. Corrects the map, and asks again.
        number = unsafe {
            pg_sys::RecordAndGetPageWithFreeSpace(
                index.relation,
                number,
                index.room(count),
                ROOM_FOR_ONE,
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

/// Adds the entry, if there is room; false where there is none.
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
    // SAFETY: the block is of this index, and locked for writing.
    unsafe { index.change(block, content, |slab| slab.push(encoder, tid))? };
    Ok(true)
}

/// A new block, locked for writing.
fn extend(index: &Index) -> Block {
    // SAFETY: the relation is open; the lock keeps others from extending it.
    unsafe {
        let lock = pg_sys::ExclusiveLock as i32;
        pg_sys::LockRelationForExtension(index.relation, lock);
        let block = Block::extend(index.relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::UnlockRelationForExtension(index.relation, lock);
        block
    }
}
