//! What operators decide about mail: `retry-policy`, `routing-rule`, `tls-rule`, `explain`.
//!
//! Nothing is checked here that the API checks.

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::{
    ExplainOptions, MatchOptions, RetryPolicyCommand, RetryPolicyValue, RoutingRuleCommand, RoutingRuleValue,
    TlsRuleCommand, TlsRuleValue,
};
use crate::client::Api;
use crate::resources::{Collection, Columns, body};
use crate::table;

const RETRY_POLICIES: Columns = &[
    ("NAME", "name"),
    ("MATCH", "match"),
    ("FIRST S", "first_delay_s"),
    ("FACTOR %", "factor_percent"),
    ("LONGEST S", "longest_delay_s"),
    ("EXPIRY S", "expiry_s"),
];

const ROUTING_RULES: Columns = &[("NAME", "name"), ("MATCH", "match"), ("POOL", "pool")];

const TLS_RULES: Columns =
    &[("NAME", "name"), ("MATCH", "match"), ("LEVEL", "level"), ("MINIMUM", "minimum_version"), ("HOSTS", "hosts")];

pub(crate) fn tls(api: &Api, command: TlsRuleCommand) -> Result<()> {
    let all = Collection { api, name: "tls-rules", columns: TLS_RULES };
    match command {
        TlsRuleCommand::Add(rule) => all.add(None, tls_body(&rule, Some(&rule.name))),
        TlsRuleCommand::Set(rule) => all.set(None, &rule.name, &tls_body(&rule, None)),
        TlsRuleCommand::List => all.list(None),
        TlsRuleCommand::Show { name } => all.show(None, &name),
        TlsRuleCommand::Remove { name } => all.remove(None, &name),
    }
}

/// `name`: where the path does not have it.
fn tls_body(rule: &TlsRuleValue, name: Option<&str>) -> Value {
    body([
        ("name", json!(name)),
        ("match", matched(&rule.mail)),
        ("level", json!(rule.level)),
        ("minimum_version", json!(rule.minimum_version)),
        ("hosts", json!((!rule.hosts.is_empty()).then_some(&rule.hosts))),
    ])
}

pub(crate) fn routing(api: &Api, command: RoutingRuleCommand) -> Result<()> {
    let all = Collection { api, name: "routing-rules", columns: ROUTING_RULES };
    match command {
        RoutingRuleCommand::Add(rule) => all.add(None, routing_body(&rule, Some(&rule.name))),
        RoutingRuleCommand::Set(rule) => all.set(None, &rule.name, &routing_body(&rule, None)),
        RoutingRuleCommand::List => all.list(None),
        RoutingRuleCommand::Show { name } => all.show(None, &name),
        RoutingRuleCommand::Remove { name } => all.remove(None, &name),
    }
}

pub(crate) fn explain(api: &Api, options: &ExplainOptions) -> Result<()> {
    let mut query = vec![("from", &*options.from), ("to", &*options.to), ("class", &*options.class)];
    query.extend(options.tenant.as_deref().map(|tenant| ("tenant", tenant)));
    query.extend(options.site.as_deref().map(|site| ("site", site)));
    Ok(table::print_record(&api.get(&["explain"], &query)?, api.wants_json())?)
}

/// `name`: where the path does not have it.
fn routing_body(rule: &RoutingRuleValue, name: Option<&str>) -> Value {
    body([("name", json!(name)), ("match", matched(&rule.mail)), ("pool", json!(rule.pool))])
}

pub(crate) fn retry(api: &Api, command: RetryPolicyCommand) -> Result<()> {
    let all = Collection { api, name: "retry-policies", columns: RETRY_POLICIES };
    match command {
        RetryPolicyCommand::Add(policy) => all.add(None, retry_body(&policy, Some(&policy.name))),
        RetryPolicyCommand::Set(policy) => all.set(None, &policy.name, &retry_body(&policy, None)),
        RetryPolicyCommand::List => all.list(None),
        RetryPolicyCommand::Show { name } => all.show(None, &name),
        RetryPolicyCommand::Remove { name } => all.remove(None, &name),
    }
}

/// `name`: where the path does not have it.
fn retry_body(policy: &RetryPolicyValue, name: Option<&str>) -> Value {
    body([
        ("name", json!(name)),
        ("match", matched(&policy.mail)),
        ("first_delay_s", json!(policy.first)),
        ("factor_percent", json!(policy.factor)),
        ("longest_delay_s", json!(policy.longest)),
        ("expiry_s", json!(policy.expiry)),
    ])
}

/// The mail that was said.
fn matched(mail: &MatchOptions) -> Value {
    body([
        ("recipient_domain", json!(mail.to)),
        ("site", json!(mail.site)),
        ("sending_domain", json!(mail.from)),
        ("tenant", json!(mail.tenant)),
        ("class", json!(mail.class.as_ref().map(|class| class.replace('-', "_")))),
    ])
}
