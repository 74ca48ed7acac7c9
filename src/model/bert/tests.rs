//! Compares BERT models with transformers and sentence-transformers on the same weights and texts
//! (`tests/golden/text/`), and checks the errors for invalid directories.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::tests::reference::{self, cosine, golden_names, load_packed, relative_error};
use crate::tests::{GoldenCopy, load_anew};
use photosearch_image::RgbImage;

/// Maximum of `‖a - b‖ / ‖b‖` for a hidden state, and maximum error of a score.
const TOLERANCE: f64 = 1e-5;
const COSINE: f64 = 0.999_999;

const EMBEDDERS: [&str; 4] = ["bert_bare", "bert_mean", "bert_prompts", "xlm_roberta_cls"];
const CROSS_ENCODERS: [&str; 2] = ["bert_rerank", "xlm_roberta_rerank"];

fn golden(name: &str) -> PathBuf {
    reference::golden("text").join(name)
}

/// A case in `tests/golden/text`: the inputs, and the reference's result for each input separately.
struct TextCase<T> {
    inputs: Vec<T>,
    tensors: HashMap<String, Tensor>,
}

impl<T: DeserializeOwned> TextCase<T> {
    fn read(name: &str) -> Self {
        #[derive(Deserialize)]
        struct About<T> {
            inputs: Vec<T>,
        }
        let about = std::fs::read(golden(name).join("case.json")).unwrap();
        let about: About<T> = serde_json::from_slice(&about).unwrap();
        let path = golden(name).join("golden.safetensors");
        Self {
            inputs: about.inputs,
            tensors: candle_core::safetensors::load(path, &Device::Cpu).unwrap(),
        }
    }

    fn ids(&self) -> Vec<Vec<u32>> {
        let integers = |name: &str| self.tensors[name].to_vec1::<i64>().unwrap();
        let mut ids = integers("ids").into_iter().map(|id| id as u32);
        let lengths = integers("lengths");
        let split = lengths
            .iter()
            .map(|&length| ids.by_ref().take(length as usize).collect());
        split.collect()
    }

    /// Asserts that `sequences` and the encoder's hidden states on them equal the reference's.
    fn assert_states(&self, name: &str, base: &Base, sequences: &[TokenSequence]) {
        for ((found, expected), i) in sequences.iter().zip(self.ids()).zip(0..) {
            assert_eq!(found.ids, expected, "{name}, {i}");
        }
        assert_eq!(sequences.len(), self.inputs.len());
        let mut seen = 0;
        base.encoder
            .forward(sequences, &Cancel::new(), &mut |point, states| {
                let key = match point {
                    BertPoint::Embedded => "embedded".to_owned(),
                    BertPoint::Layer(i) => format!("layer.{i}"),
                };
                let error = relative_error(states, &self.tensors[&key]);
                assert!(error <= TOLERANCE, "{name}, {point:?}: {error:e}");
                seen += 1;
            })
            .unwrap();
        let stored = self.tensors.keys().filter(|key| key.starts_with("layer."));
        assert_eq!(seen, 1 + stored.count(), "{name}");
    }
}

fn embedder(directory: &Path) -> TextEmbedder {
    match load_packed(directory, BertModel::load) {
        BertModel::Embedder(model) => model,
        BertModel::CrossEncoder(_) => panic!("it is a cross-encoder"),
    }
}

fn cross_encoder(name: &str) -> CrossEncoder {
    match load_packed(&golden(name), BertModel::load) {
        BertModel::CrossEncoder(model) => model,
        BertModel::Embedder(_) => panic!("{name} is an embedder"),
    }
}

fn request<'a>(text: &'a str, instruction: Option<&'a str>) -> Request<'a> {
    Request {
        text: Some(text),
        instruction,
        ..Request::default()
    }
}

fn pairs(case: &TextCase<(String, String)>) -> Vec<(&str, &str)> {
    let pairs = case.inputs.iter();
    pairs.map(|(a, b)| (a.as_str(), b.as_str())).collect()
}

#[test]
fn every_case_is_tested() {
    let mut known = [&EMBEDDERS[..], &CROSS_ENCODERS].concat();
    known.sort();
    assert_eq!(golden_names("text"), known);
}

#[test]
fn tokens_and_states_are_the_references() {
    for name in EMBEDDERS {
        let (case, model) = (TextCase::<String>::read(name), embedder(&golden(name)));
        let sequences = case
            .inputs
            .iter()
            .map(|text| model.tokens(&request(text, None)));
        let sequences = sequences.collect::<Result<Vec<_>, _>>().unwrap();
        case.assert_states(name, &model.base, &sequences);
    }
    for name in CROSS_ENCODERS {
        let (case, model) = (TextCase::read(name), cross_encoder(name));
        let sequences = pairs(&case)
            .into_iter()
            .map(|(a, b)| model.base.tokens.pair(a, b));
        let sequences = sequences.collect::<Result<Vec<_>, _>>().unwrap();
        case.assert_states(name, &model.base, &sequences);
    }
}

#[test]
fn embeddings_are_the_references_together_and_alone() {
    let mut compared = 0;
    for name in EMBEDDERS {
        let (case, model) = (TextCase::<String>::read(name), embedder(&golden(name)));
        for (key, instruction) in [
            ("result", None),
            ("result", Some(" \n")),
            ("result_query", Some("query")),
            ("result_own", Some("My own: ")),
        ] {
            let Some(expected) = case.tensors.get(key) else {
                continue;
            };
            let expected: Vec<Vec<f32>> = expected.to_vec2().unwrap();
            let requests = case.inputs.iter().map(|text| request(text, instruction));
            let requests: Vec<_> = requests.collect();
            let together = model.embed(&requests, u64::MAX, &Cancel::new()).unwrap();
            assert_eq!(together.len(), expected.len());
            for (i, (found, expected)) in together.iter().zip(&expected).enumerate() {
                let alone = model
                    .embed(&requests[i..=i], u64::MAX, &Cancel::new())
                    .unwrap();
                for found in [found, &alone[0]] {
                    let cosine = cosine(found, expected);
                    assert!(cosine >= COSINE, "{name}, {key}, {i}: {cosine}");
                    let norm: f32 = found.iter().map(|x| x * x).sum();
                    assert!((norm - 1.0).abs() < 1e-6, "{name}, {i}: {norm}");
                    assert_eq!(found.len(), model.dims());
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 18 * (2 * EMBEDDERS.len() + 2));
}

#[test]
fn scores_are_the_references_together_and_alone() {
    for name in CROSS_ENCODERS {
        let (case, model) = (TextCase::read(name), cross_encoder(name));
        let pairs = pairs(&case);
        let expected: Vec<f32> = case.tensors["result"]
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let together = model.score(&pairs, u64::MAX, &Cancel::new()).unwrap();
        assert_eq!(together.len(), expected.len());
        for (i, (&found, &expected)) in together.iter().zip(&expected).enumerate() {
            let alone = model
                .score(&pairs[i..=i], u64::MAX, &Cancel::new())
                .unwrap()[0];
            for found in [found, alone] {
                let error = f64::from(found - expected).abs();
                assert!(error <= TOLERANCE, "{name}, {i}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn a_model_says_what_it_is_not_for() {
    let image = RgbImage::new(2, 2, vec![0; 12]).unwrap();
    let wrong = |result: Result<(), ModelError>, word: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, ModelError::WrongKind(_)), "{error:?}");
        assert!(error.to_string().contains(word), "{error}");
    };
    for (name, word) in [
        ("bert_mean", "no images"),
        ("xlm_roberta_rerank", "cross-encoder"),
    ] {
        let model = load_anew(&golden(name), &Cancel::new()).unwrap();
        wrong(model.fit(image.clone()).map(drop), word);
        let images = [image.clone()];
        let request = Request {
            text: Some("a baby"),
            images: &images,
            ..Request::default()
        };
        wrong(
            model.embed(&[request], u64::MAX, &Cancel::new()).map(drop),
            word,
        );
    }
    let embedder = load_anew(&golden("bert_mean"), &Cancel::new()).unwrap();
    let scored = embedder.score(&[("a", "b")], u64::MAX, &Cancel::new());
    wrong(scored.map(drop), "cross-encoder");
    let cross = load_anew(&golden("bert_rerank"), &Cancel::new()).unwrap();
    let embedded = cross.embed(&[request("a", None)], u64::MAX, &Cancel::new());
    wrong(embedded.map(drop), "no embeddings");
}

#[test]
fn directories_are_described() {
    for (name, family, dims) in [
        ("bert_mean", "bert", Some(32)),
        ("xlm_roberta_cls", "xlm-roberta", Some(32)),
        ("xlm_roberta_rerank", "xlm-roberta", None),
    ] {
        let info = crate::describe(&golden(name)).unwrap();
        assert_eq!((info.family, info.dims), (family, dims));
        assert_eq!(info.missing, Vec::<String>::new());
    }
}

#[test]
fn a_text_of_any_length_is_cut_and_not_read_to_its_end() {
    let model = embedder(&golden("xlm_roberta_cls"));
    let ids = |text: &str| model.tokens(&request(text, None)).unwrap().ids;
    // White space gives no tokens, and any number of unknown characters in a row give one token.
    // Neither may push the words after them out of the part of the text that is tokenized.
    let baby = ids("a baby");
    assert_eq!(ids(&format!("{}a baby", " ".repeat(100_000))), baby);
    let unknown = ids(&format!("{} a baby", "\u{1f9ff}".repeat(20_000)));
    assert_eq!(unknown[unknown.len() - baby.len() + 1..], baby[1..]);
    let long = ids(&"a baby and a dog on the beach ".repeat(300_000));
    assert_eq!(long.len(), 60);
    assert_eq!(long, ids(&"a baby and a dog on the beach ".repeat(100)));
    assert_eq!(long[59], 2, "the end of the sequence is kept");
    // The input is truncated within a text that has no spaces. The kept tokens must be the first
    // tokens of the whole text.
    let dense = "赤ちゃんが庭で笑っている。".repeat(1000);
    let all = model.base.tokens.inner_ids(&dense);
    assert_eq!(ids(&dense)[1..59], all[..58]);
}

#[test]
fn unusual_layouts_are_named() {
    let assert_unsupported = |file: &str, change: &dyn Fn(&mut Value), words: &str| {
        let copy = GoldenCopy::of_text("bert_mean");
        copy.edit(file, |content| change(content));
        for error in [copy.error(), crate::describe(copy.path()).unwrap_err()] {
            assert!(
                matches!(error, ModelError::UnsupportedModel(_)),
                "{error:?}"
            );
            assert!(error.to_string().contains(words), "{error}");
        }
    };
    let modules = "modules.json";
    let pooling = "1_Pooling/config.json";
    assert_unsupported(
        modules,
        &|m| m[2]["type"] = json!("sentence_transformers.models.Dense"),
        "\"Dense\"",
    );
    assert_unsupported(modules, &|m| m[1]["type"] = json!("a.LSTM"), "\"LSTM\"");
    assert_unsupported(
        modules,
        &|m| m[0]["path"] = json!("0_Transformer"),
        "0_Transformer",
    );
    assert_unsupported(
        modules,
        &|m| drop(m.as_array_mut().unwrap().drain(1..)),
        "no pooling",
    );
    assert_unsupported(
        pooling,
        &|p| p["pooling_mode_max_tokens"] = json!(true),
        "max + mean",
    );
    assert_unsupported(
        pooling,
        &|p| p["pooling_mode"] = json!("lasttoken"),
        "\"lasttoken\"",
    );
    assert_unsupported(
        pooling,
        &|p| p["include_prompt"] = json!(false),
        "include_prompt",
    );
    assert_unsupported(
        "config.json",
        &|c| c["position_embedding_type"] = json!("relative_key"),
        "relative_key",
    );
    assert_unsupported(
        "config.json",
        &|c| c["is_decoder"] = json!(true),
        "is_decoder",
    );

    let copy = GoldenCopy::of_text("bert_mean");
    copy.edit(modules, |m| m[1]["path"] = json!("../1_Pooling"));
    copy.assert_malformed(modules, "../1_Pooling");

    let copy = GoldenCopy::of_text("xlm_roberta_rerank");
    copy.edit("config.json", |c| {
        c["id2label"] = json!({"0": "a", "1": "b", "2": "c"})
    });
    assert!(
        copy.error().to_string().contains("3 labels"),
        "{}",
        copy.error()
    );
    copy.edit("config.json", |c| {
        c["id2label"] = json!({"0": "a"});
        c["sentence_transformers"] = json!({"activation_fn": "torch.nn.modules.activation.ReLU"});
    });
    assert!(
        copy.error().to_string().contains("ReLU"),
        "{}",
        copy.error()
    );
}

#[test]
fn hostile_sizes_are_malformed() {
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(33)),
        ("hidden_size", json!(1u64 << 40)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(5)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1_000_000)),
        ("vocab_size", json!(-1)),
        ("intermediate_size", json!(0)),
        ("type_vocab_size", json!(0)),
        ("max_position_embeddings", json!(0)),
        ("max_position_embeddings", json!(2)),
        ("pad_token_id", json!(64)),
        ("layer_norm_eps", json!(-1.0)),
        ("hidden_act", json!("elu")),
    ] {
        let copy = GoldenCopy::of_text("xlm_roberta_cls");
        copy.edit("config.json", |config| config[key] = value.clone());
        copy.assert_malformed("config.json", "");
    }
    for key in [
        "hidden_size",
        "vocab_size",
        "intermediate_size",
        "max_position_embeddings",
    ] {
        let copy = GoldenCopy::of_text("xlm_roberta_cls");
        copy.edit("config.json", |config| {
            config[key] = json!(config[key].as_u64().unwrap() + 4)
        });
        copy.assert_malformed("model.safetensors", "tensor");
    }
}

#[test]
fn a_tokenizer_that_asks_for_too_much_is_an_error() {
    let copy = GoldenCopy::of_text("bert_rerank");
    copy.edit("tokenizer.json", |tokenizer| {
        let pair = &mut tokenizer["post_processor"]["pair"];
        pair[3]["Sequence"]["type_id"] = json!(7);
    });
    let model = copy.load().unwrap();
    let error = model
        .score(&[("a", "b")], u64::MAX, &Cancel::new())
        .unwrap_err();
    assert!(error.to_string().contains("type id 7"), "{error}");

    let copy = GoldenCopy::of_text("bert_mean");
    std::fs::write(copy.path().join("photosearch.json"), r#"{"max_tokens": 2}"#).unwrap();
    let result = copy
        .load()
        .unwrap()
        .embed(&[request("a", None)], u64::MAX, &Cancel::new());
    assert!(
        matches!(result, Err(ModelError::LimitExceeded(_))),
        "{result:?}"
    );
}

#[test]
fn photosearch_json_sets_the_instruction_and_the_length() {
    let copy = GoldenCopy::of_text("bert_prompts");
    let text = "a baby laughs in the bath";
    let ids = |content: Value, instruction| {
        std::fs::write(copy.path().join("photosearch.json"), content.to_string()).unwrap();
        embedder(copy.path())
            .tokens(&request(text, instruction))
            .unwrap()
            .ids
    };
    let query = ids(json!({}), Some("query"));
    assert_ne!(ids(json!({}), None), query);
    assert_eq!(ids(json!({"default_instruction": "query"}), None), query);
    assert_eq!(ids(json!({"max_tokens": 5}), Some("query")).len(), 5);
    // A known prompt name must not be taken as the prompt's text, even if the directory does not
    // define that prompt.
    let none = ids(json!({}), Some("none"));
    assert_eq!(ids(json!({}), Some("document")), none);
}

#[test]
fn no_text_outgrows_the_position_table() {
    for (name, most) in [("bert_mean", 48), ("xlm_roberta_cls", 64 - 2)] {
        let copy = GoldenCopy::of_text(name);
        copy.edit("sentence_bert_config.json", |config| {
            config["max_seq_length"] = json!(1000);
        });
        let model = embedder(copy.path());
        let text = "a baby ".repeat(100);
        let request = request(&text, None);
        assert_eq!(model.tokens(&request).unwrap().ids.len(), most, "{name}");
        model.embed(&[request], u64::MAX, &Cancel::new()).unwrap();
    }
}

#[test]
fn pickled_weights_are_named() {
    let copy = GoldenCopy::of_text("xlm_roberta_cls");
    let path = |name: &str| copy.path().join(name);
    std::fs::rename(path("model.safetensors"), path("pytorch_model.bin")).unwrap();
    let error = copy.error();
    assert!(
        matches!(error, ModelError::Pickled("pytorch_model.bin")),
        "{error:?}"
    );
    assert_eq!(
        crate::describe(copy.path()).unwrap().missing,
        ["model.safetensors"]
    );
    std::fs::remove_file(path("pytorch_model.bin")).unwrap();
    assert!(matches!(copy.error(), ModelError::Incomplete { .. }));
}

#[test]
fn loading_embedding_and_scoring_stop_when_cancelled() {
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = |result: Result<(), ModelError>| {
        assert!(matches!(result, Err(ModelError::Cancelled)), "{result:?}");
    };
    let path = golden("bert_mean");
    stopped(load_anew(&path, &cancel).map(drop));
    stopped(
        embedder(&path)
            .embed(&[request("a", None)], u64::MAX, &cancel)
            .map(drop),
    );
    stopped(
        cross_encoder("bert_rerank")
            .score(&[("a", "b")], u64::MAX, &cancel)
            .map(drop),
    );
}
