//! Defines the binary layout of a tokenizer's compact form, and looks up tokens, merges and scores
//! in it. A lookup reads only the bytes that it needs; nothing is copied into other data
//! structures.
//!
//! All numbers are little-endian, and nothing is aligned.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `PSTOKENS` |
//! | 4 | version |
//! | 4 | kind: 1, tables; 2, a whole `tokenizer.json` in the section `rest`, and no tables |
//! | 8 | length of the whole |
//! | 8 | checksum of the header (without these bytes) and of the section `rest` |
//! | 8 | maximum number of text bytes that one token can stand for |
//! | 4 | length of the vocabulary's longest token, in bytes |
//! | 4 | maximum number of slots that a lookup of a token skips |
//! | 4 | maximum number of slots that a lookup of a merge skips |
//! | 4 | 0 |
//! | 7 × 8 | lengths of the seven sections, which follow one another |
//!
//! Sections: `rest` (the tokenizer without its tables, as JSON, see `build`); the concatenated texts of
//! all tokens, in the order of their IDs; the end of each text (u32); the ID of each token (u32); the
//! token slots (index of the token plus 1, or 0 for an empty slot; tag, a part of the token's hash: two
//! u32); the merge slots (left ID, right ID, rank, new ID: four u32; rank `u32::MAX` for an empty
//! slot); the scores (f64, by token).
//!
//! Both slot tables are hash tables with linear probing. Their lengths are powers of two.

use std::ops::Range;

const MAGIC: &[u8; 8] = b"PSTOKENS";
const VERSION: u32 = 1;
const SECTIONS: usize = 7;
const HEADER: usize = 56 + 8 * SECTIONS;
const CHECKSUM: Range<usize> = 24..32;
/// Limit on the slots that a lookup skips, so that every lookup is fast.
const MAX_SKIPS: u32 = 512;
const EMPTY_RANK: u32 = u32::MAX;

const REST: usize = 0;
const TEXTS: usize = 1;
const ENDS: usize = 2;
const IDS: usize = 3;
const TOKEN_SLOTS: usize = 4;
const MERGE_SLOTS: usize = 5;
const SCORES: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompactKind {
    Tables,
    Whole,
}

/// The byte ranges of the sections.
#[derive(Clone, Debug)]
pub(super) struct CompactLayout {
    pub kind: CompactKind,
    /// Maximum number of text bytes that one token can stand for.
    pub longest: usize,
    /// Length of the vocabulary's longest token, in bytes.
    pub longest_token: usize,
    token_skips: u32,
    merge_skips: u32,
    bytes: usize,
    sections: [Range<usize>; SECTIONS],
}

impl CompactLayout {
    /// Reads and checks the header. The tables themselves are not checked.
    pub fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let header = bytes.get(..HEADER).ok_or("it is cut short")?;
        if !header.starts_with(MAGIC) {
            return Err("it does not begin with PSTOKENS");
        }
        if u32_at(header, 8) != VERSION {
            return Err("it is of another version");
        }
        if u64_at(header, 16) != bytes.len() as u64 {
            return Err("it is cut short or too long");
        }
        let mut start = HEADER;
        let mut sections = [const { 0..0 }; SECTIONS];
        for (index, section) in sections.iter_mut().enumerate() {
            let end = usize::try_from(u64_at(header, 56 + 8 * index))
                .ok()
                .and_then(|length| start.checked_add(length))
                .filter(|&end| end <= bytes.len())
                .ok_or("a section extends past its end")?;
            *section = start..end;
            start = end;
        }
        if start != bytes.len() {
            return Err("the lengths of its sections do not add up to its length");
        }
        let rest = &bytes[sections[REST].clone()];
        if checksum(header, rest) != u64_at(header, CHECKSUM.start) {
            return Err("its checksum is wrong");
        }
        let layout = Self {
            kind: match u32_at(header, 12) {
                1 => CompactKind::Tables,
                2 => CompactKind::Whole,
                _ => return Err("it is of an unknown kind"),
            },
            longest: usize::try_from(u64_at(header, 32)).map_err(|_| "a token is too long")?,
            longest_token: u32_at(header, 40) as usize,
            token_skips: u32_at(header, 44),
            merge_skips: u32_at(header, 48),
            bytes: bytes.len(),
            sections,
        };
        if layout.kind == CompactKind::Tables {
            layout.check_tables()?;
        }
        Ok(layout)
    }

    fn check_tables(&self) -> Result<(), &'static str> {
        let entries = |section: usize, size: usize| {
            let bytes = self.sections[section].len();
            bytes.is_multiple_of(size).then_some(bytes / size)
        };
        let fail = "the lengths of its sections are inconsistent";
        let tokens = entries(ENDS, 4).ok_or(fail)?;
        let ids = entries(IDS, 4).ok_or(fail)?;
        let token_slots = entries(TOKEN_SLOTS, 8).ok_or(fail)?;
        let merge_slots = entries(MERGE_SLOTS, 16).ok_or(fail)?;
        let scores = entries(SCORES, 8).ok_or(fail)?;
        let sound = tokens > 0
            && ids == tokens
            && (scores == 0 || scores == tokens)
            && token_slots.is_power_of_two()
            && (merge_slots == 0 || merge_slots.is_power_of_two())
            && token_slots <= u32::MAX as usize
            && merge_slots <= u32::MAX as usize
            && self.token_skips <= MAX_SKIPS
            && self.merge_skips <= MAX_SKIPS;
        if sound { Ok(()) } else { Err(fail) }
    }

    pub fn has_scores(&self) -> bool {
        !self.sections[SCORES].is_empty()
    }

    /// The section `rest`.
    pub fn rest<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.sections[REST].clone())
    }

    /// The tables in `bytes`. These must be the bytes from which the layout was read.
    pub fn tables<'a>(&self, bytes: &'a [u8]) -> Option<Tables<'a>> {
        if bytes.len() != self.bytes {
            return None;
        }
        let section = |index: usize| bytes.get(self.sections[index].clone());
        Some(Tables {
            texts: section(TEXTS)?,
            ends: section(ENDS)?.as_chunks().0,
            ids: section(IDS)?.as_chunks().0,
            token_slots: section(TOKEN_SLOTS)?.as_chunks().0,
            merge_slots: section(MERGE_SLOTS)?.as_chunks().0,
            scores: section(SCORES)?.as_chunks().0,
            token_skips: self.token_skips,
            merge_skips: self.merge_skips,
        })
    }
}

/// The number at `offset` in a header. The header must be long enough.
fn u32_at(header: &[u8], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&header[offset..offset + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(header: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&header[offset..offset + 8]);
    u64::from_le_bytes(number)
}

fn checksum(header: &[u8], rest: &[u8]) -> u64 {
    Hash::START
        .with(&header[..CHECKSUM.start])
        .with(&header[CHECKSUM.end..])
        .with(rest)
        .0
}

/// An incremental 64-bit FNV-1a hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(u64);

impl Hash {
    pub const START: Self = Self(0xcbf2_9ce4_8422_2325);

    pub fn with(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }

    fn of_pair(left: u32, right: u32) -> Self {
        Self(u64::from(left) << 32 | u64::from(right))
    }

    /// Mixes all bits. Returns the first slot to examine (before reduction to the table's length)
    /// and the tag.
    fn spread(self) -> (u32, u32) {
        let mut mixed = self.0 ^ (self.0 >> 32);
        mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 29;
        mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed >> 32) as u32, mixed as u32)
    }
}

/// The result of merging two neighbouring tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Merges with a lower rank are applied first.
    pub rank: u32,
    pub id: u32,
}

/// The tables of a compact form. On any bytes, even invalid ones, a lookup terminates quickly and
/// does not panic.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a> {
    texts: &'a [u8],
    ends: &'a [[u8; 4]],
    ids: &'a [[u8; 4]],
    token_slots: &'a [[u8; 8]],
    merge_slots: &'a [[u8; 16]],
    scores: &'a [[u8; 8]],
    token_skips: u32,
    merge_skips: u32,
}

impl<'a> Tables<'a> {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The bytes of the token with this index.
    fn bytes(&self, index: usize) -> Option<&'a [u8]> {
        let end = u32::from_le_bytes(*self.ends.get(index)?) as usize;
        let start = match index.checked_sub(1) {
            None => 0,
            Some(before) => u32::from_le_bytes(*self.ends.get(before)?) as usize,
        };
        self.texts.get(start..end)
    }

    /// The text of the token with this index.
    pub fn text(&self, index: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(index)?).ok()
    }

    /// The id of the token with this index.
    pub fn id(&self, index: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.ids.get(index)?))
    }

    pub fn score(&self, index: usize) -> Option<f64> {
        Some(f64::from_le_bytes(*self.scores.get(index)?))
    }

    /// The index of the token with this ID.
    pub fn index_of(&self, id: u32) -> Option<usize> {
        // In most vocabularies the IDs have no gaps, so the index equals the ID.
        if self.id(id as usize) == Some(id) {
            return Some(id as usize);
        }
        self.ids
            .binary_search_by_key(&id, |&bytes| u32::from_le_bytes(bytes))
            .ok()
    }

    /// The index of the token with this spelling.
    pub fn find(&self, token: &[u8]) -> Option<usize> {
        self.find_hashed(Hash::START.with(token), &[], token)
    }

    /// The index of the token that is spelled `head` followed by `tail`. `hash` is the hash of
    /// both.
    pub fn find_hashed(&self, hash: Hash, head: &[u8], tail: &[u8]) -> Option<usize> {
        let (first, tag) = hash.spread();
        let mask = self.token_slots.len().checked_sub(1)?;
        for skip in 0..=self.token_skips {
            let slot = (first.wrapping_add(skip)) as usize & mask;
            let [index, found] = pair(self.token_slots.get(slot)?);
            let index = (index as usize).checked_sub(1)?;
            if found == tag
                && self
                    .bytes(index)
                    .is_some_and(|bytes| bytes.strip_prefix(head) == Some(tail))
            {
                return Some(index);
            }
        }
        None
    }

    /// The merge of two neighbouring tokens, given their IDs.
    pub fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        let (first, _) = Hash::of_pair(left, right).spread();
        let mask = self.merge_slots.len().checked_sub(1)?;
        for skip in 0..=self.merge_skips {
            let slot = (first.wrapping_add(skip)) as usize & mask;
            let ([key, value], _) = self.merge_slots.get(slot)?.as_chunks() else {
                return None;
            };
            let [rank, id] = pair(value);
            if rank == EMPTY_RANK {
                return None;
            }
            if pair(key) == [left, right] {
                return Some(Merge { rank, id });
            }
        }
        None
    }
}

fn pair(bytes: &[u8; 8]) -> [u32; 2] {
    let number = u64::from_le_bytes(*bytes);
    [number as u32, (number >> 32) as u32]
}

/// Writes a compact form.
pub(super) struct CompactWriter {
    longest_token: usize,
    token_skips: u32,
    merge_skips: u32,
    texts: Vec<u8>,
    ends: Vec<[u8; 4]>,
    ids: Vec<[u8; 4]>,
    token_slots: Vec<[u8; 8]>,
    merge_slots: Vec<[u8; 16]>,
    scores: Vec<[u8; 8]>,
}

impl CompactWriter {
    /// Starts a compact form with this vocabulary, ordered by ID. `None` if a token or an ID occurs
    /// twice, or if the vocabulary does not fit into the tables.
    pub fn new<'a>(tokens: impl ExactSizeIterator<Item = (&'a str, u32)>) -> Option<Self> {
        let count = tokens.len();
        let mut writer = Self {
            longest_token: 0,
            token_skips: 0,
            merge_skips: 0,
            texts: Vec::new(),
            ends: Vec::with_capacity(count),
            ids: Vec::with_capacity(count),
            token_slots: vec![[0; 8]; slots_for(count)],
            merge_slots: Vec::new(),
            scores: Vec::new(),
        };
        let mut last = None;
        for (index, (token, id)) in tokens.enumerate() {
            if last.is_some_and(|last| last >= id)
                || writer.tables().find(token.as_bytes()).is_some()
            {
                return None;
            }
            last = Some(id);
            writer.texts.extend(token.as_bytes());
            writer.longest_token = writer.longest_token.max(token.len());
            let end = u32::try_from(writer.texts.len()).ok()?;
            writer.ends.push(end.to_le_bytes());
            writer.ids.push(id.to_le_bytes());
            let (first, tag) = Hash::START.with(token.as_bytes()).spread();
            let number = u64::from(u32::try_from(index).ok()?.checked_add(1)?);
            let entry = (u64::from(tag) << 32 | number).to_le_bytes();
            let skips = insert(&mut writer.token_slots, first, entry, |slot| {
                *slot == [0; 8]
            })?;
            writer.token_skips = writer.token_skips.max(skips);
        }
        Some(writer)
    }

    /// The tables as written so far.
    pub fn tables(&self) -> Tables<'_> {
        Tables {
            texts: &self.texts,
            ends: &self.ends,
            ids: &self.ids,
            token_slots: &self.token_slots,
            merge_slots: &self.merge_slots,
            scores: &self.scores,
            token_skips: self.token_skips,
            merge_skips: self.merge_skips,
        }
    }

    /// Adds the merges, given as (left ID, right ID, merge). If a pair occurs twice, the later
    /// merge counts. `None` if the merges do not fit into the tables.
    pub fn merges(&mut self, merges: &[(u32, u32, Merge)]) -> Option<()> {
        self.merge_slots = vec![[0xff; 16]; slots_for(merges.len())];
        for &(left, right, Merge { rank, id }) in merges {
            let mut entry = [0; 16];
            for (bytes, number) in entry.chunks_exact_mut(4).zip([left, right, rank, id]) {
                bytes.copy_from_slice(&number.to_le_bytes());
            }
            let (first, _) = Hash::of_pair(left, right).spread();
            let skips = insert(&mut self.merge_slots, first, entry, |slot| {
                slot[8..12] == EMPTY_RANK.to_le_bytes() || slot[..8] == entry[..8]
            })?;
            self.merge_skips = self.merge_skips.max(skips);
        }
        Some(())
    }

    /// Adds the scores, one for each token.
    pub fn scores(&mut self, scores: impl Iterator<Item = f64>) {
        self.scores = scores.map(f64::to_le_bytes).collect();
    }

    /// Length of the vocabulary's longest token, in bytes.
    pub fn longest_token(&self) -> usize {
        self.longest_token
    }

    pub fn finish(self, rest: &[u8], longest: usize) -> Vec<u8> {
        let sections = [
            rest,
            &self.texts,
            self.ends.as_flattened(),
            self.ids.as_flattened(),
            self.token_slots.as_flattened(),
            self.merge_slots.as_flattened(),
            self.scores.as_flattened(),
        ];
        let numbers = [
            self.longest_token as u32,
            self.token_skips,
            self.merge_skips,
        ];
        lay_out(1, longest, numbers, sections)
    }
}

/// A compact form that contains the unchanged `tokenizer.json` and no tables.
pub(super) fn whole(json: &[u8], longest: usize) -> Vec<u8> {
    let mut sections: [&[u8]; SECTIONS] = [&[]; SECTIONS];
    sections[REST] = json;
    lay_out(2, longest, [0; 3], sections)
}

fn lay_out(kind: u32, longest: usize, numbers: [u32; 3], sections: [&[u8]; SECTIONS]) -> Vec<u8> {
    let length = HEADER + sections.iter().map(|section| section.len()).sum::<usize>();
    let mut blob = Vec::with_capacity(length);
    blob.extend(MAGIC);
    blob.extend(VERSION.to_le_bytes());
    blob.extend(kind.to_le_bytes());
    blob.extend((length as u64).to_le_bytes());
    blob.extend([0; 8]);
    blob.extend((longest as u64).to_le_bytes());
    for number in numbers {
        blob.extend(number.to_le_bytes());
    }
    blob.extend([0; 4]);
    for section in sections {
        blob.extend((section.len() as u64).to_le_bytes());
    }
    let sum = checksum(&blob, sections[REST]);
    blob[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    for section in sections {
        blob.extend(section);
    }
    blob
}

/// The number of slots for `entries`. At most two thirds of the slots are filled.
fn slots_for(entries: usize) -> usize {
    (entries + entries / 2 + 1).next_power_of_two()
}

/// Puts `entry` into the first slot at or after `first` for which `free` holds. Returns the number of
/// slots skipped, or `None` if that would exceed [`MAX_SKIPS`].
fn insert<const N: usize>(
    slots: &mut [[u8; N]],
    first: u32,
    entry: [u8; N],
    free: impl Fn(&[u8; N]) -> bool,
) -> Option<u32> {
    let mask = slots.len().checked_sub(1)?;
    for skip in 0..=MAX_SKIPS {
        let slot = slots.get_mut(first.wrapping_add(skip) as usize & mask)?;
        if free(slot) {
            *slot = entry;
            return Some(skip);
        }
    }
    None
}

/// Sets the length and checksum in the header of a modified compact form to their actual values.
#[cfg(test)]
pub(super) fn seal(blob: &mut [u8]) {
    let length = (blob.len() as u64).to_le_bytes();
    if blob.len() < HEADER {
        return;
    }
    blob[16..24].copy_from_slice(&length);
    let rest = usize::try_from(u64_at(blob, 56)).unwrap_or(usize::MAX);
    let end = HEADER.saturating_add(rest).min(blob.len());
    let sum = checksum(&blob[..HEADER], &blob[HEADER..end]);
    blob[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
}
