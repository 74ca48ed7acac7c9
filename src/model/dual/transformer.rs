//! The transformer in both towers of CLIP and SigLIP: attention and a feed-forward layer, each
//! after a LayerNorm and added to its input (pre-norm). Tensors are named as in transformers'
//! `CLIPEncoder` and `SiglipEncoder`.

use super::{TowerObserver, TowerPoint};
use crate::attention::{Attention, Columns, Mask};
use crate::compute::add;
use crate::layers::{Activation, Embedding, LayerNorm, Linear, Mlp};
use crate::limits::{MAX_LAYERS, MAX_SIZE, check_size};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

/// The sizes of a tower's transformer.
#[derive(Clone, Debug)]
pub(crate) struct TransformerConfig {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub activation: Activation,
    pub epsilon: f64,
}

impl TransformerConfig {
    /// Checks the sizes. `part` is the key of `config.json` that holds them.
    pub fn check(&self, part: &str) -> Result<(), String> {
        for (name, value, limit) in [
            ("hidden_size", self.hidden, MAX_SIZE),
            ("intermediate_size", self.intermediate, MAX_SIZE),
            ("num_hidden_layers", self.layers, MAX_LAYERS),
            ("num_attention_heads", self.heads, MAX_LAYERS),
        ] {
            check_size(&format!("{part}.{name}"), value, limit)?;
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(format!(
                "{part}.hidden_size ({}) is not a multiple of num_attention_heads ({})",
                self.hidden, self.heads
            ));
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(format!(
                "{part}.layer_norm_eps must not be {}",
                self.epsilon
            ));
        }
        Ok(())
    }

    /// Memory per row in a forward pass, in bytes, estimated as for Qwen3-VL (`working_set`): the
    /// hidden state and its norm, plus the larger of attention's products (queries, keys and values in
    /// three forms) and the two halves of the feed-forward layer, one of them also rounded.
    pub fn row_bytes(&self) -> u64 {
        4 * (3 * self.hidden + (11 * self.hidden).max(3 * self.intermediate)) as u64
    }
}

pub(crate) struct Transformer {
    layers: Vec<Layer>,
}

impl Transformer {
    /// `scope` is the tower's `encoder`.
    pub fn load(
        config: &TransformerConfig,
        mask: Mask,
        scope: &Scope<'_>,
    ) -> Result<Self, ModelError> {
        let layers = scope.under("layers");
        Ok(Self {
            layers: (0..config.layers)
                .map(|i| Layer::load(config, mask, &layers.under(i)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// [rows, hidden] to [rows, hidden]. `lengths` has the number of rows of each sequence.
    pub fn forward(
        &self,
        mut x: Vec<f32>,
        lengths: impl IntoIterator<Item = usize>,
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let lengths: Vec<_> = lengths.into_iter().map(|own| (own, own)).collect();
        for (i, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            x = layer.forward(x, &lengths, cancel)?;
            observe(TowerPoint::Layer(i), &x);
        }
        Ok(x)
    }
}

struct Layer {
    layer_norm1: LayerNorm,
    self_attention: SelfAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
}

impl Layer {
    fn load(config: &TransformerConfig, mask: Mask, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let norm = |name: &str| LayerNorm::load(&scope.under(name), config.hidden, config.epsilon);
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            self_attention: SelfAttention::load(config, mask, &scope.under("self_attn"))?,
            layer_norm2: norm("layer_norm2")?,
            mlp: load_mlp(config, &scope.under("mlp"))?,
        })
    }

    /// [rows, hidden] to [rows, hidden]
    fn forward(
        &self,
        mut x: Vec<f32>,
        lengths: &[(usize, usize)],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let normed = self.layer_norm1.forward(&x);
        add(
            &mut x,
            &self.self_attention.forward(&normed, lengths, cancel)?,
        );
        let normed = self.layer_norm2.forward(&x);
        add(&mut x, &self.mlp.forward(&normed));
        Ok(x)
    }
}

struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    attention: Attention,
    output: Linear,
    hidden: usize,
}

impl SelfAttention {
    fn load(config: &TransformerConfig, mask: Mask, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, heads) = (config.hidden, config.heads);
        let linear = |name: &str| Linear::load(&scope.under(name), hidden, hidden, true);
        let output = linear("out_proj")?;
        Ok(Self {
            query: linear("q_proj")?,
            key: linear("k_proj")?,
            value: linear("v_proj")?,
            attention: Attention::new(heads, heads, hidden / heads, mask, &output),
            output,
            hidden,
        })
    }

    /// [rows, hidden] to [rows, hidden]
    fn forward(
        &self,
        x: &[f32],
        lengths: &[(usize, usize)],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        // [rows, hidden] each
        let [q, k, v] = Linear::forward_all([&self.query, &self.key, &self.value], x);
        let inputs = [&q, &k, &v].map(|own| Columns::of(own, self.hidden, 0));
        let attended = self.attention.forward(inputs, lengths, cancel)?;
        Ok(self.output.forward(&attended))
    }
}

pub(crate) fn load_mlp(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Mlp, ModelError> {
    let (hidden, inner) = (config.hidden, config.intermediate);
    Ok(Mlp {
        fc1: Linear::load(&scope.under("fc1"), hidden, inner, true)?,
        activation: config.activation,
        fc2: Linear::load(&scope.under("fc2"), inner, hidden, true)?,
    })
}

/// The embeddings of tokens and of their positions.
pub(crate) struct TokenEmbedding {
    /// [vocabulary, hidden]
    tokens: Embedding,
    /// [positions, hidden]
    positions: Embedding,
    hidden: usize,
}

impl TokenEmbedding {
    /// `scope` is the text tower's `embeddings`.
    pub fn load(
        scope: &Scope<'_>,
        vocabulary: usize,
        positions: usize,
        hidden: usize,
    ) -> Result<Self, ModelError> {
        let table = |name: &str, rows| scope.under(name).embedding("weight", rows, hidden);
        Ok(Self {
            tokens: table("token_embedding", vocabulary)?,
            positions: table("position_embedding", positions)?,
            hidden,
        })
    }

    /// The sum of both embeddings for the sequences one after another, [tokens, hidden]. No
    /// sequence has more tokens than there are positions.
    pub fn forward(&self, sequences: &[&[u32]]) -> Result<Vec<f32>, ModelError> {
        let mut x = self.tokens.forward(&sequences.concat())?;
        let longest = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let positions: Vec<u32> = (0u32..).take(longest).collect();
        let positions = self.positions.forward(&positions)?;
        let mut rest = x.as_mut_slice();
        for ids in sequences {
            let (own, others) = rest.split_at_mut(ids.len() * self.hidden);
            add(own, &positions[..own.len()]);
            rest = others;
        }
        Ok(x)
    }
}
