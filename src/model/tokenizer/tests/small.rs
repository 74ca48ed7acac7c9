//! Compares small random tokenizers, which together exercise every option, and ties between scores.

use serde_json::json;

use super::*;

/// Characters of the vocabularies. Two more characters, z and 😀, occur only in texts.
const LETTERS: &[&str] = &["a", "b", "c", "é", "字", " ", "▁"];

fn words() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        8 => proptest::sample::select(LETTERS),
        2 => proptest::sample::select(&["z", "😀", "<u>", "ab", "cab", "\n"][..]),
    ];
    proptest::collection::vec(fragment, 0..24).prop_map(|fragments| fragments.concat())
}

/// Tokens made of one or more letters.
fn sequences(range: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    let token = proptest::collection::vec(proptest::sample::select(LETTERS), 1..5)
        .prop_map(|letters| letters.concat());
    proptest::collection::hash_set(token, range).prop_map(|tokens| {
        let mut tokens: Vec<_> = tokens.into_iter().collect();
        tokens.sort();
        tokens
    })
}

fn file(model: Value, added: bool) -> Vec<u8> {
    let added_tokens = if added {
        let token = |id: u32, content: &str, normalized: bool, strip: bool| {
            json!({"id": id, "content": content, "single_word": normalized, "lstrip": strip,
                "rstrip": strip, "normalized": normalized, "special": !normalized})
        };
        json!([token(7, "<u>", false, true), token(8, "cab", true, false)])
    } else {
        json!([])
    };
    json!({"version": "1.0", "added_tokens": added_tokens, "model": model})
        .to_string()
        .into_bytes()
}

#[derive(Debug, Clone)]
struct Bpe {
    letters: Vec<bool>,
    merges: Vec<(usize, usize)>,
    stride: u32,
    prefix: Option<&'static str>,
    suffix: Option<&'static str>,
    unknown: bool,
    fuse: bool,
    bytes: usize,
    fallback: bool,
    ignore: bool,
    lines: bool,
    added: bool,
}

impl Bpe {
    fn any() -> impl Strategy<Value = Self> {
        let affix = |affix: &'static str| prop_oneof![4 => Just(None), 1 => Just(Some("")), 2 => Just(Some(affix))];
        let shape = (
            proptest::collection::vec(proptest::bool::weighted(0.8), LETTERS.len()),
            proptest::collection::vec((any::<usize>(), any::<usize>()), 0..40),
            1u32..4,
        );
        let flags = any::<(bool, bool, bool, bool, bool)>();
        (
            shape,
            (affix("#"), affix("é")),
            flags,
            prop_oneof![Just(0), Just(1), Just(2)],
            any::<bool>(),
        )
            .prop_map(
                |(
                    (letters, merges, stride),
                    (prefix, suffix),
                    (unknown, fuse, fallback, ignore, lines),
                    bytes,
                    added,
                )| Self {
                    letters,
                    merges,
                    stride,
                    prefix,
                    suffix,
                    unknown,
                    fuse,
                    bytes,
                    fallback,
                    ignore,
                    lines,
                    added,
                },
            )
    }

    fn json(&self) -> Vec<u8> {
        let prefix = self.prefix.unwrap_or_default();
        let suffix = self.suffix.unwrap_or_default();
        let mut tokens: Vec<String> = Vec::new();
        let push = |tokens: &mut Vec<String>, token: String| {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        };
        if self.unknown {
            push(&mut tokens, "<unk>".into());
        }
        for (letter, _) in LETTERS.iter().zip(&self.letters).filter(|(_, have)| **have) {
            for (prefix, suffix) in [("", ""), (prefix, ""), ("", suffix), (prefix, suffix)] {
                push(&mut tokens, format!("{prefix}{letter}{suffix}"));
            }
        }
        // The bytes of z, or of z and 😀.
        for byte in ["z", "z😀"].iter().take(self.bytes).flat_map(|s| s.bytes()) {
            push(&mut tokens, format!("<0x{byte:02X}>"));
        }
        let mut merges: Vec<(String, String)> = Vec::new();
        for (left, right) in &self.merges {
            if tokens.is_empty() {
                break;
            }
            let (left, right) = (
                tokens[left % tokens.len()].clone(),
                tokens[right % tokens.len()].clone(),
            );
            let Some(tail) = right.get(prefix.len()..) else {
                continue;
            };
            if self.lines && (left.contains(' ') || right.contains(' ')) {
                continue;
            }
            push(&mut tokens, format!("{left}{tail}"));
            merges.push((left, right));
        }
        push(&mut tokens, "last".into());
        let vocab: serde_json::Map<String, Value> = tokens
            .iter()
            .zip(0u32..)
            .map(|(token, index)| (token.clone(), json!(index * self.stride)))
            .collect();
        let merges = if self.lines {
            let lines = merges.iter().map(|(left, right)| format!("{left} {right}"));
            json!(
                std::iter::once("#version: 0.2".to_owned())
                    .chain(lines)
                    .collect::<Vec<_>>()
            )
        } else {
            json!(merges)
        };
        let model = json!({"type": "BPE", "dropout": null,
            "unk_token": self.unknown.then_some("<unk>"),
            "continuing_subword_prefix": self.prefix, "end_of_word_suffix": self.suffix,
            "fuse_unk": self.fuse, "byte_fallback": self.fallback,
            "ignore_merges": self.ignore, "vocab": vocab, "merges": merges});
        file(model, self.added)
    }
}

fn unigram(
    tokens: &[String],
    scores: &[i8],
    unknown: Option<usize>,
    fallback: bool,
    added: bool,
) -> Vec<u8> {
    let mut vocab: Vec<_> = tokens
        .iter()
        .zip(scores)
        .map(|(token, score)| json!([token, f64::from(*score) * 0.5]))
        .collect();
    if fallback {
        // The bytes of z.
        vocab.push(json!(["<0x7A>", -9.25]));
    }
    let unknown = unknown.map(|index| index % vocab.len());
    let model = json!({"type": "Unigram", "unk_id": unknown, "byte_fallback": fallback,
        "vocab": vocab});
    file(model, added)
}

fn word_piece(tokens: &[String], stride: u32, max_chars: usize, added: bool) -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    for (index, token) in tokens.iter().enumerate() {
        let token = match index % 3 {
            0 => token.clone(),
            _ => format!("##{token}"),
        };
        vocab.insert(token, json!(index as u32 * stride));
    }
    vocab.insert("[UNK]".into(), json!(tokens.len() as u32 * stride));
    let model = json!({"type": "WordPiece", "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": max_chars,
        "vocab": vocab});
    file(model, added)
}

fn check(json: &[u8], texts: &[String]) -> Result<(), TestCaseError> {
    let both = Both::of(json);
    prop_assert!(both.ours.uses_tables());
    both.assert_same_vocabulary();
    for text in texts {
        prop_assert_eq!(
            both.difference(text),
            None,
            "{}",
            String::from_utf8_lossy(json)
        );
    }
    Ok(())
}

fn some_words() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(words(), 8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_byte_pair_encoding(bpe in Bpe::any(), texts in some_words()) {
        check(&bpe.json(), &texts)?;
    }

    #[test]
    fn any_unigram(
        tokens in sequences(1..40),
        scores in proptest::collection::vec(-8i8..=0, 40),
        unknown in any::<Option<usize>>(),
        fallback in any::<bool>(),
        added in any::<bool>(),
        texts in some_words(),
    ) {
        check(&unigram(&tokens, &scores, unknown, fallback, added), &texts)?;
    }

    #[test]
    fn any_word_piece(
        tokens in sequences(1..60),
        stride in 1u32..4,
        max_chars in prop_oneof![Just(100usize), 0usize..30],
        added in any::<bool>(),
        texts in some_words(),
    ) {
        check(&word_piece(&tokens, stride, max_chars, added), &texts)?;
    }
}

#[test]
fn what_tables_do_not_hold_is_left_to_the_crate() {
    let vocab = json!({"a": 0, "b": 1, "ab": 2});
    for model in [
        json!({"type": "WordLevel", "vocab": vocab, "unk_token": "a"}),
        // No type, or an unknown key.
        json!({"vocab": vocab, "merges": [["a", "b"]]}),
        json!({"type": "BPE", "vocab": vocab, "merges": [["a", "b"]], "news": 1}),
        // A duplicate ID or token.
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 2}, "merges": [["a", "b"]]}),
        json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b", -1.0], ["a", -2.0]]}),
    ] {
        let both = Both::of(&file(model.clone(), true));
        assert!(!both.ours.uses_tables(), "{model}");
        for text in ["", "ab", "abab <u> cab", "b"] {
            both.assert_same(text);
        }
    }
    // With dropout, merges are skipped at random, so results cannot be compared.
    let dropout = json!({"type": "BPE", "dropout": 0.5, "vocab": vocab, "merges": [["a", "b"]]});
    let blob = Tokenizer::compact(&file(dropout, false)).unwrap();
    assert!(
        !Tokenizer::from_compact(Arc::new(blob))
            .unwrap()
            .uses_tables()
    );
}

#[test]
fn two_pairs_with_one_result_and_a_merge_twice() {
    let model = json!({"type": "BPE", "vocab": {"a": 5, "b": 1, "c": 9, "ab": 0, "bc": 3, "abc": 4},
        "merges": [["ab", "c"], ["a", "b"], ["b", "c"], ["a", "bc"], ["a", "b"]]});
    let both = Both::of(&file(model, false));
    assert!(both.ours.uses_tables());
    for text in ["abc", "abcabc", "ababcbc", "bcabc", "aabcc"] {
        both.assert_same(text);
    }
}
