//! What a server says it is: `postrail 0.1.0 (1f2e3d4c5b6a)`, with the commit that it was built from.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Least and most hexadecimal digits of a commit.
const COMMIT_DIGITS: std::ops::RangeInclusive<usize> = 7..=40;
/// Behind a commit whose files were changed before the build.
const DIRTY: &str = "-dirty";

/// A server's version; empty where it does not tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Version(String);

impl Version {
    /// What `binary --version` prints.
    pub(crate) fn of(binary: &Path) -> Self {
        let output = Command::new(binary).arg("--version").stdin(Stdio::null()).output();
        Self(output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    /// The commit in brackets at its end, where there is one.
    pub(crate) fn commit(&self) -> Option<&str> {
        let (_, commit) = self.0.strip_suffix(')')?.rsplit_once('(')?;
        let digits = commit.strip_suffix(DIRTY).unwrap_or(commit);
        let is_commit = COMMIT_DIGITS.contains(&digits.len()) && digits.bytes().all(|octet| octet.is_ascii_hexdigit());
        is_commit.then_some(commit)
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_in_brackets_at_the_end() {
        for (text, commit) in [
            ("postrail 0.1.0 (1f2e3d4c5b6a)", Some("1f2e3d4c5b6a")),
            ("postrail 0.1.0 (1f2e3d4c5b6a-dirty)", Some("1f2e3d4c5b6a-dirty")),
            ("postrail 0.1.0 (debug build)", None),
            ("postrail 0.1.0", None),
            ("Postfix 3.7.11 (Debian)", None),
            ("", None),
        ] {
            assert_eq!(Version::from(text.to_owned()).commit(), commit, "{text}");
        }
    }
}
