//! Addresses on interfaces: put on with a lifetime, announced, taken off.
//!
//! A leased address is given to the kernel with a lifetime, as routers give addresses to hosts (RFC 4862 section 5.5.4),
//! so it goes by itself when the lease does: also if this process is stopped or dead by then. The kernel counts whole
//! seconds and looks a quarter of a second late; [`lifetime`] and the margin of a lease allow for that.
//!
//! Addresses are put on as /32 and /128, and deprecated from the start: mail binds them by name, and nothing else that
//! leaves the host chooses one as its source. Needs CAP_NET_ADMIN, and CAP_NET_RAW to announce.
//!
//! Absent here: which address, and when (the lease machine's), and networks that route addresses to hosts by themselves,
//! where nothing is put on or announced: [`Interfaces::routed`] of a whole host, [`Carrier::Routed`] of one address.

mod announce;
mod netlink;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink::{Link, Netlink};
use postrail_schema::allocation::Carrier;
use postrail_schema::limits::HOST_OWN_ADDRESSES_MAX;

/// Why an address could not be put on or taken off.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("no interface is named for {0}; name one by the host's or the source's configuration")]
    NoInterface(IpAddr),
    #[error("there is no interface {name}")]
    Unknown { name: String, source: io::Error },
    #[error("{address} cannot be put on {name}; it takes CAP_NET_ADMIN")]
    PutOn { address: IpAddr, name: String, source: io::Error },
    #[error("{address} cannot be taken off")]
    TakeOff { address: IpAddr, source: io::Error },
    #[error("the kernel's routing socket cannot be opened")]
    Open(#[source] io::Error),
    #[error("the kernel does not say which addresses are on the interfaces")]
    List(#[source] io::Error),
}

/// By whom an address is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bringer {
    /// By us: it was put on an interface.
    Us,
    /// By the host's own configuration: it is used as it is.
    Host,
    /// By the network, which routes it here.
    Network,
}

/// The interfaces of this host, as far as addresses that move are concerned.
#[derive(Debug)]
pub struct Interfaces {
    /// `None`: the network brings addresses here by itself.
    netlink: Option<Netlink>,
    default: Option<String>,
    on: BTreeMap<IpAddr, Presence>,
    /// What this host has by its own configuration, as of the last look.
    own: BTreeSet<IpAddr>,
}

/// An address that is on an interface.
#[derive(Debug)]
struct Presence {
    link: Link,
    /// How often the neighbours are still to be told.
    announcements_left: u8,
}

impl Presence {
    /// Tells the neighbours, if that is still due. A single announcement may be lost, and a neighbour that has just heard
    /// of the address from elsewhere does not listen for a second.
    fn announce(&mut self, address: IpAddr) {
        let Some(left) = self.announcements_left.checked_sub(1) else { return };
        self.announcements_left = left;
        if let Err(error) = announce::announce(&self.link, address) {
            tracing::warn!(%address, interface = self.link.name, %error, "neighbours are not told of an address");
        }
    }
}

impl Interfaces {
    /// Of a host whose addresses go on `default` unless their source names another.
    ///
    /// # Errors
    /// [`AddressError::Open`].
    pub fn open(default: Option<String>) -> Result<Self, AddressError> {
        let netlink = Netlink::open().map_err(AddressError::Open)?;
        Ok(Self { netlink: Some(netlink), default, on: BTreeMap::new(), own: BTreeSet::new() })
    }

    /// Of a host to which the network routes every address that it is granted: nothing is changed or announced here.
    pub fn routed() -> Self {
        Self { netlink: None, default: None, on: BTreeMap::new(), own: BTreeSet::new() }
    }

    /// The addresses that this host has by its own configuration: all that are of use beyond a link, but for those that a
    /// data plane has put on, which are known by being deprecated /32 or /128. What is on the loopback interface is left
    /// out, since it is how a host takes what is routed to it; a routed host has none for the same reason.
    ///
    /// # Errors
    /// [`AddressError::List`].
    pub fn look(&mut self) -> Result<BTreeSet<IpAddr>, AddressError> {
        let Some(netlink) = &mut self.netlink else { return Ok(BTreeSet::new()) };
        let mut found = netlink.own().map_err(AddressError::List)?;
        if let Some(first_over) = found.iter().nth(HOST_OWN_ADDRESSES_MAX).copied() {
            found.split_off(&first_over);
            if found != self.own {
                let most = HOST_OWN_ADDRESSES_MAX;
                tracing::warn!(
                    "this host has more than {most} addresses; other hosts may be given those from {first_over} on"
                );
            }
        }
        self.own.clone_from(&found);
        Ok(found)
    }

    /// Puts `address` on, for `lifetime` at most (`None`: for good), and tells the neighbours, where that is ours to do. An
    /// address that is on already gets the new lifetime; one that is the host's own is used as it is, here and below.
    ///
    /// # Errors
    /// The interface is not known, or the kernel refuses. That neighbours could not be told is logged.
    pub fn put_on(
        &mut self,
        address: IpAddr,
        carrier: &Carrier,
        lifetime: Option<Duration>,
    ) -> Result<Bringer, AddressError> {
        if self.own.contains(&address) {
            return Ok(Bringer::Host);
        }
        let (Some(netlink), Some(name)) = (&mut self.netlink, carried_by(carrier, self.default.as_deref())) else {
            return Ok(Bringer::Network);
        };
        let name = name.ok_or(AddressError::NoInterface(address))?;
        let unknown = |source| AddressError::Unknown { name: name.to_owned(), source };
        let link = netlink.link(name).map_err(unknown)?;
        let refused = |source| AddressError::PutOn { address, name: name.to_owned(), source };
        netlink.put_on(&link, address, lifetime).map_err(refused)?;
        let mut presence = Presence { link, announcements_left: ANNOUNCEMENTS };
        presence.announce(address);
        self.on.insert(address, presence);
        Ok(Bringer::Us)
    }

    /// Gives an address that is on a new lifetime, and tells the neighbours again the first times.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn extend(&mut self, address: IpAddr, lifetime: Duration) -> Result<(), AddressError> {
        if self.own.contains(&address) {
            // It has come to be so: a lifetime would end what was configured.
            self.on.remove(&address);
            return Ok(());
        }
        let (Some(netlink), Some(presence)) = (&mut self.netlink, self.on.get_mut(&address)) else { return Ok(()) };
        presence.announce(address);
        let link = &presence.link;
        let refused = |source| AddressError::PutOn { address, name: link.name.clone(), source };
        netlink.put_on(link, address, Some(lifetime)).map_err(refused)
    }

    /// Takes `address` off, if it still is on; `carrier` says where it may be from before this process began.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_off(&mut self, address: IpAddr, carrier: &Carrier) -> Result<(), AddressError> {
        if self.own.contains(&address) {
            self.on.remove(&address);
            return Ok(());
        }
        let Some(netlink) = &mut self.netlink else { return Ok(()) };
        let failed = |source| AddressError::TakeOff { address, source };
        let link = match self.on.remove(&address) {
            Some(presence) => presence.link,
            None => match carried_by(carrier, self.default.as_deref()).flatten() {
                Some(name) => netlink.link(name).map_err(failed)?,
                None => return Ok(()),
            },
        };
        netlink.take_off(&link, address).map_err(failed)
    }
}

/// The interface for an address, on a host whose own choice is `default`; `None`: none, since the network brings it.
fn carried_by<'a>(carrier: &'a Carrier, default: Option<&'a str>) -> Option<Option<&'a str>> {
    match carrier {
        Carrier::HostChoice => Some(default),
        Carrier::Nic(name) => Some(Some(name)),
        Carrier::Routed => None,
    }
}

/// How long the kernel may keep an address that is held until `until`, asked at `now`, in whole seconds rounded up;
/// `None`: it is not held any more.
pub fn lifetime(now: Duration, until: Duration) -> Option<Duration> {
    let left = until.saturating_sub(now);
    (!left.is_zero()).then(|| Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0)))
}

/// How often neighbours are told of an address that has come: at once, then with each extension (RFC 5227 section 2.3
/// wants two, two seconds apart).
const ANNOUNCEMENTS: u8 = 3;

#[cfg(test)]
mod tests;
