//! The inner loops of a sweep. All instruction sets give the same results.
//!
//! They do not use the library NumKong, as the models' matrix products do: its products need both
//! factors in the same type. Here, 8-bit codes are multiplied by a 15-bit query, which makes the error
//! bound tighter than an 8-bit query would, and the next page is prefetched meanwhile.
//! `benches/index.py` compares the sweep with a bare loop over codes and an 8-bit query
//! (`benches/bare_loop.rs`); the README has the results.
//!
//! The first loop computes dot products of many codes with one query in integers. The query's
//! values are 15-bit integers `k`. Codes are stored as unsigned bytes `c + 128`, so a kernel
//! computes `Σ (c + 128) k` and subtracts `128 Σ k`. Sums wrap at 32 bits, which is harmless,
//! because the query's scale is chosen such that the result fits ([`QuantizedQuery::new`]).
//!
//! [`fine_dot`] does the same for the second-level codes of one entry. They are four bits, stored as
//! `f + 8`, and the sums do not overflow.
//!
//! The last loop ([`decide`]) decides entries from the dot products of the first loop and the stored
//! scales and bounds ([`Cutoffs`]). With every instruction set it does the same f64 multiplications
//! and additions in the same order, none of them fused.

use photosearch_cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use photosearch_cpu::Level;

use super::code::{BIAS, FINE_BIAS, split_bounds};
use super::prefetch::Ahead;

#[cfg(target_arch = "x86_64")]
mod x86;

/// A unit vector as integers times a scale.
#[derive(Debug, Clone)]
pub struct QuantizedQuery {
    /// As long as the stride of the codes; zero after the query's last value.
    values: Vec<i16>,
    bytes: SplitValues,
    /// The values at even and at odd places, for the low and the high halves of the second level's
    /// bytes.
    evens: SplitValues,
    odds: SplitValues,
    /// `Σ values`, at most 2^12 · 2^14.
    sum: i32,
    scale: f64,
    /// An upper bound of the norm of the quantisation error.
    lost: f64,
}

/// Values as `128 high + low`, for instructions that multiply bytes.
#[derive(Debug, Clone)]
struct SplitValues {
    high: Vec<i8>,
    low: Vec<i8>,
}

impl SplitValues {
    fn new(values: impl Iterator<Item = i16>) -> SplitValues {
        let (high, low) = values.map(|v| ((v >> 7) as i8, (v & 127) as i8)).unzip();
        SplitValues { high, low }
    }
}

/// The largest integer of a query: 128 · 127 + 127 = 2^14 - 1 still splits into two signed bytes.
const MAX_VALUE: f64 = 16383.0;

impl QuantizedQuery {
    /// `unit` has norm 1 (or 0). `stride` is at least its length.
    pub fn new(unit: &[f64], stride: usize) -> QuantizedQuery {
        let largest = unit.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        // |Σ c k| ≤ 127 · dims · max |k| must stay below 2^31.
        let most = MAX_VALUE.min((f64::from(i32::MAX) / (127.0 * unit.len() as f64)).floor());
        let scale = if largest > 0.0 { largest / most } else { 1.0 };
        let mut values = vec![0i16; stride];
        let mut lost = 0.0;
        for (value, unit) in values.iter_mut().zip(unit) {
            let rounded = (unit / scale).round_ties_even().clamp(-most, most);
            *value = rounded as i16;
            lost += (unit - scale * rounded).powi(2);
        }
        QuantizedQuery {
            bytes: SplitValues::new(values.iter().copied()),
            evens: SplitValues::new(values.iter().copied().step_by(2)),
            odds: SplitValues::new(values.iter().copied().skip(1).step_by(2)),
            sum: values.iter().map(|v| i32::from(*v)).sum(),
            values,
            scale,
            lost: lost.sqrt() + super::ARITHMETIC,
        }
    }

    /// The value of one unit of a dot product of codes, before multiplication by the row's scale.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// An upper bound of the norm of the quantisation error.
    pub fn lost(&self) -> f64 {
        self.lost
    }

    /// The integers.
    pub fn values(&self) -> &[i16] {
        &self.values
    }

    /// What the bias of the first level's codes adds to a dot product, modulo 2^32.
    fn bias(&self) -> i32 {
        self.sum.wrapping_mul(BIAS)
    }

    /// What the bias of the second level's codes adds to a dot product.
    fn fine_bias(&self) -> i32 {
        self.sum * FINE_BIAS
    }
}

/// The parameters by which the first level of codes decides entries.
#[derive(Debug, Clone, Copy)]
pub struct Cutoffs {
    /// `dot · scale · dot_scale` estimates the cosine.
    pub dot_scale: f64,
    /// The error of the estimate is at most `bound · bound_unit + error`.
    pub bound_unit: f64,
    pub error: f64,
    /// If the cosine is below this, the row does not match.
    pub no_below: f64,
    /// If the cosine is at least this, the row matches.
    pub yes_from: f64,
}

/// The scales, bounds and dot products of the same entries.
pub struct Entries<'a> {
    pub scales: &'a [[u8; 4]],
    pub bounds: &'a [[u8; 4]],
    pub dots: &'a [i32],
}

/// Computes `dots[i] = Σ c k` for row `i` of `codes`. The variants for AVX2 and AVX-512 prefetch `ahead`
/// meanwhile.
///
/// # Panics
/// If `codes` does not consist of `dots.len()` rows of the query's stride.
pub fn dots(cpu: Cpu, codes: &[u8], query: &QuantizedQuery, dots: &mut [i32], ahead: &mut Ahead) {
    assert_eq!(
        codes.len(),
        dots.len() * query.values.len(),
        "codes of another shape than the query's"
    );
    match cpu {
        // SAFETY: the processor has AVX-512 with VNNI, and the sizes match.
        #[cfg(target_arch = "x86_64")]
        _ if cpu.has(Level::Avx512Vnni) => unsafe { x86::avx512vnni(codes, query, dots, ahead) },
        // SAFETY: the processor has AVX2, and the sizes match.
        #[cfg(target_arch = "x86_64")]
        _ if cpu.has(Level::Avx2) => unsafe { x86::avx2(codes, query, dots, ahead) },
        _ => portable_dots(codes, query, dots),
    }
}

/// For each entry `i`, sets bit `i % 64` of word `i / 64` of `no` or `yes` if the entry is decided
/// so, and clears it otherwise. (Bits after the last entry are unspecified.)
///
/// # Panics
/// If the lengths do not match.
pub fn decide(cpu: Cpu, entries: &Entries, cutoffs: &Cutoffs, no: &mut [u64], yes: &mut [u64]) {
    let count = entries.dots.len();
    assert!(
        entries.scales.len() == count
            && entries.bounds.len() == count
            && no.len() * 64 >= count
            && yes.len() * 64 >= count,
        "entries and verdicts of different lengths"
    );
    match cpu {
        // SAFETY: the processor has AVX-512, and the lengths match.
        #[cfg(target_arch = "x86_64")]
        _ if cpu.has(Level::Avx512) => unsafe { x86::decide(entries, cutoffs, no, yes) },
        _ => portable_decide(entries, cutoffs, no, yes),
    }
}

fn portable_decide(entries: &Entries, cutoffs: &Cutoffs, no: &mut [u64], yes: &mut [u64]) {
    let chunks = entries.scales.chunks(64).zip(entries.bounds.chunks(64));
    let chunks = chunks.zip(entries.dots.chunks(64)).zip(no).zip(yes);
    for ((((scales, bounds), dots), no), yes) in chunks {
        (*no, *yes) = (0, 0);
        for (i, ((scale, bounds), dot)) in scales.iter().zip(bounds).zip(dots).enumerate() {
            let scale = f64::from(f32::from_ne_bytes(*scale)) * cutoffs.dot_scale;
            let estimate = scale * f64::from(*dot);
            let bound = f64::from(split_bounds(*bounds)[0]);
            let error = bound * cutoffs.bound_unit + cutoffs.error;
            // A corrupt scale can give NaN, for which both comparisons are false, so the entry
            // stays undecided.
            *no |= u64::from(estimate + error < cutoffs.no_below) << i;
            *yes |= u64::from(estimate - error >= cutoffs.yes_from) << i;
        }
    }
}

/// Computes `Σ f k` for the second-level codes `f` of one entry.
///
/// # Panics
/// If `fine` does not have half the length of the query's stride.
pub fn fine_dot(cpu: Cpu, fine: &[u8], query: &QuantizedQuery) -> i32 {
    assert_eq!(
        2 * fine.len(),
        query.values.len(),
        "codes of another length than the query's"
    );
    let sum = match cpu {
        // SAFETY: the processor has AVX-512 with VNNI, and the sizes match.
        #[cfg(target_arch = "x86_64")]
        _ if cpu.has(Level::Avx512Vnni) => unsafe { x86::avx512vnni_fine(fine, query) },
        // SAFETY: the processor has AVX2, and the sizes match.
        #[cfg(target_arch = "x86_64")]
        _ if cpu.has(Level::Avx2) => unsafe { x86::avx2_fine(fine, query) },
        _ => portable_fine(fine, query),
    };
    sum - query.fine_bias()
}

fn portable_fine(fine: &[u8], query: &QuantizedQuery) -> i32 {
    let pairs = fine.iter().zip(query.values.as_chunks().0);
    let products = pairs.map(|(pair, [even, odd])| {
        i32::from(pair & 0xf) * i32::from(*even) + i32::from(pair >> 4) * i32::from(*odd)
    });
    products.sum()
}

fn portable_dots(codes: &[u8], query: &QuantizedQuery, dots: &mut [i32]) {
    for (row, dot) in codes.chunks_exact(query.values.len()).zip(dots) {
        let mut sum = 0i32;
        for (code, value) in row.iter().zip(&query.values) {
            sum = sum.wrapping_add(i32::from(*code) * i32::from(*value));
        }
        *dot = sum.wrapping_sub(query.bias());
    }
}
