//! Products of matrices in bf16 with AVX-512.
//!
//! Packed, the outputs stand in groups of [`GROUP`], and in a group, for each pair of inputs, the
//! pairs of all its outputs side by side. So VDPBF16PS multiplies a pair of one row of `x`, the
//! same in all lanes, by the pairs of sixteen outputs, and nothing has to be summed across lanes.
//! A tile of [`ROWS`] rows by a group stays in registers through a block of inputs.
//!
//! VDPBF16PS takes denormal numbers for zero, and rounds sums to the nearest.

use super::Target;

/// Outputs of a group: four registers.
const GROUP: usize = 64;
/// Bytes of a pair of inputs of a group.
const PAIR_BYTES: usize = 4 * GROUP;
/// Pairs of inputs that are gone through at a time: so much of a group (256 kB) stays in the
/// second cache while all rows of `x` pass.
const BLOCK_PAIRS: usize = 1024;
/// Rows of a tile: with four registers each they leave enough for the factors.
const ROWS: usize = 6;

/// Whether this processor has the instructions.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Bytes of a packed matrix [outputs, inputs].
pub fn bf16_packed_bytes(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(GROUP) * inputs.div_ceil(2) * PAIR_BYTES
}

/// Packs [outputs, inputs], row-major, of the bits of bf16.
pub fn bf16_pack(weight: &[u16], outputs: usize, inputs: usize, packed: &mut [u8]) {
    assert_eq!(weight.len(), outputs * inputs);
    assert_eq!(packed.len(), bf16_packed_bytes(outputs, inputs));
    let pairs = inputs.div_ceil(2);
    for (group, packed) in packed.chunks_exact_mut(pairs * PAIR_BYTES).enumerate() {
        let first = group * GROUP;
        let lanes = GROUP.min(outputs - first);
        if lanes < GROUP || !inputs.is_multiple_of(2) {
            packed.fill(0);
        }
        for lane in 0..lanes {
            let row = &weight[(first + lane) * inputs..][..inputs];
            for (pair, values) in row.chunks(2).enumerate() {
                let at = pair * PAIR_BYTES + lane * 4;
                for (i, value) in values.iter().enumerate() {
                    packed[at + 2 * i..][..2].copy_from_slice(&value.to_ne_bytes());
                }
            }
        }
    }
}

/// `x Wᵀ + b` into the target, whose rows and columns are those of `x` ([rows, inputs], row-major,
/// bits of bf16) and the outputs of what was packed. Sums are f32.
///
/// # Panics
/// Where sizes disagree, or the processor lacks the instructions.
pub fn bf16_product(
    x: &[u16],
    packed: &[u8],
    inputs: usize,
    bias: Option<&[f32]>,
    mut target: Target<'_>,
) {
    let (rows, outputs) = (target.rows(), target.columns());
    assert!(available());
    assert_eq!(x.len(), rows * inputs);
    assert_eq!(packed.len(), bf16_packed_bytes(outputs, inputs));
    assert!(bias.is_none_or(|bias| bias.len() == outputs));
    if inputs.is_multiple_of(2) {
        return product(x, packed, inputs / 2, bias, &mut target);
    }
    // The last pair of each row is half of one.
    let mut even = Vec::with_capacity(rows * (inputs + 1));
    for row in x.chunks_exact(inputs) {
        even.extend_from_slice(row);
        even.push(0);
    }
    product(&even, packed, inputs.div_ceil(2), bias, &mut target);
}

#[cfg(not(target_arch = "x86_64"))]
fn product(_: &[u16], _: &[u8], _: usize, _: Option<&[f32]>, _: &mut Target<'_>) {
    unreachable!("no processor of this kind has AVX-512");
}

#[cfg(target_arch = "x86_64")]
fn product(x: &[u16], packed: &[u8], pairs: usize, bias: Option<&[f32]>, target: &mut Target<'_>) {
    let (rows, outputs, stride) = (target.rows(), target.columns(), target.stride());
    for (group, packed) in packed.chunks_exact(pairs * PAIR_BYTES).enumerate() {
        let first = group * GROUP;
        let columns = GROUP.min(outputs - first);
        let mut start = [0.0; GROUP];
        if let Some(bias) = bias {
            start[..columns].copy_from_slice(&bias[first..first + columns]);
        }
        for block in (0..pairs).step_by(BLOCK_PAIRS) {
            let length = BLOCK_PAIRS.min(pairs - block);
            for row in (0..rows).step_by(ROWS) {
                let tile = x86::Tile {
                    // SAFETY: the row lies in x, which has rows · pairs pairs, the block in the
                    // packed group, and the place in the target.
                    x: unsafe { x.as_ptr().add((row * pairs + block) * 2) },
                    x_stride: pairs * 2,
                    // SAFETY: as above.
                    packed: unsafe { packed.as_ptr().add(block * PAIR_BYTES) },
                    pairs: length,
                    start: (block == 0).then_some(&start),
                    // SAFETY: as above.
                    out: unsafe { target.as_mut_ptr().add(row * stride + first) },
                    out_stride: stride,
                    columns,
                };
                // SAFETY: `available` has been asked, and there are so many rows from `row` on.
                unsafe {
                    match rows - row {
                        1 => tile.run::<1>(),
                        2 => tile.run::<2>(),
                        3 => tile.run::<3>(),
                        4 => tile.run::<4>(),
                        5 => tile.run::<5>(),
                        _ => tile.run::<ROWS>(),
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{GROUP, PAIR_BYTES};

    /// Lanes of a register.
    const LANES: usize = 16;
    const REGISTERS: usize = GROUP / LANES;

    /// Some rows by a group, through a block of pairs.
    pub struct Tile<'a> {
        pub x: *const u16,
        /// Elements from a row to the next.
        pub x_stride: usize,
        pub packed: *const u8,
        pub pairs: usize,
        /// What the first block's sums begin with; `None`: with what is in the target.
        pub start: Option<&'a [f32; GROUP]>,
        pub out: *mut f32,
        pub out_stride: usize,
        pub columns: usize,
    }

    impl Tile<'_> {
        /// # Safety
        /// The processor has AVX-512 BF16, and the pointers `R` rows each, of `pairs` pairs in x
        /// and `columns` elements in the target.
        #[target_feature(enable = "avx512f,avx512bf16")]
        pub unsafe fn run<const R: usize>(&self) {
            let mask = |register: usize| -> __mmask16 {
                match self.columns.saturating_sub(register * LANES) {
                    0 => 0,
                    left if left >= LANES => !0,
                    left => (1 << left) - 1,
                }
            };
            let mut sums = [[_mm512_setzero_ps(); REGISTERS]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the start has a whole group; of the target only its columns are
                    // read.
                    *sum = unsafe {
                        match self.start {
                            Some(start) => _mm512_loadu_ps(start.as_ptr().add(i * LANES)),
                            None => _mm512_maskz_loadu_ps(
                                mask(i),
                                self.out.wrapping_add(r * self.out_stride + i * LANES),
                            ),
                        }
                    };
                }
            }
            for pair in 0..self.pairs {
                let mut weights = [_mm512_setzero_si512(); REGISTERS];
                for (i, weight) in weights.iter_mut().enumerate() {
                    // SAFETY: within the packed block.
                    *weight = unsafe {
                        _mm512_loadu_si512(self.packed.add(pair * PAIR_BYTES + i * 64).cast())
                    };
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: within row r of x.
                    let x = unsafe {
                        self.x
                            .add(r * self.x_stride + pair * 2)
                            .cast::<i32>()
                            .read_unaligned()
                    };
                    let x = _mm512_set1_epi32(x);
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        // SAFETY: 32 bf16, whatever the bits.
                        let x = unsafe { std::mem::transmute::<__m512i, __m512bh>(x) };
                        // SAFETY: as above.
                        let weight = unsafe { std::mem::transmute::<__m512i, __m512bh>(weight) };
                        *sum = _mm512_dpbf16_ps(*sum, weight, x);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (i, &sum) in sums.iter().enumerate() {
                    // SAFETY: only the target's columns are written.
                    unsafe {
                        _mm512_mask_storeu_ps(
                            self.out.wrapping_add(r * self.out_stride + i * LANES),
                            mask(i),
                            sum,
                        );
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::Output;
    use super::*;

    fn wave(count: usize, seed: f32) -> Vec<u16> {
        (0..count)
            .map(|i| bf16::from_f32((i as f32 * 0.61 + seed).sin()).to_bits())
            .collect()
    }

    fn real(bits: u16) -> f64 {
        bf16::from_bits(bits).to_f64()
    }

    #[test]
    fn products_are_those_of_the_definition_and_stay_in_their_columns() {
        if !available() {
            return;
        }
        const MARK: f32 = 12345.0;
        let shapes = [1, 2, 5, 6, 7, 13]
            .into_iter()
            .flat_map(|rows| [1, 15, 16, 17, 63, 64, 65, 130].map(|outputs| (rows, outputs)))
            .flat_map(|(rows, outputs)| [1, 2, 3, 64, 129].map(|inputs| (rows, outputs, inputs)))
            .chain([(7, 70, 2048), (3, 64, 4100), (8, 33, 6144)]);
        for (rows, outputs, inputs) in shapes {
            let (x, weight) = (wave(rows * inputs, 0.2), wave(outputs * inputs, 0.9));
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32 * 0.25).collect();
            let mut packed = vec![0xFF; bf16_packed_bytes(outputs, inputs)];
            bf16_pack(&weight, outputs, inputs, &mut packed);
            for bias in [None, Some(bias.as_slice())] {
                let stride = outputs + 3;
                let mut out = vec![MARK; rows * stride];
                // SAFETY: the only target.
                let target = unsafe { Output::new(&mut out, stride).target(0, rows, 2, outputs) };
                bf16_product(&x, &packed, inputs, bias, target);
                for (row, out) in out.chunks_exact(stride).enumerate() {
                    assert_eq!([out[0], out[1], out[outputs + 2]], [MARK; 3]);
                    for (output, &got) in out[2..2 + outputs].iter().enumerate() {
                        let terms = (0..inputs)
                            .map(|i| real(x[row * inputs + i]) * real(weight[output * inputs + i]));
                        let expected =
                            terms.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[output]));
                        let tolerance = 4e-6 * (inputs as f64 + expected.abs());
                        assert!(
                            (f64::from(got) - expected).abs() <= tolerance,
                            "{rows} × {outputs} × {inputs}: {got} for {expected}"
                        );
                    }
                }
            }
        }
    }
}
