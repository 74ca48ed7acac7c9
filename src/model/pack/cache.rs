//! Where a server keeps its packs, and how they come to be there.
//!
//! Each model directory has a directory of its own under the cache's root. In it lie `source`,
//! which says what the checkpoint was when it was first used, a pack for each kernel and version of
//! the format, and `lock`, which whoever writes there holds. A pack appears complete, by being
//! renamed, and is never written to again; whoever maps one holds a shared lock on it, and those
//! which nobody maps any more are removed when a new one is made.

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

/// The directory with a server's packs.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// What is known of a model that has been packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Hex SHA-256 of all that decides its vectors.
    pub fingerprint: String,
    /// How its matrices are held, by the names of `compute_dtype`.
    pub dtype: &'static str,
    /// What its products are computed by.
    pub kernel: String,
    /// Bytes that a backend maps.
    pub bytes: u64,
}

/// What a checkpoint was when it was first used under its name.
#[derive(Serialize, Deserialize)]
struct FirstUse {
    fingerprint: String,
    /// The files that decide its vectors; `None`: it was not there.
    files: BTreeMap<String, Option<Stat>>,
}

impl Cache {
    /// The cache in the directory `root`, which is made when it is needed.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The fingerprint of what goes by the name of the model in `dir`: of its files when it was
    /// first used, or was last replaced. `None` where it was never used, or that cannot be read.
    pub fn recorded(&self, dir: &Path) -> Option<String> {
        thread_local! {
            /// Of each directory the file's last state: it is asked for with every text.
            static KNOWN: RefCell<HashMap<PathBuf, (Stat, String)>> = RefCell::default();
        }
        let home = self.home(dir);
        // A file that is written anew, under another name first, is another one.
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

    /// What there is of the model in `dir`, if it has been packed for this processor and has not
    /// changed since.
    pub fn packed(&self, dir: &Path) -> Option<Packed> {
        let pack = current(&self.home(dir), dir, Kernel::best()).ok()??;
        Some(Packed::of(&pack))
    }

    /// The pack of the model in `dir`. Where there is none, `build` makes the sections of one,
    /// while other processes that want it wait.
    ///
    /// # Errors
    /// [`ModelError::Changed`] where the checkpoint is not the one that was first used, unless
    /// `replace` accepts it.
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
        // Somebody else may have made it meanwhile.
        if !replace && let Some(pack) = current(&home, dir, kernel)? {
            return Ok(pack);
        }
        if !replace && let Some(source) = FirstUse::read(&home) {
            let files = stats(dir, source.files.keys())?;
            if fingerprint(dir, source.files.keys(), cancel)? != source.fingerprint {
                return Err(ModelError::Changed);
            }
            // Touched, or copied, but the same.
            FirstUse { files, ..source }.write(&home)?;
            if let Some(pack) = current(&home, dir, kernel)? {
                return Ok(pack);
            }
        }
        make(&home, dir, kernel, cancel, build)?;
        let pack = current(&home, dir, kernel)?.ok_or_else(|| {
            ModelError::Cache(io::Error::other("the packed copy vanished at once"))
        })?;
        clean(&home, &pack_name(&pack.header().fingerprint, kernel));
        Ok(pack)
    }

    /// The directory for the packs of the model in `dir`. Two directories of one name, which two
    /// servers on one cache may have, are kept apart.
    fn home(&self, dir: &Path) -> PathBuf {
        // Links are not followed: one that leads elsewhere now is a model that has changed.
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
            dtype: header.held.name(),
            kernel: header.held.computed_by(pack.kernel()),
            bytes: pack.bytes(),
        }
    }
}

/// The pack of what the checkpoint was and, by sizes and times, still is.
///
/// # Errors
/// [`ModelError::NoMemory`] where the pack is there and cannot be mapped. (Any other fault means that
/// there is none: it is made anew.)
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

/// The file with a shared lock; `None` where there is none, or where it was removed just now, and others
/// will not find it.
fn shared(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.lock_shared().ok()?;
    (file.metadata().ok()?.nlink() > 0).then_some(file)
}

fn pack_name(fingerprint: &str, kernel: Kernel) -> String {
    let short = fingerprint.get(..16).unwrap_or(fingerprint);
    format!("{short}-{}-v{VERSION}{PACK_SUFFIX}", kernel.name())
}

/// Write a pack and what it was made of.
fn make(
    home: &Path,
    dir: &Path,
    kernel: Kernel,
    cancel: &Cancel,
    build: &dyn Fn(&Directory, File, Kernel) -> Result<PackWriter, ModelError>,
) -> Result<(), ModelError> {
    let unfinished = home.join(UNFINISHED);
    // Left behind by somebody who was killed.
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
        // What failed is reported; that this fails too tells nothing new.
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
    /// `None` where there is none that can be read.
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

/// SHA-256 over the files of these names: of each its name and the SHA-256 of what it holds.
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

/// Wait for the lock and take it.
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

/// Remove the packs other than `kept` that nobody maps. What cannot be removed now is tried again
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
