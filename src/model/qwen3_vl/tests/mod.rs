//! Against what the reference computes on the same weights, pixels and strings (`tests/golden/`).

mod forward;
mod recipe;

use std::path::{Path, PathBuf};

use super::*;

/// That two embeddings which should be the same must reach.
const COSINE: f64 = 0.999_999;

fn golden(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

fn load_case(name: &str) -> Qwen3Vl {
    let directory = Directory::open(&golden("forward").join(name)).unwrap();
    Qwen3Vl::load(&directory, &Cancel::new()).unwrap()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot: f64 = a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum();
    let norm = |x: &[f32]| norm(x.iter().map(|&x| x as f64));
    dot / (norm(a) * norm(b))
}
