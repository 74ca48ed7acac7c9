//! Judges pages by several filters, and counts the outcomes.

use photosearch_cpu::Cpu;

use super::filter::CodeFilter;
use super::layout::{Layout, Slab};
use super::prefetch::Ahead;
use super::verdicts::{Verdict, Verdicts, WORD, bits};

/// Counts of the entries of a sweep by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// All entries examined.
    pub entries: u64,
    /// Entries decided as matches.
    pub matches: u64,
    /// Entries decided as non-matches.
    pub rejected: u64,
    /// Entries left undecided.
    pub undecided: u64,
    /// Entries that needed the second level, whatever its verdict.
    pub refined: u64,
}

/// Judges one page after another by the conjunction of several filters, each of which may be
/// negated.
pub struct Judge {
    filters: Vec<(CodeFilter, bool)>,
    cpu: Cpu,
    dots: Vec<i32>,
    one: Verdicts,
    all: Verdicts,
    counters: Counters,
}

impl Judge {
    /// Each filter comes with `true` if it is negated.
    pub fn new(layout: &Layout, filters: Vec<(CodeFilter, bool)>) -> Judge {
        Judge::at(Cpu::best(), layout, filters)
    }

    /// [`Judge::new`] with the instruction level `cpu`: tests try all of them.
    pub fn at(cpu: Cpu, layout: &Layout, filters: Vec<(CodeFilter, bool)>) -> Judge {
        Judge {
            filters,
            cpu,
            dots: vec![0; layout.capacity()],
            one: Verdicts::new(layout.capacity()),
            all: Verdicts::new(layout.capacity()),
            counters: Counters::default(),
        }
    }

    /// Whether there is a filter, so that the codes are read.
    pub fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Returns a verdict for each entry.
    pub fn judge(&mut self, slab: &Slab) -> &Verdicts {
        self.judge_prefetching(slab, Ahead::none())
    }

    /// Like [`Judge::judge`], while prefetching the memory that is judged next.
    pub fn judge_prefetching(&mut self, slab: &Slab, mut ahead: Ahead) -> &Verdicts {
        let count = slab.count();
        self.all.count = count;
        self.all.fill(Verdict::Yes);
        for (filter, negated) in &self.filters {
            filter.first_level(
                self.cpu,
                slab,
                &mut self.dots[..count],
                &mut self.one,
                &mut ahead,
            );
            self.all.and(&self.one, *negated);
        }
        ahead.ask_for_the_rest();
        self.counters.entries += count as u64;
        let mut left = 0;
        for word in 0..count.div_ceil(WORD) {
            let taken = u64::MAX >> (WORD - (count - word * WORD).min(WORD));
            for bit in bits(!self.all.no[word] & !self.all.yes[word] & taken) {
                let entry = word * WORD + bit;
                self.counters.refined += 1;
                self.all.set(entry, self.second_level(slab, entry));
            }
            let (not_no, yes) = (!self.all.no[word] & taken, self.all.yes[word] & taken);
            left += not_no.count_ones() as u64;
            self.counters.matches += u64::from(yes.count_ones());
            self.counters.undecided += u64::from((not_no & !yes).count_ones());
        }
        self.counters.rejected += count as u64 - left;
        &self.all
    }

    fn second_level(&self, slab: &Slab, entry: usize) -> Verdict {
        let mut all = Verdict::Yes;
        for (filter, negated) in &self.filters {
            match (filter.second_level(self.cpu, slab, entry), negated) {
                (Verdict::Yes, false) | (Verdict::No, true) => {}
                (Verdict::No, false) | (Verdict::Yes, true) => return Verdict::No,
                (Verdict::Maybe, _) => all = Verdict::Maybe,
            }
        }
        all
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }
}
