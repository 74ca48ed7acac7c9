//! Limits the number of threads that all concurrent forward passes use together.
//!
//! There is one seat for each processor: a file that a forward pass locks. A forward pass takes as
//! many free seats as it can use and splits its work over that many threads. If all seats are
//! taken, it runs in one thread, and the scheduler shares the processors. So sixteen backends on
//! two processors do not run sixteen pools of two threads that wait for each other. The kernel
//! releases the seats of a process that dies.

use std::fs::File;
use std::path::PathBuf;

use crate::private;

/// The seats of a server. One process may hold several of them.
pub struct Seats {
    directory: PathBuf,
    files: Vec<Option<File>>,
}

/// Seats that were taken. They are released on drop.
pub struct Taken<'a>(Vec<&'a File>);

impl Seats {
    /// `count` seats, which are files in `directory`.
    pub fn new(directory: PathBuf, count: usize) -> Self {
        Self {
            directory,
            files: (0..count).map(|_| None).collect(),
        }
    }

    /// Takes up to `wanted` free seats. Takes none if the files cannot be opened.
    pub fn take(&mut self, wanted: usize) -> Taken<'_> {
        let mut taken = Vec::new();
        for (i, place) in self.files.iter_mut().enumerate() {
            if taken.len() == wanted {
                break;
            }
            if place.is_none() && private::check(&self.directory).is_ok() {
                *place = private::lock_file(&self.directory.join(format!("cpu.{i}"))).ok();
            }
            if let Some(file) = place
                && file.try_lock().is_ok()
            {
                taken.push(&*file);
            }
        }
        Taken(taken)
    }
}

impl Taken<'_> {
    /// Number of threads to use: one per seat, and one if there is no seat.
    pub fn threads(&self) -> usize {
        self.0.len().max(1)
    }
}

impl Drop for Taken<'_> {
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
    fn a_seat_is_taken_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let seats = || Seats::new(directory.path().to_owned(), 3);
        let (mut a, mut b, mut c) = (seats(), seats(), seats());
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
