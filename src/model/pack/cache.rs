//! Creates and finds packs in the server's cache directory.
//!
//! Each model directory has its own directory under the cache's root. It contains `source`, which
//! records the checkpoint's state when it was first used, one pack for each kernel and format
//! version, and `lock`, which a process holds while it writes there. A pack is written under
//! another name and renamed when it is complete; afterwards it is never written to again. A process
//! that maps a pack holds a shared lock on it. When a new pack is made, packs that no process maps
//! are removed.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Pack, PackWriter, Unusable, VERSION, hex};
use crate::compute::Kernel;
use crate::directory::{Directory, Stat, unreadable, vector_relevant};
use crate::{Cancel, ModelError, private};

const LOCK_POLL: Duration = Duration::from_millis(20);
const SOURCE: &str = "source";
const UNFINISHED: &str = "unfinished";
const PACK_SUFFIX: &str = ".pack";
const READ_BYTES: usize = 1 << 20;

/// The directory that holds a server's packs.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Describes a packed model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Hex SHA-256 of everything that determines the model's vectors.
    pub fingerprint: String,
    /// The matrices' number format, spelled as in `compute_dtype`.
    pub dtype: &'static str,
    /// The code that computes the matrix products.
    pub kernel: String,
    /// Size of the pack, which every backend maps, in bytes.
    pub bytes: u64,
}

/// The state of a checkpoint when it was first used under its name.
#[derive(Serialize, Deserialize)]
struct FirstUse {
    fingerprint: String,
    /// The files that determine the model's vectors; `None` if the file did not exist.
    files: BTreeMap<String, Option<Stat>>,
}

impl Cache {
    /// A cache in the directory `root`. The directory is created when it is first needed.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cache's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The fingerprint recorded for the model in `dir`: that of its files when it was first used,
    /// or last replaced. `None` if it was never used or the record cannot be read.
    pub fn recorded(&self, dir: &Path) -> Option<String> {
        thread_local! {
            /// The record of each directory as last read. It is cached because every text that is
            /// embedded asks for the fingerprint.
            static KNOWN: RefCell<HashMap<PathBuf, (Stat, String)>> = RefCell::default();
        }
        let home = self.home(dir);
        // A new record is written under another name and renamed, so its metadata always differs.
        let stat = Stat::of(&home, SOURCE).ok()??;
        let known = KNOWN.with_borrow(|known| {
            let (then, fingerprint) = known.get(&home)?;
            (*then == stat).then(|| fingerprint.clone())
        });
        if known.is_some() {
            return known;
        }
        let fingerprint = FirstUse::read(&home)?.fingerprint;
        KNOWN.with_borrow_mut(|known| known.insert(home, (stat, fingerprint.clone())));
        Some(fingerprint)
    }

    /// Describes the pack of the model in `dir`; `None` if it has not been packed for this
    /// processor, or has changed since.
    pub fn packed(&self, dir: &Path) -> Option<Packed> {
        let pack = current(&self.home(dir), dir, Kernel::best()).ok()??;
        Some(Packed::of(&pack))
    }

    /// Opens the pack of the model in `dir`. If there is none, `build` writes the sections of a new
    /// one, and other processes that need the pack wait.
    ///
    /// # Errors
    /// [`ModelError::Changed`] if the checkpoint differs from the one first used, unless `replace`
    /// is set.
    pub(crate) fn open(
        &self,
        dir: &Path,
        replace: bool,
        cancel: &Cancel,
        build: &dyn Fn(&Directory, File, Kernel) -> Result<PackWriter, ModelError>,
    ) -> Result<Pack, ModelError> {
        let kernel = Kernel::best();
        let home = self.home(dir);
        if !replace && let Some(pack) = current(&home, dir, kernel)? {
            return Ok(pack);
        }
        private::make(&self.root).map_err(ModelError::Cache)?;
        private::make(&home).map_err(ModelError::Cache)?;
        let _lock = lock(&home.join("lock"), cancel)?;
        // Another process may have made the pack in the meantime.
        if !replace && let Some(pack) = current(&home, dir, kernel)? {
            return Ok(pack);
        }
        if !replace && let Some(source) = FirstUse::read(&home) {
            let files = stats(dir, source.files.keys())?;
            if fingerprint(dir, source.files.keys(), cancel)? != source.fingerprint {
                return Err(ModelError::Changed);
            }
            // The files were touched or copied, but their contents are the same.
            FirstUse { files, ..source }.write(&home)?;
            if let Some(pack) = current(&home, dir, kernel)? {
                return Ok(pack);
            }
        }
        make(&home, dir, kernel, cancel, build)?;
        let pack = current(&home, dir, kernel)?.ok_or_else(|| {
            ModelError::Cache(io::Error::other("the new packed copy disappeared"))
        })?;
        clean(&home, &pack_name(&pack.header().fingerprint, kernel));
        Ok(pack)
    }

    /// The directory for the packs of the model in `dir`. Its name contains a hash of the whole
    /// path, because two servers with a common cache may have model directories of the same name.
    fn home(&self, dir: &Path) -> PathBuf {
        // Symbolic links are not resolved. If a link's target changes, the model has changed.
        let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let name = whole.file_name().unwrap_or_default().to_string_lossy();
        let digest = Sha256::digest(whole.as_os_str().as_encoded_bytes());
        self.root.join(format!("{name}-{}", hex(&digest[..8])))
    }
}

impl Packed {
    pub(crate) fn of(pack: &Pack) -> Self {
        let header = pack.header();
        Self {
            fingerprint: header.fingerprint.clone(),
            dtype: header.dtype.name(),
            kernel: header.dtype.computed_by(pack.kernel()),
            bytes: pack.bytes(),
        }
    }
}

/// Opens the pack of the recorded checkpoint, if the checkpoint's file sizes and times are
/// unchanged.
///
/// # Errors
/// [`ModelError::NoMemory`] if the pack exists but mapping it needs too much memory. Any other
/// failure counts as a missing pack, which the caller makes anew.
fn current(home: &Path, dir: &Path, kernel: Kernel) -> Result<Option<Pack>, ModelError> {
    let Some(source) = FirstUse::read(home) else {
        return Ok(None);
    };
    let is_unchanged = stats(dir, source.files.keys()).is_ok_and(|files| files == source.files);
    if !is_unchanged {
        return Ok(None);
    }
    let Some(file) = shared(&home.join(pack_name(&source.fingerprint, kernel))) else {
        return Ok(None);
    };
    match Pack::open(file, kernel) {
        Ok(pack) => {
            let header = pack.header();
            let is_ours =
                header.fingerprint == source.fingerprint && header.kernel == kernel.name();
            Ok(is_ours.then_some(pack))
        }
        Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
            Err(ModelError::NoMemory)
        }
        Err(_) => Ok(None),
    }
}

/// Opens a file with a shared lock. `None` if there is no such file, or if it was removed before
/// the lock was taken, so that other processes cannot find it.
fn shared(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.lock_shared().ok()?;
    (file.metadata().ok()?.nlink() > 0).then_some(file)
}

fn pack_name(fingerprint: &str, kernel: Kernel) -> String {
    let short = fingerprint.get(..16).unwrap_or(fingerprint);
    format!("{short}-{}-v{VERSION}{PACK_SUFFIX}", kernel.name())
}

/// Writes a pack and the record of its source.
fn make(
    home: &Path,
    dir: &Path,
    kernel: Kernel,
    cancel: &Cancel,
    build: &dyn Fn(&Directory, File, Kernel) -> Result<PackWriter, ModelError>,
) -> Result<(), ModelError> {
    let unfinished = home.join(UNFINISHED);
    // A process that was killed may have left this file.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ModelError::Cache(error));
        }
        _ => {}
    }
    let written = write_pack(&unfinished, dir, kernel, cancel, build);
    let finish = |source: FirstUse| -> io::Result<()> {
        fs::rename(
            &unfinished,
            home.join(pack_name(&source.fingerprint, kernel)),
        )?;
        File::open(home)?.sync_all()?;
        source.write_file(home)
    };
    let done = written.and_then(|source| finish(source).map_err(ModelError::Cache));
    if done.is_err() {
        // The original error is returned; a failed removal adds no information.
        drop(fs::remove_file(&unfinished));
    }
    done
}

fn write_pack(
    path: &Path,
    dir: &Path,
    kernel: Kernel,
    cancel: &Cancel,
    build: &dyn Fn(&Directory, File, Kernel) -> Result<PackWriter, ModelError>,
) -> Result<FirstUse, ModelError> {
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o400)
        .open(path)
        .map_err(ModelError::Cache)?;
    let directory = Directory::recording(dir)?;
    let writer = build(&directory, file, kernel)?;
    let files = directory.seen();
    let fingerprint = fingerprint(dir, files.keys(), cancel)?;
    if stats(dir, files.keys())? != files {
        return Err(ModelError::ChangedWhileRead);
    }
    writer
        .finish(fingerprint.clone())
        .map_err(ModelError::Cache)?;
    Ok(FirstUse { fingerprint, files })
}

impl FirstUse {
    /// `None` if there is no readable record.
    fn read(home: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(home.join(SOURCE)).ok()?).ok()
    }

    fn write(&self, home: &Path) -> Result<(), ModelError> {
        self.write_file(home).map_err(ModelError::Cache)
    }

    fn write_file(&self, home: &Path) -> io::Result<()> {
        let unfinished = home.join("source.unfinished");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, home.join(SOURCE))?;
        File::open(home)?.sync_all()
    }
}

fn stats<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, Option<Stat>>, ModelError> {
    names
        .map(|name| Ok((name.clone(), Stat::of(dir, name)?)))
        .collect()
}

/// SHA-256 over the name of each file and the SHA-256 of its relevant contents.
fn fingerprint<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a String>,
    cancel: &Cancel,
) -> Result<String, ModelError> {
    let mut whole = Sha256::new();
    for name in names {
        whole.update((name.len() as u64).to_le_bytes());
        whole.update(name);
        match digest(dir, name, cancel)? {
            Some(digest) => {
                whole.update([1]);
                whole.update(digest);
            }
            None => whole.update([0]),
        }
    }
    Ok(hex(&whole.finalize()))
}

fn digest(dir: &Path, name: &str, cancel: &Cancel) -> Result<Option<[u8; 32]>, ModelError> {
    let fail = |source| unreadable(name, source);
    let mut file = match File::open(dir.join(name)) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(fail(error)),
    };
    if let Some(relevant) = vector_relevant(name, file.as_mut())? {
        return Ok(Some(Sha256::digest(relevant).into()));
    }
    let Some(mut file) = file else {
        return Ok(None);
    };
    let mut digest = Sha256::new();
    let mut block = vec![0; READ_BYTES];
    loop {
        cancel.check()?;
        match file.read(&mut block).map_err(fail)? {
            0 => return Ok(Some(digest.finalize().into())),
            n => digest.update(&block[..n]),
        }
    }
}

/// Waits for the lock and takes it.
fn lock(path: &Path, cancel: &Cancel) -> Result<File, ModelError> {
    let file = private::lock_file(path).map_err(ModelError::Cache)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                cancel.check()?;
                std::thread::sleep(LOCK_POLL);
            }
            Err(TryLockError::Error(error)) => return Err(ModelError::Cache(error)),
        }
    }
}

/// Removes the packs other than `kept` that no process maps. If a removal fails, it is tried again
/// when the next pack is made.
fn clean(home: &Path, kept: &str) {
    let Ok(entries) = fs::read_dir(home) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == kept || !name.ends_with(PACK_SUFFIX) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            drop(fs::remove_file(entry.path()));
        }
    }
}
