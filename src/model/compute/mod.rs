//! The computations that dominate a forward pass: matrix products with packed weights, and the
//! element-wise functions between them. All work on f32 slices and use the threads of the installed
//! [`Pool`].

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]
mod avx512;
mod bytes;
mod cpu_slots;
mod kernel;
mod matrix;
mod ops;
pub(super) mod pool;

pub(super) use bytes::{Owner, SharedBytes};
pub use cpu_slots::CpuSlots;
pub(super) use kernel::{
    FloatElement, Kernel, Output, SCORE_UNIT, Start, TargetColumns, gemm_f32, int8_blocks,
};
pub(super) use matrix::{DType, Matrix, Panel, matmul, matrix_panels, pack_panel, quantise, widen};
pub(super) use ops::{
    add, exp_all, gelu_erf, gelu_tanh, largest, layer_norm, quick_gelu, relu, rms_norm, rotate,
    silu, silu_gate, sum,
};
pub use pool::{Pool, for_each, threads};
