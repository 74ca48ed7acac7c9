//! What the planner asks us.

mod rewrite;
mod selectivity;
