//! Where the parts of an entry lie on a page.
//!
//! A page holds its entries as arrays, one after another. What the sweep reads of every entry lies
//! together and in front, what it reads of a few behind:
//!
//! | array | bytes an entry |
//! | --- | --- |
//! | scale, f32 | 4 |
//! | bounds of the first and the second level, u16 each | 4 |
//! | codes of the first level, from a multiple of 64 | stride |
//! | codes of the second level | stride / 2 |
//! | heap TID: block (high half, low half), offset, u16 each | 6 |
//!
//! The stride is the number of dimensions of the prefix, rounded up to a multiple of 16. Entries
//! are dense: of `count` of them, the first `count` places are taken. Numbers are in the byte order
//! of the machine.

use super::code::Encoder;

/// An entry has to fit on a page: 4096 dimensions take 6,158 of 8,192 bytes.
pub const MAX_PREFIX_DIMS: usize = 4096;

/// Bytes from the start of the page to the slab: Postgres' page header.
pub const SLAB_START: usize = 24;

/// A row's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid {
    pub block: u32,
    pub offset: u16,
}

/// Where things lie in the slab of a page, for prefixes of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dims: usize,
    stride: usize,
    capacity: usize,
    codes: usize,
    fine: usize,
    tids: usize,
    end: usize,
}

/// Codes that a kernel takes at once, at least.
const STEP: usize = 16;
/// Codes begin on a cache line of the page.
const LINE: usize = 64;

const SCALES: usize = 0;
const SCALE: usize = 4;
const BOUNDS: usize = 4;
const TID: usize = 6;

impl Layout {
    /// For prefixes of `dims` values in slabs of `slab_len` bytes. `None` where not one entry fits,
    /// or `dims` is 0 or above [`MAX_PREFIX_DIMS`].
    pub fn new(dims: usize, slab_len: usize) -> Option<Layout> {
        if !(1..=MAX_PREFIX_DIMS).contains(&dims) {
            return None;
        }
        let stride = dims.next_multiple_of(STEP);
        let most = slab_len / (SCALE + BOUNDS + stride + stride / 2 + TID);
        (1..=most)
            .rev()
            .map(|capacity| {
                let bounds_end = SCALES + capacity * (SCALE + BOUNDS);
                let codes = (SLAB_START + bounds_end).next_multiple_of(LINE) - SLAB_START;
                let fine = codes + capacity * stride;
                let tids = fine + capacity * stride / 2;
                Layout {
                    dims,
                    stride,
                    capacity,
                    codes,
                    fine,
                    tids,
                    end: tids + capacity * TID,
                }
            })
            .find(|layout| layout.end <= slab_len)
    }

    /// Dimensions of the prefixes.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Codes from one entry to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Entries of a full page.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that an entry takes.
    pub fn entry_len(&self) -> usize {
        SCALE + BOUNDS + self.stride + self.stride / 2 + TID
    }

    /// Bytes of the slab that are used; the rest of the page is a hole.
    pub fn slab_len(&self) -> usize {
        self.end
    }

    /// Bytes of the slab that a sweep reads of a full page.
    pub fn swept_len(&self) -> usize {
        self.fine
    }

    /// The arrays: where each begins, and the bytes of one entry in it.
    fn arrays(&self) -> [(usize, usize); 5] {
        [
            (SCALES, SCALE),
            (SCALES + self.capacity * SCALE, BOUNDS),
            (self.codes, self.stride),
            (self.fine, self.stride / 2),
            (self.tids, TID),
        ]
    }
}

/// The entries of a page.
#[derive(Clone, Copy)]
pub struct Slab<'a> {
    layout: &'a Layout,
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Slab<'a> {
    /// `bytes` is the slab, at least [`Layout::slab_len`] long. `None` where it is shorter, or
    /// `count` more than a page can hold.
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

    pub fn count(&self) -> usize {
        self.count
    }

    /// One array, as far as it is taken.
    fn array(&self, index: usize) -> &'a [u8] {
        let (start, len) = self.layout.arrays()[index];
        &self.bytes[start..start + self.count * len]
    }

    /// Scales, 4 bytes each.
    pub fn scales(&self) -> &'a [[u8; 4]] {
        self.array(0).as_chunks().0
    }

    /// Bounds, 2 + 2 bytes each.
    pub fn bounds(&self) -> &'a [[u8; 4]] {
        self.array(1).as_chunks().0
    }

    /// Codes of the first level, [`Layout::stride`] bytes each.
    pub fn codes(&self) -> &'a [u8] {
        self.array(2)
    }

    /// Codes of the second level of one entry.
    pub fn fine(&self, entry: usize) -> &'a [u8] {
        let half = self.layout.stride / 2;
        &self.array(3)[entry * half..][..half]
    }

    pub fn tid(&self, entry: usize) -> Tid {
        let at = |i: usize| {
            let bytes = &self.array(4)[entry * TID + 2 * i..];
            u16::from_ne_bytes([bytes[0], bytes[1]])
        };
        Tid {
            block: u32::from(at(0)) << 16 | u32::from(at(1)),
            offset: at(2),
        }
    }

    /// Whether `count` is where the taken places end: the first bound of an entry is never 0, and
    /// that of a free place is. So a damaged count is noticed, in most cases.
    pub fn ends_at_count(&self) -> bool {
        let is_taken = |place: usize| {
            let at = SCALES + self.layout.capacity * SCALE + place * BOUNDS;
            self.bytes[at..at + 2] != [0, 0]
        };
        (self.count == 0 || is_taken(self.count - 1))
            && (self.count == self.layout.capacity || !is_taken(self.count))
    }

    /// Whether an entry holds what this encoder has encoded last.
    pub fn holds(&self, entry: usize, encoder: &Encoder) -> bool {
        let parts = encoder.parts();
        (0..parts.len()).all(|i| {
            let (_, len) = self.layout.arrays()[i];
            self.array(i)[entry * len..][..len] == *parts[i]
        })
    }
}

/// The entries of a page that is being written.
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

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn is_full(&self) -> bool {
        self.count == self.layout.capacity
    }

    /// Adds the entry that the encoder has encoded last.
    ///
    /// # Panics
    /// If the page is full.
    pub fn push(&mut self, encoder: &Encoder, tid: Tid) {
        assert!(!self.is_full(), "page is full");
        let [hi, lo] = [(tid.block >> 16) as u16, tid.block as u16].map(u16::to_ne_bytes);
        let offset = tid.offset.to_ne_bytes();
        let tid = [hi[0], hi[1], lo[0], lo[1], offset[0], offset[1]];
        let [scale, bounds, codes, fine] = encoder.parts();
        let parts = [scale, bounds, codes, fine, &tid];
        for ((start, len), part) in self.layout.arrays().into_iter().zip(parts) {
            self.bytes[start + self.count * len..][..len].copy_from_slice(part);
        }
        self.count += 1;
    }

    /// Takes the entries out for which `dead` says so. The others keep their order and move
    /// together; the places behind them are zeroed. Returns how many are gone.
    pub fn remove(&mut self, mut dead: impl FnMut(usize) -> bool) -> usize {
        let mut kept = 0;
        for entry in 0..self.count {
            if dead(entry) {
                continue;
            }
            if kept < entry {
                for (start, len) in self.layout.arrays() {
                    let from = start + entry * len;
                    self.bytes.copy_within(from..from + len, start + kept * len);
                }
            }
            kept += 1;
        }
        for (start, len) in self.layout.arrays() {
            self.bytes[start + kept * len..start + self.count * len].fill(0);
        }
        std::mem::replace(&mut self.count, kept) - kept
    }
}
