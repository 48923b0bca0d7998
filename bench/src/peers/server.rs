//! The servers that `peers` knows: how each starts, and what it promises with a 250.

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::kept::Kept;
use super::site::Site;
use super::{exim, haraka, opensmtpd, postfix};
use crate::processes::Watched;

/// A server to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Server {
    Postrail,
    Postfix,
    Exim,
    Opensmtpd,
    Haraka,
    /// What `--external` starts.
    #[value(skip)]
    External,
}

/// A peer that runs; its processes end when it is dropped.
pub(super) struct Running {
    pub(super) version: String,
    pub(super) processes: Vec<Kept>,
}

impl Running {
    pub(super) fn watched(&self) -> Vec<Watched> {
        self.processes.iter().map(Kept::watched).collect()
    }

    /// The end of what its processes have printed, to follow an error.
    pub(super) fn last_lines(&self) -> String {
        self.processes.iter().map(Kept::last_lines).collect()
    }
}

impl Server {
    /// All that can be started without being told how, in the order of a run.
    pub(super) const KNOWN: [Self; 5] = [Self::Postrail, Self::Postfix, Self::Exim, Self::Opensmtpd, Self::Haraka];

    /// The name in options and results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Postrail => "postrail",
            Self::Postfix => "postfix",
            Self::Exim => "exim",
            Self::Opensmtpd => "opensmtpd",
            Self::Haraka => "haraka",
            Self::External => "external",
        }
    }

    /// Whether a mail that it has acknowledged is on storage, and how; `None`: nobody has told.
    pub(super) fn durability(self) -> (Option<bool>, &'static str) {
        match self {
            Self::Postrail => (Some(true), "its log, with O_DIRECT and a flush for a group of mails"),
            Self::Postfix => (Some(true), "fsync of the queue file, one a mail"),
            Self::Exim => (Some(true), "fsync of the spool's header and data file; near four a mail with its delivery"),
            Self::Opensmtpd => (Some(false), "no fsync: message and envelope are in the page cache"),
            Self::Haraka => (Some(true), "fsync of the queue file, one a mail"),
            Self::External => (None, "as it was set up"),
        }
    }

    /// How it is set up, in a few words.
    pub(super) fn setup(self) -> &'static str {
        match self {
            Self::Postrail => "both planes, events in the ledger, AUTH, MX look-ups",
            Self::Postfix => {
                "as TUNING_README says: connection cache, no flow delay, 50 deliveries at once; OpenDKIM signs"
            }
            Self::Exim => "delivery at once by a process a mail, split spool, no message logs; signs itself",
            Self::Opensmtpd => {
                "50 sessions at once, no limit of mails a session and no pauses between them; filter-dkimsign signs"
            }
            Self::Haraka => "relay plugin alone, a worker a CPU, 100 deliveries at once; dkim plugin signs",
            Self::External => "as its command sets it up",
        }
    }

    /// Starts a peer (not Postrail, nor an external one).
    pub(super) fn start(self, site: &Site) -> Result<Running> {
        let started = match self {
            Self::Postfix => postfix::start(site),
            Self::Exim => exim::start(site),
            Self::Opensmtpd => opensmtpd::start(site),
            Self::Haraka => haraka::start(site),
            Self::Postrail | Self::External => Err(anyhow::anyhow!("it is not started this way")),
        };
        started.with_context(|| format!("{} cannot be started", self.name()))
    }
}

/// Starts `command` by a shell that knows where to listen and deliver.
pub(super) fn start_external(command: &str, site: &Site) -> Result<Running> {
    let mut environment = vec![
        ("BENCH_LISTEN_IP", site.listen.ip().to_string()),
        ("BENCH_LISTEN_PORT", site.listen.port().to_string()),
        ("BENCH_SINK_IP", site.sink.ip().to_string()),
        ("BENCH_SINK_PORT", site.sink.port().to_string()),
        ("BENCH_FOLDER", site.folder.display().to_string()),
    ];
    if let Some(signing) = &site.signing {
        environment.push(("BENCH_DKIM_DOMAINS", signing.domains.join(" ")));
        environment.push(("BENCH_DKIM_SELECTOR", super::site::SELECTOR.to_owned()));
        environment.push(("BENCH_DKIM_KEY", signing.key.display().to_string()));
    }
    let mut kept = Kept::start("external", command, &site.folder, &environment)?;
    kept.wait_listening(site.listen).context("the command of --external")?;
    Ok(Running { version: "external".into(), processes: vec![kept] })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::site::Signing;
    use super::*;

    /// A place that is only written about.
    pub(in super::super) fn site(signs: bool) -> Site {
        let domains = vec!["sender0.test".to_owned(), "sender1.test".to_owned()];
        Site {
            folder: "/site".into(),
            programs: "/peers".into(),
            listen: ([127, 0, 0, 1], 2525).into(),
            sink: ([127, 77, 1, 1], 2626).into(),
            signing: signs.then(|| Signing { domains, key: "/site/dkim.pem".into() }),
        }
    }

    #[test]
    fn a_server_is_known_by_the_name_of_its_results() {
        for server in Server::KNOWN {
            assert_eq!(Server::from_str(server.name(), false), Ok(server));
            assert!(server.durability().0.is_some() && !server.setup().is_empty());
        }
        assert!(Server::from_str("external", false).is_err());
    }

    #[test]
    fn one_that_is_not_installed_is_told_from_one_that_fails() {
        for server in [Server::Postfix, Server::Exim, Server::Opensmtpd, Server::Haraka] {
            let error = server.start(&site(false)).err().expect("there is no /peers");
            assert!(error.downcast_ref::<super::super::site::NotInstalled>().is_some(), "{error:#}");
        }
    }
}
