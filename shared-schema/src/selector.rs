//! Which mail a rule is about, and which of several rules counts.
//!
//! A [`Selector`] names facts of a mail; what it leaves out may be anything. Of all rules that are about a mail the one
//! that names the most important fact counts, in this order, whatever else the others name:
//!
//! ```text
//! recipient domain > site > sending domain > tenant > traffic class > (nothing: every mail)
//! ```
//!
//! Of two rules with the same most important fact the next one decides, and so on: the order is that of a number with one
//! bit a fact. Two rules that name the same facts with the same values are a mistake; no two others are ever equal.
//!
//! Invariants worth naming: what a rule costs a mail does not depend on how many rules there are, only on how many kinds
//! of selectors are in use (at most 32). Absent here: what rules say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{SendingDomainId, TenantId};
use crate::snapshot::TrafficClass;

/// The mail that a rule is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient_domain: Option<String>,
    /// The name of a site: its MX hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// With its tenant, always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sending_domain: Option<SendingDomainId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<TrafficClass>,
}

/// What of a mail rules look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MailFacts<'a> {
    /// `None`: the question is about all recipients of a mail.
    pub recipient_domain: Option<&'a str>,
    /// `None`: not known, or not yet.
    pub site: Option<&'a str>,
    pub sending_domain: SendingDomainId,
    pub tenant: TenantId,
    pub class: TrafficClass,
}

const RECIPIENT_DOMAIN: u8 = 16;
const SITE: u8 = 8;
const SENDING_DOMAIN: u8 = 4;
const TENANT: u8 = 2;
const CLASS: u8 = 1;

impl Selector {
    /// About all mail of one sending domain.
    pub fn of_domain(tenant: TenantId, domain: SendingDomainId) -> Self {
        Self { sending_domain: Some(domain), tenant: Some(tenant), ..Self::default() }
    }

    /// How specific it is: a greater number comes before a smaller one.
    pub fn rank(&self) -> u8 {
        let bit = |named: bool, bit| if named { bit } else { 0 };
        bit(self.recipient_domain.is_some(), RECIPIENT_DOMAIN)
            | bit(self.site.is_some(), SITE)
            | bit(self.sending_domain.is_some(), SENDING_DOMAIN)
            | bit(self.tenant.is_some(), TENANT)
            | bit(self.class.is_some(), CLASS)
    }

    /// Whether it asks where mail goes, which is not known of a mail as a whole.
    pub fn is_by_receiver(&self) -> bool {
        self.recipient_domain.is_some() || self.site.is_some()
    }
}

/// The facts of a selector with one number each; 0 where it names none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    rank: u8,
    class: u8,
    recipient_domain: u32,
    site: u32,
    sending_domain: u32,
    tenant: u32,
}

/// Rules by what they are about.
#[derive(Clone, Debug)]
pub struct RuleTable<R> {
    /// A number for every name in use, from 1.
    names: BTreeMap<String, u32>,
    /// The ranks in use, greatest first.
    ranks: Vec<u8>,
    rules: BTreeMap<Key, R>,
}

impl<R> Default for RuleTable<R> {
    fn default() -> Self {
        Self { names: BTreeMap::new(), ranks: Vec::new(), rules: BTreeMap::new() }
    }
}

impl<R> RuleTable<R> {
    /// Of two rules about the same mail the last counts.
    pub fn new<'s>(rules: impl IntoIterator<Item = (&'s Selector, R)>) -> Self {
        let mut table = Self::default();
        for (selector, rule) in rules {
            let rank = selector.rank();
            let key = Key {
                rank,
                class: selector.class.map_or(0, |class| class as u8),
                recipient_domain: selector.recipient_domain.as_deref().map_or(0, |name| table.number(name)),
                site: selector.site.as_deref().map_or(0, |name| table.number(name)),
                sending_domain: selector.sending_domain.map_or(0, |id| id.0),
                tenant: selector.tenant.map_or(0, |id| id.0),
            };
            table.rules.insert(key, rule);
            if let Err(at) = table.ranks.binary_search_by(|known| rank.cmp(known)) {
                table.ranks.insert(at, rank);
            }
        }
        table
    }

    fn number(&mut self, name: &str) -> u32 {
        let next = self.names.len() as u32 + 1;
        *self.names.entry(name.to_owned()).or_insert(next)
    }

    /// The rules about a mail, the one that counts first.
    pub fn matching<'t>(&'t self, mail: MailFacts<'_>) -> impl Iterator<Item = &'t R> + Clone + use<'t, R> {
        let number = |name: Option<&str>| name.and_then(|name| self.names.get(name)).copied();
        let is_by_name = self.ranks.first().is_some_and(|rank| *rank >= SITE);
        let numbers = if is_by_name { (number(mail.recipient_domain), number(mail.site)) } else { (None, None) };
        let ids = (mail.class, mail.sending_domain, mail.tenant);
        self.ranks.iter().filter_map(move |rank| self.rules.get(&key_of(*rank, ids, numbers)?))
    }

    /// The rule that counts for a mail.
    pub fn first(&self, mail: MailFacts<'_>) -> Option<&R> {
        self.matching(mail).next()
    }

    /// Whether some rule is about a site.
    pub fn is_by_site(&self) -> bool {
        self.ranks.iter().any(|rank| rank & SITE != 0)
    }
}

/// The key of the one selector of that rank that a mail matches; `numbers`: of its recipient domain and its site.
fn key_of(
    rank: u8,
    (class, sending_domain, tenant): (TrafficClass, SendingDomainId, TenantId),
    numbers: (Option<u32>, Option<u32>),
) -> Option<Key> {
    let has = |bit| rank & bit != 0;
    Some(Key {
        rank,
        class: if has(CLASS) { class as u8 } else { 0 },
        recipient_domain: if has(RECIPIENT_DOMAIN) { numbers.0? } else { 0 },
        site: if has(SITE) { numbers.1? } else { 0 },
        sending_domain: if has(SENDING_DOMAIN) { sending_domain.0 } else { 0 },
        tenant: if has(TENANT) { tenant.0 } else { 0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: MailFacts<'static> = MailFacts {
        recipient_domain: Some("receiver.example"),
        site: Some("mx.receiver.example"),
        sending_domain: SendingDomainId(7),
        tenant: TenantId(3),
        class: TrafficClass::Marketing,
    };

    /// The selector that names the facts of [`MAIL`] whose bits are in `rank`.
    fn selector(rank: u8) -> Selector {
        Selector {
            recipient_domain: MAIL.recipient_domain.filter(|_| rank & RECIPIENT_DOMAIN != 0).map(str::to_owned),
            site: MAIL.site.filter(|_| rank & SITE != 0).map(str::to_owned),
            sending_domain: (rank & SENDING_DOMAIN != 0).then_some(MAIL.sending_domain),
            tenant: (rank & TENANT != 0).then_some(MAIL.tenant),
            class: (rank & CLASS != 0).then_some(MAIL.class),
        }
    }

    #[test]
    fn of_all_rules_about_a_mail_the_most_specific_comes_first_whatever_their_order() {
        let selectors: Vec<_> = (0..32).map(selector).collect();
        let table = RuleTable::new(selectors.iter().map(|selector| (selector, selector.rank())));
        assert_eq!(table.matching(MAIL).copied().collect::<Vec<_>>(), (0..32).rev().collect::<Vec<_>>());
        let unresolved = MailFacts { site: None, ..MAIL };
        assert!(table.matching(unresolved).all(|rank| rank & SITE == 0));
    }

    #[test]
    fn a_rule_about_other_mail_does_not_match() {
        let others = [
            Selector { recipient_domain: Some("other.example".to_owned()), ..Selector::default() },
            Selector { site: Some("receiver.example".to_owned()), ..Selector::default() },
            Selector { sending_domain: Some(SendingDomainId(8)), tenant: Some(TenantId(3)), ..Selector::default() },
            Selector { tenant: Some(TenantId(4)), ..Selector::default() },
            Selector { class: Some(TrafficClass::Transactional), ..Selector::default() },
        ];
        let table = RuleTable::new(others.iter().map(|selector| (selector, ())));
        assert_eq!(table.first(MAIL), None);
        assert!(table.is_by_site());
        assert_eq!(RuleTable::<()>::default().first(MAIL), None);
    }
}
