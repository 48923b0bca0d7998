//! Routing rules: as a document says them, and findings about them and about what pools carry.
//!
//! Rules, the pools of sending domains and the default pool are one row (see `postrail_schema::policy`), so a domain with a
//! pool has the selector of a rule about that domain.

use std::collections::{BTreeMap, BTreeSet};

use postrail_schema::ids::TenantId;
use postrail_schema::policy::RoutingRule;
use postrail_schema::problem::{Problem, Severity};
use postrail_schema::selector::Selector;
use postrail_schema::snapshot::{EgressPool, TrafficClass};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desired;
use super::document::DocumentEntry;
use super::policies::{SelectorEntry, selectors};

/// The pool that carries some mail.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoutingRuleEntry {
    pub name: String,
    /// All mail by default.
    #[serde(default, rename = "match", skip_serializing_if = "SelectorEntry::is_all")]
    pub mail: SelectorEntry,
    /// By name.
    pub pool: String,
}

impl DocumentEntry for RoutingRuleEntry {
    const KIND: &'static str = "routing_rule";

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl RoutingRuleEntry {
    pub(crate) fn of(desired: &Desired, rule: &RoutingRule) -> Self {
        Self {
            name: rule.name.clone(),
            mail: SelectorEntry::of(desired, &rule.selector),
            pool: desired.pools.get(&rule.pool).map(|pool| pool.name.clone()).unwrap_or_default(),
        }
    }
}

/// Findings about rules and about what pools carry.
pub(super) fn check(desired: &Desired, to: &mut Vec<Problem>) {
    if desired.routing_rules.is_empty() && desired.pools.values().all(|pool| pool.classes.is_empty()) {
        return;
    }
    let of_rules = desired.routing_rules.values().map(|rule| (rule.selector.clone(), subject(rule)));
    let with_pool = desired.domains.values().filter(|domain| domain.pool.is_some());
    let of_domains = with_pool
        .map(|domain| (Selector::of_domain(domain.tenant, domain.id), format!("the pool of domain/{}", domain.name)));
    let said: Vec<_> = of_domains.chain(of_rules).collect();
    selectors(desired, said.iter().map(|(selector, subject)| (selector, subject.clone())), to);
    let known: BTreeMap<&Selector, &RoutingRule> =
        desired.routing_rules.values().map(|rule| (&rule.selector, rule)).collect();
    for rule in desired.routing_rules.values() {
        match desired.pools.get(&rule.pool) {
            None => add(to, Severity::Error, "dangling_pool", subject(rule), "its pool does not exist"),
            Some(pool) => {
                check_pool(desired, rule, pool, to);
                check_shadow(desired, rule, pool, &known, to);
            }
        }
    }
    check_classes(desired, &known, to);
}

fn subject(rule: &RoutingRule) -> String {
    format!("routing_rule/{}", rule.name)
}

fn add(to: &mut Vec<Problem>, severity: Severity, code: &'static str, subject: String, detail: impl Into<String>) {
    to.push(Problem { severity, code, subject, detail: detail.into() });
}

fn check_pool(desired: &Desired, rule: &RoutingRule, pool: &EgressPool, to: &mut Vec<Problem>) {
    let owner = pool.tenant.filter(|owner| rule.selector.tenant != Some(*owner));
    if let Some(owner) = owner.and_then(|owner| desired.tenants.get(&owner)) {
        let detail = format!(
            "its pool {} is tenant {name}'s alone, and it is about mail of others: say tenant {name}, or take a shared pool",
            pool.name,
            name = owner.name
        );
        add(to, Severity::Error, "foreign_pool", subject(rule), detail);
    }
    let names = |classes: &BTreeSet<TrafficClass>| classes.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
    match rule.selector.class {
        Some(class) if !is_carried(pool, class) => {
            let detail = format!(
                "it is about {} mail, and its pool {} carries {} alone: let the pool carry it, or take another one",
                class.name(),
                pool.name,
                names(&pool.classes)
            );
            add(to, Severity::Error, "class_not_carried", subject(rule), detail);
        }
        None if !pool.classes.is_empty() => {
            let detail = format!(
                "its pool {} carries {} alone; for mail of other classes the next rule counts",
                pool.name,
                names(&pool.classes)
            );
            add(to, Severity::Note, "rule_of_some_classes", subject(rule), detail);
        }
        _ => {}
    }
}

/// A rule without a class never counts where more specific ones leave it no mail.
fn check_shadow(
    desired: &Desired,
    rule: &RoutingRule,
    pool: &EgressPool,
    known: &BTreeMap<&Selector, &RoutingRule>,
    to: &mut Vec<Problem>,
) {
    if rule.selector.class.is_none() {
        let by_class = |class| {
            let selector = Selector { class: Some(class), ..rule.selector.clone() };
            let found = known.get(&selector)?;
            desired.pools.get(&found.pool).filter(|pool| is_carried(pool, class)).map(|_| found.name.as_str())
        };
        let carried = TrafficClass::ALL.into_iter().filter(|class| is_carried(pool, *class));
        if let Some(names) = carried.map(by_class).collect::<Option<Vec<_>>>() {
            let detail = format!("it never counts: the rules {} are about all its mail, by class", names.join(", "));
            return add(to, Severity::Note, "rule_shadowed", subject(rule), detail);
        }
    }
    let Selector { recipient_domain: None, site: None, sending_domain: None, tenant, .. } = &rule.selector else {
        return;
    };
    let of_tenant = |owner: TenantId| tenant.is_none_or(|tenant| tenant == owner);
    let mut domains = desired.domains.values().filter(|domain| of_tenant(domain.tenant)).peekable();
    let has_own = |id| desired.pools.get(id).is_some_and(|pool| pool.classes.is_empty());
    if domains.peek().is_some() && domains.all(|domain| domain.pool.as_ref().is_some_and(has_own)) {
        let detail =
            "it never counts: every sending domain whose mail it is about has a pool of its own, which comes first";
        add(to, Severity::Note, "rule_shadowed", subject(rule), detail);
    }
}

/// Mail of a class that the last pool of the row does not carry waits, unless a rule about its class catches it.
fn check_classes(desired: &Desired, known: &BTreeMap<&Selector, &RoutingRule>, to: &mut Vec<Problem>) {
    let Some(default) = desired.pool("default") else { return };
    for class in TrafficClass::ALL.into_iter().filter(|class| !is_carried(default, *class)) {
        let of_class = Selector { class: Some(class), ..Selector::default() };
        let rules = [of_class, Selector::default()];
        let pools = rules.iter().filter_map(|selector| desired.pools.get(&known.get(selector)?.pool));
        if !pools.into_iter().any(|pool| is_carried(pool, class)) {
            let detail = format!(
                "it does not carry {class} mail, and no rule is about all {class} mail: what no other rule is about waits; \
                 postrail routing-rule add {slug} --class {class} --pool POOL",
                class = class.name(),
                slug = class.name().replace('_', "-")
            );
            add(to, Severity::Warning, "class_without_pool", "pool/default".to_owned(), detail);
        }
    }
}

fn is_carried(pool: &EgressPool, class: TrafficClass) -> bool {
    pool.classes.is_empty() || pool.classes.contains(&class)
}
