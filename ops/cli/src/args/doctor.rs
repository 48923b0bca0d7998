//! The options of `doctor`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args as ClapArgs;

const DOCTOR_EXAMPLES: &str = "\
Examples:
  postrail doctor                                   what is in the way, what matters most first
  postrail doctor --all                             also what is fine, and what was not asked
  postrail doctor --fix --dry-run                   what --fix would write
  postrail doctor --config /etc/postrail/up.toml    also whether its [[shard]] tables suit this host
  postrail doctor --layout --toml                   [[shard]] tables derived from this host
  postrail doctor --record host1; postrail doctor --root host1

Exit status: 0 nothing above advice, 1 warnings, 2 errors, 3 it could not look or a fix failed.";

#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(crate) struct DoctorOptions {
    /// Show also what is fine, and why something was not asked
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Set what is safe to set on any host; the host's next restart undoes it
    #[arg(long, conflicts_with_all = ["root", "layout"])]
    pub(crate) fix: bool,
    /// With --fix: only show what would be written
    #[arg(long, requires = "fix")]
    pub(crate) dry_run: bool,
    /// Show where each shard runs, as derived from the machine
    #[arg(long)]
    pub(crate) layout: bool,
    /// With --layout: as the [[shard]] tables of a configuration file
    #[arg(long, requires = "layout")]
    pub(crate) toml: bool,
    /// Number of shards [default: one a CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub(crate) shards: Option<u16>,
    /// The configuration file of `up`, whose [[shard]] tables are checked
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// An address to send from, besides those of the data folder (repeatable)
    #[arg(long, value_name = "IP")]
    pub(crate) source: Vec<IpAddr>,
    /// Name server that is asked for the sources' names (repeatable) [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) resolver: Vec<SocketAddr>,
    /// Judge the host whose /proc and /sys were recorded in DIR; nothing of this host is asked
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Keep every file that is read in a new folder DIR, for --root
    #[arg(long, value_name = "DIR", conflicts_with = "root")]
    pub(crate) record: Option<PathBuf>,
}
