//! What the coarse filter compares rows with: a query's prefix and a threshold, named or by the
//! settings. The operators, the index and the planner all take it from here.

mod query;
mod settings;

pub use query::{CoarseQuery, Resolved};
pub use settings::{Coarse, CoarseSettings};
