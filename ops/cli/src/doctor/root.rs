//! Where facts are read: the running host, or a tree of files recorded on another one.
//!
//! Invariants worth naming: a read is bounded and opens regular files only, so that a pipe or an endless file cannot
//! hold us up; nothing outside of a recorded tree is read, wherever its links point; what is not there, not readable or
//! too large is simply not known. Text is cleaned of control characters before anybody prints it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use postrail_schema::limits::{DOCTOR_ENTRIES_MAX, DOCTOR_FILE_BYTES_MAX};

/// The host under examination.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    live: bool,
    /// Where everything that is read is written to as well.
    tape: Option<PathBuf>,
}

impl Root {
    /// The running host.
    pub(crate) fn live() -> Self {
        Self { path: PathBuf::from("/"), live: true, tape: None }
    }

    /// The tree recorded at `path`.
    ///
    /// # Errors
    /// It is no folder.
    pub(crate) fn recorded(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        if !path.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path, live: false, tape: None })
    }

    /// The same, and what is read is kept below `folder`, in the form that [`Self::recorded`] reads.
    pub(crate) fn taped(self, folder: PathBuf) -> Self {
        Self { tape: Some(folder), ..self }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// The text of a file, named without its first slash.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let full = self.resolve(path)?;
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(full).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(DOCTOR_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > DOCTOR_FILE_BYTES_MAX {
            return None;
        }
        let text = clean(&String::from_utf8_lossy(&bytes));
        self.keep(path, &text);
        Some(text)
    }

    /// The first line of a file, trimmed; `None` also where it is empty.
    pub(crate) fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.chars().take(LINE_CHARS_MAX).collect())
    }

    /// The first line of a file as a number or the like.
    pub(crate) fn value<T: FromStr>(&self, path: &str) -> Option<T> {
        self.line(path)?.parse().ok()
    }

    /// The names in a folder, numbers in their order.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Some(entries) = self.resolve(path).and_then(|full| fs::read_dir(full).ok()) else { return Vec::new() };
        let names = entries.flatten().take(DOCTOR_ENTRIES_MAX).filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| !name.chars().any(char::is_control)).collect();
        names.sort_by_key(|name| (trailing_number(name).map_or(0, |number| number.saturating_add(1)), name.clone()));
        names
    }

    /// Keeps `text` as the content of `path`, where this is taped.
    pub(crate) fn keep(&self, path: &str, text: &str) {
        let Some(tape) = &self.tape else { return };
        let to = tape.join(path);
        let written = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&to, text));
        if let Err(error) = written {
            tracing::debug!(path, %error, "not recorded");
        }
    }

    /// The place of `path`, if it is in this tree.
    fn resolve(&self, path: &str) -> Option<PathBuf> {
        let full = self.path.join(path);
        if self.live {
            return Some(full);
        }
        full.canonicalize().ok().filter(|found| found.starts_with(&self.path))
    }
}

/// The number that a name ends with: 12 of `rx-12`.
pub(super) fn trailing_number(name: &str) -> Option<u64> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().ok()
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A value, characters: more is no value of any file that is read here.
const LINE_CHARS_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::Scratch;

    #[test]
    fn a_hostile_tree_gives_nothing_and_holds_nobody_up() {
        let scratch = Scratch::new("doctor-root").expect("a temporary folder");
        let at = |name: &str| scratch.path().join(name);
        fs::write(at("junk"), [0, 255, 27, b'[', b'2', b'J', b'\n']).expect("written");
        fs::write(at("empty"), "").expect("written");
        File::create(at("huge")).and_then(|file| file.set_len(DOCTOR_FILE_BYTES_MAX + 1)).expect("sparse");
        for (name, to) in [("out", "/etc/passwd"), ("loop", "loop"), ("up", "../../../../etc/passwd"), ("gone", "x")] {
            std::os::unix::fs::symlink(to, at(name)).expect("linked");
        }
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status();
        assert!(made.is_ok_and(|status| status.success()));
        let root = Root::recorded(scratch.path()).expect("a folder");
        for name in ["out", "loop", "up", "gone", "huge", "pipe", "empty", "absent", ".", "../../etc/passwd"] {
            assert_eq!(root.line(name), None, "{name}");
        }
        let junk = root.line("junk").expect("a line");
        assert!(!junk.chars().any(char::is_control), "{junk:?}");
        assert_eq!(root.names("absent"), [""; 0]);
        assert!(Root::recorded(&at("junk")).is_err());
    }

    #[test]
    fn what_is_read_can_be_taped_and_read_again() {
        let (from, to) = (Scratch::new("doctor-from").expect("a folder"), Scratch::new("doctor-to").expect("a folder"));
        fs::create_dir_all(from.path().join("proc/sys")).expect("made");
        fs::write(from.path().join("proc/sys/x"), "7\n").expect("written");
        let root = Root::recorded(from.path()).expect("a folder").taped(to.path().to_owned());
        assert_eq!(root.value("proc/sys/x"), Some(7));
        assert_eq!(Root::recorded(to.path()).expect("a folder").value("proc/sys/x"), Some(7));
    }

    #[test]
    fn names_with_numbers_come_in_the_order_of_the_numbers() {
        let scratch = Scratch::new("doctor-names").expect("a temporary folder");
        for name in ["rx-18446744073709551615", "rx-10", "rx-9", "rx-0"] {
            fs::write(scratch.path().join(name), "").expect("written");
        }
        assert_eq!(
            Root::recorded(scratch.path()).expect("a folder").names("."),
            ["rx-0", "rx-9", "rx-10", "rx-18446744073709551615"]
        );
    }
}
