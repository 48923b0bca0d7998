//! The house rules that no compiler checks, over every file that git knows or would add.
//!
//! - [`text`]: what holds for a line or a file by itself (head, length, stubs, white space, titles, shell options),
//! - [`names`]: words that say nothing in the name of a thing,
//! - [`rooms`]: which folder may name which (imports downward only, one file names the runtime, known top folders).
//!
//! Each message says what to write instead. Rules are about text, not syntax: they are cheap, and wrong only in
//! comments and strings that nobody needs to write. Deliberately absent: what rustfmt and clippy check.

mod names;
mod rooms;
mod text;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A file under the rules.
#[derive(Clone, Debug)]
struct SourceFile {
    /// From the top of the repository, with `/`.
    path: String,
    content: String,
}

/// A rule that is broken at a place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    path: String,
    /// From 1; 0 for the whole file.
    line: usize,
    message: String,
    /// Whether it only warns.
    warns: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warns { "warning: " } else { "" };
        match self.line {
            0 => write!(f, "{}: {kind}{}", self.path, self.message),
            line => write!(f, "{}:{line}: {kind}{}", self.path, self.message),
        }
    }
}

/// Checks the repository at `top`.
///
/// # Errors
/// A broken rule, or a file that cannot be read.
pub(crate) fn run(top: &Path) -> Result<()> {
    let files = files(top)?;
    let mut findings: Vec<Finding> = files.iter().flat_map(check).collect();
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.warns).count();
    if errors > 0 {
        bail!("{errors} house rules are broken in {} files", files.len());
    }
    println!("tidy: {} files keep the house rules", files.len());
    Ok(())
}

fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = text::check(file);
    findings.extend(names::check(file));
    findings.extend(rooms::check(file));
    findings
}

/// Files that are tracked, or new and not ignored; without generated, binary and lock files.
fn files(top: &Path) -> Result<Vec<SourceFile>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(top)
        .output()
        .context("cannot run git")?;
    if !listed.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&listed.stderr));
    }
    let paths = String::from_utf8(listed.stdout).context("a file name that is not UTF-8")?;
    let mut files = Vec::new();
    for path in paths.split('\0').filter(|path| !path.is_empty() && !is_exempt(path)) {
        match fs::read(top.join(path)) {
            // Deleted but not committed yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
            Ok(bytes) => {
                if let Ok(content) = String::from_utf8(bytes) {
                    files.push(SourceFile { path: path.to_owned(), content });
                }
            }
        }
    }
    Ok(files)
}

fn is_exempt(path: &str) -> bool {
    path.contains("/generated/") || path.ends_with(".lock") || path.ends_with("package-lock.json")
}

#[cfg(test)]
fn file(path: &str, content: &str) -> SourceFile {
    SourceFile { path: path.into(), content: content.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_has_no_findings() {
        let content = "//! What it is.\n\nuse crate::mail::Address;\n\n/// A reply.\npub struct Reply;\n";
        assert_eq!(check(&file("data-plane/core/src/smtp/reply.rs", content)), []);
    }

    #[test]
    fn a_finding_names_its_place() {
        let finding = Finding { path: "a.rs".into(), line: 3, message: "m".into(), warns: true };
        assert_eq!(finding.to_string(), "a.rs:3: warning: m");
    }
}
