//! Tokenizer models over the tables of a compact form. They return the same tokens, IDs and offsets
//! as the models of the `tokenizers` crate, including that crate's quirks, which are noted where
//! they are reproduced.
//!
//! Words and their tokens are not cached, because a cache saves little time and costs memory in
//! every process.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tokenizers::{Result, Token};

use super::blob::{CompactLayout, Hash, Tables};
use super::build::{BpeOptions, TableOptions, UnigramOptions, WordPieceOptions};
use crate::compute::Owner;

/// Added to the vocabulary's lowest score to give the score of an unknown character.
const UNKNOWN_PENALTY: f64 = -10.0;
/// Marks a missing symbol or position.
const NONE: u32 = u32::MAX;

pub(super) struct TableModel {
    bytes: Owner,
    layout: CompactLayout,
    options: TableOptions,
}

impl TableModel {
    /// `bytes` must be the bytes from which `layout` was read.
    pub fn new(
        layout: CompactLayout,
        options: TableOptions,
        bytes: Owner,
    ) -> std::result::Result<Self, String> {
        if matches!(options, TableOptions::Unigram(_)) != layout.has_scores() {
            return Err("its sections do not fit its model".into());
        }
        Ok(Self {
            bytes,
            layout,
            options,
        })
    }

    fn tables(&self) -> Result<Tables<'_>> {
        self.layout
            .tables((*self.bytes).as_ref())
            .ok_or_else(damaged)
    }

    pub fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if word.is_empty() {
            return Ok(Vec::new());
        }
        // Positions are stored in 32 bits.
        if word.len() >= NONE as usize / 2 {
            return Err("the text is too long".into());
        }
        let tables = self.tables()?;
        match &self.options {
            TableOptions::Bpe(options) => bpe(&tables, options, word),
            TableOptions::WordPiece(options) => {
                word_piece(&tables, options, self.layout.longest_token, word)
            }
            TableOptions::Unigram(options) => {
                unigram(&tables, options, self.layout.longest_token, word)
            }
        }
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let tables = self.tables().ok()?;
        tables.id(tables.find(token.as_bytes())?)
    }

    pub fn id_to_token(&self, id: u32) -> Option<String> {
        let tables = self.tables().ok()?;
        tables.text(tables.index_of(id)?).map(str::to_owned)
    }

    pub fn vocab_size(&self) -> usize {
        self.tables().map_or(0, |tables| tables.tokens())
    }

    pub fn vocab(&self) -> HashMap<String, u32> {
        let Ok(tables) = self.tables() else {
            return HashMap::new();
        };
        (0..tables.tokens())
            .filter_map(|index| Some((tables.text(index)?.to_owned(), tables.id(index)?)))
            .collect()
    }
}

fn damaged() -> tokenizers::Error {
    "the tokenizer's compact form is damaged".into()
}

fn missing(token: &str) -> tokenizers::Error {
    format!("the vocabulary has no token \"{token}\", which is to stand for unknown ones").into()
}

/// The ID of the token at `index`, which must exist.
fn id_at(tables: &Tables, index: usize) -> Result<u32> {
    tables.id(index).ok_or_else(damaged)
}

/// A symbol of byte-pair encoding: a piece of a word, linked to its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// Number of bytes of the word that the symbol stands for; 0 after it was merged into its left
    /// neighbour.
    length: u32,
    before: u32,
    after: u32,
}

#[derive(Default)]
struct Symbols(Vec<Symbol>);

impl Symbols {
    fn push(&mut self, id: u32, length: u32) {
        let index = self.0.len() as u32;
        let before = match self.0.last_mut() {
            None => NONE,
            Some(last) => {
                last.after = index;
                index - 1
            }
        };
        self.0.push(Symbol {
            id,
            length,
            before,
            after: NONE,
        });
    }

    /// The symbol at a link's position, or `None` if the link is [`NONE`].
    fn get(&self, index: u32) -> Option<Symbol> {
        self.0.get(index as usize).copied()
    }
}

/// Byte-pair encoding. Starts with the word's characters and repeatedly applies the merge of lowest
/// rank, leftmost first, until no merge applies.
fn bpe(tables: &Tables, options: &BpeOptions, word: &str) -> Result<Vec<Token>> {
    if options.ignore_merges
        && let Some(index) = tables.find(word.as_bytes())
    {
        let id = id_at(tables, index)?;
        return Ok(vec![Token::new(id, word.to_owned(), (0, word.len()))]);
    }
    let mut symbols = characters(tables, options, word)?;
    merge_all(tables, &mut symbols);

    let mut tokens = Vec::new();
    let mut start = 0;
    for symbol in symbols.0.iter().filter(|symbol| symbol.length > 0) {
        let text = tables
            .index_of(symbol.id)
            .and_then(|index| tables.text(index))
            .ok_or_else(damaged)?;
        let end = start + symbol.length as usize;
        tokens.push(Token::new(symbol.id, text.to_owned(), (start, end)));
        start = end;
    }
    Ok(tokens)
}

/// Splits the word into one symbol per character. Three quirks of the `tokenizers` crate are kept.
/// Without an unknown token, an unknown character is dropped together with its length. Byte tokens
/// are emitted before a pending unknown token, although that token precedes them in the text. The
/// byte tokens of a character include the bytes of the prefix and the suffix.
fn characters(tables: &Tables, options: &BpeOptions, word: &str) -> Result<Symbols> {
    let mut symbols = Symbols(Vec::with_capacity(word.len()));
    let mut waiting: Option<(u32, u32)> = None;
    let mut spelled = String::new();
    for (start, character) in word.char_indices() {
        let end = start + character.len_utf8();
        let length = character.len_utf8() as u32;
        let prefix = if start == 0 { "" } else { &options.prefix };
        let suffix = if end == word.len() {
            &options.suffix
        } else {
            ""
        };
        let token = if prefix.is_empty() && suffix.is_empty() {
            &word[start..end]
        } else {
            spelled.clear();
            spelled.extend([prefix, &word[start..end], suffix]);
            spelled.as_str()
        };
        if let Some(index) = tables.find(token.as_bytes()) {
            if let Some((id, length)) = waiting.take() {
                symbols.push(id, length);
            }
            symbols.push(id_at(tables, index)?, length);
            continue;
        }
        if options.byte_fallback
            && let Some(ids) = byte_tokens(tables, token)
        {
            for (id, _) in ids {
                symbols.push(id, 1);
            }
            continue;
        }
        let Some(unknown) = &options.unk_token else {
            continue;
        };
        match &mut waiting {
            Some((_, waited)) if options.fuse_unk => *waited += length,
            _ => {
                let index = tables
                    .find(unknown.as_bytes())
                    .ok_or_else(|| missing(unknown))?;
                if let Some((id, length)) = waiting.replace((id_at(tables, index)?, length)) {
                    symbols.push(id, length);
                }
            }
        }
    }
    if let Some((id, length)) = waiting {
        symbols.push(id, length);
    }
    Ok(symbols)
}

/// The byte tokens of `text` and their spellings; `None` if the vocabulary lacks one of them.
fn byte_tokens(tables: &Tables, text: &str) -> Option<Vec<(u32, String)>> {
    text.bytes()
        .map(|byte| {
            let spelled = format!("<0x{byte:02X}>");
            Some((tables.id(tables.find(spelled.as_bytes())?)?, spelled))
        })
        .collect()
}

/// Applies all merges. Each merge removes a symbol and adds at most two candidates to the queue, so
/// this takes O(n log n) steps.
fn merge_all(tables: &Tables, symbols: &mut Symbols) {
    // Each candidate is (rank, position of the left symbol, ID of the result).
    let mut line: BinaryHeap<Reverse<(u32, u32, u32)>> = symbols
        .0
        .windows(2)
        .zip(0..)
        .filter_map(|(pair, position)| {
            let merge = tables.merge(pair[0].id, pair[1].id)?;
            Some(Reverse((merge.rank, position, merge.id)))
        })
        .collect();
    while let Some(Reverse((_, position, id))) = line.pop() {
        let Some(left) = symbols.get(position).filter(|left| left.length > 0) else {
            continue;
        };
        let Some(right) = symbols.get(left.after) else {
            continue;
        };
        // The symbols may have changed since the candidate was queued. It is still valid if the
        // current pair gives the same result.
        if tables
            .merge(left.id, right.id)
            .is_none_or(|merge| merge.id != id)
        {
            continue;
        }
        let merged = Symbol {
            id,
            length: left.length + right.length,
            before: left.before,
            after: right.after,
        };
        symbols.0[position as usize] = merged;
        symbols.0[left.after as usize].length = 0;
        if let Some(next) = symbols.0.get_mut(right.after as usize) {
            next.before = position;
        }
        if let Some(before) = symbols.get(merged.before)
            && let Some(merge) = tables.merge(before.id, id)
        {
            line.push(Reverse((merge.rank, merged.before, merge.id)));
        }
        if let Some(after) = symbols.get(merged.after)
            && let Some(merge) = tables.merge(id, after.id)
        {
            line.push(Reverse((merge.rank, position, merge.id)));
        }
    }
}

/// WordPiece: repeatedly takes the longest token that is a prefix of the rest of the word. If no
/// token matches, or if the word is too long, the whole word is unknown.
fn word_piece(
    tables: &Tables,
    options: &WordPieceOptions,
    longest: usize,
    word: &str,
) -> Result<Vec<Token>> {
    let unknown = || {
        let index = tables
            .find(options.unk_token.as_bytes())
            .ok_or_else(|| missing(&options.unk_token))?;
        let id = id_at(tables, index)?;
        let value = options.unk_token.clone();
        Ok(vec![Token::new(id, value, (0, word.len()))])
    };
    if word.chars().count() > options.max_chars {
        return unknown();
    }
    let mut tokens = Vec::new();
    let mut start = 0;
    while start < word.len() {
        let prefix = if start == 0 { "" } else { &options.prefix };
        let found = Prefixes::of(tables, prefix, &word[start..], longest).last();
        let Some((length, index)) = found else {
            return unknown();
        };
        let end = start + length;
        let value = format!("{prefix}{}", &word[start..end]);
        tokens.push(Token::new(id_at(tables, index)?, value, (start, end)));
        start = end;
    }
    Ok(tokens)
}

/// Unigram: splits the text into the tokens with the highest sum of scores. A character that is not
/// a token counts as the unknown token, with a penalty.
fn unigram(
    tables: &Tables,
    options: &UnigramOptions,
    longest: usize,
    text: &str,
) -> Result<Vec<Token>> {
    /// The best split of the text up to a position.
    #[derive(Clone, Copy)]
    struct Way {
        score: f64,
        /// Start of the last piece.
        from: u32,
        /// ID of the last piece: a token or the unknown token.
        id: u32,
    }

    let no_unknown = || tokenizers::Error::from("the vocabulary has no unknown token");
    let unknown_score = f64::from_bits(options.min_score) + UNKNOWN_PENALTY;
    let nowhere = Way {
        score: 0.0,
        from: NONE,
        id: 0,
    };
    let mut ways = vec![nowhere; text.len() + 1];
    for (start, character) in text.char_indices() {
        let here = ways[start].score;
        let mut single = false;
        for (length, index) in Prefixes::of(tables, "", &text[start..], longest) {
            single |= length == character.len_utf8();
            let score = tables.score(index).ok_or_else(damaged)? + here;
            let way = &mut ways[start + length];
            if way.from == NONE || score > way.score {
                *way = Way {
                    score,
                    from: start as u32,
                    id: id_at(tables, index)?,
                };
            }
        }
        if !single {
            let score = unknown_score + here;
            let way = &mut ways[start + character.len_utf8()];
            if way.from == NONE || score > way.score {
                *way = Way {
                    score,
                    from: start as u32,
                    id: options.unk_id.ok_or_else(no_unknown)?,
                };
            }
        }
    }

    // Collect the pieces from the end to the start, joining consecutive unknown pieces.
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    let mut end = text.len();
    let mut unknown_before = false;
    while end > 0 {
        let way = ways[end];
        let start = way.from as usize;
        if start >= end {
            return Err(damaged());
        }
        let unknown = Some(way.id) == options.unk_id;
        match pieces.last_mut() {
            Some(piece) if unknown && unknown_before => piece.0 = start,
            _ => pieces.push((start, end)),
        }
        unknown_before = unknown;
        end = start;
    }

    let mut tokens = Vec::with_capacity(pieces.len());
    for &(start, end) in pieces.iter().rev() {
        let piece = &text[start..end];
        // The joined unknown pieces may themselves be a token.
        let id = match tables.find(piece.as_bytes()) {
            Some(index) => id_at(tables, index)?,
            None => {
                if options.byte_fallback
                    && let Some(ids) = byte_tokens(tables, piece)
                {
                    tokens.extend(
                        ids.into_iter()
                            .map(|(id, spelled)| Token::new(id, spelled, (start, end))),
                    );
                    continue;
                }
                options.unk_id.ok_or_else(no_unknown)?
            }
        };
        tokens.push(Token::new(id, piece.to_owned(), (start, end)));
    }
    Ok(tokens)
}

/// Iterates over the tokens that consist of `prefix` followed by a prefix of `text`, shortest
/// first. Each item is the number of bytes of `text` and the token's index.
struct Prefixes<'a> {
    tables: &'a Tables<'a>,
    prefix: &'a str,
    text: &'a str,
    length: usize,
    /// Hash of `prefix` and the first `length` bytes of `text`.
    hash: Hash,
    longest: usize,
}

impl<'a> Prefixes<'a> {
    fn of(tables: &'a Tables<'a>, prefix: &'a str, text: &'a str, longest: usize) -> Self {
        Self {
            tables,
            prefix,
            text,
            length: 0,
            hash: Hash::START.with(prefix.as_bytes()),
            longest: longest.saturating_sub(prefix.len()),
        }
    }
}

impl Iterator for Prefixes<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let character = self.text[self.length..].chars().next()?;
            let end = self.length + character.len_utf8();
            if end > self.longest {
                return None;
            }
            self.hash = self.hash.with(&self.text.as_bytes()[self.length..end]);
            self.length = end;
            let beginning = &self.text.as_bytes()[..end];
            let found = self
                .tables
                .find_hashed(self.hash, self.prefix.as_bytes(), beginning);
            if let Some(index) = found {
                return Some((end, index));
            }
        }
    }
}
