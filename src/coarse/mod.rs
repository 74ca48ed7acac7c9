//! The query of the coarse filter: a prefix of a query vector and a similarity threshold, either
//! given explicitly or determined by the settings. The operators, the index and the planner share
//! this definition.

mod query;
mod threshold;

pub use query::{CoarseQuery, ResolvedSettings};
pub use threshold::{CoarseParams, CoarseSettings};
