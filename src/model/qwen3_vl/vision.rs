//! The vision tower, a vision transformer that turns picture patches into tokens for the text
//! model. Pictures are packed one after another. Attention is full within a picture and does not
//! cross into other pictures.

use super::config::VisionConfig;
use super::rope::{PatchGrid, Rotary, VisionRope};
use super::{QwenObserver, QwenPoint};
use crate::attention::{Attention, Columns, Mask};
use crate::compute::add;
use crate::layers::{Activation, Embedding, LayerNorm, Linear, Mlp};
use crate::scope::Scope;
use crate::{Cancel, ModelError};

/// The LayerNorm epsilon, which no configuration file contains.
const NORM_EPSILON: f64 = 1e-6;

/// The vision tower's output: one row per token, as wide as the text model's hidden states.
pub(super) struct VisionOutput {
    /// [tokens, hidden]
    pub merged: Vec<f32>,
    /// [tokens, hidden] each, in the order of the blocks from which they are taken.
    pub deepstack: Vec<Vec<f32>>,
}

pub(super) struct VisionTower {
    patch_embed: Linear,
    pos_embed: PositionTable,
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
        let patch_embed = Linear::shaped(
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
                Ok((
                    block,
                    Merger::load(config, NormPosition::AfterMerge, &scope)?,
                ))
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            patch_embed,
            pos_embed: PositionTable::load(config, &scope.under("pos_embed"))?,
            rope: VisionRope::new(config.rope_theta(), config.head_dim()),
            blocks,
            merger: Merger::load(config, NormPosition::BeforeMerge, &scope.under("merger"))?,
            deepstack,
            merge: config.spatial_merge_size,
        })
    }

    /// `patches` is [patches, patch values], with each picture's patches in the order of
    /// [`PatchGrid::walk`].
    pub fn forward(
        &self,
        patches: &[f32],
        grids: &[PatchGrid],
        cancel: &Cancel,
        observe: QwenObserver<'_>,
    ) -> Result<VisionOutput, ModelError> {
        // [patches, hidden]
        let mut x = self.patch_embed.forward(patches);
        observe(QwenPoint::PatchEmbedding, &x);
        let positions = self.pos_embed.interpolate(grids, self.merge)?;
        observe(QwenPoint::PatchPositions, &positions);
        add(&mut x, &positions);
        drop(positions);

        let rotary = self.rope.tables(grids, self.merge);
        let lengths: Vec<_> = grids.iter().map(|grid| grid.patches()).collect();
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        for (i, block) in self.blocks.iter().enumerate() {
            cancel.check()?;
            block.forward(&mut x, &rotary, &lengths, cancel)?;
            observe(QwenPoint::VisionBlock(i), &x);
            if let Some((_, merger)) = self.deepstack.iter().find(|(block, _)| *block == i) {
                let features = merger.forward(&x);
                observe(QwenPoint::Deepstack(deepstack.len()), &features);
                deepstack.push(features);
            }
        }

        let merged = self.merger.forward(&x);
        observe(QwenPoint::Merged, &merged);
        Ok(VisionOutput { merged, deepstack })
    }
}

/// Learned position embeddings on a square grid, which are interpolated to each picture's grid.
struct PositionTable {
    /// [side · side, hidden]
    weight: Embedding,
    side: usize,
    hidden: usize,
}

impl PositionTable {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (rows, hidden) = (config.num_position_embeddings, config.hidden_size);
        Ok(Self {
            weight: scope.embedding("weight", rows, hidden)?,
            side: config.table_side(),
            hidden,
        })
    }

    /// Returns [patches, hidden]: bilinear interpolation between the four nearest entries. The
    /// picture's corner patches map to the table's corner entries.
    fn interpolate(&self, grids: &[PatchGrid], merge: usize) -> Result<Vec<f32>, ModelError> {
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
                    let index = (row.0 * self.side + column.0) as u32;
                    let entry = self.weight.forward(&[index])?;
                    for (sum, entry) in sums[start..].iter_mut().zip(entry) {
                        *sum += entry * weight;
                    }
                }
            }
        }
        Ok(sums)
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
    norm1: LayerNorm,
    attn: VisionAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl VisionBlock {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mlp = scope.under("mlp");
        Ok(Self {
            norm1: LayerNorm::load(&scope.under("norm1"), hidden, NORM_EPSILON)?,
            attn: VisionAttention::load(config, &scope.under("attn"))?,
            norm2: LayerNorm::load(&scope.under("norm2"), hidden, NORM_EPSILON)?,
            mlp: Mlp {
                fc1: Linear::load(&mlp.under("linear_fc1"), hidden, inner, true)?,
                activation: config.hidden_act,
                fc2: Linear::load(&mlp.under("linear_fc2"), inner, hidden, true)?,
            },
        })
    }

    /// Replaces `x`, [patches, hidden].
    fn forward(
        &self,
        x: &mut [f32],
        rotary: &Rotary,
        lengths: &[usize],
        cancel: &Cancel,
    ) -> Result<(), ModelError> {
        let normed = self.norm1.forward(x);
        add(x, &self.attn.forward(&normed, rotary, lengths, cancel)?);
        drop(normed);

        let normed = self.norm2.forward(x);
        add(x, &self.mlp.forward(&normed));
        Ok(())
    }
}

struct VisionAttention {
    qkv: Linear,
    proj: Linear,
    attention: Attention,
    heads: usize,
    head_dim: usize,
}

impl VisionAttention {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let (heads, head_dim) = (config.num_heads, config.head_dim());
        let qkv = Linear::load(&scope.under("qkv"), hidden, 3 * hidden, true)?;
        let proj = Linear::load(&scope.under("proj"), hidden, hidden, true)?;
        Ok(Self {
            qkv,
            attention: Attention::new(heads, heads, head_dim, Mask::Full, &proj),
            proj,
            heads,
            head_dim,
        })
    }

    /// [patches, hidden] to [patches, hidden]
    fn forward(
        &self,
        x: &[f32],
        rotary: &Rotary,
        lengths: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let hidden = self.heads * self.head_dim;
        // [patches, 3 · hidden]: the heads of the queries, then those of the keys and the values.
        let mut qkv = self.qkv.forward(x);
        // Queries and keys are rotated; values are not.
        rotary.rotate(&mut qkv, 3 * hidden, 2 * self.heads);
        let inputs = [0, 1, 2].map(|i| Columns::of(&qkv, 3 * hidden, i * hidden));
        let lengths: Vec<_> = lengths.iter().map(|&n| (n, n)).collect();
        let attended = self.attention.forward(inputs, &lengths, cancel)?;
        Ok(self.proj.forward(&attended))
    }
}

/// Where a merger normalises: each patch before the merge, or the concatenated patches of a token after it
/// (`use_postshuffle_norm` in transformers).
#[derive(Clone, Copy, PartialEq, Eq)]
enum NormPosition {
    BeforeMerge,
    AfterMerge,
}

/// Concatenates the patches of one token and maps them to the text model's hidden size.
struct Merger {
    norm: LayerNorm,
    mlp: Mlp,
}

impl Merger {
    fn load(
        config: &VisionConfig,
        norm_position: NormPosition,
        scope: &Scope<'_>,
    ) -> Result<Self, ModelError> {
        let grouped = config.hidden_size * config.merge_unit();
        let norm_size = match norm_position {
            NormPosition::BeforeMerge => config.hidden_size,
            NormPosition::AfterMerge => grouped,
        };
        let linear = |name: &str, outputs| Linear::load(&scope.under(name), grouped, outputs, true);
        Ok(Self {
            norm: LayerNorm::load(&scope.under("norm"), norm_size, NORM_EPSILON)?,
            mlp: Mlp {
                fc1: linear("linear_fc1", grouped)?,
                // The reference uses the exact GELU here, regardless of `hidden_act`.
                activation: Activation::Gelu,
                fc2: linear("linear_fc2", config.out_hidden_size)?,
            },
        })
    }

    /// [patches, hidden] to [tokens, text hidden]. A token's patches follow one another, so they
    /// are already one row of the MLP's input.
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        self.mlp.forward(&self.norm.forward(x))
    }
}
