//! SigLIP and SigLIP 2 as embedders of texts and pictures (Zhai et al. 2023, "Sigmoid Loss for
//! Language Image Pre-Training"; Tschannen et al. 2025, "SigLIP 2"), in the variants of a fixed
//! resolution (`model_type` `siglip`) and in NaFlex, of native aspect ratio and flexible resolution
//! (`siglip2`).
//!
//! Both towers attend without a mask. A text is padded to the model's full length, the padding is
//! attended to, and the state at the last position becomes the vector. A picture is squeezed to a
//! square, or with NaFlex scaled to a limited number of patches, and its patches are pooled by
//! attention with a learned query. transformers pads the pictures of a batch to the same number of
//! patches and masks the padding; here they are packed without padding, which gives the same vectors.

mod config;
mod positions;
mod text;
mod tokens;
mod vision;

use super::directory::Directory;
use super::dual::{
    Calibration, DualEncoder, Grid, Preprocessor, ProcessorDefaults, TowerObserver, Towers,
    TransformerConfig,
};
use super::scope::{Scope, WeightSource};
use super::{Cancel, Embedder, ModelError};
use config::{Resolution, SiglipConfig};
use photosearch_image::Filter;
use text::TextTower;
use tokens::SiglipTokens;
use vision::VisionTower;

/// The defaults of `SiglipImageProcessor` in transformers.
const PROCESSOR: ProcessorDefaults = ProcessorDefaults {
    center_crop: false,
    filter: Filter::Bicubic,
    mean: [0.5; 3],
    std: [0.5; 3],
};

/// The defaults of `Siglip2ImageProcessor`.
const NAFLEX_PROCESSOR: ProcessorDefaults = ProcessorDefaults {
    filter: Filter::Bilinear,
    ..PROCESSOR
};

/// Dimensions of the vectors.
pub(super) fn dims(directory: &Directory) -> Result<Option<usize>, ModelError> {
    Ok(Some(SiglipConfig::read(directory)?.vision.hidden_size))
}

pub(super) fn load(
    directory: &Directory,
    source: WeightSource<'_>,
    cancel: &Cancel,
) -> Result<Box<dyn Embedder>, ModelError> {
    Ok(Box::new(Siglip::load(directory, source, cancel)?))
}

pub(super) struct Siglip {
    tokens: SiglipTokens,
    text: TextTower,
    vision: VisionTower,
}

impl Siglip {
    pub fn load(
        directory: &Directory,
        source: WeightSource<'_>,
        cancel: &Cancel,
    ) -> Result<DualEncoder<Self>, ModelError> {
        let config = SiglipConfig::read(directory)?;
        let (text, vision) = (&config.text, &config.vision);
        let settings = directory.settings(vision.hidden_size)?;
        let length = text.max_position_embeddings;
        let max_tokens = settings.max_tokens.unwrap_or(length).min(length);
        let (image, patch) = (vision.image_size, vision.patch_size);
        let preprocessor = match config.resolution {
            Resolution::Fixed => Preprocessor::read(directory, image, patch, &PROCESSOR)?,
            Resolution::Naflex => Preprocessor::read_naflex(directory, patch, &NAFLEX_PROCESSOR)?,
        };
        let weights = Scope::new(source, "", cancel);
        Calibration::load(&weights)?;
        let towers = Self {
            tokens: SiglipTokens::read(directory, max_tokens, length)?,
            text: TextTower::load(text, &weights.under("text_model"))?,
            vision: VisionTower::load(vision, config.resolution, &weights.under("vision_model"))?,
        };
        DualEncoder::new(towers, preprocessor, settings)
    }
}

impl Towers for Siglip {
    fn dims(&self) -> usize {
        self.vision.config.hidden
    }

    fn tokens(&self, prefix: &str, text: &str) -> Result<Vec<u32>, ModelError> {
        self.tokens.text(prefix, text)
    }

    fn texts(
        &self,
        sequences: &[&[u32]],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        self.text.forward(sequences, cancel, observe)
    }

    fn pictures(
        &self,
        patches: &[f32],
        grids: &[Grid],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        self.vision.forward(patches, grids, cancel, observe)
    }

    fn text_config(&self) -> &TransformerConfig {
        &self.text.config
    }

    fn vision_config(&self) -> &TransformerConfig {
        &self.vision.config
    }

    fn position_bytes(&self) -> u64 {
        self.vision.positions.resizing_bytes()
    }
}
