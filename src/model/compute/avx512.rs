//! Products of matrices with AVX-512, of f32, of bf16 and of whole numbers of 8 bits.
//!
//! Packed, the outputs stand in groups of [`GROUP`], and in a group, for each unit of inputs (four
//! bytes: an f32, two of bf16, or four whole numbers), the units of all its outputs side by side.
//! So one instruction (VFMADD231PS, VDPBF16PS, VPDPBUSD) multiplies a unit of one row of `x`, the
//! same in all lanes, by the units of sixteen outputs, and nothing has to be summed across lanes. A
//! tile of up to [`ROWS`] rows by a group stays in registers through a block of inputs, and while
//! all rows pass over a block, the next one is fetched from memory: a short text reads each weight
//! once, and would wait for it.
//!
//! VDPBF16PS takes denormal numbers for zero, and rounds sums to the nearest. VPDPBUSD multiplies
//! unsigned by signed numbers: 128 is added to those of `x`, and what that adds to the sums, which
//! depends on the weights alone, is packed before each block, to be taken off.
//!
//! It stands beside libraries that do the same: gemm for f32, NumKong for bf16 and whole numbers. One
//! thread of a Zen 5 (2 shared cores, least of 30 runs) multiplies rows by a layer of 2048 by 2048 in this
//! time; `cost` measures it:
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

/// Outputs of a group: four registers.
const GROUP: usize = 64;
/// Bytes of a unit of inputs of an output.
pub const UNIT_BYTES: usize = 4;
/// And of a group.
const GROUP_BYTES: usize = UNIT_BYTES * GROUP;
/// Units of real numbers that are gone through at a time: so much of a group (256 kB) stays in the
/// second cache, with what is fetched meanwhile, while all rows of `x` pass.
const BLOCK_UNITS: usize = 1024;
/// Units of a block of whole numbers, which has scales of its own.
const WHOLE_UNITS: usize = INT8_BLOCK / UNIT_BYTES;
/// Rows of a tile: with four registers each they leave enough for the factors.
const ROWS: usize = 6;
/// What is added to whole numbers of `x`.
pub const OFFSET: u8 = 0x80;

/// Whether this processor has the instructions.
pub fn available() -> bool {
    Cpu::best().has(Level::Avx512Bf16)
}

/// What is multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    F32,
    Bf16,
    Whole,
}

/// Real numbers of which one or two make a unit.
pub trait Real: bytemuck::Pod {
    /// How many.
    const IN_UNIT: usize = UNIT_BYTES / size_of::<Self>();
}

impl Real for f32 {}
impl Real for bf16 {}

/// Bytes of a packed matrix [outputs, inputs] of real numbers.
pub fn packed_bytes<T: Real>(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(GROUP) * inputs.div_ceil(T::IN_UNIT) * GROUP_BYTES
}

/// Packs [outputs, inputs], row-major.
pub fn pack<T: Real>(weight: &[T], outputs: usize, inputs: usize, packed: &mut [u8]) {
    assert_eq!(weight.len(), outputs * inputs);
    assert_eq!(packed.len(), packed_bytes::<T>(outputs, inputs));
    let units = inputs.div_ceil(T::IN_UNIT);
    for (group, packed) in packed.chunks_exact_mut(units * GROUP_BYTES).enumerate() {
        let first = group * GROUP;
        let lanes = GROUP.min(outputs - first);
        if lanes < GROUP || !inputs.is_multiple_of(T::IN_UNIT) {
            packed.fill(0);
        }
        for lane in 0..lanes {
            let row = &weight[(first + lane) * inputs..][..inputs];
            for (unit, values) in row.chunks(T::IN_UNIT).enumerate() {
                let bytes: &[u8] = bytemuck::cast_slice(values);
                let at = unit * GROUP_BYTES + lane * UNIT_BYTES;
                packed[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

/// Bytes of a packed matrix [outputs, inputs] of whole numbers.
pub fn i8_packed_bytes(outputs: usize, inputs: usize) -> usize {
    outputs.div_ceil(GROUP) * i8_group_bytes(inputs)
}

/// A group's: its units, and what is taken off the sums of each block.
fn i8_group_bytes(inputs: usize) -> usize {
    (inputs.div_ceil(INT8_BLOCK) + inputs.div_ceil(UNIT_BYTES)) * GROUP_BYTES
}

/// Packs [outputs, inputs], row-major.
pub fn i8_pack(weight: &[i8], outputs: usize, inputs: usize, packed: &mut [u8]) {
    assert_eq!(weight.len(), outputs * inputs);
    assert_eq!(packed.len(), i8_packed_bytes(outputs, inputs));
    packed.fill(0);
    let block_bytes = (1 + WHOLE_UNITS) * GROUP_BYTES;
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

/// `x Wᵀ` onto the start, into the target, whose rows and columns are those of `x` ([rows, inputs],
/// row-major) and the outputs of what was packed. Sums are f32.
///
/// # Panics
/// Where sizes disagree, or the processor lacks the instructions.
pub fn product<T: Real>(
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
        // The last unit of each row is half of one.
        let padded = units * T::IN_UNIT;
        let mut whole = vec![T::zeroed(); rows * padded];
        for (whole, x) in whole.chunks_exact_mut(padded).zip(x.chunks_exact(inputs)) {
            whole[..inputs].copy_from_slice(x);
        }
        return product(&whole, packed, padded, start, target);
    }
    let form = match T::IN_UNIT {
        1 => Form::F32,
        _ => Form::Bf16,
    };
    for (group, packed) in packed.chunks_exact(units * GROUP_BYTES).enumerate() {
        let (columns, first) = begin(group, outputs, start);
        for block in (0..units).step_by(BLOCK_UNITS) {
            let length = BLOCK_UNITS.min(units - block);
            let packed = &packed[block * GROUP_BYTES..][..length * GROUP_BYTES];
            let tiles = Tiles::of(rows);
            for (i, row, count) in tiles.each() {
                let tile = Tile {
                    // SAFETY: the row lies in x, which has rows · units units.
                    x: unsafe { x.as_ptr().add((row * units + block) * T::IN_UNIT) }.cast(),
                    x_stride: units * UNIT_BYTES,
                    packed: packed.as_ptr(),
                    units: length,
                    ahead: tiles.ahead(packed, i),
                    start: first.as_ref().filter(|_| block == 0),
                    // SAFETY: row and column lie in the target.
                    out: unsafe { target.as_mut_ptr().add(row * stride + group * GROUP) },
                    out_stride: stride,
                    columns,
                };
                // SAFETY: `available` has been asked, and there are so many rows from `row` on.
                unsafe { tile.real(form, count) };
            }
        }
    }
}

/// `x Wᵀ + b` of quantised rows: `x` is [rows, inputs] with [`OFFSET`] added, each row filled up to
/// whole units. Block for block a whole number, which the scale of the row ([rows, blocks]) and that
/// of the output ([outputs, blocks]) make a real one.
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
        for (block, packed) in packed.chunks((1 + WHOLE_UNITS) * GROUP_BYTES).enumerate() {
            let mut own_scales = [0.0; GROUP];
            let those = scales[group * GROUP * blocks..][..columns * blocks].iter();
            for (own, &scale) in own_scales.iter_mut().zip(those.skip(block).step_by(blocks)) {
                *own = scale;
            }
            let (excess, weights) = packed.split_at(GROUP_BYTES);
            let tiles = Tiles::of(rows);
            for (i, row, count) in tiles.each() {
                let tile = Tile {
                    // SAFETY: the row lies in x, which has rows · units units.
                    x: unsafe {
                        x.as_ptr()
                            .add(row * units * UNIT_BYTES + block * INT8_BLOCK)
                    },
                    x_stride: units * UNIT_BYTES,
                    packed: weights.as_ptr(),
                    units: weights.len() / GROUP_BYTES,
                    ahead: tiles.ahead(weights, i),
                    start: first.as_ref().filter(|_| block == 0),
                    // SAFETY: row and column lie in the target.
                    out: unsafe { target.as_mut_ptr().add(row * stride + group * GROUP) },
                    out_stride: stride,
                    columns,
                };
                let mut row_scales = [0.0; ROWS];
                for (own, row) in row_scales.iter_mut().zip(row..row + count) {
                    *own = x_scales[row * blocks + block];
                }
                // SAFETY: `available` has been asked, there are so many rows from `row` on, and the
                // excess is that of a group.
                unsafe { tile.whole(count, excess.as_ptr(), &row_scales, &own_scales) };
            }
        }
    }
}

/// How many columns a group has, and what its sums begin with; `None`: with what is in the target.
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

/// Rows in tiles of about one size.
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

    /// Number, first row and rows of each.
    fn each(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let first = move |i: usize| i * self.rows / self.count;
        (0..self.count).map(move |i| (i, first(i), first(i + 1) - first(i)))
    }

    /// What tile `i` fetches while it passes over a block: its share of as much as comes behind it,
    /// which is the next block, or the next panel. Where one tile is all, it reads memory in order
    /// and soon, which the processor foresees by itself.
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

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// Lines to fetch; whether anything lies there does not matter.
struct Prefetch {
    from: *const u8,
    lines: usize,
}

/// Some rows by a group, through a block of units.
struct Tile<'a> {
    x: *const u8,
    /// Bytes from a row to the next.
    x_stride: usize,
    packed: *const u8,
    units: usize,
    ahead: Prefetch,
    /// What the first block's sums are added to; `None`: to what is in the target. Each block is
    /// summed by itself first, which keeps the sums of many inputs closer.
    start: Option<&'a [f32; GROUP]>,
    out: *mut f32,
    out_stride: usize,
    columns: usize,
}

#[cfg(not(target_arch = "x86_64"))]
impl Tile<'_> {
    unsafe fn real(&self, _: Form, _: usize) {
        unreachable!("no processor of this kind has AVX-512");
    }

    unsafe fn whole(&self, _: usize, _: *const u8, _: &[f32; ROWS], _: &[f32; GROUP]) {
        unreachable!("no processor of this kind has AVX-512");
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Form, GROUP, GROUP_BYTES, LINE, ROWS, Tile, UNIT_BYTES};

    /// Lanes of a register.
    const LANES: usize = 16;
    const REGISTERS: usize = GROUP / LANES;
    /// Units between one fetching ahead and the next.
    const CHUNK: usize = 8;

    /// Sums of a row: f32 or whole numbers.
    type RowSums = [__m512i; REGISTERS];

    const F32: u8 = Form::F32 as u8;
    const BF16: u8 = Form::Bf16 as u8;
    const WHOLE: u8 = Form::Whole as u8;

    /// Calls the function for as many rows as there are.
    macro_rules! for_rows {
        ($rows:expr, $tile:ident.$function:ident::<_ $(, $form:ident)?>($($arg:expr),*)) => {
            match $rows {
                1 => $tile.$function::<1 $(, $form)?>($($arg),*),
                2 => $tile.$function::<2 $(, $form)?>($($arg),*),
                3 => $tile.$function::<3 $(, $form)?>($($arg),*),
                4 => $tile.$function::<4 $(, $form)?>($($arg),*),
                5 => $tile.$function::<5 $(, $form)?>($($arg),*),
                _ => $tile.$function::<ROWS $(, $form)?>($($arg),*),
            }
        };
    }

    impl Tile<'_> {
        /// # Safety
        /// The processor has AVX-512 with BF16 and VNNI, and the pointers lead to so many rows, of
        /// `units` units in x and `columns` elements in the target.
        pub unsafe fn real(&self, form: Form, rows: usize) {
            // SAFETY: as asked of the caller.
            unsafe {
                match form {
                    Form::F32 => for_rows!(rows, self.real_rows::<_, F32>()),
                    _ => for_rows!(rows, self.real_rows::<_, BF16>()),
                }
            }
        }

        /// As [`Self::real`], of whole numbers: the sums begin with the group's `excess`, and are
        /// multiplied by the rows' scales and the outputs'.
        ///
        /// # Safety
        /// As above, and `excess` leads to a group's whole numbers.
        pub unsafe fn whole(
            &self,
            rows: usize,
            excess: *const u8,
            row_scales: &[f32; ROWS],
            scales: &[f32; GROUP],
        ) {
            // SAFETY: as asked of the caller.
            unsafe { for_rows!(rows, self.whole_rows::<_>(excess, row_scales, scales)) }
        }

        /// Which of a register's columns there are.
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

        /// What the sums are added to.
        #[target_feature(enable = "avx512f")]
        #[inline]
        unsafe fn begin(&self, row: usize, register: usize) -> __m512 {
            // SAFETY: the start has a whole group; of the target only its columns are read.
            unsafe {
                match self.start {
                    Some(start) => _mm512_loadu_ps(start.as_ptr().add(register * LANES)),
                    None => _mm512_maskz_loadu_ps(self.mask(register), self.place(row, register)),
                }
            }
        }

        #[target_feature(enable = "avx512f,avx512bf16,avx512vnni")]
        unsafe fn real_rows<const R: usize, const FORM: u8>(&self) {
            let mut sums = [[_mm512_setzero_si512(); REGISTERS]; R];
            // SAFETY: as asked of the caller.
            unsafe { self.accumulate::<R, FORM>(&mut sums) };
            for (row, sums) in sums.iter().enumerate() {
                for (i, &sum) in sums.iter().enumerate() {
                    // SAFETY: as asked of the caller; only the target's columns are written.
                    unsafe {
                        let sum = _mm512_add_ps(self.begin(row, i), _mm512_castsi512_ps(sum));
                        _mm512_mask_storeu_ps(self.place(row, i), self.mask(i), sum);
                    }
                }
            }
        }

        #[target_feature(enable = "avx512f,avx512bf16,avx512vnni")]
        unsafe fn whole_rows<const R: usize>(
            &self,
            excess: *const u8,
            row_scales: &[f32; ROWS],
            scales: &[f32; GROUP],
        ) {
            let mut first = [_mm512_setzero_si512(); REGISTERS];
            for (i, first) in first.iter_mut().enumerate() {
                // SAFETY: as asked of the caller.
                *first = unsafe { _mm512_loadu_si512(excess.add(i * LINE).cast()) };
            }
            let mut sums = [first; R];
            // SAFETY: as asked of the caller.
            unsafe { self.accumulate::<R, WHOLE>(&mut sums) };
            for (row, sums) in sums.iter().enumerate() {
                let row_scale = _mm512_set1_ps(row_scales[row]);
                for (i, &sum) in sums.iter().enumerate() {
                    // SAFETY: as asked of the caller; only the target's columns are written.
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

        /// Adds the products of `R` rows by the group.
        #[target_feature(enable = "avx512f,avx512bf16,avx512vnni")]
        #[inline]
        unsafe fn accumulate<const R: usize, const FORM: u8>(&self, sums: &mut [RowSums; R]) {
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
                        // SAFETY: within the packed block.
                        *weight = unsafe { _mm512_loadu_si512(self.packed.add(at).cast()) };
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let at = row * self.x_stride + unit * UNIT_BYTES;
                        // SAFETY: within the row of x.
                        let x = unsafe { self.x.add(at).cast::<i32>().read_unaligned() };
                        let x = _mm512_set1_epi32(x);
                        for (sum, &weight) in sums.iter_mut().zip(&weights) {
                            let real = _mm512_castsi512_ps(*sum);
                            *sum = match FORM {
                                WHOLE => _mm512_dpbusd_epi32(*sum, x, weight),
                                F32 => {
                                    let (x, weight) =
                                        (_mm512_castsi512_ps(x), _mm512_castsi512_ps(weight));
                                    _mm512_castps_si512(_mm512_fmadd_ps(weight, x, real))
                                }
                                _ => {
                                    // SAFETY: 32 bf16, whatever the bits.
                                    let (x, weight) = unsafe {
                                        (
                                            std::mem::transmute::<__m512i, __m512bh>(x),
                                            std::mem::transmute::<__m512i, __m512bh>(weight),
                                        )
                                    };
                                    _mm512_castps_si512(_mm512_dpbf16_ps(real, weight, x))
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
