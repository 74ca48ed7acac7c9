//! Norms, activations and rotations on rows of f32, over the threads of the pool. The loops are
//! written so that the compiler vectorises them, and are compiled for each level of instructions
//! that [`vectorised!`] names.
//!
//! The exponential function is implemented here because the standard library's needs a call for
//! each element. It takes 0.25 ns per element instead of 1.4, and a GELU by tanh takes 0.37 ns
//! instead of 10.7 (Zen 5, one thread, 1024 elements; `tests::cost`).

use photosearch_cpu::vectorised;

use super::pool;

/// Approximate costs per element, in multiplications, for [`pool::for_rows`]. An addition waits
/// for memory.
const ADD_COST: usize = 4;
const NORM_COST: usize = 8;
const ACTIVATION_COST: usize = 24;

/// `e^x` with an error of about two units in the last place; 0 below -87.3. Reduces x = n ln 2 + r
/// with |r| ≤ ln 2 / 2 and uses the Taylor polynomial of degree 7 for r (remainder below 2^-27).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.7;
    /// Adding 1.5 · 2^23 rounds to an integer, and leaves it in the low bits. A conversion by `as`
    /// would not be vectorised.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as the sum of two parts. The first part has so few bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(LOWEST, HIGHEST);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * r + c;
    }
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23); // 2^n
    // `clamp` passes a NaN on, so the result is NaN.
    if x < LOWEST { 0.0 } else { p * power }
}

vectorised! {
    /// Replaces each `x` by `e^(x - shift)`.
    pub fn exp_all(x: &mut [f32], shift: f32) {
        for x in x {
            *x = exp(*x - shift);
        }
    }
}

vectorised! {
    fn silu_gate_part(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

vectorised! {
    fn quick_gelu_part(x: &mut [f32]) {
        for x in x {
            *x /= 1.0 + exp(-1.702 * *x);
        }
    }
}

vectorised! {
    fn silu_part(x: &mut [f32]) {
        for x in x {
            *x /= 1.0 + exp(-*x);
        }
    }
}

vectorised! {
    /// `x (1 + tanh y) / 2` is `x / (1 + e^(-2y))`, with `y = √(2 / π) (x + 0.044715 x³)`.
    fn gelu_tanh_part(x: &mut [f32]) {
        const MINUS_TWICE_SCALE: f32 = -2.0 * 0.797_884_6; // √(2 / π) = 0.7978846
        for x in x {
            let inner = MINUS_TWICE_SCALE * *x * (1.0 + 0.044_715 * *x * *x);
            *x /= 1.0 + exp(inner);
        }
    }
}

/// `Φ(x)`, the standard normal distribution function. `1 - Φ(|x|)` is `e^(-x²/2)` times a
/// polynomial in `t = 1 / (1 + 0.3 |x|)` (the form of Abramowitz and Stegun 1964, 7.1.26), fitted
/// to the least relative error, 7e-8, for |x| ≤ 14. Computed in f32, the relative error is up to
/// 4e-7 near 0, and up to 4e-6 for large |x|, where x² is rounded.
#[inline(always)]
fn normal(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3 * x.abs());
    let mut p = 0.038_870_92;
    for c in [
        -0.171_443_55,
        0.233_107_47,
        -0.081_282_3,
        0.145_609_83,
        0.093_472_585,
        0.122_204_59,
        0.119_451_4,
        9.096_308_6e-6,
    ] {
        p = p * t + c;
    }
    let tail = p * exp(-0.5 * x * x);
    if x < 0.0 { tail } else { 1.0 - tail }
}

vectorised! {
    fn gelu_erf_part(x: &mut [f32]) {
        for x in x {
            *x *= normal(*x);
        }
    }
}

vectorised! {
    fn rms_norm_rows(x: &[f32], out: &mut [f32], weight: &[f32], epsilon: f32) {
        let size = weight.len();
        for (x, out) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
            let scale = (sum_of(x, |x| x * x) / size as f32 + epsilon).sqrt().recip();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * weight;
            }
        }
    }
}

vectorised! {
    fn layer_norm_rows(x: &[f32], out: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        let size = weight.len();
        for (x, out) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
            let mean = sum_of(x, |x| x) / size as f32;
            let variance = sum_of(x, |x| (x - mean) * (x - mean)) / size as f32;
            let scale = (variance + epsilon).sqrt().recip();
            for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = (x - mean) * scale * weight + bias;
            }
        }
    }
}

/// Adds `y` to `x`.
pub fn add(x: &mut [f32], y: &[f32]) {
    pool::for_rows(x, 1, y.len() * ADD_COST, |first, x| {
        let y = &y[first..][..x.len()];
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    });
}

/// The sum of the elements.
pub fn sum(x: &[f32]) -> f32 {
    sum_of(x, |x| x)
}

/// The largest element; negative infinity if there is none.
pub fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    rest.iter()
        .chain(&lanes)
        .fold(f32::NEG_INFINITY, |most, &x| most.max(x))
}

/// Sums in sixteen lanes, which the compiler can vectorise, and adds the lanes pairwise at the end.
#[inline(always)]
fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Computes `x / rms(x) · weight` for each row of `weight.len()` elements.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let size = weight.len();
    let mut out = vec![0.0; x.len()];
    pool::for_rows(&mut out, size, x.len() * NORM_COST, |first, out| {
        rms_norm_rows(&x[first * size..][..out.len()], out, weight, epsilon);
    });
    out
}

/// Computes `(x - mean) / deviation · weight + bias` for each row. The variance is computed
/// from `x - mean` in a second pass, because `E[x²] - E[x]²` cancels in f32 if the mean is large.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let size = weight.len();
    let mut out = vec![0.0; x.len()];
    pool::for_rows(&mut out, size, x.len() * NORM_COST, |first, out| {
        layer_norm_rows(&x[first * size..][..out.len()], out, weight, bias, epsilon);
    });
    out
}

/// Replaces `gate` by `gate · sigmoid(gate) · up`.
pub fn silu_gate(gate: &mut [f32], up: &[f32]) {
    pool::for_rows(gate, 1, up.len() * ACTIVATION_COST, |first, gate| {
        silu_gate_part(gate, &up[first..][..gate.len()]);
    });
}

/// Replaces `x` by `x · sigmoid(x)`.
pub fn silu(x: &mut [f32]) {
    let cost = x.len() * ACTIVATION_COST;
    pool::for_rows(x, 1, cost, |_, x| silu_part(x));
}

/// Replaces `x` by `x · sigmoid(1.702 x)`, the other approximation of [`gelu_erf`] that Hendrycks
/// and Gimpel (2016) give.
pub fn quick_gelu(x: &mut [f32]) {
    let cost = x.len() * ACTIVATION_COST;
    pool::for_rows(x, 1, cost, |_, x| quick_gelu_part(x));
}

/// Replaces `x` by the tanh approximation of [`gelu_erf`] (Hendrycks and Gimpel 2016).
pub fn gelu_tanh(x: &mut [f32]) {
    let cost = x.len() * ACTIVATION_COST;
    pool::for_rows(x, 1, cost, |_, x| gelu_tanh_part(x));
}

/// Replaces `x` by `x Φ(x)`.
pub fn gelu_erf(x: &mut [f32]) {
    let cost = x.len() * ACTIVATION_COST;
    pool::for_rows(x, 1, cost, |_, x| gelu_erf_part(x));
}

/// Replaces `x` by `max(x, 0)`.
pub fn relu(x: &mut [f32]) {
    // A NaN stays NaN.
    x.iter_mut()
        .for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
}

vectorised! {
    /// Rotates the pairs (i, i + half) of one head.
    fn rotate_head(x: &mut [f32], cos: &[f32], sin: &[f32]) {
        let (low, high) = x.split_at_mut(cos.len());
        for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
        }
    }
}

/// Rotates the first `heads` heads of each row of `x`, [n, width]. `cos` and `sin` are
/// [n, head_dim / 2].
pub fn rotate(x: &mut [f32], width: usize, heads: usize, cos: &[f32], sin: &[f32]) {
    let n = x.len() / width.max(1);
    let half = cos.len() / n.max(1);
    let cost = 2 * n * heads * half * NORM_COST;
    pool::for_rows(x, width, cost, |first, x| {
        for (row, x) in (first..).zip(x.chunks_exact_mut(width)) {
            let own = row * half..(row + 1) * half;
            for head in x[..heads * 2 * half].chunks_exact_mut(2 * half) {
                rotate_head(head, &cos[own.clone()], &sin[own.clone()]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f32, expected: f64, steps: f64) {
        let step = f64::from(f32::EPSILON) * expected.abs().max(f64::from(f32::MIN_POSITIVE));
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= steps * step,
            "{got} for {expected}: {} steps",
            error / step
        );
    }

    fn samples() -> Vec<f32> {
        let mut all: Vec<f32> = (-8700..8800).map(|i| i as f32 * 0.01 + 0.003).collect();
        all.extend([
            0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.0999, 0.1001, -0.0999, -0.1001,
        ]);
        all
    }

    #[test]
    fn exponentials() {
        for x in samples() {
            close(exp(x), f64::from(x).exp(), 2.0);
        }
        for (x, expected) in [
            (-1e30, 0.0),
            (f32::NEG_INFINITY, 0.0),
            (-88.0, 0.0),
            (0.0, 1.0),
        ] {
            assert_eq!(exp(x), expected);
        }
        assert!(exp(f32::NAN).is_nan());
        let mut all = samples();
        exp_all(&mut all, 1.5);
        for (got, x) in all.into_iter().zip(samples()) {
            if x - 1.5 > -87.0 {
                close(got, f64::from(x - 1.5).exp(), 3.0);
            }
        }
    }

    #[test]
    fn activations() {
        let mut got = samples();
        let up: Vec<f32> = samples().iter().map(|x| x * 0.5 + 1.0).collect();
        silu_gate(&mut got, &up);
        for ((got, x), up) in got.iter().zip(samples()).zip(&up) {
            let (x, up) = (f64::from(x), f64::from(*up));
            // The sigmoid is 0 in f32 if e^-x overflows.
            let expected = x / (1.0 + (-x).exp()) * up;
            assert!(
                (f64::from(*got) - expected).abs() <= 1e-6 * expected.abs() + 1e-35,
                "{x}"
            );
        }
        let mut got = samples();
        gelu_tanh(&mut got);
        for (got, x) in got.iter().zip(samples()) {
            let x = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let expected = 0.5 * x * (1.0 + inner.tanh());
            assert!(
                (f64::from(*got) - expected).abs() <= 2e-7 * x.abs() + 1e-35,
                "{x}"
            );
        }
        for (got, x) in {
            let mut got = samples();
            gelu_erf(&mut got);
            got.into_iter().zip(samples())
        } {
            let x = f64::from(x);
            let scaled = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
            // Computed for |x|, for which erf does not cancel.
            let rest = 0.5 * (1.0 - candle_core::cpu::erf::erf_f64(scaled));
            let expected = x * if x < 0.0 { rest } else { 1.0 - rest };
            let relative = match x.abs() {
                0.0..4.0 => 6e-7,
                // For larger |x|, erf cancels in f64.
                4.0..5.5 => 2e-6,
                _ => 1.0,
            };
            let other = if x < 0.0 { 0.0 } else { 1e-7 };
            let tolerance = x.abs() * (relative * rest + other) + 1e-16 * x.abs() + 1e-37;
            assert!(
                (f64::from(got) - expected).abs() <= tolerance,
                "{got} for {x}"
            );
        }
        // Φ(1) and Φ(-2), from a table of the normal distribution.
        let mut got = [1.0, -2.0, 0.0, 6.0];
        gelu_erf(&mut got);
        for (got, expected) in got.into_iter().zip([0.841_344_7, -0.045_500_26, 0.0, 6.0]) {
            assert!((got - expected).abs() <= 1e-6, "{got} for {expected}");
        }
    }

    #[test]
    #[ignore = "measures"]
    fn cost() {
        type Function = fn(&mut [f32]);
        let each: [(&str, Function); 5] = [
            ("exp", |x| exp_all(x, 0.0)),
            ("gelu_tanh", gelu_tanh_part),
            ("gelu_erf", gelu_erf_part),
            ("quick_gelu", quick_gelu_part),
            ("silu", silu_part),
        ];
        for (name, function) in each {
            let x: Vec<f32> = (0..1024).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
            let mut own = x.clone();
            let least = (0..2000)
                .map(|_| {
                    own.copy_from_slice(&x);
                    let start = std::time::Instant::now();
                    function(std::hint::black_box(&mut own));
                    start.elapsed().as_secs_f64()
                })
                .fold(f64::INFINITY, f64::min);
            println!("{name}: {:.2} ns per element", least * 1e9 / 1024.0);
        }
    }

    #[test]
    fn norms() {
        for size in [1, 5, 16, 100] {
            let x: Vec<f32> = (0..size * 3)
                .map(|i| (i as f32 * 0.37).sin() + 100.0)
                .collect();
            let weight: Vec<f32> = (0..size).map(|i| 1.0 + i as f32 * 0.01).collect();
            let bias: Vec<f32> = (0..size).map(|i| i as f32 * 0.1).collect();
            let rms = rms_norm(&x, &weight, 1e-6);
            let layer = layer_norm(&x, &weight, &bias, 1e-6);
            for row in 0..3 {
                let x: Vec<f64> = x[row * size..][..size].iter().map(|&x| x.into()).collect();
                let n = size as f64;
                let mean = x.iter().sum::<f64>() / n;
                let square = x.iter().map(|x| x * x).sum::<f64>() / n;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                for i in 0..size {
                    let w = f64::from(weight[i]);
                    let at = row * size + i;
                    let expected = x[i] / (square + 1e-6).sqrt() * w;
                    assert!((f64::from(rms[at]) - expected).abs() < 1e-6 * expected.abs());
                    let expected =
                        (x[i] - mean) / (variance + 1e-6).sqrt() * w + f64::from(bias[i]);
                    // f32 values near 100 have a rounding error of 4e-6, which division by the
                    // small deviation magnifies.
                    assert!((f64::from(layer[at]) - expected).abs() < 1e-3, "{size}");
                }
            }
        }
    }

    #[test]
    fn heads_are_rotated() {
        // Two rows of width 10: two heads of four columns, and two columns that belong to no head.
        let mut x: Vec<f32> = (0..20).map(|i| i as f32).collect();
        // A quarter turn maps (a, b) to (-b, a). Row 0 is not rotated.
        let (cos, sin) = ([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]);
        rotate(&mut x, 10, 2, &cos, &sin);
        let expected: Vec<f32> = (0..10)
            .chain([-12, -13, 10, 11, -16, -17, 14, 15, 18, 19])
            .map(|i| i as f32)
            .collect();
        assert_eq!(x, expected);
    }
}
