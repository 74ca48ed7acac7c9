//! Reads and checks the `config.json` of a CLIP checkpoint. A missing key gets its default in
//! transformers. After [`ClipConfig::read`], no divisor is zero and no product of sizes overflows.

use serde::Deserialize;

use crate::ModelError;
use crate::directory::{CONFIG, Directory};
use crate::dual::{Preprocessor, TransformerConfig};
use crate::layers::Activation;
use crate::limits::{MAX_SIZE, check_size};

pub(super) struct ClipConfig {
    pub text: TextConfig,
    pub vision: VisionConfig,
    pub projection_dim: usize,
}

/// The file. Before version 4.27, transformers wrote the towers' settings to the keys that end in
/// `_dict`; where these are given, they take precedence.
#[derive(Deserialize)]
#[serde(default)]
struct ClipConfigFile {
    text_config: Option<TextConfig>,
    text_config_dict: Option<TextConfig>,
    vision_config: Option<VisionConfig>,
    vision_config_dict: Option<VisionConfig>,
    projection_dim: usize,
}

impl Default for ClipConfigFile {
    fn default() -> Self {
        Self {
            text_config: None,
            text_config_dict: None,
            vision_config: None,
            vision_config_dict: None,
            projection_dim: 512,
        }
    }
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
    eos_token_id: u32,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
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
    hidden_act: Activation,
    layer_norm_eps: f64,
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
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// The token whose state becomes a text's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndOfText {
    /// The first token of this ID.
    Id(u32),
    /// The first token of the largest ID: the end-of-text token is the last of OpenAI's vocabulary.
    Largest,
}

impl ClipConfig {
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        let file: ClipConfigFile = directory.json(CONFIG)?;
        let config = Self {
            text: file
                .text_config_dict
                .or(file.text_config)
                .unwrap_or_default(),
            vision: file
                .vision_config_dict
                .or(file.vision_config)
                .unwrap_or_default(),
            projection_dim: file.projection_dim,
        };
        config
            .check()
            .map_err(|reason| ModelError::malformed(CONFIG, reason))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        check_size("projection_dim", self.projection_dim, MAX_SIZE)?;
        let (text, vision) = (&self.text, &self.vision);
        text.transformer().check("text_config")?;
        check_size("text_config.vocab_size", text.vocab_size, MAX_SIZE << 4)?;
        let positions = text.max_position_embeddings;
        check_size("text_config.max_position_embeddings", positions, MAX_SIZE)?;
        vision.transformer().check("vision_config")?;
        Preprocessor::check_sizes(vision.image_size, vision.patch_size)?;
        if vision.num_channels != 3 {
            return Err(format!(
                "vision_config.num_channels must be 3, not {}",
                vision.num_channels
            ));
        }
        Ok(())
    }
}

impl TextConfig {
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

    /// Configurations that transformers wrote before version 4.31, OpenAI's among them, have a
    /// meaningless `eos_token_id` of 2. As in transformers, the largest ID replaces it.
    pub fn end_of_text(&self) -> EndOfText {
        match self.eos_token_id {
            2 => EndOfText::Largest,
            id => EndOfText::Id(id),
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

    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}
