//! The layout of `mrl_vector` in a Datum, and its conversion from SQL arguments and to SQL results.
//!
//! | bytes | contents |
//! | --- | --- |
//! | 0..4 | varlena header (1 byte in a tuple, if the value is short) |
//! | 0..2 of the data | dimensions, u16 |
//! | 2..4 | zero |
//! | 4..8 | squared L2 norm, f32, as `vector/kernel.rs` sums it |
//! | 8.. | the values, f16 |
//!
//! All numbers are in the byte order of the machine, as in every Postgres type. The norm is stored
//! squared because the square root would round once more. `l2_norm` reads it. A similarity does not: it
//! may compare only a prefix, and the kernel sums the squares in the same pass as the product.

use half::f16;
use half::slice::HalfBitsSliceExt;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{impl_sql_translatable, pg_sys};

use super::error::{sql_error, vector_error};
use super::varlena::{Bytes, RawVarlena, new_varlena};
use crate::vector::{MAX_DIMS, VectorError, squared_norm};

const HEADER: usize = 8;

/// An argument of type `mrl_vector`. It is detoasted only when a method reads it, and only as far
/// as that method needs: a method that reads a prefix does not fetch the rest.
#[derive(Clone, Copy)]
pub struct VectorArg<'fcx>(RawVarlena<'fcx>);

/// The values of a [`VectorArg`]: all of them, or a prefix.
pub struct Values<'a> {
    bytes: Bytes<'a>,
    /// Dimensions of the whole vector.
    dims: usize,
    /// The number of values that can be read.
    len: usize,
}

impl<'fcx> VectorArg<'fcx> {
    /// # Safety
    /// `datum` is a non-null `mrl_vector` that lives as long as `'fcx`.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> VectorArg<'fcx> {
        // SAFETY: the caller guarantees a non-null varlena that lives as long as `'fcx`.
        VectorArg(unsafe { RawVarlena::from_datum(datum) })
    }

    /// All values.
    pub fn values(&self) -> Result<Values<'fcx>, ErrorReport> {
        let values = open(self.0.bytes(), usize::MAX)?;
        if values.bytes.as_slice().len() != HEADER + 2 * values.dims {
            return Err(corrupted());
        }
        Ok(values)
    }

    /// The first `len` values, or all if there are fewer.
    pub fn prefix(&self, len: usize) -> Result<Values<'fcx>, ErrorReport> {
        open(self.0.first_bytes(HEADER + 2 * len), len)
    }

    /// The first `dims` values. It is an error if `dims` is less than 1 or exceeds the number of
    /// dimensions.
    pub fn exact_prefix(&self, dims: i64) -> Result<Values<'fcx>, ErrorReport> {
        let wanted = usize::try_from(dims).unwrap_or(0).min(MAX_DIMS + 1);
        let values = self.prefix(wanted)?;
        if wanted == 0 || wanted > values.dims() {
            return Err(vector_error(VectorError::PrefixOutOfRange {
                dims,
                of: values.dims(),
            }));
        }
        Ok(values)
    }

    /// Bytes that identify the first `len` values and the number of dimensions (see
    /// [`RawVarlena::identity`]).
    pub fn identity(&self, len: usize) -> Option<&'fcx [u8]> {
        self.0.identity(HEADER + 2 * len)
    }

    /// The number of dimensions. This reads only the header.
    pub fn dims(&self) -> Result<usize, ErrorReport> {
        Ok(self.prefix(0)?.dims)
    }

    /// The squared L2 norm that is stored in the header.
    pub fn squared_norm(&self) -> Result<f32, ErrorReport> {
        let values = self.prefix(0)?;
        let bytes = &values.bytes.as_slice()[4..HEADER];
        Ok(f32::from_ne_bytes(
            bytes.try_into().map_err(|_| corrupted())?,
        ))
    }
}

fn open(bytes: Bytes<'_>, len: usize) -> Result<Values<'_>, ErrorReport> {
    let data = bytes.as_slice();
    if data.len() < HEADER {
        return Err(corrupted());
    }
    let dims = usize::from(u16::from_ne_bytes([data[0], data[1]]));
    let len = len.min(dims);
    if dims == 0 || data.len() < HEADER + 2 * len {
        return Err(corrupted());
    }
    Ok(Values { bytes, dims, len })
}

/// The error for bytes that are not a valid `mrl_vector`.
pub fn corrupted() -> ErrorReport {
    sql_error(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        "mrl_vector value is corrupted",
    )
}

impl Values<'_> {
    /// Dimensions of the whole vector, even if only a prefix was read.
    pub fn dims(&self) -> usize {
        self.dims
    }

    pub fn as_slice(&self) -> &[f16] {
        let bytes = &self.bytes.as_slice()[HEADER..HEADER + 2 * self.len];
        // SAFETY: every bit pattern is a valid u16. `Bytes` guarantees an address that is a
        // multiple of 4, and the values start 8 bytes behind it, so `before` and `after` are empty.
        let (before, bits, after) = unsafe { bytes.align_to::<u16>() };
        assert!(
            before.is_empty() && after.is_empty(),
            "vector values are aligned"
        );
        bits.reinterpret_cast()
    }
}

/// Returns an error unless both vectors have the same number of dimensions.
pub fn check_same_dims(a: usize, b: usize) -> Result<(), ErrorReport> {
    if a == b {
        Ok(())
    } else {
        Err(vector_error(VectorError::DifferentDimensions(a, b)))
    }
}

/// A vector that a SQL function returns: `1..=MAX_DIMS` finite values.
#[derive(Debug, Clone, PartialEq)]
pub struct MrlVector(pub Vec<f16>);

impl MrlVector {
    /// Copies the vector into the current memory context.
    pub fn into_datum(self) -> pg_sys::Datum {
        new_varlena(self.data_len(), |data| self.write(data))
    }

    fn data_len(&self) -> usize {
        HEADER + 2 * self.0.len()
    }

    fn write(&self, data: &mut [u8]) {
        let MrlVector(values) = self;
        data[0..2].copy_from_slice(&(values.len() as u16).to_ne_bytes());
        data[4..8].copy_from_slice(&squared_norm(values).to_ne_bytes());
        for (bytes, value) in data[HEADER..].chunks_exact_mut(2).zip(values) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
    }
}

/// A vector in the form of a Datum, without the varlena header. A call site that returns the same
/// vector for many rows keeps it in this form, so that each call costs one copy.
pub struct StoredVector(Vec<u8>);

impl From<MrlVector> for StoredVector {
    fn from(vector: MrlVector) -> StoredVector {
        let mut data = vec![0; vector.data_len()];
        vector.write(&mut data);
        StoredVector(data)
    }
}

impl StoredVector {
    /// A copy in the current memory context.
    pub fn to_datum(&self) -> VectorDatum {
        VectorDatum(new_varlena(self.0.len(), |data| {
            data.copy_from_slice(&self.0);
        }))
    }
}

/// A vector that a SQL function returns, already copied into a Postgres memory context.
pub struct VectorDatum(pg_sys::Datum);

impl_sql_translatable!(VectorDatum, "mrl_vector");

impl From<MrlVector> for VectorDatum {
    fn from(vector: MrlVector) -> VectorDatum {
        VectorDatum(vector.into_datum())
    }
}

// SAFETY: this file constructs the type only from a valid `mrl_vector`.
unsafe impl BoxRet for VectorDatum {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: the datum is of the return type that the SQL declaration names.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

impl_sql_translatable!(VectorArg<'_>, "mrl_vector");
impl_sql_translatable!(MrlVector, "mrl_vector");

// SAFETY: the SQL declarations name `mrl_vector` for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for VectorArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict or takes an Option, so the datum
        // is not null.
        unsafe {
            let datum: RawDatum = arg
                .unbox_arg_using_from_datum()
                .expect("argument is not null");
            VectorArg::from_datum(datum.0)
        }
    }
}

// SAFETY: `into_datum` writes the layout of `mrl_vector`.
unsafe impl BoxRet for MrlVector {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let datum = self.into_datum();
        // SAFETY: the datum is of the return type that the SQL declaration names.
        unsafe { fcinfo.return_raw_datum(datum) }
    }
}

/// An array of vectors and NULLs that a SQL function returns. The vectors are palloc'd, so that
/// running out of memory is an ERROR of the statement.
#[derive(Default)]
pub struct VectorArray {
    elements: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl VectorArray {
    /// Appends a NULL. [`VectorArray::set`] can replace it later.
    pub fn push_null(&mut self) -> Result<(), ErrorReport> {
        reserve_one(&mut self.elements)?;
        reserve_one(&mut self.nulls)?;
        self.elements.push(pg_sys::Datum::null());
        self.nulls.push(true);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Replaces the element at `index`, which counts from 0 and must exist.
    pub fn set(&mut self, index: usize, vector: MrlVector) {
        self.elements[index] = vector.into_datum();
        self.nulls[index] = false;
    }
}

/// Reserves space for one more element, or returns an error. Without that, an allocation that fails for good
/// (see the crate `memory`) aborts the server process, and the postmaster then ends every session.
pub fn reserve_one<T>(elements: &mut Vec<T>) -> Result<(), ErrorReport> {
    elements.try_reserve(1).map_err(|_| {
        sql_error(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory").set_detail(format!(
            "Failed on an array of more than {} elements.",
            elements.len()
        ))
    })
}

impl_sql_translatable!(VectorArray, "mrl_vector[]");

// SAFETY: `box_into` builds an array whose element type is that of the function's declared return
// type.
unsafe impl BoxRet for VectorArray {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let VectorArray { elements, nulls } = self;
        // SAFETY: the call comes from SQL, so it has a flinfo. `elements` and `nulls` have `count`
        // elements, and the catalog gives the storage of the element type.
        unsafe {
            let returned = pg_sys::get_func_rettype((*(*fcinfo.as_mut_ptr()).flinfo).fn_oid);
            let element = pg_sys::get_element_type(returned);
            if elements.is_empty() {
                return fcinfo.return_raw_datum(pg_sys::construct_empty_array(element).into());
            }
            let (mut len, mut by_value, mut align) = (0i16, false, 0);
            pg_sys::get_typlenbyvalalign(element, &mut len, &mut by_value, &mut align);
            let (mut count, mut lower_bound) = (elements.len() as i32, 1i32);
            let array = pg_sys::construct_md_array(
                elements.as_ptr().cast_mut(),
                nulls.as_ptr().cast_mut(),
                1,
                &mut count,
                &mut lower_bound,
                element,
                len.into(),
                by_value,
                align,
            );
            fcinfo.return_raw_datum(array.into())
        }
    }
}

/// The datum of any argument, unchanged, for types that detoast it themselves.
pub struct RawDatum(pub pg_sys::Datum);

impl pgrx::FromDatum for RawDatum {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _typoid: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then_some(RawDatum(datum))
    }
}
