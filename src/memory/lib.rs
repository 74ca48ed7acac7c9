//! What happens when there is no more memory.
//!
//! Postgres ends a statement then, and goes on. Most of Rust, and candle and the tokenizers with it,
//! ends the process, and Postgres then ends every session. So three things are done here:
//!
//! - A reserve is kept: address space that holds nothing. When an allocation fails, the reserve is
//!   given back to the system and the allocation tried again. From then on memory is low, and
//!   [`check`] says so, which work asks between its steps: it ends in an error long before the reserve
//!   is used up.
//! - Before a step that allocates more than the reserve it is [`ask`]ed whether there is so much.
//! - Whatever a user or a file decides the size of is bounded, or allocated by `try_reserve`.
//!
//! What remains: several large steps that pass [`ask`] at the same moment, in several processes, can
//! still take each other's memory; and a system that hands out more memory than it has (Linux with
//! `vm.overcommit_memory` other than 2) does not fail an allocation but kills the process later.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Bytes of the reserve: more than what is allocated between two checks, apart from what is asked for.
const RESERVE: usize = 16 << 20;

/// The reserve; null where there is none.
static HELD: AtomicPtr<libc::c_void> = AtomicPtr::new(null_mut());
/// Whether the reserve was given back, and none has been taken since.
static LOW: AtomicBool = AtomicBool::new(false);

/// Held while the reserve is given back or taken. A lock that does not allocate: who fails to
/// allocate waits for it.
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

/// There is not enough memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// The system's allocator, and the reserve behind it.
pub struct Allocator;

// SAFETY: whatever is returned comes from the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same as ours.
        retry(layout.size(), || unsafe { System.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        retry(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; where it fails, the block is as it was.
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

/// What is larger than the reserve would not find room in its place.
#[cold]
fn after_reserve(size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
    if size > RESERVE {
        return null_mut();
    }
    // Another thread that fails at the same time waits until the reserve is given back.
    let _locked = Locked::new();
    let reserve = HELD.swap(null_mut(), Ordering::Relaxed);
    if !reserve.is_null() {
        LOW.store(true, Ordering::Relaxed);
        // SAFETY: mapped by `hold` with this size, and nobody else has it any more.
        unsafe { libc::munmap(reserve, RESERVE) };
    }
    allocate()
}

/// Maps memory without touching it; null where there is none.
fn map(size: usize) -> *mut libc::c_void {
    // SAFETY: a new mapping of nothing. It is writable, so that a system which accounts for what it
    // has promised (`vm.overcommit_memory` 2) counts it.
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

/// An error while memory is low. Takes a new reserve, where there is enough for one again.
#[inline]
pub fn check() -> Result<(), Exhausted> {
    if HELD.load(Ordering::Relaxed).is_null() {
        return hold();
    }
    Ok(())
}

/// Whether memory has been low since the last [`check`] that was no error.
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

/// An error unless there are so many bytes, beside the reserve. They are not kept.
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

    // As in the server.
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
        // Others run at the same time, and may have taken a new one by now.
        check().unwrap();
        assert!(!is_low());
        // One that is too large for the reserve does not cost it.
        assert!(retry(RESERVE + 1, null_mut).is_null());
        assert!(!is_low());
    }

    #[test]
    fn what_there_is_not_is_not_given() {
        assert_eq!(ask(0), Ok(()));
        assert_eq!(ask(1 << 20), Ok(()));
        assert_eq!(ask(1 << 60), Err(Exhausted));
        assert_eq!(ask(u64::MAX), Err(Exhausted));
    }
}
