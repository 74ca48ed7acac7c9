//! Storage parameters of an index: `CREATE INDEX … WITH (…)`.

use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::sweep::MAX_PREFIX_DIMS;

/// The storage parameters in the layout that `access/reloptions.h` requires: a struct that starts
/// with a varlena header.
#[repr(C)]
pub struct Options {
    vl_len: i32,
    prefix_dims: i32,
}

/// The value of `prefix_dims` if the parameter is not given.
const NOT_GIVEN: i32 = 0;

static OPTIONS: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// Registers the storage parameters. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: `_PG_init` calls this, as the registration of storage parameters requires (Postgres'
    // own contrib module bloom does the same). Postgres copies the strings.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        pg_sys::add_int_reloption(
            kind,
            c"prefix_dims".as_ptr(),
            c"number of leading dimensions that the index encodes".as_ptr(),
            NOT_GIVEN,
            1,
            MAX_PREFIX_DIMS as i32,
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
        // `set` cannot fail, because a library is loaded only once.
        let _ = OPTIONS.set(kind);
    }
}

impl Options {
    /// The parameter `prefix_dims`, if it was given for the index.
    ///
    /// # Safety
    /// `index` is an open index of this access method.
    pub unsafe fn prefix_dims(index: pg_sys::Relation) -> Option<usize> {
        // SAFETY: the caller guarantees an open index of this access method, so `rd_options` is
        // null or points to the struct that `amoptions` made.
        let options = unsafe { (*index).rd_options.cast::<Options>().as_ref()? };
        (options.prefix_dims != NOT_GIVEN).then_some(options.prefix_dims as usize)
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    let Some(kind) = OPTIONS.get() else {
        return std::ptr::null_mut();
    };
    // SAFETY: all bytes zero is a valid value of this C struct, which contains only numbers and
    // pointers.
    let mut element: pg_sys::relopt_parse_elt = unsafe { std::mem::zeroed() };
    element.optname = c"prefix_dims".as_ptr();
    element.opttype = pg_sys::relopt_type::RELOPT_TYPE_INT;
    element.offset = std::mem::offset_of!(Options, prefix_dims) as i32;
    // SAFETY: the table of options has one element, and its offset lies within a struct of the
    // given size.
    unsafe {
        pg_sys::build_reloptions(
            reloptions,
            validate,
            *kind,
            size_of::<Options>(),
            &element,
            1,
        )
        .cast()
    }
}
