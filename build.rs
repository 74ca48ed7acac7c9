//! cargo-pgrx, which only the backend tests use, reads descriptions of the SQL functions from a section of
//! the library. Nothing refers to that section, so the linker would drop it. This file prevents that for
//! this crate alone; cargo-pgrx's own flag applies to every crate, and all would be built once more (see
//! the Makefile).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    }
}
