//! Matrix products with AVX-512, for f32, bf16 and 8-bit integers.
//!
//! In a packed matrix, the outputs form groups of [`GROUP`]. A unit of inputs is four bytes: one
//! f32, two bf16 or four 8-bit integers. Within a group, the units of all its outputs for the same
//! inputs are adjacent. One instruction (VFMADD231PS, VDPBF16PS, VPDPBUSD) multiplies one unit of a
//! row of `x`, broadcast to all lanes, by the units of sixteen outputs, so no sum across lanes is
//! needed. A tile of up to [`ROWS`] rows by a group stays in registers for a whole block of inputs.
//! While all rows are multiplied by one block, the next block is prefetched from memory. Without
//! the prefetch, a short text, which reads each weight only once, would wait for memory.
//!
//! VDPBF16PS treats denormal numbers as zero and rounds sums to nearest. VPDPBUSD multiplies
//! unsigned by signed numbers, so 128 is added to the values of `x`. The excess in the sums depends
//! only on the weights. It is packed before each block and subtracted.
//!
//! Libraries compute the same products: gemm for f32, NumKong for bf16 and 8-bit integers. One
//! thread of a Zen 5 (2 shared cores, minimum of 30 runs) multiplies rows by a layer of 2048 by
//! 2048 in these times, measured by `cost`:
//!
//! | | rows | here | library |
//! | --- | --- | --- | --- |
//! | f32 | 16 | 0.55 ms | 2.3 ms |
//! | f32 | 512 | 17 ms | 35 ms |
//! | bf16 | 16 | 0.27 ms | 0.45 ms |
//! | bf16 | 512 | 8.3 ms | 10.5 ms |
//! | int8 | 16 | 0.14 ms | 0.26 ms |
//! | int8 | 512 | 4.3 ms | 9.4 ms |

use half::bf16;
use photosearch_cpu::{Cpu, Level};

use super::TargetColumns;
use super::kernel::{INT8_BLOCK, Start};

pub mod scores;

/// Outputs in a group; their sums fill four registers per row.
const GROUP: usize = 64;
/// Bytes of one unit of inputs of one output.
pub const UNIT_BYTES: usize = 4;
/// Bytes of one unit of inputs of a group.
const GROUP_BYTES: usize = UNIT_BYTES * GROUP;
/// Units per block of an f32 or bf16 matrix. A block of a group (256 kB) stays in the L2 cache,
/// together with the prefetched block, while all rows of `x` are multiplied by it.
const BLOCK_UNITS: usize = 1024;
/// Units per block of an 8-bit integer matrix. Each block has its own scales.
const INT8_UNITS: usize = INT8_BLOCK / UNIT_BYTES;
/// Maximum rows in a tile. With four registers per row, enough registers remain for the factors.
const ROWS: usize = 6;
/// Added to the 8-bit integers of `x` to make them unsigned.
pub const OFFSET: u8 = 0x80;

/// Whether this processor has the instructions.
pub fn available() -> bool {
    Cpu::best().has(Level::Avx512Bf16)
}

/// The number format of the values in a unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnitFormat {
    F32,
    Bf16,
    Int8,
}

/// The floating-point formats, of which one or two values make a unit.
pub trait UnitFloat: bytemuck::Pod {
    /// Values in a unit.
    const IN_UNIT: usize = UNIT_BYTES / size_of::<Self>();
}

impl UnitFloat for f32 {}
impl UnitFloat for bf16 {}

/// Size of a packed f32 or bf16 matrix [outputs, inputs], in bytes.
pub fn packed_bytes<T: UnitFloat>(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(GROUP) * inputs.div_ceil(T::IN_UNIT) * GROUP_BYTES
}

/// Packs a row-major matrix [outputs, inputs].
pub fn pack<T: UnitFloat>(weight: &[T], outputs: usize, inputs: usize, packed: &mut [u8]) {
    assert_eq!(weight.len(), outputs * inputs);
    assert_eq!(packed.len(), packed_bytes::<T>(outputs, inputs));
    let units = inputs.div_ceil(T::IN_UNIT);
    for (group, packed) in packed.chunks_exact_mut(units * GROUP_BYTES).enumerate() {
        let first = group * GROUP;
        let lanes = GROUP.min(outputs - first);
        if lanes < GROUP || !inputs.is_multiple_of(T::IN_UNIT) {
            packed.fill(0);
        }
        let (packed, _) = packed.as_chunks_mut::<UNIT_BYTES>();
        for lane in 0..lanes {
            let row = &weight[(first + lane) * inputs..][..inputs];
            let (values, rest) = bytemuck::cast_slice::<_, u8>(row).as_chunks::<UNIT_BYTES>();
            for (packed, value) in packed[lane..].iter_mut().step_by(GROUP).zip(values) {
                *packed = *value;
            }
            if !rest.is_empty() {
                packed[values.len() * GROUP + lane][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Packs the transpose of a row-major matrix: `transposed` is [inputs, outputs], or has fewer rows,
/// and those that it lacks are zeros.
pub fn pack_transposed<T: UnitFloat>(
    transposed: &[T],
    outputs: usize,
    inputs: usize,
    packed: &mut [u8],
) {
    assert!(transposed.len() <= outputs * inputs && transposed.len().is_multiple_of(outputs));
    assert_eq!(packed.len(), packed_bytes::<T>(outputs, inputs));
    packed.fill(0);
    let units = inputs.div_ceil(T::IN_UNIT);
    for (group, packed) in packed.chunks_exact_mut(units * GROUP_BYTES).enumerate() {
        let first = group * GROUP;
        let lanes = GROUP.min(outputs - first);
        let of_units = transposed.chunks(T::IN_UNIT * outputs);
        for (packed, rows) in packed.chunks_exact_mut(GROUP_BYTES).zip(of_units) {
            let (packed, _) = packed.as_chunks_mut::<UNIT_BYTES>();
            for (i, row) in rows.chunks_exact(outputs).enumerate() {
                let place = i * size_of::<T>()..(i + 1) * size_of::<T>();
                for (packed, x) in packed.iter_mut().zip(&row[first..first + lanes]) {
                    packed[place.clone()].copy_from_slice(bytemuck::bytes_of(x));
                }
            }
        }
    }
}

/// Size of a packed 8-bit integer matrix [outputs, inputs], in bytes.
pub fn i8_packed_bytes(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(GROUP) * i8_group_bytes(inputs)
}

/// Size of a packed group: its units, and the excess of each block.
fn i8_group_bytes(inputs: usize) -> usize {
    (inputs.div_ceil(INT8_BLOCK) + inputs.div_ceil(UNIT_BYTES)) * GROUP_BYTES
}

/// Packs a row-major matrix [outputs, inputs].
pub fn i8_pack(weight: &[i8], outputs: usize, inputs: usize, packed: &mut [u8]) {
    assert_eq!(weight.len(), outputs * inputs);
    assert_eq!(packed.len(), i8_packed_bytes(outputs, inputs));
    packed.fill(0);
    let block_bytes = (1 + INT8_UNITS) * GROUP_BYTES;
    for (group, packed) in packed
        .chunks_exact_mut(i8_group_bytes(inputs).max(1))
        .enumerate()
    {
        let first = group * GROUP;
        for lane in 0..GROUP.min(outputs - first) {
            let row = &weight[(first + lane) * inputs..][..inputs];
            let blocks = row.chunks(INT8_BLOCK).zip(packed.chunks_mut(block_bytes));
            for (row, packed) in blocks {
                let sum: i32 = row.iter().map(|&x| i32::from(x)).sum();
                let excess = -i32::from(OFFSET) * sum;
                let at = lane * UNIT_BYTES;
                packed[at..at + UNIT_BYTES].copy_from_slice(&excess.to_ne_bytes());
                for (unit, values) in row.chunks(UNIT_BYTES).enumerate() {
                    let at = (1 + unit) * GROUP_BYTES + lane * UNIT_BYTES;
                    for (to, &value) in packed[at..].iter_mut().zip(values) {
                        *to = value as u8;
                    }
                }
            }
        }
    }
}

/// Adds `x Wᵀ` to `start` and writes the result to `target`. `x` is [rows, inputs], row-major.
/// `target` has the rows of `x`, and a column for each output of the packed matrix. Sums are f32.
///
/// # Panics
/// If sizes do not match, or the processor lacks the instructions.
pub fn product<T: UnitFloat>(
    x: &[T],
    packed: &[u8],
    inputs: usize,
    start: Start<'_>,
    mut target: TargetColumns<'_>,
) {
    let (rows, outputs, stride) = (target.rows(), target.columns(), target.stride());
    assert!(available());
    assert_eq!(x.len(), rows * inputs);
    assert_eq!(packed.len(), packed_bytes::<T>(outputs, inputs));
    if let Start::Bias(Some(bias)) = start {
        assert_eq!(bias.len(), outputs);
    }
    let units = inputs.div_ceil(T::IN_UNIT);
    if !inputs.is_multiple_of(T::IN_UNIT) {
        // If `inputs` is odd, the last bf16 unit of each row is half filled.
        let padded = units * T::IN_UNIT;
        let mut padded_x = vec![T::zeroed(); rows * padded];
        for (row, x) in padded_x
            .chunks_exact_mut(padded)
            .zip(x.chunks_exact(inputs))
        {
            row[..inputs].copy_from_slice(x);
        }
        return product(&padded_x, packed, padded, start, target);
    }
    let format = match T::IN_UNIT {
        1 => UnitFormat::F32,
        _ => UnitFormat::Bf16,
    };
    for (group, packed) in packed.chunks_exact(units * GROUP_BYTES).enumerate() {
        let (columns, first) = begin(group, outputs, start);
        for block in (0..units).step_by(BLOCK_UNITS) {
            let length = BLOCK_UNITS.min(units - block);
            let packed = &packed[block * GROUP_BYTES..][..length * GROUP_BYTES];
            let tiles = Tiles::of(rows);
            for (i, row, count) in tiles.each() {
                let tile = Tile {
                    // SAFETY: the row lies within `x`, which has rows · units units.
                    x: unsafe { x.as_ptr().add((row * units + block) * T::IN_UNIT) }.cast(),
                    x_stride: units * UNIT_BYTES,
                    packed: packed.as_ptr(),
                    units: length,
                    ahead: tiles.ahead(packed, i),
                    start: first.as_ref().filter(|_| block == 0),
                    // SAFETY: row and column lie within the target.
                    out: unsafe { target.as_mut_ptr().add(row * stride + group * GROUP) },
                    out_stride: stride,
                    columns,
                };
                // SAFETY: `available` was checked, and there are `count` rows from `row` on.
                unsafe { tile.float_product(format, count) };
            }
        }
    }
}

/// Computes `x Wᵀ + b` for quantised rows. `x` is [rows, inputs] with [`OFFSET`] added, each row
/// padded to whole units. The sum over each block is an integer, which is multiplied by the scale
/// of the row ([rows, blocks]) and of the output ([outputs, blocks]).
///
/// # Panics
/// As [`product`].
pub fn i8_product(
    x: &[u8],
    x_scales: &[f32],
    inputs: usize,
    packed: &[u8],
    scales: &[f32],
    bias: Option<&[f32]>,
    mut target: TargetColumns<'_>,
) {
    let (rows, outputs, stride) = (target.rows(), target.columns(), target.stride());
    let (units, blocks) = (inputs.div_ceil(UNIT_BYTES), inputs.div_ceil(INT8_BLOCK));
    assert!(available());
    assert_eq!(x.len(), rows * units * UNIT_BYTES);
    assert_eq!(x_scales.len(), rows * blocks);
    assert_eq!(scales.len(), outputs * blocks);
    assert_eq!(packed.len(), i8_packed_bytes(outputs, inputs));
    assert!(bias.is_none_or(|bias| bias.len() == outputs));
    for (group, packed) in packed.chunks_exact(i8_group_bytes(inputs)).enumerate() {
        let (columns, first) = begin(group, outputs, Start::Bias(bias));
        for (block, packed) in packed.chunks((1 + INT8_UNITS) * GROUP_BYTES).enumerate() {
            let mut own_scales = [0.0; GROUP];
            let those = scales[group * GROUP * blocks..][..columns * blocks].iter();
            for (own, &scale) in own_scales.iter_mut().zip(those.skip(block).step_by(blocks)) {
                *own = scale;
            }
            let (excess, weights) = packed.split_at(GROUP_BYTES);
            let tiles = Tiles::of(rows);
            for (i, row, count) in tiles.each() {
                let tile = Tile {
                    // SAFETY: the row lies within `x`, which has rows · units units.
                    x: unsafe {
                        x.as_ptr()
                            .add(row * units * UNIT_BYTES + block * INT8_BLOCK)
                    },
                    x_stride: units * UNIT_BYTES,
                    packed: weights.as_ptr(),
                    units: weights.len() / GROUP_BYTES,
                    ahead: tiles.ahead(weights, i),
                    start: first.as_ref().filter(|_| block == 0),
                    // SAFETY: row and column lie within the target.
                    out: unsafe { target.as_mut_ptr().add(row * stride + group * GROUP) },
                    out_stride: stride,
                    columns,
                };
                let mut row_scales = [0.0; ROWS];
                for (own, row) in row_scales.iter_mut().zip(row..row + count) {
                    *own = x_scales[row * blocks + block];
                }
                // SAFETY: `available` was checked, there are `count` rows from `row` on, and
                // `excess` has the values of a whole group.
                unsafe { tile.int8_product(count, excess.as_ptr(), &row_scales, &own_scales) };
            }
        }
    }
}

/// The number of columns in a group, and the initial sums; `None` if the sums start with the
/// target's values.
fn begin(group: usize, outputs: usize, start: Start<'_>) -> (usize, Option<[f32; GROUP]>) {
    let first = group * GROUP;
    let columns = GROUP.min(outputs - first);
    let start = match start {
        Start::Target => None,
        Start::Bias(bias) => {
            let mut start = [0.0; GROUP];
            if let Some(bias) = bias {
                start[..columns].copy_from_slice(&bias[first..first + columns]);
            }
            Some(start)
        }
    };
    (columns, start)
}

/// Divides rows into tiles of about equal size.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
    count: usize,
}

impl Tiles {
    fn of(rows: usize) -> Self {
        Self {
            rows,
            count: rows.div_ceil(ROWS),
        }
    }

    /// Index, first row and number of rows of each tile.
    fn each(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let first = move |i: usize| i * self.rows / self.count;
        (0..self.count).map(move |i| (i, first(i), first(i + 1) - first(i)))
    }

    /// The cache lines that tile `i` prefetches while it is multiplied by a block: its share of the
    /// following bytes, which are the next block or the next panel. A single tile prefetches
    /// nothing, because it reads memory sequentially and the hardware prefetcher suffices.
    fn ahead(self, block: &[u8], i: usize) -> Prefetch {
        let lines = if self.count > 1 {
            block.len() / LINE
        } else {
            0
        };
        let (first, end) = (i * lines / self.count, (i + 1) * lines / self.count);
        Prefetch {
            from: block.as_ptr().wrapping_add(block.len() + first * LINE),
            lines: end - first,
        }
    }
}

/// Size of a cache line in bytes.
const LINE: usize = 64;

/// Cache lines to prefetch. The address need not be valid.
struct Prefetch {
    from: *const u8,
    lines: usize,
}

/// Some rows and one group, for one block of units.
struct Tile<'a> {
    x: *const u8,
    /// Bytes between the starts of two rows.
    x_stride: usize,
    packed: *const u8,
    units: usize,
    ahead: Prefetch,
    /// The values to which the first block's sums are added; `None` for the target's values. Each
    /// block is summed separately first, which reduces the rounding error for many inputs.
    start: Option<&'a [f32; GROUP]>,
    out: *mut f32,
    out_stride: usize,
    columns: usize,
}

#[cfg(not(target_arch = "x86_64"))]
impl Tile<'_> {
    unsafe fn float_product(&self, _: UnitFormat, _: usize) {
        unreachable!("no processor of this kind has AVX-512");
    }

    unsafe fn int8_product(&self, _: usize, _: *const u8, _: &[f32; ROWS], _: &[f32; GROUP]) {
        unreachable!("no processor of this kind has AVX-512");
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{GROUP, GROUP_BYTES, LINE, ROWS, Tile, UNIT_BYTES, UnitFormat};

    /// f32 lanes of a register.
    const LANES: usize = 16;
    const REGISTERS: usize = GROUP / LANES;
    /// Units between two prefetches.
    const CHUNK: usize = 8;

    /// The sums of a row, f32 or i32.
    type RowSums = [__m512i; REGISTERS];

    const F32: u8 = UnitFormat::F32 as u8;
    const BF16: u8 = UnitFormat::Bf16 as u8;
    const INT8: u8 = UnitFormat::Int8 as u8;

    /// Calls the function with the number of rows as a const generic argument.
    macro_rules! for_rows {
        ($rows:expr, $tile:ident.$function:ident::<_ $(, $format:ident)?>($($arg:expr),*)) => {
            match $rows {
                1 => $tile.$function::<1 $(, $format)?>($($arg),*),
                2 => $tile.$function::<2 $(, $format)?>($($arg),*),
                3 => $tile.$function::<3 $(, $format)?>($($arg),*),
                4 => $tile.$function::<4 $(, $format)?>($($arg),*),
                5 => $tile.$function::<5 $(, $format)?>($($arg),*),
                _ => $tile.$function::<ROWS $(, $format)?>($($arg),*),
            }
        };
    }

    impl Tile<'_> {
        /// # Safety
        /// The processor has AVX-512 with BF16 and VNNI. The pointers are valid for `rows` rows, of
        /// `units` units in `x` and `columns` elements in the target.
        pub unsafe fn float_product(&self, format: UnitFormat, rows: usize) {
            // SAFETY: the caller upholds this function's contract.
            unsafe {
                match format {
                    UnitFormat::F32 => for_rows!(rows, self.float_rows::<_, F32>()),
                    _ => for_rows!(rows, self.float_rows::<_, BF16>()),
                }
            }
        }

        /// Like [`Self::float_product`], for 8-bit integers. The sums start with the group's `excess` and
        /// are multiplied by the scales of the rows and the outputs.
        ///
        /// # Safety
        /// As [`Self::float_product`], and `excess` is valid for the values of a group.
        pub unsafe fn int8_product(
            &self,
            rows: usize,
            excess: *const u8,
            row_scales: &[f32; ROWS],
            scales: &[f32; GROUP],
        ) {
            // SAFETY: the caller upholds this function's contract.
            unsafe { for_rows!(rows, self.int8_rows::<_>(excess, row_scales, scales)) }
        }

        /// Mask of the lanes of a register that hold columns of the target.
        fn mask(&self, register: usize) -> __mmask16 {
            match self.columns.saturating_sub(register * LANES) {
                0 => 0,
                left if left >= LANES => !0,
                left => (1 << left) - 1,
            }
        }

        fn place(&self, row: usize, register: usize) -> *mut f32 {
            self.out
                .wrapping_add(row * self.out_stride + register * LANES)
        }

        /// The initial sums.
        #[target_feature(enable = "avx512f")]
        #[inline]
        unsafe fn begin(&self, row: usize, register: usize) -> __m512 {
            // SAFETY: `start` has a whole group; of the target, only its own columns are read.
            unsafe {
                match self.start {
                    Some(start) => _mm512_loadu_ps(start.as_ptr().add(register * LANES)),
                    None => _mm512_maskz_loadu_ps(self.mask(register), self.place(row, register)),
                }
            }
        }

        #[target_feature(enable = "avx512f,avx512bf16,avx512vnni")]
        unsafe fn float_rows<const R: usize, const FORMAT: u8>(&self) {
            let mut sums = [[_mm512_setzero_si512(); REGISTERS]; R];
            // SAFETY: the caller upholds this function's contract.
            unsafe { self.accumulate::<R, FORMAT>(&mut sums) };
            for (row, sums) in sums.iter().enumerate() {
                for (i, &sum) in sums.iter().enumerate() {
                    // SAFETY: the caller upholds this function's contract; only the target's
                    // columns are written.
                    unsafe {
                        let sum = _mm512_add_ps(self.begin(row, i), _mm512_castsi512_ps(sum));
                        _mm512_mask_storeu_ps(self.place(row, i), self.mask(i), sum);
                    }
                }
            }
        }

        #[target_feature(enable = "avx512f,avx512bf16,avx512vnni")]
        unsafe fn int8_rows<const R: usize>(
            &self,
            excess: *const u8,
            row_scales: &[f32; ROWS],
            scales: &[f32; GROUP],
        ) {
            let mut first = [_mm512_setzero_si512(); REGISTERS];
            for (i, first) in first.iter_mut().enumerate() {
                // SAFETY: the caller upholds this function's contract.
                *first = unsafe { _mm512_loadu_si512(excess.add(i * LINE).cast()) };
            }
            let mut sums = [first; R];
            // SAFETY: the caller upholds this function's contract.
            unsafe { self.accumulate::<R, INT8>(&mut sums) };
            for (row, sums) in sums.iter().enumerate() {
                let row_scale = _mm512_set1_ps(row_scales[row]);
                for (i, &sum) in sums.iter().enumerate() {
                    // SAFETY: the caller upholds this function's contract; only the target's
                    // columns are written.
                    unsafe {
                        let scale = _mm512_loadu_ps(scales.as_ptr().add(i * LANES));
                        let scale = _mm512_mul_ps(row_scale, scale);
                        let part = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
                        let sum = _mm512_add_ps(self.begin(row, i), part);
                        _mm512_mask_storeu_ps(self.place(row, i), self.mask(i), sum);
                    }
                }
            }
        }

        /// Adds the products of `R` rows and the group to the sums.
        #[target_feature(enable = "avx512f,avx512bf16,avx512vnni")]
        #[inline]
        unsafe fn accumulate<const R: usize, const FORMAT: u8>(&self, sums: &mut [RowSums; R]) {
            let chunks = self.units.div_ceil(CHUNK);
            let each = self.ahead.lines.div_ceil(chunks.max(1));
            let mut ahead = self.ahead.from;
            for first in (0..self.units).step_by(CHUNK) {
                for _ in 0..each {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_add(LINE);
                }
                for unit in first..self.units.min(first + CHUNK) {
                    let mut weights = [_mm512_setzero_si512(); REGISTERS];
                    for (i, weight) in weights.iter_mut().enumerate() {
                        let at = unit * GROUP_BYTES + i * LINE;
                        // SAFETY: the address lies within the packed block.
                        *weight = unsafe { _mm512_loadu_si512(self.packed.add(at).cast()) };
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let at = row * self.x_stride + unit * UNIT_BYTES;
                        // SAFETY: the address lies within the row of `x`.
                        let x = unsafe { self.x.add(at).cast::<i32>().read_unaligned() };
                        let x = _mm512_set1_epi32(x);
                        for (sum, &weight) in sums.iter_mut().zip(&weights) {
                            let float_sum = _mm512_castsi512_ps(*sum);
                            *sum = match FORMAT {
                                INT8 => _mm512_dpbusd_epi32(*sum, x, weight),
                                F32 => {
                                    let (x, weight) =
                                        (_mm512_castsi512_ps(x), _mm512_castsi512_ps(weight));
                                    _mm512_castps_si512(_mm512_fmadd_ps(weight, x, float_sum))
                                }
                                _ => {
                                    // SAFETY: any bits are 32 valid bf16 values.
                                    let (x, weight) = unsafe {
                                        (
                                            std::mem::transmute::<__m512i, __m512bh>(x),
                                            std::mem::transmute::<__m512i, __m512bh>(weight),
                                        )
                                    };
                                    _mm512_castps_si512(_mm512_dpbf16_ps(float_sum, weight, x))
                                }
                            };
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod tests;
