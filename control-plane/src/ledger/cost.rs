//! What storing costs a mail, measured: CPU and elapsed time of this thread, and octets on disk. With a server, also its
//! CPU and what it wrote to its log.
//!
//! ```text
//! POSTRAIL_MEASURE=1000000 cargo test --release -p postrail-control-plane --lib -- --nocapture measured_cost
//! ```
//!
//! Mails of one recipient with the two events that the data plane makes of them, 16 events a buffer, synced every 40
//! batches; one batch of each size where nothing is asked for, or a few. Absent here: the pull over HTTP. `TMPDIR` says
//! where the ledger is; it is no figure on a tmpfs.

use std::sync::Arc;
use std::time::Instant;

use postrail_schema::event::{AttemptFacts, JobFacts};
use postrail_schema::ids::{
    CredentialId, MessageId, RecipientIndex, Revision, SendingDomainId, ShardId, SourceId, TenantId,
};
use postrail_schema::wire::encode_events;

use super::*;

fn mail(n: u64, at_ms: u64) -> [Event; 2] {
    let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let message = MessageId::new(at_ms, ShardId(0), random);
    let accepted = Event {
        kind: EventKind::Accepted,
        message,
        index: RecipientIndex(0),
        at_ms,
        revision: Revision(7),
        tenant: TenantId(1),
        address: format!("user{n}@sink.bench.test"),
        job: Some(Arc::new(JobFacts {
            credential: CredentialId(1),
            domain: SendingDomainId(1),
            interface: "smtp".into(),
            reverse_path: "bounces@sender.bench.test".into(),
            bytes: 10_240,
            reference: String::new(),
            campaign: String::new(),
            cost_center: String::new(),
            class: "transactional".into(),
            message_id_header: format!("<{n}.{at_ms}@sender.bench.test>"),
            recipients: 1,
        })),
        attempt: None,
        reason: String::new(),
        next_attempt_ms: 0,
    };
    let delivered = Event {
        kind: EventKind::Delivered,
        at_ms: at_ms + 3,
        address: String::new(),
        job: None,
        attempt: Some(AttemptFacts {
            number: 1,
            source: SourceId(1),
            source_address: Some([127, 0, 0, 1].into()),
            site: "sink.bench.test".into(),
            host: "mx1.sink.bench.test".into(),
            host_address: Some([127, 0, 0, 2].into()),
            tls: String::new(),
            reply_code: 250,
            enhanced_status: "2.0.0".into(),
            reply: format!("queued as {n:016x}"),
            phase: "end_of_data".into(),
            duration_ms: 2,
        }),
        reason: "delivered".into(),
        ..accepted.clone()
    };
    [accepted, delivered]
}

/// CPU microseconds of this thread.
fn thread_cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<u64>().unwrap() / 1000
}

/// What is counted beside this thread: CPU microseconds of a server, octets that it wrote to its log, octets stored.
#[derive(Clone, Copy, Default)]
pub(super) struct Beside {
    pub cpu_us: u64,
    pub log_bytes: u64,
    pub disk_bytes: u64,
}

/// How mails come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    mails: u64,
    /// Mails of a batch.
    batch: u64,
    /// Their deliveries come in the batch behind the one of their acceptances.
    later: bool,
}

/// The shapes that are measured, each with a ledger of its own.
pub(super) fn shapes() -> impl Iterator<Item = Shape> {
    let mails = std::env::var("POSTRAIL_MEASURE").map_or(500, |mails| mails.parse().unwrap());
    let sizes = [50, 300, 500, 5_000];
    sizes.into_iter().flat_map(move |batch| [false, true].map(|later| Shape { mails, batch, later }))
}

/// Stores mails and prints what that costs each.
pub(super) fn measure(name: &str, ledger: &dyn Ledger, shape: Shape, beside: &dyn Fn() -> Beside) {
    let Shape { mails, batch, later } = shape;
    let journal = JournalId { host: HostId::LOCAL, shard: ShardId(0) };
    let cursor = |offset| Cursor { segment: 0, offset };
    let (mut cpu_us, mut elapsed_us, mut wire_bytes) = (0, 0, 0);
    let mut waiting = Vec::new();
    let (mut n, mut at) = (0, 0);
    let before = beside();
    while n < mails {
        let mut events = std::mem::take(&mut waiting);
        for _ in 0..batch {
            let [accepted, delivered] = mail(n, 1_795_000_000_000 + n / 4);
            events.push(accepted);
            if later {
                waiting.push(delivered)
            } else {
                events.push(delivered)
            }
            n += 1;
        }
        let body = frames(&events.chunks(16).map(encode_events).collect::<Vec<_>>());
        wire_bytes += body.len() as u64;
        let (cpu, begun) = (thread_cpu_us(), Instant::now());
        ledger.record(journal, cursor(at), &Batch::read(body), cursor(at + 1)).unwrap();
        at += 1;
        if at % 40 == 0 {
            ledger.make_durable().unwrap();
        }
        cpu_us += thread_cpu_us() - cpu;
        elapsed_us += begun.elapsed().as_micros() as u64;
    }
    let after = beside();
    let a_mail = |total: u64| total as f64 / n as f64;
    println!(
        "{name}, batches of {batch}, deliveries later {later}: {:.2} us CPU here, {:.2} us there, {:.2} us, {:.0} octets of events, {:.0} of log, {:.0} on disk a mail; {:.0} mails a second",
        a_mail(cpu_us),
        a_mail(after.cpu_us - before.cpu_us),
        a_mail(elapsed_us),
        a_mail(wire_bytes),
        a_mail(after.log_bytes - before.log_bytes),
        a_mail(after.disk_bytes.saturating_sub(before.disk_bytes)),
        1e6 / a_mail(elapsed_us),
    );
}

#[test]
fn mails_are_stored_at_a_measured_cost() {
    for shape in shapes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let ledger = SqliteLedger::open(&path).unwrap();
        let length = |name: &str| std::fs::metadata(folder.path().join(name)).map_or(0, |file| file.len());
        let on_disk = || Beside { disk_bytes: length("ledger.db") + length("ledger.db-wal"), ..Beside::default() };
        measure("SQLite", &ledger, shape, &on_disk);
    }
}
