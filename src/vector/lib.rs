//! Half-precision vectors: conversion, text form, the kernel that computes every exact similarity, and
//! the sample from which the planner estimates. This crate does not depend on PostgreSQL.

mod condition;
mod error;
mod kernel;
mod rest;
mod sample;
mod similarity;
mod text;

pub use condition::{CompareOp, Measure, ScoreCondition, ScoreCutoffs};
pub use error::VectorError;
pub use kernel::{dot_and_squared_norm, squared_norm};
pub use rest::{Calibration, Pilot};
pub use sample::{SAMPLE_DIMS, Sample, SampleBuilder, SampleQuery};
pub use similarity::{Query, cosine, similarity_error};
pub use text::{parse, write_f16};

use half::f16;
use half::slice::HalfFloatSliceExt;

/// The maximum number of dimensions, as in pgvector's `halfvec`.
pub const MAX_DIMS: usize = 16_000;

/// Checks that a number of dimensions lies in `1..=MAX_DIMS`.
#[inline]
pub fn check_dims(dims: usize) -> Result<(), VectorError> {
    match dims {
        0 => Err(VectorError::NoDimensions),
        n if n > MAX_DIMS => Err(VectorError::TooManyDimensions(n)),
        _ => Ok(()),
    }
}

/// Rounds to the nearest f16 (ties to even). Fails for NaN, infinities and magnitudes that would
/// round to infinity (65,520 and above).
#[inline]
pub fn to_f16(value: f32) -> Result<f16, VectorError> {
    let half = f16::from_f32(value);
    if half.is_finite() {
        return Ok(half);
    }
    Err(no_half(value))
}

/// The reason why a value has no finite f16.
#[cold]
fn no_half(value: f32) -> VectorError {
    if value.is_nan() {
        VectorError::NotANumber
    } else if value.is_infinite() {
        VectorError::Infinite
    } else {
        VectorError::OutOfRange(value.to_string())
    }
}

/// Rounds an f64 to the nearest f16 (ties to even) in one step, with the same result on every CPU.
/// (A conversion through f32 would round twice, and the conversions of libraries differ by CPU.)
/// Magnitudes of 65,520 and above become infinite.
#[inline]
pub fn round_to_f16(value: f64) -> f16 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return f16::from_f32(nearest);
    }
    // Convert to f32 by rounding to odd (Boldo and Melquiond 2008, "Emulation of FMA and Correctly
    // Rounded Sums"): truncate, and set the last bit if the result is inexact. f32 has 24 bits for
    // the 11 of f16, so the second rounding gives the same result as a single one.
    let away = f64::from(nearest).abs() > value.abs();
    let cut = nearest.to_bits() - u32::from(away);
    f16::from_f32(f32::from_bits(cut | 1))
}

/// Checks the number of dimensions and rounds every value with [`to_f16`].
pub fn from_f32s(values: &[f32]) -> Result<Vec<f16>, VectorError> {
    check_dims(values.len())?;
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    // Without an early end, so that the loop is vectorized.
    let all_finite = halves.iter().fold(true, |all, half| all & half.is_finite());
    if all_finite {
        return Ok(halves);
    }
    values.iter().map(|&value| to_f16(value)).collect()
}

/// Scales the vector to length one; a zero vector stays zero.
///
/// The quotients are computed in f64, so each is rounded to f16 only once.
pub fn normalize(values: &[f16]) -> Vec<f16> {
    let norm = f64::from(squared_norm(values)).sqrt();
    if norm == 0.0 {
        return values.to_vec();
    }
    values
        .iter()
        .map(|value| round_to_f16(f64::from(*value) / norm))
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
    fn doubles_are_rounded_once() {
        let ulp = 2f64.powi(-10);
        for (value, expected) in [
            // Slightly above, exactly at and slightly below the middle between two f16 values.
            (1.0 + ulp / 2.0 + 2f64.powi(-40), 1.0 + ulp),
            (1.0 + ulp / 2.0 + 2f64.powi(-22), 1.0 + ulp),
            (1.0 + ulp / 2.0, 1.0),
            (1.0 + ulp * 1.5, 1.0 + 2.0 * ulp),
            (1.0 + ulp * 1.5 - 2f64.powi(-40), 1.0 + ulp),
            (65519.99999999, 65504.0),
            (2f64.powi(-25) + 2f64.powi(-60), 2f64.powi(-24)),
            (2f64.powi(-25), 0.0),
            (1e-300, 0.0),
        ] {
            for sign in [1.0, -1.0] {
                let got = round_to_f16(sign * value);
                assert_eq!(got.to_f64(), sign * expected, "{value:e}");
            }
        }
        for value in [65520.0, 1e30, 1e300, f64::MAX] {
            assert!(round_to_f16(value).is_infinite());
        }
        // Every f16 value, and the middle between it and the next: ties to even, by definition.
        for bits in 0..0x7bff_u16 {
            let (low, high) = (f16::from_bits(bits), f16::from_bits(bits + 1));
            let middle = (low.to_f64() + high.to_f64()) / 2.0;
            let even = if bits % 2 == 0 { low } else { high };
            assert_eq!(round_to_f16(low.to_f64()), low);
            assert_eq!(round_to_f16(middle), even);
            assert_eq!(round_to_f16(middle * (1.0 - f64::EPSILON)), low);
            assert_eq!(round_to_f16(middle * (1.0 + f64::EPSILON)), high);
        }
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
        // The smallest f16 values still give a nonzero norm.
        let tiny = vec![f16::from_bits(1); 16];
        assert_eq!(normalize(&tiny), vec![f16::from_f32(0.25); 16]);
    }
}
