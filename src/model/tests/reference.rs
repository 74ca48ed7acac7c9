//! What the tests of all model families use to compare a model with its reference implementation.

use candle_core::{DType, Tensor};

use super::*;

/// A path in `tests/golden`.
pub fn golden(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(path)
}

/// The sorted names in a folder of `tests/golden`.
pub fn golden_names(folder: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(golden(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The test picture that `tests/golden/preprocess.json` defines.
pub fn picture(width: u32, height: u32) -> RgbImage {
    let triangle = |t: i64| (t % 512).min(511 - t % 512);
    let mut pixels = Vec::new();
    for y in 0..i64::from(height) {
        for x in 0..i64::from(width) {
            for c in 0..3 {
                let value = match (x / 16 + y / 16) % 3 {
                    0 => (x * x * (c + 1) + 3 * x * y + 7 * y * y + 29 * c) % 256,
                    1 => (triangle(x * (c + 3)) + triangle(y * (5 - c))) / 2,
                    _ => (x + y + c) % 2 * 255,
                };
                pixels.push(value as u8);
            }
        }
    }
    RgbImage::new(width, height, pixels).unwrap()
}

/// Loads the model in `dir` through a new pack.
pub fn load_packed<T>(
    dir: &Path,
    load: impl FnOnce(&Directory, WeightSource<'_>, &Cancel) -> Result<T, ModelError>,
) -> T {
    let cache = tempfile::tempdir().unwrap();
    let cancel = Cancel::new();
    let pack = crate::pack(dir, &Cache::new(cache.path().into()), false, &cancel).unwrap();
    let pack = Arc::new(pack);
    let directory = Directory::packed(pack.clone());
    load(&directory, WeightSource::Packed(&pack), &cancel).unwrap()
}

pub fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot: f64 = a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum();
    let norm = |x: &[f32]| norm(x.iter().map(|&x| x as f64));
    dot / (norm(a) * norm(b))
}

/// `‖found - expected‖ / ‖expected‖`
pub fn relative_error(found: &[f32], expected: &Tensor) -> f64 {
    let expected = expected.to_dtype(DType::F64).unwrap();
    let expected: Vec<f64> = expected.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found.len(), expected.len());
    let errors = found.iter().zip(&expected).map(|(&a, b)| f64::from(a) - b);
    norm(errors) / norm(expected.iter().copied())
}
