//! Measures the cost of loading a tokenizer that is too large for the repository. Run by hand:
//!
//! ```text
//! PHOTOSEARCH_TOKENIZER=…/tokenizer.json cargo test --release -p photosearch-model \
//!     -- --ignored --nocapture cost::of_loading
//! ```
//!
//! Each way of loading runs in its own process, so that earlier loads do not affect its memory.

use std::process::Command;

use super::*;

const TEXT: &str = "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\n\
                    all photos of a baby on the beach with a dog<|im_end|>\n<|im_start|>assistant\n";

/// The value of `PHOTOSEARCH_TOKENIZER`.
pub(super) fn given() -> String {
    std::env::var("PHOTOSEARCH_TOKENIZER").expect("PHOTOSEARCH_TOKENIZER is not set")
}

/// The process's private memory in kB.
fn private() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// A file mapped read-only.
struct ReadMapping(&'static [u8]);

impl AsRef<[u8]> for ReadMapping {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl ReadMapping {
    fn of(path: &Path) -> Self {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open(path).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        // SAFETY: this creates a new read-only mapping, which is never unmapped. Only this test
        // writes the file, and it has finished writing.
        let bytes = unsafe {
            let address = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            );
            assert_ne!(address, libc::MAP_FAILED);
            std::slice::from_raw_parts(address.cast(), length)
        };
        Self(bytes)
    }
}

#[test]
#[ignore = "needs PHOTOSEARCH_TOKENIZER, the path of a tokenizer.json"]
fn of_loading() {
    let json = std::fs::read(given()).unwrap();
    let start = Instant::now();
    let blob = Tokenizer::compact(&json).unwrap();
    println!(
        "{} bytes of JSON, {} in the compact form, made in {:?}",
        json.len(),
        blob.len(),
        start.elapsed()
    );
    let compact = std::env::temp_dir().join(format!("photosearch-{}.tok", std::process::id()));
    std::fs::write(&compact, blob).unwrap();
    for way in ["crate", "json", "compact"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
            .arg("tokenizer::tests::cost::one_way")
            .env("PHOTOSEARCH_WAY", way)
            .env("PHOTOSEARCH_COMPACT", &compact)
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let figures = output.lines().find_map(|line| line.split_once("figures: "));
        println!("{way:8} {}", figures.expect("the child failed").1);
    }
    std::fs::remove_file(compact).unwrap();
}

/// The child process of [`of_loading`].
#[test]
#[ignore = "a part of of_loading"]
fn one_way() {
    let Ok(way) = std::env::var("PHOTOSEARCH_WAY") else {
        return;
    };
    let compact = std::env::var("PHOTOSEARCH_COMPACT").unwrap();
    let before = (private(), threads());
    let start = Instant::now();
    let encode: Box<dyn Fn(&str) -> usize> = match way.as_str() {
        // Loads the tokenizer with the `tokenizers` crate alone.
        "crate" => {
            let json = std::fs::read(given()).unwrap();
            let mut tokenizer = tokenizers::Tokenizer::from_bytes(&json).unwrap();
            tokenizer.with_truncation(None).unwrap();
            tokenizer.with_padding(None);
            let longest = tokenizer.get_vocab(true).keys().map(String::len).max();
            assert!(longest.is_some());
            Box::new(move |text| tokenizer.encode(text, true).unwrap().len())
        }
        "json" => {
            let json = std::fs::read(given()).unwrap();
            let tokenizer = Tokenizer::parse(&json).unwrap();
            Box::new(move |text| tokenizer.encode(text).unwrap().ids.len())
        }
        _ => {
            let mapping = Arc::new(ReadMapping::of(Path::new(&compact)));
            let tokenizer = Tokenizer::from_compact(mapping).unwrap();
            Box::new(move |text| tokenizer.encode(text).unwrap().ids.len())
        }
    };
    let loading = start.elapsed();
    let loaded = private();
    let start = Instant::now();
    let tokens = encode(TEXT);
    let first = start.elapsed();
    let used = private();
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let start = Instant::now();
            encode(TEXT);
            start.elapsed()
        })
        .collect();
    times.sort();
    // Enough words to fill any cache of words.
    for number in 0..20_000 {
        encode(&format!(
            "photo{number:x} of {number:o}cats {}",
            number * 7919
        ));
    }
    assert_eq!(threads(), before.1, "a thread was started");
    println!(
        "figures: loaded in {loading:?}, +{} kB private; first text of {tokens} tokens {first:?}, \
         +{} kB; median {:?}; after 20,000 other texts +{} kB",
        loaded - before.0,
        used - loaded,
        times[times.len() / 2],
        private() - used,
    );
}

/// Measures the peak memory of tokenizing per byte of text, which `BYTES_A_BYTE` must exceed. Run
/// by hand, in its own process:
///
/// ```text
/// cargo test --release -p photosearch-model -- --ignored --nocapture --test-threads 1 cost::of_tokenizing
/// ```
#[test]
#[ignore = "measures"]
fn of_tokenizing() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let field = |name: &str| -> f64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap().trim().trim_end_matches(" kB");
        value.parse::<f64>().unwrap() * 1024.0
    };
    let texts = [
        "x",
        "a baby and a dog ",
        "日本,!",
        ". ",
        "é",
        "a ",
        "😀",
        ",",
        " ",
        "\n",
        "I'm ",
        "a1",
        "1",
        "<|im_end|>",
    ];
    for directory in [
        "tokenizer",
        "text/bert_mean",
        "text/bert_bare",
        "text/xlm_roberta_cls",
        "../../models/photosearch-mini-1",
    ] {
        let json = std::fs::read(golden.join(directory).join("tokenizer.json")).unwrap();
        let tokenizer = Tokenizer::parse(&json).unwrap();
        for part in texts {
            let text = part.repeat((1 << 18) / part.len());
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let before = field("VmRSS:");
            let count = tokenizer.encode(&text).unwrap().ids.len();
            let bytes = (field("VmHWM:") - before) / text.len() as f64;
            println!("{directory:35} {part:20?} {count:8} tokens {bytes:6.0} bytes a byte");
            // SAFETY: `malloc_trim` has no preconditions.
            unsafe { libc::malloc_trim(0) };
        }
    }
}
