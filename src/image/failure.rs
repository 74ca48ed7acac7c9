//! How the C files of this room report a failure: the mirror of `failure.h`.

use std::ffi::{c_char, c_int, c_void};

use super::ImageError;

#[repr(C)]
pub(super) struct Failure {
    kind: c_int,
    message: [c_char; 256],
}

impl Failure {
    /// For C to fill in.
    pub const NONE: Failure = Failure {
        kind: 0,
        message: [0; 256],
    };

    pub fn is_none(&self) -> bool {
        self.kind == 0
    }

    /// As an error about a file of `format`, a picture of `size` pixels (0 while the size is not
    /// known), which had `limit` bytes of memory left to it.
    pub fn error(&self, format: &'static str, size: (u32, u32), limit: u64) -> ImageError {
        let bytes = self.message.map(|byte| byte.cast_unsigned());
        let end = bytes.iter().position(|&byte| byte == 0);
        let message = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]);
        // Messages of libraries quote the file, so control characters go.
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

/// A question that C asks from time to time: whether the caller wants the work to end.
pub(super) type Stop = extern "C" fn(*mut c_void) -> c_int;

/// The [`Stop`] whose context is a `*const &dyn Fn() -> bool`.
pub(super) extern "C" fn ask(context: *mut c_void) -> c_int {
    // SAFETY: whoever passes this function passes a pointer to a question that outlives the call.
    let cancelled = unsafe { &*context.cast::<&dyn Fn() -> bool>() };
    c_int::from(cancelled())
}
