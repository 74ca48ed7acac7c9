//! Compares the path from text and pixels to tokens, patches and embeddings with the reference.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::prefix::PREFIXES;
use super::*;
use crate::directory::ImageBudget;
use crate::tests::reference::picture;
use photosearch_image::{RgbImage, resize_bicubic};

fn read_json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Preprocess {
    configs: HashMap<String, PatchConfig>,
    sizes: Vec<SizeCase>,
    patches: Vec<PatchCase>,
}

#[derive(Deserialize)]
struct PatchConfig {
    patch_size: usize,
    merge_size: usize,
    min_pixels: u64,
    max_pixels: u64,
}

#[derive(Deserialize)]
struct SizeCase {
    config: String,
    width: u32,
    height: u32,
    #[serde(default)]
    grid: [usize; 3],
    error: Option<String>,
}

#[derive(Deserialize)]
struct PatchCase {
    config: String,
    width: u32,
    height: u32,
    tensor: String,
}

/// A preprocessor with the settings of `config` and the normalisation of a golden model.
fn preprocessor(config: &PatchConfig) -> Preprocessor {
    let case = match config.patch_size {
        16 => "image_square",
        8 => "grouped_heads",
        other => panic!("no case has patches of {other}"),
    };
    let directory = Directory::open(&golden("forward").join(case)).unwrap();
    let vision = QwenConfig::read(&directory).unwrap().vision_config;
    assert_eq!(vision.patch_size, config.patch_size);
    assert_eq!(vision.spatial_merge_size, config.merge_size);
    let budget = ImageBudget {
        min_pixels: Some(config.min_pixels),
        max_pixels: Some(config.max_pixels),
    };
    Preprocessor::read(&directory, &vision, &budget).unwrap()
}

#[test]
fn grids_are_the_references() {
    let golden: Preprocess = read_json("preprocess.json");
    assert!(golden.sizes.len() >= 200);
    let mut clamped = 0;
    for case in &golden.sizes {
        let config = &golden.configs[&case.config];
        let got = preprocessor(config).grid(case.width, case.height);
        let name = format!("{} {} x {}", case.config, case.width, case.height);
        match case.error.as_deref() {
            None => {
                let [frames, rows, columns] = case.grid;
                assert_eq!(frames, 1);
                assert_eq!(got.unwrap(), PatchGrid { rows, columns }, "{name}");
            }
            Some("aspect ratio") => {
                assert!(matches!(got, Err(ModelError::InvalidInput(_))), "{name}");
            }
            // Where the reference computes an empty picture and fails, the short side must be one
            // token and the area must stay within the budget.
            Some("empty") => {
                let PatchGrid { rows, columns } = got.unwrap();
                assert_eq!(rows.min(columns), config.merge_size, "{name}");
                assert!(rows.max(columns) > config.merge_size, "{name}");
                let pixels = rows * columns * config.patch_size.pow(2);
                assert!(
                    pixels as u64 <= config.max_pixels,
                    "{name}: {rows} x {columns}"
                );
                clamped += 1;
            }
            Some(other) => panic!("{name}: unknown error {other:?}"),
        }
    }
    assert!(clamped > 0);
}

#[test]
fn patches_are_the_references() {
    let cases: Preprocess = read_json("preprocess.json");
    let tensors =
        candle_core::safetensors::load(golden("preprocess.safetensors"), &candle_core::Device::Cpu)
            .unwrap();
    assert!(cases.patches.len() >= 3);
    for case in &cases.patches {
        let preprocessor = preprocessor(&cases.configs[&case.config]);
        let grid = preprocessor.grid(case.width, case.height).unwrap();
        let mut got = Vec::new();
        preprocessor
            .append_patches(&picture(case.width, case.height), grid, &mut got)
            .unwrap();
        let expected = &tensors[&case.tensor];
        assert_eq!(expected.dim(0).unwrap(), grid.patches());
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got.len(), expected.len());
        // One of 255 levels is 2/255 after normalisation.
        let off = got
            .iter()
            .zip(&expected)
            .filter(|(a, b)| (*a - *b).abs() > 2.01 / 255.0)
            .count();
        assert!(
            off * 1000 <= got.len(),
            "{}: {off} values differ",
            case.tensor
        );
    }
}

#[test]
fn a_fitted_picture_gives_the_same_patches() {
    let cases: Preprocess = read_json("preprocess.json");
    let mut fitted = 0;
    for case in &cases.sizes {
        let small = u64::from(case.width) * u64::from(case.height) <= 40_000;
        let preprocessor = preprocessor(&cases.configs[&case.config]);
        let Some(grid) = preprocessor
            .grid(case.width, case.height)
            .ok()
            .filter(|grid| small && grid.patches() <= 4_000)
        else {
            continue;
        };
        let image = picture(case.width, case.height);
        let patches = |image: &RgbImage| {
            let mut patches = Vec::new();
            preprocessor
                .append_patches(image, grid, &mut patches)
                .unwrap();
            patches
        };
        let expected = patches(&image);
        let fit = match preprocessor.fitted_size(case.width, case.height).unwrap() {
            Some((width, height)) => resize_bicubic(&image, width, height).unwrap(),
            None => image,
        };
        assert_eq!(preprocessor.grid(fit.width(), fit.height()).unwrap(), grid);
        assert_eq!(patches(&fit), expected, "{} x {}", case.width, case.height);
        fitted += 1;
    }
    assert!(fitted >= 50, "{fitted}");
}

#[derive(Deserialize)]
struct GoldenTokens {
    strings: Vec<StringCase>,
    prompts: Vec<PromptCase>,
    post_processor: serde_json::Value,
    prompts_appended: Vec<PromptCase>,
}

#[derive(Deserialize)]
struct StringCase {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct PromptCase {
    text: Option<String>,
    instruction: Option<String>,
    grids: Vec<[usize; 3]>,
    prompt: String,
    ids: Vec<u32>,
}

/// The golden tokenizer, optionally with another post-processor.
fn tokenizer(post_processor: Option<serde_json::Value>) -> Tokenizer {
    let mut json: serde_json::Value = read_json("tokenizer/tokenizer.json");
    if let Some(post_processor) = post_processor {
        json["post_processor"] = post_processor;
    }
    Tokenizer::parse(json.to_string().as_bytes()).unwrap()
}

fn markers() -> ImageMarkers {
    ImageMarkers {
        start: "<|vision_start|>".into(),
        pad: "<|image_pad|>".into(),
        end: "<|vision_end|>".into(),
    }
}

fn render(case: &PromptCase, tokens: impl Fn(&[usize; 3]) -> usize) -> Prompt {
    let instruction = prompt::instruction(case.instruction.as_deref(), prompt::DEFAULT_INSTRUCTION);
    let images: Vec<usize> = case.grids.iter().map(tokens).collect();
    Prompt::render(&instruction, &images, case.text.as_deref(), &markers())
}

#[test]
fn tokens_are_the_references() {
    let golden: GoldenTokens = read_json("tokens.json");
    let tokenizer = tokenizer(None);
    assert!(golden.strings.len() >= 300);
    for case in &golden.strings {
        let ids = tokenizer.encode(&case.text).unwrap().ids;
        assert_eq!(ids, case.ids, "{:?}", case.text);
    }
}

#[test]
fn prompts_are_the_references() {
    let golden: GoldenTokens = read_json("tokens.json");
    let (own, appending) = (tokenizer(None), tokenizer(Some(golden.post_processor)));
    assert!(!golden.prompts.is_empty() && !golden.prompts_appended.is_empty());
    let cases = golden.prompts.iter().map(|case| (case, &own)).chain(
        golden
            .prompts_appended
            .iter()
            .map(|case| (case, &appending)),
    );
    for (case, tokenizer) in cases {
        // The chat template has one placeholder per picture; the processor repeats it.
        assert_eq!(render(case, |_| 1).text, case.prompt);
        let prompt = render(case, |[frames, rows, columns]| frames * rows * columns / 4);
        let ids = prompt.encode(tokenizer, usize::MAX).unwrap();
        assert_eq!(ids, case.ids, "{:?}", case.prompt);
    }
}

#[test]
fn cutting_leaves_out_the_end_of_the_text_only() {
    let golden: GoldenTokens = read_json("tokens.json");
    let tokenizer = tokenizer(Some(golden.post_processor));
    let text = "a long story about a dog and a birthday cake ".repeat(20);
    let prompt = |text| Prompt::render("Find it.", &[3], Some(text), &markers());
    let whole = prompt(text.as_str())
        .encode(&tokenizer, usize::MAX)
        .unwrap();
    let bare = prompt("").encode(&tokenizer, usize::MAX).unwrap();
    let end = bare.len() - bare.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    assert!(
        end >= 5,
        "<|im_end|>, the assistant's turn and what the tokenizer appends"
    );
    for limit in [bare.len(), bare.len() + 1, whole.len() / 2, whole.len() - 1] {
        let cut = prompt(text.as_str()).encode(&tokenizer, limit).unwrap();
        assert_eq!(cut.len(), limit);
        assert_eq!(cut[..limit - end], whole[..limit - end]);
        assert_eq!(cut[limit - end..], whole[whole.len() - end..]);
    }
    for limit in [whole.len(), whole.len() + 1] {
        assert_eq!(
            prompt(text.as_str()).encode(&tokenizer, limit).unwrap(),
            whole
        );
    }
    let result = prompt(text.as_str()).encode(&tokenizer, bare.len() - 1);
    assert!(matches!(result, Err(ModelError::LimitExceeded(_))));
}

#[derive(Deserialize)]
struct Recipe {
    model: String,
    requests: Vec<RecipeCase>,
}

#[derive(Deserialize)]
struct RecipeCase {
    text: Option<String>,
    /// Width and height of test pictures.
    images: Vec<[u32; 2]>,
    instruction: Option<String>,
    tokens: usize,
    embedding: Vec<f32>,
}

#[test]
fn requests_embed_as_with_the_reference() {
    let recipe: Recipe = read_json("recipe.json");
    let model = load_from(&golden(&recipe.model));
    let images: Vec<Vec<RgbImage>> = recipe
        .requests
        .iter()
        .map(|case| case.images.iter().map(|&[w, h]| picture(w, h)).collect())
        .collect();
    let requests: Vec<Request<'_>> = recipe
        .requests
        .iter()
        .zip(&images)
        .map(|(case, images)| Request {
            text: case.text.as_deref(),
            images,
            instruction: case.instruction.as_deref(),
        })
        .collect();

    let together = model.embed(&requests, u64::MAX, &Cancel::new()).unwrap();
    assert_eq!(together.len(), recipe.requests.len());
    for ((case, request), together) in recipe.requests.iter().zip(&requests).zip(&together) {
        let name = format!("{request:?}");
        assert_eq!(
            model.tokens(request).unwrap().0.len(),
            case.tokens,
            "{name}"
        );
        let alone = &model.embed(&[*request], u64::MAX, &Cancel::new()).unwrap()[0];
        for got in [together, alone] {
            assert_eq!(got.len(), model.dims());
            let cosine = cosine(got, &case.embedding);
            assert!(cosine >= COSINE, "{name}: {cosine}");
        }
    }
}

#[test]
fn a_beginning_that_is_remembered_changes_nothing() {
    let recipe: Recipe = read_json("recipe.json");
    let load = || load_from(&golden(&recipe.model));
    let images = [picture(64, 96)];
    let long = "find what is asked for ".repeat(20);
    let texts = [Some("a baby"), Some("\n\nnot a dog"), Some(""), None];
    let instructions = [None, Some("Find it"), Some("Find"), Some(long.as_str())];
    let mut requests = Vec::new();
    for instruction in instructions {
        for text in texts {
            for images in [&[][..], &images] {
                requests.push(Request {
                    text,
                    images,
                    instruction,
                });
            }
        }
    }
    let embed = |model: &Qwen3Vl, requests: &[Request<'_>]| {
        model.embed(requests, u64::MAX, &Cancel::new()).unwrap()
    };
    let fresh: Vec<Vec<f32>> = requests
        .iter()
        .map(|request| embed(&load(), &[*request]).remove(0))
        .collect();

    let model = load();
    let close = |got: &[f32], i: usize| {
        for (got, expected) in got.iter().zip(&fresh[i]) {
            assert!((got - expected).abs() <= 1e-6, "{:?}", requests[i]);
        }
    };
    for (i, request) in requests.iter().enumerate() {
        embed(&model, &[*request]);
        let ids = model.tokens(request).unwrap().0;
        let Past::Cached { prefix, count } = model.prefixes.past(&ids) else {
            panic!("no prefix of {request:?} is cached")
        };
        assert!(count > 8 && prefix.ids[..count] == ids[..count]);
        close(&embed(&model, &[*request])[0], i);
    }
    assert_eq!(model.prefixes.count(), PREFIXES);
    // In batches, in which some requests share a prefix.
    for (i, got) in embed(&model, &requests).iter().enumerate() {
        close(got, i);
    }
    let reversed: Vec<Request<'_>> = requests.iter().rev().copied().collect();
    for (i, got) in embed(&model, &reversed).iter().rev().enumerate() {
        close(got, i);
    }
}

#[test]
fn a_placeholder_needs_a_picture() {
    let model = load_case("image_square");
    let image = [picture(64, 64)];
    for text in ["<|image_pad|>", "see <|video_pad|> there"] {
        for images in [&image[..], &[]] {
            for (text, instruction) in [(Some(text), None), (None, Some(text))] {
                let request = Request {
                    text,
                    images,
                    instruction,
                };
                let result = model.embed(&[request], u64::MAX, &Cancel::new());
                assert!(
                    matches!(result, Err(ModelError::InvalidInput(_))),
                    "{request:?}: {result:?}"
                );
            }
        }
    }
}

#[test]
fn too_long_and_too_thin_are_errors() {
    let mut model = load_case("image_square");
    model.max_tokens = 60;
    let embed = |request: Request<'_>| model.embed(&[request], u64::MAX, &Cancel::new());

    let thin = [picture(1, 201)];
    let result = embed(Request {
        images: &thin,
        ..Default::default()
    });
    assert!(matches!(result, Err(ModelError::InvalidInput(_))));

    let large = [picture(512, 512)];
    let result = embed(Request {
        images: &large,
        ..Default::default()
    });
    assert!(matches!(result, Err(ModelError::LimitExceeded(_))));

    for words in [20, 1_000_000] {
        let instruction = "find it ".repeat(words);
        let result = embed(Request {
            instruction: Some(&instruction),
            ..Default::default()
        });
        assert!(
            matches!(result, Err(ModelError::LimitExceeded(_))),
            "{words}"
        );
    }

    let text = "a dog ".repeat(1_000_000);
    let long = embed(Request {
        text: Some(&text),
        ..Default::default()
    });
    let shorter = embed(Request {
        text: Some(&text[..600]),
        ..Default::default()
    });
    assert_eq!(long.unwrap(), shorter.unwrap());
}
