use super::*;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const SIZE: usize = 3;

fn wave(heads: usize, rows: usize, seed: f32) -> Vec<f32> {
    (0..heads * rows * SIZE)
        .map(|i| (i as f32 * 0.7 + seed).sin() * 1.5)
        .collect()
}

/// Attention by its definition, in f64, one query at a time.
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

fn heads<'a>(
    [query, key, value]: [&'a [f32]; 3],
    lengths: &'a [usize],
    before: usize,
) -> Heads<'a> {
    Heads {
        query,
        key,
        value,
        heads: HEADS,
        kv_heads: KV_HEADS,
        size: SIZE,
        lengths,
        before,
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
        let heads = heads([&query, &key, &value], lengths, before);
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
                    let blocks = BlockSizes { scores, rows, keys };
                    let got = attend_in_blocks(heads, mask, precision, blocks, &cancel).unwrap();
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
    let heads = heads([&q, &kv, &kv], &[3], 0);
    let result = attend(heads, Mask::Full, Precision::Gemm, &cancel);
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
    .flat_map(|precision| [0, 39].map(|bad| (precision, bad)))
    {
        let (query, value) = (wave(HEADS, 40, 0.1), wave(KV_HEADS, 40, 0.9));
        let mut key = wave(KV_HEADS, 40, 0.5);
        key[bad * SIZE] = f32::NAN;
        let heads = heads([&query, &key, &value], &[40], 0);
        let blocks = BlockSizes {
            scores: 100,
            rows: 5,
            keys: 33,
        };
        let out = attend_in_blocks(heads, Mask::Full, precision, blocks, &Cancel::new()).unwrap();
        // The first two query heads share the first key and value head.
        for row in out.chunks_exact(HEADS * SIZE) {
            assert!(row[..2 * SIZE].iter().all(|x| x.is_nan()), "{precision:?}");
            assert!(row[2 * SIZE..].iter().all(|x| x.is_finite()));
        }
    }
}
