//! What readers of each published format find in the bytes of each other, today's included.
//!
//! `shared-schema/former/NAME` has the schema as it was when the golden bytes NAME were first written. flatc checks that
//! today's is a compatible evolution of each, and reads each golden buffer with each. Here the findings are compared field by
//! field: what a former schema knows it must find as today's does, under the same name. What comes of it is written down for
//! people (`docs/reference/formats.md`) and for a test that compares it with what today's code reads (`golden/NAME.json`).
//!
//! Absent here: former programs. That they refuse a format above their own, and an enum's value that they do not know, is
//! taken from the code that wrote these bytes, which did so from the first on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What a reader makes of some bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Reading {
    All,
    /// All that it knows; these fields have something to say, and it does not know them.
    Without(BTreeSet<String>),
    NewerFormat(u64),
    /// At this field is a value that it does not know.
    UnknownValue(String),
}

/// The fields of each table and struct, with the names of their types.
type Tables = BTreeMap<String, BTreeMap<String, String>>;

/// The page that tells who reads what.
///
/// # Errors
/// A former reader finds something else than today's in a field that both know.
pub(super) fn page(shared: &Path, readings: &Path) -> Result<String> {
    let mut page = INTRODUCTION.to_owned();
    let formers = names(&shared.join("former"), "")?;
    for bytes in names(&shared.join("golden"), ".bin")? {
        let (today, written) = (json(readings, "today", &bytes)?, json(readings, "written", &bytes)?);
        let format = today["format"].as_u64().context("a buffer has a format")?;
        let mut by_reading: BTreeMap<Reading, Vec<&str>> = BTreeMap::new();
        for former in formers.iter().filter(|former| kind(former) == kind(&bytes)) {
            let tables = tables(&shared.join("former").join(former))?;
            let reader = Reader { name: former, tables: &tables, format: format_of(former)? };
            let found = Found { today: &today, written: &written, former: &json(readings, former, &bytes)? };
            let reading = reader.reading(found);
            by_reading.entry(reading.with_context(|| format!("{bytes} read by {former}"))?).or_default().push(former);
        }
        ensure!(
            by_reading.values().flatten().any(|reader| **reader == bytes),
            "shared-schema/former has no {bytes}: copy there the schema files that these golden bytes were written with"
        );
        writeln!(page, "\n## {bytes}\n\nFormat {format}.\n")?;
        for (reading, readers) in by_reading {
            writeln!(page, "- {}: {}", readers.join(", "), told(&reading))?;
        }
    }
    Ok(page)
}

const INTRODUCTION: &str = "# Formats, and who reads them

Snapshots, manifests, advances and events are flatbuffers. This page is written by `cargo xtask schema`. It reads every golden buffer of
`shared-schema/golden` with every schema that golden bytes were ever written with (`shared-schema/former`), and fails where a former reader
finds something else than today's in a field that both know, or where today's schema is no compatible evolution of a former one.
Whoever adds golden bytes puts the schema of that day there under the same name. The files of the spool, transfers and their
answers are no flatbuffers; they are of version 1 ([the spool on disk](../spool-format.md)). What has changed in the suppressions is two
snapshots, of what was added and of what was removed ([decision 26](../decisions/0026-suppressions-as-changes.md)).

A name is that of a kind of buffer and its format; a letter is another state of the same format. A data plane *refuses* a format
above the one it knows, and a value of an enum that it does not know: it then goes on with the publication that it has. So a writer
gives each buffer the least format whose readers overlook nothing in it that would make them do what must not be: where there are no
TLS rules no snapshot is of format 4, and data planes that do not know TLS rules read all.

In an upgrade the order of hosts does not matter as long as nothing is used that only the new version has. What needs a newer
format is for the time after the last data plane is new: one of before keeps the publication of before, and `postrail host list`
shows that its revision stays behind. Two domains of one name (format 5) are the exception: tenants make them, so that hosts say
which format they read, and such domains are published once all read it. Control planes read all formats. Events are of one format: a control plane of any version takes
them from a data plane of any other.
";

fn told(reading: &Reading) -> String {
    match reading {
        Reading::All => "everything".to_owned(),
        Reading::Without(fields) => {
            let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
            format!("everything but {}", fields.join(", "))
        }
        Reading::NewerFormat(format) => format!("refused, format {format} is newer"),
        Reading::UnknownValue(field) => format!("refused, `{field}` has a value that is unknown there"),
    }
}

struct Reader<'r> {
    name: &'r str,
    tables: &'r Tables,
    /// The newest that it reads.
    format: u64,
}

impl Reader<'_> {
    fn reading(&self, found: Found<'_>) -> Result<Reading> {
        let (format, read) = (&found.today["format"], &found.former["format"]);
        ensure!(format == read, "the format is {format}, and {read} is read");
        let format = format.as_u64().unwrap_or_default();
        if format > self.format {
            return Ok(Reading::NewerFormat(format));
        }
        let mut notes = Notes::default();
        let root = kind(self.name);
        let table = root[..1].to_uppercase() + &root[1..];
        self.compare(&mut notes, &table, "", found)?;
        Ok(match notes {
            Notes { unknown_value: Some(field), .. } => Reading::UnknownValue(field),
            Notes { overlooked, .. } if overlooked.is_empty() => Reading::All,
            Notes { overlooked, .. } => Reading::Without(overlooked),
        })
    }

    /// Compares what both know of a value of the type `kind`, which lies at `path`.
    fn compare(&self, notes: &mut Notes, kind: &str, path: &str, found: Found<'_>) -> Result<()> {
        match (found.today, found.former) {
            (Value::Array(today), Value::Array(former)) if today.len() == former.len() => {
                let mut all = today.iter().zip(former).enumerate();
                all.try_for_each(|(at, (today, former))| {
                    self.compare(notes, kind, path, Found { today, written: &found.written[at], former })
                })
            }
            (Value::Object(today), Value::Object(former)) => {
                let fields = self.tables.get(kind).with_context(|| format!("{path} is of the unknown table {kind}"))?;
                if let Some(name) = former.keys().find(|name| !today.contains_key(*name)) {
                    bail!("{path}.{name} is read, and today's schema finds nothing there");
                }
                for (name, today) in today {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    let written = &found.written[name];
                    match (fields.get(name), former.get(name)) {
                        (Some(kind), Some(former)) => {
                            self.compare(notes, kind, &path, Found { today, written, former })?;
                        }
                        (Some(_), None) => bail!("{path} is {today}, and nothing is read"),
                        (None, _) if written.is_null() => {}
                        (None, _) => _ = notes.overlooked.insert(path),
                    }
                }
                Ok(())
            }
            // flatc writes the number of a value that has no name.
            (Value::String(_), Value::Number(_)) => {
                notes.unknown_value.get_or_insert_with(|| path.to_owned());
                Ok(())
            }
            (today, former) if today == former => Ok(()),
            (today, former) => bail!("{path} is {today}, and {former} is read"),
        }
    }
}

/// What readers find at one place.
#[derive(Clone, Copy)]
struct Found<'v> {
    /// By today's schema, with the defaults of what is not there.
    today: &'v Value,
    /// By today's schema, without.
    written: &'v Value,
    /// By a former schema, with defaults.
    former: &'v Value,
}

#[derive(Default)]
struct Notes {
    overlooked: BTreeSet<String>,
    unknown_value: Option<String>,
}

/// The fields of a folder's schemas, which have one field a line.
fn tables(folder: &Path) -> Result<Tables> {
    let mut tables = Tables::new();
    for name in names(folder, ".fbs")? {
        let text = fs::read_to_string(folder.join(format!("{name}.fbs"))).with_context(|| format!("reading {name}"))?;
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("table ").or_else(|| line.strip_prefix("struct ")) {
                table = Some(tables.entry(name.trim_end_matches([' ', '{']).to_owned()).or_default());
            } else if line.starts_with('}') {
                table = None;
            } else if let (Some(table), Some((name, kind))) =
                (&mut table, line.split("//").next().and_then(|line| line.split_once(':')))
            {
                let kind: String =
                    kind.chars().filter(|char| *char != '[').take_while(char::is_ascii_alphanumeric).collect();
                table.insert(name.trim().to_owned(), kind);
            }
        }
    }
    Ok(tables)
}

fn json(readings: &Path, reader: &str, bytes: &str) -> Result<Value> {
    let path = readings.join(reader).join(format!("{bytes}.json"));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))
}

/// The names in a folder that end in `end`, without it, in order.
pub(super) fn names(folder: &Path, end: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string().ok().context("names are UTF-8")?;
        names.extend(name.strip_suffix(end).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// `snapshot` of `snapshot-3a`.
fn kind(name: &str) -> &str {
    name.split('-').next().unwrap_or_default()
}

/// 3 of `snapshot-3a`.
fn format_of(name: &str) -> Result<u64> {
    let digits = name.split('-').nth(1).unwrap_or_default().trim_end_matches(|char: char| char.is_ascii_lowercase());
    digits.parse().with_context(|| format!("{name} says no format"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(today: &Value, found: &Value) -> Result<Reading, String> {
        let fields = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
        };
        let tables = [
            ("Snapshot".to_owned(), fields(&[("format", "ushort"), ("tenants", "Tenant")])),
            ("Tenant".to_owned(), fields(&[("id", "uint"), ("name", "string"), ("standing", "Standing")])),
        ];
        let reader = Reader { name: "snapshot-3a", tables: &tables.into(), format: 3 };
        reader.reading(Found { today, written: today, former: found }).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_reader_knows_it_finds_and_the_rest_is_named() {
        let today = json!({ "format": 3, "tenants": [{ "id": 1, "name": "a", "weight": 2, "region": null }] });
        let found = |tenant: Value| json!({ "format": 3, "tenants": [tenant] });
        let without = Reading::Without(["tenants.weight".to_owned()].into());
        assert_eq!(read(&today, &found(json!({ "id": 1, "name": "a" }))), Ok(without));
        for (tenant, wrong) in [
            (json!({ "id": 1, "name": "b" }), r#"tenants.name is "a", and "b" is read"#),
            (json!({ "id": 1 }), r#"tenants.name is "a", and nothing is read"#),
            (
                json!({ "id": 1, "name": "a", "user": "a" }),
                "tenants.user is read, and today's schema finds nothing there",
            ),
        ] {
            assert_eq!(read(&today, &found(tenant)), Err(wrong.to_owned()));
        }
        assert_eq!(read(&json!({ "format": 2 }), &json!({ "format": 2 })), Ok(Reading::All));
        assert!(read(&today, &json!({ "format": 3, "tenants": [] })).is_err());
    }

    #[test]
    fn a_newer_format_and_an_unknown_value_are_refused() {
        assert_eq!(read(&json!({ "format": 4 }), &json!({ "format": 4 })), Ok(Reading::NewerFormat(4)));
        let of = |standing: Value| json!({ "format": 1, "tenants": [{ "standing": standing }] });
        assert_eq!(read(&of(json!("Lapsed")), &of(json!(4))), Ok(Reading::UnknownValue("tenants.standing".into())));
    }

    #[test]
    fn names_say_kind_and_format() {
        assert_eq!(
            (kind("snapshot-3a"), format_of("snapshot-3a").ok(), format_of("advance").ok()),
            ("snapshot", Some(3), None)
        );
    }
}
