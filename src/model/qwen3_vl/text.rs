//! The text model: Qwen3 with 3-D rotary positions and deepstack. Sequences are packed one after
//! another; only attention knows where one ends.

use candle_core::{DType, Tensor};

use super::super::attention::{Mask, attend};
use super::super::layers::{Activation, Linear, RmsNorm};
use super::super::weights::Scope;
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
    embeddings: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    rope: TextRope,
}

impl TextModel {
    pub fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let table = scope
            .under("embed_tokens")
            .matrix("weight", &[config.vocab_size, hidden])?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(config, &scope.under("layers").under(i)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            embeddings: table,
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
        let rotary = self.rope.tables(positions)?;
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
        let ids = Tensor::new(ids, self.embeddings.device())?;
        let x = self
            .embeddings
            .index_select(&ids, 0)?
            .to_dtype(DType::F32)?;
        let Some(visual) = visual else {
            return Ok(x);
        };
        // Each row comes either from the token embeddings or, past their end, from the pictures.
        let tokens = x.dim(0)?;
        let mut source: Vec<u32> = (0..tokens as u32).collect();
        for (i, row) in visual.rows.to_vec1::<u32>()?.into_iter().enumerate() {
            source[row as usize] = (tokens + i) as u32;
        }
        let source = Tensor::new(source, x.device())?;
        Ok(Tensor::cat(&[&x, &visual.merged], 0)?.index_select(&source, 0)?)
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
        let x = (x + attended)?;
        let fed = self.mlp.forward(&self.output_norm.forward(&x)?)?;
        Ok((x + fed)?)
    }
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    head_dim: usize,
}

impl Attention {
    fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let queries = config.num_attention_heads * head_dim;
        let keys = config.kv_heads() * head_dim;
        let linear = |name: &str, inputs, outputs| {
            Linear::load(&scope.under(name), inputs, outputs, config.attention_bias)
        };
        let norm = |name: &str| RmsNorm::load(&scope.under(name), head_dim, config.rms_norm_eps);
        Ok(Self {
            q: linear("q_proj", hidden, queries)?,
            k: linear("k_proj", hidden, keys)?,
            v: linear("v_proj", hidden, keys)?,
            o: linear("o_proj", queries, hidden)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
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
        let q = rotary.apply(&by_head(
            &self.q_norm.forward(&self.split(self.q.forward(x)?)?)?,
        )?)?;
        let k = rotary.apply(&by_head(
            &self.k_norm.forward(&self.split(self.k.forward(x)?)?)?,
        )?)?;
        let v = by_head(&self.split(self.v.forward(x)?)?)?;
        let mut attended = Vec::with_capacity(lengths.len());
        let mut start = 0;
        for &length in lengths {
            attended.push(attend(
                &q.narrow(1, start, length)?,
                &k.narrow(1, start, length)?,
                &v.narrow(1, start, length)?,
                Mask::Causal,
                cancel,
            )?);
            start += length;
        }
        self.o.forward(&Tensor::cat(&attended, 0)?)
    }

    /// [tokens, heads · head_dim] to [tokens, heads, head_dim]
    fn split(&self, x: Tensor) -> Result<Tensor, ModelError> {
        let (tokens, width) = x.dims2()?;
        Ok(x.reshape((tokens, width / self.head_dim, self.head_dim))?)
    }
}

/// [tokens, heads, head_dim] to [heads, tokens, head_dim]
fn by_head(x: &Tensor) -> Result<Tensor, ModelError> {
    Ok(x.transpose(0, 1)?.contiguous()?)
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
        let gate = self.activation.forward(&self.gate.forward(x)?)?;
        self.down.forward(&(gate * self.up.forward(x)?)?)
    }
}
