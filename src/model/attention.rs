//! Scaled dot-product attention in bounded memory.
//!
//! Several sequences are packed one after another without padding, and each sequence attends only
//! to its own rows. Therefore no mask is needed to exclude padding or other sequences.

use std::ops::Range;
use std::sync::OnceLock;

use half::bf16;

use super::compute::{
    self, DType, FloatElement, Kernel, Output, SCORE_UNIT, Start, TargetColumns, gemm_f32, pool,
};
use super::layers::Linear;
use super::{Cancel, ModelError};

/// Sizes of the blocks in which a thread processes one attention head.
#[derive(Clone, Copy)]
struct BlockSizes {
    /// Number of scores per block with [`Precision::Gemm`]: 512 kB, which fit in the cache.
    scores: usize,
    /// Number of queries per block with the other precisions.
    rows: usize,
    /// Number of keys per block with the other precisions. The scores of a block of queries and
    /// keys take 96 kB, and are turned into weights before the next block of keys.
    keys: usize,
}

const BLOCKS: BlockSizes = BlockSizes {
    scores: 1 << 17,
    rows: 96,
    keys: 256,
};
const MAX_ROWS: usize = 128;
const MIN_ROWS: usize = 8;

/// Which keys a query attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    /// All keys of its sequence.
    Full,
    /// Its own key and the keys before it. A sequence may have more keys than queries; its last
    /// query belongs to its last key.
    Causal,
}

/// How the matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precision {
    /// In f32, by the `gemm` crate.
    Gemm,
    /// In f32, by this kernel.
    F32(Kernel),
    /// With factors rounded to bf16 and sums in f32, by this kernel.
    Bf16(Kernel),
}

impl Precision {
    /// The precision for a model whose matrices have this number format and kernel.
    fn of((dtype, kernel): (DType, Kernel)) -> Self {
        match dtype {
            DType::Bf16 | DType::Int8 if kernel.suits_attention() => Self::Bf16(kernel),
            _ if kernel.packs_f32() => Self::F32(kernel),
            _ => Self::Gemm,
        }
    }
}

/// The queries, keys or values of all heads: some columns of a matrix [rows, width].
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    matrix: &'a [f32],
    width: usize,
    first: usize,
}

impl<'a> Columns<'a> {
    /// The columns of `matrix` from `first` on.
    pub fn of(matrix: &'a [f32], width: usize, first: usize) -> Self {
        Self {
            matrix,
            width,
            first,
        }
    }

    /// The elements of the matrix from row `row` on, starting at column `column` of these columns.
    fn part(self, row: usize, column: usize) -> &'a [f32] {
        &self.matrix[row * self.width + self.first + column..]
    }

    /// `size` columns of some rows, one row after another.
    fn copied(self, rows: Range<usize>, column: usize, size: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows.len() * size);
        for row in rows {
            out.extend_from_slice(&self.part(row, column)[..size]);
        }
        out
    }
}

/// `softmax(q kᵀ / √size) v` for each head (Vaswani et al. 2017). Queries may be grouped: query
/// head h uses key and value head h / (heads / kv heads) (Ainslie et al. 2023).
#[derive(Clone, Copy)]
pub(super) struct Attention {
    heads: usize,
    kv_heads: usize,
    /// Elements per head.
    size: usize,
    mask: Mask,
    precision: Precision,
}

/// The inputs of one call.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    /// [rows, heads · size]
    query: Columns<'a>,
    /// [keys, kv heads · size]
    key: Columns<'a>,
    /// [keys, kv heads · size]
    value: Columns<'a>,
}

/// The range of one sequence's rows and keys.
#[derive(Clone, Copy)]
struct SequenceRows {
    start: usize,
    length: usize,
    first_key: usize,
    keys: usize,
}

impl SequenceRows {
    /// Number of keys that row `row` of the sequence attends to.
    fn seen(self, row: usize, mask: Mask) -> usize {
        match mask {
            Mask::Full => self.keys,
            Mask::Causal => self.keys - self.length + row + 1,
        }
    }
}

/// A unit of work for one thread: some rows of one head.
struct HeadTask {
    sequence: SequenceRows,
    head: usize,
    kv_head: usize,
    /// Index of the keys and values of this head and sequence among the packed ones.
    packed: usize,
    /// First row, counted from the start of the sequence.
    start: usize,
    rows: usize,
}

/// A block of keys of one head and sequence, with their values, packed for the kernel.
struct PackedKeys {
    /// Index of the block's first key in the sequence.
    first: usize,
    count: usize,
    key: Vec<u8>,
    /// The values, transposed and padded with zeros to a multiple of [`SCORE_UNIT`] keys.
    value: Vec<u8>,
}

impl PackedKeys {
    fn padded(&self) -> usize {
        self.count.next_multiple_of(SCORE_UNIT)
    }
}

impl Attention {
    /// Attention in a layer whose output projection is `output`, which determines the precision.
    pub fn new(heads: usize, kv_heads: usize, size: usize, mask: Mask, output: &Linear) -> Self {
        Self {
            heads,
            kv_heads,
            size,
            mask,
            precision: Precision::of(output.format()),
        }
    }

    /// Maps queries [rows, heads · size], keys and values [keys, kv heads · size] to
    /// [rows, heads · size]. `lengths` has the number of rows and of keys of each sequence.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`].
    pub fn forward(
        &self,
        [query, key, value]: [Columns<'_>; 3],
        lengths: &[(usize, usize)],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let inputs = Inputs { query, key, value };
        self.forward_with(BLOCKS, inputs, lengths, cancel)
    }

    /// As [`Self::forward`], with blocks of these sizes.
    fn forward_with(
        &self,
        blocks: BlockSizes,
        inputs: Inputs<'_>,
        lengths: &[(usize, usize)],
        cancel: &Cancel,
    ) -> Result<Vec<f32>, ModelError> {
        let mut sequences: Vec<SequenceRows> = Vec::with_capacity(lengths.len());
        let (mut start, mut first_key) = (0, 0);
        for &(length, keys) in lengths {
            sequences.push(SequenceRows {
                start,
                length,
                first_key,
                keys,
            });
            start += length;
            first_key += keys;
        }
        let mut tasks = Vec::new();
        let mut operations = 0;
        for (i, &sequence) in sequences.iter().enumerate() {
            let (length, keys) = (sequence.length, sequence.keys);
            let step = match self.precision {
                Precision::Gemm => (blocks.scores / keys.max(1))
                    .clamp(MIN_ROWS, MAX_ROWS)
                    .next_multiple_of(MIN_ROWS),
                // Tasks of about equal size.
                Precision::F32(_) | Precision::Bf16(_) => {
                    length.div_ceil(length.div_ceil(blocks.rows).max(1)).max(1)
                }
            };
            operations += self.heads * length * keys * (self.size / 4 + 4);
            for head in 0..self.heads {
                let kv_head = head / (self.heads / self.kv_heads);
                for start in (0..length).step_by(step) {
                    tasks.push(HeadTask {
                        sequence,
                        head,
                        kv_head,
                        packed: i * self.kv_heads + kv_head,
                        start,
                        rows: step.min(length - start),
                    });
                }
            }
        }
        let threads = pool::width_for(operations);
        let packed = match self.precision {
            Precision::Gemm => Vec::new(),
            Precision::F32(kernel) => {
                self.pack::<f32>(inputs, &sequences, kernel, blocks.keys, threads)?
            }
            Precision::Bf16(kernel) => {
                self.pack::<bf16>(inputs, &sequences, kernel, blocks.keys, threads)?
            }
        };
        let width = self.heads * self.size;
        let mut out = vec![0.0; start * width];
        let output = Output::new(&mut out, width);
        pool::for_each(tasks.len(), threads, |i| {
            if cancel.check().is_err() {
                return;
            }
            let task = &tasks[i];
            let (row, column) = (task.sequence.start + task.start, task.head * self.size);
            // SAFETY: no two tasks share a row of the same head, so their targets do not overlap.
            let target = unsafe { output.target(row, task.rows, column, self.size) };
            match self.precision {
                Precision::Gemm => self.attend_at_once(inputs, task, target),
                Precision::F32(kernel) => {
                    self.attend_blocks::<f32>(inputs, task, &packed[task.packed], kernel, target);
                }
                Precision::Bf16(kernel) => {
                    self.attend_blocks::<bf16>(inputs, task, &packed[task.packed], kernel, target);
                }
            }
        });
        cancel.check()?;
        Ok(out)
    }

    /// A task's queries, multiplied by `1 / √size`: [rows, size].
    fn queries(&self, query: Columns<'_>, task: &HeadTask) -> Vec<f32> {
        let scale = (self.size as f32).sqrt().recip();
        let first = task.sequence.start + task.start;
        let mut out = query.copied(first..first + task.rows, task.head * self.size, self.size);
        out.iter_mut().for_each(|x| *x *= scale);
        out
    }

    /// Computes a task with all its keys at once, by the `gemm` crate.
    fn attend_at_once(&self, inputs: Inputs<'_>, task: &HeadTask, mut target: TargetColumns<'_>) {
        let (size, sequence, rows) = (self.size, task.sequence, task.rows);
        let keys = sequence.seen(task.start + rows - 1, self.mask);
        let query = self.queries(inputs.query, task);
        let [key, value] = [inputs.key, inputs.value]
            .map(|own| (own.part(sequence.first_key, task.kv_head * size), own.width));
        let mut scores = vec![0.0; rows * keys];
        // SAFETY: this is the only target in `scores`.
        let all = unsafe { Output::new(&mut scores, keys).target(0, rows, 0, keys) };
        gemm_f32(&query, size, key.0, (1, key.1), size, all);
        let sums = exponentials(&mut scores, keys, |i| {
            sequence.seen(task.start + i, self.mask)
        });
        gemm_f32(
            &scores,
            keys,
            value.0,
            (value.1, 1),
            keys,
            target.reborrow(),
        );
        divide(&mut target, &sums);
    }

    /// Packs the keys and values of every sequence and kv head. The result is ordered by sequence,
    /// then by head.
    fn pack<T: FloatElement>(
        &self,
        inputs: Inputs<'_>,
        sequences: &[SequenceRows],
        kernel: Kernel,
        block: usize,
        threads: usize,
    ) -> Result<Vec<Vec<PackedKeys>>, ModelError> {
        let places: Vec<OnceLock<Vec<PackedKeys>>> = (0..sequences.len() * self.kv_heads)
            .map(|_| OnceLock::new())
            .collect();
        pool::for_each(places.len(), threads, |i| {
            let sequence = sequences[i / self.kv_heads];
            let blocks = (0..sequence.keys).step_by(block).map(|first| {
                let keys = first..sequence.keys.min(first + block);
                self.pack_block::<T>(inputs, sequence, i % self.kv_heads, kernel, keys)
            });
            // Each index is processed once, so the cell is still empty.
            drop(places[i].set(blocks.collect()));
        });
        places
            .into_iter()
            .map(OnceLock::into_inner)
            .collect::<Option<_>>()
            .ok_or_else(|| ModelError::Internal("a head was not packed".into()))
    }

    fn pack_block<T: FloatElement>(
        &self,
        inputs: Inputs<'_>,
        sequence: SequenceRows,
        kv_head: usize,
        kernel: Kernel,
        keys: Range<usize>,
    ) -> PackedKeys {
        let (size, count) = (self.size, keys.len());
        let rows = sequence.first_key + keys.start..sequence.first_key + keys.end;
        let key = inputs.key.copied(rows.clone(), kv_head * size, size);
        let value = inputs.value.copied(rows, kv_head * size, size);
        let mut packed = PackedKeys {
            first: keys.start,
            count,
            key: vec![0; kernel.packed_bytes::<T>(count, size)],
            value: Vec::new(),
        };
        kernel.pack(&T::all_of(&key), count, size, &mut packed.key);
        let padded = packed.padded();
        packed.value = vec![0; kernel.packed_bytes::<T>(size, padded)];
        kernel.pack_transposed(&T::all_of(&value), size, padded, &mut packed.value);
        packed
    }

    /// Computes a task with one block of keys after another. A row's weights are relative to the largest
    /// score so far. If a later block has a larger score, the sums so far are scaled down (Milakov
    /// and Gimelshein 2018, "Online normalizer calculation for softmax").
    fn attend_blocks<T: FloatElement>(
        &self,
        inputs: Inputs<'_>,
        task: &HeadTask,
        packed: &[PackedKeys],
        kernel: Kernel,
        mut target: TargetColumns<'_>,
    ) {
        let (size, rows) = (self.size, task.rows);
        let keys = task.sequence.seen(task.start + rows - 1, self.mask);
        let queries = self.queries(inputs.query, task);
        let query = T::all_of(&queries);
        let widest = packed.iter().map(PackedKeys::padded).max().unwrap_or(0);
        let mut scores = vec![0.0; rows * widest];
        let mut weights = vec![T::zeroed(); rows * widest];
        let mut largest = vec![f32::NEG_INFINITY; rows];
        let mut sums = vec![0.0; rows];
        for block in packed.iter().take_while(|block| block.first < keys) {
            let padded = block.padded();
            let scores = &mut scores[..rows * padded];
            let weights = &mut weights[..rows * padded];
            // SAFETY: this is the only target in `scores`.
            let all = unsafe { Output::new(scores, padded).target(0, rows, 0, block.count) };
            kernel.product(&query, size, &block.key, Start::Bias(None), all);
            let each = scores
                .chunks_exact_mut(padded)
                .zip(weights.chunks_exact_mut(padded));
            for (i, (scores, weights)) in each.enumerate() {
                let seen = task
                    .sequence
                    .seen(task.start + i, self.mask)
                    .saturating_sub(block.first)
                    .min(block.count);
                if seen == 0 {
                    weights.fill(T::zeroed());
                    continue;
                }
                scores[seen..].fill(f32::NEG_INFINITY);
                let most = kernel.largest(&scores[..seen]).max(largest[i]);
                if most > largest[i] {
                    let scale = (largest[i] - most).exp();
                    sums[i] *= scale;
                    target.row(i).iter_mut().for_each(|x| *x *= scale);
                    largest[i] = most;
                }
                sums[i] += T::weights(kernel, scores, most, weights);
            }
            kernel.product(
                weights,
                padded,
                &block.value,
                Start::Target,
                target.reborrow(),
            );
        }
        divide(&mut target, &sums);
    }
}

/// Replaces each score in row `i` by `e^(score - largest)`, and every score after the first
/// `seen(i)` by 0. A row has `keys` scores. Returns each row's sum.
fn exponentials(scores: &mut [f32], keys: usize, seen: impl Fn(usize) -> usize) -> Vec<f32> {
    scores
        .chunks_exact_mut(keys)
        .enumerate()
        .map(|(i, row)| {
            let (row, unseen) = row.split_at_mut(seen(i).min(keys));
            unseen.fill(0.0);
            compute::exp_all(row, compute::largest(row));
            compute::sum(row)
        })
        .collect()
}

fn divide(target: &mut TargetColumns<'_>, sums: &[f32]) {
    for (i, sum) in sums.iter().enumerate() {
        let scale = sum.recip();
        target.row(i).iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests;
