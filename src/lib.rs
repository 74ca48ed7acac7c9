//! `photosearch`: a PostgreSQL extension that finds *all* photos of a library that match a
//! description.
//!
//! The modules are layered, lowest first. A lower one never imports a higher one.
//!
//! - `memory`, `cpu`, `vector`, `sweep`, `image` and `model` are crates of their own that do not depend on
//!   Postgres. Their manifests say which of them imports which.
//! - `version`, `types`, `guc`, `inference`, `coarse`, `planner`, `index` and `functions` are modules of
//!   this crate. `ROOMS` lists what each imports; a test compares the list with the source.

mod coarse;
mod functions;
mod guc;
mod index;
mod inference;
mod planner;
mod types;
mod version;

/// The modules, lowest first, and the rooms that each imports. A test in `rooms.rs` fails on an import that
/// is not listed, and on an entry that is no longer needed.
#[cfg(test)]
const ROOMS: &[(&str, &[&str])] = &[
    ("version", &[]),
    ("types", &["memory", "vector"]),
    ("guc", &["version", "vector", "image", "model", "types"]),
    ("inference", &["memory", "model", "types", "guc"]),
    ("coarse", &["types", "guc", "inference"]),
    ("planner", &["version", "vector", "types", "guc", "coarse"]),
    (
        "index",
        &["version", "vector", "sweep", "types", "coarse", "planner"],
    ),
    (
        "functions",
        &[
            "vector",
            "image",
            "model",
            "types",
            "guc",
            "inference",
            "coarse",
            "index",
        ],
    ),
];

#[cfg(test)]
mod rooms;

use photosearch_image as image;
use photosearch_memory as memory;
use photosearch_model as model;
use photosearch_sweep as sweep;
use photosearch_vector as vector;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

pgrx::extension_sql_file!("../sql/types.sql", name = "types", bootstrap);
pgrx::extension_sql_file!("../sql/pair.sql", name = "pair", requires = ["types"]);
pgrx::extension_sql_file!("../sql/embed.sql", name = "embed", requires = ["pair"]);
pgrx::extension_sql_file!("../sql/index.sql", name = "index", requires = ["embed"]);

/// Postgres calls this function when it loads the library. With `shared_preload_libraries` that
/// happens in the postmaster, so the function starts no thread.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::register();
    planner::register_hook();
    index::register_options();
    index::register_hooks();
    inference::register();
}

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pgrx-tests/mod.rs"]
mod pgrx_tests;

/// The functions that `cargo pgrx test` requires of the crate under test.
#[cfg(test)]
pub mod pg_test {
    /// Called once before the first test.
    pub fn setup(_options: Vec<&str>) {}

    /// Settings of the test server.
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
