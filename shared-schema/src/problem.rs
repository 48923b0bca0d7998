//! Findings of a check, with severity: what is wrong, where, and what to do.

use serde::Serialize;

/// How much a finding weighs. An `Error` keeps a plan from being published.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Note,
    Warning,
    Error,
}

/// One finding about configuration.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Stable snake_case code.
    pub code: &'static str,
    /// The resource it is about, such as `pool/default`.
    pub subject: String,
    /// One sentence: what was found and what to do.
    pub detail: String,
}
