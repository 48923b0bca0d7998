//! What is wrong with a body or a query, in our words: serde's name the types of this program and its reader's place.
//!
//! Absent here: where it is (`read` tells the pointer), and what JSON itself refuses, which its reader says with line and
//! column.

use std::borrow::Cow;

/// What a reader refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Of the error.
    pub(super) code: &'static str,
    /// The field of the place that is missing, where one is.
    pub(super) missing: Option<String>,
    pub(super) detail: String,
    /// A number is wanted; from where to where it goes, its type does not know.
    pub(super) is_number: bool,
}

impl Told {
    /// From what serde says of a value that it read and did not want.
    pub(super) fn of(said: &str) -> Self {
        let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
        let told = |code, detail| Self { code, missing: None, detail, is_number: false };
        if let Some(field) = quoted(said, "missing field `") {
            let detail = format!("`{field}` is missing");
            return Self { code: "missing_field", missing: Some(field.to_owned()), detail, is_number: false };
        }
        if let Some(field) = quoted(said, "unknown field `") {
            return told("unknown_field", format!("there is no `{field}` here{}", choice(said)));
        }
        if let Some(field) = quoted(said, "duplicate field `") {
            return told("invalid", format!("`{field}` is there twice"));
        }
        if let Some(value) = quoted(said, "unknown variant `") {
            return told("invalid", format!("`{value}` is none of what it can be{}", choice(said)));
        }
        let kinds = ["invalid type: ", "invalid value: ", "invalid length "];
        if let Some((is, wanted)) = kinds.iter().find_map(|kind| said.strip_prefix(kind)?.rsplit_once(", expected ")) {
            let is_number = matches!(wanted, "u8" | "u16" | "u32" | "u64" | "usize" | "i64" | "f32" | "f64");
            let detail = format!("{} is expected, not {}", wanted_name(wanted), found_name(is));
            return Self { is_number, ..told("invalid", detail) };
        }
        told("invalid", said.to_owned())
    }
}

/// What is between `start` and the next backquote.
fn quoted<'a>(said: &'a str, start: &str) -> Option<&'a str> {
    said.strip_prefix(start)?.split_once('`').map(|(name, _)| name)
}

/// What there is instead.
fn choice(said: &str) -> String {
    let known = said.split_once(", expected ").map(|(_, known)| known.strip_prefix("one of ").unwrap_or(known));
    known.map_or_else(String::new, |known| format!(": it can be {known}"))
}

/// What a type of ours is in JSON.
fn wanted_name(wanted: &str) -> Cow<'_, str> {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more".into(),
        "i64" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        "string or map" => "a string".into(),
        _ if wanted.starts_with("struct ") => "an object".into(),
        _ => wanted.into(),
    }
}

/// What was there.
fn found_name(is: &str) -> Cow<'_, str> {
    match is {
        "map" => "an object".into(),
        "sequence" => "an array".into(),
        "null" | "unit value" => "null".into(),
        _ => is
            .strip_prefix("integer ")
            .or_else(|| is.strip_prefix("floating point "))
            .or_else(|| is.strip_prefix("boolean "))
            .map_or_else(|| is.into(), |value| value.trim_matches('`').into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_reader_says_is_told_without_types_lines_and_columns() {
        let table = [
            ("missing field `name` at line 1 column 23", "missing_field", "`name` is missing"),
            (
                "unknown field `x`, expected one of `name`, `weight` at line 1 column 3",
                "unknown_field",
                "there is no `x` here: it can be `name`, `weight`",
            ),
            ("unknown field `x`, there are no fields", "unknown_field", "there is no `x` here"),
            ("duplicate field `name` at line 1 column 3", "invalid", "`name` is there twice"),
            (
                "unknown variant `boss`, expected one of `viewer`, `operator`, `admin`",
                "invalid",
                "`boss` is none of what it can be: it can be `viewer`, `operator`, `admin`",
            ),
            (
                "invalid type: map, expected a string at line 1 column 9",
                "invalid",
                "a string is expected, not an object",
            ),
            ("invalid type: sequence, expected an object", "invalid", "an object is expected, not an array"),
            ("invalid type: null, expected a boolean", "invalid", "true or false is expected, not null"),
            (
                "invalid value: integer `70000`, expected u16 at line 1 column 20",
                "invalid",
                "a whole number of 0 or more is expected, not 70000",
            ),
            (
                "invalid type: floating point `1.5`, expected u32",
                "invalid",
                "a whole number of 0 or more is expected, not 1.5",
            ),
            (
                "invalid type: string \"x, expected y\", expected struct Match",
                "invalid",
                "an object is expected, not string \"x, expected y\"",
            ),
            (
                "there is no scope x; the scopes are submit at line 3 column 7",
                "invalid",
                "there is no scope x; the scopes are submit",
            ),
        ];
        for (said, code, detail) in table {
            let told = Told::of(said);
            assert_eq!((told.code, told.detail.as_str()), (code, detail), "{said}");
        }
        assert_eq!(Told::of("missing field `name`").missing.as_deref(), Some("name"));
    }
}
