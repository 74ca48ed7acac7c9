//! The configuration parameters `photosearch.*`: their definitions, check hooks and typed getters.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys::AsPgCStr;
use pgrx::{pg_guard, pg_sys};

use crate::image::Limits;
use crate::model::{MODEL_NAME_RULE, is_model_name};
use crate::types::PERCENTAGE_HINT;
use crate::vector::MAX_DIMS;

/// The value of `photosearch.coarse_threshold` that selects the model's recommended threshold. It
/// lies outside the range of a cosine.
pub const THRESHOLD_OF_MODEL: f64 = -2.0;
/// The value of `photosearch.coarse_dims` that selects the model's recommended prefix length.
pub const DIMS_OF_MODEL: i32 = 0;

const DEFAULT_CACHE_DIR: &CStr = c"pgsql_tmp_photosearch";

static MODEL: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"photosearch-mini-1"));
static MODEL_DIR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static CACHE_DIR: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(DEFAULT_CACHE_DIR));
static COARSE_THRESHOLD: GucSetting<f64> = GucSetting::<f64>::new(THRESHOLD_OF_MODEL);
static COARSE_DIMS: GucSetting<i32> = GucSetting::<i32>::new(DIMS_OF_MODEL);
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_EMBED_KB: GucSetting<i32> = GucSetting::<i32>::new(4 * 1024 * 1024);
static MAX_IMAGE_KB: GucSetting<i32> = GucSetting::<i32>::new(128 * 1024);

/// Incremented by the assign hooks of `photosearch.model` and `photosearch.model_dir`.
static MODEL_GENERATION: AtomicU64 = AtomicU64::new(0);

#[pg_guard]
unsafe extern "C-unwind" fn model_assigned(
    _value: *const std::ffi::c_char,
    _extra: *mut std::ffi::c_void,
) {
    MODEL_GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Check hook that rejects a value which cannot be a model name. This also limits the length of the
/// setting, which each call copies, and which could otherwise be a gigabyte long.
#[pg_guard]
unsafe extern "C-unwind" fn check_model(
    value: *mut *mut std::ffi::c_char,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes the address of the new string, which is null if there is no value.
    let name = unsafe { (*value).as_ref().map(|name| CStr::from_ptr(name)) };
    let accepted = name.is_none_or(|name| name.is_empty() || is_model_name(name.to_bytes()));
    if !accepted {
        explain(MODEL_NAME_RULE);
    }
    accepted
}

/// Check hook that accepts a cosine, or [`THRESHOLD_OF_MODEL`].
#[pg_guard]
unsafe extern "C-unwind" fn check_threshold(
    value: *mut f64,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes the address of the new value.
    let value = unsafe { *value };
    let accepted = value == THRESHOLD_OF_MODEL || (-1.0..=1.0).contains(&value);
    if !accepted {
        explain(
            "A threshold is a cosine similarity from -1 to 1; -2 selects the threshold that the model recommends.",
        );
    }
    if value > 1.0 {
        // This is what GUC_check_errhint of `utils/guc.h` does.
        // SAFETY: `as_pg_cstr` copies the string into the current memory context, which Postgres
        // keeps until it has reported the error.
        unsafe { pg_sys::GUC_check_errhint_string = PERCENTAGE_HINT.as_pg_cstr() };
    }
    accepted
}

/// Sets the DETAIL of the error that Postgres raises if a check hook returns false, as
/// GUC_check_errdetail of `utils/guc.h` does.
fn explain(detail: &str) {
    // SAFETY: `as_pg_cstr` copies the string into the current memory context, which Postgres keeps
    // until it has reported the error.
    unsafe {
        pg_sys::GUC_check_errdetail_string = detail.as_pg_cstr();
    }
}

/// The model for the functions that take no model argument.
pub fn model() -> String {
    MODEL
        .get()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The directory of the server's own models; empty if the setting is empty.
pub fn model_dir() -> String {
    MODEL_DIR
        .get()
        .map(|dir| dir.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The directory in which the server keeps packed copies of models, in the layout that its kernels
/// need.
pub fn cache_dir() -> PathBuf {
    // An empty setting would mean the data directory, so fall back to the default.
    let set = CACHE_DIR.get().filter(|set| !set.is_empty());
    let set = set.as_deref().unwrap_or(DEFAULT_CACHE_DIR);
    let set = Path::new(OsStr::from_bytes(set.to_bytes()));
    // SAFETY: the postmaster sets `DataDir` to a null-terminated path before it starts any backend.
    let data = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    Path::new(OsStr::from_bytes(data.to_bytes())).join(set)
}

/// The number of bytes that one forward pass may allocate, and the number that the pictures of one batch (the elements
/// of an array that are sent to the model together) may take while they are decoded.
pub fn max_embed_memory() -> u64 {
    u64::try_from(MAX_EMBED_KB.get()).unwrap_or(0) * 1024
}

/// A counter: if it differs from an earlier value, then [`model`] or [`model_dir`] may have changed
/// in between.
pub fn model_generation() -> u64 {
    MODEL_GENERATION.load(Ordering::Relaxed)
}

/// The threshold that the user has set for the coarse filter; `None` selects the model's.
pub fn coarse_threshold() -> Option<f64> {
    Some(COARSE_THRESHOLD.get()).filter(|&threshold| threshold != THRESHOLD_OF_MODEL)
}

/// The prefix length that the user has set for the coarse filter; `None` selects the model's.
pub fn coarse_dims() -> Option<usize> {
    usize::try_from(COARSE_DIMS.get())
        .ok()
        .filter(|&dims| dims > 0)
}

/// The maximum number of threads for a forward pass; `None` means one per processor.
pub fn threads() -> Option<usize> {
    usize::try_from(THREADS.get())
        .ok()
        .filter(|&threads| threads > 0)
}

/// The limits for the pictures that the functions which take pictures accept.
pub fn image_limits() -> Limits {
    Limits {
        max_bytes: usize::try_from(MAX_IMAGE_KB.get()).unwrap_or(0) * 1024,
        max_memory: max_embed_memory(),
        held: 0,
    }
}

/// Defines every setting. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: `check_model` only reads the string that Postgres passes, and `model_assigned` only
    // increments a counter.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"photosearch.model",
            c"Model that embed_text(text) and embed_image(bytea) use.",
            c"coarse_match(embedding, query) uses the threshold and the prefix length that this model recommends.",
            &MODEL,
            GucContext::Userset,
            GucFlags::default(),
            Some(check_model),
            Some(model_assigned),
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"photosearch.model_dir",
            c"Directory of the server's models, each a directory in Hugging Face layout.",
            c"Models that were installed with the extension do not need this setting.",
            &MODEL_DIR,
            GucContext::Suset,
            GucFlags::SUPERUSER_ONLY,
            None,
            Some(model_assigned),
            None,
        );
    }
    GucRegistry::define_string_guc(
        c"photosearch.cache_dir",
        c"Directory in which the server keeps its own copies of models, which all sessions map.",
        c"A relative path is relative to the data directory. Base backups exclude a directory whose name begins with pgsql_tmp.",
        &CACHE_DIR,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_float_guc_with_hooks(
        c"photosearch.coarse_threshold",
        c"Minimum similarity of the rows that coarse_match(embedding, query) keeps.",
        c"-2 selects the threshold that photosearch.model recommends.",
        &COARSE_THRESHOLD,
        // The check hook checks the range, because its message explains the special value -2.
        f64::MIN,
        f64::MAX,
        GucContext::Userset,
        GucFlags::EXPLAIN,
        Some(check_threshold),
        None,
        None,
    );
    GucRegistry::define_int_guc(
        c"photosearch.coarse_dims",
        c"Prefix length that coarse_match(embedding, query) compares.",
        c"0 selects the prefix length that photosearch.model recommends.",
        &COARSE_DIMS,
        DIMS_OF_MODEL,
        MAX_DIMS as i32,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"photosearch.threads",
        c"Maximum number of threads that a session uses to embed.",
        c"0 means one thread per processor; a larger number is reduced to that. A session uses fewer threads while other sessions embed. A change has no effect once the session has embedded for the first time.",
        &THREADS,
        0,
        1024,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"photosearch.max_embed_memory",
        c"Memory that one forward pass may take, beside the model's weights, and that decoding the pictures of one batch may take together.",
        c"An operation that would take more raises an error.",
        &MAX_EMBED_KB,
        1024,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"photosearch.max_image_size",
        c"Largest encoded picture that embed_image, embed, embed_images and photosearch.image_problem accept.",
        c"",
        &MAX_IMAGE_KB,
        1,
        1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    // This comes last: Postgres warns of each setting with this prefix in its configuration that has not been
    // defined by now.
    crate::version::reserve_setting_prefix(c"photosearch");
}
