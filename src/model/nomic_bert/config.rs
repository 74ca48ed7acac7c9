//! Reads and checks the `config.json` of a NomicBert checkpoint, with the keys of its authors, Nomic
//! (`n_embd`), or those of transformers 5 (`hidden_size`). A missing key gets its default in
//! transformers; `max_trained_positions`, which transformers lacks, gets Nomic's. In a file with Nomic's keys, the
//! keys of [`NEEDED`] must not be missing, because Nomic's code has other defaults for them. After
//! [`NomicConfig::read`], no divisor is zero and no product of sizes overflows.

use candle_transformers::models::nomic_bert::Config;
use serde_json::Value;

use crate::ModelError;
use crate::directory::{CONFIG, Directory};
use crate::limits::{MAX_LAYERS, MAX_SIZE, check_size};

/// Maximum number of positions. candle holds a row of cosines and of sines for each.
const MAX_POSITIONS: usize = 1 << 16;

/// Keys that select a variant of the architecture, each with the only value that is accepted. candle
/// ignores most of these keys. For the rest it implements other values, too, but nothing compares
/// these with a reference.
const REQUIRED: [(&str, Required); 17] = [
    ("activation_function", Required::Text("swiglu")),
    ("hidden_act", Required::Text("silu")),
    ("rotary_emb_fraction", Required::Number(1.0)),
    ("rotary_emb_interleaved", Required::Flag(false)),
    ("rotary_emb_scale_base", Required::Absent),
    ("qkv_proj_bias", Required::Flag(false)),
    ("mlp_fc1_bias", Required::Flag(false)),
    ("mlp_fc2_bias", Required::Flag(false)),
    ("norm_mlp", Required::Flag(false)),
    ("prenorm", Required::Flag(false)),
    ("parallel_block", Required::Flag(false)),
    ("use_rms_norm", Required::Flag(false)),
    ("causal", Required::Flag(false)),
    ("is_decoder", Required::Flag(false)),
    ("scale_attn_weights", Required::Flag(true)),
    ("scale_attn_by_inverse_layer_idx", Required::Flag(false)),
    // Mixtures of experts (nomic-embed-text-v2-moe).
    ("moe_every_n_layers", Required::Number(0.0)),
];

/// Nomic's keys for the sizes of a model. A file that has one of them is read as Nomic's.
const SIZES: [&str; 4] = ["n_embd", "n_head", "n_layer", "n_inner"];

/// Keys that a file with Nomic's keys must have. The defaults of Nomic's code (`NomicBertConfig` in
/// `configuration_hf_nomic_bert.py`, which extends transformers' `GPT2Config`) give another model of the same
/// shapes, one with biases, or one of other lengths of texts, which loading would not notice.
const NEEDED: [&str; 8] = [
    "activation_function",
    "layer_norm_epsilon",
    "n_positions",
    "rotary_emb_fraction",
    "rotary_emb_base",
    "qkv_proj_bias",
    "mlp_fc1_bias",
    "mlp_fc2_bias",
];

/// A value that a key must have if the key is present and not null.
#[derive(Clone, Copy)]
enum Required {
    Text(&'static str),
    Number(f64),
    Flag(bool),
    Absent,
}

impl Required {
    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Text(text) => value.as_str() == Some(text),
            Self::Number(number) => value.as_f64() == Some(number),
            Self::Flag(flag) => value.as_bool() == Some(flag),
            Self::Absent => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct NomicConfig {
    /// The configuration for candle. Its `n_positions` is at first the number that the checkpoint
    /// allows; loading the model lowers it to the number that is used.
    pub candle: Config,
    /// Number of positions with which the model was trained.
    trained_positions: usize,
    /// Whether Nomic's code scales the rotary embedding of texts longer than `trained_positions`,
    /// which candle does not.
    scales_rotation: bool,
}

impl NomicConfig {
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        let json: Value = directory.json(CONFIG)?;
        for (key, required) in REQUIRED {
            if let Some(value) = present(&json, key)
                && !required.admits(value)
            {
                return Err(ModelError::UnsupportedModel(format!(
                    "{key} {value} is not supported"
                )));
            }
        }
        if let Some(kind) = json.pointer("/rope_parameters/rope_type")
            && kind != "default"
        {
            return Err(ModelError::UnsupportedModel(format!(
                "rope_type {kind} is not supported"
            )));
        }
        let config = Self::parse(&json).and_then(|config| config.check(&json).map(|()| config));
        config.map_err(|reason| ModelError::malformed(CONFIG, reason))
    }

    fn parse(json: &Value) -> Result<Self, String> {
        let size = |keys: &[&str], default: usize| {
            let found = number(json, keys, |value| value.as_u64())?;
            usize::try_from(found.unwrap_or(default as u64)).map_err(|error| error.to_string())
        };
        let real = |keys: &[&str], default: f64| -> Result<f64, String> {
            Ok(number(json, keys, Value::as_f64)?.unwrap_or(default))
        };
        let positions = size(&["n_positions", "max_position_embeddings"], 2048)?;
        Ok(Self {
            candle: Config {
                vocab_size: size(&["vocab_size"], 30_528)?,
                n_embd: size(&["n_embd", "hidden_size"], 768)?,
                n_head: size(&["n_head", "num_attention_heads"], 12)?,
                n_layer: size(&["n_layer", "num_hidden_layers"], 12)?,
                n_inner: size(&["n_inner", "intermediate_size"], 3072)?,
                n_positions: positions,
                type_vocab_size: size(&["type_vocab_size"], 2)?,
                layer_norm_epsilon: real(&["layer_norm_epsilon", "layer_norm_eps"], 1e-12)?,
                rotary_emb_base: match json.pointer("/rope_parameters/rope_theta") {
                    Some(theta) => theta
                        .as_f64()
                        .ok_or_else(|| format!("rope_theta must not be {theta}"))?,
                    None => real(&["rotary_emb_base", "rope_theta"], 1000.0)?,
                },
                rotary_emb_fraction: 1.0,
                rotary_emb_interleaved: false,
                qkv_proj_bias: false,
                mlp_fc1_bias: false,
                mlp_fc2_bias: false,
                activation_function: "swiglu".to_owned(),
                prenorm: false,
                model_type: None,
            },
            trained_positions: size(&["max_trained_positions"], 2048)?,
            scales_rotation: present(json, "rotary_scaling_factor").is_some(),
        })
    }

    /// Maximum number of tokens that candle encodes as Nomic's code does.
    pub fn max_tokens(&self) -> usize {
        match self.scales_rotation {
            true => self.default_tokens(),
            false => self.candle.n_positions,
        }
    }

    /// Maximum number of tokens unless `photosearch.json` asks for more.
    pub fn default_tokens(&self) -> usize {
        self.candle.n_positions.min(self.trained_positions)
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        let config = &self.candle;
        let [vocabulary, types, hidden, inner, layers] = [
            config.vocab_size,
            config.type_vocab_size,
            config.n_embd,
            config.n_inner,
            config.n_layer,
        ]
        .map(|size| size as u64);
        let layer = 4 * hidden * hidden + 3 * hidden * inner + 4 * hidden;
        (vocabulary + types + 2) * hidden + layers * layer
    }

    fn check(&self, json: &Value) -> Result<(), String> {
        let config = &self.candle;
        for (name, value, limit) in [
            ("vocab_size", config.vocab_size, MAX_SIZE << 4),
            ("n_embd", config.n_embd, MAX_SIZE),
            ("n_layer", config.n_layer, MAX_LAYERS),
            ("n_head", config.n_head, MAX_LAYERS),
            ("n_inner", config.n_inner, MAX_SIZE),
            ("n_positions", config.n_positions, MAX_POSITIONS),
            ("max_trained_positions", self.trained_positions, MAX_SIZE),
            ("type_vocab_size", config.type_vocab_size, MAX_SIZE),
        ] {
            check_size(name, value, limit)?;
        }
        let (hidden, heads) = (config.n_embd, config.n_head);
        if !hidden.is_multiple_of(2 * heads) {
            return Err(format!(
                "n_embd ({hidden}) is not an even multiple of n_head ({heads})"
            ));
        }
        for (key, expected) in [("head_dim", hidden / heads), ("num_heads_kv", heads)] {
            if let Some(value) = present(json, key)
                && value.as_u64() != Some(expected as u64)
            {
                return Err(format!("{key} must be {expected}, not {value}"));
            }
        }
        let epsilon = config.layer_norm_epsilon;
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(format!("layer_norm_epsilon must not be {epsilon}"));
        }
        let base = config.rotary_emb_base;
        if !(base as f32).is_normal() || base <= 0.0 {
            return Err(format!("rotary_emb_base must not be {base}"));
        }
        if SIZES.iter().any(|key| json.get(key).is_some())
            && let Some(key) = NEEDED.iter().find(|key| present(json, key).is_none())
        {
            return Err(format!("{key} is missing"));
        }
        Ok(())
    }
}

/// The value of a key, or `None` if it is absent or null.
fn present<'a>(json: &'a Value, key: &str) -> Option<&'a Value> {
    json.get(key).filter(|value| !value.is_null())
}

/// The number under one of several keys that mean the same. Fails if two of them differ.
fn number<T: PartialEq + Copy>(
    json: &Value,
    keys: &[&str],
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let mut found = None;
    for &key in keys {
        let Some(value) = present(json, key) else {
            continue;
        };
        let number = read(value).ok_or_else(|| format!("{key} must not be {value}"))?;
        match found {
            Some(before) if before != number => {
                return Err(format!("{} disagree", keys.join(" and ")));
            }
            _ => found = Some(number),
        }
    }
    Ok(found)
}
