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
use half::slice::HalfFloatSliceExt;
use photosearch_cpu::vectorised;

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

/// A value is infinite or not a number: no vector has one, unless its bytes were damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

/// Encodes prefixes of one length, one at a time.
pub struct Encoder {
    dims: usize,
    units: [f64; 2],
    scale: [u8; 4],
    bounds: [u8; 4],
    codes: Vec<u8>,
    fine: Vec<u8>,
    /// The prefix, as it is and normalised. As long as the codes; zero behind the prefix's values.
    wide: Vec<f32>,
    unit: Vec<f64>,
    /// Both levels together.
    steps: Vec<i32>,
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
            wide: vec![0.0; layout.stride()],
            unit: vec![0.0; layout.stride()],
            steps: vec![0; layout.stride()],
        }
    }

    /// Encodes a prefix. After an error the encoder holds nothing of use.
    ///
    /// # Panics
    /// If it is not as long as the layout says.
    pub fn encode(&mut self, prefix: &[f16]) -> Result<(), NotFinite> {
        encode(self, prefix)
    }

    /// The same operations in the same order, whatever instructions they become.
    #[inline(always)]
    pub(super) fn encode_as_compiled(&mut self, prefix: &[f16]) -> Result<(), NotFinite> {
        assert_eq!(prefix.len(), self.dims, "prefix of another length");
        prefix.convert_to_f32_slice(&mut self.wide[..self.dims]);
        // Sums of squares of halves are far from the limits of f64.
        let norm = sum(blocks(&self.wide).map(|b| b.map(|v| f64::from(v).powi(2)))).sqrt();
        let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        for (unit, value) in self.unit.iter_mut().zip(&self.wide) {
            *unit = f64::from(*value) * inverse;
        }
        // Positive values are in the order of their bits, NaNs behind infinity.
        let largest = self.wide.iter().map(|v| v.abs().to_bits()).max();
        let largest = f32::from_bits(largest.unwrap_or(0));
        if !largest.is_finite() {
            return Err(NotFinite);
        }
        let largest = f64::from(largest) * inverse;
        let scale = (largest / MAX_CODE) as f32;
        let step = f64::from(scale) / f64::from(FINE_STEPS);
        let inverse_step = if step > 0.0 { 1.0 / step } else { 0.0 };

        // In range: |unit| ≤ largest, and the f32 scale is within 2^-24 of largest / 127.
        for (steps, unit) in self.steps.iter_mut().zip(&self.unit) {
            *steps = nearest(unit * inverse_step);
        }
        for (code, steps) in self.codes.iter_mut().zip(&self.steps) {
            *code = (coarse(*steps) + BIAS) as u8;
        }
        for (pair, [low, high]) in self.fine.iter_mut().zip(self.steps.as_chunks().0) {
            let nibble = |steps: i32| (steps - FINE_STEPS * coarse(steps) + 8) as u8;
            *pair = nibble(*low) | nibble(*high) << 4;
        }
        let lost = |left: fn(i32) -> i32| {
            let values = blocks(&self.unit).zip(blocks(&self.steps));
            sum(values.map(|(units, steps)| {
                let mut squares = [0.0; LANES];
                for ((square, unit), steps) in squares.iter_mut().zip(units).zip(steps) {
                    *square = (unit - step * f64::from(left(steps))).powi(2);
                }
                squares
            }))
        };
        let lost = [
            lost(|steps| FINE_STEPS * coarse(steps)),
            lost(|steps| steps),
        ];
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
        Ok(())
    }

    /// Scale, bounds, codes of the first level, codes of the second, as they are stored.
    pub fn parts(&self) -> [&[u8]; 4] {
        [&self.scale, &self.bounds, &self.codes, &self.fine]
    }
}

vectorised! {
    fn encode(encoder: &mut Encoder, prefix: &[f16]) -> Result<(), NotFinite> {
        encoder.encode_as_compiled(prefix)
    }
}

/// Values that the compiler can keep in registers side by side.
pub const LANES: usize = 8;

#[inline(always)]
fn blocks<T: Copy>(values: &[T]) -> impl Iterator<Item = [T; LANES]> {
    values.as_chunks().0.iter().copied()
}

#[inline(always)]
fn sum(blocks: impl Iterator<Item = [f64; LANES]>) -> f64 {
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += value;
        }
    }
    lanes.iter().sum()
}

/// The first level's part of [`steps`].
#[inline(always)]
fn coarse(steps: i32) -> i32 {
    (steps + FINE_STEPS / 2) >> FINE_STEPS.trailing_zeros()
}

/// The nearest whole number, of two the even one, for values up to 2^31. With 1.5 · 2^52 added no bits
/// are left behind the point, and the lowest are those of the whole number.
#[inline(always)]
fn nearest(value: f64) -> i32 {
    const NO_FRACTION: f64 = 6_755_399_441_055_744.0;
    (value + NO_FRACTION).to_bits() as i32
}

/// The two bounds of an entry, as they are stored.
pub fn split_bounds(bounds: [u8; 4]) -> [u16; 2] {
    let [a, b, c, d] = bounds;
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// `w` of values whose codes these are: both levels together, in sixteenths of the scale.
#[inline(always)]
pub fn steps(codes: [u8; LANES], fine: [u8; LANES / 2]) -> [i32; LANES] {
    std::array::from_fn(|i| {
        let nibble = i32::from(fine[i / 2] >> (4 * (i % 2)) & 0xf);
        FINE_STEPS * (i32::from(codes[i]) - BIAS) + nibble - 8
    })
}

/// The length of one of [`steps`], in scales.
pub const STEP: f64 = 1.0 / FINE_STEPS as f64;
