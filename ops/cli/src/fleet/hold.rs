//! The addresses of this host in a fleet: what it announces, its keys in the store, and the thread that holds.
//!
//! ```text
//! watch of the grants --look--> holding thread (data plane) <--keys--> store
//! ```
//!
//! Invariants worth naming: a host that names no interface and is not routed says so to the allocator, and is given
//! nothing that it could not use. Absent here: when an address may be used (the data plane's lease machine).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use postrail_control_plane::store::{ConfigStore, StoreError, WatchEvent};
use postrail_control_plane::{Hosts, HostsError};
use postrail_data_plane::address::Interfaces;
use postrail_data_plane::feed::FeedStatus;
use postrail_data_plane::lease::{End, LeaseHandle, LeaseWaker, Registry, Settings, View, WriteError, hold};
use postrail_data_plane::node::NodeHandle;
use postrail_schema::allocation::{Announcement, HostName, HostRecord};
use postrail_schema::keys::grants;
use postrail_schema::limits::HOST_GRANTS_MAX;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::random;
use super::settings::Fleet;
use crate::doctor::root::Root;

/// How addresses come to this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bringing {
    /// The network does it.
    Routed,
    /// By netlink, on these interfaces; the first takes what names none.
    Nics(Vec<String>),
}

impl Bringing {
    /// As the operator said, else the interface of the default route, if this process may change it.
    ///
    /// # Errors
    /// An interface that was named is not there, or not to be changed.
    pub(crate) fn find(fleet: &Fleet, root: &Root) -> Result<Self> {
        if fleet.routed {
            return Ok(Self::Routed);
        }
        let there = root.names("sys/class/net");
        if let Some(missing) = fleet.nics.iter().find(|nic| !there.contains(nic)) {
            bail!("--nic {missing}: this host has no such interface, but {}", there.join(", "));
        }
        match (fleet.nics.first(), may_change(root)) {
            (Some(nic), false) => {
                bail!("--nic {nic}: addresses are put on it by CAP_NET_ADMIN, which this process lacks")
            }
            (Some(_), true) => Ok(Self::Nics(fleet.nics.clone())),
            (None, false) => Ok(Self::Nics(Vec::new())),
            (None, true) => Ok(Self::Nics(default_nic(root).into_iter().collect())),
        }
    }

    fn interfaces(&self) -> Result<Interfaces> {
        match self {
            Self::Routed => Ok(Interfaces::routed()),
            Self::Nics(nics) => Interfaces::open(nics.first().cloned()).context("cannot hold addresses"),
        }
    }
}

/// Begins to hold what this host is granted.
///
/// # Errors
/// The kernel's routing socket or a thread cannot be had.
pub(crate) fn begin(
    fleet: &Fleet,
    bringing: &Bringing,
    name: &HostName,
    data: &std::path::Path,
    node: &NodeHandle,
    store: &Arc<dyn ConfigStore>,
    feed: Arc<FeedStatus>,
) -> Result<LeaseHandle> {
    let nics: BTreeSet<String> = match bringing {
        Bringing::Routed => BTreeSet::new(),
        Bringing::Nics(nics) => nics.iter().cloned().collect(),
    };
    if nics.is_empty() && *bringing != Bringing::Routed {
        warn!(
            "no interface for addresses that move: give the process CAP_NET_ADMIN, name an interface by --nic, or say \
             --routed; this host is given no addresses"
        );
    }
    let announcement = Announcement {
        region: (!fleet.region.is_empty()).then(|| fleet.region.clone()),
        capabilities: fleet.capabilities.clone(),
        routed: *bringing == Bringing::Routed,
        nics,
        addresses_max: u32::try_from(HOST_GRANTS_MAX).unwrap_or(u32::MAX),
        share: u32::from(node.shards()),
        // The thread that holds looks before it first speaks.
        own: BTreeSet::new(),
    };
    let boot = std::fs::read_to_string(BOOT_FILE).map(|text| text.trim().to_owned()).unwrap_or_default();
    let settings = Settings { lease: fleet.lease, boot, ..Settings::new(incarnation()?, announcement) };
    // A call may not take so long that the lease ends in it.
    let keys = Keys { hosts: Hosts::new(store.within(settings.period())), name: name.clone(), feed };
    let interfaces = bringing.interfaces()?;
    hold(settings, data, keys, interfaces, node.mesh().clone()).context("cannot start the thread that holds addresses")
}

/// Wakes the holding thread when this host's grants may have changed, until `stop` is true.
pub(crate) async fn wake(
    store: Arc<dyn ConfigStore>,
    name: HostName,
    waker: LeaseWaker,
    mut stop: watch::Receiver<bool>,
) {
    let key = grants(&name);
    loop {
        let followed = async {
            let (reading, keys) = (Arc::clone(&store), vec![key.clone()]);
            match tokio::task::spawn_blocking(move || reading.get(&keys)).await {
                Ok(Ok(listing)) => {
                    waker.look();
                    let mut watch = store.watch(&key, listing.revision);
                    while let Some(event) = watch.next().await {
                        if matches!(event, WatchEvent::Changes { .. }) {
                            waker.look();
                        }
                    }
                }
                // Keepalives tell of it, and read the grants, too.
                Ok(Err(_)) | Err(_) => sleep(PAUSE).await,
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = followed => {}
        }
    }
}

/// Waits until everything is given up; not for long, since what is not taken off by then goes by itself.
pub(crate) async fn end(lease: LeaseHandle) {
    let until = Instant::now() + END_TIMEOUT;
    while !lease.has_ended() {
        if Instant::now() > until {
            return warn!("the store does not hear that this host's addresses are free; they are when its lease ends");
        }
        sleep(END_PAUSE).await;
    }
    if lease.join() == End::Ousted {
        error!("another host has this host's name; it used none of the addresses that move");
    }
}

/// A host's keys in the store.
struct Keys {
    hosts: Hosts,
    name: HostName,
    feed: Arc<FeedStatus>,
}

impl Registry for Keys {
    fn read(&mut self) -> Result<View, String> {
        // Addresses are given to hosts that can send from them.
        let until = std::time::Instant::now() + CONFIGURATION_PATIENCE;
        while !self.feed.has_configuration() {
            if std::time::Instant::now() > until {
                return Err("this host has no configuration in effect, so it takes no addresses yet".to_owned());
            }
            std::thread::sleep(CONFIGURATION_PAUSE);
        }
        let own = self.hosts.own(&self.name).map_err(|error| chain(&error))?;
        Ok(View { revision: own.revision, record: own.record, grants: own.grants })
    }

    fn write(&mut self, guard: u64, record: &HostRecord) -> Result<(u64, View), WriteError> {
        match self.hosts.keep_alive(&self.name, guard, record) {
            Ok(revision) => {
                let view = self.read().map_err(WriteError::Unknown)?;
                Ok((revision, view))
            }
            Err(HostsError::Store(StoreError::Conflict { .. })) => Err(WriteError::Refused),
            Err(error) => Err(WriteError::Unknown(chain(&error))),
        }
    }
}

/// An error with what it comes from.
fn chain(error: &HostsError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// What tells this process from another one of the same host name.
fn incarnation() -> Result<u64> {
    Ok(u64::from_ne_bytes(random()?))
}

/// Whether this process may change interfaces: bit 12 of its capabilities. A host that does not tell is not asked.
fn may_change(root: &Root) -> bool {
    let status = root.text("proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_none_or(|bits| bits & CAP_NET_ADMIN != 0)
}

/// The interface of the default route, of IPv4 before IPv6.
fn default_nic(root: &Root) -> Option<String> {
    let four = root.text("proc/net/route").unwrap_or_default();
    let four = four.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (nic, destination, mask) = (fields.next()?, fields.next()?, fields.nth(5)?);
        (destination == "00000000" && mask == "00000000").then(|| nic.to_owned())
    });
    let six = || {
        let six = root.text("proc/net/ipv6_route").unwrap_or_default();
        six.lines().find_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [destination, "00", .., nic] = fields[..] else { return None };
            (destination.bytes().all(|digit| digit == b'0') && nic != "lo").then(|| nic.to_owned())
        })
    };
    four.or_else(six)
}

const CAP_NET_ADMIN: u64 = 1 << 12;
/// What tells one run of this kernel from others.
const BOOT_FILE: &str = "/proc/sys/kernel/random/boot_id";
/// Between two tries to watch.
const PAUSE: Duration = Duration::from_secs(1);
/// Time for the last word to the store, and between two looks whether it was said.
const END_TIMEOUT: Duration = Duration::from_secs(2);
const END_PAUSE: Duration = Duration::from_millis(20);
/// How long a look at what this host holds waits for its first configuration, and between two looks.
const CONFIGURATION_PATIENCE: Duration = Duration::from_secs(1);
const CONFIGURATION_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::settings::FleetOptions;

    /// A host with these files, for as long as `look` takes.
    fn with_files<T>(name: &str, files: &[(&str, &str)], look: impl FnOnce(&Root) -> T) -> T {
        let folder = std::env::temp_dir().join(format!("postrail-hold-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder can be made");
            std::fs::write(path, text).expect("a file can be written");
        }
        let found = look(&Root::recorded(&folder).expect("a folder"));
        std::fs::remove_dir_all(&folder).expect("our own folder");
        found
    }

    #[test]
    fn addresses_go_on_the_interface_of_the_default_route_unless_told() {
        let four = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\n";
        let zeros = "00000000000000000000000000000000";
        let six = format!(
            "{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n\
            {zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2\n"
        );
        let both = [("proc/net/route", four), ("proc/net/ipv6_route", &six)];
        assert_eq!(with_files("both", &both, default_nic).as_deref(), Some("eth0"));
        assert_eq!(with_files("six", &both[1..], default_nic).as_deref(), Some("eth2"));
        assert_eq!(with_files("none", &[], default_nic), None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_refused_with_those_that_are() {
        let options = FleetOptions { etcd: vec!["http://127.0.0.1:1".to_owned()], ..FleetOptions::default() };
        let fleet = |options: FleetOptions| options.fleet(|_| None).expect("good options").expect("a fleet");
        let named = fleet(FleetOptions { nic: vec!["eth7".to_owned()], ..options.clone() });
        let there = [("sys/class/net/eth0/mtu", "1500")];
        let error = with_files("nic", &there, |root| Bringing::find(&named, root)).expect_err("there is none");
        assert!(error.to_string().contains("eth7") && error.to_string().contains("eth0"), "{error}");
        let weak = [("sys/class/net/eth7/mtu", "1500"), ("proc/self/status", "Name:\tx\nCapEff:\t0000000000000400\n")];
        let error = with_files("weak", &weak, |root| Bringing::find(&named, root)).expect_err("no capability");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        let unsaid = with_files("unsaid", &weak, |root| Bringing::find(&fleet(options.clone()), root));
        assert_eq!(unsaid.expect("nothing was asked"), Bringing::Nics(Vec::new()));
        let routed = fleet(FleetOptions { routed: true, ..options });
        assert_eq!(
            with_files("routed", &there, |root| Bringing::find(&routed, root)).expect("routed"),
            Bringing::Routed
        );
    }
}
