//! Blocks of a relation in Postgres' buffers: pinned ([`Pin`]), and pinned and locked ([`Block`]).

use std::mem::ManuallyDrop;
use std::ptr::null_mut;

use pgrx::pg_sys;

use super::page::{HEADER, PAGE, Page, SLAB_END, SPECIAL};
use crate::sweep::{Layout, Lines};

/// A pinned buffer. Dropping this value releases the pin.
pub struct Pin {
    buffer: pg_sys::Buffer,
}

impl Pin {
    /// Pins the buffer of a block, and reads the block from disk if it is not in a buffer.
    ///
    /// # Safety
    /// `relation` is open, and has this block.
    pub unsafe fn read(
        relation: pg_sys::Relation,
        block: pg_sys::BlockNumber,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> Pin {
        // SAFETY: the caller guarantees an open relation that has this block.
        let buffer = unsafe {
            pg_sys::ReadBufferExtended(
                relation,
                pg_sys::ForkNumber::MAIN_FORKNUM,
                block,
                pg_sys::ReadBufferMode::RBM_NORMAL,
                strategy,
            )
        };
        Pin { buffer }
    }

    pub fn number(&self) -> pg_sys::BlockNumber {
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::BufferGetBlockNumber(self.buffer) }
    }

    pub fn buffer(&self) -> pg_sys::Buffer {
        self.buffer
    }

    /// # Safety
    /// The buffer is pinned, and the caller passes the ownership of one pin.
    pub unsafe fn from_buffer(buffer: pg_sys::Buffer) -> Pin {
        Pin { buffer }
    }

    /// Returns the buffer without releasing the pin.
    pub fn into_buffer(self) -> pg_sys::Buffer {
        ManuallyDrop::new(self).buffer
    }

    /// The cache lines of the page that a sweep reads for every entry.
    pub fn swept(&self, layout: &Layout) -> Lines {
        Lines::new(self.start(), HEADER + layout.swept_len())
    }

    /// The cache line that contains the number of entries.
    pub fn last_line(&self) -> Lines {
        Lines::new(self.start().wrapping_add(SLAB_END), SPECIAL)
    }

    fn start(&self) -> *const u8 {
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::BufferGetPage(self.buffer).cast() }
    }

    /// Locks the buffer content, and waits for the lock if necessary.
    pub fn lock(self, lock: u32) -> Block {
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::LockBuffer(self.buffer, lock as i32) };
        Block { pin: self }
    }

    /// Locks the buffer content exclusively, if that is possible without waiting.
    pub fn try_lock(self) -> Option<Block> {
        // SAFETY: `self` holds a pin on the buffer.
        unsafe { pg_sys::ConditionalLockBuffer(self.buffer) }.then(|| Block { pin: self })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // After an ERROR, the end of the transaction releases all pins.
        if !std::thread::panicking() {
            // SAFETY: `self` owns the pin.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) }
        }
    }
}

/// A buffer that is pinned and locked. Dropping this value releases the lock and the pin.
pub struct Block {
    pin: Pin,
}

impl Block {
    /// Adds a block of zeros to a fork, and returns it with an exclusive lock.
    ///
    /// # Safety
    /// `relation` is open, and the caller keeps all others from extending it.
    pub unsafe fn extend(relation: pg_sys::Relation, fork: pg_sys::ForkNumber::Type) -> Block {
        // SAFETY: the caller guarantees an open relation that nobody else extends.
        unsafe {
            // RBM_ZERO_AND_LOCK locks the page before it becomes visible to other backends.
            // Otherwise they might fill it before this backend gets the lock.
            let buffer = pg_sys::ReadBufferExtended(
                relation,
                fork,
                pg_sys::InvalidBlockNumber,
                pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK,
                null_mut(),
            );
            Block {
                pin: Pin { buffer },
            }
        }
    }

    /// # Safety
    /// The buffer is pinned and locked, and the caller passes the ownership of the lock and of one
    /// pin.
    pub unsafe fn from_buffer(buffer: pg_sys::Buffer) -> Block {
        Block {
            pin: Pin { buffer },
        }
    }

    /// Returns the buffer without releasing the lock and the pin.
    pub fn into_buffer(self) -> pg_sys::Buffer {
        ManuallyDrop::new(self).buffer()
    }

    pub fn buffer(&self) -> pg_sys::Buffer {
        self.pin.buffer
    }

    pub fn number(&self) -> pg_sys::BlockNumber {
        self.pin.number()
    }

    pub fn page(&self) -> Page<'_> {
        // SAFETY: `self` holds a pin, so the page stays in this buffer. It also holds a lock, so no
        // other backend changes the page while `self` is borrowed.
        Page::new(unsafe { &*pg_sys::BufferGetPage(self.buffer()).cast() })
    }

    /// The page for writing, without a WAL record. Only for pages that the caller logs itself: those
    /// of a build, which are logged together at its end, and that of an init fork.
    fn page_mut(&mut self) -> &mut [u8; PAGE] {
        // SAFETY: `self` holds a pin and an exclusive lock, and `&mut self` guarantees that this is
        // the only reference to the page in this backend.
        unsafe { &mut *pg_sys::BufferGetPage(self.buffer()).cast() }
    }

    /// Replaces the page, without a WAL record.
    pub fn overwrite(&mut self, page: &[u8; PAGE]) {
        *self.page_mut() = *page;
        // SAFETY: `self` holds a pin and an exclusive lock.
        unsafe { pg_sys::MarkBufferDirty(self.buffer()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // An ERROR resets the counter with which Postgres holds off interrupts while a lock is
        // held. Releasing the lock here would then let that counter underflow, so leave the lock to
        // the end of the transaction, which releases all locks.
        if !std::thread::panicking() {
            // SAFETY: `self` owns the lock. The field `pin` is dropped after this, and releases the
            // pin.
            unsafe { pg_sys::LockBuffer(self.buffer(), pg_sys::BUFFER_LOCK_UNLOCK as i32) }
        }
    }
}
