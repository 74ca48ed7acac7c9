//! The blocks that a sweep reads. The processes of a parallel scan divide them among themselves.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys;

use super::page::FIRST_BLOCK;

/// The number of blocks that a participant of a parallel scan takes at a time: 256 kB.
const PARALLEL_BLOCKS: u32 = 32;

/// The shared state of a parallel scan, in dynamic shared memory.
pub struct Shared {
    /// The first block that no participant has taken.
    next: AtomicU32,
}

impl Shared {
    pub fn new() -> Shared {
        Shared {
            next: AtomicU32::new(FIRST_BLOCK),
        }
    }

    /// Prepares another execution of the scan.
    pub fn restart(&self) {
        self.next.store(FIRST_BLOCK, Ordering::Relaxed);
    }
}

/// The blocks that a sweep still has to judge.
pub struct BlockQueue {
    /// The number of blocks of the index.
    count: pg_sys::BlockNumber,
    /// The rest of the blocks that this process has taken.
    taken: Range<pg_sys::BlockNumber>,
    /// All blocks that this process has taken in its first sweep. Later sweeps, which only a scan with
    /// ORDER BY makes, read the same blocks.
    all_taken: Vec<Range<pg_sys::BlockNumber>>,
    /// In a later sweep, the number of ranges in `all_taken` that it has used. `None` in the first
    /// sweep.
    repeated: Option<usize>,
}

impl BlockQueue {
    pub fn new(count: pg_sys::BlockNumber) -> BlockQueue {
        BlockQueue {
            count,
            taken: FIRST_BLOCK..FIRST_BLOCK,
            all_taken: Vec::new(),
            repeated: None,
        }
    }

    /// Starts another sweep over the blocks that this process has taken.
    pub fn repeat(&mut self) {
        self.taken = FIRST_BLOCK..FIRST_BLOCK;
        self.repeated = Some(0);
    }

    /// Returns the next block. If none is left, it first takes more blocks from `shared` (or all
    /// blocks, if the scan is not parallel).
    ///
    /// Participants may see different lengths of the file. Each of these lengths is sufficient,
    /// because it was read after the snapshot was taken (see the head of `scan.rs`).
    pub fn take(&mut self, shared: Option<&Shared>) -> Option<pg_sys::BlockNumber> {
        if self.taken.is_empty()
            && let Some(repeated) = &mut self.repeated
        {
            self.taken = self.all_taken.get(*repeated)?.clone();
            *repeated += 1;
        } else if self.taken.is_empty() {
            let (first, some) = match shared {
                Some(shared) => (
                    shared.next.fetch_add(PARALLEL_BLOCKS, Ordering::Relaxed),
                    PARALLEL_BLOCKS,
                ),
                None => (self.taken.end, self.count),
            };
            self.taken = first..self.count.min(first.saturating_add(some));
            if !self.taken.is_empty() {
                self.all_taken.push(self.taken.clone());
            }
        }
        self.taken.next()
    }
}
