//! How a prefix is coded, and how much the code loses.
//!
//! With `u` the prefix divided by its norm, `scale` is the largest of its absolute values divided
//! by 127. Each value is rounded to a whole number `w` of sixteenths of the scale, in
//! -2032..=2032, and kept as `w = 16 c + f`: `c` in -127..=127 is the first level, of 8 bits,
//! `f` in -8..=7 the second, of 4.
//!
//! The first level stands for `scale · c`, within 8.5/16 of the scale of each value, both together
//! for `scale · w / 16`, within 1/32. The norms of what each loses are stored as whole numbers of
//! a unit, rounded up. The unit is fixed by the number of dimensions such that the worst case
//! fits into 16 bits.
//!
//! A prefix of zeros has scale 0: its code loses nothing. No first bound is 0 all the same: that
//! marks a place on a page that is free.

use half::f16;

use super::ARITHMETIC;
use super::layout::Layout;

/// The largest code of the first level.
const MAX_CODE: f64 = 127.0;
/// Steps of the second level in one of the first.
const FINE_STEPS: i32 = 16;
/// What a level may lose of one value, in scales, and a little more (the scale is rounded to f32).
const WORST: [f64; 2] = [8.5 / 16.0 * 1.01, 1.0 / 32.0 * 1.01];
/// Codes of the first level are stored with this added, as unsigned bytes, which is what the
/// instructions for integer dot products take.
pub const BIAS: i32 = 128;

/// The norm that one unit of a stored bound stands for, of the first and the second level.
pub fn bound_units(dims: usize) -> [f64; 2] {
    // No scale is above 1/127.
    WORST.map(|worst| worst * (dims as f64).sqrt() / MAX_CODE / f64::from(u16::MAX))
}

/// Encodes prefixes of one length, one at a time.
pub struct Encoder {
    dims: usize,
    units: [f64; 2],
    scale: [u8; 4],
    bounds: [u8; 4],
    codes: Vec<u8>,
    fine: Vec<u8>,
    /// The prefix, normalised.
    unit: Vec<f64>,
}

impl Encoder {
    pub fn new(layout: &Layout) -> Encoder {
        Encoder {
            dims: layout.dims(),
            units: bound_units(layout.dims()),
            scale: [0; 4],
            bounds: [0; 4],
            codes: vec![0; layout.stride()],
            fine: vec![0; layout.stride() / 2],
            unit: vec![0.0; layout.dims()],
        }
    }

    /// Encodes a prefix of finite values.
    ///
    /// # Panics
    /// If it is not as long as the layout says.
    pub fn encode(&mut self, prefix: &[f16]) {
        assert_eq!(prefix.len(), self.dims, "prefix of another length");
        // Sums of squares of halves are far from the limits of f64.
        let norm = prefix
            .iter()
            .map(|v| v.to_f64().powi(2))
            .sum::<f64>()
            .sqrt();
        let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        for (unit, value) in self.unit.iter_mut().zip(prefix) {
            *unit = value.to_f64() * inverse;
        }
        let largest = self.unit.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let scale = (largest / MAX_CODE) as f32;
        let step = f64::from(scale) / f64::from(FINE_STEPS);
        let inverse_step = if step > 0.0 { 1.0 / step } else { 0.0 };

        self.codes.fill(BIAS as u8);
        self.fine.fill(8 | 8 << 4);
        let mut lost = [0.0f64; 2];
        for (i, unit) in self.unit.iter().enumerate() {
            // In range: |unit| ≤ largest, and the f32 scale is within 2^-24 of largest / 127.
            let steps = (unit * inverse_step).round_ties_even() as i32;
            let code = (steps + FINE_STEPS / 2).div_euclid(FINE_STEPS);
            let fine = steps - FINE_STEPS * code;
            self.codes[i] = (code + BIAS) as u8;
            let shift = 4 * (i % 2);
            self.fine[i / 2] = self.fine[i / 2] & !(0xf << shift) | ((fine + 8) as u8) << shift;
            lost[0] += (unit - f64::from(scale) * f64::from(code)).powi(2);
            lost[1] += (unit - step * f64::from(steps)).powi(2);
        }
        self.scale = scale.to_ne_bytes();
        for ((lost, unit), stored) in lost
            .into_iter()
            .zip(self.units)
            .zip(self.bounds.as_chunks_mut().0)
        {
            let bound = ((lost.sqrt() + ARITHMETIC) / unit).ceil();
            assert!(bound <= f64::from(u16::MAX), "what a code loses is bounded");
            *stored = (bound as u16).to_ne_bytes();
        }
    }

    /// Scale, bounds, codes of the first level, codes of the second, as they are stored.
    pub fn parts(&self) -> [&[u8]; 4] {
        [&self.scale, &self.bounds, &self.codes, &self.fine]
    }
}

/// The two bounds of an entry, as they are stored.
pub fn split_bounds(bounds: [u8; 4]) -> [u16; 2] {
    let [a, b, c, d] = bounds;
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// `w` of value `i`: both levels together, in sixteenths of the scale.
#[inline(always)]
pub fn steps(code: u8, fine: u8, i: usize) -> i32 {
    let nibble = i32::from(fine >> (4 * (i % 2)) & 0xf);
    FINE_STEPS * (i32::from(code) - BIAS) + nibble - 8
}

/// The length of one of [`steps`], in scales.
pub const STEP: f64 = 1.0 / FINE_STEPS as f64;
