//! A sample of a column's vectors for the server's statistics, and the estimate of a filter's
//! selectivity from it. This module does not depend on PostgreSQL.
//!
//! Each sampled vector is represented by its first [`SAMPLE_DIMS`] values, stored as integers in
//! -127..=127. A cosine does not depend on a vector's scale, so the scale is not stored. The
//! rounding changes a similarity by about 0.001, which is far less than the sampling error.
//!
//! For filters that compare more values, a sample of longer vectors has further sections, which
//! `rest.rs` explains. They apply to vectors of one number of dimensions, `of`, the most frequent
//! one. For all other rows, such a filter is judged by the prefix.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | [`FORMAT`], u16 |
//! | 2..4 | codes kept of each row (`width`), u16 |
//! | 4..8 | rows, u32 |
//! | 8..10 | `of`, u16; 0 if the sections marked with * are absent |
//! | 10..12 | directions of the sketch (`k`), u16 |
//! | 2 for each row | dimensions of the whole vector, u16 |
//! | `width` for each row | the codes; zeros where the vector is shorter |
//! | 2 for each row * | the norm of the prefix as a share of the vector's, u16 of 65,535 |
//! | 2 for each row * | the norm of the sketch, likewise |
//! | `k` for each row * | the sketch, in codes of a scale of its own |
//! | 4 `k` * | the scales of the directions, f32 |
//! | `k` (`of` - 256) * | the directions, as codes |
//! | 4 for each of [`lengths`] * | the profile, f32 |
//! | [`FIT_BYTES`] for each of [`lengths`] * | fits of the values behind the prefix |
//! | [`FIT_BYTES`] * | the fit of what the sketch leaves of whole vectors |
//!
//! All numbers have the machine's byte order, because statistics do not leave the server.

use half::f16;

use super::MAX_DIMS;
use super::rest::{
    Calibration, Directions, FIT_BYTES, Fit, NEGLIGIBLE, Norms, Parts, Ranks, lengths, profile_at,
    ratio, scale,
};

/// Maximum number of values stored per vector.
pub const SAMPLE_DIMS: usize = 256;

/// The version of the layout above. A sample of another version is ignored.
const FORMAT: u16 = 2;
const HEADER: usize = 12;
const LARGEST_CODE: f32 = 127.0;
const LARGEST_SHARE: f64 = 65_535.0;

/// Maximum number of the highest similarities to which an exponential tail is fitted. With this
/// many matches, the tail is not used.
const TAIL: usize = 30;

/// Collects the vectors of a sample.
#[derive(Default)]
pub struct SampleBuilder {
    dims: Vec<u16>,
    codes: Vec<i8>,
    calibration: Option<Calibration>,
    /// Of each row: the norms of prefix and sketch, in units of 1 / [`LARGEST_SHARE`] of the norm.
    norms: Vec<[u16; 2]>,
    sketches: Vec<i8>,
}

impl SampleBuilder {
    /// With a calibration, the sample can judge filters that compare more than [`SAMPLE_DIMS`]
    /// values.
    pub fn new(calibration: Option<Calibration>) -> SampleBuilder {
        SampleBuilder {
            calibration,
            ..SampleBuilder::default()
        }
    }

    /// Whether rows are to be added with all their values.
    pub fn needs_whole_vectors(&self) -> bool {
        self.calibration.is_some()
    }

    /// Adds a vector of `dims` dimensions. `values` contains at least its first
    /// `min(dims, SAMPLE_DIMS)` values, or all if the builder needs them. `row` is the number by
    /// which a [`super::Pilot`] knows the same row.
    pub fn push(&mut self, row: usize, dims: usize, values: &[f16]) {
        self.dims.push(dims.min(MAX_DIMS) as u16);
        let prefix = &values[..dims.min(SAMPLE_DIMS)];
        push_codes(&mut self.codes, prefix.iter().map(|v| v.to_f32()));
        if let Some(calibration) = &mut self.calibration {
            let parts = if dims == calibration.of && values.len() == dims {
                calibration.add(row, values)
            } else {
                Parts::none(calibration.sketch_dims())
            };
            let share = |share: f64| (share * LARGEST_SHARE).round() as u16;
            self.norms
                .push([share(parts.norms.prefix), share(parts.norms.sketch)]);
            push_codes(&mut self.sketches, parts.sketch.iter().copied());
        }
    }

    /// The serialised sample, which [`Sample::parse`] reads.
    pub fn finish(self) -> Vec<u8> {
        let kept = |dims: u16| usize::from(dims).min(SAMPLE_DIMS);
        let width = self.dims.iter().copied().map(kept).max().unwrap_or(0);
        let calibration = self.calibration.as_ref();
        let of = calibration.map_or(0, |calibration| calibration.of as u16);
        let sketch_dims = calibration.map_or(0, |calibration| calibration.sketch_dims() as u16);
        let mut bytes = Vec::with_capacity(HEADER + self.dims.len() * (2 + width));
        bytes.extend_from_slice(&FORMAT.to_ne_bytes());
        bytes.extend_from_slice(&(width as u16).to_ne_bytes());
        bytes.extend_from_slice(&(self.dims.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&of.to_ne_bytes());
        bytes.extend_from_slice(&sketch_dims.to_ne_bytes());
        for dims in &self.dims {
            bytes.extend_from_slice(&dims.to_ne_bytes());
        }
        let mut codes = self.codes.as_slice();
        for &dims in &self.dims {
            let (row, rest) = codes.split_at(kept(dims));
            codes = rest;
            bytes.extend(row.iter().map(|&code| code as u8));
            bytes.resize(bytes.len() + width - row.len(), 0);
        }
        if let Some(calibration) = self.calibration {
            for part in 0..2 {
                for norms in &self.norms {
                    bytes.extend_from_slice(&norms[part].to_ne_bytes());
                }
            }
            bytes.extend(self.sketches.iter().map(|&code| code as u8));
            calibration.write(&mut bytes);
        }
        bytes
    }
}

/// Adds values as codes. The scale is chosen so that the largest one uses the full range.
fn push_codes(codes: &mut Vec<i8>, values: impl Iterator<Item = f32> + Clone) {
    let largest = values.clone().fold(0f32, |max, value| max.max(value.abs()));
    let scale = if largest > 0.0 {
        LARGEST_CODE / largest
    } else {
        0.0
    };
    codes.extend(values.map(|value| (value * scale).round() as i8));
}

/// A query, prepared for comparison with a sample.
pub struct SampleQuery {
    prefix: Quantised,
    /// Dimensions of the whole query vector.
    of: usize,
    /// What is known of a query that compares more than [`SAMPLE_DIMS`] values.
    longer: Option<Longer>,
}

/// Up to [`SAMPLE_DIMS`] values of a query, as integers, and their norm.
struct Quantised {
    values: Vec<i16>,
    norm: f64,
}

struct Longer {
    /// Number of compared values.
    dims: usize,
    /// The norm of the prefix, divided by that of the compared values.
    prefix: f64,
    /// The values behind the prefix, divided by the norm of all. Empty unless all are known.
    rest: Vec<f32>,
}

impl Quantised {
    fn new(values: impl Iterator<Item = f32> + Clone) -> Quantised {
        let largest = values.clone().fold(0f32, |max, value| max.max(value.abs()));
        let scale = if largest > 0.0 {
            f32::from(i16::MAX) / largest
        } else {
            0.0
        };
        Quantised::of_values(values.map(|value| (value * scale).round() as i16).collect())
    }

    fn of_values(values: Vec<i16>) -> Quantised {
        let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        Quantised {
            values,
            norm: squares.sqrt(),
        }
    }

    /// The cosine with the codes of a row, and the norm of the codes; `None` if either is zero.
    fn cosine(&self, codes: &[u8]) -> Option<(f64, f64)> {
        let compared = self.values.len().min(codes.len());
        let (dot, square) = dot_and_square(&codes[..compared], &self.values[..compared]);
        let norm = f64::from(square).sqrt();
        (square != 0 && self.norm != 0.0)
            .then(|| ((f64::from(dot) / (norm * self.norm)).clamp(-1.0, 1.0), norm))
    }
}

impl SampleQuery {
    /// `compared` is what the filter compares; the whole vector has `of` dimensions.
    pub fn new(compared: &[f16], of: usize) -> SampleQuery {
        let (prefix, rest) = compared.split_at(compared.len().min(SAMPLE_DIMS));
        let square = |values: &[f16]| values.iter().map(|v| v.to_f64().powi(2)).sum::<f64>();
        let longer = (!rest.is_empty()).then(|| {
            let known = square(prefix);
            let norm = (known + square(rest)).sqrt();
            let rest = if compared.len() == of && norm > 0.0 {
                rest.iter().map(|v| (v.to_f64() / norm) as f32).collect()
            } else {
                Vec::new()
            };
            Longer {
                dims: compared.len(),
                prefix: ratio(known.sqrt(), norm, 1.0),
                rest,
            }
        });
        SampleQuery {
            prefix: Quantised::new(prefix.iter().map(|v| v.to_f32())),
            of,
            longer,
        }
    }
}

/// A serialised sample.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    dims: &'a [u8],
    codes: &'a [u8],
    width: usize,
    rests: Option<Rests<'a>>,
}

/// The sections about the values behind the prefixes.
#[derive(Clone, Copy)]
struct Rests<'a> {
    of: usize,
    sketch_dims: usize,
    prefix_norms: &'a [u8],
    sketch_norms: &'a [u8],
    sketches: &'a [u8],
    scales: &'a [u8],
    directions: &'a [u8],
    profile: &'a [u8],
    fits: &'a [u8],
}

impl<'a> Rests<'a> {
    /// `None` unless `bytes` has exactly the sections for so many rows.
    fn parse(mut bytes: &'a [u8], rows: usize, of: usize, sketch_dims: usize) -> Option<Self> {
        if of <= SAMPLE_DIMS {
            return None;
        }
        let mut section = |count: usize, size: usize| {
            let (section, after) = bytes.split_at_checked(count.checked_mul(size)?)?;
            bytes = after;
            Some(section)
        };
        let count = lengths(of).count();
        let rests = Rests {
            of,
            sketch_dims,
            prefix_norms: section(rows, 2)?,
            sketch_norms: section(rows, 2)?,
            sketches: section(rows, sketch_dims)?,
            scales: section(sketch_dims, 4)?,
            directions: section(sketch_dims, of - SAMPLE_DIMS)?,
            profile: section(count, 4)?,
            fits: section(count + 1, FIT_BYTES)?,
        };
        bytes.is_empty().then_some(rests)
    }

    fn fit(&self, index: usize) -> Fit {
        Fit::read(&self.fits[index * FIT_BYTES..][..FIT_BYTES])
    }

    /// The norm of a row's prefix, divided by that of its first `dims` values.
    fn prefix_norm(&self, row: usize, dims: usize) -> f64 {
        let norm = f64::from(read_u16(self.prefix_norms, row)) / LARGEST_SHARE;
        if dims == self.of {
            return norm;
        }
        let square = norm * norm;
        let compared = square + (1.0 - square) * profile_at(self.profile, self.of, dims);
        ratio(norm, compared.sqrt(), 1.0)
    }

    /// The norm of a row's sketch, divided by that of the row, and the codes of the sketch.
    fn sketch(&self, row: usize) -> (f64, &'a [u8]) {
        let norm = f64::from(read_u16(self.sketch_norms, row)) / LARGEST_SHARE;
        let codes = &self.sketches[row * self.sketch_dims..][..self.sketch_dims];
        (norm, codes)
    }
}

fn read_u16(bytes: &[u8], index: usize) -> u16 {
    u16::from_ne_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

/// A row of the sample, compared with a query that compares more than [`SAMPLE_DIMS`] values.
struct Compared {
    /// The cosine of the known parts.
    cosine: f32,
    /// What the known parts contribute to the similarity, and the most that the unknown ones do.
    known: f64,
    unknown: f64,
    /// The norm of the codes of the row's prefix; 0 if nothing was rounded.
    norm: f64,
}

/// The result of comparing a query with all rows.
struct Matches {
    rows: usize,
    expected: f64,
    /// May be empty if at least [`TAIL`] matches are expected.
    similarities: Vec<f64>,
}

impl<'a> Sample<'a> {
    /// `None` unless the bytes are a valid sample.
    pub fn parse(bytes: &'a [u8]) -> Option<Sample<'a>> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let [f0, f1, w0, w1, r0, r1, r2, r3, o0, o1, k0, k1] = *header;
        let width = usize::from(u16::from_ne_bytes([w0, w1]));
        let rows = usize::try_from(u32::from_ne_bytes([r0, r1, r2, r3])).ok()?;
        if u16::from_ne_bytes([f0, f1]) != FORMAT || !(1..=SAMPLE_DIMS).contains(&width) {
            return None;
        }
        let (dims, body) = body.split_at_checked(rows.checked_mul(2)?)?;
        let (codes, body) = body.split_at_checked(rows.checked_mul(width)?)?;
        let of = usize::from(u16::from_ne_bytes([o0, o1]));
        let sketch_dims = usize::from(u16::from_ne_bytes([k0, k1]));
        let rests = match of {
            0 if body.is_empty() && sketch_dims == 0 => None,
            0 => return None,
            _ => Some(Rests::parse(body, rows, of, sketch_dims)?),
        };
        Some(Sample {
            dims,
            codes,
            width,
            rests,
        })
    }

    /// Number of sampled rows.
    pub fn rows(&self) -> usize {
        self.dims.len() / 2
    }

    /// Dimensions of a row's whole vector.
    pub fn dims(&self, row: usize) -> usize {
        usize::from(read_u16(self.dims, row))
    }

    /// The first `dims` values of a row as a query; `None` if the row has fewer. Of more than
    /// [`SAMPLE_DIMS`] values, only these and their share of the norm are known: a sketch means
    /// nothing to the sample of another column.
    pub fn query(&self, row: usize, dims: usize) -> Option<SampleQuery> {
        let of = self.dims(row);
        if dims > of {
            return None;
        }
        let codes = &self.codes(row)[..dims.min(self.width)];
        // At most as large as the values of other queries, so no sum overflows.
        let values = codes.iter().map(|&code| i16::from(code as i8));
        let rests = self.rests.filter(|rests| rests.of == of);
        Some(SampleQuery {
            prefix: Quantised::of_values(values.collect()),
            of,
            longer: rests.filter(|_| dims > SAMPLE_DIMS).map(|rests| Longer {
                dims,
                prefix: rests.prefix_norm(row, dims),
                rest: Vec::new(),
            }),
        })
    }

    fn codes(&self, row: usize) -> &'a [u8] {
        &self.codes[row * self.width..][..self.width]
    }

    /// The share of rows whose similarity to the query is at least `threshold`, excluding the row
    /// `skip`.
    ///
    /// Only rows with the query's number of dimensions count. On other rows the filter raises an
    /// error, so a query that succeeds must exclude them by another condition, whose selectivity
    /// the planner includes separately. `None` if there are no such rows, and for a threshold that is
    /// not a number.
    pub fn share(&self, query: &SampleQuery, threshold: f32, skip: Option<usize>) -> Option<f64> {
        if threshold.is_nan() {
            return None;
        }
        let threshold = f64::from(threshold);
        let rests = self.rests.filter(|rests| rests.of == query.of);
        let mut matches = match (&query.longer, rests) {
            (Some(longer), Some(rests)) => {
                self.matches_of_longer(query, longer, rests, threshold, skip)
            }
            _ => self.matches(query, threshold, skip),
        };
        if matches.rows == 0 {
            return None;
        }
        let hits = matches.expected;
        let counted = hits / matches.rows as f64;
        let share = if hits >= TAIL as f64 {
            counted
        } else {
            // The tail estimate has the weight of one match: full weight without matches, little
            // weight with several.
            let tail = tail_share(&mut matches.similarities, threshold);
            (hits * counted + tail) / (hits + 1.0)
        };
        share.is_finite().then(|| share.clamp(0.0, 1.0))
    }

    /// The rows that a query is compared with.
    fn candidates(&self, query: &SampleQuery, skip: Option<usize>) -> impl Iterator<Item = usize> {
        let of = query.of;
        (0..self.rows()).filter(move |&row| self.dims(row) == of && Some(row) != skip)
    }

    /// For a query that compares at most [`SAMPLE_DIMS`] values.
    fn matches(&self, query: &SampleQuery, threshold: f64, skip: Option<usize>) -> Matches {
        let mut expected = 0.0;
        let mut similarities = Vec::with_capacity(self.rows());
        for row in self.candidates(query, skip) {
            let (similarity, norm) = query.prefix.cosine(self.codes(row)).unwrap_or_default();
            expected += hit(similarity, threshold, norm);
            similarities.push(similarity);
        }
        Matches {
            rows: similarities.len(),
            expected,
            similarities,
        }
    }

    /// For a query that compares more.
    fn matches_of_longer(
        &self,
        query: &SampleQuery,
        longer: &Longer,
        rests: Rests<'_>,
        threshold: f64,
        skip: Option<usize>,
    ) -> Matches {
        let directions = Directions {
            codes: rests.directions,
            scales: rests.scales,
        };
        let whole = longer.rest.len() == rests.of - SAMPLE_DIMS;
        let sketch = whole.then(|| directions.project(&longer.rest));
        let sketch = sketch.map(|sketch| {
            let square: f64 = sketch.iter().map(|&v| f64::from(v).powi(2)).sum();
            (square.sqrt(), Quantised::new(sketch.iter().copied()))
        });
        let q = Norms::new(
            longer.prefix,
            sketch.as_ref().map_or(0.0, |sketch| sketch.0),
        );
        let compare = |row: usize| {
            let (cosine, norm) = query.prefix.cosine(self.codes(row)).unwrap_or_default();
            let mut x = Norms::new(rests.prefix_norm(row, longer.dims), 0.0);
            let mut known = x.prefix * q.prefix * cosine;
            if let Some((_, sketch)) = &sketch {
                let (norm, codes) = rests.sketch(row);
                x = Norms::new(x.prefix, norm);
                let (cosine, _) = sketch.cosine(codes).unwrap_or_default();
                known += x.sketch * q.sketch * cosine;
            }
            Compared {
                cosine: x.cosine(q, known),
                known,
                unknown: x.unknown * q.unknown,
                norm,
            }
        };
        let compared: Vec<Compared> = self.candidates(query, skip).map(compare).collect();
        let ranks = Ranks::of(compared.iter().map(|row| row.cosine));
        let fit = rests.fit(if sketch.is_some() {
            lengths(rests.of).count()
        } else {
            let shorter = |&length: &usize| length < longer.dims;
            lengths(rests.of).take_while(shorter).count()
        });
        let hits = compared.iter().map(|row| {
            let bin = ranks.bin(row.cosine);
            if row.unknown * f64::from(scale(row.cosine)) < NEGLIGIBLE {
                hit(row.similarity(&fit, bin, 0.5), threshold, row.norm)
            } else {
                let wanted = (threshold - row.known) / row.unknown;
                f64::from(fit.probability(bin, row.cosine, wanted as f32))
            }
        });
        let expected = hits.sum();
        let mut level = 0f32;
        let similarity = |row: &Compared| {
            // Levels at steps of the golden ratio are evenly distributed in every bin.
            level = (level + 0.618_034).fract();
            row.similarity(&fit, ranks.bin(row.cosine), level)
        };
        Matches {
            rows: compared.len(),
            expected,
            similarities: if expected < TAIL as f64 {
                compared.iter().map(similarity).collect()
            } else {
                Vec::new()
            },
        }
    }
}

impl Compared {
    /// The similarity that is exceeded with the probability `1 - level`.
    fn similarity(&self, fit: &Fit, bin: usize, level: f32) -> f64 {
        self.known + self.unknown * f64::from(fit.quantile(bin, self.cosine, level))
    }
}

/// Whether a similarity reaches the threshold, from 0 to 1. Rounding has moved each value of the row
/// by up to half a code, and the similarity by about that fraction of the norm. A row this close to
/// the threshold counts as part of a match. (So duplicates of the query match at threshold 1.) A
/// `norm` of 0 means that nothing was rounded, because the row or the query is zero.
fn hit(similarity: f64, threshold: f64, norm: f64) -> f64 {
    if norm == 0.0 {
        return if similarity >= threshold { 1.0 } else { 0.0 };
    }
    ((similarity - threshold) * norm + 0.5).clamp(0.0, 1.0)
}

/// The share of similarities above `threshold`, on the assumption that the highest similarities
/// follow an exponential tail, as in many distributions. The tail starts at the lowest of the top
/// similarities, and its mean is their mean excess over it. Similarities are transformed by
/// Fisher's z, `atanh`, because they are bounded by 1.
fn tail_share(similarities: &mut [f64], threshold: f64) -> f64 {
    const LARGEST: f64 = 1.0 - 1e-6;
    let z = |similarity: f64| similarity.clamp(-LARGEST, LARGEST).atanh();
    let count = similarities.len();
    let top = TAIL.min(count.div_ceil(4));
    let (_, anchor, above) =
        similarities.select_nth_unstable_by(count - top, |a, b| a.total_cmp(b));
    let (anchor, threshold) = (z(*anchor), z(threshold));
    let share = top as f64 / count as f64;
    let excess: f64 = above.iter().map(|&similarity| z(similarity) - anchor).sum();
    let mean = excess / above.len().max(1) as f64;
    if threshold <= anchor {
        share
    } else if mean > 0.0 {
        share * (-(threshold - anchor) / mean).exp()
    } else {
        0.0
    }
}

/// Returns `(Σ x_i q_i, Σ x_i²)`. The maximum, 256 · 127 · 32,767 = 1.07e9, fits into i32.
fn dot_and_square(codes: &[u8], query: &[i16]) -> (i32, i32) {
    let (mut dot, mut square) = (0i32, 0i32);
    for (&code, &value) in codes.iter().zip(query) {
        let code = i32::from(code as i8);
        dot += code * i32::from(value);
        square += code * code;
    }
    (dot, square)
}

const _: () = assert!(SAMPLE_DIMS as i64 * 127 * i16::MAX as i64 <= i32::MAX as i64);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Pilot, Query, from_f32s};

    /// Pseudo-random values in [-1, 1), the same in every run.
    fn random(state: &mut u64) -> f32 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vectors(count: usize, dims: usize) -> Vec<Vec<f16>> {
        let mut state = 7;
        let mut normal = || (0..6).map(|_| random(&mut state)).sum::<f32>();
        let vector = |_| {
            (0..dims)
                .map(|i| normal() / (1.0 + i as f32).powf(0.4))
                .collect()
        };
        let floats: Vec<Vec<f32>> = (0..count).map(vector).collect();
        floats.iter().map(|v| from_f32s(v).unwrap()).collect()
    }

    fn sample(vectors: &[Vec<f16>]) -> Vec<u8> {
        let mut builder = SampleBuilder::default();
        for (row, vector) in vectors.iter().enumerate() {
            builder.push(row, vector.len(), &vector[..vector.len().min(SAMPLE_DIMS)]);
        }
        builder.finish()
    }

    /// A sample of every `every`th vector, made as ANALYZE makes it.
    fn calibrated_sample(vectors: &[Vec<f16>], every: usize) -> Vec<u8> {
        let count = vectors.len();
        let mut pilot = Pilot::new(
            Pilot::positions(count)
                .map(|row| vectors[row].len())
                .collect(),
        );
        if let Some(pilot) = &mut pilot {
            for row in Pilot::positions(count) {
                if pilot.takes(vectors[row].len()) {
                    pilot.push(row, &vectors[row]);
                }
            }
        }
        let mut builder = SampleBuilder::new(pilot.and_then(Pilot::finish));
        for (row, vector) in vectors.iter().enumerate().step_by(every) {
            builder.push(row, vector.len(), vector);
        }
        builder.finish()
    }

    /// Vectors in clusters around a common mean. `decay` 0.35 gives half of the
    /// squared norm of 2048 values to the first 256, as Matryoshka models do; 0 spreads it evenly.
    fn clustered(count: usize, dims: usize, decay: f32) -> Vec<Vec<f16>> {
        const CLUSTERS: usize = 200;
        let scale: Vec<f32> = (0..dims).map(|i| (1.0 + i as f32).powf(-decay)).collect();
        let mut state = 11;
        let draw = |state: &mut u64, spread: f32| -> Vec<f32> {
            let mut normal = |_| (0..4).map(|_| random(state)).sum::<f32>();
            (0..dims).map(|i| spread * normal(i)).collect()
        };
        let mean = draw(&mut state, 0.5);
        let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| draw(&mut state, 1.0)).collect();
        let vector = |_| {
            let place = (random(&mut state) + 1.0) / 2.0 * CLUSTERS as f32;
            let centre = &centres[place as usize];
            let own = draw(&mut state, 0.8);
            let values = (0..dims).map(|i| scale[i] * (mean[i] + centre[i] + own[i]));
            from_f32s(&values.collect::<Vec<f32>>()).unwrap()
        };
        (0..count).map(vector).collect()
    }

    /// For rows that are equal up to the end of the prefix, the share of a threshold that is not a number
    /// is not a number either.
    #[test]
    fn a_threshold_that_is_not_a_number_gives_no_share() {
        let mut rows = clustered(150, 600, 0.35);
        rows.extend(rows.clone());
        let bytes = calibrated_sample(&rows, 1);
        let sample = Sample::parse(&bytes).unwrap();
        assert!(sample.rests.is_some());
        let of_vector = SampleQuery::new(&rows[0], 600);
        assert_eq!(sample.share(&of_vector, f32::NAN, None), None);
        let of_row = sample.query(0, 600).unwrap();
        assert!(sample.share(&of_row, 0.9, Some(0)).is_some());
        assert_eq!(sample.share(&of_row, f32::NAN, Some(0)), None);
    }

    /// The factors by which estimates of the share of rows that reach a similarity are wrong. Each
    /// query's threshold is reached by `share` of the rows.
    fn errors(
        sample: &[u8],
        rows: &[Vec<f16>],
        queries: &[Vec<f16>],
        dims: usize,
        share: f64,
    ) -> Vec<f64> {
        let sample = Sample::parse(sample).unwrap();
        let error = |vector: &Vec<f16>| {
            let query = Query::new(vector, dims).unwrap();
            let similarity = |row: &Vec<f16>| query.similarity(&row[..dims]) as f32;
            let mut similarities: Vec<f32> = rows.iter().map(similarity).collect();
            similarities.sort_unstable_by(|a, b| b.total_cmp(a));
            let threshold = similarities[(share * rows.len() as f64) as usize - 1];
            let query = SampleQuery::new(&vector[..dims], vector.len());
            let estimate = sample.share(&query, threshold, None).unwrap();
            (estimate / share).max(share / estimate)
        };
        queries.iter().map(error).collect()
    }

    fn share_within(errors: &[f64], factor: f64) -> f64 {
        errors.iter().filter(|&&error| error <= factor).count() as f64 / errors.len() as f64
    }

    #[test]
    fn estimates_for_whole_vectors_are_within_a_factor_of_three() {
        for (dims, decay) in [(2048, 0.35), (1024, 0.35), (512, 0.35), (512, 0.0)] {
            let all = clustered(8040, dims, decay);
            let (queries, rows) = all.split_at(40);
            let bytes = calibrated_sample(rows, 3);
            for compared in [dims, 3 * dims / 4] {
                for share in [0.3, 0.05, 0.01, 0.005] {
                    let errors = errors(&bytes, rows, queries, compared, share);
                    let within = share_within(&errors, 3.0);
                    assert!(
                        within >= 0.9,
                        "{dims} {decay} {compared} {share}: {within} {errors:?}"
                    );
                }
            }
        }
    }

    /// Without what the calibration adds, the test above would fail.
    #[test]
    fn prefixes_alone_do_not_suffice() {
        let all = clustered(8040, 2048, 0.35);
        let (queries, rows) = all.split_at(40);
        let errors = errors(&sample(&rows[..3000]), rows, queries, 2048, 0.01);
        assert!(share_within(&errors, 3.0) < 0.5, "{errors:?}");
    }

    #[test]
    fn a_row_as_a_query_for_whole_vectors() {
        let rows = clustered(6000, 1024, 0.35);
        let bytes = calibrated_sample(&rows, 3);
        let sample = Sample::parse(&bytes).unwrap();
        for dims in [512, 1000, 1024] {
            let mut within = 0;
            for i in 0..40 {
                let query = Query::new(&rows[3 * i], dims).unwrap();
                let mut similarities: Vec<f32> = rows
                    .iter()
                    .map(|row| query.similarity(&row[..dims]) as f32)
                    .collect();
                similarities.sort_unstable_by(|a, b| b.total_cmp(a));
                let of_row = sample.query(i, dims).unwrap();
                let estimate = sample.share(&of_row, similarities[60], Some(i)).unwrap();
                within += usize::from((0.01 / 3.0..=0.03).contains(&estimate));
            }
            assert!(within >= 34, "{dims}: {within}");
        }
    }

    #[test]
    fn duplicates_and_zeros_among_long_vectors() {
        let mut rows = clustered(900, 600, 0.35);
        let one = rows[0].clone();
        for row in (0..900).step_by(3) {
            rows[row] = one.clone();
        }
        for row in (1..900).step_by(9) {
            rows[row] = vec![f16::ZERO; 600];
        }
        // Nothing but zeros in the prefix, or behind it.
        let mut behind = one.clone();
        behind[..SAMPLE_DIMS].fill(f16::ZERO);
        rows[2] = behind.clone();
        let mut before = one.clone();
        before[SAMPLE_DIMS..].fill(f16::ZERO);
        rows[5] = before.clone();
        let bytes = calibrated_sample(&rows, 1);
        let sample = Sample::parse(&bytes).unwrap();
        assert!(sample.rests.is_some());
        let share =
            |query: &[f16], threshold| sample.share(&SampleQuery::new(query, 600), threshold, None);
        let near = |share: Option<f64>, wanted: f64| {
            assert!((share.unwrap() - wanted).abs() < 0.01, "{share:?} {wanted}");
        };
        near(share(&one, 0.995), 1.0 / 3.0);
        near(share(&one, 1.0), 1.0 / 6.0);
        near(share(&one[..400], 0.995), 1.0 / 3.0);
        near(share(&one, -1.0), 1.0);
        near(share(&one, 1.5), 0.0);
        let zero = vec![f16::ZERO; 600];
        near(share(&zero, 0.0), 1.0);
        near(share(&zero, 0.1), 0.0);
        for query in [&before, &behind] {
            let share = share(query, 0.2).unwrap();
            assert!((0.2..0.9).contains(&share), "{share}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn any_rows_and_queries_give_a_share(
            seed in any::<u64>(),
            kinds in proptest::collection::vec(0usize..6, 1..160),
            query_kind in 0usize..6,
            compared in 1usize..700,
            threshold in prop_oneof![-2.0f32..2.0, Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(0.0)],
        ) {
            let mut state = seed;
            let mut make = |kind: usize| -> Vec<f16> {
                let dims = [1, 256, 257, 600, 600, 700][kind];
                let mut values: Vec<f32> = (0..dims).map(|_| random(&mut state)).collect();
                match (state >> 20) % 8 {
                    0 => values.fill(0.0),
                    1 => values.iter_mut().skip(256).for_each(|v| *v = 0.0),
                    2 => values.iter_mut().take(256).for_each(|v| *v = 0.0),
                    3 => values.fill(1.0),
                    4 => values.iter_mut().for_each(|v| *v *= 65000.0),
                    5 => values.iter_mut().for_each(|v| *v *= 1e-7),
                    _ => {}
                }
                from_f32s(&values).unwrap()
            };
            let query = make(query_kind);
            let rows: Vec<Vec<f16>> = kinds.iter().map(|&kind| make(kind)).collect();
            let bytes = calibrated_sample(&rows, 1);
            let sample = Sample::parse(&bytes).unwrap();
            let compared = compared.min(query.len());
            let of_vector = SampleQuery::new(&query[..compared], query.len());
            let known = rows.iter().any(|row| row.len() == query.len());
            let share = sample.share(&of_vector, threshold, None);
            prop_assert_eq!(share.is_some(), known);
            prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
            prop_assert_eq!(sample.share(&of_vector, f32::NAN, None), None);
            for row in 0..rows.len().min(8) {
                let Some(of_row) = sample.query(row, compared) else { continue };
                let share = sample.share(&of_row, threshold, Some(row));
                prop_assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
            }
        }
    }

    fn truth(vectors: &[Vec<f16>], query: &[f16], dims: usize, threshold: f32) -> f64 {
        let query = Query::new(query, dims).unwrap();
        let matches = |v: &&Vec<f16>| query.similarity(&v[..dims]) as f32 >= threshold;
        vectors.iter().filter(matches).count() as f64 / vectors.len() as f64
    }

    #[test]
    fn the_share_of_the_sample_is_nearly_the_exact_one() {
        let vectors = vectors(2000, 300);
        let bytes = sample(&vectors);
        let sample = Sample::parse(&bytes).unwrap();
        for (i, query) in vectors.iter().take(20).enumerate() {
            for dims in [1, 7, 64, 128, 256] {
                for threshold in [-0.3, 0.0, 0.1, 0.2] {
                    let exact = truth(&vectors, query, dims, threshold);
                    let ready = SampleQuery::new(&query[..dims], 300);
                    let share = sample.share(&ready, threshold, None).unwrap();
                    if exact * 2000.0 >= TAIL as f64 + 5.0 {
                        assert!(
                            (share - exact).abs() < 0.004,
                            "{i} {dims} {threshold}: {share} {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_sample_does_not_hold_is_read_from_its_tail() {
        let all = vectors(40_000, 64);
        let bytes = sample(&all[..1000]);
        let sample = Sample::parse(&bytes).unwrap();
        let mut telling = 0;
        for query in &all[1000..1030] {
            for threshold in [0.35, 0.4, 0.45] {
                let exact = truth(&all, query, 64, threshold);
                let ready = SampleQuery::new(query, 64);
                let share = sample.share(&ready, threshold, None).unwrap();
                if (2e-4..2e-3).contains(&exact) {
                    telling += 1;
                    assert!(
                        share > exact / 6.0 && share < exact * 6.0,
                        "{share} {exact}"
                    );
                }
            }
        }
        assert!(telling > 10, "{telling}");
    }

    #[test]
    fn a_query_from_the_sample_is_its_row() {
        let vectors = vectors(500, 100);
        let bytes = sample(&vectors);
        let sample = Sample::parse(&bytes).unwrap();
        let of_row = sample.query(3, 50).unwrap();
        let of_vector = SampleQuery::new(&vectors[3][..50], 100);
        for threshold in [0.05, 0.1] {
            let a = sample.share(&of_row, threshold, Some(3)).unwrap();
            let b = sample.share(&of_vector, threshold, Some(3)).unwrap();
            assert!((a - b).abs() < 0.01, "{a} {b}");
        }
        let alone = sample.share(&of_row, 0.999, Some(3)).unwrap();
        assert!(alone < 1e-5 && sample.share(&of_row, 0.999, None).unwrap() > 1e-4);
        assert!(sample.query(3, 101).is_none());
    }

    #[test]
    fn duplicates_zeros_and_other_dimensions() {
        let one = from_f32s(&[0.3, -0.1, 0.7]).unwrap();
        let zero = from_f32s(&[0.0; 3]).unwrap();
        let longer = from_f32s(&[1.0; 5]).unwrap();
        let mut rows = vec![one.clone(); 60];
        rows.extend(vec![zero.clone(); 40]);
        rows.extend(vec![longer; 100]);
        let bytes = sample(&rows);
        let sample = Sample::parse(&bytes).unwrap();
        let share = |query: &[f16], of, threshold| {
            sample.share(&SampleQuery::new(query, of), threshold, None)
        };
        assert!((0.25..0.6).contains(&share(&one, 3, 1.0).unwrap()));
        assert_eq!(share(&one, 3, 0.9), Some(0.6));
        assert_eq!(share(&one, 3, -1.0), Some(1.0));
        assert_eq!(share(&one, 3, 1.5), Some(0.0));
        // A zero vector has similarity 0 to every vector.
        assert_eq!(share(&one, 3, 0.0), Some(1.0));
        assert_eq!(share(&zero, 3, 0.0), Some(1.0));
        assert_eq!(share(&zero, 3, 0.1), Some(0.0));
        assert_eq!(share(&one, 4, 0.0), None);
        // A query that compares more values than the rows have must not panic.
        assert!(share(&from_f32s(&[1.0; 300]).unwrap(), 5, 0.1).is_some());
    }

    #[test]
    fn what_is_no_sample_is_none() {
        let bytes = sample(&vectors(3, 10));
        assert!(Sample::parse(&bytes).is_some());
        assert!(Sample::parse(&[]).is_none());
        assert!(Sample::parse(&bytes[..bytes.len() - 1]).is_none());
        for at in 0..HEADER {
            let mut other = bytes.clone();
            other[at] ^= 0x40;
            assert!(Sample::parse(&other).is_none(), "{at}");
        }
        assert!(Sample::parse(&SampleBuilder::default().finish()).is_none());

        let mut bytes = calibrated_sample(&clustered(100, 300, 0.0), 2);
        assert!(Sample::parse(&bytes).unwrap().rests.is_some());
        for len in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            assert!(Sample::parse(&bytes[..len]).is_none(), "{len}");
        }
        // The sections hold numbers of any value without a panic.
        for (at, byte) in bytes.iter_mut().enumerate().skip(HEADER + 2 * 50) {
            *byte ^= (at * 151) as u8;
        }
        let sample = Sample::parse(&bytes).unwrap();
        for row in 0..50 {
            if let Some(query) = sample.query(row, 299) {
                sample.share(&query, 0.1, None);
            }
        }
        let query = from_f32s(&[0.5; 300]).unwrap();
        sample.share(&SampleQuery::new(&query, 300), 0.1, None);
    }
}
