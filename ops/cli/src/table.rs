//! Results for people: lists as aligned columns, one record as lines of name and value; or JSON as it came.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};

use serde_json::Value;

/// A cell, characters; longer ones are cut in lists on a terminal. What reads a pipe wants all of it.
const CELL_CHARS_MAX: usize = 60;
/// The same in the last column, which pushes nothing aside.
const LAST_CELL_CHARS_MAX: usize = 240;

/// Prints `list` with these columns: a heading and the key (a JSON pointer's path without its first slash) of its value.
pub(crate) fn print_list(list: &Value, columns: &[(&str, &str)], json: bool) -> io::Result<()> {
    if json {
        return print_json(list);
    }
    let mut out = io::stdout().lock();
    let is_cut = out.is_terminal();
    out.write_all(list_text(records(list), columns, is_cut).as_bytes())
}

/// Prints one record: each of its values under its name.
pub(crate) fn print_record(record: &Value, json: bool) -> io::Result<()> {
    if json {
        return print_json(record);
    }
    let mut text = String::new();
    record_lines(record, "", &mut text);
    io::stdout().lock().write_all(text.as_bytes())
}

/// Writes a line to the standard output: an error where nobody reads it any more, unlike `println`.
pub(crate) fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

pub(crate) fn print_json(value: &Value) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    writeln!(io::stdout().lock(), "{text}")
}

/// The records of a list answer: a bare array, or the array of an object such as `{"items": […]}`.
pub(crate) fn records(list: &Value) -> &[Value] {
    let array = list.as_array().or_else(|| list.as_object()?.values().find_map(Value::as_array));
    array.map(Vec::as_slice).unwrap_or_default()
}

fn list_text(records: &[Value], columns: &[(&str, &str)], is_cut: bool) -> String {
    if records.is_empty() {
        return "nothing\n".to_owned();
    }
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    for record in records {
        let max = |at| match is_cut {
            false => usize::MAX,
            true if at + 1 == columns.len() => LAST_CELL_CHARS_MAX,
            true => CELL_CHARS_MAX,
        };
        let cells = columns.iter().enumerate();
        rows.push(cells.map(|(at, (_, key))| cell(record.pointer(&format!("/{key}")), max(at))).collect());
    }
    let widths: Vec<usize> =
        (0..columns.len()).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cell(value: Option<&Value>, chars_max: usize) -> String {
    let text = value.map_or_else(|| "-".to_owned(), plain);
    if text.chars().count() <= chars_max {
        return text;
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

/// A value without JSON's quotes and braces, where it is simple.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

fn record_lines(record: &Value, indent: &str, text: &mut String) {
    let Some(fields) = record.as_object() else {
        text.push_str(&format!("{indent}{}\n", plain(record)));
        return;
    };
    let width = fields.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, value) in fields {
        match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                text.push_str(&format!("{indent}{name}\n"));
                for item in items {
                    record_lines(item, &format!("{indent}  "), text);
                    text.push('\n');
                }
            }
            _ => text.push_str(&format!("{indent}{name:<width$}  {}\n", plain(value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_has_aligned_columns() {
        let list = json!({"items": [{"name": "shop", "weight": 1}, {"name": "a-long-name", "quota": {"day": 5}}]});
        let text = list_text(records(&list), &[("NAME", "name"), ("WEIGHT", "weight"), ("A DAY", "quota/day")], true);
        assert_eq!(text, "NAME         WEIGHT  A DAY\nshop         1       -\na-long-name  -       5\n");
    }

    #[test]
    fn a_long_cell_is_cut_on_a_terminal_alone() {
        let (long, list) = ("x".repeat(300), |long: &str| json!([{"name": long, "why": long}]));
        let text = |is_cut| list_text(records(&list(&long)), &[("NAME", "name"), ("WHY", "why")], is_cut);
        assert!(text(false).lines().nth(1).unwrap().ends_with(&format!("{long}  {long}")));
        let cut = text(true).lines().nth(1).unwrap().chars().count();
        assert_eq!(cut, CELL_CHARS_MAX + 2 + LAST_CELL_CHARS_MAX);
    }

    #[test]
    fn an_empty_list_says_so() {
        assert_eq!(list_text(records(&json!([])), &[("NAME", "name")], true), "nothing\n");
    }

    #[test]
    fn a_value_cannot_drive_the_terminal() {
        assert_eq!(plain(&json!("a\u{1b}[2Jb")), "a [2Jb");
    }

    #[test]
    fn a_record_shows_nested_lists_below_their_name() {
        let mut text = String::new();
        record_lines(&json!({"name": "x", "keys": [{"selector": "s1"}]}), "", &mut text);
        assert_eq!(text, "keys\n  selector  s1\n\nname  x\n");
    }
}
