//! Compares the forward pass on given tokens and patches with the reference, hidden state by hidden
//! state.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::*;

/// Maximum of `‖a - b‖ / ‖b‖` for a hidden state computed in f32.
const TOLERANCE: f64 = 1e-5;
const HALF_COSINE: f64 = 0.999;
const COSINE_BF16: f64 = 0.9995;
const COSINE_INT8: f64 = 0.993;

const FORWARD_CASES: [&str; 10] = [
    "bfloat16",
    "deepstack_three",
    "float16",
    "grids_and_table",
    "grouped_heads",
    "image_square",
    "images_left",
    "images_many",
    "text_left",
    "text_right",
];

/// A case in `tests/golden/forward`: the reference's inputs and hidden states.
struct ForwardCase {
    tensors: HashMap<String, Tensor>,
    half: bool,
}

impl ForwardCase {
    fn read(name: &str) -> Self {
        let path = golden("forward").join(name).join("golden.safetensors");
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        Self {
            half: tensors.contains_key("embedding_f32"),
            tensors,
        }
    }

    fn integers(&self, name: &str) -> Vec<Vec<i64>> {
        self.tensors[name].to_vec2().unwrap()
    }

    /// The rows of a tensor [batch, padded length, width] that are not padding, one after another.
    fn packed(&self, tensor: &Tensor) -> Tensor {
        let kept: Vec<u32> = self
            .integers("attention_mask")
            .concat()
            .iter()
            .zip(0u32..)
            .filter(|(mask, _)| **mask == 1)
            .map(|(_, row)| row)
            .collect();
        tensor
            .flatten_to(1)
            .unwrap()
            .index_select(&Tensor::new(kept, &Device::Cpu).unwrap(), 0)
            .unwrap()
    }

    /// The token IDs and grids of each request, without padding.
    fn requests(&self, image_token: u32, merge: usize) -> Vec<(Vec<u32>, Vec<PatchGrid>)> {
        let mut grids = match self.tensors.contains_key("image_grid_thw") {
            true => self.integers("image_grid_thw"),
            false => Vec::new(),
        }
        .into_iter()
        .map(|thw| PatchGrid {
            rows: thw[1] as usize,
            columns: thw[2] as usize,
        });
        self.integers("input_ids")
            .iter()
            .zip(self.integers("attention_mask"))
            .map(|(ids, mask)| {
                let ids: Vec<u32> = ids
                    .iter()
                    .zip(mask)
                    .filter(|(_, mask)| *mask == 1)
                    .map(|(&id, _)| id as u32)
                    .collect();
                let mut left = ids.iter().filter(|&&id| id == image_token).count();
                let mut own = Vec::new();
                while left > 0 {
                    let grid = grids.next().unwrap();
                    left -= grid.patches() / (merge * merge);
                    own.push(grid);
                }
                (ids, own)
            })
            .collect()
    }

    fn batch(&self, model: &Qwen3Vl) -> InputBatch {
        let config = &model.config;
        let mut batch = InputBatch::default();
        let merge = config.vision_config.spatial_merge_size;
        for (ids, grids) in self.requests(config.image_token_id, merge) {
            model.add_tokens(&ids, &grids, &mut batch).unwrap();
        }
        if let Some(pixels) = self.tensors.get("pixel_values") {
            batch.patches = pixels.flatten_all().unwrap().to_vec1().unwrap();
        }
        batch
    }

    fn expected(&self, point: QwenPoint) -> Tensor {
        let name = match point {
            QwenPoint::PatchEmbedding => "vision.patch_embed".to_owned(),
            QwenPoint::PatchPositions => "vision.pos".to_owned(),
            QwenPoint::VisionBlock(i) => format!("vision.block.{i}"),
            QwenPoint::Deepstack(k) => format!("vision.deepstack.{k}"),
            QwenPoint::Merged => "vision.merged".to_owned(),
            QwenPoint::Embedded => "text.embed".to_owned(),
            QwenPoint::TextBlock(i) => format!("text.block.{i}"),
            QwenPoint::Norm => "text.norm".to_owned(),
        };
        let tensor = &self.tensors[&name];
        match name.starts_with("text.") {
            true => self.packed(tensor),
            false => tensor.clone(),
        }
    }

    fn embeddings(&self, name: &str) -> Vec<Vec<f32>> {
        self.tensors[name].to_vec2().unwrap()
    }
}

#[test]
fn every_case_is_tested() {
    assert_eq!(golden_names("forward"), FORWARD_CASES);
}

#[test]
fn hidden_states_are_the_references() {
    for name in FORWARD_CASES {
        let (case, model) = (ForwardCase::read(name), load_exact(name));
        let batch = case.batch(&model);
        let mut seen = Vec::new();
        model
            .forward(&batch, &Cancel::new(), &mut |point, states| {
                let error = relative_error(states, &case.expected(point));
                // The reference rounds every activation to a half-precision type; this crate does
                // not.
                let tolerance = if case.half { 0.05 } else { TOLERANCE };
                assert!(error <= tolerance, "{name}, {point:?}: {error:e}");
                seen.push(point);
            })
            .unwrap();

        let (text, vision) = (&model.config.text_config, &model.config.vision_config);
        let mut points = match batch.grids.is_empty() {
            true => 0,
            false => 3 + vision.depth + vision.deepstack_visual_indexes.len(),
        };
        points += 2 + text.num_hidden_layers;
        assert_eq!(seen.len(), points, "{name}");
    }
}

/// Asserts that each embedding has a cosine of at least `tolerance` to the golden one, and the norm
/// 1.
fn assert_same(name: &str, got: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let cosine = cosine(got, expected);
        assert!(cosine >= tolerance, "{name}, {i}: {cosine}");
        let norm = norm(got.iter().map(|&x| x as f64));
        assert!((norm - 1.0).abs() < 1e-6, "{name}, {i}: {norm}");
    }
}

#[test]
fn embeddings_are_the_references() {
    for name in FORWARD_CASES {
        let (case, model) = (ForwardCase::read(name), load_exact(name));
        let got = model
            .forward(&case.batch(&model), &Cancel::new(), &mut |_, _| ())
            .unwrap();
        let tolerance = if case.half { HALF_COSINE } else { COSINE };
        assert_same(name, &got, &case.embeddings("embedding"), tolerance);
        if case.half {
            // Only the weights are in half precision here. The reference computes in f32 on these
            // weights, so the tolerance is the same as with f32 weights.
            assert_same(name, &got, &case.embeddings("embedding_f32"), COSINE);
        }
    }
}

/// Compares with the reference in f32 on the same weights. The hidden states have 32 dimensions here
/// and 2048 in the 2B model, so the rounding errors of single products cancel out less.
#[test]
fn other_forms_of_the_matrices_stay_close() {
    for (dtype, tolerance) in [
        ("float32", COSINE),
        ("float16", 0.999_99),
        ("bfloat16", COSINE_BF16),
        ("int8", COSINE_INT8),
    ] {
        for name in FORWARD_CASES {
            let (case, model) = (ForwardCase::read(name), load_case_as(name, dtype));
            let got = model
                .forward(&case.batch(&model), &Cancel::new(), &mut |_, _| ())
                .unwrap();
            let expected = if case.half {
                "embedding_f32"
            } else {
                "embedding"
            };
            let label = format!("{name} as {dtype}");
            assert_same(&label, &got, &case.embeddings(expected), tolerance);
        }
    }
}

#[test]
fn positions_are_the_references() {
    for name in FORWARD_CASES {
        let (case, model) = (ForwardCase::read(name), load_case(name));
        let expected = case.packed(&case.tensors["position_ids"].permute((1, 2, 0)).unwrap());
        let expected: Vec<Vec<i64>> = expected.to_vec2().unwrap();
        let got: Vec<Vec<i64>> = case
            .batch(&model)
            .positions
            .iter()
            .map(|position| position.map(i64::from).to_vec())
            .collect();
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn a_batch_gives_what_its_requests_give_alone() {
    for name in FORWARD_CASES {
        let (case, model) = (ForwardCase::read(name), load_case(name));
        let forward = |batch: &InputBatch| {
            model
                .forward(batch, &Cancel::new(), &mut |_, _| ())
                .unwrap()
        };
        let batch = case.batch(&model);
        let together = forward(&batch);
        let config = &model.config;
        let merge = config.vision_config.spatial_merge_size;
        let mut patches = batch.patches.as_slice();
        for (i, (ids, grids)) in case
            .requests(config.image_token_id, merge)
            .iter()
            .enumerate()
        {
            let mut alone = InputBatch::default();
            model.add_tokens(ids, grids, &mut alone).unwrap();
            let values: usize = grids.iter().map(|grid| grid.patches()).sum::<usize>()
                * config.vision_config.patch_values();
            let (own, rest) = patches.split_at(values);
            alone.patches = own.to_vec();
            patches = rest;
            for (a, b) in forward(&alone)[0].iter().zip(&together[i]) {
                assert!((a - b).abs() < 1e-5, "{name}, {i}: {a} and {b}");
            }
        }
    }
}

#[test]
fn cancelling_stops_the_forward_pass_at_any_point() {
    let (case, model) = (ForwardCase::read("images_many"), load_case("images_many"));
    let batch = case.batch(&model);
    let mut points = 0;
    model
        .forward(&batch, &Cancel::new(), &mut |_, _| points += 1)
        .unwrap();
    // After the last block there is nothing left to cancel.
    for at in 0..points - 2 {
        let cancel = Cancel::new();
        let mut seen = 0;
        let result = model.forward(&batch, &cancel, &mut |_, _| {
            if seen == at {
                cancel.cancel();
            }
            seen += 1;
        });
        assert!(matches!(result, Err(ModelError::Cancelled)), "point {at}");
        assert!(seen <= at + 4, "{seen} points after a cancel at {at}");
    }
}
