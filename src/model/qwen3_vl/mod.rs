//! Qwen3-VL as an embedder of texts and pictures (Bai et al. 2025, "Qwen3-VL Technical Report"; Li
//! et al. 2026, "Qwen3-VL-Embedding"). The vision tower turns a picture into tokens, which stand in
//! the prompt among the text tokens. The vector is the text model's last hidden state at the
//! prompt's last token, L2 normalised.
//!
//! All sizes come from the checkpoint's files. Tests compare every hidden state with transformers
//! (`tests/golden/`).

mod config;
mod preprocess;
mod rope;
mod text;
mod vision;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};

use super::batch::{PACK_TOKENS, batches, check_ids, l2_normalised, with_margin};
use super::directory::Directory;
use super::prompt::{self, ImageMarkers, Prompt};
use super::scope::{Scope, WeightSource};
use super::tokenizer::Tokenizer;
use super::{Cancel, Embedder, ModelError, Request};
use config::QwenConfig;
use photosearch_memory as memory;
use preprocess::Preprocessor;
use rope::PatchGrid;
use text::{PromptPrefix, TextModel, TokenBatch, Visual};
use vision::VisionTower;

/// The reference implementation's limit on a prompt, in tokens.
const MAX_TOKENS: usize = 8192;
/// Maximum number of patches for which the vision tower processes several pictures together. The
/// limit keeps memory at the level of one large photo.
const PACK_PATCHES: usize = 8192;

/// Maximum number of tokens in a cached prefix. With the 2B model, a prefix of this length takes 15
/// MB.
const MAX_PREFIX: usize = 64;
/// Number of cached prefixes; a session typically uses one or two instructions.
const PREFIXES: usize = 2;

/// A point in the forward pass at which tests inspect the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QwenPoint {
    PatchEmbedding,
    PatchPositions,
    VisionBlock(usize),
    Deepstack(usize),
    Merged,
    Embedded,
    TextBlock(usize),
    Norm,
}

type QwenObserver<'a> = &'a mut dyn FnMut(QwenPoint, &Tensor);

/// A batch of requests, concatenated and ready for the model.
#[derive(Clone, Default)]
struct InputBatch {
    /// A prefix that all requests of the batch share, and the number of its tokens they share.
    /// These tokens are omitted from `ids`, `positions` and `lengths`.
    prefix: Option<(Arc<PromptPrefix>, usize)>,
    /// Number of tokens of the first request to cache as a prefix.
    keep: usize,
    /// Number of tokens of all requests, including the omitted ones.
    tokens: usize,
    ids: Vec<u32>,
    positions: Vec<[u32; 3]>,
    /// Number of tokens of each request.
    lengths: Vec<usize>,
    grids: Vec<PatchGrid>,
    /// Patch values of all pictures, [patches, values per patch].
    patches: Vec<f32>,
}

impl InputBatch {
    fn is_full(&self) -> bool {
        let patches: usize = self.grids.iter().map(|grid| grid.patches()).sum();
        self.ids.len() >= PACK_TOKENS || patches >= PACK_PATCHES
    }
}

/// Length of the longest common prefix.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

struct Qwen3Vl {
    config: QwenConfig,
    max_tokens: usize,
    default_instruction: String,
    markers: ImageMarkers,
    tokenizer: Tokenizer,
    preprocessor: Preprocessor,
    vision: VisionTower,
    text: TextModel,
    /// Cached keys and values of prompt prefixes, most recently used first.
    prefixes: Mutex<Vec<Arc<PromptPrefix>>>,
}

/// Dimensions of the vectors.
pub(super) fn dims(directory: &Directory) -> Result<Option<usize>, ModelError> {
    Ok(Some(QwenConfig::read(directory)?.text_config.hidden_size))
}

pub(super) fn load(
    directory: &Directory,
    source: WeightSource<'_>,
    cancel: &Cancel,
) -> Result<Box<dyn Embedder>, ModelError> {
    Ok(Box::new(Qwen3Vl::load(directory, source, cancel)?))
}

impl Qwen3Vl {
    fn load(
        directory: &Directory,
        source: WeightSource<'_>,
        cancel: &Cancel,
    ) -> Result<Self, ModelError> {
        let config = QwenConfig::read(directory)?;
        let recommended = directory.recommendations(config.text_config.hidden_size)?;
        let preprocessor =
            Preprocessor::read(directory, &config.vision_config, &recommended.image)?;
        let tokenizer = Tokenizer::read(directory)?;
        let markers = ImageMarkers {
            start: tokenizer.token(config.vision_start_token_id)?,
            pad: tokenizer.token(config.image_token_id)?,
            end: tokenizer.token(config.vision_end_token_id)?,
        };

        let part = |name: &str| Scope::new(source, name, cancel);
        Ok(Self {
            vision: VisionTower::load(&config.vision_config, &part("visual"))?,
            text: TextModel::load(&config.text_config, &part("language_model"))?,
            prefixes: Mutex::default(),
            max_tokens: recommended
                .max_tokens
                .unwrap_or(MAX_TOKENS)
                .min(config.text_config.max_position_embeddings),
            default_instruction: recommended
                .default_instruction
                .unwrap_or_else(|| prompt::DEFAULT_INSTRUCTION.to_owned()),
            markers,
            tokenizer,
            preprocessor,
            config,
        })
    }

    /// The token IDs and picture grids of a request.
    fn tokens(&self, request: &Request<'_>) -> Result<(Vec<u32>, Vec<PatchGrid>), ModelError> {
        let config = &self.config;
        let grids = request
            .images
            .iter()
            .map(|image| self.preprocessor.grid(image.width(), image.height()))
            .collect::<Result<Vec<_>, _>>()?;
        let merged: Vec<usize> = grids
            .iter()
            .map(|grid| grid.patches() / config.vision_config.merge_unit())
            .collect();
        let image_tokens: usize = merged.iter().sum();
        let instruction = prompt::instruction(request.instruction, &self.default_instruction);
        // Reject a request that is certainly too long before rendering and tokenizing it.
        let most_bytes = self.tokenizer.most_bytes(self.max_tokens);
        if image_tokens > self.max_tokens {
            return Err(ModelError::LimitExceeded(format!(
                "images take {image_tokens} tokens, but the model takes at most {}",
                self.max_tokens
            )));
        }
        if instruction.len() > most_bytes {
            return Err(ModelError::LimitExceeded(format!(
                "instruction of {} bytes exceeds the {} tokens that the model takes",
                instruction.len(),
                self.max_tokens
            )));
        }
        let text = request.text.map(|text| prompt::shorten(text, most_bytes));

        let prompt = Prompt::render(&instruction, &merged, text, &self.markers);
        let ids = prompt.encode(&self.tokenizer, self.max_tokens)?;
        check_ids(&ids, config.text_config.vocab_size)?;
        // As in the reference, a special token spelled out in the user's text counts as that token.
        // But each placeholder for a picture needs a picture.
        for (id, expected) in [
            (config.image_token_id, image_tokens),
            (config.video_token_id, 0),
        ] {
            if ids.iter().filter(|&&found| found == id).count() != expected {
                return Err(ModelError::InvalidInput(format!(
                    "text or instruction contains the placeholder \"{}\"",
                    self.tokenizer.token(id)?
                )));
            }
        }
        Ok((ids, grids))
    }

    /// Appends a request to the batch. `ids` and `grids` are the results of [`Self::tokens`].
    fn add(
        &self,
        request: &Request<'_>,
        (ids, grids): &(Vec<u32>, Vec<PatchGrid>),
        pack: &mut InputBatch,
        cancel: &Cancel,
    ) -> Result<(), ModelError> {
        self.add_tokens(ids, grids, pack)?;
        for (image, &grid) in request.images.iter().zip(grids) {
            cancel.check()?;
            self.preprocessor
                .append_patches(image, grid, &mut pack.patches)?;
        }
        Ok(())
    }

    /// Estimates the peak memory, in bytes, of a forward pass of `tokens` tokens and the pictures
    /// in `grids`. For each layer, the estimate counts the buffers that are alive at the same time.
    fn working_set(&self, tokens: usize, grids: &[&[PatchGrid]]) -> u64 {
        let count = |grids: &[PatchGrid]| grids.iter().map(|grid| grid.patches()).sum::<usize>();
        let all: usize = grids.iter().map(|grids| count(grids)).sum();
        // The vision tower processes the pictures in batches.
        let largest = grids
            .iter()
            .flat_map(|grids| grids.iter())
            .map(|grid| grid.patches())
            .max()
            .unwrap_or(0);
        let seen = all.min(largest.max(PACK_PATCHES));
        let (text, vision) = (&self.config.text_config, &self.config.vision_config);
        let heads = text.head_dim * (text.num_attention_heads + 2 * text.kv_heads());
        // Elements per row: the hidden state and its norm, plus the larger of two stages. Attention
        // holds queries, keys and values as projected, split into heads and packed. The
        // feed-forward layer holds its two halves, one of them also rounded.
        let layer = |hidden: usize, heads: usize, inner: usize| {
            3 * hidden + (3 * heads + 2 * hidden).max(3 * inner)
        };
        let text_row = layer(text.hidden_size, heads, text.intermediate_size);
        let patch = layer(
            vision.hidden_size,
            3 * vision.hidden_size,
            vision.intermediate_size,
        );
        let merged = (1 + vision.deepstack_visual_indexes.len()) * text.hidden_size;
        let elements = (tokens as u64) * text_row as u64
            + (seen as u64) * patch as u64
            + (all as u64) * (2 * vision.patch_values() + 2 * merged / vision.merge_unit()) as u64;
        elements * size_of::<f32>() as u64
    }

    fn add_tokens(
        &self,
        ids: &[u32],
        grids: &[PatchGrid],
        pack: &mut InputBatch,
    ) -> Result<(), ModelError> {
        let merge = self.config.vision_config.spatial_merge_size;
        let positions =
            rope::positions(ids, self.config.image_token_id, grids, merge).ok_or_else(|| {
                ModelError::Internal("picture tokens do not match the pictures".into())
            })?;
        let left_out = pack.prefix.as_ref().map_or(0, |(_, count)| *count);
        pack.ids.extend(&ids[left_out..]);
        pack.positions.extend(&positions[left_out..]);
        pack.lengths.push(ids.len() - left_out);
        pack.tokens += ids.len();
        pack.grids.extend(grids);
        Ok(())
    }

    /// Starts a batch whose first request has these tokens. Later requests of the batch must share
    /// its prefix.
    fn new_pack(&self, ids: &[u32]) -> InputBatch {
        let mut pack = InputBatch::default();
        let template = self.template(ids);
        if template == 0 {
            return pack;
        }
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        // The template's last token is a line feed. The tokenizer may merge it with the start of
        // the text, so the last token need not match.
        let same = |prefix: &Arc<PromptPrefix>| common(&prefix.ids, ids) + 1 >= template;
        match prefixes.iter().position(same) {
            Some(found) => {
                let prefix = prefixes.remove(found);
                prefixes.insert(0, prefix.clone());
                let count = common(&prefix.ids, ids).min(ids.len() - 1);
                pack.prefix = Some((prefix, count));
            }
            None => pack.keep = template,
        }
        pack
    }

    /// Number of tokens before the user's part of the prompt, at most [`MAX_PREFIX`]; 0 if the
    /// prompt has no such part.
    fn template(&self, ids: &[u32]) -> usize {
        let Some(&start) = ids.first() else { return 0 };
        let turn = ids.iter().skip(1).position(|&id| id == start);
        // The role "user" and the line feed after it.
        let length = turn.map_or(0, |turn| turn + 1 + 3);
        length.min(MAX_PREFIX).min(ids.len().saturating_sub(1))
    }

    fn remember(&self, prefix: PromptPrefix) {
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        prefixes.insert(0, Arc::new(prefix));
        prefixes.truncate(PREFIXES);
    }

    /// Runs the model on the batch and returns each request's vector.
    fn forward(
        &self,
        pack: &InputBatch,
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        memory::ask(with_margin(self.working_set(pack.tokens, &[&pack.grids])))?;
        let visual = match pack.grids.is_empty() {
            true => None,
            false => Some(self.encode_pictures(pack, cancel, observe)?),
        };
        let tokens = TokenBatch {
            ids: &pack.ids,
            positions: &pack.positions,
            lengths: &pack.lengths,
            prefix: pack.prefix.as_ref().map(|(all, count)| (&**all, *count)),
            keep: pack.keep,
        };
        let (hidden, prefix) = self
            .text
            .forward(&tokens, visual.as_ref(), cancel, observe)?;
        let mut end = 0;
        let last: Vec<u32> = pack
            .lengths
            .iter()
            .map(|length| {
                end += length;
                (end - 1) as u32
            })
            .collect();
        let last = hidden.index_select(&Tensor::new(last, &Device::Cpu)?, 0)?;
        let vectors = last
            .to_vec2::<f32>()?
            .into_iter()
            .map(l2_normalised)
            .collect::<Result<_, _>>()?;
        // The vectors are finite, so the prefix is safe to cache.
        if let Some(prefix) = prefix {
            self.remember(prefix);
        }
        Ok(vectors)
    }

    /// Runs the vision tower on the batch's pictures, several at a time.
    fn encode_pictures(
        &self,
        pack: &InputBatch,
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<Visual, ModelError> {
        let values = self.config.vision_config.patch_values();
        let mut merged = Vec::new();
        let mut deepstack =
            vec![Vec::new(); self.config.vision_config.deepstack_visual_indexes.len()];
        let mut patches = pack.patches.as_slice();
        for grids in batches(&pack.grids, PACK_PATCHES, |grid| grid.patches()) {
            let count: usize = grids.iter().map(|grid| grid.patches()).sum();
            let (own, rest) = patches.split_at_checked(count * values).ok_or_else(|| {
                ModelError::Internal(format!("fewer than {count} patches of {values} values"))
            })?;
            patches = rest;
            let own = Tensor::from_slice(own, (count, values), &Device::Cpu)?;
            let features = self.vision.forward(&own, grids, cancel, observe)?;
            merged.push(features.merged);
            for (all, own) in deepstack.iter_mut().zip(features.deepstack) {
                all.push(own);
            }
        }
        let merged = Tensor::cat(&merged, 0)?;
        let rows: Vec<u32> = (0u32..)
            .zip(&pack.ids)
            .filter(|(_, id)| **id == self.config.image_token_id)
            .map(|(row, _)| row)
            .collect();
        if merged.dim(0)? != rows.len() {
            return Err(ModelError::Internal(format!(
                "the vision tower returned {} tokens for {} picture tokens of the prompt",
                merged.dim(0)?,
                rows.len()
            )));
        }
        Ok(Visual {
            rows: Tensor::new(rows, &Device::Cpu)?,
            merged,
            deepstack: deepstack
                .iter()
                .map(|features| Tensor::cat(features, 0))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Embedder for Qwen3Vl {
    fn dims(&self) -> usize {
        self.config.text_config.hidden_size
    }

    fn check_images(&self) -> Result<(), ModelError> {
        Ok(())
    }

    fn fitted_size(&self, width: u32, height: u32) -> Result<Option<(u32, u32)>, ModelError> {
        self.preprocessor.fitted_size(width, height)
    }

    fn embed(
        &self,
        requests: &[Request<'_>],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut vectors = Vec::with_capacity(requests.len());
        let mut pack = InputBatch::default();
        for request in requests {
            cancel.check()?;
            let tokens = self.tokens(request)?;
            let (ids, grids) = &tokens;
            let alone = self.working_set(ids.len(), &[grids]);
            if alone > memory {
                return Err(ModelError::OutOfMemory(format!(
                    "embedding {} tokens would take {} MB",
                    ids.len(),
                    alone.div_ceil(1 << 20)
                )));
            }
            let together = self.working_set(pack.tokens + ids.len(), &[&pack.grids, grids]);
            let alike = pack.prefix.as_ref().is_none_or(|(prefix, count)| {
                *count < ids.len() && common(&prefix.ids, ids) >= *count
            });
            if !pack.lengths.is_empty() && (pack.is_full() || together > memory || !alike) {
                vectors.extend(self.forward(&pack, cancel, &mut |_, _| ())?);
                pack = InputBatch::default();
            }
            if pack.lengths.is_empty() {
                pack = self.new_pack(ids);
            }
            self.add(request, &tokens, &mut pack, cancel)?;
        }
        if !pack.lengths.is_empty() {
            vectors.extend(self.forward(&pack, cancel, &mut |_, _| ())?);
        }
        Ok(vectors)
    }
}
