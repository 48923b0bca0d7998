//! A difference as people read it: `+` added, `~` changed with the former and the new value, `-` removed.

use std::fmt::Write;

use serde_json::Value;

use super::document::NAMES;
use crate::table::plain;

/// The changes of a plan or of a refusal, a line each, with the fields of what is changed below it.
pub(crate) fn lines(changes: &Value) -> String {
    let mut text = String::new();
    for change in changes.as_array().map(Vec::as_slice).unwrap_or_default() {
        let sign = sign(change);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", subject(change));
        let fields = change["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names = fields.iter().filter_map(|field| field["field"].as_str());
        let width = names.map(str::len).max().unwrap_or(0);
        for field in fields.iter().filter(|_| sign != '-') {
            let name = field["field"].as_str().unwrap_or_default();
            if sign == '+' && NAMES.contains(&name) {
                continue;
            }
            let to = plain(&field["to"]);
            let _ = match sign {
                '+' => writeln!(text, "    {name:<width$}  {to}"),
                _ => writeln!(text, "    {name:<width$}  {} -> {to}", plain(&field["from"])),
            };
        }
    }
    text
}

/// A change on one line: what it is about, and each field that differs.
pub(crate) fn line(change: &Value) -> String {
    let (sign, mut text) = (sign(change), subject(change));
    let fields = change["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut before = ": ";
    for field in fields.iter().filter(|_| sign != '-') {
        let name = plain(&field["field"]);
        if sign == '+' && NAMES.contains(&name.as_str()) {
            continue;
        }
        let _ = match sign {
            '+' => write!(text, "{before}{name} {}", plain(&field["to"])),
            _ => write!(text, "{before}{name} {} -> {}", plain(&field["from"]), plain(&field["to"])),
        };
        before = ", ";
    }
    text
}

fn sign(change: &Value) -> char {
    match change["action"].as_str() {
        Some("added") => '+',
        Some("removed") => '-',
        _ => '~',
    }
}

/// Such as `~ tenant shop`.
fn subject(change: &Value) -> String {
    let text = format!("{} {} {}", sign(change), plain(&change["kind"]), plain(&change["name"]));
    text.trim_end_matches(" -").to_owned()
}

/// A plan: its changes, what was left out of them, and its findings.
pub(super) fn plan_text(planned: &Value) -> String {
    let mut text = lines(&planned["changes"]);
    let counted = |name: &str| planned[name].as_u64().unwrap_or(0);
    let all = counted("added") + counted("changed") + counted("removed");
    let shown = planned["changes"].as_array().map_or(0, Vec::len) as u64;
    if all > shown {
        let _ = writeln!(text, "and {} more", all - shown);
    }
    let problems = planned["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    let before = counted("problems_before");
    if !problems.is_empty() || before > 0 {
        let _ = writeln!(text, "findings of the plan:");
    }
    for problem in problems {
        let said = |key: &str| plain(&problem[key]);
        let _ = writeln!(text, "  {:<7}  {}: {}", said("severity"), said("subject"), said("detail"));
    }
    let more = if problems.is_empty() { "none that is new," } else { "\u{2026}" };
    let _ = match before {
        0 => Ok(()),
        1 => writeln!(text, "  {more} and 1 finding that was there before: postrail problems"),
        n => writeln!(text, "  {more} and {n} findings that were there before: postrail problems"),
    };
    let _ = match all {
        0 => writeln!(text, "nothing to change at revision {}", planned["revision"]),
        _ => writeln!(
            text,
            "{} to add, {} to change, {} to remove, planned on revision {}",
            counted("added"),
            counted("changed"),
            counted("removed"),
            planned["revision"]
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_shows_each_change_with_its_values_and_each_finding() {
        let planned = json!({
            "revision": 7, "added": 1, "changed": 1, "removed": 1,
            "changes": [
                { "action": "added", "kind": "tenant", "name": "shop", "fields": [{ "field": "weight", "from": null, "to": 1 }] },
                { "action": "changed", "kind": "settings", "name": "", "fields": [{ "field": "spf_include", "from": null, "to": "a.b" }] },
                { "action": "removed", "kind": "route", "name": "x.example" },
            ],
            "problems": [{ "severity": "note", "code": "source_unused", "subject": "source/a", "detail": "no pool holds it" }],
            "problems_before": 12,
        });
        let wanted = "+ tenant shop\n    weight  1\n~ settings\n    spf_include  - -> a.b\n- route x.example\n\
                      findings of the plan:\n  note     source/a: no pool holds it\n  \u{2026} and 12 findings that were there before: postrail problems\n\
                      1 to add, 1 to change, 1 to remove, planned on revision 7\n";
        assert_eq!(plan_text(&planned), wanted);
    }

    #[test]
    fn a_change_on_one_line_has_every_field_but_its_name() {
        let change = |action: &str, fields: Value| json!({ "action": action, "kind": "tenant", "name": "shop", "fields": fields });
        let field = |name: &str, from: Value, to: Value| json!({ "field": name, "from": from, "to": to });
        let (name, weight) = (field("name", json!(null), json!("shop")), field("weight", json!(null), json!(1)));
        assert_eq!(line(&change("added", json!([name, weight]))), "+ tenant shop: weight 1");
        let (weight, quota) = (field("weight", json!(1), json!(7)), field("quota_per_day", json!(5), json!(null)));
        assert_eq!(
            line(&change("changed", json!([weight, quota]))),
            "~ tenant shop: weight 1 -> 7, quota_per_day 5 -> -"
        );
        assert_eq!(line(&change("removed", json!([weight]))), "- tenant shop");
    }
}
