//! Folders and small files by blocking calls; they run where they hold up no shard.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::FILE_MODE;

/// Makes a folder and those above it that are missing, for our user alone. One that exists is left as it is.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Names of the plain files in a folder, sorted; names that are not UTF-8 are not ours and left out.
pub(super) fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Replaces `path` so that a crash leaves the old content or the new one, and nothing between.
///
/// # Errors
/// `InvalidInput` for a path without a file name.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"));
    };
    let mut temporary_name = name.to_os_string();
    temporary_name.push(".new");
    let temporary = path.with_file_name(temporary_name);
    write_new(&temporary, content)?;
    std::fs::rename(&temporary, path)?;
    sync_dir(folder_of(path))
}

/// Writes and syncs a file; what was there before under its name is gone.
pub(super) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The folder that holds `path`.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
