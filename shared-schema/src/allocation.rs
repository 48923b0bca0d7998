//! Who may use which address: what hosts write about themselves, and what the control plane writes to each of them.
//!
//! ```text
//! holding/<host>      HostRecord   written by the host alone; each write is one keepalive
//! allocation/<host>   Vec<Grant>   written by control planes alone
//! orders/<host>       Order        written for operators
//! ```
//!
//! The unit is the address, not the egress source: sources that share an address move together. Addresses that are a
//! host's own by nature (unspecified, loopback) are not allocated: see [`is_allocated`].
//!
//! Invariants worth naming: an address is in the grants of one host at most; an epoch is given once and only grows, so a
//! release names exactly the grant that it ends. Absent here: who decides (the control plane's plan) and who obeys (the
//! data plane's lease machine); the argument why no two hosts use one address is in `docs/decisions`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::HOST_NAME_BYTES_MAX;

/// The name of a host: lower-case letters, digits, `-` and `.`, 1 to 63 octets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// The text cannot be a host's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("such a name is 1 to 63 of a-z, 0-9, '-' and '.', and begins and ends with a letter or digit")]
pub struct InvalidHostName;

impl HostName {
    /// # Errors
    /// The text has other characters, or is empty or too long.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidHostName> {
        let name = name.into();
        let is_plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
        let octets = name.as_bytes();
        let ends = octets.first().is_some_and(|o| is_plain(*o)) && octets.last().is_some_and(|o| is_plain(*o));
        let within = octets.iter().all(|octet| is_plain(*octet) || matches!(octet, b'-' | b'.'));
        if ends && within && octets.len() <= HOST_NAME_BYTES_MAX { Ok(Self(name)) } else { Err(InvalidHostName) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidHostName;

    fn try_from(name: String) -> Result<Self, InvalidHostName> {
        Self::new(name)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

/// How long a grant lasts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tenure {
    /// While the host's keepalives get through; it passes on once they certainly ended.
    Leased,
    /// Until the host has given it up, also while it cannot reach the store: for an address that has one host only.
    Fixed,
}

/// What a host is to do with a grant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Held,
    /// Begin nothing new, let end what is in flight, then say so in [`HostRecord::released`].
    Releasing,
}

/// What an operator has said of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Its addresses go elsewhere, each after what is in flight on it.
    Drain,
    /// It is off for good, and uses no address any more.
    Forget,
}

/// What carries an address on its host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// What the host does with addresses of which nothing is said.
    #[default]
    HostChoice,
    /// The interface of that name.
    Nic(String),
    /// The network brings it there by itself: nothing is put on an interface, and no neighbour is told.
    Routed,
}

/// What a source asks of the host that has its address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostNeeds {
    pub carrier: Carrier,
    /// No other host may have it, and this one keeps it without keepalives.
    pub host: Option<HostName>,
    /// The host must have announced all of these.
    pub capabilities: BTreeSet<String>,
}

/// One address, given to one host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub address: IpAddr,
    /// Grows with every grant of the installation.
    pub epoch: u64,
    pub tenure: Tenure,
    pub standing: Standing,
    /// For whom it is asked back, while it is.
    pub next: Option<HostName>,
    pub carrier: Carrier,
}

/// What a host's process is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// It has the name, and waits until the holding of the process before it has ended. It uses no leased address.
    Joining,
    Live,
    /// It has ended in order and uses no address.
    Stopped,
}

/// What a host can carry.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Announcement {
    pub region: Option<String>,
    /// Words that addresses may ask for, such as the name of the network whose prefix is routed here.
    pub capabilities: BTreeSet<String>,
    /// Interfaces that addresses may be put on.
    pub nics: BTreeSet<String>,
    /// The network brings every address here that it is granted.
    pub routed: bool,
    /// Addresses at most.
    pub addresses_max: u32,
    /// Its part of the load beside other hosts: the shards that send. 0 counts as 1.
    pub share: u32,
    /// Addresses that are on its interfaces by its own configuration, not because they were granted. Where nothing but an
    /// interface brings them, no other host may have them. Earlier versions do not say it.
    #[serde(default)]
    pub own: BTreeSet<IpAddr>,
}

/// What a host says of itself with each keepalive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostRecord {
    /// Drawn by each process: two processes of one name differ in it.
    pub incarnation: u64,
    /// Grows by one with each record of an incarnation.
    pub sequence: u64,
    /// From when a keepalive was sent until what it holds may pass on.
    pub lease_ms: u64,
    pub state: HostState,
    /// Grants that are given up and still listed: address and epoch.
    pub released: Vec<(IpAddr, u64)>,
    pub announcement: Announcement,
    /// Of one that stopped: how long nobody else can have been given what it had. Earlier versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldUntil>,
}

/// Until when something holds, by one host's CLOCK_BOOTTIME.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldUntil {
    /// Which run of its kernel: the clock of another says nothing.
    pub boot: String,
    pub until_ms: u64,
}

impl HostRecord {
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

impl Announcement {
    /// Whether the host can have an address carried so.
    pub fn carries(&self, carrier: &Carrier) -> bool {
        match carrier {
            Carrier::HostChoice => self.routed || !self.nics.is_empty(),
            Carrier::Nic(nic) => self.nics.contains(nic),
            Carrier::Routed => true,
        }
    }
}

/// Whether the kernel would call an interface so.
pub fn is_interface(name: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_graphic() && !matches!(octet, b'/' | b':');
    (1..=15).contains(&name.len()) && name.bytes().all(plain) && !matches!(name, "." | "..")
}

/// Whether an address is given out: not one that every host has, or that routing chooses.
pub fn is_allocated(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{GRANT_BYTES_MAX, HOST_GRANTS_MAX, HOST_OWN_ADDRESSES_MAX, HOST_RECORD_BYTES_MAX};

    #[test]
    fn names_that_could_not_be_keys_are_refused() {
        for good in ["a", "mx-1", "mx1.fra.example"] {
            assert!(HostName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a/b", "-a", "a-", "ä", &"a".repeat(64)] {
            assert_eq!(HostName::new(bad), Err(InvalidHostName), "{bad}");
        }
        assert!(HostName::try_from("a/b".to_owned()).is_err());
    }

    #[test]
    fn a_host_carries_what_it_has_an_interface_for() {
        let wire = Announcement { nics: ["eth0".to_owned()].into(), ..Announcement::default() };
        let routed = Announcement { routed: true, ..Announcement::default() };
        let nic = |name: &str| Carrier::Nic(name.to_owned());
        for (carrier, by_wire, by_routed, by_none) in [
            (Carrier::HostChoice, true, true, false),
            (nic("eth0"), true, false, false),
            (nic("eth1"), false, false, false),
            (Carrier::Routed, true, true, true),
        ] {
            let carried = [&wire, &routed, &Announcement::default()].map(|host| host.carries(&carrier));
            assert_eq!(carried, [by_wire, by_routed, by_none], "{carrier:?}");
        }
    }

    #[test]
    fn a_record_of_an_earlier_version_names_no_own_addresses() {
        let earlier = r#"{"incarnation":1,"sequence":2,"lease_ms":10000,"state":"live","released":[],"announcement":
            {"region":null,"capabilities":[],"nics":["eth0"],"routed":false,"addresses_max":4096,"share":2}}"#;
        let record: HostRecord = serde_json::from_str(earlier).unwrap();
        assert_eq!((record.announcement.share, record.announcement.own.len()), (2, 0));
    }

    #[test]
    fn the_longest_record_may_be_written() {
        let addresses =
            || (0..).map(|number| IpAddr::from([u16::MAX, 0xabcd, 0xabcd, 0xabcd, 0xabcd, 0xabcd, 0xabcd, number]));
        let announcement =
            Announcement { own: addresses().take(HOST_OWN_ADDRESSES_MAX).collect(), ..Announcement::default() };
        let released = addresses().take(HOST_GRANTS_MAX).map(|address| (address, u64::MAX)).collect();
        let record = HostRecord {
            incarnation: u64::MAX,
            sequence: u64::MAX,
            lease_ms: 1,
            state: HostState::Live,
            released,
            announcement,
            held: Some(HeldUntil { boot: "0".repeat(36), until_ms: u64::MAX }),
        };
        let octets = serde_json::to_vec(&record).unwrap().len();
        assert!(octets < HOST_RECORD_BYTES_MAX, "{octets}");
    }

    #[test]
    fn the_longest_grant_is_within_its_bound() {
        let grant = Grant {
            address: [0xabcd_u16; 8].into(),
            epoch: u64::MAX,
            tenure: Tenure::Leased,
            standing: Standing::Releasing,
            next: Some(HostName::new("a".repeat(HOST_NAME_BYTES_MAX)).unwrap()),
            // As JSON, each is written as two.
            carrier: Carrier::Nic("\\".repeat(15)),
        };
        let octets = serde_json::to_vec(&grant).unwrap().len();
        assert!(octets < GRANT_BYTES_MAX, "{octets}");
    }

    #[test]
    fn addresses_that_every_host_has_are_not_given_out() {
        for (address, given) in [("0.0.0.0", false), ("::", false), ("127.0.0.9", false), ("::1", false)] {
            assert_eq!(is_allocated(address.parse().unwrap()), given, "{address}");
        }
        assert!(is_allocated([192, 0, 2, 1].into()));
    }
}
