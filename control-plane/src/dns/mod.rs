//! Questions to name servers whose answers people read: what is published, and which server said so.
//!
//! The data plane's resolver answers "where does this mail go" and hides servers, aliases and texts behind a cache; a
//! check of a domain's records wants all three and no cache. So this is a second, small one on the same wire library:
//! [`wire`] turns questions to octets and back, [`Resolver`] sends them by UDP and TCP on tokio.
//!
//! Invariants worth naming: an answer counts only from the server that was asked, with our id and our question in it;
//! "there is none" ([`Found::NoData`], [`Found::NoName`]) is never said for a server that failed ([`Found::Failed`]);
//! every list and text has a bound. Deliberately absent: a cache, DNSSEC validation, iteration from the root.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};

mod client;
mod wire;
#[cfg(test)]
pub(crate) mod zone;

pub(crate) use client::Resolver;

/// The record types that are asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    A,
    Aaaa,
    Mx,
    Ns,
    Ptr,
    Txt,
}

/// What a server said, or why none did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// The server that said it, or that was asked last; `None`: none is configured.
    pub server: Option<SocketAddr>,
    pub found: Found,
}

/// What there is under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// `aliases`: the names that the question's name leads to by CNAME, in order. `data` is never empty.
    Records {
        aliases: Vec<String>,
        data: Vec<Data>,
    },
    /// The name exists without such records.
    NoData {
        aliases: Vec<String>,
    },
    /// The name does not exist (NXDOMAIN).
    NoName,
    Failed(Failure),
}

/// One record's content. Names are lower case without the final dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Data {
    Address(IpAddr),
    Exchange {
        preference: u16,
        host: String,
    },
    /// Of NS and PTR.
    Name(String),
    /// The strings of one TXT record, as they are split; octets that are no UTF-8 are replaced.
    Text(Vec<String>),
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no name server is configured")]
    NoServer,
    #[error("the name server did not answer in time")]
    Timeout,
    #[error("the name server cannot be reached")]
    Unreachable,
    #[error("the name server failed (SERVFAIL): the servers of the zone do not answer it, or DNSSEC is broken")]
    ServFail,
    #[error("the name server refused to answer (REFUSED)")]
    Refused,
    #[error("the name server answered with an error")]
    OtherCode,
    #[error("the name server's answer cannot be read")]
    Malformed,
    #[error("this is not a name for DNS")]
    Name,
    #[error("the name is an alias of an alias without end")]
    AliasLoop,
    #[error("the check asked too many questions")]
    TooMany,
}

/// Who answers questions: name servers, or a test's zone.
pub(crate) trait Lookup: Send + Sync {
    /// Asks the configured name servers.
    fn ask(&self, name: &str, kind: Kind) -> impl Future<Output = Answer> + Send;

    /// Asks one authoritative server itself.
    fn ask_at(&self, server: IpAddr, name: &str, kind: Kind) -> impl Future<Output = Answer> + Send;
}

impl Answer {
    pub(crate) const fn failed(server: Option<SocketAddr>, failure: Failure) -> Self {
        Self { server, found: Found::Failed(failure) }
    }

    /// The records' content; empty where there is none.
    pub(crate) fn data(&self) -> &[Data] {
        match &self.found {
            Found::Records { data, .. } => data,
            Found::NoData { .. } | Found::NoName | Found::Failed(_) => &[],
        }
    }

    /// The texts of TXT records, each with its strings joined as receivers do.
    pub(crate) fn texts(&self) -> Vec<String> {
        let joined = self.data().iter().filter_map(|data| match data {
            Data::Text(strings) => Some(strings.concat()),
            Data::Address(_) | Data::Exchange { .. } | Data::Name(_) => None,
        });
        joined.collect()
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.data().iter().filter_map(|data| match data {
            Data::Address(address) => Some(*address),
            Data::Exchange { .. } | Data::Name(_) | Data::Text(_) => None,
        });
        addresses.collect()
    }

    /// Names that the question's name is an alias of, in order.
    pub(crate) fn aliases(&self) -> &[String] {
        match &self.found {
            Found::Records { aliases, .. } | Found::NoData { aliases } => aliases,
            Found::NoName | Found::Failed(_) => &[],
        }
    }

    /// Why nothing is known.
    pub(crate) const fn failure(&self) -> Option<Failure> {
        match self.found {
            Found::Failed(failure) => Some(failure),
            Found::Records { .. } | Found::NoData { .. } | Found::NoName => None,
        }
    }
}
