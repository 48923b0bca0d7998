//! `postrail queue` and `postrail quarantine`: what waits, where and why, and the operator's acts on it.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::args::{QuarantineCommand, QueueCommand, SuspendTarget};
use crate::client::{Api, tell_unanswered};
use crate::resources::named;
use crate::table;

const DOMAINS: &[(&str, &str)] = &[
    ("DOMAIN", "domain"),
    ("SITE", "site"),
    ("RECIPIENTS", "recipients"),
    ("WHY", "reasons"),
    ("HELD BY", "held_by"),
    ("TLS RULES", "tls_rules"),
    ("NEXT ATTEMPT", "next_attempt"),
    ("SHARD", "shard"),
];
const PATHS: &[(&str, &str)] = &[
    ("SOURCE", "source"),
    ("SITE", "site"),
    ("PORT", "port"),
    ("OPEN", "connections"),
    ("IDLE", "idle"),
    ("READY", "ready"),
    ("STOPPED", "stopped"),
    ("HELD BY", "held_by"),
    ("TLS", "tls"),
    ("LIMITS", "limits_text"),
    ("AGAIN AT", "retry_at"),
    ("LAST FAILURE", "last_failure"),
    ("SHARD", "shard"),
];
const SUSPENSIONS: &[(&str, &str)] =
    &[("ID", "id"), ("SITE", "site"), ("SOURCE", "source"), ("TENANT", "tenant"), ("REASON", "reason")];

pub(crate) fn run(api: &Api, command: Option<QueueCommand>) -> Result<()> {
    let empty = json!({});
    let done = match command.unwrap_or(QueueCommand::Show) {
        QueueCommand::Show => {
            let queue = api.get(&["queue"], &[])?;
            tell_unanswered(&queue);
            return show(&queue, api.wants_json());
        }
        QueueCommand::Suspensions => {
            let suspensions = api.list(&["suspensions"], &[])?;
            return Ok(table::print_list(&suspensions, SUSPENSIONS, api.wants_json())?);
        }
        QueueCommand::Suspension { id } => api.get(&["suspensions", &id.to_string()], &[])?,
        QueueCommand::Retry { target } => {
            let named = [("site", target.site), ("domain", target.domain), ("message", target.job)];
            let body: Map<_, _> =
                named.into_iter().filter_map(|(key, name)| Some((key.into(), name?.into()))).collect();
            let done = api.post(&["queue", "retry"], &[], &Value::Object(body))?;
            tell_unanswered(&done);
            match done["recipients"].as_u64() {
                _ if api.wants_json() => done,
                Some(0) => return Ok(table::say("nothing waits there; `postrail queue` shows what waits")?),
                _ => json!({ "recipients": done["recipients"] }),
            }
        }
        QueueCommand::Suspend { target, reason } => api.post(&["suspensions"], &[], &suspension(target, &reason))?,
        QueueCommand::Resume { id } => api.delete(&["suspensions", &id.to_string()], &[])?,
        QueueCommand::Cancel { job } => api.post(&["jobs", &job, "cancel"], &[], &empty)?,
        QueueCommand::Bounce { job } => api.post(&["jobs", &job, "bounce"], &[], &empty)?,
    };
    if done.is_null() {
        table::say("done")?;
        return Ok(());
    }
    Ok(table::print_record(&done, api.wants_json())?)
}

const QUARANTINE: &[(&str, &str)] = &[
    ("JOB", "job"),
    ("TENANT", "tenant"),
    ("DOMAIN", "domain"),
    ("STANDING", "standing"),
    ("RECIPIENTS", "recipients"),
    ("EXPIRES", "expires"),
];

pub(crate) fn quarantine(api: &Api, command: QuarantineCommand) -> Result<()> {
    let empty = json!({});
    let done = match command {
        QuarantineCommand::List { tenant } => {
            let held = api.list(&["quarantine"], &named(tenant.as_deref()))?;
            return Ok(table::print_list(&held, QUARANTINE, api.wants_json())?);
        }
        QuarantineCommand::Release { job } => api.post(&["quarantine", &job, "release"], &[], &empty)?,
        QuarantineCommand::Drop { job } => api.post(&["quarantine", &job, "drop"], &[], &empty)?,
    };
    Ok(table::print_record(&done, api.wants_json())?)
}

/// What waits by domain, then the paths that it leaves by.
fn show(queue: &Value, json: bool) -> Result<()> {
    if json {
        return Ok(table::print_json(queue)?);
    }
    let shards = table::records(&queue["shards"]);
    let waiting: u64 = shards.iter().filter_map(|shard| shard.get("waiting")?.as_u64()).sum();
    table::say(format_args!("{waiting} recipients wait"))?;
    let is_fleet = shards.iter().any(|shard| shard.get("host").is_some());
    for (key, columns) in [("domains", DOMAINS), ("paths", PATHS)] {
        let rows = rows(shards, key);
        let host = is_fleet.then_some(("HOST", "host"));
        let columns: Vec<_> = columns.iter().copied().chain(host).collect();
        if !rows.is_empty() {
            table::say("")?;
            table::print_list(&Value::Array(rows), &columns, false)?;
        }
    }
    if shards.iter().any(|shard| shard.get("truncated") == Some(&Value::Bool(true))) {
        table::say("\nonly the longest queues are shown")?;
    }
    Ok(())
}

/// The rows of all shards, each with its shard's number, and in a fleet its host's name.
fn rows(shards: &[Value], key: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    for shard in shards {
        for row in shard.get(key).and_then(Value::as_array).into_iter().flatten() {
            let mut row = row.clone();
            if let Some(limits) = row.get("limits").and_then(Value::as_array) {
                row["limits_text"] = Value::from(limits.iter().map(limit_text).collect::<Vec<_>>().join("; "));
            }
            for of in ["shard", "host"] {
                if let (Some(fields), Some(told)) = (row.as_object_mut(), shard.get(of)) {
                    fields.insert(of.into(), told.clone());
                }
            }
            rows.push(row);
        }
    }
    rows
}

/// Such as `5 connections (google)`; the defaults have no rule.
fn limit_text(limit: &Value) -> String {
    let text = |field: &str| limit[field].as_str().unwrap_or_default();
    let what = match text("what") {
        "connections" => "at once",
        "mails_per_connection" => "each",
        "mail_rate" => "mails",
        "connection_rate" => "connections",
        other => other,
    };
    let together = if limit["is_shared"] == Value::Bool(true) { ", together" } else { "" };
    match limit["rule"].as_str() {
        Some(rule) => format!("{} {what} ({rule}{together})", text("value")),
        None => format!("{} {what}", text("value")),
    }
}

fn suspension(target: SuspendTarget, reason: &str) -> Value {
    match (target.site, target.source, target.tenant) {
        (Some(site), _, _) => json!({"site": site, "reason": reason}),
        (_, Some(source), _) => json!({"source": source, "reason": reason}),
        (_, _, tenant) => json!({"tenant": tenant, "reason": reason}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paths_limits_are_told_with_their_rules() {
        let limit = |what, rule, is_shared| json!({"what": what, "value": "5", "rule": rule, "is_shared": is_shared});
        assert_eq!(limit_text(&limit("connections", Some("google"), true)), "5 at once (google, together)");
        assert_eq!(limit_text(&limit("mails_per_connection", None, false)), "5 each");
    }

    #[test]
    fn rows_of_all_shards_carry_their_shard() {
        let queue = json!({"shards": [{"shard": 0, "domains": [{"domain": "a.test"}]}, {"shard": 1, "host": "mta-2", "domains": [{"domain": "b.test"}]}]});
        let rows = rows(table::records(&queue["shards"]), "domains");
        assert_eq!(
            rows,
            [json!({"domain": "a.test", "shard": 0}), json!({"domain": "b.test", "shard": 1, "host": "mta-2"})]
        );
    }
}
