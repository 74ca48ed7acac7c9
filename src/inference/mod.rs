//! Models in a backend: which there are, the thread that runs them, and what a session keeps of their
//! answers.

pub mod catalog;
pub mod query_cache;
mod replaced;
pub mod worker;

pub use replaced::{AnnounceOnDrop, generation, register};
