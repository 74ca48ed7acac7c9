//! The matches that a scan has found and not returned yet.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;

use super::block::Block;
use super::entry::{is_valid_tid, item_pointer};
use super::page::Content;
use super::relation::{Index, block_count};
use crate::sweep::{Ahead, Judge, Tid, Verdict};

/// The matches on the pages that were judged last.
pub struct Matches {
    pub table: Table,
    pub certain: Vec<pg_sys::ItemPointerData>,
    /// Matches that the executor must recheck.
    pub undecided: Vec<pg_sys::ItemPointerData>,
    /// The number of matches, of both kinds, that have been returned.
    returned: usize,
}

impl Matches {
    pub fn new() -> Matches {
        Matches {
            table: Table {
                relation: std::ptr::null_mut(),
                blocks: pg_sys::InvalidBlockNumber,
            },
            certain: Vec::new(),
            undecided: Vec::new(),
            returned: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.certain.len() + self.undecided.len()
    }

    pub fn clear(&mut self) {
        self.certain.clear();
        self.undecided.clear();
        self.returned = 0;
    }

    /// The next match to return, and whether the executor must recheck it.
    pub fn next(&mut self) -> Option<(pg_sys::ItemPointerData, bool)> {
        let certain = self.certain.len();
        let is_certain = self.returned < certain;
        let tid = if is_certain {
            self.certain.get(self.returned)
        } else {
            self.undecided.get(self.returned - certain)
        }?;
        self.returned += 1;
        Some((*tid, !is_certain))
    }

    /// Judges one block, and adds its matches.
    pub fn collect(
        &mut self,
        index: &Index,
        block: &Block,
        judge: &mut Judge,
        ahead: Ahead,
    ) -> Result<(), ErrorReport> {
        let Content::Entries(count) = index.content(block)? else {
            return Ok(());
        };
        let slab = index.slab(block, count)?;
        for (entry, verdict) in judge.judge_prefetching(&slab, ahead).not_rejected() {
            let list = match verdict {
                Verdict::No => continue,
                Verdict::Maybe => &mut self.undecided,
                Verdict::Yes => &mut self.certain,
            };
            let tid = slab.tid(entry);
            if !self.table.can_have(tid) {
                return Err(index.corrupted(block.number()));
            }
            list.push(item_pointer(tid));
        }
        Ok(())
    }
}

/// The table of the scan.
pub struct Table {
    /// Null in a bitmap scan.
    relation: pg_sys::Relation,
    /// The number of blocks of the table when the number was last read. In a bitmap scan it is
    /// InvalidBlockNumber, which exceeds every block number, so that no block counts as missing: the
    /// bitmap heap scan itself ignores blocks that the table does not have.
    blocks: pg_sys::BlockNumber,
}

impl Table {
    /// Sets the table of the scan: null in a bitmap scan.
    ///
    /// # Safety
    /// `relation` is null, or an open table that stays open until the scan ends.
    pub unsafe fn set(&mut self, relation: pg_sys::Relation) {
        self.relation = relation;
        if !relation.is_null() {
            // SAFETY: the caller guarantees an open table.
            self.blocks = unsafe { block_count(relation) };
        }
    }

    /// Returns whether a row of the table can have this TID. If not, the entry is corrupted.
    pub fn can_have(&mut self, tid: Tid) -> bool {
        if tid.block >= self.blocks && !self.relation.is_null() {
            // The length is read again because other backends may have extended the table.
            // SAFETY: `set` guarantees that the table stays open until the scan ends.
            self.blocks = unsafe { block_count(self.relation) };
        }
        tid.block < self.blocks && is_valid_tid(tid)
    }
}
