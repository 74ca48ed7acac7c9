//! Reads and checks the `config.json` of a Qwen3-VL checkpoint. A missing key gets its default in
//! transformers, because transformers writes only keys that differ from their defaults.
//!
//! After [`QwenConfig::read`], no divisor is zero and no product of sizes overflows. Each size that
//! determines an allocation is also a dimension of a tensor, whose shape is checked when the tensor
//! is loaded.

use serde::Deserialize;

use crate::ModelError;
use crate::directory::{CONFIG, Directory};
use crate::layers::Activation;
use crate::limits::{MAX_LAYERS, MAX_SIZE, check_size};

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct QwenConfig {
    pub text_config: TextConfig,
    pub vision_config: VisionConfig,
    pub image_token_id: u32,
    pub video_token_id: u32,
    pub vision_start_token_id: u32,
    pub vision_end_token_id: u32,
}

impl Default for QwenConfig {
    fn default() -> Self {
        Self {
            text_config: TextConfig::default(),
            vision_config: VisionConfig::default(),
            image_token_id: 151_655,
            video_token_id: 151_656,
            vision_start_token_id: 151_652,
            vision_end_token_id: 151_653,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// If `None`, there are as many key/value heads as query heads.
    num_key_value_heads: Option<usize>,
    pub head_dim: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub attention_bias: bool,
    rope_parameters: Option<RopeParameters>,
    /// Together with `rope_theta`, the form of `rope_parameters` before version 5 of transformers.
    rope_scaling: Option<RopeParameters>,
    rope_theta: Option<f64>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 22_016,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            head_dim: 128,
            hidden_act: Activation::Silu,
            max_position_embeddings: 128_000,
            rms_norm_eps: 1e-6,
            attention_bias: false,
            rope_parameters: None,
            rope_scaling: None,
            rope_theta: None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
struct RopeParameters {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    mrope_section: Option<Vec<usize>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct VisionConfig {
    pub depth: usize,
    pub hidden_size: usize,
    pub hidden_act: Activation,
    pub intermediate_size: usize,
    pub num_heads: usize,
    pub in_channels: usize,
    pub patch_size: usize,
    pub spatial_merge_size: usize,
    pub temporal_patch_size: usize,
    pub out_hidden_size: usize,
    pub num_position_embeddings: usize,
    pub deepstack_visual_indexes: Vec<usize>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            depth: 27,
            hidden_size: 1152,
            hidden_act: Activation::GeluTanh,
            intermediate_size: 4304,
            num_heads: 16,
            in_channels: 3,
            patch_size: 16,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            out_hidden_size: 3584,
            num_position_embeddings: 2304,
            deepstack_visual_indexes: vec![8, 16, 24],
            rope_parameters: None,
        }
    }
}

impl QwenConfig {
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        let config: Self = directory.json(CONFIG)?;
        config
            .check()
            .map_err(|reason| ModelError::malformed(CONFIG, reason))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.text_config.check()?;
        self.vision_config.check()?;
        let (vision, text) = (
            self.vision_config.out_hidden_size,
            self.text_config.hidden_size,
        );
        if vision != text {
            return Err(format!(
                "vision_config.out_hidden_size is {vision}, but text_config.hidden_size is {text}"
            ));
        }
        for (name, id) in [
            ("image_token_id", self.image_token_id),
            ("video_token_id", self.video_token_id),
            ("vision_start_token_id", self.vision_start_token_id),
            ("vision_end_token_id", self.vision_end_token_id),
        ] {
            if id as usize >= self.text_config.vocab_size {
                return Err(format!(
                    "{name} is {id}, but the vocabulary has {} tokens",
                    self.text_config.vocab_size
                ));
            }
        }
        Ok(())
    }
}

impl TextConfig {
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn rope(&self) -> RopeParameters {
        self.rope_parameters
            .clone()
            .or_else(|| self.rope_scaling.clone())
            .unwrap_or_default()
    }

    pub fn rope_theta(&self) -> f64 {
        self.rope().rope_theta.or(self.rope_theta).unwrap_or(5e5)
    }

    /// Number of rotary frequencies for the time, row and column axes of M-RoPE.
    pub fn mrope_section(&self) -> Vec<usize> {
        self.rope()
            .mrope_section
            .unwrap_or_else(|| vec![24, 20, 20])
    }

    fn check(&self) -> Result<(), String> {
        for (name, value, limit) in [
            ("vocab_size", self.vocab_size, MAX_SIZE << 4),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_LAYERS),
            ("num_key_value_heads", self.kv_heads(), MAX_LAYERS),
            ("head_dim", self.head_dim, MAX_SIZE),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MAX_SIZE << 4,
            ),
        ] {
            check_size(&format!("text_config.{name}"), value, limit)?;
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.kv_heads());
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "text_config.num_attention_heads ({heads}) is not a multiple of \
                 num_key_value_heads ({kv_heads})"
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!(
                "text_config.head_dim must be even, not {}",
                self.head_dim
            ));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(format!(
                "text_config.rms_norm_eps must not be {}",
                self.rms_norm_eps
            ));
        }
        let rope = self.rope();
        check_rope("text_config", &rope, "default", self.rope_theta())?;
        let section = self.mrope_section();
        let frequencies = self.head_dim / 2;
        let sum = section.iter().try_fold(0usize, |a, &b| a.checked_add(b));
        if section.len() != 3 || sum != Some(frequencies) {
            return Err(format!(
                "text_config mrope_section must be three numbers that add up to {frequencies}, \
                 not {section:?}"
            ));
        }
        Ok(())
    }
}

impl VisionConfig {
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    pub fn rope_theta(&self) -> f64 {
        self.rope_parameters
            .as_ref()
            .and_then(|rope| rope.rope_theta)
            .unwrap_or(1e4)
    }

    /// Side length of the square table of learned position embeddings.
    pub fn table_side(&self) -> usize {
        self.num_position_embeddings.isqrt()
    }

    /// Number of patches that are merged into one token.
    pub fn merge_unit(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }

    /// Number of values in a patch.
    pub fn patch_values(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    fn check(&self) -> Result<(), String> {
        for (name, value, limit) in [
            ("depth", self.depth, MAX_LAYERS),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_heads", self.num_heads, MAX_LAYERS),
            ("patch_size", self.patch_size, 256),
            ("spatial_merge_size", self.spatial_merge_size, 16),
            ("temporal_patch_size", self.temporal_patch_size, 16),
            ("out_hidden_size", self.out_hidden_size, MAX_SIZE),
            (
                "num_position_embeddings",
                self.num_position_embeddings,
                MAX_SIZE,
            ),
        ] {
            check_size(&format!("vision_config.{name}"), value, limit)?;
        }
        if self.in_channels != 3 {
            return Err(format!(
                "vision_config.in_channels must be 3, not {}",
                self.in_channels
            ));
        }
        // Half of a head's elements are rotated by the row and half by the column, each in pairs.
        if !self.hidden_size.is_multiple_of(4 * self.num_heads) {
            return Err(format!(
                "vision_config.hidden_size ({}) is not a multiple of 4 × num_heads ({})",
                self.hidden_size, self.num_heads
            ));
        }
        let rope = self.rope_parameters.clone().unwrap_or_default();
        check_rope("vision_config", &rope, "axial", self.rope_theta())?;
        let taps = &self.deepstack_visual_indexes;
        for (i, &block) in taps.iter().enumerate() {
            if block >= self.depth || taps[..i].contains(&block) {
                return Err(format!(
                    "vision_config.deepstack_visual_indexes must be distinct and below {}, \
                     not {taps:?}",
                    self.depth
                ));
            }
        }
        Ok(())
    }
}

fn check_rope(part: &str, rope: &RopeParameters, kind: &str, theta: f64) -> Result<(), String> {
    if let Some(found) = &rope.rope_type
        && found != kind
    {
        return Err(format!(
            "{part} rope_type must be \"{kind}\", not \"{found}\""
        ));
    }
    if !(theta.is_finite() && theta >= 1.0) {
        return Err(format!("{part} rope_theta must be at least 1, not {theta}"));
    }
    Ok(())
}
