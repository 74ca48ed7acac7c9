//! Qwen3-VL as an embedder (Bai et al. 2025, "Qwen3-VL Technical Report"; Li et al. 2026,
//! "Qwen3-VL-Embedding"). A picture goes through the vision tower and becomes tokens, which stand
//! in the prompt among the tokens of text; the text model's last state at the prompt's last token,
//! L2 normalised, is the vector.
//!
//! Every size is read from the checkpoint's own files. Checked hidden state by hidden state
//! against transformers (`tests/golden/`).

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

/// The reference's limit on a prompt.
const MAX_TOKENS: usize = 8192;
/// Pictures are seen together until they have so many patches: few enough that memory stays that of
/// one large photo.
const PACK_PATCHES: usize = 8192;

/// Tokens that a prefix has at most: together they take 15 MB in the 2B.
const MAX_PREFIX: usize = 64;
/// Prefixes that are kept: a session has an instruction or two.
const PREFIXES: usize = 2;

/// A place in the forward pass at which tests look.
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

/// Requests made ready for the model, one after another.
#[derive(Clone, Default)]
struct InputBatch {
    /// What all of them begin with, and how many of its tokens: those are left out below.
    prefix: Option<(Arc<PromptPrefix>, usize)>,
    /// Tokens of the first request that others may begin with.
    keep: usize,
    /// Tokens of all requests, those that are left out among them.
    tokens: usize,
    ids: Vec<u32>,
    positions: Vec<[u32; 3]>,
    /// Tokens of each request.
    lengths: Vec<usize>,
    grids: Vec<PatchGrid>,
    /// Patches of all grids, row by row.
    patches: Vec<f32>,
}

impl InputBatch {
    fn is_full(&self) -> bool {
        let patches: usize = self.grids.iter().map(|grid| grid.patches()).sum();
        self.ids.len() >= PACK_TOKENS || patches >= PACK_PATCHES
    }
}

/// How many tokens both begin with.
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
    /// What prompts have begun with, the last used first.
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

    /// Token ids and picture grids of a request.
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
        // What must be too long is not rendered and tokenized first.
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
        // The spellings of special tokens act as those tokens in the user's text too, as in the
        // reference; but a place for a picture needs a picture.
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

    /// Make a request, whose tokens are known, ready and append it to the pack.
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

    /// About the bytes that a forward pass of so many tokens and of pictures of so many patches
    /// allocates at its highest: of each stage of a layer what is alive at the same time.
    fn working_set(&self, tokens: usize, grids: &[&[PatchGrid]]) -> u64 {
        let count = |grids: &[PatchGrid]| grids.iter().map(|grid| grid.patches()).sum::<usize>();
        let all: usize = grids.iter().map(|grids| count(grids)).sum();
        // Pictures are seen some at a time.
        let largest = grids
            .iter()
            .flat_map(|grids| grids.iter())
            .map(|grid| grid.patches())
            .max()
            .unwrap_or(0);
        let seen = all.min(largest.max(PACK_PATCHES));
        let (text, vision) = (&self.config.text_config, &self.config.vision_config);
        let heads = text.head_dim * (text.num_attention_heads + 2 * text.kv_heads());
        // The state and its norm; queries, keys and values as products, apart and packed; or the
        // two halves of the feed-forward layer, one of them rounded.
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
        let positions = rope::positions(ids, self.config.image_token_id, grids, merge)
            .ok_or_else(|| ModelError::Internal("picture tokens without a picture".into()))?;
        let left_out = pack.prefix.as_ref().map_or(0, |(_, count)| *count);
        pack.ids.extend(&ids[left_out..]);
        pack.positions.extend(&positions[left_out..]);
        pack.lengths.push(ids.len() - left_out);
        pack.tokens += ids.len();
        pack.grids.extend(grids);
        Ok(())
    }

    /// An empty pack for a request of these tokens and those that begin alike.
    fn new_pack(&self, ids: &[u32]) -> InputBatch {
        let mut pack = InputBatch::default();
        let template = self.template(ids);
        if template == 0 {
            return pack;
        }
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        // The template's last token, a line's end, may have grown together with the text.
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

    /// Tokens before the user's part of a prompt, as far as they are kept; 0 where there is none.
    fn template(&self, ids: &[u32]) -> usize {
        let Some(&start) = ids.first() else { return 0 };
        let turn = ids.iter().skip(1).position(|&id| id == start);
        // "user" and a line's end.
        let length = turn.map_or(0, |turn| turn + 1 + 3);
        length.min(MAX_PREFIX).min(ids.len().saturating_sub(1))
    }

    fn remember(&self, prefix: PromptPrefix) {
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        prefixes.insert(0, Arc::new(prefix));
        prefixes.truncate(PREFIXES);
    }

    /// The vector of each request in the pack.
    fn forward(
        &self,
        pack: &InputBatch,
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        memory::ask(with_margin(self.working_set(pack.tokens, &[&pack.grids])))?;
        let visual = match pack.grids.is_empty() {
            true => None,
            false => Some(self.see(pack, cancel, observe)?),
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
        // Now it is known to be of numbers.
        if let Some(prefix) = prefix {
            self.remember(prefix);
        }
        Ok(vectors)
    }

    /// What the vision tower makes of the pack's pictures, some at a time.
    fn see(
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
                "{} picture tokens for {} places",
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
