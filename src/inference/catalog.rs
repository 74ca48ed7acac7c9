//! Which models there are: directories under `photosearch.model_dir`, then those that were
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
    /// Where this session has found models.
    static FOUND: RefCell<HashSet<PathBuf>> = RefCell::default();
}

/// Where a model of this name lies. Where the session has found one before, it finds it though the
/// directory has vanished, or can't be reached: if the model is loaded, the server's copy serves
/// on, and no other model takes its place.
pub fn find(name: &str) -> Result<PathBuf, ErrorReport> {
    check_name(name)?;
    let mut unreadable = None;
    for dir in roots().into_iter().map(|root| root.join(name)) {
        let metadata = std::fs::metadata(&dir);
        if matches!(&metadata, Ok(metadata) if metadata.is_dir()) {
            FOUND.with_borrow_mut(|found| found.insert(dir.clone()));
            return Ok(dir);
        }
        if FOUND.with_borrow(|found| found.contains(&dir)) {
            return Ok(dir);
        }
        // Installed models are found whatever is wrong with the server's own directory.
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
    .set_hint("The view photosearch.models lists the models; photosearch.model_dir is where the server looks for more."))
}

/// What is known of a model without loading it.
pub fn describe(name: &str) -> Result<ModelInfo, ErrorReport> {
    let dir = find(name)?;
    model::describe(&dir).map_err(|error| model_error(name, error))
}

/// An argument that names a model. What is too long for a name is not read.
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

/// The directories to look in, first to last.
pub fn roots() -> Vec<PathBuf> {
    let set = guc::model_dir();
    let own = (!set.is_empty()).then(|| PathBuf::from(set));
    own.into_iter().chain([installed_models()]).collect()
}

/// The models installed with the extension: `photosearch/models` in the server's share directory.
fn installed_models() -> PathBuf {
    let mut path = [0; pg_sys::MAXPGPATH as usize];
    // SAFETY: get_share_path writes a null-terminated path of at most MAXPGPATH bytes; the
    // server's own path is set before any backend runs.
    let share = unsafe {
        pg_sys::get_share_path((&raw const pg_sys::my_exec_path).cast(), path.as_mut_ptr());
        CStr::from_ptr(path.as_ptr())
    };
    Path::new(share.to_string_lossy().as_ref())
        .join("photosearch")
        .join("models")
}

/// What to say when a model cannot be used.
pub fn model_error(name: &str, error: ModelError) -> ErrorReport {
    // A file that can't be mapped is whole.
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
        ModelError::Cancelled => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        ModelError::Internal(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
    };
    match error {
        // About the request, not about the model.
        ModelError::InvalidInput(_)
        | ModelError::LimitExceeded(_)
        | ModelError::NoMemory
        | ModelError::Cancelled => {
            sql_error(code, error.to_string())
        }
        ModelError::OutOfMemory(_) => sql_error(code, error.to_string())
            .set_hint("The limit is the setting photosearch.max_embed_memory."),
        ModelError::Changed => sql_error(code, format!("cannot use model \"{name}\": {error}"))
            .set_hint(format!(
                "Vectors of the old and the new files must not be compared: give the new ones a directory with a new name. To go on under this name, call photosearch.prepare_model('{name}', replace => true) and embed everything anew."
            )),
        ModelError::Pickled(_) => sql_error(code, format!("cannot use model \"{name}\": {error}"))
            .set_hint("In Python, transformers.AutoModel.from_pretrained(directory).save_pretrained(directory) writes model.safetensors; for a cross-encoder, AutoModelForSequenceClassification does."),
        ModelError::CutShort { .. } => {
            sql_error(code, format!("cannot use model \"{name}\": {error}"))
                .set_hint("Wait for the download to end, or start it again.")
        }
        ModelError::Cache(_) => sql_error(code, format!("cannot use model \"{name}\": {error}"))
            .set_hint("Copies are kept in photosearch.cache_dir."),
        _ => sql_error(code, format!("cannot use model \"{name}\": {error}")),
    }
}

/// Every directory that could be a model, by name: the first directory with a name wins, as in
/// [`find`].
pub fn list() -> BTreeMap<String, PathBuf> {
    let mut models: BTreeMap<String, PathBuf> = BTreeMap::new();
    for root in roots() {
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
