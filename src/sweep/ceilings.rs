//! Upper bounds on similarities, for a scan that returns rows in order.

use half::f16;
use photosearch_cpu::Cpu;
use photosearch_vector::similarity_error;

use super::ARITHMETIC;
use super::filter::{CodedPrefix, norm};
use super::layout::{Layout, Slab};
use super::prefetch::Ahead;
use super::verdicts::Verdicts;

/// Upper bounds on the similarities of entries with a query, for a scan that returns rows in descending
/// order.
pub struct Ceilings {
    cpu: Cpu,
    query: RankedQuery,
    dots: Vec<i32>,
    verdicts: Verdicts,
}

enum RankedQuery {
    /// The same upper bound for every entry.
    Constant(f64),
    /// The codes cover all values of the query.
    Coded(Box<CodedPrefix>),
}

impl Ceilings {
    /// `query` contains all values of the query. If the codes cover fewer or more dimensions, all
    /// entries have the same bound.
    pub fn new(layout: &Layout, query: &[f16]) -> Ceilings {
        Ceilings::at(Cpu::best(), layout, query)
    }

    /// [`Ceilings::new`] with the instruction level `cpu`: tests try all of them.
    pub fn at(cpu: Cpu, layout: &Layout, query: &[f16]) -> Ceilings {
        let norm = norm(query);
        let query = if norm == 0.0 {
            RankedQuery::Constant(0.0)
        } else if query.len() != layout.dims() {
            RankedQuery::Constant(1.0)
        } else {
            let unit = query.iter().map(|v| v.to_f64() / norm).collect();
            let error = similarity_error(query.len());
            RankedQuery::Coded(Box::new(CodedPrefix::new(
                layout,
                unit,
                error,
                f64::NEG_INFINITY,
                f64::INFINITY,
            )))
        };
        Ceilings::of_query(cpu, layout, query)
    }

    /// The same bound for all entries, above every similarity.
    pub fn unknown(layout: &Layout) -> Ceilings {
        Ceilings::of_query(Cpu::best(), layout, RankedQuery::Constant(1.0))
    }

    fn of_query(cpu: Cpu, layout: &Layout, query: RankedQuery) -> Ceilings {
        Ceilings {
            cpu,
            query,
            dots: vec![0; layout.capacity()],
            verdicts: Verdicts::new(layout.capacity()),
        }
    }

    /// Calls `visit` with each entry whose upper bound is at least `at_least`, and the bound. The
    /// similarity that [`photosearch_vector::Query::similarity`] computes does not exceed it. Equal
    /// entries have equal bounds in every call.
    pub fn visit(
        &mut self,
        slab: &Slab,
        at_least: f64,
        mut ahead: Ahead,
        mut visit: impl FnMut(usize, f64),
    ) {
        let count = slab.count();
        self.verdicts.count = count;
        match &mut self.query {
            RankedQuery::Constant(ceiling) => {
                ahead.ask_for_the_rest();
                if *ceiling >= at_least {
                    (0..count).for_each(|entry| visit(entry, *ceiling));
                }
            }
            RankedQuery::Coded(query) => {
                // A kernel may round the bound of the first level otherwise than `first_ceiling` does.
                query.cutoffs.no_below = at_least - ARITHMETIC;
                let products = &mut self.dots[..count];
                query.first_level(self.cpu, slab, products, &mut self.verdicts, &mut ahead);
                ahead.ask_for_the_rest();
                for (entry, _) in self.verdicts.not_rejected() {
                    // The bound of the first level can be lower than that of both levels, and
                    // the first level rejects by it, so the ceiling is the lower one. Otherwise a
                    // rejected entry could have a ceiling above that of the last row kept. The next
                    // sweep would take it for a row that has been returned, and no sweep would
                    // return it. (`min` returns 1 for a NaN, which a corrupt scale can give.)
                    let first = query.first_ceiling(slab, entry, self.dots[entry]);
                    let (estimate, error) = query.integer_estimate(self.cpu, slab, entry);
                    let ceiling = (estimate + error).min(first).min(1.0);
                    if ceiling >= at_least {
                        visit(entry, ceiling);
                    }
                }
            }
        }
    }
}
