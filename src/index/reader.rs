//! Reads the blocks of an index one after another, each under a share lock, and keeps the next
//! blocks pinned. While one page is judged, the memory of the following pages can be prefetched.
//!
//! Each block costs a single call into Postgres. The call releases one block, pins another one that
//! follows a few blocks later, and locks the next one. Separate calls would each have to save the
//! state for the long jump of an ERROR, and that costs more than most of the called functions.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::block::{Block, Pin};
use super::relation::Index;
use crate::sweep::{Ahead, Lines};
use crate::version;

/// The number of blocks that are pinned in addition to the one that is being read.
const PINNED_AHEAD: usize = 2;

/// The number of cache lines of the block after the next one that are prefetched before the next
/// block is locked. They keep the memory busy until the next block is judged.
const EARLY_LINES: usize = 16;

/// One in this number of blocks is looked up in the buffer mapping table; for the others, the
/// buffer is guessed. A guess (ReadRecentBuffer) does not increase the `usage_count` of the buffer,
/// but a lookup does. Each sweep looks up different blocks, so an index that is swept often stays
/// in shared buffers.
const LOOKUP_INTERVAL: u32 = 32;

/// The number of guesses per block.
const GUESSES: usize = 4;

/// Guesses which buffers contain the blocks of an index.
///
/// A lookup in the buffer mapping table takes several times as long as checking whether a given
/// buffer contains a block, because the table is larger than the caches of a CPU. Blocks that were
/// read or written one after another are usually in buffers a few recurring distances apart. The
/// distances depend on what else was read at that time.
#[derive(Debug, Clone, Copy)]
pub struct BufferGuesses {
    /// Distances from the buffer of one block to the buffer of the next. The most frequent ones
    /// come first; a new one is inserted in front.
    distances: [i32; GUESSES],
    /// The offset that selects which blocks are looked up. It differs between sweeps, and also
    /// between sessions that sweep only once.
    sweep: u32,
}

impl BufferGuesses {
    /// Initial guesses, for the first sweep of a scan.
    pub fn initial() -> BufferGuesses {
        static SCANS: AtomicU32 = AtomicU32::new(0);
        // SAFETY: MyProcPid is set when the process starts, and does not change afterwards.
        let process = unsafe { pg_sys::MyProcPid } as u32;
        BufferGuesses {
            distances: [1, 2, -1, 3],
            sweep: process.wrapping_add(SCANS.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Guesses the buffer of block `number`, whose predecessor is in the buffer `last`. `buffers`
    /// is the number of shared buffers. The most likely guess comes first. There are no guesses for
    /// a block that has to be looked up.
    fn for_block(
        &self,
        last: pg_sys::Buffer,
        number: pg_sys::BlockNumber,
        buffers: i32,
    ) -> [Option<pg_sys::Buffer>; GUESSES] {
        // Local buffers (of temporary tables) have negative numbers; their blocks are always looked
        // up.
        if last < 1
            || number
                .wrapping_add(self.sweep)
                .is_multiple_of(LOOKUP_INTERVAL)
        {
            return [None; GUESSES];
        }
        let is_buffer = |buffer: &pg_sys::Buffer| (1..=buffers).contains(buffer);
        self.distances
            .map(|distance| last.checked_add(distance).filter(is_buffer))
    }

    /// Prepares the next sweep: it keeps the distances, and selects other blocks to look up.
    pub fn next_sweep(&mut self) {
        self.sweep = self.sweep.wrapping_add(1);
    }

    /// Learns that the block after the one in the buffer `last` was in the buffer `next`.
    fn learn(&mut self, last: pg_sys::Buffer, next: pg_sys::Buffer) {
        let distance = next.wrapping_sub(last);
        match self.distances.iter().position(|d| *d == distance) {
            Some(0) => {}
            Some(at) => self.distances.swap(at - 1, at),
            None => {
                self.distances.rotate_right(1);
                self.distances[0] = distance;
            }
        }
    }
}

/// Reads blocks during one call of the scan. After an ERROR, the end of the transaction releases
/// its lock and its pins.
pub struct Reader<'a> {
    index: &'a Index,
    strategy: pg_sys::BufferAccessStrategy,
    guesses: &'a mut BufferGuesses,
    current: Option<Block>,
    pinned_ahead: VecDeque<Pin>,
}

impl<'a> Reader<'a> {
    pub fn new(
        index: &'a Index,
        strategy: pg_sys::BufferAccessStrategy,
        guesses: &'a mut BufferGuesses,
    ) -> Reader<'a> {
        Reader {
            index,
            strategy,
            guesses,
            current: None,
            pinned_ahead: VecDeque::with_capacity(PINNED_AHEAD + 1),
        }
    }

    /// Returns the next block, which stays locked until the next call, and the cache lines that
    /// will be read after this block.
    ///
    /// `take` returns the block numbers in the order of reading, each of which must exist; it is
    /// called a few blocks ahead. When it returns `None`, this function still returns the blocks
    /// that it has taken before, and then `None`.
    ///
    /// Interrupts are processed while no block is locked.
    pub fn next(
        &mut self,
        mut take: impl FnMut() -> Option<pg_sys::BlockNumber>,
    ) -> Option<(&Block, Ahead)> {
        while self.current.is_none() && self.pinned_ahead.len() < PINNED_AHEAD {
            let Some(number) = take() else { break };
            // SAFETY: `Index::open` guarantees an open index; `take` returns only blocks that
            // exist.
            let pin = unsafe { Pin::read(self.index.relation, number, self.strategy) };
            self.pinned_ahead.push_back(pin);
        }
        let done = self.current.take();
        let next = self.pinned_ahead.pop_front()?.into_buffer();
        let last = self.pinned_ahead.back().map_or(next, Pin::buffer);
        // SAFETY: NBuffers is a setting that does not change while the server runs.
        let buffers = unsafe { pg_sys::NBuffers };
        let upcoming = take().map(|number| (number, self.guesses.for_block(last, number, buffers)));
        // SAFETY: `done` is locked and pinned, `next` is pinned, and this function owns both. The
        // block in `upcoming` exists. Afterwards `next` is locked and the returned buffer is
        // pinned, so each of them has exactly one owner.
        unsafe {
            let pinned = self.release_pin_and_lock(done.map(Block::into_buffer), next, upcoming);
            self.current = Some(Block::from_buffer(next));
            if let Some(buffer) = pinned {
                self.guesses.learn(last, buffer);
                self.pinned_ahead.push_back(Pin::from_buffer(buffer));
            }
        }
        let ahead = self.ahead();
        self.current.as_ref().map(|block| (block, ahead))
    }

    /// Releases `done`, pins the block in `upcoming` (trying its guesses first), and locks `next`.
    /// Returns the buffer of the pinned block.
    ///
    /// # Safety
    /// `done` is locked and pinned, `next` is pinned, and the caller passes the ownership of both.
    /// The block in `upcoming` exists.
    unsafe fn release_pin_and_lock(
        &self,
        done: Option<pg_sys::Buffer>,
        next: pg_sys::Buffer,
        upcoming: Option<(pg_sys::BlockNumber, [Option<pg_sys::Buffer>; GUESSES])>,
    ) -> Option<pg_sys::Buffer> {
        let (relation, strategy) = (self.index.relation, self.strategy);
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        // SAFETY: the caller guarantees the ownership of the buffers. An ERROR leaves the closure
        // by a long jump; the closure owns no value that would have to be dropped.
        unsafe {
            let file = version::relation_file(relation);
            pg_guard_ffi_boundary(|| {
                if let Some(done) = done {
                    UnlockReleaseBuffer(done);
                }
                if pg_sys::InterruptPending != 0 {
                    ProcessInterrupts();
                }
                let pinned = upcoming.map(|(number, guesses)| {
                    // Iterate by reference: an array's owning iterator would have to be dropped.
                    let mut guesses = guesses.iter().flatten().copied();
                    // ReadRecentBuffer pins the buffer if it contains the block, and returns false
                    // otherwise.
                    let guessed = guesses.find(|at| ReadRecentBuffer(file, fork, number, *at));
                    guessed.unwrap_or_else(|| {
                        let mode = pg_sys::ReadBufferMode::RBM_NORMAL;
                        ReadBufferExtended(relation, fork, number, mode, strategy)
                    })
                });
                LockBuffer(next, pg_sys::BUFFER_LOCK_SHARE as c_int);
                pinned
            })
        }
    }

    fn ahead(&self) -> Ahead {
        let layout = &self.index.layout;
        let lines = |pin: Option<&Pin>| pin.map_or(Lines::none(), |pin| pin.swept(layout));
        let (_, next) = lines(self.pinned_ahead.front()).split(EARLY_LINES);
        let (early, _) = lines(self.pinned_ahead.get(1)).split(EARLY_LINES);
        let last = self
            .pinned_ahead
            .get(1)
            .map_or(Lines::none(), Pin::last_line);
        Ahead::new(next, [early, last])
    }
}

// Postgres' own functions without pgrx's guard for each call, so that one guard covers all of them.
unsafe extern "C-unwind" {
    fn ReadBufferExtended(
        relation: pg_sys::Relation,
        fork: pg_sys::ForkNumber::Type,
        block: pg_sys::BlockNumber,
        mode: pg_sys::ReadBufferMode::Type,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> pg_sys::Buffer;
    fn ReadRecentBuffer(
        file: version::RelationFile,
        fork: pg_sys::ForkNumber::Type,
        block: pg_sys::BlockNumber,
        buffer: pg_sys::Buffer,
    ) -> bool;
    fn LockBuffer(buffer: pg_sys::Buffer, mode: c_int);
    fn UnlockReleaseBuffer(buffer: pg_sys::Buffer);
    fn ProcessInterrupts();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial_guesses() -> BufferGuesses {
        BufferGuesses {
            distances: [1, 2, -1, 3],
            sweep: 7,
        }
    }

    #[test]
    fn buffers_of_temporary_tables_are_not_guessed() {
        for last in [-1, -2, -1000, i32::MIN] {
            assert_eq!(initial_guesses().for_block(last, 1, 100), [None; GUESSES]);
        }
        assert_eq!(
            initial_guesses().for_block(1, 1, 100),
            [Some(2), Some(3), None, Some(4)]
        );
        assert_eq!(
            initial_guesses().for_block(99, 1, 100),
            [Some(100), None, Some(98), None]
        );
        let mut far = initial_guesses();
        far.distances[0] = i32::MAX;
        assert_eq!(far.for_block(1, 1, 100)[0], None);
    }

    #[test]
    fn each_block_is_looked_up_once_per_lookup_interval() {
        let mut guesses = initial_guesses();
        let mut looked_up = [0; 100];
        for _ in 0..LOOKUP_INTERVAL {
            for (number, times) in (0u32..).zip(&mut looked_up) {
                *times += u32::from(guesses.for_block(50, number, 100) == [None; GUESSES]);
            }
            guesses.next_sweep();
        }
        assert_eq!(looked_up, [1; 100]);
    }

    #[test]
    fn distances_that_recur_are_guessed_first() {
        let mut guesses = initial_guesses();
        guesses.learn(10, 17);
        assert_eq!(guesses.distances, [7, 1, 2, -1]);
        guesses.learn(10, 12);
        assert_eq!(guesses.distances, [7, 2, 1, -1]);
        guesses.learn(10, 12);
        assert_eq!(guesses.distances, [2, 7, 1, -1]);
        guesses.learn(10, 12);
        assert_eq!(guesses.distances, [2, 7, 1, -1]);
    }
}
