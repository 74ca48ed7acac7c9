//! Limits the number of threads that all concurrent forward passes of a server use together.
//!
//! There is one slot for each processor: a file that a forward pass locks. A forward pass takes as
//! many free slots as it can use and splits its work over that many threads. If no slot is free, the
//! forward pass runs in one thread, and the operating system's scheduler shares the processors. So
//! sixteen backends on two processors do not run sixteen pools of two threads that wait for each
//! other. The operating system releases the slots of a process that dies.

use std::fs::File;
use std::path::PathBuf;

use crate::private;

/// The slots of a server. One process may hold several of them.
pub struct CpuSlots {
    directory: PathBuf,
    files: Vec<Option<File>>,
}

/// Slots that a forward pass has taken. They are released on drop.
pub struct TakenSlots<'a>(Vec<&'a File>);

impl CpuSlots {
    /// `count` slots, which are files in `directory`.
    pub fn new(directory: PathBuf, count: usize) -> Self {
        Self {
            directory,
            files: (0..count).map(|_| None).collect(),
        }
    }

    /// Takes up to `wanted` free slots. Takes none if the files cannot be opened.
    pub fn take(&mut self, wanted: usize) -> TakenSlots<'_> {
        let mut taken = Vec::new();
        for (i, slot) in self.files.iter_mut().enumerate() {
            if taken.len() == wanted {
                break;
            }
            if slot.is_none() && private::check(&self.directory).is_ok() {
                *slot = private::lock_file(&self.directory.join(format!("cpu.{i}"))).ok();
            }
            if let Some(file) = slot
                && file.try_lock().is_ok()
            {
                taken.push(&*file);
            }
        }
        TakenSlots(taken)
    }
}

impl TakenSlots<'_> {
    /// Number of threads to use: one for each slot, and one if there is no slot.
    pub fn threads(&self) -> usize {
        self.0.len().max(1)
    }
}

impl Drop for TakenSlots<'_> {
    fn drop(&mut self) {
        for file in &self.0 {
            // Closing the file would also release the lock, so an error here has no effect.
            drop(file.unlock());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let slots = || CpuSlots::new(directory.path().to_owned(), 3);
        let (mut a, mut b, mut c) = (slots(), slots(), slots());
        let first = a.take(2);
        assert_eq!(first.0.len(), 2);
        let second = b.take(2);
        assert_eq!(second.0.len(), 1);
        let third = c.take(2);
        assert_eq!((third.0.len(), third.threads()), (0, 1));
        drop(third);
        drop(first);
        assert_eq!(c.take(5).0.len(), 2);
    }
}
