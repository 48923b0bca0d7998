//! Events as flatbuffers: several events a buffer, in the order of their journal.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{AddressVector, FORMAT, WireError, check_format, check_frame, put_address, read_address, verifier};
use crate::event::{AttemptFacts, Event, EventBrief, EventKind, JobFacts};
use crate::generated::event as wire;
use crate::ids::{CredentialId, MessageId, RecipientIndex, Revision, SendingDomainId, SourceId, TenantId};
use crate::limits::EVENTS_BYTES_MAX;

/// The buffer of `events`, in their order.
pub fn encode_events(events: &[Event]) -> Vec<u8> {
    let kept = BUILDER.take();
    let mut to = kept.unwrap_or_else(|| FlatBufferBuilder::with_capacity(64 + events.len() * 512));
    let mut written = Written::default();
    let offsets: Vec<_> = events.iter().map(|event| put_event(&mut to, &mut written, event)).collect();
    let events = to.create_vector(&offsets);
    let root = wire::Events::create(&mut to, &wire::EventsArgs { format: FORMAT, events: Some(events) });
    wire::finish_events_buffer(&mut to, root);
    let bytes = to.finished_data().to_vec();
    if bytes.len() <= BUILDER_BYTES_KEPT {
        to.reset();
        BUILDER.set(Some(to));
    }
    bytes
}

thread_local! {
    /// The builder of the thread's last buffer: a new one is as large a piece of zeroed memory as the buffer.
    static BUILDER: Cell<Option<FlatBufferBuilder<'static>>> = const { Cell::new(None) };
}

/// A buffer larger than this leaves nothing behind.
const BUILDER_BYTES_KEPT: usize = 128 * 1024;

/// The events of a buffer, in their order.
///
/// # Errors
/// [`WireError`] when the bytes are no events, or of a newer format.
pub fn decode_events(bytes: &[u8]) -> Result<Vec<Event>, WireError> {
    verified(bytes)?.events().into_iter().flatten().map(read_event).collect()
}

/// As [`decode_events`], but only what recovery reads: without a copy of any text.
///
/// # Errors
/// As [`decode_events`].
pub fn decode_event_briefs(bytes: &[u8]) -> Result<Vec<EventBrief>, WireError> {
    verified(bytes)?.events().into_iter().flatten().map(read_brief).collect()
}

/// What joining needs of an event, without its texts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventHead {
    pub kind: EventKind,
    pub message: MessageId,
    pub index: RecipientIndex,
    /// Unix milliseconds.
    pub at_ms: u64,
    pub tenant: TenantId,
    /// Whether it says something of the job.
    pub has_job: bool,
    /// Whether it says that the job is a report that we made.
    pub is_report: bool,
    /// The number of its attempt, where it says something of one.
    pub attempt: Option<u16>,
}

/// Adds the heads of a buffer's events to `heads`, in their order, and copies no text. It succeeds for exactly the
/// buffers that [`decode_events`] reads.
///
/// # Errors
/// As [`decode_events`]; `heads` is then as before.
pub fn read_heads(bytes: &[u8], heads: &mut Vec<EventHead>) -> Result<(), WireError> {
    let before = heads.len();
    for event in verified(bytes)?.events().into_iter().flatten() {
        match read_head(event) {
            Ok(head) => heads.push(head),
            Err(error) => {
                heads.truncate(before);
                return Err(error);
            }
        }
    }
    Ok(())
}

fn verified(bytes: &[u8]) -> Result<wire::Events<'_>, WireError> {
    check_frame(bytes, wire::EVENTS_IDENTIFIER, EVENTS_BYTES_MAX)?;
    let root = wire::root_as_events_with_opts(&verifier(bytes.len()), bytes)?;
    check_format(root.format())?;
    Ok(root)
}

/// What of a buffer may be pointed at again: recipients of one job have its facts in common, and attempts at one site
/// theirs. It forgets, and what was forgotten is written again.
#[derive(Default)]
struct Written<'e, 'b> {
    job: Option<(&'e JobFacts, WIPOffset<wire::JobFacts<'b>>)>,
    attempt: Option<(&'e AttemptFacts, WIPOffset<wire::AttemptFacts<'b>>)>,
    /// By their hash.
    texts: [Option<(&'e str, WIPOffset<&'b str>)>; TEXTS_REMEMBERED],
    /// By their last octet.
    addresses: [Option<(IpAddr, AddressVector<'b>)>; ADDRESSES_REMEMBERED],
}

const TEXTS_REMEMBERED: usize = 32;
const ADDRESSES_REMEMBERED: usize = 16;

impl<'e, 'b> Written<'e, 'b> {
    /// A text that others may have too. The empty string is absent on the wire.
    fn text(&mut self, to: &mut FlatBufferBuilder<'b>, value: &'e str) -> Option<WIPOffset<&'b str>> {
        if value.is_empty() {
            return None;
        }
        let place = &mut self.texts[hash(value) % TEXTS_REMEMBERED];
        if let Some((_, offset)) = place.filter(|(text, _)| *text == value) {
            return Some(offset);
        }
        *place = text(to, value).map(|offset| (value, offset));
        place.map(|(_, offset)| offset)
    }

    fn address(&mut self, to: &mut FlatBufferBuilder<'b>, value: IpAddr) -> AddressVector<'b> {
        let last = match value {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let place = &mut self.addresses[usize::from(last) % ADDRESSES_REMEMBERED];
        if let Some((_, offset)) = place.filter(|(address, _)| *address == value) {
            return offset;
        }
        let offset = put_address(to, value);
        *place = Some((value, offset));
        offset
    }

    fn job(&mut self, to: &mut FlatBufferBuilder<'b>, value: &'e JobFacts) -> WIPOffset<wire::JobFacts<'b>> {
        if let Some((_, offset)) = self.job.filter(|(job, _)| std::ptr::eq(*job, value) || *job == value) {
            return offset;
        }
        let offset = put_job(to, self, value);
        self.job = Some((value, offset));
        offset
    }

    fn attempt(
        &mut self,
        to: &mut FlatBufferBuilder<'b>,
        value: &'e AttemptFacts,
    ) -> WIPOffset<wire::AttemptFacts<'b>> {
        // What differs at all differs mostly in how long it took.
        let is_same = |attempt: &AttemptFacts| attempt.duration_ms == value.duration_ms && attempt == value;
        if let Some((_, offset)) = self.attempt.filter(|(attempt, _)| is_same(attempt)) {
            return offset;
        }
        let offset = put_attempt(to, self, value);
        self.attempt = Some((value, offset));
        offset
    }
}

/// Says where a text is remembered; always the same, so that encoding is.
fn hash(text: &str) -> usize {
    let mix = |hash: u64, octets: [u8; 8]| {
        (hash ^ u64::from_le_bytes(octets)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    };
    let (whole, rest) = text.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(whole.iter().fold(text.len() as u64, |hash, octets| mix(hash, *octets)), last) as usize
}

/// The empty string is absent on the wire.
fn text<'b>(to: &mut FlatBufferBuilder<'b>, value: &str) -> Option<WIPOffset<&'b str>> {
    (!value.is_empty()).then(|| to.create_string(value))
}

fn owned(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

fn put_event<'e, 'b>(
    to: &mut FlatBufferBuilder<'b>,
    written: &mut Written<'e, 'b>,
    event: &'e Event,
) -> WIPOffset<wire::Event<'b>> {
    let bits = event.message.bits();
    let message = wire::MessageId::new((bits >> 64) as u64, bits as u64);
    let job = event.job.as_ref().map(|job| written.job(to, job));
    let attempt = event.attempt.as_ref().map(|attempt| written.attempt(to, attempt));
    let args = wire::EventArgs {
        kind: wire::EventKind(event.kind as u8),
        message: Some(&message),
        index: event.index.0,
        at_ms: event.at_ms,
        revision: event.revision.0,
        tenant: event.tenant.0,
        address: text(to, &event.address),
        job,
        attempt,
        reason: written.text(to, &event.reason),
        next_attempt_ms: event.next_attempt_ms,
    };
    wire::Event::create(to, &args)
}

fn put_job<'e, 'b>(
    to: &mut FlatBufferBuilder<'b>,
    written: &mut Written<'e, 'b>,
    job: &'e JobFacts,
) -> WIPOffset<wire::JobFacts<'b>> {
    let args = wire::JobFactsArgs {
        credential: job.credential.0,
        domain: job.domain.0,
        interface: written.text(to, &job.interface),
        reverse_path: written.text(to, &job.reverse_path),
        bytes: job.bytes,
        reference: written.text(to, &job.reference),
        campaign: written.text(to, &job.campaign),
        cost_center: written.text(to, &job.cost_center),
        traffic_class: written.text(to, &job.class),
        message_id_header: text(to, &job.message_id_header),
        recipients: job.recipients,
    };
    wire::JobFacts::create(to, &args)
}

fn put_attempt<'e, 'b>(
    to: &mut FlatBufferBuilder<'b>,
    written: &mut Written<'e, 'b>,
    attempt: &'e AttemptFacts,
) -> WIPOffset<wire::AttemptFacts<'b>> {
    let args = wire::AttemptFactsArgs {
        number: attempt.number,
        source: attempt.source.0,
        source_address: attempt.source_address.map(|address| written.address(to, address)),
        site: written.text(to, &attempt.site),
        host: written.text(to, &attempt.host),
        host_address: attempt.host_address.map(|address| written.address(to, address)),
        tls: written.text(to, &attempt.tls),
        reply_code: attempt.reply_code,
        enhanced_status: written.text(to, &attempt.enhanced_status),
        reply: written.text(to, &attempt.reply),
        phase: written.text(to, &attempt.phase),
        duration_ms: attempt.duration_ms,
    };
    wire::AttemptFacts::create(to, &args)
}

fn read_kind(event: &wire::Event<'_>) -> Result<EventKind, WireError> {
    let kind = event.kind().0;
    EventKind::from_tag(kind).ok_or(WireError::UnknownValue { field: "event kind", value: kind })
}

fn read_message(event: &wire::Event<'_>) -> MessageId {
    let message = event.message();
    MessageId::from_bits(u128::from(message.high()) << 64 | u128::from(message.low()))
}

fn read_head(event: wire::Event<'_>) -> Result<EventHead, WireError> {
    let attempt = event.attempt();
    if let Some(attempt) = &attempt {
        attempt.source_address().map(|bytes| read_address("source address", bytes)).transpose()?;
        attempt.host_address().map(|bytes| read_address("host address", bytes)).transpose()?;
    }
    Ok(EventHead {
        kind: read_kind(&event)?,
        message: read_message(&event),
        index: RecipientIndex(event.index()),
        at_ms: event.at_ms(),
        tenant: TenantId(event.tenant()),
        has_job: event.job().is_some(),
        is_report: event.job().is_some_and(|job| job.interface() == Some(JobFacts::REPORT)),
        attempt: attempt.map(|attempt| attempt.number()),
    })
}

fn read_brief(event: wire::Event<'_>) -> Result<EventBrief, WireError> {
    Ok(EventBrief {
        kind: read_kind(&event)?,
        message: read_message(&event),
        index: RecipientIndex(event.index()),
        attempt: event.attempt().map(|attempt| attempt.number()),
        next_attempt_ms: event.next_attempt_ms(),
    })
}

fn read_event(event: wire::Event<'_>) -> Result<Event, WireError> {
    Ok(Event {
        kind: read_kind(&event)?,
        message: read_message(&event),
        index: RecipientIndex(event.index()),
        at_ms: event.at_ms(),
        revision: Revision(event.revision()),
        tenant: TenantId(event.tenant()),
        address: owned(event.address()),
        job: event.job().map(read_job).map(Arc::new),
        attempt: event.attempt().map(read_attempt).transpose()?,
        reason: owned(event.reason()),
        next_attempt_ms: event.next_attempt_ms(),
    })
}

fn read_job(job: wire::JobFacts<'_>) -> JobFacts {
    JobFacts {
        credential: CredentialId(job.credential()),
        domain: SendingDomainId(job.domain()),
        interface: owned(job.interface()),
        reverse_path: owned(job.reverse_path()),
        bytes: job.bytes(),
        reference: owned(job.reference()),
        campaign: owned(job.campaign()),
        cost_center: owned(job.cost_center()),
        class: owned(job.traffic_class()),
        message_id_header: owned(job.message_id_header()),
        recipients: job.recipients(),
    }
}

fn read_attempt(attempt: wire::AttemptFacts<'_>) -> Result<AttemptFacts, WireError> {
    Ok(AttemptFacts {
        number: attempt.number(),
        source: SourceId(attempt.source()),
        source_address: attempt.source_address().map(|bytes| read_address("source address", bytes)).transpose()?,
        site: owned(attempt.site()),
        host: owned(attempt.host()),
        host_address: attempt.host_address().map(|bytes| read_address("host address", bytes)).transpose()?,
        tls: owned(attempt.tls()),
        reply_code: attempt.reply_code(),
        enhanced_status: owned(attempt.enhanced_status()),
        reply: owned(attempt.reply()),
        phase: owned(attempt.phase()),
        duration_ms: attempt.duration_ms(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../golden/events-1.bin");

    fn sample() -> Vec<Event> {
        let message = MessageId::from_bits(0x0199_0000_1234_7007_8abc_def0_1234_5678);
        let accepted = Event {
            kind: EventKind::Accepted,
            message,
            index: RecipientIndex(0),
            at_ms: 1_795_000_000_000,
            revision: Revision(7),
            tenant: TenantId(1),
            address: "someone@receiver.example".into(),
            job: Some(Arc::new(JobFacts {
                credential: CredentialId(2),
                domain: SendingDomainId(3),
                interface: "smtp".into(),
                reverse_path: "bounces@sender.example".into(),
                bytes: 10_240,
                reference: "order-1".into(),
                campaign: "receipts".into(),
                cost_center: String::new(),
                class: "transactional".into(),
                message_id_header: "<1@sender.example>".into(),
                recipients: 1,
            })),
            attempt: None,
            reason: String::new(),
            next_attempt_ms: 0,
        };
        let deferred = Event {
            kind: EventKind::Deferred,
            at_ms: 1_795_000_000_250,
            job: None,
            attempt: Some(AttemptFacts {
                number: 1,
                source: SourceId(4),
                source_address: Some([192, 0, 2, 1].into()),
                site: "mx.receiver.example".into(),
                host: "mx1.receiver.example".into(),
                host_address: Some("2001:db8::25".parse().unwrap()),
                tls: "TLSv1.3 TLS13_AES_256_GCM_SHA384".into(),
                reply_code: 451,
                enhanced_status: "4.7.1".into(),
                reply: "come back later".into(),
                phase: "rcpt".into(),
                duration_ms: 41,
            }),
            reason: "greylisted".into(),
            next_attempt_ms: 1_795_000_300_000,
            ..accepted.clone()
        };
        vec![accepted, deferred]
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let word = "[ -~äß]{0,12}";
        let job = (any::<(u32, u32, u64, u16)>(), proptest::collection::vec(word, 8)).prop_map(|(n, w)| JobFacts {
            credential: CredentialId(n.0),
            domain: SendingDomainId(n.1),
            bytes: n.2,
            recipients: n.3,
            interface: if n.0 % 4 == 0 { "dsn".to_owned() } else { w[0].clone() },
            reverse_path: w[1].clone(),
            reference: w[2].clone(),
            campaign: w[3].clone(),
            cost_center: w[4].clone(),
            class: w[5].clone(),
            message_id_header: w[6].clone(),
        });
        let address = proptest::option::of(any::<IpAddr>());
        let numbers = any::<(u16, u32, u16, u32)>();
        let attempt = (numbers, address.clone(), address, proptest::collection::vec(word, 6)).prop_map(
            |(n, source_address, host_address, w)| AttemptFacts {
                number: n.0,
                source: SourceId(n.1),
                reply_code: n.2,
                duration_ms: n.3,
                source_address,
                host_address,
                site: w[0].clone(),
                host: w[1].clone(),
                tls: w[2].clone(),
                enhanced_status: w[3].clone(),
                reply: w[4].clone(),
                phase: w[5].clone(),
            },
        );
        let kind = proptest::sample::select(EventKind::ALL.as_slice());
        let event = (
            kind,
            any::<(u128, u16, u64, u64, u32, u64)>(),
            (word, word),
            proptest::option::of(job),
            proptest::option::of(attempt),
        )
            .prop_map(|(kind, n, (address, reason), job, attempt)| Event {
                kind,
                message: MessageId::from_bits(n.0),
                index: RecipientIndex(n.1),
                at_ms: n.2,
                revision: Revision(n.3),
                tenant: TenantId(n.4),
                next_attempt_ms: n.5,
                address,
                reason,
                job: job.map(Arc::new),
                attempt,
            });
        proptest::collection::vec(event, 0..8)
    }

    fn heads(bytes: &[u8]) -> Result<Vec<EventHead>, WireError> {
        let mut heads = Vec::new();
        read_heads(bytes, &mut heads).map(|()| heads)
    }

    fn head_of(event: &Event) -> EventHead {
        EventHead {
            kind: event.kind,
            message: event.message,
            index: event.index,
            at_ms: event.at_ms,
            tenant: event.tenant,
            has_job: event.job.is_some(),
            is_report: event.job.as_ref().is_some_and(|job| job.interface == "dsn"),
            attempt: event.attempt.as_ref().map(|attempt| attempt.number),
        }
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_same_events(events in events()) {
            let bytes = encode_events(&events);
            prop_assert_eq!(heads(&bytes).unwrap(), events.iter().map(head_of).collect::<Vec<_>>());
            let briefs: Vec<_> = events.iter().map(EventBrief::from).collect();
            prop_assert_eq!(decode_event_briefs(&bytes).unwrap(), briefs);
            prop_assert_eq!(decode_events(&bytes).unwrap(), events);
        }

        #[test]
        fn changed_bytes_never_panic(at in any::<proptest::sample::Index>(), xor in 1_u8..=255, cut in any::<bool>()) {
            let mut bytes = GOLDEN.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            if cut {
                bytes.truncate(at);
            }
            let decoded = decode_events(&bytes).ok().map(|events| events.iter().map(head_of).collect::<Vec<_>>());
            prop_assert_eq!(heads(&bytes).ok(), decoded, "both read the same buffers");
        }

        #[test]
        fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..256), named in any::<bool>()) {
            if named && bytes.len() >= 8 {
                bytes[4..8].copy_from_slice(b"PREV");
            }
            let _ = decode_events(&bytes);
        }
    }

    #[test]
    fn the_committed_bytes_are_read_and_written_as_ever() {
        assert_eq!(decode_events(GOLDEN).unwrap(), sample());
        assert_eq!(encode_events(&sample()), GOLDEN, "a change of the form needs a new format");
    }

    #[test]
    fn what_recipients_have_in_common_is_written_once() {
        let [accepted, deferred] = <[Event; 2]>::try_from(sample()).unwrap();
        let job = |index| Event { index: RecipientIndex(index), ..accepted.clone() };
        let tried = |index| Event { index: RecipientIndex(index), ..deferred.clone() };
        let size = |events: &[Event]| encode_events(events).len();
        for event in [&job as &dyn Fn(u16) -> Event, &tried] {
            let (one, hundred) = (size(&[event(0)]), size(&(0..100).map(event).collect::<Vec<_>>()));
            assert!(hundred < one + 99 * 120, "{hundred} octets for a hundred of {one}");
        }
        // Attempts that differ still share their texts, and a text that comes again later is the same.
        let mut events: Vec<_> = (0..100).map(tried).collect();
        for (attempt, n) in events.iter_mut().filter_map(|event| event.attempt.as_mut()).zip(0..) {
            attempt.duration_ms = n;
            attempt.site = format!("mx.{}.example", n % 3);
        }
        let bytes = encode_events(&events);
        assert!(bytes.len() < 100 * 190, "{} octets", bytes.len());
        assert_eq!(decode_events(&bytes).unwrap(), events);
    }

    #[test]
    fn a_buffer_of_another_kind_is_refused() {
        let snapshot = crate::wire::encode_snapshot(&crate::snapshot::SnapshotContent::default());
        assert!(matches!(decode_events(&snapshot), Err(WireError::Kind { expected: "PREV" })));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut to = FlatBufferBuilder::new();
        let root = wire::Events::create(&mut to, &wire::EventsArgs { format: FORMAT + 1, events: None });
        wire::finish_events_buffer(&mut to, root);
        assert!(matches!(decode_events(to.finished_data()), Err(WireError::NewerFormat { found: 2 })));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut to = FlatBufferBuilder::new();
        let message = wire::MessageId::new(0, 1);
        let args = wire::EventArgs { kind: wire::EventKind(99), message: Some(&message), ..wire::EventArgs::default() };
        let event = wire::Event::create(&mut to, &args);
        let events = to.create_vector(&[event]);
        let root = wire::Events::create(&mut to, &wire::EventsArgs { format: FORMAT, events: Some(events) });
        wire::finish_events_buffer(&mut to, root);
        assert!(matches!(decode_events(to.finished_data()), Err(WireError::UnknownValue { value: 99, .. })));
    }
}
