//! Compares the compact form with the `tokenizers` crate, which is the reference.

mod blob;
mod cost;
mod small;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A tokenizer in the compact form and as loaded by the `tokenizers` crate.
struct Both {
    ours: Tokenizer,
    reference: tokenizers::Tokenizer,
}

impl Both {
    fn of(json: &[u8]) -> Self {
        let compact = Tokenizer::compact(json).unwrap();
        let mut reference = tokenizers::Tokenizer::from_bytes(json).unwrap();
        reference.with_truncation(None).unwrap();
        reference.with_padding(None);
        Self {
            ours: Tokenizer::from_compact(Arc::new(compact)).unwrap(),
            reference,
        }
    }

    fn read(path: &Path) -> Self {
        Self::of(&std::fs::read(path).unwrap())
    }

    /// Describes the difference between the two on `text`; `None` if they agree.
    fn difference(&self, text: &str) -> Option<String> {
        match (self.ours.encode(text), self.reference.encode(text, true)) {
            (Ok(ours), Ok(reference)) => {
                let reference = Encoded {
                    ids: reference.get_ids().to_vec(),
                    offsets: reference.get_offsets().to_vec(),
                };
                (ours != reference).then(|| format!("{text:?}: {ours:?}, not {reference:?}"))
            }
            (Err(_), Err(_)) => None,
            (ours, reference) => Some(format!(
                "{text:?}: {:?}, not {:?}",
                ours.map(|encoded| encoded.ids),
                reference.map(|encoding| encoding.get_ids().to_vec())
            )),
        }
    }

    fn assert_same(&self, text: &str) {
        if let Some(difference) = self.difference(text) {
            panic!("{difference}");
        }
    }

    /// Asserts that both map tokens to IDs and back in the same way, and have the same longest
    /// token.
    fn assert_same_vocabulary(&self) {
        let vocabulary = self.reference.get_vocab(true);
        assert_eq!(self.ours.pipeline.get_vocab(true), vocabulary);
        assert_eq!(
            self.ours.pipeline.get_vocab_size(true),
            self.reference.get_vocab_size(true)
        );
        for (token, &id) in &vocabulary {
            assert_eq!(self.ours.pipeline.token_to_id(token), Some(id), "{token:?}");
            assert_eq!(
                self.ours.pipeline.id_to_token(id),
                self.reference.id_to_token(id)
            );
        }
        let past = vocabulary.values().max().unwrap() + 1;
        for id in [past, u32::MAX] {
            assert_eq!(self.ours.pipeline.id_to_token(id), None);
        }
        for token in ["", "no such token", "\u{10ffff}"] {
            assert_eq!(
                self.ours.pipeline.token_to_id(token),
                self.reference.token_to_id(token)
            );
        }
        let longest = vocabulary.keys().map(String::len).max().unwrap();
        assert_eq!(self.ours.most_bytes(1), longest);
    }
}

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

/// The tokenizers in the repository: those of the golden files and of the mini model.
fn committed() -> Vec<Both> {
    [
        "tests/golden/tokenizer/tokenizer.json",
        "models/photosearch-mini-1/tokenizer.json",
    ]
    .map(|name| Both::read(&root(name)))
    .into()
}

/// All texts and prompts in the golden files.
fn golden_texts() -> Vec<String> {
    let mut texts = Vec::new();
    for name in ["tokens.json", "tokens_qwen3.json"] {
        let golden: Value =
            serde_json::from_slice(&std::fs::read(root("tests/golden").join(name)).unwrap())
                .unwrap();
        let mut take = |list: &str, key: &str| {
            for case in golden[list].as_array().into_iter().flatten() {
                texts.extend(case[key].as_str().map(str::to_owned));
            }
        };
        take("strings", "text");
        take("prompts", "prompt");
        take("prompts_appended", "prompt");
    }
    assert!(texts.len() >= 600, "{}", texts.len());
    texts
}

/// Special tokens of the committed and other tokenizers, complete and truncated.
const SPECIAL: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|image_pad|>",
    "<|im_start|",
    "<|im_start |>",
    "<|IM_START|>",
    "<s>",
    "</s>",
    "<unk>",
    "<mask>",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[UNK]",
    "<0x0A>",
    "▁",
    "##",
    "Ġ",
];

/// The fragments of which random texts consist.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<char>().prop_map(String::from),
        "[ -~]{1,12}",
        "[a-z]{1,10} ?",
        "\\s{1,6}",
        "\\p{L}{1,8}",
        "\\p{M}{1,4}",
        "\\p{N}{1,8}",
        "\\p{S}{1,4}",
        "\\p{C}{1,4}",
        "[\u{1100}-\u{11ff}\u{ac00}-\u{d7a3}]{1,4}",
        "[\u{300}-\u{36f}\u{200b}-\u{200f}\u{fe00}-\u{fe0f}]{1,3}",
        "[\u{e000}-\u{e0ff}\u{fff0}-\u{ffff}\u{1f300}-\u{1f9ff}\u{10fff0}-\u{10ffff}]{1,3}",
        proptest::sample::select(SPECIAL).prop_map(str::to_owned),
        (any::<char>(), 1usize..200).prop_map(|(c, n)| c.to_string().repeat(n)),
    ]
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(fragment(), 0..12).prop_map(|fragments| fragments.concat())
}

#[test]
fn the_committed_tokenizers_have_tables() {
    for both in committed() {
        assert!(both.ours.uses_tables());
        both.assert_same_vocabulary();
    }
}

#[test]
fn golden_texts_come_out_as_the_crates() {
    let texts = golden_texts();
    for both in committed() {
        for text in &texts {
            both.assert_same(text);
        }
    }
}

#[test]
fn any_text_comes_out_as_the_crates() {
    let committed = committed();
    proptest!(ProptestConfig::with_cases(2000), |(text in text())| {
        for both in &committed {
            prop_assert_eq!(both.difference(&text), None);
        }
    });
}

/// Long repetitive texts, which give the longest words for the merge loop.
fn repetitions(bytes: usize) -> Vec<String> {
    [
        "a", "ab", " ", "é", "字", "e\u{301}", "\n", "1", "!", "aA", "👶", "the ", "<", "\u{0}",
    ]
    .map(|unit| unit.repeat(bytes / unit.len()))
    .into()
}

#[test]
fn a_long_word_does_not_take_long() {
    for both in committed() {
        for text in repetitions(200_000) {
            let start = Instant::now();
            let encoded = both.ours.encode(&text).unwrap();
            let taken = start.elapsed();
            assert!(!encoded.ids.is_empty());
            // Takes about 0.1 s; an algorithm with a quadratic step would take minutes.
            assert!(
                taken < Duration::from_secs(10),
                "{taken:?}: {:?}",
                &text[..4]
            );
        }
        for text in repetitions(20_000) {
            both.assert_same(&text);
        }
    }
}

#[test]
fn an_error_names_the_file_and_what_is_wrong() {
    for (json, reason) in [
        ("", "EOF"),
        ("{}", "Model missing"),
        (
            r#"{"version": "2.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#,
            "2.0",
        ),
        (
            r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#,
            "empty",
        ),
        (
            r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]]}}"#,
            "aa",
        ),
        (
            r#"{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false},
                "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#,
            "",
        ),
    ] {
        for result in [
            Tokenizer::parse(json.as_bytes()).map(drop),
            Tokenizer::compact(json.as_bytes()).map(drop),
        ] {
            let error = result.expect_err(json);
            assert!(
                matches!(&error, ModelError::Malformed { file, reason: found }
                    if file == TOKENIZER && found.contains(reason)),
                "{json}: {error}"
            );
        }
    }
}

/// Compares a tokenizer that is too large for the repository:
/// `PHOTOSEARCH_TOKENIZER=…/tokenizer.json cargo test --release -p photosearch-model -- --ignored a_given_tokenizer`.
#[test]
#[ignore = "needs PHOTOSEARCH_TOKENIZER, the path of a tokenizer.json"]
fn a_given_tokenizer_gives_what_the_crates_gives() {
    let both = Both::read(Path::new(&cost::given()));
    println!("tables: {}", both.ours.uses_tables());
    both.assert_same_vocabulary();
    let texts = golden_texts();
    for text in &texts {
        both.assert_same(text);
    }
    // Single tokens, and each token before and after another one of the vocabulary.
    let mut tokens: Vec<_> = both.reference.get_vocab(true).into_iter().collect();
    tokens.sort_by_key(|&(_, id)| id);
    let mut tokens: Vec<_> = tokens.into_iter().map(|(token, _)| token).collect();
    if let Some(limit) = std::env::var_os("PHOTOSEARCH_TOKENS") {
        tokens.truncate(limit.to_str().unwrap().parse().unwrap());
    }
    for (index, token) in tokens.iter().enumerate() {
        both.assert_same(token);
        let other = &tokens[index * 7919 % tokens.len()];
        both.assert_same(&format!("{token}{other} {token}").replace('Ġ', " "));
    }
    for text in repetitions(200_000) {
        let start = Instant::now();
        both.ours.encode(&text).unwrap();
        let ours = start.elapsed();
        let start = Instant::now();
        both.reference.encode(text.as_str(), true).unwrap();
        println!(
            "{:?}…: {ours:?}, the crate {:?}",
            text.chars().next(),
            start.elapsed()
        );
        both.assert_same(&text);
    }
    let cases = std::env::var("PROPTEST_CASES").map_or(20_000, |cases| cases.parse().unwrap());
    proptest!(ProptestConfig::with_cases(cases), |(text in text())| {
        prop_assert_eq!(both.difference(&text), None);
    });
}
