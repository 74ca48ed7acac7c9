//! Use of models in a backend: the catalog of models, the model thread that runs them, the cache of
//! embedded texts, and the invalidation after a model has been replaced.

pub mod catalog;
mod invalidation;
pub mod model_thread;
pub mod query_cache;

pub use invalidation::{InvalidateOnDrop, generation, register};
