//! What a forward pass spends its time in: matrix products over packed weights, and the small
//! functions between them, on slices of f32, over the threads of the pool that runs the caller.

mod avx512;
mod bytes;
mod kernel;
mod matrix;
mod ops;
pub mod pool;
mod seats;

pub(super) use bytes::Bytes;
pub use kernel::configure_thread;
pub(super) use kernel::{Kernel, Output, Target, gemm_f32, int8_blocks};
pub(super) use matrix::{
    Held, Matrix, Panel, Table, matrix_panels, pack_panel, quantise, to_bf16, widen,
};
pub(super) use ops::{
    exp_all, gelu_erf, gelu_tanh, largest, layer_norm, relu, rms_norm, rotate_heads, silu,
    silu_gate, sum,
};
pub use seats::Seats;
