//! Computes a dot product and a squared norm in one pass over half-precision values.
//!
//! Every instruction set gives the same bits, for two reasons:
//! - A product of two f16 values is exact in f32 (11 + 11 significant bits fit into 24, and
//!   exponents from 2^-48 to 2^32 are in range), so fused and separate multiply-add round alike.
//! - The sums run in [`LANES`] lanes, with value `i` always in lane `i % LANES`, and the lanes are
//!   then folded in a fixed order. No sum of [`super::MAX_DIMS`] such products can overflow.
//!
//! NumKong, which the models use for matrices, is not used here, because its order of summation depends
//! on the CPU, so whether a row matches would depend on the CPU too. NumKong's dot product alone takes
//! 7 ns for 128 values and 101 for 2048; dot product and norm here take 25 and 66 to 79 (Zen 5, one
//! thread, minimum of 200 runs).

use half::f16;
use half::slice::HalfFloatSliceExt;
use photosearch_cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use photosearch_cpu::Level;

/// Number of partial sums of each result: two registers of AVX-512, four of AVX2.
const LANES: usize = 32;

/// The lanes of a dot product and of a squared norm.
struct Sums {
    dot: [f32; LANES],
    norm: [f32; LANES],
}

/// Returns `(Σ x_i q_i, Σ x_i²)`. `q` contains f16 values converted to f32.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn dot_and_squared_norm(x: &[f16], q: &[f32]) -> (f32, f32) {
    dot_and_squared_norm_at(Cpu::best(), x, q)
}

fn dot_and_squared_norm_at(cpu: Cpu, x: &[f16], q: &[f32]) -> (f32, f32) {
    assert_eq!(x.len(), q.len(), "vectors of different lengths");
    let sums = match cpu {
        // SAFETY: the processor has AVX-512, and the lengths are equal.
        #[cfg(target_arch = "x86_64")]
        _ if cpu.has(Level::Avx512) => unsafe { x86::avx512(x, q) },
        // SAFETY: the processor has AVX2 and F16C, and the lengths are equal.
        #[cfg(target_arch = "x86_64")]
        _ if cpu.has(Level::Avx2) => unsafe { x86::avx2(x, q) },
        _ => portable(x, q),
    };
    (fold(sums.dot), fold(sums.norm))
}

/// `Σ x_i²`, added in the same order as in [`dot_and_squared_norm`].
#[inline]
pub fn squared_norm(x: &[f16]) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut values = [0.0; LANES];
    for block in x.chunks(LANES) {
        // A conversion of single values would look up the processor's features for each.
        let values = &mut values[..block.len()];
        block.convert_to_f32_slice(values);
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += *value * *value;
        }
    }
    fold(lanes)
}

/// Adds the lanes by repeatedly adding the upper half to the lower half.
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

fn portable(x: &[f16], q: &[f32]) -> Sums {
    let mut sums = Sums {
        dot: [0.0; LANES],
        norm: [0.0; LANES],
    };
    for (x, q) in x.chunks(LANES).zip(q.chunks(LANES)) {
        for (lane, (x, q)) in x.iter().zip(q).enumerate() {
            let x = f32::from(*x);
            sums.dot[lane] += x * q;
            sums.norm[lane] += x * x;
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::{LANES, Sums, portable};

    /// # Safety
    /// The CPU has AVX-512F, and `x` and `q` have the same length.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(x: &[f16], q: &[f32]) -> Sums {
        let blocks = x.len() / LANES;
        let mut dot = [_mm512_setzero_ps(); 2];
        let mut norm = [_mm512_setzero_ps(); 2];
        for block in 0..blocks {
            for half in 0..2 {
                let at = block * LANES + half * 16;
                // SAFETY: at + 16 <= blocks * LANES <= the length of both slices.
                let (bits, q) = unsafe {
                    (
                        _mm256_loadu_si256(x.as_ptr().add(at).cast()),
                        _mm512_loadu_ps(q.as_ptr().add(at)),
                    )
                };
                let x = _mm512_cvtph_ps(bits);
                dot[half] = _mm512_fmadd_ps(x, q, dot[half]);
                norm[half] = _mm512_fmadd_ps(x, x, norm[half]);
            }
        }
        let mut sums = tail(x, q, blocks);
        for half in 0..2 {
            add512(&mut sums.dot, half, dot[half]);
            add512(&mut sums.norm, half, norm[half]);
        }
        sums
    }

    #[target_feature(enable = "avx512f")]
    fn add512(lanes: &mut [f32; LANES], half: usize, sum: __m512) {
        let lanes = &mut lanes[half * 16..half * 16 + 16];
        // SAFETY: the slice has 16 values.
        unsafe {
            let tail = _mm512_loadu_ps(lanes.as_ptr());
            _mm512_storeu_ps(lanes.as_mut_ptr(), _mm512_add_ps(sum, tail));
        }
    }

    /// # Safety
    /// The CPU has AVX2 and F16C, and `x` and `q` have the same length.
    #[target_feature(enable = "avx2,f16c")]
    pub unsafe fn avx2(x: &[f16], q: &[f32]) -> Sums {
        let blocks = x.len() / LANES;
        let mut dot = [_mm256_setzero_ps(); 4];
        let mut norm = [_mm256_setzero_ps(); 4];
        for block in 0..blocks {
            for quarter in 0..4 {
                let at = block * LANES + quarter * 8;
                // SAFETY: at + 8 <= blocks * LANES <= the length of both slices.
                let (bits, q) = unsafe {
                    (
                        _mm_loadu_si128(x.as_ptr().add(at).cast()),
                        _mm256_loadu_ps(q.as_ptr().add(at)),
                    )
                };
                let x = _mm256_cvtph_ps(bits);
                dot[quarter] = _mm256_add_ps(dot[quarter], _mm256_mul_ps(x, q));
                norm[quarter] = _mm256_add_ps(norm[quarter], _mm256_mul_ps(x, x));
            }
        }
        let mut sums = tail(x, q, blocks);
        for quarter in 0..4 {
            add256(&mut sums.dot, quarter, dot[quarter]);
            add256(&mut sums.norm, quarter, norm[quarter]);
        }
        sums
    }

    #[target_feature(enable = "avx2")]
    fn add256(lanes: &mut [f32; LANES], quarter: usize, sum: __m256) {
        let lanes = &mut lanes[quarter * 8..quarter * 8 + 8];
        // SAFETY: the slice has 8 values.
        unsafe {
            let tail = _mm256_loadu_ps(lanes.as_ptr());
            _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(sum, tail));
        }
    }

    /// The sums over the values after the last whole block. Each lane gets at most one of them,
    /// which is added last, as in the portable loop.
    fn tail(x: &[f16], q: &[f32], blocks: usize) -> Sums {
        portable(&x[blocks * LANES..], &q[blocks * LANES..])
    }
}

#[cfg(test)]
mod tests {
    use photosearch_cpu::Level;
    use proptest::prelude::*;

    use super::*;

    /// An instruction level for each variant of the kernel that this processor can run.
    fn cpus() -> impl Iterator<Item = Cpu> {
        [Level::Avx512, Level::Avx2, Level::Baseline]
            .into_iter()
            .filter_map(Cpu::at)
    }

    fn widen(values: &[f16]) -> Vec<f32> {
        values.iter().map(|value| f32::from(*value)).collect()
    }

    /// Any finite f16 values, including tiny, huge and subnormal ones and both zeros.
    fn halves(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<f16>> {
        let any = any::<u16>()
            .prop_map(f16::from_bits)
            .prop_filter("finite", |v| v.is_finite());
        let usual = (-1.0f32..1.0).prop_map(f16::from_f32);
        proptest::collection::vec(prop_oneof![1 => any, 3 => usual], len)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_kernel_gives_the_same_bits(pairs in halves(2..600)) {
            let (x, q) = pairs.split_at(pairs.len() / 2);
            let (x, q) = (&x[..x.len().min(q.len())], widen(&q[..x.len().min(q.len())]));
            let portable = portable(x, &q);
            let (dot, norm) = (fold(portable.dot), fold(portable.norm));
            for cpu in cpus() {
                let (d, n) = dot_and_squared_norm_at(cpu, x, &q);
                prop_assert_eq!(d.to_bits(), dot.to_bits(), "{:?}", cpu);
                prop_assert_eq!(n.to_bits(), norm.to_bits(), "{:?}", cpu);
            }
            prop_assert_eq!(squared_norm(x).to_bits(), norm.to_bits());
        }

        #[test]
        fn agrees_with_f64(pairs in halves(2..600)) {
            let (x, q) = pairs.split_at(pairs.len() / 2);
            let q = &q[..x.len()];
            let exact: f64 = x.iter().zip(q).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let size: f64 =
                x.iter().zip(q).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
            let (dot, norm) = dot_and_squared_norm(x, &widen(q));
            // n additions in f32, each with a relative error of 2^-24 of the partial sum.
            let bound = size * (x.len() as f64) * 2f64.powi(-24);
            prop_assert!((f64::from(dot) - exact).abs() <= bound, "{dot} against {exact}");
            let squares: f64 = x.iter().map(|a| f64::from(*a).powi(2)).sum();
            prop_assert!((f64::from(norm) - squares).abs() <= squares * 600.0 * 2f64.powi(-24));
        }

        #[test]
        fn a_vector_times_itself_is_its_squared_norm(x in halves(1..300)) {
            for cpu in cpus() {
                let (dot, norm) = dot_and_squared_norm_at(cpu, &x, &widen(&x));
                prop_assert_eq!(dot.to_bits(), norm.to_bits());
            }
        }
    }

    #[test]
    fn the_largest_vector_does_not_overflow() {
        let x = vec![f16::MAX; crate::MAX_DIMS];
        for cpu in cpus() {
            let (dot, norm) = dot_and_squared_norm_at(cpu, &x, &widen(&x));
            assert!(dot.is_finite() && norm == dot);
        }
    }

    #[test]
    fn lane_order_is_fixed() {
        // A sum that depends on the order of additions, so that every CPU must keep the specified
        // order. The expected bits come from a float32 emulation of the lanes in numpy.
        let x: Vec<f16> = (0..1000u32)
            .map(|i| f16::from_f32(((i * 7919) % 1999) as f32 / 1999.0 - 0.4))
            .collect();
        let q: Vec<f32> = widen(&x.iter().rev().copied().collect::<Vec<_>>());
        for cpu in cpus() {
            let (dot, norm) = dot_and_squared_norm_at(cpu, &x, &q);
            assert_eq!(
                (dot.to_bits(), norm.to_bits()),
                (0x4252_f684, 0x42bd_15ef),
                "{cpu:?}"
            );
        }
    }
}
