//! `--fix`: writes the kernel's values that are safe on any host, and says what was there before.
//!
//! Safe means: it takes effect at once, harms no connection, and the next restart of the host undoes it. Files are never
//! changed: what is to stay belongs into `/etc/sysctl.d` and the like, as the tuning chapter says.

use std::fmt;
use std::fs;

use serde::Serialize;

use super::finding::{Finding, Severity, Write};
use super::root::Root;

/// One value that was set, or would be.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fixed {
    path: String,
    before: Option<String>,
    value: String,
    /// Only shown, not written.
    dry: bool,
    error: Option<String>,
}

impl Fixed {
    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.before.as_deref().unwrap_or("unknown");
        match (&self.error, self.dry) {
            (Some(error), _) => write!(f, "not set  /{}: {error}", self.path),
            (None, true) => write!(f, "would set  /{}: {before} -> {}", self.path, self.value),
            (None, false) => write!(f, "set  /{}: {before} -> {}", self.path, self.value),
        }
    }
}

/// Writes what the findings' remedies name; with `dry` it only says so.
pub(super) fn apply(root: &Root, findings: &[Finding], dry: bool) -> Vec<Fixed> {
    let wrong = findings.iter().filter(|finding| finding.severity > Severity::Skipped);
    let writes = wrong.filter_map(|finding| finding.remedy.as_ref()).flat_map(|remedy| &remedy.writes);
    writes.map(|write| apply_one(root, write, dry)).collect()
}

fn apply_one(root: &Root, write: &Write, dry: bool) -> Fixed {
    let before = root.line(&write.path);
    let written = if dry || !root.is_live() { Ok(()) } else { fs::write(format!("/{}", write.path), &write.value) };
    let error = written.err().map(|error| error.to_string());
    Fixed { path: write.path.clone(), before, value: write.value.clone(), dry, error }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Remedy, Subject};
    use super::*;
    use crate::demo::Scratch;

    #[test]
    fn only_safe_remedies_of_what_is_wrong_are_applied() {
        let scratch = Scratch::new("doctor-fix").expect("a temporary folder");
        fs::write(scratch.path().join("x"), "old\n").expect("written");
        let root = Root::recorded(scratch.path()).expect("a folder");
        let safe = || Remedy::safe("set x", vec![Write { path: "x".to_owned(), value: "new".to_owned() }]);
        let finding = || Finding::new(Subject::Tcp, "x", "x", "old");
        let findings = [
            finding().severity(Severity::Advice).remedy(safe),
            finding().remedy(safe),
            finding().severity(Severity::Error).remedy(|| Remedy::by_hand("ask somebody")),
        ];
        let fixed = apply(&root, &findings, true);
        assert_eq!(fixed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["would set  /x: old -> new"]);
        assert_eq!(fs::read_to_string(scratch.path().join("x")).expect("readable"), "old\n");
    }
}
