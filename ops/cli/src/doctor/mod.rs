//! `postrail doctor`: what of this host is in the way of mail, why, and what sets it right.
//!
//! ```text
//! Root (the running host, or a recorded tree) -> facts, a file each subject -> findings (pure) -> report, fix, layout
//! ```
//!
//! Exit status: 0 nothing above advice, 1 warnings, 2 errors (or asked wrongly), 3 it could not look, or a fix failed.
//!
//! Invariants worth naming: looking changes nothing on the host, but for one file in the data folder whose syncs are
//! timed and which is removed again; only `--fix` writes. Under `--root` nothing of the running host is read or asked.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use postrail_data_plane::feed::kept_snapshot;
use postrail_schema::limits::DOCTOR_SOURCES_MAX;
use postrail_schema::snapshot::EgressSource;

use crate::args::DoctorOptions;
use crate::up::settings::{self, ShardTable};
use crate::up::system_resolvers;

pub(crate) mod cpus;
pub(crate) mod layout;
pub(crate) mod limits;
pub(crate) mod nic;
pub(crate) mod root;

mod cpu_list;
mod disk;
mod finding;
mod fix;
mod io_uring;
mod memory;
mod ptr;
mod report;
mod sources;
mod sysctl;

use cpus::Cpus;
use finding::Finding;
use layout::Layout;
use nic::Nic;
use report::Report;
use root::Root;
use sources::{Addresses, Source, Wanted};

/// Exit status where it could not look, or a fix failed.
const CANNOT_LOOK: u8 = 3;

pub(crate) fn run(data: &Path, options: &DoctorOptions) -> ExitCode {
    match examine(data, options) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("postrail: {error:#}");
            ExitCode::from(CANNOT_LOOK)
        }
    }
}

fn examine(data: &Path, options: &DoctorOptions) -> Result<u8> {
    let root = match &options.root {
        Some(path) => {
            Root::recorded(path).with_context(|| format!("cannot read the tree --root {}", path.display()))?
        }
        None => Root::live(),
    };
    let root = match &options.record {
        Some(folder) => {
            std::fs::create_dir(folder)
                .with_context(|| format!("cannot make the folder --record {}", folder.display()))?;
            root.taped(folder.clone())
        }
        None => root,
    };
    let tables = match &options.config {
        Some(path) => settings::read(path)?.shard,
        None => Vec::new(),
    };
    let wanted = wanted_sources(&root, data, options, &tables)?;
    let host = Host::read(&root, wanted, options.shards);
    if options.layout {
        print!("{}", host.show_layout(options));
        return Ok(0);
    }
    let findings = host.check(&root, data, &tables, &options.resolver);
    let report =
        |findings| Report { host: host.summary(&root), recorded: !root.is_live(), findings, fixed: Vec::new() };
    let report = if options.fix {
        let fixed = fix::apply(&root, &findings, options.dry_run);
        let wanted = host.sources.iter().map(|source| source.wanted.clone()).collect();
        let findings = if options.dry_run {
            findings
        } else {
            Host::read(&root, wanted, options.shards).check(&root, data, &tables, &options.resolver)
        };
        Report { fixed, ..report(findings) }
    } else {
        report(findings)
    };
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text(options.all));
    }
    if report.fixed.iter().any(fix::Fixed::has_failed) {
        return Ok(CANNOT_LOOK);
    }
    Ok(report.exit_status())
}

/// What is read of a host whatever is asked.
struct Host {
    cpus: Cpus,
    nics: Vec<Nic>,
    sources: Vec<Source>,
    layout: Layout,
}

impl Host {
    fn read(root: &Root, wanted: Vec<Wanted>, shards: Option<u16>) -> Self {
        let (cpus, nics) = (Cpus::read(root), nic::read(root));
        let addresses = Addresses::read(root);
        let sources: Vec<Source> = wanted.into_iter().map(|wanted| addresses.find(wanted)).collect();
        let layout = Layout::derive(&cpus, &nics, &sources, shards);
        Self { cpus, nics, sources, layout }
    }

    fn check(&self, root: &Root, data: &Path, tables: &[ShardTable], resolvers: &[SocketAddr]) -> Vec<Finding> {
        let mut findings = self.cpus.check();
        findings.extend(memory::check(root));
        findings.extend(limits::check(limits::Limits::read(root), self.layout.shards.len().max(tables.len())));
        findings.extend(io_uring::IoUring::read(root).check());
        findings.extend(nic::check(&self.nics, &self.cpus));
        findings.extend(sysctl::check(root));
        findings.extend(disk::Disk::read(root, data).iter().flat_map(disk::Disk::check));
        findings.extend(sources::check(&self.named_sources(root, resolvers)));
        let interfaces = root.names("sys/class/net");
        findings.extend(layout::check(tables, &self.cpus, &self.nics, &interfaces, &self.sources));
        findings
    }

    /// The sources with their names in DNS, which only a running host asks for.
    fn named_sources(&self, root: &Root, resolvers: &[SocketAddr]) -> Vec<Source> {
        let mut sources = self.sources.clone();
        if root.is_live() {
            let servers =
                if resolvers.is_empty() { system_resolvers().unwrap_or_default() } else { resolvers.to_vec() };
            for source in sources.iter_mut().filter(|source| has_public_name(source.wanted.address)) {
                source.names = Some(ptr::look_up(source.wanted.address, &servers));
            }
        }
        sources
    }

    fn show_layout(&self, options: &DoctorOptions) -> String {
        match (options.json, options.toml) {
            (true, _) => {
                serde_json::to_string_pretty(&self.layout).expect("a layout has only numbers and texts") + "\n"
            }
            (false, true) => self.layout.toml(),
            (false, false) => self.layout.table(),
        }
    }

    fn summary(&self, root: &Root) -> String {
        let line = |name: &str| root.line(&format!("proc/sys/kernel/{name}")).unwrap_or_else(|| "unknown".to_owned());
        let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        format!(
            "{}: Linux {}, {}, {}, {}",
            line("hostname"),
            line("osrelease"),
            counted(self.cpus.online.len(), "CPU"),
            counted(self.cpus.nodes, "NUMA node"),
            counted(self.nics.len(), "network interface")
        )
    }
}

fn has_public_name(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_loopback()
}

/// The sources of the options, the configuration file and, on a running host, the data folder's snapshot.
fn wanted_sources(root: &Root, data: &Path, options: &DoctorOptions, tables: &[ShardTable]) -> Result<Vec<Wanted>> {
    let mut wanted = if root.is_live() { published(data)? } else { Vec::new() };
    let told = options.source.iter().chain(tables.iter().flat_map(|table| &table.sources));
    for address in told {
        if !wanted.iter().any(|known| known.address == *address) {
            wanted.push(Wanted { address: *address, ehlo_name: None });
        }
    }
    wanted.truncate(DOCTOR_SOURCES_MAX);
    Ok(wanted)
}

/// The sources of the last publication that the data plane keeps; none where there is no data folder yet.
fn published(data: &Path) -> Result<Vec<Wanted>> {
    let kept = kept_snapshot(data);
    let kept = kept.with_context(|| format!("cannot read {}; run it as the user of `up`", data.display()))?;
    let Some(snapshot) = kept else { return Ok(Vec::new()) };
    let wanted = |source: &EgressSource| Wanted { address: source.address, ehlo_name: Some(source.ehlo_name.clone()) };
    Ok(snapshot.sources.values().map(wanted).collect())
}
