//! `postrail domain key`: the DKIM keys of a sending domain, and how one gives way to the next.
//!
//! Absent here: any rule about keys, which are the API's.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::args::{KeyAction, KeyAlgorithm};
use crate::client::Api;
use crate::domains::{records, text};
use crate::resources::{body, named};
use crate::table;
use crate::trace::utc;

pub(crate) fn key(api: &Api, action: KeyAction) -> Result<()> {
    match action {
        KeyAction::List { name, tenant } => {
            let domain = api.get(&["domains", &name], &named(tenant.as_deref()))?;
            if api.wants_json() {
                return Ok(table::print_json(&domain["keys"])?);
            }
            print(&keys(&domain))
        }
        KeyAction::Add { name, algorithm, selector, private_key, tenant } => {
            let private_key = private_key.as_deref().map(read).transpose()?;
            let new = body([
                ("algorithm", json!(algorithm.map(KeyAlgorithm::name))),
                ("selector", json!(selector)),
                ("private_key", json!(private_key)),
            ]);
            told(api, &api.post(&["domains", &name, "keys"], &named(tenant.as_deref()), &new)?)
        }
        KeyAction::Rotate { name, algorithm, tenant } => {
            let wanted = body([("algorithm", json!(algorithm.map(KeyAlgorithm::name)))]);
            told(api, &api.post(&["domains", &name, "keys", "rotate"], &named(tenant.as_deref()), &wanted)?)
        }
        KeyAction::Sign { name, selector, tenant } => {
            let path = ["domains", &name, "keys", &selector, "sign"];
            told(api, &api.post(&path, &named(tenant.as_deref()), &json!({}))?)
        }
        KeyAction::Retire { name, selector, tenant } => {
            let path = ["domains", &name, "keys", &selector, "retire"];
            told(api, &api.post(&path, &named(tenant.as_deref()), &json!({}))?)
        }
        KeyAction::Remove { name, selector, tenant } => {
            told(api, &api.delete(&["domains", &name, "keys", &selector], &named(tenant.as_deref()))?)
        }
    }
}

/// A private key, which never is an argument: those are in the list of processes.
fn read(path: &Path) -> Result<String> {
    let mut pem = String::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_string(&mut pem).context("reading the private key from standard input")?;
    } else {
        pem = std::fs::read_to_string(path).with_context(|| format!("reading the private key {}", path.display()))?;
    }
    Ok(pem)
}

/// The keys, and what to do in DNS about those that are on their way.
fn told(api: &Api, domain: &Value) -> Result<()> {
    if api.wants_json() {
        return Ok(table::print_json(domain)?);
    }
    print(&format!("{}{}", keys(domain), to_do(domain)))
}

fn print(text: &str) -> Result<()> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

/// One line a key.
fn keys(domain: &Value) -> String {
    let all = domain["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = all.iter().map(|key| text(key, "selector").len()).max().unwrap_or(0).max("SELECTOR".len());
    let mut lines = format!("{:<width$}  ALGORITHM       STATE    SINCE\n", "SELECTOR");
    for key in all {
        let since = key["since_ms"].as_u64().filter(|since| *since > 0).map_or_else(|| "-".to_owned(), utc);
        let (selector, algorithm, state) = (text(key, "selector"), text(key, "algorithm"), text(key, "state"));
        let _ = write!(lines, "{selector:<width$}  {algorithm:<14}  {state:<7}  {since}");
        let _ = match key["keep_record_until_ms"].as_u64() {
            Some(until) => writeln!(lines, "  its record stays until {}", utc(until)),
            None => writeln!(lines),
        };
    }
    lines
}

/// What is to be done in DNS.
fn to_do(domain: &Value) -> String {
    let waiting = |record: &&Value| {
        let waits = |key: &Value| {
            let name = format!("{}._domainkey.{}", text(key, "selector"), text(domain, "name"));
            key["state"] == "waiting" && record["name"] == name
        };
        domain["keys"].as_array().is_some_and(|keys| keys.iter().any(waits))
    };
    let mut lines = String::new();
    for record in records(domain).iter().filter(waiting) {
        let (name, kind, value) = (text(record, "name"), text(record, "type"), text(record, "zone_value"));
        let _ = writeln!(
            lines,
            "\npublish; it signs once this is seen (`postrail domain check`):\n\n  {name}. IN {kind} {value}"
        );
    }
    for record in records(domain).iter().filter(|record| record["action"] == "remove") {
        let _ = writeln!(
            lines,
            "\nremove, nothing needs it any more:\n\n  {}. IN {}",
            text(record, "name"),
            text(record, "type")
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_one_a_line_and_then_what_dns_has_to_have() {
        let domain = json!({
            "name": "a.example",
            "keys": [
                {"selector": "pr1r", "algorithm": "rsa-sha256", "state": "former", "since_ms": 0, "keep_record_until_ms": 86_400_000},
                {"selector": "pr3r", "algorithm": "rsa-sha256", "state": "waiting", "since_ms": 1_000, "keep_record_until_ms": null},
            ],
            "dns_records": [
                {"name": "pr0r._domainkey.a.example", "type": "TXT", "action": "remove", "zone_value": "\"v=\""},
                {"name": "pr3r._domainkey.a.example", "type": "TXT", "action": "publish", "zone_value": "\"v=DKIM1\""},
            ],
        });
        let expected = "\
SELECTOR  ALGORITHM       STATE    SINCE
pr1r      rsa-sha256      former   -  its record stays until 1970-01-02T00:00:00.000Z
pr3r      rsa-sha256      waiting  1970-01-01T00:00:01.000Z
";
        assert_eq!(keys(&domain), expected);
        let expected = "
publish; it signs once this is seen (`postrail domain check`):

  pr3r._domainkey.a.example. IN TXT \"v=DKIM1\"

remove, nothing needs it any more:

  pr0r._domainkey.a.example. IN TXT
";
        assert_eq!(to_do(&domain), expected);
    }
}
