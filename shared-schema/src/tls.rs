//! TLS rules: how mail must be protected on its way to its receiver.
//!
//! Which rules hold for a mail: those about it that no narrower one overrules. A rule is narrower than another if it names
//! all facts that the other names, and more. Of what is left the strictest holds, setting by setting: demands of a sender
//! and of a receiver add up, and an exception has to be about less mail than the rule that it lifts.
//!
//! ```text
//! all mail: required        <- overruled by ->  to old.example: opportunistic      (an exception)
//! tenant shop: verified     <- beside       ->  to old.example: opportunistic      (verified holds)
//! ```
//!
//! Invariants worth naming: what holds does not depend on the order or the names of rules; a rule that names a host
//! verifies. Absent here: DANE and MTA-STS, and the connection that meets a policy (the data plane's `egress`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::selector::{MailFacts, RuleTable, Selector};
use crate::shaping::is_host;
use crate::snapshot::SnapshotError;

/// What some mail demands of the connection to its receiver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TlsRule {
    /// Unique slug.
    pub name: String,
    pub selector: Selector,
    pub level: TlsLevel,
    pub minimum_version: TlsVersion,
    /// MX hosts that may be used: names, or suffixes that begin with a dot; lower case. Empty: any. Only with
    /// [`TlsLevel::Verified`].
    pub hosts: Vec<String>,
}

/// How far a connection is protected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsLevel {
    /// TLS where it is offered, with any certificate; plaintext where it is not, or where it fails (RFC 7435).
    #[default]
    Opportunistic,
    /// TLS with any certificate, never plaintext.
    Required,
    /// TLS with a certificate of a known authority that is valid for the host's name, never plaintext.
    Verified,
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// What all rules that hold for a mail demand together. Equal demands are met by one connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TlsPolicy {
    pub level: TlsLevel,
    /// Of a level above [`TlsLevel::Opportunistic`], which would be met by plaintext.
    pub minimum_version: TlsVersion,
    /// A host that may be used is in each of these lists.
    pub hosts: Vec<Vec<String>>,
}

impl TlsLevel {
    pub const ALL: [Self; 3] = [Self::Opportunistic, Self::Required, Self::Verified];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
            Self::Verified => "verified",
        }
    }
}

impl TlsVersion {
    pub const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }

    /// Whether nothing beyond what is always demanded is.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TlsPolicy {
    /// What holds without rules.
    pub fn is_opportunistic(&self) -> bool {
        self.level == TlsLevel::Opportunistic
    }

    /// Whether mail may go to an MX host of that name.
    pub fn allows_host(&self, host: &str) -> bool {
        self.hosts.iter().all(|list| list.iter().any(|pattern| is_host(pattern, host)))
    }

    /// This policy with what a rule demands.
    fn strengthen(&mut self, rule: &TlsRule) {
        self.level = self.level.max(rule.level);
        if rule.level > TlsLevel::Opportunistic {
            self.minimum_version = self.minimum_version.max(rule.minimum_version);
        }
        if !rule.hosts.is_empty()
            && let Err(at) = self.hosts.binary_search(&rule.hosts)
        {
            self.hosts.insert(at, rule.hosts.clone());
        }
    }
}

/// Such as `verified TLS 1.3 of a host in .example.net`.
impl fmt::Display for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} TLS", self.level.name())?;
        if !self.minimum_version.is_default() {
            write!(f, " {}", self.minimum_version.name())?;
        }
        for (at, list) in self.hosts.iter().enumerate() {
            let link = if at == 0 { "of a host in" } else { "and in" };
            write!(f, " {link} {}", list.join(", "))?;
        }
        Ok(())
    }
}

/// The rules of a snapshot, by name and ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct TlsRules {
    pub all: BTreeMap<String, TlsRule>,
    table: RuleTable<Arc<TlsRule>>,
}

impl TlsRules {
    pub fn new(rules: impl IntoIterator<Item = TlsRule>) -> Self {
        let all: BTreeMap<_, _> = rules.into_iter().map(|rule| (rule.name.clone(), rule)).collect();
        Self { table: table(&all), all }
    }

    pub(crate) fn replace(&mut self, gone: &[TlsRule], come: Vec<TlsRule>) -> Result<(), SnapshotError> {
        if gone.is_empty() && come.is_empty() {
            return Ok(());
        }
        gone.iter().for_each(|rule| drop(self.all.remove(&rule.name)));
        for rule in come {
            let subject = format!("tls_rule/{}", rule.name);
            if self.all.insert(rule.name.clone(), rule).is_some() {
                return Err(SnapshotError::Duplicate { subject });
            }
        }
        self.table = table(&self.all);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The rules that hold for a mail: those about it that no narrower one overrules.
    pub fn holding(&self, mail: MailFacts<'_>) -> impl Iterator<Item = &TlsRule> {
        let matching = self.table.matching(mail);
        let narrower = matching.clone();
        let holds =
            move |rule: &&Arc<TlsRule>| narrower.clone().all(|other| !is_narrower(&other.selector, &rule.selector));
        matching.filter(holds).map(|rule| &**rule)
    }

    /// What they demand together; `None`: nothing beyond opportunistic TLS.
    pub fn policy(&self, mail: MailFacts<'_>) -> Option<TlsPolicy> {
        if self.all.is_empty() {
            return None;
        }
        let mut policy = TlsPolicy::default();
        self.holding(mail).for_each(|rule| policy.strengthen(rule));
        (!policy.is_opportunistic()).then_some(policy)
    }

    /// The rules that have a share in [`Self::policy`]: not those that demand nothing.
    pub fn demanding(&self, mail: MailFacts<'_>) -> impl Iterator<Item = &TlsRule> {
        self.holding(mail).filter(|rule| rule.level > TlsLevel::Opportunistic)
    }
}

fn table(all: &BTreeMap<String, TlsRule>) -> RuleTable<Arc<TlsRule>> {
    let shared: Vec<_> = all.values().cloned().map(Arc::new).collect();
    RuleTable::new(shared.iter().map(|rule| (&rule.selector, Arc::clone(rule))))
}

/// Of two selectors about one mail: whether `one` names all that `other` names, and more.
pub fn is_narrower(one: &Selector, other: &Selector) -> bool {
    let (one, other) = (one.rank(), other.rank());
    one != other && one & other == other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SendingDomainId, TenantId};
    use crate::snapshot::TrafficClass;

    const MAIL: MailFacts<'static> = MailFacts {
        recipient_domain: Some("old.example"),
        site: Some("mx.old.example"),
        sending_domain: SendingDomainId(1),
        tenant: TenantId(1),
        class: TrafficClass::Transactional,
    };

    fn rule(name: &str, selector: Selector, level: TlsLevel) -> TlsRule {
        TlsRule { name: name.into(), selector, level, minimum_version: TlsVersion::V1_2, hosts: Vec::new() }
    }

    fn to_old() -> Selector {
        Selector { recipient_domain: Some("old.example".into()), ..Selector::default() }
    }

    fn of_shop() -> Selector {
        Selector { tenant: Some(TenantId(1)), ..Selector::default() }
    }

    fn level(rules: &[TlsRule], mail: MailFacts<'_>) -> TlsLevel {
        TlsRules::new(rules.to_vec()).policy(mail).map_or(TlsLevel::Opportunistic, |policy| policy.level)
    }

    #[test]
    fn an_exception_lifts_wider_rules_alone() {
        let all = rule("all", Selector::default(), TlsLevel::Required);
        let old = rule("old", to_old(), TlsLevel::Opportunistic);
        assert_eq!(level(&[all.clone(), old.clone()], MAIL), TlsLevel::Opportunistic);
        let elsewhere = MailFacts { recipient_domain: Some("new.example"), ..MAIL };
        assert_eq!(level(&[all.clone(), old.clone()], elsewhere), TlsLevel::Required);
        let shop = rule("shop", of_shop(), TlsLevel::Verified);
        assert_eq!(
            level(&[all.clone(), old.clone(), shop.clone()], MAIL),
            TlsLevel::Verified,
            "a sender's demand stays"
        );
        let both = rule("both", Selector { tenant: Some(TenantId(1)), ..to_old() }, TlsLevel::Opportunistic);
        assert_eq!(level(&[all, old, shop, both], MAIL), TlsLevel::Opportunistic, "for this pair it was said");
        assert_eq!(TlsRules::default().policy(MAIL), None);
    }

    #[test]
    fn demands_of_rules_that_hold_beside_each_other_add_up() {
        let hosts = |mut rule: TlsRule, hosts: &[&str]| {
            rule.hosts = hosts.iter().map(|&host| host.to_owned()).collect();
            rule
        };
        let old = hosts(rule("old", to_old(), TlsLevel::Verified), &[".old.example"]);
        let shop = TlsRule { minimum_version: TlsVersion::V1_3, ..rule("shop", of_shop(), TlsLevel::Required) };
        let class = Selector { class: Some(TrafficClass::Transactional), ..Selector::default() };
        let codes = hosts(rule("codes", class, TlsLevel::Verified), &["mx.old.example", "mx.new.example"]);
        let rules = TlsRules::new([old, shop, codes]);
        let policy = rules.policy(MAIL).unwrap();
        assert_eq!((policy.level, policy.minimum_version), (TlsLevel::Verified, TlsVersion::V1_3));
        let allowed = ["mx.old.example", "mx2.old.example", "mx.new.example"].map(|host| policy.allows_host(host));
        assert_eq!(allowed, [true, false, false], "a host has to be in the list of each");
        let told = "verified TLS 1.3 of a host in .old.example and in mx.old.example, mx.new.example";
        assert_eq!(policy.to_string(), told);
        assert_eq!(rules.demanding(MAIL).count(), 3);
    }
}
