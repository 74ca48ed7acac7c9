//! The threads in which candle computes.
//!
//! candle splits work by rayon, and some element-wise operations over a pool of its own that lives as
//! long as the process. Neither uses [`Pool`](crate::compute::Pool), whose width follows the setting
//! `photosearch.threads`. So rayon runs in a pool that the model's thread starts, as wide as the
//! installed `Pool`, and [`limit`] keeps candle's own pool empty. The model's thread blocks all
//! signals, and the threads that it starts inherit its signal mask.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::ModelError;
use crate::compute::pool;

/// Read by candle when it starts its own pool: the number of threads, including the caller's.
const OWN_POOL: &str = "CANDLE_NUM_THREADS";
/// Read by candle for every matrix product: into how many parts to split it.
const PARTS: &str = "RAYON_NUM_THREADS";

/// Stack size of the threads, the same as in [`Pool`](crate::compute::Pool).
const STACK_BYTES: usize = 4 << 20;

/// Limits candle to `threads` threads in this process.
///
/// # Safety
/// No other thread of the process may read or write environment variables at the same time.
pub unsafe fn limit(threads: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        std::env::set_var(OWN_POOL, "1");
        std::env::set_var(PARTS, threads.max(1).to_string());
    }
}

/// A rayon pool that follows the width of the installed pool.
#[derive(Default)]
pub(super) struct Threads(Mutex<Option<ThreadPool>>);

impl Threads {
    /// Runs `work` in a rayon pool as wide as the [`Pool`](crate::compute::Pool) that is installed in
    /// the calling thread.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, ModelError> {
        let width = pool::width_for(usize::MAX);
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = match &mut *pool {
            Some(pool) if pool.current_num_threads() == width => pool,
            // The threads of the old pool end when it is dropped.
            other => other.insert(start(width)?),
        };
        Ok(pool.install(work))
    }
}

fn start(width: usize) -> Result<ThreadPool, ModelError> {
    ThreadPoolBuilder::new()
        .num_threads(width)
        .thread_name(|i| format!("photosearch c{i}"))
        .stack_size(STACK_BYTES)
        .build()
        .map_err(|error| ModelError::NoThread(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Pool;

    #[test]
    fn the_width_is_that_of_the_installed_pool() {
        let threads = Threads::default();
        for width in [1, 3, 2] {
            let mut pool = Pool::new(3).unwrap();
            pool.set_width(width);
            let found = pool.install(|| threads.run(rayon::current_num_threads));
            assert_eq!(found.unwrap(), width);
        }
    }
}
