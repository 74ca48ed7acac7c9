//! An open index: its parameters, and reading and changing its blocks.

use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::block::{Block, Pin};
use super::page::{
    Content, META_BLOCK, Meta, PAGE, SPACE_FOR_ONE_ENTRY, VERSION, init_entries, set_count,
    slab_mut,
};
use crate::sweep::{Layout, Slab, SlabMut};
use crate::types::sql_error;

/// An open index, with its parameters and its layout.
pub struct Index {
    pub relation: pg_sys::Relation,
    pub meta: Meta,
    pub layout: Layout,
}

/// The data that this access method keeps in `rd_amcache` of the relation's relcache entry, until
/// Postgres invalidates that entry.
struct CachedState {
    meta: Meta,
    /// The block on which this backend inserted last, or InvalidBlockNumber.
    insert_block: pg_sys::BlockNumber,
}

impl Index {
    /// # Safety
    /// `relation` is an open index of this access method, and stays open as long as the result is
    /// used.
    pub unsafe fn open(relation: pg_sys::Relation) -> Result<Index, ErrorReport> {
        // SAFETY: the caller guarantees an open index; the pointer is used at once.
        let meta = unsafe { (*Index::cache(relation)?).meta };
        Ok(Index {
            relation,
            meta,
            layout: meta
                .layout()
                // SAFETY: the caller guarantees an open index.
                .ok_or_else(|| unsafe { corrupted(relation, META_BLOCK) })?,
        })
    }

    /// Reads the metapage from the file, without the cache. Returns `None` if it is missing or
    /// corrupted.
    ///
    /// # Safety
    /// As for [`Index::open`].
    pub unsafe fn read_meta(relation: pg_sys::Relation) -> Option<Meta> {
        // SAFETY: the caller guarantees an open index. It has at least one block, so block 0
        // exists.
        unsafe {
            if block_count(relation) == 0 {
                return None;
            }
            let block = Pin::read(relation, META_BLOCK, null_mut()).lock(pg_sys::BUFFER_LOCK_SHARE);
            block.page().meta()
        }
    }

    /// Returns the cached data of the relation. Reads the metapage if the data are not cached.
    ///
    /// # Safety
    /// As for [`Index::open`]. The pointer is valid until Postgres processes invalidation messages,
    /// which any call into Postgres may do.
    unsafe fn cache(relation: pg_sys::Relation) -> Result<*mut CachedState, ErrorReport> {
        // SAFETY: `rd_amcache` is reserved for the access method. Postgres frees it, and sets it to
        // null, when it invalidates the relcache entry.
        unsafe {
            if (*relation).rd_amcache.is_null() {
                let meta = Index::read_meta(relation).ok_or_else(|| unreadable_meta(relation))?;
                let size = size_of::<CachedState>();
                let cache: *mut CachedState =
                    pg_sys::MemoryContextAlloc((*relation).rd_indexcxt, size).cast();
                cache.write(CachedState {
                    meta,
                    insert_block: pg_sys::InvalidBlockNumber,
                });
                (*relation).rd_amcache = cache.cast();
            }
            Ok((*relation).rd_amcache.cast())
        }
    }

    /// The block on which this backend inserted last, or InvalidBlockNumber if it has not inserted
    /// yet.
    pub fn insert_block(&self) -> Result<pg_sys::BlockNumber, ErrorReport> {
        // SAFETY: `open` guarantees an open index; the pointer is used at once.
        Ok(unsafe { (*Index::cache(self.relation)?).insert_block })
    }

    pub fn set_insert_block(&self, block: pg_sys::BlockNumber) -> Result<(), ErrorReport> {
        // SAFETY: `open` guarantees an open index; the pointer is used at once.
        unsafe { (*Index::cache(self.relation)?).insert_block = block };
        Ok(())
    }

    /// The current number of blocks of the file.
    pub fn block_count(&self) -> pg_sys::BlockNumber {
        // SAFETY: `open` guarantees an open relation.
        unsafe { block_count(self.relation) }
    }

    /// Pins, locks and checks a block. Returns an error if its page is corrupted.
    pub fn read(
        &self,
        number: pg_sys::BlockNumber,
        lock: u32,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Result<(Block, Content), ErrorReport> {
        // SAFETY: `open` guarantees an open relation. If the block does not exist, Postgres raises
        // an ERROR.
        let block = unsafe { Pin::read(self.relation, number, strategy) }.lock(lock);
        let content = self.content(&block)?;
        Ok((block, content))
    }

    /// Checks the page of a block, and returns what it contains.
    pub fn content(&self, block: &Block) -> Result<Content, ErrorReport> {
        block
            .page()
            .content(&self.layout)
            .ok_or_else(|| self.corrupted(block.number()))
    }

    /// The entries of a block. `count` is the number of entries that [`Index::content`] has returned.
    pub fn slab<'a>(&'a self, block: &'a Block, count: usize) -> Result<Slab<'a>, ErrorReport> {
        block
            .page()
            .slab(&self.layout, count)
            .ok_or_else(|| self.corrupted(block.number()))
    }

    /// Changes a page of entries and logs the change with generic WAL. If the page is new, it is
    /// initialized first. Returns the number of entries after `change`.
    ///
    /// # Safety
    /// `block` is a block of this index with an exclusive lock, and `content` is what
    /// [`Index::content`] returns for it.
    pub unsafe fn change(
        &self,
        block: &Block,
        content: &Content,
        change: impl FnOnce(&mut SlabMut<'_>),
    ) -> Result<usize, ErrorReport> {
        let (flags, count) = match content {
            Content::New => (pg_sys::GENERIC_XLOG_FULL_IMAGE as i32, 0),
            Content::Entries(count) => (0, *count),
        };
        // SAFETY: the caller guarantees a block of this index with an exclusive lock.
        // GenericXLogRegisterBuffer returns a copy of the page; GenericXLogFinish writes it back
        // and logs it. If an error occurs in between, the page stays unchanged.
        unsafe {
            let state = pg_sys::GenericXLogStart(self.relation);
            let page = pg_sys::GenericXLogRegisterBuffer(state, block.buffer(), flags);
            let page: &mut [u8; PAGE] = &mut *page.cast();
            if matches!(content, Content::New) {
                init_entries(page);
            }
            let mut slab = slab_mut(&self.layout, page, count)
                .ok_or_else(|| self.corrupted(block.number()))?;
            change(&mut slab);
            let count = slab.count();
            set_count(&self.layout, page, count);
            pg_sys::GenericXLogFinish(state);
            Ok(count)
        }
    }

    /// The free space, in bytes, that is recorded in the free space map for a block with `count` entries:
    /// one step of the map's scale for each free place, and at most half a page, because the map takes only
    /// sizes below a page. The map rounds recorded sizes down to steps, and requested sizes up. With actual
    /// numbers of bytes it would never find the last place on a page.
    pub fn free_space(&self, count: usize) -> usize {
        ((self.layout.capacity() - count) * SPACE_FOR_ONE_ENTRY).min(PAGE / 2)
    }

    /// Records the free space of a block with `count` entries in the free space map.
    pub fn record_free_space(&self, block: pg_sys::BlockNumber, count: usize) {
        // SAFETY: `open` guarantees an open relation.
        unsafe { pg_sys::RecordPageWithFreeSpace(self.relation, block, self.free_space(count)) }
    }

    pub fn corrupted(&self, block: pg_sys::BlockNumber) -> ErrorReport {
        // SAFETY: `open` guarantees an open relation.
        unsafe { corrupted(self.relation, block) }
    }
}

/// # Safety
/// `relation` is open.
pub unsafe fn block_count(relation: pg_sys::Relation) -> pg_sys::BlockNumber {
    // SAFETY: the caller guarantees an open relation.
    unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
}

/// # Safety
/// `relation` is open.
pub unsafe fn relation_name(relation: pg_sys::Relation) -> String {
    // SAFETY: the caller guarantees an open relation, whose pg_class row (`rd_rel`) is valid as
    // long as it is open.
    unsafe { pgrx::name_data_to_str(&(*(*relation).rd_rel).relname).to_owned() }
}

/// Returns the error that says why the metapage of an index cannot be used.
///
/// # Safety
/// As for [`Index::open`].
unsafe fn unreadable_meta(relation: pg_sys::Relation) -> ErrorReport {
    // SAFETY: the caller guarantees an open index. Block 0 is read only if it exists.
    unsafe {
        let version = (block_count(relation) > 0)
            .then(|| Pin::read(relation, META_BLOCK, null_mut()).lock(pg_sys::BUFFER_LOCK_SHARE))
            .and_then(|block| block.page().stated_version());
        match version {
            Some(version) if version != VERSION => sql_error(
                PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
                format!(
                    "index \"{}\" has page format {version}, but this version of photosearch reads only page format {VERSION}",
                    relation_name(relation)
                ),
            )
            .set_hint("Please REINDEX it."),
            _ => corrupted(relation, META_BLOCK),
        }
    }
}

/// # Safety
/// `relation` is open.
unsafe fn corrupted(relation: pg_sys::Relation, block: pg_sys::BlockNumber) -> ErrorReport {
    // SAFETY: the caller guarantees an open relation.
    let name = unsafe { relation_name(relation) };
    sql_error(
        PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
        format!("index \"{name}\" contains corrupted page at block {block}"),
    )
    .set_hint("Please REINDEX it.")
}
