//! Texts to token ids, at most as many as the model takes.
//!
//! A WordPiece or Unigram vocabulary has a token for "unknown", which stands for any number of bytes,
//! and white space has none at all. So no length in bytes says how many tokens a text will be: of a
//! long one so much is tokenized as it takes to have plenty.

use tokenizers::{
    Encoding, TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};

use crate::ModelError;
use crate::directory::Directory;
use crate::prompt::shorten;
use crate::tokenizer::Tokenizer;

/// The first try at a text is so many bytes for each token that the model takes.
const BYTES_A_TOKEN: usize = 16;
/// What lies further back than this in a text is not looked at. The largest of these models take
/// 8,192 tokens: that is 128 bytes for each.
const MAX_TEXT_BYTES: usize = 1 << 20;

pub(super) struct BertTokens {
    inner: Tokenizer,
    max_tokens: usize,
}

/// A text's tokens, or a pair's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenSequence {
    pub ids: Vec<u32>,
    /// For each token which text of a pair it belongs to, as the tokenizer's post-processor says.
    pub segments: Vec<u32>,
}

impl BertTokens {
    pub fn read(
        directory: &Directory,
        lowercase: bool,
        max_tokens: usize,
    ) -> Result<Self, ModelError> {
        let inner = Tokenizer::read(directory)?;
        Ok(Self {
            inner: match lowercase {
                true => inner.lowercased()?,
                false => inner,
            },
            max_tokens,
        })
    }

    /// The tokens of `prefix` and `text` written together, with what the post-processor adds. A long
    /// text loses its end.
    pub fn text(&self, prefix: &str, text: &str) -> Result<TokenSequence, ModelError> {
        let text = shorten(text, MAX_TEXT_BYTES);
        let encoding = match prefix {
            "" => self.pieces(text)?,
            _ => self.pieces(&format!("{}{text}", shorten(prefix, MAX_TEXT_BYTES)))?,
        };
        self.finish(encoding, None)
    }

    /// The tokens of two texts, with what the post-processor adds. Of a long pair the longer text
    /// loses its end, and both where each alone is more than half of what there is room for.
    pub fn pair(&self, first: &str, second: &str) -> Result<TokenSequence, ModelError> {
        self.finish(self.pieces(first)?, Some(self.pieces(second)?))
    }

    /// The tokens of a text by itself; of a long one's at least twice as many as the model takes, so
    /// that where the reading ended does not show in those that are kept.
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

    /// All tokens of a text, however long, without any of the post-processor's.
    #[cfg(test)]
    pub fn inner_ids(&self, text: &str) -> Vec<u32> {
        self.inner.pieces(text).unwrap().get_ids().to_vec()
    }

    /// Cut to size, as the tokenizers library itself cuts "longest first", and post-process.
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
