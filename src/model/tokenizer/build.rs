//! Converts a `tokenizer.json` to its compact form.
//!
//! Tables are built only if this module knows every key of the file's `model`. All other files are left
//! to the `tokenizers` crate: those that tables cannot represent (word-level models, dropout,
//! duplicate tokens or IDs) and invalid ones. A file is interpreted as in the crate's
//! `src/models/*/serialization.rs`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

pub(super) use super::blob::whole;
use super::blob::{CompactWriter, Merge};
use crate::ModelError;
use crate::directory::TOKENIZER;

/// A tokenizer without its tables. There is no decoder, because this crate never decodes.
#[derive(Deserialize)]
pub(super) struct Rest {
    pub added_tokens: Vec<AddedToken>,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub post_processor: Option<PostProcessorWrapper>,
    pub model: TableOptions,
}

/// The serialised form of [`Rest`]. All parts except the model are copied from the file.
#[derive(Serialize)]
struct RestOut<'a> {
    added_tokens: &'a Value,
    normalizer: &'a Value,
    pre_tokenizer: &'a Value,
    post_processor: &'a Value,
    model: TableOptions,
}

/// A model without its tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum TableOptions {
    Bpe(BpeOptions),
    WordPiece(WordPieceOptions),
    Unigram(UnigramOptions),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BpeOptions {
    /// The token for unknown characters.
    pub unk_token: Option<String>,
    /// Prepended to each character of a word except the first when it is looked up
    /// (`continuing_subword_prefix`).
    pub prefix: String,
    /// Appended to the last character of a word when it is looked up (`end_of_word_suffix`).
    pub suffix: String,
    /// Whether consecutive unknown characters become a single token.
    pub fuse_unk: bool,
    /// Whether an unknown character becomes the tokens of its bytes, if the vocabulary has them.
    pub byte_fallback: bool,
    /// Whether a word that is itself a token is kept whole.
    pub ignore_merges: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct WordPieceOptions {
    pub unk_token: String,
    /// Prepended to each token of a word except the first (`continuing_subword_prefix`).
    pub prefix: String,
    /// Maximum length of a word in characters. A longer word is unknown.
    pub max_chars: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct UnigramOptions {
    pub unk_id: Option<u32>,
    pub byte_fallback: bool,
    /// The vocabulary's lowest score, as the bits of an f64, because JSON would lose the last bits.
    pub min_score: u64,
}

/// The parts of a `tokenizer.json` that are read.
#[derive(Deserialize)]
struct TokenizerJson<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Value,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(borrow)]
    model: FileModel<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileModel<'a> {
    #[serde(rename = "type")]
    kind: String,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    max_input_chars_per_word: Option<usize>,
    unk_id: Option<u32>,
    #[serde(borrow)]
    vocab: Vocabulary<'a>,
    #[serde(borrow)]
    merges: Option<Vec<FileMerge<'a>>>,
}

enum Vocabulary<'a> {
    /// Tokens with their IDs, in any order.
    Ids(Vec<(Text<'a>, u32)>),
    /// Tokens with their scores, in the order of IDs.
    Scores(Vec<(Text<'a>, f64)>),
}

/// A string that borrows from the JSON unless it contains escapes.
struct Text<'a>(Cow<'a, str>);

/// The two tokens that a merge joins.
enum FileMerge<'a> {
    Pair(Text<'a>, Text<'a>),
    /// Both tokens in one string, separated by a space.
    Line(Text<'a>),
}

/// The compact form of a `tokenizer.json`. `None` if tables cannot represent it, or if the file is
/// invalid and the `tokenizers` crate should report the error.
pub(super) fn tables(json: &[u8]) -> Result<Option<Vec<u8>>, ModelError> {
    let Ok(file) = serde_json::from_slice::<TokenizerJson>(json) else {
        return Ok(None);
    };
    if file.version.is_some_and(|version| version != "1.0") {
        return Ok(None);
    }
    let FileModel {
        kind,
        dropout,
        unk_token,
        continuing_subword_prefix: prefix,
        end_of_word_suffix: suffix,
        fuse_unk,
        byte_fallback,
        ignore_merges,
        max_input_chars_per_word: max_chars,
        unk_id,
        vocab,
        merges,
    } = file.model;
    let built = match (kind.as_str(), vocab, merges) {
        ("BPE", Vocabulary::Ids(tokens), Some(merges))
            if dropout.is_none_or(|dropout| dropout == 0.0)
                && max_chars.is_none()
                && unk_id.is_none() =>
        {
            let options = BpeOptions {
                unk_token,
                prefix: prefix.unwrap_or_default(),
                suffix: suffix.unwrap_or_default(),
                fuse_unk: fuse_unk.unwrap_or(false),
                byte_fallback: byte_fallback.unwrap_or(false),
                ignore_merges: ignore_merges.unwrap_or(false),
            };
            bpe(tokens, &merges, options)?
        }
        ("WordPiece", Vocabulary::Ids(tokens), None) => match (unk_token, prefix, max_chars) {
            (Some(unk_token), Some(prefix), Some(max_chars)) => by_id(tokens).map(|writer| {
                let options = WordPieceOptions {
                    unk_token,
                    prefix,
                    max_chars,
                };
                (writer, TableOptions::WordPiece(options))
            }),
            _ => None,
        },
        ("Unigram", Vocabulary::Scores(tokens), None) => {
            unigram(&tokens, unk_id, byte_fallback.unwrap_or(false))
        }
        _ => None,
    };
    let Some((writer, model)) = built else {
        return Ok(None);
    };
    let no_tokens = Value::Array(Vec::new());
    let added_tokens = match &file.added_tokens {
        Value::Null => &no_tokens,
        tokens => tokens,
    };
    let rest = RestOut {
        added_tokens,
        normalizer: &file.normalizer,
        pre_tokenizer: &file.pre_tokenizer,
        post_processor: &file.post_processor,
        model,
    };
    let rest = serde_json::to_vec(&rest)
        .map_err(|error| ModelError::malformed(TOKENIZER, error.to_string()))?;
    // In a byte-level vocabulary, a token has one character for each byte of text, and a character
    // may take several bytes. So a token's length in bytes is at least the number of bytes it
    // stands for.
    let longest = added_tokens
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| token.get("content")?.as_str())
        .map(str::len)
        .fold(writer.longest_token(), usize::max);
    Ok(Some(writer.finish(&rest, longest)))
}

/// Starts the tables with a vocabulary in any order.
fn by_id(mut tokens: Vec<(Text, u32)>) -> Option<CompactWriter> {
    if tokens.is_empty() {
        return None;
    }
    tokens.sort_by_key(|&(_, id)| id);
    CompactWriter::new(tokens.iter().map(|(Text(token), id)| (token.as_ref(), *id)))
}

/// `None` if tables cannot represent the model, or if the `tokenizers` crate should report the
/// error. The crate panics on some merges whose parts or result are not tokens, so this function
/// reports those itself.
fn bpe(
    tokens: Vec<(Text, u32)>,
    merges: &[FileMerge],
    options: BpeOptions,
) -> Result<Option<(CompactWriter, TableOptions)>, ModelError> {
    let Some(mut writer) = by_id(tokens) else {
        return Ok(None);
    };
    let tables = writer.tables();
    let id = |token: &str| {
        tables
            .find(token.as_bytes())
            .and_then(|index| tables.id(index))
            .ok_or_else(|| {
                let reason = format!("\"{token}\" occurs in a merge but not in the vocabulary");
                ModelError::malformed(TOKENIZER, reason)
            })
    };
    let mut resolved = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (merge, rank) in merges.iter().zip(0..) {
        let (left, right) = match merge {
            FileMerge::Pair(Text(left), Text(right)) => (left.as_ref(), right.as_ref()),
            FileMerge::Line(Text(line)) if line.starts_with("#version") => continue,
            FileMerge::Line(Text(line)) => match line.split_once(' ') {
                Some((left, right)) if !right.contains(' ') => (left, right),
                _ => return Ok(None),
            },
        };
        let Some(tail) = right.get(options.prefix.len()..) else {
            let reason = format!("\"{right}\" in a merge does not begin with the prefix");
            return Err(ModelError::malformed(TOKENIZER, reason));
        };
        joined.clear();
        joined.extend([left, tail]);
        let merge = Merge {
            rank,
            id: id(&joined)?,
        };
        resolved.push((id(left)?, id(right)?, merge));
    }
    Ok(writer
        .merges(&resolved)
        .map(|()| (writer, TableOptions::Bpe(options))))
}

fn unigram(
    tokens: &[(Text, f64)],
    unk_id: Option<u32>,
    byte_fallback: bool,
) -> Option<(CompactWriter, TableOptions)> {
    let count = u32::try_from(tokens.len()).ok()?;
    if count == 0 || unk_id.is_some_and(|id| id >= count) {
        return None;
    }
    let spellings = tokens.iter().map(|(Text(token), _)| token.as_ref());
    let mut writer = CompactWriter::new(Numbered {
        tokens: spellings,
        next: 0,
    })?;
    let scores = || tokens.iter().map(|&(_, score)| score);
    writer.scores(scores());
    let options = UnigramOptions {
        unk_id,
        byte_fallback,
        min_score: scores().fold(f64::INFINITY, f64::min).to_bits(),
    };
    Some((writer, TableOptions::Unigram(options)))
}

/// Like `enumerate`, with u32 numbers, the type of token IDs.
struct Numbered<I> {
    tokens: I,
    next: u32,
}

impl<I: Iterator> Iterator for Numbered<I> {
    type Item = (I::Item, u32);

    fn next(&mut self) -> Option<Self::Item> {
        let token = self.tokens.next()?;
        let id = self.next;
        self.next = id.wrapping_add(1);
        Some((token, id))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.tokens.size_hint()
    }
}

impl<I: ExactSizeIterator> ExactSizeIterator for Numbered<I> {}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabularyVisitor;

        impl<'de> Visitor<'de> for VocabularyVisitor {
            type Value = Vocabulary<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    tokens.push(entry);
                }
                Ok(Vocabulary::Ids(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    tokens.push(entry);
                }
                Ok(Vocabulary::Scores(tokens))
            }
        }

        deserializer.deserialize_any(VocabularyVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for FileMerge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = FileMerge<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a merge")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(FileMerge::Line(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(FileMerge::Line(Text(Cow::Owned(text.to_owned()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let (Some(left), Some(right)) = (seq.next_element()?, seq.next_element()?) else {
                    return Err(A::Error::custom("a merge of fewer than two tokens"));
                };
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(FileMerge::Pair(left, right)),
                    Some(_) => Err(A::Error::custom("a merge of more than two tokens")),
                }
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}
