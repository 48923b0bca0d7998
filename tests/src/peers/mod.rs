//! Real receivers, each unpacked from its Debian package by `ops/install-peers`, started with a configuration and a spool
//! of its own below the story's place. They deliver every address into one maildir, which [`Maildir`] reads.
//!
//! Invariants worth naming: a peer listens only where it is told; it sees accounts and folders that it insists on through
//! a mount namespace of its own, so nothing of the host changes; it ends with its value.

pub mod exim;
pub mod opensmtpd;
pub mod postfix;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::run;
use crate::place::target;
use crate::wait;

/// The uid and gid `nobody` and `nogroup` of Debian.
const NOBODY: u32 = 65_534;

/// Where a peer delivers: one file a mail.
#[derive(Clone, Debug)]
pub struct Maildir {
    path: PathBuf,
}

impl Maildir {
    /// The maildir `path`, below a folder that `owner` may write.
    fn below(folder: &Path, owner: u32) -> Self {
        make_folder(folder, owner, owner);
        Self { path: folder.join("inbox") }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// All mails so far, oldest first, with LF line ends and the fields that the peer put before what it was sent.
    pub fn mails(&self) -> Vec<Vec<u8>> {
        let Ok(entries) = std::fs::read_dir(self.path.join("new")) else { return Vec::new() };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort_by_key(|file| file.metadata().and_then(|about| about.modified()).ok());
        files.iter().map(|file| std::fs::read(file).expect("a delivered mail is readable")).collect()
    }

    /// Waits for `count` mails.
    pub fn wait_for(&self, count: usize) -> Vec<Vec<u8>> {
        wait::until(&format!("{count} mails in {}", self.path.display()), || {
            let mails = self.mails();
            (mails.len() >= count).then_some(mails)
        })
    }
}

/// Where `ops/install-peers` has unpacked a peer.
fn unpacked(peer: &str) -> PathBuf {
    let path = target().join("peers").join(peer);
    assert!(path.is_dir(), "{} is missing: run ops/install-peers", path.display());
    path
}

/// A self-signed certificate and its key, readable by all.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=receiver.test"]);
    run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
    run(Command::new("chmod").arg("644").arg(&key));
    (certificate, key)
}

/// A folder that belongs to these numbers.
fn make_folder(path: &Path, owner: u32, group: u32) {
    std::fs::create_dir_all(path).expect("a folder can be made");
    chown(path, Some(owner), Some(group)).expect("root may give folders away");
}

/// The shell lines that, in a mount namespace, add `accounts` (name and number) to the system's.
fn accounts(folder: &Path, accounts: &[(&str, u32)]) -> String {
    let mut script = "set -e\n".to_owned();
    let line = |file: &str, name: &str, id: u32| match file {
        "passwd" => format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n"),
        _ => format!("{name}:x:{id}:\n"),
    };
    for file in ["passwd", "group"] {
        let mut text = std::fs::read_to_string(Path::new("/etc").join(file)).expect("accounts are readable");
        text.extend(accounts.iter().map(|(name, id)| line(file, name, *id)));
        let own = folder.join(file);
        std::fs::write(&own, text).expect("writable");
        let _ = writeln!(script, "mount --bind '{}' /etc/{file}", own.display());
    }
    script
}

/// A command that runs `script` by sh in a mount namespace of its own.
fn in_namespace(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command
}

fn wait_listening(name: &str, address: SocketAddr) {
    wait::until(&format!("{name} to listen at {address}"), || std::net::TcpStream::connect(address).ok().map(drop));
}
