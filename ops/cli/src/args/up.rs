//! The options of `up`. Each may also stand in the file of `--config`, by the same name; so none has a default here:
//! `up/settings.rs` knows what was not said.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Deserialize;

use crate::fleet::settings::FleetOptions;

const UP_EXAMPLES: &str = "\
Examples:
  postrail up --domain example.org --hostname mail.example.org
  postrail up --data /srv/postrail --smtp 0.0.0.0:2525 --tls-cert mail.pem --tls-key mail.key
  postrail up --resolver 127.0.0.1:53 --shards 4 --log json
  postrail up --config /etc/postrail/up.toml
  postrail up --etcd http://10.0.0.5:2379 --role control-plane --api 10.0.0.1:8081
  postrail up --etcd http://10.0.0.5:2379 --role data-plane --admin 10.0.0.2:8082 --host-name mta-1
  postrail up --ledger postgres://postrail@127.0.0.1/postrail --ledger-password-file /etc/postrail/ledger.password

The first start makes a tenant, a credential and the DKIM keys of --domain, and prints them; the secret is shown once
and never again. Later starts continue with the same state.

A configuration file has these options by their names, and [[shard]] tables that tie a shard to a CPU, a network
interface and source addresses (`postrail doctor --layout --toml` drafts them). An option given here wins.";

#[derive(ClapArgs, Clone, Debug, Default)]
#[command(after_help = UP_EXAMPLES)]
pub(crate) struct UpOptions {
    /// File with options, and with [[shard]] tables, in TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// SMTP submission with STARTTLS (repeatable) [default: 127.0.0.1:2525]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) smtp: Vec<SocketAddr>,
    /// SMTP submission with TLS from the start (repeatable) [default: 127.0.0.1:2465]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) smtps: Vec<SocketAddr>,
    /// REST submission (repeatable) [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) rest: Vec<SocketAddr>,
    /// Control API: plain HTTP on loopback, in a fleet TLS elsewhere [default: 127.0.0.1:8081]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) api: Option<SocketAddr>,
    /// Metrics, health and journal of the data plane: plain HTTP on loopback, in a fleet TLS elsewhere [default:
    /// 127.0.0.1:8082]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Executors of the data plane [default: one a [[shard]], else one a CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub(crate) shards: Option<u16>,
    /// Let the kernel move the shards between CPUs
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// This host's name in greetings and trace headers [default: the system's]; at the first start also the name that the
    /// source `default` says to receivers
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// The first sending domain, made at the first start [default: example.test]; later ones: `postrail domain add`
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Name server for the data plane (repeatable) [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) resolver: Vec<SocketAddr>,
    /// Certificate chain, PEM [default: a self-signed one, made at the first start]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Authorities of receivers' certificates, PEM: they count beside those of the system for mail under a TLS rule of the
    /// level `verified` [default: those of the system alone]
    #[arg(long, value_name = "FILE")]
    pub(crate) receiver_ca: Option<PathBuf>,
    /// Keep the ledger in a PostgreSQL database (postgres://USER@HOST:PORT/DATABASE, without password), or from
    /// POSTRAIL_LEDGER; all control planes of a region have the same [default: ledger.db in the data folder, of one alone]
    #[arg(long, value_name = "URL")]
    pub(crate) ledger: Option<String>,
    /// File with the password for --ledger, or from POSTRAIL_LEDGER_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger_password_file: Option<PathBuf>,
    /// Form of the log, on standard error [default: text]
    #[arg(long, value_enum)]
    pub(crate) log: Option<LogForm>,
    /// Least severity that is logged, or a filter such as `info,postrail_data_plane=debug` [default: info]
    #[arg(long, value_name = "LEVEL", env = "POSTRAIL_LOG")]
    pub(crate) log_level: Option<String>,
    /// Longest time for what is in flight to finish after SIGTERM [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) drain_seconds: Option<u64>,
    #[command(flatten)]
    pub(crate) fleet: FleetOptions,
}

const MOVE_EXAMPLES: &str = "\
Examples:
  systemctl stop postrail
  postrail move-to-etcd --etcd http://10.0.0.5:2379
  postrail move-to-etcd --data /srv/postrail --etcd https://10.0.0.5:2379 --etcd-ca /etc/postrail/etcd-ca.pem

Tenants, credentials, domains and their keys keep their numbers, so that mail in the spool goes on as it was accepted. The
cluster must be empty. The file is kept beside, as config.db.moved.";

#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = MOVE_EXAMPLES)]
pub(crate) struct MoveOptions {
    /// Those that say where etcd is count
    #[command(flatten)]
    pub(crate) fleet: FleetOptions,
}

const MOVE_LEDGER_EXAMPLES: &str = "\
Examples:
  systemctl stop postrail
  postrail move-ledger --ledger postgres://postrail@127.0.0.1/postrail --ledger-password-file /etc/postrail/ledger.password
  postrail move-ledger --ledger postgres://postrail@10.0.0.5/postrail --etcd http://10.0.0.5:2379

Events, suppressions and the audit trail go into an empty database, with the cursors of the journals, so that nothing is
counted twice or left out. Both sides are counted before that is done. Cut short, it goes on where it was when it is asked
again. The file is kept beside, as ledger.db.moved.";

#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = MOVE_LEDGER_EXAMPLES)]
pub(crate) struct MoveLedgerOptions {
    /// The database (postgres://USER@HOST:PORT/DATABASE, without password), or from POSTRAIL_LEDGER
    #[arg(long, value_name = "URL")]
    pub(crate) ledger: Option<String>,
    /// File with the password for --ledger, or from POSTRAIL_LEDGER_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger_password_file: Option<PathBuf>,
    /// Those that say where etcd is, and which region this is; none: the configuration is in the data folder
    #[command(flatten)]
    pub(crate) fleet: FleetOptions,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogForm {
    Json,
    Text,
}
