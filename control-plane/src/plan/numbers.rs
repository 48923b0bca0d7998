//! The numbers by which mail, events and journals name what is configured, and that none is given twice.
//!
//! ```text
//! desired/head  counters: the last of each kind     skipped: those that this store has passed over
//! ledger        given: the last of each kind that was given by any store of the installation
//! document      numbers: those that are in use, and the counters
//! ```
//!
//! A store may have been restored, or be new beside a ledger and spools that are not: before a number is given, the counters
//! pass over all that the ledger knows of. Invariants worth naming: a number that was passed over is given to what a
//! document of this installation says it is, and to nothing else; one that was given by this store is never given again.
//! Absent here: the numbers of hosts, which are drawn (`fleet::announce` of the command line).

use std::collections::BTreeMap;

use postrail_schema::ids::{
    CredentialId, KeyId, PoolId, ProviderId, RegionId, SendingDomainId, ShapingRuleId, SourceId, SuspensionId, TenantId,
};
use postrail_schema::limits::{REGIONS_MAX, SKIPPED_NUMBERS_MAX, STATE_NUMBER_MAX};
use postrail_schema::sealed::MasterKeyId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desired;
use super::desired::{Announced, Head};
use super::document::{CredentialEntry, DocumentEntry, DomainEntry};
use crate::ledger::Given;

macro_rules! counters {
    ($($kind:ident $next:ident $id:ident),* $(,)?) => {
        /// The last number given of each kind; numbers are never given again.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub(crate) struct Counters {
            $(pub $kind: u32,)*
        }

        impl Counters {
            $(
                pub(crate) fn $next(&mut self) -> $id {
                    $id(next(&mut self.$kind))
                }
            )*

            /// As the ledger keeps them.
            pub(crate) fn given(&self) -> Given {
                [$((stringify!($kind).to_owned(), self.$kind),)*].into()
            }

            fn each(&mut self) -> impl Iterator<Item = (&'static str, &mut u32)> {
                [$((stringify!($kind), &mut self.$kind),)*].into_iter()
            }
        }
    };
}

counters! {
    tenant next_tenant TenantId,
    credential next_credential CredentialId,
    domain next_domain SendingDomainId,
    key next_key KeyId,
    source next_source SourceId,
    pool next_pool PoolId,
    suspension next_suspension SuspensionId,
    region next_region RegionId,
    provider next_provider ProviderId,
    shaping_rule next_shaping_rule ShapingRuleId,
}

fn next(last: &mut u32) -> u32 {
    *last = last.checked_add(1).expect("four thousand million resources of one kind are never made");
    *last
}

/// Numbers of a kind that were passed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub kind: String,
    pub first: u32,
    pub last: u32,
}

impl Head {
    /// Whether more was given than this store knows of.
    pub(crate) fn is_behind(&self, given: &Given) -> bool {
        let mut counters = self.counters;
        counters.each().any(|(kind, last)| given.get(kind).is_some_and(|given| given > last))
    }

    /// Has data planes fetch the suppressions. The version that tells it grows, and is none that was given before in a state
    /// that the store has lost: so it is counted by the wall clock, Unix milliseconds.
    pub(crate) fn announce_suppressions(&mut self, now_ms: u64) {
        self.suppressions = now_ms.max(self.suppressions + 1);
    }

    /// Notes what a region's ledger has, which is announced with this. What regions had that are no more is forgotten.
    pub(crate) fn note_announced(&mut self, region: &str, now: Announced, is_known: impl Fn(&str) -> bool) {
        self.announced.insert(region.to_owned(), now);
        if self.announced.len() > REGIONS_MAX + 1 {
            self.announced.retain(|name, _| name == region || name.is_empty() || is_known(name));
        }
    }

    /// Passes over what was given.
    pub(crate) fn pass(&mut self, given: &Given) {
        for (kind, last) in self.counters.each() {
            let Some(&to) = given.get(kind).filter(|given| **given > *last) else { continue };
            let first = *last + 1;
            *last = to;
            match self.skipped.iter_mut().find(|range| range.kind == kind && range.last + 1 == first) {
                Some(before) => before.last = to,
                None => self.skipped.push(Skipped { kind: kind.to_owned(), first, last: to }),
            }
        }
        while self.skipped.len() > SKIPPED_NUMBERS_MAX {
            // Where two control planes gave numbers at once, few were passed over.
            let least = (0..self.skipped.len()).min_by_key(|at| self.skipped[*at].last - self.skipped[*at].first);
            self.skipped.remove(least.unwrap_or(0));
        }
    }

    /// Whether a number was passed over.
    pub(crate) fn has_skipped(&self, kind: &str, number: u32) -> bool {
        self.skipped.iter().any(|range| range.kind == kind && (range.first..=range.last).contains(&number))
    }
}

/// The numbers by which mail and events name what the document has. Whoever makes the document so in an empty installation
/// with the same master key gives them again, so that what waits in spools and what the ledger has belongs to the same
/// ones as before.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NumbersEntry {
    /// The id of the master key: under another, the numbers mean nothing and are not looked at.
    pub master_key: String,
    /// The last that was given of each kind; at most 2,147,483,647 each, as all numbers here.
    #[serde(default)]
    pub given: BTreeMap<String, u32>,
    #[serde(default)]
    pub tenants: BTreeMap<String, u32>,
    #[serde(default)]
    pub credentials: BTreeMap<String, u32>,
    #[serde(default)]
    pub sources: BTreeMap<String, u32>,
    /// By `NAME of TENANT`.
    #[serde(default)]
    pub domains: BTreeMap<String, u32>,
}

impl NumbersEntry {
    pub(crate) fn of(desired: &Desired, master_key: MasterKeyId) -> Self {
        Self {
            master_key: master_key.to_string(),
            given: desired.head.counters.given(),
            tenants: desired.tenants.values().map(|tenant| (tenant.name.clone(), tenant.id.0)).collect(),
            credentials: desired
                .credentials
                .values()
                .map(|credential| (CredentialEntry::of(desired, credential).name(), credential.id.0))
                .collect(),
            sources: desired.sources.values().map(|source| (source.name.clone(), source.id.0)).collect(),
            domains: desired
                .domains
                .values()
                .map(|domain| (DomainEntry::of(desired, domain).name(), domain.id.0))
                .collect(),
        }
    }

    /// The kind and the name of a number that cannot be.
    pub(crate) fn fault(&self) -> Option<(&'static str, &str)> {
        let kinds = [
            ("given", &self.given),
            ("tenants", &self.tenants),
            ("credentials", &self.credentials),
            ("sources", &self.sources),
            ("domains", &self.domains),
        ];
        kinds.into_iter().find_map(|(kind, numbers)| {
            let found = numbers.iter().find(|(_, number)| **number > STATE_NUMBER_MAX)?;
            Some((kind, found.0.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(tenant: u32, domain: u32) -> Given {
        [("tenant".to_owned(), tenant), ("domain".to_owned(), domain), ("of a later version".to_owned(), 9)].into()
    }

    #[test]
    fn what_was_given_is_passed_over_and_known_to_have_been() {
        let counters = Counters { tenant: 2, domain: 7, ..Counters::default() };
        let mut head = Head { counters, ..Head::default() };
        assert!(!head.is_behind(&given(2, 6)) && head.is_behind(&given(3, 6)));
        head.pass(&given(5, 6));
        assert_eq!((head.counters.next_tenant(), head.counters.next_domain()), (TenantId(6), SendingDomainId(8)));
        let skipped = |head: &Head| (1..9).filter(|number| head.has_skipped("tenant", *number)).collect::<Vec<_>>();
        assert_eq!(skipped(&head), [3, 4, 5]);
        assert!(!head.has_skipped("domain", 7));
        head.pass(&given(8, 8));
        assert_eq!(skipped(&head), [3, 4, 5, 7, 8]);
    }

    #[test]
    fn ranges_that_were_passed_over_are_bounded_and_the_largest_stay() {
        let mut head = Head::default();
        head.pass(&given(1_000, 0));
        for _ in 0..2 * SKIPPED_NUMBERS_MAX {
            let last = head.counters.next_tenant().0;
            head.pass(&given(last + 1, 0));
        }
        assert_eq!(head.skipped.len(), SKIPPED_NUMBERS_MAX);
        assert!(head.has_skipped("tenant", 500));
    }
}
