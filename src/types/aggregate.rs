//! `avg` and `sum`. The state adds in f64, where a sum of halves stays exact for any table, so
//! that the order of the rows, and parallel workers, change nothing.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, pg_sys};

use super::arithmetic::narrow;
use super::error::sql_error;
use super::vector::{MrlVector, VectorArg, check_same_dims};

/// What has been added up so far. It lives in the aggregate's memory context.
#[derive(Debug, Clone, PartialEq)]
struct Sum {
    count: u64,
    sums: Vec<f64>,
}

impl Sum {
    fn add(
        &mut self,
        count: u64,
        values: impl ExactSizeIterator<Item = f64>,
    ) -> Result<(), ErrorReport> {
        check_same_dims(self.sums.len(), values.len())?;
        self.count += count;
        for (sum, value) in self.sums.iter_mut().zip(values) {
            *sum += value;
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let sums = self.sums.iter().flat_map(|sum| sum.to_ne_bytes());
        self.count.to_ne_bytes().into_iter().chain(sums).collect()
    }

    /// The inverse of [`Sum::to_bytes`]; both run in processes of one server.
    fn from_bytes(bytes: &[u8]) -> Option<Sum> {
        let (count, sums) = bytes.split_first_chunk()?;
        let sums = sums
            .chunks_exact(8)
            .map(|sum| sum.try_into().map(f64::from_ne_bytes));
        Some(Sum {
            count: u64::from_ne_bytes(*count),
            sums: sums.collect::<Result<_, _>>().ok()?,
        })
    }
}

/// The state behind an aggregate's `internal` argument.
fn state<'a>(state: &mut Internal) -> Option<&'a mut Sum> {
    // SAFETY: `internal` states come only from `new_state`; Postgres hands each to one call at a
    // time, and it lives in the aggregate's context.
    unsafe {
        state
            .get_mut::<Sum>()
            .map(|sum| &mut *std::ptr::from_mut(sum))
    }
}

fn new_state(fcinfo: pg_sys::FunctionCallInfo, sum: Sum) -> Result<Internal, ErrorReport> {
    let mut context = std::ptr::null_mut();
    // SAFETY: fcinfo is the call's own, the context an out parameter.
    if unsafe { pg_sys::AggCheckCallContext(fcinfo, &mut context) } == 0 {
        return Err(sql_error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "aggregate function called in non-aggregate context",
        ));
    }
    let pointer = PgMemoryContexts::For(context).leak_and_drop_on_delete(sum);
    Ok(Internal::from(Some(pg_sys::Datum::from(pointer))))
}

#[pg_extern(sql = false)]
fn mrl_vector_accum(
    mut current: Internal,
    vector: Option<VectorArg<'_>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, ErrorReport> {
    let Some(vector) = vector else {
        return Ok(current);
    };
    let values = vector.values()?;
    let wide = values.as_slice().iter().map(|value| value.to_f64());
    match state(&mut current) {
        Some(sum) => sum.add(1, wide).map(|()| current),
        None => new_state(
            fcinfo,
            Sum {
                count: 1,
                sums: wide.collect(),
            },
        ),
    }
}

#[pg_extern(sql = false)]
fn mrl_vector_combine(
    mut current: Internal,
    mut other: Internal,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, ErrorReport> {
    match (state(&mut current), state(&mut other)) {
        (_, None) => Ok(current),
        // The other state belongs to a shorter-lived context: it is copied.
        (None, Some(other)) => new_state(fcinfo, other.clone()),
        (Some(sum), Some(other)) => sum
            .add(other.count, other.sums.iter().copied())
            .map(|()| current),
    }
}

#[pg_extern(sql = false)]
fn mrl_vector_serialize(mut current: Internal) -> Option<Vec<u8>> {
    state(&mut current).map(|sum| sum.to_bytes())
}

#[pg_extern(sql = false)]
fn mrl_vector_deserialize(
    bytes: &[u8],
    _unused: Internal,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Internal, ErrorReport> {
    let sum = Sum::from_bytes(bytes).ok_or_else(|| {
        sql_error(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            "aggregate state is corrupted",
        )
    })?;
    new_state(fcinfo, sum)
}

#[pg_extern(sql = false)]
fn mrl_vector_sum(mut current: Internal) -> Result<Option<MrlVector>, ErrorReport> {
    finish(&mut current, |sum, _| sum)
}

#[pg_extern(sql = false)]
fn mrl_vector_avg(mut current: Internal) -> Result<Option<MrlVector>, ErrorReport> {
    finish(&mut current, |sum, count| sum / count)
}

/// NULL over no rows. The state stays as it is: a window may go on with it.
fn finish(
    current: &mut Internal,
    value: impl Fn(f64, f64) -> f64,
) -> Result<Option<MrlVector>, ErrorReport> {
    let Some(Sum { count, sums }) = state(current) else {
        return Ok(None);
    };
    let values = sums.iter().map(|&sum| narrow(value(sum, *count as f64)));
    Ok(Some(MrlVector(values.collect::<Result<_, _>>()?)))
}
