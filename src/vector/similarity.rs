//! Cosine similarity, with the query's part computed once per query.

use half::f16;

use super::VectorError;
use super::kernel::{dot_and_squared_norm, squared_norm};

/// `dot / (‖x‖ ‖q‖)` from the kernel's sums, clamped to [-1, 1]; 0 if either vector is zero.
///
/// A vector's similarity to itself is exactly 1, because the square root of the square of an f32 is
/// exact in f64.
#[inline]
pub fn cosine(dot: f32, squared_norm_x: f32, squared_norm_q: f32) -> f64 {
    if squared_norm_x == 0.0 || squared_norm_q == 0.0 {
        return 0.0;
    }
    let norms = (f64::from(squared_norm_x) * f64::from(squared_norm_q)).sqrt();
    (f64::from(dot) / norms).clamp(-1.0, 1.0)
}

/// Maximum difference between [`Query::similarity`] over `dims` values and the exact cosine.
///
/// Each product goes through at most n = dims / 32 + 8 additions in f32: those of its lane, the
/// tail's, and five of the fold. So the error of the dot product is at most γ ‖x‖ ‖q‖, and the
/// relative error of a squared norm is at most γ, with γ = n u / (1 - n u) and u = 2^-24 (Higham,
/// Accuracy and Stability of Numerical Algorithms, 3.1). The error of the quotient is at most γ + γ
/// |cosine| plus second-order terms; 2.1 n u covers them for all `dims` up to [`super::MAX_DIMS`].
/// Products of f16 values are multiples of 2^-48, so nothing underflows.
pub fn similarity_error(dims: usize) -> f64 {
    2.1 * (dims / 32 + 8) as f64 * (f64::from(f32::EPSILON) / 2.0)
}

/// A query's prefix, converted to f32 and with its norm computed, for comparison with many rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    values: Vec<f32>,
    squared_norm: f32,
    /// Dimensions of the whole query vector.
    of: usize,
}

impl Query {
    /// Takes the first `dims` values of the vector `values`.
    ///
    /// # Errors
    /// [`VectorError::PrefixOutOfRange`] unless `dims` lies in `1..=values.len()`.
    pub fn new(values: &[f16], dims: usize) -> Result<Query, VectorError> {
        if dims == 0 || dims > values.len() {
            let dims = i64::try_from(dims).unwrap_or(i64::MAX);
            return Err(VectorError::PrefixOutOfRange {
                dims,
                of: values.len(),
            });
        }
        Ok(Query::from_prefix(&values[..dims], values.len()))
    }

    /// A query of which only the prefix is available. The whole vector has `of` dimensions.
    pub fn from_prefix(prefix: &[f16], of: usize) -> Query {
        Query {
            values: prefix.iter().map(|value| f32::from(*value)).collect(),
            squared_norm: squared_norm(prefix),
            of,
        }
    }

    /// Length of the compared prefix.
    #[inline]
    pub fn compared_dims(&self) -> usize {
        self.values.len()
    }

    /// Dimensions of the whole vector.
    #[inline]
    pub fn of(&self) -> usize {
        self.of
    }

    /// Cosine similarity of the two prefixes. `x` is the row's prefix, with [`Query::compared_dims`] values.
    #[inline]
    pub fn similarity(&self, x: &[f16]) -> f64 {
        let (dot, squared_norm) = dot_and_squared_norm(x, &self.values);
        cosine(dot, squared_norm, self.squared_norm)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::from_f32s;

    fn brute_force(x: &[f32], q: &[f32]) -> f64 {
        let (mut dot, mut xx, mut qq) = (0.0, 0.0, 0.0);
        for (x, q) in x.iter().zip(q) {
            let (x, q) = (f64::from(*x), f64::from(*q));
            dot += x * q;
            xx += x * x;
            qq += q * q;
        }
        if xx == 0.0 || qq == 0.0 {
            0.0
        } else {
            dot / (xx * qq).sqrt()
        }
    }

    proptest! {
        #[test]
        fn equals_brute_force_on_every_prefix(
            pairs in proptest::collection::vec((-3.0f32..3.0, -3.0f32..3.0), 1..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let (x, q): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let (x, q) = (from_f32s(&x).unwrap(), from_f32s(&q).unwrap());
            let dims = cut.index(x.len()) + 1;
            let query = Query::new(&q, dims).unwrap();
            let wide = |v: &[f16]| v[..dims].iter().map(|v| v.to_f32()).collect::<Vec<_>>();
            let expected = brute_force(&wide(&x), &wide(&q));
            prop_assert!((query.similarity(&x[..dims]) - expected).abs() < 1e-5);
            prop_assert_eq!(Query::new(&x, dims).unwrap().similarity(&x[..dims]), 1.0);
        }
    }

    #[test]
    fn zero_vectors_are_similar_to_nothing() {
        let zero = from_f32s(&[0.0, 0.0]).unwrap();
        let one = from_f32s(&[1.0, 0.0]).unwrap();
        assert_eq!(Query::new(&zero, 2).unwrap().similarity(&one), 0.0);
        assert_eq!(Query::new(&one, 2).unwrap().similarity(&zero), 0.0);
        assert_eq!(Query::new(&zero, 2).unwrap().similarity(&zero), 0.0);
    }

    #[test]
    fn prefix_lengths_are_checked() {
        let v = from_f32s(&[1.0, 2.0]).unwrap();
        for dims in [0, 3] {
            assert!(matches!(
                Query::new(&v, dims),
                Err(VectorError::PrefixOutOfRange { of: 2, .. })
            ));
        }
    }
}
