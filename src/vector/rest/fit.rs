//! The distribution of `r`, the cosine of the unknown parts of two vectors, by `c`, the cosine of their known
//! parts (see `rest.rs`), as pairs of rows show it.

use super::floats;

/// The ranks, as fractions of the rows, that separate the bins of a [`Fit`].
const CUTS: [f64; 8] = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002];
const BINS: usize = CUTS.len() + 1;

/// The cumulative probabilities of the quantiles of a [`Bin`]; closer at both ends, because a
/// filter that few rows match depends on the end.
const LEVELS: [f32; 19] = [
    0.0, 0.0005, 0.002, 0.01, 0.03, 0.07, 0.15, 0.25, 0.4, 0.5, 0.6, 0.75, 0.85, 0.93, 0.97, 0.99,
    0.998, 0.9995, 1.0,
];

/// A bin with fewer pairs than this is a copy of the bin before it.
const FEWEST_PAIRS: usize = 40;

/// The maximum number of residuals from which the quantiles of a bin are taken.
const RESIDUALS: usize = 20_000;

/// Vectors whose known parts have a cosine of 1 are taken for equal. So, as that cosine rises from 1 minus
/// this number to 1, `1 - r` is scaled down to 0. Pairs with such cosines are not used for a fit.
const NEARLY_EQUAL: f32 = 0.01;

/// Bytes of a serialised [`Fit`].
pub const FIT_BYTES: usize = 4 * BINS * (3 + LEVELS.len());

/// The distribution of `r` in one bin of ranks: `mean + slope (c - cosine)` plus a residual.
#[derive(Clone, Copy, Default)]
struct Bin {
    cosine: f32,
    mean: f32,
    slope: f32,
    residuals: [f32; LEVELS.len()],
}

impl Bin {
    fn of_pairs(pairs: &[(f32, f32)]) -> Bin {
        let count = pairs.len() as f64;
        let mean = |value: fn(&(f32, f32)) -> f32| {
            pairs.iter().map(|pair| f64::from(value(pair))).sum::<f64>() / count
        };
        let (cosine, rest) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let (mut square, mut product) = (0.0, 0.0);
        for &(c, r) in pairs {
            let c = f64::from(c) - cosine;
            square += c * c;
            product += c * (f64::from(r) - rest);
        }
        // A spread of the cosines that is below the precision of the codes gives no slope.
        let slope = if square > 1e-8 * count {
            product / square
        } else {
            0.0
        };
        let mut bin = Bin {
            cosine: cosine as f32,
            mean: rest as f32,
            slope: slope as f32,
            ..Bin::default()
        };
        let every = pairs.len().div_ceil(RESIDUALS);
        let chosen = pairs.iter().step_by(every);
        let mut residuals: Vec<f32> = chosen.map(|&(c, r)| r - bin.centre(c)).collect();
        residuals.sort_unstable_by(f32::total_cmp);
        let last = residuals.len() - 1;
        bin.residuals =
            LEVELS.map(|level| residuals[(f64::from(level) * last as f64).round() as usize]);
        bin
    }

    fn centre(&self, cosine: f32) -> f32 {
        self.mean + self.slope * (cosine - self.cosine)
    }
}

/// The distribution of the cosine of the unknown parts, by the rank of the cosine of the known parts.
pub struct Fit([Bin; BINS]);

impl Fit {
    /// `pairs` has the pairs of each query: the cosines of known and unknown parts.
    pub fn of_queries(pairs: &[Vec<(f32, f32)>]) -> Fit {
        let mut binned: [Vec<(f32, f32)>; BINS] = Default::default();
        for pairs in pairs {
            let ranks = Ranks::of(pairs.iter().map(|pair| pair.0));
            for &pair in pairs.iter().filter(|pair| pair.0 < 1.0 - NEARLY_EQUAL) {
                binned[ranks.bin(pair.0)].push(pair);
            }
        }
        let known = binned.iter().find(|pairs| pairs.len() >= FEWEST_PAIRS);
        let mut before = known.map_or(Bin::default(), |pairs| Bin::of_pairs(pairs));
        Fit(binned.map(|pairs| {
            if pairs.len() >= FEWEST_PAIRS {
                before = Bin::of_pairs(&pairs);
            }
            before
        }))
    }

    pub fn write(&self, bytes: &mut Vec<u8>) {
        for bin in &self.0 {
            let head = [bin.cosine, bin.mean, bin.slope];
            for value in head.iter().chain(&bin.residuals) {
                bytes.extend_from_slice(&value.to_ne_bytes());
            }
        }
    }

    /// `bytes` are [`FIT_BYTES`].
    pub fn read(bytes: &[u8]) -> Fit {
        let mut values = floats(bytes);
        let mut next = || values.next().unwrap_or(0.0);
        Fit(std::array::from_fn(|_| Bin {
            cosine: next(),
            mean: next(),
            slope: next(),
            residuals: std::array::from_fn(|_| next()),
        }))
    }

    /// The probability that the cosine of the unknown parts is at least `wanted`.
    pub fn probability(&self, bin: usize, cosine: f32, wanted: f32) -> f32 {
        let wanted = 1.0 - (1.0 - wanted) / scale(cosine);
        if wanted <= -1.0 {
            return 1.0;
        }
        if wanted > 1.0 {
            return 0.0;
        }
        let bin = &self.0[bin];
        let residual = wanted - bin.centre(cosine);
        let above = bin.residuals.partition_point(|&value| value < residual);
        if above == 0 {
            return 1.0;
        }
        if above == LEVELS.len() {
            return 0.0;
        }
        let (low, high) = (bin.residuals[above - 1], bin.residuals[above]);
        let part = (residual - low) / (high - low);
        1.0 - (LEVELS[above - 1] + part * (LEVELS[above] - LEVELS[above - 1]))
    }

    /// The cosine of the unknown parts that is exceeded with the probability `1 - level`.
    pub fn quantile(&self, bin: usize, cosine: f32, level: f32) -> f32 {
        let bin = &self.0[bin];
        let above = LEVELS.partition_point(|&value| value < level);
        let above = above.clamp(1, LEVELS.len() - 1);
        let (low, high) = (LEVELS[above - 1], LEVELS[above]);
        let part = ((level - low) / (high - low)).clamp(0.0, 1.0);
        let residual =
            bin.residuals[above - 1] + part * (bin.residuals[above] - bin.residuals[above - 1]);
        let rest = (bin.centre(cosine) + residual).clamp(-1.0, 1.0);
        1.0 - (1.0 - rest) * scale(cosine)
    }
}

/// The factor of `1 - r` for known parts with this cosine: 1, but less if they are nearly equal.
pub fn scale(cosine: f32) -> f32 {
    ((1.0 - cosine) / NEARLY_EQUAL).clamp(0.0, 1.0)
}

/// The cosines at which the bins of one query begin.
pub struct Ranks([f32; CUTS.len()]);

impl Ranks {
    pub fn of(cosines: impl Iterator<Item = f32>) -> Ranks {
        let mut cosines: Vec<f32> = cosines.collect();
        let count = cosines.len();
        let mut top = cosines.as_mut_slice();
        Ranks(CUTS.map(|cut| {
            let kept = (cut * count as f64).round() as usize;
            if kept == 0 {
                return f32::INFINITY;
            }
            top.select_nth_unstable_by(kept - 1, |a, b| b.total_cmp(a));
            let lowest = top[kept - 1];
            top = &mut std::mem::take(&mut top)[..kept];
            lowest
        }))
    }

    pub fn bin(&self, cosine: f32) -> usize {
        self.0.partition_point(|&lowest| lowest <= cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_has_its_share_of_the_rows() {
        let ranks = Ranks::of((0..1000).map(|i| (i * 7 % 1000) as f32 / 1000.0));
        let mut counts = [0; BINS];
        for i in 0..1000 {
            counts[ranks.bin(i as f32 / 1000.0)] += 1;
        }
        assert_eq!(counts, [500, 300, 100, 50, 30, 10, 5, 3, 2]);
        assert_eq!(Ranks::of([0.5].into_iter()).bin(0.5), 1);
    }

    #[test]
    fn a_fit_finds_line_and_spread() {
        let pair = |i: usize| {
            let c = (i * 37 % 1000) as f32 / 1200.0;
            (
                c,
                0.1 + 0.5 * c + 0.2 * ((i * 61 % 997) as f32 / 997.0 - 0.5),
            )
        };
        let pairs: Vec<Vec<_>> = (0..40)
            .map(|q| (0..1000).map(|i| pair(i + 31 * q)).collect())
            .collect();
        let fit = Fit::of_queries(&pairs);
        let mut bytes = Vec::new();
        fit.write(&mut bytes);
        assert_eq!(bytes.len(), FIT_BYTES);
        let fit = Fit::read(&bytes);
        for (bin, cosine) in [(0, 0.2), (1, 0.5), (2, 0.7)] {
            let centre = 0.1 + 0.5 * cosine;
            assert_eq!(fit.probability(bin, cosine, centre - 0.12), 1.0);
            assert_eq!(fit.probability(bin, cosine, centre + 0.12), 0.0);
            for level in [0.1, 0.5, 0.8] {
                let quantile = fit.quantile(bin, cosine, level);
                assert!((quantile - (centre + 0.2 * (level - 0.5))).abs() < 0.02);
                assert!((fit.probability(bin, cosine, quantile) - (1.0 - level)).abs() < 1e-3);
            }
        }
        // Equal vectors, whatever the fit says.
        assert_eq!(fit.quantile(0, 1.0, 0.01), 1.0);
        assert_eq!(fit.probability(0, 1.0, 0.999), 1.0);
    }
}
