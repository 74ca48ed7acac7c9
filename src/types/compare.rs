//! Order and equality, for DISTINCT, GROUP BY, joins, and the btree and hash operator classes.
//!
//! Vectors order by their values, one after another, and then by length, as pgvector's do. The
//! two zeros are equal, so they hash alike.

use std::cmp::Ordering;

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::vector::VectorArg;

unsafe extern "C" {
    /// Postgres' own hash of some bytes (`src/common/hashfn.c`).
    fn hash_bytes(bytes: *const u8, len: i32) -> u32;
    /// The same in 64 bits, with a seed.
    fn hash_bytes_extended(bytes: *const u8, len: i32, seed: u64) -> u64;
}

fn compare(a: VectorArg<'_>, b: VectorArg<'_>) -> Result<Ordering, ErrorReport> {
    let (a, b) = (a.values()?, b.values()?);
    let (a, b) = (a.as_slice(), b.as_slice());
    // Values are finite, so that any two compare.
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

/// The values' bytes, negative zeros made positive: equal vectors have equal bytes.
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
    // SAFETY: reads exactly the bytes that it is given.
    Ok(unsafe { hash_bytes(bytes.as_ptr(), bytes.len() as i32) } as i32)
}

#[pg_extern(sql = false)]
fn mrl_vector_hash_extended(vector: VectorArg<'_>, seed: i64) -> Result<i64, ErrorReport> {
    let bytes = canonical_bytes(vector)?;
    // SAFETY: as above.
    let hash = unsafe { hash_bytes_extended(bytes.as_ptr(), bytes.len() as i32, seed as u64) };
    Ok(hash as i64)
}
