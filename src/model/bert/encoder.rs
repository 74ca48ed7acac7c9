//! The BERT encoder (Devlin et al. 2019, "BERT"; Conneau et al. 2020, "Unsupervised Cross-lingual
//! Representation Learning at Scale"). Attention is bidirectional within a sequence, and each layer
//! normalises after the residual addition (post-norm).

use super::config::{BertConfig, Variant};
use super::{BertObserver, BertPoint};
use crate::attention::{Attention, Columns, Mask};
use crate::batch::check_ids;
use crate::compute::add;
use crate::directory::TOKENIZER;
use crate::layers::{Embedding, LayerNorm, Linear, Mlp};
use crate::scope::{Scope, WeightSource};
use crate::text_tokens::TokenSequence;
use crate::{Cancel, ModelError};

/// The scopes of a checkpoint's weights. The names of the encoder's weights have no prefix in a checkpoint of
/// the bare model, and the architecture's name as a prefix in a checkpoint of a model with a head.
pub(super) struct CheckpointScopes<'a> {
    whole: Scope<'a>,
    encoder: Scope<'a>,
}

impl<'a> CheckpointScopes<'a> {
    pub fn new(config: &BertConfig, source: WeightSource<'a>, cancel: &'a Cancel) -> Self {
        let architecture = match config.model_type {
            Variant::Bert => "bert",
            Variant::XlmRoberta => "roberta",
        };
        let whole = Scope::new(source, "", cancel);
        let under = whole.under(architecture);
        let encoder = match under.has("embeddings.word_embeddings.weight") {
            true => under,
            false => whole.clone(),
        };
        Self { whole, encoder }
    }

    /// The weights of a part of the encoder.
    pub fn part(&self, name: &str) -> Scope<'a> {
        self.encoder.under(name)
    }

    /// The weights of a part outside the encoder, such as a classifier head.
    pub fn outside(&self, name: &str) -> Scope<'a> {
        self.whole.under(name)
    }
}

pub(super) struct BertEncoder {
    /// [vocabulary, hidden]
    word_embeddings: Embedding,
    /// [positions, hidden]
    position_embeddings: Embedding,
    /// [segments, hidden]
    token_type_embeddings: Embedding,
    norm: LayerNorm,
    layers: Vec<BertLayer>,
    config: BertConfig,
}

impl BertEncoder {
    pub fn load(
        config: &BertConfig,
        checkpoint: &CheckpointScopes<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, epsilon) = (config.hidden_size, config.layer_norm_eps);
        let embeddings = checkpoint.part("embeddings");
        let table = |name: &str, rows| embeddings.under(name).embedding("weight", rows, hidden);
        let layers = checkpoint.part("encoder.layer");
        Ok(Self {
            word_embeddings: table("word_embeddings", config.vocab_size)?,
            position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size)?,
            norm: LayerNorm::load(&embeddings.under("LayerNorm"), hidden, epsilon)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| BertLayer::load(config, &layers.under(i)))
                .collect::<Result<_, _>>()?,
            config: config.clone(),
        })
    }

    /// Returns the hidden states after the last layer, [tokens, hidden], with the sequences one
    /// after another.
    pub fn forward(
        &self,
        sequences: &[TokenSequence],
        cancel: &Cancel,
        observe: BertObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let (mut ids, mut positions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            check_ids(&sequence.ids, self.config.vocab_size)?;
            ids.extend(&sequence.ids);
            positions.extend(self.position_rows(&sequence.ids));
            segments.extend(self.segment_rows(&sequence.segments)?);
        }
        // [tokens, hidden]
        let mut x = self.word_embeddings.forward(&ids)?;
        add(&mut x, &self.token_type_embeddings.forward(&segments)?);
        add(&mut x, &self.position_embeddings.forward(&positions)?);
        let mut x = self.norm.forward(&x);
        observe(BertPoint::Embedded, &x);

        let lengths: Vec<_> = sequences
            .iter()
            .map(|own| (own.ids.len(), own.ids.len()))
            .collect();
        for (i, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            x = layer.forward(x, &lengths, cancel)?;
            observe(BertPoint::Layer(i), &x);
        }
        Ok(x)
    }

    /// The row of the position table for each token. In XLM-RoBERTa, positions start after the
    /// padding token's ID, and padding tokens do not count. A text can contain the padding token if
    /// it spells the token out.
    fn position_rows(&self, ids: &[u32]) -> Vec<u32> {
        let first = self.config.first_position() as u32;
        let skipped = match self.config.model_type {
            Variant::Bert => None,
            Variant::XlmRoberta => Some(self.config.padding_id()),
        };
        let mut next = first;
        ids.iter()
            .map(|&id| match Some(id) == skipped {
                true => id,
                false => {
                    next += 1;
                    next - 1
                }
            })
            .collect()
    }

    /// The row of the token type table for each token. XLM-RoBERTa does not distinguish the two
    /// texts of a pair.
    fn segment_rows(&self, segments: &[u32]) -> Result<Vec<u32>, ModelError> {
        if self.config.model_type == Variant::XlmRoberta {
            return Ok(vec![0; segments.len()]);
        }
        let known = self.config.type_vocab_size;
        match segments.iter().find(|&&segment| segment as usize >= known) {
            None => Ok(segments.to_vec()),
            Some(segment) => Err(ModelError::malformed(
                TOKENIZER,
                format!("type id {segment} is not among the model's {known} token types"),
            )),
        }
    }
}

struct BertLayer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    mlp: Mlp,
    output_norm: LayerNorm,
}

impl BertLayer {
    fn load(config: &BertConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (attention, output) = (scope.under("attention"), scope.under("output"));
        let intermediate = scope.under("intermediate");
        let norm = |scope: &Scope<'_>| {
            LayerNorm::load(&scope.under("LayerNorm"), hidden, config.layer_norm_eps)
        };
        Ok(Self {
            attention: SelfAttention::load(config, &attention)?,
            attention_norm: norm(&attention.under("output"))?,
            mlp: Mlp {
                fc1: Linear::load(&intermediate.under("dense"), hidden, inner, true)?,
                activation: config.hidden_act,
                fc2: Linear::load(&output.under("dense"), inner, hidden, true)?,
            },
            output_norm: norm(&output)?,
        })
    }

    /// [tokens, hidden] to [tokens, hidden]
    fn forward(
        &self,
        mut x: Vec<f32>,
        // For each sequence, its numbers of queries and of keys.
        lengths: &[(usize, usize)],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let attended = self.attention.forward(&x, lengths, cancel)?;
        add(&mut x, &attended);
        let mut x = self.attention_norm.forward(&x);
        let fed = self.mlp.forward(&x);
        add(&mut x, &fed);
        Ok(self.output_norm.forward(&x))
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
    fn load(config: &BertConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let own = scope.under("self");
        let linear = |scope: Scope<'_>| Linear::load(&scope, hidden, hidden, true);
        let [query, key, value] = ["query", "key", "value"].map(|name| linear(own.under(name)));
        let (query, key, value) = (query?, key?, value?);
        let output = linear(scope.under("output").under("dense"))?;
        Ok(Self {
            query,
            key,
            value,
            attention: Attention::new(heads, heads, hidden / heads, Mask::Full, &output),
            output,
            hidden,
        })
    }

    /// [tokens, hidden] to [tokens, hidden]
    fn forward(
        &self,
        x: &[f32],
        // For each sequence, its numbers of queries and of keys.
        lengths: &[(usize, usize)],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        // [tokens, hidden] each
        let [q, k, v] = Linear::forward_all([&self.query, &self.key, &self.value], x);
        let inputs = [&q, &k, &v].map(|own| Columns::of(own, self.hidden, 0));
        let attended = self.attention.forward(inputs, lengths, cancel)?;
        Ok(self.output.forward(&attended))
    }
}
