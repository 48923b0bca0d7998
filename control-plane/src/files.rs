//! The small files of the data folder, readable by their owner only: what is secret, and who this is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::app::MasterKey;

/// The master key at `path`, made if there is none.
///
/// # Errors
/// The file cannot be read or written, or does not hold 32 octets.
pub(crate) fn master_key(path: &Path) -> io::Result<MasterKey> {
    match File::open(path) {
        Ok(file) => {
            let mut octets = Zeroizing::new(Vec::new());
            file.take(33).read_to_end(&mut octets)?;
            let key = <[u8; 32]>::try_from(octets.as_slice())
                .map_err(|_| io::Error::new(ErrorKind::InvalidData, "a master key has 32 octets"))?;
            Ok(Zeroizing::new(key))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut key = Zeroizing::new([0; 32]);
            rand::fill(key.as_mut_slice()).map_err(|_| io::Error::other("no random octets"))?;
            write_secret(path, key.as_slice())?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// The operator token at `path`, `make`d if there is none. The file is the truth: delete it to get another token.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn operator_token(path: &Path, make: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let token = make()?;
            write_secret(path, format!("{token}\n").as_bytes())?;
            Ok(token)
        }
        Err(error) => Err(error),
    }
}

/// What tells this installation from others, at `path`; made if there is none.
///
/// # Errors
/// The file cannot be read or written, or does not hold 32 hexadecimal digits.
pub(crate) fn installation(path: &Path) -> io::Result<u128> {
    match fs::read_to_string(path) {
        Ok(text) => u128::from_str_radix(text.trim(), 16)
            .ok()
            .filter(|_| text.trim().len() == 32)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "an installation's id has 32 hexadecimal digits")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut octets = [0; 16];
            rand::fill(&mut octets).map_err(|_| io::Error::other("no random octets"))?;
            let id = u128::from_be_bytes(octets);
            write_secret(path, format!("{id:032x}\n").as_bytes())?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// Writes `bytes` to `path`, whole or not at all, synced.
///
/// # Errors
/// The file cannot be written.
fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_master_key_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let made = master_key(&path).unwrap();
        assert_ne!(*made, [0; 32]);
        assert_eq!(*master_key(&path).unwrap(), *made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_master_key_of_another_length_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        for octets in [0, 31, 33] {
            fs::write(&path, vec![1; octets]).unwrap();
            assert_eq!(master_key(&path).unwrap_err().kind(), ErrorKind::InvalidData);
            assert_eq!(fs::read(&path).unwrap().len(), octets);
        }
    }

    #[test]
    fn an_installation_keeps_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("installation.id");
        let id = installation(&path).unwrap();
        assert_eq!(installation(&path).unwrap(), id);
        assert_ne!(installation(&folder.path().join("another.id")).unwrap(), id);
        for noise in ["", "12", "xyz", "+0000000000000000000000000000001x"] {
            fs::write(&path, noise).unwrap();
            assert!(installation(&path).is_err(), "{noise:?}");
        }
    }
}
