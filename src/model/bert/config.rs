//! Reads and checks the `config.json` of a BERT or XLM-RoBERTa checkpoint. A missing key gets its
//! default in transformers. After [`BertConfig::read`], no divisor is zero and no product of sizes
//! overflows.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::ModelError;
use crate::directory::{CONFIG, Directory};
use crate::layers::Activation;
use crate::limits::{MAX_LAYERS, MAX_SIZE, check_size};

/// The encoder's architecture. The two differ in the first token's position, in whether token types
/// are used, in the prefix of the weights' names, and in the names of a classifier's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Variant {
    #[serde(rename = "bert")]
    Bert,
    #[serde(rename = "xlm-roberta")]
    XlmRoberta,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct BertConfig {
    pub model_type: Variant,
    architectures: Vec<String>,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    is_decoder: bool,
    /// The labels of a classifier.
    id2label: Option<BTreeMap<String, IgnoredAny>>,
    num_labels: Option<usize>,
    sentence_transformers: Option<SentenceTransformers>,
    /// The key that held `sentence_transformers.activation_fn` before version 4 of
    /// sentence-transformers.
    sbert_ce_default_activation_function: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct SentenceTransformers {
    activation_fn: Option<String>,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            model_type: Variant::Bert,
            architectures: Vec::new(),
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: None,
            position_embedding_type: None,
            is_decoder: false,
            id2label: None,
            num_labels: None,
            sentence_transformers: None,
            sbert_ce_default_activation_function: None,
        }
    }
}

impl BertConfig {
    pub fn read(directory: &Directory) -> Result<Self, ModelError> {
        let config: Self = directory.json(CONFIG)?;
        config
            .check()
            .map_err(|reason| ModelError::malformed(CONFIG, reason))?;
        match config.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => {
                return Err(ModelError::UnsupportedModel(format!(
                    "position_embedding_type \"{other}\" is not supported (known: absolute)"
                )));
            }
        }
        if config.is_decoder {
            return Err(ModelError::UnsupportedModel(
                "a decoder (is_decoder) is not supported".into(),
            ));
        }
        Ok(config)
    }

    pub fn padding_id(&self) -> u32 {
        self.pad_token_id.unwrap_or(match self.model_type {
            Variant::Bert => 0,
            Variant::XlmRoberta => 1,
        })
    }

    /// The row of the position table for a sequence's first token.
    pub fn first_position(&self) -> usize {
        match self.model_type {
            Variant::Bert => 0,
            Variant::XlmRoberta => self.padding_id() as usize + 1,
        }
    }

    /// Maximum number of tokens for which the position table has rows.
    pub fn max_tokens(&self) -> usize {
        self.max_position_embeddings - self.first_position()
    }

    pub fn is_classifier(&self) -> bool {
        let first = self.architectures.first();
        first.is_some_and(|name| name.ends_with("ForSequenceClassification"))
    }

    pub fn labels(&self) -> usize {
        let named = self.id2label.as_ref().map(BTreeMap::len);
        named.or(self.num_labels).unwrap_or(2)
    }

    /// The dotted name of the activation class that sentence-transformers applies to a classifier's
    /// output.
    pub fn score_activation(&self) -> Option<&str> {
        let current = self.sentence_transformers.as_ref();
        current
            .and_then(|current| current.activation_fn.as_deref())
            .or(self.sbert_ce_default_activation_function.as_deref())
    }

    fn check(&self) -> Result<(), String> {
        for (name, value, limit) in [
            ("vocab_size", self.vocab_size, MAX_SIZE << 4),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_LAYERS),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MAX_SIZE,
            ),
            ("type_vocab_size", self.type_vocab_size, MAX_SIZE),
        ] {
            check_size(name, value, limit)?;
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if !hidden.is_multiple_of(heads) {
            return Err(format!(
                "hidden_size ({hidden}) is not a multiple of num_attention_heads ({heads})"
            ));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return Err(format!(
                "layer_norm_eps must not be {}",
                self.layer_norm_eps
            ));
        }
        if self.first_position() >= self.max_position_embeddings {
            return Err(format!(
                "max_position_embeddings ({}) leaves no position after pad_token_id ({})",
                self.max_position_embeddings,
                self.padding_id()
            ));
        }
        Ok(())
    }
}
