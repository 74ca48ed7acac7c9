//! The inner loops of a sweep. All instruction sets give the same results.
//!
//! NumKong's products need both factors in the same type. Here, 8-bit codes are multiplied by a
//! 15-bit query, which makes the error bound tighter, and the next page is prefetched meanwhile.
//! `benches/bare_loop.rs` compares the sweep with a bare loop over codes and an 8-bit query; the
//! README has the results.
//!
//! The first loop computes dot products of many codes with one query in integers. The query's
//! values are 15-bit integers `k`. Codes are stored as unsigned bytes `c + 128`, so a kernel
//! computes `Σ (c + 128) k` and subtracts `128 Σ k`. Sums wrap at 32 bits, which is harmless,
//! because the query's scale is chosen such that the result fits ([`QuantizedQuery::new`]).
//!
//! The second loop ([`decide`]) decides entries from these dot products and the stored scales and
//! bounds ([`Cutoffs`]): the same f64 multiplications and additions in the same order, none of them
//! fused.

use photosearch_cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use photosearch_cpu::Level;

use super::code::{BIAS, split_bounds};

/// A unit vector as integers times a scale.
#[derive(Debug, Clone)]
pub struct QuantizedQuery {
    /// As long as the stride of the codes; zero after the query's last value.
    values: Vec<i16>,
    /// `values = 128 high + low`, for instructions that multiply bytes.
    high: Vec<i8>,
    low: Vec<i8>,
    /// `128 Σ values`.
    bias: i32,
    scale: f64,
    /// An upper bound of the norm of the quantisation error.
    lost: f64,
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
            high: values.iter().map(|v| (v >> 7) as i8).collect(),
            low: values.iter().map(|v| (v & 127) as i8).collect(),
            bias: values
                .iter()
                .fold(0, |sum, v| sum.wrapping_add(BIAS * i32::from(*v))),
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

    /// `during` is prefetched line by line during the next dot products, `after` all at once after
    /// them.
    #[inline]
    pub fn new(during: Lines, after: [Lines; 2]) -> Ahead {
        Ahead { during, after }
    }

    /// Lines to prefetch in each of `steps` steps, so that all are prefetched at the end.
    fn pace(&self, steps: usize) -> usize {
        self.during.count.div_ceil(steps.max(1))
    }

    /// Prefetches the next `lines` lines of `during`.
    #[inline(always)]
    fn ask(&mut self, lines: usize) {
        let (now, later) = self.during.split(lines);
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

/// Computes `dots[i] = Σ c k` for row `i` of `codes`, and prefetches `ahead` meanwhile.
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

fn portable_dots(codes: &[u8], query: &QuantizedQuery, dots: &mut [i32]) {
    for (row, dot) in codes.chunks_exact(query.values.len()).zip(dots) {
        let mut sum = 0i32;
        for (code, value) in row.iter().zip(&query.values) {
            sum = sum.wrapping_add(i32::from(*code) * i32::from(*value));
        }
        *dot = sum.wrapping_sub(query.bias);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Ahead, Cutoffs, Entries, QuantizedQuery};

    /// Number of rows whose sums are reduced together.
    const ROWS: usize = 4;

    /// # Safety
    /// The CPU has AVX-512 F, BW, DQ, VL and VNNI. `codes` consists of `dots.len()` rows of the
    /// query's stride, which is a multiple of 16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub unsafe fn avx512vnni(
        codes: &[u8],
        query: &QuantizedQuery,
        dots: &mut [i32],
        ahead: &mut Ahead,
    ) {
        let stride = query.values.len();
        let pace = ahead.pace(dots.len().div_ceil(ROWS));
        let bias = _mm_set1_epi32(query.bias);
        let mut row = 0;
        while row < dots.len() {
            ahead.ask(pace);
            let rows = ROWS.min(dots.len() - row);
            let codes = &codes[row * stride..];
            // SAFETY: rows `row..row + rows` lie within `codes`.
            let sums = unsafe {
                match rows {
                    1 => sum_rows::<1>(codes, query),
                    2 => sum_rows::<2>(codes, query),
                    3 => sum_rows::<3>(codes, query),
                    _ => sum_rows::<ROWS>(codes, query),
                }
            };
            let half = sums.map(|sum| {
                _mm256_add_epi32(
                    _mm512_castsi512_si256(sum),
                    _mm512_extracti64x4_epi64::<1>(sum),
                )
            });
            let quarters = _mm256_hadd_epi32(
                _mm256_hadd_epi32(half[0], half[1]),
                _mm256_hadd_epi32(half[2], half[3]),
            );
            let four = _mm_add_epi32(
                _mm256_castsi256_si128(quarters),
                _mm256_extracti128_si256::<1>(quarters),
            );
            let mask = (1u8 << rows) - 1;
            // SAFETY: only the first `rows` of the four values are written, and they lie within
            // `dots`.
            unsafe {
                _mm_mask_storeu_epi32(dots.as_mut_ptr().add(row), mask, _mm_sub_epi32(four, bias))
            };
            row += rows;
        }
    }

    /// The sums `Σ (c + 128) k` of N rows, per lane. The result has zeros for the rows from N to
    /// [`ROWS`].
    ///
    /// # Safety
    /// `codes` starts with N rows of the query's stride, which is a multiple of 16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn sum_rows<const N: usize>(codes: &[u8], query: &QuantizedQuery) -> [__m512i; ROWS] {
        let stride = query.values.len();
        debug_assert!(codes.len() >= N * stride && stride.is_multiple_of(16));
        let mut high = [_mm512_setzero_si512(); N];
        let mut low = [_mm512_setzero_si512(); N];
        let mut at = 0;
        while at < stride {
            let lanes = ((stride - at) / 4).min(16);
            let mask = (u32::MAX >> (32 - lanes)) as u16;
            // SAFETY: the mask keeps every load within the row and the query.
            unsafe {
                let k_high = _mm512_maskz_loadu_epi32(mask, query.high.as_ptr().add(at).cast());
                let k_low = _mm512_maskz_loadu_epi32(mask, query.low.as_ptr().add(at).cast());
                for row in 0..N {
                    let c = codes.as_ptr().add(row * stride + at).cast();
                    let c = _mm512_maskz_loadu_epi32(mask, c);
                    high[row] = _mm512_dpbusd_epi32(high[row], c, k_high);
                    low[row] = _mm512_dpbusd_epi32(low[row], c, k_low);
                }
            }
            at += 64;
        }
        let mut sums = [_mm512_setzero_si512(); ROWS];
        for row in 0..N {
            sums[row] = _mm512_add_epi32(_mm512_slli_epi32::<7>(high[row]), low[row]);
        }
        sums
    }

    /// # Safety
    /// The CPU has AVX-512 F, BW, DQ, VL. All arrays are as long as `entries.dots`, and `no` and
    /// `yes` have a bit for each entry.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub unsafe fn decide(entries: &Entries, cutoffs: &Cutoffs, no: &mut [u64], yes: &mut [u64]) {
        let dot_scale = _mm512_set1_pd(cutoffs.dot_scale);
        let bound_unit = _mm512_set1_pd(cutoffs.bound_unit);
        let error = _mm512_set1_pd(cutoffs.error);
        let no_below = _mm512_set1_pd(cutoffs.no_below);
        let yes_from = _mm512_set1_pd(cutoffs.yes_from);
        // On x86-64, which is little-endian, the first of two u16 is the lower half of a u32.
        let first_bound = _mm256_set1_epi32(0xffff);
        let count = entries.dots.len();
        for word in 0..count.div_ceil(64) {
            let (mut no_bits, mut yes_bits) = (0, 0);
            for at in (word * 64..count.min(word * 64 + 64)).step_by(8) {
                let mask = u8::MAX >> (8 - (count - at).min(8));
                // SAFETY: the mask keeps every load within the arrays.
                let (scale, bound, dot) = unsafe {
                    (
                        _mm256_maskz_loadu_ps(mask, entries.scales.as_ptr().add(at).cast()),
                        _mm256_maskz_loadu_epi32(mask, entries.bounds.as_ptr().add(at).cast()),
                        _mm256_maskz_loadu_epi32(mask, entries.dots.as_ptr().add(at)),
                    )
                };
                let scale = _mm512_mul_pd(_mm512_cvtps_pd(scale), dot_scale);
                let estimate = _mm512_mul_pd(scale, _mm512_cvtepi32_pd(dot));
                let bound = _mm512_cvtepi32_pd(_mm256_and_si256(bound, first_bound));
                let off = _mm512_add_pd(_mm512_mul_pd(bound, bound_unit), error);
                let high = _mm512_add_pd(estimate, off);
                let low = _mm512_sub_pd(estimate, off);
                let no = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(high, no_below);
                let yes = _mm512_cmp_pd_mask::<_CMP_GE_OQ>(low, yes_from);
                no_bits |= u64::from(no) << (at % 64);
                yes_bits |= u64::from(yes) << (at % 64);
            }
            no[word] = no_bits;
            yes[word] = yes_bits;
        }
    }

    /// # Safety
    /// The CPU has AVX2. `codes` consists of `dots.len()` rows of the query's stride, which is a
    /// multiple of 16.
    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2(codes: &[u8], query: &QuantizedQuery, dots: &mut [i32], ahead: &mut Ahead) {
        let stride = query.values.len();
        let pace = ahead.pace(dots.len());
        for (row, dot) in dots.iter_mut().enumerate() {
            ahead.ask(pace);
            let mut sum = _mm256_setzero_si256();
            for at in (0..stride).step_by(16) {
                // SAFETY: 16 codes of this row and 16 values of the query are in bounds.
                let (c, k) = unsafe {
                    (
                        _mm_loadu_si128(codes.as_ptr().add(row * stride + at).cast()),
                        _mm256_loadu_si256(query.values.as_ptr().add(at).cast()),
                    )
                };
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(c), k));
            }
            let sum = _mm_add_epi32(
                _mm256_castsi256_si128(sum),
                _mm256_extracti128_si256::<1>(sum),
            );
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b_01_00_11_10>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b_10_11_00_01>(sum));
            *dot = _mm_cvtsi128_si32(sum).wrapping_sub(query.bias);
        }
    }
}
