//! The vision tower: a vision transformer without a class token, and the head that pools its
//! patches.

use super::config::{Resolution, VisionConfig};
use super::positions::PositionTable;
use crate::attention::{Attention, Columns, Mask};
use crate::compute::add;
use crate::dual::{Grid, TowerObserver, TowerPoint, Transformer, TransformerConfig, load_mlp};
use crate::layers::{LayerNorm, Linear, Mlp};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

pub(super) struct VisionTower {
    pub config: TransformerConfig,
    patch_embedding: Linear,
    pub positions: PositionTable,
    encoder: Transformer,
    norm: LayerNorm,
    head: AttentionPooling,
}

impl VisionTower {
    pub fn load(
        config: &VisionConfig,
        resolution: Resolution,
        scope: &Scope<'_>,
    ) -> Result<Self, ModelError> {
        let sizes = config.transformer();
        let hidden = sizes.hidden;
        let embeddings = scope.under("embeddings");
        Ok(Self {
            // A convolution without overlap is a linear map of each patch, too.
            patch_embedding: Linear::shaped(
                &embeddings.under("patch_embedding"),
                &config.patch_shape(resolution),
                true,
            )?,
            positions: PositionTable::load(
                &embeddings.under("position_embedding"),
                config.table_side(resolution),
                hidden,
            )?,
            encoder: Transformer::load(&sizes, Mask::Full, &scope.under("encoder"))?,
            norm: LayerNorm::load(&scope.under("post_layernorm"), hidden, sizes.epsilon)?,
            head: AttentionPooling::load(&sizes, &scope.under("head"))?,
            config: sizes,
        })
    }

    /// Returns the pooled patches of each picture, [pictures, hidden]. `patches` are those of all
    /// pictures in order, and `grids` has the size of each picture.
    pub fn forward(
        &self,
        patches: &[f32],
        grids: &[Grid],
        cancel: &Cancel,
        observe: TowerObserver<'_>,
    ) -> Result<Vec<f32>, ModelError> {
        let mut x = self.patch_embedding.forward(patches);
        self.positions.add_to(&mut x, grids, cancel)?;
        observe(TowerPoint::Embedded, &x);
        let lengths = grids.iter().map(|grid| grid.patches());
        let x = self.encoder.forward(x, lengths, cancel, observe)?;
        let x = self.norm.forward(&x);
        observe(TowerPoint::Norm, &x);
        self.head.forward(&x, grids, cancel)
    }
}

/// Pools a picture's patches by attention with one learned query, the probe, and a feed-forward
/// layer (Lee et al. 2019, "Set Transformer", PMA).
struct AttentionPooling {
    /// [hidden]
    probe: Vec<f32>,
    /// The projections to queries, keys and values, one under the other.
    qkv: Linear,
    attention: Attention,
    output: Linear,
    norm: LayerNorm,
    mlp: Mlp,
    hidden: usize,
}

impl AttentionPooling {
    fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, heads) = (config.hidden, config.heads);
        let attention = scope.under("attention");
        let shape = [3 * hidden, hidden];
        let output = Linear::load(&attention.under("out_proj"), hidden, hidden, true)?;
        Ok(Self {
            probe: scope.shaped_vector("probe", &[1, 1, hidden])?,
            qkv: Linear::named(&attention, "in_proj_weight", Some("in_proj_bias"), &shape)?,
            attention: Attention::new(heads, heads, hidden / heads, Mask::Full, &output),
            output,
            norm: LayerNorm::load(&scope.under("layernorm"), hidden, config.epsilon)?,
            mlp: load_mlp(config, &scope.under("mlp"))?,
            hidden,
        })
    }

    /// [patches of all pictures, hidden] to [pictures, hidden]
    fn forward(&self, x: &[f32], grids: &[Grid], cancel: &Cancel) -> Result<Vec<f32>, ModelError> {
        let (hidden, width) = (self.hidden, 3 * self.hidden);
        // The query is the same for every picture.
        let query = self.qkv.forward(&self.probe)[..hidden].repeat(grids.len());
        let qkv = self.qkv.forward(x);
        let inputs = [
            Columns::of(&query, hidden, 0),
            Columns::of(&qkv, width, hidden),
            Columns::of(&qkv, width, 2 * hidden),
        ];
        let lengths: Vec<_> = grids.iter().map(|grid| (1, grid.patches())).collect();
        let pooled = self.attention.forward(inputs, &lengths, cancel)?;
        let mut x = self.output.forward(&pooled);
        let normed = self.norm.forward(&x);
        add(&mut x, &self.mlp.forward(&normed));
        Ok(x)
    }
}
