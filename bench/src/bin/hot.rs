//! The hot functions of the core in fixed loops, for counting their instructions under callgrind.
//!
//! `hot --list` names the cases, `hot CASE N` runs one N times. Nothing here depends on time, chance or the order of
//! hashes, so that two runs of one binary take the same instructions; what a call takes is the difference between N and
//! 2 N calls over N. `cargo run -p xtask -- instructions` does that and compares with `bench/instructions.toml`.
//!
//! Invariants worth naming: each case makes its input before the loop. Cryptography is assembly that depends on the
//! processor, so a case that hashes names another one that hashes as much, which is taken off. Deliberately absent: the
//! pumps (they wait in the kernel) and signatures.

use std::hint::black_box;
use std::process::ExitCode;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use postrail_bench::sample::{self, HEADER, LINE};
use postrail_core::base::{Instant, Timestamp};
use postrail_core::egress::{Phase, classify, reply_reason};
use postrail_core::events;
use postrail_core::mail::{Address, BodyType, Content, FinalMessage, Interface, Job, JobEntry, JobRecipient, Notify};
use postrail_core::schedule::ScheduledQueue;
use postrail_core::sign::{dkim, render};
use postrail_core::smtp::server::{Answer, Input, Output, Question, Session, SessionConfig};
use postrail_core::smtp::{Reply, ReplyParser};
use postrail_core::spool::job_frame::{self, Encoded, Origin};
use postrail_core::spool::segment::{BatchWriter, FIRST_BATCH, Identity, padded};
use postrail_core::spool::{FRAME_TAG_JOB, Found, Scanner};
use postrail_schema::event::{AttemptFacts, Event, EventKind};
use postrail_schema::ids::{CredentialId, MessageId, RecipientIndex, Revision, SendingDomainId, SourceId, TenantId};
use postrail_schema::snapshot::TrafficClass;

/// A case: its name, the calls that are enough to count, the case that is taken off (or `-`), and the loop.
type Case = (&'static str, u32, &'static str, fn(u32));

const CASES: &[Case] = &[
    ("smtp-transaction", 400, "-", |calls| smtp(calls, 0)),
    ("smtp-content-10k", 200, "-", |calls| smtp(calls, MAIL_BYTES)),
    ("spool-encode-10k", 400, "-", spool_encode),
    ("spool-scan-8-jobs", 100, "-", spool_scan),
    ("schedule-insert-pop", 4_000, "-", schedule),
    ("render-10k", 400, "-", render_copy),
    ("dkim-10k", 100, "sha-256-10k", dkim_plan),
    ("sha-256-10k", 100, "-", sha_256),
    ("events-encode-32", 200, "-", encode_events),
    ("outcome-classify", 2_000, "-", classify_replies),
    ("reply-parse-ehlo", 2_000, "-", parse_replies),
];

/// Octets of the mails.
const MAIL_BYTES: usize = 10 * 1024;
const AT: Timestamp = Timestamp::from_unix_ms(1_795_464_845_123);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => {
            for (name, calls, minus, _) in CASES {
                println!("{name} {calls} {minus}");
            }
            ExitCode::SUCCESS
        }
        [name, calls] => match (CASES.iter().find(|case| case.0 == name), calls.parse()) {
            (Some((.., run)), Ok(calls)) => {
                run(calls);
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: hot --list | hot CASE CALLS");
    ExitCode::from(2)
}

/// One transaction after another over one session, each with a mail of `bytes` octets; every tenth line begins with a
/// dot, which was doubled.
fn smtp(calls: u32, bytes: usize) {
    let config = SessionConfig {
        hostname: "mx.bench.test".into(),
        peer: ([127, 0, 0, 1], 40_000).into(),
        starttls: false,
        requires_tls: false,
        implicit_tls: false,
        message_bytes_max: 20 << 20,
        is_trusted: false,
        auth_without_tls: true,
        idle: std::time::Duration::from_secs(300),
    };
    let mut session = Session::new(config, Instant::ZERO);
    give(&mut session, b"EHLO bench.test\r\nAUTH PLAIN AGJvYgBwdw==\r\n");
    let group = b"MAIL FROM:<news@bench.test> SIZE=10240\r\nRCPT TO:<m12345@d1.bench.test>\r\nDATA\r\n";
    let mut content = String::from(HEADER);
    for line in 0..sample::lines(bytes) {
        content.push_str(if line % 10 == 9 { ".." } else { "" });
        content.push_str(LINE);
    }
    content.push_str(".\r\n");
    for _ in 0..calls {
        give(&mut session, black_box(group));
        give(&mut session, black_box(content.as_bytes()));
    }
}

/// Hands bytes to a session and plays its pump, which says yes to everything.
fn give(session: &mut Session, bytes: &[u8]) {
    session.handle(Instant::ZERO, Input::Bytes(bytes)).expect("bytes are always taken");
    while let Some(output) = session.poll() {
        if let Output::Ask(tag, question) = output {
            let answer = match question {
                Question::Authenticate { .. } => Answer::Authenticated,
                Question::Sender(_) | Question::Recipient(_) => Answer::Ok,
                Question::Message(transaction) => {
                    black_box(&transaction);
                    Answer::Accepted(MessageId::from_bits(7))
                }
            };
            session.handle(Instant::ZERO, Input::Answer(tag, answer)).expect("the answer fits its question");
        } else {
            black_box(&output);
        }
    }
}

fn job() -> Job {
    let address = |text| Address::parse(text).expect("an address");
    Job {
        id: MessageId::from_bits(0x0190_0000_0000_7000_8000_0000_0000_0001),
        interface: Interface::Smtp,
        tenant: TenantId(4),
        credential: CredentialId(5),
        domain: SendingDomainId(6),
        class: TrafficClass::Transactional,
        revision: Revision(7),
        accepted_at: AT,
        expires_at: AT,
        peer: Some([127, 0, 0, 1].into()),
        reverse_path: Some(address("news@bench.test")),
        body: BodyType::SevenBit,
        smtp_utf8: false,
        ret: None,
        envid: None,
        reference: String::new(),
        campaign: String::new(),
        cost_center: String::new(),
        message_id_header: "<bench.1@bench.test>".into(),
        quarantined: false,
        hop: 0,
        idempotency: None,
        entries: vec![JobEntry::default()],
        recipients: vec![JobRecipient {
            address: address("m12345@d1.bench.test"),
            entry: 0,
            notify: Notify::Unspecified,
            orcpt: None,
        }],
        content: Content::Mime { header: Bytes::from_static(HEADER.as_bytes()), body: body() },
    }
}

fn body() -> Bytes {
    LINE.repeat(sample::lines(MAIL_BYTES)).into()
}

fn payload(job: &Job) -> Vec<u8> {
    match job_frame::encode(job, Origin::Submission).expect("a small job") {
        Encoded::Whole(payload) => payload,
        Encoded::Chunked { chunks, .. } => chunks.concat(),
    }
}

const IDENTITY: Identity = Identity { generation: 0x1234_5678_9abc_def0, sequence: 3 };

fn spool_encode(calls: u32) {
    let job = job();
    let mut buffer = vec![0; padded(payload(&job).len() + 4_096)];
    for _ in 0..calls {
        let payload = payload(black_box(&job));
        let mut batch = BatchWriter::new(&mut buffer, IDENTITY, 0, FIRST_BATCH);
        black_box(batch.push(FRAME_TAG_JOB, &payload));
        black_box(batch.finish());
    }
}

fn spool_scan(calls: u32) {
    let payload = payload(&job());
    let mut buffer = vec![0; padded(8 * (payload.len() + 64) + 4_096)];
    let mut batch = BatchWriter::new(&mut buffer, IDENTITY, 0, FIRST_BATCH);
    for _ in 0..8 {
        batch.push(FRAME_TAG_JOB, &payload);
    }
    let end = FIRST_BATCH + batch.finish().padded_bytes();
    let window = &buffer[..(end - FIRST_BATCH) as usize];
    for _ in 0..calls {
        let mut scanner = Scanner::new(IDENTITY, Some(end));
        let mut jobs = 0;
        while scanner.want().is_some() {
            scanner.handle(black_box(window), &mut |found| {
                if let Found::Frame(frame) = found {
                    black_box(job_frame::decode_meta(frame.payload).expect("it was encoded"));
                    jobs += 1;
                }
            });
        }
        assert_eq!(jobs, 8, "every job is read back");
    }
}

fn schedule(calls: u32) {
    /// Groups that wait all the time.
    const WAITING: u64 = 10_000;
    let mut queue = ScheduledQueue::default();
    let mut at = 0_u64;
    // A fixed walk over the due times, far from sorted.
    let mut due = |base: u64| {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Instant::from_nanos(base + (at >> 33))
    };
    for item in 0..WAITING {
        queue.insert(due(1), item as u32);
    }
    for call in 0..calls {
        queue.insert(due(1 + u64::from(call)), WAITING as u32 + call);
        black_box(queue.pop_due(Instant::FAR));
    }
}

fn render_copy(calls: u32) {
    let job = job();
    for _ in 0..calls {
        black_box(render::render(black_box(&job), 0));
    }
}

fn message() -> FinalMessage {
    FinalMessage { header: Bytes::from_static(HEADER.as_bytes()), body: body(), ..FinalMessage::default() }
}

fn dkim_plan(calls: u32) {
    let message = message();
    let keys = [sample::dkim_key()];
    for _ in 0..calls {
        black_box(dkim::plan(black_box(&message), "bench.test", &keys, AT));
    }
}

/// As many octets as [`dkim_plan`] hashes, within a block.
fn sha_256(calls: u32) {
    let message = message();
    for _ in 0..calls {
        black_box(digest(&SHA256, black_box(&message.body)));
        black_box(digest(&SHA256, black_box(&message.body[..SIGNED_BYTES])));
    }
}

/// Octets of the canonical header fields of [`HEADER`] with the unsigned field.
const SIGNED_BYTES: usize = 640;

fn encode_events(calls: u32) {
    let event = |index| Event {
        kind: EventKind::Delivered,
        message: MessageId::from_bits(7),
        index: RecipientIndex(index),
        at_ms: AT.unix_ms(),
        revision: Revision(3),
        tenant: TenantId(2),
        address: "m12345@d1.bench.test".into(),
        job: None,
        attempt: Some(AttemptFacts {
            number: 1,
            source: SourceId(1),
            source_address: Some([127, 0, 0, 1].into()),
            site: "mx.bench.test".into(),
            host: "mx.bench.test".into(),
            host_address: Some([127, 0, 0, 1].into()),
            tls: String::new(),
            reply_code: 250,
            enhanced_status: "2.0.0".into(),
            reply: "taken".into(),
            phase: "end_of_data".into(),
            duration_ms: 3,
        }),
        reason: "delivered".into(),
        next_attempt_ms: 0,
    };
    let events: Vec<_> = (0..32).map(event).collect();
    for _ in 0..calls {
        black_box(events::frame::encode(black_box(&events)).expect("they fit"));
    }
}

fn classify_replies(calls: u32) {
    let replies = [
        (Phase::EndOfData, Reply::enhanced(250, 0, 0, "taken")),
        (Phase::Rcpt, Reply::enhanced(550, 1, 1, "5.1.1 no such mailbox here")),
        (Phase::Rcpt, Reply::enhanced(450, 2, 0, "greylisted, come back later")),
        (Phase::EndOfData, Reply::plain(554, "message rejected as spam by content policy")),
    ];
    for _ in 0..calls {
        for (phase, reply) in &replies {
            black_box(classify(*phase, black_box(reply)));
            black_box(reply_reason(*phase, black_box(reply)));
        }
    }
}

fn parse_replies(calls: u32) {
    let input = b"250-mx.bench.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 67108864\r\n\
        250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n250 2.0.0 taken\r\n";
    let mut parser = ReplyParser::new();
    for _ in 0..calls {
        let mut rest = black_box(&input[..]);
        while let Some(reply) = parser.parse(&mut rest).expect("replies are well formed") {
            black_box(reply);
        }
    }
}
