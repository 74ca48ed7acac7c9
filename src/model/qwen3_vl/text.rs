//! The text model: Qwen3 (Yang et al. 2025, "Qwen3 Technical Report") with M-RoPE and DeepStack
//! (Bai et al. 2025, "Qwen3-VL Technical Report"). Fields have the names of the checkpoint's
//! weights; those of the feed-forward network stand in [`GatedMlp`].
//!
//! The sequences of a batch are packed one after another: a row is a token of any of them. Attention and
//! positions distinguish the sequences. All products of matrices are in [`Linear`] and [`Attention`].

use super::config::TextConfig;
use super::prefix::Past;
use super::rope::{Rotary, TextRope};
use super::{PictureTokens, QwenObserver, QwenPoint};
use crate::attention::{Attention, Columns, Mask};
use crate::compute::add;
use crate::layers::{Embedding, GatedMlp, Linear, RmsNorm};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

/// The tokens of a batch.
pub(super) struct TokenBatch<'a> {
    /// The token IDs of all sequences, one after another.
    pub ids: &'a [u32],
    /// The (time, row, column) position of each token.
    pub positions: &'a [[u32; 3]],
    /// Number of tokens of each sequence.
    pub lengths: &'a [usize],
}

pub(super) struct TextModel {
    /// [vocabulary, hidden]
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    rope: TextRope,
    hidden: usize,
}

impl TextModel {
    pub fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let embed_tokens = scope.under("embed_tokens");
        let layers = scope.under("layers");
        Ok(Self {
            embed_tokens: embed_tokens.embedding("weight", config.vocab_size, hidden)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| DecoderLayer::load(config, i, &layers.under(i)))
                .collect::<Result<_, _>>()?,
            norm: RmsNorm::load(&scope.under("norm"), hidden, config.rms_norm_eps)?,
            rope: TextRope::new(
                config.rope_theta(),
                config.head_dim,
                &config.mrope_section(),
            ),
            hidden,
        })
    }

    /// Returns the hidden states after the final norm, [tokens, hidden].
    pub fn forward(
        &self,
        tokens: &TokenBatch<'_>,
        pictures: Option<&PictureTokens>,
        past: &mut Past,
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        // [tokens, hidden]; the vision tower's output takes the place of the picture tokens.
        let mut x = self.embed_tokens.forward(tokens.ids)?;
        if let Some(pictures) = pictures {
            for (row, merged) in pictures
                .rows
                .iter()
                .zip(pictures.merged.chunks(self.hidden))
            {
                x[row * self.hidden..][..self.hidden].copy_from_slice(merged);
            }
        }
        observe(QwenPoint::Embedded, &x);

        let rotary = self.rope.tables(tokens.positions);
        for (i, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            layer.forward(&mut x, &rotary, tokens.lengths, past, cancel)?;
            // DeepStack: the first layers add features of the vision tower's inner blocks.
            if let Some(pictures) = pictures
                && let Some(features) = pictures.deepstack.get(i)
            {
                for (row, features) in pictures.rows.iter().zip(features.chunks(self.hidden)) {
                    add(&mut x[row * self.hidden..][..self.hidden], features);
                }
            }
            observe(QwenPoint::TextBlock(i), &x);
        }

        let x = self.norm.forward(&x);
        observe(QwenPoint::Norm, &x);
        Ok(x)
    }
}

struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
}

impl DecoderLayer {
    fn load(config: &TextConfig, layer_idx: usize, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| RmsNorm::load(&scope.under(name), hidden, config.rms_norm_eps);
        let mlp = scope.under("mlp");
        let linear =
            |name: &str, inputs, outputs| Linear::load(&mlp.under(name), inputs, outputs, false);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: SelfAttention::load(config, layer_idx, &scope.under("self_attn"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: GatedMlp {
                gate: linear("gate_proj", hidden, inner)?,
                up: linear("up_proj", hidden, inner)?,
                activation: config.hidden_act,
                down: linear("down_proj", inner, hidden)?,
            },
        })
    }

    /// Replaces `x`, [tokens, hidden].
    fn forward(
        &self,
        x: &mut [f32],
        rotary: &Rotary,
        lengths: &[usize],
        past: &mut Past,
        cancel: &Cancel,
    ) -> Result<(), ModelError> {
        let normed = self.input_layernorm.forward(x);
        let attended = self
            .self_attn
            .forward(&normed, rotary, lengths, past, cancel)?;
        add(x, &attended);
        drop((normed, attended));

        let normed = self.post_attention_layernorm.forward(x);
        add(x, &self.mlp.forward(&normed));
        Ok(())
    }
}

struct SelfAttention {
    layer_idx: usize,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    o_proj: Linear,
    attention: Attention,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl SelfAttention {
    fn load(config: &TextConfig, layer_idx: usize, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.kv_heads());
        let linear = |name: &str, inputs, outputs| {
            Linear::load(&scope.under(name), inputs, outputs, config.attention_bias)
        };
        let norm = |name: &str| RmsNorm::load(&scope.under(name), head_dim, config.rms_norm_eps);
        let q_proj = linear("q_proj", hidden, heads * head_dim)?;
        let k_proj = linear("k_proj", hidden, kv_heads * head_dim)?;
        let v_proj = linear("v_proj", hidden, kv_heads * head_dim)?;
        let o_proj = linear("o_proj", heads * head_dim, hidden)?;
        Ok(Self {
            layer_idx,
            q_proj,
            k_proj,
            v_proj,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            attention: Attention::new(heads, kv_heads, head_dim, Mask::Causal, &o_proj),
            o_proj,
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// [tokens, hidden] to [tokens, hidden]
    fn forward(
        &self,
        x: &[f32],
        rotary: &Rotary,
        lengths: &[usize],
        past: &mut Past,
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        // q: [tokens, heads · head_dim]; k and v: [tokens, kv_heads · head_dim]
        let [q, k, v] = Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x);
        // Each head is normalised and rotated on its own.
        let [mut q, mut k] = [self.q_norm.forward(&q), self.k_norm.forward(&k)];
        rotary.rotate(&mut q, q_width, self.heads);
        rotary.rotate(&mut k, kv_width, self.kv_heads);
        // k and v: [past and own tokens of each sequence, kv_heads · head_dim]
        let (k, v) = past.update(self.layer_idx, k, v, lengths)?;
        let inputs = [
            Columns::of(&q, q_width, 0),
            Columns::of(&k, kv_width, 0),
            Columns::of(&v, kv_width, 0),
        ];
        let lengths: Vec<_> = lengths.iter().map(|&n| (n, past.length() + n)).collect();
        let attended = self.attention.forward(inputs, &lengths, cancel)?;
        Ok(self.o_proj.forward(&attended))
    }
}
