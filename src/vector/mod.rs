//! The vector itself: half-precision values, their text form, and the one kernel behind every
//! similarity. Knows no Postgres.

mod error;
mod kernel;
mod similarity;
mod text;

pub use error::VectorError;
pub use kernel::{Kernel, dot_and_squared_norm, squared_norm};
pub use similarity::{Query, cosine};
pub use text::parse;

use half::f16;

/// The most dimensions a vector can have, as in pgvector's `halfvec`.
pub const MAX_DIMS: usize = 16_000;

/// Checks a dimension count against `1..=MAX_DIMS`.
pub fn check_dims(dims: usize) -> Result<(), VectorError> {
    match dims {
        0 => Err(VectorError::NoDimensions),
        n if n > MAX_DIMS => Err(VectorError::TooManyDimensions(n)),
        _ => Ok(()),
    }
}

/// Rounds to the nearest half (ties to even); NaN, infinities and magnitudes that would round to
/// infinity (65,520 and above) are errors.
pub fn to_f16(value: f32) -> Result<f16, VectorError> {
    if value.is_nan() {
        return Err(VectorError::NotANumber);
    }
    if value.is_infinite() {
        return Err(VectorError::Infinite);
    }
    let half = f16::from_f32(value);
    if half.is_infinite() {
        return Err(VectorError::OutOfRange(value.to_string()));
    }
    Ok(half)
}

/// Rounds every value with [`to_f16`] and checks the dimension count.
pub fn from_f32s(values: &[f32]) -> Result<Vec<f16>, VectorError> {
    check_dims(values.len())?;
    values.iter().map(|&value| to_f16(value)).collect()
}

/// The vector scaled to length one; a zero vector stays zero.
///
/// The scale is applied in f64, so each value is rounded once.
pub fn normalize(values: &[f16]) -> Vec<f16> {
    let norm = f64::from(squared_norm(values)).sqrt();
    if norm == 0.0 {
        return values.to_vec();
    }
    values
        .iter()
        .map(|value| f16::from_f64(f64::from(*value) / norm))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_half_rejects_what_does_not_fit() {
        assert_eq!(to_f16(65519.0).unwrap(), f16::MAX);
        assert!(matches!(to_f16(65520.0), Err(VectorError::OutOfRange(_))));
        assert!(matches!(to_f16(-1e30), Err(VectorError::OutOfRange(_))));
        assert!(matches!(to_f16(f32::NAN), Err(VectorError::NotANumber)));
        assert!(matches!(
            to_f16(f32::NEG_INFINITY),
            Err(VectorError::Infinite)
        ));
        assert_eq!(to_f16(1e-9).unwrap(), f16::ZERO);
    }

    #[test]
    fn dimension_counts() {
        assert!(matches!(check_dims(0), Err(VectorError::NoDimensions)));
        assert!(check_dims(1).is_ok() && check_dims(MAX_DIMS).is_ok());
        assert!(matches!(
            check_dims(16_001),
            Err(VectorError::TooManyDimensions(16_001))
        ));
    }

    #[test]
    fn normalized_vectors_have_length_one() {
        let v = from_f32s(&[3.0, -4.0]).unwrap();
        let n = normalize(&v);
        assert_eq!(n, from_f32s(&[0.6, -0.8]).unwrap());
        let zero = from_f32s(&[0.0, 0.0]).unwrap();
        assert_eq!(normalize(&zero), zero);
        // The smallest values that a half can hold still have a norm.
        let tiny = vec![f16::from_bits(1); 16];
        assert_eq!(normalize(&tiny), vec![f16::from_f32(0.25); 16]);
    }
}
