//! Pseudo-random vectors, the same in every run, and a straightforward similarity function to
//! compare results with.

/// A small generator (xorshift64*, Vigna 2016). A build with the feature `pg_test` has no
/// dev-dependencies, so the tests cannot use a crate for this.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A whole number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() >> 33) as usize % (high - low + 1)
    }

    /// A number in `-1.0..1.0`.
    pub fn signed(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// A vector of values that a half represents exactly: multiples of 1/1024 between -1 and 1.
    pub fn vector(&mut self, dims: usize) -> Vec<f32> {
        (0..dims)
            .map(|_| (self.signed() * 1024.0).round() as f32 / 1024.0)
            .collect()
    }
}

/// The cosine similarity of the first `dims` values, computed in f64; 0 if one of the vectors is
/// zero.
pub fn brute_force(a: &[f32], b: &[f32], dims: usize) -> f64 {
    let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b).take(dims) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        dot += a * b;
        aa += a * a;
        bb += b * b;
    }
    if aa == 0.0 || bb == 0.0 {
        0.0
    } else {
        dot / (aa * bb).sqrt()
    }
}
