//! Decides for each entry whether its row matches the conditions of a sweep.

use half::f16;

use super::ARITHMETIC;
use super::code::{LANES, STEP, bound_units, split_bounds, steps};
use super::kernel::{Ahead, Cutoffs, Entries, QuantizedQuery, decide, dots};
use super::layout::{Layout, Slab};
use photosearch_cpu::{Cpu, vectorised};
use photosearch_vector::similarity_error;

/// What the codes imply about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The row does not match.
    No,
    /// The codes do not decide whether the row matches.
    Maybe,
    /// The row matches.
    Yes,
}

impl Verdict {
    fn of(matches: bool) -> Verdict {
        if matches { Verdict::Yes } else { Verdict::No }
    }
}

/// Verdicts on the entries of a page. Bit `i % 64` of word `i / 64` belongs to entry `i`. If
/// neither bit is set, the verdict is [`Verdict::Maybe`].
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    no: Vec<u64>,
    yes: Vec<u64>,
    count: usize,
}

const WORD: usize = u64::BITS as usize;

impl Verdicts {
    fn new(capacity: usize) -> Verdicts {
        Verdicts {
            no: vec![0; capacity.div_ceil(WORD)],
            yes: vec![0; capacity.div_ceil(WORD)],
            count: 0,
        }
    }

    fn fill(&mut self, verdict: Verdict) {
        self.no
            .fill(if verdict == Verdict::No { u64::MAX } else { 0 });
        self.yes
            .fill(if verdict == Verdict::Yes { u64::MAX } else { 0 });
    }

    fn set(&mut self, entry: usize, verdict: Verdict) {
        let (word, bit) = (entry / WORD, 1 << (entry % WORD));
        self.no[word] = self.no[word] & !bit | if verdict == Verdict::No { bit } else { 0 };
        self.yes[word] = self.yes[word] & !bit | if verdict == Verdict::Yes { bit } else { 0 };
    }

    /// Combines verdicts by AND: No if any part is No, Yes if all parts are Yes.
    fn and(&mut self, other: &Verdicts, negated: bool) {
        let (no, yes) = if negated {
            (&other.yes, &other.no)
        } else {
            (&other.no, &other.yes)
        };
        self.no.iter_mut().zip(no).for_each(|(a, b)| *a |= b);
        self.yes.iter_mut().zip(yes).for_each(|(a, b)| *a &= b);
    }

    #[inline]
    pub fn get(&self, entry: usize) -> Verdict {
        let is_set = |bits: &[u64]| bits[entry / WORD] >> (entry % WORD) & 1 == 1;
        if is_set(&self.no) {
            Verdict::No
        } else if is_set(&self.yes) {
            Verdict::Yes
        } else {
            Verdict::Maybe
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries that are not rejected, in order, with their verdicts.
    #[inline]
    pub fn left(&self) -> impl Iterator<Item = (usize, Verdict)> + '_ {
        (0..self.count.div_ceil(WORD)).flat_map(move |word| {
            let taken = u64::MAX >> (WORD - (self.count - word * WORD).min(WORD));
            bits(!self.no[word] & taken).map(move |bit| {
                let entry = word * WORD + bit;
                (entry, self.get(entry))
            })
        })
    }
}

/// The indices of the set bits.
#[inline]
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            bit
        })
    })
}

/// A query and its threshold, prepared for comparison with codes.
pub struct CodeFilter(Comparison);

enum Comparison {
    /// The same verdict for every row.
    Every(Verdict),
    /// Compares the cosine of the whole coded prefix with cutoffs.
    Prefix(CodedPrefix),
    /// Compares the cosine of a prefix that is shorter than the coded one.
    Shorter(ShorterPrefix),
}

struct CodedPrefix {
    quantized: QuantizedQuery,
    /// The query's prefix, normalised.
    unit: Vec<f64>,
    /// The cutoffs for the first level.
    cutoffs: Cutoffs,
    /// Error of the second level's estimate of the cosine, excluding the error of the codes.
    error: f64,
    fine_unit: f64,
}

struct ShorterPrefix {
    unit: Vec<f64>,
    no_below: f64,
    yes_from: f64,
    error: f64,
    fine_unit: f64,
}

/// The verdict on a row whose similarity is known.
fn verdict_on(similarity: f64, no_below: f64, yes_from: f64) -> Verdict {
    if similarity < no_below {
        Verdict::No
    } else if similarity >= yes_from {
        Verdict::Yes
    } else {
        Verdict::Maybe
    }
}

impl CodeFilter {
    /// `prefix` contains the values that the query compares, from the start of a vector with as
    /// many dimensions as the rows. A row matches if its similarity, as
    /// [`photosearch_vector::Query::similarity`] computes it, is at least `threshold` after
    /// rounding to f32.
    pub fn new(layout: &Layout, prefix: &[f16], threshold: f32) -> CodeFilter {
        let cutoff = cutoff(threshold);
        CodeFilter::between(layout, prefix, cutoff, cutoff)
    }

    /// Like [`CodeFilter::new`], but with the unrounded similarity: a row with a similarity below
    /// `no_below` does not match, and a row with one of at least `yes_from` does. The filter does not
    /// decide a similarity in between.
    pub fn between(layout: &Layout, prefix: &[f16], no_below: f64, yes_from: f64) -> CodeFilter {
        let norm = norm(prefix);
        // Similarities lie in -1..=1, and are 0 if the query's prefix is zero.
        if norm == 0.0 {
            return CodeFilter(Comparison::Every(verdict_on(0.0, no_below, yes_from)));
        }
        if no_below > 1.0 || yes_from <= -1.0 {
            return CodeFilter(Comparison::Every(Verdict::of(yes_from <= -1.0)));
        }
        let dims = layout.dims();
        let unit: Vec<f64> = prefix.iter().map(|v| v.to_f64() / norm).collect();
        let error = similarity_error(prefix.len());
        if prefix.len() < dims {
            return CodeFilter(Comparison::Shorter(ShorterPrefix {
                unit,
                no_below,
                yes_from,
                error,
                fine_unit: bound_units(dims)[1],
            }));
        }
        let (unit, no_below, yes_from, error) = if prefix.len() == dims {
            (unit, no_below, yes_from, error)
        } else {
            let covered = norm_of_units(&unit[..dims]);
            if covered == 0.0 {
                return CodeFilter(Comparison::Every(Verdict::Maybe));
            }
            let no_below = longer_cutoff(no_below - error, covered);
            let yes_from = longer_cutoff(-yes_from - error, covered);
            let unit = unit[..dims].iter().map(|v| v / covered).collect();
            (
                unit,
                no_below.unwrap_or(f64::NEG_INFINITY),
                yes_from.map_or(f64::INFINITY, |c| -c),
                0.0,
            )
        };
        CodeFilter(Comparison::Prefix(CodedPrefix::new(
            layout, unit, error, no_below, yes_from,
        )))
    }

    /// A filter that decides no row.
    pub fn undecided() -> CodeFilter {
        CodeFilter(Comparison::Every(Verdict::Maybe))
    }

    fn first_level(
        &self,
        cpu: Cpu,
        slab: &Slab,
        products: &mut [i32],
        verdicts: &mut Verdicts,
        ahead: &mut Ahead,
    ) {
        match &self.0 {
            Comparison::Every(verdict) => verdicts.fill(*verdict),
            Comparison::Shorter(_) => verdicts.fill(Verdict::Maybe),
            Comparison::Prefix(prefix) => {
                prefix.first_level(cpu, slab, products, verdicts, ahead);
            }
        }
    }

    fn second_level(&self, slab: &Slab, entry: usize) -> Verdict {
        let prefix = match &self.0 {
            Comparison::Every(verdict) => return *verdict,
            Comparison::Shorter(shorter) => return shorter.decide(slab, entry),
            Comparison::Prefix(prefix) => prefix,
        };
        let (estimate, error) = prefix.estimate(slab, entry);
        if estimate + error < prefix.cutoffs.no_below {
            Verdict::No
        } else if estimate - error >= prefix.cutoffs.yes_from {
            Verdict::Yes
        } else {
            Verdict::Maybe
        }
    }
}

impl CodedPrefix {
    /// `unit` is the query's prefix of the layout's length, normalised. `error` is the error of the
    /// similarity that the cutoffs are compared with.
    fn new(
        layout: &Layout,
        unit: Vec<f64>,
        error: f64,
        no_below: f64,
        yes_from: f64,
    ) -> CodedPrefix {
        let quantized = QuantizedQuery::new(&unit, layout.stride());
        let [coarse_unit, fine_unit] = bound_units(layout.dims());
        let error = error + ARITHMETIC;
        let lost = quantized.lost();
        CodedPrefix {
            cutoffs: Cutoffs {
                dot_scale: quantized.scale(),
                bound_unit: coarse_unit * (1.0 + lost),
                error: error + lost,
                no_below,
                yes_from,
            },
            quantized,
            unit,
            error,
            fine_unit,
        }
    }

    /// The verdicts of the first level.
    fn first_level(
        &self,
        cpu: Cpu,
        slab: &Slab,
        products: &mut [i32],
        verdicts: &mut Verdicts,
        ahead: &mut Ahead,
    ) {
        dots(cpu, slab.codes(), &self.quantized, products, ahead);
        let entries = Entries {
            scales: slab.scales(),
            bounds: slab.bounds(),
            dots: products,
        };
        decide(
            cpu,
            &entries,
            &self.cutoffs,
            &mut verdicts.no,
            &mut verdicts.yes,
        );
    }

    /// The upper bound on the cosine that the first level compares with `no_below`, up to rounding.
    fn first_ceiling(&self, slab: &Slab, entry: usize, product: i32) -> f64 {
        let cutoffs = &self.cutoffs;
        let scale = f64::from(f32::from_ne_bytes(slab.scales()[entry])) * cutoffs.dot_scale;
        let bound = f64::from(split_bounds(slab.bounds()[entry])[0]);
        scale * f64::from(product) + (bound * cutoffs.bound_unit + cutoffs.error)
    }

    /// The estimate of the cosine by both levels, and its maximum error.
    fn estimate(&self, slab: &Slab, entry: usize) -> (f64, f64) {
        let scale = f64::from(f32::from_ne_bytes(slab.scales()[entry]));
        let bound = f64::from(split_bounds(slab.bounds()[entry])[1]) * self.fine_unit;
        let (dot, _) = fine_sums(slab, entry, &self.unit);
        (scale * STEP * dot, bound + self.error)
    }
}

impl ShorterPrefix {
    /// The cosine is `⟨u, q̂⟩ / ‖u‖` over the shorter prefix. For the code `v` with `‖u - v‖ ≤ r`,
    /// the numerator lies within r of `⟨v, q̂⟩`, and `‖u‖` lies within r of `‖v‖`.
    fn decide(&self, slab: &Slab, entry: usize) -> Verdict {
        let scale = f64::from(f32::from_ne_bytes(slab.scales()[entry]));
        if scale == 0.0 {
            return verdict_on(0.0, self.no_below, self.yes_from);
        }
        let bound = f64::from(split_bounds(slab.bounds()[entry])[1]) * self.fine_unit + ARITHMETIC;
        let (dot, squares) = fine_sums(slab, entry, &self.unit);
        let (dot, norm) = (scale * STEP * dot, scale * STEP * squares.sqrt());
        let (shortest, longest) = (norm - bound, norm + bound);
        // A corrupt scale can give NaN.
        if shortest.is_nan() || shortest <= 0.0 {
            return Verdict::Maybe;
        }
        let quotient = |numerator: f64, outward: bool| {
            numerator
                / if (numerator > 0.0) == outward {
                    shortest
                } else {
                    longest
                }
        };
        let error = self.error + ARITHMETIC / shortest.min(1.0);
        if quotient(dot + bound, true) + error < self.no_below {
            Verdict::No
        } else if quotient(dot - bound, false) - error >= self.yes_from {
            Verdict::Yes
        } else {
            Verdict::Maybe
        }
    }
}

/// `Σ w_i q_i` and `Σ w_i²` over the values of `unit`, where `w` combines both levels.
pub(super) fn fine_sums(slab: &Slab, entry: usize, unit: &[f64]) -> (f64, f64) {
    let stride = slab.layout().stride();
    let codes = &slab.codes()[entry * stride..][..stride];
    sums_of(codes, slab.fine(entry), unit)
}

vectorised! {
    fn sums_of(codes: &[u8], fine: &[u8], unit: &[f64]) -> (f64, f64) {
        fine_sums_as_compiled(codes, fine, unit)
    }
}

/// The same operations in the same order at every instruction set for which the function is
/// compiled.
#[inline(always)]
pub(super) fn fine_sums_as_compiled(codes: &[u8], fine: &[u8], unit: &[f64]) -> (f64, f64) {
    let mut dot = [0.0; LANES];
    // `w²` is at most 2056², and a lane has at most 512 values.
    let mut squares = [0u32; LANES];
    let (units, rest) = unit.as_chunks::<LANES>();
    let mut parts = codes.as_chunks::<LANES>().0.iter().zip(fine.as_chunks().0);
    for (unit, (codes, fine)) in units.iter().zip(parts.by_ref()) {
        let w = steps(*codes, *fine);
        for i in 0..LANES {
            dot[i] += f64::from(w[i]) * unit[i];
            squares[i] += (w[i] * w[i]) as u32;
        }
    }
    if let Some((codes, fine)) = parts.next() {
        let w = steps(*codes, *fine);
        for (i, value) in rest.iter().enumerate() {
            dot[i] += f64::from(w[i]) * value;
            squares[i] += (w[i] * w[i]) as u32;
        }
    }
    let squares: u64 = squares.iter().map(|square| u64::from(*square)).sum();
    (dot.iter().sum(), squares as f64)
}

/// The least f64 that rounds to an f32 of at least `threshold`. A similarity reaches the threshold
/// if and only if it reaches this value. `threshold` lies in -1..=1.
fn cutoff(threshold: f32) -> f64 {
    // The f64 midway between two neighbouring f32 values rounds to the even one.
    let middle = (f64::from(threshold.next_down()) + f64::from(threshold)) / 2.0;
    if middle as f32 >= threshold {
        middle
    } else {
        middle.next_up()
    }
}

/// For a query that compares more values than the coded prefix: the prefix cosine below which the
/// whole cosine cannot reach `target`. `None` if there is no such value.
///
/// The prefix has a known share `b` of the query's norm and an unknown share `a` in 0..=1 of the
/// row's norm. If c is the cosine of the prefixes, the whole cosine is at most a b c + √(1 - a²)
/// √(1 - b²). The maximum over `a` is √(b² c² + 1 - b²) for c ≥ 0, and √(1 - b²) for c < 0. This is
/// below the target t > 0 if c < √(t² - (1 - b²)) / b. (By symmetry, the same formula gives a lower
/// bound.)
fn longer_cutoff(target: f64, covered: f64) -> Option<f64> {
    let target = target - ARITHMETIC;
    let square = target * target - (1.0 - covered * covered) - ARITHMETIC;
    (target > 0.0 && square > 0.0).then(|| square.sqrt() / covered * (1.0 - ARITHMETIC))
}

fn norm(values: &[f16]) -> f64 {
    let squares = values.iter().map(|v| v.to_f64().powi(2));
    squares.sum::<f64>().sqrt()
}

fn norm_of_units(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

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

    /// [`Judge::new`] with an instruction level below the processor's.
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
        self.judge_and_ask(slab, Ahead::none())
    }

    /// Like [`Judge::judge`], while prefetching the memory that is judged next.
    pub fn judge_and_ask(&mut self, slab: &Slab, mut ahead: Ahead) -> &Verdicts {
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
            match (filter.second_level(slab, entry), negated) {
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
    Coded(CodedPrefix),
}

impl Ceilings {
    /// `query` contains all values of the query. If the codes cover fewer or more dimensions, all
    /// entries have the same bound.
    pub fn new(layout: &Layout, query: &[f16]) -> Ceilings {
        Ceilings::at(Cpu::best(), layout, query)
    }

    /// [`Ceilings::new`] with an instruction level below the processor's.
    pub fn at(cpu: Cpu, layout: &Layout, query: &[f16]) -> Ceilings {
        let norm = norm(query);
        let query = if norm == 0.0 {
            RankedQuery::Constant(0.0)
        } else if query.len() != layout.dims() {
            RankedQuery::Constant(1.0)
        } else {
            let unit = query.iter().map(|v| v.to_f64() / norm).collect();
            let error = similarity_error(query.len());
            RankedQuery::Coded(CodedPrefix::new(
                layout,
                unit,
                error,
                f64::NEG_INFINITY,
                f64::INFINITY,
            ))
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
                // The kernel may round the bound of the first level otherwise than it is rounded below.
                query.cutoffs.no_below = at_least - ARITHMETIC;
                let products = &mut self.dots[..count];
                query.first_level(self.cpu, slab, products, &mut self.verdicts, &mut ahead);
                ahead.ask_for_the_rest();
                for (entry, _) in self.verdicts.left() {
                    let (estimate, error) = query.estimate(slab, entry);
                    // The bound of the first level can be the lower one. It must count, or else an
                    // entry that the first level rejects in this sweep would seem to precede the
                    // last row that the sweep keeps, so that no sweep would return it. (`min`
                    // returns 1 for a NaN, which a corrupt scale can give.)
                    let first = query.first_ceiling(slab, entry, self.dots[entry]);
                    let ceiling = (estimate + error).min(first).min(1.0);
                    if ceiling >= at_least {
                        visit(entry, ceiling);
                    }
                }
            }
        }
    }
}
