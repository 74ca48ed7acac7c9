#![no_main]

mod body;
mod heap;

// Every HEIF file has `ftyp` after its first four bytes.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::decode(bytes, |bytes| {
    bytes.get(4..8) == Some(b"ftyp")
}));
