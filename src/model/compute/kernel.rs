//! Dispatches matrix products to a library or to [`avx512`](super::avx512), and passes pointers
//! into the matrices of [`Matrix`](super::Matrix).
//!
//! [`Kernel::best`] chooses between [`avx512`](super::avx512), whose module comment has the
//! measurements, and the libraries. NumKong and gemm choose their instruction sets themselves.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use half::bf16;
use numkong::Dots;

use super::matrix::round_all;
use super::{avx512, ops};

/// Some rows and columns of a row-major f32 matrix, into which a product is written. Live targets of
/// the same matrix have no element in common.
pub(crate) struct TargetColumns<'a> {
    pointer: *mut f32,
    /// Elements between the starts of two rows.
    stride: usize,
    rows: usize,
    columns: usize,
    _matrix: PhantomData<&'a mut [f32]>,
}

/// A matrix that several threads fill, each its own part.
pub(crate) struct Output<'a> {
    pointer: *mut f32,
    stride: usize,
    rows: usize,
    _matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: the matrix is accessed only through targets, which have no element in common.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// Wraps a matrix whose rows have `stride` elements.
    pub fn new(matrix: &'a mut [f32], stride: usize) -> Self {
        Self {
            pointer: matrix.as_mut_ptr(),
            stride,
            rows: matrix.len() / stride.max(1),
            _matrix: PhantomData,
        }
    }

    /// Wraps uninitialised memory.
    ///
    /// # Safety
    /// The user of a target writes an element before it is read, by [`TargetColumns::row`] or
    /// otherwise.
    pub unsafe fn unwritten(matrix: &'a mut [MaybeUninit<f32>], stride: usize) -> Self {
        Self {
            pointer: matrix.as_mut_ptr().cast(),
            stride,
            rows: matrix.len() / stride.max(1),
            _matrix: PhantomData,
        }
    }

    /// The target of `rows` rows starting at `row` and `columns` columns starting at `column`.
    ///
    /// # Safety
    /// No other live target of this matrix includes any of these elements.
    pub unsafe fn target(
        &self,
        row: usize,
        rows: usize,
        column: usize,
        columns: usize,
    ) -> TargetColumns<'a> {
        assert!(row + rows <= self.rows && column + columns <= self.stride);
        TargetColumns {
            // SAFETY: the position lies within the matrix, as checked above.
            pointer: unsafe { self.pointer.add(row * self.stride + column) },
            stride: self.stride,
            rows,
            columns,
            _matrix: PhantomData,
        }
    }
}

impl TargetColumns<'_> {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.pointer
    }

    /// One row.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: the row lies within the matrix, and no other target has these elements.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(row * self.stride), self.columns) }
    }

    /// The same target with a shorter lifetime.
    pub fn reborrow(&mut self) -> TargetColumns<'_> {
        TargetColumns {
            pointer: self.pointer,
            stride: self.stride,
            rows: self.rows,
            columns: self.columns,
            _matrix: PhantomData,
        }
    }

    /// Saves the target's values, row by row, before a product overwrites them.
    fn before(&mut self, start: Start<'_>) -> Vec<f32> {
        let rows = match start {
            Start::Bias(_) => 0,
            Start::Target => self.rows,
        };
        (0..rows).flat_map(|row| self.row(row).to_vec()).collect()
    }

    /// Adds the start values or the saved values to the product.
    fn add(&mut self, start: Start<'_>, before: Vec<f32>) {
        if let Start::Bias(bias) = start {
            self.add_bias(bias);
        }
        for (row, before) in before.chunks_exact(self.columns.max(1)).enumerate() {
            let row = self.row(row).iter_mut();
            row.zip(before).for_each(|(x, before)| *x += before);
        }
    }

    pub fn add_bias(&mut self, bias: Option<&[f32]>) {
        let Some(bias) = bias else { return };
        for row in 0..self.rows {
            for (out, bias) in self.row(row).iter_mut().zip(bias) {
                *out += bias;
            }
        }
    }
}

/// The values to which a product is added.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// One value for each column, or nothing.
    Bias(Option<&'a [f32]>),
    /// The target's current values.
    Target,
}

/// The code that multiplies matrices of f32, half-precision and 8-bit integer values. Each kernel has its own
/// packed layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The code in this crate, for AVX-512 with BF16 and VNNI.
    Avx512,
    /// NumKong, with the best instructions it finds, and the gemm crate for f32.
    NumKong,
}

/// [`FloatElement::weights`] takes a multiple of this many scores.
pub(crate) const SCORE_UNIT: usize = 32;

/// Number of inputs in a block that shares a scale in 8-bit integer products.
pub(crate) const INT8_BLOCK: usize = 1024;

impl Kernel {
    /// The best kernel for this processor. NumKong is preferred with AMX, which multiplies more
    /// values at once than AVX-512.
    pub fn best() -> Self {
        match !amx() && avx512::available() {
            true => Self::Avx512,
            false => Self::NumKong,
        }
    }

    /// Whether this process can use the kernel.
    #[cfg(test)]
    pub fn is_available(self) -> bool {
        match self {
            Self::Avx512 => avx512::available(),
            Self::NumKong => amx() || numkong::available() & numkong::cap::SAPPHIREAMX == 0,
        }
    }

    /// The kernel's name, which identifies its packed layout.
    pub fn name(self) -> String {
        use numkong::cap;
        let available = numkong::available();
        if self == Self::Avx512 {
            return format!("avx512.{available:x}");
        }
        let best = [
            (cap::SAPPHIREAMX, "amx"),
            (cap::GENOA, "avx512bf16"),
            (cap::ICELAKE, "avx512vnni"),
            (cap::SKYLAKE, "avx512f"),
            (cap::ALDER, "avxvnni"),
            (cap::HASWELL, "avx2"),
            (cap::NEONBFDOT, "neonbf16"),
            (cap::NEONSDOT, "neonsdot"),
            (cap::NEON, "neon"),
        ];
        let name = best
            .iter()
            .find(|(capability, _)| available & capability != 0)
            .map_or("portable", |(_, name)| name);
        // NumKong selects functions by type from the available instruction sets, so the name
        // includes them.
        format!("numkong.{name}.{available:x}")
    }

    /// Whether bf16 products over the elements of an attention head are faster than f32 products.
    /// NumKong sums along the elements, of which a head has too few, unless the processor has AMX.
    pub fn suits_attention(self) -> bool {
        match self {
            Self::Avx512 => true,
            Self::NumKong => amx(),
        }
    }

    /// The largest score; negative infinity if there are none.
    pub fn largest(self, scores: &[f32]) -> f32 {
        match self {
            Self::Avx512 => avx512::scores::largest(scores),
            Self::NumKong => ops::largest(scores),
        }
    }

    /// Whether f32 and f16 matrices are packed for this kernel. Otherwise they are stored row by
    /// row for [`gemm_f32`].
    pub fn packs_f32(self) -> bool {
        self == Self::Avx512
    }

    pub fn packed_bytes<T: FloatElement>(self, outputs: usize, inputs: usize) -> usize {
        match self {
            Self::Avx512 => avx512::packed_bytes::<T>(outputs, inputs),
            Self::NumKong => T::library_packed_bytes(outputs, inputs),
        }
    }

    /// Packs a row-major matrix [outputs, inputs].
    pub fn pack<T: FloatElement>(
        self,
        weight: &[T],
        outputs: usize,
        inputs: usize,
        packed: &mut [u8],
    ) {
        assert_eq!(weight.len(), outputs * inputs);
        assert_eq!(packed.len(), self.packed_bytes::<T>(outputs, inputs));
        match self {
            Self::Avx512 => avx512::pack(weight, outputs, inputs, packed),
            Self::NumKong => T::library_pack(weight, outputs, inputs, packed),
        }
    }

    /// Packs the transpose of a row-major matrix: `transposed` is [inputs, outputs], or has fewer
    /// rows, and those that it lacks are zeros.
    pub fn pack_transposed<T: FloatElement>(
        self,
        transposed: &[T],
        outputs: usize,
        inputs: usize,
        packed: &mut [u8],
    ) {
        if self == Self::Avx512 {
            return avx512::pack_transposed(transposed, outputs, inputs, packed);
        }
        let mut weight = vec![T::zeroed(); outputs * inputs];
        for (i, row) in transposed.chunks_exact(outputs).enumerate() {
            for (j, &x) in row.iter().enumerate() {
                weight[j * inputs + i] = x;
            }
        }
        self.pack(&weight, outputs, inputs, packed);
    }

    /// Adds `x Wᵀ` to `start` and writes the result to `target`. `x` has as many rows as the
    /// target, and the packed matrix has as many outputs as the target has columns.
    pub fn product<T: FloatElement>(
        self,
        x: &[T],
        inputs: usize,
        packed: &[u8],
        start: Start<'_>,
        mut target: TargetColumns<'_>,
    ) {
        assert_eq!(x.len(), target.rows * inputs);
        assert_eq!(packed.len(), self.packed_bytes::<T>(target.columns, inputs));
        match self {
            Self::Avx512 => avx512::product(x, packed, inputs, start, target),
            Self::NumKong => {
                let before = target.before(start);
                T::library_product(x, packed, inputs, &mut target);
                target.add(start, before);
            }
        }
    }
}

/// The element type of the matrices in a floating-point product. [`Kernel`] checks the sizes, and calls
/// the library functions if it has no code of its own.
pub(crate) trait FloatElement: avx512::UnitFloat + Send + Sync {
    /// Rounds `x` to this type, in the calling thread.
    fn all_of(x: &[f32]) -> Cow<'_, [Self]>;

    /// Writes `e^(score - shift)` of each score to `weights` and returns the sum before rounding.
    /// Overwrites `scores`, whose length is a multiple of [`SCORE_UNIT`].
    fn weights(kernel: Kernel, scores: &mut [f32], shift: f32, weights: &mut [Self]) -> f32;

    fn library_packed_bytes(outputs: usize, inputs: usize) -> usize;

    fn library_pack(weight: &[Self], outputs: usize, inputs: usize, packed: &mut [u8]);

    /// Writes the product to the target, overwriting its values.
    fn library_product(x: &[Self], packed: &[u8], inputs: usize, target: &mut TargetColumns<'_>);
}

impl FloatElement for f32 {
    fn all_of(x: &[f32]) -> Cow<'_, [Self]> {
        Cow::Borrowed(x)
    }

    fn weights(_: Kernel, scores: &mut [f32], shift: f32, weights: &mut [Self]) -> f32 {
        ops::exp_all(scores, shift);
        weights.copy_from_slice(scores);
        ops::sum(scores)
    }

    fn library_packed_bytes(outputs: usize, inputs: usize) -> usize {
        outputs * inputs * size_of::<f32>()
    }

    fn library_pack(weight: &[Self], _: usize, _: usize, packed: &mut [u8]) {
        packed.copy_from_slice(bytemuck::cast_slice(weight));
    }

    fn library_product(x: &[Self], packed: &[u8], inputs: usize, target: &mut TargetColumns<'_>) {
        let weights = bytemuck::cast_slice(packed);
        gemm_f32(x, inputs, weights, (1, inputs), inputs, target.reborrow());
    }
}

impl FloatElement for bf16 {
    fn all_of(x: &[f32]) -> Cow<'_, [Self]> {
        let mut out = vec![Self::ZERO; x.len()];
        round_all(x, &mut out);
        Cow::Owned(out)
    }

    fn weights(kernel: Kernel, scores: &mut [f32], shift: f32, weights: &mut [Self]) -> f32 {
        match kernel {
            Kernel::Avx512 => {
                avx512::scores::weights(scores, shift, bytemuck::cast_slice_mut(weights))
            }
            Kernel::NumKong => {
                ops::exp_all(scores, shift);
                round_all(scores, weights);
                ops::sum(scores)
            }
        }
    }

    fn library_packed_bytes(outputs: usize, inputs: usize) -> usize {
        numkong::bf16::dots_packed_size(outputs, inputs).next_multiple_of(64)
    }

    fn library_pack(weight: &[Self], outputs: usize, inputs: usize, packed: &mut [u8]) {
        // SAFETY: both buffers have the sizes that the function requires.
        unsafe {
            numkong::bf16::dots_pack(
                weight.as_ptr().cast(),
                outputs,
                inputs,
                inputs * size_of::<bf16>(),
                packed.as_mut_ptr(),
            );
        }
    }

    fn library_product(x: &[Self], packed: &[u8], inputs: usize, target: &mut TargetColumns<'_>) {
        // SAFETY: the sizes match, and no other target has these elements.
        unsafe {
            numkong::bf16::dots_packed(
                x.as_ptr().cast(),
                packed.as_ptr(),
                target.pointer,
                target.rows,
                target.columns,
                inputs,
                inputs * size_of::<bf16>(),
                target.stride * size_of::<f32>(),
            );
        }
    }
}

/// Whether the processor has AMX and the operating system lets this process use it.
///
/// Linux grants the registers of AMX to a process on request, and ends a process that uses them
/// without (`ARCH_REQ_XCOMP_PERM` of arch_prctl(2); the kernel's `Documentation/arch/x86/xstate.rst`). The
/// grant holds for all threads of the process. NumKong uses AMX wherever the processor has it. So the first
/// call requests the grant, and no product is given to NumKong on a processor with AMX if the request is
/// refused, as by a seccomp filter or a sandbox.
fn amx() -> bool {
    static GRANTED: LazyLock<bool> = LazyLock::new(|| {
        numkong::available() & numkong::cap::SAPPHIREAMX != 0 && numkong::configure_thread()
    });
    *GRANTED
}

/// Writes `lhs · rhs` to the target, in f32. `lhs` is [rows, depth] with `lhs_stride` elements
/// between rows. `rhs` is [depth, columns], with element (i, j) at
/// `i · rhs_strides.0 + j · rhs_strides.1`.
pub(crate) fn gemm_f32(
    lhs: &[f32],
    lhs_stride: usize,
    rhs: &[f32],
    rhs_strides: (usize, usize),
    depth: usize,
    target: TargetColumns<'_>,
) {
    let (rows, columns) = (target.rows, target.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(depth > 0);
    assert!((rows - 1) * lhs_stride + depth <= lhs.len());
    assert!((depth - 1) * rhs_strides.0 + (columns - 1) * rhs_strides.1 < rhs.len());
    // SAFETY: every element that the strides reach lies within its slice, as checked above. No
    // other target has these elements, and none is read.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            target.pointer,
            1,
            target.stride as isize,
            false,
            lhs.as_ptr(),
            1,
            lhs_stride as isize,
            rhs.as_ptr(),
            rhs_strides.1 as isize,
            rhs_strides.0 as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Number of blocks of inputs that share a scale.
pub(crate) fn int8_blocks(inputs: usize) -> usize {
    inputs.div_ceil(INT8_BLOCK)
}

/// The inputs of block `i`.
fn int8_block(i: usize, inputs: usize) -> std::ops::Range<usize> {
    i * INT8_BLOCK..inputs.min((i + 1) * INT8_BLOCK)
}

impl Kernel {
    /// The row format of [`Self::i8_product`]: rows are padded to a multiple of the first value,
    /// and the second value is added to each byte, modulo 256.
    pub fn i8_rows(self) -> (usize, u8) {
        match self {
            Self::Avx512 => (avx512::UNIT_BYTES, avx512::OFFSET),
            Self::NumKong => (1, 0),
        }
    }

    pub fn i8_packed_bytes(self, outputs: usize, inputs: usize) -> usize {
        match self {
            Self::Avx512 => avx512::i8_packed_bytes(outputs, inputs),
            Self::NumKong => (0..int8_blocks(inputs))
                .map(|i| numkong_i8_bytes(outputs, int8_block(i, inputs).len()))
                .sum(),
        }
    }

    /// Packs a row-major matrix [outputs, inputs].
    pub fn i8_pack(self, weight: &[i8], outputs: usize, inputs: usize, packed: &mut [u8]) {
        assert_eq!(weight.len(), outputs * inputs);
        assert_eq!(packed.len(), self.i8_packed_bytes(outputs, inputs));
        if self == Self::Avx512 {
            return avx512::i8_pack(weight, outputs, inputs, packed);
        }
        let mut rest = packed;
        for i in 0..int8_blocks(inputs) {
            let block = int8_block(i, inputs);
            let bytes = numkong_i8_bytes(outputs, block.len());
            let (own, after) = rest.split_at_mut(bytes);
            rest = after;
            // SAFETY: the block's rows lie `inputs` bytes apart in `weight`, and `own` has the size
            // that the function requires.
            unsafe {
                i8::dots_pack(
                    weight.as_ptr().add(block.start),
                    outputs,
                    block.len(),
                    inputs,
                    own.as_mut_ptr(),
                );
            }
        }
    }

    /// Computes `x Wᵀ + b` for quantised rows in the format of [`Self::i8_rows`]. The sum over each
    /// block is an integer, which is multiplied by the scales of the row and the output. Scales are
    /// [rows, blocks] and [outputs, blocks].
    #[allow(clippy::too_many_arguments)]
    pub fn i8_product(
        self,
        x: &[i8],
        x_scales: &[f32],
        inputs: usize,
        packed: &[u8],
        scales: &[f32],
        bias: Option<&[f32]>,
        mut target: TargetColumns<'_>,
    ) {
        let (rows, outputs, blocks) = (target.rows, target.columns, int8_blocks(inputs));
        if self == Self::Avx512 {
            let x = bytemuck::cast_slice(x);
            return avx512::i8_product(x, x_scales, inputs, packed, scales, bias, target);
        }
        assert_eq!(x.len(), rows * inputs);
        assert_eq!(x_scales.len(), rows * blocks);
        assert_eq!(scales.len(), outputs * blocks);
        assert_eq!(packed.len(), self.i8_packed_bytes(outputs, inputs));
        for row in 0..rows {
            let first = target.pointer.wrapping_add(row * target.stride);
            // SAFETY: the row lies within the target, and no other target has these elements.
            unsafe { first.write_bytes(0, outputs) };
        }
        let mut dots = vec![0i32; rows * outputs];
        let mut rest = packed;
        for i in 0..blocks {
            let block = int8_block(i, inputs);
            let (own, after) = rest.split_at(numkong_i8_bytes(outputs, block.len()));
            rest = after;
            // SAFETY: rows of `x` lie `inputs` bytes apart, and `dots` has room for [rows,
            // outputs].
            unsafe {
                i8::dots_packed(
                    x.as_ptr().add(block.start),
                    own.as_ptr(),
                    dots.as_mut_ptr(),
                    rows,
                    outputs,
                    block.len(),
                    inputs,
                    outputs * size_of::<i32>(),
                );
            }
            for (row, dots) in dots.chunks_exact(outputs).enumerate() {
                let x_scale = x_scales[row * blocks + i];
                let scales = scales.iter().skip(i).step_by(blocks);
                for ((out, &dot), scale) in target.row(row).iter_mut().zip(dots).zip(scales) {
                    let part = dot as f32 * (x_scale * scale);
                    *out += part;
                }
            }
        }
        target.add_bias(bias);
    }
}

fn numkong_i8_bytes(outputs: usize, inputs: usize) -> usize {
    i8::dots_packed_size(outputs, inputs).next_multiple_of(64)
}
