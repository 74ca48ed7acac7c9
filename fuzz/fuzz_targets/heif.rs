#![no_main]

mod body;
mod heap;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::decode(bytes, |bytes| {
    bytes.get(4..8) == Some(b"ftyp")
}));
