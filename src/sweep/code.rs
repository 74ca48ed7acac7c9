//! Encodes vector prefixes, and bounds the error of the codes.
//!
//! Let `u` be the prefix divided by its norm. `scale` is the largest absolute value of `u` divided
//! by 127. Each value is rounded to an integer `w` in units of scale / 16, in -2032..=2032, and
//! stored as `w = 16 c + f`. `c` in -127..=127 is the first level, of 8 bits; `f` in -8..=7 is the
//! second level, of 4 bits.
//!
//! The first level alone represents `scale · c`, with an error of at most 8.5/16 of the scale per
//! value. Both levels together represent `scale · w / 16`, with an error of at most 1/32 of the
//! scale. The norm of each level's error is stored as a multiple of a unit, rounded up. The
//! unit depends only on the number of dimensions, and is chosen such that the worst case fits into
//! 16 bits.
//!
//! A prefix of zeros has scale 0 and no error. Its first bound is nevertheless stored as at least
//! 1, because a first bound of 0 marks a free place on a page.

use half::f16;
use half::slice::HalfFloatSliceExt;
use photosearch_cpu::vectorised;

use super::ARITHMETIC;
use super::layout::Layout;

/// The largest code of the first level.
const MAX_CODE: f64 = 127.0;
/// Number of second-level steps in one first-level step.
pub const FINE_STEPS: i32 = 16;
/// The maximum error of a level per value, in scales. The margin covers the rounding of the scale
/// to f32.
const WORST: [f64; 2] = [8.5 / 16.0 * 1.01, 1.0 / 32.0 * 1.01];
/// Added to first-level codes, which are stored as unsigned bytes because the instructions for
/// integer dot products need them.
pub const BIAS: i32 = 128;

/// Added to second-level codes, which are stored as unsigned halves of bytes.
pub const FINE_BIAS: i32 = FINE_STEPS / 2;

/// The norm that one unit of a stored bound represents, for the first and the second level.
pub fn bound_units(dims: usize) -> [f64; 2] {
    // No scale exceeds 1/127.
    WORST.map(|worst| worst * (dims as f64).sqrt() / MAX_CODE / f64::from(u16::MAX))
}

/// The prefix contains an infinite value or a NaN. No valid vector does, so its bytes were damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

/// Encodes prefixes of one length, one at a time.
pub struct Encoder {
    dims: usize,
    bound_units: [f64; 2],
    scale: [u8; 4],
    bounds: [u8; 4],
    codes: Vec<u8>,
    fine: Vec<u8>,
    /// The prefix, as given and normalised. Both are as long as the codes; values after the
    /// prefix's end are zero.
    wide: Vec<f32>,
    unit: Vec<f64>,
    /// The codes of both levels together.
    steps: Vec<i32>,
}

impl Encoder {
    pub fn new(layout: &Layout) -> Encoder {
        Encoder {
            dims: layout.dims(),
            bound_units: bound_units(layout.dims()),
            scale: [0; 4],
            bounds: [0; 4],
            codes: vec![0; layout.stride()],
            fine: vec![0; layout.stride() / 2],
            wide: vec![0.0; layout.stride()],
            unit: vec![0.0; layout.stride()],
            steps: vec![0; layout.stride()],
        }
    }

    /// Encodes a prefix. After an error, the encoder's contents are invalid.
    ///
    /// # Panics
    /// If the prefix does not have the layout's number of dimensions.
    pub fn encode(&mut self, prefix: &[f16]) -> Result<(), NotFinite> {
        encode(self, prefix)
    }

    /// [`Encoder::encode`] with the instruction set of the function into which it is inlined. The
    /// operations and their order are the same with every set, and so is the result.
    #[inline(always)]
    pub(super) fn encode_as_compiled(&mut self, prefix: &[f16]) -> Result<(), NotFinite> {
        assert_eq!(prefix.len(), self.dims, "prefix of another length");
        prefix.convert_to_f32_slice(&mut self.wide[..self.dims]);
        // A sum of squares of f16 values is far from the limits of f64.
        let norm = sum(blocks(&self.wide).map(|b| b.map(|v| f64::from(v).powi(2)))).sqrt();
        let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        for (unit, value) in self.unit.iter_mut().zip(&self.wide) {
            *unit = f64::from(*value) * inverse;
        }
        // Non-negative values have the order of their bits, and NaNs come after infinity.
        let largest = self.wide.iter().map(|v| v.abs().to_bits()).max();
        let largest = f32::from_bits(largest.unwrap_or(0));
        if !largest.is_finite() {
            return Err(NotFinite);
        }
        let largest = f64::from(largest) * inverse;
        let scale = (largest / MAX_CODE) as f32;
        let step = f64::from(scale) / f64::from(FINE_STEPS);
        let inverse_step = if step > 0.0 { 1.0 / step } else { 0.0 };

        // The result is in range: |unit| ≤ largest, and the f32 scale is within 2^-24 of largest /
        // 127.
        for (steps, unit) in self.steps.iter_mut().zip(&self.unit) {
            *steps = nearest(unit * inverse_step);
        }
        for (code, steps) in self.codes.iter_mut().zip(&self.steps) {
            *code = (coarse(*steps) + BIAS) as u8;
        }
        for (pair, [low, high]) in self.fine.iter_mut().zip(self.steps.as_chunks().0) {
            let nibble = |steps: i32| (steps - FINE_STEPS * coarse(steps) + FINE_BIAS) as u8;
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
            .zip(self.bound_units)
            .zip(self.bounds.as_chunks_mut().0)
        {
            let bound = ((lost.sqrt() + ARITHMETIC) / unit).ceil();
            assert!(
                bound <= f64::from(u16::MAX),
                "the error of a code is bounded"
            );
            *stored = (bound as u16).to_ne_bytes();
        }
        Ok(())
    }

    /// The stored parts: scale, bounds, codes of the first level, codes of the second level.
    pub fn parts(&self) -> [&[u8]; 4] {
        [&self.scale, &self.bounds, &self.codes, &self.fine]
    }
}

vectorised! {
    fn encode(encoder: &mut Encoder, prefix: &[f16]) -> Result<(), NotFinite> {
        encoder.encode_as_compiled(prefix)
    }
}

/// Number of values that the compiler can process side by side in registers.
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

/// The first level `c` of the value `w = 16 c + f`.
#[inline(always)]
fn coarse(steps: i32) -> i32 {
    (steps + FINE_STEPS / 2) >> FINE_STEPS.trailing_zeros()
}

/// The nearest integer, ties to even, for values up to 2^31. Adding 1.5 · 2^52 leaves no fraction
/// bits, so the low bits are those of the integer.
#[inline(always)]
fn nearest(value: f64) -> i32 {
    const NO_FRACTION: f64 = 6_755_399_441_055_744.0;
    (value + NO_FRACTION).to_bits() as i32
}

/// The two bounds of an entry, as stored.
pub fn split_bounds(bounds: [u8; 4]) -> [u16; 2] {
    let [a, b, c, d] = bounds;
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The values `w` for these codes: both levels together, in sixteenths of the scale.
#[inline(always)]
pub fn steps(codes: [u8; LANES], fine: [u8; LANES / 2]) -> [i32; LANES] {
    std::array::from_fn(|i| {
        let nibble = i32::from(fine[i / 2] >> (4 * (i % 2)) & 0xf);
        FINE_STEPS * (i32::from(codes[i]) - BIAS) + nibble - FINE_BIAS
    })
}

/// What 1 in a value `w` stands for, in units of the scale.
pub const STEP: f64 = 1.0 / FINE_STEPS as f64;
