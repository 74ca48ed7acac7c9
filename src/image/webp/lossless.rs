//! What libwebp takes for a lossless picture, or for an alpha channel that is compressed like one.
//!
//! Tables of codes are the larger part of it: up to 20 KB for each group of codes, of which a header
//! of a few kilobytes may ask for thousands, and which libwebp takes before it has read any. So the
//! header is read here up to where it says how many groups there are. The small pictures that stand
//! before (what the transforms are, and which block of pixels has which group) are followed code by
//! code, yet not kept.
//!
//! Source: RFC 9649, section 3; the sizes are those of libwebp's `vp8l_dec.c`.

use super::super::ImageError;
use super::{cut_short, malformed};

/// Entries of the tables of a group, by the bits of the colour cache (`kTableSize`). Each has 4 bytes.
const TABLES: [u64; 12] = [
    2954, 2956, 2958, 2962, 2970, 2986, 3018, 3082, 3212, 3468, 3980, 5004,
];
/// Bytes of a group's structure, beside its tables: `HTreeGroup`, rounded up.
const GROUP: u64 = 640;
/// Where there are no more groups, libwebp takes tables for those that no pixel has, too.
const ALL_GROUPS: u64 = 1000;
/// Rows of pixels beside the picture: 17, and a few for versions to come.
const ROWS: u64 = 20;
/// Bits of the longest code.
const LONGEST: usize = 15;
/// In which order the lengths of the codes for lengths stand.
const LENGTHS_ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// Codes that are read between two questions whether to stop: some milliseconds.
const CODES_AT_ONCE: u32 = 1 << 16;

/// Bytes that libwebp takes at most to decode `stream` as a picture of so many pixels.
///
/// # Errors
/// A header that is cut short or contradicts the format; libwebp would refuse it, too. Or
/// `cancelled` says so: a large header has as many pixels as a picture.
pub(super) fn memory(
    stream: &[u8],
    width: u32,
    height: u32,
    cancelled: &dyn Fn() -> bool,
) -> Result<u64, ImageError> {
    let mut bits = Bits {
        bytes: stream,
        at: 0,
    };
    let height = u64::from(height);
    let mut width = u64::from(width);
    let rows = ROWS * 4 * width;
    let mut memory = 0_u64;
    let mut seen = [false; 4];
    while bits.read(1)? != 0 {
        let kind = bits.read(2)? as usize;
        if std::mem::replace(&mut seen[kind], true) {
            return Err(contradicts());
        }
        match kind {
            // Predictors, and how colours depend on each other, block by block.
            0 | 1 => {
                let block = bits.read(3)? + 2;
                let pixels = blocks(width, block) * blocks(height, block);
                small_picture(&mut bits, pixels, cancelled, |_| ())?;
                memory += 4 * pixels;
            }
            // Green is subtracted.
            2 => {}
            // A palette; few colours share a byte.
            _ => {
                let colours = u64::from(bits.read(8)?) + 1;
                small_picture(&mut bits, colours, cancelled, |_| ())?;
                memory += 4 * (colours + 256);
                // As a power of 2: pixels that share a byte.
                let shared = match colours {
                    0..=2 => 3,
                    3..=4 => 2,
                    5..=16 => 1,
                    _ => 0,
                };
                width = blocks(width, shared);
            }
        }
    }
    let cache = cache_bits(&mut bits)?;
    let mut groups = 1;
    if bits.read(1)? != 0 {
        let block = bits.read(3)? + 2;
        let pixels = blocks(width, block) * blocks(height, block);
        let mut used = Groups::default();
        // An empty colour cache gives group 0.
        used.add(0);
        small_picture(&mut bits, pixels, cancelled, |group| used.add(group))?;
        groups = used.count();
        memory += 4 * pixels + 4 * used.most;
    }
    // Tables that fill their block of memory to the last entry make libwebp take another like it.
    let tables = 2 * 4 * TABLES[cache];
    let pixels = 4 * width * height;
    Ok(memory + groups * (tables + GROUP) + pixels + rows)
}

/// How many blocks of `1 << bits` pixels a side has.
fn blocks(side: u64, bits: u32) -> u64 {
    side.div_ceil(1 << bits)
}

/// The groups that blocks of pixels have.
#[derive(Default)]
struct Groups {
    /// A bit for each.
    used: Vec<u64>,
    /// One more than the highest.
    most: u64,
}

impl Groups {
    fn add(&mut self, group: u16) {
        let word = usize::from(group) / 64;
        if word >= self.used.len() {
            self.used.resize(word + 1, 0);
        }
        self.used[word] |= 1 << (group % 64);
        self.most = self.most.max(u64::from(group) + 1);
    }

    /// Of how many groups libwebp takes the tables.
    fn count(&self) -> u64 {
        if self.most <= ALL_GROUPS {
            return self.most;
        }
        self.used
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }
}

/// Follows a picture of so many pixels that is part of the header. `literal` gets red and green of
/// each pixel that does not repeat an earlier one.
fn small_picture(
    bits: &mut Bits<'_>,
    pixels: u64,
    cancelled: &dyn Fn() -> bool,
    mut literal: impl FnMut(u16),
) -> Result<(), ImageError> {
    let cache = cache_bits(bits)?;
    let cached = if cache > 0 { 1 << cache } else { 0 };
    let mut lengths = [0; 256 + 24 + (1 << 11)];
    let mut codes = Vec::new();
    for symbols in [256 + 24 + cached, 256, 256, 256, 40] {
        codes.push(Code::read(bits, &mut lengths[..symbols])?);
    }
    let [green, red, blue, alpha, distance] = &codes[..] else {
        return Err(contradicts()); // there are five
    };
    let mut left = pixels;
    let mut read = 0_u32;
    while left > 0 {
        read = read.wrapping_add(1);
        if read.is_multiple_of(CODES_AT_ONCE) && cancelled() {
            return Err(ImageError::Cancelled);
        }
        let symbol = green.next(bits)?;
        let covered = match symbol {
            0..256 => {
                let level = red.next(bits)?;
                blue.next(bits)?;
                alpha.next(bits)?;
                literal(level << 8 | symbol);
                1
            }
            256..280 => {
                let length = prefixed(bits, symbol - 256)?;
                let symbol = distance.next(bits)?;
                prefixed(bits, symbol)?;
                length
            }
            _ => 1,
        };
        left = left.checked_sub(covered).ok_or_else(contradicts)?;
    }
    Ok(())
}

/// Bits of the index into the colour cache; 0 where there is none.
fn cache_bits(bits: &mut Bits<'_>) -> Result<usize, ImageError> {
    if bits.read(1)? == 0 {
        return Ok(0);
    }
    match bits.read(4)? {
        size @ 1..=11 => Ok(size as usize),
        _ => Err(contradicts()),
    }
}

/// A length or a distance whose first bits are coded by `symbol`.
fn prefixed(bits: &mut Bits<'_>, symbol: u16) -> Result<u64, ImageError> {
    let symbol = u32::from(symbol);
    if symbol < 4 {
        return Ok(u64::from(symbol) + 1);
    }
    let extra = (symbol - 2) >> 1;
    let start = u64::from(2 + (symbol & 1)) << extra;
    Ok(start + u64::from(bits.read(extra)?) + 1)
}

/// A Huffman code.
struct Code {
    /// How many symbols have a code of each length. All 0 for a single symbol, whose code is empty.
    counts: [u16; LONGEST + 1],
    /// The symbols in the order of their codes.
    symbols: Vec<u16>,
}

impl Code {
    /// Reads a code for as many symbols as there are `lengths`, in which the lengths are left.
    fn read(bits: &mut Bits<'_>, lengths: &mut [u8]) -> Result<Self, ImageError> {
        lengths.fill(0);
        if bits.read(1)? != 0 {
            // One symbol or two.
            let two = bits.read(1)? != 0;
            let wide = bits.read(1)? != 0;
            let mut symbols = vec![bits.read(if wide { 8 } else { 1 })?];
            if two {
                symbols.push(bits.read(8)?);
            }
            for symbol in symbols {
                if let Some(length) = lengths.get_mut(symbol as usize) {
                    *length = 1;
                }
            }
            return Code::of(lengths);
        }
        let mut of_lengths = [0; 19];
        let count = bits.read(4)? as usize + 4;
        for &symbol in LENGTHS_ORDER.iter().take(count) {
            of_lengths[symbol] = bits.read(3)? as u8;
        }
        let code = Code::of(&of_lengths)?;
        let mut stated = lengths.len();
        if bits.read(1)? != 0 {
            let width = 2 + 2 * bits.read(3)?;
            stated = 2 + bits.read(width)? as usize;
            if stated > lengths.len() {
                return Err(contradicts());
            }
        }
        let (mut at, mut before) = (0, 8);
        while at < lengths.len() && stated > 0 {
            stated -= 1;
            let symbol = code.next(bits)?;
            let (length, times) = match symbol {
                0..16 => {
                    if symbol != 0 {
                        before = symbol as u8;
                    }
                    (symbol as u8, 1)
                }
                16 => (before, 3 + bits.read(2)?),
                17 => (0, 3 + bits.read(3)?),
                _ => (0, 11 + bits.read(7)?),
            };
            let end = at + times as usize;
            lengths
                .get_mut(at..end)
                .ok_or_else(contradicts)?
                .fill(length);
            at = end;
        }
        Code::of(lengths)
    }

    /// The code in which symbols have codes of these lengths, 0 for none.
    fn of(lengths: &[u8]) -> Result<Self, ImageError> {
        let mut counts = [0_u16; LONGEST + 1];
        for &length in lengths {
            counts[usize::from(length)] += 1;
        }
        counts[0] = 0;
        let mut symbols = Vec::new();
        for wanted in 1..=LONGEST as u8 {
            let with = lengths
                .iter()
                .zip(0..)
                .filter(|&(&length, _)| length == wanted);
            symbols.extend(with.map(|(_, symbol)| symbol));
        }
        match symbols.len() {
            0 => return Err(contradicts()),
            1 => counts = [0; LONGEST + 1],
            _ => {
                // Every sequence of bits has to begin with exactly one code.
                let mut open = 1_i32;
                for &count in &counts[1..] {
                    open = 2 * open - i32::from(count);
                    if open < 0 {
                        return Err(contradicts());
                    }
                }
                if open != 0 {
                    return Err(contradicts());
                }
            }
        }
        Ok(Code { counts, symbols })
    }

    /// The symbol whose code is next.
    fn next(&self, bits: &mut Bits<'_>) -> Result<u16, ImageError> {
        let first_symbol = self.symbols.first().copied().ok_or_else(contradicts)?;
        if self.symbols.len() == 1 {
            return Ok(first_symbol);
        }
        // Codes of one length are consecutive numbers; those of the next begin at twice their end.
        let (mut code, mut first, mut index) = (0, 0, 0);
        for &count in &self.counts[1..] {
            code |= bits.read(1)?;
            let count = u32::from(count);
            if code < first + count {
                let at = (index + code - first) as usize;
                return self.symbols.get(at).copied().ok_or_else(contradicts);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(contradicts())
    }
}

/// Bits from the lowest of each byte.
struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Bits<'_> {
    /// The next `count` bits, at most 24, of which the first is the lowest.
    fn read(&mut self, count: u32) -> Result<u32, ImageError> {
        let (byte, within) = (self.at / 8, self.at % 8);
        let end = self.at + count as usize;
        if end > 8 * self.bytes.len() {
            return Err(cut_short());
        }
        let mut word = [0; 4];
        let rest = &self.bytes[byte..];
        let there = rest.len().min(4);
        word[..there].copy_from_slice(&rest[..there]);
        self.at = end;
        Ok(u32::from_le_bytes(word) >> within & ((1 << count) - 1))
    }
}

fn contradicts() -> ImageError {
    malformed("its data cannot be decoded")
}
