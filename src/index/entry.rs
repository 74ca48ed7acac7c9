//! Index entries: encoding the prefix of a row's vector, and conversion of the row's TID.

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
/// Returns an error if the number of dimensions differs from that of the index. A column that
/// declares its dimensions contains no such row, unless the declaration is dropped later.
pub fn encode(meta: &Meta, encoder: &mut Encoder, datum: pg_sys::Datum) -> Result<(), ErrorReport> {
    // SAFETY: the operator class is for mrl_vector, and every caller has checked that the value is
    // not null.
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

/// Converts a heap TID from Postgres' form.
pub fn tid_of(item: &pg_sys::ItemPointerData) -> Tid {
    Tid {
        block: u32::from(item.ip_blkid.bi_hi) << 16 | u32::from(item.ip_blkid.bi_lo),
        offset: item.ip_posid,
    }
}

/// The largest offset number of a heap tuple, `MaxHeapTuplesPerPage` of `access/htup_details.h`.
const MAX_OFFSET: u16 = ((pg_sys::BLCKSZ - 24) / 28) as u16;

/// Returns whether the offset number of a TID is valid for a heap page. Postgres' own functions
/// assume that it is, and do not check it.
pub fn is_valid_tid(tid: Tid) -> bool {
    (1..=MAX_OFFSET).contains(&tid.offset)
}

/// Converts a heap TID to Postgres' form.
pub fn item_pointer(tid: Tid) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (tid.block >> 16) as u16,
            bi_lo: tid.block as u16,
        },
        ip_posid: tid.offset,
    }
}
