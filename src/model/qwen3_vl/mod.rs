//! Qwen3-VL as an embedder of texts and pictures (Bai et al. 2025, "Qwen3-VL Technical Report"; Li
//! et al. 2026, "Qwen3-VL-Embedding"). The vision tower turns a picture into tokens, which stand in
//! the prompt among the text tokens. The vector is the text model's last hidden state at the
//! prompt's last token, L2 normalised.
//!
//! All sizes come from the checkpoint's files. Tests compare every hidden state with transformers
//! (`tests/golden/`).

mod config;
mod prefix;
mod preprocess;
mod rope;
mod text;
mod vision;

#[cfg(test)]
mod tests;

use super::batch::{BATCH_TOKENS, batches, check_ids, l2_normalised, with_margin};
use super::directory::Directory;
use super::prompt::{self, ImageMarkers, Prompt};
use super::scope::{Scope, WeightSource};
use super::tokenizer::Tokenizer;
use super::{Cancel, Embedder, ModelError, Request};
use config::QwenConfig;
use photosearch_memory as memory;
use prefix::{Past, PrefixCache};
use preprocess::Preprocessor;
use rope::PatchGrid;
use text::{TextModel, TokenBatch};
use vision::VisionTower;

/// The reference implementation's limit on a prompt, in tokens.
const MAX_TOKENS: usize = 8192;
/// Maximum number of patches for which the vision tower processes several pictures together. The
/// limit keeps memory at the level of one large photo, which has up to 7,200 patches by default.
const BATCH_PATCHES: usize = 8192;

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

type QwenObserver<'a> = &'a mut dyn FnMut(QwenPoint, &[f32]);

/// A batch of requests, concatenated and ready for the model.
#[derive(Clone, Default)]
struct InputBatch {
    /// A prefix of all requests whose keys and values are cached. Its tokens are omitted from `ids`,
    /// `positions` and `lengths`.
    past: Past,
    /// Number of tokens of all requests, including those of the cached prefix.
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
        self.ids.len() >= BATCH_TOKENS || patches >= BATCH_PATCHES
    }
}

/// The vision tower's output for the picture tokens of a batch.
#[derive(Default)]
struct PictureTokens {
    /// The rows of the picture tokens in the batch, ascending.
    rows: Vec<usize>,
    /// [picture tokens, hidden]: replaces the token embeddings of the picture tokens.
    merged: Vec<f32>,
    /// [picture tokens, hidden] each: added to the hidden states after the first layers, one matrix
    /// per layer (Meng et al. 2024, DeepStack).
    deepstack: Vec<Vec<f32>>,
}

/// Appends rows. If `all` is empty, the rows are moved, not copied.
fn append(all: &mut Vec<f32>, rows: Vec<f32>) {
    match all.is_empty() {
        true => *all = rows,
        false => all.extend(rows),
    }
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
    prefixes: PrefixCache,
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
        let settings = directory.settings(config.text_config.hidden_size)?;
        let preprocessor = Preprocessor::read(directory, &config.vision_config, &settings.image)?;
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
            prefixes: PrefixCache::default(),
            max_tokens: settings
                .max_tokens
                .unwrap_or(MAX_TOKENS)
                .min(config.text_config.max_position_embeddings),
            default_instruction: settings
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
        // As in the reference, a special token that the user's text spells out counts as that token. A
        // placeholder for a picture is the exception: without a picture it is an error.
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
        batch: &mut InputBatch,
        cancel: &Cancel,
    ) -> Result<(), ModelError> {
        self.add_tokens(ids, grids, batch)?;
        for (image, &grid) in request.images.iter().zip(grids) {
            cancel.check()?;
            self.preprocessor
                .append_patches(image, grid, &mut batch.patches)?;
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
        let seen = all.min(largest.max(BATCH_PATCHES));
        let (text, vision) = (&self.config.text_config, &self.config.vision_config);
        let heads = text.head_dim * (text.num_attention_heads + 2 * text.kv_heads());
        // Elements per row: the hidden state and its norm, plus the larger of two stages. Attention
        // holds queries, keys and values as projected, normalised and packed. The MLP holds its two
        // halves, one of them also rounded.
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
        batch: &mut InputBatch,
    ) -> Result<(), ModelError> {
        let merge = self.config.vision_config.spatial_merge_size;
        let positions =
            rope::positions(ids, self.config.image_token_id, grids, merge).ok_or_else(|| {
                ModelError::Internal("picture tokens do not match the pictures".into())
            })?;
        let left_out = batch.past.length();
        batch.ids.extend(&ids[left_out..]);
        batch.positions.extend(&positions[left_out..]);
        batch.lengths.push(ids.len() - left_out);
        batch.tokens += ids.len();
        batch.grids.extend(grids);
        Ok(())
    }

    /// Runs the model on the batch and returns each request's vector.
    fn forward(
        &self,
        batch: &InputBatch,
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        memory::ask(with_margin(self.working_set(batch.tokens, &[&batch.grids])))?;
        let pictures = match batch.grids.is_empty() {
            true => None,
            false => Some(self.encode_pictures(batch, cancel, observe)?),
        };
        let tokens = TokenBatch {
            ids: &batch.ids,
            positions: &batch.positions,
            lengths: &batch.lengths,
        };
        let mut past = batch.past.clone();
        let hidden = self
            .text
            .forward(&tokens, pictures.as_ref(), &mut past, cancel, observe)?;
        let (mut end, width) = (0, self.dims());
        let vectors = batch
            .lengths
            .iter()
            .map(|length| {
                end += length;
                l2_normalised(hidden[(end - 1) * width..end * width].to_vec())
            })
            .collect::<Result<_, _>>()?;
        // The vectors are finite, so the prefix is safe to cache.
        self.prefixes.remember(&batch.ids, past);
        Ok(vectors)
    }

    /// Runs the vision tower on the batch's pictures, several at a time.
    fn encode_pictures(
        &self,
        batch: &InputBatch,
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<PictureTokens, ModelError> {
        let values = self.config.vision_config.patch_values();
        let mut pictures = PictureTokens {
            rows: (0..)
                .zip(&batch.ids)
                .filter(|(_, id)| **id == self.config.image_token_id)
                .map(|(row, _)| row)
                .collect(),
            ..PictureTokens::default()
        };
        let mut patches = batch.patches.as_slice();
        for grids in batches(&batch.grids, BATCH_PATCHES, |grid| grid.patches()) {
            let count: usize = grids.iter().map(|grid| grid.patches()).sum();
            let (own, rest) = patches.split_at_checked(count * values).ok_or_else(|| {
                ModelError::Internal(format!("fewer than {count} patches of {values} values"))
            })?;
            patches = rest;
            let output = self.vision.forward(own, grids, cancel, observe)?;
            append(&mut pictures.merged, output.merged);
            pictures
                .deepstack
                .resize(output.deepstack.len(), Vec::new());
            for (all, own) in pictures.deepstack.iter_mut().zip(output.deepstack) {
                append(all, own);
            }
        }
        let tokens = pictures.merged.len() / self.dims();
        if tokens != pictures.rows.len() {
            return Err(ModelError::Internal(format!(
                "the vision tower returned {tokens} tokens for {} picture tokens of the prompt",
                pictures.rows.len()
            )));
        }
        Ok(pictures)
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
        let mut batch = InputBatch::default();
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
            let together = self.working_set(batch.tokens + ids.len(), &[&batch.grids, grids]);
            let alike = batch.past.precedes(ids);
            if !batch.lengths.is_empty() && (batch.is_full() || together > memory || !alike) {
                vectors.extend(self.forward(&batch, cancel, &mut |_, _| ())?);
                batch = InputBatch::default();
            }
            if batch.lengths.is_empty() {
                batch.past = self.prefixes.past(ids);
            }
            self.add(request, &tokens, &mut batch, cancel)?;
        }
        if !batch.lengths.is_empty() {
            vectors.extend(self.forward(&batch, cancel, &mut |_, _| ())?);
        }
        Ok(vectors)
    }
}
