//! `avg` and `sum`. The state adds in f64. A sum of halves, which are multiples of 2^-24, stays
//! exact there up to 2^29, far beyond what embeddings reach, so that the order of the rows, and
//! parallel workers, change nothing.

use std::marker::PhantomData;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, pg_sys};

use super::arithmetic::narrow;
use super::error::{sql_error, vector_error};
use super::vector::{MrlVector, VectorArg, check_same_dims};

/// What has been added up so far: a count and a length, then as many sums, one piece of memory in
/// the aggregate's context. Memory of Postgres' own, so that `work_mem` holds: a hash aggregate
/// goes by it when it decides to spill.
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
    /// The state behind an aggregate's `internal` argument.
    fn of(state: &Internal) -> Option<Sum<'a>> {
        // SAFETY: `internal` states of these aggregates come only from `allocate`, and Postgres
        // hands each to one call at a time.
        let header = unsafe { state.get::<Header>() }?;
        let header = std::ptr::from_ref(header).cast_mut();
        Some(Sum {
            header,
            lifetime: PhantomData,
        })
    }

    /// A state of zeros in the aggregate's memory context.
    fn allocate(fcinfo: pg_sys::FunctionCallInfo, dims: usize) -> Result<Sum<'a>, ErrorReport> {
        let mut context = std::ptr::null_mut();
        // SAFETY: fcinfo is the call's own, the context an out parameter.
        if unsafe { pg_sys::AggCheckCallContext(fcinfo, &mut context) } == 0 {
            return Err(sql_error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "aggregate function called in non-aggregate context",
            ));
        }
        let size = size_of::<Header>() + dims * size_of::<f64>();
        // SAFETY: as many zeroed bytes as a header and `dims` sums take, aligned for both.
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
        // SAFETY: the header is valid as long as the state.
        unsafe { (*self.header).count }
    }

    fn sums(&self) -> &[f64] {
        // SAFETY: `dims` sums lie behind the header.
        unsafe { std::slice::from_raw_parts(self.header.add(1).cast(), (*self.header).dims) }
    }

    fn add(
        &mut self,
        count: u64,
        values: impl ExactSizeIterator<Item = f64>,
    ) -> Result<(), ErrorReport> {
        check_same_dims(self.sums().len(), values.len())?;
        // SAFETY: as above, and nothing else holds the sums.
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

/// Adds to the state, which is made first where there is none.
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

/// The count, then the sums; written and read by processes of one server.
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

/// NULL over no rows. The state stays as it is: a window may go on with it.
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
