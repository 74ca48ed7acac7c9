//! A flag with which another thread or a signal handler stops a long computation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ModelError;
use photosearch_memory as memory;

/// A cancellation flag, shared by the caller and the computation. Clones share one flag; once set,
/// the flag stays set. Setting the flag is a single atomic store, so a signal handler may do it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Makes a flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the computation to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// [`ModelError::Cancelled`] once [`Self::cancel`] has been called, [`ModelError::NoMemory`]
    /// while memory is low. The computation calls this between layers, between blocks of attention,
    /// and, while loading, between blocks of weights.
    pub fn check(&self) -> Result<(), ModelError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(ModelError::Cancelled);
        }
        Ok(memory::check()?)
    }
}
