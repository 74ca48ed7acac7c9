#![no_main]

mod body;
mod heap;

// The first byte of PNG, GIF or BMP.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::decode(bytes, |bytes| {
    matches!(bytes.first(), Some(0x89 | b'G' | b'B'))
}));
