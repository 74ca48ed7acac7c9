//! Settings.

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

/// `coarse_threshold` at this value, outside every cosine, leaves the threshold to the model.
pub const THRESHOLD_OF_MODEL: f64 = -2.0;
/// `coarse_dims` at this value leaves the prefix length to the model.
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
static MAX_EMBED_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(4 * 1024 * 1024);
static MAX_IMAGE_BYTES: GucSetting<i32> = GucSetting::<i32>::new(128 * 1024);

/// Rises whenever `photosearch.model` or `photosearch.model_dir` is assigned.
static MODEL_GENERATION: AtomicU64 = AtomicU64::new(0);

#[pg_guard]
unsafe extern "C-unwind" fn model_assigned(
    _value: *const std::ffi::c_char,
    _extra: *mut std::ffi::c_void,
) {
    MODEL_GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Refuses what no model is called: a setting of a gigabyte would be copied with every call.
#[pg_guard]
unsafe extern "C-unwind" fn check_model(
    value: *mut *mut std::ffi::c_char,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes the address of a string, which is null where there is no value.
    let name = unsafe { (*value).as_ref().map(|name| CStr::from_ptr(name)) };
    let accepted = name.is_none_or(|name| name.is_empty() || is_model_name(name.to_bytes()));
    if !accepted {
        explain(MODEL_NAME_RULE);
    }
    accepted
}

/// Accepts a cosine, and the value that stands for the model's threshold.
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
        explain("A threshold is a cosine similarity, from -1 to 1; -2 stands for the model's.");
    }
    if value > 1.0 {
        // As GUC_check_errhint of `utils/guc.h` does.
        // SAFETY: the string is copied into memory that lives as long as the error.
        unsafe { pg_sys::GUC_check_errhint_string = PERCENTAGE_HINT.as_pg_cstr() };
    }
    accepted
}

/// What GUC_check_errdetail of `utils/guc.h` does: says in the error's DETAIL why a check hook
/// refuses a value.
fn explain(detail: &str) {
    // SAFETY: the string is copied into memory that lives as long as the error.
    unsafe {
        pg_sys::GUC_check_errdetail_string = detail.as_pg_cstr();
    }
}

/// The model that the forms without one use.
pub fn model() -> String {
    MODEL
        .get()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The directory with the server's own models; empty where none is set.
pub fn model_dir() -> String {
    MODEL_DIR
        .get()
        .map(|dir| dir.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The directory in which the server keeps models as its kernels want them.
pub fn cache_dir() -> PathBuf {
    // An empty setting would mean the data directory, so fall back to the default.
    let set = CACHE_DIR.get().filter(|set| !set.is_empty());
    let set = set.as_deref().unwrap_or(DEFAULT_CACHE_DIR);
    let set = Path::new(OsStr::from_bytes(set.to_bytes()));
    // SAFETY: set by the postmaster before any backend runs, to a path that ends in a null byte.
    let data = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    Path::new(OsStr::from_bytes(data.to_bytes())).join(set)
}

/// Bytes that a forward pass, or the decoding of a picture, may take for itself.
pub fn max_embed_memory() -> u64 {
    u64::try_from(MAX_EMBED_MEMORY.get()).unwrap_or(0) * 1024
}

/// Differs from an earlier value if [`model`] or [`model_dir`] may have changed since.
pub fn model_generation() -> u64 {
    MODEL_GENERATION.load(Ordering::Relaxed)
}

/// The threshold of the coarse filter as it was set; `None`: the model's.
pub fn coarse_threshold() -> Option<f64> {
    Some(COARSE_THRESHOLD.get()).filter(|&threshold| threshold != THRESHOLD_OF_MODEL)
}

/// The prefix length of the coarse filter as it was set; `None`: the model's.
pub fn coarse_dims() -> Option<usize> {
    usize::try_from(COARSE_DIMS.get())
        .ok()
        .filter(|&dims| dims > 0)
}

/// Most threads for the forward pass; `None`: one for each processor.
pub fn threads() -> Option<usize> {
    usize::try_from(THREADS.get())
        .ok()
        .filter(|&threads| threads > 0)
}

/// What `embed_image` accepts.
pub fn image_limits() -> Limits {
    Limits {
        max_bytes: usize::try_from(MAX_IMAGE_BYTES.get()).unwrap_or(0) * 1024,
        max_memory: max_embed_memory(),
        held: 0,
    }
}

/// Defines every setting; called once, when the library is loaded.
pub fn register() {
    // SAFETY: the hook only adds to a counter.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"photosearch.model",
            c"Model that embed_text(text) and embed_image(bytea) use.",
            c"Also the model whose recommended threshold and prefix length coarse_match(embedding, query) follows.",
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
            c"Models that are installed with the extension are found without it.",
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
        c"A relative path is one in the data directory. A name that begins with pgsql_tmp is left out of base backups.",
        &CACHE_DIR,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_float_guc_with_hooks(
        c"photosearch.coarse_threshold",
        c"Similarity from which coarse_match(embedding, query) keeps a row.",
        c"-2 stands for what photosearch.model recommends.",
        &COARSE_THRESHOLD,
        // The check hook knows the range, and says more than Postgres would.
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
        c"0 stands for what photosearch.model recommends.",
        &COARSE_DIMS,
        DIMS_OF_MODEL,
        MAX_DIMS as i32,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"photosearch.threads",
        c"Most threads that a session uses to embed.",
        c"0 stands for one for each processor, and so does any larger number. While other sessions embed, each uses fewer. Takes effect before the session embeds for the first time.",
        &THREADS,
        0,
        1024,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"photosearch.max_embed_memory",
        c"Memory that one forward pass may take, beside the model's weights, and that decoding one picture may take.",
        c"What would take more is an error.",
        &MAX_EMBED_MEMORY,
        1024,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"photosearch.max_image_size",
        c"Largest encoded picture that embed_image accepts.",
        c"",
        &MAX_IMAGE_BYTES,
        1,
        1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    // SAFETY: the name is a constant; reserving it reports misspelt settings.
    unsafe { reserve_prefix() }
}

#[cfg(not(feature = "pg14"))]
unsafe fn reserve_prefix() {
    // SAFETY: a constant, null-terminated string.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"photosearch".as_ptr()) }
}

#[cfg(feature = "pg14")]
unsafe fn reserve_prefix() {
    // SAFETY: a constant, null-terminated string.
    unsafe { pg_sys::EmitWarningsOnPlaceholders(c"photosearch".as_ptr()) }
}
