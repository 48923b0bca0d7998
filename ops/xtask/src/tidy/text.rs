//! Rules for a line or a file by itself.

use super::{Finding, SourceFile};

/// Lines of a Rust file without its tests: over it a warning.
const LINES_SOFT_MAX: usize = 600;
/// Lines of a Rust file without its tests: over it an error.
const LINES_MAX: usize = 1_000;

pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line, message: &str, warns| {
        findings.push(Finding { path: file.path.clone(), line, message: message.to_owned(), warns });
    };
    for (number, line) in (1..).zip(file.content.lines()) {
        if line.ends_with([' ', '\t']) && !is_licence(&file.path) {
            found(number, "white space at the end: remove it", false);
        }
    }
    if !file.content.is_empty() && !file.content.ends_with('\n') {
        found(0, "no newline at the end: add one", false);
    }
    if file.path.ends_with(".rs") {
        for (line, message, warns) in rust(&file.content, file.path.ends_with("/tests.rs")) {
            found(line, &message, warns);
        }
    } else if file.path.ends_with(".md") {
        if !file.content.starts_with("# ") {
            found(1, "a page starts with its title: begin with \"# \" and what the page is", false);
        }
    } else if is_shell(file) && !file.content.lines().take(20).any(|line| line == "set -euo pipefail") {
        found(1, "a script stops at its first failure: add \"set -euo pipefail\" before the first command", false);
    }
    findings
}

fn rust(content: &str, is_tests: bool) -> Vec<(usize, String, bool)> {
    let mut found = Vec::new();
    if !content.starts_with("//! ") {
        found.push((
            1,
            "no head: start with \"//! \", what this file is, and its invariants worth naming".into(),
            false,
        ));
    }
    let code = content.lines().position(|line| line == "#[cfg(test)]").unwrap_or_else(|| content.lines().count());
    let lines = if is_tests { 0 } else { code };
    if lines > LINES_MAX {
        found.push((0, format!("{lines} lines without tests: divide it into files of under {LINES_SOFT_MAX}"), false));
    } else if lines > LINES_SOFT_MAX {
        found.push((0, format!("{lines} lines without tests: divide it before it reaches {LINES_MAX}"), true));
    }
    // Spelt in parts, so that this file keeps its own rules.
    let stubs = [
        (concat!("TO", "DO"), "write it now, or open an issue and say in prose what is absent"),
        (concat!("FIX", "ME"), "repair it now, or open an issue and say in prose what is absent"),
        (concat!("todo", "!("), "write it, or return an error that says what is not supported"),
        (concat!("unimple", "mented!("), "write it, or return an error that says what is not supported"),
        (concat!("dbg", "!("), "use tracing with fields"),
        (concat!("[all", "ow("), "use #[expect(.., reason = \"..\")]"),
        (concat!("#[ign", "ore"), "make the test run everywhere, or remove it"),
    ];
    for (number, line) in (1..).zip(content.lines()) {
        for (stub, instead) in stubs {
            if line.contains(stub) {
                found.push((number, format!("{stub}: {instead}"), false));
            }
        }
    }
    found
}

fn is_shell(file: &SourceFile) -> bool {
    let first = file.content.lines().next().unwrap_or_default();
    file.path.ends_with(".sh") || (first.starts_with("#!") && first.ends_with("sh"))
}

fn is_licence(path: &str) -> bool {
    path.starts_with("LICENSE")
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn messages(path: &str, content: &str) -> Vec<String> {
        check(&file(path, content)).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn each_broken_rule_says_what_to_write_instead() {
        let stub = concat!("todo", "!()");
        for (path, content, expected) in [
            ("a.rs", "fn a() {}\n", "start with \"//! \""),
            ("a.rs", &format!("//! Head.\nfn a() {{ {stub} }}\n"), "write it, or return an error"),
            ("a.rs", &format!("//! Head.\n// {}: later\n", concat!("TO", "DO")), "open an issue"),
            ("a.rs", "//! Head.\nfn a() {} \n", "remove it"),
            ("a.rs", &format!("//! Head.\n#{}dead_code)]\nfn a() {{}}\n", concat!("[all", "ow(")), "#[expect("),
            ("a.md", "Text.\n", "begin with \"# \""),
            ("ops/run", "#!/usr/bin/env bash\necho\n", "set -euo pipefail"),
            ("a.toml", "a = 1", "add one"),
        ] {
            let found = messages(path, content);
            assert!(found.len() == 1 && found[0].contains(expected), "{path}: {found:?}");
        }
    }

    #[test]
    fn length_is_counted_without_tests() {
        let body = "fn a() {}\n".repeat(500);
        let tests = format!("//! Head.\n{body}#[cfg(test)]\n{body}{body}");
        assert_eq!(messages("a.rs", &tests), [""; 0]);
        assert!(messages("a.rs", &format!("//! Head.\n{body}{body}"))[0].contains("divide it into files"));
        assert!(messages("a.rs", &format!("//! Head.\n{body}{}", "fn b() {}\n".repeat(200)))[0].contains("warning"));
    }

    #[test]
    fn a_strict_script_and_a_titled_page_are_fine() {
        assert_eq!(messages("ops/run", "#!/usr/bin/env bash\n# What.\nset -euo pipefail\n"), [""; 0]);
        assert_eq!(messages("a.md", "# Title\n"), [""; 0]);
    }
}
