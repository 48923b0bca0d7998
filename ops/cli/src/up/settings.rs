//! What `up` is told: by its options, else by the file of `--config`, else by defaults.
//!
//! The file is TOML, has the options by their names without the dashes before them, those of a fleet in `[fleet]`, and
//! `[[shard]]` tables:
//!
//! ```toml
//! smtp = ["0.0.0.0:2525"]
//! hostname = "mail.example.org"
//!
//! [fleet]
//! etcd = ["http://10.0.0.5:2379"]
//! role = "data-plane"
//!
//! [[shard]]
//! cpu = 2
//! nic = "eth0"
//! queue = 1
//! sources = ["192.0.2.1"]
//! ```
//!
//! Invariants worth naming: an unknown name is refused with its line, and so is a table that contradicts another. The
//! first `[[shard]]` is shard 0. What only the host can know (is there such a CPU or interface) is asked at the start.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use postrail_control_plane::PostgresAddress;
use postrail_data_plane::platform::glommio::ShardPin;
use postrail_schema::limits::{CONFIG_FILE_BYTES_MAX, SHARDS_MAX};
use serde::Deserialize;

use super::ledger::LedgerTold;
use crate::args::{LogForm, UpOptions};
use crate::doctor::cpus::Cpus;
use crate::doctor::layout::Layout;
use crate::doctor::nic;
use crate::doctor::root::Root;
use crate::fleet::settings::{Fleet, FleetOptions};

/// The file of `--config`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct ConfigFile {
    data: Option<PathBuf>,
    smtp: Option<Vec<SocketAddr>>,
    smtps: Option<Vec<SocketAddr>>,
    rest: Option<Vec<SocketAddr>>,
    api: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    shards: Option<u16>,
    no_pin: bool,
    hostname: Option<String>,
    domain: Option<String>,
    resolver: Option<Vec<SocketAddr>>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    receiver_ca: Option<PathBuf>,
    ledger: Option<String>,
    ledger_password_file: Option<PathBuf>,
    log: Option<LogForm>,
    log_level: Option<String>,
    drain_seconds: Option<u64>,
    fleet: FleetOptions,
    pub(crate) shard: Vec<ShardTable>,
}

/// One `[[shard]]`: what a shard is tied to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardTable {
    /// The CPU that it runs on; without it one that no other shard has.
    pub(crate) cpu: Option<usize>,
    /// The interface that mail from `sources` leaves by, and whose arriving connections it takes.
    pub(crate) nic: Option<String>,
    /// The receive queue of `nic` that interrupts `cpu`; `doctor` checks that it does.
    pub(crate) queue: Option<u16>,
    /// Addresses that it owns and sends from.
    pub(crate) sources: Vec<IpAddr>,
}

/// What `up` starts with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The data folder, where one was named.
    pub(crate) data: Option<PathBuf>,
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) smtps: Vec<SocketAddr>,
    pub(crate) rest: Vec<SocketAddr>,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    shards: Option<u16>,
    no_pin: bool,
    pub(crate) hostname: Option<String>,
    /// As told; else an example.
    pub(crate) domain: String,
    pub(crate) is_domain_told: bool,
    pub(crate) resolver: Vec<SocketAddr>,
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) receiver_ca: Option<PathBuf>,
    pub(crate) ledger: Option<PostgresAddress>,
    pub(crate) log: LogForm,
    pub(crate) log_level: String,
    pub(crate) drain: Duration,
    pub(crate) fleet: Option<Fleet>,
    shard: Vec<ShardTable>,
}

impl Settings {
    /// Joins the options with their file. `data` is the folder of the command line.
    ///
    /// # Errors
    /// The file cannot be read, or contradicts itself.
    pub(crate) fn gather(data: Option<&Path>, options: &UpOptions) -> Result<Self> {
        let file = options.config.as_deref().map_or_else(|| Ok(ConfigFile::default()), read)?;
        Self::join(data, options.clone(), file)
    }

    fn join(data: Option<&Path>, options: UpOptions, file: ConfigFile) -> Result<Self> {
        let told = |options: Vec<SocketAddr>, file, port: Option<u16>| match (options.is_empty(), file) {
            (false, _) => options,
            (true, Some(file)) => file,
            (true, None) => port.map(loopback).into_iter().collect(),
        };
        let (cert, key) = match options.tls_cert {
            Some(cert) => (Some(cert), options.tls_key),
            None => (file.tls_cert, file.tls_key),
        };
        if cert.is_some() != key.is_some() {
            bail!("tls-cert and tls-key belong together: name both or none");
        }
        let ledger = LedgerTold {
            option: options.ledger,
            file: file.ledger,
            password_file: options.ledger_password_file.or(file.ledger_password_file),
        };
        let domain = options.domain.or(file.domain);
        Ok(Self {
            data: data.map(Path::to_owned).or(file.data),
            smtp: told(options.smtp, file.smtp, Some(2525)),
            smtps: told(options.smtps, file.smtps, Some(2465)),
            rest: told(options.rest, file.rest, Some(8080)),
            api: options.api.or(file.api).unwrap_or_else(|| loopback(8081)),
            admin: options.admin.or(file.admin).unwrap_or_else(|| loopback(8082)),
            shards: shard_count(options.shards.or(file.shards), &file.shard)?,
            no_pin: options.no_pin || file.no_pin,
            hostname: options.hostname.or(file.hostname),
            is_domain_told: domain.is_some(),
            domain: domain.unwrap_or_else(|| "example.test".to_owned()),
            resolver: told(options.resolver, file.resolver, None),
            tls: cert.zip(key),
            receiver_ca: options.receiver_ca.or(file.receiver_ca),
            ledger: ledger.address(|name| std::env::var(name).ok())?,
            log: options.log.or(file.log).unwrap_or(LogForm::Text),
            log_level: options.log_level.or(file.log_level).unwrap_or_else(|| "info".to_owned()),
            drain: Duration::from_secs(options.drain_seconds.or(file.drain_seconds).unwrap_or(DRAIN_SECONDS)),
            fleet: options.fleet.or(file.fleet).fleet(|name| std::env::var(name).ok())?,
            shard: file.shard,
        })
    }

    /// What every shard is tied to, in their order; their number is that of the shards.
    pub(crate) fn pins(&self) -> Vec<ShardPin> {
        pins(&self.shard, self.shards, self.no_pin)
    }
}

/// What each shard is tied to: by its table, else by the layout derived from this host, which ties CPUs only.
pub(crate) fn pins(tables: &[ShardTable], shards: Option<u16>, no_pin: bool) -> Vec<ShardPin> {
    let root = Root::live();
    let cpus = Cpus::read(&root);
    let taken = |cpu: &usize| tables.iter().any(|table| table.cpu == Some(*cpu));
    let free: Vec<usize> = cpus.allowed.iter().copied().filter(|cpu| !taken(cpu)).collect();
    let count = shards.map_or(cpus.allowed.len(), usize::from);
    let rest = if free.is_empty() { cpus } else { Cpus { allowed: free, ..cpus } };
    let derived = Layout::derive(&rest, &nic::read(&root), &[], u16::try_from(count).ok());
    let mut derived = derived.shards.into_iter().map(|place| place.cpu);
    let pin = |at: usize| {
        let table = tables.get(at).cloned().unwrap_or_default();
        let cpu = if no_pin { None } else { table.cpu.or_else(|| derived.next()) };
        ShardPin { cpu, nic: table.nic, sources: table.sources }
    };
    (0..count).map(pin).collect()
}

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read, is no TOML, or says what cannot be; with the file's name.
pub(crate) fn read(path: &Path) -> Result<ConfigFile> {
    let unreadable = || format!("cannot read the configuration file {}", path.display());
    let file = std::fs::File::open(path).with_context(unreadable)?;
    let mut text = String::new();
    file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text).with_context(unreadable)?;
    if text.len() as u64 > CONFIG_FILE_BYTES_MAX {
        bail!("the configuration file {} has more than {CONFIG_FILE_BYTES_MAX} octets", path.display());
    }
    parse(&text).with_context(|| format!("the configuration file {} is not right", path.display()))
}

/// The content of a configuration file.
///
/// # Errors
/// It is no TOML, has a name that is not known, or contradicts itself.
pub(crate) fn parse(text: &str) -> Result<ConfigFile> {
    let mut file: ConfigFile = toml::from_str(text)?;
    if file.shard.len() > SHARDS_MAX {
        bail!("there are {} [[shard]] tables: at most {SHARDS_MAX} shards run on a host", file.shard.len());
    }
    if let Some(shards) = file.shards
        && !(1..=SHARDS_MAX).contains(&usize::from(shards))
    {
        bail!("shards = {shards}: between 1 and {SHARDS_MAX} shards run on a host");
    }
    for (number, table) in file.shard.iter().enumerate() {
        if table.queue.is_some() && table.nic.is_none() {
            bail!("[[shard]] {number} has a queue, but no nic that the queue is of");
        }
        if let Some(any) = table.sources.iter().find(|source| source.is_unspecified()) {
            bail!("[[shard]] {number}: the source {any} is the host's choice, which belongs to every shard");
        }
    }
    for table in &mut file.shard {
        table.sources.dedup();
    }
    Ok(file)
}

/// The number of shards: as told, at least one for each table; `None`: one a CPU.
fn shard_count(told: Option<u16>, tables: &[ShardTable]) -> Result<Option<u16>> {
    let tables = u16::try_from(tables.len()).context("too many [[shard]] tables")?;
    match told {
        Some(told) if told < tables => {
            bail!("{told} shards are to run, but the configuration file has {tables} [[shard]] tables")
        }
        Some(told) => Ok(Some(told)),
        None => Ok((tables > 0).then_some(tables)),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// How long a drain may take if nobody says.
const DRAIN_SECONDS: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn join(options: UpOptions, text: &str) -> Result<Settings> {
        Settings::join(None, options, parse(text)?)
    }

    #[test]
    fn an_option_wins_over_the_file_and_the_file_over_the_default() {
        let text = "smtp = [\"127.0.0.1:1\"]\nsmtps = []\nlog = \"json\"\ndrain-seconds = 5\ndomain = \"a.test\"\ndata = \"/x\"\n";
        let options = UpOptions { smtp: vec![loopback(2)], domain: Some("b.test".to_owned()), ..UpOptions::default() };
        let settings = join(options, text).expect("a good file");
        assert_eq!((settings.smtp, settings.smtps, settings.rest), (vec![loopback(2)], vec![], vec![loopback(8080)]));
        assert_eq!((settings.log, settings.drain.as_secs(), settings.domain.as_str()), (LogForm::Json, 5, "b.test"));
        assert_eq!((settings.data, settings.log_level.as_str()), (Some("/x".into()), "info"));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_told() {
        for (text, words) in [
            ("smpt = []", "unknown field `smpt`"),
            ("[[shard]]\ncpus = 1", "unknown field `cpus`"),
            ("smtp = [\"localhost\"]", "socket address"),
            ("[[shard]]\nqueue = 1", "no nic"),
            ("[[shard]]\nsources = [\"0.0.0.0\"]", "every shard"),
            ("[[shard]]\ncpu = -1", "-1"),
            ("shards = 0", "between 1 and"),
            ("tls-cert = \"x\"", "belong together"),
            ("shards = 1\n[[shard]]\n[[shard]]", "2 [[shard]] tables"),
            ("= broken", "line 1"),
        ] {
            let error = join(UpOptions::default(), text).expect_err(text);
            assert!(format!("{error:#}").contains(words), "{text}: {error:#}");
        }
    }

    #[test]
    fn tables_tie_their_shards_and_the_others_get_what_is_left() {
        let cpus = Cpus::read(&Root::live()).allowed;
        let table = ShardTable { cpu: Some(cpus[0]), nic: Some("eth0".to_owned()), ..ShardTable::default() };
        let tied = pins(std::slice::from_ref(&table), Some(2), false);
        assert_eq!((tied.len(), tied[0].cpu, tied[0].nic.as_deref()), (2, Some(cpus[0]), Some("eth0")));
        assert!(tied[1].cpu.is_some() && (cpus.len() == 1 || tied[1].cpu != Some(cpus[0])), "{tied:?}");
        assert_eq!(pins(&[], None, false).len(), cpus.len(), "one a CPU");
        assert!(pins(&[table], Some(2), true).iter().all(|pin| pin.cpu.is_none()));
    }
}
