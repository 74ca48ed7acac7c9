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
use super::compute::{self, DType, Kernel, Matrix, SharedBytes, matmul, widen};
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
    /// Applies the function in place.
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
        in_parts(x, &self.fc1, |x| {
            let mut inner = self.fc1.forward(x);
            self.activation.apply(&mut inner);
            self.fc2.forward(&inner)
        })
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
    /// [rows, inputs of gate] to [rows, outputs of down]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        in_parts(x, &self.gate, |x| {
            let [mut inner, up] = Linear::forward_all([&self.gate, &self.up], x);
            self.activation.gate(&mut inner, &up);
            self.down.forward(&inner)
        })
    }
}

/// Number of elements between the two products of an MLP that are held at a time: 4 MB. Without
/// this limit, a large picture would take hundreds of MB.
const INNER_ELEMENTS: usize = 1 << 20;
/// Minimum number of rows per part. With this many rows, the cost of reading the weights again is
/// negligible.
const INNER_ROWS: usize = 192;

/// Applies an MLP whose first layer is `first` to some rows of `x` at a time.
fn in_parts(x: &[f32], first: &Linear, mlp: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    let rows = (INNER_ELEMENTS / first.weight.outputs()).max(INNER_ROWS);
    part_by_part(x, rows * first.weight.inputs(), mlp)
}

/// Applies `function` to `size` elements at a time and concatenates the results.
fn part_by_part(x: &[f32], size: usize, function: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    if x.len() <= size {
        return function(x);
    }
    let mut out = Vec::new();
    for part in x.chunks(size) {
        let part = function(part);
        if out.is_empty() {
            out.reserve_exact(part.len() * x.len().div_ceil(size));
        }
        out.extend(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_order() {
        let x: Vec<f32> = (0..23).map(|i| i as f32).collect();
        for size in [1, 7, 22, 23, 100] {
            // The result is twice as long as the input, so a mix-up of the two lengths shows.
            let double = |x: &[f32]| x.iter().flat_map(|&x| [x, -x]).collect();
            assert_eq!(part_by_part(&x, size, double), double(&x));
        }
    }
}
