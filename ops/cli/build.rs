//! Tells the program of which commit it was built, as `POSTRAIL_COMMIT`: twelve digits, `-dirty` behind them where a
//! file that is built into it differs.
//!
//! A packager without a repository sets the variable. A debug build says that it is one and asks nobody, so that it is
//! not made again for every commit; a release build is looked at again after a commit or a change of a source.

use std::path::Path;
use std::process::{Command, Stdio};

/// The root of the workspace.
const TOP: &str = "../..";
/// What is built into the program.
const SOURCES: [&str; 8] = [
    "Cargo.lock",
    "Cargo.toml",
    "bench/src",
    "control-plane/src",
    "data-plane/core/src",
    "data-plane/src",
    "ops/cli",
    "shared-schema",
];

fn main() {
    println!("cargo::rerun-if-env-changed=POSTRAIL_COMMIT");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let told = std::env::var("POSTRAIL_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = match told {
        Some(told) => told,
        None if is_release => commit().unwrap_or_else(|| "unknown commit".to_owned()),
        None => {
            println!("cargo::rerun-if-changed=build.rs");
            "debug build".to_owned()
        }
    };
    println!("cargo::rustc-env=POSTRAIL_COMMIT={commit}");
}

/// The commit of the repository around us, if there is one.
fn commit() -> Option<String> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={TOP}/{source}");
    }
    // The log of HEAD changes with every commit; a file that is not there would be taken for changed each time.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--path-format=absolute", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let status = git(&[&["status", "--porcelain", "--untracked-files=no", "--"], &SOURCES[..]].concat())?;
    Some(if status.is_empty() { head } else { format!("{head}-dirty") })
}

/// What git says, run at the root of the workspace.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.args(["--no-optional-locks", "-C", TOP]).args(arguments);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
