//! Loads a `tokenizer.json` and turns text into token IDs.
//!
//! Reading the 250,000 pieces of XLM-RoBERTa into the hash maps of the `tokenizers` crate costs each
//! process 0.7 s and 300 MB. The compact form takes 10 ms and 5 MB (measured by
//! `tests::cost::of_loading`). It stores the vocabulary, the merges and the scores as tables that are
//! searched in place (`blob`). The tokenizer models in `table` (BPE, WordPiece, Unigram) search them;
//! they replace the models in the crate's pipeline and return the same tokens. All other parts, such as
//! normalizers, regular expressions and templates, are the crate's. A tokenizer that tables cannot
//! represent (see `build`) is handled by the crate alone.

mod blob;
mod build;
mod table;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use tokenizers::normalizers::{Lowercase, Sequence as Normalizers};
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, Model, ModelWrapper, NormalizerWrapper, PostProcessor,
    PostProcessorWrapper, PreTokenizerWrapper, Token, TokenizerBuilder, TokenizerImpl, Trainer,
};

use super::ModelError;
use super::compute::Owner;
use super::directory::{Directory, TOKENIZER};
use blob::{CompactKind, CompactLayout};
use build::Rest;
use photosearch_memory as memory;
use table::TableModel;

type Pipeline = TokenizerImpl<
    AnyModel,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// A tokenizer. Clones share all data.
#[derive(Clone)]
pub(super) struct Tokenizer {
    pipeline: Arc<Pipeline>,
    /// Maximum number of text bytes that one token can stand for.
    longest: usize,
}

/// The tokens of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub ids: Vec<u32>,
    /// The range of text bytes that each token stands for; (0, 0) for a token that the
    /// post-processor added.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Reads the tokenizer of `directory`: from a pack its compact form, otherwise
    /// `tokenizer.json`.
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        match directory.compact_tokenizer() {
            Some(compact) => Self::from_compact(Arc::new(compact)),
            None => Self::parse(&directory.read(TOKENIZER)?),
        }
    }

    /// Loads a tokenizer from the bytes of a `tokenizer.json`.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        match build::tables(json)? {
            Some(blob) => Self::from_compact(Arc::new(blob)),
            None => Self::from_json(json),
        }
    }

    /// Converts a `tokenizer.json` to the compact form that [`Self::from_compact`] loads.
    pub fn compact(json: &[u8]) -> Result<Vec<u8>, ModelError> {
        let Some(blob) = build::tables(json)? else {
            return Ok(build::whole(json, Self::from_json(json)?.longest));
        };
        // Load the result, so that errors in the parts outside the tables are found now.
        let blob = Arc::new(blob);
        Self::from_compact(blob.clone())?;
        Ok(Arc::unwrap_or_clone(blob))
    }

    /// Loads the output of [`Self::compact`]. The tables are used in place, so `bytes` must not
    /// change. They are checked only when they are used: invalid tables cause an error of
    /// [`Self::encode`] or a wrong token, but no undefined behaviour.
    pub fn from_compact(bytes: Owner) -> Result<Self, ModelError> {
        let malformed =
            |reason: String| ModelError::malformed(TOKENIZER, format!("compact form: {reason}"));
        let whole = (*bytes).as_ref();
        let layout = CompactLayout::read(whole).map_err(|reason| malformed(reason.to_owned()))?;
        let rest = layout
            .rest(whole)
            .ok_or_else(|| malformed("it is cut short".to_owned()))?;
        let longest = layout.longest;
        if layout.kind == CompactKind::Whole {
            return Ok(Self {
                longest,
                ..Self::from_json(rest)?
            });
        }
        let rest: Rest =
            serde_json::from_slice(rest).map_err(|error| malformed(error.to_string()))?;
        let model = TableModel::new(layout, rest.model, bytes).map_err(malformed)?;
        let mut pipeline: Pipeline = TokenizerBuilder::new()
            .with_model(AnyModel::Table(Box::new(model)))
            .with_normalizer(rest.normalizer)
            .with_pre_tokenizer(rest.pre_tokenizer)
            .with_post_processor(rest.post_processor)
            .build()
            .map_err(|error| malformed(error.to_string()))?;
        pipeline
            .add_tokens(rest.added_tokens)
            .map_err(|error| malformed(error.to_string()))?;
        Ok(Self {
            pipeline: Arc::new(pipeline),
            longest,
        })
    }

    /// Loads a `tokenizer.json` with a model of the `tokenizers` crate.
    fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let malformed = |reason: String| ModelError::malformed(TOKENIZER, reason);
        let mut pipeline: Pipeline =
            serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        // This crate truncates by itself (`prompt`, `text_tokens`), and sequences are not padded.
        pipeline
            .with_truncation(None)
            .map_err(|error| malformed(error.to_string()))?;
        pipeline.with_padding(None);
        let longest = pipeline
            .get_vocab(true)
            .keys()
            .map(|token| token.len())
            .max()
            .ok_or_else(|| malformed("the vocabulary is empty".to_owned()))?;
        Ok(Self {
            pipeline: Arc::new(pipeline),
            longest,
        })
    }

    /// The text of the token with this ID.
    pub fn token(&self, id: u32) -> Result<String, ModelError> {
        self.pipeline.id_to_token(id).ok_or_else(|| {
            ModelError::malformed(TOKENIZER, format!("there is no token with id {id}"))
        })
    }

    /// The ID of the token that is spelled like this.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// Approximate maximum length in bytes of a text of `tokens` tokens. In a byte-level
    /// vocabulary, each character of a token stands for one byte of text, and added tokens are
    /// spelled out. (A normalizer may compose characters into fewer bytes. There is no bound if
    /// white space is dropped, or if an unknown word of any length becomes one token.)
    pub fn most_bytes(&self, tokens: usize) -> usize {
        tokens.saturating_mul(self.longest)
    }

    /// Tokenizes `text` and adds the post-processor's special tokens. A special token spelled out
    /// in `text` counts as that token.
    pub fn encode(&self, text: &str) -> Result<Encoded, ModelError> {
        ask_for(text)?;
        let encoding = self.pipeline.encode(text, true).map_err(failed)?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// The same tokenizer, with conversion to lower case as its first step.
    ///
    /// # Errors
    /// If a clone of this tokenizer exists.
    pub fn lowercased(self) -> Result<Self, ModelError> {
        self.normalized_first(vec![Lowercase.into()])
    }

    /// The same tokenizer, with `steps` before its own normalizer.
    ///
    /// # Errors
    /// If a clone of this tokenizer exists.
    pub fn normalized_first(mut self, steps: Vec<NormalizerWrapper>) -> Result<Self, ModelError> {
        let pipeline = Arc::get_mut(&mut self.pipeline)
            .ok_or_else(|| ModelError::Internal("the tokenizer is in use".into()))?;
        let own = pipeline.get_normalizer().cloned();
        let normalizers = steps.into_iter().chain(own).collect();
        pipeline
            .with_normalizer(Some(Normalizers::new(normalizers)))
            .map_err(failed)?;
        Ok(self)
    }

    /// Tokenizes a text without adding special tokens.
    pub fn pieces(&self, text: &str) -> Result<Encoding, ModelError> {
        ask_for(text)?;
        self.pipeline.encode(text, false).map_err(failed)
    }

    /// Number of special tokens that the post-processor adds to a text or a pair.
    pub fn added(&self, pair: bool) -> usize {
        let processor = self.pipeline.get_post_processor();
        processor.map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Adds the post-processor's special tokens to a tokenized text or pair.
    pub fn join(&self, first: Encoding, second: Option<Encoding>) -> Result<Encoding, ModelError> {
        self.pipeline
            .post_process(first, second, true)
            .map_err(failed)
    }

    /// Whether the model uses the tables of a compact form.
    #[cfg(test)]
    fn uses_tables(&self) -> bool {
        matches!(self.pipeline.get_model(), AnyModel::Table(_))
    }
}

/// Peak memory of tokenizing, in bytes per byte of text. The `tokenizers` crate stores the origin
/// of each byte, and a structure for each piece. The measured maximum is 553 (`tests/cost.rs`).
const BYTES_A_BYTE: u64 = 600;

/// Fails if the system does not have enough memory to tokenize `text`.
fn ask_for(text: &str) -> Result<(), ModelError> {
    Ok(memory::ask(BYTES_A_BYTE * text.len() as u64)?)
}

fn failed(error: tokenizers::Error) -> ModelError {
    ModelError::Internal(format!("could not tokenize: {error}"))
}

/// A model over tables, or a model of the `tokenizers` crate.
enum AnyModel {
    Table(Box<TableModel>),
    Crate(Box<ModelWrapper>),
}

impl<'de> Deserialize<'de> for AnyModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut model = ModelWrapper::deserialize(deserializer)?;
        // Otherwise the crate would cache the tokens of up to 10,000 words: BPE in each thread, Unigram
        // in the process.
        match &mut model {
            ModelWrapper::BPE(bpe) => bpe.resize_cache(0),
            ModelWrapper::Unigram(unigram) => unigram.resize_cache(0),
            ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => {}
        }
        Ok(Self::Crate(Box::new(model)))
    }
}

impl Model for AnyModel {
    type Trainer = NoTrainer;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            Self::Table(model) => model.tokenize(word),
            Self::Crate(model) => model.tokenize(word),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Table(model) => model.token_to_id(token),
            Self::Crate(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Table(model) => model.id_to_token(id),
            Self::Crate(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Table(model) => model.vocab(),
            Self::Crate(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Table(model) => model.vocab_size(),
            Self::Crate(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, _folder: &Path, _prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("this tokenizer cannot be saved".into())
    }

    fn get_trainer(&self) -> NoTrainer {
        NoTrainer
    }
}

/// An unused trainer, which the trait [`Model`] requires.
struct NoTrainer;

impl Trainer for NoTrainer {
    type Model = AnyModel;

    fn should_show_progress(&self) -> bool {
        false
    }

    fn train(&self, _model: &mut AnyModel) -> tokenizers::Result<Vec<AddedToken>> {
        Err("this tokenizer cannot be trained".into())
    }

    fn feed<I, S, F>(&mut self, _texts: I, _process: F) -> tokenizers::Result<()>
    where
        I: Iterator<Item = S> + Send,
        S: AsRef<str> + Send,
        F: Fn(&str) -> tokenizers::Result<Vec<String>> + Sync,
    {
        Err("this tokenizer cannot be trained".into())
    }
}
