//! The layout of entries on a page.
//!
//! A page stores its entries as arrays in the slab, the bytes between Postgres' page header and the
//! special space at the page's end. The parts that a sweep reads of every entry are together at the
//! start of the slab. The parts that it reads of few entries grow from its end towards them:
//!
//! | array | bytes an entry |
//! | --- | --- |
//! | scale, f32 | 4 |
//! | bounds of the first and the second level, u16 each | 4 |
//! | codes of the first level, from a multiple of 64 | stride |
//! | a hole | |
//! | codes of the second level, then the heap TID: block (high half, low half), offset, u16 each; the first entry comes last | stride / 2 + 6 |
//!
//! The first two arrays have room for all entries that a page can have. The free space of the other
//! arrays is a single hole, like the space between the line pointers and the tuples of a heap page.
//! Generic WAL compares everything on a page except the hole, so a record costs in proportion to
//! how full the page is.
//!
//! The stride is the number of dimensions of the prefix, rounded up to a multiple of 16. Entries
//! are dense: `count` entries occupy the first `count` places. Numbers have the machine's byte
//! order.

use std::ops::Range;

use super::code::Encoder;

/// The maximum prefix length. With it an entry takes 6,158 of a page's 8,192 bytes, and the sums of the
/// kernels and their error bounds are for at most 2^12 terms.
pub const MAX_PREFIX_DIMS: usize = 4096;

/// Offset of the slab on the page: the size of PostgreSQL's page header.
pub const SLAB_START: usize = 24;

/// The heap TID of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid {
    pub block: u32,
    pub offset: u16,
}

/// The offsets and sizes of the arrays in a page's slab, for prefixes of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dims: usize,
    stride: usize,
    capacity: usize,
    codes: usize,
    end: usize,
}

/// A kernel processes a multiple of this many codes.
const STRIDE_MULTIPLE: usize = 16;
/// The codes start on a cache line.
const LINE: usize = 64;

const SCALE: usize = 4;
const BOUNDS: usize = 4;
const TID: usize = 6;

/// The parts of an entry, each stored in its own array.
#[derive(Debug, Clone, Copy)]
enum Part {
    Scale,
    Bounds,
    Codes,
    /// Codes of the second level, followed by the TID.
    Tail,
}

impl Part {
    const ALL: [Part; 4] = [Part::Scale, Part::Bounds, Part::Codes, Part::Tail];
}

impl Layout {
    /// The layout for prefixes of `dims` values in slabs of `slab_len` bytes. `None` if not even
    /// one entry fits, or if `dims` is 0 or above [`MAX_PREFIX_DIMS`].
    pub fn new(dims: usize, slab_len: usize) -> Option<Layout> {
        if !(1..=MAX_PREFIX_DIMS).contains(&dims) {
            return None;
        }
        let stride = dims.next_multiple_of(STRIDE_MULTIPLE);
        let most = slab_len / (SCALE + BOUNDS + stride + stride / 2 + TID);
        (1..=most)
            .rev()
            .map(|capacity| {
                let bounds_end = capacity * (SCALE + BOUNDS);
                Layout {
                    dims,
                    stride,
                    capacity,
                    codes: (SLAB_START + bounds_end).next_multiple_of(LINE) - SLAB_START,
                    end: slab_len,
                }
            })
            .find(|layout| layout.hole(layout.capacity).is_some())
    }

    /// Dimensions of the prefixes.
    #[inline]
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Number of codes from one entry to the next.
    #[inline]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Maximum number of entries on a page.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes per entry.
    pub fn entry_len(&self) -> usize {
        SCALE + BOUNDS + self.stride + self.stride / 2 + TID
    }

    /// Size of the slab in bytes.
    pub fn slab_len(&self) -> usize {
        self.end
    }

    /// The free range in the middle of the slab with `count` entries. `None` if they do not fit.
    pub fn hole(&self, count: usize) -> Option<Range<usize>> {
        let start = self.codes + count * self.stride;
        let end = self.end.checked_sub(count * self.tail_len())?;
        (count <= self.capacity && start <= end).then_some(start..end)
    }

    /// Number of bytes of a full page's slab that a sweep reads.
    #[inline]
    pub fn swept_len(&self) -> usize {
        self.codes + self.capacity * self.stride
    }

    #[inline]
    fn tail_len(&self) -> usize {
        self.stride / 2 + TID
    }

    /// The range of a part of an entry.
    #[inline]
    fn part(&self, part: Part, entry: usize) -> Range<usize> {
        let (start, len) = match part {
            Part::Scale => (entry * SCALE, SCALE),
            Part::Bounds => (self.capacity * SCALE + entry * BOUNDS, BOUNDS),
            Part::Codes => (self.codes + entry * self.stride, self.stride),
            Part::Tail => (self.end - (entry + 1) * self.tail_len(), self.tail_len()),
        };
        start..start + len
    }
}

/// The entries of a page, for reading.
#[derive(Clone, Copy)]
pub struct Slab<'a> {
    layout: &'a Layout,
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Slab<'a> {
    /// `bytes` is the slab, at least [`Layout::slab_len`] bytes long. `None` if it is shorter, or
    /// if `count` exceeds a page's capacity.
    #[inline]
    pub fn new(layout: &'a Layout, bytes: &'a [u8], count: usize) -> Option<Slab<'a>> {
        if count > layout.capacity {
            return None;
        }
        let bytes = bytes.get(..layout.end)?;
        Some(Slab {
            layout,
            bytes,
            count,
        })
    }

    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The used part of an array that grows upwards.
    fn array(&self, part: Part) -> &'a [u8] {
        let start = self.layout.part(part, 0).start;
        &self.bytes[start..self.layout.part(part, self.count).start]
    }

    /// Scales, 4 bytes each.
    pub fn scales(&self) -> &'a [[u8; 4]] {
        self.array(Part::Scale).as_chunks().0
    }

    /// Bounds, 2 + 2 bytes each.
    pub fn bounds(&self) -> &'a [[u8; 4]] {
        self.array(Part::Bounds).as_chunks().0
    }

    /// Codes of the first level, [`Layout::stride`] bytes each.
    pub fn codes(&self) -> &'a [u8] {
        self.array(Part::Codes)
    }

    /// Codes of the first level of an entry.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn entry_codes(&self, entry: usize) -> &'a [u8] {
        assert!(entry < self.count, "no such entry");
        &self.bytes[self.layout.part(Part::Codes, entry)]
    }

    /// The second-level codes of an entry, and its TID.
    #[inline]
    fn tail(&self, entry: usize) -> (&'a [u8], &'a [u8]) {
        assert!(entry < self.count, "no such entry");
        self.bytes[self.layout.part(Part::Tail, entry)].split_at(self.layout.stride / 2)
    }

    /// The second-level codes of an entry.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn fine(&self, entry: usize) -> &'a [u8] {
        self.tail(entry).0
    }

    /// The heap TID of an entry.
    ///
    /// # Panics
    /// If there is no such entry.
    #[inline]
    pub fn tid(&self, entry: usize) -> Tid {
        let (_, bytes) = self.tail(entry);
        let at = |i: usize| u16::from_ne_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        Tid {
            block: u32::from(at(0)) << 16 | u32::from(at(1)),
            offset: at(2),
        }
    }

    /// Whether `count` matches the occupied places: an entry's first bound is never 0, and that of
    /// a free place is 0. This detects most damaged counts.
    pub fn ends_at_count(&self) -> bool {
        let is_taken = |place: usize| {
            let at = self.layout.part(Part::Bounds, place).start;
            self.bytes[at..at + 2] != [0, 0]
        };
        (self.count == 0 || is_taken(self.count - 1))
            && (self.count == self.layout.capacity || !is_taken(self.count))
    }

    /// Whether the entry equals the last prefix that the encoder encoded.
    pub fn holds(&self, entry: usize, encoder: &Encoder) -> bool {
        let [scale, bounds, codes, fine] = encoder.parts();
        let is = |part, bytes: &[u8]| self.bytes[self.layout.part(part, entry)] == *bytes;
        is(Part::Scale, scale)
            && is(Part::Bounds, bounds)
            && is(Part::Codes, codes)
            && self.fine(entry) == fine
    }
}

/// The entries of a page, for writing.
pub struct SlabMut<'a> {
    layout: &'a Layout,
    bytes: &'a mut [u8],
    count: usize,
}

impl<'a> SlabMut<'a> {
    /// As [`Slab::new`].
    pub fn new(layout: &'a Layout, bytes: &'a mut [u8], count: usize) -> Option<SlabMut<'a>> {
        if count > layout.capacity {
            return None;
        }
        let bytes = bytes.get_mut(..layout.end)?;
        Some(SlabMut {
            layout,
            bytes,
            count,
        })
    }

    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    #[inline]
    pub fn is_full(&self) -> bool {
        self.count == self.layout.capacity
    }

    /// Adds the last prefix that the encoder encoded.
    ///
    /// # Panics
    /// If the page is full.
    pub fn push(&mut self, encoder: &Encoder, tid: Tid) {
        assert!(!self.is_full(), "page is full");
        let [hi, lo] = [(tid.block >> 16) as u16, tid.block as u16].map(u16::to_ne_bytes);
        let offset = tid.offset.to_ne_bytes();
        let tid = [hi[0], hi[1], lo[0], lo[1], offset[0], offset[1]];
        let [scale, bounds, codes, fine] = encoder.parts();
        let entry = self.count;
        let mut put = |part, at: usize, bytes: &[u8]| {
            let place = &mut self.bytes[self.layout.part(part, entry)];
            place[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(Part::Scale, 0, scale);
        put(Part::Bounds, 0, bounds);
        put(Part::Codes, 0, codes);
        put(Part::Tail, 0, fine);
        put(Part::Tail, fine.len(), &tid);
        self.count += 1;
    }

    /// Removes the entries for which `dead` returns true. The others are moved together in order,
    /// and the freed places are zeroed. Returns the number of removed entries.
    pub fn remove(&mut self, mut dead: impl FnMut(usize) -> bool) -> usize {
        let mut kept = 0;
        for entry in 0..self.count {
            if dead(entry) {
                continue;
            }
            if kept < entry {
                for part in Part::ALL {
                    let to = self.layout.part(part, kept).start;
                    self.bytes.copy_within(self.layout.part(part, entry), to);
                }
            }
            kept += 1;
        }
        for free in kept..self.count {
            for part in Part::ALL {
                self.bytes[self.layout.part(part, free)].fill(0);
            }
        }
        std::mem::replace(&mut self.count, kept) - kept
    }
}
