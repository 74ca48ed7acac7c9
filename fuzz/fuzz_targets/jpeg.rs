#![no_main]

mod body;
mod heap;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::decode(bytes, |bytes| {
    bytes.starts_with(&[0xff, 0xd8, 0xff])
}));
