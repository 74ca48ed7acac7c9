//! Dual encoders: models whose text tower and vision tower map texts and pictures independently into
//! one space (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
//! Supervision"). The families `clip` and `siglip` (with `siglip2`) define the towers; this folder
//! holds what they share: the transformer, the preprocessing of pictures, and the way from requests to
//! batches.
//!
//! Tests compare tokens, pixels, every hidden state and the vectors with transformers
//! (`tests/golden/dual/`).

mod calibration;
mod preprocess;
mod transformer;

#[cfg(test)]
mod tests;

pub use calibration::Calibration;
pub(super) use preprocess::{Grid, Preprocessor, ProcessorDefaults};
pub(super) use transformer::{TokenEmbedding, Transformer, TransformerConfig, load_mlp};

use super::batch::{BATCH_TOKENS, batches, l2_normalised, with_margin};
use super::directory::{ModelSettings, PHOTOSEARCH};
use super::{Cancel, Embedder, ModelError, Request};
use photosearch_image::{Filter, RgbImage};
use photosearch_memory as memory;

/// A point in the forward pass at which tests inspect the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TowerPoint {
    Embedded,
    Layer(usize),
    /// The states that SigLIP's pooling head reads.
    Norm,
}

pub(super) type TowerObserver<'a> = &'a mut dyn FnMut(TowerPoint, &[f32]);

/// The maximum number of rows in a batch of several pictures: 8,192 patches, and one row more for each
/// picture of at least 32 patches. The limit keeps memory at the level of one large photo of Qwen3-VL,
/// which has up to 7,200 patches.
const BATCH_ROWS: usize = 8192 + 256;
/// A text or a picture counts as at least this many rows in the estimate of memory, because attention
/// pads the packed keys and values of a short sequence.
const LEAST_COUNTED_ROWS: usize = 16;

/// What a family of dual encoders defines.
pub(super) trait Towers: Send + Sync {
    /// Dimensions of the vectors.
    fn dims(&self) -> usize;

    /// The token IDs of `prefix` and `text`, truncated to the length that the text tower takes.
    fn tokens(&self, prefix: &str, text: &str) -> Result<Vec<u32>, ModelError>;

    /// Maps token sequences to their vectors, [sequences, dims], which are not normalised.
    fn texts(
        &self,
        sequences: &[&[u32]],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError>;

    /// Maps pictures to their vectors, [pictures, dims], which are not normalised. `patches` is
    /// [patches of all pictures, values of a patch], as [`Preprocessor::append_patches`] makes
    /// them, and `grids` has the size of each picture.
    fn pictures(
        &self,
        patches: &[f32],
        grids: &[Grid],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError>;

    /// The transformer of the text tower.
    fn text_config(&self) -> &TransformerConfig;

    /// The transformer of the vision tower.
    fn vision_config(&self) -> &TransformerConfig;

    /// Memory that the vision tower takes for a batch whatever the number of its patches, in bytes.
    fn position_bytes(&self) -> u64 {
        0
    }
}

pub(super) struct DualEncoder<T> {
    pub towers: T,
    pub preprocessor: Preprocessor,
    default_instruction: Option<String>,
}

/// The input of one tower.
enum Input<'a> {
    Text(Vec<u32>),
    Picture(&'a RgbImage),
}

impl<T: Towers> DualEncoder<T> {
    pub fn new(
        towers: T,
        preprocessor: Preprocessor,
        settings: ModelSettings,
    ) -> Result<Self, ModelError> {
        if settings.image.min_pixels.is_some() || settings.image.max_pixels.is_some() {
            return Err(ModelError::malformed(
                PHOTOSEARCH,
                "image sets a range of pixels, but this model's preprocessor_config.json determines the size of its pictures",
            ));
        }
        Ok(Self {
            towers,
            preprocessor,
            default_instruction: settings.default_instruction,
        })
    }

    /// The input of the request's tower. An instruction is prepended to a text unchanged; it does not
    /// affect the vector of a picture.
    fn input<'a>(&self, request: &Request<'a>) -> Result<Input<'a>, ModelError> {
        match (request.text, request.images) {
            (None, [picture]) => Ok(Input::Picture(picture)),
            (text, []) => {
                let own = request.instruction.filter(|own| !own.trim().is_empty());
                let prefix = own.or(self.default_instruction.as_deref());
                let text = text.unwrap_or_default();
                Ok(Input::Text(
                    self.towers.tokens(prefix.unwrap_or_default(), text)?,
                ))
            }
            _ => Err(ModelError::WrongKind(
                "it embeds a text or one image, not several of them together",
            )),
        }
    }

    fn text_vectors(
        &self,
        sequences: &[&[u32]],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let size = |sequence: &&[u32]| sequence.len().max(LEAST_COUNTED_ROWS);
        let token_bytes = self.towers.text_config().row_bytes();
        let limit = fitting(memory, token_bytes);
        if let Some(large) = sequences.iter().map(size).find(|&tokens| tokens > limit) {
            return Err(too_large("a text", large as u64 * token_bytes));
        }
        let mut vectors = Vec::with_capacity(sequences.len());
        for batch in batches(sequences, limit.min(BATCH_TOKENS), size) {
            let tokens: usize = batch.iter().map(size).sum();
            memory::ask(with_margin(tokens as u64 * token_bytes))?;
            let rows = self.towers.texts(batch, cancel, &mut |_, _| ())?;
            vectors.extend(rows.chunks(self.towers.dims()).map(<[f32]>::to_vec));
        }
        Ok(vectors)
    }

    fn picture_vectors(
        &self,
        pictures: &[&RgbImage],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let values = self.preprocessor.patch_values();
        // The values of a patch are held in f32, and in bf16 or int8 for the first product.
        let patch_bytes = self.towers.vision_config().row_bytes() + 6 * values as u64;
        let fixed_bytes = self.towers.position_bytes();
        // One more row for each picture counts CLIP's class token, which takes as much memory as a
        // patch.
        let rows = |&(_, grid): &(&RgbImage, Grid)| (grid.patches() + 1).max(LEAST_COUNTED_ROWS);
        let pictures = pictures
            .iter()
            .map(|&picture| {
                let grid = self.preprocessor.grid(picture.width(), picture.height())?;
                Ok((picture, grid))
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        let limit = fitting(memory.saturating_sub(fixed_bytes), patch_bytes);
        if let Some(large) = pictures.iter().map(rows).find(|&rows| rows > limit) {
            let bytes = fixed_bytes + large as u64 * patch_bytes;
            return Err(too_large("an image", bytes));
        }
        let mut vectors = Vec::with_capacity(pictures.len());
        for batch in batches(&pictures, limit.min(BATCH_ROWS), rows) {
            let count: usize = batch.iter().map(rows).sum();
            memory::ask(with_margin(fixed_bytes + count as u64 * patch_bytes))?;
            let mut patches = Vec::with_capacity(count * values);
            for (picture, _) in batch {
                cancel.check()?;
                self.preprocessor.append_patches(picture, &mut patches)?;
            }
            let grids: Vec<Grid> = batch.iter().map(|&(_, grid)| grid).collect();
            let rows = self
                .towers
                .pictures(&patches, &grids, cancel, &mut |_, _| ())?;
            vectors.extend(rows.chunks(self.towers.dims()).map(<[f32]>::to_vec));
        }
        Ok(vectors)
    }
}

/// The number of items of `bytes` each that fit into `memory`.
fn fitting(memory: u64, bytes: u64) -> usize {
    usize::try_from(memory / bytes).unwrap_or(usize::MAX)
}

fn too_large(what: &str, bytes: u64) -> ModelError {
    let megabytes = bytes.div_ceil(1 << 20);
    ModelError::OutOfMemory(format!("embedding {what} would take {megabytes} MB"))
}

impl<T: Towers> Embedder for DualEncoder<T> {
    fn dims(&self) -> usize {
        self.towers.dims()
    }

    fn check_images(&self) -> Result<(), ModelError> {
        Ok(())
    }

    fn fitted_size(&self, width: u32, height: u32) -> Result<Option<(u32, u32)>, ModelError> {
        self.preprocessor.fitted_size(width, height)
    }

    fn filter(&self) -> Filter {
        self.preprocessor.filter()
    }

    fn embed(
        &self,
        requests: &[Request<'_>],
        memory: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let inputs = requests
            .iter()
            .map(|request| cancel.check().and_then(|()| self.input(request)))
            .collect::<Result<Vec<_>, _>>()?;
        let (mut texts, mut pictures) = (Vec::new(), Vec::new());
        for input in &inputs {
            match input {
                Input::Text(ids) => texts.push(ids.as_slice()),
                Input::Picture(picture) => pictures.push(*picture),
            }
        }
        let mut texts = self.text_vectors(&texts, memory, cancel)?.into_iter();
        let mut pictures = self.picture_vectors(&pictures, memory, cancel)?.into_iter();
        inputs
            .iter()
            .map(|input| {
                let vector = match input {
                    Input::Text(_) => texts.next(),
                    Input::Picture(_) => pictures.next(),
                };
                let lost = || ModelError::Internal("a tower returned too few vectors".into());
                l2_normalised(vector.ok_or_else(lost)?)
            })
            .collect()
    }
}
