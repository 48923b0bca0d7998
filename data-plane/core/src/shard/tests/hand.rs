//! What must not be sent any more, though another shard has the work already.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// The home shard of the mail, and the shard that owns the source, with what is on its way between them.
struct Pair {
    home: World,
    owner: World,
    to_owner: VecDeque<Input>,
    to_home: VecDeque<Input>,
}

impl Pair {
    fn new() -> Self {
        let of = |shard| World::new(&["192.0.2.9"], shard, 2);
        Self { home: of(1), owner: of(0), to_owner: VecDeque::new(), to_home: VecDeque::new() }
    }

    /// Puts what the shards have for each other on its way.
    fn post(&mut self) {
        while let Some(input) = self.home.take(|output| match output {
            Output::Hand { work, .. } => Some(Input::Hand(work.clone())),
            Output::Recall(message) => Some(Input::Recall(*message)),
            _ => None,
        }) {
            self.to_owner.push_back(input);
        }
        while let Some(back) = self.owner.take(|output| match output {
            Output::HandBack { back, .. } => Some(back.clone()),
            _ => None,
        }) {
            self.to_home.push_back(Input::HandBack(back));
        }
        self.home.load();
    }

    fn deliver(&mut self) {
        self.post();
        while !self.to_owner.is_empty() || !self.to_home.is_empty() {
            self.deliver_to_owner();
            self.deliver_to_home();
        }
    }

    fn deliver_to_owner(&mut self) {
        self.post();
        if let Some(input) = self.to_owner.pop_front() {
            self.owner.input(input);
            self.owner.resolve();
        }
        self.post();
    }

    fn deliver_to_home(&mut self) {
        self.post();
        if let Some(input) = self.to_home.pop_front() {
            self.home.input(input);
        }
        self.post();
    }

    fn publish(&mut self, change: impl Fn(&mut SnapshotContent)) {
        self.home.publish(&change);
        self.owner.publish(&change);
    }

    fn pass(&mut self, time: Duration) {
        self.home.pass(time);
        self.owner.pass(time);
    }

    /// A mail that waits at the owner for its session to be ready.
    fn waiting(recipients: &[&str]) -> (Self, Arc<Job>, u32) {
        let mut pair = Self::new();
        let job = pair.home.accept(recipients);
        pair.deliver();
        let session = pair.owner.opened()[0];
        (pair, job, session)
    }
}

impl World {
    /// Reads what is asked for from the spool.
    fn load(&mut self) {
        while let Some((attempt, at)) = self.take(|output| match output {
            Output::Load { attempt, at } => Some((*attempt, *at)),
            _ => None,
        }) {
            let job = self.spool[&at.offset].clone();
            self.input(Input::Loaded { attempt, result: Ok(job) });
        }
    }
}

fn suppression(address: &str) -> Suppression {
    Suppression { tenant: TenantId(1), address: address.to_owned() }
}

fn suspension() -> Suspension {
    Suspension { id: SuspensionId(1), target: SuspensionTarget::Tenant(TenantId(1)), reason: String::new() }
}

#[test]
fn work_of_which_a_recipient_is_suppressed_meanwhile_goes_home_and_the_rest_is_sent() {
    let (mut pair, _, session) = Pair::waiting(&["a@one.test", "b@one.test"]);
    pair.publish(|content| content.suppressions.push(suppression("a@one.test")));
    pair.owner.ready(session);
    assert!(pair.owner.transact().is_none());
    pair.deliver();
    assert_eq!(pair.owner.shard.counters().attempts, 0);
    pair.pass(Duration::from_millis(200));
    pair.deliver();
    let (_, transact) = pair.owner.transact().expect("the rest goes on the session that is there");
    assert_eq!(transact.recipients.as_slice(), [RecipientIndex(1)]);
    assert_eq!(pair.home.events(), [EventKind::Accepted, EventKind::Accepted, EventKind::Suppressed]);
}

#[test]
fn work_whose_tenant_is_suspended_meanwhile_waits_at_home_and_goes_when_it_is_resumed() {
    let (mut pair, _, session) = Pair::waiting(&["a@one.test"]);
    pair.publish(|content| content.suspensions.push(suspension()));
    pair.owner.ready(session);
    assert!(pair.owner.transact().is_none());
    pair.deliver();
    pair.pass(Duration::from_secs(3_600));
    pair.deliver();
    assert_eq!(pair.home.shard.queue_view(pair.home.now).domains[0].reasons, [("tenant_suspended", 1)].into());
    // Work that comes to a shard which knows of the suspension goes back likewise.
    pair.home.publish(|content| content.suspensions.clear());
    pair.deliver();
    assert!(pair.owner.transact().is_none());
    pair.owner.publish(|content| content.suspensions.clear());
    pair.pass(Duration::from_secs(1));
    pair.deliver();
    pair.owner.opened().into_iter().for_each(|session| pair.owner.ready(session));
    assert!(pair.owner.transact().is_some());
}

#[test]
fn work_of_a_job_that_the_operator_ends_meanwhile_is_recalled_and_not_sent() {
    for is_queued in [true, false] {
        let (mut pair, job, session) = Pair::waiting(&["a@one.test"]);
        let cancel = Command::Cancel(job.id);
        assert_eq!(pair.home.shard.command(pair.home.now, &cancel), Ok(1));
        pair.home.input(Input::Timeout);
        if is_queued {
            pair.deliver();
            pair.owner.ready(session);
            assert!(pair.owner.transact().is_none());
            pair.deliver();
            assert_eq!(pair.home.events(), [EventKind::Accepted, EventKind::Cancelled]);
        } else {
            // It had begun: what comes of it is told.
            pair.owner.ready(session);
            let (session, transact) = pair.owner.transact().expect("nothing has come of the recall yet");
            pair.deliver();
            pair.owner.outcome(session, &transact, DELIVERED, 250);
            pair.deliver();
            assert_eq!(pair.home.events(), [EventKind::Accepted, EventKind::Delivered]);
        }
        assert!(pair.home.shard.jobs.is_empty() && pair.owner.shard.works.is_empty());
    }
}

#[test]
fn a_job_that_ends_while_it_is_read_for_another_shard_is_not_handed_over() {
    let mut pair = Pair::new();
    let job = pair.home.accept(&["a@one.test"]);
    pair.deliver();
    let result = |group| HandBack {
        group,
        result: HandResult::Wait { reason: WaitReason::SiteBackoff, nanos: 1_000_000_000, revision: Revision(1) },
    };
    let group = pair.owner.shard.works.iter().next().expect("handed").1.group;
    pair.home.input(Input::HandBack(Box::new(result(group))));
    pair.home.pass(Duration::from_secs(1));
    let load = pair.home.take(|output| match output {
        Output::Load { attempt, .. } => Some(*attempt),
        _ => None,
    });
    assert_eq!(pair.home.shard.command(pair.home.now, &Command::Cancel(job.id)), Ok(1));
    pair.home.input(Input::Loaded { attempt: load.expect("it is read"), result: Ok(job) });
    assert!(!pair.home.outputs.iter().any(|output| matches!(output, Output::Hand { .. })));
    assert_eq!(pair.home.events(), [EventKind::Accepted, EventKind::Cancelled]);
    assert!(pair.home.shard.is_quiet());
}

/// A step of what may come in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Accept,
    /// The first shard that hears of a change, and the other, which may hear of it later.
    Suppress(u8),
    Suspend(bool),
    Hear,
    Cancel(u8),
    ToOwner,
    ToHome,
    Ready,
    Answer(bool),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Accept),
        1 => (0..4_u8).prop_map(Step::Suppress),
        1 => any::<bool>().prop_map(Step::Suspend),
        3 => Just(Step::Hear),
        1 => (0..8_u8).prop_map(Step::Cancel),
        4 => Just(Step::ToOwner),
        4 => Just(Step::ToHome),
        4 => Just(Step::Ready),
        4 => any::<bool>().prop_map(Step::Answer),
        2 => Just(Step::Pass),
    ]
}

/// A run of steps, and what must hold in it: nothing begins that the shard which sends it knows to be stopped.
struct Run {
    pair: Pair,
    /// Of which only one shard has heard, and which that is.
    behind: Option<bool>,
    sessions: Vec<u32>,
    under_way: Vec<(u32, Transact)>,
    jobs: Vec<MessageId>,
    recalled: BTreeSet<MessageId>,
    settled: usize,
    accepted: usize,
}

impl Run {
    fn new() -> Self {
        Self {
            pair: Pair::new(),
            behind: None,
            sessions: Vec::new(),
            under_way: Vec::new(),
            jobs: Vec::new(),
            recalled: BTreeSet::new(),
            settled: 0,
            accepted: 0,
        }
    }

    /// Changes the configuration at one shard; the other hears of it later.
    fn change(&mut self, change: impl Fn(&mut SnapshotContent)) {
        self.hear();
        let is_home_first = self.jobs.len().is_multiple_of(2);
        let (first, second) = match is_home_first {
            true => (&mut self.pair.home, &mut self.pair.owner),
            false => (&mut self.pair.owner, &mut self.pair.home),
        };
        first.publish(change);
        second.content = first.content.clone();
        self.behind = Some(!is_home_first);
    }

    fn hear(&mut self) {
        if let Some(is_home) = self.behind.take() {
            let world = if is_home { &mut self.pair.home } else { &mut self.pair.owner };
            let snapshot = Snapshot::new(world.content.clone()).unwrap();
            world.input(Input::Snapshot(Arc::new(snapshot)));
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Accept => {
                let job = self.pair.home.accept(&["a0@one.test", "a1@one.test", "a2@one.test", "a3@one.test"]);
                self.jobs.push(job.id);
                self.accepted += job.recipients.len();
            }
            Step::Suppress(number) => self.change(|content| {
                let one = suppression(&format!("a{number}@one.test"));
                if !content.suppressions.contains(&one) {
                    content.suppressions.push(one);
                }
            }),
            Step::Suspend(is_on) => {
                self.change(|content| content.suspensions = is_on.then(suspension).into_iter().collect());
            }
            Step::Hear => self.hear(),
            Step::Cancel(number) => {
                if let Some(job) = self.jobs.get(usize::from(number)).copied() {
                    self.pair.home.shard.command(self.pair.home.now, &Command::Cancel(job)).unwrap();
                    self.pair.home.input(Input::Timeout);
                }
            }
            Step::ToOwner => {
                self.pair.post();
                if let Some(Input::Recall(message)) = self.pair.to_owner.front() {
                    self.recalled.insert(*message);
                }
                self.pair.deliver_to_owner();
            }
            Step::ToHome => self.pair.deliver_to_home(),
            Step::Ready => {
                self.sessions.extend(self.pair.owner.opened());
                if let Some(session) = self.sessions.pop() {
                    self.pair.owner.ready(session);
                }
            }
            Step::Answer(is_good) => {
                if let Some((session, transact)) = self.under_way.pop() {
                    let (verdict, code) = if is_good { (DELIVERED, 250) } else { (Verdict::Transient, 451) };
                    self.pair.owner.outcome(session, &transact, verdict, code);
                    self.sessions.push(session);
                }
            }
            Step::Pass => self.pair.pass(Duration::from_millis(150)),
        }
        self.look();
    }

    fn look(&mut self) {
        self.pair.post();
        while let Some(session) = self.pair.owner.take(|output| match output {
            Output::Quit { session } => Some(*session),
            _ => None,
        }) {
            self.sessions.retain(|other| *other != session);
            self.pair.owner.input(Input::Ended { session, end: SessionEnd::Done });
        }
        while let Some((session, transact)) = self.pair.owner.transact() {
            let known = self.pair.owner.shard.snapshot();
            assert!(known.suspensions.is_empty(), "the tenant is suspended");
            assert!(!self.recalled.contains(&transact.job.id), "the operator has ended the job");
            for index in &transact.recipients {
                let address = &transact.job.recipients[usize::from(index.0)].address;
                assert!(!known.is_suppressed(TenantId(1), || address.normalized()), "{address} is suppressed");
            }
            self.under_way.push((session, transact));
        }
        let events = self.pair.home.events();
        self.settled += events.iter().filter(|kind| kind.settles()).count();
    }

    /// All hear of everything, the tenant is resumed, and every attempt is good.
    fn end(mut self) {
        self.take(Step::Suspend(false));
        self.hear();
        for _ in 0..200 {
            for step in [Step::ToOwner, Step::ToHome, Step::Ready, Step::Answer(true)] {
                (0..8).for_each(|_| self.take(step));
            }
            self.pair.pass(Duration::from_secs(10));
        }
        assert_eq!(self.settled, self.accepted, "each recipient settles once");
        assert!(self.pair.home.shard.jobs.is_empty() && self.pair.owner.shard.works.is_empty());
    }
}

proptest! {
    #[test]
    fn nothing_begins_that_the_shard_which_sends_it_knows_to_be_stopped_and_all_settles(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.take(step));
        run.end();
    }
}
