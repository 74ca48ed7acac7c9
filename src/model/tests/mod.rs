//! Tests loading of valid and invalid model directories. Most tests damage a copy of a valid
//! directory.

mod cache;
mod candle;
pub(super) mod reference;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;

/// A copy of a directory in `tests/golden/`, removed at the end of the test.
pub(super) struct GoldenCopy(PathBuf);

impl GoldenCopy {
    fn of(case: &str) -> Self {
        Self::copy("forward", case)
    }

    pub fn of_text(case: &str) -> Self {
        Self::copy("text", case)
    }

    pub fn of_nomic(case: &str) -> Self {
        Self::copy("nomic", case)
    }

    pub fn of_dual(case: &str) -> Self {
        Self::copy("dual", case)
    }

    fn copy(group: &str, case: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "photosearch-model-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden")
            .join(group)
            .join(case);
        copy_directory(&source, &path);
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json: Value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        change(&mut json);
        fs::write(self.file(name), json.to_string()).unwrap();
    }

    /// Rewrites the header of a safetensors file.
    pub fn edit_header(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let bytes = fs::read(self.file(name)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let mut changed = (header.len() as u64).to_le_bytes().to_vec();
        changed.extend(header.as_bytes());
        changed.extend(&bytes[8 + length..]);
        fs::write(self.file(name), changed).unwrap();
    }

    pub fn load(&self) -> Result<Box<dyn Embedder>, ModelError> {
        load_anew(&self.0, &Cancel::new())
    }

    pub fn error(&self) -> ModelError {
        match self.load() {
            Ok(_) => panic!("it loads"),
            Err(error) => error,
        }
    }

    /// Asserts that loading fails because `file` is malformed, with a message that contains
    /// `reason`.
    pub fn assert_malformed(&self, file: &str, reason: &str) {
        let error = self.error();
        let message = error.to_string();
        assert!(
            matches!(&error, ModelError::Malformed { file: found, .. } if found == file),
            "{error:?}"
        );
        assert!(message.contains(reason), "{message:?} lacks {reason:?}");
        assert!(!message.contains(self.0.to_str().unwrap()), "{message:?}");
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else if entry.file_name() != "golden.safetensors" {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Drop for GoldenCopy {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Loads a model with an empty cache.
pub(super) fn load_anew(dir: &Path, cancel: &Cancel) -> Result<Box<dyn Embedder>, ModelError> {
    let cache = tempfile::tempdir().unwrap();
    let cache = Cache::new(cache.path().to_owned());
    Ok(load(dir, &cache, cancel)?.embedder)
}

const TEXT_LAYER: &str = "language_model.layers.0.self_attn.q_proj.weight";

#[test]
fn a_good_directory_loads_and_is_described() {
    for case in ["text_right", "bfloat16"] {
        let copy = GoldenCopy::of(case);
        let model = copy.load().unwrap();
        let info = describe(&copy.0).unwrap();
        assert_eq!((info.family, info.dims), ("qwen3_vl", Some(model.dims())));
        assert!(info.missing.is_empty());
        assert_eq!((info.coarse_threshold, info.coarse_dims), (None, None));
        let weights: u64 = fs::read_dir(&copy.0)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().extension() == Some("safetensors".as_ref()))
            .map(|entry| entry.metadata().unwrap().len())
            .sum();
        assert!(info.bytes > weights);
    }
}

#[test]
fn what_is_missing_is_named() {
    let nowhere = Path::new("/nonexistent/model");
    assert!(matches!(
        load_anew(nowhere, &Cancel::new()),
        Err(ModelError::NotFound)
    ));
    assert!(matches!(describe(nowhere), Err(ModelError::NotFound)));

    for (case, file) in [
        ("text_right", "tokenizer.json"),
        ("text_right", "preprocessor_config.json"),
        ("text_right", "model.safetensors"),
        ("bfloat16", "model-00002-of-00004.safetensors"),
    ] {
        let copy = GoldenCopy::of(case);
        fs::remove_file(copy.file(file)).unwrap();
        assert_eq!(describe(&copy.0).unwrap().missing, [file]);
        let error = copy.error();
        assert!(
            matches!(&error, ModelError::Incomplete { missing } if missing == &[file]),
            "{error:?}"
        );
    }

    let copy = GoldenCopy::of("text_right");
    fs::remove_file(copy.file("config.json")).unwrap();
    for error in [copy.error(), describe(&copy.0).unwrap_err()] {
        assert!(
            matches!(&error, ModelError::Incomplete { missing } if missing == &["config.json"]),
            "{error:?}"
        );
    }
}

#[test]
fn an_unknown_family_is_an_error_that_lists_the_known() {
    let copy = GoldenCopy::of("text_right");
    copy.edit("config.json", |config| {
        config["model_type"] = json!("blip-2")
    });
    for error in [copy.error(), describe(&copy.0).unwrap_err()] {
        assert!(
            matches!(error, ModelError::UnsupportedModel(_)),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(message.contains("\"blip-2\"") && message.contains("qwen3_vl"));
    }
}

#[test]
fn files_that_are_not_json_are_malformed() {
    for file in [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "photosearch.json",
    ] {
        for content in ["", "{", "[]", "\u{0}"] {
            let copy = GoldenCopy::of("text_right");
            fs::write(copy.file(file), content).unwrap();
            copy.assert_malformed(file, "");
        }
    }
    let copy = GoldenCopy::of("bfloat16");
    fs::write(copy.file("model.safetensors.index.json"), "{}").unwrap();
    copy.assert_malformed("model.safetensors.index.json", "weight_map");
}

#[test]
fn photosearch_json_recommends_and_rejects() {
    let copy = GoldenCopy::of("text_right");
    let recommend = |content: Value| {
        fs::write(copy.file("photosearch.json"), content.to_string()).unwrap();
    };
    recommend(json!({
        "coarse_threshold": 0.25, "coarse_dims": 8, "fine_threshold": 0.5, "compute_dtype": "bfloat16",
        "default_instruction": "Represent it.", "max_tokens": 64,
        "image": {"min_pixels": 256, "max_pixels": 9216}
    }));
    let info = describe(&copy.0).unwrap();
    assert_eq!(
        (info.coarse_threshold, info.coarse_dims, info.fine_threshold),
        (Some(0.25), Some(8), Some(0.5))
    );
    copy.load().unwrap();

    for (content, reason) in [
        (json!({"coarse_treshold": 0.2}), "coarse_treshold"),
        (json!({"image": {"min_pixel": 1}}), "min_pixel"),
        (json!({"coarse_threshold": 1.5}), "1.5"),
        (json!({"fine_threshold": -2}), "-2"),
        (json!({"coarse_dims": 0}), "not 0"),
        (json!({"coarse_dims": 33}), "not 33"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "-1"),
        (json!({"compute_dtype": "int4"}), "int4"),
        (json!({"image": {"min_pixels": 0}}), "min_pixels"),
        (
            json!({"image": {"min_pixels": 100, "max_pixels": 99}}),
            "100 and 99",
        ),
        (
            json!({"image": {"max_pixels": 1u64 << 40}}),
            "1099511627776",
        ),
    ] {
        recommend(content);
        copy.assert_malformed("photosearch.json", reason);
    }
}

#[test]
fn a_default_instruction_and_a_pixel_budget_change_the_vector() {
    let copy = GoldenCopy::of("image_square");
    let image = RgbImage::new(96, 64, vec![77; 96 * 64 * 3]).unwrap();
    let images = [image];
    let embed = || {
        let request = Request {
            images: &images,
            ..Default::default()
        };
        let model = copy.load().unwrap();
        model
            .embed(&[request], u64::MAX, &Cancel::new())
            .unwrap()
            .remove(0)
    };
    let plain = embed();
    for content in [
        json!({"default_instruction": "Something else."}),
        json!({"image": {"min_pixels": 16384, "max_pixels": 32768}}),
    ] {
        fs::write(copy.file("photosearch.json"), content.to_string()).unwrap();
        let changed = embed();
        let dot: f32 = plain.iter().zip(&changed).map(|(a, b)| a * b).sum();
        assert!(dot < 0.9999, "{content}: {dot}");
    }
}

#[test]
fn a_hostile_configuration_is_malformed() {
    for (pointer, value) in [
        ("/text_config/num_attention_heads", json!(0)),
        ("/text_config/num_attention_heads", json!(3)),
        ("/text_config/num_key_value_heads", json!(0)),
        ("/text_config/num_key_value_heads", json!(3)),
        ("/text_config/head_dim", json!(0)),
        ("/text_config/head_dim", json!(15)),
        ("/text_config/head_dim", json!(1u64 << 63)),
        ("/text_config/hidden_size", json!(0)),
        ("/text_config/hidden_size", json!(-1)),
        ("/text_config/hidden_size", json!(1u64 << 40)),
        ("/text_config/intermediate_size", json!(0)),
        ("/text_config/num_hidden_layers", json!(0)),
        ("/text_config/num_hidden_layers", json!(1_000_000)),
        ("/text_config/vocab_size", json!(0)),
        ("/text_config/max_position_embeddings", json!(0)),
        ("/text_config/rms_norm_eps", json!(-1.0)),
        ("/text_config/hidden_act", json!("elu")),
        ("/text_config/rope_parameters/rope_theta", json!(0.0)),
        ("/text_config/rope_parameters/rope_type", json!("yarn")),
        ("/text_config/rope_parameters/mrope_section", json!([4, 2])),
        (
            "/text_config/rope_parameters/mrope_section",
            json!([4, 2, 3]),
        ),
        (
            "/text_config/rope_parameters/mrope_section",
            json!([u64::MAX, 2, 2]),
        ),
        ("/vision_config/depth", json!(0)),
        ("/vision_config/hidden_size", json!(0)),
        ("/vision_config/hidden_size", json!(18)),
        ("/vision_config/num_heads", json!(0)),
        ("/vision_config/num_heads", json!(3)),
        ("/vision_config/patch_size", json!(0)),
        ("/vision_config/patch_size", json!(1u64 << 32)),
        ("/vision_config/spatial_merge_size", json!(0)),
        ("/vision_config/temporal_patch_size", json!(0)),
        ("/vision_config/in_channels", json!(4)),
        ("/vision_config/num_position_embeddings", json!(0)),
        ("/vision_config/out_hidden_size", json!(31)),
        ("/vision_config/deepstack_visual_indexes", json!([9])),
        ("/vision_config/deepstack_visual_indexes", json!([0, 0])),
        ("/image_token_id", json!(384)),
        ("/vision_start_token_id", json!(1u64 << 40)),
    ] {
        let copy = GoldenCopy::of("text_right");
        copy.edit("config.json", |config| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value.clone();
        });
        let error = copy.error();
        assert!(
            matches!(&error, ModelError::Malformed { file, .. } if file == "config.json"),
            "{pointer} = {value}: {error:?}"
        );
    }
}

#[test]
fn weights_must_have_the_shapes_of_the_configuration() {
    for (pointer, value) in [
        ("/text_config/intermediate_size", json!(41)),
        ("/text_config/vocab_size", json!(385)),
        ("/text_config/num_hidden_layers", json!(4)),
        ("/vision_config/depth", json!(2)),
        ("/vision_config/num_position_embeddings", json!(17)),
    ] {
        let copy = GoldenCopy::of("text_right");
        copy.edit("config.json", |config| {
            *config.pointer_mut(pointer).unwrap() = value.clone();
        });
        copy.assert_malformed("model.safetensors", "tensor");
    }
    let copy = GoldenCopy::of("text_right");
    copy.edit("preprocessor_config.json", |config| {
        config["patch_size"] = json!(14);
    });
    copy.assert_malformed("preprocessor_config.json", "patch_size is 14");
}

#[test]
fn half_a_download_is_cut_short_at_every_length() {
    let copy = GoldenCopy::of("text_right");
    check(&copy.0).unwrap();
    let whole = fs::read(copy.file("model.safetensors")).unwrap();
    for length in [0, 1, 7] {
        fs::write(copy.file("model.safetensors"), &whole[..length]).unwrap();
        copy.assert_malformed("model.safetensors", "bytes long");
    }
    for length in [8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(copy.file("model.safetensors"), &whole[..length]).unwrap();
        for error in [copy.error(), check(&copy.0).unwrap_err()] {
            let ModelError::CutShort {
                file,
                bytes,
                announced,
            } = error
            else {
                panic!("{error:?}");
            };
            assert_eq!((file.as_str(), bytes), ("model.safetensors", length as u64));
            // The total length is known only from a complete header.
            assert!(announced == whole.len() as u64 || length <= 100);
        }
    }
}

#[test]
fn pointers_of_git_lfs_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
        oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n\
        size 12345\n";
    for file in [
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "config.json",
    ] {
        let copy = GoldenCopy::of("text_right");
        fs::write(copy.file(file), pointer).unwrap();
        for error in [copy.error(), check(&copy.0).unwrap_err()] {
            assert!(
                matches!(&error, ModelError::Pointer(found) if found == file),
                "{error:?}"
            );
            assert!(error.to_string().contains("git lfs pull"), "{error}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_noticed_before_it_is_needed() {
    let copy = GoldenCopy::of("text_right");
    // A directory can be opened but not read. Permissions would not stop a test that runs as root.
    fs::remove_file(copy.file("model.safetensors")).unwrap();
    fs::create_dir(copy.file("model.safetensors")).unwrap();
    let error = check(&copy.0).unwrap_err();
    assert!(
        matches!(&error, ModelError::Unreadable { file, .. } if file == "model.safetensors"),
        "{error:?}"
    );
    assert!(matches!(
        describe(&copy.0).map(|info| info.missing),
        Ok(missing) if missing == ["model.safetensors"]
    ));
}

#[test]
fn hostile_headers_are_malformed() {
    let file = "model.safetensors";
    for (key, value, reason) in [
        ("data_offsets", json!([16, 8]), "spans bytes 16 to 8"),
        ("data_offsets", json!([0, 4]), "has 4 bytes"),
        ("shape", json!([1u64 << 62, 1u64 << 62]), "has"),
        ("shape", json!([64, -1]), "-1"),
        ("shape", json!([2048]), "has shape [2048]"),
        ("dtype", json!("I64"), "has type I64"),
    ] {
        let copy = GoldenCopy::of("text_right");
        copy.edit_header(file, |header| header[TEXT_LAYER][key] = value.clone());
        copy.assert_malformed(file, reason);
    }
    let copy = GoldenCopy::of("text_right");
    copy.edit_header(file, |header| {
        header.as_object_mut().unwrap().remove(TEXT_LAYER).unwrap();
    });
    copy.assert_malformed(file, TEXT_LAYER);

    let copy = GoldenCopy::of("text_right");
    copy.edit_header(file, |header| {
        header[TEXT_LAYER]["data_offsets"] = json!([0, u64::MAX]);
    });
    assert!(matches!(copy.error(), ModelError::CutShort { .. }));

    let copy = GoldenCopy::of("text_right");
    let mut bytes = fs::read(copy.file(file)).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(copy.file(file), bytes).unwrap();
    copy.assert_malformed(file, "header of 18446744073709551615 bytes");
}

#[test]
fn a_shard_index_stays_in_the_directory() {
    let index = "model.safetensors.index.json";
    for name in ["../secret.safetensors", "/etc/passwd", "a/b", ".."] {
        let copy = GoldenCopy::of("bfloat16");
        copy.edit(index, |index| {
            let map = index["weight_map"].as_object_mut().unwrap();
            *map.values_mut().next().unwrap() = json!(name);
        });
        copy.assert_malformed(index, name);
        assert!(matches!(
            describe(&copy.0),
            Err(ModelError::Malformed { .. })
        ));
    }

    let copy = GoldenCopy::of("bfloat16");
    copy.edit(index, |index| {
        index["weight_map"]["no.such.tensor"] = json!("model-00001-of-00004.safetensors");
    });
    copy.assert_malformed("model-00001-of-00004.safetensors", "no.such.tensor");
}

#[test]
fn weights_that_overflow_are_an_error_and_no_vector() {
    let copy = GoldenCopy::of("text_right");
    let file = "model.safetensors";
    let mut bytes = fs::read(copy.file(file)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let begin = header[TEXT_LAYER]["data_offsets"][0].as_u64().unwrap() as usize + 8 + length;
    bytes[begin..begin + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(copy.file(file), bytes).unwrap();
    let request = Request {
        text: Some("a baby"),
        ..Default::default()
    };
    let result = copy
        .load()
        .unwrap()
        .embed(&[request], u64::MAX, &Cancel::new());
    assert!(matches!(result, Err(ModelError::Internal(_))), "{result:?}");
}

#[test]
fn a_tokenizer_of_another_model_is_malformed() {
    let embed = |vocabulary: Value| {
        let copy = GoldenCopy::of("text_right");
        copy.edit("tokenizer.json", |tokenizer| {
            *tokenizer = json!({
                "version": "1.0", "added_tokens": [],
                "model": {"type": "BPE", "vocab": vocabulary, "merges": []}
            });
        });
        let request = Request {
            text: Some("a"),
            ..Default::default()
        };
        copy.load()
            .and_then(|model| model.embed(&[request], u64::MAX, &Cancel::new()))
    };
    let markers = json!({
        "<|vision_start|>": 367, "<|vision_end|>": 368, "<|image_pad|>": 370, "<|video_pad|>": 371
    });
    let mut large = markers.clone();
    large["a"] = json!(384);
    for (vocabulary, reason) in [
        (json!({"a": 0}), "no token with id"),
        (markers, "no tokens"),
        (large, "token 384 is not among"),
    ] {
        let error = embed(vocabulary).unwrap_err();
        assert!(
            matches!(&error, ModelError::Malformed { file, .. } if file == "tokenizer.json"),
            "{error:?}"
        );
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn loading_and_embedding_stop_when_cancelled() {
    let cancel = Cancel::new();
    cancel.cancel();
    for case in ["text_right", "bfloat16"] {
        let copy = GoldenCopy::of(case);
        assert!(matches!(
            load_anew(&copy.0, &cancel),
            Err(ModelError::Cancelled)
        ));
        let model = copy.load().unwrap();
        let result = model.embed(&[Request::default()], u64::MAX, &cancel);
        assert!(matches!(result, Err(ModelError::Cancelled)));
    }
}
