//! What ANALYZE learns about the values behind the prefixes: directions from some rows that it has read
//! whole, and fits from others.

use half::f16;

use super::directions::{Directions, principal_directions};
use super::fit::Fit;
use super::{NEGLIGIBLE, Norms, Parts, lengths, ratio};
use crate::SAMPLE_DIMS;
use crate::kernel::{dot_and_squared_norm, squared_norm};

/// Maximum number of directions. Fewer if the vectors have so many dimensions that the directions
/// would exceed [`DIRECTION_VALUES`], of a byte each in the sample.
const SKETCH_DIMS: usize = 32;
const DIRECTION_VALUES: usize = 128 << 10;

/// Rows that [`Calibration`] is made from: 510 for the directions and 102 for the fits. Fewer if they
/// have so many dimensions that they would exceed [`PILOT_VALUES`], of two bytes each in memory.
const PILOT_ROWS: usize = 612;
const PILOT_VALUES: usize = 4 << 20;

/// With fewer pilot rows there is no calibration.
const FEWEST_PILOT_ROWS: usize = 64;

/// Every sixth of the pilot rows is compared with the sample, and the others give the directions.
const QUERY_EVERY: usize = 6;

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

    /// Adds the row with the number `row`, for which [`Pilot::takes`] is true; `values` are all its values.
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

struct CalibrationQuery {
    row: usize,
    values: Vec<f32>,
    parts: Parts,
    /// For each of [`lengths`], and last for all dimensions with the sketch: the cosines of known and
    /// unknown parts.
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
        let cosine = ratio(prefix, (x.prefix_square * q.prefix_square).sqrt(), 0.0) as f32;
        let (mut from, mut product) = (SAMPLE_DIMS, prefix);
        for (i, to) in lengths(of).enumerate() {
            product += dot(from, to);
            from = to;
            let behind = (x.squares[i] - x.prefix_square) * (q.squares[i] - q.prefix_square);
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
            prefix_square: prefix,
            squares,
        }
    }

    /// Learns from the row of the sample with the number `row`, and returns its parts.
    pub(crate) fn add(&mut self, row: usize, values: &[f16]) -> Parts {
        let parts = self.parts(values);
        let behind = parts.whole() - parts.prefix_square;
        if behind > 0.0 {
            for (sum, square) in self.profile.iter_mut().zip(&parts.squares) {
                *sum += (square - parts.prefix_square) / behind;
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
