//! Whether a sending domain may send, as its DNS records decided.
//!
//! ```text
//! Trusted                                  the operator vouches for it; DNS decides nothing
//! Unproved --all needed records--> Verified --one goes--> Failing --grace over--> Lapsed
//!                                  Verified <--back-------Failing / Lapsed
//! ```
//!
//! The control plane moves a domain along these; the data plane only asks [`SendingDomain::refusal`]. Absent here: the
//! records' contents, and how long the grace is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::{SendingDomain, Tenant};

/// See the module head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// The operator vouches for it.
    #[default]
    Trusted,
    /// DNS had every needed record at the last conclusive check.
    Verified,
    /// It was verified, and a needed record is missing or wrong since; it may send while the grace lasts.
    Failing,
    /// DNS never had all that is needed.
    Unproved { missing: DomainRecord },
    /// It was verified, and a needed record was missing or wrong for longer than the grace.
    Lapsed { missing: DomainRecord },
}

/// A record that a domain needs before it may send, in the order in which the first missing one is named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainRecord {
    Ownership,
    Spf,
    Dkim,
    Dmarc,
}

/// Why mail from a registered domain is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainRefusalReason {
    Unproved,
    Lapsed,
}

/// Why mail from a domain is not taken, and the record that would change it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainRefusal {
    pub reason: DomainRefusalReason,
    pub domain: String,
    pub missing: DomainRecord,
    /// Where that record belongs.
    pub record_name: String,
}

impl Standing {
    /// Whether mail from the domain is taken.
    pub const fn may_send(self) -> bool {
        !matches!(self, Self::Unproved { .. } | Self::Lapsed { .. })
    }

    /// As configuration and API write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Verified => "verified",
            Self::Failing => "failing",
            Self::Unproved { .. } => "unproved",
            Self::Lapsed { .. } => "lapsed",
        }
    }
}

impl DomainRecord {
    pub const ALL: [Self; 4] = [Self::Ownership, Self::Spf, Self::Dkim, Self::Dmarc];

    /// The word for it in sentences.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ownership => "ownership",
            Self::Spf => "SPF",
            Self::Dkim => "DKIM",
            Self::Dmarc => "DMARC",
        }
    }
}

impl SendingDomain {
    /// Whether it was verified, and DNS lacks something that it needs.
    pub const fn is_failing(&self) -> bool {
        matches!(self.standing, Standing::Failing | Standing::Lapsed { .. })
    }

    /// As [`Self::refusal`] of a domain of `tenant`, which may want failing mail to be accepted and kept.
    pub fn refusal_of(&self, tenant: &Tenant) -> Option<DomainRefusal> {
        self.refusal().filter(|_| !(tenant.quarantines && self.is_failing()))
    }

    /// Why its mail is not taken; `None`: it may send.
    pub fn refusal(&self) -> Option<DomainRefusal> {
        let (reason, missing) = match self.standing {
            Standing::Trusted | Standing::Verified | Standing::Failing => return None,
            Standing::Unproved { missing } => (DomainRefusalReason::Unproved, missing),
            Standing::Lapsed { missing } => (DomainRefusalReason::Lapsed, missing),
        };
        let (domain, record_name) = (self.name.clone(), self.record_name(missing));
        Some(DomainRefusal { reason, domain, missing, record_name })
    }

    /// Where a record of this domain belongs; of its DKIM records the first.
    pub fn record_name(&self, record: DomainRecord) -> String {
        match record {
            DomainRecord::Ownership => format!("{OWNERSHIP_LABEL}.{}", self.name),
            DomainRecord::Spf => self.name.clone(),
            DomainRecord::Dkim => {
                let selector =
                    self.keys.iter().find(|key| key.stage.signs()).map_or("selector", |key| key.selector.as_str());
                format!("{selector}._domainkey.{}", self.name)
            }
            DomainRecord::Dmarc => format!("_dmarc.{}", self.name),
        }
    }
}

impl fmt::Display for DomainRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, word, name) = (&self.domain, self.missing.word(), &self.record_name);
        match self.reason {
            DomainRefusalReason::Unproved => {
                write!(f, "The domain {domain} may not send yet: its {word} record is not published, TXT {name}")
            }
            DomainRefusalReason::Lapsed => write!(
                f,
                "The domain {domain} may not send any more: its {word} record has been missing or wrong for too long, TXT {name}"
            ),
        }
    }
}

/// The label under which a domain shows whose it is.
pub const OWNERSHIP_LABEL: &str = "_postrail";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SendingDomainId, TenantId};

    fn domain(standing: Standing) -> SendingDomain {
        let (id, tenant, name) = (SendingDomainId(1), TenantId(1), "a.example".to_owned());
        SendingDomain { id, tenant, name, keys: Vec::new(), pool: None, standing, is_platform: false, is_later: false }
    }

    #[test]
    fn only_unproved_and_lapsed_domains_are_refused_and_told_which_record_is_missing() {
        for standing in [Standing::Trusted, Standing::Verified, Standing::Failing] {
            assert!(standing.may_send() && domain(standing).refusal().is_none(), "{standing:?}");
        }
        for missing in DomainRecord::ALL {
            for standing in [Standing::Unproved { missing }, Standing::Lapsed { missing }] {
                let refusal = domain(standing).refusal().expect("it may not send").to_string();
                let name = domain(standing).record_name(missing);
                assert!(!standing.may_send() && refusal.ends_with(&format!("TXT {name}")), "{refusal}");
            }
        }
        assert_eq!(domain(Standing::Trusted).record_name(DomainRecord::Ownership), "_postrail.a.example");
    }
}
