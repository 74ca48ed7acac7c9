//! Packed weight matrices and their products ([`matmul`]).

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use photosearch_cpu::vectorised;
use serde::{Deserialize, Serialize};

use super::kernel::{INT8_BLOCK, Kernel, Output, Start, int8_blocks};
use super::{SharedBytes, pool};

/// Outputs in a panel. A panel is packed as a unit, and a thread computes one panel at a time.
const PANEL_OUTPUTS: usize = 128;

/// The number format of a model's weights, which determines how the products of its matrices round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DType {
    /// Products in f32.
    #[serde(rename = "float32")]
    F32,
    /// Half the memory of f32; converted to f32 for products.
    #[serde(rename = "float16")]
    F16,
    /// Both factors of a product are rounded to bf16; sums are f32.
    #[serde(rename = "bfloat16")]
    Bf16,
    /// 8-bit integers with a scale for each output and block of inputs. The left factor of a product is
    /// quantised in the same way, row by row. Sums within a block are exact.
    #[serde(rename = "int8")]
    Int8,
}

impl DType {
    /// The format's name in `photosearch.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Int8 => "int8",
        }
    }

    /// Size of a table's row of `columns` elements, in bytes.
    pub fn row_bytes(self, columns: usize) -> usize {
        columns
            * match self {
                Self::F32 => 4,
                Self::F16 | Self::Bf16 => 2,
                Self::Int8 => 1,
            }
    }

    /// The name of the code that computes products of matrices in this format.
    pub fn computed_by(self, kernel: Kernel) -> String {
        match self {
            Self::F32 | Self::F16 if !kernel.packs_f32() => "gemm".to_owned(),
            _ => kernel.name(),
        }
    }
}

/// A weight matrix [outputs, inputs].
pub(crate) struct Matrix {
    outputs: usize,
    inputs: usize,
    dtype: DType,
    kernel: Kernel,
    packed: SharedBytes,
}

/// The weights of a panel: f32, or 8-bit integers with their scales ([outputs, blocks]).
pub(crate) enum Panel {
    F32(Vec<f32>),
    Int8(Vec<i8>, Vec<f32>),
}

impl Matrix {
    /// Wraps a packed matrix of the given format and kernel. `None` if its size is wrong, or if it
    /// is not aligned to 64 bytes.
    pub fn new(
        outputs: usize,
        inputs: usize,
        dtype: DType,
        kernel: Kernel,
        packed: SharedBytes,
    ) -> Option<Self> {
        let own = Self {
            outputs,
            inputs,
            dtype,
            kernel,
            packed,
        };
        let expected: usize = own
            .panels()
            .map(|(_, rows)| panel_bytes(dtype, kernel, rows, inputs))
            .sum();
        let bytes = own.packed.as_ref();
        (bytes.len() == expected && bytes.as_ptr().addr().is_multiple_of(64)).then_some(own)
    }

    /// A matrix without weights, for a model that is built only in order to pack its weights.
    pub fn absent(outputs: usize, inputs: usize, dtype: DType, kernel: Kernel) -> Self {
        Self {
            outputs,
            inputs,
            dtype,
            kernel,
            packed: SharedBytes::empty(),
        }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// First output and number of outputs of each panel.
    pub fn panels(&self) -> impl Iterator<Item = (usize, usize)> {
        panels(self.outputs)
    }

    /// The packed weights of `count` outputs from `first` on: a panel, or any outputs of a matrix
    /// that is stored row by row.
    fn weights_of(&self, first: usize, count: usize) -> &[u8] {
        let unit = match self.is_row_major() {
            true => 1,
            false => PANEL_OUTPUTS,
        };
        let bytes = |outputs| panel_bytes(self.dtype, self.kernel, outputs, self.inputs);
        &self.packed.as_ref()[first / unit * bytes(unit)..][..bytes(count)]
    }

    /// Whether the weights are stored row by row, for the gemm crate.
    fn is_row_major(&self) -> bool {
        matches!(self.dtype, DType::F32 | DType::F16) && !self.kernel.packs_f32()
    }

    /// Whether rows that were converted for one of two matrices can be multiplied by the other one, too.
    fn has_same_input_format(&self, other: &Self) -> bool {
        (self.inputs, self.dtype, self.kernel) == (other.inputs, other.dtype, other.kernel)
    }
}

/// The rows of a product's left factor, converted to the format in which the matrices are multiplied.
enum ConvertedRows<'a> {
    F32(&'a [f32]),
    Bf16(Vec<bf16>),
    /// Integers, and their scales ([rows, blocks]).
    Int8(Vec<i8>, Vec<f32>),
}

impl<'a> ConvertedRows<'a> {
    fn of(x: &'a [f32], matrix: &Matrix) -> Self {
        match matrix.dtype {
            DType::F32 | DType::F16 => Self::F32(x),
            DType::Bf16 => Self::Bf16(to_bf16(x, matrix.inputs)),
            DType::Int8 => {
                let (x, scales) = quantise_rows(x, matrix.inputs, matrix.kernel.i8_rows());
                Self::Int8(x, scales)
            }
        }
    }
}

/// Computes `x Wᵀ + b` for several matrices and biases, from [rows, inputs] to [rows, outputs]
/// each. If the matrices have the same format, `x` is converted once for all. The threads share the
/// columns of the results.
pub(crate) fn matmul<const N: usize>(
    matrices: [(&Matrix, Option<&[f32]>); N],
    x: &[f32],
) -> [Vec<f32>; N] {
    let Some(&(model, _)) = matrices.first() else {
        return [const { Vec::new() }; N];
    };
    let mut each = matrices.iter();
    if !each.all(|(matrix, _)| matrix.has_same_input_format(model)) {
        return matrices.map(|own| {
            let [product] = matmul([own], x);
            product
        });
    }
    let (inputs, kernel) = (model.inputs, model.kernel);
    let rows = x.len() / inputs;
    let mut out: [Vec<f32>; N] =
        matrices.map(|(matrix, _)| Vec::with_capacity(rows * matrix.outputs));
    let outputs: usize = matrices.iter().map(|(matrix, _)| matrix.outputs).sum();
    let width = pool::width_for(rows * outputs * inputs / 8);
    let x = ConvertedRows::of(x, model);
    let mut parts = Vec::new();
    for (i, (matrix, _)) in matrices.iter().enumerate() {
        // gemm packs `x` again for each part of an f32 product, so there is only one part per
        // thread. An f16 matrix keeps panels, because each is widened to f32 before its product.
        let step = match model.dtype {
            DType::F32 if model.is_row_major() => matrix.outputs.div_ceil(width),
            _ => PANEL_OUTPUTS,
        };
        let each = (0..matrix.outputs).step_by(step);
        parts.extend(each.map(|first| (i, first, step.min(matrix.outputs - first))));
    }
    let places: Vec<Output<'_>> = out
        .iter_mut()
        .zip(&matrices)
        .map(|(out, (matrix, _))| {
            let room = &mut out.spare_capacity_mut()[..rows * matrix.outputs];
            // SAFETY: products write every element of their target before they read it.
            unsafe { Output::unwritten(room, matrix.outputs) }
        })
        .collect();
    pool::for_each(parts.len(), width, |part| {
        let (i, first, columns) = parts[part];
        let (matrix, bias) = matrices[i];
        let weights = matrix.weights_of(first, columns);
        let bias = bias.map(|bias| &bias[first..first + columns]);
        let start = Start::Bias(bias);
        // SAFETY: no two parts share a column.
        let target = unsafe { places[i].target(0, rows, first, columns) };
        match &x {
            ConvertedRows::F32(x) if matrix.dtype == DType::F16 => {
                let mut wide = vec![0.0; weights.len() / size_of::<f16>()];
                bytemuck::cast_slice::<_, f16>(weights).convert_to_f32_slice(&mut wide);
                kernel.product(x, inputs, bytemuck::cast_slice(&wide), start, target);
            }
            ConvertedRows::F32(x) => kernel.product(x, inputs, weights, start, target),
            ConvertedRows::Bf16(x) => kernel.product(x, inputs, weights, start, target),
            ConvertedRows::Int8(x, x_scales) => {
                let (scales, weights) = weights.split_at(scale_bytes(columns, inputs));
                let scales = &bytemuck::cast_slice(scales)[..columns * int8_blocks(inputs)];
                kernel.i8_product(x, x_scales, inputs, weights, scales, bias, target);
            }
        }
    });
    drop(places);
    for (out, (matrix, _)) in out.iter_mut().zip(&matrices) {
        // SAFETY: the parts cover all columns, and products write all of theirs.
        unsafe { out.set_len(rows * matrix.outputs) };
    }
    out
}

fn panels(outputs: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..outputs)
        .step_by(PANEL_OUTPUTS)
        .map(move |first| (first, PANEL_OUTPUTS.min(outputs - first)))
}

/// Size of the scales that precede a panel's integers, in bytes.
fn scale_bytes(outputs: usize, inputs: usize) -> usize {
    (outputs * int8_blocks(inputs) * size_of::<f32>()).next_multiple_of(64)
}

fn panel_bytes(dtype: DType, kernel: Kernel, outputs: usize, inputs: usize) -> usize {
    match dtype {
        DType::F32 => kernel.packed_bytes::<f32>(outputs, inputs),
        DType::F16 => kernel.packed_bytes::<f32>(outputs, inputs) / 2,
        DType::Bf16 => kernel.packed_bytes::<bf16>(outputs, inputs),
        DType::Int8 => scale_bytes(outputs, inputs) + kernel.i8_packed_bytes(outputs, inputs),
    }
}

/// Packs a panel. The concatenated panels are the input of [`Matrix::new`].
pub(crate) fn pack_panel(
    dtype: DType,
    kernel: Kernel,
    weights: Panel,
    outputs: usize,
    inputs: usize,
) -> Vec<u8> {
    let mut packed = vec![0u8; panel_bytes(dtype, kernel, outputs, inputs)];
    match (dtype, weights) {
        (DType::Int8, weights) => {
            let (integers, scales) = match weights {
                Panel::Int8(integers, scales) => (integers, scales),
                Panel::F32(floats) => quantise(&floats, inputs),
            };
            let (head, body) = packed.split_at_mut(scale_bytes(outputs, inputs));
            let scales: &[u8] = bytemuck::cast_slice(&scales);
            head[..scales.len()].copy_from_slice(scales);
            kernel.i8_pack(&integers, outputs, inputs, body);
        }
        (dtype, weights) => {
            let floats = match weights {
                Panel::F32(floats) => floats,
                Panel::Int8(integers, scales) => dequantise(&integers, &scales, inputs),
            };
            match dtype {
                DType::F16 => {
                    let mut wide = vec![0f32; packed.len() / size_of::<f16>()];
                    kernel.pack(
                        &floats,
                        outputs,
                        inputs,
                        bytemuck::cast_slice_mut(&mut wide),
                    );
                    let halves: Vec<f16> = wide.iter().map(|&x| f16::from_f32(x)).collect();
                    packed.copy_from_slice(bytemuck::cast_slice(&halves));
                }
                DType::Bf16 => kernel.pack(&to_bf16(&floats, inputs), outputs, inputs, &mut packed),
                DType::F32 | DType::Int8 => kernel.pack(&floats, outputs, inputs, &mut packed),
            }
        }
    }
    packed
}

/// First output and number of outputs of each panel of a matrix.
pub(crate) fn matrix_panels(outputs: usize) -> impl Iterator<Item = (usize, usize)> {
    panels(outputs)
}

/// Approximate costs per element, in multiplications, for [`pool::for_rows`].
const ROUND_COST: usize = 4;
const QUANTISE_COST: usize = 8;

/// Rounds rows of `row` elements to the nearest bf16.
pub(crate) fn to_bf16(x: &[f32], row: usize) -> Vec<bf16> {
    let mut out = vec![bf16::ZERO; x.len()];
    pool::for_rows(&mut out, row, x.len() * ROUND_COST, |first, out| {
        round_all(&x[first * row..][..out.len()], out);
    });
    out
}

vectorised! {
    /// Rounds each value to the nearest bf16.
    pub(super) fn round_all(x: &[f32], out: &mut [bf16]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = round_to_bf16(x);
        }
    }
}

/// Rounds to nearest, ties to even. The code has no branches, so that it can be vectorised.
#[inline(always)]
fn round_to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // Without this, a NaN with no bit set in the upper half of its mantissa would become an
    // infinity.
    let bits = if x.is_nan() {
        bits | 0x0040_0000
    } else {
        rounded
    };
    bf16::from_bits((bits >> 16) as u16)
}

/// Quantises rows of `inputs` values to 8-bit integers, with a scale for each row and block. The
/// largest magnitude in a block becomes 127.
pub(crate) fn quantise(x: &[f32], inputs: usize) -> (Vec<i8>, Vec<f32>) {
    quantise_rows(x, inputs, (1, 0))
}

/// Like [`quantise`], with rows padded to a multiple of `unit` bytes and `offset` added to each
/// value.
fn quantise_rows(x: &[f32], inputs: usize, (unit, offset): (usize, u8)) -> (Vec<i8>, Vec<f32>) {
    let blocks = int8_blocks(inputs);
    let rows = x.len() / inputs;
    let padded = inputs.next_multiple_of(unit);
    let mut integers = vec![0i8; rows * padded];
    let mut scales = vec![0.0; rows * blocks];
    pool::for_rows_of_two(
        (&mut integers, padded),
        (&mut scales, blocks),
        x.len() * QUANTISE_COST,
        |first, integers, scales| {
            let rows = x[first * inputs..].chunks_exact(inputs);
            let out = integers
                .chunks_exact_mut(padded)
                .zip(scales.chunks_exact_mut(blocks));
            for (row, (integers, scales)) in rows.zip(out) {
                let blocks = row
                    .chunks(INT8_BLOCK)
                    .zip(integers.chunks_mut(INT8_BLOCK))
                    .zip(scales);
                for ((block, integers), scale) in blocks {
                    *scale = largest_magnitude(block) / 127.0;
                    round_to_i8(block, *scale, offset, integers);
                }
            }
        },
    );
    (integers, scales)
}

/// Number of independent lanes, enough to hide the latency of the instructions.
const LANES: usize = 64;

vectorised! {
    /// The largest magnitude; NaN if an element is not finite, so that the scale becomes NaN too.
    fn largest_magnitude(block: &[f32]) -> f32 {
        let mut most = [0f32; LANES];
        // The sum of all elements times 0: NaN if one of them is not finite.
        let mut zeros = [0f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks.iter().map(|chunk| chunk.as_slice()).chain([rest]) {
            for ((most, zero), x) in most.iter_mut().zip(&mut zeros).zip(chunk) {
                *most = if x.abs() > *most { x.abs() } else { *most };
                *zero += x * 0.0;
            }
        }
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                most[i] = most[i].max(most[i + width]);
                zeros[i] += zeros[i + width];
            }
            width /= 2;
        }
        most[0] + zeros[0]
    }
}

vectorised! {
    fn round_to_i8(source: &[f32], scale: f32, offset: u8, integers: &mut [i8]) {
        /// Adding 1.5 · 2^23 rounds to an integer and leaves the integer in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
        for (integer, &x) in integers.iter_mut().zip(source) {
            let clamped = (x * inverse).clamp(-127.0, 127.0);
            *integer = (clamped + ROUND).to_bits() as i8 ^ offset as i8;
        }
    }
}

fn dequantise(integers: &[i8], scales: &[f32], inputs: usize) -> Vec<f32> {
    let blocks = int8_blocks(inputs);
    integers
        .iter()
        .enumerate()
        .map(|(i, &q)| {
            let (row, column) = (i / inputs, i % inputs);
            f32::from(q) * scales[row * blocks + column / INT8_BLOCK]
        })
        .collect()
}

/// Converts stored values to f32. `None` for 8-bit integers, or if the length of `bytes` is not a
/// multiple of the format's size.
pub(crate) fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Option<()> {
    match dtype {
        DType::F32 => out.copy_from_slice(bytemuck::try_cast_slice(bytes).ok()?),
        DType::F16 => {
            let halves: &[f16] = bytemuck::try_cast_slice(bytes).ok()?;
            halves.convert_to_f32_slice(out);
        }
        DType::Bf16 => {
            let halves: &[bf16] = bytemuck::try_cast_slice(bytes).ok()?;
            for (out, half) in out.iter_mut().zip(halves) {
                *out = half.to_f32();
            }
        }
        DType::Int8 => return None,
    }
    Some(())
}
