//! How the pages of an index are laid out, and how a page is checked.
//!
//! | bytes of a block | contents |
//! | --- | --- |
//! | 0..24 | Postgres' page header |
//! | 24.. | block 0: the [`Meta`]; other blocks: the slab ([`crate::sweep::layout`]) |
//! | the last 8 | number of entries, u16; kind of page, u16; zero, u16; page id, u16 |
//!
//! `pd_lower` and `pd_upper` delimit the hole between the used parts of the slab. Generic WAL does
//! not log the hole.

use std::ops::Range;

use pgrx::pg_sys;

use crate::sweep::{Layout, Slab, SlabMut};

pub const PAGE: usize = pg_sys::BLCKSZ as usize;
pub const HEADER: usize = crate::sweep::layout::SLAB_START;
pub const SPECIAL: usize = 8;
pub const SLAB_END: usize = PAGE - SPECIAL;

/// The free space that is recorded per free place for an entry: one step of the free space map's
/// scale (`FSM_CAT_STEP` of Postgres' `freespace.c`).
pub const SPACE_FOR_ONE_ENTRY: usize = PAGE / 256;

/// The block number of the metapage.
pub const META_BLOCK: pg_sys::BlockNumber = 0;
/// The first block with entries.
pub const FIRST_BLOCK: pg_sys::BlockNumber = 1;

/// The page id, by which tools like `pg_filedump` distinguish the pages of this access method from those of
/// others. Postgres' own have the ids 0xFF80 (hash) to 0xFF83 (bloom).
const PAGE_ID: u16 = 0xFF8D;
const KIND_META: u16 = 1;
const KIND_ENTRIES: u16 = 2;

const MAGIC: u32 = 0x6d72_6c69;
/// The version of the page format.
pub const VERSION: u32 = 2;
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
    /// The layout of the entries on a page, or `None` if there is none for prefixes of this length.
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

/// Returns the version of the page format that a metapage states, given the bytes after the page header, or
/// `None` if they state none. In every version the metapage begins with `MAGIC` and the version, and the
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
    pub fn new(bytes: &'a [u8; PAGE]) -> Page<'a> {
        Page(bytes)
    }

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

    /// Checks the metapage and returns the parameters on it, or `None` if it is corrupted.
    pub fn meta(&self) -> Option<Meta> {
        let meta = Meta::decode(&self.0[HEADER..])?;
        let header_matches =
            self.header_matches(KIND_META, &(HEADER + meta.encode().len()..SLAB_END));
        (header_matches && self.header(SLAB_END) == 0 && meta.layout().is_some()).then_some(meta)
    }

    /// The version of the page format that the metapage states, or `None` if it states none.
    pub fn stated_version(&self) -> Option<u32> {
        stated_version(&self.0[HEADER..])
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
    pub fn slab(&self, layout: &'a Layout, count: usize) -> Option<Slab<'a>> {
        Slab::new(layout, &self.0[HEADER..SLAB_END], count)
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

/// Initializes a page of entries. The caller must call [`set_count`] afterwards.
pub fn init_entries(page: &mut [u8; PAGE]) {
    init_page(page, KIND_ENTRIES);
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
