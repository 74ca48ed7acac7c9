//! What a forward pass spends its time in: matrix products over packed weights, and the small
//! functions between them, on slices of f32, over the threads of the [`Pool`] that is installed.

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]
mod avx512;
mod bytes;
mod kernel;
mod matrix;
mod ops;
pub(super) mod pool;
mod seats;

pub(super) use bytes::{Owner, SharedBytes};
pub use kernel::configure_thread;
pub(super) use kernel::{
    Factor, Kernel, Output, SCORE_UNIT, Start, TargetColumns, gemm_f32, int8_blocks,
};
pub(super) use matrix::{
    Held, Matrix, Panel, Table, matrix_panels, pack_panel, products, quantise, widen,
};
pub(super) use ops::{
    add, exp_all, gelu_erf, gelu_tanh, largest, layer_norm, relu, rms_norm, rotate_heads, silu,
    silu_gate, sum,
};
pub use pool::Pool;
pub use seats::Seats;
