//! Maps files read-only into memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// A whole file mapped into memory. All processes that map the file share one copy in the page
/// cache.
///
/// The file must not be truncated while it is mapped: a read past its end would raise SIGBUS, which
/// restarts the whole server. So only pack files are mapped, which are never written to after their
/// creation.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    /// Keeps the file open, because its shared lock marks the pack as in use.
    _file: File,
}

// SAFETY: the memory is only read.
unsafe impl Send for Mapping {}
// SAFETY: the memory is only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of `file`. The file must have at least `length` bytes, and
    /// `length` must not be 0.
    pub fn new(file: File, length: usize) -> io::Result<Self> {
        // SAFETY: this creates a new mapping of an open file at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("mapped at the null address"))?;
        Ok(Self {
            start,
            length,
            _file: file,
        })
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `length` bytes are mapped at `start` until this value is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` created the mapping, and no slice of it outlives this value.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length);
        }
    }
}
