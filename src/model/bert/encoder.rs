//! The BERT encoder (Devlin et al. 2019, "BERT"; Conneau et al. 2020, "Unsupervised Cross-lingual
//! Representation Learning at Scale"). Attention is bidirectional within a sequence, and each layer
//! normalises after the residual addition (post-norm).

use candle_core::{Device, Tensor};

use super::config::{BertConfig, Variant};
use super::tokens::TokenSequence;
use super::{BertObserver, BertPoint};
use crate::attention::{Heads, Mask, Precision, attend};
use crate::batch::check_ids;
use crate::compute::{Table, rotate_heads};
use crate::directory::TOKENIZER;
use crate::layers::{Activation, LayerNorm, Linear, add_to, feed_forward, products, try_apply};
use crate::scope::{Scope, WeightSource};
use crate::{Cancel, ModelError};

/// A checkpoint's weights, and the prefix of the encoder's names: empty in a checkpoint of the bare
/// model, the architecture's name in a checkpoint of a model with a head.
pub(super) struct CheckpointNames<'a> {
    all: Scope<'a>,
    encoder: Scope<'a>,
}

impl<'a> CheckpointNames<'a> {
    pub fn new(config: &BertConfig, source: WeightSource<'a>, cancel: &'a Cancel) -> Self {
        let architecture = match config.model_type {
            Variant::Bert => "bert",
            Variant::XlmRoberta => "roberta",
        };
        let all = Scope::new(source, "", cancel);
        let under = all.under(architecture);
        let encoder = match under.has("embeddings.word_embeddings.weight") {
            true => under,
            false => all.clone(),
        };
        Self { all, encoder }
    }

    /// The weights of a part of the encoder.
    pub fn part(&self, name: &str) -> Scope<'a> {
        self.encoder.under(name)
    }

    /// The weights of a part outside the encoder, such as a classifier head.
    pub fn outside(&self, name: &str) -> Scope<'a> {
        self.all.under(name)
    }
}

pub(super) struct BertEncoder {
    /// Word embeddings, [vocabulary, hidden]
    words: Table,
    /// Position embeddings, [positions, hidden]
    positions: Table,
    /// Token type embeddings, [segments, hidden]
    segments: Table,
    norm: LayerNorm,
    layers: Vec<BertLayer>,
    config: BertConfig,
}

impl BertEncoder {
    pub fn load(config: &BertConfig, checkpoint: &CheckpointNames<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let embeddings = checkpoint.part("embeddings");
        let table = |name: &str, rows| embeddings.under(name).table("weight", rows, hidden);
        let encoder = checkpoint.part("encoder.layer");
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions: table("position_embeddings", config.max_position_embeddings)?,
            segments: table("token_type_embeddings", config.type_vocab_size)?,
            norm: LayerNorm::load(
                &embeddings.under("LayerNorm"),
                hidden,
                config.layer_norm_eps,
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|i| BertLayer::load(config, &encoder.under(i)))
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
    ) -> Result<Tensor, ModelError> {
        let mut x = self.embed(sequences)?;
        observe(BertPoint::Embedded, &x);
        for (i, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            x = layer.forward(&x, sequences, cancel)?;
            observe(BertPoint::Layer(i), &x);
        }
        Ok(x)
    }

    fn embed(&self, sequences: &[TokenSequence]) -> Result<Tensor, ModelError> {
        let mut ids = Vec::new();
        let mut positions = Vec::new();
        let mut segments = Vec::new();
        for sequence in sequences {
            check_ids(&sequence.ids, self.config.vocab_size)?;
            ids.extend(&sequence.ids);
            positions.extend(self.position_rows(&sequence.ids));
            segments.extend(self.segment_rows(&sequence.segments)?);
        }
        let rows = |table: &Table, rows: &[u32]| {
            table
                .rows(rows.iter().map(|&row| row as usize))
                .ok_or_else(|| ModelError::Internal("a token has no embedding".into()))
        };
        let mut sum = rows(&self.words, &ids)?;
        for part in [
            rows(&self.segments, &segments)?,
            rows(&self.positions, &positions)?,
        ] {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        }
        let shape = (ids.len(), self.config.hidden_size);
        self.norm
            .forward(&Tensor::from_vec(sum, shape, &Device::Cpu)?)
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
    attention: BertAttention,
    attention_norm: LayerNorm,
    inner: Linear,
    activation: Activation,
    outer: Linear,
    norm: LayerNorm,
}

impl BertLayer {
    fn load(config: &BertConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |scope: &Scope<'_>| {
            LayerNorm::load(&scope.under("LayerNorm"), hidden, config.layer_norm_eps)
        };
        let attention = scope.under("attention");
        let output = scope.under("output");
        Ok(Self {
            attention: BertAttention::load(config, &attention)?,
            attention_norm: norm(&attention.under("output"))?,
            inner: Linear::load(
                &scope.under("intermediate").under("dense"),
                hidden,
                inner,
                true,
            )?,
            activation: config.hidden_act,
            outer: Linear::load(&output.under("dense"), inner, hidden, true)?,
            norm: norm(&output)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        sequences: &[TokenSequence],
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let attended = self.attention.forward(x, sequences, cancel)?;
        let x = self.attention_norm.forward(&add_to(attended, x)?)?;
        let fed = feed_forward(&x, &self.inner, self.activation, &self.outer)?;
        self.norm.forward(&add_to(fed, &x)?)
    }
}

struct BertAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
}

impl BertAttention {
    fn load(config: &BertConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let own = scope.under("self");
        let linear =
            |scope: &Scope<'_>, name: &str| Linear::load(&scope.under(name), hidden, hidden, true);
        Ok(Self {
            query: linear(&own, "query")?,
            key: linear(&own, "key")?,
            value: linear(&own, "value")?,
            output: linear(&scope.under("output"), "dense")?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        sequences: &[TokenSequence],
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let lengths: Vec<usize> = sequences.iter().map(|own| own.ids.len()).collect();
        let matrix = self.output.matrix();
        let precision = Precision::of(matrix.held(), matrix.kernel());
        let hidden = matrix.inputs();
        let size = hidden / self.heads;
        try_apply("attention", x, x.shape(), |x| {
            let [q, k, v] = products([&self.query, &self.key, &self.value], x)
                .map(|x| rotate_heads(&x, hidden, 0, self.heads, size, None, None));
            let heads = Heads {
                query: &q,
                key: &k,
                value: &v,
                heads: self.heads,
                kv_heads: self.heads,
                size,
                lengths: &lengths,
                before: 0,
            };
            let mixed = attend(heads, Mask::Full, precision, cancel)?;
            Ok(self.output.product(&mixed))
        })
    }
}
