//! Reading and making of variable-length values, with as few copies as Postgres allows.

use std::marker::PhantomData;
use std::ptr::NonNull;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::UnboxDatum;
use pgrx::prelude::*;
use pgrx::{Array, FromDatum, impl_sql_translatable, pg_sys, varlena};

use super::error::sql_error;
use super::vector::RawDatum;
use crate::memory;

/// A variable-length argument in the form in which Postgres passes it: plain, with a short header,
/// compressed, or out of line.
#[derive(Clone, Copy)]
pub struct RawVarlena<'fcx> {
    ptr: NonNull<pg_sys::varlena>,
    lifetime: PhantomData<&'fcx ()>,
}

/// The bytes of a [`RawVarlena`], detoasted and aligned to 4. If they are a copy, dropping this
/// value frees them: the comparison function of an index build, for instance, runs in a memory
/// context that lives longer than a row.
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

    /// The number of bytes of the value without its header. This reads only the header or the TOAST
    /// pointer, not the value.
    pub fn len(&self) -> usize {
        // SAFETY: `from_datum` guarantees that the pointer is a varlena.
        let whole = unsafe { pg_sys::toast_raw_datum_size(pg_sys::Datum::from(self.ptr.as_ptr())) };
        whole.saturating_sub(pg_sys::VARHDRSZ)
    }

    /// All bytes.
    pub fn bytes(&self) -> Bytes<'fcx> {
        // SAFETY: `from_datum` guarantees that the pointer is a varlena.
        self.open(|ptr| unsafe { pg_sys::pg_detoast_datum(ptr) })
    }

    /// The first `len` bytes, or all if there are fewer. For a value out of line, this reads only
    /// the TOAST chunks that contain them. For a value in the row, the result may be longer than
    /// `len`.
    pub fn first_bytes(&self, len: usize) -> Bytes<'fcx> {
        let len = i32::try_from(len).unwrap_or(i32::MAX);
        // SAFETY: `from_datum` guarantees that the pointer is a varlena.
        self.open(|ptr| unsafe { pg_sys::pg_detoast_datum_slice(ptr, 0, len) })
    }

    /// Bytes that identify this value: if two values have equal identities, then their first `len`
    /// bytes are equal. The identity of a value out of line is its TOAST pointer; the value is not
    /// fetched. Returns `None` if the datum is a pointer to an in-memory value, which may change
    /// while the pointer stays the same.
    pub fn identity(&self, len: usize) -> Option<&'fcx [u8]> {
        let ptr: *const pg_sys::varlena = self.ptr.as_ptr();
        // SAFETY: `from_datum` guarantees that the pointer is a varlena, so it has as many bytes as
        // its header says.
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
        // SAFETY: `from_datum` guarantees that the pointer is a varlena. If its header has 4 bytes
        // and says that the value is uncompressed, then the data follow with the alignment of the
        // type (int4), and no copy is needed. Data behind a 1-byte header are not aligned.
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
        // SAFETY: `open` guarantees an uncompressed varlena with a 4-byte header that lives as long
        // as `self`.
        unsafe {
            let data = varlena::vardata_4b(ptr).cast::<u8>();
            std::slice::from_raw_parts(data, varlena::varsize_4b(ptr) - pg_sys::VARHDRSZ)
        }
    }
}

impl Drop for Bytes<'_> {
    fn drop(&mut self) {
        if self.copied {
            // SAFETY: detoasting in `open` has palloc'd the copy, and only `self` points to it.
            unsafe { pg_sys::pfree(self.ptr.as_ptr().cast()) }
        }
    }
}

/// Raises the error "out of memory" while the server is low on memory. Callers hold no buffer lock.
pub fn check_memory() {
    if memory::check().is_err() {
        sql_error(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory").report(PgLogLevel::ERROR);
    }
}

/// Makes a new varlena in the current memory context; `fill` writes its `len` bytes, which are zero
/// before.
///
/// Raises an error while the server is low on memory. The check is here because most functions that
/// make vectors call this function.
pub fn new_varlena(len: usize, fill: impl FnOnce(&mut [u8])) -> pg_sys::Datum {
    check_memory();
    let size = pg_sys::VARHDRSZ + len;
    // SAFETY: palloc0 returns `size` zeroed bytes, aligned for any type, or raises an error. The
    // callers guarantee that `size` is far below 1 GB.
    unsafe {
        let ptr = pg_sys::palloc0(size).cast::<pg_sys::varlena>();
        varlena::set_varsize_4b(ptr, size as i32);
        let data = varlena::vardata_4b(ptr).cast_mut().cast::<u8>();
        fill(std::slice::from_raw_parts_mut(data, len));
        pg_sys::Datum::from(ptr)
    }
}

/// An argument of type `text`. It is not detoasted before its length has been checked: an
/// unprivileged user can make a compressed value that expands to a gigabyte.
#[derive(Clone, Copy)]
pub struct TextArg<'fcx>(pub RawVarlena<'fcx>);

/// An argument of type `bytea`, detoasted on demand like [`TextArg`].
#[derive(Clone, Copy)]
pub struct ByteaArg<'fcx>(pub RawVarlena<'fcx>);

/// An argument of an array type, detoasted on demand like [`TextArg`]. The SQL declaration
/// determines the element type.
#[derive(Clone, Copy)]
pub struct ArrayArg<'fcx>(pub RawVarlena<'fcx>);

impl_sql_translatable!(TextArg<'_>, "text");
impl_sql_translatable!(ByteaArg<'_>, "bytea");
impl_sql_translatable!(ArrayArg<'_>, "anyarray");

impl<'fcx> ArrayArg<'fcx> {
    /// Detoasts the array.
    ///
    /// # Safety
    /// The SQL type of its elements is the one that `T` represents.
    pub unsafe fn open<T: UnboxDatum>(&self) -> Array<'fcx, T> {
        let datum = pg_sys::Datum::from(self.0.ptr.as_ptr());
        // SAFETY: the caller guarantees the element type; the pointer is not null.
        unsafe { Array::from_datum(datum, false) }.expect("array is not null")
    }
}

// SAFETY: the SQL declarations name `text` for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for TextArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict or takes an Option, so the datum
        // is not null.
        TextArg(unsafe { raw_argument(arg) })
    }
}

// SAFETY: the SQL declarations name `bytea` for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for ByteaArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict or takes an Option, so the datum
        // is not null.
        ByteaArg(unsafe { raw_argument(arg) })
    }
}

// SAFETY: the SQL declarations name an array type for every argument of this type.
unsafe impl<'fcx> ArgAbi<'fcx> for ArrayArg<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: every function with such an argument is strict or takes an Option, so the datum
        // is not null.
        ArrayArg(unsafe { raw_argument(arg) })
    }
}

/// # Safety
/// The argument is a varlena that is not null.
pub(super) unsafe fn raw_argument<'fcx>(arg: Arg<'_, 'fcx>) -> RawVarlena<'fcx> {
    // SAFETY: the caller guarantees a non-null varlena, and an argument lives as long as the call.
    unsafe {
        let datum: RawDatum = arg
            .unbox_arg_using_from_datum()
            .expect("argument is not null");
        RawVarlena::from_datum(datum.0)
    }
}
