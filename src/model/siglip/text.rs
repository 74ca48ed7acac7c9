//! The text tower: a transformer without a mask over texts that are all padded to the same length.

use super::config::TextConfig;
use crate::attention::Mask;
use crate::batch::check_ids;
use crate::dual::{TokenEmbedding, TowerObserver, TowerPoint, Transformer, TransformerConfig};
use crate::layers::{LayerNorm, Linear};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

pub(super) struct TextTower {
    pub config: TransformerConfig,
    embedding: TokenEmbedding,
    encoder: Transformer,
    norm: LayerNorm,
    head: Linear,
    vocabulary: usize,
}

impl TextTower {
    pub fn load(config: &TextConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let sizes = config.transformer();
        let hidden = sizes.hidden;
        Ok(Self {
            embedding: TokenEmbedding::load(
                &scope.under("embeddings"),
                config.vocab_size,
                config.max_position_embeddings,
                hidden,
            )?,
            encoder: Transformer::load(&sizes, Mask::Full, &scope.under("encoder"))?,
            norm: LayerNorm::load(&scope.under("final_layer_norm"), hidden, sizes.epsilon)?,
            head: Linear::load(&scope.under("head"), hidden, config.projection_size(), true)?,
            vocabulary: config.vocab_size,
            config: sizes,
        })
    }

    /// Returns the head's output for each sequence's last position, padding or not,
    /// [sequences, dims].
    pub fn forward(
        &self,
        sequences: &[&[u32]],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        for ids in sequences {
            check_ids(ids, self.vocabulary)?;
        }
        let x = self.embedding.forward(sequences)?;
        observe(TowerPoint::Embedded, &x);
        let lengths = sequences.iter().map(|ids| ids.len());
        let x = self.encoder.forward(x, lengths, cancel, observe)?;

        let hidden = self.config.hidden;
        let mut pooled = Vec::with_capacity(sequences.len() * hidden);
        let mut end = 0;
        for ids in sequences {
            end += ids.len();
            pooled.extend_from_slice(&x[(end - 1) * hidden..end * hidden]);
        }
        Ok(self.head.forward(&self.norm.forward(&pooled)))
    }
}
