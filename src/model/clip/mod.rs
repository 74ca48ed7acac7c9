//! CLIP as an embedder of texts and pictures (Radford et al. 2021, "Learning Transferable Visual
//! Models From Natural Language Supervision"): OpenAI's models, and LAION's of the same form
//! (Cherti et al. 2022, "Reproducible scaling laws for contrastive language-image learning").
//!
//! The text tower has a causal mask, and its state at the end-of-text token becomes the vector. The
//! vision tower reads the patches of a square picture after a class token, whose last state becomes
//! the vector.

mod config;
mod text;
mod vision;

use super::directory::Directory;
use super::dual::{
    Calibration, DualEncoder, Grid, Preprocessor, ProcessorDefaults, TowerObserver, Towers,
    TransformerConfig,
};
use super::layers::Linear;
use super::scope::{Scope, WeightSource};
use super::text_tokens::TextTokens;
use super::tokenizer::Tokenizer;
use super::{Cancel, Embedder, ModelError};
use config::ClipConfig;
use photosearch_image::Filter;
use text::TextTower;
use vision::VisionTower;

/// The defaults of `CLIPImageProcessor` in transformers.
const PROCESSOR: ProcessorDefaults = ProcessorDefaults {
    center_crop: true,
    filter: Filter::Bicubic,
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
};

/// Dimensions of the vectors.
pub(super) fn dims(directory: &Directory) -> Result<Option<usize>, ModelError> {
    Ok(Some(ClipConfig::read(directory)?.projection_dim))
}

pub(super) fn load(
    directory: &Directory,
    source: WeightSource<'_>,
    cancel: &Cancel,
) -> Result<Box<dyn Embedder>, ModelError> {
    Ok(Box::new(Clip::load(directory, source, cancel)?))
}

/// The two towers, with the projections into the common space.
pub(super) struct Clip {
    tokens: TextTokens,
    text: TextTower,
    text_projection: Linear,
    vision: VisionTower,
    visual_projection: Linear,
    dims: usize,
}

impl Clip {
    pub fn load(
        directory: &Directory,
        source: WeightSource<'_>,
        cancel: &Cancel,
    ) -> Result<DualEncoder<Self>, ModelError> {
        let config = ClipConfig::read(directory)?;
        let (text, vision) = (&config.text, &config.vision);
        let dims = config.projection_dim;
        let settings = directory.settings(dims)?;
        let positions = text.max_position_embeddings;
        let max_tokens = settings.max_tokens.unwrap_or(positions).min(positions);
        let preprocessor =
            Preprocessor::read(directory, vision.image_size, vision.patch_size, &PROCESSOR)?;
        let weights = Scope::new(source, "", cancel);
        let projection =
            |name: &str, hidden| Linear::load(&weights.under(name), hidden, dims, false);
        Calibration::load(&weights)?;
        let towers = Self {
            tokens: TextTokens::new(Tokenizer::read(directory)?, max_tokens),
            text: TextTower::load(text, &weights.under("text_model"))?,
            text_projection: projection("text_projection", text.hidden_size)?,
            vision: VisionTower::load(vision, &weights.under("vision_model"))?,
            visual_projection: projection("visual_projection", vision.hidden_size)?,
            dims,
        };
        DualEncoder::new(towers, preprocessor, settings)
    }
}

impl Towers for Clip {
    fn dims(&self) -> usize {
        self.dims
    }

    fn tokens(&self, prefix: &str, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.tokens.text(prefix, text)?.ids)
    }

    fn texts(
        &self,
        sequences: &[&[u32]],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let pooled = self.text.forward(sequences, cancel, observe)?;
        Ok(self.text_projection.forward(&pooled))
    }

    fn pictures(
        &self,
        patches: &[f32],
        _grids: &[Grid],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let pooled = self.vision.forward(patches, cancel, observe)?;
        Ok(self.visual_projection.forward(&pooled))
    }

    fn text_config(&self) -> &TransformerConfig {
        &self.text.config
    }

    fn vision_config(&self) -> &TransformerConfig {
        &self.vision.config
    }
}
