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
//! The known part is larger than the prefix: of the rest, which is the values behind the prefix, a sample
//! also holds the *sketch*: the projection onto `SKETCH_DIMS` directions in which the rests of the
//! column's rows differ most, their principal components. Without it, estimates would be too low for a
//! query whose rest lies close to the mean of all rests, and too high for one whose rest lies far from it.
//!
//! The directions are found from other rows than those that fit `r`. Rows from which directions were
//! found lie closer to them than a query that the column has never seen.
//!
//! A filter on more than [`SAMPLE_DIMS`] values but not on all has no sketch. It uses the fit of the
//! next of [`lengths`]. How much of the rest's squared norm lies before the filter's length is taken from
//! the *profile*, which is a mean over the rows.
//!
//! The table shows the factor by which an estimate is wrong, as the median and the 90th percentile of 60
//! queries that are not in the table, for filters on whole vectors that match 5%, 1% and so on of 20,000
//! rows. The first line of each kind of vectors is by the prefixes alone, the second as described here:
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

mod calibration;
mod directions;
mod fit;

use super::SAMPLE_DIMS;

pub use calibration::{Calibration, Pilot};
pub(crate) use directions::Directions;
pub(crate) use fit::{FIT_BYTES, Fit, Ranks, scale};

/// If the unknown parts contribute less than this to a similarity, they are neglected.
pub(crate) const NEGLIGIBLE: f64 = 1e-3;

/// The prefix lengths for which a sample of vectors of `of` dimensions has a fit: powers of two and
/// `of` itself.
pub(crate) fn lengths(of: usize) -> impl Iterator<Item = usize> {
    let powers = std::iter::successors(Some(2 * SAMPLE_DIMS), |length| Some(2 * length));
    powers.take_while(move |&length| length < of).chain([of])
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

pub(crate) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let chunks = bytes.as_chunks::<4>().0;
    chunks.iter().map(|&bytes| f32::from_ne_bytes(bytes))
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
    /// Of a vector without values behind its prefix, and of the zero vector.
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
    prefix_square: f64,
    squares: Vec<f64>,
}

impl Parts {
    /// For a vector to which the directions do not apply.
    pub fn none(sketch_dims: usize) -> Parts {
        Parts {
            norms: Norms::PREFIX,
            sketch: vec![0.0; sketch_dims],
            prefix_square: 0.0,
            squares: Vec::new(),
        }
    }

    fn whole(&self) -> f64 {
        self.squares.last().copied().unwrap_or(0.0)
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
}
