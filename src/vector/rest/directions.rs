//! The directions in which the values behind the prefixes differ most, and the projection onto them.

use half::f16;

use super::floats;
use crate::kernel::{dot_and_squared_norm, squared_norm};

/// Iterations of the power method. Two to five of them give the same estimates.
const ITERATIONS: usize = 3;

/// Directions of the values behind the prefix, each of length one and orthogonal to the others, but
/// for the rounding to codes.
pub struct Directions<'a> {
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

/// The first `count` principal components of the rows, or fewer if the rows span fewer dimensions,
/// by the power method on all of them at once (subspace iteration). The rows are not centred: their
/// mean is one of the things that a sketch has to represent.
pub fn principal_directions(rows: &[&[f16]], count: usize) -> Vec<Vec<f32>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_f32s;

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
