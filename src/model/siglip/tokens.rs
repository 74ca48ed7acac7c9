//! Tokenizes a text as the models were trained: lower case, the end-of-sequence token after the
//! text, and padding up to the full length.

use serde::Deserialize;
use tokenizers::normalizers::{Lowercase, Replace, Strip};
use tokenizers::{NormalizerWrapper, normalizers::replace::ReplacePattern};

use crate::ModelError;
use crate::directory::{Directory, TOKENIZER, TOKENIZER_CONFIG};
use crate::text_tokens::TextTokens;
use crate::tokenizer::Tokenizer;

/// The contents of `tokenizer_config.json`.
#[derive(Deserialize)]
struct TokenizerConfig {
    tokenizer_class: Option<String>,
    /// Published SigLIP 2 models say true, which transformers before version 5 ignores.
    #[serde(default = "yes")]
    do_lower_case: bool,
    #[serde(default)]
    padding_side: PaddingSide,
    eos_token: SpecialToken,
    pad_token: SpecialToken,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PaddingSide {
    Left,
    #[default]
    Right,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

impl SpecialToken {
    fn id(&self, tokenizer: &Tokenizer) -> Result<u32, ModelError> {
        let (Self::Text(content) | Self::Added { content }) = self;
        tokenizer.id(content).ok_or_else(|| {
            let reason = format!("there is no token \"{content}\", which {TOKENIZER_CONFIG} names");
            ModelError::malformed(TOKENIZER, reason)
        })
    }
}

pub(super) struct SiglipTokens {
    pieces: TextTokens,
    end: u32,
    padding: u32,
    padding_side: PaddingSide,
    /// The maximum number of tokens before padding, the end-of-sequence token among them.
    max_tokens: usize,
    /// The number of tokens after padding.
    length: usize,
}

impl SiglipTokens {
    /// `max_tokens` is at most `length`.
    pub fn read(
        directory: &Directory,
        max_tokens: usize,
        length: usize,
    ) -> Result<Self, ModelError> {
        let config: TokenizerConfig = directory.json(TOKENIZER_CONFIG)?;
        let tokenizer = Tokenizer::read(directory)?;
        let (end, padding) = (
            config.eos_token.id(&tokenizer)?,
            config.pad_token.id(&tokenizer)?,
        );
        let is_first_version = config
            .tokenizer_class
            .as_deref()
            .is_some_and(|class| class.starts_with("SiglipTokenizer"));
        let mut steps: Vec<NormalizerWrapper> = Vec::new();
        if config.do_lower_case {
            steps.push(Lowercase.into());
        }
        if is_first_version {
            steps.extend(without_punctuation()?);
        }
        Ok(Self {
            pieces: TextTokens::new(tokenizer.normalized_first(steps)?, max_tokens),
            end,
            padding,
            padding_side: config.padding_side,
            max_tokens,
            length,
        })
    }

    /// The token IDs of the concatenation of `prefix` and `text`, [`Self::length`] of them. The
    /// tokenizer's own post-processor is not used: that of Gemma's tokenizer adds other tokens.
    pub fn text(&self, prefix: &str, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut ids = self.pieces.inner(prefix, text)?;
        ids.truncate(self.max_tokens - 1);
        ids.push(self.end);
        let padding = std::iter::repeat_n(self.padding, self.length - ids.len());
        match self.padding_side {
            PaddingSide::Right => ids.extend(padding),
            PaddingSide::Left => drop(ids.splice(0..0, padding)),
        }
        Ok(ids)
    }
}

/// The normalisation of SigLIP's first version: ASCII punctuation is removed, and white space
/// becomes single spaces between words. It is idempotent, so it does no harm if the tokenizer's own
/// normalizer does the same.
fn without_punctuation() -> Result<[NormalizerWrapper; 3], ModelError> {
    let replace = |pattern: &str, by: &str| {
        Replace::new(ReplacePattern::Regex(pattern.to_owned()), by)
            .map(NormalizerWrapper::from)
            .map_err(|error| ModelError::Internal(format!("could not tokenize: {error}")))
    };
    Ok([
        replace(r"[!-/:-@\[-`{-~]", "")?,
        // Python's \s has four more separators than Unicode's white space.
        replace(r"[\s\x1c-\x1f]+", " ")?,
        Strip::new(true, true).into(),
    ])
}
