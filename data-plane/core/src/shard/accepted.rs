//! What is told of a job that was accepted: one event a recipient. What they say of the job they have in common.

use std::sync::Arc;

use postrail_schema::event::{Event, EventKind, JobFacts};
use postrail_schema::ids::RecipientIndex;

use crate::mail::{Job, JobRecipient};

/// The `Accepted` events of a job, each with a `Quarantined` one behind it where the job waits for a person.
pub(super) fn accepted_events(job: &Job) -> Vec<Event> {
    let shared = Arc::new(JobFacts {
        credential: job.credential,
        domain: job.domain,
        interface: job.interface.name().to_owned(),
        reverse_path: job.reverse_path.as_ref().map(ToString::to_string).unwrap_or_default(),
        bytes: job.content.len() as u64,
        reference: job.reference.clone(),
        campaign: job.campaign.clone(),
        cost_center: job.cost_center.clone(),
        class: job.class.name().to_owned(),
        message_id_header: job.message_id_header.clone(),
        recipients: job.recipients.len() as u16,
    });
    let facts = |recipient: &JobRecipient| {
        let entry = job.entries.get(usize::from(recipient.entry));
        let own = entry.map(|entry| entry.reference.as_str()).filter(|reference| !reference.is_empty());
        own.map_or_else(
            || shared.clone(),
            |own| Arc::new(JobFacts { reference: own.to_owned(), ..JobFacts::clone(&shared) }),
        )
    };
    let mut events = Vec::with_capacity(job.recipients.len() * (1 + usize::from(job.quarantined)));
    for (index, recipient) in job.recipients.iter().enumerate() {
        let accepted = Event {
            kind: EventKind::Accepted,
            message: job.id,
            index: RecipientIndex(index as u16),
            at_ms: job.accepted_at.unix_ms(),
            revision: job.revision,
            tenant: job.tenant,
            address: recipient.address.to_string(),
            job: Some(facts(recipient)),
            attempt: None,
            reason: String::new(),
            next_attempt_ms: 0,
        };
        let held = job.quarantined.then(|| {
            let reason = "domain_failing".to_owned();
            Event { kind: EventKind::Quarantined, job: None, reason, ..accepted.clone() }
        });
        events.push(accepted);
        events.extend(held);
    }
    events
}
