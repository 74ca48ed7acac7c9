//! Tests of what a directory of CLIP or SigLIP is said to hold, and of the errors for invalid ones.

use serde_json::json;

use super::*;

#[test]
fn directories_are_described() {
    for (name, family, dims) in [
        ("clip_openai", "clip", 24),
        ("clip_laion", "clip", 28),
        ("siglip_naflex", "siglip2", 24),
        ("siglip_one", "siglip", 40),
        ("siglip_two", "siglip", 48),
    ] {
        let info = crate::describe(&root().join(name)).unwrap();
        assert_eq!((info.family, info.dims), (family, Some(dims)));
        assert_eq!(info.missing, Vec::<String>::new());
    }
    let close = |found: Option<f32>, expected: f32| (found.unwrap() - expected).abs() < 1e-6;
    let clip = crate::describe(&root().join("clip_laion")).unwrap();
    let own = clip.calibration.unwrap();
    assert!(close(Some(own.scale.ln()), 4.6) && own.bias.is_none());
    assert_eq!((clip.coarse_dims, clip.fine_threshold), (Some(28), None));

    let copy = GoldenCopy::of_dual("siglip_two");
    let siglip = crate::describe(copy.path()).unwrap();
    assert_eq!(siglip.coarse_dims, Some(48));
    assert_eq!(siglip.calibration.unwrap().bias, Some(-12.5));
    assert!(close(siglip.fine_threshold, 12.5 / 4.6f32.exp()));
    let own = json!({"fine_threshold": 0.07, "coarse_dims": 8}).to_string();
    std::fs::write(copy.path().join("photosearch.json"), own).unwrap();
    let siglip = crate::describe(copy.path()).unwrap();
    assert_eq!(
        (siglip.fine_threshold, siglip.coarse_dims),
        (Some(0.07), Some(8))
    );

    std::fs::remove_file(copy.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(
        crate::describe(copy.path()).unwrap().missing,
        ["tokenizer_config.json"]
    );
}

#[test]
fn pickled_weights_are_named() {
    for name in ["clip_openai", "siglip_two"] {
        let copy = GoldenCopy::of_dual(name);
        let path = |name: &str| copy.path().join(name);
        std::fs::rename(path("model.safetensors"), path("pytorch_model.bin")).unwrap();
        let error = copy.error();
        assert!(
            matches!(error, ModelError::Pickled("pytorch_model.bin")),
            "{error:?}"
        );
    }
}

#[test]
fn hostile_configurations_are_malformed() {
    let both = [
        ("/text_config/hidden_size", json!(0)),
        ("/text_config/hidden_size", json!(33)),
        ("/text_config/hidden_size", json!(1u64 << 40)),
        ("/text_config/num_attention_heads", json!(0)),
        ("/text_config/num_hidden_layers", json!(1_000_000)),
        ("/text_config/intermediate_size", json!(0)),
        ("/text_config/vocab_size", json!(-1)),
        ("/text_config/max_position_embeddings", json!(0)),
        ("/text_config/layer_norm_eps", json!(-1.0)),
        ("/text_config/hidden_act", json!("elu")),
        ("/vision_config/hidden_size", json!(0)),
        ("/vision_config/num_attention_heads", json!(5)),
        ("/vision_config/image_size", json!(0)),
        ("/vision_config/image_size", json!(1u64 << 32)),
        ("/vision_config/patch_size", json!(0)),
        ("/vision_config/patch_size", json!(33)),
        ("/vision_config/num_channels", json!(4)),
    ];
    let clip = [("/projection_dim", json!(0))];
    let siglip = [
        ("/text_config/projection_size", json!(31)),
        ("/text_config/projection_size", json!(0)),
    ];
    for (name, own) in [("clip_openai", &clip[..]), ("siglip_two", &siglip[..])] {
        for (pointer, value) in both.iter().chain(own) {
            let copy = GoldenCopy::of_dual(name);
            copy.edit("config.json", |config| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                config.pointer_mut(parent).unwrap()[key] = value.clone();
            });
            copy.assert_malformed("config.json", "");
        }
        for pointer in [
            "/text_config/intermediate_size",
            "/text_config/vocab_size",
            "/text_config/max_position_embeddings",
            "/vision_config/intermediate_size",
        ] {
            let copy = GoldenCopy::of_dual(name);
            copy.edit("config.json", |config| {
                let size = config.pointer_mut(pointer).unwrap();
                *size = json!(size.as_u64().unwrap() + 1);
            });
            copy.assert_malformed("model.safetensors", "tensor");
        }
    }
    let copy = GoldenCopy::of_dual("siglip_two");
    copy.edit("config.json", |config| {
        config["vision_config"]["vision_use_head"] = json!(false);
    });
    let error = copy.error();
    assert!(
        matches!(error, ModelError::UnsupportedModel(_)),
        "{error:?}"
    );
}

#[test]
fn a_tokenizer_of_another_model_is_malformed() {
    let copy = GoldenCopy::of_dual("siglip_two");
    copy.edit("tokenizer_config.json", |config| {
        config["eos_token"] = json!({"content": "<end>"});
    });
    copy.assert_malformed("tokenizer.json", "\"<end>\"");

    let copy = GoldenCopy::of_dual("clip_laion");
    copy.edit("config.json", |config| {
        config["text_config_dict"]["eos_token_id"] = json!(5);
    });
    let model = copy.load().unwrap();
    let error = model
        .embed(&[text("snow")], u64::MAX, &Cancel::new())
        .unwrap_err();
    assert!(error.to_string().contains("token 5"), "{error}");
}
