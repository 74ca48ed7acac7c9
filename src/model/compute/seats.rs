//! How many threads a forward pass may use while others run theirs.
//!
//! Every processor is a seat: a file that whoever computes locks. A forward pass takes as many
//! free seats as it can use and splits its work over so many threads; where all are taken it goes
//! on with one thread, and the scheduler shares the processors out. So sixteen backends on two
//! processors do not run sixteen pools of two threads that wait for each other. The kernel gives
//! a dead process's seats back.

use std::fs::File;
use std::path::PathBuf;

use crate::private;

/// The seats of a server, of which one process may hold some.
pub struct Seats {
    directory: PathBuf,
    files: Vec<Option<File>>,
}

/// Seats taken; given back when dropped.
pub struct Taken<'a>(Vec<&'a File>);

impl Seats {
    /// `count` seats, which are files in `directory`.
    pub fn new(directory: PathBuf, count: usize) -> Self {
        Self {
            directory,
            files: (0..count).map(|_| None).collect(),
        }
    }

    /// Takes what is free, at most `wanted`. Where the files cannot be had, none.
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
    /// Threads to use: one for each seat, and one where there was none.
    pub fn threads(&self) -> usize {
        self.0.len().max(1)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for file in &self.0 {
            // Closing it, at the latest, unlocks it.
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
