//! Tests the pack cache (each model is packed once, from the files first used) and quantised
//! variants.

use super::*;

/// The vector of a text.
fn vector(model: &dyn Embedder, text: &str) -> Vec<f32> {
    let request = Request {
        text: Some(text),
        ..Default::default()
    };
    model
        .embed(&[request], u64::MAX, &Cancel::new())
        .unwrap()
        .remove(0)
}

/// The files in the cache whose names end with `suffix`.
fn cached(cache: &Cache, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for home in fs::read_dir(cache.root()).unwrap() {
        for entry in fs::read_dir(home.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found
}

/// A new cache, whose directory is removed at the end of the test.
fn new_cache() -> (tempfile::TempDir, Cache) {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::new(root.path().join("cache"));
    (root, cache)
}

#[test]
fn a_model_is_packed_once_and_gives_the_same_from_its_pack() {
    let copy = GoldenCopy::of("bfloat16");
    let (_root, cache) = new_cache();
    assert_eq!(cache.packed(&copy.0), None);
    let first = load(&copy.0, &cache, &Cancel::new()).unwrap();
    let packs = cached(&cache, ".pack");
    assert_eq!(packs.len(), 1);
    let written = fs::metadata(&packs[0]).unwrap().modified().unwrap();
    let second = load(&copy.0, &cache, &Cancel::new()).unwrap();
    assert_eq!(
        fs::metadata(&packs[0]).unwrap().modified().unwrap(),
        written
    );
    assert_eq!(
        vector(first.embedder.as_ref(), "a baby"),
        vector(second.embedder.as_ref(), "a baby")
    );
    assert_eq!(first.packed.dtype, "bfloat16");
    assert_eq!(cache.packed(&copy.0), Some(first.packed));
    assert!(cached(&cache, "unfinished").is_empty());
}

#[test]
fn changed_files_are_an_error_and_touched_ones_are_not() {
    let copy = GoldenCopy::of("text_right");
    let (_root, cache) = new_cache();
    let load = || load(&copy.0, &cache, &Cancel::new());
    let old = load().unwrap();
    let before = vector(old.embedder.as_ref(), "a baby");

    // The weights are replaced by a copy, and a threshold changes; neither affects vectors.
    let weights = fs::read(copy.file("model.safetensors")).unwrap();
    fs::write(copy.file("new"), &weights).unwrap();
    fs::rename(copy.file("new"), copy.file("model.safetensors")).unwrap();
    assert!(load().is_ok());
    fs::write(copy.file("photosearch.json"), r#"{"fine_threshold": 0.5}"#).unwrap();
    assert!(load().is_ok());
    fs::write(
        copy.file("photosearch.json"),
        r#"{"default_instruction": "x"}"#,
    )
    .unwrap();
    assert!(matches!(load(), Err(ModelError::Changed)));
    fs::remove_file(copy.file("photosearch.json")).unwrap();
    assert!(load().is_ok());

    // One bit of a weight changes in place, and the modification time is reset.
    let mut changed = weights.clone();
    *changed.last_mut().unwrap() ^= 0x10;
    let modified = fs::metadata(copy.file("model.safetensors"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(copy.file("model.safetensors"), &changed).unwrap();
    fs::File::options()
        .write(true)
        .open(copy.file("model.safetensors"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    assert!(matches!(load(), Err(ModelError::Changed)));
    // The file is truncated. A model that was loaded before continues with its pack.
    fs::write(
        copy.file("model.safetensors"),
        &weights[..weights.len() / 2],
    )
    .unwrap();
    assert!(matches!(load(), Err(ModelError::CutShort { .. })));
    assert_eq!(vector(old.embedder.as_ref(), "a baby"), before);

    fs::write(copy.file("model.safetensors"), &changed).unwrap();
    assert_eq!(
        cache.recorded(&copy.0).as_ref(),
        Some(&old.packed.fingerprint)
    );
    let replaced = prepare(&copy.0, &cache, true, &Cancel::new()).unwrap();
    assert_ne!(replaced.fingerprint, old.packed.fingerprint);
    assert_eq!(
        cache.recorded(&copy.0).as_ref(),
        Some(&replaced.fingerprint)
    );
    assert!(load().is_ok());
    // The old pack is still mapped. After it is unmapped, the next packing removes it.
    assert_eq!(cached(&cache, ".pack").len(), 2);
    assert_eq!(vector(old.embedder.as_ref(), "a baby"), before);
    drop(old);
    prepare(&copy.0, &cache, true, &Cancel::new()).unwrap();
    assert_eq!(cached(&cache, ".pack").len(), 1);
}

#[test]
fn damaged_packs_are_made_anew() {
    let copy = GoldenCopy::of("text_right");
    let (_root, cache) = new_cache();
    let expected = vector(
        load(&copy.0, &cache, &Cancel::new())
            .unwrap()
            .embedder
            .as_ref(),
        "a baby",
    );
    let pack = cached(&cache, ".pack").remove(0);
    let good = fs::read(&pack).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut lengths: Vec<&[u8]> = [0, 7, 63, 64, 1000, good.len() - 1]
        .iter()
        .map(|&length| &good[..length])
        .collect();
    lengths.push(&flipped);
    for damaged in lengths {
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, damaged).unwrap();
        // A killed backend can leave this file.
        fs::write(pack.with_file_name("unfinished"), b"half").unwrap();
        let again = load(&copy.0, &cache, &Cancel::new()).unwrap();
        assert_eq!(vector(again.embedder.as_ref(), "a baby"), expected);
        assert_eq!(fs::read(&pack).unwrap(), good);
    }
}

#[test]
fn many_at_once_make_one_pack() {
    let copy = GoldenCopy::of("bfloat16");
    let (_root, cache) = new_cache();
    let vectors: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let load = || {
            let loaded = load(&copy.0, &cache, &Cancel::new()).unwrap();
            vector(loaded.embedder.as_ref(), "a baby")
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(vectors.iter().all(|vector| *vector == vectors[0]));
    assert_eq!(cached(&cache, ".pack").len(), 1);
}

#[test]
fn a_cache_that_is_not_the_servers_alone_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let copy = GoldenCopy::of("text_right");
    let (root, cache) = new_cache();
    fs::create_dir(cache.root()).unwrap();
    fs::set_permissions(cache.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = load(&copy.0, &cache, &Cancel::new());
    assert!(matches!(refused, Err(ModelError::Cache(_))));
    drop(root);
}

#[test]
fn what_would_take_too_much_memory_is_refused_and_batches_are_cut() {
    let copy = GoldenCopy::of("images_many");
    let model = copy.load().unwrap();
    let requests: Vec<Request<'_>> = (0..40)
        .map(|_| Request {
            text: Some("a baby, a dog and a cake"),
            ..Default::default()
        })
        .collect();
    let together = model.embed(&requests, u64::MAX, &Cancel::new()).unwrap();
    // Enough memory for one request at a time, but not for all.
    let mut enough = 1u64 << 10;
    while model.embed(&requests[..1], enough, &Cancel::new()).is_err() {
        enough *= 2;
    }
    let refused = model.embed(&requests[..1], enough / 2, &Cancel::new());
    assert!(matches!(refused, Err(ModelError::OutOfMemory(_))));
    let alone = model.embed(&requests, enough, &Cancel::new()).unwrap();
    assert_eq!(alone.len(), together.len());
    for (a, b) in alone.iter().flatten().zip(together.iter().flatten()) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

#[test]
fn a_quantised_variant_is_a_model_of_its_own() {
    for case in ["images_many", "bfloat16", "float16"] {
        let copy = GoldenCopy::of(case);
        let (_root, cache) = new_cache();
        let target = tempfile::tempdir().unwrap();
        let target = target.path().join("variant");
        let quantize = |target: &Path| quantize(&copy.0, target, &cache, u64::MAX, &Cancel::new());
        let closeness = quantize(&target).unwrap();
        assert!(closeness.least() > 0.98, "{case}: {closeness:?}");
        assert!(closeness.least() < 1.0 && closeness.images.is_some());
        let card = fs::read_to_string(target.join("README.md")).unwrap();
        assert!(card.contains(&format!("{:.5}", closeness.texts)), "{card}");
        assert!(!target.join("cache").exists());

        let variant = load(&target, &cache, &Cancel::new()).unwrap();
        assert_eq!(variant.packed.dtype, "int8");
        let source = load(&copy.0, &cache, &Cancel::new()).unwrap();
        let [a, b] = [&variant, &source].map(|model| vector(model.embedder.as_ref(), "a baby"));
        let cosine: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.98 && a != b, "{case}: {cosine}");

        assert!(matches!(
            quantize(&target),
            Err(ModelError::InvalidInput(_))
        ));
        let again = super::quantize(
            &target,
            &target.with_file_name("again"),
            &cache,
            u64::MAX,
            &Cancel::new(),
        );
        assert!(matches!(again, Err(ModelError::InvalidInput(_))));
        let left: Vec<_> = fs::read_dir(target.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing unfinished stays");
    }
}
