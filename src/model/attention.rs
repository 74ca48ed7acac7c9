//! Scaled dot-product attention in bounded memory.
//!
//! Several sequences are packed one after another without padding, and each sequence attends only
//! to its own rows. Therefore no mask is needed to exclude padding or other sequences.

use std::sync::OnceLock;

use half::bf16;

use super::compute::{
    self, Factor, Held, Kernel, Output, SCORE_UNIT, Start, TargetColumns, gemm_f32, pool,
};
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
    /// Its own key and the keys before it.
    Causal,
}

/// How the matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// In f32, by the `gemm` crate.
    Gemm,
    /// In f32, by our kernel.
    F32(Kernel),
    /// With factors rounded to bf16 and sums in f32, by our kernel.
    Bf16(Kernel),
}

impl Precision {
    /// The precision for a model whose matrices have the format `held`.
    pub fn of(held: Held, kernel: Kernel) -> Self {
        match held {
            Held::Bf16 | Held::Int8 if kernel.suits_attention() => Self::Bf16(kernel),
            _ if kernel.packs_f32() => Self::F32(kernel),
            _ => Self::Gemm,
        }
    }
}

/// Queries, keys and values of packed sequences.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    /// [heads, rows, size]
    pub query: &'a [f32],
    /// [kv heads, keys, size]
    pub key: &'a [f32],
    /// [kv heads, keys, size]
    pub value: &'a [f32],
    pub heads: usize,
    pub kv_heads: usize,
    /// Elements per head.
    pub size: usize,
    /// Number of rows of each sequence.
    pub lengths: &'a [usize],
    /// Number of keys of each sequence that precede the keys of its own rows (a cached prefix).
    pub before: usize,
}

/// The range of one sequence's rows and keys.
#[derive(Clone, Copy)]
struct SequenceRows {
    start: usize,
    length: usize,
    first_key: usize,
    keys: usize,
}

/// A unit of work for one thread: some rows of one head.
struct HeadTask {
    sequence: usize,
    head: usize,
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

/// Computes `softmax(q kᵀ / √size) v` (Vaswani et al. 2017) with grouped queries: query head h uses
/// key and value head h / (heads / kv heads) (Ainslie et al. 2023). The result has the shape [rows,
/// heads · size].
///
/// # Errors
/// [`ModelError::Cancelled`].
pub(super) fn attend(
    heads: Heads<'_>,
    mask: Mask,
    precision: Precision,
    cancel: &Cancel,
) -> Result<Vec<f32>, ModelError> {
    attend_in_blocks(heads, mask, precision, BLOCKS, cancel)
}

fn attend_in_blocks(
    heads: Heads<'_>,
    mask: Mask,
    precision: Precision,
    blocks: BlockSizes,
    cancel: &Cancel,
) -> Result<Vec<f32>, ModelError> {
    let mut start = 0;
    let sequences: Vec<SequenceRows> = heads
        .lengths
        .iter()
        .enumerate()
        .map(|(i, &length)| {
            start += length;
            SequenceRows {
                start: start - length,
                length,
                first_key: start - length + i * heads.before,
                keys: heads.before + length,
            }
        })
        .collect();
    let total = start;
    let width = heads.heads * heads.size;
    let cost = |rows: usize, keys: usize| rows * keys * (heads.size / 4 + 4);

    let mut tasks = Vec::new();
    let mut operations = 0;
    for (i, sequence) in sequences.iter().enumerate() {
        let step = match precision {
            Precision::Gemm => (blocks.scores / sequence.keys.max(1))
                .clamp(MIN_ROWS, MAX_ROWS)
                .next_multiple_of(MIN_ROWS),
            Precision::F32(_) | Precision::Bf16(_) => blocks.rows,
        };
        operations += heads.heads * cost(sequence.length, sequence.keys);
        for head in 0..heads.heads {
            for start in (0..sequence.length).step_by(step) {
                tasks.push(HeadTask {
                    sequence: i,
                    head,
                    start,
                    rows: step.min(sequence.length - start),
                });
            }
        }
    }
    let threads = pool::width_for(operations);

    let packed = match precision {
        Precision::Gemm => Vec::new(),
        Precision::F32(kernel) => pack::<f32>(&heads, &sequences, kernel, blocks.keys, threads)?,
        Precision::Bf16(kernel) => pack::<bf16>(&heads, &sequences, kernel, blocks.keys, threads)?,
    };
    let mut out = vec![0.0; total * width];
    let output = Output::new(&mut out, width);
    pool::for_each(tasks.len(), threads, |i| {
        if cancel.check().is_err() {
            return;
        }
        let task = &tasks[i];
        let sequence = sequences[task.sequence];
        // SAFETY: no two tasks share a row of the same head, so their targets do not overlap.
        let target = unsafe {
            output.target(
                sequence.start + task.start,
                task.rows,
                task.head * heads.size,
                heads.size,
            )
        };
        let kv_head = task.head / (heads.heads / heads.kv_heads);
        let keys = task.sequence * heads.kv_heads + kv_head;
        match precision {
            Precision::Gemm => at_once(&heads, task, sequence, kv_head, mask, target),
            Precision::F32(kernel) => {
                in_blocks::<f32>(&heads, task, sequence, &packed[keys], kernel, mask, target);
            }
            Precision::Bf16(kernel) => {
                in_blocks::<bf16>(&heads, task, sequence, &packed[keys], kernel, mask, target);
            }
        }
    });
    cancel.check()?;
    Ok(out)
}

impl<'a> Heads<'a> {
    /// The part of `all`, which holds keys or values, that belongs to one head and sequence.
    fn keys(&self, all: &'a [f32], head: usize, sequence: SequenceRows) -> &'a [f32] {
        let rows: usize = self.lengths.iter().sum();
        let total = rows + self.lengths.len() * self.before;
        let start = (head * total + sequence.first_key) * self.size;
        &all[start..start + sequence.keys * self.size]
    }

    /// A task's queries, multiplied by `1 / √size`.
    fn queries(&self, task: &HeadTask, sequence: SequenceRows) -> Vec<f32> {
        let scale = (self.size as f32).sqrt().recip();
        let total: usize = self.lengths.iter().sum();
        let start = (task.head * total + sequence.start + task.start) * self.size;
        self.query[start..start + task.rows * self.size]
            .iter()
            .map(|x| x * scale)
            .collect()
    }

    /// Number of keys that row `row` of a sequence attends to.
    fn seen(&self, row: usize, sequence: SequenceRows, mask: Mask) -> usize {
        match mask {
            Mask::Full => sequence.keys,
            Mask::Causal => self.before + row + 1,
        }
    }
}

fn at_once(
    heads: &Heads<'_>,
    task: &HeadTask,
    sequence: SequenceRows,
    kv_head: usize,
    mask: Mask,
    mut target: TargetColumns<'_>,
) {
    let size = heads.size;
    let keys = heads.seen(task.start + task.rows - 1, sequence, mask);
    let query = heads.queries(task, sequence);
    let key = &heads.keys(heads.key, kv_head, sequence)[..keys * size];
    let value = &heads.keys(heads.value, kv_head, sequence)[..keys * size];
    let mut scores = vec![0.0; task.rows * keys];
    // SAFETY: this is the only target in `scores`.
    let all = unsafe { Output::new(&mut scores, keys).target(0, task.rows, 0, keys) };
    gemm_f32(&query, size, key, (1, size), size, all);
    let sums = exponentials(&mut scores, keys, |i| {
        heads.seen(task.start + i, sequence, mask)
    });
    gemm_f32(&scores, keys, value, (size, 1), keys, target.reborrow());
    divide(&mut target, &sums);
}

/// Packs the keys and values of every sequence and kv head. The result is ordered by sequence, then
/// by head.
fn pack<T: Factor>(
    heads: &Heads<'_>,
    sequences: &[SequenceRows],
    kernel: Kernel,
    block: usize,
    threads: usize,
) -> Result<Vec<Vec<PackedKeys>>, ModelError> {
    let places: Vec<OnceLock<Vec<PackedKeys>>> = (0..sequences.len() * heads.kv_heads)
        .map(|_| OnceLock::new())
        .collect();
    pool::for_each(places.len(), threads, |i| {
        let sequence = sequences[i / heads.kv_heads];
        let head = pack_head::<T>(heads, sequence, i % heads.kv_heads, kernel, block);
        // Each index is processed once, so the cell is still empty.
        drop(places[i].set(head));
    });
    places
        .into_iter()
        .map(OnceLock::into_inner)
        .collect::<Option<_>>()
        .ok_or_else(|| ModelError::Internal("a head was not packed".into()))
}

fn pack_head<T: Factor>(
    heads: &Heads<'_>,
    sequence: SequenceRows,
    head: usize,
    kernel: Kernel,
    block: usize,
) -> Vec<PackedKeys> {
    let size = heads.size;
    let keys = heads.keys(heads.key, head, sequence);
    let values = heads.keys(heads.value, head, sequence);
    let blocks = keys.chunks(block * size).zip(values.chunks(block * size));
    blocks
        .enumerate()
        .map(|(i, (key, value))| {
            let count = key.len() / size;
            let mut packed = PackedKeys {
                first: i * block,
                count,
                key: vec![0; kernel.packed_bytes::<T>(count, size)],
                value: Vec::new(),
            };
            kernel.pack(&T::all_of(key), count, size, &mut packed.key);
            let padded = packed.padded();
            let mut transposed = vec![T::zeroed(); size * padded];
            for (i, row) in T::all_of(value).chunks_exact(size).enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    transposed[j * padded + i] = x;
                }
            }
            packed.value = vec![0; kernel.packed_bytes::<T>(size, padded)];
            kernel.pack(&transposed, size, padded, &mut packed.value);
            packed
        })
        .collect()
}

/// Attention over one block of keys after another. A row's weights are relative to the largest
/// score so far. If a later block has a larger score, the sums so far are scaled down (Milakov and
/// Gimelshein 2018, "Online normalizer calculation for softmax").
fn in_blocks<T: Factor>(
    heads: &Heads<'_>,
    task: &HeadTask,
    sequence: SequenceRows,
    packed: &[PackedKeys],
    kernel: Kernel,
    mask: Mask,
    mut target: TargetColumns<'_>,
) {
    let (size, rows) = (heads.size, task.rows);
    let keys = heads.seen(task.start + task.rows - 1, sequence, mask);
    let queries = heads.queries(task, sequence);
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
            let seen = heads
                .seen(task.start + i, sequence, mask)
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
