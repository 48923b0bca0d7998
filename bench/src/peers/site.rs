//! What every peer is told: where to listen, where to deliver, where its files go, and how to sign.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The name that peers give themselves.
pub(super) const HOSTNAME: &str = "peer.bench.test";
/// The DKIM selector.
pub(super) const SELECTOR: &str = "s1";
/// Characters of a line of PEM (RFC 7468 section 2).
const PEM_LINE: usize = 64;

/// The place of one peer in one round.
pub(super) struct Site {
    /// A fresh folder on the disk of all the others, which every account may pass through.
    pub(super) folder: PathBuf,
    /// Where `ops/bench-peers` has put the servers.
    pub(super) programs: PathBuf,
    pub(super) listen: SocketAddr,
    /// The only receiver, to which everything goes.
    pub(super) sink: SocketAddr,
    pub(super) signing: Option<Signing>,
}

/// How mail is signed, by RSA-2048 and SHA-256.
pub(super) struct Signing {
    /// The domains of the senders.
    pub(super) domains: Vec<String>,
    /// One key for all of them, as PEM.
    pub(super) key: PathBuf,
}

impl Signing {
    /// Makes a key in `folder`.
    pub(super) fn new(domains: Vec<String>, folder: &Path) -> Result<Self> {
        let made = KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key could be made"))?;
        let der: Pkcs8V1Der<'_> = made.as_der().map_err(|_| anyhow!("the RSA key has no PKCS#8 form"))?;
        let key = folder.join("dkim.pem");
        fs::write(&key, pem(der.as_ref())).context("cannot write the DKIM key")?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).context("cannot protect the DKIM key")?;
        Ok(Self { domains, key })
    }

    /// Gives the key away to the account that signs.
    pub(super) fn give_key_to(&self, owner: u32) -> Result<()> {
        chown(&self.key, Some(owner), Some(owner)).context("cannot give the DKIM key away")
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        // Writing to a String does not fail.
        let _ = writeln!(pem, "{line}");
        rest = after;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

impl Site {
    /// Where a peer's own files are.
    ///
    /// # Errors
    /// [`NotInstalled`], where they are not.
    pub(super) fn unpacked(&self, peer: &str) -> Result<PathBuf> {
        let path = self.programs.join(peer);
        path.canonicalize().map_err(|_| NotInstalled { path }.into())
    }

    /// Writes `text` into a file of the folder, whose folders are made.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Makes a folder that belongs to these numbers.
    pub(super) fn make_folder(&self, name: &str, mode: u32, owner: u32, group: u32) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let made = fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .and_then(|()| chown(&path, Some(owner), Some(group)));
        made.with_context(|| format!("cannot make {} as it must be", path.display()))?;
        Ok(path)
    }

    /// The shell lines that, in a mount namespace, add accounts (name and number) to the system's.
    pub(super) fn accounts(&self, accounts: &[(&str, u32)]) -> Result<String> {
        let mut script = String::new();
        for (file, home) in [("passwd", "::/nonexistent:/usr/sbin/nologin"), ("group", "")] {
            let mut text = fs::read_to_string(Path::new("/etc").join(file)).context("cannot read the accounts")?;
            for (name, id) in accounts {
                let line =
                    if file == "passwd" { format!("{name}:x:{id}:{id}{home}") } else { format!("{name}:x:{id}:") };
                let _ = writeln!(text, "{line}");
            }
            let own = self.write(&format!("accounts/{file}"), &text)?;
            let _ = writeln!(script, "mount --bind '{}' /etc/{file}", own.display());
        }
        Ok(script)
    }
}

/// A peer that is not there.
#[derive(Debug)]
pub(super) struct NotInstalled {
    path: PathBuf,
}

impl std::fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not installed (run ops/bench-peers): there is no {}", self.path.display())
    }
}

impl std::error::Error for NotInstalled {}

/// The first line that `command` prints and that contains `what`, from there on: a version.
pub(super) fn version_line(command: &mut Command, what: &str) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    match text.lines().find_map(|line| line.find(what).map(|at| line[at..].trim().to_owned())) {
        Some(line) => Ok(line),
        None => bail!("{} does not tell its version", command.get_program().display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Scratch;

    #[test]
    fn a_key_is_pem_that_only_its_owner_reads() {
        let folder = Scratch::new(None, false).expect("a temporary folder");
        let signing = Signing::new(vec!["a.test".into()], folder.path()).expect("a key");
        let text = fs::read_to_string(&signing.key).expect("readable");
        assert!(
            text.starts_with("-----BEGIN PRIVATE KEY-----\nMII") && text.lines().all(|line| line.len() <= PEM_LINE)
        );
        assert_eq!(fs::metadata(&signing.key).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_version_is_found_in_what_a_program_prints() {
        let line = version_line(Command::new("sh").args(["-c", "echo one; echo two 2.0 >&2"]), "two").expect("a line");
        assert_eq!(line, "two 2.0");
        assert!(version_line(&mut Command::new("true"), "x").is_err());
    }
}
