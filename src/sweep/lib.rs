//! The packed copy of many vectors' prefixes, and the sweep over it.
//!
//! For every vector the index keeps a code of its prefix, and how far the code can be from the
//! truth. A sweep compares all codes with a query and decides most rows for certain; what is left
//! is decided on the vector itself. So a sweep and a look at every vector give the same answer.
//! No Postgres here: pages are slices of bytes.
//!
//! # The bound
//!
//! Let `x` be a row's prefix of `p` values, `u = x / ‖x‖`, and `q̂` the query's prefix divided by
//! its norm. The row matches if the similarity `S` that [`photosearch_vector::Query`] computes reaches
//! the threshold. The code stands for a vector `v`, and the row keeps `r ≥ ‖u − v‖` ([`code`]).
//!
//! 1. By Cauchy-Schwarz `|⟨u, q̂⟩ − ⟨v, q̂⟩| = |⟨u − v, q̂⟩| ≤ r`, since `‖q̂‖ = 1`.
//! 2. The first level compares with `k`, a query of 15-bit integers times a scale, and knows
//!    `e ≥ ‖q̂ − k‖`. `|⟨v, q̂⟩ − ⟨v, k⟩| ≤ ‖v‖ e ≤ (1 + r) e`.
//! 3. `⟨v, k⟩` is a sum of products of integers, which is exact, times two scales in f64.
//! 4. `S` itself is a floating-point sum: `|S − ⟨u, q̂⟩| ≤` [`photosearch_vector::similarity_error`].
//! 5. What is computed in f64, here and in 2. and 4., is off by less than [`ARITHMETIC`].
//!
//! Together: `|S − ⟨v, k⟩| ≤ r + (1 + r) e + similarity_error + ARITHMETIC`.
//!
//! The second level takes a finer `v` and the query in f64, so that its `e` is 0.

pub mod code;
pub mod filter;
pub mod kernel;
pub mod layout;

pub use code::Encoder;
pub use filter::{CodeFilter, Judge};
pub use layout::{Layout, MAX_PREFIX_DIMS, Slab, SlabMut, Tid};

/// More than all f64 roundings of one estimate together. The longest sums, the norm of a query and
/// the share of it in a prefix, have up to 16,000 terms of one sign, so that a sum is off by at most
/// 16,008 · 2^-53 < 2 · 10^-12 of itself, and its root by half of that. Dot products have at most
/// [`MAX_PREFIX_DIMS`] = 2^12 terms whose absolute values add up to at most 2 (Cauchy-Schwarz on
/// vectors of norms near 1): off by less than 10^-12. Scales and quotients add a few times 2^-53.
pub const ARITHMETIC: f64 = 1e-11;

#[cfg(test)]
mod tests;
