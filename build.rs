//! pgrx keeps the description of every SQL function in a section of the library, which the linker
//! must not drop as unreferenced. Asked for here rather than by cargo-pgrx's flags for all crates,
//! which would have them built once more (see the Makefile).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    }
}
