//! The kernels in AVX2 and AVX-512 instructions.

use std::arch::x86_64::*;

use super::{Ahead, Cutoffs, Entries, QuantizedQuery, SplitValues};
use crate::prefetch::PORTION;

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
    let bias = _mm_set1_epi32(query.bias());
    let mut row = 0;
    while row < dots.len() {
        let rows = ROWS.min(dots.len() - row);
        let codes = &codes[row * stride..];
        // SAFETY: rows `row..row + rows` lie within `codes`.
        let sums = unsafe {
            match rows {
                1 => sum_rows::<1>(codes, query, ahead),
                2 => sum_rows::<2>(codes, query, ahead),
                3 => sum_rows::<3>(codes, query, ahead),
                _ => sum_rows::<ROWS>(codes, query, ahead),
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
unsafe fn sum_rows<const N: usize>(
    codes: &[u8],
    query: &QuantizedQuery,
    ahead: &mut Ahead,
) -> [__m512i; ROWS] {
    let stride = query.values.len();
    debug_assert!(codes.len() >= N * stride && stride.is_multiple_of(16));
    let mut high = [_mm512_setzero_si512(); N];
    let mut low = [_mm512_setzero_si512(); N];
    let mut at = 0;
    while at < stride {
        let lanes = ((stride - at) / 4).min(16);
        let mask = (u32::MAX >> (32 - lanes)) as u16;
        if at.is_multiple_of(PORTION) {
            ahead.ask_for_portions(N);
        }
        // SAFETY: the mask keeps every load within the row and the query.
        unsafe {
            let k_high = _mm512_maskz_loadu_epi32(mask, query.bytes.high.as_ptr().add(at).cast());
            let k_low = _mm512_maskz_loadu_epi32(mask, query.bytes.low.as_ptr().add(at).cast());
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
    for (row, dot) in dots.iter_mut().enumerate() {
        let mut sum = _mm256_setzero_si256();
        for at in (0..stride).step_by(16) {
            if at.is_multiple_of(PORTION) {
                ahead.ask_for_portions(1);
            }
            // SAFETY: 16 codes of this row and 16 values of the query are in bounds.
            let (c, k) = unsafe {
                (
                    _mm_loadu_si128(codes.as_ptr().add(row * stride + at).cast()),
                    _mm256_loadu_si256(query.values.as_ptr().add(at).cast()),
                )
            };
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(c), k));
        }
        *dot = sum_of_lanes(sum).wrapping_sub(query.bias());
    }
}

/// The sum of the lanes, modulo 2^32.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_lanes(lanes: __m256i) -> i32 {
    let sum = _mm_add_epi32(
        _mm256_castsi256_si128(lanes),
        _mm256_extracti128_si256::<1>(lanes),
    );
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b_01_00_11_10>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b_10_11_00_01>(sum));
    _mm_cvtsi128_si32(sum)
}

/// The sum `Σ (f + 8) k` of one entry.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and VNNI. `fine` has half the length of the query's stride,
/// which is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn avx512vnni_fine(fine: &[u8], query: &QuantizedQuery) -> i32 {
    let low_half = _mm512_set1_epi8(0xf);
    let mut high = [_mm512_setzero_si512(); 2];
    let mut low = [_mm512_setzero_si512(); 2];
    for at in (0..fine.len()).step_by(64) {
        let lanes = ((fine.len() - at) / 4).min(16);
        let mask = (u32::MAX >> (32 - lanes)) as u16;
        // SAFETY: the mask keeps the load within the codes.
        let pairs = unsafe { _mm512_maskz_loadu_epi32(mask, fine.as_ptr().add(at).cast()) };
        let evens = _mm512_and_si512(pairs, low_half);
        let odds = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), low_half);
        let parts: [(_, &SplitValues); 2] = [(evens, &query.evens), (odds, &query.odds)];
        for (i, (codes, values)) in parts.into_iter().enumerate() {
            // SAFETY: the even and the odd values of the query are as many as the codes, so the mask
            // keeps the loads within them.
            let (k_high, k_low) = unsafe {
                (
                    _mm512_maskz_loadu_epi32(mask, values.high.as_ptr().add(at).cast()),
                    _mm512_maskz_loadu_epi32(mask, values.low.as_ptr().add(at).cast()),
                )
            };
            high[i] = _mm512_dpbusd_epi32(high[i], codes, k_high);
            low[i] = _mm512_dpbusd_epi32(low[i], codes, k_low);
        }
    }
    let high = _mm512_slli_epi32::<7>(_mm512_add_epi32(high[0], high[1]));
    _mm512_reduce_add_epi32(_mm512_add_epi32(high, _mm512_add_epi32(low[0], low[1])))
}

/// The sum `Σ (f + 8) k` of one entry.
///
/// # Safety
/// The CPU has AVX2. `fine` has half the length of the query's stride, which is a multiple of 16.
#[target_feature(enable = "avx2")]
pub unsafe fn avx2_fine(fine: &[u8], query: &QuantizedQuery) -> i32 {
    let low_half = _mm_set1_epi8(0xf);
    let mut sum = _mm256_setzero_si256();
    for at in (0..fine.len()).step_by(8) {
        // SAFETY: 8 bytes of codes and 16 values of the query are in bounds.
        let (pairs, k) = unsafe {
            (
                _mm_loadl_epi64(fine.as_ptr().add(at).cast()),
                _mm256_loadu_si256(query.values.as_ptr().add(2 * at).cast()),
            )
        };
        let evens = _mm_and_si128(pairs, low_half);
        let odds = _mm_and_si128(_mm_srli_epi16::<4>(pairs), low_half);
        let codes = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(evens, odds));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes, k));
    }
    sum_of_lanes(sum)
}
