//! What a sending domain publishes in DNS: the records to paste, what is really there, and what that decides.
//!
//! ```text
//! Subject --records()--> DnsRecord, one a record to publish
//!         --check(lookup)--> RecordCheck, one a record: ok | missing | wrong | unreachable, in the owner's words
//!                              --standing::next--> may it send?
//! ```
//!
//! Invariants worth naming: a check asks a bounded number of questions; a server that fails makes a record
//! [`RecordState::Unreachable`], which never counts against a domain; what a check says is text for people, bounded, and
//! comes with the server that said so. Deliberately absent: the store, the clock, when a check is made (`reconcile`).

use serde::{Deserialize, Serialize};

mod dkim;
mod dmarc;
mod hosts;
mod ownership;
mod records;
mod servers;
mod session;
mod spf;
mod standing;
mod words;

pub(crate) use ownership::token;
pub use records::DnsRecord;
pub(crate) use records::Duty;
pub(crate) use records::{Subject, SubjectKey, records};
pub(crate) use standing::{Held, next};

use crate::dns::{Answer, Lookup};
use session::Session;

/// What a record is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    Ownership,
    Spf,
    Dkim,
    Dmarc,
    ReturnPath,
    Tracking,
}

/// What was found of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordState {
    Ok,
    Missing,
    Wrong,
    /// No server could say.
    Unreachable,
}

/// The last look at one record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RecordCheck {
    pub purpose: Purpose,
    pub name: String,
    pub state: RecordState,
    /// What is published there, as text.
    pub found: Vec<String>,
    /// The name server that said so.
    pub server: Option<String>,
    /// What the zone's own servers say, where they do not say the same.
    #[serde(default)]
    pub servers: Vec<ServerSaid>,
    /// What is wrong, or worth knowing; empty where there is nothing to say.
    pub detail: String,
    /// What to do about it; empty where there is nothing to do.
    pub advice: String,
    /// Since when it is in this state, Unix milliseconds.
    pub since_ms: u64,
}

/// What one of the zone's own servers says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct ServerSaid {
    /// Its name and address.
    pub server: String,
    /// Whether that is what has to be there.
    pub is_right: bool,
    /// What it has, as text.
    pub found: Vec<String>,
    /// Why it has not answered; empty where it has.
    pub failure: String,
}

/// The last check of a domain, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DomainCheck {
    /// Unix milliseconds.
    pub checked_at_ms: u64,
    /// The domain's standing after it, by name.
    pub standing: String,
    /// Since when the domain has that standing, Unix milliseconds.
    pub standing_since_ms: u64,
    pub records: Vec<RecordCheck>,
}

/// What one look came to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Outcome {
    state: RecordState,
    found: Vec<String>,
    server: Option<String>,
    servers: Vec<ServerSaid>,
    detail: String,
    advice: String,
}

impl Outcome {
    fn of(answer: &Answer, state: RecordState) -> Self {
        let server = answer.server.map(|server| server.to_string());
        let (found, servers) = (words::found(answer), Vec::new());
        Self { state, found, server, servers, detail: String::new(), advice: String::new() }
    }

    fn saying(self, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { detail: detail.into(), advice: advice.into(), ..self }
    }
}

/// Looks at every record of `subject`. `before`: the last check, for how long a state has lasted.
pub(crate) async fn check<L: Lookup>(
    subject: &Subject,
    lookup: &L,
    before: Option<&DomainCheck>,
    now_ms: u64,
) -> Vec<RecordCheck> {
    let session = Session::new(lookup);
    let mut checks = Vec::new();
    for record in records(subject) {
        let outcome = match record.purpose {
            Purpose::Ownership => ownership::check(&session, subject, &record).await,
            Purpose::Spf => spf::check(&session, subject, &record).await,
            Purpose::Dkim => dkim::check(&session, subject, &record).await,
            Purpose::Dmarc => dmarc::check(&session, subject, &record).await,
            Purpose::ReturnPath => hosts::return_path(&session, subject, &record).await,
            Purpose::Tracking => hosts::tracking(&session, subject, &record).await,
        };
        let outcome = servers::agreed(&session, subject, &record, outcome).await;
        let old = before.into_iter().flat_map(|before| &before.records);
        let old = old.into_iter().find(|old| old.purpose == record.purpose && old.name == record.name);
        let since_ms = old.filter(|old| old.state == outcome.state).map_or(now_ms, |old| old.since_ms);
        let Outcome { state, found, server, servers, detail, advice } = outcome;
        let (purpose, name) = (record.purpose, record.name);
        checks.push(RecordCheck { purpose, name, state, found, server, servers, detail, advice, since_ms });
    }
    checks
}

#[cfg(test)]
mod tests;
