//! Reading and making variable-length values, with as little copying as Postgres allows.

use std::marker::PhantomData;
use std::ptr::NonNull;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::UnboxDatum;
use pgrx::prelude::*;
use pgrx::{Array, FromDatum, impl_sql_translatable, pg_sys, varlena};

use super::error::sql_error;
use super::vector::RawDatum;
use crate::memory;

/// A variable-length argument as Postgres passes it: in place, short, compressed or toasted.
#[derive(Clone, Copy)]
pub struct RawVarlena<'fcx> {
    ptr: NonNull<pg_sys::varlena>,
    lifetime: PhantomData<&'fcx ()>,
}

/// The bytes behind a [`RawVarlena`], aligned to 4. A copy is freed with it: functions run in
/// contexts that live longer than a row (an index's comparison, a btree build).
pub struct Bytes<'a> {
    ptr: NonNull<pg_sys::varlena>,
    copied: bool,
    lifetime: PhantomData<&'a ()>,
}

impl<'fcx> RawVarlena<'fcx> {
    /// # Safety
    /// `datum` is a non-null pointer to a varlena that lives as long as `'fcx`.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> RawVarlena<'fcx> {
        let ptr = NonNull::new(datum.cast_mut_ptr()).expect("argument is not null");
        RawVarlena {
            ptr,
            lifetime: PhantomData,
        }
    }

    /// Bytes of the value, without its header: what is stored is not read for it, only a pointer or
    /// a header.
    pub fn len(&self) -> usize {
        // SAFETY: the pointer is a varlena (from_datum's contract).
        let whole = unsafe { pg_sys::toast_raw_datum_size(pg_sys::Datum::from(self.ptr.as_ptr())) };
        whole.saturating_sub(pg_sys::VARHDRSZ)
    }

    /// All bytes.
    pub fn bytes(&self) -> Bytes<'fcx> {
        // SAFETY: the pointer is a varlena (from_datum's contract).
        self.open(|ptr| unsafe { pg_sys::pg_detoast_datum(ptr) })
    }

    /// The first `len` bytes, or all where there are fewer. Of a value out of line, only the TOAST
    /// chunks that hold them are read; a value in place is seen whole.
    pub fn first_bytes(&self, len: usize) -> Bytes<'fcx> {
        let len = i32::try_from(len).unwrap_or(i32::MAX);
        // SAFETY: as above.
        self.open(|ptr| unsafe { pg_sys::pg_detoast_datum_slice(ptr, 0, len) })
    }

    /// Bytes that stand for this value: where they are equal, the values are, as far as their
    /// first `len` bytes. A value out of line is known by its TOAST pointer, and not fetched.
    /// `None` where the datum points into memory, which may change under it.
    pub fn identity(&self, len: usize) -> Option<&'fcx [u8]> {
        let ptr: *const pg_sys::varlena = self.ptr.as_ptr();
        // SAFETY: the pointer is a varlena, which has as many bytes as its header says.
        unsafe {
            let size = if !varlena::varatt_is_1b_e(ptr) {
                let whole = varlena::varsize_any(ptr);
                if varlena::varatt_is_4b_u(ptr) {
                    whole.min(len.saturating_add(pg_sys::VARHDRSZ))
                } else {
                    whole
                }
            } else if u32::from(varlena::vartag_external(ptr))
                == pg_sys::vartag_external::VARTAG_ONDISK
            {
                varlena::varsize_external(ptr)
            } else {
                return None;
            };
            Some(std::slice::from_raw_parts(ptr.cast(), size))
        }
    }

    fn open(
        &self,
        detoast: impl FnOnce(*mut pg_sys::varlena) -> *mut pg_sys::varlena,
    ) -> Bytes<'fcx> {
        let original = self.ptr.as_ptr();
        // SAFETY: the pointer is a varlena. A 4-byte header, uncompressed, means that the data lie
        // behind it, aligned as the type demands (int4): nothing to copy. A short header leaves
        // them unaligned.
        let ptr = if unsafe { varlena::varatt_is_4b_u(original) } {
            original
        } else {
            detoast(original)
        };
        Bytes {
            ptr: NonNull::new(ptr).expect("detoasted value is not null"),
            copied: ptr != original,
            lifetime: PhantomData,
        }
    }
}

impl Bytes<'_> {
    pub fn as_slice(&self) -> &[u8] {
        let ptr = self.ptr.as_ptr();
        // SAFETY: `ptr` is an uncompressed varlena with a 4-byte header, alive as long as self.
        unsafe {
            let data = varlena::vardata_4b(ptr).cast::<u8>();
            std::slice::from_raw_parts(data, varlena::varsize_4b(ptr) - pg_sys::VARHDRSZ)
        }
    }
}

impl Drop for Bytes<'_> {
    fn drop(&mut self) {
        if self.copied {
            // SAFETY: palloc'd by the detoasting above, and nothing else points to it.
            unsafe { pg_sys::pfree(self.ptr.as_ptr().cast()) }
        }
    }
}

/// Raises "out of memory" while memory is low. Called with no lock held.
pub fn check_memory() {
    if memory::check().is_err() {
        sql_error(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory").report(PgLogLevel::ERROR);
    }
}

/// A new varlena in the current memory context, its `len` bytes filled by `fill`.
///
/// Raises an error while memory is low: most functions that make vectors come by here.
pub fn new_varlena(len: usize, fill: impl FnOnce(&mut [u8])) -> pg_sys::Datum {
    check_memory();
    let size = pg_sys::VARHDRSZ + len;
    // SAFETY: palloc0 gives `size` zeroed bytes, aligned for any type, or raises an error. Sizes
    // are bounded by the callers far below 1 GB.
    unsafe {
        let ptr = pg_sys::palloc0(size).cast::<pg_sys::varlena>();
        varlena::set_varsize_4b(ptr, size as i32);
        let data = varlena::vardata_4b(ptr).cast_mut().cast::<u8>();
        fill(std::slice::from_raw_parts_mut(data, len));
        pg_sys::Datum::from(ptr)
    }
}

/// A `text` argument that is not read before its length has been looked at: a plain user can make
/// one of a gigabyte from nothing.
#[derive(Clone, Copy)]
pub struct TextArg<'fcx>(pub RawVarlena<'fcx>);

/// A `bytea` argument likewise.
#[derive(Clone, Copy)]
pub struct ByteaArg<'fcx>(pub RawVarlena<'fcx>);

/// An array argument likewise, of whatever the SQL declaration says.
#[derive(Clone, Copy)]
pub struct ArrayArg<'fcx>(pub RawVarlena<'fcx>);

impl_sql_translatable!(TextArg<'_>, "text");
impl_sql_translatable!(ByteaArg<'_>, "bytea");
impl_sql_translatable!(ArrayArg<'_>, "anyarray");

impl<'fcx> ArrayArg<'fcx> {
    /// The array.
    ///
    /// # Safety
    /// Its elements are of the type that `T` stands for.
    pub unsafe fn open<T: UnboxDatum>(&self) -> Array<'fcx, T> {
        let datum = pg_sys::Datum::from(self.0.ptr.as_ptr());
        // SAFETY: the caller's promise; the datum is not null.
        unsafe { Array::from_datum(datum, false) }.expect("array is not null")
    }
}

// SAFETY: the SQL declarations name `text` for every such argument.
unsafe impl<'fcx> ArgAbi<'fcx> for TextArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the functions are strict or take an Option, so the datum is not null.
        TextArg(unsafe { raw_argument(arg) })
    }
}

// SAFETY: the SQL declarations name `bytea` for every such argument.
unsafe impl<'fcx> ArgAbi<'fcx> for ByteaArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        ByteaArg(unsafe { raw_argument(arg) })
    }
}

// SAFETY: the SQL declarations name an array type for every such argument.
unsafe impl<'fcx> ArgAbi<'fcx> for ArrayArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        ArrayArg(unsafe { raw_argument(arg) })
    }
}

/// # Safety
/// The argument is a varlena that is not null.
unsafe fn raw_argument<'fcx>(arg: Arg<'_, 'fcx>) -> RawVarlena<'fcx> {
    // SAFETY: the caller's promise; the argument lives as long as the call.
    unsafe {
        let datum: RawDatum = arg
            .unbox_arg_using_from_datum()
            .expect("argument is not null");
        RawVarlena::from_datum(datum.0)
    }
}
