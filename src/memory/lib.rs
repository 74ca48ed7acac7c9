//! Turns memory exhaustion into an error instead of the end of the process.
//!
//! When PostgreSQL runs out of memory, it ends the statement and continues. Most Rust code,
//! including the crates gemm and tokenizers, aborts the process, whereupon PostgreSQL ends every
//! session. Three things prevent that, the first two in this crate, the third wherever memory is taken:
//!
//! - It keeps a reserve of unused address space. When an allocation fails, the reserve is returned
//!   to the system and the allocation is retried. From then on memory is low. [`check`], which
//!   long computations call between their steps, returns an error if it cannot get a new reserve.
//!   So a computation ends with an error long before the memory of the reserve is used up.
//! - Before a step that allocates more than the reserve, [`ask`] checks whether that much memory is
//!   available.
//! - Sizes that a user or a file determines are bounded, or the memory is allocated with
//!   `try_reserve`.
//!
//! Two risks remain. If several processes pass [`ask`] at the same moment before large steps, they
//! can still take each other's memory. And a system that overcommits memory (Linux with
//! `vm.overcommit_memory` other than 2) grants most allocations and kills the process later.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Size of the reserve in bytes. It must exceed the allocations between two calls of [`check`], not
/// counting memory that [`ask`] covers.
const RESERVE: usize = 16 << 20;

/// The reserve; null if there is none.
static HELD: AtomicPtr<libc::c_void> = AtomicPtr::new(null_mut());
/// Whether memory is low: the reserve was returned, or could not be taken, and none has been taken since.
static LOW: AtomicBool = AtomicBool::new(false);

/// Protects returning and taking the reserve. A spin lock, because it is taken in a failed
/// allocation and must not allocate.
static LOCK: AtomicBool = AtomicBool::new(false);

/// Holds [`LOCK`] until it is dropped.
struct Locked;

impl Locked {
    fn new() -> Locked {
        while LOCK.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        Locked
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        LOCK.store(false, Ordering::Release);
    }
}

/// The error for insufficient memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// The system's allocator, backed by the reserve.
pub struct Allocator;

// SAFETY: every returned block comes from the system's allocator, which upholds the contract.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the same contract.
        retry(layout.size(), || unsafe { System.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        retry(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; if the call fails, the block is unchanged.
        retry(size, || unsafe { System.realloc(block, layout, size) })
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[inline]
fn retry(size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
    let block = allocate();
    if block.is_null() {
        return after_reserve(size, allocate);
    }
    block
}

/// Returns the reserve and retries the allocation. An allocation larger than the reserve fails at
/// once, because giving up the reserve might not help.
#[cold]
fn after_reserve(size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
    if size > RESERVE {
        return null_mut();
    }
    // Another thread whose allocation fails at the same time waits until the reserve is returned.
    let _locked = Locked::new();
    let reserve = HELD.swap(null_mut(), Ordering::Relaxed);
    if !reserve.is_null() {
        LOW.store(true, Ordering::Relaxed);
        // SAFETY: `hold` mapped the reserve with this size, and the swap removed the only other
        // reference.
        unsafe { libc::munmap(reserve, RESERVE) };
    }
    allocate()
}

/// Maps memory without touching it. Returns null if the system has not enough.
fn map(size: usize) -> *mut libc::c_void {
    // SAFETY: this creates a new anonymous mapping. The mapping is writable so that a system with
    // strict accounting (`vm.overcommit_memory` 2) counts it.
    let mapped = unsafe {
        libc::mmap(
            null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        null_mut()
    } else {
        mapped
    }
}

/// Takes a reserve if there is none. Fails if the system has not enough memory for it.
#[inline]
pub fn check() -> Result<(), Exhausted> {
    if HELD.load(Ordering::Relaxed).is_null() {
        return hold();
    }
    Ok(())
}

/// Whether memory has been low since the last successful [`check`].
pub fn is_low() -> bool {
    LOW.load(Ordering::Relaxed)
}

#[cold]
fn hold() -> Result<(), Exhausted> {
    let _locked = Locked::new();
    if !HELD.load(Ordering::Relaxed).is_null() {
        return Ok(());
    }
    let reserve = map(RESERVE);
    if reserve.is_null() {
        LOW.store(true, Ordering::Relaxed);
        return Err(Exhausted);
    }
    HELD.store(reserve, Ordering::Relaxed);
    LOW.store(false, Ordering::Relaxed);
    Ok(())
}

/// Fails unless this many bytes are available in addition to the reserve. The memory is not kept.
pub fn ask(bytes: u64) -> Result<(), Exhausted> {
    check()?;
    let Some(size) = usize::try_from(bytes).ok().filter(|size| *size > 0) else {
        return if bytes == 0 { Ok(()) } else { Err(Exhausted) };
    };
    let mapped = map(size);
    if mapped.is_null() {
        return Err(Exhausted);
    }
    // SAFETY: mapped above with this size.
    unsafe { libc::munmap(mapped, size) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The same allocator as in the server.
    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    #[test]
    fn an_allocation_that_fails_is_tried_again_without_the_reserve() {
        check().unwrap();
        let fails = std::cell::Cell::new(1);
        let block = retry(100, || {
            if fails.replace(0) > 0 {
                return null_mut();
            }
            assert!(HELD.load(Ordering::Relaxed).is_null() && is_low());
            8 as *mut u8
        });
        assert_eq!(block, 8 as *mut u8);
        // Other tests run at the same time, and may have taken a new reserve by now.
        check().unwrap();
        assert!(!is_low());
        // An allocation that is too large for the reserve leaves the reserve in place.
        assert!(retry(RESERVE + 1, null_mut).is_null());
        assert!(!is_low());
    }

    #[test]
    fn ask_fails_for_more_than_there_is() {
        assert_eq!(ask(0), Ok(()));
        assert_eq!(ask(1 << 20), Ok(()));
        assert_eq!(ask(1 << 60), Err(Exhausted));
        assert_eq!(ask(u64::MAX), Err(Exhausted));
    }
}
