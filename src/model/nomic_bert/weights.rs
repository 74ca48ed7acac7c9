//! Loads the weights into candle's tensors. Every tensor's shape and type are checked before candle
//! receives the tensor.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::nomic_bert::NomicBertModel;
use photosearch_memory as memory;

use super::config::NomicConfig;
use super::failed;
use crate::batch::with_margin;
use crate::scope::{Scope, WeightSource};
use crate::{Cancel, ModelError};

/// Prefix of the names in a checkpoint of a model with a head.
const WITH_HEAD: &str = "nomic_bert";

/// Size of the weights in f32, in bytes.
pub fn bytes(config: &NomicConfig) -> u64 {
    4 * config.weights()
}

/// Builds the model from the pack. While the checkpoint is being packed, this only packs it and
/// returns `None`.
pub fn load(
    config: &NomicConfig,
    source: WeightSource<'_>,
    cancel: &Cancel,
) -> Result<Option<NomicBertModel>, ModelError> {
    let is_packing = matches!(source, WeightSource::Packing(_));
    let plain = Scope::new(source, "", cancel);
    let scope = match plain.has("emb_ln.weight") {
        true => plain,
        false => plain.under(WITH_HEAD),
    };
    if !is_packing {
        memory::ask(with_margin(
            bytes(config).saturating_add(rotation_bytes(config)),
        ))?;
    }
    let mut tensors = HashMap::new();
    for (name, shape) in shapes(config) {
        let tensor = match shape {
            Shape::Matrix(rows, columns) => {
                let table = scope.embedding(&name, rows, columns)?;
                if is_packing {
                    continue;
                }
                let all: Vec<u32> = (0..rows as u32).collect();
                Tensor::from_vec(table.forward(&all)?, (rows, columns), &Device::Cpu)
            }
            Shape::Vector(length) => {
                Tensor::from_vec(scope.vector(&name, length)?, length, &Device::Cpu)
            }
        };
        tensors.insert(name, tensor.map_err(failed)?);
    }
    if is_packing {
        return Ok(None);
    }
    let variables = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    NomicBertModel::load(variables, &config.candle)
        .map(Some)
        .map_err(failed)
}

/// Memory for the angles of the rotations, their cosines and their sines.
fn rotation_bytes(config: &NomicConfig) -> u64 {
    let half = config.candle.n_embd / config.candle.n_head / 2;
    3 * 4 * half as u64 * config.candle.n_positions as u64
}

enum Shape {
    Matrix(usize, usize),
    Vector(usize),
}

/// The names and shapes of all weights.
fn shapes(config: &NomicConfig) -> Vec<(String, Shape)> {
    let config = &config.candle;
    let (hidden, inner) = (config.n_embd, config.n_inner);
    let mut shapes = Vec::new();
    let mut matrix = |name: String, rows, columns| {
        shapes.push((format!("{name}.weight"), Shape::Matrix(rows, columns)));
    };
    matrix(
        "embeddings.word_embeddings".into(),
        config.vocab_size,
        hidden,
    );
    matrix(
        "embeddings.token_type_embeddings".into(),
        config.type_vocab_size,
        hidden,
    );
    for layer in (0..config.n_layer).map(|i| format!("encoder.layers.{i}")) {
        matrix(format!("{layer}.attn.Wqkv"), 3 * hidden, hidden);
        matrix(format!("{layer}.attn.out_proj"), hidden, hidden);
        matrix(format!("{layer}.mlp.fc11"), inner, hidden);
        matrix(format!("{layer}.mlp.fc12"), inner, hidden);
        matrix(format!("{layer}.mlp.fc2"), hidden, inner);
    }
    let layers = (0..config.n_layer).map(|i| format!("encoder.layers.{i}"));
    let norms = layers.flat_map(|layer| [format!("{layer}.norm1"), format!("{layer}.norm2")]);
    for norm in norms.chain(["emb_ln".to_owned()]) {
        for part in ["weight", "bias"] {
            shapes.push((format!("{norm}.{part}"), Shape::Vector(hidden)));
        }
    }
    shapes
}
