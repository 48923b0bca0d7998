//! What only looks: `job`, `events`, `audit`, `problems`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::{AuditOptions, EventsOptions, JobCommand};
use crate::client::Api;
use crate::resources::{Columns, named};
use crate::trace::utc;
use crate::{state, table};

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
const AUDIT: Columns = &[
    ("WHEN", "at"),
    ("WHO", "actor"),
    ("WHAT", "action"),
    ("STATUS", "status"),
    ("REVISION", "detail/revision"),
    ("CHANGE", "change"),
];
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
    let limit = options.limit.to_string();
    let mut query = named(options.tenant.as_deref());
    query.push(("limit", &limit));
    query.extend(options.after.as_deref().map(|after| ("cursor", after)));
    let page = api.get(&["events"], &query)?;
    if api.wants_json() {
        return Ok(table::print_json(&page)?);
    }
    let next = page["next_cursor"].as_str().unwrap_or_default().to_owned();
    // Tenants are shown no places.
    let has_places = table::records(&page).iter().any(|event| event.get("sequence").is_some());
    let columns = if has_places { EVENTS } else { EVENTS.split_first().map_or(EVENTS, |(_, others)| others) };
    print(api, page, columns, ("at_ms", "at"))?;
    table::say(format_args!("what follows: postrail events --after {next}"))?;
    Ok(())
}

pub(crate) fn audit(api: &Api, options: &AuditOptions) -> Result<()> {
    let limit = options.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(options.after.as_deref().map(|after| ("cursor", after)));
    let page = api.get(&["audit"], &query)?;
    if api.wants_json() {
        return Ok(table::print_json(&page)?);
    }
    let rows: Vec<_> = table::records(&page).iter().flat_map(change_rows).collect();
    print(api, Value::from(rows), AUDIT, ("at_ms", "at"))?;
    if let Some(next) = page["next_cursor"].as_str() {
        table::say(format_args!("older ones: postrail audit --after {next}"))?;
    }
    Ok(())
}

/// A record of the audit trail once for each of its changes, so that every line says who made it.
fn change_rows(record: &Value) -> Vec<Value> {
    let changes = record["detail"]["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut told: Vec<_> = changes.iter().map(state::line).collect();
    match record["detail"]["left_out"].as_u64() {
        Some(more) => told.push(format!("and {more} more")),
        None if told.is_empty() => told.push(String::new()),
        None => {}
    }
    let row = |change| {
        let mut row = record.clone();
        row["change"] = Value::from(change);
        row
    };
    told.into_iter().map(row).collect()
}

/// Severities and subjects as a table, with a sentence below each: it is too long for a cell.
pub(crate) fn problems(api: &Api) -> Result<()> {
    let page = json!({ "items": api.list(&["problems"], &[])? });
    if api.wants_json() {
        return Ok(table::print_json(&page)?);
    }
    let problems = table::records(&page);
    if problems.is_empty() {
        table::say("nothing to set right")?;
    }
    for problem in problems {
        let cells: Vec<_> = PROBLEMS.iter().filter_map(|(_, key)| problem[key].as_str()).collect();
        table::say(format_args!("{}\n    {}", cells.join("  "), problem["detail"].as_str().unwrap_or_default()))?;
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
