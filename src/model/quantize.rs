//! Makes an 8-bit quantised variant of a model: a new model directory, half as large as one in
//! bf16. The variant is a model of its own, because its vectors differ from the source's.
//!
//! Matrices are quantised to 8-bit integers with a scale for each output and block of inputs
//! ([`quantise`](super::compute::quantise)). Embedding tables, biases and norms are unchanged. In
//! the checkpoint, a quantised matrix `NAME` is an `I8` tensor of the original shape, and
//! `NAME_scale` contains its scales.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::compute::{DType, Panel, int8_blocks, matrix_panels, quantise};
use super::directory::{self, Directory};
use super::pack::{Pack, SectionKind};
use super::weights::{SCALE_SUFFIX, Weights};
use super::{Cache, Cancel, ModelError, Request};
use photosearch_image::RgbImage;

/// How close a variant's vectors are to those of its source.
#[derive(Clone, Copy, Debug)]
pub struct Closeness {
    /// The minimum cosine over [`TEXTS`].
    pub texts: f64,
    /// The minimum cosine over [`pictures`]; `None` for a model that takes no pictures.
    pub images: Option<f64>,
}

impl Closeness {
    /// The minimum over texts and pictures.
    pub fn least(&self) -> f64 {
        self.images
            .map_or(self.texts, |images| images.min(self.texts))
    }
}

/// The texts on which the two models are compared.
const TEXTS: [&str; 12] = [
    "a baby",
    "all the photos of my daughter's first birthday",
    "a dog running on the beach at sunset",
    "two people in front of a red car",
    "snow",
    "a birthday cake with candles, no people",
    "the harbour of a small town, boats, early morning",
    "screenshot of a train ticket",
    "ein Kind auf einer Schaukel",
    "une vieille maison avec un jardin",
    "赤ちゃんと犬",
    "IMG_2043, Lisbon 2019, tram 28 going uphill between houses with tiled fronts; blurred",
];

/// Makes the quantised variant of the model in `source` in the directory `target`, which must not
/// exist. The directory is renamed into place when it is complete.
///
/// # Errors
/// If the source cannot be loaded or is already quantised, or if the target cannot be written.
pub fn quantize(
    source: &Path,
    target: &Path,
    cache: &Cache,
    memory: u64,
    cancel: &Cancel,
) -> Result<Closeness, ModelError> {
    if target.exists() {
        return Err(ModelError::InvalidInput("the target exists already".into()));
    }
    let family = super::family(&Directory::open(source)?)?;
    if family.session_bytes.is_some() {
        return Err(ModelError::WrongKind(
            "it computes in float32 only, so there is no variant in 8 bits",
        ));
    }
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    // A name with a leading dot cannot be a model's name.
    let unfinished = target.with_file_name(format!(".{}.unfinished", name(target)));
    remove(&unfinished)?;
    fs::create_dir(&unfinished)?;
    let made = write(source, &unfinished, cache, cancel).and_then(|()| {
        let own = Cache::new(unfinished.join("cache"));
        let closeness = compare(source, cache, &unfinished, &own, memory, cancel)?;
        remove(own.root())?;
        let card = card(&name(source), &name(target), &closeness);
        fs::write(unfinished.join("README.md"), card)?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, target)?;
        Ok(closeness)
    });
    if made.is_err() {
        // The original error is returned; a failed removal adds no information.
        drop(remove(&unfinished));
    }
    made
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write(source: &Path, target: &Path, cache: &Cache, cancel: &Cancel) -> Result<(), ModelError> {
    let pack = super::pack(source, cache, false, cancel)?;
    let directory = Directory::open(source)?;
    let weights = Weights::open(&directory, cancel)?;
    if weights.dtype() == DType::Int8 {
        return Err(ModelError::InvalidInput(
            "the source is quantised already".into(),
        ));
    }
    for name in pack.files() {
        // The variant has a single weight file, so it needs no shard index.
        if name == directory::WEIGHTS_INDEX || name == directory::PHOTOSEARCH {
            continue;
        }
        let to = target.join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(to, directory.read(name)?)?;
    }
    let mut own: Map<String, Value> = match directory.has(directory::PHOTOSEARCH)? {
        true => directory.json(directory::PHOTOSEARCH)?,
        false => Map::new(),
    };
    own.insert("compute_dtype".into(), json!(DType::Int8.name()));
    let own = serde_json::to_vec_pretty(&own).map_err(io::Error::from)?;
    fs::write(target.join(directory::PHOTOSEARCH), own)?;
    write_weights(&pack, &weights, &target.join(directory::WEIGHTS), cancel)
}

/// Writes the weights that the pack lists to a safetensors file, with quantised matrices.
fn write_weights(
    pack: &Pack,
    weights: &Weights,
    path: &Path,
    cancel: &Cancel,
) -> Result<(), ModelError> {
    let mut header = Map::new();
    let mut at = 0u64;
    let mut announce = |name: &str, dtype: &str, shape: &[usize], bytes: usize| {
        let end = at + bytes as u64;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
        at = end;
        header.insert(name.to_owned(), entry);
    };
    let tensors: Vec<(&str, &SectionKind)> = pack.tensors().collect();
    for &(name, kind) in &tensors {
        let stored = weights.tensor_of(name)?;
        match *kind {
            SectionKind::Matrix { outputs, inputs } => {
                announce(name, "I8", stored.shape(), outputs * inputs);
                let shape = [outputs, int8_blocks(inputs)];
                let scale = format!("{name}{SCALE_SUFFIX}");
                announce(&scale, "F32", &shape, 4 * outputs * shape[1]);
            }
            _ => announce(name, stored.type_name(), stored.shape(), stored.size()),
        }
    }
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let header = serde_json::to_vec(&header).map_err(io::Error::from)?;

    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for &(name, kind) in &tensors {
        let stored = weights.tensor_of(name)?;
        let SectionKind::Matrix { outputs, inputs } = *kind else {
            file.write_all(&stored.all()?)?;
            continue;
        };
        let mut all_scales = Vec::new();
        for (first, rows) in matrix_panels(outputs) {
            cancel.check()?;
            let panel = weights.panel(name, &stored, first..first + rows, inputs)?;
            let (integers, scales) = match panel {
                Panel::F32(floats) => quantise(&floats, inputs),
                Panel::Int8(integers, scales) => (integers, scales),
            };
            file.write_all(bytemuck::cast_slice(&integers))?;
            all_scales.extend(scales);
        }
        file.write_all(bytemuck::cast_slice(&all_scales))?;
    }
    let file = file.into_inner().map_err(|error| error.into_error())?;
    Ok(file.sync_all()?)
}

/// The minimum cosines between the vectors of two models.
fn compare(
    source: &Path,
    source_cache: &Cache,
    target: &Path,
    target_cache: &Cache,
    memory: u64,
    cancel: &Cancel,
) -> Result<Closeness, ModelError> {
    let models = [
        super::load(source, source_cache, cancel)?.embedder,
        super::load(target, target_cache, cancel)?.embedder,
    ];
    let least = |requests: &[Request<'_>]| -> Result<f64, ModelError> {
        let mut both = Vec::new();
        for model in &models {
            both.push(model.embed(requests, memory, cancel)?);
        }
        let pairs = both[0].iter().zip(&both[1]);
        Ok(pairs.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min))
    };
    let texts = TEXTS.map(|text| Request {
        text: Some(text),
        ..Request::default()
    });
    let texts = least(&texts)?;
    let images = match models[0].check_images() {
        Err(_) => None,
        Ok(()) => {
            let mut worst = 1.0f64;
            for picture in pictures() {
                let images = [models[0].fit(picture)?];
                let request = Request {
                    images: &images,
                    ..Request::default()
                };
                worst = worst.min(least(&[request])?);
            }
            Some(worst)
        }
    };
    Ok(Closeness { texts, images })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Three pictures of 320 × 240 pixels with different textures: a gradient, a gradient with discs,
/// and squares of noise.
fn pictures() -> Vec<RgbImage> {
    const WIDTH: u32 = 320;
    const HEIGHT: u32 = 240;
    let noise = |x: u32, y: u32, channel: u32| -> u32 {
        let mut hash = (x / 8) ^ (y / 8).rotate_left(11) ^ channel.rotate_left(22);
        for _ in 0..3 {
            hash = (hash ^ (hash >> 15)).wrapping_mul(0x2C1B_3C6D);
        }
        (hash >> 9) & 0xFF
    };
    (0..3)
        .filter_map(|kind| {
            let mut pixels = Vec::with_capacity((WIDTH * HEIGHT * 3) as usize);
            for (y, x) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (y, x))) {
                let (dx, dy) = (x % 80, y % 80);
                let in_disc = kind == 1 && dx.abs_diff(40).pow(2) + dy.abs_diff(40).pow(2) < 900;
                for channel in 0..3 {
                    let value = match kind {
                        2 => noise(x, y, channel),
                        _ if in_disc => (x / 80 * 60 + channel * 90) % 256,
                        _ => (x * 255 / WIDTH + y * 255 / HEIGHT * channel) % 256,
                    };
                    pixels.push(value as u8);
                }
            }
            RgbImage::new(WIDTH, HEIGHT, pixels).ok()
        })
        .collect()
}

/// The text of the variant's README, for human readers.
fn card(source: &str, target: &str, closeness: &Closeness) -> String {
    let images = match closeness.images {
        Some(images) => format!("{images:.5} over {} drawn pictures", pictures().len()),
        None => "not measured: the model takes no pictures".to_owned(),
    };
    format!(
        "# {target}\n\n\
         The model `{source}`, quantised to 8-bit integers by `photosearch.quantize_model`. \
         Matrices have a scale for each output and block of inputs; embedding tables, biases \
         and norms are those of `{source}`, and so is the licence.\n\n\
         Its vectors differ from those of `{source}`: never compare the two.\n\n\
         Minimum cosine to the vectors of `{source}`:\n\n\
         | | |\n| --- | --- |\n| texts | {texts:.5} over {count} texts |\n| pictures | {images} |\n",
        texts = closeness.texts,
        count = TEXTS.len(),
    )
}
