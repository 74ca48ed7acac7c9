//! NomicBert (nomic-embed-text-v1.5), run by candle-transformers.
//!
//! The forward pass is candle's, in f32 on tensors that each session holds: candle cannot compute on
//! mapped memory. It cannot be interrupted either, so a batch is small ([`BATCH_TOKENS`]).
//!
//! The model was trained so that its vectors can be cut: the mean of the last hidden states goes
//! through a layer norm without weights, is cut to its first values, and is scaled to length one. Here
//! the model scales the whole vector after the layer norm, and SQL cuts it later. A cut vector is
//! scaled again, which cancels the first scaling, so the result is the same. The layer norm has to
//! precede the cut: over a cut vector, it would have another mean and variance.
//!
//! Tests compare tokens, states and cut vectors with transformers (`tests/golden/nomic/`).

mod config;
mod threads;
mod weights;

#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};
use candle_transformers::models::nomic_bert::NomicBertModel;
use photosearch_memory as memory;

use super::batch::{check_ids, l2_normalised, with_margin};
use super::bert::{Pooling, Prompts, TextModelLayout};
use super::compute::DType;
use super::directory::{Directory, PHOTOSEARCH, TOKENIZER};
use super::scope::WeightSource;
use super::text_tokens::{TextTokens, TokenSequence};
use super::tokenizer::Tokenizer;
use super::{Cancel, Embedder, ModelError, Request};
use config::NomicConfig;
use threads::Threads;
pub use threads::limit as limit_threads;

/// Maximum number of tokens, including padding, in a batch of several texts. A forward pass cannot be
/// cancelled; one of this many tokens takes well under a second on two cores.
const BATCH_TOKENS: usize = 256;

/// The epsilon of torch's `layer_norm`.
const EPSILON: f64 = 1e-5;

/// The prompts of the model's tasks, under the names of sentence-transformers and under Nomic's.
const PROMPTS: [(&str, &str); 6] = [
    ("query", "search_query: "),
    ("document", "search_document: "),
    ("search_query", "search_query: "),
    ("search_document", "search_document: "),
    ("clustering", "clustering: "),
    ("classification", "classification: "),
];

struct NomicEmbedder {
    tokens: TextTokens,
    config: NomicConfig,
    /// `None` while the model's weights are being packed.
    model: Option<NomicBertModel>,
    threads: Threads,
    pooling: Pooling,
    layer_norm: bool,
    prompts: Prompts,
    default_instruction: Option<String>,
}

/// Dimensions of the model's vectors.
pub(super) fn dims(directory: &Directory) -> Result<Option<usize>, ModelError> {
    let config = NomicConfig::read(directory)?;
    TextModelLayout::of_embedder(directory)?;
    Ok(Some(config.candle.n_embd))
}

/// Size of the weights that each session holds, in bytes.
pub(super) fn session_bytes(directory: &Directory) -> Result<u64, ModelError> {
    Ok(weights::bytes(&NomicConfig::read(directory)?))
}

pub(super) fn load(
    directory: &Directory,
    source: WeightSource<'_>,
    cancel: &Cancel,
) -> Result<Box<dyn Embedder>, ModelError> {
    Ok(Box::new(NomicEmbedder::load(directory, source, cancel)?))
}

impl NomicEmbedder {
    fn load(
        directory: &Directory,
        source: WeightSource<'_>,
        cancel: &Cancel,
    ) -> Result<Self, ModelError> {
        let mut config = NomicConfig::read(directory)?;
        let (pooling, layout) = TextModelLayout::of_embedder(directory)?;
        let settings = directory.settings(config.candle.n_embd)?;
        if let Some(dtype) = settings.compute_dtype
            && dtype != DType::F32
        {
            return Err(ModelError::malformed(
                PHOTOSEARCH,
                format!(
                    "compute_dtype must be float32 for this model, not {}",
                    dtype.name()
                ),
            ));
        }
        let usual = layout.max_tokens.unwrap_or(usize::MAX);
        let max_tokens = settings
            .max_tokens
            .unwrap_or(usual.min(config.default_tokens()))
            .min(config.max_tokens());
        // candle makes its tables of cosines and sines for this many positions.
        config.candle.n_positions = max_tokens;
        let tokenizer = match (Tokenizer::read(directory)?, layout.lowercase) {
            (tokenizer, true) => tokenizer.lowercased()?,
            (tokenizer, false) => tokenizer,
        };
        Ok(Self {
            tokens: TextTokens::new(tokenizer, max_tokens),
            model: weights::load(&config, source, cancel)?,
            config,
            threads: Threads::default(),
            pooling,
            layer_norm: settings.layer_norm.unwrap_or(true),
            prompts: layout.prompts.or(&PROMPTS, "query"),
            default_instruction: settings.default_instruction,
        })
    }

    fn tokens(&self, request: &Request<'_>) -> Result<TokenSequence, ModelError> {
        if !request.images.is_empty() {
            return Err(ModelError::TEXT_ONLY);
        }
        let own = request.instruction.filter(|own| !own.trim().is_empty());
        let prefix = self
            .prompts
            .prefix(own.or(self.default_instruction.as_deref()));
        let sequence = self.tokens.text(prefix, request.text.unwrap_or_default())?;
        check_ids(&sequence.ids, self.config.candle.vocab_size)?;
        let known = self.config.candle.type_vocab_size;
        if let Some(segment) = sequence.segments.iter().find(|&&own| own as usize >= known) {
            return Err(ModelError::malformed(
                TOKENIZER,
                format!("type id {segment} is not among the model's {known} token types"),
            ));
        }
        Ok(sequence)
    }

    /// Memory that candle takes for `count` texts of `longest` tokens, in bytes: per token the
    /// hidden states of a layer and what lies between the products of its feed-forward layer, and
    /// per pair of tokens the scores of every head, before and after each step of the softmax.
    fn forward_bytes(&self, count: usize, longest: usize) -> u64 {
        let config = &self.config.candle;
        let [count, longest, hidden, inner, heads] =
            [count, longest, config.n_embd, config.n_inner, config.n_head].map(|size| size as u64);
        let token = 14 * hidden + 4 * inner;
        let pairs = longest.saturating_mul(longest).saturating_mul(4 * heads);
        let sequence = longest.saturating_mul(token).saturating_add(pairs);
        sequence.saturating_mul(4 * count)
    }

    /// The number of texts in the next batch. `lengths` ascend.
    fn batch(&self, lengths: &[usize], memory: u64) -> Result<usize, ModelError> {
        let fits = |count: &usize| {
            let longest = lengths[count - 1];
            count * longest <= BATCH_TOKENS && self.forward_bytes(*count, longest) <= memory
        };
        let count = (2..=lengths.len()).take_while(fits).last().unwrap_or(1);
        let bytes = self.forward_bytes(1, lengths[0]);
        if bytes > memory {
            return Err(ModelError::OutOfMemory(format!(
                "embedding {} tokens would take {} MB",
                lengths[0],
                bytes.div_ceil(1 << 20)
            )));
        }
        Ok(count)
    }

    /// The last hidden states of each text, [tokens, hidden] without padding.
    fn states(&self, batch: &[&TokenSequence]) -> Result<Vec<Vec<f32>>, ModelError> {
        let model = self.model.as_ref().ok_or_else(|| {
            ModelError::Internal("the model was built without its weights".to_owned())
        })?;
        let lengths: Vec<usize> = batch.iter().map(|sequence| sequence.ids.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        memory::ask(with_margin(self.forward_bytes(batch.len(), longest)))?;
        let padded = |row: &dyn Fn(usize, usize) -> u32| {
            let cells = (0..batch.len()).flat_map(|i| (0..longest).map(move |j| (i, j)));
            let cells: Vec<u32> = cells
                .map(|(i, j)| if j < lengths[i] { row(i, j) } else { 0 })
                .collect();
            Tensor::from_vec(cells, (batch.len(), longest), &Device::Cpu)
        };
        let forward = || -> candle_core::Result<Vec<f32>> {
            let ids = padded(&|i, j| batch[i].ids[j])?;
            let segments = padded(&|i, j| batch[i].segments[j])?;
            let mask = padded(&|_, _| 1)?;
            let states = model.forward(&ids, Some(&segments), Some(&mask))?;
            states.flatten_all()?.to_vec1()
        };
        let states = self.threads.run(forward)?.map_err(failed)?;
        let hidden = self.config.candle.n_embd;
        let each = states.chunks_exact(longest * hidden).zip(&lengths);
        Ok(each
            .map(|(states, length)| states[..length * hidden].to_vec())
            .collect())
    }

    /// Maps a text's hidden states, [tokens, hidden], to its vector.
    fn vector(&self, states: &[f32]) -> Result<Vec<f32>, ModelError> {
        let hidden = self.config.candle.n_embd;
        let mut pooled = match self.pooling {
            Pooling::First => states[..hidden].to_vec(),
            Pooling::Mean => mean(states, hidden),
        };
        if self.layer_norm {
            normalise_layer(&mut pooled);
        }
        l2_normalised(pooled)
    }
}

impl Embedder for NomicEmbedder {
    fn dims(&self) -> usize {
        self.config.candle.n_embd
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
        // Texts of similar length are padded least.
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&i| sequences[i].ids.len());
        let lengths: Vec<usize> = order.iter().map(|&i| sequences[i].ids.len()).collect();
        let mut vectors = vec![Vec::new(); sequences.len()];
        let mut done = 0;
        while done < order.len() {
            cancel.check()?;
            let count = self.batch(&lengths[done..], memory)?;
            let own = &order[done..done + count];
            let batch: Vec<&TokenSequence> = own.iter().map(|&i| &sequences[i]).collect();
            for (&i, states) in own.iter().zip(self.states(&batch)?) {
                vectors[i] = self.vector(&states)?;
            }
            done += count;
        }
        Ok(vectors)
    }
}

/// The mean of the rows, of `width` elements each.
fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; width];
    for row in rows.chunks_exact(width) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    let count = (rows.len() / width) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// `(x - mean(x)) / sqrt(var(x) + ε)`, a layer norm without weights.
fn normalise_layer(x: &mut [f32]) {
    let count = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let squares = x.iter().map(|&x| (f64::from(x) - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count + EPSILON).sqrt();
    for x in x {
        *x = ((f64::from(*x) - mean) / deviation) as f32;
    }
}

fn failed(error: candle_core::Error) -> ModelError {
    match memory::is_low() {
        true => ModelError::NoMemory,
        false => ModelError::Internal(error.to_string()),
    }
}
