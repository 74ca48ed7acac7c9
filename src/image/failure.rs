//! How the C and C++ files of this crate report a failure: the Rust side of `failure.h`.

use std::ffi::{c_char, c_int, c_void};

use super::ImageError;

#[repr(C)]
pub(super) struct Failure {
    kind: c_int,
    message: [c_char; 256],
}

impl Failure {
    /// No failure. The C functions take a pointer to it and fill it in.
    pub const NONE: Failure = Failure {
        kind: 0,
        message: [0; 256],
    };

    pub fn is_none(&self) -> bool {
        self.kind == 0
    }

    /// The error for a file of `format`. `size` is the size of the picture, (0, 0) while it is
    /// unknown; `limit` is [`Limits::max_memory`](super::Limits::max_memory).
    pub fn error(&self, format: &'static str, size: (u32, u32), limit: u64) -> ImageError {
        let bytes = self.message.map(|byte| byte.cast_unsigned());
        let end = bytes.iter().position(|&byte| byte == 0);
        let message = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]);
        // Messages of libraries quote the file, so they can contain control characters.
        let message = message.replace(char::is_control, " ");
        let (width, height) = size;
        match self.kind {
            2 => ImageError::Unsupported {
                what: format!("{format}, {message}"),
            },
            3 => ImageError::TooMuchMemory {
                width,
                height,
                bytes: None,
                limit,
            },
            4 => ImageError::OutOfMemory { width, height },
            5 => ImageError::Cancelled,
            _ => ImageError::Malformed {
                format,
                reason: message,
            },
        }
    }
}

/// A function that C calls from time to time, with a context. It returns non-zero if the caller wants
/// the work to end.
pub(super) type Stop = extern "C" fn(*mut c_void) -> c_int;

/// The [`Stop`] whose context is a `*const &dyn Fn() -> bool`.
pub(super) extern "C" fn stop_if_cancelled(context: *mut c_void) -> c_int {
    // SAFETY: code that passes this function to C passes a pointer to such a reference as the context,
    // and the reference outlives the call into C.
    let cancelled = unsafe { &*context.cast::<&dyn Fn() -> bool>() };
    c_int::from(cancelled())
}
