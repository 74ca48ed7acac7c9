//! Prefetches the memory that a sweep reads next.

/// A kernel prefetches once for this number of codes of each row, as many bytes as these codes are.
/// Prefetching a whole page at once would keep the reads waiting: with two rows of 2048 codes on a
/// page, a sweep then takes 1.6 × the time (Zen 4).
pub(super) const PORTION: usize = 128;

/// A range of cache lines.
#[derive(Debug, Clone, Copy)]
pub struct Lines {
    at: *const u8,
    count: usize,
}

impl Lines {
    const LEN: usize = 64;

    #[inline]
    pub fn none() -> Lines {
        Lines {
            at: std::ptr::null(),
            count: 0,
        }
    }

    /// The cache lines of the `len` bytes from `at`.
    #[inline]
    pub fn new(at: *const u8, len: usize) -> Lines {
        let before = at.addr() % Lines::LEN;
        Lines {
            at,
            count: (before + len).div_ceil(Lines::LEN),
        }
    }

    /// The first `count` lines (or all, if there are fewer), and the rest.
    #[inline]
    pub fn split(self, count: usize) -> (Lines, Lines) {
        let count = count.min(self.count);
        let rest = Lines {
            at: self.at.wrapping_add(count * Lines::LEN),
            count: self.count - count,
        };
        (Lines { count, ..self }, rest)
    }

    /// Prefetches the lines. The pointer need not be valid, because nothing is read through it.
    #[inline(always)]
    fn ask(self) {
        for line in 0..self.count {
            // Prefetch into the L2 cache: the L1 cache has few fill buffers, and the data being
            // read now needs them (this takes 0.6 × the time of a sweep with T0, on Zen 4).
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch affects only caches.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T1>(self.at.wrapping_add(line * Lines::LEN).cast());
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = line;
        }
    }
}

/// The memory that is read next, to be prefetched during a computation.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    during: Lines,
    after: [Lines; 2],
}

impl Ahead {
    /// Prefetches nothing.
    #[inline]
    pub fn none() -> Ahead {
        Ahead::new(Lines::none(), [Lines::none(); 2])
    }

    /// `during` is prefetched in portions during the next dot products, `after` all at once after
    /// them.
    #[inline]
    pub fn new(during: Lines, after: [Lines; 2]) -> Ahead {
        Ahead { during, after }
    }

    /// Prefetches the next lines of `during`, as many as a kernel reads in one [`PORTION`] of `rows`
    /// rows of codes.
    #[inline(always)]
    pub(super) fn ask_for_portions(&mut self, rows: usize) {
        let (now, later) = self.during.split(rows * (PORTION / Lines::LEN));
        now.ask();
        self.during = later;
    }

    /// Prefetches all remaining lines.
    pub fn ask_for_the_rest(&mut self) {
        let Ahead { during, after } = std::mem::replace(self, Ahead::none());
        during.ask();
        after.into_iter().for_each(Lines::ask);
    }
}
