//! A sample of a column's vectors for the server's statistics, and the estimate of a filter's
//! selectivity from it. This module does not depend on PostgreSQL.
//!
//! Each sampled vector is represented by its first [`SAMPLE_DIMS`] values (the prefix), stored as codes:
//! integers in -127..=127. A cosine does not depend on a vector's scale, so the scale is not stored. The
//! rounding changes a similarity by about 0.001, which is far less than the sampling error.
//!
//! For filters that compare more values, a sample of longer vectors has further sections (marked with *).
//! `rest.rs` explains them and their terms: sketch, directions, profile and fit. They apply to vectors of
//! one number of dimensions, `of`, the most frequent one. For all other rows, such a filter is judged by
//! the prefix.
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

mod builder;
mod query;
mod share;
#[cfg(test)]
mod tests;

use crate::rest::{FIT_BYTES, Fit, lengths, profile_at, ratio};

pub use builder::SampleBuilder;
pub use query::SampleQuery;
use query::{Longer, Quantised};

/// Maximum number of values stored per vector.
pub const SAMPLE_DIMS: usize = 256;

/// The version of the layout above. A sample of another version is ignored.
const FORMAT: u16 = 2;
const HEADER: usize = 12;
const LARGEST_SHARE: f64 = 65_535.0;

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

    /// The first `dims` values of a row as a query; `None` if the row has fewer. If `dims` exceeds
    /// [`SAMPLE_DIMS`], the query has the prefix and its share of the norm, but no sketch, which would mean
    /// nothing to the sample of another column.
    pub fn query(&self, row: usize, dims: usize) -> Option<SampleQuery> {
        let of = self.dims(row);
        if dims > of {
            return None;
        }
        let codes = &self.codes(row)[..dims.min(self.width)];
        // Codes are smaller than the values of other queries (up to `i16::MAX`), so no sum overflows.
        let values = codes.iter().map(|&code| i16::from(code as i8));
        let rests = self.rests.filter(|rests| rests.of == of);
        Some(SampleQuery {
            prefix: Quantised::of_values(values.collect()),
            of,
            longer: rests.filter(|_| dims > SAMPLE_DIMS).map(|rests| Longer {
                dims,
                prefix_norm: rests.prefix_norm(row, dims),
                rest: Vec::new(),
            }),
        })
    }

    fn codes(&self, row: usize) -> &'a [u8] {
        &self.codes[row * self.width..][..self.width]
    }
}
