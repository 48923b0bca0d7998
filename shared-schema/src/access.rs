//! What a credential may do, and from where.
//!
//! Invariant worth naming: a credential that names no scopes may do everything that a tenant may, as before there were any;
//! one that names them may do nothing else. The same holds for networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something that a tenant's credential may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// Submit mail, by SMTP and REST.
    Submit,
    /// Read jobs, recipients, events and traces.
    JobsRead,
    DomainsRead,
    /// Add, check and remove domains that prove themselves.
    DomainsWrite,
    CredentialsRead,
    SuppressionsRead,
    SuppressionsWrite,
    /// Read the tenant itself and the pools that it may use.
    AccountRead,
}

impl Scope {
    pub const ALL: [Self; 8] = [
        Self::Submit,
        Self::JobsRead,
        Self::DomainsRead,
        Self::DomainsWrite,
        Self::CredentialsRead,
        Self::SuppressionsRead,
        Self::SuppressionsWrite,
        Self::AccountRead,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::JobsRead => "jobs:read",
            Self::DomainsRead => "domains:read",
            Self::DomainsWrite => "domains:write",
            Self::CredentialsRead => "credentials:read",
            Self::SuppressionsRead => "suppressions:read",
            Self::SuppressionsWrite => "suppressions:write",
            Self::AccountRead => "account:read",
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes(u32);

impl Scopes {
    /// What a credential may do that names none.
    pub const ALL: Self = Self(u32::MAX);

    /// The set as it is on the wire; unknown ones are of a newer version, and mean nothing here.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub const fn bits(self) -> u32 {
        self.0
    }

    pub const fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        *self == Self::ALL
    }

    /// Those that it has, in their order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl Default for Scopes {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | 1 << scope as u32))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Vec::<Scope>::deserialize(from)?.into_iter().collect())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Self::ALL.into_iter().find(|scope| scope.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            D::Error::custom(format!("there is no scope {name}; the scopes are {}", known.join(", ")))
        })
    }
}

/// Addresses with a common prefix, such as `192.0.2.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("a network is an address, or an address and a prefix length such as 192.0.2.0/24")]
    Malformed,
    #[error("the address has bits behind its prefix; the network begins at a lower address")]
    HostBits,
}

impl Network {
    /// The network of `prefix` bits that begins with `address`.
    ///
    /// # Errors
    /// The address is shorter than the prefix, or has bits behind it.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        if u32::from(prefix) > bits(address) {
            return Err(NetworkError::Malformed);
        }
        let network = Self { address, prefix };
        if network.masked(address) == value(address) { Ok(network) } else { Err(NetworkError::HostBits) }
    }

    /// The one that has `address` alone; of several with a common beginning it is the last.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    pub const fn address(&self) -> IpAddr {
        self.address
    }

    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it has that address; an IPv4 address may come as IPv6 sees it (`::ffff:192.0.2.1`).
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits(address) == bits(self.address) && self.masked(address) == value(self.address)
    }

    fn masked(&self, address: IpAddr) -> u128 {
        let behind = bits(address) - u32::from(self.prefix);
        // A prefix of no bits has the whole word behind it.
        value(address).checked_shr(behind).and_then(|front| front.checked_shl(behind)).unwrap_or(0)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Malformed)?;
        let all = u8::try_from(bits(address)).unwrap_or(u8::MAX);
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let prefix = prefix.map_or(Some(all), digits).ok_or(NetworkError::Malformed)?;
        Self::new(address, prefix)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_of_its_prefix_and_no_other() {
        let table = [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "::ffff:192.0.2.7", true),
            ("192.0.2.7", "::7", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
        ];
        for (network, address, wanted) in table {
            let found = network.parse::<Network>().unwrap().contains(address.parse().unwrap());
            assert_eq!(found, wanted, "{network} {address}");
        }
    }

    #[test]
    fn networks_overlap_where_one_is_in_the_other() {
        let table = [
            ("192.0.2.0/24", "192.0.2.128/25", true),
            ("192.0.2.0/25", "192.0.2.128/25", false),
            ("192.0.2.0/24", "192.0.2.0/24", true),
            ("::/0", "192.0.2.0/24", false),
        ];
        for (one, other, wanted) in table {
            let [one, other] = [one, other].map(|network| network.parse::<Network>().unwrap());
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (wanted, wanted), "{one} {other}");
        }
        let mapped = Network::of("::ffff:192.0.2.7".parse().unwrap());
        assert_eq!(mapped.to_string(), "192.0.2.7/32");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "192.0.2.0/33", "192.0.2.0/+8", "192.0.2.0/", "x/8", "2001:db8::/129", "192.0.2.0/24/1"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Malformed), "{text}");
        }
        assert_eq!("192.0.2.1/24".parse::<Network>(), Err(NetworkError::HostBits));
    }

    #[test]
    fn scopes_are_named_and_none_named_is_all() {
        let two: Scopes = serde_json::from_str(r#"["submit", "jobs:read"]"#).unwrap();
        assert!(two.has(Scope::Submit) && two.has(Scope::JobsRead) && !two.has(Scope::DomainsWrite));
        assert_eq!(serde_json::to_string(&two).unwrap(), r#"["submit","jobs:read"]"#);
        assert!(serde_json::from_str::<Scopes>(r#"["everything"]"#).unwrap_err().to_string().contains("domains:write"));
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::default().has(scope)));
        assert_eq!(Scopes::from_bits(two.bits()), two);
    }
}
