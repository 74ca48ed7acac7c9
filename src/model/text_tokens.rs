//! Tokenizes texts and pairs of texts, truncated to the model's maximum number of tokens.
//!
//! In a WordPiece or Unigram vocabulary, one token for "unknown" can stand for any number of bytes,
//! and white space gives no tokens. So the number of tokens cannot be bounded from the length in
//! bytes. For a long text, the tokenized part is extended until it gives more than enough tokens.

use tokenizers::{
    Encoding, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use crate::ModelError;
use crate::prompt::shorten;
use crate::tokenizer::Tokenizer;

/// How much of a text is tokenized at first, in bytes per token that the model takes.
const BYTES_A_TOKEN: usize = 16;
/// Text after this many bytes is ignored. With the longest usual limit, 8,192 tokens, this is 128
/// bytes per token.
const MAX_TEXT_BYTES: usize = 1 << 20;

pub(crate) struct TextTokens {
    inner: Tokenizer,
    max_tokens: usize,
}

/// The tokens of a text or of a pair of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenSequence {
    pub ids: Vec<u32>,
    /// Token type ID of each token, as the tokenizer's post-processor assigns it.
    pub segments: Vec<u32>,
}

impl TextTokens {
    /// `max_tokens` includes the special tokens.
    pub fn new(tokenizer: Tokenizer, max_tokens: usize) -> Self {
        Self {
            inner: tokenizer,
            max_tokens,
        }
    }

    /// Tokenizes the concatenation of `prefix` and `text` and adds the post-processor's special
    /// tokens. A long text is truncated at its end.
    pub fn text(&self, prefix: &str, text: &str) -> Result<TokenSequence, ModelError> {
        self.finish(self.prefixed(prefix, text)?, None)
    }

    /// The token IDs of the concatenation of `prefix` and `text` without special tokens. There may be
    /// more than the maximum number of tokens, but not all of a long text is tokenized.
    pub fn inner(&self, prefix: &str, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.prefixed(prefix, text)?.get_ids().to_vec())
    }

    fn prefixed(&self, prefix: &str, text: &str) -> Result<Encoding, ModelError> {
        let text = shorten(text, MAX_TEXT_BYTES);
        match prefix {
            "" => self.pieces(text),
            _ => self.pieces(&format!("{}{text}", shorten(prefix, MAX_TEXT_BYTES))),
        }
    }

    /// Tokenizes a pair of texts and adds the post-processor's special tokens. If the pair is too
    /// long, the longer text is truncated at its end; if each text is longer than half the limit,
    /// both are truncated.
    pub fn pair(&self, first: &str, second: &str) -> Result<TokenSequence, ModelError> {
        self.finish(self.pieces(first)?, Some(self.pieces(second)?))
    }

    /// Tokenizes one text without special tokens. Of a long text, it tokenizes a part that gives at
    /// least twice the model's maximum number of tokens (or has [`MAX_TEXT_BYTES`]), so that the
    /// arbitrary end of the part cannot affect the tokens that are kept.
    fn pieces(&self, text: &str) -> Result<Encoding, ModelError> {
        let plenty = self.max_tokens.saturating_mul(2);
        let mut bytes = self.max_tokens.saturating_mul(BYTES_A_TOKEN);
        loop {
            let part = shorten(text, bytes.min(MAX_TEXT_BYTES));
            let encoding = self.inner.pieces(part)?;
            if part.len() == text.len() || encoding.len() >= plenty || bytes >= MAX_TEXT_BYTES {
                return Ok(encoding);
            }
            bytes = bytes.saturating_mul(4);
        }
    }

    /// All tokens of a text of any length, without special tokens.
    #[cfg(test)]
    pub fn inner_ids(&self, text: &str) -> Vec<u32> {
        self.inner.pieces(text).unwrap().get_ids().to_vec()
    }

    /// Truncates with the tokenizers library's strategy "longest first", then post-processes.
    fn finish(
        &self,
        first: Encoding,
        second: Option<Encoding>,
    ) -> Result<TokenSequence, ModelError> {
        let added = self.inner.added(second.is_some());
        if self.max_tokens <= added {
            return Err(ModelError::LimitExceeded(format!(
                "the model takes at most {} tokens, but its tokenizer adds {added} to a text",
                self.max_tokens
            )));
        }
        let params = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: self.max_tokens - added,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let (first, second) = truncate_encodings(first, second, &params)
            .map_err(|error| ModelError::Internal(format!("could not cut a text: {error}")))?;
        let encoding = self.inner.join(first, second)?;
        Ok(TokenSequence {
            ids: encoding.get_ids().to_vec(),
            segments: encoding.get_type_ids().to_vec(),
        })
    }
}
