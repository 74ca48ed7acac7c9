//! What a forward pass spends its time in: matrix products over packed weights, and the small
//! functions between them, on slices of f32, over the threads of the [`Pool`] that is installed.

/// Compiles a function of slices for the baseline and for AVX2 with FMA, and calls the better one.
macro_rules! vectorised {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $visibility fn $name($($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $type),*) {
                    body($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has what the function is compiled for.
                    return unsafe { wide($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]
mod avx512;
mod bytes;
mod kernel;
mod matrix;
mod ops;
pub(super) mod pool;
mod seats;

pub(super) use bytes::SharedBytes;
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
