//! Words that say nothing, in the names of files, types, modules and functions.

use super::{Finding, SourceFile};

/// A word and what to write instead.
const BANNED: &[(&str, &str)] = &[
    ("manager", "name what it does: Pool, Schedule, Registry"),
    ("util", "put it beside its only user, or name what it is about"),
    ("utils", "put it beside its only user, or name what it is about"),
    ("helper", "name what it does"),
    ("helpers", "name what it does"),
    ("common", "name what it is about: base, mail, text"),
    ("misc", "divide it by what it is about"),
    ("info", "name the facts it holds: Facts, State, Summary"),
    ("process", "name the act: parse, settle, append; a Unix process is `child` or `pid`"),
];

/// What comes before a name that is declared.
const DECLARATIONS: &[&str] = &["fn ", "struct ", "enum ", "trait ", "mod ", "type ", "const ", "static "];

pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line, name: &str| {
        if let Some((word, instead)) = banned(name) {
            let message = format!("\"{word}\" in {name} says nothing: {instead}");
            findings.push(Finding { path: file.path.clone(), line, message, warns: false });
        }
    };
    let base = file.path.rsplit('/').next().unwrap_or_default();
    found(0, base.split('.').next().unwrap_or_default());
    if file.path.ends_with(".rs") {
        for (number, line) in (1..).zip(file.content.lines()) {
            // Test names are sentences, and sentences may use any word.
            if line.trim_start() == "#[cfg(test)]" {
                break;
            }
            if let Some(name) = declared(line) {
                found(number, name);
            }
        }
    }
    findings
}

/// The name that a line declares, if it does.
fn declared(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if let Some(after) = rest.strip_prefix("pub") {
        rest = match after.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1.trim_start(),
            None => after.strip_prefix(' ')?,
        };
    }
    for qualifier in ["const fn ", "async fn ", "unsafe fn "] {
        if rest.starts_with(qualifier) {
            rest = &rest[qualifier.len() - "fn ".len()..];
        }
    }
    let rest = DECLARATIONS.iter().find_map(|declaration| rest.strip_prefix(declaration))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

/// The banned word among a name's words.
fn banned(name: &str) -> Option<(&'static str, &'static str)> {
    let words = words(name);
    BANNED.iter().copied().find(|(word, _)| words.iter().any(|other| other == word))
}

/// The words of a name in snake_case, CamelCase or kebab-case, lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if c == '_' || c == '-' || (c.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase() || c.is_numeric();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn names_are_taken_apart_into_words() {
        assert_eq!(words("QueueManager2_old-name"), ["queue", "manager2", "old", "name"]);
        assert!(banned("QueueManager").is_some());
        assert!(banned("reprocessed").is_none(), "a word within a word is another word");
    }

    #[test]
    fn declarations_are_found_whatever_stands_before_them() {
        for (line, name) in [
            ("pub(crate) async fn process_mail(", Some("process_mail")),
            ("    pub struct TlsInfo {", Some("TlsInfo")),
            ("pub const fn a()", Some("a")),
            ("mod utils;", Some("utils")),
            ("    process(mail);", None),
            ("// fn helper", None),
        ] {
            assert_eq!(declared(line), name, "{line}");
        }
    }

    #[test]
    fn a_banned_word_is_found_in_files_and_declarations_but_not_in_tests() {
        let content = "//! Head.\npub struct TlsInfo;\n#[cfg(test)]\nmod tests {\n    fn process_a() {}\n}\n";
        let findings = check(&file("data-plane/src/helpers.rs", content));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[1].message.contains("Facts"), "{findings:?}");
    }
}
