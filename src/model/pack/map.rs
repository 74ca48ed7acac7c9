//! Files mapped read-only into memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// A whole file in memory. All processes that map it share one copy, in the page cache.
///
/// The file must not be cut short while it is mapped: reading past its end would be a bus error,
/// which ends the whole server. So only files of ours are mapped, which nobody writes to again.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    /// Open for as long as it is mapped: a shared lock on it says that it is in use.
    _file: File,
}

// SAFETY: memory that is only read.
unsafe impl Send for Mapping {}
// SAFETY: memory that is only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The first `length` bytes of `file`, of which it must have as many; `length` is not 0.
    pub fn new(file: File, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping of a file that is open; where it lies is the kernel's choice.
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
        // SAFETY: so many bytes are mapped there until this is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no slice of it outlives this.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length);
        }
    }
}
