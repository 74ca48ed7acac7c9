//! `tokenizer.json` to token ids.
//!
//! Reading a large vocabulary into the hash maps of the `tokenizers` crate costs each process anew: 0.7 s
//! and 300 MB for the 250,000 pieces of XLM-RoBERTa, where the compact form takes 10 ms and 5 MB
//! (`tests::cost::of_loading` measures it). So a tokenizer has a compact form: the vocabulary, the
//! merges and the scores as tables that are looked up where they lie (`blob`), by models of our
//! own (`table`) that stand in the crate's pipeline in place of its models and give what they
//! give. Everything else, such as normalizers, regular expressions and templates, is the crate's.
//! What no table covers (`build` decides) is read by the crate alone.

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

/// A tokenizer; a clone shares everything.
#[derive(Clone)]
pub(super) struct Tokenizer {
    pipeline: Arc<Pipeline>,
    /// Bytes of text that one token can stand for.
    longest: usize,
}

/// A text's tokens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub ids: Vec<u32>,
    /// For each token the bytes of the text that it stands for; (0, 0) for one that the
    /// tokenizer's post-processor put in.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// The one of `directory`: in a pack, its compact form.
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        match directory.compact_tokenizer() {
            Some(compact) => Self::from_compact(Arc::new(compact)),
            None => Self::parse(&directory.read(TOKENIZER)?),
        }
    }

    /// From the bytes of a `tokenizer.json`.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        match build::tables(json)? {
            Some(blob) => Self::from_compact(Arc::new(blob)),
            None => Self::from_json(json),
        }
    }

    /// The compact form of a `tokenizer.json`, for [`Self::from_compact`].
    pub fn compact(json: &[u8]) -> Result<Vec<u8>, ModelError> {
        let Some(blob) = build::tables(json)? else {
            return Ok(build::whole(json, Self::from_json(json)?.longest));
        };
        // So that what the tables do not hold is found sound as well.
        let blob = Arc::new(blob);
        Self::from_compact(blob.clone())?;
        Ok(Arc::unwrap_or_clone(blob))
    }

    /// From what [`Self::compact`] made. The tables are used where they lie, so `bytes` must not
    /// change; that they are sound is checked as they are used, and what is not sound there is an
    /// error of [`Self::encode`] or a wrong token, never more.
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

    /// From the bytes of a `tokenizer.json`, with a model of the `tokenizers` crate.
    fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let malformed = |reason: String| ModelError::malformed(TOKENIZER, reason);
        let mut pipeline: Pipeline =
            serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        // Cutting is ours to do (see `prompt`), and nothing is padded.
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

    /// The text of a token.
    pub fn token(&self, id: u32) -> Result<String, ModelError> {
        self.pipeline.id_to_token(id).ok_or_else(|| {
            ModelError::malformed(TOKENIZER, format!("there is no token with id {id}"))
        })
    }

    /// What `tokens` tokens can stand for at most, about: in a byte-level vocabulary each character
    /// stands for one byte of text, and added tokens are spelled out. (A normalizer may compose
    /// characters into fewer bytes. Where white space is dropped, or an unknown word becomes one
    /// token whatever its length, there is no bound.)
    pub fn most_bytes(&self, tokens: usize) -> usize {
        tokens.saturating_mul(self.longest)
    }

    /// Tokens of `text`, in which the spellings of special tokens are those tokens, and whatever
    /// the tokenizer's post-processor adds.
    pub fn encode(&self, text: &str) -> Result<Encoded, ModelError> {
        ask_for(text)?;
        let encoding = self.pipeline.encode(text, true).map_err(failed)?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// The same, of text that is put in lower case before all else.
    ///
    /// # Errors
    /// Where a clone shares it.
    pub fn lowercased(mut self) -> Result<Self, ModelError> {
        let pipeline = Arc::get_mut(&mut self.pipeline)
            .ok_or_else(|| ModelError::Internal("the tokenizer is in use".into()))?;
        let own = pipeline.get_normalizer().cloned();
        let normalizers = std::iter::once(NormalizerWrapper::Lowercase(Lowercase))
            .chain(own)
            .collect();
        pipeline
            .with_normalizer(Some(Normalizers::new(normalizers)))
            .map_err(failed)?;
        Ok(self)
    }

    /// The tokens of a text by itself, without any of the post-processor's.
    pub fn pieces(&self, text: &str) -> Result<Encoding, ModelError> {
        ask_for(text)?;
        self.pipeline.encode(text, false).map_err(failed)
    }

    /// How many tokens the post-processor adds to a text or a pair.
    pub fn added(&self, pair: bool) -> usize {
        let processor = self.pipeline.get_post_processor();
        processor.map_or(0, |processor| processor.added_tokens(pair))
    }

    /// The tokens of a text or a pair with what the post-processor adds.
    pub fn join(&self, first: Encoding, second: Option<Encoding>) -> Result<Encoding, ModelError> {
        self.pipeline
            .post_process(first, second, true)
            .map_err(failed)
    }

    /// Whether the model is one of ours.
    #[cfg(test)]
    fn uses_tables(&self) -> bool {
        matches!(self.pipeline.get_model(), AnyModel::Table(_))
    }
}

/// Bytes that tokenizing takes at its highest for each byte of text: the crate keeps where each byte
/// came from, and each piece in a structure of its own. Measured: at most 553 (`tests/cost.rs`).
const BYTES_A_BYTE: u64 = 600;

/// An error where the system has too little memory for a text's tokens.
fn ask_for(text: &str) -> Result<(), ModelError> {
    Ok(memory::ask(BYTES_A_BYTE * text.len() as u64)?)
}

fn failed(error: tokenizers::Error) -> ModelError {
    ModelError::Internal(format!("could not tokenize: {error}"))
}

/// A model of ours or of the crate.
enum AnyModel {
    Table(Box<TableModel>),
    Crate(Box<ModelWrapper>),
}

impl<'de> Deserialize<'de> for AnyModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut model = ModelWrapper::deserialize(deserializer)?;
        // Else up to 10,000 words and their tokens are kept in each thread.
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

/// [`Model`] asks for a trainer.
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
