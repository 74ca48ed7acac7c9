//! The memory that libwebp takes for a lossless picture, or for an alpha channel that is compressed
//! losslessly.
//!
//! Most of it is for the lookup tables of prefix codes: up to 20 KB for each prefix code group. A
//! header of a few kilobytes can state thousands of groups, and libwebp allocates the tables of all
//! groups before it reads the first. So this module reads the header up to the number of groups. The
//! images before it (the data of the transforms, and the entropy image, which assigns a group to each
//! block of pixels) are decoded code by code, and their pixels are not kept.
//!
//! Source: RFC 9649, section 3, whose terms are used here; the sizes are those of libwebp's
//! `vp8l_dec.c`.

use super::{cut_short, malformed};
use crate::ImageError;

/// Entries in the lookup tables of a group, by the bits of the colour cache (`kTableSize`). An entry
/// has 4 bytes.
const TABLES: [u64; 12] = [
    2954, 2956, 2958, 2962, 2970, 2986, 3018, 3082, 3212, 3468, 3980, 5004,
];
/// Bytes of a group's structure without its tables: `HTreeGroup`, rounded up.
const GROUP: u64 = 640;
/// Up to this number of groups, libwebp also allocates tables for groups that no pixel uses.
const ALL_GROUPS: u64 = 1000;
/// Rows of pixels that libwebp holds in addition to the picture: 17, and a margin for later versions.
const ROWS: u64 = 20;
/// Bits of the longest prefix code.
const LONGEST: usize = 15;
/// The order in which a header lists the lengths of the code length codes (`kCodeLengthCodeOrder`).
const CODE_LENGTH_CODE_ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// Codes that are read between two calls of `cancelled`. To read them takes some milliseconds.
const CODES_AT_ONCE: u32 = 1 << 16;

/// The most memory in bytes that libwebp takes to decode `stream` as a picture of this size.
///
/// # Errors
/// A header that is cut short or contradicts the format, which libwebp would refuse, too. Or
/// [`ImageError::Cancelled`], because an image in a header can have millions of pixels.
pub(super) fn memory(
    stream: &[u8],
    width: u32,
    height: u32,
    cancelled: &dyn Fn() -> bool,
) -> Result<u64, ImageError> {
    let mut bits = LowBitReader {
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
            // Predictor and colour transform: an image with one pixel for each block.
            0 | 1 => {
                let block = bits.read(3)? + 2;
                let pixels = blocks(width, block) * blocks(height, block);
                skip_image(&mut bits, pixels, cancelled, |_| ())?;
                memory += 4 * pixels;
            }
            // Subtract-green transform, which has no data.
            2 => {}
            // Colour indexing transform. With few colours, several pixels share a byte.
            _ => {
                let colours = u64::from(bits.read(8)?) + 1;
                skip_image(&mut bits, colours, cancelled, |_| ())?;
                memory += 4 * (colours + 256);
                // 2 to this power pixels share a byte.
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
        // A colour cache code that refers to an empty entry gives group 0.
        used.add(0);
        skip_image(&mut bits, pixels, cancelled, |group| used.add(group))?;
        groups = used.count();
        memory += 4 * pixels + 4 * used.end;
    }
    // Twice: libwebp allocates a second block of the same size when tables fill the first exactly.
    let tables = 2 * 4 * TABLES[cache];
    let pixels = 4 * width * height;
    Ok(memory + groups * (tables + GROUP) + pixels + rows)
}

/// The number of blocks of `1 << bits` pixels that cover a side.
fn blocks(side: u64, bits: u32) -> u64 {
    side.div_ceil(1 << bits)
}

/// The set of prefix code groups that an entropy image refers to.
#[derive(Default)]
struct Groups {
    /// A bit for each group.
    used: Vec<u64>,
    /// The highest group of the set, plus 1.
    end: u64,
}

impl Groups {
    fn add(&mut self, group: u16) {
        let word = usize::from(group) / 64;
        if word >= self.used.len() {
            self.used.resize(word + 1, 0);
        }
        self.used[word] |= 1 << (group % 64);
        self.end = self.end.max(u64::from(group) + 1);
    }

    /// The number of groups for which libwebp allocates tables.
    fn count(&self) -> u64 {
        if self.end <= ALL_GROUPS {
            return self.end;
        }
        self.used
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }
}

/// Reads an image of `pixels` pixels in the header. Calls `literal` with `red << 8 | green` of each
/// pixel that is coded literally, rather than as a copy of an earlier one.
fn skip_image(
    bits: &mut LowBitReader<'_>,
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
        return Err(contradicts()); // can't happen: the loop pushed five
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

/// The number of bits of an index into the colour cache; 0 if there is no cache.
fn cache_bits(bits: &mut LowBitReader<'_>) -> Result<usize, ImageError> {
    if bits.read(1)? == 0 {
        return Ok(0);
    }
    match bits.read(4)? {
        size @ 1..=11 => Ok(size as usize),
        _ => Err(contradicts()),
    }
}

/// The length or distance whose prefix code is `symbol`, with the extra bits that follow it.
fn prefixed(bits: &mut LowBitReader<'_>, symbol: u16) -> Result<u64, ImageError> {
    let symbol = u32::from(symbol);
    if symbol < 4 {
        return Ok(u64::from(symbol) + 1);
    }
    let extra = (symbol - 2) >> 1;
    let start = u64::from(2 + (symbol & 1)) << extra;
    Ok(start + u64::from(bits.read(extra)?) + 1)
}

/// A canonical prefix code.
struct Code {
    /// The number of symbols by the length of their codes. All 0 if there is only one symbol, whose
    /// code is empty.
    counts: [u16; LONGEST + 1],
    /// The symbols in the order of their codes.
    symbols: Vec<u16>,
}

impl Code {
    /// Reads a code for `lengths.len()` symbols. `lengths` receives the length of each symbol's code.
    fn read(bits: &mut LowBitReader<'_>, lengths: &mut [u8]) -> Result<Self, ImageError> {
        lengths.fill(0);
        if bits.read(1)? != 0 {
            // Simple code: one symbol or two.
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
        for &symbol in CODE_LENGTH_CODE_ORDER.iter().take(count) {
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

    /// The code in which the symbols have codes of these lengths; a length of 0 means no code.
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

    /// Reads the next symbol.
    fn next(&self, bits: &mut LowBitReader<'_>) -> Result<u16, ImageError> {
        let first_symbol = self.symbols.first().copied().ok_or_else(contradicts)?;
        if self.symbols.len() == 1 {
            return Ok(first_symbol);
        }
        // The codes of one length are consecutive numbers. The first code of the next length is twice
        // the number after the last one.
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

/// Reads bits, from the lowest of each byte.
struct LowBitReader<'a> {
    bytes: &'a [u8],
    /// Position in bits.
    at: usize,
}

impl LowBitReader<'_> {
    /// The next `count` bits, at most 24; the first bit is the lowest of the result.
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
