//! Sending domains: what to publish for them, and what is wrong with what is published; and the installation's settings.
//!
//! The sentences are the API's. Absent here: any judgement of a record.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::{DomainCommand, KeyAlgorithm, SettingsCommand};
use crate::client::Api;
use crate::domain_keys;
use crate::resources::{Collection, DOMAINS, body, named};
use crate::table;
use crate::trace::utc;

/// Time between two looks of `check --wait`.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(crate) fn domain(api: &Api, command: DomainCommand) -> Result<()> {
    let all = Collection { api, name: "domains", columns: DOMAINS };
    let show = |name: &str, tenant: Option<&str>| api.get(&["domains", name], &named(tenant));
    match command {
        DomainCommand::Add { name, tenant, pool, verification, dkim_keys, unsigned } => {
            let verification = verification.map(|verification| verification.name());
            let keys: Vec<_> = dkim_keys.into_iter().map(KeyAlgorithm::name).collect();
            let keys = if keys.is_empty() && !unsigned { Value::Null } else { json!(keys) };
            let (name, verification) = (("name", json!(name)), ("verification", json!(verification)));
            let body = body([name, ("pool", json!(pool)), verification, ("dkim_keys", keys)]);
            print_domain(api, &api.post(&["domains"], &named(tenant.as_deref()), &body)?)
        }
        DomainCommand::List { tenant } => all.list(tenant),
        DomainCommand::Show { name, tenant } => print_domain(api, &show(&name, tenant.as_deref())?),
        DomainCommand::Records { name, tenant, zone } => print_records(api, &show(&name, tenant.as_deref())?, zone),
        DomainCommand::Check { name, tenant, wait } => check(api, &name, tenant.as_deref(), wait),
        DomainCommand::Verification { name, verification, tenant } => {
            let change = json!({"verification": verification.name()});
            print_domain(api, &api.patch(&["domains", &name], &named(tenant.as_deref()), &change)?)
        }
        DomainCommand::Assign { name, pool, tenant } => {
            print_domain(api, &api.patch(&["domains", &name], &named(tenant.as_deref()), &json!({"pool": pool}))?)
        }
        DomainCommand::Key(action) => domain_keys::key(api, action),
        DomainCommand::Remove { name, tenant } => all.remove(tenant, &name),
    }
}

pub(crate) fn settings(api: &Api, command: SettingsCommand) -> Result<()> {
    let settings = match command {
        SettingsCommand::Show => api.get(&["settings"], &[])?,
        SettingsCommand::Set { domain_verification, spf_include, platform_domain, dkim_rotation_days } => {
            let verification = domain_verification.map(|verification| verification.name());
            let mut change = body([("domain_verification", json!(verification))]);
            for (field, name) in [("spf_include", spf_include), ("platform_domain", platform_domain)] {
                if let Some(name) = name {
                    change[field] = if name == "none" { Value::Null } else { json!(name) };
                }
            }
            if let Some(days) = dkim_rotation_days {
                change["dkim_rotation_days"] = match days.as_str() {
                    "never" => Value::Null,
                    days => json!(days.parse::<u32>().context("--dkim-rotation-days is a number of days, or `never`")?),
                };
            }
            api.patch(&["settings"], &[], &change)?
        }
    };
    Ok(table::print_record(&settings, api.wants_json())?)
}

/// Looks at the records, again and again with `wait`, and fails unless all that are needed are right.
fn check(api: &Api, name: &str, tenant: Option<&str>, wait: Option<u64>) -> Result<()> {
    let until = wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    loop {
        let domain = api.post(&["domains", name, "check"], &named(tenant), &json!({}))?;
        let unmet = unmet(&domain);
        if !unmet.is_empty() && until.is_some_and(|until| Instant::now() + LOOK_AGAIN < until) {
            std::thread::sleep(LOOK_AGAIN);
            continue;
        }
        if api.wants_json() {
            table::print_json(&domain)?;
        } else {
            io::stdout().lock().write_all(report(&domain).as_bytes())?;
        }
        if unmet.is_empty() {
            return Ok(());
        }
        bail!("{name} does not have every record that it needs: {}", unmet.join(", "));
    }
}

/// The needed records that are not right, by name; of several for one purpose (DKIM's) one that is right will do.
fn unmet(domain: &Value) -> Vec<String> {
    let is_right = |record: &Value| record["check"]["state"] == "ok";
    let met = |purpose: &Value| records(domain).iter().any(|record| record["purpose"] == *purpose && is_right(record));
    let wrong = records(domain).iter().filter(|record| record["required"] == true && !is_right(record));
    wrong.filter(|record| !met(&record["purpose"])).map(|record| text(record, "name")).collect()
}

/// The domain's standing, each record's state, and below it what there is to say.
fn report(domain: &Value) -> String {
    let mut report = headline(domain);
    report.push('\n');
    let width = records(domain).iter().map(|record| text(record, "name").len()).max().unwrap_or(0);
    for record in records(domain) {
        let check = &record["check"];
        let state = if check.is_null() { "unknown".to_owned() } else { text(check, "state") };
        let need = need(record);
        let (purpose, name) = (text(record, "purpose").replace('_', " "), text(record, "name"));
        let _ = writeln!(report, "  {state:<11}  {purpose:<11}  {name:<width$}  {need}");
        let mut say = |word: &str, text: &str| {
            let _ = writeln!(report, "               {word:<8} {text}");
        };
        let (detail, advice, server) = (text(check, "detail"), text(check, "advice"), text(check, "server"));
        if detail != "-" {
            say("problem", &detail);
        }
        if state != "ok" && !check.is_null() {
            say("expected", &text(record, "value"));
            for found in check["found"].as_array().into_iter().flatten() {
                say("found", &table::plain(found));
            }
            say("said by", &server);
            for said in check["servers"].as_array().into_iter().flatten() {
                say("server", &server_said(said));
            }
        }
        if advice != "-" {
            say("do", &advice);
        }
    }
    report
}

/// What one of the zone's own servers says.
fn server_said(said: &Value) -> String {
    let found: Vec<_> = said["found"].as_array().into_iter().flatten().map(table::plain).collect();
    let what = match (text(said, "failure").as_str(), said["is_right"] == true) {
        ("-" | "", true) => "has it".to_owned(),
        ("-" | "", false) if found.is_empty() => "has nothing there".to_owned(),
        ("-" | "", false) => format!("has {}", found.join(" | ")),
        (failure, _) => failure.to_owned(),
    };
    format!("{}: {what}", text(said, "server"))
}

fn headline(domain: &Value) -> String {
    let (name, standing) = (text(domain, "name"), text(domain, "standing"));
    let may = match (domain["may_send"] == true, standing.as_str()) {
        (true, "failing") => "may send for now".to_owned(),
        (true, _) => "may send".to_owned(),
        (false, _) => format!("may not send before its {} record is right", text(domain, "missing")),
    };
    format!("{name}  tenant {}: {standing}, {may}\n", text(domain, "tenant"))
}

/// A domain, with its DNS records as lines of a zone file.
fn print_domain(api: &Api, domain: &Value) -> Result<()> {
    if api.wants_json() {
        return Ok(table::print_json(domain)?);
    }
    let pool = text(domain, "pool");
    let pool = if pool == "-" { "default" } else { pool.as_str() };
    let lines = format!("{}pool {pool}\n\npublish:\n\n{}", headline(domain), zone_lines(domain, "  "));
    Ok(io::stdout().lock().write_all(lines.as_bytes())?)
}

fn print_records(api: &Api, domain: &Value, zone: bool) -> Result<()> {
    if api.wants_json() {
        return Ok(table::print_json(&domain["dns_records"])?);
    }
    let lines = if zone { zone_lines(domain, "") } else { forms(domain) };
    Ok(io::stdout().lock().write_all(lines.as_bytes())?)
}

fn zone_lines(domain: &Value, indent: &str) -> String {
    let line = |record: &Value| {
        let (name, kind, value) = (text(record, "name"), text(record, "type"), text(record, "zone_value"));
        format!("{indent}{name}. IN {kind} {value}\n")
    };
    records(domain).iter().filter(|record| record["action"] != "remove").map(line).collect()
}

/// The records as the forms of DNS hosts ask for them: the name without the domain, the text without quotes.
fn forms(domain: &Value) -> String {
    let origin = text(domain, "name");
    let mut lines = String::new();
    for record in records(domain) {
        let name = text(record, "name");
        let short = name.strip_suffix(&origin).map_or(name.as_str(), |rest| rest.trim_end_matches('.'));
        let short = if short.is_empty() { "@" } else { short };
        let need = need(record);
        let _ = writeln!(lines, "{} ({need})", text(record, "purpose").replace('_', " "));
        let _ = writeln!(
            lines,
            "  name   {short}\n  type   {}\n  value  {}\n",
            text(record, "type"),
            text(record, "value")
        );
    }
    lines
}

/// Why a record is to be there, or not.
fn need(record: &Value) -> String {
    match (record["action"].as_str(), record["keep_until_ms"].as_u64()) {
        (Some("keep"), Some(until)) => format!("keep until {}", utc(until)),
        (Some("remove"), _) => "may be removed".to_owned(),
        _ if record["required"] == true => "needed".to_owned(),
        _ => "wished".to_owned(),
    }
}

pub(crate) fn records(domain: &Value) -> &[Value] {
    domain["dns_records"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A field as text; `-` where there is none.
pub(crate) fn text(record: &Value, key: &str) -> String {
    record.get(key).map_or_else(|| "-".to_owned(), table::plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Value {
        json!({
            "name": "a.example", "tenant": "shop", "pool": null, "standing": "unproved", "may_send": false,
            "missing": "ownership",
            "dns_records": [
                {"purpose": "ownership", "name": "_postrail.a.example", "type": "TXT", "value": "v=1", "zone_value": "\"v=1\"",
                 "required": true, "check": {"state": "missing", "found": [], "server": "127.0.0.1:53",
                 "detail": "the name does not exist", "advice": "Publish it."}},
                {"purpose": "spf", "name": "a.example", "type": "TXT", "value": "v=spf1 -all", "zone_value": "\"v=spf1 -all\"",
                 "required": true, "check": {"state": "ok", "found": ["v=spf1 -all"], "server": "127.0.0.1:53", "detail": "", "advice": ""}},
                {"purpose": "return_path", "name": "bounce.a.example", "type": "MX", "value": "10 m.example",
                 "zone_value": "10 m.example.", "required": false, "check": null},
            ],
        })
    }

    #[test]
    fn a_report_says_what_is_wrong_who_said_so_and_what_to_do() {
        let expected = "\
a.example  tenant shop: unproved, may not send before its ownership record is right

  missing      ownership    _postrail.a.example  needed
               problem  the name does not exist
               expected v=1
               said by  127.0.0.1:53
               do       Publish it.
  ok           spf          a.example            needed
  unknown      return path  bounce.a.example     wished
";
        assert_eq!(report(&domain()), expected);
        assert_eq!(unmet(&domain()), ["_postrail.a.example"]);
    }

    #[test]
    fn records_come_as_lines_of_a_zone_and_as_fields_of_a_form() {
        assert!(zone_lines(&domain(), "").starts_with("_postrail.a.example. IN TXT \"v=1\"\na.example. IN TXT "));
        let forms = forms(&domain());
        assert!(forms.starts_with("ownership (needed)\n  name   _postrail\n  type   TXT\n  value  v=1\n\n"), "{forms}");
        assert!(forms.contains("\n  name   @\n"), "{forms}");
    }
}
