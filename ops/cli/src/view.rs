//! What only looks: `job`, `events`, `audit`, `problems`.

use anyhow::Result;
use serde_json::Value;

use crate::args::{AuditOptions, EventsOptions, JobCommand};
use crate::client::Api;
use crate::resources::{Columns, named};
use crate::table;
use crate::trace::utc;

const RECIPIENTS: Columns =
    &[("RECIPIENT", "index"), ("ADDRESS", "address"), ("STATE", "state"), ("ATTEMPTS", "attempts"), ("SINCE", "since")];
const EVENTS: Columns = &[
    ("PLACE", "sequence"),
    ("WHEN", "at"),
    ("KIND", "kind"),
    ("TENANT", "tenant"),
    ("RECIPIENT", "recipient"),
    ("WHY", "reason"),
];
const AUDIT: Columns = &[("WHEN", "at"), ("WHO", "actor"), ("WHAT", "action"), ("STATUS", "status")];
const PROBLEMS: Columns = &[("SEVERITY", "severity"), ("CODE", "code"), ("SUBJECT", "subject")];

pub(crate) fn job(api: &Api, command: JobCommand) -> Result<()> {
    match command {
        JobCommand::Show { id } => Ok(table::print_record(&api.get(&["jobs", &id], &[])?, api.wants_json())?),
        JobCommand::Recipients { id } => {
            let list = api.list(&["jobs", &id, "recipients"], &[])?;
            print(api, list, RECIPIENTS, ("changed_ms", "since"))
        }
    }
}

pub(crate) fn events(api: &Api, options: &EventsOptions) -> Result<()> {
    let (after, limit) = (options.after.to_string(), options.limit.to_string());
    let mut query = named(options.tenant.as_deref());
    query.extend([("cursor", after.as_str()), ("limit", &limit)]);
    let page = api.get(&["events"], &query)?;
    if api.wants_json() {
        return Ok(table::print_json(&page)?);
    }
    let next = page["next_cursor"].as_str().unwrap_or_default().to_owned();
    print(api, page, EVENTS, ("at_ms", "at"))?;
    println!("what follows: postrail events --after {next}");
    Ok(())
}

pub(crate) fn audit(api: &Api, options: &AuditOptions) -> Result<()> {
    let page = api.get(&["audit"], &[("limit", &options.limit.to_string())])?;
    print(api, page, AUDIT, ("at_ms", "at"))
}

/// Severities and subjects as a table, with a sentence below each: it is too long for a cell.
pub(crate) fn problems(api: &Api) -> Result<()> {
    let page = api.get(&["problems"], &[])?;
    if api.wants_json() {
        return Ok(table::print_json(&page)?);
    }
    let problems = table::records(&page);
    if problems.is_empty() {
        println!("nothing to set right");
    }
    for problem in problems {
        let cells: Vec<_> = PROBLEMS.iter().filter_map(|(_, key)| problem[key].as_str()).collect();
        println!("{}\n    {}", cells.join("  "), problem["detail"].as_str().unwrap_or_default());
    }
    Ok(())
}

/// Prints a list; in the table, with a date as `to` for each time in Unix milliseconds that is in `from`.
fn print(api: &Api, mut list: Value, columns: Columns, (from, to): (&str, &str)) -> Result<()> {
    if api.wants_json() {
        return Ok(table::print_json(&list)?);
    }
    let records = match list.get_mut("items") {
        Some(items) => items.as_array_mut(),
        None => list.as_array_mut(),
    };
    for record in records.into_iter().flatten() {
        if let Some(at) = record[from].as_u64() {
            record[to] = Value::from(utc(at));
        }
    }
    Ok(table::print_list(&list, columns, false)?)
}
