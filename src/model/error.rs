//! Errors of loading and running a model, grouped so that the caller can choose an SQLSTATE.

use std::io;

use photosearch_memory::Exhausted;

/// Every error of this crate. Messages follow PostgreSQL's style: lower case, no full stop, and
/// they quote the offending value. They give a file's name, never its full path.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The model's directory does not exist.
    #[error("model directory does not exist")]
    NotFound,

    /// The directory exists, but files that the model needs are missing.
    #[error("model directory lacks {}", .missing.join(", "))]
    Incomplete {
        /// Names of the missing files.
        missing: Vec<String>,
    },

    /// The model's architecture is not one that this crate can run.
    #[error("{0}")]
    UnsupportedModel(String),

    /// A file of the model is a Git LFS pointer instead of the file's contents.
    #[error(
        "model file \"{0}\" is a pointer of Git LFS, not the file itself: \"git lfs pull\" fetches that"
    )]
    Pointer(String),

    /// A weight file is shorter than its header says, typically because a download has not
    /// finished.
    #[error("model file \"{file}\" is cut short: it has {bytes} of {announced} bytes")]
    CutShort {
        /// Name of the file.
        file: String,
        /// The file's length.
        bytes: u64,
        /// The minimum length that the header implies.
        announced: u64,
    },

    /// A file of the model contradicts its format, its configuration or another file.
    #[error("model file \"{file}\" is malformed: {reason}")]
    Malformed {
        /// Name of the file.
        file: String,
        /// What is wrong with the file.
        reason: String,
    },

    /// The operating system refused to open or read a file of the model.
    #[error("could not read model file \"{file}\": {source}")]
    Unreadable {
        /// Name of the file.
        file: String,
        /// The operating system's error.
        source: io::Error,
    },

    /// The model has weights only as `pytorch_model.bin`. That file is a Python pickle, which can
    /// run code when it is loaded, so this crate does not read it.
    #[error("its weights are in \"{0}\", but only safetensors files are read")]
    Pickled(&'static str),

    /// The model is valid, but models of its kind cannot do what the caller asked for.
    #[error("{0}")]
    WrongKind(&'static str),

    /// The request cannot be embedded, regardless of its size.
    #[error("{0}")]
    InvalidInput(String),

    /// The request is larger than the model accepts.
    #[error("{0}")]
    LimitExceeded(String),

    /// The model's files differ from those with which it was first used.
    #[error("its files have changed since it was first used")]
    Changed,

    /// The model's files changed while they were being read.
    #[error("its files changed while they were read")]
    ChangedWhileRead,

    /// The packed copy of a model in the server's cache cannot be made or read.
    #[error("could not keep a packed copy of it: {0}")]
    Cache(#[source] io::Error),

    /// The computation would need more memory than its limit allows.
    #[error("{0}")]
    OutOfMemory(String),

    /// The system is out of memory.
    #[error("out of memory")]
    NoMemory,

    /// The system could not start a thread.
    #[error("could not start a thread that runs the model: {0}")]
    NoThread(String),

    /// [`Cancel::cancel`](super::Cancel::cancel) was called.
    #[error("embedding was cancelled")]
    Cancelled,

    /// The computation failed.
    #[error("model computation failed: {0}")]
    Internal(String),
}

impl ModelError {
    /// The error for a request with pictures to a model that takes text only.
    pub const TEXT_ONLY: Self = Self::WrongKind("it takes text only, no images");

    /// A [`ModelError::Malformed`] about `file`.
    pub(super) fn malformed(file: &str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            file: file.to_owned(),
            reason: reason.into(),
        }
    }
}

impl From<Exhausted> for ModelError {
    fn from(Exhausted: Exhausted) -> Self {
        Self::NoMemory
    }
}

impl From<io::Error> for ModelError {
    /// Loading and running a model writes only to the cache, so a bare I/O error concerns the cache.
    /// For [`quantize`](super::quantize()), which also writes a model directory, the caller has a
    /// message of its own.
    fn from(error: io::Error) -> Self {
        Self::Cache(error)
    }
}
