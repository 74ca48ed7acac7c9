//! Compares Qwen3-VL with the reference on the same weights, pixels and strings (`tests/golden/`).

mod forward;
mod recipe;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::Cache;

/// Minimum cosine between two embeddings that should be equal.
const COSINE: f64 = 0.999_999;

fn golden(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(path)
}

fn load_case(name: &str) -> Qwen3Vl {
    load_from(&golden("forward").join(name))
}

/// Loads the model in `dir` through a new pack.
fn load_from(dir: &Path) -> Qwen3Vl {
    let cache = tempfile::tempdir().unwrap();
    let cancel = Cancel::new();
    let pack = crate::pack(dir, &Cache::new(cache.path().into()), false, &cancel).unwrap();
    let pack = Arc::new(pack);
    let directory = Directory::packed(pack.clone());
    Qwen3Vl::load(&directory, WeightSource::Packed(&pack), &cancel).unwrap()
}

/// Loads a case that computes in f32, regardless of how its weights are stored.
fn load_exact(name: &str) -> Qwen3Vl {
    load_case_as(name, "float32")
}

/// Loads a copy of a case with another number format of the matrices.
fn load_case_as(name: &str, held: &str) -> Qwen3Vl {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("forward").join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let json = format!("{{\"compute_dtype\": \"{held}\"}}");
    std::fs::write(copy.path().join("photosearch.json"), json).unwrap();
    load_from(copy.path())
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
