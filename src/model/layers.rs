//! The layers that transformers are made of. All take and give f32: only weight matrices are held
//! in the checkpoint's type. (So a bf16 checkpoint gives embeddings nearer to those of f32 than
//! where activations are rounded as well.)

use candle_core::{D, DType, Tensor};
use serde::Deserialize;

use super::ModelError;
use super::weights::Scope;

/// Elements of a half-precision matrix that are widened at once: small enough to stay in the
/// cache between the widening and the product.
const WIDEN_ELEMENTS: usize = 1 << 19;

/// `x Wᵀ + b`.
pub(super) struct Linear {
    /// [outputs, inputs], f32, f16 or bf16
    weight: Tensor,
    /// [outputs], f32
    bias: Option<Tensor>,
}

impl Linear {
    pub fn load(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Self, ModelError> {
        let weight = scope.matrix("weight", &[outputs, inputs])?;
        let bias = match bias {
            true => Some(scope.vector("bias", &[outputs])?),
            false => None,
        };
        Ok(Self { weight, bias })
    }

    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// [rows, inputs] to [rows, outputs]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let product = match self.weight.dtype() {
            DType::F32 => x.matmul(&self.weight.t()?)?,
            _ => self.widening_product(x)?,
        };
        Ok(match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        })
    }

    /// candle has no product of f32 by a half type; it would widen a whole bf16 matrix for each
    /// product, and round what comes out.
    fn widening_product(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let (outputs, inputs) = self.weight.dims2()?;
        let step = (WIDEN_ELEMENTS / inputs.max(1)).clamp(1, outputs);
        let mut parts = Vec::with_capacity(outputs.div_ceil(step));
        for start in (0..outputs).step_by(step) {
            let rows = self.weight.narrow(0, start, step.min(outputs - start))?;
            parts.push(x.matmul(&rows.to_dtype(DType::F32)?.t()?)?);
        }
        Ok(match parts.as_slice() {
            [single] => single.clone(),
            parts => Tensor::cat(parts, D::Minus1)?,
        })
    }
}

/// `x / rms(x) · w` over the last dimension (Zhang and Sennrich 2019, "Root Mean Square Layer
/// Normalization").
pub(super) struct RmsNorm {
    weight: Tensor,
    epsilon: f32,
}

impl RmsNorm {
    pub fn load(scope: &Scope<'_>, size: usize, epsilon: f32) -> Result<Self, ModelError> {
        Ok(Self {
            weight: scope.vector("weight", &[size])?,
            epsilon,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(candle_nn::ops::rms_norm(
            &x.contiguous()?,
            &self.weight,
            self.epsilon,
        )?)
    }
}

/// `(x - mean(x)) / std(x) · w + b` over the last dimension (Ba, Kiros and Hinton 2016).
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    pub fn load(scope: &Scope<'_>, size: usize, epsilon: f64) -> Result<Self, ModelError> {
        Ok(Self {
            weight: scope.vector("weight", &[size])?,
            bias: scope.vector("bias", &[size])?,
            epsilon,
        })
    }

    /// The variance is taken about the mean, in a second pass: candle's own layer norm takes
    /// `E[x²] - E[x]²`, which cancels in f32 where the mean is large.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (variance + self.epsilon)?.sqrt()?.recip()?;
        Ok(centred
            .broadcast_mul(&scale)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?)
    }
}

/// The nonlinearities, by the names that configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Activation {
    #[serde(rename = "silu")]
    Silu,
    /// The exact form, `x Φ(x)`.
    #[serde(rename = "gelu")]
    Gelu,
    /// The approximation by tanh.
    #[serde(rename = "gelu_pytorch_tanh")]
    GeluTanh,
}

impl Activation {
    pub fn forward(self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Silu => x.silu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::GeluTanh => x.gelu()?,
        })
    }
}
