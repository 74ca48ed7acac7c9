//! An entry: the encoded prefix of a row's vector, and the row's TID.

use half::f16;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;

use super::page::Meta;
use crate::sweep::code::NotFinite;
use crate::sweep::{Encoder, Tid};
use crate::types::{VectorArg, corrupted, vector_error};
use crate::vector::VectorError;

/// Encodes the prefix of a vector of the indexed column.
///
/// A row of other dimensions than the index is made for is an error. (A column that declares them
/// has none, unless they are lifted later.)
pub fn encode(meta: &Meta, encoder: &mut Encoder, datum: pg_sys::Datum) -> Result<(), ErrorReport> {
    // SAFETY: the opclass is for mrl_vector, and the value is not null (callers look).
    let values = unsafe { VectorArg::from_datum(datum) }.prefix(meta.prefix_dims)?;
    if values.dims() != meta.dims {
        return Err(vector_error(VectorError::DifferentDimensions(
            values.dims(),
            meta.dims,
        )));
    }
    let prefix: &[f16] = values.as_slice();
    encoder.encode(prefix).map_err(|NotFinite| corrupted())
}

/// A heap TID, from Postgres' form.
pub fn tid_of(item: &pg_sys::ItemPointerData) -> Tid {
    Tid {
        block: u32::from(item.ip_blkid.bi_hi) << 16 | u32::from(item.ip_blkid.bi_lo),
        offset: item.ip_posid,
    }
}

/// The largest offset that a row of a table can have, `MaxHeapTuplesPerPage` of
/// `access/htup_details.h`.
const MAX_OFFSET: u16 = ((pg_sys::BLCKSZ - 24) / 28) as u16;

/// Whether a row can have this TID, as far as one page can tell. Postgres' own functions rely on it.
pub fn is_possible(tid: Tid) -> bool {
    (1..=MAX_OFFSET).contains(&tid.offset)
}

/// A heap TID, to Postgres' form.
pub fn item_pointer(tid: Tid) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (tid.block >> 16) as u16,
            bi_lo: tid.block as u16,
        },
        ip_posid: tid.offset,
    }
}
