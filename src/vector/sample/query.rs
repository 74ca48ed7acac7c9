//! A query in the form in which it is compared with the rows of a sample.

use half::f16;

use super::SAMPLE_DIMS;
use crate::rest::ratio;

/// A query, prepared for comparison with a sample.
pub struct SampleQuery {
    pub(super) prefix: Quantised,
    /// Dimensions of the whole query vector.
    pub(super) of: usize,
    /// What is known of a query that compares more than [`SAMPLE_DIMS`] values.
    pub(super) longer: Option<Longer>,
}

/// Up to [`SAMPLE_DIMS`] values of a query, as integers, and their norm.
pub(super) struct Quantised {
    values: Vec<i16>,
    norm: f64,
}

pub(super) struct Longer {
    /// Number of compared values.
    pub(super) dims: usize,
    /// The norm of the prefix, divided by that of the compared values.
    pub(super) prefix_norm: f64,
    /// The values behind the prefix, divided by the norm of all. Empty unless all are known.
    pub(super) rest: Vec<f32>,
}

impl Quantised {
    pub fn new(values: impl Iterator<Item = f32> + Clone) -> Quantised {
        let largest = values.clone().fold(0f32, |max, value| max.max(value.abs()));
        let scale = if largest > 0.0 {
            f32::from(i16::MAX) / largest
        } else {
            0.0
        };
        Quantised::of_values(values.map(|value| (value * scale).round() as i16).collect())
    }

    pub fn of_values(values: Vec<i16>) -> Quantised {
        let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        Quantised {
            values,
            norm: squares.sqrt(),
        }
    }

    /// The cosine with the codes of a row, and the norm of the codes; `None` if either is zero.
    pub fn cosine(&self, codes: &[u8]) -> Option<(f64, f64)> {
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
                prefix_norm: ratio(known.sqrt(), norm, 1.0),
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
