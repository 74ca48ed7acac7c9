//! Decides for each entry whether its row matches one condition of a sweep.

use half::f16;

use super::ARITHMETIC;
use super::code::{FINE_STEPS, LANES, STEP, bound_units, split_bounds, steps};
use super::kernel::{Cutoffs, Entries, QuantizedQuery, decide, dots, fine_dot};
use super::layout::{Layout, Slab};
use super::prefetch::Ahead;
use super::verdicts::{Verdict, Verdicts};
use photosearch_cpu::{Cpu, vectorised};
use photosearch_vector::similarity_error;

/// A query and its threshold, prepared for comparison with codes.
pub struct CodeFilter(Comparison);

enum Comparison {
    /// The same verdict for every row.
    Every(Verdict),
    /// Compares the cosine of the whole coded prefix with cutoffs.
    Prefix(Box<CodedPrefix>),
    /// Compares the cosine of a prefix that is shorter than the coded one.
    Shorter(ShorterPrefix),
}

pub(super) struct CodedPrefix {
    quantized: QuantizedQuery,
    /// The query's prefix, normalised.
    unit: Vec<f64>,
    /// The cutoffs for the first level.
    pub(super) cutoffs: Cutoffs,
    /// Error of the estimate of the cosine by both levels and the query in f64, excluding the error
    /// of the codes.
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
    /// `prefix` contains the first values of the query vector, as many as are compared with each row.
    /// A row matches if its similarity, as [`photosearch_vector::Query::similarity`] computes it, is
    /// at least `threshold` after rounding to f32.
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
        CodeFilter(Comparison::Prefix(Box::new(CodedPrefix::new(
            layout, unit, error, no_below, yes_from,
        ))))
    }

    /// A filter that decides no row.
    pub fn undecided() -> CodeFilter {
        CodeFilter(Comparison::Every(Verdict::Maybe))
    }

    pub(super) fn first_level(
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

    pub(super) fn second_level(&self, cpu: Cpu, slab: &Slab, entry: usize) -> Verdict {
        match &self.0 {
            Comparison::Every(verdict) => *verdict,
            Comparison::Shorter(shorter) => shorter.decide(slab, entry),
            Comparison::Prefix(prefix) => prefix.second_level(cpu, slab, entry),
        }
    }
}

impl CodedPrefix {
    /// `unit` is the query's prefix of the layout's length, normalised. `error` is the maximum rounding
    /// error of the similarities for which the cutoffs are given.
    pub(super) fn new(
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
    pub(super) fn first_level(
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

    /// Decides by both levels. The query in integers decides most entries, and the query in f64,
    /// which takes several times as long, the rest.
    fn second_level(&self, cpu: Cpu, slab: &Slab, entry: usize) -> Verdict {
        match self.verdict(self.integer_estimate(cpu, slab, entry)) {
            Verdict::Maybe => self.verdict(self.estimate(slab, entry)),
            decided => decided,
        }
    }

    /// The verdict by an estimate of the cosine and its maximum error. A NaN decides nothing.
    fn verdict(&self, (estimate, error): (f64, f64)) -> Verdict {
        if estimate + error < self.cutoffs.no_below {
            Verdict::No
        } else if estimate - error >= self.cutoffs.yes_from {
            Verdict::Yes
        } else {
            Verdict::Maybe
        }
    }

    /// The upper bound on the cosine that the first level compares with `no_below`, up to rounding.
    pub(super) fn first_ceiling(&self, slab: &Slab, entry: usize, product: i32) -> f64 {
        let cutoffs = &self.cutoffs;
        let scale = f64::from(f32::from_ne_bytes(slab.scales()[entry])) * cutoffs.dot_scale;
        let bound = f64::from(split_bounds(slab.bounds()[entry])[0]);
        scale * f64::from(product) + (bound * cutoffs.bound_unit + cutoffs.error)
    }

    /// The estimate of the cosine by both levels and the query in integers, and its maximum error.
    pub(super) fn integer_estimate(&self, cpu: Cpu, slab: &Slab, entry: usize) -> (f64, f64) {
        let query = &self.quantized;
        let mut coarse = [0];
        dots(
            cpu,
            slab.entry_codes(entry),
            query,
            &mut coarse,
            &mut Ahead::none(),
        );
        let fine = fine_dot(cpu, slab.fine(entry), query);
        let dot = i64::from(FINE_STEPS) * i64::from(coarse[0]) + i64::from(fine);
        let scale = f64::from(f32::from_ne_bytes(slab.scales()[entry])) * query.scale();
        let bound = f64::from(split_bounds(slab.bounds()[entry])[1]) * self.fine_unit;
        let error = bound * (1.0 + query.lost()) + self.cutoffs.error;
        (scale * STEP * dot as f64, error)
    }

    /// The estimate of the cosine by both levels and the query in f64, and its maximum error.
    pub(super) fn estimate(&self, slab: &Slab, entry: usize) -> (f64, f64) {
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
    sums_of(slab.entry_codes(entry), slab.fine(entry), unit)
}

vectorised! {
    fn sums_of(codes: &[u8], fine: &[u8], unit: &[f64]) -> (f64, f64) {
        fine_sums_as_compiled(codes, fine, unit)
    }
}

/// [`fine_sums`] with the instruction set of the function into which it is inlined. The operations and
/// their order are the same with every set, and so are the sums.
#[inline(always)]
pub(super) fn fine_sums_as_compiled(codes: &[u8], fine: &[u8], unit: &[f64]) -> (f64, f64) {
    let mut dot = [0.0; LANES];
    // This does not overflow: the bytes of a corrupt entry, too, give `w` of at least 16 · -128 - 8 =
    // -2056, and a lane adds at most 4096 / 8 squares.
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

pub(super) fn norm(values: &[f16]) -> f64 {
    let squares = values.iter().map(|v| v.to_f64().powi(2));
    squares.sum::<f64>().sqrt()
}

fn norm_of_units(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
