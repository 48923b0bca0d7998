//! TLS rules: as a document says them, and findings about rules without effect, exceptions, and rules that exclude each
//! other.
//!
//! Wider rules of a rule are found by leaving out facts of its selector, so that what a rule costs does not depend on how many
//! there are.

use std::collections::BTreeMap;

use postrail_schema::host::AuthoritiesHash;
use postrail_schema::limits::TLS_RULE_PAIRS_MAX;
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::selector::Selector;
use postrail_schema::snapshot::TrafficClass;
use postrail_schema::tls::{TlsLevel, TlsRule, TlsVersion, is_narrower};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desired;
use super::check::add;
use super::document::DocumentEntry;
use super::policies::{SelectorEntry, selectors};

/// What some mail demands of the connection to its receiver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsRuleEntry {
    pub name: String,
    /// All mail by default.
    #[serde(default, rename = "match", skip_serializing_if = "SelectorEntry::is_all")]
    pub mail: SelectorEntry,
    /// `opportunistic`, `required` (TLS with any certificate) or `verified` (a certificate of a known authority that is valid
    /// for the MX host).
    #[schema(value_type = String)]
    pub level: TlsLevel,
    /// `1.2` or `1.3`; `1.2` by default.
    #[serde(default, skip_serializing_if = "TlsVersion::is_default")]
    #[schema(value_type = String, required = false)]
    pub minimum_version: TlsVersion,
    /// MX hosts that may be used: names, or suffixes that begin with a dot; any by default. Only with `verified`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

impl DocumentEntry for TlsRuleEntry {
    const KIND: &'static str = "tls_rule";

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl TlsRuleEntry {
    pub(crate) fn of(desired: &Desired, rule: &TlsRule) -> Self {
        Self {
            name: rule.name.clone(),
            mail: SelectorEntry::of(desired, &rule.selector),
            level: rule.level,
            minimum_version: rule.minimum_version,
            hosts: rule.hosts.clone(),
        }
    }
}

/// Findings about TLS rules.
pub(super) fn check(desired: &Desired, to: &mut Vec<Problem>) {
    let rules = || desired.tls_rules.values();
    selectors(desired, rules().map(|rule| (&rule.selector, subject(rule))), to);
    let known: BTreeMap<&Selector, &TlsRule> = rules().map(|rule| (&rule.selector, rule)).collect();
    for rule in rules() {
        check_effect(rule, &wider(rule, &known), to);
        check_shadow(desired, rule, &known, to);
    }
    check_hosts(desired, to);
}

fn subject(rule: &TlsRule) -> String {
    format!("tls_rule/{}", rule.name)
}

/// The rules that are about all mail of `rule`, and more.
fn wider<'a>(rule: &TlsRule, known: &BTreeMap<&Selector, &'a TlsRule>) -> Vec<&'a TlsRule> {
    let full = &rule.selector;
    let mut found = Vec::new();
    for mask in 0..32_u8 {
        let has = |bit: u8| mask & 1 << bit != 0;
        let part = Selector {
            recipient_domain: full.recipient_domain.clone().filter(|_| has(0)),
            site: full.site.clone().filter(|_| has(1)),
            sending_domain: full.sending_domain.filter(|_| has(2)),
            tenant: full.tenant.filter(|_| has(3)),
            class: full.class.filter(|_| has(4)),
        };
        let is_new = part != *full && found.iter().all(|other: &&TlsRule| other.selector != part);
        found.extend(known.get(&part).filter(|_| is_new));
    }
    found
}

/// Whether `rule` demands all that `other` demands.
fn demands_all_of(rule: &TlsRule, other: &TlsRule) -> bool {
    other.level == TlsLevel::Opportunistic
        || rule.level >= other.level
            && rule.minimum_version >= other.minimum_version
            && (other.hosts.is_empty() || !rule.hosts.is_empty())
}

fn check_effect(rule: &TlsRule, wider: &[&TlsRule], to: &mut Vec<Problem>) {
    let names = |of: &[&&TlsRule]| of.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", ");
    let lifted: Vec<_> = wider.iter().filter(|other| !demands_all_of(rule, other)).collect();
    let demands = |rule: &TlsRule| (rule.level, rule.minimum_version, rule.hosts.clone());
    if !lifted.is_empty() {
        let detail = format!(
            "it is an exception: it lifts what the wider rules {} demand, for the mail that it is about",
            names(&lifted)
        );
        add(to, Severity::Note, "tls_rule_lifts", subject(rule), detail);
    } else if rule.level == TlsLevel::Opportunistic {
        let detail = "it has no effect: it demands nothing, and no wider rule demands what it could lift";
        add(to, Severity::Note, "tls_rule_without_effect", subject(rule), detail);
    } else if !wider.is_empty() && wider.iter().all(|other| demands(other) == demands(rule)) {
        let detail =
            format!("it has no effect: the wider rules {} demand the same", names(&wider.iter().collect::<Vec<_>>()));
        add(to, Severity::Note, "tls_rule_without_effect", subject(rule), detail);
    }
}

/// A rule never holds where narrower ones are about all its mail.
fn check_shadow(desired: &Desired, rule: &TlsRule, known: &BTreeMap<&Selector, &TlsRule>, to: &mut Vec<Problem>) {
    let mut told = |names: Vec<&str>| {
        let detail = format!("it never holds: the narrower rules {} are about all its mail", names.join(", "));
        add(to, Severity::Warning, "tls_rule_shadowed", subject(rule), detail);
    };
    let name_of = |selector: Selector| known.get(&selector).map(|rule| rule.name.as_str());
    if rule.selector.class.is_none() {
        let by_class = |class| name_of(Selector { class: Some(class), ..rule.selector.clone() });
        if let Some(names) = TrafficClass::ALL.into_iter().map(by_class).collect() {
            return told(names);
        }
    }
    if let (Some(tenant), None) = (rule.selector.tenant, rule.selector.sending_domain) {
        let own = desired.domains.values().filter(|domain| domain.tenant == tenant);
        let by_domain =
            own.map(|domain| name_of(Selector { sending_domain: Some(domain.id), ..rule.selector.clone() }));
        if let Some(names) = by_domain.collect::<Option<Vec<_>>>().filter(|names| !names.is_empty()) {
            told(names);
        }
    }
}

/// Two rules that hold for the same mail and have no host in common stop that mail.
fn check_hosts(desired: &Desired, to: &mut Vec<Problem>) {
    let naming: Vec<&TlsRule> = desired.tls_rules.values().filter(|rule| !rule.hosts.is_empty()).collect();
    let pairs =
        naming.iter().enumerate().flat_map(|(at, one)| naming[at + 1..].iter().map(move |other| (*one, *other)));
    for (one, other) in pairs.take(TLS_RULE_PAIRS_MAX) {
        let is_beside = !is_narrower(&one.selector, &other.selector) && !is_narrower(&other.selector, &one.selector);
        let has_common = one.hosts.iter().any(|a| other.hosts.iter().any(|b| overlap(a, b)));
        if is_beside && !has_common && may_meet(&one.selector, &other.selector) {
            let detail = format!(
                "some mail is about both this rule and {}, and no host is allowed by both: it would never go; \
                 make a rule that names what both name, or allow a common host",
                other.name
            );
            add(to, Severity::Warning, "tls_rules_contradict", subject(one), detail);
        }
    }
}

/// Whether a host can be what both patterns name.
fn overlap(one: &str, other: &str) -> bool {
    one == other || one.starts_with('.') && other.ends_with(one) || other.starts_with('.') && one.ends_with(other)
}

/// Whether some mail can be about both.
fn may_meet(one: &Selector, other: &Selector) -> bool {
    fn agree<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
        one.is_none() || other.is_none() || one == other
    }
    agree(&one.recipient_domain, &other.recipient_domain)
        && agree(&one.site, &other.site)
        && agree(&one.sending_domain, &other.sending_domain)
        && agree(&one.tenant, &other.tenant)
        && agree(&one.class, &other.class)
}

/// What is wrong with the authorities of receivers' certificates that hosts have beside those of their systems: all that run
/// are to have the same. Those that do not say are left out.
pub(crate) fn authorities_problem(hosts: &BTreeMap<String, AuthoritiesHash>) -> Option<Problem> {
    let mut alike: BTreeMap<AuthoritiesHash, Vec<&str>> = BTreeMap::new();
    for (host, hash) in hosts {
        alike.entry(*hash).or_default().push(host);
    }
    if alike.len() < 2 {
        return None;
    }
    let told = alike.iter().map(|(hash, hosts)| {
        let what = if hash.is_of_none() { "none".to_owned() } else { format!("{hash:.8}") };
        let mut names = hosts.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        if let more @ 1.. = hosts.len().saturating_sub(NAMED_MAX) {
            names.push_str(&format!(" and {more} more"));
        }
        format!("{names}: {what}")
    });
    Some(Problem {
        severity: Severity::Warning,
        code: "receiver_authorities_differ",
        subject: "fleet/hosts".to_owned(),
        detail: format!(
            "hosts know different authorities of receivers' certificates ({}), so that mail that one of them sends waits at \
             another: give all the same file by --receiver-ca, and restart them",
            told.collect::<Vec<_>>().join("; ")
        ),
    })
}

/// Hosts with the same authorities that a finding names one by one.
const NAMED_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use postrail_schema::ids::TenantId;

    use super::*;

    fn rule(name: &str, selector: Selector, level: TlsLevel, hosts: &[&str]) -> TlsRule {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        TlsRule { name: name.into(), selector, level, minimum_version: TlsVersion::V1_2, hosts }
    }

    fn to_domain(name: &str) -> Selector {
        Selector { recipient_domain: Some(name.into()), ..Selector::default() }
    }

    fn told(rules: &[TlsRule]) -> Vec<String> {
        let mut desired = Desired::default();
        for rule in rules {
            desired.tls_rules.insert(rule.name.clone(), rule.clone());
        }
        let mut problems = Vec::new();
        check(&desired, &mut problems);
        problems.iter().map(|problem| format!("{} {}", problem.code, problem.subject)).collect()
    }

    #[test]
    fn rules_that_change_nothing_and_exceptions_are_told() {
        let all = rule("all", Selector::default(), TlsLevel::Required, &[]);
        let old = rule("old", to_domain("old.example"), TlsLevel::Opportunistic, &[]);
        assert_eq!(told(&[all.clone(), old.clone()]), ["tls_rule_lifts tls_rule/old"]);
        assert_eq!(told(&[old]), ["tls_rule_without_effect tls_rule/old"]);
        let again = rule("again", to_domain("new.example"), TlsLevel::Required, &[]);
        assert_eq!(told(&[all.clone(), again]), ["tls_rule_without_effect tls_rule/again"]);
        let strict = rule("strict", to_domain("new.example"), TlsLevel::Verified, &[]);
        assert!(told(&[all, strict]).is_empty());
    }

    #[test]
    fn a_rule_whose_mail_narrower_ones_have_is_told() {
        let of_class = |class: TrafficClass| {
            rule(class.name(), Selector { class: Some(class), ..Selector::default() }, TlsLevel::Verified, &[])
        };
        let mut rules: Vec<_> = TrafficClass::ALL.into_iter().map(of_class).collect();
        rules.push(rule("all", Selector::default(), TlsLevel::Required, &[]));
        assert_eq!(told(&rules), ["tls_rule_shadowed tls_rule/all"]);
        rules.remove(0);
        assert!(told(&rules).is_empty());
    }

    #[test]
    fn rules_for_the_same_mail_without_a_common_host_contradict() {
        let of_class = Selector { class: Some(TrafficClass::Marketing), ..Selector::default() };
        let big = rule("big", to_domain("big.example"), TlsLevel::Verified, &[".big.example"]);
        let letters = rule("letters", of_class.clone(), TlsLevel::Verified, &[".mail.example"]);
        assert_eq!(told(&[big.clone(), letters]), ["tls_rules_contradict tls_rule/big"]);
        let common = rule("letters", of_class, TlsLevel::Verified, &["mx.big.example"]);
        assert!(told(&[big.clone(), common]).is_empty());
        let other = rule("other", to_domain("other.example"), TlsLevel::Verified, &[".other.example"]);
        assert!(told(&[big.clone(), other]).is_empty(), "no mail is to both");
        let unknown = Selector { tenant: Some(TenantId(9)), ..Selector::default() };
        let codes = told(&[big, rule("gone", unknown, TlsLevel::Required, &[])]);
        assert_eq!(codes, ["dangling_tenant tls_rule/gone"]);
    }

    #[test]
    fn hosts_with_other_authorities_of_receivers_are_named() {
        let hash = |certificates: &[&str]| AuthoritiesHash::of(certificates.iter().map(|text| text.as_bytes()));
        let mut hosts: BTreeMap<_, _> = ["a", "b", "c", "d", "e"].map(|name| (name.to_owned(), hash(&["ours"]))).into();
        assert_eq!(authorities_problem(&hosts), None);
        assert_eq!(authorities_problem(&BTreeMap::new()), None, "no fleet");
        hosts.insert("e".to_owned(), hash(&[]));
        let problem = authorities_problem(&hosts).unwrap();
        assert_eq!((problem.severity, problem.code), (Severity::Warning, "receiver_authorities_differ"));
        let short = &hash(&["ours"]).to_string()[..8];
        for told in ["e: none".to_owned(), format!("a, b, c and 1 more: {short}")] {
            assert!(problem.detail.contains(&told), "{}", problem.detail);
        }
    }
}
