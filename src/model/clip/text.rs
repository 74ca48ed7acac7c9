//! The text tower: a transformer with a causal mask. A text ends with the end-of-text token, the
//! only one that sees all others.

use super::config::{EndOfText, TextConfig};
use crate::attention::Mask;
use crate::batch::check_ids;
use crate::directory::TOKENIZER;
use crate::dual::{TokenEmbedding, TowerObserver, TowerPoint, Transformer, TransformerConfig};
use crate::layers::LayerNorm;
use crate::scope::Scope;
use crate::{Cancel, ModelError};

pub(super) struct TextTower {
    pub config: TransformerConfig,
    embedding: TokenEmbedding,
    encoder: Transformer,
    norm: LayerNorm,
    vocabulary: usize,
    end: EndOfText,
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
            encoder: Transformer::load(&sizes, Mask::Causal, &scope.under("encoder"))?,
            norm: LayerNorm::load(&scope.under("final_layer_norm"), hidden, sizes.epsilon)?,
            vocabulary: config.vocab_size,
            end: config.end_of_text(),
            config: sizes,
        })
    }

    /// Returns the normalised state of each sequence's end-of-text token, [sequences, hidden].
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
        let mut start = 0;
        for ids in sequences {
            let row = start + self.end.position(ids)?;
            pooled.extend_from_slice(&x[row * hidden..(row + 1) * hidden]);
            start += ids.len();
        }
        Ok(self.norm.forward(&pooled))
    }
}

impl EndOfText {
    fn position(self, ids: &[u32]) -> Result<usize, ModelError> {
        let id = match self {
            Self::Id(id) => Some(id),
            Self::Largest => ids.iter().max().copied(),
        };
        let position = ids.iter().position(|&found| Some(found) == id);
        position.ok_or_else(|| {
            let reason = match self {
                Self::Id(id) => format!("it does not end a text with token {id}, the eos_token_id"),
                Self::Largest => "it gives no tokens for a text".to_owned(),
            };
            ModelError::malformed(TOKENIZER, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_of_text_is_found() {
        let ids = [7, 3, 9, 4, 9];
        assert_eq!(EndOfText::Id(9).position(&ids).unwrap(), 2);
        assert_eq!(EndOfText::Id(4).position(&ids).unwrap(), 3);
        assert_eq!(EndOfText::Largest.position(&ids).unwrap(), 2);
        let missing = EndOfText::Id(8).position(&ids).unwrap_err();
        assert!(missing.to_string().contains("token 8"), "{missing}");
        assert!(EndOfText::Largest.position(&[]).is_err());
    }
}
