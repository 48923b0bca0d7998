//! The data folder: of our version, and ours alone while we run.
//!
//! `VERSION` holds the number of the folder's layout, `lock` is held by flock(2) as long as the process lives and holds
//! its pid for the message to a second one. An older binary refuses a newer folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The layout that this binary reads and writes.
const LAYOUT: u32 = 1;
/// What a version or lock file may hold, octets.
const SMALL_FILE_BYTES_MAX: u64 = 64;
/// What may be there before us: it, and the next one.
const MASTER_KEY: &str = "master.key";

/// A claimed data folder. The claim ends with the value.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("the data folder {folder} is in use by process {pid}: stop it, or choose another folder by --data")]
    InUse { folder: String, pid: String },
    #[error("the data folder {folder} has layout {found}; this is Postrail {}, which knows layout {LAYOUT}: {advice}", env!("CARGO_PKG_VERSION"))]
    Layout { folder: String, found: String, advice: &'static str },
    #[error("{folder} is no data folder of Postrail: it holds other files and no VERSION; choose another by --data")]
    Foreign { folder: String },
    #[error("cannot use the data folder {folder}: {error}")]
    Unusable { folder: String, error: io::Error },
}

impl DataFolder {
    /// Makes the folder where it does not exist, and claims it.
    ///
    /// # Errors
    /// It is another process', of another layout, not ours, or cannot be written.
    pub(crate) fn claim(path: &Path) -> Result<Self, FolderError> {
        let folder = path.display().to_string();
        let unusable = |error| FolderError::Unusable { folder: folder.clone(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let path = path.canonicalize().map_err(unusable)?;
        // A host that joins a fleet is given the master key before it starts for the first time.
        let is_ours = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(MASTER_KEY))
        };
        let is_empty = fs::read_dir(&path).map_err(unusable)?.all(is_ours);
        let version = path.join("VERSION");
        if !is_empty && !version.exists() && !path.join("lock").exists() {
            return Err(FolderError::Foreign { folder });
        }
        // It holds addresses, keys and mail: nobody else's business, also where the folder was made by hand.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(unusable)?;
        let lock = lock(&path.join("lock"), &folder)?;
        match fs::read_to_string(&version) {
            Ok(text) => check(&text, &folder)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => write_version(&version).map_err(unusable)?,
            Err(error) => return Err(unusable(error)),
        }
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(path: &Path, folder: &str) -> Result<File, FolderError> {
    let unusable = |error| FolderError::Unusable { folder: folder.to_owned(), error };
    let mut options = File::options();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = opened.map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&file).take(SMALL_FILE_BYTES_MAX).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(FolderError::InUse { folder: folder.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(unusable)?;
    Ok(file)
}

fn check(text: &str, folder: &str) -> Result<(), FolderError> {
    let found = text.trim();
    match found.parse::<u32>() {
        Ok(LAYOUT) => Ok(()),
        number => Err(FolderError::Layout {
            folder: folder.to_owned(),
            found: found.chars().take(20).collect(),
            advice: if number.is_ok_and(|number| number > LAYOUT) {
                "start it with the newer Postrail that wrote it"
            } else {
                "VERSION is damaged; restore it from a backup"
            },
        }),
    }
}

fn write_version(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{LAYOUT}")?;
    file.sync_all()?;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::Scratch;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let scratch = Scratch::new("folder-owner").expect("a temporary folder");
        let path = scratch.path().join("data");
        let first = DataFolder::claim(&path).expect("it is free");
        let error = DataFolder::claim(&path).expect_err("it is taken");
        assert!(error.to_string().contains(&format!("process {}:", std::process::id())), "{error}");
        drop(first);
        DataFolder::claim(&path).expect("it is free again");
    }

    #[test]
    fn a_newer_or_damaged_folder_is_refused() {
        let scratch = Scratch::new("folder-version").expect("a temporary folder");
        for (version, advice) in [("2\n", "newer Postrail"), ("x", "damaged")] {
            fs::write(scratch.path().join("VERSION"), version).expect("written");
            let error = DataFolder::claim(scratch.path()).expect_err("refused");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[test]
    fn a_folder_with_a_master_key_alone_is_a_new_one() {
        let scratch = Scratch::new("folder-key").expect("a temporary folder");
        fs::write(scratch.path().join("master.key"), [7; 32]).expect("written");
        DataFolder::claim(scratch.path()).expect("it is new");
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let scratch = Scratch::new("folder-foreign").expect("a temporary folder");
        fs::write(scratch.path().join("letter.txt"), "dear").expect("written");
        assert!(matches!(DataFolder::claim(scratch.path()), Err(FolderError::Foreign { .. })));
        assert_eq!(fs::read_dir(scratch.path()).expect("readable").count(), 1, "nothing was written");
    }
}
