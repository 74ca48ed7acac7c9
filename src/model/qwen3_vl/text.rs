//! The text model: Qwen3 with 3-D rotary positions and deepstack. Sequences are packed one after
//! another; only attention knows where one ends.

use candle_core::{Device, Tensor};

use super::super::attention::{Heads, Mask, Precision, attend};
use super::super::compute::{Table, rotate_heads};
use super::super::layers::{
    Activation, Linear, RmsNorm, add_to, apply, in_parts, products, try_apply,
};
use super::super::scope::Scope;
use super::super::{Cancel, ModelError};
use super::config::TextConfig;
use super::rope::{Rotary, TextRope};
use super::{Observer, Point};

/// What the vision tower adds to the picture tokens of a pack.
pub(super) struct Visual {
    /// [picture tokens], u32: their rows in the pack, ascending.
    pub rows: Tensor,
    /// [picture tokens, hidden]: what stands there instead of token embeddings.
    pub merged: Tensor,
    /// [picture tokens, hidden] each: added after the first layers (Meng et al. 2024, DeepStack).
    pub deepstack: Vec<Tensor>,
}

pub(super) struct TextModel {
    /// [vocabulary, hidden]
    embeddings: Table,
    hidden: usize,
    layers: Vec<Layer>,
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
            .map(|i| Layer::load(config, &scope.under("layers").under(i)))
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

    /// Hidden states after the final norm, [tokens, hidden].
    ///
    /// `ids` and `positions` are those of all sequences, one after another, `lengths` says how
    /// many belong to each.
    pub fn forward(
        &self,
        ids: &[u32],
        positions: &[[u32; 3]],
        lengths: &[usize],
        visual: Option<&Visual>,
        cancel: &Cancel,
        observe: Observer<'_>,
    ) -> Result<Tensor, ModelError> {
        let mut x = self.embed(ids, visual)?;
        observe(Point::Embedded, &x);
        let rotary = self.rope.tables(positions);
        for (i, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            x = layer.forward(&x, &rotary, lengths, cancel)?;
            if let Some(visual) = visual
                && let Some(features) = visual.deepstack.get(i)
            {
                x = x.index_add(&visual.rows, features, 0)?;
            }
            observe(Point::TextBlock(i), &x);
        }
        let x = self.norm.forward(&x)?;
        observe(Point::Norm, &x);
        Ok(x)
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

struct Layer {
    input_norm: RmsNorm,
    attention: Attention,
    output_norm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let norm =
            |name: &str| RmsNorm::load(&scope.under(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(config, &scope.under("self_attn"))?,
            output_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(config, &scope.under("mlp"))?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        lengths: &[usize],
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let attended =
            self.attention
                .forward(&self.input_norm.forward(x)?, rotary, lengths, cancel)?;
        let x = add_to(attended, x)?;
        let fed = self.mlp.forward(&self.output_norm.forward(&x)?)?;
        add_to(fed, &x)
    }
}

struct Attention {
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

impl Attention {
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
        lengths: &[usize],
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
            let heads = Heads {
                query: &apart(&q, self.heads, Some(self.q_norm.parts()), tables),
                key: &apart(&k, self.kv_heads, Some(self.k_norm.parts()), tables),
                value: &apart(&v, self.kv_heads, None, None),
                heads: self.heads,
                kv_heads: self.kv_heads,
                size: self.head_dim,
                lengths,
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
