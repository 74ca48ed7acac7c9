//! The SQL functions that people type. Their declarations stand in `sql/`.

mod catalog;
mod coarse;
mod embed;
mod fine;
mod once;
mod query_cache;
mod replaced;
mod rerank;
mod settings;
mod text;
mod worker;

pub use coarse::{CoarseQuery, Resolved};
pub use replaced::register as register_replaced;
pub use settings::{Coarse, CoarseSettings};
