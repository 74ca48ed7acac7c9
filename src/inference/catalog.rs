//! The catalog of models: subdirectories of `photosearch.model_dir`, then the models that were
//! installed with the extension.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::CStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::guc;
use crate::model::{self, MAX_MODEL_NAME, MODEL_NAME_RULE, ModelError, ModelInfo, is_model_name};
use crate::types::{TextArg, sql_error};

thread_local! {
    /// Directories in which this session has found models.
    static FOUND_DIRS: RefCell<HashSet<PathBuf>> = RefCell::default();
}

/// Returns the directory of the model with this name. A directory that the session has found before
/// is returned even if it has been removed or cannot be accessed: a model that the session has
/// loaded keeps working from its packed copy, and no other model with the same name takes its
/// place.
pub fn find(name: &str) -> Result<PathBuf, ErrorReport> {
    check_name(name)?;
    let mut unreadable = None;
    for dir in search_dirs().into_iter().map(|root| root.join(name)) {
        let metadata = std::fs::metadata(&dir);
        if matches!(&metadata, Ok(metadata) if metadata.is_dir()) {
            FOUND_DIRS.with_borrow_mut(|found| found.insert(dir.clone()));
            return Ok(dir);
        }
        if FOUND_DIRS.with_borrow(|found| found.contains(&dir)) {
            return Ok(dir);
        }
        // A failure to read `photosearch.model_dir` must not hide the installed models, so the loop
        // goes on.
        if let Err(error) = metadata
            && error.kind() != ErrorKind::NotFound
        {
            unreadable = Some(error);
        }
    }
    Err(match unreadable {
        Some(error) => sql_error(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("could not look for model \"{name}\": {error}"),
        ),
        None => sql_error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("model \"{name}\" does not exist"),
        ),
    }
    .set_hint("The view photosearch.models lists the models; the setting photosearch.model_dir names the directory of additional models."))
}

/// Reads what the model's directory says about the model, without loading the model.
pub fn describe(name: &str) -> Result<ModelInfo, ErrorReport> {
    let dir = find(name)?;
    model::describe(&dir).map_err(|error| model_error(name, error))
}

/// Reads an argument that names a model. It detoasts at most one byte more than the longest valid
/// name has, which is enough to reject a longer one.
pub fn name(argument: TextArg<'_>) -> Result<String, ErrorReport> {
    let bytes = argument.0.first_bytes(MAX_MODEL_NAME + 1);
    let bytes = bytes.as_slice();
    let shown = &bytes[..bytes.len().min(MAX_MODEL_NAME + 1)];
    let name = String::from_utf8_lossy(shown).into_owned();
    check_name(&name).map(|()| name)
}

fn check_name(name: &str) -> Result<(), ErrorReport> {
    if is_model_name(name.as_bytes()) {
        return Ok(());
    }
    let long = name.char_indices().nth(64);
    let (shown, more) = long.map_or((name, ""), |(end, _)| (&name[..end], "..."));
    Err(sql_error(
        PgSqlErrorCode::ERRCODE_INVALID_NAME,
        format!("invalid model name: \"{shown}{more}\""),
    )
    .set_hint(MODEL_NAME_RULE))
}

/// The directories that contain models, in the order in which they are searched.
pub fn search_dirs() -> Vec<PathBuf> {
    let set = guc::model_dir();
    let configured = (!set.is_empty()).then(|| PathBuf::from(set));
    configured.into_iter().chain([installed_models()]).collect()
}

/// The directory of the models that were installed with the extension: `photosearch/models` in the
/// server's share directory.
fn installed_models() -> PathBuf {
    let mut path = [0; pg_sys::MAXPGPATH as usize];
    // SAFETY: get_share_path writes a null-terminated path of at most MAXPGPATH bytes. The
    // postmaster sets `my_exec_path` before it starts any backend.
    let share = unsafe {
        pg_sys::get_share_path((&raw const pg_sys::my_exec_path).cast(), path.as_mut_ptr());
        CStr::from_ptr(path.as_ptr())
    };
    Path::new(share.to_string_lossy().as_ref())
        .join("photosearch")
        .join("models")
}

/// Converts an error of the model code to an error report.
pub fn model_error(name: &str, error: ModelError) -> ErrorReport {
    // If mapping a file fails with ENOMEM, neither the cache nor the file is at fault.
    let error = match error {
        ModelError::Cache(source) | ModelError::Unreadable { source, .. }
            if source.kind() == ErrorKind::OutOfMemory =>
        {
            ModelError::NoMemory
        }
        error => error,
    };
    let code = match &error {
        ModelError::NotFound => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        ModelError::Incomplete { .. } | ModelError::Pickled(_) => {
            PgSqlErrorCode::ERRCODE_UNDEFINED_FILE
        }
        ModelError::UnsupportedModel(_) | ModelError::WrongKind(_) => {
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED
        }
        ModelError::Pointer(_) | ModelError::CutShort { .. } => {
            PgSqlErrorCode::ERRCODE_UNDEFINED_FILE
        }
        ModelError::Malformed { .. } => PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR,
        ModelError::Unreadable { .. } => PgSqlErrorCode::ERRCODE_IO_ERROR,
        ModelError::InvalidInput(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        ModelError::LimitExceeded(_) => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        ModelError::Changed | ModelError::ChangedWhileRead => {
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        }
        ModelError::Cache(error) if error.kind() == ErrorKind::StorageFull => {
            PgSqlErrorCode::ERRCODE_DISK_FULL
        }
        ModelError::Cache(_) => PgSqlErrorCode::ERRCODE_IO_ERROR,
        ModelError::OutOfMemory(_) | ModelError::NoMemory => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        ModelError::NoThread(_) => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        ModelError::Cancelled => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        ModelError::Internal(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
    };
    match error {
        // These errors concern the request, so the message does not name the model.
        ModelError::InvalidInput(_)
        | ModelError::LimitExceeded(_)
        | ModelError::NoMemory
        | ModelError::NoThread(_)
        | ModelError::Cancelled => {
            sql_error(code, error.to_string())
        }
        ModelError::OutOfMemory(_) => sql_error(code, error.to_string())
            .set_hint("The limit is the setting photosearch.max_embed_memory."),
        ModelError::Changed => sql_error(code, format!("cannot use model \"{name}\": {error}"))
            .set_hint(format!(
                "Vectors of the old and the new files must not be compared. Install the new files under a new model name, or call photosearch.prepare_model('{name}', replace => true) and embed all data again."
            )),
        ModelError::Pickled(_) => sql_error(code, format!("cannot use model \"{name}\": {error}"))
            .set_hint("In Python, transformers.AutoModel.from_pretrained(directory).save_pretrained(directory) writes model.safetensors; for a cross-encoder, AutoModelForSequenceClassification does."),
        ModelError::CutShort { .. } => {
            sql_error(code, format!("cannot use model \"{name}\": {error}"))
                .set_hint("Wait for the download to end, or start it again.")
        }
        ModelError::Cache(_) => sql_error(code, format!("cannot use model \"{name}\": {error}"))
            .set_hint("Packed copies of models are kept in photosearch.cache_dir."),
        _ => sql_error(code, format!("cannot use model \"{name}\": {error}")),
    }
}

/// Lists every directory that may contain a model, by name. If several directories contain the same
/// name, the first one wins, as in [`find`].
pub fn list() -> BTreeMap<String, PathBuf> {
    let mut models: BTreeMap<String, PathBuf> = BTreeMap::new();
    for root in search_dirs() {
        let entries = match std::fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                pgrx::warning!("could not read a directory of models: {error}");
                continue;
            }
        };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            if let Some(name) = entry
                .file_name()
                .to_str()
                .filter(|name| check_name(name).is_ok())
            {
                models
                    .entry(name.to_owned())
                    .or_insert_with(|| entry.path());
            }
        }
    }
    models
}
