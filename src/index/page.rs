//! The pages of an index: reading, checking and changing them.
//!
//! | bytes of a block | contents |
//! | --- | --- |
//! | 0..24 | Postgres' page header |
//! | 24.. | block 0: the [`Meta`]; other blocks: the slab ([`crate::sweep::layout`]) |
//! | the last 8 | number of entries, u16; kind of page, u16; zero, u16; page id, u16 |
//!
//! `pd_lower` and `pd_upper` delimit the hole between the used parts of the slab. Generic WAL does
//! not log the hole.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::sweep::Lines;
use crate::sweep::{Layout, Slab, SlabMut};
use crate::types::sql_error;

pub const PAGE: usize = pg_sys::BLCKSZ as usize;
const HEADER: usize = crate::sweep::layout::SLAB_START;
const SPECIAL: usize = 8;
const SLAB_END: usize = PAGE - SPECIAL;

/// The free space that is recorded per free place for an entry: one step of the free space map's
/// scale (`FSM_CAT_STEP` of Postgres' `freespace.c`).
pub const SPACE_FOR_ONE_ENTRY: usize = PAGE / 256;

/// The block number of the metapage.
pub const META_BLOCK: pg_sys::BlockNumber = 0;
/// The first block with entries.
pub const FIRST_BLOCK: pg_sys::BlockNumber = 1;

/// The page id, which distinguishes the pages of this access method from those of others.
/// `pg_filedump` uses it; Postgres' `access/bloom.h` lists those of other access methods.
const PAGE_ID: u16 = 0xFF8D;
const KIND_META: u16 = 1;
const KIND_ENTRIES: u16 = 2;

const MAGIC: u32 = 0x6d72_6c69;
const VERSION: u32 = 2;
/// The number of bits per dimension in the first and the second level of a code.
const BITS: [u32; 2] = [8, 4];

/// The parameters of an index, which the metapage stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Dimensions of the column's vectors.
    pub dims: usize,
    /// Dimensions of the encoded prefixes.
    pub prefix_dims: usize,
}

impl Meta {
    /// The layout of the entries on a page, or `None` if a page cannot hold a single entry.
    pub fn layout(&self) -> Option<Layout> {
        Layout::new(self.prefix_dims, SLAB_END - HEADER)
    }

    /// The bytes of the metapage: all numbers, followed by the bitwise complement of each. With the
    /// complements a flipped bit is detected even without data checksums.
    fn encode(&self) -> Vec<u8> {
        let numbers = [
            MAGIC,
            VERSION,
            self.dims as u32,
            self.prefix_dims as u32,
            BITS[0],
            BITS[1],
        ];
        let complements = numbers.map(|number| !number);
        let all = numbers.into_iter().chain(complements);
        all.flat_map(u32::to_ne_bytes).collect()
    }

    /// Decodes the bytes that [`Meta::encode`] has produced. Returns `None` if `bytes` does not
    /// start with such bytes.
    fn decode(bytes: &[u8]) -> Option<Meta> {
        let number = |at: usize| Some(u32::from_ne_bytes(*bytes.as_chunks().0.get(at)?));
        let meta = Meta {
            dims: number(2)? as usize,
            prefix_dims: number(3)? as usize,
        };
        let is_intact = bytes.starts_with(&meta.encode());
        (is_intact && meta.prefix_dims <= meta.dims).then_some(meta)
    }
}

/// Returns the version of the page format that a metapage states, given the bytes after the page header. Returns `None`
/// if they do not state a version. In every version the metapage begins with `MAGIC` and the version, and the
/// complements of the two follow each other after the numbers, however many numbers there are.
fn stated_version(bytes: &[u8]) -> Option<u32> {
    let mut numbers = bytes.as_chunks().0.iter().copied().map(u32::from_ne_bytes);
    let (magic, version) = (numbers.next()?, numbers.next()?);
    let mut last = None;
    let has_complements =
        numbers.any(|number| last.replace(number) == Some(!magic) && number == !version);
    (magic == MAGIC && has_complements).then_some(version)
}

/// The state of a page that is not the metapage.
pub enum Content {
    /// The page contains only zeros: the file was extended, but the page was never initialized.
    New,
    /// The page is valid and contains this number of entries.
    Entries(usize),
}

impl Content {
    /// The number of entries on the page.
    pub fn entries(&self) -> usize {
        match self {
            Content::New => 0,
            Content::Entries(count) => *count,
        }
    }
}

/// The bytes of a page of an index.
#[derive(Clone, Copy)]
pub struct Page<'a>(&'a [u8; PAGE]);

impl<'a> Page<'a> {
    fn header(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    /// Returns whether the page header and the special space have the values of this access method,
    /// for this kind of page and this hole.
    fn header_matches(&self, kind: u16, hole: &Range<usize>) -> bool {
        let [lower, upper, special, size_version] = [12, 14, 16, 18].map(|at| self.header(at));
        usize::from(lower) == hole.start
            && usize::from(upper) == hole.end
            && usize::from(special) == SLAB_END
            && size_version == PAGE as u16 | pg_sys::PG_PAGE_LAYOUT_VERSION as u16
            && self.header(SLAB_END + 2) == kind
            && self.header(SLAB_END + 4) == 0
            && self.header(SLAB_END + 6) == PAGE_ID
    }

    /// Checks a page of entries and returns its state, or `None` if it is corrupted.
    pub fn content(&self, layout: &Layout) -> Option<Content> {
        // PageIsNew checks only `pd_upper`. A page whose `pd_upper` is 0 but whose bytes are not
        // all 0 is corrupted, not new.
        if self.header(14) == 0 {
            return self.0.iter().all(|b| *b == 0).then_some(Content::New);
        }
        let count = usize::from(self.header(SLAB_END));
        if !self.header_matches(KIND_ENTRIES, &hole(layout, count)?) {
            return None;
        }
        let slab = Slab::new(layout, &self.0[HEADER..SLAB_END], count)?;
        slab.ends_at_count().then_some(Content::Entries(count))
    }

    /// The entries, whose number [`Page::content`] has returned.
    fn slab(&self, layout: &'a Layout, count: usize) -> Option<Slab<'a>> {
        Slab::new(layout, &self.0[HEADER..SLAB_END], count)
    }
}

/// A pinned buffer. Dropping this value releases the pin.
pub struct Pin {
    buffer: pg_sys::Buffer,
}

impl Pin {
    /// Pins the buffer of a block, and reads the block from disk if it is not in a buffer.
    ///
    /// # Safety
    /// `relation` is open, and has this block.
    pub unsafe fn read(
        relation: pg_sys::Relation,
        block: pg_sys::BlockNumber,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Pin {
        // SAFETY: the caller guarantees an open relation that has this block.
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
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::BufferGetBlockNumber(self.buffer) }
    }

    pub fn buffer(&self) -> pg_sys::Buffer {
        self.buffer
    }

    /// # Safety
    /// The buffer is pinned, and the caller passes the ownership of one pin.
    pub unsafe fn from_buffer(buffer: pg_sys::Buffer) -> Pin {
        Pin { buffer }
    }

    /// Returns the buffer without releasing the pin.
    pub fn into_buffer(self) -> pg_sys::Buffer {
        ManuallyDrop::new(self).buffer
    }

    /// The cache lines of the page that a sweep reads for every entry.
    pub fn swept(&self, layout: &Layout) -> Lines {
        Lines::new(self.start(), HEADER + layout.swept_len())
    }

    /// The cache line that contains the number of entries.
    pub fn last_line(&self) -> Lines {
        Lines::new(self.start().wrapping_add(SLAB_END), SPECIAL)
    }

    fn start(&self) -> *const u8 {
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::BufferGetPage(self.buffer).cast() }
    }

    /// Locks the buffer content, and waits for the lock if necessary.
    pub fn lock(self, lock: u32) -> Block {
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::LockBuffer(self.buffer, lock as i32) };
        Block { pin: self }
    }

    /// Locks the buffer content exclusively, if that is possible without waiting.
    pub fn try_lock(self) -> Option<Block> {
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::ConditionalLockBuffer(self.buffer) }.then(|| Block { pin: self })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // After an ERROR, the end of the transaction releases all pins.
        if !std::thread::panicking() {
            // SAFETY: `self` owns the pin.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) }
        }
    }
}

/// A buffer that is pinned and locked. Dropping this value releases the lock and the pin.
pub struct Block {
    pin: Pin,
}

impl Block {
    /// Adds a block of zeros to a fork, and returns it with an exclusive lock.
    ///
    /// # Safety
    /// `relation` is open, and the caller keeps all others from extending it.
    pub unsafe fn extend(relation: pg_sys::Relation, fork: pg_sys::ForkNumber::Type) -> Block {
        // SAFETY: the caller guarantees an open relation that nobody else extends.
        unsafe {
            // RBM_ZERO_AND_LOCK locks the page before it becomes visible to other backends.
            // Otherwise they might fill it before this backend gets the lock.
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
    /// The buffer is pinned and locked, and the caller passes the ownership of the lock and of one
    /// pin.
    pub unsafe fn from_buffer(buffer: pg_sys::Buffer) -> Block {
        Block {
            pin: Pin { buffer },
        }
    }

    /// Returns the buffer without releasing the lock and the pin.
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
        // SAFETY: `self` holds a pin, so the page stays in this buffer. It also holds a lock, so no
        // other backend changes the page while `self` is borrowed.
        Page(unsafe { &*pg_sys::BufferGetPage(self.buffer()).cast() })
    }

    /// The page for writing, without a WAL record. Only for pages that are logged otherwise: those
    /// of a build, which are logged as a whole at its end, and those of an init fork.
    fn page_mut(&mut self) -> &mut [u8; PAGE] {
        // SAFETY: `self` holds a pin and an exclusive lock, and `&mut self` guarantees that this is
        // the only reference to the page in this backend.
        unsafe { &mut *pg_sys::BufferGetPage(self.buffer()).cast() }
    }

    /// Replaces the page, without a WAL record.
    pub fn overwrite(&mut self, page: &[u8; PAGE]) {
        *self.page_mut() = *page;
        // SAFETY: `self` holds a pin and an exclusive lock.
        unsafe { pg_sys::MarkBufferDirty(self.buffer()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // An ERROR resets the counter with which Postgres holds off interrupts while a lock is
        // held. Releasing the lock here would then let that counter underflow, so leave it to the
        // end of the transaction, which releases all locks.
        if !std::thread::panicking() {
            // SAFETY: `self` owns the lock. The field `pin` is dropped after this, and releases the
            // pin.
            unsafe { pg_sys::LockBuffer(self.buffer(), pg_sys::BUFFER_LOCK_UNLOCK as i32) }
        }
    }
}

/// The bytes of a page that `count` entries leave free, or `None` if so many entries do not fit.
fn hole(layout: &Layout, count: usize) -> Option<Range<usize>> {
    let hole = layout.hole(count)?;
    Some(HEADER + hole.start..HEADER + hole.end)
}

/// An initialized page without entries.
pub fn empty_page(layout: &Layout) -> Box<[u8; PAGE]> {
    let mut page = Box::new([0; PAGE]);
    init_page(&mut page, KIND_ENTRIES);
    set_count(layout, &mut page, 0);
    page
}

/// The metapage, for block 0.
pub fn meta_page(meta: &Meta) -> Box<[u8; PAGE]> {
    let bytes = meta.encode();
    let mut page = Box::new([0; PAGE]);
    init_page(&mut page, KIND_META);
    page[HEADER..HEADER + bytes.len()].copy_from_slice(&bytes);
    set_hole(&mut page, &(HEADER + bytes.len()..SLAB_END));
    page
}

/// Initializes the header and the special space of a page, and zeroes everything else. The caller
/// must call [`set_hole`] afterwards.
fn init_page(page: &mut [u8; PAGE], kind: u16) {
    // SAFETY: PageInit writes only the BLCKSZ bytes of the page, which `page` has.
    unsafe { pg_sys::PageInit(page.as_mut_ptr().cast(), PAGE, SPECIAL) }
    page[SLAB_END + 2..][..2].copy_from_slice(&kind.to_ne_bytes());
    page[SLAB_END + 6..][..2].copy_from_slice(&PAGE_ID.to_ne_bytes());
}

/// The entries of a page, for changing them. [`set_count`] must write their number back afterwards.
pub fn slab_mut<'a>(
    layout: &'a Layout,
    page: &'a mut [u8; PAGE],
    count: usize,
) -> Option<SlabMut<'a>> {
    SlabMut::new(layout, &mut page[HEADER..SLAB_END], count)
}

/// Writes the number of entries, and the hole that they leave.
///
/// # Panics
/// If so many entries do not fit on a page.
pub fn set_count(layout: &Layout, page: &mut [u8; PAGE], count: usize) {
    page[SLAB_END..][..2].copy_from_slice(&(count as u16).to_ne_bytes());
    set_hole(page, &hole(layout, count).expect("entries that fit"));
}

/// Sets `pd_lower` and `pd_upper`.
fn set_hole(page: &mut [u8; PAGE], hole: &Range<usize>) {
    page[12..14].copy_from_slice(&(hole.start as u16).to_ne_bytes());
    page[14..16].copy_from_slice(&(hole.end as u16).to_ne_bytes());
}

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
            let page = block.page();
            let meta = Meta::decode(&page.0[HEADER..])?;
            let header_matches =
                page.header_matches(KIND_META, &(HEADER + meta.encode().len()..SLAB_END));
            (header_matches && page.header(SLAB_END) == 0 && meta.layout().is_some())
                .then_some(meta)
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

    pub fn content(&self, block: &Block) -> Result<Content, ErrorReport> {
        block
            .page()
            .content(&self.layout)
            .ok_or_else(|| self.corrupted(block.number()))
    }

    /// The entries of a block, whose number [`Index::content`] has returned.
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
    /// `block` is a block of this index with an exclusive lock, and `content` is its current state.
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

    /// The free space that the free space map records for a block with `count` entries: one step of
    /// its scale per free place, up to half a page. The actual number of bytes would be rounded
    /// down by the map, so the last place on a page would never be found.
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

/// Returns why the metapage of an index cannot be used.
///
/// # Safety
/// As for [`Index::open`].
unsafe fn unreadable_meta(relation: pg_sys::Relation) -> ErrorReport {
    // SAFETY: the caller guarantees an open index. Block 0 is read only if it exists.
    unsafe {
        let version = (block_count(relation) > 0)
            .then(|| Pin::read(relation, META_BLOCK, null_mut()).lock(pg_sys::BUFFER_LOCK_SHARE))
            .and_then(|block| stated_version(&block.page().0[HEADER..]));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: &[u32]) -> Vec<u8> {
        let complements = numbers.iter().map(|number| !number);
        let all = numbers.iter().copied().chain(complements);
        all.flat_map(u32::to_ne_bytes).chain([0; 40]).collect()
    }

    #[test]
    fn a_metapage_states_its_version() {
        let meta = Meta {
            dims: 96,
            prefix_dims: 64,
        };
        assert_eq!(stated_version(&meta.encode()), Some(VERSION));
        assert_eq!(stated_version(&bytes(&[MAGIC, 1, 96, 64])), Some(1));
        assert_eq!(
            stated_version(&bytes(&[MAGIC, 9, 96, 64, 8, 4, 7, 7])),
            Some(9)
        );
        // A flipped bit is damage, and not another version.
        for at in [0, 4] {
            let mut damaged = meta.encode();
            damaged[at] ^= 1;
            assert_eq!(stated_version(&damaged), None);
        }
        assert_eq!(stated_version(&[]), None);
        assert_eq!(stated_version(&[0; 64]), None);
    }
}
