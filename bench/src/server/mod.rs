//! The server under test, as the bench sees it: where it listens, how to log in, what its processes are.
//!
//! [`Postrail`] is started by us in a fresh folder and set up through its control API, as an operator would. Any other
//! server is a [`Target`] that somebody else has set up.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::processes::Watched;
use crate::source::Login;

mod control;
mod ports;
mod postrail;
mod scratch;
mod version;

pub use control::Control;
pub(crate) use control::{client, until};
pub use ports::Reserved;
pub use postrail::{Postrail, PostrailOptions};
pub use scratch::Scratch;
pub use version::Version;

/// A server to measure.
#[derive(Clone, Default)]
pub struct Target {
    /// For the result: `postrail`, `external`, or a peer's name.
    pub name: String,
    pub version: Version,
    pub smtp: Option<SocketAddr>,
    /// TLS from the start.
    pub smtps: Option<SocketAddr>,
    pub rest: Option<SocketAddr>,
    /// By tenant, in the plan's order; `None`: without a login.
    pub logins: Vec<Option<Login>>,
    /// Its processes; empty: they cannot be seen from here, and are not measured.
    pub watched: Vec<Watched>,
    /// How to learn that all work of a mail is done, where the server tells.
    pub control: Option<Control>,
}

/// A server that somebody else has started: `smtp://user:secret@host:port`, or `http://…` for REST.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetUrl {
    is_rest: bool,
    login: Option<(String, String)>,
    address: SocketAddr,
}

impl FromStr for TargetUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write smtp://user:secret@host:port, smtp://host:port, or http://user:secret@host:port for REST";
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("{text:?} is no target: {form}"))?;
        let is_rest = match scheme {
            "smtp" => false,
            "http" => true,
            _ => return Err(format!("{scheme:?} is no scheme of a target: {form}")),
        };
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => {
                let (username, secret) =
                    login.split_once(':').ok_or_else(|| format!("the login has no secret: {form}"))?;
                (Some((username.to_owned(), secret.to_owned())), host)
            }
            None => (None, rest),
        };
        let host = host.trim_end_matches('/');
        let mut addresses = host.to_socket_addrs().map_err(|error| format!("{host:?}: {error}: {form}"))?;
        let address = addresses.next().ok_or_else(|| format!("{host:?} has no address"))?;
        Ok(Self { is_rest, login, address })
    }
}

impl Target {
    /// A server at `url`, all of whose tenants share the login; `pids` are its processes.
    pub fn external(url: &TargetUrl, tenants: usize, pids: &[u32]) -> Self {
        let login = url.login.clone().map(|(username, secret)| Login { username, secret });
        Self {
            name: "external".into(),
            smtp: (!url.is_rest).then_some(url.address),
            rest: url.is_rest.then_some(url.address),
            logins: vec![login; tenants],
            watched: pids.iter().map(|pid| Watched { name: name_of(*pid), pid: *pid, group: None }).collect(),
            ..Self::default()
        }
    }
}

/// What a process calls itself.
fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| pid.to_string(), |name| name.trim().to_owned())
}

/// The `postrail` binary: as told, else beside our own, else on PATH.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn find_postrail(told: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(told) = told {
        if told.is_file() {
            return Ok(told);
        }
        bail!("there is no server at {}", told.display());
    }
    let own = std::env::current_exe().context("cannot tell where this binary is")?;
    let beside = own.with_file_name("postrail");
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("postrail")).find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "there is no postrail beside {} and none on PATH: build it by `cargo build --release -p postrail`, or name one by --server",
            own.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_url_has_a_scheme_an_address_and_perhaps_a_login() {
        let url: TargetUrl = "smtp://app:pr_x:y@127.0.0.1:2525".parse().expect("a target");
        assert_eq!(url.login, Some(("app".into(), "pr_x:y".into())));
        let target = Target::external(&url, 2, &[]);
        assert_eq!((target.smtp, target.rest, target.logins.len()), (Some(url.address), None, 2));
        let url: TargetUrl = "http://127.0.0.1:8080/".parse().expect("a target");
        assert!(url.is_rest && url.login.is_none());
        for (text, told) in
            [("127.0.0.1:25", "is no target"), ("ftp://a:1", "no scheme"), ("smtp://u@127.0.0.1:1", "no secret")]
        {
            let error = text.parse::<TargetUrl>().expect_err(text);
            assert!(error.contains(told), "{error}");
        }
    }
}
