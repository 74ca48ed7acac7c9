//! Tests of the preprocessing: the sizes that pictures get, and the errors for invalid settings.

use serde_json::{Value, json};

use super::super::preprocess::naflex_grid;
use super::*;

#[test]
fn long_and_narrow_pictures_are_limited() {
    let model = Model::load(&root().join("clip_openai"));
    let model = model.embedder();
    assert_eq!(model.fitted_size(4000, 3000).unwrap(), Some((42, 32)));
    assert_eq!(model.fitted_size(3000, 4000).unwrap(), Some((32, 42)));
    assert_eq!(model.fitted_size(1, 2047).unwrap(), Some((32, 65_504)));
    for (width, height) in [(1, 2048), (2048, 1), (u32::MAX, 1)] {
        let error = model.fitted_size(width, height).unwrap_err();
        assert!(matches!(error, ModelError::InvalidInput(_)), "{error:?}");
        assert!(error.to_string().contains("2047 times longer"), "{error}");
    }
    let siglip = Model::load(&root().join("siglip_two"));
    let fitted = siglip.embedder().fitted_size(65_535, 1).unwrap();
    assert_eq!(fitted, Some((32, 32)));
}

#[test]
fn naflex_grids_are_those_of_the_reference() {
    let grids = Case::read("siglip_naflex").about.grids;
    assert!(grids.len() > 100);
    for (width, height, patch, most, rows, columns) in grids {
        assert_eq!(
            naflex_grid(width, height, patch, most),
            Some(Grid { rows, columns }),
            "{width} x {height} pixels, {most} patches of {patch}"
        );
    }
    assert_eq!(naflex_grid(u32::MAX, u32::MAX, 1, 256), None);
    let nothing = Grid {
        rows: 1,
        columns: 1,
    };
    assert_eq!(naflex_grid(0, 0, 16, 256), Some(nothing));
}

/// A caller that scales a picture in advance does not change its vector.
#[test]
fn naflex_pictures_fit_in_advance_or_not_at_all() {
    let model = Model::load(&root().join("siglip_naflex"));
    let preprocessor = model.preprocessor();
    let mut fitting = 0;
    for (width, height) in (1..200u32).flat_map(|i| [(i * 31, i * 7), (i, 211), (4000, 3000 + i)]) {
        let grid = preprocessor.grid(width, height).unwrap();
        assert!((1..=40).contains(&grid.patches()), "{grid:?}");
        let Some((width, height)) = preprocessor.fitted_size(width, height).unwrap() else {
            continue;
        };
        fitting += 1;
        assert_eq!(
            (width as usize, height as usize),
            (4 * grid.columns, 4 * grid.rows)
        );
        assert_eq!(preprocessor.grid(width, height).unwrap(), grid);
    }
    assert!(fitting > 590, "{fitting}");

    // 100 times larger, this picture still has fewer than 256 patches.
    let copy = GoldenCopy::of_dual("siglip_naflex");
    copy.edit("preprocessor_config.json", |config| {
        config["max_num_patches"] = json!(16_383);
    });
    let model = copy.load().unwrap();
    assert_eq!(model.fitted_size(1, 2).unwrap(), None);
    assert_eq!(model.fitted_size(65_535, 1).unwrap(), Some((65_532, 4)));
    let small = [picture(1, 2)];
    let request = Request {
        images: &small,
        ..Request::default()
    };
    let vectors = model.embed(&[request], 1 << 30, &Cancel::new()).unwrap();
    assert_eq!(vectors[0].len(), model.dims());
}

#[test]
fn hostile_naflex_configurations_are_malformed() {
    for (key, value, reason) in [
        ("num_patches", json!(0), "num_patches"),
        ("num_patches", json!(24), "not a square"),
        ("num_patches", json!(1u64 << 40), "num_patches"),
        ("num_patches", json!(-1), ""),
        ("patch_size", json!(0), "patch_size"),
        ("patch_size", json!(1u64 << 32), "patch_size"),
        ("patch_size", json!([4, 4]), ""),
        ("num_channels", json!(1), "num_channels"),
    ] {
        let copy = GoldenCopy::of_dual("siglip_naflex");
        copy.edit("config.json", |config| config["vision_config"][key] = value);
        copy.assert_malformed("config.json", reason);
    }
    let copy = GoldenCopy::of_dual("siglip_naflex");
    copy.edit("config.json", |config| {
        config["vision_config"]["num_patches"] = json!(16);
    });
    copy.assert_malformed("model.safetensors", "tensor");
    for (key, value, reason) in [
        ("max_num_patches", json!(0), "between 1 and 16383, not 0"),
        ("max_num_patches", json!(16_384), "not 16384"),
        ("max_num_patches", json!(-1), ""),
        ("patch_size", json!(5), "patch_size is 5"),
        ("patch_size", json!(0), "patch_size is 0"),
        ("resample", json!(1), "resample 1"),
        ("do_resize", json!(false), "do_resize"),
        ("image_std", json!([0.5, 0.0, 0.5]), "image_std"),
    ] {
        let copy = GoldenCopy::of_dual("siglip_naflex");
        copy.edit("preprocessor_config.json", |config| config[key] = value);
        copy.assert_malformed("preprocessor_config.json", reason);
    }
    // A key that the model does not use is not read, whatever it holds.
    let copy = GoldenCopy::of_dual("siglip_naflex");
    copy.edit("preprocessor_config.json", |config| {
        config["size"] = json!({"longest_edge": 512});
        config["crop_size"] = json!("none");
    });
    assert!(copy.load().is_ok());
    let copy = GoldenCopy::of_dual("siglip_two");
    copy.edit("config.json", |config| {
        config["vision_config"]["num_patches"] = Value::Null;
    });
    assert!(copy.load().is_ok());
    // Without the key, pictures have 16 x 16 pixels a patch, as in transformers.
    let copy = GoldenCopy::of_dual("siglip_naflex");
    copy.edit("preprocessor_config.json", |config| {
        config.as_object_mut().unwrap().remove("patch_size");
    });
    copy.assert_malformed("preprocessor_config.json", "patch_size is 16");
}

#[test]
fn preprocessing_that_does_not_fit_is_malformed() {
    let edits: [(&str, &str, Value, &str); 14] = [
        ("clip_openai", "size", json!(31), "size (31)"),
        ("clip_openai", "size", json!(1u64 << 20), "1048576"),
        ("clip_openai", "size", json!({"longest_edge": 3}), ""),
        ("clip_openai", "crop_size", json!(30), "crop_size (30)"),
        (
            "clip_openai",
            "do_center_crop",
            json!(false),
            "crop_size (none)",
        ),
        ("clip_openai", "resample", json!(1), "resample 1"),
        ("clip_openai", "do_resize", json!(false), "do_resize"),
        ("clip_openai", "rescale_factor", json!(1e300), "finite"),
        (
            "clip_laion",
            "image_std",
            json!([0.2, 0.0, 0.2]),
            "image_std",
        ),
        ("clip_laion", "image_mean", json!([0.2]), ""),
        ("siglip_two", "size", json!(32), "size (32)"),
        (
            "siglip_two",
            "size",
            json!({"height": 32, "width": 16}),
            "32 x 16",
        ),
        ("siglip_two", "do_center_crop", json!(true), "224"),
        ("siglip_two", "do_normalize", json!(false), "do_normalize"),
    ];
    for (name, key, value, reason) in edits {
        let copy = GoldenCopy::of_dual(name);
        copy.edit("preprocessor_config.json", |config| config[key] = value);
        copy.assert_malformed("preprocessor_config.json", reason);
    }
    for (name, key) in [("siglip_two", "size"), ("clip_laion", "size")] {
        let copy = GoldenCopy::of_dual(name);
        copy.edit("preprocessor_config.json", |config| {
            config.as_object_mut().unwrap().remove(key);
        });
        copy.assert_malformed("preprocessor_config.json", "size (none)");
    }
    let copy = GoldenCopy::of_dual("clip_openai");
    let own = json!({"image": {"min_pixels": 100}}).to_string();
    std::fs::write(copy.path().join("photosearch.json"), own).unwrap();
    copy.assert_malformed("photosearch.json", "determines the size");
}
