//! Order and equality of vectors, for DISTINCT, GROUP BY, joins, and the btree and hash operator
//! classes.
//!
//! Vectors are ordered by their values from the first to the last, and then by their length, as
//! pgvector orders them. Negative and positive zero are equal, so they must have the same hash.

use std::cmp::Ordering;

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::vector::VectorArg;

unsafe extern "C" {
    /// Postgres' hash of `len` bytes (`src/common/hashfn.c`).
    fn hash_bytes(bytes: *const u8, len: i32) -> u32;
    /// The 64-bit variant of [`hash_bytes`], with a seed.
    fn hash_bytes_extended(bytes: *const u8, len: i32, seed: u64) -> u64;
}

fn compare(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<Ordering, ErrorReport> {
    let (a, b) = (a.values()?, b.values()?);
    let (a, b) = (a.as_slice(), b.as_slice());
    // All values are finite, so `partial_cmp` always returns an order.
    let order = a
        .iter()
        .zip(b)
        .find_map(|(x, y)| x.partial_cmp(y).filter(|o| o.is_ne()));
    Ok(order.unwrap_or_else(|| a.len().cmp(&b.len())))
}

#[pg_extern(sql = false)]
fn mrl_vector_lt(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<bool, ErrorReport> {
    Ok(compare(a, b)?.is_lt())
}

#[pg_extern(sql = false)]
fn mrl_vector_le(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<bool, ErrorReport> {
    Ok(compare(a, b)?.is_le())
}

#[pg_extern(sql = false)]
fn mrl_vector_eq(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<bool, ErrorReport> {
    Ok(compare(a, b)?.is_eq())
}

#[pg_extern(sql = false)]
fn mrl_vector_ne(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<bool, ErrorReport> {
    Ok(compare(a, b)?.is_ne())
}

#[pg_extern(sql = false)]
fn mrl_vector_ge(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<bool, ErrorReport> {
    Ok(compare(a, b)?.is_ge())
}

#[pg_extern(sql = false)]
fn mrl_vector_gt(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<bool, ErrorReport> {
    Ok(compare(a, b)?.is_gt())
}

#[pg_extern(sql = false)]
fn mrl_vector_cmp(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<i32, ErrorReport> {
    Ok(compare(a, b)? as i32)
}

/// The bytes of the values, with negative zeros made positive, so that equal vectors have equal
/// bytes.
fn canonical_bytes(vector: VectorArg<'_>) -> Result<Vec<u8>, ErrorReport> {
    let values = vector.values()?;
    let canonical = |value: &f16| {
        if *value == f16::ZERO {
            f16::ZERO
        } else {
            *value
        }
    };
    Ok(values
        .as_slice()
        .iter()
        .flat_map(|value| canonical(value).to_ne_bytes())
        .collect())
}

#[pg_extern(sql = false)]
fn mrl_vector_hash(vector: VectorArg<'_>) -> Result<i32, ErrorReport> {
    let bytes = canonical_bytes(vector)?;
    // SAFETY: `hash_bytes` reads only the `len` bytes of the slice.
    Ok(unsafe { hash_bytes(bytes.as_ptr(), bytes.len() as i32) } as i32)
}

#[pg_extern(sql = false)]
fn mrl_vector_hash_extended(vector: VectorArg<'_>, seed: i64) -> Result<i64, ErrorReport> {
    let bytes = canonical_bytes(vector)?;
    // SAFETY: `hash_bytes_extended` reads only the `len` bytes of the slice.
    let hash = unsafe { hash_bytes_extended(bytes.as_ptr(), bytes.len() as i32, seed as u64) };
    Ok(hash as i64)
}
