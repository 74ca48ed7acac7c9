//! Makes and checks directories that only the server's user can write to, and opens lock files in
//! them. No function here writes through a symbolic link that another user has made.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Makes the directory if it does not exist. Fails if the directory does not pass [`check`].
pub(super) fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    check(path)
}

/// Fails unless the directory belongs to the server's user and no other user can write to it.
/// `path` may be a symbolic link if the server's user or root has made the link.
pub(super) fn check(path: &Path) -> io::Result<()> {
    // SAFETY: `geteuid` has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    let link = fs::symlink_metadata(path)?;
    let metadata = fs::metadata(path)?;
    let is_private = metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o022 == 0;
    if !is_private || ![0, own].contains(&link.uid()) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the directory does not belong to the server's user alone",
        ));
    }
    Ok(())
}

/// Opens a file for locking, and creates it if it does not exist. Fails if `path` is a symbolic
/// link.
pub(super) fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn directories_that_others_can_write_to_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        make(&own).unwrap();
        make(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&own, fs::Permissions::from_mode(0o722)).unwrap();
        assert!(make(&own).is_err());
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(make(&file).is_err());
        assert!(check(&root.path().join("nothing")).is_err());
        // An administrator can move the directory to another disk by a link that the server's user
        // owns.
        let (disk, link) = (root.path().join("disk"), root.path().join("link"));
        make(&disk).unwrap();
        symlink(&disk, &link).unwrap();
        make(&link).unwrap();
        symlink(root.path().join("nowhere"), root.path().join("dangling")).unwrap();
        assert!(make(&root.path().join("dangling")).is_err());
    }

    #[test]
    fn a_lock_is_not_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (target, link) = (root.path().join("target"), root.path().join("cpu.0"));
        symlink(&target, &link).unwrap();
        assert!(lock_file(&link).is_err());
        assert!(!target.exists());
        lock_file(&root.path().join("cpu.1")).unwrap();
    }
}
