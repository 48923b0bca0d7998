//! What the doctor says: found, wanted, why, and the command that sets it.

use serde::Serialize;

/// How much a finding matters; a greater one matters more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Not asked, or not to be told on this host.
    Skipped,
    /// Works; could be faster, or would be under more load.
    Advice,
    /// Costs speed or mail's reputation now.
    Warning,
    /// It will not start, or mail will not leave.
    Error,
}

/// What a finding is about: a chapter of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    Cpu,
    Memory,
    Limits,
    IoUring,
    Network,
    Tcp,
    Disk,
    Sources,
    Shards,
}

impl Subject {
    pub(super) const ALL: [Self; 9] = [
        Self::Cpu,
        Self::Memory,
        Self::Limits,
        Self::IoUring,
        Self::Network,
        Self::Tcp,
        Self::Disk,
        Self::Sources,
        Self::Shards,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU and clock",
            Self::Memory => "Memory",
            Self::Limits => "Limits of the process",
            Self::IoUring => "io_uring",
            Self::Network => "Network interfaces",
            Self::Tcp => "TCP and ports",
            Self::Disk => "Disk of the data folder",
            Self::Sources => "Addresses that mail is sent from",
            Self::Shards => "Shards of the configuration file",
        }
    }
}

/// How a finding is mended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Remedy {
    /// What to type, or in words what to do.
    pub(crate) command: String,
    /// What `--fix` writes where; empty: this is for a person to decide.
    pub(crate) writes: Vec<Write>,
}

/// One value of the kernel to set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Write {
    /// Without its first slash.
    pub(crate) path: String,
    pub(crate) value: String,
}

impl Remedy {
    /// For a person.
    pub(super) fn by_hand(command: impl Into<String>) -> Self {
        Self { command: command.into(), writes: Vec::new() }
    }

    /// Writes that are safe on any host and hold until it starts again.
    pub(super) fn safe(command: impl Into<String>, writes: Vec<Write>) -> Self {
        Self { command: command.into(), writes }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) subject: Subject,
    /// For tools: it stays the same from version to version.
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    /// What was looked at: a setting, an interface, an address.
    pub(crate) what: String,
    pub(crate) found: String,
    pub(crate) wanted: String,
    pub(crate) why: String,
    pub(crate) remedy: Option<Remedy>,
}

impl Finding {
    /// A finding that is fine until [`Self::unless`] or [`Self::severity`] says otherwise.
    pub(super) fn new(subject: Subject, id: &'static str, what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            subject,
            id,
            severity: Severity::Ok,
            what: what.into(),
            found: found.into(),
            wanted: String::new(),
            why: String::new(),
            remedy: None,
        }
    }

    /// Something that was not looked at, and why.
    pub(super) fn skipped(subject: Subject, id: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { severity: Severity::Skipped, why: why.into(), ..Self::new(subject, id, what, "not asked") }
    }

    pub(super) fn wanted(self, wanted: impl Into<String>, why: impl Into<String>) -> Self {
        Self { wanted: wanted.into(), why: why.into(), ..self }
    }

    pub(super) fn severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// Of `severity` where `is_fine` does not hold.
    pub(super) fn unless(self, is_fine: bool, severity: Severity) -> Self {
        if is_fine { self } else { self.severity(severity) }
    }

    /// How to mend it; a finding that is fine needs none.
    pub(super) fn remedy(self, remedy: impl FnOnce() -> Remedy) -> Self {
        if self.severity > Severity::Skipped { Self { remedy: Some(remedy()), ..self } } else { self }
    }
}
