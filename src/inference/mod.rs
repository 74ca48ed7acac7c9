//! Use of models in a backend: the catalog of models, the model thread that runs them, the cache of
//! embedded texts, and the invalidation after a model has been replaced.

pub mod catalog;
pub mod model_thread;
pub mod query_cache;
mod replaced;

pub use replaced::{InvalidateOnDrop, generation, register};
