//! An estimate of the similarity of whole vectors, of which a sample holds only the first
//! [`SAMPLE_DIMS`] values.
//!
//! Let a vector of length one consist of a *known* part of length `a` and an unknown part of length
//! `u = √(1 - a²)`. The similarity to a query with the lengths `b` and `v` is `a b c + u v r`, where
//! `c` is the cosine of the known parts and `r` that of the unknown parts. `c` is computed. `r` is
//! estimated from pairs of rows that ANALYZE has read whole: a [`Fit`] describes how `r` is
//! distributed for a row that has a certain rank by `c` among all rows, since similar prefixes make
//! similar rests more likely. Ranks, unlike values of `c`, mean the same for a query with many
//! similar rows and for one with few.
//!
//! The known part is larger than the prefix: of the rest, a sample also holds the projection onto
//! [`SKETCH_DIMS`] directions in which the rests of the column's rows differ most, their principal
//! components. Without it, a query whose rest lies close to the mean of all rests would get
//! estimates as wrong as one whose rest lies far from it, in the other direction.
//!
//! The directions are found from other rows than those that fit `r`. Rows from which directions were
//! found lie closer to them than a query that the column has never seen.
//!
//! A filter on more than [`SAMPLE_DIMS`] values but not on all has no sketch. It uses the fit of the
//! next of [`lengths`], and the mean profile of the rows for the share of the norm before its
//! length.
//!
//! The factor by which an estimate is wrong, as the median and the 90th percentile of 60 queries
//! that are not in the table, for filters on whole vectors that match so many of 20,000 rows. First
//! by the prefixes alone, then as described here:
//!
//! | vectors | 5% | 1% | 0.5% | 0.1% |
//! | --- | --- | --- | --- | --- |
//! | 200 clusters, 2048 dimensions | 4.1, 4.6 | 10.8, 13.0 | 6.5, 13.6 | 1.8, 3.1 |
//! | | 1.1, 1.2 | 1.1, 1.3 | 1.5, 1.8 | 1.4, 2.8 |
//! | the same, 1024 dimensions | 3.1, 3.5 | 6.4, 7.5 | 1.6, 6.4 | 1.5, 2.6 |
//! | | 1.1, 1.2 | 1.2, 1.4 | 1.2, 1.5 | 1.4, 3.0 |
//! | the same, 512 dimensions | 1.9, 2.1 | 2.7, 3.4 | 1.4, 2.5 | 1.4, 2.1 |
//! | | 1.1, 1.1 | 1.1, 1.3 | 1.1, 1.4 | 1.4, 2.1 |
//! | texts, 1024 dimensions | 2.5, 6.5 | 3.5, 7.9 | 4.3, 10.5 | 8.0, 19.0 |
//! | | 1.1, 1.8 | 1.2, 1.6 | 1.3, 1.7 | 1.4, 2.3 |
//! | the same, 512 dimensions | 1.7, 3.1 | 1.9, 3.8 | 2.2, 4.6 | 2.7, 6.5 |
//! | | 1.1, 1.3 | 1.2, 1.4 | 1.2, 1.6 | 1.4, 2.4 |
//! | texts, 640 dimensions | 1.4, 2.2 | 1.5, 2.9 | 1.7, 3.7 | 1.9, 4.4 |
//! | | 1.0, 1.2 | 1.2, 1.5 | 1.3, 1.7 | 1.5, 2.5 |
//!
//! The texts are descriptions of Debian packages, as their principal components by latent semantic
//! analysis, and at 640 dimensions as the vectors of WordLlama, which are the prefix, and of MiniLM.
//! Estimates stay worse if there are more clusters than directions and thresholds lie inside of
//! clusters, because all rows of a cluster then share one error: with 200 clusters of sizes in
//! proportion to 1, 1/2, 1/3 and so on, the factors are 1.5 and 2.5 at 0.5%, and 3.6 and 6.2 at 0.1%.
//! If moreover the prefix has only an eighth of the squared norm, they are 2.5 and 4.2 at 0.5%.

use half::f16;

use super::SAMPLE_DIMS;
use super::kernel::{dot_and_squared_norm, squared_norm};

/// Maximum number of directions. Fewer if the vectors have so many dimensions that the directions
/// would exceed [`DIRECTION_VALUES`].
const SKETCH_DIMS: usize = 32;
const DIRECTION_VALUES: usize = 128 << 10;

/// Rows that [`Calibration`] is made from. Fewer if they have so many dimensions that they would
/// exceed [`PILOT_VALUES`].
const PILOT_ROWS: usize = 612;
const PILOT_VALUES: usize = 4 << 20;

/// With fewer pilot rows there is no calibration.
const FEWEST_PILOT_ROWS: usize = 64;

/// Every sixth of the pilot rows is compared with the sample, and the others give the directions.
const QUERY_EVERY: usize = 6;

/// Iterations of the power method. The estimates do not change from two to five.
const ITERATIONS: usize = 3;

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

/// The number of residuals from which the quantiles of a bin are taken.
const RESIDUALS: usize = 20_000;

/// Vectors whose known parts have a cosine of 1 are taken for equal, so `1 - r` declines to 0 within
/// this distance from 1. Such pairs are not used for a fit.
const NEARLY_EQUAL: f32 = 0.01;

/// If the unknown parts contribute less than this to a similarity, they are neglected.
pub(crate) const NEGLIGIBLE: f64 = 1e-3;

/// Bytes of a serialised [`Fit`].
pub(crate) const FIT_BYTES: usize = 4 * BINS * (3 + LEVELS.len());

/// The prefix lengths for which a sample of vectors of `of` dimensions has a fit: powers of two and
/// `of` itself.
pub(crate) fn lengths(of: usize) -> impl Iterator<Item = usize> {
    let powers = std::iter::successors(Some(2 * SAMPLE_DIMS), |length| Some(2 * length));
    powers.take_while(move |&length| length < of).chain([of])
}

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
pub(crate) struct Fit([Bin; BINS]);

impl Fit {
    /// `pairs` has the pairs of each query: the cosines of known and unknown parts.
    fn of_queries(pairs: &[Vec<(f32, f32)>]) -> Fit {
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

    fn write(&self, bytes: &mut Vec<u8>) {
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

/// The factor of `1 - r` for known parts that are nearly equal.
pub(crate) fn scale(cosine: f32) -> f32 {
    ((1.0 - cosine) / NEARLY_EQUAL).clamp(0.0, 1.0)
}

/// The cosines at which the bins of one query begin.
pub(crate) struct Ranks([f32; CUTS.len()]);

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

/// The mean, over rows, of the share of the squared norm of the values behind the prefix that lies
/// before a length: 0 for [`SAMPLE_DIMS`], 1 for all. Linear between the lengths of [`lengths`].
pub(crate) fn profile_at(profile: &[u8], of: usize, length: usize) -> f64 {
    let (mut from, mut low) = (SAMPLE_DIMS, 0.0);
    for (to, high) in lengths(of).zip(floats(profile)) {
        let high = f64::from(high);
        if length <= to {
            return low + (high - low) * length.saturating_sub(from) as f64 / (to - from) as f64;
        }
        (from, low) = (to, high);
    }
    1.0
}

/// Directions of the values behind the prefix, each of length one and orthogonal to the others, but
/// for the rounding to codes.
pub(crate) struct Directions<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [u8],
}

impl Directions<'_> {
    /// The coordinates of `rest` in these directions.
    pub fn project(&self, rest: &[f32]) -> Vec<f32> {
        self.codes
            .chunks_exact(rest.len().max(1))
            .zip(floats(self.scales))
            .map(|(codes, scale)| scale * dot(codes, rest))
            .collect()
    }
}

fn dot(codes: &[u8], values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0f32; LANES];
    for (codes, values) in codes.chunks(LANES).zip(values.chunks(LANES)) {
        for ((lane, &code), &value) in lanes.iter_mut().zip(codes).zip(values) {
            *lane += f32::from(code as i8) * value;
        }
    }
    lanes.iter().sum()
}

pub(crate) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let chunks = bytes.as_chunks::<4>().0;
    chunks.iter().map(|&bytes| f32::from_ne_bytes(bytes))
}

/// Selects rows of a column, from which a [`Calibration`] is made.
pub struct Pilot {
    of: usize,
    rows: Vec<(usize, Vec<f16>)>,
}

impl Pilot {
    /// The positions of the rows that a pilot looks at, if there are `count`.
    pub fn positions(count: usize) -> impl Iterator<Item = usize> {
        let taken = count.min(PILOT_ROWS);
        (0..taken).map(move |i| (2 * i + 1) * count / (2 * taken))
    }

    /// A pilot for the most frequent number of dimensions. `None` if it is so small that a sample
    /// holds whole vectors.
    pub fn new(mut dims: Vec<usize>) -> Option<Pilot> {
        dims.sort_unstable();
        let most_frequent = dims.chunk_by(|a, b| a == b).max_by_key(|equal| equal.len());
        let of = *most_frequent?.first()?;
        let rows = Vec::new();
        (of > SAMPLE_DIMS).then_some(Pilot { of, rows })
    }

    /// Whether the pilot takes another row with this number of dimensions.
    pub fn takes(&self, dims: usize) -> bool {
        dims == self.of && self.rows.len() < PILOT_VALUES / self.of
    }

    /// Adds the row with the number `row`, which [`Pilot::takes`]; `values` are all its values.
    pub fn push(&mut self, row: usize, values: &[f16]) {
        self.rows.push((row, values.to_vec()));
    }

    /// `None` if there are too few rows.
    pub fn finish(self) -> Option<Calibration> {
        if self.rows.len() < FEWEST_PILOT_ROWS {
            return None;
        }
        let is_query = |i: usize| i % QUERY_EVERY == QUERY_EVERY - 1;
        let rests: Vec<&[f16]> = self
            .rows
            .iter()
            .enumerate()
            .filter(|&(i, _)| !is_query(i))
            .map(|(_, (_, values))| &values[SAMPLE_DIMS..])
            .collect();
        let most = SKETCH_DIMS.min(DIRECTION_VALUES / (self.of - SAMPLE_DIMS));
        let directions = principal_directions(&rests, most.min(rests.len() / 8));
        let mut calibration = Calibration {
            of: self.of,
            codes: Vec::new(),
            scales: Vec::new(),
            queries: Vec::new(),
            profile: vec![0.0; lengths(self.of).count()],
            profiled: 0,
        };
        for direction in &directions {
            let scale = direction.iter().fold(0f32, |max, v| max.max(v.abs())) / 127.0;
            let codes = direction.iter().map(|v| (v / scale).round() as i8 as u8);
            calibration.codes.extend(codes);
            calibration.scales.extend_from_slice(&scale.to_ne_bytes());
        }
        for (i, (row, values)) in self.rows.iter().enumerate() {
            if is_query(i) {
                let query = CalibrationQuery {
                    row: *row,
                    values: values.iter().map(|v| v.to_f32()).collect(),
                    parts: calibration.parts(values),
                    pairs: vec![Vec::new(); lengths(self.of).count() + 1],
                };
                calibration.queries.push(query);
            }
        }
        Some(calibration)
    }
}

/// The first `count` principal components of the rows, or fewer if the rows span fewer dimensions,
/// by the power method on all of them at once (subspace iteration). The rows are not centred: their
/// mean is one of the things that a sketch has to represent.
fn principal_directions(rows: &[&[f16]], count: usize) -> Vec<Vec<f32>> {
    let dims = rows.first().map_or(0, |row| row.len());
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut directions: Vec<Vec<f32>> = (0..count)
        .map(|_| (0..dims).map(|_| random()).collect())
        .collect();
    orthonormalise(&mut directions);
    for _ in 0..ITERATIONS {
        let mut sums = vec![vec![0f32; dims]; directions.len()];
        for row in rows {
            let squared_norm = squared_norm(row);
            if squared_norm == 0.0 {
                continue;
            }
            let wide: Vec<f32> = row.iter().map(|v| v.to_f32()).collect();
            for (direction, sum) in directions.iter().zip(&mut sums) {
                let weight = dot_and_squared_norm(row, direction).0 / squared_norm;
                for (sum, value) in sum.iter_mut().zip(&wide) {
                    *sum += weight * value;
                }
            }
        }
        directions = sums;
        orthonormalise(&mut directions);
    }
    directions
}

/// Gram-Schmidt. Drops vectors that depend on those before them.
fn orthonormalise(vectors: &mut Vec<Vec<f32>>) {
    let product =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
    let mut done: Vec<Vec<f32>> = Vec::with_capacity(vectors.len());
    for mut vector in vectors.drain(..) {
        let before = product(&vector, &vector).sqrt();
        // The second pass removes what the rounding of the first one has left.
        for _ in 0..2 {
            for other in &done {
                let along = product(&vector, other) as f32;
                for (value, other) in vector.iter_mut().zip(other) {
                    *value -= along * other;
                }
            }
        }
        let norm = product(&vector, &vector).sqrt();
        if norm > 1e-4 * before && norm.is_finite() {
            let factor = (1.0 / norm) as f32;
            vector.iter_mut().for_each(|value| *value *= factor);
            done.push(vector);
        }
    }
    *vectors = done;
}

/// The norms of the parts of a vector, divided by the norm of the vector: `prefix² + sketch² +
/// unknown² = 1`.
#[derive(Clone, Copy)]
pub(crate) struct Norms {
    pub prefix: f64,
    pub sketch: f64,
    pub unknown: f64,
}

impl Norms {
    /// A vector without values behind its prefix, and the zero vector.
    pub const PREFIX: Norms = Norms {
        prefix: 1.0,
        sketch: 0.0,
        unknown: 0.0,
    };

    /// The norms must be at least 0. What exceeds 1 is the result of rounding.
    pub fn new(prefix: f64, sketch: f64) -> Norms {
        let prefix = prefix.min(1.0);
        let behind = 1.0 - prefix * prefix;
        let sketch = sketch.min(behind.sqrt());
        Norms {
            prefix,
            sketch,
            unknown: (behind - sketch * sketch).max(0.0).sqrt(),
        }
    }

    fn known(self) -> f64 {
        (1.0 - self.unknown * self.unknown).max(0.0).sqrt()
    }

    /// The cosine of the known parts of two vectors, if `product` is their product.
    pub fn cosine(self, other: Norms, product: f64) -> f32 {
        ratio(product, self.known() * other.known(), 0.0) as f32
    }
}

/// How a vector is divided.
pub(crate) struct Parts {
    pub norms: Norms,
    /// The coordinates of the values behind the prefix in the [`Directions`].
    pub sketch: Vec<f32>,
    /// The squared norms of the prefix, and of the values up to each of [`lengths`].
    prefix: f64,
    squares: Vec<f64>,
}

impl Parts {
    /// For a vector to which the directions do not apply.
    pub fn none(sketch_dims: usize) -> Parts {
        Parts {
            norms: Norms::PREFIX,
            sketch: vec![0.0; sketch_dims],
            prefix: 0.0,
            squares: Vec::new(),
        }
    }

    fn whole(&self) -> f64 {
        self.squares.last().copied().unwrap_or(0.0)
    }
}

struct CalibrationQuery {
    row: usize,
    values: Vec<f32>,
    parts: Parts,
    /// For each of [`lengths`], and at last for all dimensions with the sketch: the cosines of known
    /// and unknown parts.
    pairs: Vec<Vec<(f32, f32)>>,
}

impl CalibrationQuery {
    /// Adds the cosines of the parts of this query and of a row with `values`, where the unknown
    /// parts matter.
    fn compare(&mut self, of: usize, x: &Parts, values: &[f16]) {
        let q = &self.parts;
        let dot = |from: usize, to: usize| {
            f64::from(dot_and_squared_norm(&values[from..to], &self.values[from..to]).0)
        };
        let prefix = dot(0, SAMPLE_DIMS);
        let cosine = ratio(prefix, (x.prefix * q.prefix).sqrt(), 0.0) as f32;
        let (mut from, mut product) = (SAMPLE_DIMS, prefix);
        for (i, to) in lengths(of).enumerate() {
            product += dot(from, to);
            from = to;
            let behind = (x.squares[i] - x.prefix) * (q.squares[i] - q.prefix);
            let unknown = behind.max(0.0).sqrt();
            if unknown > NEGLIGIBLE * (x.squares[i] * q.squares[i]).sqrt() {
                let rest = ratio(product - prefix, unknown, 0.0) as f32;
                self.pairs[i].push((cosine, rest));
            }
        }
        let size = (x.whole() * q.whole()).sqrt();
        let unknown = x.norms.unknown * q.norms.unknown;
        if size > 0.0 && unknown > NEGLIGIBLE {
            let sketched: f32 = x.sketch.iter().zip(&q.sketch).map(|(x, q)| x * q).sum();
            let known = (prefix + f64::from(sketched)) / size;
            let rest = ratio(product / size - known, unknown, 0.0) as f32;
            let pair = (x.norms.cosine(q.norms, known), rest);
            self.pairs[lengths(of).count()].push(pair);
        }
    }
}

/// Directions, and what is learnt about unknown parts while rows are added to a sample.
pub struct Calibration {
    pub(crate) of: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
    queries: Vec<CalibrationQuery>,
    profile: Vec<f64>,
    profiled: usize,
}

impl Calibration {
    pub(crate) fn sketch_dims(&self) -> usize {
        self.scales.len() / 4
    }

    fn parts(&self, values: &[f16]) -> Parts {
        let prefix = f64::from(squared_norm(&values[..SAMPLE_DIMS]));
        let (mut from, mut sum) = (SAMPLE_DIMS, prefix);
        let squares: Vec<f64> = lengths(self.of)
            .map(|to| {
                sum += f64::from(squared_norm(&values[from..to]));
                from = to;
                sum
            })
            .collect();
        let rest: Vec<f32> = values[SAMPLE_DIMS..].iter().map(|v| v.to_f32()).collect();
        let directions = Directions {
            codes: &self.codes,
            scales: &self.scales,
        };
        let sketch = directions.project(&rest);
        let share = |square: f64| ratio(square, sum, 0.0).sqrt();
        Parts {
            norms: if sum > 0.0 {
                let square = sketch.iter().map(|&v| f64::from(v).powi(2)).sum();
                Norms::new(share(prefix), share(square))
            } else {
                Norms::PREFIX
            },
            sketch,
            prefix,
            squares,
        }
    }

    /// Learns from the row of the sample with the number `row`, and returns its parts.
    pub(crate) fn add(&mut self, row: usize, values: &[f16]) -> Parts {
        let parts = self.parts(values);
        let behind = parts.whole() - parts.prefix;
        if behind > 0.0 {
            for (sum, square) in self.profile.iter_mut().zip(&parts.squares) {
                *sum += (square - parts.prefix) / behind;
            }
            self.profiled += 1;
        }
        let of = self.of;
        for query in self.queries.iter_mut().filter(|query| query.row != row) {
            query.compare(of, &parts, values);
        }
        parts
    }

    /// Writes directions, profile and fits.
    pub(crate) fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.scales);
        bytes.extend_from_slice(&self.codes);
        for sum in &self.profile {
            let mean = (sum / self.profiled.max(1) as f64) as f32;
            bytes.extend_from_slice(&mean.to_ne_bytes());
        }
        let mut queries: Vec<_> = self.queries.into_iter().map(|query| query.pairs).collect();
        for fit in 0..=self.profile.len() {
            let pairs: Vec<_> = queries
                .iter_mut()
                .map(|pairs| std::mem::take(&mut pairs[fit]))
                .collect();
            Fit::of_queries(&pairs).write(bytes);
        }
    }
}

/// `a / b`, in [-1, 1], or `otherwise` if `b` is zero.
pub(crate) fn ratio(a: f64, b: f64, otherwise: f64) -> f64 {
    if b > 0.0 {
        (a / b).clamp(-1.0, 1.0)
    } else {
        otherwise
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_f32s;

    #[test]
    fn lengths_are_powers_of_two_and_all() {
        let lengths = |of| lengths(of).collect::<Vec<_>>();
        assert_eq!(lengths(257), [257]);
        assert_eq!(lengths(512), [512]);
        assert_eq!(lengths(2048), [512, 1024, 2048]);
        assert_eq!(lengths(1500), [512, 1024, 1500]);
    }

    #[test]
    fn the_profile_is_linear_between_lengths() {
        let profile: Vec<u8> = [0.4f32, 0.6, 1.0]
            .into_iter()
            .flat_map(f32::to_ne_bytes)
            .collect();
        for (length, wanted) in [(256, 0.0), (384, 0.2), (512, 0.4), (1280, 0.8), (1536, 1.0)] {
            let got = profile_at(&profile, 1536, length);
            assert!((got - wanted).abs() < 1e-6, "{length} {got}");
        }
    }

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

    #[test]
    fn directions_span_what_the_rows_span() {
        let along = |row: usize, i: usize| ((row * 13 % 7) as f32 - 3.0) * (i as f32).sin();
        let across = |row: usize, i: usize| ((row * 5 % 11) as f32 - 5.0) * (i as f32 * 0.37).cos();
        let rows: Vec<Vec<f16>> = (0..50)
            .map(|row| {
                let values: Vec<f32> = (0..300).map(|i| along(row, i) + across(row, i)).collect();
                from_f32s(&values).unwrap()
            })
            .collect();
        let rows: Vec<&[f16]> = rows.iter().map(Vec::as_slice).collect();
        let directions = principal_directions(&rows, 2);
        assert_eq!(directions.len(), 2);
        for row in &rows {
            let square = f64::from(squared_norm(row));
            let sketched: f64 = directions
                .iter()
                .map(|direction| f64::from(dot_and_squared_norm(row, direction).0).powi(2))
                .sum();
            assert!(
                (sketched - square).abs() <= 1e-4 * square,
                "{sketched} {square}"
            );
        }
        assert!(principal_directions(&[&[f16::ZERO; 9]], 4).is_empty());
    }
}
