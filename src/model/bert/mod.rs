//! BERT and XLM-RoBERTa as text embedders in the layout of sentence-transformers (all-MiniLM-L6-v2,
//! bge-m3) and as cross-encoders (bge-reranker-v2-m3, ms-marco-MiniLM).
//!
//! An embedder pools the hidden states of a text's tokens. [`layout::Prompts::prefix`] describes
//! the effect of an instruction. A cross-encoder reads a query and a document as one sequence and
//! applies a small head to the first token's hidden state, `out(tanh(dense(x)))`.
//!
//! Tests compare every hidden state with transformers and sentence-transformers
//! (`tests/golden/text/`), and the vectors of the real all-MiniLM-L6-v2 (`tests/text_models/`).

mod config;
mod encoder;
mod layout;

#[cfg(test)]
mod tests;

use super::batch::{BATCH_TOKENS, batches, l2_normalised, with_margin};
use super::compute::add;
use super::directory::Directory;
use super::layers::Linear;
use super::scope::WeightSource;
use super::text_tokens::{TextTokens, TokenSequence};
use super::tokenizer::Tokenizer;
use super::{Cancel, Embedder, ModelError, Request};
use config::{BertConfig, Variant};
use encoder::{BertEncoder, CheckpointScopes};
use layout::{ModelTask, ScoreActivation};
pub(crate) use layout::{Pooling, Prompts, TextModelLayout};
use photosearch_memory as memory;

const SCORES_ONLY: ModelError = ModelError::WrongKind(
    "it is a cross-encoder: it scores pairs of texts and makes no embeddings",
);

/// A point in the forward pass at which tests inspect the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BertPoint {
    Embedded,
    Layer(usize),
}

type BertObserver<'a> = &'a mut dyn FnMut(BertPoint, &[f32]);

/// The parts that embedders and cross-encoders share.
struct Base {
    tokens: TextTokens,
    encoder: BertEncoder,
    hidden: usize,
    /// Estimated memory per token in a forward pass, in bytes.
    token_bytes: u64,
}

struct TextEmbedder {
    base: Base,
    pooling: Pooling,
    prompts: Prompts,
    default_instruction: Option<String>,
}

struct CrossEncoder {
    base: Base,
    dense: Linear,
    out: Linear,
    activation: ScoreActivation,
}

/// Dimensions of the model's vectors, or `None` for a cross-encoder.
pub(super) fn dims(directory: &Directory) -> Result<Option<usize>, ModelError> {
    let config = BertConfig::read(directory)?;
    Ok(match TextModelLayout::read(directory, &config)?.task {
        ModelTask::Embed(_) => Some(config.hidden_size),
        ModelTask::Score(_) => None,
    })
}

pub(super) fn load(
    directory: &Directory,
    source: WeightSource<'_>,
    cancel: &Cancel,
) -> Result<Box<dyn Embedder>, ModelError> {
    Ok(match BertModel::load(directory, source, cancel)? {
        BertModel::Embedder(model) => Box::new(model),
        BertModel::CrossEncoder(model) => Box::new(model),
    })
}

enum BertModel {
    Embedder(TextEmbedder),
    CrossEncoder(CrossEncoder),
}

impl BertModel {
    fn load(
        directory: &Directory,
        source: WeightSource<'_>,
        cancel: &Cancel,
    ) -> Result<Self, ModelError> {
        let config = BertConfig::read(directory)?;
        let layout = TextModelLayout::read(directory, &config)?;
        let settings = directory.settings(config.hidden_size)?;
        let max_tokens = settings
            .max_tokens
            .or(layout.max_tokens)
            .unwrap_or(usize::MAX)
            .min(config.max_tokens());
        let checkpoint = CheckpointScopes::new(&config, source, cancel);
        let tokenizer = match (Tokenizer::read(directory)?, layout.lowercase) {
            (tokenizer, true) => tokenizer.lowercased()?,
            (tokenizer, false) => tokenizer,
        };
        let base = Base {
            tokens: TextTokens::new(tokenizer, max_tokens),
            encoder: BertEncoder::load(&config, &checkpoint)?,
            hidden: config.hidden_size,
            // Elements per token, estimated as for Qwen3-VL (`working_set`): the hidden state and its
            // norm, plus the larger of attention's products (queries, keys and values in three forms)
            // and the two halves of the feed-forward layer, one of them also rounded.
            token_bytes: 4
                * (3 * config.hidden_size
                    + (11 * config.hidden_size).max(3 * config.intermediate_size))
                    as u64,
        };
        Ok(match layout.task {
            ModelTask::Embed(pooling) => Self::Embedder(TextEmbedder {
                base,
                pooling,
                prompts: layout.prompts,
                default_instruction: settings.default_instruction,
            }),
            ModelTask::Score(activation) => {
                Self::CrossEncoder(CrossEncoder::load(base, &config, &checkpoint, activation)?)
            }
        })
    }
}

/// A sequence counts as at least this many tokens in the estimate of memory.
const LEAST_COUNTED_TOKENS: usize = 16;

impl Base {
    /// Runs the encoder on the sequences in batches. `finish` maps the hidden states of each
    /// sequence of a batch, [tokens, hidden], to its result.
    fn run<T>(
        &self,
        sequences: &[TokenSequence],
        memory: u64,
        cancel: &Cancel,
        finish: impl Fn(&[&[f32]]) -> Result<Vec<T>, ModelError>,
    ) -> Result<Vec<T>, ModelError> {
        let fitting = usize::try_from(memory / self.token_bytes).unwrap_or(usize::MAX);
        // Attention pads the packed keys and values of a short sequence.
        let size = |sequence: &TokenSequence| sequence.ids.len().max(LEAST_COUNTED_TOKENS);
        if let Some(large) = sequences.iter().find(|own| size(own) > fitting) {
            return Err(ModelError::OutOfMemory(format!(
                "embedding {} tokens would take {} MB",
                large.ids.len(),
                (size(large) as u64 * self.token_bytes).div_ceil(1 << 20)
            )));
        }
        let mut results = Vec::with_capacity(sequences.len());
        let limit = BATCH_TOKENS.min(fitting);
        for batch in batches(sequences, limit, size) {
            let tokens: usize = batch.iter().map(size).sum();
            memory::ask(with_margin(tokens as u64 * self.token_bytes))?;
            let states = self.encoder.forward(batch, cancel, &mut |_, _| ())?;
            let mut rest = states.as_slice();
            let each = batch.iter().map(|sequence| {
                let (own, after) = rest.split_at(sequence.ids.len() * self.hidden);
                rest = after;
                own
            });
            results.extend(finish(&each.collect::<Vec<_>>())?);
        }
        Ok(results)
    }
}

impl TextEmbedder {
    fn tokens(&self, request: &Request<'_>) -> Result<TokenSequence, ModelError> {
        if !request.images.is_empty() {
            return Err(ModelError::TEXT_ONLY);
        }
        let own = request.instruction.filter(|own| !own.trim().is_empty());
        let prefix = self
            .prompts
            .prefix(own.or(self.default_instruction.as_deref()));
        self.base
            .tokens
            .text(prefix, request.text.unwrap_or_default())
    }

    /// Maps a sequence's hidden states, [tokens, hidden], to one row.
    fn pool(&self, states: &[f32]) -> Vec<f32> {
        let mut rows = states.chunks_exact(self.base.hidden);
        let count = rows.len();
        let mut pooled = rows.next().unwrap_or_default().to_vec();
        if self.pooling == Pooling::Mean {
            rows.for_each(|row| add(&mut pooled, row));
            let scale = (1.0 / count as f64) as f32;
            pooled.iter_mut().for_each(|x| *x *= scale);
        }
        pooled
    }
}

impl Embedder for TextEmbedder {
    fn dims(&self) -> usize {
        self.base.hidden
    }

    fn check_images(&self) -> Result<(), ModelError> {
        Err(ModelError::TEXT_ONLY)
    }

    fn fitted_size(&self, _width: u32, _height: u32) -> Result<Option<(u32, u32)>, ModelError> {
        Err(ModelError::TEXT_ONLY)
    }

    fn embed(
        &self,
        requests: &[Request<'_>],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let sequences = requests
            .iter()
            .map(|request| cancel.check().and_then(|()| self.tokens(request)))
            .collect::<Result<Vec<_>, _>>()?;
        self.base.run(&sequences, memory, cancel, |states| {
            let pooled = states.iter().map(|states| self.pool(states));
            pooled.map(l2_normalised).collect()
        })
    }
}

impl CrossEncoder {
    fn load(
        base: Base,
        config: &BertConfig,
        checkpoint: &CheckpointScopes<'_>,
        activation: ScoreActivation,
    ) -> Result<Self, ModelError> {
        let (dense, out) = match config.model_type {
            Variant::Bert => (
                checkpoint.part("pooler.dense"),
                checkpoint.outside("classifier"),
            ),
            Variant::XlmRoberta => (
                checkpoint.outside("classifier.dense"),
                checkpoint.outside("classifier.out_proj"),
            ),
        };
        let hidden = config.hidden_size;
        Ok(Self {
            base,
            dense: Linear::load(&dense, hidden, hidden, true)?,
            out: Linear::load(&out, hidden, 1, true)?,
            activation,
        })
    }

    /// The score of each sequence. A sequence's hidden states are [tokens, hidden].
    fn head(&self, states: &[&[f32]]) -> Result<Vec<f32>, ModelError> {
        let first = states.iter().map(|states| &states[..self.base.hidden]);
        let mut dense = self.dense.forward(&first.collect::<Vec<_>>().concat());
        dense.iter_mut().for_each(|x| *x = x.tanh());
        let outputs = self.out.forward(&dense).into_iter();
        outputs
            .map(|output| activated(output, self.activation))
            .collect()
    }
}

impl Embedder for CrossEncoder {
    fn dims(&self) -> usize {
        0
    }

    fn check_images(&self) -> Result<(), ModelError> {
        Err(SCORES_ONLY)
    }

    fn fitted_size(&self, _width: u32, _height: u32) -> Result<Option<(u32, u32)>, ModelError> {
        Err(SCORES_ONLY)
    }

    fn embed(
        &self,
        _requests: &[Request<'_>],
        _memory: u64,
        _cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        Err(SCORES_ONLY)
    }

    fn score(
        &self,
        pairs: &[(&str, &str)],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let sequences = pairs
            .iter()
            .map(|(query, content)| {
                cancel.check()?;
                self.base.tokens.pair(query, content)
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.base
            .run(&sequences, memory, cancel, |states| self.head(states))
    }
}

/// Applies the activation. Fails if the output is not finite, because weights that overflow would
/// otherwise give a score that sorts silently at an arbitrary rank.
fn activated(output: f32, activation: ScoreActivation) -> Result<f32, ModelError> {
    if !output.is_finite() {
        return Err(ModelError::Internal(format!("the score is {output}")));
    }
    Ok(match activation {
        ScoreActivation::Identity => output,
        ScoreActivation::Sigmoid => (1.0 / (1.0 + f64::from(-output).exp())) as f32,
    })
}
