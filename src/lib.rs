//! `photosearch`: ask PostgreSQL for *all* of something in a photo library.
//!
//! The rooms, lowest first. A lower room never imports a higher one.
//!
//! - `memory`, `vector`, `sweep`, `image` and `model` are crates of their own that know no Postgres.
//!   Their manifests say which of them imports which.
//! - `types`, `guc`, `inference`, `coarse`, `planner`, `index` and `functions` are modules of this
//!   crate. `ROOMS` says what each may import; a test compares it with the source.

mod coarse;
mod functions;
mod guc;
mod index;
mod inference;
mod planner;
mod types;

/// The modules, lowest first, and the rooms that each imports. The test fails on an import that is not
/// listed, and on an entry that is no longer needed.
#[cfg(test)]
const ROOMS: &[(&str, &[&str])] = &[
    ("types", &["memory", "vector"]),
    ("guc", &["vector", "image", "model", "types"]),
    ("inference", &["memory", "model", "types", "guc"]),
    ("coarse", &["types", "guc", "inference"]),
    ("planner", &["vector", "types", "guc", "coarse"]),
    ("index", &["vector", "sweep", "types", "coarse", "planner"]),
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

/// Called by Postgres when the library is loaded, in the postmaster too: starts no thread.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::register();
    index::register_options();
    index::register_hooks();
    inference::register();
}

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pgrx-tests/mod.rs"]
mod pgrx_tests;

/// What `cargo pgrx test` asks of the crate under test.
#[cfg(test)]
pub mod pg_test {
    /// Called once before the first test.
    pub fn setup(_options: Vec<&str>) {}

    /// Settings of the test server.
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
