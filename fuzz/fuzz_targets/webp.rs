#![no_main]

mod body;
mod heap;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::decode(bytes, |bytes| {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")
}));
