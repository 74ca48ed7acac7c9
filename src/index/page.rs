//! Blocks of an index: reading, checking and changing them.
//!
//! | bytes of a block | what |
//! | --- | --- |
//! | 0..24 | Postgres' page header |
//! | 24.. | block 0: the [`Meta`]; others: the slab ([`crate::sweep::layout`]) |
//! | the last 8 | how many entries, u16; kind of page, u16; zero, u16; page id, u16 |
//!
//! `pd_lower` and `pd_upper` enclose the hole that the entries leave: generic WAL keeps nothing of it.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::sweep::kernel::Lines;
use crate::sweep::{Layout, Slab, SlabMut};
use crate::types::sql_error;

pub const PAGE: usize = pg_sys::BLCKSZ as usize;
const HEADER: usize = crate::sweep::layout::SLAB_START;
const SPECIAL: usize = 8;
const SLAB_END: usize = PAGE - SPECIAL;

/// A step of the free space map (`FSM_CAT_STEP` of Postgres' `freespace.c`).
pub const ROOM_FOR_ONE: usize = PAGE / 256;

/// The block of the [`Meta`].
pub const META_BLOCK: pg_sys::BlockNumber = 0;
/// The first block with entries.
pub const FIRST_BLOCK: pg_sys::BlockNumber = 1;

/// Tells our pages from other access methods' (`pg_filedump` goes by it; see Postgres'
/// `access/bloom.h` for the others').
const PAGE_ID: u16 = 0xFF8D;
const KIND_META: u16 = 1;
const KIND_ENTRIES: u16 = 2;

const MAGIC: u32 = 0x6d72_6c69;
const VERSION: u32 = 2;
/// Bits of a code's two levels.
const BITS: [u32; 2] = [8, 4];

/// What an index is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Dimensions of the column's vectors.
    pub dims: usize,
    /// Dimensions of the prefixes that are coded.
    pub prefix_dims: usize,
}

impl Meta {
    /// How entries lie on a page. `None` where no page can hold one.
    pub fn layout(&self) -> Option<Layout> {
        Layout::new(self.prefix_dims, SLAB_END - HEADER)
    }

    /// All numbers, and then all of them once more with every bit turned: without data checksums
    /// too, a bit that flips here is noticed.
    fn encode(&self) -> Vec<u8> {
        let numbers = [
            MAGIC,
            VERSION,
            self.dims as u32,
            self.prefix_dims as u32,
            BITS[0],
            BITS[1],
        ];
        let turned = numbers.map(|number| !number);
        let all = numbers.into_iter().chain(turned);
        all.flat_map(u32::to_ne_bytes).collect()
    }

    /// What [`Meta::encode`] has written at the start of `bytes`.
    fn decode(bytes: &[u8]) -> Option<Meta> {
        let number = |at: usize| Some(u32::from_ne_bytes(*bytes.as_chunks().0.get(at)?));
        let meta = Meta {
            dims: number(2)? as usize,
            prefix_dims: number(3)? as usize,
        };
        let is_whole = bytes.starts_with(&meta.encode());
        (is_whole && meta.prefix_dims <= meta.dims).then_some(meta)
    }
}

/// What a block is found to be.
pub enum Content {
    /// All zero: the file was extended, and what was to come did not.
    New,
    /// So many entries.
    Entries(usize),
}

impl Content {
    /// How many entries there are.
    pub fn entries(&self) -> usize {
        match self {
            Content::New => 0,
            Content::Entries(count) => *count,
        }
    }
}

/// The bytes of a block as a page of an index.
#[derive(Clone, Copy)]
pub struct Page<'a>(&'a [u8; PAGE]);

impl<'a> Page<'a> {
    fn header(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    /// Whether the header is one that we have written, around this hole.
    fn has_form(&self, kind: u16, hole: &Range<usize>) -> bool {
        let [lower, upper, special, size_version] = [12, 14, 16, 18].map(|at| self.header(at));
        usize::from(lower) == hole.start
            && usize::from(upper) == hole.end
            && usize::from(special) == SLAB_END
            && size_version == PAGE as u16 | pg_sys::PG_PAGE_LAYOUT_VERSION as u16
            && self.header(SLAB_END + 2) == kind
            && self.header(SLAB_END + 4) == 0
            && self.header(SLAB_END + 6) == PAGE_ID
    }

    /// What it holds. `None` where it can't be a page of entries.
    pub fn content(&self, layout: &Layout) -> Option<Content> {
        // As PageIsNew; but what only looks new is not.
        if self.header(14) == 0 {
            return self.0.iter().all(|b| *b == 0).then_some(Content::New);
        }
        let count = usize::from(self.header(SLAB_END));
        if !self.has_form(KIND_ENTRIES, &hole(layout, count)?) {
            return None;
        }
        let slab = Slab::new(layout, &self.0[HEADER..SLAB_END], count)?;
        slab.ends_at_count().then_some(Content::Entries(count))
    }

    /// The entries, after [`Page::content`] has said how many.
    fn slab(&self, layout: &'a Layout, count: usize) -> Option<Slab<'a>> {
        Slab::new(layout, &self.0[HEADER..SLAB_END], count)
    }
}

/// A block that is pinned, in shared memory, until this is dropped.
pub struct Pin {
    buffer: pg_sys::Buffer,
}

impl Pin {
    /// Finds or reads a block.
    ///
    /// # Safety
    /// `relation` is open, and has this block.
    pub unsafe fn read(
        relation: pg_sys::Relation,
        block: pg_sys::BlockNumber,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Pin {
        // SAFETY: the caller's promise.
        let buffer = unsafe {
            pg_sys::ReadBufferExtended(
                relation,
                pg_sys::ForkNumber::MAIN_FORKNUM,
                block,
                pg_sys::ReadBufferMode::RBM_NORMAL,
                strategy,
            )
        };
        Pin { buffer }
    }

    pub fn number(&self) -> pg_sys::BlockNumber {
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::BufferGetBlockNumber(self.buffer) }
    }

    pub fn buffer(&self) -> pg_sys::Buffer {
        self.buffer
    }

    /// # Safety
    /// The buffer is pinned, and that pin nobody else's.
    pub unsafe fn from_buffer(buffer: pg_sys::Buffer) -> Pin {
        Pin { buffer }
    }

    /// The buffer, pinned.
    pub fn into_buffer(self) -> pg_sys::Buffer {
        ManuallyDrop::new(self).buffer
    }

    /// What a sweep reads of every entry.
    pub fn swept(&self, layout: &Layout) -> Lines {
        Lines::new(self.start(), HEADER + layout.swept_len())
    }

    /// Where the number of entries is.
    pub fn last_line(&self) -> Lines {
        Lines::new(self.start().wrapping_add(SLAB_END), SPECIAL)
    }

    fn start(&self) -> *const u8 {
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::BufferGetPage(self.buffer).cast() }
    }

    /// Waits for the lock.
    pub fn lock(self, lock: u32) -> Block {
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::LockBuffer(self.buffer, lock as i32) };
        Block { pin: self }
    }

    /// Locks for writing, if nobody has it locked.
    pub fn try_lock(self) -> Option<Block> {
        // SAFETY: as above.
        unsafe { pg_sys::ConditionalLockBuffer(self.buffer) }.then(|| Block { pin: self })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // After an ERROR the end of the transaction gives up pins.
        if !std::thread::panicking() {
            // SAFETY: pinned by us.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) }
        }
    }
}

/// A block that is pinned and locked, until this is dropped.
pub struct Block {
    pin: Pin,
}

impl Block {
    /// Adds a block of zeros to a fork, and locks it for writing.
    ///
    /// # Safety
    /// `relation` is open, and nobody else extends it at this moment.
    pub unsafe fn extend(relation: pg_sys::Relation, fork: pg_sys::ForkNumber::Type) -> Block {
        // SAFETY: the caller's promise.
        unsafe {
            // Locked before anybody else can see it: else it might be full by the time we have it.
            let buffer = pg_sys::ReadBufferExtended(
                relation,
                fork,
                pg_sys::InvalidBlockNumber,
                pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK,
                null_mut(),
            );
            Block {
                pin: Pin { buffer },
            }
        }
    }

    /// # Safety
    /// The buffer is pinned and locked, and neither is anybody else's.
    pub unsafe fn from_buffer(buffer: pg_sys::Buffer) -> Block {
        Block {
            pin: Pin { buffer },
        }
    }

    /// The buffer, pinned and locked.
    pub fn into_buffer(self) -> pg_sys::Buffer {
        ManuallyDrop::new(self).buffer()
    }

    pub fn buffer(&self) -> pg_sys::Buffer {
        self.pin.buffer
    }

    pub fn number(&self) -> pg_sys::BlockNumber {
        self.pin.number()
    }

    pub fn page(&self) -> Page<'_> {
        // SAFETY: a pinned buffer is a page in shared memory; it is locked, so nobody changes it
        // while `self` is borrowed.
        Page(unsafe { &*pg_sys::BufferGetPage(self.buffer()).cast() })
    }

    /// The page, to be written at once. For pages that need no WAL record of the change (those of a
    /// build, which are logged whole at its end, and of an init fork).
    fn page_mut(&mut self) -> &mut [u8; PAGE] {
        // SAFETY: as above; the lock is exclusive.
        unsafe { &mut *pg_sys::BufferGetPage(self.buffer()).cast() }
    }

    /// Replaces the page, without a WAL record.
    pub fn overwrite(&mut self, page: &[u8; PAGE]) {
        *self.page_mut() = *page;
        // SAFETY: the buffer is pinned and locked for writing.
        unsafe { pg_sys::MarkBufferDirty(self.buffer()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // After an ERROR, Postgres has forgotten that it holds off interrupts for the lock, and the
        // end of the transaction gives up locks.
        if !std::thread::panicking() {
            // SAFETY: locked by us. The pin goes after this.
            unsafe { pg_sys::LockBuffer(self.buffer(), pg_sys::BUFFER_LOCK_UNLOCK as i32) }
        }
    }
}

/// The bytes of a page that `count` entries leave free. `None` where they don't fit.
fn hole(layout: &Layout, count: usize) -> Option<Range<usize>> {
    let hole = layout.hole(count)?;
    Some(HEADER + hole.start..HEADER + hole.end)
}

/// An empty page of entries.
pub fn empty_page(layout: &Layout) -> Box<[u8; PAGE]> {
    let mut page = Box::new([0; PAGE]);
    init_page(&mut page, KIND_ENTRIES);
    set_count(layout, &mut page, 0);
    page
}

/// Block 0.
pub fn meta_page(meta: &Meta) -> Box<[u8; PAGE]> {
    let bytes = meta.encode();
    let mut page = Box::new([0; PAGE]);
    init_page(&mut page, KIND_META);
    page[HEADER..HEADER + bytes.len()].copy_from_slice(&bytes);
    set_hole(&mut page, &(HEADER + bytes.len()..SLAB_END));
    page
}

/// A page of zeros with a header; [`set_hole`] is still to come.
fn init_page(page: &mut [u8; PAGE], kind: u16) {
    // SAFETY: PageInit zeroes BLCKSZ bytes and writes a header.
    unsafe { pg_sys::PageInit(page.as_mut_ptr().cast(), PAGE, SPECIAL) }
    page[SLAB_END + 2..][..2].copy_from_slice(&kind.to_ne_bytes());
    page[SLAB_END + 6..][..2].copy_from_slice(&PAGE_ID.to_ne_bytes());
}

/// The entries of a page to be changed; their number is written back by [`set_count`].
pub fn slab_mut<'a>(
    layout: &'a Layout,
    page: &'a mut [u8; PAGE],
    count: usize,
) -> Option<SlabMut<'a>> {
    SlabMut::new(layout, &mut page[HEADER..SLAB_END], count)
}

/// Notes how many entries a page has.
///
/// # Panics
/// If they don't fit.
pub fn set_count(layout: &Layout, page: &mut [u8; PAGE], count: usize) {
    page[SLAB_END..][..2].copy_from_slice(&(count as u16).to_ne_bytes());
    set_hole(page, &hole(layout, count).expect("entries that fit"));
}

/// `pd_lower` and `pd_upper`.
fn set_hole(page: &mut [u8; PAGE], hole: &Range<usize>) {
    page[12..14].copy_from_slice(&(hole.start as u16).to_ne_bytes());
    page[14..16].copy_from_slice(&(hole.end as u16).to_ne_bytes());
}

/// An open index.
pub struct Index {
    pub relation: pg_sys::Relation,
    pub meta: Meta,
    pub layout: Layout,
}

/// What we keep with Postgres' relation cache, until the relation's definition changes.
struct Cache {
    meta: Meta,
    insert_block: pg_sys::BlockNumber,
}

impl Index {
    /// # Safety
    /// `relation` is an open index of this access method, and stays open.
    pub unsafe fn open(relation: pg_sys::Relation) -> Result<Index, ErrorReport> {
        // SAFETY: the caller's promise.
        let meta = unsafe { (*Index::cache(relation)?).meta };
        Ok(Index {
            relation,
            meta,
            layout: meta
                .layout()
                .ok_or_else(|| unsafe { corrupted(relation, META_BLOCK) })?,
        })
    }

    /// Block 0 as it is in the file. `None` where it can't be one of ours.
    ///
    /// # Safety
    /// As [`Index::open`].
    pub unsafe fn read_meta(relation: pg_sys::Relation) -> Option<Meta> {
        // SAFETY: the caller's promise.
        unsafe {
            if block_count(relation) == 0 {
                return None;
            }
            let block = Pin::read(relation, META_BLOCK, null_mut()).lock(pg_sys::BUFFER_LOCK_SHARE);
            let page = block.page();
            let meta = Meta::decode(&page.0[HEADER..])?;
            let has_form = page.has_form(KIND_META, &(HEADER + meta.encode().len()..SLAB_END));
            (has_form && page.header(SLAB_END) == 0 && meta.layout().is_some()).then_some(meta)
        }
    }

    /// What is kept with the relation's entry of Postgres' cache, made if need be.
    ///
    /// # Safety
    /// As [`Index::open`]. The pointer is good until Postgres may look for invalidations: until the
    /// next call into it.
    unsafe fn cache(relation: pg_sys::Relation) -> Result<*mut Cache, ErrorReport> {
        // SAFETY: `rd_amcache` is the access method's own; Postgres frees it when it invalidates
        // the relation's entry.
        unsafe {
            if (*relation).rd_amcache.is_null() {
                let meta =
                    Index::read_meta(relation).ok_or_else(|| corrupted(relation, META_BLOCK))?;
                let size = size_of::<Cache>();
                let cache: *mut Cache =
                    pg_sys::MemoryContextAlloc((*relation).rd_indexcxt, size).cast();
                cache.write(Cache {
                    meta,
                    insert_block: pg_sys::InvalidBlockNumber,
                });
                (*relation).rd_amcache = cache.cast();
            }
            Ok((*relation).rd_amcache.cast())
        }
    }

    /// The block on which this backend inserted last; invalid where it has not.
    pub fn insert_block(&self) -> Result<pg_sys::BlockNumber, ErrorReport> {
        // SAFETY: the relation is open (`open`), and the pointer used at once.
        Ok(unsafe { (*Index::cache(self.relation)?).insert_block })
    }

    pub fn set_insert_block(&self, block: pg_sys::BlockNumber) -> Result<(), ErrorReport> {
        // SAFETY: as above.
        unsafe { (*Index::cache(self.relation)?).insert_block = block };
        Ok(())
    }

    /// Blocks of the file at this moment.
    pub fn block_count(&self) -> pg_sys::BlockNumber {
        // SAFETY: the relation is open.
        unsafe { block_count(self.relation) }
    }

    /// Reads and locks a block, and checks it.
    pub fn read(
        &self,
        number: pg_sys::BlockNumber,
        lock: u32,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Result<(Block, Content), ErrorReport> {
        // SAFETY: the relation is open; a block that it lacks is an ERROR.
        let block = unsafe { Pin::read(self.relation, number, strategy) }.lock(lock);
        let content = self.content(&block)?;
        Ok((block, content))
    }

    pub fn content(&self, block: &Block) -> Result<Content, ErrorReport> {
        block
            .page()
            .content(&self.layout)
            .ok_or_else(|| self.corrupted(block.number()))
    }

    /// The entries of a block, of which [`Index::content`] has said that there are `count`.
    pub fn slab<'a>(&'a self, block: &'a Block, count: usize) -> Result<Slab<'a>, ErrorReport> {
        block
            .page()
            .slab(&self.layout, count)
            .ok_or_else(|| self.corrupted(block.number()))
    }

    /// Changes a block under generic WAL. `change` gets the page, which has `count` entries, or is
    /// initialised if it is new, and returns how many it has then.
    ///
    /// # Safety
    /// `block` is a block of this index, locked for writing.
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
        // SAFETY: the caller's promise; GenericXLogRegisterBuffer returns a copy of the page, which
        // Finish writes back and logs. An error in between leaves the page as it was.
        unsafe {
            let state = pg_sys::GenericXLogStart(self.relation);
            let page = pg_sys::GenericXLogRegisterBuffer(state, block.buffer(), flags);
            let page: &mut [u8; PAGE] = &mut *page.cast();
            if matches!(content, Content::New) {
                init_page(page, KIND_ENTRIES);
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

    /// What the free space map is told of a block with `count` entries: a step of its scale for each
    /// free place. (In bytes, rounded down by the map, the last place would never be found.)
    pub fn room(&self, count: usize) -> usize {
        ((self.layout.capacity() - count) * ROOM_FOR_ONE).min(PAGE / 2)
    }

    /// Notes in the free space map how much room a block with `count` entries has.
    pub fn record_room(&self, block: pg_sys::BlockNumber, count: usize) {
        // SAFETY: the relation is open.
        unsafe { pg_sys::RecordPageWithFreeSpace(self.relation, block, self.room(count)) }
    }

    pub fn corrupted(&self, block: pg_sys::BlockNumber) -> ErrorReport {
        // SAFETY: the relation is open.
        unsafe { corrupted(self.relation, block) }
    }
}

/// # Safety
/// `relation` is open.
pub unsafe fn block_count(relation: pg_sys::Relation) -> pg_sys::BlockNumber {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
}

/// # Safety
/// `relation` is open.
pub unsafe fn relation_name(relation: pg_sys::Relation) -> String {
    // SAFETY: the relation's catalog row lives as long as it is open.
    unsafe { pgrx::name_data_to_str(&(*(*relation).rd_rel).relname).to_owned() }
}

/// # Safety
/// `relation` is open.
unsafe fn corrupted(relation: pg_sys::Relation, block: pg_sys::BlockNumber) -> ErrorReport {
    // SAFETY: the caller's promise.
    let name = unsafe { relation_name(relation) };
    sql_error(
        PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED,
        format!("index \"{name}\" contains corrupted page at block {block}"),
    )
    .set_hint("Please REINDEX it.")
}
