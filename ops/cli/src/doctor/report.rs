//! The report: for people by subject, what matters most first; for tools as JSON.

use std::fmt::Write as _;
use std::io::IsTerminal;

use serde::Serialize;

use super::finding::{Finding, Severity, Subject};
use super::fix::Fixed;

/// Width of the text, characters.
const WIDTH: usize = 100;
/// Where the text of a finding's lines begins.
const INDENT: usize = 13;

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) host: String,
    /// Whether it is a recorded host.
    pub(super) recorded: bool,
    pub(super) findings: Vec<Finding>,
    /// What `--fix` has written before the findings were made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fixed: Vec<Fixed>,
}

impl Report {
    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// 0: nothing above advice, 1: warnings, 2: errors.
    pub(super) fn exit_status(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Error) => 2,
            Some(Severity::Warning) => 1,
            _ => 0,
        }
    }

    pub(super) fn json(&self) -> String {
        let summary = serde_json::json!({
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "advice": self.count(Severity::Advice),
            "ok": self.count(Severity::Ok),
            "skipped": self.count(Severity::Skipped),
            "exit_status": self.exit_status(),
        });
        let mut value = serde_json::to_value(self).expect("a report has only texts and lists");
        value["summary"] = summary;
        serde_json::to_string_pretty(&value).expect("a report has only texts and lists")
    }

    /// For a terminal or a pipe; `all`: also what is fine.
    pub(super) fn text(&self, all: bool) -> String {
        let paint = Paint { on: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
        self.text_in(all, paint)
    }

    fn text_in(&self, all: bool, paint: Paint) -> String {
        let mut text = format!("{}{}\n", self.host, if self.recorded { " (recorded)" } else { "" });
        for fixed in &self.fixed {
            let _ = writeln!(text, "  {fixed}");
        }
        if !self.fixed.is_empty() {
            text.push_str("  It holds until the next restart: what is to stay goes into /etc/sysctl.d and the like.\n");
        }
        for subject in Subject::ALL {
            let shown =
                |finding: &&Finding| finding.subject == subject && (all || finding.severity > Severity::Skipped);
            let mut findings: Vec<&Finding> = self.findings.iter().filter(shown).collect();
            if findings.is_empty() {
                continue;
            }
            findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
            let _ = writeln!(text, "\n{}", paint.bold(subject.title()));
            for finding in findings {
                write_finding(&mut text, finding, paint);
            }
        }
        self.write_end(&mut text, all);
        text
    }

    fn write_end(&self, text: &mut String, all: bool) {
        let counted = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let _ = writeln!(
            text,
            "\n{}, {}, {}; {} fine{}.",
            counted(self.count(Severity::Error), "error", "errors"),
            counted(self.count(Severity::Warning), "warning", "warnings"),
            counted(self.count(Severity::Advice), "piece of advice", "pieces of advice"),
            self.count(Severity::Ok),
            if all { "" } else { " (--all shows them)" }
        );
        let skipped: Vec<&Finding> =
            self.findings.iter().filter(|finding| finding.severity == Severity::Skipped).collect();
        if !all && !skipped.is_empty() {
            let names: Vec<&str> = skipped.iter().map(|finding| finding.what.as_str()).collect();
            write_wrapped(text, "Not asked: ", &format!("{} (--all says why).", names.join(", ")), 2);
        }
        let fixable = self.findings.iter().filter(|f| f.remedy.as_ref().is_some_and(|r| !r.writes.is_empty())).count();
        if fixable > 0 && !self.recorded {
            let _ = writeln!(
                text,
                "--fix sets {fixable} of them until the next restart; --fix --dry-run shows what it would write."
            );
        }
    }
}

fn write_finding(text: &mut String, finding: &Finding, paint: Paint) {
    let word = match finding.severity {
        Severity::Ok => "ok",
        Severity::Skipped => "not asked",
        Severity::Advice => "advice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let label = format!("  {word:<width$}", width = INDENT - 2);
    if finding.severity == Severity::Skipped {
        return write_wrapped(
            text,
            &paint.severity(&label, finding.severity),
            &format!("{}: {}", finding.what, finding.why),
            INDENT,
        );
    }
    let _ = writeln!(text, "{}{}: {}", paint.severity(&label, finding.severity), finding.what, finding.found);
    if finding.severity == Severity::Ok {
        return;
    }
    let lines = [("wanted", &finding.wanted), ("why", &finding.why)];
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        write_wrapped(text, &format!("{:INDENT$}{name:<8}", ""), value, INDENT + 8);
    }
    if let Some(remedy) = &finding.remedy {
        // In one line, however long: it is copied.
        let _ = writeln!(text, "{:INDENT$}{:<8}{}", "", "set by", remedy.command);
    }
}

/// `value` after `start`, its later lines indented.
fn write_wrapped(text: &mut String, start: &str, value: &str, indent: usize) {
    text.push_str(start);
    let mut column = indent.max(start.chars().filter(|c| !c.is_control()).count().min(indent));
    let mut first = true;
    for word in value.split_whitespace() {
        let length = word.chars().count();
        if !first && column + 1 + length > WIDTH {
            let _ = write!(text, "\n{:indent$}", "");
            column = indent;
        } else if !first {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
        first = false;
    }
    text.push('\n');
}

/// Colours, where somebody sees them.
#[derive(Clone, Copy)]
struct Paint {
    on: bool,
}

impl Paint {
    fn bold(self, text: &str) -> String {
        self.wrap(text, "1")
    }

    fn severity(self, text: &str, severity: Severity) -> String {
        let code = match severity {
            Severity::Ok => "32",
            Severity::Skipped => "2",
            Severity::Advice => "36",
            Severity::Warning => "33",
            Severity::Error => "31",
        };
        self.wrap(text, code)
    }

    fn wrap(self, text: &str, code: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Remedy;
    use super::*;

    fn report() -> Report {
        let finding = |id, severity| {
            Finding::new(Subject::Tcp, id, id, "1")
                .wanted("2", "a reason of many words ".repeat(10))
                .severity(severity)
                .remedy(|| Remedy::by_hand("type this"))
        };
        let findings = vec![
            finding("fine", Severity::Ok),
            finding("advised", Severity::Advice),
            finding("wrong", Severity::Warning),
        ];
        Report { host: "a host".to_owned(), recorded: false, findings, fixed: Vec::new() }
    }

    #[test]
    fn what_matters_most_comes_first_and_what_is_fine_only_if_asked() {
        let text = report().text_in(false, Paint { on: false });
        let (wrong, advised) = (text.find("wrong: 1"), text.find("advised: 1"));
        assert!(wrong.is_some() && wrong < advised, "{text}");
        assert!(!text.contains("fine: 1"), "{text}");
        assert!(
            text.contains("set by  type this") && text.contains("0 errors, 1 warning, 1 piece of advice; 1 fine"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(report().text_in(true, Paint { on: false }).contains("fine: 1"));
    }

    #[test]
    fn the_exit_status_tells_the_worst() {
        let mut report = report();
        assert_eq!(report.exit_status(), 1);
        report.findings[0].severity = Severity::Error;
        assert_eq!(report.exit_status(), 2);
        report.findings.truncate(0);
        assert_eq!(report.exit_status(), 0);
    }

    #[test]
    fn json_has_findings_and_summary() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).expect("JSON");
        assert_eq!(value["summary"]["warnings"], 1);
        assert_eq!(value["findings"][2]["severity"], "warning");
        assert_eq!(value["findings"][2]["remedy"]["command"], "type this");
    }
}
