//! The vision tower, a vision transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16
//! Words") with one more LayerNorm before its first layer.

use super::config::VisionConfig;
use crate::attention::Mask;
use crate::compute::add;
use crate::dual::{TowerObserver, TowerPoint, Transformer, TransformerConfig};
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

pub(super) struct VisionTower {
    pub config: TransformerConfig,
    class: Vec<f32>,
    patch_embedding: Linear,
    /// Row 0 is the class token's position.
    positions: Embedding,
    pre_norm: LayerNorm,
    encoder: Transformer,
    post_norm: LayerNorm,
    /// Patches of a picture.
    patches: usize,
}

impl VisionTower {
    pub fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let sizes = config.transformer();
        let (hidden, patch, patches) = (sizes.hidden, config.patch_size, config.patches());
        let embeddings = scope.under("embeddings");
        let norm = |name: &str| LayerNorm::load(&scope.under(name), hidden, sizes.epsilon);
        Ok(Self {
            class: embeddings.vector("class_embedding", hidden)?,
            // A convolution without overlap is a linear map of each patch.
            patch_embedding: Linear::shaped(
                &embeddings.under("patch_embedding"),
                &[hidden, 3, patch, patch],
                false,
            )?,
            positions: embeddings.under("position_embedding").embedding(
                "weight",
                patches + 1,
                hidden,
            )?,
            // The misspelling is the checkpoint's.
            pre_norm: norm("pre_layrnorm")?,
            encoder: Transformer::load(&sizes, Mask::Full, &scope.under("encoder"))?,
            post_norm: norm("post_layernorm")?,
            patches,
            config: sizes,
        })
    }

    /// Returns the normalised state of each picture's class token, [pictures, hidden].
    pub fn forward(
        &self,
        patches: &[f32],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let hidden = self.config.hidden;
        let x = self.pre_norm.forward(&self.embed(patches)?);
        observe(TowerPoint::Embedded, &x);
        let length = self.patches + 1;
        let pictures = x.len() / (length * hidden);
        let lengths = std::iter::repeat_n(length, pictures);
        let x = self.encoder.forward(x, lengths, cancel, observe)?;
        let classes: Vec<f32> = x
            .chunks_exact(length * hidden)
            .flat_map(|picture| &picture[..hidden])
            .copied()
            .collect();
        Ok(self.post_norm.forward(&classes))
    }

    /// Returns [pictures · (1 + patches), hidden]: for each picture its class token and its
    /// patches, with their positions added.
    fn embed(&self, patches: &[f32]) -> Result<Vec<f32>, ModelError> {
        let positions: Vec<u32> = (0u32..).take(self.patches + 1).collect();
        let positions = self.positions.forward(&positions)?;
        let embedded = self.patch_embedding.forward(patches);
        let pictures = embedded.chunks_exact(self.patches * self.config.hidden);
        let mut x = Vec::with_capacity(pictures.len() * positions.len());
        for picture in pictures {
            let start = x.len();
            x.extend_from_slice(&self.class);
            x.extend_from_slice(picture);
            add(&mut x[start..], &positions);
        }
        Ok(x)
    }
}
