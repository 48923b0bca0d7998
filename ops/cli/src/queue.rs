//! `postrail queue`: what waits, where and why, and the operator's acts on it.

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::{QueueCommand, SuspendTarget};
use crate::client::Api;
use crate::table;

const SITES: &[(&str, &str)] = &[
    ("SITE", "site"),
    ("SOURCE", "source"),
    ("READY", "ready"),
    ("WAITING", "waiting"),
    ("OPEN", "connections"),
    ("NEXT", "next_attempt"),
    ("WHY", "reason"),
];
const SUSPENSIONS: &[(&str, &str)] = &[("ID", "id"), ("WHAT", "target"), ("REASON", "reason")];

pub(crate) fn run(api: &Api, command: Option<QueueCommand>) -> Result<()> {
    let empty = json!({});
    let done = match command.unwrap_or(QueueCommand::Show) {
        QueueCommand::Show => {
            let queue = api.get(&["queue"], &[])?;
            return Ok(table::print_list(&queue, SITES, api.wants_json())?);
        }
        QueueCommand::Suspensions => {
            let suspensions = api.get(&["suspensions"], &[])?;
            return Ok(table::print_list(&suspensions, SUSPENSIONS, api.wants_json())?);
        }
        QueueCommand::Retry { target } => {
            let body = match (target.site, target.job) {
                (Some(site), _) => json!({"site": site}),
                (None, Some(job)) => json!({"message": job}),
                (None, None) => json!({"all": true}),
            };
            api.post(&["queue", "retry"], &[], &body)?
        }
        QueueCommand::Suspend { target, reason } => {
            api.post(&["suspensions"], &[], &json!({"target": suspended(target), "reason": reason}))?
        }
        QueueCommand::Resume { id } => api.delete(&["suspensions", &id.to_string()], &[])?,
        QueueCommand::Cancel { job } => api.post(&["jobs", &job, "cancel"], &[], &empty)?,
        QueueCommand::Bounce { job } => api.post(&["jobs", &job, "bounce"], &[], &empty)?,
    };
    if done.is_null() {
        println!("done");
        return Ok(());
    }
    Ok(table::print_record(&done, api.wants_json())?)
}

fn suspended(target: SuspendTarget) -> Value {
    match (target.site, target.source, target.tenant) {
        (Some(site), _, _) => json!({"site": site}),
        (_, Some(source), _) => json!({"source": source}),
        (_, _, tenant) => json!({"tenant": tenant}),
    }
}
