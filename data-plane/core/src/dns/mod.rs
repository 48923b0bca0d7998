//! Where the mail of a domain goes: a resolver without sockets.
//!
//! [`Resolver`] is asked for the mail hosts of a domain; it emits wire queries, takes wire answers, and says
//! [`MailHosts`] or why there are none ([`DnsFailure`]). It speaks to recursors and to authoritative servers alike.
//!
//! ```text
//! mail_hosts(tag, domain) -> MX --NODATA--> A + AAAA of the domain itself (implicit MX)
//!                             \--hosts----> A + AAAA of each host, asked in parallel --> Answer(tag)
//! ```
//!
//! Invariants worth naming:
//! - every [`Resolver::mail_hosts`] gets exactly one [`Output::Answer`] with its tag, as long as the pump reports what
//!   became of each query or keeps to [`Resolver::deadline`];
//! - equal questions in flight are one question; every cache, list, chain and queue has a bound in `limits`;
//! - an answer counts only with our id and our question in it, and only its answer section (and the SOA of a denial)
//!   is read: nothing that a server adds unasked is believed;
//! - the AD bit counts only from a server at a loopback address.
//!
//! Deliberately absent: DNSSEC validation, iteration from the root, search lists, /etc/hosts.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Instant;
use crate::mail::Domain;

mod cache;
mod hosts;
mod reach;
mod resolver;
mod wire;

pub use resolver::Resolver;

/// The stable name of an MX set: domains whose MX sets are equal share one site, and so its limits.
///
/// The host names in lower case, sorted and joined by commas; a long set is named by its first host, the number of the
/// others and a truncated SHA-256 (a domain must not be able to forge itself into another's site).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteName(pub Arc<str>);

impl SiteName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SiteName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One host that takes mail of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailHost {
    pub name: Domain,
    /// Lower is better (RFC 5321 section 5.1).
    pub preference: u16,
    /// At least one; both families in turn.
    pub addresses: Vec<IpAddr>,
}

/// Where the mail of a domain goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailHosts {
    pub site: SiteName,
    /// Sorted by preference; only hosts with an address that may be connected to. Never empty.
    pub hosts: Vec<MailHost>,
    /// Every answer behind this was marked authentic (AD) by a server on loopback.
    pub secure: bool,
    /// Ask again then.
    pub expires: Instant,
}

/// Why a domain has no mail hosts.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DnsFailure {
    #[error("the domain does not exist")]
    NoSuchDomain,
    #[error("the domain takes no mail (null MX)")]
    NullMx,
    #[error("no mail host of the domain has an address")]
    NoAddress,
    #[error("we are the best mail host of the domain ourselves, so its mail would loop")]
    Loop,
    #[error("the mail hosts of the domain are at loopback or private addresses only")]
    Forbidden,
    #[error("name resolution failed: {0}")]
    Temporary(String),
}

impl DnsFailure {
    /// Whether asking again later is of no use.
    pub const fn is_permanent(&self) -> bool {
        !matches!(self, Self::Temporary(_))
    }

    /// The enhanced status code (RFC 3463; 5.1.10 is of RFC 7505).
    pub const fn status(&self) -> &'static str {
        match self {
            Self::NoSuchDomain => "5.1.2",
            Self::NullMx => "5.1.10",
            Self::NoAddress | Self::Forbidden => "5.4.4",
            Self::Loop => "5.4.6",
            Self::Temporary(_) => "4.4.3",
        }
    }

    /// What the event and the report say, one line.
    pub fn reason(&self) -> String {
        self.to_string()
    }
}

/// What a lookup of mail hosts may answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HostRule {
    /// Loopback, private and our own addresses are answered too, and an own address is no loop (tests, internal
    /// relays). An own name is a loop all the same.
    pub allow_private: bool,
}

/// How and whom to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolverConfig {
    /// Asked in this order; one that leaves several attempts in a row unanswered is asked last for a while.
    pub servers: Vec<SocketAddr>,
    /// How long one attempt waits for its answer.
    pub timeout: Duration,
    /// Attempts for one question, over all servers; at least one is made.
    pub attempts: u32,
    /// Names that we receive mail under: they drop equal and worse preferences (RFC 5321 section 5.1).
    pub own_names: Vec<Domain>,
    /// Addresses of this host, treated like own names.
    pub own_addresses: Vec<IpAddr>,
}

impl ResolverConfig {
    /// Asks `servers`: five seconds an attempt, four attempts, no names or addresses of our own.
    pub const fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, timeout: Duration::from_secs(5), attempts: 4, own_names: Vec::new(), own_addresses: Vec::new() }
    }
}

/// What the pump tells the resolver.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A datagram came for a query.
    Datagram { query: u64, bytes: &'a [u8] },
    /// A whole answer came over TCP, without its length prefix.
    Stream { query: u64, bytes: &'a [u8] },
    /// The query could not be sent, or its socket failed.
    Failed { query: u64, reason: &'a str },
    /// [`Resolver::deadline`] has come.
    Timeout,
}

/// What the resolver asks of the pump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send `wire` (over TCP with a length prefix) and report datagrams until `Done`, or `Failed` after `wait`.
    Query { query: u64, server: SocketAddr, wire: Vec<u8>, over_tcp: bool, wait: Duration },
    /// Nothing more is expected of this query.
    Done { query: u64 },
    /// The result of one [`Resolver::mail_hosts`].
    Answer { tag: u64, domain: Domain, result: Result<Rc<MailHosts>, DnsFailure> },
}

/// What the resolver is doing, for spans and the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResolverState {
    /// Answers remembered.
    pub cached: usize,
    /// Domains being looked up.
    pub lookups: usize,
    /// Queries sent and not answered.
    pub in_flight: usize,
    /// Questions that wait for a free query.
    pub waiting: usize,
}

#[cfg(test)]
mod tests;
