//! Compares CLIP and SigLIP with transformers on the same weights, texts and pictures
//! (`tests/golden/dual/`), and checks the limits of requests. `pictures` tests the preprocessing, and
//! `directories` the errors for invalid directories.
//!
//! `tests/golden/make_dual.py --out DIR` makes cases with real vocabularies, which are not part of
//! the repository. `PHOTOSEARCH_DUAL=DIR cargo test --release dual::tests::agree` compares with
//! those instead.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::clip::Clip;
use crate::siglip::Siglip;
use crate::tests::reference::{cosine, golden, golden_names, load_packed, picture, relative_error};
use crate::tests::{GoldenCopy, load_anew};
use crate::{Cache, quantize};

mod directories;
mod pictures;

/// Maximum of `‖a - b‖ / ‖b‖` for hidden states computed in f32.
const TOLERANCE: f64 = 1e-5;
/// Minimum cosine of a vector with the reference's in f32, by the number format in which ours is
/// computed.
const COSINE_F32: f64 = 0.999_999;
/// As [`COSINE_F32`], for pictures of which some pixels differ by one 8-bit level.
const COSINE_RESIZED: f64 = 0.999_9;
const COSINE_BF16: f64 = 0.999_5;
const COSINE_INT8: f64 = 0.998;

const CASES: [&str; 7] = [
    "clip_bfloat16",
    "clip_laion",
    "clip_openai",
    "siglip_bfloat16",
    "siglip_naflex",
    "siglip_one",
    "siglip_two",
];

fn root() -> PathBuf {
    std::env::var_os("PHOTOSEARCH_DUAL").map_or_else(|| golden("dual"), PathBuf::from)
}

/// The cases in [`root`].
fn cases() -> Vec<String> {
    let names = golden_names(root());
    assert!(!names.is_empty());
    names
}

#[derive(Deserialize)]
struct About {
    texts: Vec<String>,
    /// The number of texts whose hidden states are stored.
    states: usize,
    pictures: Vec<(u32, u32)>,
    /// Sizes of pictures, the side of a patch, the maximum number of patches, and the rows and columns
    /// that transformers computes from them.
    #[serde(default)]
    grids: Vec<(u32, u32, usize, usize, usize, usize)>,
}

struct Case {
    about: About,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn read(name: &str) -> Self {
        let directory = root().join(name);
        let about = std::fs::read(directory.join("case.json")).unwrap();
        Self {
            about: serde_json::from_slice(&about).unwrap(),
            tensors: candle_core::safetensors::load(
                directory.join("golden.safetensors"),
                &Device::Cpu,
            )
            .unwrap(),
        }
    }

    fn ids(&self) -> Vec<Vec<u32>> {
        let integers = |name: &str| self.tensors[name].to_vec1::<i64>().unwrap();
        let mut ids = integers("ids").into_iter().map(|id| id as u32);
        integers("lengths")
            .iter()
            .map(|&length| ids.by_ref().take(length as usize).collect())
            .collect()
    }

    fn flat(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors[name].to_dtype(DType::F32).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn vectors(&self, name: &str) -> Vec<Vec<f32>> {
        self.tensors[name].to_vec2().unwrap()
    }

    fn pictures(&self) -> Vec<RgbImage> {
        let sizes = self.about.pictures.iter();
        sizes
            .map(|&(width, height)| picture(width, height))
            .collect()
    }

    /// The reference's pixel values as patches, and the size of each picture.
    fn patches(&self, preprocessor: &Preprocessor) -> (Vec<f32>, Vec<Grid>) {
        let pixels = self.flat("pixel_values");
        if let Some(shapes) = self.tensors.get("spatial_shapes") {
            let shapes = shapes.to_vec2::<i64>().unwrap().into_iter();
            let grids = shapes.map(|shape| Grid {
                rows: shape[0] as usize,
                columns: shape[1] as usize,
            });
            return (pixels, grids.collect());
        }
        let (pictures, _, _, side) = self.tensors["pixel_values"].dims4().unwrap();
        let patch = (preprocessor.patch_values() / 3).isqrt();
        let count = side / patch;
        let grid = Grid {
            rows: count,
            columns: count,
        };
        let mut patches = Vec::new();
        for picture in 0..pictures {
            for (row, column) in (0..count * count).map(|i| (i / count, i % count)) {
                for channel in 0..3 {
                    for y in row * patch..(row + 1) * patch {
                        let line = ((picture * 3 + channel) * side + y) * side;
                        let start = line + column * patch;
                        patches.extend(&pixels[start..start + patch]);
                    }
                }
            }
        }
        (patches, vec![grid; pictures])
    }
}

/// A loaded model of either family.
enum Model {
    Clip(Box<DualEncoder<Clip>>),
    Siglip(Box<DualEncoder<Siglip>>),
}

impl Model {
    fn load(dir: &Path) -> Self {
        load_packed(dir, |directory, source, cancel| {
            Ok(match directory.model_type()?.as_str() {
                "clip" => Self::Clip(Box::new(Clip::load(directory, source, cancel)?)),
                _ => Self::Siglip(Box::new(Siglip::load(directory, source, cancel)?)),
            })
        })
    }

    /// Loads a copy of a case that computes in this number format.
    fn load_as(name: &str, dtype: &str) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(root().join(name)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let own = json!({"compute_dtype": dtype}).to_string();
        std::fs::write(copy.path().join("photosearch.json"), own).unwrap();
        Self::load(copy.path())
    }

    fn towers(&self) -> &dyn Towers {
        match self {
            Self::Clip(model) => &model.towers,
            Self::Siglip(model) => &model.towers,
        }
    }

    fn preprocessor(&self) -> &Preprocessor {
        match self {
            Self::Clip(model) => &model.preprocessor,
            Self::Siglip(model) => &model.preprocessor,
        }
    }

    fn embedder(&self) -> &dyn Embedder {
        match self {
            Self::Clip(model) => &**model,
            Self::Siglip(model) => &**model,
        }
    }
}

fn text(text: &str) -> Request<'_> {
    Request {
        text: Some(text),
        ..Request::default()
    }
}

/// The vectors of a case's texts and pictures, in one call and in mixed order.
fn embedded(model: &dyn Embedder, case: &Case) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let pictures: Vec<[RgbImage; 1]> = case
        .pictures()
        .into_iter()
        .map(|picture| [model.fit(picture).unwrap()])
        .collect();
    let mut requests: Vec<(bool, Request<'_>)> = Vec::new();
    for (i, own) in case.about.texts.iter().enumerate() {
        requests.push((true, text(own)));
        if let Some(images) = pictures.get(i) {
            let request = Request {
                images,
                ..Request::default()
            };
            requests.push((false, request));
        }
    }
    let plain: Vec<Request<'_>> = requests.iter().map(|(_, request)| *request).collect();
    let vectors = model.embed(&plain, u64::MAX, &Cancel::new()).unwrap();
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for ((is_text, _), vector) in requests.iter().zip(vectors) {
        match is_text {
            true => texts.push(vector),
            false => images.push(vector),
        }
    }
    (texts, images)
}

fn least_cosine(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min)
}

/// Compares the vectors of both towers.
fn assert_close(model: &dyn Embedder, name: &str, suffix: &str, least: (f64, f64)) {
    let case = Case::read(name);
    let (texts, images) = embedded(model, &case);
    for (tower, found, least) in [("text", texts, least.0), ("image", images, least.1)] {
        let cosine = least_cosine(&found, &case.vectors(&format!("{tower}{suffix}")));
        println!("{name}, {tower}{suffix}: least cosine {cosine:.7}");
        assert!(cosine >= least, "{name}, {tower}{suffix}: {cosine}");
    }
}

#[test]
fn every_case_is_known() {
    if std::env::var_os("PHOTOSEARCH_DUAL").is_none() {
        assert_eq!(cases(), CASES);
    }
}

#[test]
fn agree_on_tokens() {
    for name in cases() {
        let (case, model) = (Case::read(&name), Model::load(&root().join(&name)));
        let ids = case.ids();
        assert_eq!(ids.len(), case.about.texts.len());
        for (own, expected) in case.about.texts.iter().zip(ids) {
            let found = model.towers().tokens("", own).unwrap();
            assert_eq!(found, expected, "{name}: {own:?}");
        }
    }
}

#[test]
fn agree_on_pixels() {
    for name in cases() {
        let (case, model) = (Case::read(&name), Model::load(&root().join(&name)));
        let mut patches = Vec::new();
        let mut grids = Vec::new();
        for picture in case.pictures() {
            let preprocessor = model.preprocessor();
            preprocessor.append_patches(&picture, &mut patches).unwrap();
            grids.push(
                preprocessor
                    .grid(picture.width(), picture.height())
                    .unwrap(),
            );
        }
        let (expected, expected_grids) = case.patches(model.preprocessor());
        assert_eq!(grids, expected_grids, "{name}");
        assert_eq!(patches.len(), expected.len());
        // One 8-bit level divided by 0.25, which is less than the standard deviation of any channel.
        const LEVEL: f32 = 1.0 / 255.0 / 0.25;
        let differences = patches.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let differences: Vec<f32> = differences
            .filter(|&difference| difference > 1e-6)
            .collect();
        println!(
            "{name}: {} of {} pixels differ",
            differences.len(),
            patches.len()
        );
        assert!(differences.len() * 50 <= patches.len(), "{name}");
        assert!(differences.iter().all(|&own| own < LEVEL), "{name}");
    }
}

#[test]
fn agree_on_hidden_states() {
    for name in cases() {
        let (case, model) = (Case::read(&name), Model::load_as(&name, "float32"));
        let ids = case.ids();
        let sequences: Vec<&[u32]> = ids[..case.about.states].iter().map(Vec::as_slice).collect();
        let (patches, grids) = case.patches(model.preprocessor());
        let mut seen = 0;
        let mut check = |tower: &str, point: TowerPoint, states: &[f32]| {
            let key = match point {
                TowerPoint::Embedded => format!("{tower}.embedded"),
                TowerPoint::Layer(i) => format!("{tower}.layer.{i}"),
                TowerPoint::Norm => format!("{tower}.norm"),
            };
            let error = relative_error(states, &case.tensors[&key]);
            assert!(error <= TOLERANCE, "{name}, {key}: {error:e}");
            seen += 1;
        };
        let towers = model.towers();
        towers
            .texts(&sequences, &Cancel::new(), &mut |point, states| {
                check("text", point, states);
            })
            .unwrap();
        let vectors = towers
            .pictures(&patches, &grids, &Cancel::new(), &mut |point, states| {
                check("vision", point, states);
            })
            .unwrap();
        let stored = case.tensors.keys().filter(|key| {
            key.starts_with("text.") && !key.ends_with("own_type") || key.starts_with("vision.")
        });
        assert_eq!(seen, stored.count(), "{name}");
        let vectors: Vec<_> = vectors.chunks(towers.dims()).map(<[f32]>::to_vec).collect();
        let cosine = least_cosine(&vectors, &case.vectors("image"));
        println!("{name}, the reference's pixels: least cosine {cosine:.7}");
        assert!(cosine >= COSINE_F32, "{name}: {cosine}");
    }
}

#[test]
fn agree_on_vectors() {
    for name in cases() {
        let model = Model::load_as(&name, "float32");
        assert_close(model.embedder(), &name, "", (COSINE_F32, COSINE_RESIZED));
    }
}

#[test]
fn agree_on_vectors_in_bf16() {
    for name in cases() {
        let model = Model::load_as(&name, "bfloat16");
        assert_close(model.embedder(), &name, "", (COSINE_BF16, COSINE_BF16));
        if name.ends_with("bfloat16") {
            let model = Model::load(&root().join(&name));
            assert_close(
                model.embedder(),
                &name,
                ".own_type",
                (COSINE_BF16, COSINE_BF16),
            );
        }
    }
}

#[test]
fn agree_on_vectors_in_int8() {
    for name in cases() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = Cache::new(scratch.path().join("cache"));
        let target = scratch.path().join("int8");
        let cancel = Cancel::new();
        let closeness = quantize(&root().join(&name), &target, &cache, u64::MAX, &cancel).unwrap();
        // The bound is lower than `COSINE_INT8`, because `quantize` compares on other texts and
        // pictures. In models as tiny as these, a product sums few terms, whose rounding errors
        // cancel out less.
        assert!(closeness.images.is_some() && closeness.least() >= 0.995);
        let model = Model::load(&target);
        assert_close(model.embedder(), &name, "", (COSINE_INT8, COSINE_INT8));
    }
}

#[test]
fn a_vector_does_not_depend_on_the_batch() {
    for name in ["clip_openai", "siglip_two", "siglip_naflex"] {
        let (case, model) = (Case::read(name), Model::load(&root().join(name)));
        let model = model.embedder();
        let (texts, images) = embedded(model, &case);
        for (own, together) in case.about.texts.iter().zip(&texts) {
            let alone = model.embed(&[text(own)], 1 << 30, &Cancel::new()).unwrap();
            assert!(cosine(&alone[0], together) > COSINE_F32, "{own}");
        }
        for (picture, together) in case.pictures().into_iter().zip(&images) {
            // Unlike the pictures in `embedded`, this one is not scaled by the caller.
            let request = Request {
                images: &[picture],
                ..Request::default()
            };
            let alone = model.embed(&[request], 1 << 30, &Cancel::new()).unwrap();
            assert!(cosine(&alone[0], together) > COSINE_F32);
        }
    }
}

#[test]
fn an_instruction_stands_before_a_text() {
    let model = Model::load(&root().join("clip_openai"));
    let embed = |request: Request<'_>| {
        model
            .embedder()
            .embed(&[request], u64::MAX, &Cancel::new())
            .unwrap()
            .remove(0)
    };
    let instructed = |text, instruction| {
        embed(Request {
            text: Some(text),
            instruction: Some(instruction),
            ..Request::default()
        })
    };
    let whole = embed(text("a photo of a baby"));
    assert_eq!(instructed("a baby", "a photo of "), whole);
    assert_ne!(instructed("a baby", " "), whole);
    assert_eq!(instructed("a baby", " "), embed(text("a baby")));
    assert_eq!(embed(Request::default()), embed(text("")));
    let images = [picture(40, 31)];
    let plain = Request {
        images: &images,
        ..Request::default()
    };
    let other = Request {
        instruction: Some("a photo of "),
        ..plain
    };
    assert_eq!(embed(plain), embed(other));

    let copy = GoldenCopy::of_dual("clip_openai");
    let own = json!({"default_instruction": "a photo of "}).to_string();
    std::fs::write(copy.path().join("photosearch.json"), own).unwrap();
    let vector = copy
        .load()
        .unwrap()
        .embed(&[text("a baby")], u64::MAX, &Cancel::new());
    assert_eq!(vector.unwrap()[0], whole);
}

#[test]
fn several_inputs_have_no_common_vector() {
    let images = [picture(32, 32), picture(40, 31)];
    for name in ["clip_openai", "siglip_one", "siglip_naflex"] {
        let model = Model::load(&root().join(name));
        for (text, images) in [(Some("a baby"), &images[..1]), (None, &images[..])] {
            let request = Request {
                text,
                images,
                ..Request::default()
            };
            let result = model.embedder().embed(&[request], u64::MAX, &Cancel::new());
            assert!(
                matches!(result, Err(ModelError::WrongKind(_))),
                "{result:?}"
            );
        }
        let scored = model
            .embedder()
            .score(&[("a", "b")], u64::MAX, &Cancel::new());
        assert!(matches!(scored, Err(ModelError::WrongKind(_))));
    }
}

#[test]
fn memory_is_limited() {
    for name in ["clip_openai", "siglip_two", "siglip_naflex"] {
        let model = Model::load(&root().join(name));
        let model = model.embedder();
        let images = [picture(40, 31)];
        let pictured = Request {
            images: &images,
            ..Request::default()
        };
        for (request, what) in [(text("a baby"), "a text"), (pictured, "an image")] {
            let error = model
                .embed(&[request], 1 << 10, &Cancel::new())
                .unwrap_err();
            assert!(matches!(error, ModelError::OutOfMemory(_)), "{error:?}");
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

#[test]
fn a_cancelled_call_stops() {
    let cancel = Cancel::new();
    cancel.cancel();
    for name in ["clip_openai", "siglip_one", "siglip_naflex"] {
        let path = root().join(name);
        let loaded = load_anew(&path, &cancel).map(drop);
        assert!(matches!(loaded, Err(ModelError::Cancelled)));
        let model = Model::load(&path);
        let (embedder, towers) = (model.embedder(), model.towers());
        for result in [
            embedder.embed(&[text("a")], u64::MAX, &cancel).map(drop),
            towers.texts(&[&[1, 2]], &cancel, &mut |_, _| ()).map(drop),
        ] {
            assert!(matches!(result, Err(ModelError::Cancelled)), "{result:?}");
        }
    }
}

#[test]
fn texts_are_cut_and_keep_their_end() {
    for name in CASES {
        let model = Model::load(&root().join(name));
        let ids = |text: &str| model.towers().tokens("", text).unwrap();
        let long = ids(&"a baby and a dog on the beach ".repeat(100_000));
        assert_eq!(long, ids(&"a baby and a dog on the beach ".repeat(30)));
        let end = match name.starts_with("clip") {
            true => ids("a")[2],
            false => ids("")[0],
        };
        assert_eq!(long.last(), Some(&end), "{name}");
        let white = ids(&format!("{}snow", " ".repeat(100_000)));
        if !["siglip_two", "siglip_bfloat16", "siglip_naflex"].contains(&name) {
            assert_eq!(white, ids("snow"), "{name}");
        }
    }
    let copy = GoldenCopy::of_dual("siglip_two");
    std::fs::write(copy.path().join("photosearch.json"), r#"{"max_tokens": 3}"#).unwrap();
    let model = Model::load(copy.path());
    let ids = model.towers().tokens("", "a baby laughs").unwrap();
    let end = ids.iter().position(|&id| id == 1);
    assert_eq!((ids.len(), end), (16, Some(2)));
    copy.edit("tokenizer_config.json", |config| {
        config["padding_side"] = json!("left");
    });
    let left = Model::load(copy.path())
        .towers()
        .tokens("", "a baby laughs");
    assert_eq!(left.unwrap(), [&[0; 13], &ids[..3]].concat());
}
