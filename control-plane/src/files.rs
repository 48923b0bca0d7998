//! The small files of the data folder, readable by their owner only: what is secret, and who this is.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrail_schema::sealed::{KEY_BYTES, MasterKey, MasterKeyId, MasterKeys};
use zeroize::Zeroizing;

/// Why this host has no master key that can be used.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("cannot use {path}")]
    File {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a master key: it must hold exactly {KEY_BYTES} octets")]
    Length { path: String },
    #[error(
        "{0} is not a master key: it must hold {KEY_BYTES} octets in base64, as `base64 -w0 master.key` prints them"
    )]
    Variable(&'static str),
    #[error("there is a next master key already ({path}); `postrail key rotate` goes over to it")]
    HasNext { path: String },
}

/// The master keys of this host: of the environment where it names one, else of the data folder; `None`: there are none.
///
/// # Errors
/// A file cannot be read, or what is there is no master key.
pub fn master_keys(
    data: &Path,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<MasterKeys>, MasterKeyError> {
    let told = |name: &'static str| match environment(name) {
        None => Ok(None),
        Some(text) => {
            let octets = STANDARD.decode(text.trim()).ok().map(Zeroizing::new);
            let key = octets.and_then(|octets| MasterKey::from_slice(&octets));
            key.map(Some).ok_or(MasterKeyError::Variable(name))
        }
    };
    if let Some(current) = told(VARIABLE)? {
        return Ok(Some(MasterKeys { current, next: told(VARIABLE_NEXT)?, former: told(VARIABLE_FORMER)? }));
    }
    let file = |name: &str| read_master_key(&data.join(name));
    let Some(current) = file(MASTER_KEY)? else { return Ok(None) };
    Ok(Some(MasterKeys { current, next: file(MASTER_KEY_NEXT)?, former: file(MASTER_KEY_FORMER)? }))
}

/// Makes a master key, and keeps it in the data folder.
///
/// # Errors
/// It cannot be written.
pub(crate) fn make_master_key(data: &Path) -> Result<MasterKey, MasterKeyError> {
    write_master_key(&data.join(MASTER_KEY))
}

/// Makes the master key that is to be the next; where it is.
///
/// # Errors
/// There is one already, or it cannot be written.
pub fn make_next_master_key(data: &Path) -> Result<(PathBuf, MasterKeyId), MasterKeyError> {
    let path = data.join(MASTER_KEY_NEXT);
    if path.exists() {
        return Err(MasterKeyError::HasNext { path: path.display().to_string() });
    }
    Ok((path.clone(), write_master_key(&path)?.id()))
}

/// The next master key has become the current one of the cluster: its file takes the place, and the current one's is the
/// former one's from now on. Nothing happens where the keys are not in files.
///
/// # Errors
/// A file cannot be renamed; what was begun goes on with the next try.
pub fn adopt_next_master_key(data: &Path) -> Result<(), MasterKeyError> {
    let at = |name: &str| data.join(name);
    let failed = |source| MasterKeyError::File { path: at(MASTER_KEY).display().to_string(), source };
    if !at(MASTER_KEY_NEXT).exists() {
        return Ok(());
    }
    // A link first, so that there is a master key at every moment.
    match fs::remove_file(at(MASTER_KEY_FORMER)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    match fs::hard_link(at(MASTER_KEY), at(MASTER_KEY_FORMER)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::rename(at(MASTER_KEY_NEXT), at(MASTER_KEY)).map_err(failed)?;
    File::open(data).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn read_master_key(path: &Path) -> Result<Option<MasterKey>, MasterKeyError> {
    let failed = |source| MasterKeyError::File { path: path.display().to_string(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut octets = Zeroizing::new(Vec::new());
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut octets).map_err(failed)?;
    let key = MasterKey::from_slice(&octets);
    key.map(Some).ok_or_else(|| MasterKeyError::Length { path: path.display().to_string() })
}

fn write_master_key(path: &Path) -> Result<MasterKey, MasterKeyError> {
    let failed = |source| MasterKeyError::File { path: path.display().to_string(), source };
    let mut octets = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(octets.as_mut_slice()).map_err(|_| failed(io::Error::other("no random octets")))?;
    write_secret(path, octets.as_slice()).map_err(failed)?;
    Ok(MasterKey::new(*octets))
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

/// What tells this installation from others, as kept at `path`.
///
/// # Errors
/// The file cannot be read, or does not hold 32 hexadecimal digits.
pub(crate) fn installation(path: &Path) -> io::Result<Option<u128>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let id = u128::from_str_radix(text.trim(), 16).ok().filter(|_| text.trim().len() == 32);
            let wrong = || io::Error::new(ErrorKind::InvalidData, "an installation's id has 32 hexadecimal digits");
            id.map(Some).ok_or_else(wrong)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps what tells this installation from others, where it is not kept yet.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn keep_installation(path: &Path, id: u128) -> io::Result<()> {
    if installation(path).is_ok_and(|kept| kept == Some(id)) {
        return Ok(());
    }
    write_secret(path, format!("{id:032x}\n").as_bytes())
}

/// A new one.
///
/// # Errors
/// There are no random octets.
pub(crate) fn draw_installation() -> io::Result<u128> {
    let mut octets = [0; 16];
    rand::fill(&mut octets).map_err(|_| io::Error::other("no random octets"))?;
    Ok(u128::from_be_bytes(octets))
}

/// Which file is at `path`: what no copy of it has, on this host or another, and its own next process has.
///
/// # Errors
/// The file, or which boot of the host this is, cannot be read.
pub(crate) fn which(path: &Path) -> io::Result<String> {
    let (boot, file) = (fs::read_to_string(BOOT)?, fs::metadata(path)?);
    Ok(format!("{}:{}:{}", boot.trim(), file.dev(), file.ino()))
}

/// Makes the file at `path`, where there is none, and its owner's alone: for a database, whose other files get the same
/// permissions.
///
/// # Errors
/// The file cannot be made, or is another's.
pub(crate) fn keep_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.metadata()?.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => file.set_permissions(Permissions::from_mode(0o600)),
    }
}

/// Removes a database that nobody has open, with what SQLite keeps beside it.
///
/// # Errors
/// A file cannot be removed.
pub(crate) fn remove_database(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(name) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
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

const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const MASTER_KEY: &str = "master.key";
const MASTER_KEY_NEXT: &str = "master.key.next";
const MASTER_KEY_FORMER: &str = "master.key.former";
/// The same in the environment, base64.
const VARIABLE: &str = "POSTRAIL_MASTER_KEY";
const VARIABLE_NEXT: &str = "POSTRAIL_MASTER_KEY_NEXT";
const VARIABLE_FORMER: &str = "POSTRAIL_MASTER_KEY_FORMER";

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_database_is_its_owners_alone_also_one_that_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        keep_private(&path).unwrap();
        assert_eq!(mode(), 0o600);
        fs::write(&path, "kept").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        keep_private(&path).unwrap();
        assert_eq!((mode(), fs::read_to_string(&path).unwrap()), (0o600, "kept".to_owned()));
    }

    #[test]
    fn a_database_is_removed_with_what_is_kept_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.db");
        for name in ["some.db", "some.db-wal", "some.db-shm", "other.db"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_database(&path).unwrap();
        remove_database(&path).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["other.db"]);
    }

    #[test]
    fn a_master_key_is_its_owners_alone_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(master_keys(folder.path(), nothing).unwrap().is_none());
        let made = make_master_key(folder.path()).unwrap();
        assert_eq!(master_keys(folder.path(), nothing).unwrap(), Some(MasterKeys::only(made)));
        let mode = fs::metadata(folder.path().join(MASTER_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_master_key_of_another_length_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MASTER_KEY);
        for octets in [0, 31, 33] {
            fs::write(&path, vec![1; octets]).unwrap();
            assert!(matches!(master_keys(folder.path(), nothing), Err(MasterKeyError::Length { .. })));
            assert_eq!(fs::read(&path).unwrap().len(), octets);
        }
    }

    #[test]
    fn a_master_key_of_the_environment_counts_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        make_master_key(folder.path()).unwrap();
        let named = |name: &str| (name == VARIABLE).then(|| STANDARD.encode([5; KEY_BYTES]));
        let keys = master_keys(folder.path(), named).unwrap();
        assert_eq!(keys, Some(MasterKeys::only(MasterKey::new([5; KEY_BYTES]))));
        for wrong in ["", "x", "AAAA"] {
            let refused = master_keys(folder.path(), |_| Some(wrong.to_owned())).unwrap_err().to_string();
            assert!(refused.contains(VARIABLE) && (wrong.is_empty() || !refused.contains(wrong)), "{refused}");
        }
    }

    #[test]
    fn the_next_master_key_takes_the_place_of_the_current_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = make_master_key(folder.path()).unwrap();
        adopt_next_master_key(folder.path()).unwrap();
        let (path, id) = make_next_master_key(folder.path()).unwrap();
        assert!(make_next_master_key(folder.path()).is_err() && path.exists());
        adopt_next_master_key(folder.path()).unwrap();
        let keys = master_keys(folder.path(), nothing).unwrap().unwrap();
        assert_eq!((keys.current.id(), keys.next, keys.former), (id, None, Some(first)));
    }

    #[test]
    fn an_installation_keeps_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("installation.id");
        assert_eq!(installation(&path).unwrap(), None);
        let ids = [draw_installation().unwrap(), draw_installation().unwrap()];
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            keep_installation(&path, id).unwrap();
            assert_eq!(installation(&path).unwrap(), Some(id));
        }
        for noise in ["", "12", "xyz", "+0000000000000000000000000000001x"] {
            fs::write(&path, noise).unwrap();
            assert!(installation(&path).is_err(), "{noise:?}");
        }
    }
}
