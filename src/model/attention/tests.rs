use super::*;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const SIZE: usize = 3;

/// Rows of the heads' values, each after one element that belongs to no head.
fn wave(heads: usize, rows: usize, seed: f32) -> Vec<f32> {
    (0..rows * (1 + heads * SIZE))
        .map(|i| (i as f32 * 0.7 + seed).sin() * 1.5)
        .collect()
}

fn inputs<'a>([query, key, value]: [&'a [f32]; 3]) -> Inputs<'a> {
    Inputs {
        query: Columns::of(query, 1 + HEADS * SIZE, 1),
        key: Columns::of(key, 1 + KV_HEADS * SIZE, 1),
        value: Columns::of(value, 1 + KV_HEADS * SIZE, 1),
    }
}

/// Attention by its definition, in f64, one query at a time.
fn by_definition(inputs: Inputs<'_>, lengths: &[(usize, usize)], mask: Mask) -> Vec<f32> {
    let at = |all: Columns<'_>, row: usize, column: usize| f64::from(all.part(row, column)[0]);
    let mut out = Vec::new();
    let (mut start, mut first) = (0, 0);
    for &(length, keys) in lengths {
        for row in 0..length {
            for head in 0..HEADS {
                let kv = head / (HEADS / KV_HEADS);
                let seen = match mask {
                    Mask::Causal => keys - length + row + 1,
                    Mask::Full => keys,
                };
                let score = |key: usize| -> f64 {
                    (0..SIZE)
                        .map(|i| {
                            at(inputs.query, start + row, head * SIZE + i)
                                * at(inputs.key, first + key, kv * SIZE + i)
                        })
                        .sum()
                };
                let weights: Vec<f64> = (0..seen)
                    .map(|key| (score(key) / (SIZE as f64).sqrt()).exp())
                    .collect();
                let total: f64 = weights.iter().sum();
                for i in 0..SIZE {
                    let values = weights.iter().zip(first..);
                    let sum: f64 = values
                        .map(|(w, key)| w * at(inputs.value, key, kv * SIZE + i))
                        .sum();
                    out.push((sum / total) as f32);
                }
            }
        }
        start += length;
        first += keys;
    }
    out
}

fn attention(mask: Mask, precision: Precision) -> Attention {
    Attention {
        heads: HEADS,
        kv_heads: KV_HEADS,
        size: SIZE,
        mask,
        precision,
    }
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
        let inputs = inputs([&query, &key, &value]);
        let lengths: Vec<_> = lengths.iter().map(|&n| (n, before + n)).collect();
        for mask in [Mask::Full, Mask::Causal] {
            let expected = by_definition(inputs, &lengths, mask);
            for (precision, tolerance) in [
                (Precision::Gemm, 2e-6),
                (Precision::F32(Kernel::best()), 2e-6),
                (Precision::F32(Kernel::NumKong), 2e-6),
                (Precision::Bf16(Kernel::best()), 2e-2),
                (Precision::Bf16(Kernel::NumKong), 2e-2),
            ]
            .into_iter()
            .filter(|(precision, _)| is_available(*precision))
            {
                let sizes = [(1, 1, 1), (100, 5, 4), (10_000, 64, 33)];
                for (scores, rows, keys) in sizes {
                    let blocks = BlockSizes { scores, rows, keys };
                    let got = attention(mask, precision)
                        .forward_with(blocks, inputs, &lengths, &Cancel::new())
                        .unwrap();
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

/// Whether this processor can compute with this precision.
fn is_available(precision: Precision) -> bool {
    match precision {
        Precision::Gemm => true,
        Precision::F32(kernel) | Precision::Bf16(kernel) => kernel.is_available(),
    }
}

#[test]
fn a_set_flag_stops_it() {
    let cancel = Cancel::new();
    cancel.cancel();
    let (q, kv) = (wave(HEADS, 3, 0.0), wave(KV_HEADS, 3, 0.0));
    let Inputs { query, key, value } = inputs([&q, &kv, &kv]);
    let attention = attention(Mask::Full, Precision::Gemm);
    let result = attention.forward([query, key, value], &[(3, 3)], &cancel);
    assert!(matches!(result, Err(ModelError::Cancelled)));
}

#[test]
fn what_is_not_a_number_does_not_vanish() {
    for (precision, bad) in [
        Precision::Gemm,
        Precision::F32(Kernel::best()),
        Precision::Bf16(Kernel::best()),
        Precision::Bf16(Kernel::NumKong),
    ]
    .into_iter()
    .filter(|precision| is_available(*precision))
    .flat_map(|precision| [0, 39].map(|bad| (precision, bad)))
    {
        let (query, value) = (wave(HEADS, 40, 0.1), wave(KV_HEADS, 40, 0.9));
        let mut key = wave(KV_HEADS, 40, 0.5);
        key[1 + bad * (1 + KV_HEADS * SIZE)] = f32::NAN;
        let blocks = BlockSizes {
            scores: 100,
            rows: 5,
            keys: 33,
        };
        let inputs = inputs([&query, &key, &value]);
        let out = attention(Mask::Full, precision)
            .forward_with(blocks, inputs, &[(40, 40)], &Cancel::new())
            .unwrap();
        // The first two query heads share the first key and value head.
        for row in out.chunks_exact(HEADS * SIZE) {
            assert!(row[..2 * SIZE].iter().all(|x| x.is_nan()), "{precision:?}");
            assert!(row[2 * SIZE..].iter().all(|x| x.is_finite()));
        }
    }
}
