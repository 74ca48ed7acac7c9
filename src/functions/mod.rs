//! The SQL functions that people type. Their declarations stand in `sql/`.

mod catalog;
mod coarse;
mod embed;
mod fine;
mod query_cache;
mod rerank;
mod settings;
mod worker;

pub use coarse::{CoarseQuery, Resolved};
pub use settings::{Coarse, CoarseSettings};
