//! The index access method `mrl`. It stores an entry for each row with a vector, the code of the vector's prefix
//! and the row's TID ([`crate::sweep`]), on pages that Postgres manages. A query sweeps them: it reads every page.
//!
//! Block 0 is the metapage. It describes the index and never changes. All other blocks contain
//! entries in no particular order. An entry stays on the page on which it was inserted until vacuum
//! removes it. Because of this, scans, inserts and vacuum can run concurrently while each of them
//! locks only one page at a time.
//!
//! `conditions`, `cost`, `foreign_cost`, `operands`, `order_paths`, `parallel` and `paths` are used while a
//! query is planned. `handler`, `opclass` and `options` declare the access method. The other files read or
//! change an index.

mod block;
mod block_queue;
mod build;
mod check;
mod conditions;
mod cost;
mod entry;
mod foreign_cost;
mod handler;
mod insert;
mod matches;
mod opclass;
mod operands;
mod options;
mod order_paths;
mod ordered_rows;
mod page;
mod parallel;
mod paths;
mod reader;
mod relation;
mod scan;
mod snapshot;
mod sweeps;
mod vacuum;

pub use check::check;
pub use options::register as register_options;

pub use sweeps::last as last_sweeps;

/// Called once, when the library is loaded.
pub fn register_hooks() {
    conditions::register_hook();
    paths::register_hook();
}
