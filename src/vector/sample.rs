//! A sample of a column's vectors for the server's statistics, and the estimate of a filter's
//! selectivity from it. This module does not depend on PostgreSQL.
//!
//! Each sampled vector is represented by its first [`SAMPLE_DIMS`] values, stored as integers in
//! -127..=127. A cosine does not depend on a vector's scale, so the scale is not stored. The
//! rounding changes a similarity by about 0.001, which is far less than the sampling error.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..2 | [`FORMAT`], u16 |
//! | 2..4 | codes kept of each row (`width`), u16 |
//! | 4..8 | rows, u32 |
//! | then 2 for each row | dimensions of the whole vector, u16 |
//! | then `width` for each row | the codes; zeros where the vector is shorter |
//!
//! All numbers have the machine's byte order, because statistics do not leave the server.

use half::f16;

use super::MAX_DIMS;

/// Maximum number of values stored per vector. A query that compares more values is judged by
/// these.
pub const SAMPLE_DIMS: usize = 256;

/// The version of the layout above. A sample of another version is ignored.
const FORMAT: u16 = 1;
const HEADER: usize = 8;
const LARGEST_CODE: f32 = 127.0;

/// Maximum number of the highest similarities to which an exponential tail is fitted. With this
/// many matches, the tail is not used.
const TAIL: usize = 30;

/// Collects the vectors of a sample.
#[derive(Default)]
pub struct SampleBuilder {
    dims: Vec<u16>,
    codes: Vec<i8>,
}

impl SampleBuilder {
    /// Adds a vector of `dims` dimensions. `prefix` contains at least its first
    /// `min(dims, SAMPLE_DIMS)` values.
    pub fn push(&mut self, dims: usize, prefix: &[f16]) {
        let kept = &prefix[..dims.min(SAMPLE_DIMS)];
        let largest = kept.iter().fold(0f32, |max, v| max.max(v.to_f32().abs()));
        let scale = if largest > 0.0 {
            LARGEST_CODE / largest
        } else {
            0.0
        };
        self.dims.push(dims.min(MAX_DIMS) as u16);
        self.codes
            .extend(kept.iter().map(|v| (v.to_f32() * scale).round() as i8));
    }

    /// The serialised sample, which [`Sample::parse`] reads.
    pub fn finish(self) -> Vec<u8> {
        let kept = |dims: u16| usize::from(dims).min(SAMPLE_DIMS);
        let width = self.dims.iter().copied().map(kept).max().unwrap_or(0);
        let mut bytes = Vec::with_capacity(HEADER + self.dims.len() * (2 + width));
        bytes.extend_from_slice(&FORMAT.to_ne_bytes());
        bytes.extend_from_slice(&(width as u16).to_ne_bytes());
        bytes.extend_from_slice(&(self.dims.len() as u32).to_ne_bytes());
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
        bytes
    }
}

/// A query, prepared for comparison with a sample.
pub struct SampleQuery {
    values: Vec<i16>,
    norm: f64,
    /// Dimensions of the whole query vector.
    of: usize,
}

impl SampleQuery {
    /// `prefix` is what the filter compares; the whole vector has `of` dimensions.
    pub fn new(prefix: &[f16], of: usize) -> SampleQuery {
        let prefix = &prefix[..prefix.len().min(SAMPLE_DIMS)];
        let largest = prefix.iter().fold(0f32, |max, v| max.max(v.to_f32().abs()));
        let scale = if largest > 0.0 {
            f32::from(i16::MAX) / largest
        } else {
            0.0
        };
        let values = prefix.iter().map(|v| (v.to_f32() * scale).round() as i16);
        SampleQuery::of_values(values.collect(), of)
    }

    fn of_values(values: Vec<i16>, of: usize) -> SampleQuery {
        let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        SampleQuery {
            values,
            norm: squares.sqrt(),
            of,
        }
    }
}

/// A serialised sample.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    dims: &'a [u8],
    codes: &'a [u8],
    width: usize,
}

impl<'a> Sample<'a> {
    /// `None` unless the bytes are a valid sample.
    pub fn parse(bytes: &'a [u8]) -> Option<Sample<'a>> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let [f0, f1, w0, w1, rows @ ..] = *header;
        let width = usize::from(u16::from_ne_bytes([w0, w1]));
        let rows = usize::try_from(u32::from_ne_bytes(rows)).ok()?;
        let known = u16::from_ne_bytes([f0, f1]) == FORMAT && (1..=SAMPLE_DIMS).contains(&width);
        if !known || rows.checked_mul(2 + width)? != body.len() {
            return None;
        }
        let (dims, codes) = body.split_at(2 * rows);
        Some(Sample { dims, codes, width })
    }

    /// Number of sampled rows.
    pub fn rows(&self) -> usize {
        self.dims.len() / 2
    }

    /// Dimensions of a row's whole vector.
    pub fn dims(&self, row: usize) -> usize {
        usize::from(u16::from_ne_bytes([
            self.dims[2 * row],
            self.dims[2 * row + 1],
        ]))
    }

    /// The first `dims` values of a row as a query; `None` if the row has fewer.
    pub fn query(&self, row: usize, dims: usize) -> Option<SampleQuery> {
        let of = self.dims(row);
        if dims > of {
            return None;
        }
        let codes = &self.codes[row * self.width..][..dims.min(self.width)];
        // At most as large as the values of other queries, so no sum overflows.
        let values = codes.iter().map(|&code| i16::from(code as i8));
        Some(SampleQuery::of_values(values.collect(), of))
    }

    /// The share of rows whose similarity to the query is at least `threshold`, excluding the row
    /// `skip`.
    ///
    /// Only rows with the query's number of dimensions count. On other rows the filter raises an
    /// error, so a query that succeeds must exclude them by another condition, whose selectivity
    /// the planner includes separately. `None` if there are no such rows.
    pub fn share(&self, query: &SampleQuery, threshold: f32, skip: Option<usize>) -> Option<f64> {
        let threshold = f64::from(threshold);
        let compared = query.values.len().min(self.width);
        let mut similarities = Vec::with_capacity(self.rows());
        let mut hits = 0.0;
        for row in (0..self.rows()).filter(|&row| self.dims(row) == query.of && Some(row) != skip) {
            let codes = &self.codes[row * self.width..][..compared];
            let (dot, square) = dot_and_square(codes, &query.values[..compared]);
            let (similarity, hit) = if square == 0 || query.norm == 0.0 {
                (0.0, if threshold <= 0.0 { 1.0 } else { 0.0 })
            } else {
                let norm = f64::from(square).sqrt();
                let similarity = (f64::from(dot) / (norm * query.norm)).clamp(-1.0, 1.0);
                // Rounding has moved each value of the row by up to half a code, and the similarity
                // by about that fraction of the norm. A row this close to the threshold counts as
                // part of a match. (So duplicates of the query match at threshold 1.)
                (
                    similarity,
                    ((similarity - threshold) * norm + 0.5).clamp(0.0, 1.0),
                )
            };
            hits += hit;
            similarities.push(similarity);
        }
        if similarities.is_empty() {
            return None;
        }
        let counted = hits / similarities.len() as f64;
        if hits >= TAIL as f64 {
            return Some(counted);
        }
        // The tail estimate has the weight of one match: full weight without matches, little weight
        // with several.
        let tail = tail_share(&mut similarities, threshold);
        Some((hits * counted + tail) / (hits + 1.0))
    }
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
    use super::*;
    use crate::{Query, from_f32s};

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
        for vector in vectors {
            builder.push(vector.len(), &vector[..vector.len().min(SAMPLE_DIMS)]);
        }
        builder.finish()
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
    }
}
