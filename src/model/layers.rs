//! The building blocks of a transformer, for every model family: [`Embedding`], [`Linear`],
//! [`RmsNorm`], [`LayerNorm`], [`Mlp`] and [`GatedMlp`]. [`Attention`](super::attention::Attention)
//! has a file of its own.
//!
//! A block takes and returns f32 matrices as plain slices, row by row. A row is a token or a patch,
//! and the block's weights determine its width. Comments give shapes as [rows, columns]. How a
//! product rounds depends on the number format of its weights ([`DType`]).
//!
//! All products of a forward pass are in [`matmul`], which splits them over the threads and calls
//! the processor's kernel, and in [`Attention`](super::attention::Attention).

use serde::Deserialize;

use super::ModelError;
use super::compute::{
    self, DType, Kernel, Matrix, SharedBytes, add_matmul, matmul, matmul_then, widen,
};
use super::scope::Scope;

/// `x Wᵀ + b`.
pub(super) struct Linear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub fn load(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Self, ModelError> {
        Self::shaped(scope, &[outputs, inputs], bias)
    }

    /// Loads a layer whose weight is stored with `shape`: the outputs first, then dimensions whose
    /// product is the number of inputs.
    pub fn shaped(scope: &Scope<'_>, shape: &[usize], bias: bool) -> Result<Self, ModelError> {
        Self::named(scope, "weight", bias.then_some("bias"), shape)
    }

    /// As [`Self::shaped`], for a layer whose tensors have other names than `weight` and `bias`.
    pub fn named(
        scope: &Scope<'_>,
        weight: &str,
        bias: Option<&str>,
        shape: &[usize],
    ) -> Result<Self, ModelError> {
        let weight = scope.matrix(weight, shape)?;
        let bias = bias.map(|bias| scope.vector(bias, weight.outputs()));
        Ok(Self {
            bias: bias.transpose()?,
            weight,
        })
    }

    /// The number format of the weights, and the code that multiplies them.
    pub fn format(&self) -> (DType, Kernel) {
        (self.weight.dtype(), self.weight.kernel())
    }

    /// [rows, inputs] to [rows, outputs]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let [y] = matmul([(&self.weight, self.bias.as_deref())], x);
        y
    }

    /// [rows, inputs] to [rows, outputs], with `activation` applied to the result
    pub fn forward_activated(&self, x: &[f32], activation: Activation) -> Vec<f32> {
        let own = (&self.weight, self.bias.as_deref());
        let [y] = matmul_then([own], x, |part| activation.apply(part));
        y
    }

    /// Adds the result for `x`, [rows, inputs], to `sum`, [rows, outputs]: `sum += x Wᵀ + b`.
    pub fn add_to(&self, sum: &mut [f32], x: &[f32]) {
        add_matmul((&self.weight, self.bias.as_deref()), x, sum);
    }

    /// Applies several layers to the same `x`, which is faster than one after another.
    pub fn forward_all<const N: usize>(linears: [&Self; N], x: &[f32]) -> [Vec<f32>; N] {
        matmul(linears.map(|own| (&own.weight, own.bias.as_deref())), x)
    }
}

/// A lookup table [rows, width] in the checkpoint's number format.
pub(super) struct Embedding {
    width: usize,
    dtype: DType,
    weight: SharedBytes,
}

impl Embedding {
    /// `None` if `weight` does not have the table's size.
    pub fn new(rows: usize, width: usize, dtype: DType, weight: SharedBytes) -> Option<Self> {
        let size = rows.checked_mul(dtype.row_bytes(width))?;
        (weight.as_ref().len() == size).then_some(Self {
            width,
            dtype,
            weight,
        })
    }

    /// A table without rows, for a model that is built only in order to pack its weights.
    pub fn absent(width: usize, dtype: DType) -> Self {
        Self {
            width,
            dtype,
            weight: SharedBytes::empty(),
        }
    }

    /// Returns the rows at `indices`, [indices, width].
    ///
    /// # Errors
    /// [`ModelError::Internal`] if an index is out of range.
    pub fn forward(&self, indices: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut out = vec![0.0; indices.len() * self.width];
        let row_bytes = self.dtype.row_bytes(self.width);
        for (out, &index) in out.chunks_exact_mut(self.width).zip(indices) {
            let start = (index as usize).checked_mul(row_bytes);
            start
                .and_then(|start| {
                    let row = start..start.checked_add(row_bytes)?;
                    widen(self.dtype, self.weight.as_ref().get(row)?, out)
                })
                .ok_or_else(|| ModelError::Internal(format!("there is no embedding {index}")))?;
        }
        Ok(out)
    }
}

/// `x / rms(x) · w` over each row of as many elements as `w` has (Zhang and Sennrich 2019, "Root
/// Mean Square Layer Normalization").
pub(super) struct RmsNorm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl RmsNorm {
    pub fn load(scope: &Scope<'_>, size: usize, epsilon: f32) -> Result<Self, ModelError> {
        Ok(Self {
            weight: scope.vector("weight", size)?,
            epsilon,
        })
    }

    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        compute::rms_norm(x, &self.weight, self.epsilon)
    }
}

/// `(x - mean(x)) / std(x) · w + b` over each row of as many elements as `w` has (Ba, Kiros and
/// Hinton 2016).
pub(super) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    pub fn load(scope: &Scope<'_>, size: usize, epsilon: f64) -> Result<Self, ModelError> {
        Ok(Self {
            weight: scope.vector("weight", size)?,
            bias: scope.vector("bias", size)?,
            epsilon: epsilon as f32,
        })
    }

    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        compute::layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

/// Activation functions, with the names that configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Activation {
    #[serde(rename = "silu")]
    Silu,
    /// The exact form, `x Φ(x)`.
    #[serde(rename = "gelu")]
    Gelu,
    /// The approximation with tanh.
    #[serde(rename = "gelu_pytorch_tanh")]
    GeluTanh,
    /// The approximation `x · sigmoid(1.702 x)`.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    #[serde(rename = "relu")]
    Relu,
}

impl Activation {
    /// Applies the function in place, in the calling thread.
    pub fn apply(self, x: &mut [f32]) {
        match self {
            Self::Silu => compute::silu(x),
            Self::Gelu => compute::gelu_erf(x),
            Self::GeluTanh => compute::gelu_tanh(x),
            Self::QuickGelu => compute::quick_gelu(x),
            Self::Relu => compute::relu(x),
        }
    }

    /// Replaces `gate` by `act(gate) · x`.
    pub fn gate(self, gate: &mut [f32], x: &[f32]) {
        match self {
            Self::Silu => compute::silu_gate(gate, x),
            _ => {
                self.apply(gate);
                gate.iter_mut().zip(x).for_each(|(gate, x)| *gate *= x);
            }
        }
    }
}

/// `fc2(act(fc1(x)))`.
pub(super) struct Mlp {
    pub fc1: Linear,
    pub activation: Activation,
    pub fc2: Linear,
}

impl Mlp {
    /// [rows, inputs of fc1] to [rows, outputs of fc2]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.fc1.weight.inputs();
        let mut out = vec![0.0; rows * self.fc2.weight.outputs()];
        self.add_to(&mut out, x);
        out
    }

    /// Adds the result for `x`, [rows, inputs of fc1], to `sum`, [rows, outputs of fc2].
    pub fn add_to(&self, sum: &mut [f32], x: &[f32]) {
        for (sum, x) in parts(&self.fc1, &self.fc2, sum, x) {
            let inner = self.fc1.forward_activated(x, self.activation);
            self.fc2.add_to(sum, &inner);
        }
    }
}

/// `down(act(gate(x)) · up(x))` (Shazeer 2020, "GLU Variants Improve Transformer").
pub(super) struct GatedMlp {
    pub gate: Linear,
    pub up: Linear,
    pub activation: Activation,
    pub down: Linear,
}

impl GatedMlp {
    /// Adds the result for `x`, [rows, inputs of gate], to `sum`, [rows, outputs of down].
    pub fn add_to(&self, sum: &mut [f32], x: &[f32]) {
        for (sum, x) in parts(&self.gate, &self.down, sum, x) {
            let [mut inner, up] = Linear::forward_all([&self.gate, &self.up], x);
            self.activation.gate(&mut inner, &up);
            self.down.add_to(sum, &inner);
        }
    }
}

/// Number of elements between the two products of an MLP that are held at a time: 4 MB. Without
/// this limit, a large picture would take hundreds of MB.
const INNER_ELEMENTS: usize = 1 << 20;
/// Minimum number of rows per part. With this many rows, the cost of reading the weights again is
/// negligible.
const INNER_ROWS: usize = 192;

/// Splits the rows of an MLP's input and of the sum to which it is added into parts. `first` and
/// `last` are its first and its last layer.
fn parts<'a>(
    first: &Linear,
    last: &Linear,
    sum: &'a mut [f32],
    x: &'a [f32],
) -> impl Iterator<Item = (&'a mut [f32], &'a [f32])> {
    let rows = (INNER_ELEMENTS / first.weight.outputs()).max(INNER_ROWS);
    sum.chunks_mut(rows * last.weight.outputs())
        .zip(x.chunks(rows * first.weight.inputs()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compute::{Panel, matrix_panels, pack_panel};

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    fn linear(inputs: usize, outputs: usize, (dtype, kernel): (DType, Kernel)) -> Linear {
        let weight = wave(inputs * outputs, 0.61);
        let packed: Vec<u8> = matrix_panels(outputs)
            .flat_map(|(first, count)| {
                let panel = Panel::F32(weight[first * inputs..][..count * inputs].to_vec());
                pack_panel(dtype, kernel, panel, count, inputs)
            })
            .collect();
        let mut bytes = vec![0; packed.len() + 64];
        let start = bytes.as_ptr().align_offset(64);
        let range = start..start + packed.len();
        bytes[range.clone()].copy_from_slice(&packed);
        let packed = SharedBytes::new(Arc::new(bytes), range).unwrap();
        Linear {
            weight: Matrix::new(outputs, inputs, dtype, kernel, packed).unwrap(),
            bias: Some(wave(outputs, 0.37)),
        }
    }

    #[test]
    fn a_long_mlp_adds_to_every_row_what_it_gives_for_the_row_alone() {
        const INPUTS: usize = 5;
        const INNER: usize = 8192;
        const OUTPUTS: usize = 130;
        const ROWS: usize = 2 * INNER_ROWS + 16;
        let formats = [DType::F32, DType::F16, DType::Bf16, DType::Int8]
            .into_iter()
            .flat_map(|dtype| [Kernel::Avx512, Kernel::NumKong].map(|kernel| (dtype, kernel)))
            .filter(|(_, kernel)| kernel.is_available());
        for format in formats {
            let activation = Activation::GeluTanh;
            let mlp = Mlp {
                fc1: linear(INPUTS, INNER, format),
                activation,
                fc2: linear(INNER, OUTPUTS, format),
            };
            let x = wave(ROWS * INPUTS, 0.29);
            let before = wave(ROWS * OUTPUTS, 0.83);
            let mut sum = before.clone();
            mlp.add_to(&mut sum, &x);
            let rows = x
                .chunks_exact(INPUTS)
                .zip(before.chunks_exact(OUTPUTS))
                .zip(sum.chunks_exact(OUTPUTS));
            for ((x, before), sum) in rows {
                let mut inner = mlp.fc1.forward(x);
                activation.apply(&mut inner);
                let alone = mlp.fc2.forward(&inner);
                for ((sum, before), alone) in sum.iter().zip(before).zip(&alone) {
                    let tolerance = 1e-4 * (1.0 + alone.abs());
                    assert!((sum - before - alone).abs() <= tolerance, "{format:?}");
                }
            }
        }
    }
}
