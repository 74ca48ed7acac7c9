//! What can go wrong with a model, grouped so that the caller can choose an SQLSTATE.

use std::io;

use photosearch_memory::Exhausted;

/// Every error of this room. Messages follow the server's style: lower case, no full stop, the
/// offending value in them; files are named by their name, never by their full path.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// There is no such directory.
    #[error("model directory does not exist")]
    NotFound,

    /// The directory is there, but files that a model needs are not.
    #[error("model directory lacks {}", .missing.join(", "))]
    Incomplete {
        /// Names of the missing files.
        missing: Vec<String>,
    },

    /// The model is of a kind that this room cannot run.
    #[error("{0}")]
    UnsupportedModel(String),

    /// A file of the model is what Git keeps in place of a large file.
    #[error(
        "model file \"{0}\" is a pointer of Git LFS, not the file itself: \"git lfs pull\" fetches that"
    )]
    Pointer(String),

    /// A file with weights ends before what its header announces: a download that has not ended.
    #[error("model file \"{file}\" is cut short: it has {bytes} of {announced} bytes")]
    CutShort {
        /// Name of the file.
        file: String,
        /// How long it is.
        bytes: u64,
        /// How long it has to be at least.
        announced: u64,
    },

    /// A file of the model contradicts its format, its configuration or another file.
    #[error("model file \"{file}\" is malformed: {reason}")]
    Malformed {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The operating system did not let us read a file of the model.
    #[error("could not read model file \"{file}\": {source}")]
    Unreadable {
        /// Name of the file.
        file: String,
        /// The system's own error.
        source: io::Error,
    },

    /// The weights are there, but in a form that is not read: `pytorch_model.bin` is a pickle, which
    /// is a program rather than data.
    #[error("its weights are in \"{0}\", but only safetensors files are read")]
    Pickled(&'static str),

    /// The model is sound, but not of the kind that does what was asked of it.
    #[error("{0}")]
    WrongKind(&'static str),

    /// The request cannot be embedded, whatever its size.
    #[error("{0}")]
    InvalidInput(String),

    /// The request is larger than the model takes.
    #[error("{0}")]
    LimitExceeded(String),

    /// A model's files are not those with which it was first used.
    #[error("its files have changed since it was first used")]
    Changed,

    /// A model's files changed while they were being read.
    #[error("its files changed while they were read")]
    ChangedWhileRead,

    /// The server's own copy of a model cannot be made or read.
    #[error("could not keep a packed copy of it: {0}")]
    Cache(#[source] io::Error),

    /// The computation would take more memory than it may.
    #[error("{0}")]
    OutOfMemory(String),

    /// The system has no more memory.
    #[error("out of memory")]
    NoMemory,

    /// [`Cancel::cancel`](super::Cancel::cancel) was called.
    #[error("embedding was cancelled")]
    Cancelled,

    /// The computation itself failed.
    #[error("model computation failed: {0}")]
    Internal(String),
}

impl ModelError {
    /// Of a picture for a model that takes none.
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
    /// The only files that are written are those of the cache.
    fn from(error: io::Error) -> Self {
        Self::Cache(error)
    }
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        // With RUST_BACKTRACE set, candle appends a backtrace to the message: keep its first line.
        let message = error.to_string();
        Self::Internal(message.lines().next().unwrap_or_default().to_owned())
    }
}
