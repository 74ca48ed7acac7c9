//! A flag by which another thread, or a signal handler, stops long work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ModelError;
use photosearch_memory as memory;

/// Shared by the one who asks for work and the one who does it. Clones share one flag, which
/// once set stays set. Setting it only stores to an atomic, so a signal handler may.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ask for the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// [`ModelError::Cancelled`] once [`Self::cancel`] has been called, [`ModelError::NoMemory`] while
    /// memory is low. Work checks between layers, between chunks of attention, and between blocks of
    /// weights while it loads.
    pub fn check(&self) -> Result<(), ModelError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(ModelError::Cancelled);
        }
        Ok(memory::check()?)
    }
}
