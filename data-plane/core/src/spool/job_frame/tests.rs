//! Jobs there and back, cut short, spoilt, and as version 1 wrote them.

use postrail_schema::limits::FRAME_BYTES_MAX;
use proptest::prelude::*;

use super::*;
use crate::mail::RestContent;
use crate::mail::job::{Attachment, MailFields, Mailbox, Priority};

/// A head frame's payload as version 1 writes it. It must read for ever; it changes with a new version only.
const GOLDEN: &[u8] = include_bytes!("golden/job_v1.bin");
/// The same job as compaction writes it at a host that it was sent to, and is bound to leave.
const GOLDEN_BOUND: &[u8] = include_bytes!("golden/job_bound_v1.bin");

fn smtp_job(body: &[u8]) -> Job {
    let recipient = |index: u16| JobRecipient {
        address: Address::parse(&format!("user{index}@example.org")).expect("an address"),
        entry: 0,
        notify: Notify::On { success: true, failure: index == 0, delay: false },
        orcpt: (index == 1).then(|| "rfc822;old@example.org".to_owned()),
    };
    Job {
        id: MessageId::from_bits(0x0190_0000_0000_7000_8000_0000_0000_0001),
        interface: Interface::Smtp,
        tenant: TenantId(4),
        credential: CredentialId(5),
        domain: SendingDomainId(6),
        class: TrafficClass::Marketing,
        revision: Revision(7),
        accepted_at: Timestamp::from_unix_ms(1_795_464_845_123),
        expires_at: Timestamp::from_unix_ms(1_795_724_045_123),
        peer: Some(IpAddr::from([192, 0, 2, 1])),
        reverse_path: Some(Address::parse("bounces@example.com").expect("an address")),
        body: BodyType::EightBitMime,
        smtp_utf8: true,
        ret: Some(DsnReturn::Headers),
        envid: Some("QQ314159".to_owned()),
        reference: "order 66".to_owned(),
        campaign: "spring".to_owned(),
        cost_center: "42".to_owned(),
        message_id_header: "<1@example.com>".to_owned(),
        quarantined: false,
        hop: 0,
        idempotency: Some(Idempotency { key_hash: 1 << 100, request_hash: 9 }),
        entries: vec![JobEntry::default()],
        recipients: (0..2).map(recipient).collect(),
        content: Content::Mime {
            header: Bytes::from_static(b"Subject: hello\r\n\r\n"),
            body: Bytes::copy_from_slice(body),
        },
    }
}

fn rest_job() -> Job {
    let fields = MailFields {
        from: Some(Mailbox { name: "Ann".to_owned(), address: "ann@example.com".to_owned() }),
        priority: Some(Priority::High),
        headers: vec![("X-A".to_owned(), "b".to_owned())],
        ..MailFields::default()
    };
    let attachment = Attachment {
        name: "ü.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        content_id: Some("logo".to_owned()),
        content: Bytes::from_static(&[0, 1, 2, 255]),
    };
    let rest = RestContent {
        subject: "Hello {{ name }}".to_owned(),
        body: "<p>".to_owned(),
        body_is_html: true,
        alternative: Some(String::new()),
        attachments: vec![attachment.clone(), Attachment { content_id: None, ..attachment }],
        fields: fields.clone(),
    };
    let entries = vec![
        JobEntry { reference: "r0".to_owned(), fields: None },
        JobEntry { reference: String::new(), fields: Some(fields) },
    ];
    let mut job = smtp_job(b"");
    job.recipients[1].entry = 1;
    Job {
        interface: Interface::Rest,
        reverse_path: None,
        peer: None,
        entries,
        content: Content::Rest(Box::new(rest)),
        ..job
    }
}

fn whole(job: &Job, origin: Origin<'_>) -> Bytes {
    match encode(job, origin).expect("small") {
        Encoded::Whole(payload) => payload.into(),
        Encoded::Chunked { .. } => panic!("it fits"),
    }
}

#[test]
fn jobs_of_both_interfaces_read_back_as_they_were() {
    for job in [smtp_job(b"body\r\n"), rest_job()] {
        let head = whole(&job, Origin::Submission);
        let meta = decode(&head).expect("whole");
        assert_eq!((&meta.job, meta.chunks.len(), meta.progress.len()), (&job, 0, 0));
        assert_eq!(meta.content_bytes, job.content.len() as u64);
    }
}

#[test]
fn the_meta_of_a_job_is_all_but_its_content() {
    let job = smtp_job(b"body\r\n");
    let meta = decode_meta(&whole(&job, Origin::Submission)).expect("whole");
    assert!(meta.job.content.is_empty());
    assert_eq!(meta.carried(RecipientIndex(0)), None);
    assert_eq!(Job { content: job.content.clone(), ..meta.job }, job);
}

#[test]
fn a_moved_job_carries_what_became_of_its_recipients() {
    let progress = vec![
        Carried { settled: true, attempts: 1, next_attempt: Timestamp::default() },
        Carried { settled: false, attempts: 3, next_attempt: Timestamp::from_unix_ms(99) },
    ];
    let moved =
        Moved { from: Location { segment: 3, offset: 4_160, bytes: 700 }, progress: progress.clone(), bound_to: None };
    let meta = decode_meta(&whole(&smtp_job(b"x"), Origin::Compaction(&moved))).expect("whole");
    assert_eq!((meta.moved_from, &meta.progress), (Some(moved.from), &progress));
    assert_eq!(meta.carried(RecipientIndex(1)), Some(progress[1]));
    assert_eq!(meta.carried(RecipientIndex(2)), None);
}

/// A job on its way, as compaction finds it.
fn bound() -> (Job, Moved) {
    let progress = vec![
        Carried { settled: true, attempts: 0, next_attempt: Timestamp::default() },
        Carried { settled: false, attempts: 3, next_attempt: Timestamp::from_unix_ms(1_795_464_945_123) },
    ];
    let from = Location { segment: 3, offset: 4_160, bytes: 700 };
    let bound_to = Some(HostName::new("mta-2.example.net").expect("a name"));
    (Job { hop: 258, ..smtp_job(b"body\r\n") }, Moved { from, progress, bound_to })
}

#[test]
fn how_often_a_job_has_moved_and_where_it_is_bound_are_kept_and_an_older_reader_refuses_them() {
    let (job, moved) = bound();
    let payload = whole(&job, Origin::Compaction(&moved));
    let meta = decode(&payload).expect("whole");
    assert_eq!((&meta.job, &meta.bound_to, &meta.progress), (&job, &moved.bound_to, &moved.progress));
    for tag in [HOP, BOUND_TO] {
        assert!(payload.windows(2).any(|record| record == [tag, Need::Required as u8]), "{tag}");
    }
    let meta = decode(&whole(&smtp_job(b"x"), Origin::Submission)).expect("whole");
    assert_eq!((meta.job.hop, meta.bound_to), (0, None));
}

#[test]
fn a_job_is_bound_to_no_host_whose_name_cannot_be() {
    for name in [&b""[..], b"Mta", b"a b", b"\xff", &[b'h'; HOST_NAME_BYTES_MAX + 1]] {
        let mut to = RecordWriter::continue_in(whole(&smtp_job(b"x"), Origin::Submission).to_vec());
        to.put(BOUND_TO, Need::Required, name);
        assert!(decode_meta(&to.into_bytes()).is_err(), "{name:?}");
    }
}

#[test]
fn a_job_of_another_host_is_kept_with_its_hop_and_what_became_of_its_recipients() {
    let (job, moved) = bound();
    let meta = decode(&whole(&job, Origin::Transfer(&moved.progress))).expect("whole");
    assert_eq!((meta.job, meta.progress), (job, moved.progress));
    assert_eq!((meta.moved_from, meta.bound_to), (None, None));
}

#[test]
fn what_goes_to_another_host_is_one_piece_whatever_its_size() {
    let (_, moved) = bound();
    for job in [smtp_job(b"body\r\n"), rest_job(), smtp_job(&vec![b'a'; 3 * FRAME_BYTES_MAX])] {
        let payload = Bytes::from(encode_parcel_job(&job, 7, &moved.progress));
        let meta = decode(&payload).expect("whole");
        assert!(meta.chunks.is_empty());
        assert_eq!((&meta.job, meta.content_bytes), (&Job { hop: 7, ..job.clone() }, job.content.len() as u64));
        assert_eq!((&meta.progress, &meta.moved_from, &meta.bound_to), (&moved.progress, &None, &None));
        for cut in (0..payload.len()).step_by(payload.len() / 100 + 1) {
            assert!(decode(&payload.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn progress_of_other_than_all_recipients_is_refused() {
    for count in [1, 3] {
        let payload = encode_parcel_job(&smtp_job(b"x"), 1, &vec![Carried::default(); count]);
        assert_eq!(decode_meta(&payload), Err(DecodeError::Value { record: "progress" }), "{count}");
    }
}

/// A job of [`JOB_RECIPIENTS_MAX`] recipients whose head is as long as a head may be when it is accepted.
fn longest() -> Job {
    let mut job = smtp_job(&vec![b'a'; 2 * FRAME_BYTES_MAX]);
    job.recipients = vec![JobRecipient { orcpt: None, ..job.recipients[0].clone() }; JOB_RECIPIENTS_MAX];
    job.reference = "r".repeat(SUBMITTED_BYTES_MAX);
    let Err(EncodeError::HeadTooLarge { bytes }) = encode(&job, Origin::Submission) else { panic!("it is too long") };
    job.reference.truncate(2 * SUBMITTED_BYTES_MAX - bytes);
    job
}

#[test]
fn a_head_that_was_accepted_can_be_taken_by_another_host_and_moved_there() {
    let job = longest();
    assert!(encode(&job, Origin::Submission).is_ok());
    let longer = Job { reference: format!("{}r", job.reference), ..job.clone() };
    assert!(encode(&longer, Origin::Submission).is_err(), "no head is longer");
    let job = Job { hop: u16::MAX, ..job };
    let progress = vec![Carried::default(); JOB_RECIPIENTS_MAX];
    let bound_to = Some(HostName::new("h".repeat(HOST_NAME_BYTES_MAX)).expect("a name"));
    let moved = Moved { from: Location::default(), progress: progress.clone(), bound_to };
    for origin in [Origin::Transfer(&progress), Origin::Compaction(&moved)] {
        let Ok(Encoded::Chunked { head, .. }) = encode(&job, origin) else { panic!("{origin:?}") };
        assert!(head.finish(&[Location::default(); CHUNKS_MAX]).len() <= FRAME_PAYLOAD_MAX);
    }
}

#[test]
fn that_a_job_is_in_quarantine_is_kept_and_an_older_reader_refuses_it() {
    let job = Job { quarantined: true, ..smtp_job(b"x") };
    let payload = whole(&job, Origin::Submission);
    assert!(decode_meta(&payload).expect("whole").job.quarantined);
    assert!(!decode_meta(&whole(&smtp_job(b"x"), Origin::Submission)).expect("whole").job.quarantined);
    assert!(payload.windows(2).any(|tag| tag == [QUARANTINED, Need::Required as u8]));
}

#[test]
fn content_around_the_frame_size_goes_inside_or_into_chunks() {
    for bytes in [FRAME_BYTES_MAX - 40_000, FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, 3 * FRAME_BYTES_MAX + 5] {
        let job = smtp_job(&vec![b'a'; bytes]);
        match encode(&job, Origin::Submission).expect("far below the bound") {
            Encoded::Whole(payload) => {
                assert!(payload.len() <= FRAME_PAYLOAD_MAX && bytes < FRAME_BYTES_MAX - 20_000, "{bytes}");
            }
            Encoded::Chunked { head, chunks } => {
                assert!(chunks.iter().all(|chunk| chunk.len() <= FRAME_PAYLOAD_MAX));
                let at = |index| Location { segment: 1, offset: index, bytes: 9 };
                let locations: Vec<_> = (0..chunks.len() as u32).map(at).collect();
                let mut meta = decode(&head.finish(&locations).into()).expect("whole");
                assert_eq!(meta.chunks, locations);
                let chunks: Vec<_> = chunks.into_iter().map(Bytes::from).collect();
                join(&mut meta.job, &chunks).expect("whole");
                assert_eq!(meta.job, job);
            }
        }
    }
}

#[test]
fn the_largest_envelope_fits_a_head_with_room_for_a_move() {
    let mut job = smtp_job(b"x");
    let recipient = JobRecipient {
        address: Address::parse(&format!(
            "{}@{}.example",
            "l".repeat(64),
            ["d".repeat(60), "e".repeat(60), "f".repeat(60)].join(".")
        ))
        .expect("an address"),
        orcpt: Some("o".repeat(500)),
        ..job.recipients[0].clone()
    };
    job.recipients = vec![recipient; JOB_RECIPIENTS_MAX];
    assert!(encode(&job, Origin::Submission).is_ok());
    let moved =
        Moved { from: Location::default(), progress: vec![Carried::default(); JOB_RECIPIENTS_MAX], bound_to: None };
    assert!(encode(&job, Origin::Compaction(&moved)).is_ok());
}

#[test]
fn an_unknown_record_is_skipped_if_optional_and_refused_if_required() {
    let head = whole(&smtp_job(b"x"), Origin::Submission);
    for (need, fine) in [(Need::Optional, true), (Need::Required, false)] {
        let mut to = RecordWriter::continue_in(head.to_vec());
        to.put(200, need, b"news");
        let read = decode_meta(&to.into_bytes());
        assert_eq!(read.is_ok(), fine, "{need:?}");
        assert!(fine || read == Err(DecodeError::UnknownRecord { tag: 200 }));
    }
}

#[test]
fn the_frame_of_version_1_still_reads_and_is_still_written() {
    let job = smtp_job(b"body\r\n");
    assert_eq!(decode(&Bytes::from_static(GOLDEN)).map(|meta| meta.job), Ok(job.clone()));
    assert_eq!(whole(&job, Origin::Submission), GOLDEN, "a change of the format needs a new version");
    let (job, moved) = bound();
    let meta = decode(&Bytes::from_static(GOLDEN_BOUND)).expect("whole");
    assert_eq!((&meta.job, &meta.progress, meta.moved_from), (&job, &moved.progress, Some(moved.from)));
    assert_eq!(meta.bound_to, moved.bound_to);
    assert_eq!(whole(&job, Origin::Compaction(&moved)), GOLDEN_BOUND, "a change of the format needs a new version");
}

#[test]
fn every_cut_of_a_frame_is_refused() {
    let head = whole(&rest_job(), Origin::Submission);
    for cut in 0..head.len() {
        assert!(decode(&head.slice(..cut)).is_err(), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&Bytes::from(bytes));
    }

    #[test]
    fn spoilt_frames_are_read_without_panic(at in any::<usize>(), value in any::<u8>(), rest in any::<bool>()) {
        let mut head = whole(&if rest { rest_job() } else { smtp_job(b"body") }, Origin::Submission).to_vec();
        let length = head.len();
        head[at % length] = value;
        let _ = decode_meta(&head);
        let _ = decode(&Bytes::from(head));
    }

    #[test]
    fn any_smtp_job_reads_back(
        body in prop::collection::vec(any::<u8>(), 0..2_000),
        texts in prop::array::uniform4("[ -~]{0,50}"),
        recipients in prop::collection::vec(("[a-z]{1,20}", any::<bool>()), 1..20),
        bits in any::<u128>(),
    ) {
        let mut job = smtp_job(&body);
        job.id = MessageId::from_bits(bits);
        [job.reference, job.campaign, job.cost_center, job.message_id_header] = texts;
        let recipient = |(local, never): (String, bool)| JobRecipient {
            address: Address::parse(&format!("{local}@example.net")).expect("an address"),
            entry: 0,
            notify: if never { Notify::Never } else { Notify::Unspecified },
            orcpt: None,
        };
        job.recipients = recipients.into_iter().map(recipient).collect();
        prop_assert_eq!(decode(&whole(&job, Origin::Submission)).map(|meta| meta.job), Ok(job));
    }
}

#[test]
fn a_head_without_its_content_says_the_same_of_the_job() {
    let (on_its_way, moved) = bound();
    for job in [smtp_job(b"body"), rest_job(), on_its_way] {
        let payload = whole(&job, Origin::Compaction(&moved));
        let head = without_content(&payload);
        assert!(head.len() < payload.len());
        assert_eq!(decode_head(head), decode_meta(&payload));
        assert!(decode_meta(head).is_err(), "a head frame has its content, or chunks");
    }
    assert_eq!(without_content(b"no records"), b"");
}
