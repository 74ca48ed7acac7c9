//! Scaled dot-product attention, in bounded memory.
//!
//! Several sequences are packed one after another, without padding, and each attends to its own
//! rows. So no mask has to keep padding or a neighbour out, and none can fail to.

use std::sync::OnceLock;

use half::bf16;

use super::compute::{self, Held, Kernel, Output, SCORE_UNIT, Start, Target, gemm_f32, pool};
use super::{Cancel, ModelError};

/// How much a thread takes of a head at once.
#[derive(Clone, Copy)]
struct Blocks {
    /// Scores where gemm computes them: 512 kB, which stay in its cache.
    scores: usize,
    /// Queries elsewhere.
    rows: usize,
    /// Keys, whose scores are turned into weights before the next ones: with the queries above 96
    /// kB of them.
    keys: usize,
}

const BLOCKS: Blocks = Blocks {
    scores: 1 << 17,
    rows: 96,
    keys: 256,
};
const MAX_ROWS: usize = 128;
const MIN_ROWS: usize = 8;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    /// All of its sequence.
    Full,
    /// Itself and those before it.
    Causal,
}

/// How the products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// In f32, by gemm.
    Gemm,
    /// In f32.
    F32(Kernel),
    /// Of factors rounded to bf16, with sums in f32.
    Bf16(Kernel),
}

impl Precision {
    /// That of a model whose matrices are held so.
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
    /// Elements of a head.
    pub size: usize,
    /// Rows of each sequence.
    pub lengths: &'a [usize],
    /// Keys of each sequence that come before those of its rows.
    pub before: usize,
}

/// One sequence's part of the rows.
#[derive(Clone, Copy)]
struct Sequence {
    start: usize,
    length: usize,
    first_key: usize,
    keys: usize,
}

/// What one thread does at a time: some rows of one head.
struct Task {
    sequence: usize,
    head: usize,
    /// Within the sequence.
    start: usize,
    rows: usize,
}

/// Some keys of a head of a sequence, and their values, packed for products.
struct PackedKeys {
    /// Number of the first one in the sequence.
    first: usize,
    count: usize,
    key: Vec<u8>,
    /// Transposed, and filled up with zeros to a multiple of [`SCORE_UNIT`] keys.
    value: Vec<u8>,
}

impl PackedKeys {
    fn padded(&self) -> usize {
        self.count.next_multiple_of(SCORE_UNIT)
    }
}

/// `softmax(q kᵀ / √size) v` (Vaswani et al. 2017) with grouped queries: query head h reads key
/// and value head h / (heads / kv heads) (Ainslie et al. 2023). The result is [rows, heads · size].
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
    blocks: Blocks,
    cancel: &Cancel,
) -> Result<Vec<f32>, ModelError> {
    let mut start = 0;
    let sequences: Vec<Sequence> = heads
        .lengths
        .iter()
        .enumerate()
        .map(|(i, &length)| {
            start += length;
            Sequence {
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
                tasks.push(Task {
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
        // SAFETY: no two tasks have rows of one head in common.
        let target = unsafe {
            output.target(
                sequence.start + task.start,
                task.rows,
                task.head * heads.size,
                heads.size,
            )
        };
        let kv_head = task.head / (heads.heads / heads.kv_heads);
        let keys = packed.get(task.sequence * heads.kv_heads + kv_head);
        match (precision, keys) {
            (Precision::F32(kernel), Some(keys)) => {
                in_blocks::<f32>(&heads, task, sequence, keys, kernel, mask, target);
            }
            (Precision::Bf16(kernel), Some(keys)) => {
                in_blocks::<bf16>(&heads, task, sequence, keys, kernel, mask, target);
            }
            (Precision::Gemm, _) => at_once(&heads, task, sequence, kv_head, mask, target),
            // `pack` gives the keys of every head.
            (Precision::F32(_) | Precision::Bf16(_), None) => {
                unreachable!("a head without keys")
            }
        }
    });
    cancel.check()?;
    Ok(out)
}

impl<'a> Heads<'a> {
    /// What keys or values, `all`, there are of a sequence and head.
    fn keys(&self, all: &'a [f32], head: usize, sequence: Sequence) -> &'a [f32] {
        let rows: usize = self.lengths.iter().sum();
        let total = rows + self.lengths.len() * self.before;
        let start = (head * total + sequence.first_key) * self.size;
        &all[start..start + sequence.keys * self.size]
    }

    /// The queries of a task, scaled.
    fn queries(&self, task: &Task, sequence: Sequence) -> Vec<f32> {
        let scale = (self.size as f32).sqrt().recip();
        let total: usize = self.lengths.iter().sum();
        let start = (task.head * total + sequence.start + task.start) * self.size;
        self.query[start..start + task.rows * self.size]
            .iter()
            .map(|x| x * scale)
            .collect()
    }

    /// How many keys row `row` of a sequence sees.
    fn seen(&self, row: usize, sequence: Sequence, mask: Mask) -> usize {
        match mask {
            Mask::Full => sequence.keys,
            Mask::Causal => self.before + row + 1,
        }
    }
}

fn at_once(
    heads: &Heads<'_>,
    task: &Task,
    sequence: Sequence,
    kv_head: usize,
    mask: Mask,
    mut target: Target<'_>,
) {
    let size = heads.size;
    let keys = heads.seen(task.start + task.rows - 1, sequence, mask);
    let query = heads.queries(task, sequence);
    let key = &heads.keys(heads.key, kv_head, sequence)[..keys * size];
    let value = &heads.keys(heads.value, kv_head, sequence)[..keys * size];
    let mut scores = vec![0.0; task.rows * keys];
    // SAFETY: the only target of the scores.
    let all = unsafe { Output::new(&mut scores, keys).target(0, task.rows, 0, keys) };
    gemm_f32(&query, size, key, (1, size), size, all);
    let sums = exponentials(&mut scores, keys, |i| {
        heads.seen(task.start + i, sequence, mask)
    });
    gemm_f32(&scores, keys, value, (size, 1), keys, target.reborrow());
    divide(&mut target, &sums);
}

/// What products of keys, values and weights are computed from.
trait Element: Copy + Send + Sync {
    const ZERO: Self;
    fn all_of(x: &[f32]) -> Vec<Self>;
    fn packed_bytes(kernel: Kernel, outputs: usize, inputs: usize) -> usize;
    fn pack(kernel: Kernel, x: &[Self], outputs: usize, inputs: usize, packed: &mut [u8]);
    fn product(
        kernel: Kernel,
        x: &[Self],
        inputs: usize,
        packed: &[u8],
        start: Start<'_>,
        target: Target<'_>,
    );
    /// `e^(score - shift)` of each, and their sum.
    fn weights(kernel: Kernel, scores: &mut [f32], shift: f32, weights: &mut [Self]) -> f32;
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    fn all_of(x: &[f32]) -> Vec<Self> {
        x.to_vec()
    }

    fn packed_bytes(kernel: Kernel, outputs: usize, inputs: usize) -> usize {
        kernel.f32_packed_bytes(outputs, inputs)
    }

    fn pack(kernel: Kernel, x: &[Self], outputs: usize, inputs: usize, packed: &mut [u8]) {
        kernel.f32_pack(x, outputs, inputs, packed);
    }

    fn product(
        kernel: Kernel,
        x: &[Self],
        inputs: usize,
        packed: &[u8],
        start: Start<'_>,
        target: Target<'_>,
    ) {
        kernel.f32_product(x, inputs, packed, start, target);
    }

    fn weights(_: Kernel, scores: &mut [f32], shift: f32, weights: &mut [Self]) -> f32 {
        compute::exp_all(scores, shift);
        weights.copy_from_slice(scores);
        compute::sum(scores)
    }
}

impl Element for bf16 {
    const ZERO: Self = Self::ZERO;

    /// Rounded by this thread: the others have tasks of their own.
    fn all_of(x: &[f32]) -> Vec<Self> {
        let mut out = vec![Self::ZERO; x.len()];
        compute::round_all(x, &mut out);
        out
    }

    fn packed_bytes(kernel: Kernel, outputs: usize, inputs: usize) -> usize {
        kernel.bf16_packed_bytes(outputs, inputs)
    }

    fn pack(kernel: Kernel, x: &[Self], outputs: usize, inputs: usize, packed: &mut [u8]) {
        kernel.bf16_pack(x, outputs, inputs, packed);
    }

    fn product(
        kernel: Kernel,
        x: &[Self],
        inputs: usize,
        packed: &[u8],
        start: Start<'_>,
        target: Target<'_>,
    ) {
        kernel.bf16_product(x, inputs, packed, start, target);
    }

    fn weights(kernel: Kernel, scores: &mut [f32], shift: f32, weights: &mut [Self]) -> f32 {
        kernel.weights(scores, shift, weights)
    }
}

/// The keys and values of each sequence, in it of each of their heads.
fn pack<E: Element>(
    heads: &Heads<'_>,
    sequences: &[Sequence],
    kernel: Kernel,
    block: usize,
    threads: usize,
) -> Result<Vec<Vec<PackedKeys>>, ModelError> {
    let places: Vec<OnceLock<Vec<PackedKeys>>> = (0..sequences.len() * heads.kv_heads)
        .map(|_| OnceLock::new())
        .collect();
    pool::for_each(places.len(), threads, |i| {
        let sequence = sequences[i / heads.kv_heads];
        let head = pack_head::<E>(heads, sequence, i % heads.kv_heads, kernel, block);
        // Each place is one thread's.
        drop(places[i].set(head));
    });
    places
        .into_iter()
        .map(OnceLock::into_inner)
        .collect::<Option<_>>()
        .ok_or_else(|| ModelError::Internal("a head was not packed".into()))
}

fn pack_head<E: Element>(
    heads: &Heads<'_>,
    sequence: Sequence,
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
                key: vec![0; E::packed_bytes(kernel, count, size)],
                value: Vec::new(),
            };
            E::pack(kernel, &E::all_of(key), count, size, &mut packed.key);
            let padded = packed.padded();
            let mut transposed = vec![E::ZERO; size * padded];
            for (i, row) in E::all_of(value).chunks_exact(size).enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    transposed[j * padded + i] = x;
                }
            }
            packed.value = vec![0; E::packed_bytes(kernel, size, padded)];
            E::pack(kernel, &transposed, size, padded, &mut packed.value);
            packed
        })
        .collect()
}

/// Block by block of keys: a row's weights are relative to the largest score so far, and what has
/// been added up is scaled down when there is a larger one (Milakov and Gimelshein 2018, "Online
/// normalizer calculation for softmax").
fn in_blocks<E: Element>(
    heads: &Heads<'_>,
    task: &Task,
    sequence: Sequence,
    packed: &[PackedKeys],
    kernel: Kernel,
    mask: Mask,
    mut target: Target<'_>,
) {
    let (size, rows) = (heads.size, task.rows);
    let keys = heads.seen(task.start + task.rows - 1, sequence, mask);
    let query = E::all_of(&heads.queries(task, sequence));
    let widest = packed.iter().map(PackedKeys::padded).max().unwrap_or(0);
    let mut scores = vec![0.0; rows * widest];
    let mut weights = vec![E::ZERO; rows * widest];
    let mut largest = vec![f32::NEG_INFINITY; rows];
    let mut sums = vec![0.0; rows];
    for block in packed.iter().take_while(|block| block.first < keys) {
        let padded = block.padded();
        let scores = &mut scores[..rows * padded];
        let weights = &mut weights[..rows * padded];
        // SAFETY: the only target of the scores.
        let all = unsafe { Output::new(scores, padded).target(0, rows, 0, block.count) };
        E::product(kernel, &query, size, &block.key, Start::Bias(None), all);
        let each = scores
            .chunks_exact_mut(padded)
            .zip(weights.chunks_exact_mut(padded));
        for (i, (scores, weights)) in each.enumerate() {
            let seen = heads
                .seen(task.start + i, sequence, mask)
                .saturating_sub(block.first)
                .min(block.count);
            if seen == 0 {
                weights.fill(E::ZERO);
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
            sums[i] += E::weights(kernel, scores, most, weights);
        }
        E::product(
            kernel,
            weights,
            padded,
            &block.value,
            Start::Target,
            target.reborrow(),
        );
    }
    divide(&mut target, &sums);
}

/// `e^(score - largest)` of each row of `keys` scores, 0 behind so many as row `i` sees (`seen(i)`);
/// and each row's sum.
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

fn divide(target: &mut Target<'_>, sums: &[f32]) {
    for (i, sum) in sums.iter().enumerate() {
        let scale = sum.recip();
        target.row(i).iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: usize = 4;
    const KV_HEADS: usize = 2;
    const SIZE: usize = 3;

    fn wave(heads: usize, rows: usize, seed: f32) -> Vec<f32> {
        (0..heads * rows * SIZE)
            .map(|i| (i as f32 * 0.7 + seed).sin() * 1.5)
            .collect()
    }

    /// The definition, in f64, one query at a time.
    fn by_definition(heads: &Heads<'_>, mask: Mask) -> Vec<f32> {
        let total: usize = heads.lengths.iter().sum();
        let all_keys = total + heads.lengths.len() * heads.before;
        let at = |all: &[f32], total: usize, head: usize, row: usize, i: usize| {
            f64::from(all[(head * total + row) * SIZE + i])
        };
        let mut out = Vec::new();
        let (mut start, mut first) = (0, 0);
        for &length in heads.lengths {
            for row in start..start + length {
                for head in 0..HEADS {
                    let kv = head / (HEADS / KV_HEADS);
                    let seen = match mask {
                        Mask::Causal => row - start + 1,
                        Mask::Full => length,
                    };
                    let keys = first..first + heads.before + seen;
                    let weights: Vec<f64> = keys
                        .clone()
                        .map(|key| {
                            let dot: f64 = (0..SIZE)
                                .map(|i| {
                                    at(heads.query, total, head, row, i)
                                        * at(heads.key, all_keys, kv, key, i)
                                })
                                .sum();
                            (dot / (SIZE as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for i in 0..SIZE {
                        let sum: f64 = keys
                            .clone()
                            .zip(&weights)
                            .map(|(key, w)| w * at(heads.value, all_keys, kv, key, i))
                            .sum();
                        out.push((sum / total) as f32);
                    }
                }
            }
            start += length;
            first += heads.before + length;
        }
        out
    }

    #[test]
    fn blocks_of_any_size_give_the_definition() {
        let lengths = [&[1][..], &[2], &[7], &[13, 1, 20], &[40, 3]];
        for (lengths, before) in lengths
            .into_iter()
            .flat_map(|lengths| [0, 1, 35].map(|before| (lengths, before)))
        {
            let rows = lengths.iter().sum();
            let keys = rows + lengths.len() * before;
            let (query, key, value) = (
                wave(HEADS, rows, 0.1),
                wave(KV_HEADS, keys, 0.5),
                wave(KV_HEADS, keys, 0.9),
            );
            let heads = Heads {
                query: &query,
                key: &key,
                value: &value,
                heads: HEADS,
                kv_heads: KV_HEADS,
                size: SIZE,
                lengths,
                before,
            };
            for mask in [Mask::Full, Mask::Causal] {
                let expected = by_definition(&heads, mask);
                for (precision, tolerance) in [
                    (Precision::Gemm, 2e-6),
                    (Precision::F32(Kernel::best()), 2e-6),
                    (Precision::F32(Kernel::NumKong), 2e-6),
                    (Precision::Bf16(Kernel::best()), 2e-2),
                    (Precision::Bf16(Kernel::NumKong), 2e-2),
                ] {
                    let sizes = [(1, 1, 1), (100, 5, 4), (10_000, 64, 33)];
                    for (scores, rows, keys) in sizes {
                        let cancel = Cancel::new();
                        let blocks = Blocks { scores, rows, keys };
                        let got =
                            attend_in_blocks(heads, mask, precision, blocks, &cancel).unwrap();
                        assert_eq!(got.len(), expected.len());
                        for (got, expected) in got.iter().zip(&expected) {
                            assert!(
                                (got - expected).abs() < tolerance,
                                "{mask:?}, {precision:?}, {lengths:?}: {got} for {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_set_flag_stops_it() {
        let cancel = Cancel::new();
        cancel.cancel();
        let (q, kv) = (wave(HEADS, 3, 0.0), wave(KV_HEADS, 3, 0.0));
        let heads = Heads {
            query: &q,
            key: &kv,
            value: &kv,
            heads: HEADS,
            kv_heads: KV_HEADS,
            size: SIZE,
            lengths: &[3],
            before: 0,
        };
        let result = attend(heads, Mask::Full, Precision::Gemm, &cancel);
        assert!(matches!(result, Err(ModelError::Cancelled)));
    }
}
