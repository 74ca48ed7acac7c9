//! The aggregates `avg` and `sum`.
//!
//! The transition state sums in f64. A sum of f16 values, which are multiples of 2^-24, is exact in
//! f64 up to 2^29, far beyond the sums of embeddings. So the order of the rows and the number of
//! parallel workers do not change the result.

use std::marker::PhantomData;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, pg_sys};

use super::arithmetic::narrow;
use super::error::{sql_error, vector_error};
use super::vector::{MrlVector, VectorArg, check_same_dims};

/// The transition state: a [`Header`], followed by `dims` sums of type f64, in one chunk of the
/// aggregate's memory context. It is allocated with palloc, because a hash aggregate compares the
/// size of that context with `work_mem * hash_mem_multiplier` when it decides whether to spill.
struct Sum<'a> {
    header: *mut Header,
    lifetime: PhantomData<&'a mut Header>,
}

#[repr(C)]
struct Header {
    count: u64,
    dims: usize,
}

impl<'a> Sum<'a> {
    /// The state behind an `internal` argument of an aggregate function; `None` if the argument is
    /// null.
    fn of(state: &Internal) -> Option<Sum<'a>> {
        // SAFETY: only `allocate` creates the `internal` states of these aggregates, and Postgres
        // passes each of them to one call at a time.
        let header = unsafe { state.get::<Header>() }?;
        let header = std::ptr::from_ref(header).cast_mut();
        Some(Sum {
            header,
            lifetime: PhantomData,
        })
    }

    /// Allocates a state with all sums zero in the aggregate's memory context.
    fn allocate(fcinfo: pg_sys::FunctionCallInfo, dims: usize) -> Result<Sum<'a>, ErrorReport> {
        let mut context = std::ptr::null_mut();
        // SAFETY: `fcinfo` is the current call's, and `context` is an out parameter.
        if unsafe { pg_sys::AggCheckCallContext(fcinfo, &mut context) } == 0 {
            return Err(sql_error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "aggregate function called in non-aggregate context",
            ));
        }
        let size = size_of::<Header>() + dims * size_of::<f64>();
        // SAFETY: palloc0 returns `size` zeroed bytes, enough for a header and `dims` sums, with
        // the alignment (MAXALIGN) that both need.
        unsafe {
            let header = PgMemoryContexts::For(context)
                .switch_to(|_| pg_sys::palloc0(size))
                .cast::<Header>();
            (*header).dims = dims;
            Ok(Sum {
                header,
                lifetime: PhantomData,
            })
        }
    }

    fn into_internal(self) -> Internal {
        Internal::from(Some(pg_sys::Datum::from(self.header)))
    }

    fn count(&self) -> u64 {
        // SAFETY: `header` points into the aggregate's memory context, which outlives the state.
        unsafe { (*self.header).count }
    }

    fn sums(&self) -> &[f64] {
        // SAFETY: `allocate` has placed `dims` sums behind the header.
        unsafe { std::slice::from_raw_parts(self.header.add(1).cast(), (*self.header).dims) }
    }

    fn add(
        &mut self,
        count: u64,
        values: impl ExactSizeIterator<Item = f64>,
    ) -> Result<(), ErrorReport> {
        check_same_dims(self.sums().len(), values.len())?;
        // SAFETY: `allocate` has placed `dims` sums behind the header. `&mut self` guarantees that
        // no other reference to them exists.
        let sums = unsafe {
            (*self.header).count += count;
            std::slice::from_raw_parts_mut(self.header.add(1).cast::<f64>(), (*self.header).dims)
        };
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
        Ok(())
    }
}

/// Adds to the state. If there is no state yet, it is allocated first.
fn add(
    current: Internal,
    count: u64,
    values: impl ExactSizeIterator<Item = f64>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, ErrorReport> {
    let mut sum = match Sum::of(&current) {
        Some(sum) => sum,
        None => Sum::allocate(fcinfo, values.len())?,
    };
    sum.add(count, values)?;
    Ok(sum.into_internal())
}

#[pg_extern(sql = false)]
fn mrl_vector_accum(
    current: Internal,
    vector: Option<VectorArg<'_>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, ErrorReport> {
    let Some(vector) = vector else {
        return Ok(current);
    };
    let values = vector.values()?;
    add(
        current,
        1,
        values.as_slice().iter().map(|value| value.to_f64()),
        fcinfo,
    )
}

#[pg_extern(sql = false)]
fn mrl_vector_combine(
    current: Internal,
    other: Internal,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, ErrorReport> {
    match Sum::of(&other) {
        None => Ok(current),
        Some(other) => add(current, other.count(), other.sums().iter().copied(), fcinfo),
    }
}

/// Serializes the count and then the sums in the byte order of the machine. Only processes of the
/// same server exchange this form.
#[pg_extern(sql = false)]
fn mrl_vector_serialize(current: Internal) -> Option<Vec<u8>> {
    let sum = Sum::of(&current)?;
    let sums = sum.sums().iter().flat_map(|sum| sum.to_ne_bytes());
    Some(sum.count().to_ne_bytes().into_iter().chain(sums).collect())
}

#[pg_extern(sql = false)]
fn mrl_vector_deserialize(
    bytes: &[u8],
    _unused: Internal,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, ErrorReport> {
    let corrupted = || {
        sql_error(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            "aggregate state is corrupted",
        )
    };
    let (count, sums) = bytes.split_first_chunk().ok_or_else(corrupted)?;
    let (sums, rest) = sums.as_chunks();
    if !rest.is_empty() {
        return Err(corrupted());
    }
    let sums = sums.iter().map(|sum| f64::from_ne_bytes(*sum));
    add(
        Internal::default(),
        u64::from_ne_bytes(*count),
        sums,
        fcinfo,
    )
}

#[pg_extern(sql = false)]
fn mrl_vector_sum(current: Internal) -> Result<Option<MrlVector>, ErrorReport> {
    finish(&current, |sum, _| sum)
}

#[pg_extern(sql = false)]
fn mrl_vector_avg(current: Internal) -> Result<Option<MrlVector>, ErrorReport> {
    finish(&current, |sum, count| sum / count)
}

/// Computes the aggregate's result, which is NULL if no row had a vector. The state stays unchanged, because
/// the aggregate may be called as a window function, which goes on adding to the same state.
fn finish(
    current: &Internal,
    value: impl Fn(f64, f64) -> f64,
) -> Result<Option<MrlVector>, ErrorReport> {
    let Some(sum) = Sum::of(current) else {
        return Ok(None);
    };
    let count = sum.count() as f64;
    let values = sum.sums().iter().map(|&sum| narrow(value(sum, count)));
    Ok(Some(MrlVector(
        values.collect::<Result<_, _>>().map_err(vector_error)?,
    )))
}
