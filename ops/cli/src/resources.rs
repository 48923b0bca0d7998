//! What can be configured: `tenant`, `credential`, `source`, `pool`, `region`, `route`, `suppression`.
//!
//! Each is a collection of the control API under `/v2`, its members named by their own name. Rules live in the API:
//! nothing is checked here that the API checks.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::args::{
    AccessOptions, CredentialCommand, OperatorCommand, PoolCommand, PoolValue, RegionCommand, RouteCommand,
    SourceCommand, SourceValue, SuppressionCommand, TenantCommand,
};
use crate::client::Api;
use crate::table;

pub(crate) type Columns = &'static [(&'static str, &'static str)];

const TENANTS: Columns = &[
    ("NAME", "name"),
    ("REGION", "region"),
    ("WEIGHT", "weight"),
    ("QUOTA A DAY", "quota_per_day"),
    ("RESERVED A S", "reserved_per_s"),
    ("LARGEST", "message_bytes_max"),
];
const QUOTA_HOSTS: Columns = &[("HOST", "host"), ("ACCEPTED", "used")];
const REGIONS: Columns = &[("NAME", "name"), ("SUBMISSION HOST", "submission_host")];
pub(crate) const DOMAINS: Columns =
    &[("NAME", "name"), ("TENANT", "tenant"), ("POOL", "pool"), ("STANDING", "standing"), ("MAY SEND", "may_send")];
const CREDENTIALS: Columns = &[
    ("USERNAME", "username"),
    ("TENANT", "tenant"),
    ("SECRETS", "live_secrets"),
    ("DISABLED", "disabled"),
    ("SCOPES", "scopes"),
    ("NETWORKS", "networks"),
];
const SOURCES: Columns =
    &[("NAME", "name"), ("ADDRESS", "address"), ("EHLO NAME", "ehlo_name"), ("HOST", "host"), ("NIC", "nic")];
const OPERATORS: Columns = &[
    ("NAME", "name"),
    ("ROLE", "role"),
    ("NETWORKS", "networks"),
    ("TOKENS", "live_tokens"),
    ("DISABLED", "disabled"),
];
const POOLS: Columns = &[("NAME", "name"), ("TENANT", "tenant"), ("CLASSES", "classes"), ("MEMBERS", "members")];
const ROUTES: Columns =
    &[("DOMAIN", "domain"), ("TO", "routing_domain"), ("PORT", "port"), ("PRIVATE", "allow_private")];
const SUPPRESSIONS: Columns = &[("ADDRESS", "address"), ("TENANT", "tenant"), ("REASON", "reason")];

pub(crate) fn tenant(api: &Api, command: TenantCommand) -> Result<()> {
    let all = Collection { api, name: "tenants", columns: TENANTS };
    match command {
        TenantCommand::Add { name, quota_per_day, weight, message_bytes_max, region, reserved_per_s, quarantine } => {
            all.add(
                None,
                body([
                    ("name", json!(name)),
                    ("quota_per_day", json!(quota_per_day)),
                    ("weight", json!(weight)),
                    ("message_bytes_max", json!(message_bytes_max)),
                    ("region", json!(region)),
                    ("reserved_per_s", json!(reserved_per_s)),
                    ("quarantine", json!(quarantine)),
                ]),
            )
        }
        TenantCommand::Set { name, quota_per_day, weight, message_bytes_max, reserved_per_s, quarantine } => {
            let mut change = body([("weight", json!(weight)), ("message_bytes_max", json!(message_bytes_max))]);
            set_or_none(&mut change, "quota_per_day", quota_per_day.as_deref())?;
            set_or_none(&mut change, "reserved_per_s", reserved_per_s.as_deref())?;
            if let Some(quarantine) = quarantine {
                change["quarantine"] = json!(quarantine);
            }
            let changed = api.patch(&["tenants", &name], &[], &change)?;
            Ok(table::print_record(&changed, api.wants_json())?)
        }
        TenantCommand::List => all.list(None),
        TenantCommand::Show { name } => all.show(None, &name),
        TenantCommand::Quota { name } => {
            let quota = api.get(&["tenants", &name, "quota"], &[])?;
            print_quota(&quota, api.wants_json())
        }
        TenantCommand::Remove { name } => all.remove(None, &name),
    }
}

/// What of a quota is used up, and where.
fn print_quota(quota: &Value, json: bool) -> Result<()> {
    if json {
        return Ok(table::print_json(quota)?);
    }
    table::say(quota_line(quota))?;
    // The host of a single process has no name, and is the only one.
    if table::records(quota).iter().any(|host| !host["host"].is_null()) {
        table::print_list(quota, QUOTA_HOSTS, false)?;
    }
    Ok(())
}

/// What of a quota is used up, in a line.
fn quota_line(quota: &Value) -> String {
    let (day, used) = (table::plain(&quota["day"]), quota["used"].as_u64().unwrap_or(0));
    match quota["quota_per_day"].as_u64() {
        Some(most) => {
            let left = most.saturating_sub(used);
            format!("{day}: {used} of {most} recipients accepted, {left} left until the day ends (UTC)")
        }
        None => format!("{day}: {used} recipients accepted; there is no quota"),
    }
}

pub(crate) fn region(api: &Api, command: RegionCommand) -> Result<()> {
    let all = Collection { api, name: "regions", columns: REGIONS };
    match command {
        RegionCommand::Add { name, submission_host } => {
            all.add(None, body([("name", json!(name)), ("submission_host", json!(submission_host))]))
        }
        RegionCommand::List => all.list(None),
        RegionCommand::Show { name } => all.show(None, &name),
        RegionCommand::Set { name, submission_host } => {
            all.set(None, &name, &json!({"submission_host": submission_host}))
        }
        RegionCommand::Remove { name } => all.remove(None, &name),
    }
}

pub(crate) fn credential(api: &Api, command: CredentialCommand) -> Result<()> {
    let all = Collection { api, name: "credentials", columns: CREDENTIALS };
    match command {
        CredentialCommand::Add { username, tenant, access } => {
            let [scopes, networks, trust] = given(&access);
            all.add(tenant, body([("username", json!(username)), scopes, networks, trust]))
        }
        CredentialCommand::Set { username, access, all_scopes, anywhere } => {
            let [scopes, networks, trust] = given(&access);
            let none = |named: (&'static str, Value), is_none| if is_none { (named.0, json!([])) } else { named };
            let change = body([none(scopes, all_scopes), none(networks, anywhere), trust]);
            let changed = api.patch(&["credentials", &username], &[], &change)?;
            Ok(table::print_record(&changed, api.wants_json())?)
        }
        CredentialCommand::List { tenant } => all.list(tenant),
        CredentialCommand::Show { username } => all.show(None, &username),
        CredentialCommand::Rotate { username } => {
            let issued = api.post(&["credentials", &username, "rotate"], &[], &json!({}))?;
            Ok(table::print_record(&issued, api.wants_json())?)
        }
        CredentialCommand::Disable { username } => set_disabled(api, &["credentials", &username], true),
        CredentialCommand::Enable { username } => set_disabled(api, &["credentials", &username], false),
        CredentialCommand::Remove { username } => all.remove(None, &username),
    }
}

pub(crate) fn operator(api: &Api, command: OperatorCommand) -> Result<()> {
    let all = Collection { api, name: "operators", columns: OPERATORS };
    match command {
        OperatorCommand::Add { name, role, networks } => {
            all.add(None, body([("name", json!(name)), ("role", json!(role.name())), ("networks", some(&networks))]))
        }
        OperatorCommand::List => all.list(None),
        OperatorCommand::Show { name } => all.show(None, &name),
        OperatorCommand::Role { name, role } => {
            let changed = api.patch(&["operators", &name], &[], &json!({"role": role.name()}))?;
            Ok(table::print_record(&changed, api.wants_json())?)
        }
        OperatorCommand::Networks { name, networks, anywhere: _ } => {
            let changed = api.patch(&["operators", &name], &[], &json!({"networks": networks}))?;
            Ok(table::print_record(&changed, api.wants_json())?)
        }
        OperatorCommand::Rotate { name } => {
            let issued = api.post(&["operators", &name, "rotate"], &[], &json!({}))?;
            Ok(table::print_record(&issued, api.wants_json())?)
        }
        OperatorCommand::Disable { name } => set_disabled(api, &["operators", &name], true),
        OperatorCommand::Enable { name } => set_disabled(api, &["operators", &name], false),
        OperatorCommand::Remove { name } => all.remove(None, &name),
    }
}

/// Scopes and networks, where some were named.
fn given(access: &AccessOptions) -> [(&'static str, Value); 3] {
    let trust = ("trusts_networks", json!(access.trust_networks));
    [("scopes", some(&access.scopes)), ("networks", some(&access.networks)), trust]
}

fn some(words: &[String]) -> Value {
    if words.is_empty() { Value::Null } else { json!(words) }
}

pub(crate) fn source(api: &Api, command: SourceCommand) -> Result<()> {
    let all = Collection { api, name: "sources", columns: SOURCES };
    match command {
        SourceCommand::Add(source) => all.add(None, source_body(&source, Some(&source.name))),
        SourceCommand::Set(source) => all.set(None, &source.name, &source_body(&source, None)),
        SourceCommand::List => all.list(None),
        SourceCommand::Show { name } => all.show(None, &name),
        SourceCommand::Remove { name } => all.remove(None, &name),
    }
}

pub(crate) fn pool(api: &Api, command: PoolCommand) -> Result<()> {
    let all = Collection { api, name: "pools", columns: POOLS };
    match command {
        PoolCommand::Add(pool) => all.add(None, pool_body(&pool, Some(&pool.name))?),
        PoolCommand::Set(pool) => all.set(None, &pool.name, &pool_body(&pool, None)?),
        PoolCommand::List => all.list(None),
        PoolCommand::Show { name } => all.show(None, &name),
        PoolCommand::Remove { name } => all.remove(None, &name),
    }
}

pub(crate) fn route(api: &Api, command: RouteCommand) -> Result<()> {
    let all = Collection { api, name: "routes", columns: ROUTES };
    match command {
        RouteCommand::Add { domain, to, port, allow_private } => all.add(
            None,
            body([
                ("domain", json!(domain)),
                ("routing_domain", json!(to)),
                ("port", json!(port)),
                ("allow_private", json!(allow_private)),
            ]),
        ),
        RouteCommand::List => all.list(None),
        RouteCommand::Show { domain } => all.show(None, &domain),
        RouteCommand::Remove { domain } => all.remove(None, &domain),
    }
}

pub(crate) fn suppression(api: &Api, command: SuppressionCommand) -> Result<()> {
    let all = Collection { api, name: "suppressions", columns: SUPPRESSIONS };
    match command {
        SuppressionCommand::Add { address, reason, tenant } => {
            all.add(tenant, body([("address", json!(address)), ("reason", json!(reason))]))
        }
        SuppressionCommand::List { tenant, tenant_id } => {
            let id = tenant_id.map(|id| id.to_string());
            let list = api.list(&["suppressions"], &of_tenant(tenant.as_deref(), id.as_deref()))?;
            Ok(table::print_list(&list, SUPPRESSIONS, api.wants_json())?)
        }
        SuppressionCommand::Clear { tenant, tenant_id } => {
            let id = tenant_id.map(|id| id.to_string());
            let removed = api.delete(&["suppressions"], &of_tenant(tenant.as_deref(), id.as_deref()))?;
            Ok(table::print_record(&removed, api.wants_json())?)
        }
        SuppressionCommand::Show { address, tenant } => all.show(tenant, &address),
        SuppressionCommand::Set { address, reason, tenant } => all.set(tenant, &address, &json!({"reason": reason})),
        SuppressionCommand::Remove { address, tenant } => all.remove(tenant, &address),
    }
}

/// The query that has a tenant's name, or its number.
fn of_tenant<'a>(tenant: Option<&'a str>, id: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
    tenant.map(|name| ("tenant", name)).into_iter().chain(id.map(|id| ("tenant_id", id))).collect()
}

/// Puts a number that may be `none` into a change, if it is given.
fn set_or_none(change: &mut Value, field: &str, given: Option<&str>) -> Result<()> {
    change[field] = match given {
        None => return Ok(()),
        Some("none") => Value::Null,
        Some(number) => {
            let option = field.replace('_', "-");
            json!(number.parse::<u64>().with_context(|| format!("--{option} {number}: a number, or none"))?)
        }
    };
    Ok(())
}

/// `name`: where the path does not have it.
fn source_body(source: &SourceValue, name: Option<&str>) -> Value {
    body([
        ("name", json!(name)),
        ("address", json!(source.address)),
        ("ehlo_name", json!(source.ehlo)),
        ("nic", json!(source.nic)),
        ("routed", json!(source.routed)),
        ("host", json!(source.host)),
        ("capabilities", json!(source.capability)),
    ])
}

/// `name`: where the path does not have it.
fn pool_body(pool: &PoolValue, name: Option<&str>) -> Result<Value> {
    let members = pool.sources.iter().map(|text| member(text)).collect::<Result<Vec<_>>>()?;
    let classes = json!(pool.classes.iter().map(|class| class.replace('-', "_")).collect::<Vec<_>>());
    Ok(body([("name", json!(name)), ("members", json!(members)), ("tenant", json!(pool.tenant)), ("classes", classes)]))
}

fn set_disabled(api: &Api, path: &[&str], disabled: bool) -> Result<()> {
    let changed = api.patch(path, &[], &json!({"disabled": disabled}))?;
    Ok(table::print_record(&changed, api.wants_json())?)
}

/// One collection of the control API.
pub(crate) struct Collection<'a> {
    pub(crate) api: &'a Api,
    pub(crate) name: &'static str,
    pub(crate) columns: Columns,
}

impl Collection<'_> {
    pub(crate) fn add(&self, tenant: Option<String>, body: Value) -> Result<()> {
        let made = self.api.post(&[self.name], &named(tenant.as_deref()), &body)?;
        Ok(table::print_record(&made, self.api.wants_json())?)
    }

    pub(crate) fn set(&self, tenant: Option<String>, member: &str, value: &Value) -> Result<()> {
        let changed = self.api.put(&[self.name, member], &named(tenant.as_deref()), value)?;
        Ok(table::print_record(&changed, self.api.wants_json())?)
    }

    pub(crate) fn list(&self, tenant: Option<String>) -> Result<()> {
        let list = self.api.list(&[self.name], &named(tenant.as_deref()))?;
        Ok(table::print_list(&list, self.columns, self.api.wants_json())?)
    }

    pub(crate) fn show(&self, tenant: Option<String>, member: &str) -> Result<()> {
        let record = self.api.get(&[self.name, member], &named(tenant.as_deref()))?;
        Ok(table::print_record(&record, self.api.wants_json())?)
    }

    pub(crate) fn remove(&self, tenant: Option<String>, member: &str) -> Result<()> {
        self.api.delete(&[self.name, member], &named(tenant.as_deref()))?;
        if !self.api.wants_json() {
            table::say(format_args!("removed {member}"))?;
        }
        Ok(())
    }
}

/// The query that names a tenant.
pub(crate) fn named(tenant: Option<&str>) -> Vec<(&'static str, &str)> {
    tenant.map(|name| ("tenant", name)).into_iter().collect()
}

/// A body of those fields that have a value.
pub(crate) fn body<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let given = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// A pool's member from `source` or `source=weight`.
fn member(text: &str) -> Result<Value> {
    let (source, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight: u32 = weight.parse().with_context(|| format!("--source {text}: the weight after = is a number"))?;
    Ok(json!({"source": source, "weight": weight}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_given_is_not_sent() {
        assert_eq!(body([("name", json!("x")), ("pool", json!(None::<String>))]), json!({"name": "x"}));
    }

    #[test]
    fn a_quota_is_told_with_what_is_left_of_it() {
        let line = |quota: Value, used| quota_line(&json!({"day": "2026-11-29", "quota_per_day": quota, "used": used}));
        let wanted = "2026-11-29: 3 of 5 recipients accepted, 2 left until the day ends (UTC)";
        assert_eq!(line(json!(5), 3), wanted);
        assert!(line(json!(5), 7).contains("0 left"), "it was lowered, or several hosts took the last ones at once");
        assert_eq!(line(Value::Null, 3), "2026-11-29: 3 recipients accepted; there is no quota");
    }

    #[test]
    fn a_member_has_a_weight_of_one_unless_told() {
        assert_eq!(member("out1").expect("valid"), json!({"source": "out1", "weight": 1}));
        assert_eq!(member("out1=3").expect("valid"), json!({"source": "out1", "weight": 3}));
        assert!(member("out1=x").is_err());
    }
}
