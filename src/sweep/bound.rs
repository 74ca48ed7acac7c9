//! The bound on the error of a code, by which a sweep decides rows: how far the similarity can be
//! from what the code gives.
//!
//! This is for a query that compares exactly the coded prefix. [`crate::filter`] derives from it the cases
//! of fewer and of more values.
//!
//! Let `x` be a row's prefix of `p` values, not all 0, `u = x / ‖x‖`, and `q̂` the query's prefix divided by
//! its norm. The row matches if the similarity `S` that [`photosearch_vector::Query`] computes
//! reaches the threshold. A code has two levels, a coarse one that a sweep reads of every entry and a
//! finer one that it reads of few ([`crate::code`]). At each level the code represents a vector `v`, and
//! the entry stores `r ≥ ‖u − v‖`.
//!
//! 1. By Cauchy-Schwarz `|⟨u, q̂⟩ − ⟨v, q̂⟩| = |⟨u − v, q̂⟩| ≤ r`, since `‖q̂‖ = 1`.
//! 2. Instead of `q̂`, the first level uses `k`, whose values are 15-bit integers times one scale, with a
//!    known `e ≥ ‖q̂ − k‖`. `|⟨v, q̂⟩ − ⟨v, k⟩| ≤ ‖v‖ e ≤ (1 + r) e`, since `‖v‖ ≤ ‖u‖ + ‖u − v‖`.
//! 3. `⟨v, k⟩` is a sum of products of integers, which is exact, times two scales in f64.
//! 4. `S` itself is a floating-point sum: `|S − ⟨u, q̂⟩| ≤` [`photosearch_vector::similarity_error`].
//! 5. The rounding errors of the computations in f64, those of the bound included, are together less
//!    than [`ARITHMETIC`].
//!
//! Together: `|S − ⟨v, k⟩| ≤ r + (1 + r) e + similarity_error + ARITHMETIC`.
//!
//! The second level decides the rows that the first level leaves undecided. It uses a finer `v`, first
//! with the same `k`. For rows that are then still undecided, it uses the query in f64 instead of `k`,
//! so that `e` is 0.

/// Exceeds the sum of all f64 rounding errors of one estimate. The longest sums are the norm of a
/// query and the share of it in a prefix. They have up to 16,000 terms of one sign, each with a few
/// roundings of its own, so the relative error of a sum is at most 16,008 · 2^-53 < 2 · 10^-12, and that
/// of its root is half as large.
/// Dot products have at most [`crate::MAX_PREFIX_DIMS`] = 2^12 terms whose absolute values add up to at
/// most 2 (by Cauchy-Schwarz, for vectors of norms near 1), so their error is less than 10^-12.
/// Scales and quotients add a few times 2^-53.
pub const ARITHMETIC: f64 = 1e-11;
