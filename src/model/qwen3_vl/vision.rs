//! The vision tower, a vision transformer that turns picture patches into tokens for the text
//! model. Pictures are packed one after another. Attention is full within a picture and does not
//! cross into other pictures.

use candle_core::{Device, Tensor};

use super::config::VisionConfig;
use super::rope::{PatchGrid, Rotary, VisionRope};
use super::{QwenObserver, QwenPoint};
use crate::attention::{Heads, Mask, Precision, attend};
use crate::compute::{Table, rotate_heads};
use crate::layers::{Activation, LayerNorm, Linear, add_to, feed_forward, try_apply};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

/// The LayerNorm epsilon, which no configuration file contains.
const NORM_EPSILON: f64 = 1e-6;

/// The vision tower's output: one row per token, as wide as the text model's hidden states.
pub(super) struct Features {
    /// [tokens, hidden]
    pub merged: Tensor,
    /// [tokens, hidden] each, in the order of the blocks from which they are taken.
    pub deepstack: Vec<Tensor>,
}

pub(super) struct VisionTower {
    patch_embedding: Linear,
    positions: PositionTable,
    rope: VisionRope,
    blocks: Vec<VisionBlock>,
    merger: Merger,
    /// The DeepStack mergers, each with the index of the block whose output it takes.
    deepstack: Vec<(usize, Merger)>,
    merge: usize,
}

impl VisionTower {
    pub fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        // The patch embedding is a convolution without overlap, so it is a linear map of each
        // patch.
        let (time, side) = (config.temporal_patch_size, config.patch_size);
        let patch_embedding = Linear::shaped(
            &scope.under("patch_embed").under("proj"),
            &[hidden, config.in_channels, time, side, side],
            true,
        )?;
        let blocks = (0..config.depth)
            .map(|i| VisionBlock::load(config, &scope.under("blocks").under(i)))
            .collect::<Result<_, _>>()?;
        let deepstack = config
            .deepstack_visual_indexes
            .iter()
            .enumerate()
            .map(|(k, &block)| {
                let scope = scope.under("deepstack_merger_list").under(k);
                Ok((block, Merger::load(config, MergeNorm::Grouped, &scope)?))
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            patch_embedding,
            positions: PositionTable::load(config, &scope.under("pos_embed"))?,
            rope: VisionRope::new(config.rope_theta(), config.head_dim()),
            blocks,
            merger: Merger::load(config, MergeNorm::Single, &scope.under("merger"))?,
            deepstack,
            merge: config.spatial_merge_size,
        })
    }

    /// `patches` is [patches of all grids, patch values], with each picture's patches in the order
    /// of [`PatchGrid::walk`].
    pub fn forward(
        &self,
        patches: &Tensor,
        grids: &[PatchGrid],
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<Features, ModelError> {
        let x = self.patch_embedding.forward(patches)?;
        observe(QwenPoint::PatchEmbedding, &x);
        let positions = self.positions.interpolate(grids, self.merge)?;
        observe(QwenPoint::PatchPositions, &positions);
        let mut x = add_to(positions, &x)?;
        let rotary = self.rope.tables(grids, self.merge);
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        for (i, block) in self.blocks.iter().enumerate() {
            cancel.check()?;
            x = block.forward(&x, &rotary, grids, cancel)?;
            observe(QwenPoint::VisionBlock(i), &x);
            if let Some((_, merger)) = self.deepstack.iter().find(|(block, _)| *block == i) {
                let features = merger.forward(&x)?;
                observe(QwenPoint::Deepstack(deepstack.len()), &features);
                deepstack.push(features);
            }
        }
        let merged = self.merger.forward(&x)?;
        observe(QwenPoint::Merged, &merged);
        Ok(Features { merged, deepstack })
    }
}

/// Learned position embeddings on a square grid, which are interpolated to each picture's grid.
struct PositionTable {
    /// [side · side, hidden]
    table: Table,
    side: usize,
    hidden: usize,
}

impl PositionTable {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (rows, hidden) = (config.num_position_embeddings, config.hidden_size);
        Ok(Self {
            table: scope.table("weight", rows, hidden)?,
            side: config.table_side(),
            hidden,
        })
    }

    /// Returns [patches, hidden]: bilinear interpolation between the four nearest entries. The
    /// picture's corner patches map to the table's corner entries.
    fn interpolate(&self, grids: &[PatchGrid], merge: usize) -> Result<Tensor, ModelError> {
        let mut sums = Vec::new();
        for grid in grids {
            for (row, column) in grid.walk(merge) {
                let rows = self.neighbours(row, grid.rows);
                let columns = self.neighbours(column, grid.columns);
                let start = sums.len();
                sums.resize(start + self.hidden, 0.0);
                let corners = rows
                    .iter()
                    .flat_map(|row| columns.iter().map(move |column| (row, column)));
                for (row, column) in corners {
                    let weight = row.1 * column.1;
                    let entry = self
                        .table
                        .rows(std::iter::once(row.0 * self.side + column.0))
                        .ok_or_else(|| {
                            ModelError::Internal("a patch has no position embedding".into())
                        })?;
                    for (sum, entry) in sums[start..].iter_mut().zip(entry) {
                        *sum += entry * weight;
                    }
                }
            }
        }
        let patches = sums.len() / self.hidden;
        Ok(Tensor::from_vec(
            sums,
            (patches, self.hidden),
            &Device::Cpu,
        )?)
    }

    /// The two table entries nearest to index `index` of `size`, with their weights.
    fn neighbours(&self, index: usize, size: usize) -> [(usize, f32); 2] {
        let last = self.side - 1;
        let place = (index * last) as f32 / size.saturating_sub(1).max(1) as f32;
        let below = place.floor();
        let fraction = place - below;
        let below = (below as usize).min(last);
        [(below, 1.0 - fraction), ((below + 1).min(last), fraction)]
    }
}

struct VisionBlock {
    attention_norm: LayerNorm,
    attention: VisionAttention,
    mlp_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl VisionBlock {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mlp = scope.under("mlp");
        Ok(Self {
            attention_norm: LayerNorm::load(&scope.under("norm1"), hidden, NORM_EPSILON)?,
            attention: VisionAttention::load(config, &scope.under("attn"))?,
            mlp_norm: LayerNorm::load(&scope.under("norm2"), hidden, NORM_EPSILON)?,
            fc1: Linear::load(&mlp.under("linear_fc1"), hidden, inner, true)?,
            fc2: Linear::load(&mlp.under("linear_fc2"), inner, hidden, true)?,
            activation: config.hidden_act,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        grids: &[PatchGrid],
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let normed = self.attention_norm.forward(x)?;
        let x = add_to(self.attention.forward(&normed, rotary, grids, cancel)?, x)?;
        let normed = self.mlp_norm.forward(&x)?;
        let fed = feed_forward(&normed, &self.fc1, self.activation, &self.fc2)?;
        add_to(fed, &x)
    }
}

struct VisionAttention {
    qkv: Linear,
    projection: Linear,
    heads: usize,
    head_dim: usize,
}

impl VisionAttention {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        Ok(Self {
            qkv: Linear::load(&scope.under("qkv"), hidden, 3 * hidden, true)?,
            projection: Linear::load(&scope.under("proj"), hidden, hidden, true)?,
            heads: config.num_heads,
            head_dim: config.head_dim(),
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        grids: &[PatchGrid],
        cancel: &Cancel,
    ) -> Result<Tensor, ModelError> {
        let lengths: Vec<usize> = grids.iter().map(|grid| grid.patches()).collect();
        let matrix = self.projection.matrix();
        let precision = Precision::of(matrix.held(), matrix.kernel());
        let hidden = self.heads * self.head_dim;
        try_apply("attention", x, x.shape(), |x| {
            let qkv = self.qkv.product(x);
            let part = |i: usize, tables| {
                let start = i * hidden;
                rotate_heads(
                    &qkv,
                    3 * hidden,
                    start,
                    self.heads,
                    self.head_dim,
                    None,
                    tables,
                )
            };
            let tables = Some(rotary.tables());
            let heads = Heads {
                query: &part(0, tables),
                key: &part(1, tables),
                value: &part(2, None),
                heads: self.heads,
                kv_heads: self.heads,
                size: self.head_dim,
                lengths: &lengths,
                before: 0,
            };
            let mixed = attend(heads, Mask::Full, precision, cancel)?;
            Ok(self.projection.product(&mixed))
        })
    }
}

/// The LayerNorm's input in a merger: each patch separately, or the concatenated patches of a
/// token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MergeNorm {
    Single,
    Grouped,
}

/// Concatenates the patches of one token and maps them to the text model's hidden size.
struct Merger {
    norm: LayerNorm,
    norm_sees: MergeNorm,
    fc1: Linear,
    fc2: Linear,
    unit: usize,
}

impl Merger {
    fn load(
        config: &VisionConfig,
        norm_sees: MergeNorm,
        scope: &Scope<'_>,
    ) -> Result<Self, ModelError> {
        let unit = config.merge_unit();
        let grouped = config.hidden_size * unit;
        let norm_size = match norm_sees {
            MergeNorm::Single => config.hidden_size,
            MergeNorm::Grouped => grouped,
        };
        Ok(Self {
            norm: LayerNorm::load(&scope.under("norm"), norm_size, NORM_EPSILON)?,
            norm_sees,
            fc1: Linear::load(&scope.under("linear_fc1"), grouped, grouped, true)?,
            fc2: Linear::load(
                &scope.under("linear_fc2"),
                grouped,
                config.out_hidden_size,
                true,
            )?,
            unit,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (patches, hidden) = x.dims2()?;
        let grouped = (patches / self.unit, hidden * self.unit);
        let x = match self.norm_sees {
            MergeNorm::Single => self.norm.forward(x)?.reshape(grouped)?,
            MergeNorm::Grouped => self.norm.forward(&x.reshape(grouped)?)?,
        };
        // The reference uses the exact GELU here, regardless of `hidden_act`.
        feed_forward(&x, &self.fc1, Activation::Gelu, &self.fc2)
    }
}
