//! Reads block after block, each under a share lock, with those that come next pinned: what will be
//! read of them can be asked for from memory while one is judged.
//!
//! A block costs one call into Postgres: to give one up, look up the one that comes in so many
//! blocks' time, and lock the next. Each call of its own would save the state that an ERROR jumps
//! back to, which costs more than most of what is called.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::page::{Block, Index, Pin};
use crate::sweep::kernel::{Ahead, Lines};

/// Blocks that are pinned besides the one that is read.
const UPCOMING: usize = 2;

/// Lines of the block after the next that are asked for before the next one is locked: memory has
/// something to do until the next block's turn.
const EARLY_LINES: usize = 16;

/// Of so many blocks, one is looked up where the others are guessed. A guess does not mark a buffer as
/// used (`usage_count`), so each sweep looks up others: an index that is swept often stays in memory.
const LOOKED_UP: u32 = 32;

/// How many guesses there are at where a block is.
const GUESSES: usize = 4;

/// Where the blocks of an index lie in memory.
///
/// To look a block up costs several times as much as to look whether a buffer holds it: the table of
/// buffers is larger than the caches of a CPU. Blocks that were read or written one after another
/// mostly lie at few different distances, those of what else was read meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// From one block's buffer to the next one's: what was found last, the most frequent in front.
    distances: [i32; GUESSES],
    /// Which blocks are looked up: others in each sweep, also of sessions that do only one.
    sweep: u32,
}

impl Places {
    /// For a sweep, as yet unknown.
    pub fn unknown() -> Places {
        static SWEEPS: AtomicU32 = AtomicU32::new(0);
        // SAFETY: set when the process starts.
        let process = unsafe { pg_sys::MyProcPid } as u32;
        Places {
            distances: [1, 2, -1, 3],
            sweep: process.wrapping_add(SWEEPS.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Where a block may be whose predecessor is in the buffer `last` of `buffers`, the likeliest
    /// first.
    fn guesses(
        &self,
        last: pg_sys::Buffer,
        number: pg_sys::BlockNumber,
        buffers: i32,
    ) -> [Option<pg_sys::Buffer>; GUESSES] {
        // Buffers of temporary tables are counted downwards from -1, and looked up.
        if last < 1 || number.wrapping_add(self.sweep).is_multiple_of(LOOKED_UP) {
            return [None; GUESSES];
        }
        let is_buffer = |buffer: &pg_sys::Buffer| (1..=buffers).contains(buffer);
        self.distances
            .map(|distance| last.checked_add(distance).filter(is_buffer))
    }

    /// For the next sweep: the same distances, other blocks to look up.
    pub fn turn(&mut self) {
        self.sweep = self.sweep.wrapping_add(1);
    }

    /// Notes that the one after `last` was in the buffer `next`.
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

/// Lives as long as one call of the scan: an ERROR gives up what it holds.
pub struct Reader<'a> {
    index: &'a Index,
    strategy: pg_sys::BufferAccessStrategy,
    places: &'a mut Places,
    current: Option<Block>,
    upcoming: VecDeque<Pin>,
}

impl<'a> Reader<'a> {
    pub fn new(
        index: &'a Index,
        strategy: pg_sys::BufferAccessStrategy,
        places: &'a mut Places,
    ) -> Reader<'a> {
        Reader {
            index,
            strategy,
            places,
            current: None,
            upcoming: VecDeque::with_capacity(UPCOMING + 1),
        }
    }

    /// The next block, locked until the next call, and what a sweep will read when it has read this
    /// block. `take` names the blocks, one a call, some calls before their turn; when it names none,
    /// those that it has named follow, and then `None`. The index has them all.
    ///
    /// Answers interrupts while no block is locked.
    pub fn next(
        &mut self,
        mut take: impl FnMut() -> Option<pg_sys::BlockNumber>,
    ) -> Option<(&Block, Ahead)> {
        while self.current.is_none() && self.upcoming.len() < UPCOMING {
            let Some(number) = take() else { break };
            // SAFETY: the index is open, and has the block.
            let pin = unsafe { Pin::read(self.index.relation, number, self.strategy) };
            self.upcoming.push_back(pin);
        }
        let done = self.current.take();
        let next = self.upcoming.pop_front()?.into_buffer();
        let last = self.upcoming.back().map_or(next, Pin::buffer);
        // SAFETY: reads a setting.
        let buffers = unsafe { pg_sys::NBuffers };
        let coming = take().map(|number| (number, self.places.guesses(last, number, buffers)));
        // SAFETY: `done` is locked and `next` pinned, and nobody else's; the index has the block.
        // After that `next` is locked, and the block pinned.
        unsafe {
            let pinned = self.turn(done.map(Block::into_buffer), next, coming);
            self.current = Some(Block::from_buffer(next));
            if let Some(buffer) = pinned {
                self.places.learn(last, buffer);
                self.upcoming.push_back(Pin::from_buffer(buffer));
            }
        }
        let ahead = self.ahead();
        self.current.as_ref().map(|block| (block, ahead))
    }

    /// Gives up `done`, pins the block that is `coming` (with guesses at its buffer), and locks
    /// `next`. Returns the buffer of the block.
    ///
    /// # Safety
    /// `done` is locked and pinned, `next` pinned, and both are given up to this. The index has the
    /// block.
    unsafe fn turn(
        &self,
        done: Option<pg_sys::Buffer>,
        next: pg_sys::Buffer,
        coming: Option<(pg_sys::BlockNumber, [Option<pg_sys::Buffer>; GUESSES])>,
    ) -> Option<pg_sys::Buffer> {
        let (relation, strategy) = (self.index.relation, self.strategy);
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        // SAFETY: the caller's promise. An ERROR leaves the closure by a jump; it owns nothing that
        // has to be dropped.
        unsafe {
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            let file = (*relation).rd_node;
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            let file = (*relation).rd_locator;
            pg_guard_ffi_boundary(|| {
                if let Some(done) = done {
                    UnlockReleaseBuffer(done);
                }
                if pg_sys::InterruptPending != 0 {
                    ProcessInterrupts();
                }
                let pinned = coming.map(|(number, guesses)| {
                    // Not by value: an array's iterator would have to be dropped.
                    let mut guesses = guesses.iter().flatten().copied();
                    // Pins the buffer if it holds the block, and else returns false.
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
        let (_, next) = lines(self.upcoming.front()).split(EARLY_LINES);
        let (early, _) = lines(self.upcoming.get(1)).split(EARLY_LINES);
        let last = self.upcoming.get(1).map_or(Lines::none(), Pin::last_line);
        Ahead::new(next, [early, last])
    }
}

// Postgres' own functions without pgrx's guards, to be called under one guard.
unsafe extern "C-unwind" {
    fn ReadBufferExtended(
        relation: pg_sys::Relation,
        fork: pg_sys::ForkNumber::Type,
        block: pg_sys::BlockNumber,
        mode: pg_sys::ReadBufferMode::Type,
        strategy: pg_sys::BufferAccessStrategy,
    ) -> pg_sys::Buffer;
    fn ReadRecentBuffer(
        file: File,
        fork: pg_sys::ForkNumber::Type,
        block: pg_sys::BlockNumber,
        buffer: pg_sys::Buffer,
    ) -> bool;
    fn LockBuffer(buffer: pg_sys::Buffer, mode: c_int);
    fn UnlockReleaseBuffer(buffer: pg_sys::Buffer);
    fn ProcessInterrupts();
}
#[cfg(any(feature = "pg14", feature = "pg15"))]
type File = pg_sys::RelFileNode;
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
type File = pg_sys::RelFileLocator;

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            distances: [1, 2, -1, 3],
            sweep: 7,
        }
    }

    #[test]
    fn buffers_of_temporary_tables_are_not_guessed() {
        for last in [-1, -2, -1000, i32::MIN] {
            assert_eq!(places().guesses(last, 1, 100), [None; GUESSES]);
        }
        assert_eq!(
            places().guesses(1, 1, 100),
            [Some(2), Some(3), None, Some(4)]
        );
        assert_eq!(
            places().guesses(99, 1, 100),
            [Some(100), None, Some(98), None]
        );
        let mut far = places();
        far.distances[0] = i32::MAX;
        assert_eq!(far.guesses(1, 1, 100)[0], None);
    }

    #[test]
    fn each_block_is_looked_up_in_one_of_so_many_sweeps() {
        let mut places = places();
        let mut looked_up = [0; 100];
        for _ in 0..LOOKED_UP {
            for (number, times) in (0u32..).zip(&mut looked_up) {
                *times += u32::from(places.guesses(50, number, 100) == [None; GUESSES]);
            }
            places.turn();
        }
        assert_eq!(looked_up, [1; 100]);
    }

    #[test]
    fn distances_that_recur_are_guessed_first() {
        let mut places = places();
        places.learn(10, 17);
        assert_eq!(places.distances, [7, 1, 2, -1]);
        places.learn(10, 12);
        assert_eq!(places.distances, [7, 2, 1, -1]);
        places.learn(10, 12);
        assert_eq!(places.distances, [2, 7, 1, -1]);
        places.learn(10, 12);
        assert_eq!(places.distances, [2, 7, 1, -1]);
    }
}
