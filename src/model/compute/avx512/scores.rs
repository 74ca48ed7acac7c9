//! Turns attention scores into weights with AVX-512.
//!
//! For 1024 keys this takes 0.17 µs; the loops of [`ops`](crate::compute::ops) as compiled for AVX2
//! take 1.17 µs (Zen 5, 2 shared cores; `cost::of_weights`).

use super::available;
use crate::compute::kernel::SCORE_UNIT;

/// The largest score; negative infinity if there are none. NaNs are ignored.
///
/// # Panics
/// If the processor lacks the instructions.
pub fn largest(x: &[f32]) -> f32 {
    assert!(available());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `available` was checked.
    return unsafe { x86::largest(x) };
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no processor of this kind has AVX-512")
}

/// Writes `e^(x - shift)`, rounded to bf16, to `out` and returns the sum before rounding. The
/// relative error before rounding is about 2^-18. Values below 2^-126 become 0.
///
/// # Panics
/// If the lengths are not the same multiple of [`SCORE_UNIT`], or the processor lacks the
/// instructions.
pub fn weights(x: &[f32], shift: f32, out: &mut [u16]) -> f32 {
    assert!(available());
    assert_eq!(x.len(), out.len());
    assert!(x.len().is_multiple_of(SCORE_UNIT));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `available` was checked.
    return unsafe { x86::weights(x, shift, out) };
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no processor of this kind has AVX-512")
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::SCORE_UNIT;

    /// f32 lanes of a register.
    const LANES: usize = 16;

    #[target_feature(enable = "avx512f")]
    pub fn largest(x: &[f32]) -> f32 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut lanes = _mm512_set1_ps(f32::NEG_INFINITY);
        for chunk in chunks {
            // SAFETY: a chunk has [`LANES`] elements.
            let x = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
            // If one operand is NaN, the instruction returns the second.
            lanes = _mm512_max_ps(x, lanes);
        }
        rest.iter()
            .copied()
            .fold(_mm512_reduce_max_ps(lanes), f32::max)
    }

    /// Reduces x - shift = (n + r) ln 2 with |r| ≤ 1/2 and uses the Taylor polynomial of degree 5
    /// for 2^r.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn weights(x: &[f32], shift: f32, out: &mut [u16]) -> f32 {
        const LOWEST: f32 = -126.0;
        // (ln 2)^k / k!
        const TERMS: [f32; 5] = [
            9.618_129e-3,
            5.550_411e-2,
            0.240_226_5,
            std::f32::consts::LN_2,
            1.0,
        ];
        let log2_e = _mm512_set1_ps(std::f32::consts::LOG2_E);
        let shift = _mm512_set1_ps(shift * std::f32::consts::LOG2_E);
        let mut sums = [_mm512_setzero_ps(); 2];
        let (scores, _) = x.as_chunks::<SCORE_UNIT>();
        let (out, _) = out.as_chunks_mut::<SCORE_UNIT>();
        for (x, out) in scores.iter().zip(out) {
            let mut powers = [_mm512_setzero_ps(); 2];
            for (i, power) in powers.iter_mut().enumerate() {
                // SAFETY: a unit has twice [`LANES`] elements.
                let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(i * LANES)) };
                let t = _mm512_fmsub_ps(x, log2_e, shift);
                // A NaN must stay NaN.
                let seen = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(t, _mm512_set1_ps(LOWEST));
                let n = _mm512_roundscale_ps::<0>(t);
                let r = _mm512_sub_ps(t, n);
                let mut p = _mm512_set1_ps(1.333_355_8e-3);
                for term in TERMS {
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(term));
                }
                *power = _mm512_maskz_scalef_ps(seen, p, n);
                sums[i] = _mm512_add_ps(sums[i], *power);
            }
            let rounded = _mm512_cvtne2ps_pbh(powers[1], powers[0]);
            // SAFETY: these are 32 bf16 values, and a unit has room for them.
            unsafe {
                let bits = std::mem::transmute::<__m512bh, __m512i>(rounded);
                _mm512_storeu_si512(out.as_mut_ptr().cast(), bits);
            }
        }
        _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn weights_are_powers_and_their_sum() {
        if !available() {
            return;
        }
        let scores: Vec<f32> = (0..96).map(|i| 3.0 - (i * i) as f32 * 0.011).collect();
        assert_eq!(largest(&scores[..77]), 3.0);
        assert_eq!(largest(&[]), f32::NEG_INFINITY);
        let mut rounded = vec![0; 96];
        let sum = weights(&scores, 3.0, &mut rounded);
        let mut expected_sum = 0.0;
        for (&bits, score) in rounded.iter().zip(&scores) {
            let expected = f64::from(score - 3.0).exp();
            expected_sum += expected;
            let got = bf16::from_bits(bits).to_f64();
            // Half a rounding step of bf16, the error of the polynomial, and the values that become
            // 0.
            assert!(
                (got - expected).abs() <= expected * (1.0 / 256.0 + 1e-5) + 1.2e-38,
                "{score}"
            );
        }
        assert!((f64::from(sum) - expected_sum).abs() < 1e-5 * expected_sum);
        let unseen = weights(&[f32::NEG_INFINITY; 32], 0.0, &mut rounded[..32]);
        assert_eq!((unseen, &rounded[..32]), (0.0, &[0; 32][..]));
        assert!(weights(&[f32::NAN; 32], 0.0, &mut rounded[..32]).is_nan());
    }
}
