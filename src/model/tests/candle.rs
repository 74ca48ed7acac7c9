//! Compares models with candle-transformers on the weights of the golden files: a second reference,
//! which is not written in Python. Of the results in the files, only token IDs and pixels are used.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use candle_transformers::models::clip::{ClipConfig, ClipModel};
use candle_transformers::models::{bert, siglip, xlm_roberta};
use serde::de::DeserializeOwned;

use super::reference::{cosine, golden, picture};
use super::*;

const COSINE: f64 = 0.999_999;
/// For pictures of which some pixels differ by one 8-bit level.
const COSINE_RESIZED: f64 = 0.999_9;

struct Case {
    path: PathBuf,
    about: Value,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn read(name: &str) -> Self {
        let path = golden(name);
        let tensors = candle_core::safetensors::load(path.join("golden.safetensors"), &Device::Cpu);
        Self {
            about: json(&path.join("case.json")),
            tensors: tensors.unwrap(),
            path,
        }
    }

    fn weights(&self) -> VarBuilder<'static> {
        let file = self.path.join("model.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
    }

    fn config<T: DeserializeOwned>(&self) -> T {
        let mut config: Value = json(&self.path.join("config.json"));
        // candle asks for a key that transformers does not write any more.
        config["position_embedding_type"] = json!("absolute");
        serde_json::from_value(config).unwrap()
    }

    /// The token IDs of each text, [1, tokens].
    fn ids(&self) -> Vec<Tensor> {
        let integers = |name: &str| self.tensors[name].to_vec1::<i64>().unwrap();
        let mut ids = integers("ids").into_iter().map(|id| id as u32);
        integers("lengths")
            .iter()
            .map(|&length| {
                let own: Vec<u32> = ids.by_ref().take(length as usize).collect();
                Tensor::new(own, &Device::Cpu)
                    .unwrap()
                    .unsqueeze(0)
                    .unwrap()
            })
            .collect()
    }

    fn strings(&self, key: &str) -> Vec<String> {
        serde_json::from_value(self.about[key].clone()).unwrap()
    }

    /// Requires that our vectors of the texts are candle's. `forward` maps token IDs to the vector
    /// that it returns, [1, dims].
    fn assert_texts(&self, key: &str, forward: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
        let model = load_anew(&self.path, &Cancel::new()).unwrap();
        let texts = self.strings(key);
        let ids = self.ids();
        assert_eq!(texts.len(), ids.len());
        for (text, ids) in texts.iter().zip(&ids) {
            let request = Request {
                text: Some(text),
                ..Request::default()
            };
            let found = model.embed(&[request], u64::MAX, &Cancel::new()).unwrap();
            let expected: Vec<f32> = forward(ids).unwrap().squeeze(0).unwrap().to_vec1().unwrap();
            let cosine = cosine(&found[0], &expected);
            assert!(cosine >= COSINE, "{:?}, {text:?}: {cosine}", self.path);
        }
    }

    /// Requires that our vectors of the pictures are candle's. `forward` maps pixels to vectors,
    /// [pictures, dims].
    fn assert_pictures(&self, forward: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
        let model = load_anew(&self.path, &Cancel::new()).unwrap();
        let sizes: Vec<(u32, u32)> =
            serde_json::from_value(self.about["pictures"].clone()).unwrap();
        let expected = forward(&self.tensors["pixel_values"]).unwrap();
        let expected: Vec<Vec<f32>> = expected.to_vec2().unwrap();
        assert_eq!(sizes.len(), expected.len());
        for ((width, height), expected) in sizes.into_iter().zip(expected) {
            let request = Request {
                images: &[picture(width, height)],
                ..Request::default()
            };
            let found = model.embed(&[request], u64::MAX, &Cancel::new()).unwrap();
            let cosine = cosine(&found[0], &expected);
            let least = match (width, height) {
                (32, 32) => COSINE,
                _ => COSINE_RESIZED,
            };
            assert!(
                cosine >= least,
                "{:?}, {width} x {height}: {cosine}",
                self.path
            );
        }
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn bert_is_candles() {
    let case = Case::read("text/bert_mean");
    let model = bert::BertModel::load(case.weights(), &case.config()).unwrap();
    case.assert_texts("inputs", |ids| {
        let states = model.forward(ids, &ids.zeros_like()?, None)?;
        states.mean(1)
    });
}

#[test]
fn xlm_roberta_is_candles() {
    let case = Case::read("text/xlm_roberta_cls");
    let model = xlm_roberta::XLMRobertaModel::new(&case.config(), case.weights()).unwrap();
    case.assert_texts("inputs", |ids| {
        let mask = ids.ones_like()?;
        let states = model.forward(ids, &mask, &ids.zeros_like()?, None, None, None)?;
        states.narrow(1, 0, 1)?.squeeze(1)
    });
}

#[test]
fn clip_is_candles() {
    let case = Case::read("dual/clip_openai");
    let whole: Value = json(&case.path.join("config.json"));
    let (text, vision) = (&whole["text_config"], &whole["vision_config"]);
    let size = |part: &Value, key: &str| part[key].as_u64().unwrap() as usize;
    let projection_dim = size(&whole, "projection_dim");
    let config = ClipConfig {
        text_config: ClipTextConfig {
            vocab_size: size(text, "vocab_size"),
            embed_dim: size(text, "hidden_size"),
            activation: Activation::QuickGelu,
            intermediate_size: size(text, "intermediate_size"),
            max_position_embeddings: size(text, "max_position_embeddings"),
            pad_with: None,
            num_hidden_layers: size(text, "num_hidden_layers"),
            num_attention_heads: size(text, "num_attention_heads"),
            projection_dim,
        },
        vision_config: ClipVisionConfig {
            embed_dim: size(vision, "hidden_size"),
            activation: Activation::QuickGelu,
            intermediate_size: size(vision, "intermediate_size"),
            num_hidden_layers: size(vision, "num_hidden_layers"),
            num_attention_heads: size(vision, "num_attention_heads"),
            projection_dim,
            num_channels: 3,
            image_size: size(vision, "image_size"),
            patch_size: size(vision, "patch_size"),
        },
        logit_scale_init_value: 2.6592,
        image_size: size(vision, "image_size"),
    };
    let model = ClipModel::new(case.weights(), &config).unwrap();
    case.assert_texts("texts", |ids| model.get_text_features(ids));
    case.assert_pictures(|pixels| model.get_image_features(pixels));
}

#[test]
fn siglip_is_candles() {
    let case = Case::read("dual/siglip_one");
    let model = siglip::Model::new(&case.config(), case.weights()).unwrap();
    case.assert_texts("texts", |ids| {
        let features = model.get_text_features(ids)?;
        features.reshape(((), features.dim(D::Minus1)?))
    });
    case.assert_pictures(|pixels| model.get_image_features(pixels));
}
