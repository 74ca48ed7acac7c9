//! Compiles the C and C++ files of this crate, one for each library, and links those libraries.
//!
//! `turbojpeg-sys` builds libjpeg-turbo from source, because distributions have versions without
//! lossless JPEG. libtiff, libwebp and libheif are those of the system, so that the system's security
//! updates reach the server without a new build of photosearch.

use std::env;
use std::path::PathBuf;

type BuildError = Box<dyn std::error::Error>;

fn main() -> Result<(), BuildError> {
    println!("cargo:rerun-if-changed=build.rs");

    let jpeg = env::var("DEP_TURBOJPEG_INCLUDE")
        .map_err(|_| "turbojpeg-sys does not say where libjpeg-turbo's headers are")?;
    compile("jpeg.c", jpeg.split(',').map(PathBuf::from), None);

    let tiff = pkg_config::Config::new()
        .atleast_version("4.5")
        .cargo_metadata(false)
        .probe("libtiff-4")?;
    compile("tiff.c", tiff.include_paths.clone(), None);
    link(&tiff);

    let webp = ["libwebp", "libwebpdemux"].map(|name| {
        pkg_config::Config::new()
            .atleast_version("1.2.4")
            .cargo_metadata(false)
            .probe(name)
    });
    let [webp, demux] = webp;
    let (webp, demux) = (webp?, demux?);
    compile("webp.c", webp.include_paths.clone(), None);
    link(&demux);
    link(&webp);

    if env::var_os("CARGO_FEATURE_HEIF").is_some() {
        let heif = pkg_config::Config::new()
            .atleast_version("1.15")
            .cargo_metadata(false)
            .probe("libheif")?;
        // With libde265's headers, heif.cc turns the library's warnings about damaged data into
        // errors. Without them HEIC is read, too, but less damage is noticed.
        let de265 = pkg_config::Config::new()
            .cargo_metadata(false)
            .probe("libde265")
            .ok();
        let mut includes = heif.include_paths.clone();
        includes.extend(
            de265
                .iter()
                .flat_map(|library| library.include_paths.clone()),
        );
        let defined = de265.is_some().then_some("PHOTOSEARCH_LIBDE265");
        compile("heif.cc", includes, defined);
        link(&heif);
        if let Some(library) = &de265 {
            link(library);
        }
    }
    Ok(())
}

/// Compiles a C file, or a C++ file if its name ends in `.cc`. `defined` is a macro to define.
fn compile(source: &str, includes: impl IntoIterator<Item = PathBuf>, defined: Option<&str>) {
    println!("cargo:rerun-if-changed={source}");
    println!("cargo:rerun-if-changed=failure.h");
    let name = source.split('.').next().unwrap_or(source);
    let cpp = source.ends_with(".cc");
    let mut build = cc::Build::new();
    if let Some(defined) = defined {
        build.define(defined, None);
    }
    build
        .file(source)
        .includes(includes)
        .cpp(cpp)
        .std(if cpp { "c++17" } else { "c11" })
        .extra_warnings(true)
        .compile(&format!("photosearch_{name}"));
}

/// Links a library of the system. Call this after [`compile`], because the linker needs a library after
/// the objects that call it.
fn link(library: &pkg_config::Library) {
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for name in &library.libs {
        println!("cargo:rustc-link-lib={name}");
    }
}
