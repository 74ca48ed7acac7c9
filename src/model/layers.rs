//! The layers of a transformer. All layers take and return f32; how a matrix product rounds depends
//! on the format of its matrix ([`Held`](super::compute::Held)).
//!
//! Each layer is a candle operation ([`apply`]) over slices, so a forward pass reads like candle
//! code while [`compute`] does the arithmetic.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Shape, Tensor};
use serde::Deserialize;

use super::ModelError;
use super::compute::{self, Matrix};
use super::scope::Scope;

/// A candle operation that maps the elements of one tensor to the elements of another.
struct Function<F> {
    name: &'static str,
    shape: Shape,
    function: F,
    /// The function's error. candle's error type cannot hold a [`ModelError`].
    failed: Mutex<Option<ModelError>>,
}

impl<F: Fn(&[f32]) -> Result<Vec<f32>, ModelError> + Send + Sync> CustomOp1 for Function<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(all), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("{} takes contiguous f32", self.name)
        };
        let out = match (self.function)(&all[start..end]) {
            Ok(out) => out,
            Err(error) => {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                candle_core::bail!("{} failed", self.name)
            }
        };
        if out.len() != self.shape.elem_count() {
            candle_core::bail!(
                "{} returned {} elements for shape {:?}",
                self.name,
                out.len(),
                self.shape
            )
        }
        Ok((CpuStorage::F32(out), self.shape.clone()))
    }
}

/// Applies `function` to the elements of `x` and returns the result as a tensor of this shape.
pub(super) fn apply(
    name: &'static str,
    x: &Tensor,
    shape: impl Into<Shape>,
    function: impl Fn(&[f32]) -> Vec<f32> + Send + Sync,
) -> Result<Tensor, ModelError> {
    try_apply(name, x, shape, |x| Ok(function(x)))
}

/// Like [`apply`], for a function that can fail.
pub(super) fn try_apply(
    name: &'static str,
    x: &Tensor,
    shape: impl Into<Shape>,
    function: impl Fn(&[f32]) -> Result<Vec<f32>, ModelError> + Send + Sync,
) -> Result<Tensor, ModelError> {
    let operation = Function {
        name,
        shape: shape.into(),
        function,
        failed: Mutex::default(),
    };
    x.contiguous()?
        .apply_op1_no_bwd(&operation)
        .map_err(|error| {
            let failed = operation.failed.into_inner();
            let own = failed.unwrap_or_else(PoisonError::into_inner);
            own.unwrap_or_else(|| error.into())
        })
}

struct AddTo;

impl InplaceOp2 for AddTo {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<()> {
        let places = (
            to_layout.contiguous_offsets(),
            x_layout.contiguous_offsets(),
        );
        let (CpuStorage::F32(to), CpuStorage::F32(x), (Some(a), Some(b))) = (to, x, places) else {
            candle_core::bail!("add takes contiguous f32")
        };
        compute::add(&mut to[a.0..a.1], &x[b.0..b.1]);
        Ok(())
    }
}

/// Computes `to + x` in the memory of `to`. Both have the same shape, and the caller holds the only
/// reference to `to`'s memory.
pub(super) fn add_to(to: Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
    if to.shape() != x.shape() {
        return Err(ModelError::Internal(format!(
            "cannot add shape {:?} to shape {:?}",
            x.shape(),
            to.shape()
        )));
    }
    to.inplace_op2(x, &AddTo)?;
    Ok(to)
}

/// `x Wᵀ + b`.
pub(super) struct Linear {
    matrix: Matrix,
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
        let matrix = scope.matrix("weight", shape)?;
        let bias = match bias {
            true => Some(scope.vector("bias", matrix.outputs())?),
            false => None,
        };
        Ok(Self { matrix, bias })
    }

    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// [rows, inputs] to [rows, outputs], row-major.
    pub fn product(&self, x: &[f32]) -> Vec<f32> {
        self.matrix.product(x, self.bias.as_deref())
    }

    /// [rows, inputs] to [rows, outputs]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let shape = (x.dim(0)?, self.matrix.outputs());
        apply("linear", x, shape, |x| self.product(x))
    }
}

/// The products of `x` with each of the layers.
pub(super) fn products<const N: usize>(linears: [&Linear; N], x: &[f32]) -> [Vec<f32>; N] {
    let parts = linears.map(|linear| (&linear.matrix, linear.bias.as_deref()));
    compute::products(parts, x)
}

/// Number of elements between the two halves of a feed-forward layer that are held at a time: 4 MB.
/// Without this limit, a large picture would take hundreds of MB.
const INNER_ELEMENTS: usize = 1 << 20;
/// Minimum number of rows per part. With this many rows, the cost of reading the weights again is
/// negligible.
const INNER_ROWS: usize = 192;

/// Computes `outer(inner(x))` for some rows of `inputs` elements at a time. `inner` returns `width`
/// elements per row.
pub(super) fn in_parts(
    x: &[f32],
    inputs: usize,
    width: usize,
    inner: impl Fn(&[f32]) -> Vec<f32>,
    outer: &Linear,
) -> Vec<f32> {
    let rows = (INNER_ELEMENTS / width).max(INNER_ROWS);
    part_by_part(x, rows * inputs, |x| outer.product(&inner(x)))
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

/// `x / rms(x) · w` over the last dimension (Zhang and Sennrich 2019, "Root Mean Square Layer
/// Normalization").
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

    /// The weight and epsilon.
    pub fn parts(&self) -> (&[f32], f32) {
        (&self.weight, self.epsilon)
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        apply("rms norm", x, x.shape(), |x| {
            compute::rms_norm(x, &self.weight, self.epsilon)
        })
    }
}

/// `(x - mean(x)) / std(x) · w + b` over the last dimension (Ba, Kiros and Hinton 2016).
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

    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        apply("layer norm", x, x.shape(), |x| {
            compute::layer_norm(x, &self.weight, &self.bias, self.epsilon)
        })
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

/// `fc2(act(fc1(x)))` for `x` of shape [rows, inputs].
pub(super) fn feed_forward(
    x: &Tensor,
    fc1: &Linear,
    activation: Activation,
    fc2: &Linear,
) -> Result<Tensor, ModelError> {
    let shape = (x.dim(0)?, fc2.matrix().outputs());
    let (inputs, width) = (fc1.matrix().inputs(), fc1.matrix().outputs());
    apply("feed forward", x, shape, |x| {
        let inner = |x: &[f32]| {
            let mut inner = fc1.product(x);
            activation.apply(&mut inner);
            inner
        };
        in_parts(x, inputs, width, inner, fc2)
    })
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
