//! Scaled dot-product attention over one sequence, in f32 and in bounded memory.
//!
//! Several sequences are packed one after another, without padding, and each calls [`attend`] on
//! its own rows. So no mask has to keep padding or a neighbour out, and none can fail to.

use candle_core::{Device, Tensor};

use super::{Cancel, ModelError};

/// Scores (query rows × keys × heads) that are held at once: 32 MiB in f32. A picture of 7,200
/// patches under 16 heads would have 3.3 GB of them.
const SCORE_ELEMENTS: usize = 8 << 20;
/// Rows of a causal chunk. Smaller chunks leave out more of the keys that none of their rows sees.
const CAUSAL_ROWS: usize = 256;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    /// All of its sequence.
    Full,
    /// Itself and those before it.
    Causal,
}

/// `softmax(q kᵀ / √d) v` (Vaswani et al. 2017) with grouped queries: query head h reads key and
/// value head h / (heads / kv heads) (Ainslie et al. 2023).
///
/// `query` is [heads, n, d]; `key` and `value` are [kv heads, n, d]; the result is [n, heads · d].
pub(super) fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Mask,
    cancel: &Cancel,
) -> Result<Tensor, ModelError> {
    attend_in_chunks(query, key, value, mask, SCORE_ELEMENTS, cancel)
}

fn attend_in_chunks(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Mask,
    score_elements: usize,
    cancel: &Cancel,
) -> Result<Tensor, ModelError> {
    let (heads, n, d) = query.dims3()?;
    let kv_heads = key.dim(0)?;
    let group = heads / kv_heads;
    let query = (query * (d as f64).sqrt().recip())?;
    let mut step = (score_elements / (heads * n)).clamp(1, n);
    if mask == Mask::Causal {
        step = step.min(CAUSAL_ROWS);
    }

    let mut chunks = Vec::with_capacity(n.div_ceil(step));
    for start in (0..n).step_by(step) {
        cancel.check()?;
        let rows = step.min(n - start);
        let keys = match mask {
            Mask::Full => n,
            Mask::Causal => start + rows,
        };
        // The query heads that share a key head are stacked into the rows of one product.
        let q = query
            .narrow(1, start, rows)?
            .reshape((kv_heads, group * rows, d))?;
        let mut scores = q.matmul(&key.narrow(1, 0, keys)?.transpose(1, 2)?)?;
        if mask == Mask::Causal {
            scores = scores
                .reshape((heads, rows, keys))?
                .broadcast_add(&causal_mask(start, rows)?)?
                .reshape((kv_heads, group * rows, keys))?;
        }
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        let mixed = weights.matmul(&value.narrow(1, 0, keys)?)?;
        chunks.push(
            mixed
                .reshape((heads, rows, d))?
                .transpose(0, 1)?
                .reshape((rows, heads * d))?,
        );
    }
    Ok(Tensor::cat(&chunks, 0)?)
}

/// [rows, start + rows]: what to add to the scores of the rows from `start` on.
fn causal_mask(start: usize, rows: usize) -> Result<Tensor, ModelError> {
    let keys = start + rows;
    let mask: Vec<f32> = (start..keys)
        .flat_map(|row| (0..keys).map(move |key| if key <= row { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Ok(Tensor::from_vec(mask, (rows, keys), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: usize = 4;
    const KV_HEADS: usize = 2;
    const D: usize = 3;

    fn wave(heads: usize, n: usize, seed: f32) -> Tensor {
        let values: Vec<f32> = (0..heads * n * D)
            .map(|i| (i as f32 * 0.7 + seed).sin() * 1.5)
            .collect();
        Tensor::from_vec(values, (heads, n, D), &Device::Cpu).unwrap()
    }

    /// The definition, in f64, one query at a time.
    fn by_definition(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask) -> Vec<Vec<f32>> {
        let [q, k, v] = [q, k, v].map(|t| t.to_vec3::<f32>().unwrap());
        let n = q[0].len();
        (0..n)
            .map(|row| {
                (0..HEADS)
                    .flat_map(|head| {
                        let kv = head / (HEADS / KV_HEADS);
                        let seen = if mask == Mask::Causal { row + 1 } else { n };
                        let weights: Vec<f64> = (0..seen)
                            .map(|key| {
                                let dot: f64 = (0..D)
                                    .map(|i| q[head][row][i] as f64 * k[kv][key][i] as f64)
                                    .sum();
                                (dot / (D as f64).sqrt()).exp()
                            })
                            .collect();
                        let total: f64 = weights.iter().sum();
                        let v = &v;
                        (0..D)
                            .map(move |i| {
                                let sum: f64 = weights
                                    .iter()
                                    .enumerate()
                                    .map(|(key, w)| w * v[kv][key][i] as f64)
                                    .sum();
                                (sum / total) as f32
                            })
                            .collect::<Vec<_>>()
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn chunks_of_any_size_give_the_definition() {
        for n in [1, 2, 7, 13] {
            let (q, k, v) = (
                wave(HEADS, n, 0.1),
                wave(KV_HEADS, n, 0.5),
                wave(KV_HEADS, n, 0.9),
            );
            for mask in [Mask::Full, Mask::Causal] {
                let expected = by_definition(&q, &k, &v, mask);
                for rows in [1, 2, 5, 100] {
                    let elements = rows * HEADS * n;
                    let got = attend_in_chunks(&q, &k, &v, mask, elements, &Cancel::new())
                        .unwrap()
                        .to_vec2::<f32>()
                        .unwrap();
                    for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
                        assert!(
                            (got - expected).abs() < 1e-5,
                            "{mask:?}, n {n}, {rows} rows: {got} for {expected}"
                        );
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
        let result = attend(&q, &kv, &kv, Mask::Full, &cancel);
        assert!(matches!(result, Err(ModelError::Cancelled)));
    }
}
