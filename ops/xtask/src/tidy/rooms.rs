//! Which folder may name which.
//!
//! ```text
//! core: base <- mail <- smtp, http, dns, lease <- rules <- the six stages <- shard
//! ```
//!
//! Equal rooms do not name each other: what two stages share lies below them, and `shard` moves ids between them.

use super::{Finding, SourceFile};

/// The folders at the top, as the architecture lists them.
const TOP_FOLDERS: &[&str] = &[
    ".cargo",
    ".ci",
    ".config",
    ".github",
    "bench",
    "control-plane",
    "data-plane",
    "docs",
    "ops",
    "shared-schema",
    "tests",
];

/// The core's rooms from the lowest up; those of one line are equal.
const CORE_ROOMS: &[&[&str]] = &[
    &["base"],
    &["mail"],
    &["smtp", "http", "dns", "lease"],
    &["rules"],
    &["intake", "spool", "schedule", "sign", "egress", "events"],
    &["shard"],
];

const CORE: &str = "data-plane/core/src/";
/// How the runtime's crate is named in code; in parts, so that this file keeps its own rule.
const RUNTIME: &str = concat!("glommio", "::");
/// The one file that names the runtime, with its folder; and the bench's measurement of what that runtime can do at
/// best, which must not change with the platform that it is the yardstick for.
const RUNTIME_FILES: &[&str] =
    &["data-plane/src/platform/glommio.rs", "data-plane/src/platform/glommio/", "bench/src/limit/"];

pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line, message: String| {
        findings.push(Finding { path: file.path.clone(), line, message, warns: false });
    };
    if let Some((folder, _)) = file.path.split_once('/')
        && !TOP_FOLDERS.contains(&folder)
    {
        found(0, format!("{folder}/ is no room of the house: put it into one of {}", TOP_FOLDERS.join(", ")));
    }
    if !file.path.ends_with(".rs") {
        return findings;
    }
    let room = file.path.strip_prefix(CORE).and_then(|path| path.split(['/', '.']).next());
    for (number, line) in (1..).zip(file.content.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        if names_runtime(code) && !RUNTIME_FILES.iter().any(|allowed| file.path.starts_with(allowed)) {
            found(
                number,
                "only platform/glommio names that runtime: ask for what you need by the Platform trait".into(),
            );
        }
        if let Some(room) = room {
            for other in crate_rooms(code) {
                if let Some(message) = upward(room, other) {
                    found(number, message);
                }
            }
        }
    }
    findings
}

/// Whether code uses the crate of the runtime, rather than our module of that name.
fn names_runtime(code: &str) -> bool {
    code.match_indices(RUNTIME).any(|(at, _)| {
        let before = code[..at].trim_end();
        !before.ends_with("platform::") && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            || before.ends_with("use")
    })
}

/// The rooms that a line names as `crate::room`.
fn crate_rooms(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("crate::").filter_map(|(at, found)| {
        let rest = &code[at + found.len()..];
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
    })
}

fn rank(room: &str) -> Option<usize> {
    CORE_ROOMS.iter().position(|rooms| rooms.contains(&room))
}

/// What is wrong with `room` naming `other`, if anything.
fn upward(room: &str, other: &str) -> Option<String> {
    let (own, others) = (rank(room)?, rank(other)?);
    if room == other || others < own {
        return None;
    }
    Some(if others == own {
        format!("{room} names its equal {other}: put what both need into a room below, or let shard join them")
    } else {
        format!("{room} names {other} above it: turn it round, or move what it needs down")
    })
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn count(path: &str, line: &str) -> usize {
        check(&file(path, &format!("//! Head.\n{line}\n"))).len()
    }

    #[test]
    fn the_core_names_only_what_lies_below() {
        for (path, line, findings) in [
            ("data-plane/core/src/egress/session.rs", "use crate::smtp::client::Session;", 0),
            ("data-plane/core/src/egress/session.rs", "use crate::egress::plan::Plan;", 0),
            ("data-plane/core/src/egress/session.rs", "use crate::spool::Frame;", 1),
            ("data-plane/core/src/mail/header.rs", "    let x = crate::intake::limit();", 1),
            ("data-plane/core/src/smtp/mod.rs", "use crate::dns::Name;", 1),
            ("data-plane/core/src/shard/mod.rs", "use crate::{spool::Frame, egress::Plan};", 0),
            ("data-plane/core/src/mail/mod.rs", "//! as [`crate::egress`] sends it", 0),
            ("data-plane/src/egress.rs", "use crate::spool::Pump;", 0),
        ] {
            assert_eq!(count(path, line), findings, "{path}: {line}");
        }
    }

    #[test]
    fn one_file_names_the_runtime() {
        for (path, line, findings) in [
            ("data-plane/src/platform/glommio.rs", concat!("use glommio", "::net::TcpStream;"), 0),
            ("data-plane/src/platform/glommio/start.rs", concat!("let x = glommio", "::executor();"), 0),
            ("data-plane/src/node.rs", concat!("use glommio", "::LocalExecutor;"), 1),
            ("bench/src/limit/disk.rs", concat!("use glommio", "::io::DmaFile;"), 0),
            ("bench/src/run/mod.rs", concat!("use glommio", "::io::DmaFile;"), 1),
            ("data-plane/src/node.rs", "use crate::platform::glommio::Glommio;", 0),
            ("data-plane/src/platform/mod.rs", "pub mod glommio;", 0),
        ] {
            assert_eq!(count(path, line), findings, "{path}: {line}");
        }
    }

    #[test]
    fn a_new_top_folder_is_questioned() {
        assert_eq!(check(&file("scripts/x.txt", "x\n")).len(), 1);
        assert_eq!(check(&file("README.md", "# x\n")).len(), 0);
    }
}
