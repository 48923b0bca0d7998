//! What storing costs a mail, measured: CPU and elapsed time of this thread, octets on disk.
//!
//! ```text
//! POSTRAIL_MEASURE=1000000 cargo test --release -p postrail-control-plane --lib -- --nocapture measured_cost
//! ```
//!
//! Mails of one recipient with the two events that the data plane makes of them, 16 events a buffer, synced every 40
//! batches; one batch of each size where nothing is asked for, or a few. Absent here: the pull over HTTP. `TMPDIR` says
//! where the ledger is; it is no figure on a tmpfs.

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
        job: Some(JobFacts {
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
        }),
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

/// Batches of `batch` mails. `later`: their deliveries come in the batch behind the one of their acceptances.
fn measure(mails: u64, batch: u64, later: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    let journal = JournalId { host: HostId::LOCAL, shard: ShardId(0) };
    let cursor = |offset| Cursor { segment: 0, offset };
    let (mut cpu_us, mut elapsed_us, mut wire_bytes) = (0, 0, 0);
    let mut waiting = Vec::new();
    let (mut n, mut at) = (0, 0);
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
    drop(ledger);
    let disk_bytes = std::fs::metadata(&path).unwrap().len();
    let a_mail = |total: u64| total as f64 / n as f64;
    println!(
        "batches of {batch}, deliveries later {later}: {:.2} us CPU, {:.2} us, {:.0} octets of events, {:.0} on disk a mail",
        a_mail(cpu_us),
        a_mail(elapsed_us),
        a_mail(wire_bytes),
        a_mail(disk_bytes),
    );
}

#[test]
fn mails_are_stored_at_a_measured_cost() {
    let mails = std::env::var("POSTRAIL_MEASURE").map_or(500, |mails| mails.parse().unwrap());
    for batch in [50, 300, 500, 5_000] {
        for later in [false, true] {
            measure(mails, batch, later);
        }
    }
}
