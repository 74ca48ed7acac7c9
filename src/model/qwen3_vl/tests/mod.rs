//! Compares Qwen3-VL with the reference, transformers and Qwen's embedding script, on the same weights,
//! pixels and strings (`tests/golden/`).

mod forward;
mod recipe;

use std::path::Path;

use super::*;
use crate::tests::reference::{cosine, golden, golden_names, load_packed, norm, relative_error};

/// Minimum cosine between two embeddings that should be equal.
const COSINE: f64 = 0.999_999;

fn load_case(name: &str) -> Qwen3Vl {
    load_from(&golden("forward").join(name))
}

fn load_from(dir: &Path) -> Qwen3Vl {
    load_packed(dir, Qwen3Vl::load)
}

/// Loads a case that computes in f32, regardless of how its weights are stored.
fn load_exact(name: &str) -> Qwen3Vl {
    load_case_as(name, "float32")
}

/// Loads a copy of a case with another number format of the matrices.
fn load_case_as(name: &str, dtype: &str) -> Qwen3Vl {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("forward").join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let json = format!("{{\"compute_dtype\": \"{dtype}\"}}");
    std::fs::write(copy.path().join("photosearch.json"), json).unwrap();
    load_from(copy.path())
}
