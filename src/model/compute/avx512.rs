//! placeholder until the kernels land
#![allow(clippy::all, unused)]
use super::Target;
pub fn available() -> bool {
    false
}
pub fn bf16_packed_bytes(o: usize, i: usize) -> usize {
    o * i * 2
}
pub fn bf16_pack(w: &[u16], o: usize, i: usize, p: &mut [u8]) {
    unimplemented!()
}
pub fn bf16_product(
    x: &[u16],
    stride: usize,
    p: &[u8],
    o: usize,
    i: usize,
    b: Option<&[f32]>,
    t: Target<'_>,
) {
    unimplemented!()
}
pub fn i8_packed_bytes(o: usize, i: usize, b: usize) -> usize {
    o * i
}
pub fn i8_pack(w: &[i8], o: usize, i: usize, bl: usize, p: &mut [u8]) {
    unimplemented!()
}
pub fn i8_product(
    x: &[i8],
    stride: usize,
    xs: &[f32],
    p: &[u8],
    s: &[f32],
    o: usize,
    i: usize,
    bl: usize,
    b: Option<&[f32]>,
    t: Target<'_>,
) {
    unimplemented!()
}
