//! Splitting work over the threads of the pool that runs the caller.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Threads that work is split over; 0: all of the pool.
static WIDTH: AtomicUsize = AtomicUsize::new(0);

/// Operations (multiplications, say) for which waking another thread pays.
const WORTH_A_THREAD: usize = 1 << 19;

/// Split work over at most so many threads from now on; 0: all that the pool has.
pub fn set_width(threads: usize) {
    WIDTH.store(threads, Ordering::Relaxed);
}

/// How many threads a piece of work of so many operations is split over.
pub fn width_for(operations: usize) -> usize {
    let all = rayon::current_num_threads();
    let most = match WIDTH.load(Ordering::Relaxed) {
        0 => all,
        width => width.min(all),
    };
    (operations / WORTH_A_THREAD).clamp(1, most)
}

/// `work(0)` to `work(count - 1)` over `width` threads: each takes those of a run of its own in
/// order, as what lies behind one in memory may be fetched already, and then what others have left.
pub fn for_each(count: usize, width: usize, work: impl Fn(usize) + Sync) {
    let width = width.min(count);
    if width <= 1 {
        (0..count).for_each(work);
        return;
    }
    // The next of each run, and its end.
    let runs: Vec<(AtomicUsize, usize)> = (0..width)
        .map(|run| {
            let first = run * count / width;
            (AtomicUsize::new(first), (run + 1) * count / width)
        })
        .collect();
    (0..width).into_par_iter().with_max_len(1).for_each(|own| {
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

/// `work(first row, rows)` on runs of rows of `row` elements that make up `out`. `operations` is
/// about what all of it costs.
pub fn for_rows<T: Send>(
    out: &mut [T],
    row: usize,
    operations: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let rows = out.len() / row.max(1);
    let width = width_for(operations).min(rows);
    if width <= 1 {
        work(0, out);
        return;
    }
    let step = rows.div_ceil(width);
    out.par_chunks_mut(step * row)
        .enumerate()
        .for_each(|(i, part)| work(i * step, part));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn everything_is_done_once() {
        for count in [0, 1, 2, 7, 100] {
            for width in [1, 2, 3] {
                let done: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                for_each(count, width, |i| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
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
}
