//! The order of an ordered scan: `ORDER BY embedding <=> query`.
//!
//! The codes of an entry give an upper bound on its similarity, its ceiling. A scan returns rows by
//! descending ceiling, and the executor computes the exact similarity of each: it keeps a row back until
//! no later row can precede it (`IndexNextWithReorder` of Postgres' `nodeIndexscan.c`). So a query for
//! the best ten costs a sweep and few exact similarities.
//!
//! A sweep keeps only the rows with the highest ceilings, within `work_mem`. When the executor has
//! taken them all, another sweep keeps the ones that follow, up to eight times as many as the last.
//! Ceilings depend only on an entry and the query, so the order is the same in every sweep. Entries
//! that other backends add or remove between two sweeps belong to rows that the scan's snapshot does
//! not see (see the top of `scan.rs`).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::opclass::Strategy;
use crate::sweep::{Ahead, Verdict, Verdicts};
use crate::sweep::{Ceilings, Slab, Tid};
use crate::types::sql_error;

/// The number of rows that the first sweep keeps.
const FIRST_KEPT: usize = 256;
/// The growth of that number from one sweep to the next.
const GROWTH: usize = 8;

/// A row that an ordered scan has not returned yet. Candidates compare by the order in which they are
/// returned.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub ceiling: f64,
    pub tid: Tid,
    /// Whether the executor must recheck the conditions.
    pub recheck: bool,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        let by_ceiling = other.ceiling.total_cmp(&self.ceiling);
        by_ceiling.then(self.tid.cmp(&other.tid))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// The order of a scan, and the rows that its last sweep has kept.
pub struct OrderedRows {
    ceilings: Ceilings,
    /// The ordering operator; `None` if the rows have no order, because its argument is NULL or cannot be
    /// compared with the column's vectors.
    strategy: Option<Strategy>,
    /// The rows that the current sweep has kept; the last one in order is at the top.
    kept: BinaryHeap<Candidate>,
    /// The maximum number of rows that the current sweep keeps.
    capacity: usize,
    /// The rows to return; the first one in order is at the end.
    sorted: Vec<Candidate>,
    /// The rows up to this one have been returned; later sweeps leave them out.
    last_returned: Option<Candidate>,
    /// Whether the last sweep has kept all rows that were left.
    is_complete: bool,
}

impl OrderedRows {
    pub fn new(ceilings: Ceilings, strategy: Option<Strategy>) -> OrderedRows {
        OrderedRows {
            ceilings,
            strategy,
            kept: BinaryHeap::new(),
            capacity: FIRST_KEPT,
            sorted: Vec::new(),
            last_returned: None,
            is_complete: false,
        }
    }

    /// The next row, or `None` if another sweep is needed ([`OrderedRows::needs_sweep`]) or no row is
    /// left.
    pub fn next(&mut self) -> Option<Candidate> {
        let next = self.sorted.pop()?;
        self.last_returned = Some(next);
        Some(next)
    }

    /// Whether another sweep is needed: no sweep has ended yet, or the last one has filled its capacity, so
    /// that it may have dropped rows. To be called when all rows of the last one have been returned.
    pub fn needs_sweep(&self) -> bool {
        !self.is_complete
    }

    /// A lower bound on the ordering operator's value for this row and all later ones, or `None` without an
    /// order.
    pub fn lower_bound(&self, candidate: &Candidate) -> Option<f64> {
        // Subtraction rounds monotonically. So the distance that the operator computes is not below
        // the one that is computed from the ceiling.
        match self.strategy? {
            Strategy::Distance => Some(1.0 - candidate.ceiling),
            _ => Some(-candidate.ceiling),
        }
    }

    /// Adds the entries of a page that have not been returned and, once the capacity is reached, that
    /// precede the last one kept. Returns false if one of them has a TID that `is_valid` rejects, which
    /// means that the page is corrupted.
    pub fn collect(
        &mut self,
        slab: &Slab,
        verdicts: &Verdicts,
        ahead: Ahead,
        mut is_valid: impl FnMut(Tid) -> bool,
    ) -> Result<bool, ErrorReport> {
        let (kept, capacity, last_returned) = (&mut self.kept, self.capacity, self.last_returned);
        let at_least = match kept.peek() {
            Some(last) if kept.len() == capacity => last.ceiling,
            _ => f64::NEG_INFINITY,
        };
        let (mut enough_memory, mut all_valid) = (true, true);
        self.ceilings
            .visit(slab, at_least, ahead, |entry, ceiling| {
                let verdict = verdicts.get(entry);
                let candidate = Candidate {
                    ceiling,
                    tid: slab.tid(entry),
                    recheck: verdict == Verdict::Maybe,
                };
                let is_returned = last_returned.is_some_and(|last| candidate <= last);
                if verdict == Verdict::No || is_returned {
                    return;
                }
                if kept.len() < capacity {
                    enough_memory &= kept.try_reserve(1).is_ok();
                    if enough_memory {
                        all_valid &= is_valid(candidate.tid);
                        kept.push(candidate);
                    }
                } else if let Some(mut last) = kept.peek_mut()
                    && candidate < *last
                {
                    all_valid &= is_valid(candidate.tid);
                    *last = candidate;
                }
            });
        if enough_memory {
            return Ok(all_valid);
        }
        Err(sql_error(
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            format!("out of memory while ordering {} rows", self.kept.len()),
        ))
    }

    /// Ends a sweep. Its rows are returned next.
    pub fn finish_sweep(&mut self) {
        self.is_complete = self.kept.len() < self.capacity;
        self.sorted = std::mem::take(&mut self.kept).into_sorted_vec();
        self.sorted.reverse();
        self.capacity = next_capacity(self.capacity, rows_in_work_mem());
    }
}

/// The maximum number of rows that a sweep keeps after one that has kept `capacity` rows, if there is
/// memory for `largest`.
fn next_capacity(capacity: usize, largest: usize) -> usize {
    (capacity * GROWTH).min(largest).max(FIRST_KEPT)
}

/// The number of sweeps of a scan of which `rows` rows are fetched.
pub fn sweeps_for(rows: f64) -> f64 {
    sweeps_within(rows, rows_in_work_mem())
}

fn sweeps_within(rows: f64, largest: usize) -> f64 {
    let (mut capacity, mut kept, mut sweeps) = (FIRST_KEPT, FIRST_KEPT as f64, 1.0);
    while kept < rows {
        let next = next_capacity(capacity, largest);
        if next == capacity {
            return sweeps + ((rows - kept) / capacity as f64).ceil();
        }
        capacity = next;
        kept += capacity as f64;
        sweeps += 1.0;
    }
    sweeps
}

fn rows_in_work_mem() -> usize {
    // SAFETY: reads a setting, which is in kB and at least 64.
    let kilobytes = unsafe { pg_sys::work_mem };
    usize::try_from(kilobytes).unwrap_or(0).saturating_mul(1024) / size_of::<Candidate>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_in_the_order_of_return() {
        let candidate = |ceiling, block| Candidate {
            ceiling,
            tid: Tid { block, offset: 1 },
            recheck: false,
        };
        assert!(candidate(0.9, 7) < candidate(0.8, 1));
        assert!(candidate(0.9, 1) < candidate(0.9, 2));
        let mut kept: BinaryHeap<_> = [0.1, 0.9, 0.5].map(|c| candidate(c, 1)).into();
        assert_eq!(kept.pop().map(|last| last.ceiling), Some(0.1));
    }

    #[test]
    fn sweeps_are_counted_as_they_grow() {
        let kept = |rows| sweeps_within(rows, 10_000);
        assert_eq!([0.0, 10.0, 256.0].map(kept), [1.0; 3]);
        assert_eq!([257.0, 256.0 + 2048.0].map(kept), [2.0; 2]);
        assert_eq!([2305.0, 2304.0 + 10_000.0].map(kept), [3.0; 2]);
        assert_eq!(kept(2304.0 + 10_001.0), 4.0);
        assert_eq!(kept(2304.0 + 50_000.0), 7.0);
        assert_eq!(sweeps_within(2560.0, 10), 10.0);
    }
}
