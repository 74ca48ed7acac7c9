//! Measures the memory that Rust and the libraries allocate, and sets the content of new memory.

use std::ffi::{c_int, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering::Relaxed};

// Functions of the address sanitizer's runtime.
unsafe extern "C" {
    fn __sanitizer_install_malloc_and_free_hooks(
        taken: extern "C" fn(*mut c_void, usize),
        freed: extern "C" fn(*mut c_void),
    ) -> c_int;
    fn __sanitizer_get_allocated_size(block: *const c_void) -> usize;
}

/// The length in bytes up to which new blocks are filled. The sanitizer gets larger blocks from the
/// system as zeros, and its `calloc` relies on that.
const FILLED: usize = 64 << 10;

static TAKEN: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);
/// The byte with which new blocks are filled; 0 leaves the sanitizer's filling.
static FILL: AtomicU8 = AtomicU8::new(0);

extern "C" fn taken(block: *mut c_void, length: usize) {
    let now = TAKEN.fetch_add(length as i64, Relaxed) + length as i64;
    MOST.fetch_max(now, Relaxed);
    let fill = FILL.load(Relaxed);
    if fill != 0 && !block.is_null() && length <= FILLED {
        // SAFETY: the block has `length` bytes, and the allocator has not yet returned it to its caller.
        unsafe { block.cast::<u8>().write_bytes(fill, length) };
    }
}

extern "C" fn freed(block: *mut c_void) {
    if !block.is_null() {
        // SAFETY: the block is still allocated; the sanitizer frees it after this hook.
        let length = unsafe { __sanitizer_get_allocated_size(block) };
        TAKEN.fetch_sub(length as i64, Relaxed);
    }
}

/// Runs `work`. Returns its result, and the most bytes that it held at any one time.
pub fn most<T>(work: impl FnOnce() -> T) -> (T, u64) {
    static HOOKS: Once = Once::new();
    HOOKS.call_once(|| {
        // SAFETY: both functions have the signatures of the hooks, and live as long as the program.
        let hooked = unsafe { __sanitizer_install_malloc_and_free_hooks(taken, freed) };
        assert_ne!(hooked, 0);
    });
    let before = TAKEN.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = work();
    let most = MOST.load(Relaxed) - before;
    (result, u64::try_from(most).unwrap_or(0))
}

/// Runs `work` with new blocks filled with this byte.
pub fn filled<T>(fill: u8, work: impl FnOnce() -> T) -> T {
    FILL.store(fill, Relaxed);
    let result = work();
    FILL.store(0, Relaxed);
    result
}
