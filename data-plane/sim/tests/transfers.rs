//! The pumps of transfers at work on one node: what it answers to parcels, how it gives mail away, and what of both is
//! left after a crash.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use futures_lite::future::zip;
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use postrail_core::base::Timestamp;
use postrail_core::dns::ResolverConfig;
use postrail_core::intake::listeners::ListeningHost;
use postrail_core::mail::{Address, BodyType, Content, Interface, Job, JobEntry, JobRecipient, Notify};
use postrail_core::rules::SourceOwners;
use postrail_core::shard::Command;
use postrail_core::spool::{Carried, job_frame};
use postrail_core::transfer::parcel::{Draft, Parcel, Sent, encode_answer};
use postrail_core::transfer::{Fate, KeptReason, Neighbour, Neighbours, Offer};
use postrail_data_plane::admin::AdminAccess;
use postrail_data_plane::mesh::{Letter, Mesh, Question, Reply};
use postrail_data_plane::node::{ShardSetup, run_shard};
use postrail_data_plane::platform::{Net, Platform};
use postrail_data_plane::shard::NodeFacts;
use postrail_data_plane::tls::Connector;
use postrail_data_plane::transfer::{Arrival, Departure, departures};
use postrail_schema::allocation::HostName;
use postrail_schema::ids::{CredentialId, MessageId, Revision, SendingDomainId, ShardId, TenantId};
use postrail_schema::limits::TRANSFER_BYTES_MAX;
use postrail_schema::sealed::{MasterKey, MasterKeys};
use postrail_schema::snapshot::{Snapshot, TrafficClass};
use postrail_sim::workload::content;
use postrail_sim::{NodeId, Settings, Sim, SimPlatform};

const SHARDS: u16 = 2;
const SOURCE: &str = "192.0.2.1";
const ADMIN: &str = "10.0.0.1:9090";
const TOKEN: &str = "token of the fleet";
/// When the simulation begins, and a little before.
const ACCEPTED_MS: u64 = 1_795_392_000_000 - 60_000;

/// A node of two shards, in a fleet where it holds no address: what it has waits.
struct Host<'a> {
    sim: &'a Sim,
    node: NodeId,
    platform: SimPlatform,
    mesh: Mesh,
    departures: Receiver<Departure>,
}

impl<'a> Host<'a> {
    fn add(sim: &'a Sim) -> Self {
        let node = sim.add_node(&["10.0.0.1".parse().expect("an address")]);
        Self::start(sim, node)
    }

    fn start(sim: &'a Sim, node: NodeId) -> Self {
        Self::start_with(sim, node, AdminAccess::Tokens([TOKEN.to_owned()].into()))
    }

    fn start_with(sim: &'a Sim, node: NodeId, admin_access: AdminAccess) -> Self {
        let (mesh, inboxes) = Mesh::new(SHARDS.into());
        let (sender, departures) = departures();
        let setup = ShardSetup {
            node: NodeFacts {
                data: PathBuf::from("data"),
                hostname: "node.example".into(),
                shards: SHARDS,
                master_keys: Arc::new(MasterKeys::only(MasterKey::new([7; 32]))),
                acceptor: None,
                identity: None,
                listening: ListeningHost { name: "here".to_owned(), ..ListeningHost::default() },
                ports: Arc::default(),
                usage: Arc::default(),
                connector: Connector::with_roots(&PathBuf::from("no roots")).expect("the policies need no roots"),
                control_url: "http://127.0.0.1:8081".into(),
                owners: SourceOwners::default(),
                is_leasing: true,
                feed: Arc::default(),
                admin_access,
                departures: sender,
            },
            resolver: ResolverConfig::new(vec!["10.0.0.9:53".parse().expect("an address")]),
            admin: Some(ADMIN.parse().expect("an address")),
            drain: Duration::from_secs(60),
            mesh: mesh.clone(),
            inboxes: inboxes.into(),
            snapshot: Arc::new(
                Snapshot::new(content(SOURCE.parse().expect("an address"))).expect("the content holds together"),
            ),
        };
        for shard in (0..SHARDS).map(ShardId) {
            let (platform, setup) = (sim.platform(node), setup.clone());
            platform.clone().spawn("shard", async move {
                run_shard(platform, shard, setup, || {}).await.expect("it starts");
            });
        }
        Self { sim, node, platform: sim.platform(node), mesh, departures }
    }

    /// Power fails, and the node starts again.
    fn crash(self) -> Self {
        self.sim.crash(self.node);
        Self::start(self.sim, self.node)
    }

    fn run<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> T {
        self.sim.run(self.node, work).expect("no task panics or hangs")
    }

    fn ask(&self, shard: u16, question: Question) -> Reply {
        let mesh = self.mesh.clone();
        self.run(async move { mesh.ask(ShardId(shard), question).await.expect("the shard runs") })
    }

    fn pass(&self, seconds: u64) {
        self.sim.run_until(self.sim.now() + Duration::from_secs(seconds)).expect("no task panics or hangs");
    }

    fn recovered(self) -> Self {
        while (0..SHARDS).any(|shard| self.status(shard).1) {
            self.pass(1);
        }
        self
    }

    /// Recipients that wait, and whether not all that wait have been read.
    fn status(&self, shard: u16) -> (usize, bool) {
        let Reply::Status(status) = self.ask(shard, Question::Status) else { panic!("not a status") };
        (status.waiting, status.recovering)
    }

    fn waiting(&self) -> [usize; SHARDS as usize] {
        [0, 1].map(|shard| self.status(shard).0)
    }

    fn take(&self, parcel: &Packed) -> Arrival {
        let Reply::Arrival(arrival) = self.ask(0, parcel.question()) else { panic!("no arrival") };
        arrival
    }

    fn fates(&self, parcel: &Packed) -> Vec<Fate> {
        let Arrival::Answered(answer) = self.take(parcel) else { panic!("not answered") };
        parcel.sent.fates(parcel.turn, &answer).expect("an answer to this parcel")
    }

    fn tell(&self, is_leaving: bool, hosts: &[&str]) {
        let neighbour = |name: &&str| Neighbour {
            name: host(name),
            takes: true,
            addresses: [SOURCE.parse().expect("an address")].into(),
        };
        let hosts = hosts.iter().map(neighbour).collect();
        let neighbours = Arc::new(Neighbours { is_leaving, hosts, ..Neighbours::default() });
        self.mesh.broadcast(|| Letter::Neighbours(neighbours.clone()));
    }

    fn departure(&self) -> (Departure, Parcel) {
        let departures = self.departures.clone();
        let departure = self.run(async move { departures.recv().await.expect("the node runs") });
        let parcel = Parcel::decode(&departure.parcel).expect("a parcel");
        (departure, parcel)
    }

    /// Head and body of what the admin listener answers to `request`, a line, with these fields.
    fn admin(&self, request: &str, fields: &str, body: &[u8]) -> (String, Vec<u8>) {
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n");
        self.admin_raw([format!("{head}{fields}\r\n").as_bytes(), body].concat())
    }

    fn admin_raw(&self, request: Vec<u8>) -> (String, Vec<u8>) {
        let platform = self.platform.clone();
        self.run(async move {
            let limit = Duration::from_secs(30);
            let stream =
                platform.net().connect(None, ADMIN.parse().expect("an address"), limit).await.expect("it listens");
            let (mut reader, mut writer) = stream.split();
            let (mut read, mut buffer) = (Vec::new(), [0; 4_096]);
            let write = async {
                // Who is refused early does not read on.
                let _ = writer.write_all(&request).await;
            };
            let answer = async {
                while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                    read.extend_from_slice(&buffer[..count]);
                }
            };
            let _ = platform.timeout(limit, zip(write, answer)).await;
            let end = read.windows(4).position(|end| end == b"\r\n\r\n").expect("a whole head") + 4;
            (String::from_utf8_lossy(&read[..end]).into_owned(), read[end..].to_vec())
        })
    }
}

/// The jobs, on which hop.
fn names(parcel: &Parcel) -> Vec<(MessageId, u16)> {
    parcel.jobs.iter().map(|job| (job.message, job.hop)).collect()
}

/// A parcel, and what reads its answer.
struct Packed {
    turn: u64,
    octets: Vec<u8>,
    sent: Sent,
}

impl Packed {
    fn question(&self) -> Question {
        Question::Take(Box::new(Parcel::decode(&self.octets.clone().into()).expect("a parcel")))
    }
}

fn pack(giver: &str, turn: u64, jobs: &[Job]) -> Packed {
    let with_octets = |job: &Job| {
        let octets = job_frame::encode_parcel_job(job, job.hop, &vec![Carried::default(); job.recipients.len()]);
        (job.id, job.hop, Some(octets))
    };
    pack_octets(giver, turn, &jobs.iter().map(with_octets).collect::<Vec<_>>())
}

fn pack_octets(giver: &str, turn: u64, jobs: &[(MessageId, u16, Option<Vec<u8>>)]) -> Packed {
    let offer = Offer { to: host("here"), turn, is_leaving: true, jobs: Vec::new() };
    let mut draft = Draft::new(&host(giver), ShardId(0), &offer);
    jobs.iter().for_each(|(id, hop, octets)| draft.push(*id, *hop, octets.as_deref()));
    let (octets, sent) = draft.finish();
    Packed { turn, octets: octets.to_vec(), sent }
}

fn host(name: &str) -> HostName {
    HostName::new(name).expect("a host's name")
}

/// A job of two recipients from shard `shard` of another host, on its first hop.
fn job(shard: u16, number: u64) -> Job {
    let recipient = |name: &str| JobRecipient {
        address: Address::parse(&format!("{name}@site.example")).expect("an address"),
        entry: 0,
        notify: Notify::default(),
        orcpt: None,
    };
    Job {
        id: MessageId::new(ACCEPTED_MS, ShardId(shard), number),
        interface: Interface::Smtp,
        tenant: TenantId(1),
        credential: CredentialId(1),
        domain: SendingDomainId(1),
        class: TrafficClass::Transactional,
        revision: Revision(1),
        accepted_at: Timestamp::from_unix_ms(ACCEPTED_MS),
        expires_at: Timestamp::from_unix_ms(ACCEPTED_MS + 24 * 3_600_000),
        peer: None,
        reverse_path: None,
        body: BodyType::SevenBit,
        smtp_utf8: false,
        ret: None,
        envid: None,
        reference: String::new(),
        campaign: String::new(),
        cost_center: String::new(),
        message_id_header: "<1@us.example>".to_owned(),
        quarantined: false,
        hop: 1,
        idempotency: None,
        entries: vec![JobEntry::default()],
        recipients: vec![recipient("ann"), recipient("bob")],
        content: Content::Mime { header: "Subject: x\r\n\r\n".into(), body: "body\r\n".into() },
    }
}

fn world() -> Sim {
    Sim::new(&Settings { seed: 1, ..Settings::default() })
}

const TAKEN: Fate = Fate::Taken;

#[test]
fn a_parcel_is_stored_once_at_the_home_of_each_job_whatever_is_repeated() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    // The giver has more shards than we.
    let jobs = [job(0, 1), job(3, 2), job(5, 3)];
    assert_eq!(here.fates(&pack("there", 1, &jobs)), [TAKEN; 3]);
    assert_eq!(here.waiting(), [2, 4]);
    assert_eq!(here.take(&pack("there", 1, &jobs)), Arrival::Stale { turn: 1 });
    assert_eq!(here.fates(&pack("there", 2, &jobs)), [TAKEN; 3], "the answer was lost");
    assert_eq!(here.waiting(), [2, 4]);
    let here = here.crash();
    let early = here.take(&pack("there", 3, &jobs));
    assert!(matches!(early, Arrival::Refused(_)), "not all that waits is known yet: {early:?}");
    let here = here.recovered();
    assert_eq!(here.waiting(), [2, 4], "what was taken is durable");
    assert_eq!(here.fates(&pack("there", 4, &jobs)), [TAKEN; 3]);
    assert_eq!(here.waiting(), [2, 4]);
}

#[test]
fn a_job_that_has_settled_since_is_still_said_to_be_taken() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    let job = job(1, 1);
    assert_eq!(here.fates(&pack("there", 1, std::slice::from_ref(&job))), [TAKEN]);
    let cancelled = here.ask(1, Question::Command(Command::Cancel(job.id)));
    assert!(matches!(cancelled, Reply::Affected(2)), "{cancelled:?}");
    here.pass(1);
    assert_eq!(here.fates(&pack("there", 2, std::slice::from_ref(&job))), [TAKEN]);
    assert_eq!(here.waiting(), [0, 0]);
}

#[test]
fn one_parcel_of_a_shard_is_worked_on_at_a_time() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    let (mesh, jobs) = (here.mesh.clone(), [job(0, 1)]);
    let parcels = [pack("there", 1, &jobs), pack("there", 2, &jobs), pack("elsewhere", 1, &[job(0, 2)])];
    let asked = parcels.map(|parcel| {
        let mesh = mesh.clone();
        async move { mesh.ask(ShardId(0), parcel.question()).await }
    });
    let arrivals = here.run(async move {
        let [first, second, other] = asked;
        zip(zip(first, second), other).await
    });
    let ((first, second), other) = arrivals;
    assert!(matches!(other, Some(Reply::Arrival(Arrival::Answered(_)))), "another host is not held up: {other:?}");
    let count = |want: fn(&Arrival) -> bool| {
        [&first, &second].into_iter().filter(|reply| matches!(reply, Some(Reply::Arrival(a)) if want(a))).count()
    };
    assert_eq!(count(|arrival| matches!(arrival, Arrival::Answered(_))), 1, "{first:?} {second:?}");
    assert_eq!(count(|arrival| matches!(arrival, Arrival::Busy | Arrival::Stale { .. })), 1, "{first:?} {second:?}");
    assert_eq!(here.waiting(), [4, 0]);
}

#[test]
fn what_cannot_be_taken_is_kept_with_its_reason() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    let stranger = Job { tenant: TenantId(2), ..job(0, 2) };
    let other_hop = job_frame::encode_parcel_job(&job(0, 4), 7, &[Carried::default(); 2]);
    let without_progress = job_frame::encode_parcel_job(&job(0, 5), 1, &[]);
    let octets = |job: &Job| Some(job_frame::encode_parcel_job(job, 1, &[Carried::default(); 2]));
    let parcel = pack_octets(
        "there",
        1,
        &[
            (job(0, 1).id, 1, octets(&job(0, 1))),
            (stranger.id, 1, octets(&stranger)),
            (job(0, 3).id, 1, Some(b"no job at all".to_vec())),
            (job(0, 4).id, 1, Some(other_hop)),
            (job(0, 5).id, 1, Some(without_progress)),
            (job(0, 6).id, 1, octets(&job(0, 7))),
            (job(0, 8).id, 1, None),
        ],
    );
    let unreadable = Fate::Kept(KeptReason::Unreadable);
    let fates = [
        TAKEN,
        Fate::Kept(KeptReason::Unknown),
        unreadable,
        unreadable,
        unreadable,
        unreadable,
        Fate::Kept(KeptReason::NotSent),
    ];
    assert_eq!(here.fates(&parcel), fates);
    assert_eq!(here.waiting(), [2, 0]);
    here.mesh.broadcast(|| Letter::Drain);
    here.pass(0);
    let draining = here.take(&pack("there", 2, &[job(0, 9)]));
    let is_refused = match &draining {
        Arrival::Answered(answer) => {
            pack("there", 2, &[job(0, 9)]).sent.fates(2, answer) == Ok(vec![Fate::Kept(KeptReason::Leaving)])
        }
        other => matches!(other, Arrival::Refused(_)),
    };
    assert!(is_refused, "{draining:?}");
}

#[test]
fn an_older_copy_on_its_way_out_keeps_a_newer_one_from_coming_in() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    assert_eq!(here.fates(&pack("there", 1, &[job(0, 1)])), [TAKEN]);
    let back = Job { hop: 3, ..job(0, 1) };
    let arrival = here.take(&pack("elsewhere", 1, &[back]));
    assert!(matches!(arrival, Arrival::Refused(_)), "neither taken nor kept: {arrival:?}");
    assert_eq!(here.waiting(), [2, 0]);
}

#[test]
fn a_job_is_bound_before_it_leaves_and_to_that_host_alone() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    assert_eq!(here.fates(&pack("there", 1, &[job(0, 1)])), [TAKEN]);
    here.tell(true, &["b"]);
    let (departure, first) = here.departure();
    assert_eq!((departure.to.as_str(), first.giver.as_str(), first.is_leaving), ("b", "here", true));
    let [sent] = &first.jobs[..] else { panic!("one job") };
    assert_eq!((sent.message, sent.hop), (job(0, 1).id, 2));
    let read = job_frame::decode(&sent.octets).expect("a job");
    assert_eq!(read.job, Job { hop: 2, ..job(0, 1) }, "all of it");
    // It has left, and the host crashes before it hears what became of it.
    drop(departure);
    let here = here.crash().recovered();
    let refused = here.ask(0, Question::Command(Command::Cancel(job(0, 1).id)));
    assert!(matches!(refused, Reply::BeingMoved(_)), "whose it is is not known: {refused:?}");
    here.tell(true, &["a", "b", "c"]);
    let (departure, again) = here.departure();
    assert_eq!((departure.to.as_str(), again.jobs[0].message), ("b", job(0, 1).id));
    assert!(again.turn > first.turn);
    departure.answer.try_send(Arrival::Answered(encode_answer(again.turn, &[TAKEN]))).expect("somebody waits");
    here.pass(2);
    assert_eq!(here.waiting(), [0, 0]);
    assert_eq!(here.crash().recovered().waiting(), [0, 0], "that it was given is durable");
}

#[test]
fn without_an_answer_the_same_is_offered_again() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    assert_eq!(here.fates(&pack("there", 1, &[job(0, 1), job(0, 2)])), [TAKEN; 2]);
    here.tell(true, &["b"]);
    let (departure, first) = here.departure();
    departure.answer.try_send(Arrival::Busy).expect("somebody waits");
    let (departure, second) = here.departure();
    assert_eq!(names(&second), names(&first));
    let turn = second.turn + 1_000;
    departure.answer.try_send(Arrival::Stale { turn }).expect("somebody waits");
    let (departure, third) = here.departure();
    assert!(third.turn > turn, "{} {turn}", third.turn);
    // To another parcel.
    let answer = encode_answer(second.turn, &[TAKEN; 2]);
    departure.answer.try_send(Arrival::Answered(answer)).expect("somebody waits");
    let (departure, fourth) = here.departure();
    assert_eq!(names(&fourth), names(&first));
    drop(departure);
    let (departure, _) = here.departure();
    // Nobody carries it: the next is made when its time is over.
    let (late, fifth) = here.departure();
    assert!(departure.answer.is_closed());
    let kept = [Fate::Kept(KeptReason::NoRoom), TAKEN];
    late.answer.try_send(Arrival::Answered(encode_answer(fifth.turn, &kept))).expect("somebody waits");
    here.pass(1);
    assert_eq!(here.waiting(), [2, 0], "one was taken, one waits here again");
}

#[test]
fn the_admin_listener_takes_parcels_and_bounds_what_it_takes() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    let post = |path: &str, fields: &str, body: &[u8]| here.admin(&format!("POST {path}"), fields, body);
    let sized = |path: &str, body: &[u8]| post(path, &format!("Content-Length: {}\r\n", body.len()), body);
    let large = Job {
        content: Content::Mime { header: "Subject: x\r\n\r\n".into(), body: vec![b'x'; 3 << 20].into() },
        ..job(1, 2)
    };
    let parcel = pack("there", 7, &[job(0, 1), large]);
    let (head, answer) = sized("/transfers", &parcel.octets);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(parcel.sent.fates(7, &answer), Ok(vec![TAKEN; 2]));
    assert_eq!(here.waiting(), [2, 2]);
    let (head, _) = sized("/transfers", &parcel.octets);
    assert!(head.starts_with("HTTP/1.1 409 ") && head.contains("\r\nx-turn: 7\r\n"), "{head}");
    let (head, body) = sized("/transfers", b"no parcel");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("cannot be read"), "{body:?}");
    let (head, _) = post("/transfers", "Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 411 "), "{head}");
    let too_long = format!("Content-Length: {}\r\n", TRANSFER_BYTES_MAX + 1);
    let (head, _) = post("/transfers", &too_long, b"");
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    let (head, _) = post("/queue/retry", "Content-Length: 65537\r\n", b"");
    assert!(head.starts_with("HTTP/1.1 413 "), "no other body is so long: {head}");
    let (head, _) = sized("/queue/retry", b"{}");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[test]
fn nobody_but_the_fleet_gives_mail() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    // Refused by its head: the body is still to come.
    let head = "POST /transfers HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    let (head, _) = here.admin_raw(head.into());
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    let node = here.node;
    sim.crash(node);
    let alone = Host::start_with(&sim, node, AdminAccess::Anyone).recovered();
    let (head, _) = alone.admin("POST /transfers", "Content-Length: 100000\r\n", b"");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let (head, _) = alone.admin("GET /queue", "", b"");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[test]
fn a_job_is_found_and_cancelled_whatever_shard_its_id_names() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    let id = job(7, 1).id;
    assert_eq!(here.fates(&pack("there", 1, &[job(7, 1)])), [TAKEN]);
    let request = |line: String| here.admin(&line, "Content-Length: 0\r\n", b"");
    let (head, _) = request(format!("GET /messages/{id}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (head, body) = request(format!("POST /jobs/{id}/cancel"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, br#"{"recipients":2}"#);
    let (head, _) = request(format!("GET /messages/{id}"));
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

#[test]
fn a_command_for_a_job_that_is_on_its_way_is_told_so() {
    let sim = world();
    let here = Host::add(&sim).recovered();
    assert_eq!(here.fates(&pack("there", 1, &[job(0, 1)])), [TAKEN]);
    here.tell(true, &["b"]);
    let (_departure, _) = here.departure();
    let id = job(0, 1).id;
    let (head, body) = here.admin(&format!("POST /jobs/{id}/cancel"), "Content-Length: 0\r\n", b"");
    assert!(head.starts_with("HTTP/1.1 409 "), "{head}");
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("being_moved") && body.contains("host b"), "{body}");
}
