//! `postrail provider` and `postrail shaping-rule`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::{ProviderCommand, ProviderValue, ShapingRuleCommand, ShapingRuleValue};
use crate::client::Api;
use crate::resources::{Collection, Columns, body};

const PROVIDERS: Columns = &[("NAME", "name"), ("HOSTS", "hosts")];
const SHAPING_RULES: Columns = &[
    ("NAME", "name"),
    ("ABOUT", "match"),
    ("CONNECTIONS", "connections"),
    ("MAILS EACH", "mails_per_connection"),
    ("MAIL RATE", "mail_rate"),
    ("CONNECTION RATE", "connection_rate"),
];

pub(crate) fn provider(api: &Api, command: ProviderCommand) -> Result<()> {
    let all = Collection { api, name: "providers", columns: PROVIDERS };
    let value = |ProviderValue { name, hosts }: ProviderValue| (name, json!(hosts));
    match command {
        ProviderCommand::Add(new) => {
            let (name, hosts) = value(new);
            all.add(None, body([("name", json!(name)), ("hosts", hosts)]))
        }
        ProviderCommand::Set(new) => {
            let (name, hosts) = value(new);
            all.set(None, &name, &body([("hosts", hosts)]))
        }
        ProviderCommand::List => all.list(None),
        ProviderCommand::Show { name } => all.show(None, &name),
        ProviderCommand::Remove { name } => all.remove(None, &name),
    }
}

pub(crate) fn shaping_rule(api: &Api, command: ShapingRuleCommand) -> Result<()> {
    let all = Collection { api, name: "shaping-rules", columns: SHAPING_RULES };
    match command {
        ShapingRuleCommand::Add(rule) => all.add(None, rule_body(&rule, Some(&rule.name))),
        ShapingRuleCommand::Set(rule) => all.set(None, &rule.name, &rule_body(&rule, None)),
        ShapingRuleCommand::List => all.list(None),
        ShapingRuleCommand::Show { name } => all.show(None, &name),
        ShapingRuleCommand::Remove { name } => all.remove(None, &name),
    }
}

/// `name`: where the path does not have it.
fn rule_body(rule: &ShapingRuleValue, name: Option<&str>) -> Value {
    let ShapingRuleValue { about, sets, .. } = rule;
    let about = body([
        ("source", json!(about.source)),
        ("pool", json!(about.pool)),
        ("provider", json!(about.provider)),
        ("site", json!(about.site)),
        ("recipient_domain", json!(about.recipient_domain)),
        ("tenant", json!(about.tenant)),
        ("campaign", json!(about.campaign)),
        ("class", json!(about.class)),
    ]);
    body([
        ("name", json!(name)),
        ("match", about),
        ("connections", json!(sets.connections)),
        ("mails_per_connection", json!(sets.mails_per_connection)),
        ("mail_rate", json!(sets.mail_rate)),
        ("connection_rate", json!(sets.connection_rate)),
    ])
}
