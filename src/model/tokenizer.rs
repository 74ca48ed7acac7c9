//! `tokenizer.json` to token ids.

use super::ModelError;
use super::directory::{Directory, TOKENIZER};

pub(super) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of text that one token can stand for.
    longest: usize,
}

/// A text's tokens.
pub(super) struct Encoded {
    pub ids: Vec<u32>,
    /// For each token the bytes of the text that it stands for; (0, 0) for one that the
    /// tokenizer's post-processor put in.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        Self::parse(&directory.read(TOKENIZER)?)
    }

    /// From the bytes of a `tokenizer.json`.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let malformed =
            |error: tokenizers::Error| ModelError::malformed(TOKENIZER, error.to_string());
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(malformed)?;
        // Cutting is ours to do (see `prompt`), and nothing is padded.
        inner.with_truncation(None).map_err(malformed)?;
        inner.with_padding(None);
        // In a byte-level vocabulary each character stands for one byte of text; added tokens are
        // spelled out.
        let longest = inner
            .get_vocab(true)
            .keys()
            .map(|token| token.len())
            .max()
            .ok_or_else(|| ModelError::malformed(TOKENIZER, "the vocabulary is empty"))?;
        Ok(Self { inner, longest })
    }

    /// The text of a token.
    pub fn token(&self, id: u32) -> Result<String, ModelError> {
        self.inner.id_to_token(id).ok_or_else(|| {
            ModelError::malformed(TOKENIZER, format!("there is no token with id {id}"))
        })
    }

    /// What `tokens` tokens can stand for at most, about (a normalizer may compose characters into
    /// fewer bytes).
    pub fn most_bytes(&self, tokens: usize) -> usize {
        tokens.saturating_mul(self.longest)
    }

    /// Tokens of `text`, in which the spellings of special tokens are those tokens, and whatever
    /// the tokenizer's post-processor adds.
    pub fn encode(&self, text: &str) -> Result<Encoded, ModelError> {
        let encoding = self
            .inner
            .encode(text, true)
            .map_err(|error| ModelError::Internal(format!("could not tokenize: {error}")))?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }
}
