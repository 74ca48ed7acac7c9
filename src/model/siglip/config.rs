//! Reads and checks the `config.json` of a SigLIP checkpoint, NaFlex or not. A missing key gets its
//! default in transformers. After [`SiglipConfig::read`], no divisor is zero and no product of sizes
//! overflows.

use serde::Deserialize;

use crate::ModelError;
use crate::directory::{CONFIG, Directory};
use crate::dual::{Preprocessor, TransformerConfig};
use crate::layers::Activation;
use crate::limits::{MAX_SIZE, check_size};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct SiglipConfig {
    #[serde(rename = "model_type")]
    pub resolution: Resolution,
    #[serde(rename = "text_config")]
    pub text: TextConfig,
    #[serde(rename = "vision_config")]
    pub vision: VisionConfig,
}

/// Which pictures the vision tower takes, by the `model_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Resolution {
    /// Squares of `image_size`.
    #[default]
    #[serde(rename = "siglip")]
    Fixed,
    /// Pictures of any shape. The position table is that of `num_patches` patches, and is resized to
    /// each picture's.
    #[serde(rename = "siglip2")]
    Naflex,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    pub max_position_embeddings: usize,
    hidden_act: Activation,
    layer_norm_eps: f64,
    /// The width of the head's output; `hidden_size` if `None`.
    projection_size: Option<usize>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 64,
            hidden_act: Activation::GeluTanh,
            layer_norm_eps: 1e-6,
            projection_size: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct VisionConfig {
    pub hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    pub image_size: usize,
    pub patch_size: usize,
    num_patches: Option<usize>,
    hidden_act: Activation,
    layer_norm_eps: f64,
    vision_use_head: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            num_patches: None,
            hidden_act: Activation::GeluTanh,
            layer_norm_eps: 1e-6,
            vision_use_head: true,
        }
    }
}

impl SiglipConfig {
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        let config: Self = directory.json(CONFIG)?;
        config
            .check()
            .map_err(|reason| ModelError::malformed(CONFIG, reason))?;
        if !config.vision.vision_use_head {
            return Err(ModelError::UnsupportedModel(
                "a vision tower without a pooling head (vision_use_head) is not supported".into(),
            ));
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let (text, vision) = (&self.text, &self.vision);
        text.transformer().check("text_config")?;
        check_size("text_config.vocab_size", text.vocab_size, MAX_SIZE << 4)?;
        let positions = text.max_position_embeddings;
        check_size("text_config.max_position_embeddings", positions, MAX_SIZE)?;
        vision.transformer().check("vision_config")?;
        match self.resolution {
            Resolution::Fixed => Preprocessor::check_sizes(vision.image_size, vision.patch_size)?,
            Resolution::Naflex => {
                Preprocessor::check_patch_size(vision.patch_size)?;
                let patches = vision.naflex_patches();
                check_size("vision_config.num_patches", patches, MAX_SIZE)?;
                if patches.isqrt().pow(2) != patches {
                    return Err(format!(
                        "vision_config.num_patches ({patches}) is not a square number"
                    ));
                }
            }
        }
        if vision.num_channels != 3 {
            return Err(format!(
                "vision_config.num_channels must be 3, not {}",
                vision.num_channels
            ));
        }
        if text.projection_size() != vision.hidden_size {
            return Err(format!(
                "texts have vectors of {} dimensions (text_config.projection_size), but images of {} (vision_config.hidden_size)",
                text.projection_size(),
                vision.hidden_size
            ));
        }
        Ok(())
    }
}

impl TextConfig {
    pub fn projection_size(&self) -> usize {
        self.projection_size.unwrap_or(self.hidden_size)
    }

    pub fn transformer(&self) -> TransformerConfig {
        TransformerConfig {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        }
    }
}

impl VisionConfig {
    pub fn transformer(&self) -> TransformerConfig {
        TransformerConfig {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        }
    }

    /// The patches of the position table of NaFlex.
    fn naflex_patches(&self) -> usize {
        self.num_patches.unwrap_or(256)
    }

    /// The side of the square of patches to which the position table belongs.
    pub fn table_side(&self, resolution: Resolution) -> usize {
        match resolution {
            Resolution::Fixed => self.image_size / self.patch_size,
            Resolution::Naflex => self.naflex_patches().isqrt(),
        }
    }

    /// The shape of the patch embedding's weight: that of a convolution for a fixed resolution, that of
    /// a linear map for NaFlex.
    pub fn patch_shape(&self, resolution: Resolution) -> Vec<usize> {
        let (hidden, patch) = (self.hidden_size, self.patch_size);
        match resolution {
            Resolution::Fixed => vec![hidden, 3, patch, patch],
            Resolution::Naflex => vec![hidden, 3 * patch * patch],
        }
    }
}
