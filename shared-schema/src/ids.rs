//! Identifiers.
//!
//! Small numbers name configuration (never reused within a store); a [`MessageId`] names accepted mail and is a
//! UUID version 7 (RFC 9562 section 5.7) whose random field carries the shard that owns it, so that an id alone tells
//! where its spool is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! small_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

small_id!(
    /// A tenant: the customer account that owns domains, credentials, keys and quotas.
    TenantId
);
small_id!(
    /// A credential of a tenant (SMTP AUTH, Basic, bearer key).
    CredentialId
);
small_id!(
    /// A sending domain.
    SendingDomainId
);
small_id!(
    /// A DKIM key of a sending domain.
    KeyId
);
small_id!(
    /// An egress source: an address with its EHLO name.
    SourceId
);
small_id!(
    /// An egress pool: a weighted set of sources.
    PoolId
);
small_id!(
    /// A suspension of a site, source or tenant.
    SuspensionId
);

small_id!(
    /// A provider: a human name over several sites.
    ProviderId
);
small_id!(
    /// A shaping rule: it sets throttles and limits.
    ShapingRuleId
);

small_id!(
    /// A region: the hosts that serve some tenants alone.
    RegionId
);

small_id!(
    /// A host that runs a data plane, with its spool and its journals: one with an empty data folder is another host.
    HostId
);

impl HostId {
    /// The host of a single process, which is registered nowhere.
    pub const LOCAL: Self = Self(0);
}

/// Index of a data-plane shard on its host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a published configuration; grows by one with every publication.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names accepted mail: one REST job or one SMTP transaction. A UUID of version 7:
/// 48 bits of Unix milliseconds, version, 12 bits of shard, variant, 62 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

impl MessageId {
    /// Builds the id of a message accepted at `unix_ms` by `shard`; `random` gives the 62 low bits.
    pub fn new(unix_ms: u64, shard: ShardId, random: u64) -> Self {
        assert!(shard.0 < 4096, "a shard index has 12 bits in an id");
        let time = u128::from(unix_ms & 0xffff_ffff_ffff) << 80;
        let version = 0x7_u128 << 76;
        let owner = u128::from(shard.0) << 64;
        let variant = 0b10_u128 << 62;
        Self(time | version | owner | variant | u128::from(random & (u64::MAX >> 2)))
    }

    /// The id with these 128 bits, as read from a frame or an event.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// All 128 bits.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The shard whose spool holds the message.
    pub const fn shard(self) -> ShardId {
        ShardId(((self.0 >> 64) & 0xfff) as u16)
    }

    /// Unix milliseconds of acceptance.
    pub const fn unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand, since several of them are written for each mail.
        let mut text = [b'-'; 36];
        let places = (0..36).filter(|place| ![8, 13, 18, 23].contains(place));
        for (digit, place) in places.enumerate() {
            text[place] = b"0123456789abcdef"[(self.0 >> (124 - 4 * digit)) as usize & 0xf];
        }
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a UUID in its 36-character form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a message id: expected the 36 characters of a UUID")]
pub struct InvalidMessageId;

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return Err(InvalidMessageId);
        }
        let mut bits = 0_u128;
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if *byte != b'-' {
                    return Err(InvalidMessageId);
                }
                continue;
            }
            let digit = char::from(*byte).to_digit(16).ok_or(InvalidMessageId)?;
            bits = bits << 4 | u128::from(digit);
        }
        Ok(Self(bits))
    }
}

/// Position of a recipient within its job, from 0, in the order of submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct RecipientIndex(pub u16);

/// The unit that settles: one address of one job. Text form `<message id>.<index>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecipientKey {
    pub message: MessageId,
    pub index: RecipientIndex,
}

impl fmt::Display for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.index.0)
    }
}

impl FromStr for RecipientKey {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (message, index) = text.split_once('.').ok_or(InvalidMessageId)?;
        let index = index.parse().map_err(|_| InvalidMessageId)?;
        Ok(Self { message: message.parse()?, index: RecipientIndex(index) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_tells_its_time_and_its_shard() {
        let id = MessageId::new(1_795_000_000_123, ShardId(37), u64::MAX);
        assert_eq!(id.unix_ms(), 1_795_000_000_123);
        assert_eq!(id.shard(), ShardId(37));
        let text = id.to_string();
        assert_eq!(text.as_bytes()[14], b'7', "version nibble of {text}");
        assert_eq!(text.parse(), Ok(id));
    }

    #[test]
    fn text_that_is_no_uuid_is_refused() {
        for text in ["", "x", "00000000-0000-0000-0000-00000000000", "00000000x0000-0000-0000-000000000000"] {
            assert_eq!(text.parse::<MessageId>(), Err(InvalidMessageId), "{text}");
        }
    }
}
