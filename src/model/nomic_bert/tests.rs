//! Compares NomicBert with transformers on the same weights and texts (`tests/golden/nomic/`), and
//! checks the errors for invalid directories.

use std::collections::HashMap;
use std::fs;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::tests::reference::{cosine, golden, golden_names, load_packed, relative_error};
use crate::tests::{GoldenCopy, load_anew};
use crate::{Cache, describe, quantize};
use photosearch_image::RgbImage;

/// Maximum of `‖a - b‖ / ‖b‖` for the hidden states of all texts.
const TOLERANCE: f64 = 1e-5;
const COSINE: f64 = 0.999_999;

const CASES: [&str; 2] = ["authors", "transformers"];

/// The inputs of a case, and the reference's results for each input separately.
#[derive(Deserialize)]
struct Case {
    inputs: Vec<String>,
    cuts: Vec<usize>,
    #[serde(skip)]
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn read(name: &str) -> Self {
        let path = golden("nomic").join(name);
        let about = fs::read(path.join("case.json")).unwrap();
        let own: Self = serde_json::from_slice(&about).unwrap();
        let tensors = candle_core::safetensors::load(path.join("golden.safetensors"), &Device::Cpu);
        Self {
            tensors: tensors.unwrap(),
            ..own
        }
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        let integers: Vec<i64> = self.tensors[name].to_vec1().unwrap();
        integers.into_iter().map(|own| own as usize).collect()
    }

    fn rows(&self, name: &str) -> Vec<Vec<f32>> {
        self.tensors[name].to_vec2().unwrap()
    }

    fn requests<'a>(&'a self, instruction: Option<&'a str>) -> Vec<Request<'a>> {
        let inputs = self.inputs.iter();
        inputs.map(|text| request(text, instruction)).collect()
    }
}

fn load_case(name: &str) -> NomicEmbedder {
    load_packed(&golden("nomic").join(name), NomicEmbedder::load)
}

fn request<'a>(text: &'a str, instruction: Option<&'a str>) -> Request<'a> {
    Request {
        text: Some(text),
        instruction,
        ..Request::default()
    }
}

fn embed(model: &dyn Embedder, requests: &[Request<'_>]) -> Vec<Vec<f32>> {
    model.embed(requests, u64::MAX, &Cancel::new()).unwrap()
}

/// Changes a checkpoint's tensors.
fn edit_weights(copy: &GoldenCopy, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = copy.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
}

#[test]
fn every_case_is_tested() {
    assert_eq!(golden_names("nomic"), CASES);
}

#[test]
fn tokens_and_states_are_the_references() {
    for name in CASES {
        let (case, model) = (Case::read(name), load_case(name));
        let sequences = case.requests(None).into_iter();
        let sequences: Vec<_> = sequences.map(|own| model.tokens(&own).unwrap()).collect();
        let lengths: Vec<usize> = sequences.iter().map(|own| own.ids.len()).collect();
        assert_eq!(lengths, case.integers("lengths"), "{name}");
        let ids = sequences.iter().flat_map(|own| &own.ids);
        let ids: Vec<usize> = ids.map(|&id| id as usize).collect();
        assert_eq!(ids, case.integers("ids"), "{name}");
        // Each alone, and all together, padded to the longest.
        let alone = sequences.iter().map(|own| model.states(&[own]).unwrap());
        let alone: Vec<f32> = alone.flatten().flatten().collect();
        let all: Vec<&TokenSequence> = sequences.iter().collect();
        let together = model.states(&all).unwrap().concat();
        for states in [alone, together] {
            let error = relative_error(&states, &case.tensors["states"]);
            assert!(error <= TOLERANCE, "{name}: {error:e}");
        }
    }
}

#[test]
fn embeddings_are_the_references_under_each_prefix() {
    for name in CASES {
        let (case, model) = (Case::read(name), load_case(name));
        for (key, instruction) in [
            ("result.32", None),
            ("result.32", Some(" \n")),
            ("result.32", Some("query")),
            ("result.32", Some("search_query: ")),
            ("result_document", Some("document")),
            ("result_document", Some("search_document")),
            ("result_own", Some("My own: ")),
        ] {
            let requests = case.requests(instruction);
            let together = embed(&model, &requests);
            for (i, expected) in case.rows(key).iter().enumerate() {
                let alone = embed(&model, &requests[i..=i]);
                for found in [&together[i], &alone[0]] {
                    let cosine = cosine(found, expected);
                    assert!(cosine >= COSINE, "{name}, {instruction:?}, {i}: {cosine}");
                    let norm: f32 = found.iter().map(|x| x * x).sum();
                    assert!((norm - 1.0).abs() < 1e-6, "{name}, {i}: {norm}");
                    assert_eq!(found.len(), model.dims());
                }
            }
        }
    }
}

/// A vector that is scaled to length one before and after the cut is the reference's, which is scaled
/// after the cut only.
#[test]
fn cut_vectors_are_the_references() {
    for name in CASES {
        let (case, model) = (Case::read(name), load_case(name));
        let found = embed(&model, &case.requests(None));
        for &cut in &case.cuts {
            let expected = case.rows(&format!("result.{cut}"));
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                let found = l2_normalised(found[..cut].to_vec()).unwrap();
                let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                let largest = largest.fold(0.0, f32::max);
                assert!(largest <= 1e-5, "{name}, {cut}, {i}: {largest}");
            }
        }
    }
}

#[test]
fn photosearch_json_sets_the_recipe() {
    let copy = GoldenCopy::of_nomic("authors");
    let case = Case::read("authors");
    let with = |content: Value| {
        fs::write(copy.path().join("photosearch.json"), content.to_string()).unwrap();
        load_packed(copy.path(), NomicEmbedder::load)
    };
    let same = |model: &NomicEmbedder, key: &str| {
        let found = embed(model, &case.requests(None));
        let pairs = found.iter().zip(case.rows(key));
        pairs.into_iter().all(|(a, b)| cosine(a, &b) >= COSINE)
    };
    let plain = with(json!({"layer_norm": false}));
    assert!(same(&plain, "result_without_layer_norm") && !same(&plain, "result.32"));
    assert!(same(&with(json!({"layer_norm": true})), "result.32"));
    let documents = with(json!({"default_instruction": "document"}));
    assert!(same(&documents, "result_document"));

    let long = "a baby ".repeat(100);
    let tokens = |model: &NomicEmbedder| model.tokens(&request(&long, None)).unwrap().ids.len();
    // The limit is the directory's `max_seq_length`.
    assert_eq!(tokens(&with(json!({}))), 40);
    copy.edit("sentence_bert_config.json", |config| {
        config["max_seq_length"] = json!(8192);
    });
    // Now it is `max_trained_positions`, and with a larger `max_tokens` it is `n_positions`.
    assert_eq!(tokens(&with(json!({}))), 48);
    let longest = with(json!({"max_tokens": 9999}));
    assert_eq!(tokens(&longest), 64);
    embed(&longest, &[request(&long, None)]);
    // With `rotary_scaling_factor`, it stays `max_trained_positions`, because candle ignores that key.
    copy.edit("config.json", |config| {
        config["rotary_scaling_factor"] = json!(2.0)
    });
    assert_eq!(tokens(&with(json!({"max_tokens": 9999}))), 48);
}

#[test]
fn batches_are_small_and_every_text_keeps_its_place() {
    let model = load_case("authors");
    let texts: Vec<String> = (0..100).map(|i| "snow ".repeat(i * 37 % 50)).collect();
    let requests: Vec<_> = texts.iter().map(|text| request(text, None)).collect();
    let together = embed(&model, &requests);
    for (own, found) in requests.iter().zip(&together) {
        let cosine = cosine(&embed(&model, &[*own])[0], found);
        assert!(cosine >= COSINE, "{cosine}");
    }
    let all = u64::MAX;
    assert_eq!(model.batch(&[1; 1000], all).unwrap(), BATCH_TOKENS);
    assert_eq!(model.batch(&[100, 100, 120, 200], all).unwrap(), 2);
    assert_eq!(model.batch(&[1000, 1000], all).unwrap(), 1);
    let one = model.forward_bytes(1, 100);
    assert_eq!(model.batch(&[100, 100], one).unwrap(), 1);
    let error = model.batch(&[100, 100], one - 1).unwrap_err();
    assert!(matches!(error, ModelError::OutOfMemory(_)), "{error:?}");
    let error = model.embed(&[request("a", None)], 1000, &Cancel::new());
    assert!(
        matches!(error, Err(ModelError::OutOfMemory(_))),
        "{error:?}"
    );
}

#[test]
fn a_directory_is_described() {
    for name in CASES {
        let path = golden("nomic").join(name);
        let info = describe(&path).unwrap();
        assert_eq!((info.family, info.dims), ("nomic_bert", Some(32)));
        assert_eq!(info.missing, Vec::<String>::new());
        let weights = candle_core::safetensors::load(path.join("model.safetensors"), &Device::Cpu);
        let weights = weights.unwrap();
        let own = weights.iter().filter(|(name, _)| !name.starts_with("cls."));
        let count: usize = own.map(|(_, own)| own.elem_count()).sum();
        assert_eq!(info.session_bytes, 4 * count as u64, "{name}");
    }
    let bert = describe(&golden("text").join("bert_mean")).unwrap();
    assert_eq!(bert.session_bytes, 0);
}

#[test]
fn a_model_says_what_it_is_not_for() {
    let model = load_case("authors");
    let image = RgbImage::new(2, 2, vec![0; 12]).unwrap();
    let mut errors = vec![model.fit(image.clone()).unwrap_err()];
    let images = [image];
    let request = Request {
        text: Some("a baby"),
        images: &images,
        ..Request::default()
    };
    errors.push(
        model
            .embed(&[request], u64::MAX, &Cancel::new())
            .unwrap_err(),
    );
    errors.push(
        model
            .score(&[("a", "b")], u64::MAX, &Cancel::new())
            .unwrap_err(),
    );
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().join("cache"));
    let target = directory.path().join("int8");
    let source = golden("nomic").join("authors");
    errors.push(quantize(&source, &target, &cache, u64::MAX, &Cancel::new()).unwrap_err());
    for error in errors {
        assert!(matches!(error, ModelError::WrongKind(_)), "{error:?}");
    }
}

#[test]
fn variants_that_candle_does_not_run_are_named() {
    for (key, value) in [
        ("activation_function", json!("gelu")),
        ("hidden_act", json!("gelu")),
        ("rotary_emb_fraction", json!(0.5)),
        ("rotary_emb_interleaved", json!(true)),
        ("rotary_emb_scale_base", json!(512)),
        ("qkv_proj_bias", json!(true)),
        ("mlp_fc1_bias", json!(true)),
        ("mlp_fc2_bias", json!(true)),
        ("prenorm", json!(true)),
        ("parallel_block", json!(true)),
        ("use_rms_norm", json!(true)),
        ("causal", json!(true)),
        ("scale_attn_weights", json!(false)),
        ("moe_every_n_layers", json!(2)),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 1000.0}),
        ),
    ] {
        let copy = GoldenCopy::of_nomic("authors");
        copy.edit("config.json", |config| config[key] = value.clone());
        for error in [copy.error(), describe(copy.path()).unwrap_err()] {
            assert!(
                matches!(error, ModelError::UnsupportedModel(_)),
                "{key}: {error:?}"
            );
        }
    }
    let copy = GoldenCopy::of_nomic("authors");
    copy.edit("modules.json", |modules| {
        drop(modules.as_array_mut().unwrap().pop());
    });
    let error = copy.error();
    assert!(error.to_string().contains("no pooling module"), "{error}");
    let copy = GoldenCopy::of_nomic("authors");
    fs::write(
        copy.path().join("photosearch.json"),
        r#"{"compute_dtype": "int8"}"#,
    )
    .unwrap();
    copy.assert_malformed("photosearch.json", "float32");
}

#[test]
fn keys_with_another_default_in_nomics_code_are_needed() {
    for key in [
        "activation_function",
        "layer_norm_epsilon",
        "n_positions",
        "rotary_emb_fraction",
        "rotary_emb_base",
        "qkv_proj_bias",
        "mlp_fc1_bias",
        "mlp_fc2_bias",
    ] {
        let missing = |config: &mut Value| drop(config.as_object_mut().unwrap().remove(key));
        let null = |config: &mut Value| config[key] = Value::Null;
        for change in [&missing as &dyn Fn(&mut Value), &null] {
            let copy = GoldenCopy::of_nomic("authors");
            copy.edit("config.json", change);
            copy.assert_malformed("config.json", &format!("{key} is missing"));
        }
    }
    // transformers' file has none of these keys.
    assert!(GoldenCopy::of_nomic("transformers").load().is_ok());
}

#[test]
fn hostile_sizes_are_malformed() {
    for (key, value) in [
        ("n_embd", json!(0)),
        ("n_embd", json!(33)),
        ("n_embd", json!(1u64 << 40)),
        ("n_embd", json!("32")),
        ("n_head", json!(0)),
        ("n_head", json!(5)),
        ("n_head", json!(32)),
        ("n_layer", json!(0)),
        ("n_layer", json!(1_000_000)),
        ("n_inner", json!(0)),
        ("n_positions", json!(0)),
        ("n_positions", json!(1u64 << 40)),
        ("max_trained_positions", json!(0)),
        ("vocab_size", json!(-1)),
        ("vocab_size", json!(0)),
        ("type_vocab_size", json!(0)),
        ("layer_norm_epsilon", json!(-1.0)),
        ("layer_norm_epsilon", json!("small")),
        ("rotary_emb_base", json!(0)),
        ("rotary_emb_base", json!(-5.0)),
        ("rotary_emb_base", json!(1e300)),
        ("head_dim", json!(7)),
        ("num_heads_kv", json!(1)),
        // transformers' key for `n_embd`, with another value.
        ("hidden_size", json!(64)),
        (
            "rope_parameters",
            json!({"rope_type": "default", "rope_theta": "x"}),
        ),
    ] {
        let copy = GoldenCopy::of_nomic("authors");
        copy.edit("config.json", |config| config[key] = value.clone());
        copy.assert_malformed("config.json", "");
    }
    for (key, value) in [
        ("n_embd", 40),
        ("vocab_size", 9),
        ("n_inner", 52),
        ("n_layer", 4),
    ] {
        let copy = GoldenCopy::of_nomic("authors");
        copy.edit("config.json", |config| config[key] = json!(value));
        copy.assert_malformed("model.safetensors", "tensor");
    }
}

#[test]
fn hostile_weights_are_errors() {
    const FC2: &str = "encoder.layers.1.mlp.fc2.weight";
    let copy = GoldenCopy::of_nomic("authors");
    edit_weights(&copy, |tensors| drop(tensors.remove(FC2).unwrap()));
    copy.assert_malformed("model.safetensors", FC2);
    for dtype in [candle_core::DType::F64, candle_core::DType::I64] {
        for name in [FC2, "encoder.layers.1.norm1.bias"] {
            let copy = GoldenCopy::of_nomic("authors");
            edit_weights(&copy, |tensors| {
                let changed = tensors[name].to_dtype(dtype).unwrap();
                tensors.insert(name.into(), changed);
            });
            copy.assert_malformed("model.safetensors", name);
        }
    }
    let copy = GoldenCopy::of_nomic("authors");
    edit_weights(&copy, |tensors| {
        let changed = tensors[FC2].t().unwrap().contiguous().unwrap();
        tensors.insert(FC2.into(), changed);
    });
    copy.assert_malformed("model.safetensors", FC2);
    for value in [f32::NAN, f32::INFINITY, f32::MAX] {
        let copy = GoldenCopy::of_nomic("authors");
        edit_weights(&copy, |tensors| {
            let shape = tensors[FC2].shape().clone();
            let changed = Tensor::full(value, shape, &Device::Cpu).unwrap();
            tensors.insert(FC2.into(), changed);
        });
        let model = copy.load().unwrap();
        let found = model.embed(&[request("a", None)], u64::MAX, &Cancel::new());
        assert!(
            matches!(found, Err(ModelError::Internal(_))),
            "{value}: {found:?}"
        );
    }
}

#[test]
fn a_tokenizer_of_another_model_is_an_error() {
    let copy = GoldenCopy::of_nomic("transformers");
    copy.edit("tokenizer.json", |tokenizer| {
        let single = &mut tokenizer["post_processor"]["single"];
        single[1]["Sequence"]["type_id"] = json!(7);
    });
    let found = copy
        .load()
        .unwrap()
        .embed(&[request("a", None)], u64::MAX, &Cancel::new());
    let error = found.unwrap_err();
    assert!(error.to_string().contains("type id 7"), "{error}");
}

#[test]
fn loading_and_embedding_stop_when_cancelled() {
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = load_anew(&golden("nomic").join("authors"), &cancel).map(drop);
    assert!(matches!(stopped, Err(ModelError::Cancelled)), "{stopped:?}");
    let model = load_case("authors");
    let stopped = model.embed(&[request("a", None)], u64::MAX, &cancel);
    assert!(matches!(stopped, Err(ModelError::Cancelled)), "{stopped:?}");
}
