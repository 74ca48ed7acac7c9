//! Checks that truncated or damaged compact forms cause errors and no panics.

use serde_json::json;

use super::*;
use crate::tokenizer::blob::seal;

/// A compact form for each kind of model, and one without tables.
fn samples() -> Vec<Vec<u8>> {
    let vocab = json!({"<unk>": 0, "a": 1, "b": 2, "c": 5, "ab": 9, "abc": 4, "<0x7A>": 8});
    let added = json!([{"id": 11, "content": "<u>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}]);
    [
        json!({"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab,
            "merges": [["a", "b"], ["ab", "c"]]}),
        json!({"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "",
            "max_input_chars_per_word": 100, "vocab": vocab}),
        json!({"type": "Unigram", "unk_id": 0, "byte_fallback": true,
            "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -1.5], ["ab", -2.0], ["<0x7A>", -3.0]]}),
        json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}),
    ]
    .map(|model| {
        let json = json!({"version": "1.0", "added_tokens": added, "model": model});
        Tokenizer::compact(json.to_string().as_bytes()).unwrap()
    })
    .into()
}

/// Opens `blob` and uses the tokenizer. Neither may panic. Returns whether it opened.
fn survives(blob: Vec<u8>) -> bool {
    match Tokenizer::from_compact(Arc::new(blob)) {
        Err(ModelError::Malformed { file, .. }) => {
            assert_eq!(file, TOKENIZER);
            false
        }
        Err(other) => panic!("{other:?}"),
        Ok(tokenizer) => {
            for text in ["", "abcab<u>zz字", "ab abc c"] {
                let _ = tokenizer.encode(text);
            }
            for id in 0..16 {
                let _ = tokenizer.token(id);
            }
            let _ = tokenizer.pipeline.get_vocab(true);
            tokenizer.most_bytes(usize::MAX);
            true
        }
    }
}

#[test]
fn whole_ones_open() {
    for blob in samples() {
        assert!(survives(blob));
    }
}

#[test]
fn every_truncation_is_an_error() {
    let golden = std::fs::read(root("tests/golden/tokenizer/tokenizer.json")).unwrap();
    let golden = Tokenizer::compact(&golden).unwrap();
    for blob in samples().into_iter().chain([golden]) {
        for length in 0..blob.len() {
            assert!(!survives(blob[..length].to_vec()), "{length}");
        }
        let mut longer = blob.clone();
        longer.push(0);
        assert!(!survives(longer));
    }
}

/// The header of each truncated form is adjusted to the remaining length.
#[test]
fn a_truncation_that_is_covered_up_is_an_error() {
    for blob in samples() {
        for length in 0..blob.len() {
            let mut cut = blob[..length].to_vec();
            seal(&mut cut);
            assert!(!survives(cut), "{length}");
        }
    }
}

#[test]
fn every_flipped_bit_is_an_error_or_a_tokenizer() {
    for blob in samples() {
        let rest = u64::from_le_bytes(blob[56..64].try_into().unwrap()) as usize;
        for bit in 0..blob.len() * 8 {
            let mut flipped = blob.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let opened = survives(flipped.clone());
            // The checksum covers the parts that are read on opening.
            assert!(!opened || bit / 8 >= 112 + rest, "{bit}");
            seal(&mut flipped);
            survives(flipped);
        }
    }
}

#[test]
fn any_tables_are_an_error_or_a_tokenizer() {
    let samples = samples();
    proptest!(ProptestConfig::with_cases(3000), |(
        which in 0..samples.len(),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..200),
    )| {
        let mut blob = samples[which].clone();
        let length = blob.len();
        for (place, byte) in edits {
            blob[place % length] = byte;
        }
        survives(blob.clone());
        seal(&mut blob);
        survives(blob);
    });
}

/// If every slot is full, a lookup must still terminate.
#[test]
fn a_table_without_an_empty_slot_is_searched_to_an_end() {
    for blob in samples().into_iter().take(3) {
        let rest = u64::from_le_bytes(blob[56..64].try_into().unwrap()) as usize;
        for byte in [0x01, 0x7f, 0xfe] {
            let mut full = blob.clone();
            full[112 + rest..].fill(byte);
            survives(full);
        }
    }
}
