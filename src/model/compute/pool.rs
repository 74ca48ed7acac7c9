//! A thread pool that splits the work of a forward pass over threads. The JPEG files of an array are
//! decoded in its threads, too.
//!
//! A forward pass splits its work a few hundred times, each time for less than a millisecond.
//! Waking a sleeping thread takes a large part of that time. So the threads of a [`Pool`] poll for
//! new work for a moment before they sleep. Between forward passes they sleep.
//!
//! rayon lets its threads sleep sooner, and the thread that splits the work must be one of its own
//! to be fast. Two pieces of 17 µs, followed by 17 µs of the caller's own work, take 50 µs with one
//! thread, 34 with this pool of two threads, 39 to 47 with rayon from one of its threads, and 53 to
//! 60 with rayon from another thread (rayon 1.12, Zen 5 with 2 shared cores, minimum of 400 runs of
//! 20 rounds, measured twice).

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{hint, io, ptr};

/// Minimum number of operations (such as multiplications) per thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// How long a thread polls for work before it sleeps.
const POLL_TIME: Duration = Duration::from_micros(100);
/// Number of polls between two checks of the clock.
const POLLS_PER_CHECK: u32 = 64;

/// Stack size of the threads. They use little recursion, also when they decode JPEG files, so this is
/// ample.
const STACK_BYTES: usize = 4 << 20;

/// A pool of helper threads for the thread that owns the pool.
pub struct Pool {
    helpers: Vec<Helper>,
    /// Number of threads over which work is split, including the caller's.
    width: usize,
}

struct Helper {
    slot: Arc<WorkSlot>,
    /// `None` once the thread is being stopped.
    thread: Option<JoinHandle<()>>,
}

/// The slot through which a helper receives work.
#[repr(align(128))]
struct WorkSlot {
    state: AtomicU32,
    /// Accessed by the leader while the state is `IDLE` or `ASLEEP`, and by the helper while it is
    /// `READY`.
    work: UnsafeCell<WorkPointer>,
    /// The payload of a panic in the work.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// There is no work, and the helper polls.
const IDLE: u32 = 0;
/// There is no work, and the helper sleeps.
const ASLEEP: u32 = 1;
/// There is work, which the helper has not finished.
const READY: u32 = 2;
const ENDED: u32 = 3;

#[derive(Clone, Copy)]
struct WorkPointer(*const (dyn Fn() + Sync));

// SAFETY: the state ensures that the leader and the helper access the work in turns. The function
// may be called from any thread, and lives until the leader has seen that the call has ended.
unsafe impl Sync for WorkSlot {}
// SAFETY: as for `Sync`.
unsafe impl Send for WorkSlot {}

thread_local! {
    /// The pool over which this thread splits its work; if null, the thread does all work itself.
    static CURRENT: Cell<*const Pool> = const { Cell::new(ptr::null()) };
}

/// Restores the thread's previous pool when dropped.
struct Restore(*const Pool);

impl Restore {
    fn set(pool: *const Pool) -> Self {
        Self(CURRENT.replace(pool))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl Pool {
    /// A pool of `threads` threads, including the caller's.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mut pool = Self {
            helpers: Vec::new(),
            width: threads.max(1),
        };
        for i in 1..threads {
            let slot = Arc::new(WorkSlot {
                state: AtomicU32::new(IDLE),
                work: UnsafeCell::new(WorkPointer(&|| ())),
                panic: Mutex::default(),
            });
            let own = slot.clone();
            let thread = thread::Builder::new()
                .name(format!("photosearch {i}"))
                .stack_size(STACK_BYTES)
                .spawn(move || own.serve())?;
            pool.helpers.push(Helper {
                slot,
                thread: Some(thread),
            });
        }
        Ok(pool)
    }

    /// Limits the number of threads over which work is split from now on.
    pub fn set_width(&mut self, threads: usize) {
        self.width = threads.clamp(1, 1 + self.helpers.len());
    }

    /// Calls `work`; work that it splits is split over this pool.
    pub fn install<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let _restore = Restore::set(self);
        work()
    }

    /// Calls `work` in `width` threads at once.
    fn run(&self, width: usize, work: &(dyn Fn() + Sync)) {
        // SAFETY: this changes only the lifetime. The function waits until no helper uses the work
        // before it returns or unwinds.
        let work: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(work) };
        let helpers = &self.helpers[..(width - 1).min(self.helpers.len())];
        for helper in helpers {
            // SAFETY: the helper has finished its previous work, so the leader may write the slot.
            unsafe { *helper.slot.work.get() = WorkPointer(work) };
            if helper.slot.state.swap(READY, Ordering::AcqRel) == ASLEEP
                && let Some(thread) = &helper.thread
            {
                thread.thread().unpark();
            }
        }
        let mut panics: Vec<_> = catch_unwind(AssertUnwindSafe(work))
            .err()
            .into_iter()
            .collect();
        for helper in helpers {
            let mut polls = 0u32;
            while helper.slot.state.load(Ordering::Acquire) == READY {
                polls = polls.wrapping_add(1);
                // The helper may need the processor on which this thread runs.
                match polls.is_multiple_of(POLLS_PER_CHECK * 64) {
                    true => thread::yield_now(),
                    false => hint::spin_loop(),
                }
            }
            let panic = helper.slot.panic.lock();
            panics.extend(panic.unwrap_or_else(PoisonError::into_inner).take());
        }
        if let Some(panic) = panics.pop() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for helper in &mut self.helpers {
            helper.slot.state.store(ENDED, Ordering::Release);
            if let Some(thread) = helper.thread.take() {
                thread.thread().unpark();
                // The thread catches panics of its work, so `join` does not fail.
                drop(thread.join());
            }
        }
    }
}

impl WorkSlot {
    /// Runs the work in the slot whenever there is some, until the pool ends.
    fn serve(&self) {
        let mut since = Instant::now();
        let mut polls = 0u32;
        loop {
            match self.state.load(Ordering::Acquire) {
                READY => {
                    // SAFETY: the leader has put the work here and keeps it alive until the state
                    // changes.
                    let work = unsafe { &*(*self.work.get()).0 };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                        let panicked = self.panic.lock();
                        *panicked.unwrap_or_else(PoisonError::into_inner) = Some(panic);
                    }
                    let done = self.change(READY, IDLE);
                    debug_assert!(done);
                    since = Instant::now();
                    polls = 0;
                }
                ENDED => return,
                ASLEEP => thread::park(),
                _ => {
                    polls = polls.wrapping_add(1);
                    if polls.is_multiple_of(POLLS_PER_CHECK) && since.elapsed() > POLL_TIME {
                        // If the state is no longer `IDLE`, there is new work, and the change
                        // fails.
                        self.change(IDLE, ASLEEP);
                    }
                    hint::spin_loop();
                }
            }
        }
    }

    /// Changes the state from `from` to `to`. Returns whether the state was `from`.
    fn change(&self, from: u32, to: u32) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// The pool over which this thread splits its work.
fn current() -> Option<&'static Pool> {
    let pool = CURRENT.get();
    #[cfg(test)]
    let pool = tests::or_own(pool);
    // SAFETY: an installed pool outlives all calls made while it is installed, and no caller keeps
    // the reference longer.
    unsafe { pool.as_ref() }
}

/// Number of threads over which to split work of this many operations.
pub fn width_for(operations: usize) -> usize {
    (operations / WORTH_A_THREAD).clamp(1, threads())
}

/// The number of threads over which this thread splits its work.
pub fn threads() -> usize {
    current().map_or(1, |pool| pool.width)
}

/// Calls `work(0)` to `work(count - 1)` over `width` threads. Each thread first takes the indices
/// of its own range in order, because the hardware may have prefetched the memory that follows, and
/// then remaining indices of other ranges. Work that is split inside `work` runs in a single
/// thread.
pub fn for_each(count: usize, width: usize, work: impl Fn(usize) + Sync) {
    let width = width.min(count);
    let pool = match current() {
        Some(pool) if width > 1 => pool,
        _ => return (0..count).for_each(work),
    };
    // The next index and the end of each range.
    let runs: Vec<(AtomicUsize, usize)> = (0..width)
        .map(|run| {
            let first = run * count / width;
            (AtomicUsize::new(first), (run + 1) * count / width)
        })
        .collect();
    let arrived = AtomicUsize::new(0);
    pool.run(width, &|| {
        let _restore = Restore::set(&raw const ALONE);
        let own = arrived.fetch_add(1, Ordering::Relaxed);
        for (next, end) in runs.iter().cycle().skip(own).take(width) {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= *end {
                    break;
                }
                work(i);
            }
        }
    });
}

/// A pool without helpers.
static ALONE: Pool = Pool {
    helpers: Vec::new(),
    width: 1,
};

/// Calls `work(first row, rows)` on ranges of rows of `row` elements, which together cover `out`.
/// `operations` is the approximate total cost.
pub fn for_rows<T: Send>(
    out: &mut [T],
    row: usize,
    operations: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    // A slice of () takes no memory.
    let nothing = &mut vec![(); out.len() / row.max(1)];
    for_rows_of_two(
        (out, row),
        (nothing, 1),
        operations,
        |first, rows, _: &mut [()]| work(first, rows),
    );
}

/// As [`for_rows`], for two slices of equally many rows, which may have different lengths.
pub fn for_rows_of_two<T: Send, U: Send>(
    (out, row): (&mut [T], usize),
    (other, other_row): (&mut [U], usize),
    operations: usize,
    work: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    let rows = out.len() / row.max(1);
    assert_eq!((out.len(), other.len()), (rows * row, rows * other_row));
    let width = width_for(operations).min(rows);
    if width <= 1 {
        return work(0, out, other);
    }
    let step = rows.div_ceil(width);
    let pairs = out
        .chunks_mut(step * row)
        .zip(other.chunks_mut(step * other_row));
    let parts: Vec<_> = pairs.map(|pair| Mutex::new(Some(pair))).collect();
    for_each(parts.len(), width, |i| {
        let pair = parts[i]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((part, other)) = pair {
            work(i * step, part, other);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In tests, every thread has a pool of a few threads, so that all tests run multi-threaded.
    pub fn or_own(pool: *const Pool) -> *const Pool {
        thread_local! {
            static OWN: &'static Pool = Box::leak(Box::new(Pool::new(3).unwrap()));
        }
        match pool.is_null() {
            true => OWN.with(|own| ptr::from_ref(*own)),
            false => pool,
        }
    }

    #[test]
    fn everything_is_done_once() {
        for count in [0, 1, 2, 7, 100] {
            for width in [1, 2, 3, 5] {
                let done: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                for_each(count, width, |i| {
                    // Inside `for_each`, work is not split further.
                    assert!(width == 1 || count <= 1 || width_for(usize::MAX) == 1);
                    done[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
        assert_eq!(width_for(usize::MAX), 3);
        assert_eq!(width_for(0), 1);
    }

    #[test]
    fn rows_know_their_place() {
        for rows in [0, 1, 5, 64] {
            let mut out = vec![usize::MAX; rows * 3];
            for_rows(&mut out, 3, usize::MAX, |first, part| {
                for (i, row) in part.chunks_mut(3).enumerate() {
                    row.fill(first + i);
                }
            });
            assert!(out.iter().enumerate().all(|(i, &row)| row == i / 3));
        }
    }

    #[test]
    fn several_threads_work_at_once_also_after_they_slept() {
        let mut pool = Pool::new(3).unwrap();
        for pause in [0, 0, 5, 0, 20] {
            thread::sleep(Duration::from_millis(pause));
            let here = AtomicUsize::new(0);
            // Each thread waits for the others, so this terminates only with three threads.
            pool.install(|| {
                for_each(3, 3, |_| {
                    here.fetch_add(1, Ordering::SeqCst);
                    while here.load(Ordering::SeqCst) < 3 {
                        thread::yield_now();
                    }
                });
            });
        }
        pool.set_width(1);
        assert_eq!(pool.install(|| width_for(usize::MAX)), 1);
        pool.set_width(9);
        assert_eq!(pool.install(|| width_for(usize::MAX)), 3);
    }

    #[test]
    fn a_panic_comes_out_where_the_work_was_split_and_the_pool_goes_on() {
        for bad in 0..3 {
            let attempt = catch_unwind(|| {
                for_each(3, 3, |i| {
                    if i == bad {
                        panic!("number {i}");
                    }
                });
            });
            let panic = attempt.unwrap_err();
            assert_eq!(
                *panic.downcast::<String>().unwrap(),
                format!("number {bad}")
            );
            let sum = AtomicUsize::new(0);
            for_each(10, 3, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }
}
