//! Scenarios: a shard driven by hand, with virtual time, answers and outcomes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use postrail_schema::allocation::Tenure;
use postrail_schema::event::{Event, EventKind};
use postrail_schema::ids::{CredentialId, PoolId, Revision, SendingDomainId, SuspensionId};
use postrail_schema::limits::{MESH_IN_FLIGHT_MAX, MESH_IN_FLIGHT_RESERVED};
use postrail_schema::policy::{RetryPolicy, RoutingRule};
use postrail_schema::selector::Selector;
use postrail_schema::snapshot::{
    EgressPool, EgressSource, PoolMember, SendingDomain, SnapshotContent, Suppression, Suspension, SuspensionTarget,
    Tenant,
};

use super::*;
use crate::dns::{MailHost, MailHosts, SiteName};
use crate::egress::{Phase, RecipientOutcome, Scope, SessionEnd, TransactionOutcome, Verdict};
use crate::lease::Holding;
use crate::mail::{Address, BodyType, Content, Domain, JobEntry, JobRecipient, Notify};
use crate::rules::SourceOwners;
use crate::smtp::Reply;
use crate::spool::JobMeta;

mod addresses;
mod given;
mod hand;
mod policies;
mod quarantine;
mod revisions;
mod shaping;
mod tls;
mod transfer;
mod window;

struct World {
    shard: Shard,
    now: Moment,
    content: SnapshotContent,
    outputs: Vec<Output>,
    next: u64,
    /// The spool, by offset.
    spool: std::collections::BTreeMap<u32, Arc<Job>>,
}

fn content(sources: &[&str]) -> SnapshotContent {
    let sources: Vec<EgressSource> = sources
        .iter()
        .enumerate()
        .map(|(index, address)| EgressSource {
            id: SourceId(index as u32 + 1),
            name: format!("s{index}"),
            address: address.parse().unwrap(),
            ehlo_name: "mx.sender.test".to_owned(),
            needs: Default::default(),
        })
        .collect();
    let tenant = |id: u32| Tenant {
        id: TenantId(id),
        name: format!("t{id}"),
        quota_per_day: None,
        weight: 1,
        message_bytes_max: 1_000_000,
        region: None,
        reserved_per_s: None,
        quarantines: false,
    };
    SnapshotContent {
        revision: Revision(1),
        tenants: vec![tenant(1), tenant(2)],
        domains: vec![SendingDomain {
            id: SendingDomainId(1),
            tenant: TenantId(1),
            name: "sender.test".to_owned(),
            keys: vec![],
            pool: None,
            standing: Default::default(),
            is_platform: false,
            is_later: false,
        }],
        pools: vec![EgressPool {
            id: PoolId(1),
            name: "default".to_owned(),
            tenant: None,
            members: sources.iter().map(|source| PoolMember { source: source.id, weight: 1 }).collect(),
            classes: Default::default(),
        }],
        sources,
        ..SnapshotContent::default()
    }
}

impl World {
    fn new(sources: &[&str], shard: u16, shards: u16) -> Self {
        Self::with(sources, shard, shards, false)
    }

    fn with(sources: &[&str], shard: u16, shards: u16, is_leasing: bool) -> Self {
        let content = content(sources);
        let now = Moment { instant: Instant::from_nanos(1), wall: Timestamp::from_unix_ms(1_795_464_845_000) };
        let config = Config { shard: ShardId(shard), shards, seed: 7, owners: SourceOwners::default(), is_leasing };
        let snapshot = Arc::new(Snapshot::new(content.clone()).unwrap());
        let mut world = Self {
            shard: Shard::new(config, snapshot, now),
            now,
            content,
            outputs: Vec::new(),
            next: 0,
            spool: Default::default(),
        };
        world.input(Input::RecoveryDone);
        world
    }

    /// What waits for a person.
    fn quarantined(&self) -> Vec<view::QuarantineView> {
        let all = QuarantineQuery { tenant: None, after: None, jobs_max: usize::MAX };
        self.shard.quarantine_view(&all).jobs
    }

    fn input(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        while let Some(output) = self.shard.poll() {
            self.outputs.push(output);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant = self.now.instant + time;
        self.now.wall = self.now.wall + time;
        self.input(Input::Timeout);
    }

    fn publish(&mut self, change: impl FnOnce(&mut SnapshotContent)) {
        change(&mut self.content);
        self.content.revision.0 += 1;
        self.input(Input::Snapshot(Arc::new(Snapshot::new(self.content.clone()).unwrap())));
    }

    fn job(&mut self, recipients: &[&str]) -> Arc<Job> {
        self.next += 1;
        let recipient = |address: &&str| JobRecipient {
            address: Address::parse(address).unwrap(),
            entry: 0,
            notify: Notify::Unspecified,
            orcpt: None,
        };
        Arc::new(Job {
            id: MessageId::new(self.now.wall.unix_ms(), ShardId(0), self.next),
            interface: Interface::Smtp,
            tenant: TenantId(1),
            credential: CredentialId(1),
            domain: SendingDomainId(1),
            class: TrafficClass::Transactional,
            revision: Revision(1),
            accepted_at: self.now.wall,
            expires_at: self.now.wall + Duration::from_secs(86_400),
            peer: None,
            reverse_path: Some(Address::parse("app@sender.test").unwrap()),
            body: BodyType::SevenBit,
            smtp_utf8: false,
            ret: None,
            envid: None,
            reference: String::new(),
            campaign: String::new(),
            cost_center: String::new(),
            message_id_header: "<x@sender.test>".to_owned(),
            quarantined: false,
            hop: 0,
            idempotency: None,
            entries: vec![JobEntry::default()],
            recipients: recipients.iter().map(recipient).collect(),
            content: Content::Mime { header: Bytes::from_static(b"\r\n"), body: Bytes::from_static(b"x\r\n") },
        })
    }

    fn accept(&mut self, recipients: &[&str]) -> Arc<Job> {
        let job = self.job(recipients);
        self.accept_job(job)
    }

    fn accept_job(&mut self, job: Arc<Job>) -> Arc<Job> {
        let at = Location { segment: 1, offset: self.next as u32 * 4_096, bytes: 100 };
        self.spool.insert(at.offset, job.clone());
        self.input(Input::Accepted { job: job.clone(), at });
        job
    }

    fn take<T>(&mut self, mut pick: impl FnMut(&Output) -> Option<T>) -> Option<T> {
        let at = self.outputs.iter().position(|output| pick(output).is_some())?;
        let output = self.outputs.remove(at);
        pick(&output)
    }

    /// Answers every open lookup with one host.
    fn resolve(&mut self) {
        while let Some((domain, name)) = self.take(|output| match output {
            Output::Resolve { domain, lookup } => Some((*domain, lookup.name.clone())),
            _ => None,
        }) {
            let hosts = MailHosts {
                site: SiteName(format!("mx.{name}").into()),
                hosts: vec![MailHost { name, preference: 10, addresses: vec!["192.0.2.1".parse().unwrap()] }],
                secure: false,
                expires: self.now.instant + Duration::from_secs(86_400 * 7),
            };
            self.input(Input::Resolved { domain, result: Ok(Rc::new(hosts)) });
        }
    }

    fn opened(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| {
            self.take(|output| match output {
                Output::Open { session, .. } => Some(*session),
                _ => None,
            })
        })
        .collect()
    }

    fn ready(&mut self, session: u32) {
        self.ready_with(session, false);
    }

    fn ready_with(&mut self, session: u32, chunking: bool) {
        self.ready_over(session, chunking, None);
    }

    fn ready_over(&mut self, session: u32, chunking: bool, tls: Option<crate::mail::TlsFacts>) {
        let capabilities = Capabilities {
            chunking,
            pipelining: true,
            eight_bit_mime: true,
            smtp_utf8: true,
            dsn: true,
            size: None,
            enhanced_status: true,
            tls,
            host: Domain::parse("mx.example.test").unwrap(),
            address: SocketAddr::from(([192, 0, 2, 1], 25)),
            local: None,
        };
        self.input(Input::Ready { session, capabilities: Arc::new(capabilities) });
    }

    fn transact(&mut self) -> Option<(u32, Transact)> {
        self.take(|output| match output {
            Output::Transact { session, transact } => Some((*session, (**transact).clone())),
            _ => None,
        })
    }

    fn outcome(&mut self, session: u32, transact: &Transact, verdict: Verdict, code: u16) {
        self.outcome_with(session, transact, |outcome| {
            outcome.recipients.iter_mut().for_each(|recipient| {
                (recipient.verdict, recipient.reply.code) = (verdict, code);
            })
        });
    }

    /// A delivery, or what `change` makes of it.
    fn outcome_with(&mut self, session: u32, transact: &Transact, change: impl FnOnce(&mut TransactionOutcome)) {
        let outcome = RecipientOutcome {
            verdict: DELIVERED,
            scope: Scope::Recipient,
            phase: Phase::EndOfData,
            reply: Reply::plain(250, "said"),
            maybe_delivered: false,
        };
        let recipients = vec![outcome; transact.recipients.len()];
        let mut outcome = TransactionOutcome { tag: u64::from(transact.attempt), recipients, session_over: false };
        change(&mut outcome);
        self.input(Input::Outcome { session, outcome });
    }

    /// Drives one mail to its transaction on a fresh session.
    fn reach_transaction(&mut self) -> (u32, Transact) {
        self.resolve();
        let session = self.opened()[0];
        self.ready(session);
        self.transact().expect("a ready session gets the mail")
    }

    fn events(&mut self) -> Vec<EventKind> {
        let mut kinds = Vec::new();
        while let Some(events) = self.take(|output| match output {
            Output::Record(record) => Some(record.events.clone()),
            _ => None,
        }) {
            kinds.extend(events.into_iter().map(|event| event.kind));
        }
        kinds
    }
}

const DELIVERED: Verdict = Verdict::Delivered { dsn_passed_on: true };

#[test]
fn a_mail_goes_from_acceptance_to_its_settlement() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, DELIVERED, 250);
    let finished = world.outputs.iter().any(|o| matches!(o, Output::Record(record) if record.finished.len() == 1));
    assert!(finished, "the job is released with its last settlement");
    assert_eq!(world.events(), [EventKind::Accepted, EventKind::Delivered]);
    assert_eq!((world.shard.waiting(), world.shard.fresh_bytes), (0, 0));
}

#[test]
fn recipients_of_one_site_share_a_transaction_and_a_reply_each() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test", "b@one.test", "c@two.test"]);
    let (_, transact) = world.reach_transaction();
    assert_eq!(transact.recipients.len(), 2);
    assert_eq!(world.shard.waiting(), 3);
}

#[test]
fn a_transient_failure_is_tried_again_after_its_delay_from_the_spool() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let job = world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, Verdict::Transient, 451);
    world.ready(session);
    assert_eq!(world.events(), [EventKind::Accepted, EventKind::Deferred]);
    assert!(world.transact().is_none());
    world.pass(Duration::from_secs(340));
    let session = world.opened()[0];
    world.ready(session);
    let attempt = world.take(|output| match output {
        Output::Load { attempt, .. } => Some(*attempt),
        _ => None,
    });
    world.input(Input::Loaded { attempt: attempt.expect("old mail is read from the spool"), result: Ok(job) });
    let (session, transact) = world.transact().expect("the second attempt");
    world.outcome(session, &transact, DELIVERED, 250);
    assert_eq!(world.events(), [EventKind::Delivered]);
}

#[test]
fn a_permanent_failure_bounces_and_asks_for_a_report() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, Verdict::Permanent, 550);
    let reports = world.outputs.iter().filter(|o| matches!(o, Output::Record(r) if r.report.is_some())).count();
    assert_eq!(reports, 1);
    assert_eq!(world.events(), [EventKind::Accepted, EventKind::Bounced]);
}

#[test]
fn a_suppressed_recipient_is_dropped_at_the_start_of_the_attempt() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["A@one.test", "b@one.test"]);
    world.resolve();
    world.publish(|content| {
        content.suppressions.push(Suppression { tenant: TenantId(1), address: "a@one.test".to_owned() });
    });
    let session = world.opened()[0];
    world.ready(session);
    let (_, transact) = world.transact().unwrap();
    assert_eq!(transact.recipients.as_slice(), [RecipientIndex(1)]);
    assert_eq!(world.events(), [EventKind::Accepted, EventKind::Accepted, EventKind::Suppressed]);
}

#[test]
fn connections_of_a_path_stay_within_the_limit() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    for _ in 0..50 {
        world.accept(&["a@one.test"]);
    }
    world.resolve();
    assert_eq!(world.opened().len(), 10);
}

/// Gives tenant 2 a reserve and a sending domain, and tenant 1 a hundred turns for each of others.
fn reserve(world: &mut World, per_s: u32) {
    world.publish(|content| {
        content.tenants[0].weight = 100;
        content.tenants[1].reserved_per_s = Some(per_s);
        let (id, tenant, name) = (SendingDomainId(2), TenantId(2), "reserved.test".to_owned());
        content.domains.push(SendingDomain { id, tenant, name, ..content.domains[0].clone() });
    });
}

/// The job as one of that tenant.
fn of_reserved(job: &Job) -> Job {
    Job { tenant: TenantId(2), domain: SendingDomainId(2), ..job.clone() }
}

#[test]
fn mail_within_a_reserved_rate_goes_ahead_of_a_flood_and_what_exceeds_it_does_not() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    reserve(&mut world, 1);
    (0..50).for_each(|_| drop(world.accept(&["a@one.test"])));
    for _ in 0..3 {
        let job = of_reserved(&world.job(&["b@one.test"]));
        world.accept_job(Arc::new(job));
    }
    let (session, mut transact) = world.reach_transaction();
    let mut tenants = Vec::new();
    for _ in 0..20 {
        tenants.push(transact.job.tenant.0);
        world.outcome(session, &transact, DELIVERED, 250);
        world.ready(session);
        transact = world.transact().expect("more is ready").1;
    }
    assert_eq!(tenants.iter().position(|tenant| *tenant == 2), Some(0), "{tenants:?}");
    assert_eq!(tenants.iter().filter(|tenant| **tenant == 2).count(), 1, "the reserve is one a second: {tenants:?}");
}

#[test]
fn the_last_of_the_way_to_another_shard_is_for_what_is_reserved() {
    let mut home = World::new(&["192.0.2.9"], 1, 2);
    reserve(&mut home, 2);
    (0..MESH_IN_FLIGHT_MAX).for_each(|_| drop(home.accept(&["a@one.test"])));
    for _ in 0..3 {
        let job = of_reserved(&home.job(&["b@one.test"]));
        home.accept_job(Arc::new(job));
    }
    let mut crossed = [0, 0];
    while let Some(tenant) = home.take(|output| match output {
        Output::Hand { work, .. } => Some(work.job.tenant),
        _ => None,
    }) {
        crossed[tenant.0 as usize - 1] += 1;
    }
    assert_eq!(crossed, [MESH_IN_FLIGHT_MAX - MESH_IN_FLIGHT_RESERVED, 2], "a second's worth of the reserve");
}

#[test]
fn the_last_room_is_for_tenants_with_a_reserve() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    world.publish(|content| content.tenants[1].reserved_per_s = Some(1));
    let room = WAITING_RECIPIENTS_MAX - WAITING_RECIPIENTS_RESERVED;
    assert!(world.shard.has_room(TenantId(1), room) && !world.shard.has_room(TenantId(1), room + 1));
    assert!(world.shard.has_room(TenantId(2), WAITING_RECIPIENTS_MAX));
}

#[test]
fn a_suspended_tenant_waits_and_goes_on_when_resumed() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let suspension =
        Suspension { id: SuspensionId(1), target: SuspensionTarget::Tenant(TenantId(1)), reason: String::new() };
    world.publish(|content| content.suspensions.push(suspension));
    let job = world.accept(&["a@one.test"]);
    assert_eq!(world.shard.fresh_bytes, 0, "what has to wait is read from the spool when its turn comes");
    world.pass(Duration::from_secs(3_600));
    assert!(world.outputs.iter().all(|output| matches!(output, Output::Record(_))));
    world.publish(|content| content.suspensions.clear());
    world.resolve();
    let session = world.opened()[0];
    world.ready(session);
    let attempt = world.take(|output| match output {
        Output::Load { attempt, .. } => Some(*attempt),
        _ => None,
    });
    world.input(Input::Loaded { attempt: attempt.expect("it is loaded"), result: Ok(job) });
    let (session, transact) = world.transact().expect("it goes on");
    world.outcome(session, &transact, DELIVERED, 250);
    assert!(world.shard.active.is_empty() && world.shard.groups.is_empty() && world.shard.job_ids.is_empty());
}

#[test]
fn a_suspension_stops_what_is_ready_already() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    world.resolve();
    let session = world.opened()[0];
    let suspension = Suspension {
        id: SuspensionId(1),
        target: SuspensionTarget::Site("mx.one.test".to_owned()),
        reason: String::new(),
    };
    world.publish(|content| content.suspensions.push(suspension));
    world.ready(session);
    assert!(world.transact().is_none());
    assert!(world.outputs.iter().any(|output| matches!(output, Output::Quit { .. })));
    assert_eq!(world.shard.queue_view(world.now).domains[0].reasons.get("site_suspended"), Some(&1));
}

#[test]
fn expiry_holds_while_suspended() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let suspension =
        Suspension { id: SuspensionId(1), target: SuspensionTarget::Tenant(TenantId(1)), reason: String::new() };
    world.publish(|content| content.suspensions.push(suspension));
    world.accept(&["a@one.test"]);
    world.pass(Duration::from_secs(86_401));
    assert_eq!(world.events(), [EventKind::Accepted, EventKind::Expired]);
    assert_eq!(world.shard.waiting(), 0);
}

#[test]
fn a_dead_site_defers_all_that_waits_on_it_and_is_probed_by_one_connection() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    for _ in 0..3 {
        world.accept(&["a@one.test"]);
    }
    world.resolve();
    let sessions = world.opened();
    assert_eq!(sessions.len(), 3);
    for session in sessions {
        let end = SessionEnd::Failed {
            scope: Scope::Site,
            verdict: Verdict::Transient,
            phase: Phase::Connect,
            reply: Reply::plain(0, "connection refused"),
            host: None,
            address: None,
        };
        world.input(Input::Ended { session, end });
    }
    let deferred = world.events().into_iter().filter(|kind| *kind == EventKind::Deferred).count();
    assert_eq!(deferred, 3);
    world.accept(&["b@one.test"]);
    assert!(world.opened().is_empty(), "nothing is tried while the path backs off");
    world.pass(Duration::from_secs(70));
    assert_eq!(world.opened().len(), 1);
}

#[test]
fn an_operator_retries_cancels_and_bounces() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let job = world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, Verdict::Transient, 451);
    assert_eq!(world.shard.command(world.now, &Command::Retry(CommandTarget::Domain("one.test".to_owned()))), Ok(1));
    world.ready(session);
    world.events();
    assert_eq!(world.shard.command(world.now, &Command::Cancel(job.id)), Ok(1));
    assert_eq!(world.shard.command(world.now, &Command::Cancel(MessageId::from_bits(1))), Ok(0));
}

#[test]
fn cancelled_mail_settles_at_once_when_it_waits() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let job = world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, Verdict::Transient, 451);
    world.shard.command(world.now, &Command::Cancel(job.id)).unwrap();
    world.input(Input::Timeout);
    assert_eq!(world.events(), [EventKind::Accepted, EventKind::Deferred, EventKind::Cancelled]);
    assert_eq!(world.shard.waiting(), 0);
}

#[test]
fn mail_crosses_once_to_the_shard_that_owns_its_source() {
    let mut home = World::new(&["192.0.2.9"], 1, 2);
    let mut owner = World::new(&["192.0.2.9"], 0, 2);
    home.accept(&["a@one.test"]);
    let work = home.take(|output| match output {
        Output::Hand { to, work } => Some((*to, work.clone())),
        _ => None,
    });
    let (to, work) = work.expect("the owner is asked");
    assert_eq!(to, ShardId(0));
    owner.input(Input::Hand(work));
    let (session, transact) = owner.reach_transaction();
    owner.outcome(session, &transact, DELIVERED, 250);
    assert!(owner.events().is_empty(), "only the home shard settles");
    let back = owner.take(|output| match output {
        Output::HandBack { back, .. } => Some(back.clone()),
        _ => None,
    });
    home.input(Input::HandBack(back.expect("the outcome comes home")));
    assert_eq!(home.events(), [EventKind::Accepted, EventKind::Delivered]);
    assert!(home.shard.is_quiet());
}

#[test]
fn a_reused_connection_that_died_counts_no_attempt() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, DELIVERED, 250);
    world.ready(session);
    world.accept(&["b@one.test"]);
    let (_, transact) = world.transact().expect("the idle session takes it");
    let lost = RecipientOutcome {
        verdict: Verdict::Transient,
        scope: Scope::Session,
        phase: Phase::Mail,
        reply: Reply::plain(0, "connection lost"),
        maybe_delivered: false,
    };
    let tag = u64::from(transact.attempt);
    let outcome = TransactionOutcome { tag, recipients: vec![lost], session_over: true };
    world.input(Input::Outcome { session, outcome });
    world.input(Input::Ended { session, end: SessionEnd::Done });
    let session = world.opened()[0];
    world.ready(session);
    assert!(world.transact().is_some());
    assert!(!world.events().contains(&EventKind::Deferred));
}

#[test]
fn recovery_knows_what_had_settled_and_what_had_been_tried() {
    let mut before = World::new(&["0.0.0.0"], 0, 1);
    let job = before.accept(&["a@one.test", "b@one.test"]);
    let mut events: Vec<Event> = accepted::accepted_events(&job);
    let settled = Event { kind: EventKind::Delivered, job: None, ..events[0].clone() };
    events.push(settled);
    let mut after = World::new(&["0.0.0.0"], 0, 1);
    for event in events {
        after.input(Input::Replayed((&event).into()));
    }
    let meta = JobMeta {
        job: (*job).clone(),
        content_bytes: 3,
        progress: Vec::new(),
        moved_from: None,
        bound_to: None,
        chunks: Vec::new(),
    };
    after.input(Input::Recovered { meta: Box::new(meta), at: Location { segment: 1, offset: 0, bytes: 1 } });
    assert_eq!(after.shard.waiting(), 1);
    assert!(after.events().is_empty(), "nothing is recorded twice");
    after.pass(Duration::from_millis(1));
    after.resolve();
    assert_eq!(after.opened().len(), 1);
}

#[test]
fn a_drained_shard_starts_nothing_and_becomes_quiet() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.accept(&["b@one.test"]);
    world.input(Input::Drain);
    world.outcome(session, &transact, DELIVERED, 250);
    world.ready(session);
    assert!(world.transact().is_none());
    let open: Vec<u32> = world.shard.sessions.iter().map(|(id, _)| id as u32).collect();
    for session in open {
        world.input(Input::Ended { session, end: SessionEnd::Done });
    }
    assert!(world.shard.is_quiet());
    assert_eq!(world.shard.waiting(), 1, "what was not sent stays in the spool");
}

/// Two sessions of one path, the first of which is over after its outcome while the second is busy.
#[test]
fn an_attempt_outlives_the_end_of_another_session() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    let (first, transact) = world.reach_transaction();
    world.accept(&["b@one.test"]);
    let second = world.opened()[0];
    let recipients = vec![RecipientOutcome {
        verdict: DELIVERED,
        scope: Scope::Recipient,
        phase: Phase::EndOfData,
        reply: Reply::plain(250, "said"),
        maybe_delivered: false,
    }];
    let tag = u64::from(transact.attempt);
    let outcome = TransactionOutcome { tag, recipients, session_over: true };
    world.input(Input::Outcome { session: first, outcome });
    world.ready(second);
    let (_, transact) = world.transact().expect("the second session has its own");
    world.input(Input::Ended { session: first, end: SessionEnd::Done });
    world.outcome(second, &transact, DELIVERED, 250);
    assert_eq!(world.shard.waiting(), 0);
}

#[test]
fn a_job_that_arrives_from_the_spool_after_its_session_has_ended_is_tried_on_another() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let job = world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, Verdict::Transient, 451);
    world.ready(session);
    world.shard.command(world.now, &Command::Retry(CommandTarget::All)).unwrap();
    world.input(Input::Timeout);
    let attempt = world.take(|output| match output {
        Output::Load { attempt, .. } => Some(*attempt),
        _ => None,
    });
    world.input(Input::Ended { session, end: SessionEnd::Done });
    world.input(Input::Loaded { attempt: attempt.expect("old mail is loaded"), result: Ok(job) });
    assert_eq!(world.opened().len(), 1, "the group is ready again");
}

#[test]
fn content_stays_at_hand_until_every_recipient_has_been_tried() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test", "b@two.test"]);
    world.resolve();
    let sessions = world.opened();
    world.ready(sessions[0]);
    let (session, transact) = world.transact().expect("ready");
    world.outcome(session, &transact, Verdict::Transient, 451);
    assert!(world.shard.fresh_bytes > 0, "the other recipient is untried");
    world.ready(sessions[1]);
    let (session, transact) = world.transact().expect("no read of the spool is needed");
    world.outcome(session, &transact, Verdict::Transient, 451);
    assert_eq!(world.shard.fresh_bytes, 0);
}

#[test]
fn attempts_of_one_job_share_one_read_of_the_spool() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let job = world.accept(&["a@one.test", "b@two.test"]);
    world.resolve();
    for session in world.opened() {
        world.ready(session);
        let (session, transact) = world.transact().expect("ready");
        world.outcome(session, &transact, Verdict::Transient, 451);
        world.ready(session);
    }
    world.shard.command(world.now, &Command::Retry(CommandTarget::All)).unwrap();
    world.input(Input::Timeout);
    let load = |output: &Output| match output {
        Output::Load { attempt, .. } => Some(*attempt),
        _ => None,
    };
    let attempt = world.take(load).expect("the first asks");
    assert!(world.take(load).is_none(), "the second waits for the same answer");
    world.input(Input::Loaded { attempt, result: Ok(job) });
    assert!(world.transact().is_some() && world.transact().is_some(), "both go on");
}

#[test]
fn a_session_that_only_meets_suppressed_mail_does_not_recurse() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    world.resolve();
    let session = world.opened()[0];
    for _ in 0..20_000 {
        world.accept(&["a@one.test"]);
    }
    world.opened();
    world.publish(|content| {
        content.suppressions.push(Suppression { tenant: TenantId(1), address: "a@one.test".to_owned() });
    });
    world.ready(session);
    assert_eq!(world.shard.waiting(), 0);
}

#[test]
fn a_cancelled_job_ends_when_another_shard_gives_its_work_back() {
    let mut home = World::new(&["192.0.2.9"], 1, 2);
    let job = home.accept(&["a@one.test"]);
    let work = home.take(|output| match output {
        Output::Hand { work, .. } => Some(work.clone()),
        _ => None,
    });
    assert_eq!(home.shard.command(home.now, &Command::Cancel(job.id)), Ok(1));
    let result = HandResult::Wait { reason: WaitReason::SiteBackoff, nanos: 1_000_000_000, revision: Revision(1) };
    home.input(Input::HandBack(Box::new(HandBack { group: work.expect("handed").group, result })));
    assert_eq!(home.events(), [EventKind::Accepted, EventKind::Cancelled]);
}

#[test]
fn a_second_copy_of_a_settled_job_is_released_and_not_sent() {
    let mut before = World::new(&["0.0.0.0"], 0, 1);
    let job = before.accept(&["a@one.test"]);
    let mut events = accepted::accepted_events(&job);
    events.push(Event { kind: EventKind::Delivered, job: None, ..events[0].clone() });
    let mut after = World::new(&["0.0.0.0"], 0, 1);
    events.iter().for_each(|event| after.input(Input::Replayed(event.into())));
    for segment in [2, 1] {
        let meta = JobMeta {
            job: (*job).clone(),
            content_bytes: 3,
            progress: Vec::new(),
            moved_from: None,
            bound_to: None,
            chunks: Vec::new(),
        };
        after.input(Input::Recovered { meta: Box::new(meta), at: Location { segment, offset: 0, bytes: 1 } });
    }
    assert_eq!(after.shard.waiting(), 0);
    let released = after.outputs.iter().filter(|o| matches!(o, Output::Record(r) if r.finished.len() == 1)).count();
    assert_eq!(released, 2);
}
