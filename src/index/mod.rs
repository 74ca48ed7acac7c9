//! The access method `mrl`: the sweep of [`crate::sweep`], kept on pages by Postgres.
//!
//! Block 0 says what the index is for and never changes. All other blocks hold entries, in no
//! order. An entry stays on the page on which it was inserted until vacuum takes it out: that is
//! what lets scans, inserts and vacuum share an index with one lock of one page at a time.

mod build;
mod check;
mod cost;
mod entry;
mod fine;
mod handler;
mod insert;
mod opclass;
mod options;
mod page;
mod parallel;
mod reader;
mod scan;
mod sweeps;
mod vacuum;

pub use check::check;
pub use options::register as register_options;

pub use sweeps::last as last_sweeps;

/// Called once, when the library is loaded.
pub fn register_hooks() {
    fine::register_hook();
    parallel::register_hook();
}
