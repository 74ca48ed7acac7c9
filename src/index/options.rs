//! Storage parameters: `CREATE INDEX … WITH (…)`.

use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::sweep::MAX_PREFIX_DIMS;

/// Storage parameters as Postgres lays them out (`access/reloptions.h`).
#[repr(C)]
pub struct Options {
    vl_len: i32,
    prefix_dims: i32,
}

/// The value that stands for "not given".
const NOT_GIVEN: i32 = 0;

static OPTIONS: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// Called once, when the library is loaded.
pub fn register() {
    // SAFETY: as `_PG_init` of Postgres' own bloom does it; the strings are copied.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        pg_sys::add_int_reloption(
            kind,
            c"prefix_dims".as_ptr(),
            c"how many leading dimensions the index keeps".as_ptr(),
            NOT_GIVEN,
            1,
            MAX_PREFIX_DIMS as i32,
            pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        );
        // A library is loaded once.
        let _ = OPTIONS.set(kind);
    }
}

impl Options {
    /// `prefix_dims`, where the index was made with it.
    ///
    /// # Safety
    /// `index` is an open index of this access method.
    pub unsafe fn prefix_dims(index: pg_sys::Relation) -> Option<usize> {
        // SAFETY: `rd_options` is null or what `amoptions` made.
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
    // SAFETY: zeroed is a valid value of a C struct of numbers and pointers.
    let mut element: pg_sys::relopt_parse_elt = unsafe { std::mem::zeroed() };
    element.optname = c"prefix_dims".as_ptr();
    element.opttype = pg_sys::relopt_type::RELOPT_TYPE_INT;
    element.offset = std::mem::offset_of!(Options, prefix_dims) as i32;
    // SAFETY: one element, for a struct of this size.
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
