//! A document of desired state as TOML for people, and as JSON for the API.
//!
//! ```text
//! [settings]                 one table; what is a table in it follows under its name
//! [[tenants]]                one table an entry; what is nested in it stands on its line
//! ```

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use postrail_schema::limits::STATE_BYTES_MAX;
use serde_json::{Map, Value};

/// The kinds in the order in which they name each other.
const KINDS: [&str; 17] = [
    "settings",
    "operators",
    "regions",
    "tenants",
    "credentials",
    "sources",
    "pools",
    "domains",
    "routes",
    "suspensions",
    "retry_policies",
    "routing_rules",
    "providers",
    "shaping_rules",
    "listeners",
    "tls_rules",
    "numbers",
];
/// Fields that tell an entry from others: they come first.
pub(super) const NAMES: [&str; 3] = ["name", "username", "domain"];

/// Reads a document; a file that begins with `{` is JSON.
///
/// # Errors
/// It cannot be read, or is neither.
pub(super) fn read(file: &Path) -> Result<Value> {
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    let mut text = String::new();
    let most = STATE_BYTES_MAX as u64 + 1;
    from.take(most).read_to_string(&mut text).with_context(|| format!("cannot read {}", file.display()))?;
    if text.len() > STATE_BYTES_MAX {
        bail!("{} has more than {STATE_BYTES_MAX} octets", file.display());
    }
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()));
    }
    let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
    serde_json::to_value(table).with_context(|| format!("{} is not a document", file.display()))
}

/// The document as TOML.
pub(super) fn write(document: &Value) -> String {
    let (mut empty, mut text) = (String::new(), String::new());
    let kinds = document.as_object().cloned().unwrap_or_default();
    let others = kinds.keys().map(String::as_str).filter(|kind| !KINDS.contains(kind));
    for kind in KINDS.into_iter().chain(others) {
        match kinds.get(kind) {
            Some(Value::Object(fields)) => {
                let (tables, plain): (Map<_, _>, Map<_, _>) =
                    fields.clone().into_iter().partition(|(_, value)| value.is_object());
                table(&format!("[{kind}]"), &plain, &mut text);
                for (name, fields) in &tables {
                    let fields = fields.as_object().cloned().unwrap_or_default();
                    table(&format!("[{kind}.{}]", key(name)), &fields, &mut text);
                }
            }
            // An empty kind is not the same as one that is not spoken of.
            Some(Value::Array(entries)) if entries.is_empty() => {
                // Writing to a string does not fail.
                let _ = writeln!(empty, "{kind} = []");
            }
            Some(Value::Array(entries)) => {
                let entries = entries.iter().filter_map(Value::as_object);
                entries.for_each(|fields| table(&format!("[[{kind}]]"), fields, &mut text));
            }
            _ => {}
        }
    }
    if empty.is_empty() { text } else { format!("{empty}\n{text}") }
}

fn table(head: &str, fields: &Map<String, Value>, to: &mut String) {
    if !to.is_empty() {
        to.push('\n');
    }
    // Writing to a string does not fail.
    let _ = writeln!(to, "{head}");
    let first = NAMES.iter().filter_map(|name| fields.get_key_value(*name));
    let others = fields.iter().filter(|(name, _)| !NAMES.contains(&name.as_str()));
    for (name, value) in first.chain(others).filter(|(_, value)| !value.is_null()) {
        let _ = writeln!(to, "{} = {}", key(name), inline(value));
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let lines: String = items.iter().map(|item| format!("    {},\n", inline(item))).collect();
            format!("[\n{lines}]")
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let given = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Vec<_> = given.map(|(name, value)| format!("{} = {}", key(name), inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        plain => plain.to_string(),
    }
}

fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.bytes().all(is_bare) { name.to_owned() } else { string(name) }
}

/// A basic string: JSON's escapes are TOML's, but that TOML escapes DEL, too.
fn string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let document = json!({
            "settings": { "domain_verification": "operator" },
            "tenants": [{ "name": "red", "weight": 2, "quota_per_day": 9_000_000_000_u64 }],
            "pools": [{ "name": "a", "members": [{ "source": "one", "weight": 1 }, { "source": "two", "weight": 3 }] }],
            "routes": [],
            "suspensions": [{ "site": "x.example", "reason": "a \"quoted\" \\ \u{7f} line,\ttab, ü" }],
            "credentials": [{ "username": "app", "disabled": false, "secret_hashes": ["$argon2id$x", "$y"] }],
            "numbers": { "master_key": "x", "tenants": { "red": 7 }, "domains": { "a.example of red": 9 } },
        });
        let text = write(&document);
        let table: toml::Table = text.parse().expect("what is written is TOML");
        assert_eq!(serde_json::to_value(table).expect("plain values"), document, "{text}");
        assert!(text.starts_with("routes = []\n\n[settings]\n"), "{text}");
    }
}
