//! The text model: Qwen3 with M-RoPE and DeepStack. The sequences of a batch are packed one after
//! another, and only attention distinguishes them.

use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};

use super::config::TextConfig;
use super::rope::{Rotary, TextRope};
use super::{QwenObserver, QwenPoint};
use crate::attention::{Heads, Mask, Precision, attend};
use crate::compute::{Table, rotate_heads};
use crate::layers::{Activation, Linear, RmsNorm, add_to, apply, in_parts, products, try_apply};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

/// The vision tower's output for the picture tokens of a batch.
pub(super) struct Visual {
    /// [picture tokens], u32: the rows of the picture tokens in the batch, ascending.
    pub rows: Tensor,
    /// [picture tokens, hidden]: replaces the token embeddings of the picture tokens.
    pub merged: Tensor,
    /// [picture tokens, hidden] each: added to the hidden states after the first layers, one tensor
    /// per layer (Meng et al. 2024, DeepStack).
    pub deepstack: Vec<Tensor>,
}

/// Cached keys and values of a prompt prefix, for each layer. Attention is causal, so they are the
/// same in every prompt that starts with these tokens.
pub(super) struct PromptPrefix {
    pub ids: Vec<u32>,
    layers: Vec<KeysValues>,
}

/// [kv heads, tokens, head dim] each.
struct KeysValues {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The tokens of a batch.
pub(super) struct TokenBatch<'a> {
    /// The token IDs of all sequences, one after another.
    pub ids: &'a [u32],
    pub positions: &'a [[u32; 3]],
    /// Number of tokens of each sequence.
    pub lengths: &'a [usize],
    /// The prefix of every sequence, and its number of tokens. These tokens are omitted from the
    /// fields above.
    pub prefix: Option<(&'a PromptPrefix, usize)>,
    /// Number of tokens of the first sequence to return as a new prefix. Must be 0 if `prefix` is
    /// set.
    pub keep: usize,
}

pub(super) struct TextModel {
    /// [vocabulary, hidden]
    embeddings: Table,
    hidden: usize,
    layers: Vec<TextLayer>,
    norm: RmsNorm,
    rope: TextRope,
}

impl TextModel {
    pub fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let embeddings = scope
            .under("embed_tokens")
            .table("weight", config.vocab_size, hidden)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| TextLayer::load(config, &scope.under("layers").under(i)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            embeddings,
            hidden,
            layers,
            norm: RmsNorm::load(&scope.under("norm"), hidden, config.rms_norm_eps)?,
            rope: TextRope::new(
                config.rope_theta(),
                config.head_dim,
                &config.mrope_section(),
            ),
        })
    }

    /// Returns the hidden states after the final norm, [tokens, hidden], and the new prefix if
    /// `keep` asks for one.
    pub fn forward(
        &self,
        tokens: &TokenBatch<'_>,
        visual: Option<&Visual>,
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<(Tensor, Option<PromptPrefix>), ModelError> {
        let mut x = self.embed(tokens.ids, visual)?;
        observe(QwenPoint::Embedded, &x);
        let rotary = self.rope.tables(tokens.positions);
        let mut kept = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            let before = match tokens.prefix {
                None => None,
                Some((prefix, count)) => Some(Before {
                    all: prefix.layers.get(i).ok_or_else(|| {
                        ModelError::Internal("a prefix has fewer layers than the model".into())
                    })?,
                    count,
                }),
            };
            let keep = Mutex::new(None);
            let own = Sequences {
                lengths: tokens.lengths,
                before,
                keep: (tokens.keep > 0).then_some((tokens.keep, &keep)),
            };
            x = layer.forward(&x, &rotary, &own, cancel)?;
            kept.extend(keep.into_inner().unwrap_or_else(PoisonError::into_inner));
            if let Some(visual) = visual
                && let Some(features) = visual.deepstack.get(i)
            {
                x = x.index_add(&visual.rows, features, 0)?;
            }
            observe(QwenPoint::TextBlock(i), &x);
        }
        let x = self.norm.forward(&x)?;
        observe(QwenPoint::Norm, &x);
        let prefix = (tokens.keep > 0).then(|| PromptPrefix {
            ids: tokens.ids[..tokens.keep].to_vec(),
            layers: kept,
        });
        Ok((x, prefix))
    }

    fn embed(&self, ids: &[u32], visual: Option<&Visual>) -> Result<Tensor, ModelError> {
        let mut x = self
            .embeddings
            .rows(ids.iter().map(|&id| id as usize))
            .ok_or_else(|| ModelError::Internal("a token has no embedding".into()))?;
        if let Some(visual) = visual {
            let merged = visual.merged.flatten_all()?.to_vec1::<f32>()?;
            let rows = visual.rows.to_vec1::<u32>()?;
            for (row, merged) in rows.into_iter().zip(merged.chunks_exact(self.hidden)) {
                let start = row as usize * self.hidden;
                x[start..start + self.hidden].copy_from_slice(merged);
            }
        }
        Ok(Tensor::from_vec(x, (ids.len(), self.hidden), &Device::Cpu)?)
    }
}

/// The first `count` tokens of a layer's cached keys and values.
#[derive(Clone, Copy)]
struct Before<'a> {
    all: &'a KeysValues,
    count: usize,
}

impl Before<'_> {
    /// Inserts the first `count` tokens of `all` ([heads, tokens, size]) before each sequence in
    /// `own` ([heads, rows, size]). `lengths` holds the number of rows of each sequence.
    fn joined(&self, all: &[f32], own: &[f32], heads: usize, lengths: &[usize]) -> Vec<f32> {
        let rows: usize = lengths.iter().sum();
        let size = own.len() / (heads * rows);
        let mut out = Vec::with_capacity(own.len() + heads * lengths.len() * self.count * size);
        let each = all.chunks_exact(all.len() / heads);
        for (all, mut own) in each.zip(own.chunks_exact(rows * size)) {
            for length in lengths {
                let (first, rest) = own.split_at(length * size);
                out.extend_from_slice(&all[..self.count * size]);
                out.extend_from_slice(first);
                own = rest;
            }
        }
        out
    }
}

/// How the rows of a layer's input divide into sequences, and the cached keys and values to read or
/// write.
struct Sequences<'a> {
    lengths: &'a [usize],
    before: Option<Before<'a>>,
    /// Number of tokens of the first sequence whose keys and values are stored, and where to store
    /// them.
    keep: Option<(usize, &'a Mutex<Option<KeysValues>>)>,
}

struct TextLayer {
    input_norm: RmsNorm,
    attention: TextAttention,
    output_norm: RmsNorm,
    mlp: Mlp,
}

impl TextLayer {
    fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let norm =
            |name: &str| RmsNorm::load(&scope.under(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            attention: TextAttention::load(config, &scope.under("self_attn"))?,
            output_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(config, &scope.under("mlp"))?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        own: &Sequences<'_>,
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let attended = self
            .attention
            .forward(&self.input_norm.forward(x)?, rotary, own, cancel)?;
        let x = add_to(attended, x)?;
        let fed = self.mlp.forward(&self.output_norm.forward(&x)?)?;
        add_to(fed, &x)
    }
}

struct TextAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl TextAttention {
    fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.kv_heads());
        let linear = |name: &str, inputs, outputs| {
            Linear::load(&scope.under(name), inputs, outputs, config.attention_bias)
        };
        let norm = |name: &str| RmsNorm::load(&scope.under(name), head_dim, config.rms_norm_eps);
        Ok(Self {
            q: linear("q_proj", hidden, heads * head_dim)?,
            k: linear("k_proj", hidden, kv_heads * head_dim)?,
            v: linear("v_proj", hidden, kv_heads * head_dim)?,
            o: linear("o_proj", heads * head_dim, hidden)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        own: &Sequences<'_>,
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let matrix = self.o.matrix();
        let precision = Precision::of(matrix.held(), matrix.kernel());
        let shape = (x.dim(0)?, matrix.outputs());
        try_apply("attention", x, shape, |x| {
            let [q, k, v] = products([&self.q, &self.k, &self.v], x);
            let apart = |x: &[f32], heads, norm, tables| {
                let width = heads * self.head_dim;
                rotate_heads(x, width, 0, heads, self.head_dim, norm, tables)
            };
            let tables = Some(rotary.tables());
            let query = apart(&q, self.heads, Some(self.q_norm.parts()), tables);
            let mut key = apart(&k, self.kv_heads, Some(self.k_norm.parts()), tables);
            let mut value = apart(&v, self.kv_heads, None, None);
            if let Some((tokens, place)) = own.keep {
                let first = |all: &[f32]| {
                    let heads = all.chunks_exact(all.len() / self.kv_heads);
                    let heads = heads.map(|head| &head[..tokens * self.head_dim]);
                    heads.collect::<Vec<_>>().concat()
                };
                let kept = KeysValues {
                    keys: first(&key),
                    values: first(&value),
                };
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
            }
            if let Some(before) = own.before {
                let all = before.all;
                key = before.joined(&all.keys, &key, self.kv_heads, own.lengths);
                value = before.joined(&all.values, &value, self.kv_heads, own.lengths);
            }
            let heads = Heads {
                query: &query,
                key: &key,
                value: &value,
                heads: self.heads,
                kv_heads: self.kv_heads,
                size: self.head_dim,
                lengths: own.lengths,
                before: own.before.map_or(0, |before| before.count),
            };
            let mixed = attend(heads, Mask::Causal, precision, cancel)?;
            Ok(self.o.product(&mixed))
        })
    }
}

/// `down(act(gate(x)) · up(x))` (Shazeer 2020, "GLU Variants Improve Transformer").
struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let linear =
            |name: &str, inputs, outputs| Linear::load(&scope.under(name), inputs, outputs, false);
        Ok(Self {
            gate: linear("gate_proj", hidden, inner)?,
            up: linear("up_proj", hidden, inner)?,
            down: linear("down_proj", inner, hidden)?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let shape = (x.dim(0)?, self.down.matrix().outputs());
        apply("gated feed forward", x, shape, |x| {
            let inner = |x: &[f32]| {
                let [mut gate, up] = products([&self.gate, &self.up], x);
                self.activation.gate(&mut gate, &up);
                gate
            };
            let gate = self.gate.matrix();
            in_parts(x, gate.inputs(), gate.outputs(), inner, &self.down)
        })
    }
}
