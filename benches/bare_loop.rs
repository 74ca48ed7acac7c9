//! The speed of the machine: dot products of one query with int8 codes that lie in memory one after another, and nothing
//! else. `benches/index.py` compares the index's sweep with it.
//!
//!     rustc -O -C target-cpu=native benches/bare_loop.rs && ./bare_loop ROWS DIMS RUNS
//!
//! Prints the median time of the runs and the kernel's name. The program links neither Postgres nor the extension.

use std::env;
use std::hint::black_box;
use std::time::Instant;

/// A dot product of codes and query in the types of the instruction: codes are biased by 128 to be unsigned, the query is
/// signed. The bias adds 128 times the sum of the query, which is the same for every row.
type Kernel = fn(&[u8], &[i8]) -> i32;

fn portable(codes: &[u8], query: &[i8]) -> i32 {
    let products = codes
        .iter()
        .zip(query)
        .map(|(&c, &q)| i32::from(c) * i32::from(q));
    products.sum()
}

#[cfg(target_arch = "x86_64")]
fn vnni(codes: &[u8], query: &[i8]) -> i32 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot(codes: &[u8], query: &[i8]) -> i32 {
        let mut sum = _mm512_setzero_si512();
        for (c, q) in codes.chunks_exact(64).zip(query.chunks_exact(64)) {
            // SAFETY: both chunks have the 64 bytes that an unaligned load reads.
            let (c, q) = unsafe {
                (
                    _mm512_loadu_si512(c.as_ptr().cast()),
                    _mm512_loadu_si512(q.as_ptr().cast()),
                )
            };
            sum = _mm512_dpbusd_epi32(sum, c, q);
        }
        _mm512_reduce_add_epi32(sum)
    }

    // SAFETY: `kernel` has found both features on this processor.
    unsafe { dot(codes, query) }
}

fn kernel(dims: usize) -> (&'static str, Kernel) {
    #[cfg(target_arch = "x86_64")]
    if dims.is_multiple_of(64)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vnni")
    {
        return ("AVX-512 VNNI", vnni);
    }
    let _ = dims;
    ("as the compiler vectorises it", portable)
}

/// Pseudo-random bytes in place of codes.
fn codes(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn main() {
    let arguments: Vec<usize> = env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let (&[rows, dims, runs], false) = (&arguments[..], arguments.contains(&0)) else {
        eprintln!("usage: bare_loop ROWS DIMS RUNS");
        std::process::exit(2);
    };
    let codes = codes(rows * dims);
    let query: Vec<i8> = (0..dims).map(|i| (i * 37 % 255) as i8).collect();
    let (name, dot) = kernel(dims);
    // No row reaches the threshold, as in a sweep that finds nothing.
    let threshold = black_box(i32::MAX);
    let mut times = Vec::with_capacity(runs);
    for run in 0..=runs {
        let started = Instant::now();
        let found = codes
            .chunks_exact(dims)
            .filter(|row| dot(row, &query) >= threshold)
            .count();
        black_box(found);
        if run > 0 {
            times.push(started.elapsed().as_secs_f64() * 1000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    println!("{:.3} ms, {name}", times[times.len() / 2]);
}
