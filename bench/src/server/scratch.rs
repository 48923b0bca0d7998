//! A temporary folder that is removed with the value.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder for this user alone, removed when dropped unless it is to be kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// A new folder in `parent`, or in the system's place for temporary files.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(parent: Option<&Path>, keep: bool) -> io::Result<Self> {
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("postrail-bench-{}-{nanos}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, keep })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("postrail-bench: kept {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("postrail-bench: cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_with_its_value_unless_it_is_kept() {
        let parent = Scratch::new(None, false).expect("a temporary folder");
        let kept = Scratch::new(Some(parent.path()), true).expect("a folder in it");
        let gone = Scratch::new(Some(parent.path()), false).expect("a folder in it");
        let paths = [kept.path().to_owned(), gone.path().to_owned()];
        drop((kept, gone));
        assert_eq!(paths.map(|path| path.exists()), [true, false]);
    }
}
