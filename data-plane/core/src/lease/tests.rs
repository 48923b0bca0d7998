//! One machine against a store that is a few lines, and against a clock that is a number.

use postrail_schema::allocation::{Carrier, HeldUntil, HostState, Standing, Tenure};

use super::*;

const OWN: u64 = 77;
const BOOT: &str = "b1";

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn grant(last: u8, epoch: u64) -> Grant {
    Grant {
        address: address(last),
        epoch,
        tenure: Tenure::Leased,
        standing: Standing::Held,
        next: None,
        carrier: Carrier::HostChoice,
    }
}

fn record(incarnation: u64, state: HostState, lease: u64) -> HostRecord {
    HostRecord {
        incarnation,
        sequence: 1,
        lease_ms: lease * 1_000,
        state,
        released: Vec::new(),
        announcement: Announcement::default(),
        held: None,
    }
}

/// A store with one host in it, an interface that obeys at once, and a machine.
struct Scene {
    lease: Lease,
    revision: u64,
    record: Option<(u64, HostRecord)>,
    grants: Vec<Grant>,
    /// Whether the store answers.
    answers: bool,
    /// All outputs that are not about the store.
    told: Vec<Output>,
    on: Vec<IpAddr>,
}

impl Scene {
    fn new(record: Option<HostRecord>, grants: Vec<Grant>) -> Self {
        Self::with(record, grants, Vec::new())
    }

    fn with(record: Option<HostRecord>, grants: Vec<Grant>, remembered: Vec<Grant>) -> Self {
        let settings = Settings { boot: BOOT.to_owned(), ..Settings::new(OWN, Announcement::default()) };
        let lease = Lease::new(at(0.0), settings, remembered);
        let record = record.map(|record| (5, record));
        // Who has no record yet has no grants.
        let (grants, later) = if record.is_some() { (grants, None) } else { (Vec::new(), Some(grants)) };
        let mut scene = Self { lease, revision: 5, record, grants, answers: true, told: vec![], on: vec![] };
        scene.pump(at(0.0));
        if let Some(grants) = later {
            scene.grant(at(0.0), grants);
        }
        scene
    }

    /// The store is as it was then: with those grants, and with what the host had written, as far as `record` says.
    fn restore(&mut self, revision: u64, record: Option<(u64, HostRecord)>, grants: Vec<Grant>) {
        (self.revision, self.record, self.grants) = (revision, record, grants);
    }

    fn view(&self) -> View {
        View { revision: self.revision, record: self.record.clone(), grants: self.grants.clone() }
    }

    /// Does what the machine asks for, at once.
    fn pump(&mut self, now: Duration) {
        while let Some(output) = self.lease.poll() {
            let answer = match &output {
                Output::Read | Output::Write { .. } if !self.answers => Input::Failed,
                Output::Read => Input::Found(self.view()),
                Output::Write { guard, .. } if self.record.as_ref().map_or(0, |(by, _)| *by) != *guard => {
                    Input::Refused
                }
                Output::Write { record, .. } => {
                    self.revision += 1;
                    self.record = Some((self.revision, record.clone()));
                    Input::Written { revision: self.revision, view: self.view() }
                }
                Output::PutOn { address, .. } => {
                    self.on.push(*address);
                    Input::Up { address: *address }
                }
                Output::TakeOff { address, .. } => {
                    self.on.retain(|other| other != address);
                    Input::Down { address: *address }
                }
                _ => {
                    self.told.push(output);
                    continue;
                }
            };
            self.told.push(output);
            self.lease.handle(now, answer);
        }
    }

    fn tell(&mut self, now: Duration, input: Input) {
        self.lease.handle(now, input);
        self.pump(now);
    }

    /// Lets time pass from one deadline to the next.
    fn pass(&mut self, from: Duration, to: Duration) {
        let mut now = from;
        while let Some(next) = self.lease.deadline(now).filter(|next| *next <= to) {
            now = next.max(now);
            self.tell(now, Input::Timeout);
        }
        self.tell(to, Input::Timeout);
    }

    fn uses(&self, last: u8, now: Duration) -> bool {
        self.lease.held().may_use(address(last), now)
    }

    fn grant(&mut self, now: Duration, grants: Vec<Grant>) {
        self.revision += 1;
        self.grants = grants;
        self.tell(now, Input::Look);
    }
}

#[test]
fn a_host_without_a_past_uses_its_addresses_at_once() {
    let scene = Scene::new(None, vec![grant(1, 1)]);
    assert_eq!(scene.lease.state(at(0.0)), StateName::Live);
    assert!(scene.uses(1, at(0.0)) && !scene.uses(2, at(0.0)));
}

#[test]
fn what_a_host_has_by_its_own_configuration_is_said_with_each_keepalive() {
    let mut scene = Scene::new(None, vec![]);
    let said = |scene: &Scene| scene.record.as_ref().unwrap().1.announcement.own.clone();
    assert_eq!(said(&scene), [].into());
    for own in [BTreeSet::from([address(7), address(8)]), [address(8)].into()] {
        let now = at(scene.revision as f64 * 3.0);
        scene.tell(now, Input::Own(own.clone()));
        scene.pass(now, now + at(2.0));
        assert_eq!(said(&scene), own);
    }
}

#[test]
fn holding_is_counted_from_when_the_keepalive_was_sent() {
    let mut scene = Scene::new(None, vec![grant(1, 1)]);
    scene.answers = false;
    assert!(scene.uses(1, at(7.4)), "lease of 10 s less a margin of 2.5 s");
    assert!(!scene.uses(1, at(7.5)));
    scene.pass(at(0.0), at(9.0));
    assert!(scene.on.is_empty(), "it is off the interface");
    scene.answers = true;
    scene.pass(at(9.0), at(9.5));
    assert_eq!(
        scene.lease.state(at(9.5)),
        StateName::Waiting,
        "what others were given meanwhile may have been lost since"
    );
    scene.pass(at(9.5), at(19.4));
    assert!(!scene.uses(1, at(19.4)));
    scene.pass(at(19.4), at(19.6));
    assert!(scene.uses(1, at(19.6)), "nobody else was given it meanwhile");
}

/// What a machine writes next, with the condition that it says.
fn written(lease: &mut Lease) -> (u64, HostRecord) {
    let outputs = std::iter::from_fn(|| lease.poll());
    outputs
        .filter_map(|output| if let Output::Write { guard, record } = output { Some((guard, record)) } else { None })
        .last()
        .unwrap()
}

#[test]
fn an_answer_that_comes_late_does_not_lengthen_the_holding() {
    let mut lease = Lease::new(at(0.0), Settings::new(OWN, Announcement::default()), Vec::new());
    assert_eq!(lease.poll(), Some(Output::Read));
    lease.handle(at(1.0), Input::Found(View { revision: 1, ..View::default() }));
    let (guard, record) = written(&mut lease);
    assert_eq!(guard, 0);
    let view =
        |revision, record: HostRecord| View { revision, record: Some((revision, record)), grants: vec![grant(1, 1)] };
    lease.handle(at(4.0), Input::Written { revision: 2, view: View { grants: Vec::new(), ..view(2, record) } });
    assert_eq!(lease.held().until, at(8.5));
    lease.handle(at(4.0), Input::Timeout);
    let (guard, record) = written(&mut lease);
    assert_eq!(guard, 2);
    lease.handle(at(6.0), Input::Written { revision: 3, view: view(3, record) });
    lease.handle(at(6.0), Input::Up { address: address(1) });
    assert_eq!(lease.held().until, at(11.5), "it is counted from when it was sent");
    assert!(lease.held().may_use(address(1), at(6.0)));
}

#[test]
fn a_predecessor_that_died_is_waited_out() {
    let mut scene = Scene::new(Some(record(1, HostState::Live, 20)), vec![grant(1, 1)]);
    scene.pass(at(0.0), at(7.9));
    assert_eq!(scene.lease.state(at(7.9)), StateName::Watching, "two keepalives of it could still come");
    scene.pass(at(7.9), at(8.1));
    let (_, written) = scene.record.clone().unwrap();
    assert_eq!((written.incarnation, written.state, written.lease_ms), (OWN, HostState::Joining, 20_000));
    scene.pass(at(8.1), at(27.9));
    assert!(!scene.uses(1, at(27.9)));
    scene.pass(at(27.9), at(28.0));
    assert!(scene.uses(1, at(28.0)));
    scene.pass(at(28.0), at(31.0));
    assert_eq!(scene.record.unwrap().1.lease_ms, 10_000);
}

#[test]
fn a_predecessor_that_ended_in_order_a_moment_ago_is_not_waited_for() {
    let held = |boot: &str, until_ms| Some(HeldUntil { boot: boot.to_owned(), until_ms });
    // Longer ago its addresses may have been given to others, and that have been lost with an earlier state of the store.
    for (held, is_spared) in [(held(BOOT, 1), true), (held(BOOT, 0), false), (held("b0", 9_999), false), (None, false)]
    {
        let stopped = HostRecord { held: held.clone(), ..record(1, HostState::Stopped, 20) };
        let mut scene = Scene::new(Some(stopped), vec![grant(1, 1)]);
        assert_eq!(scene.uses(1, at(0.0)), is_spared, "{held:?}");
        scene.pass(at(0.0), at(20.0));
        assert!(scene.uses(1, at(20.0)), "{held:?}");
    }
}

#[test]
fn a_name_that_is_alive_is_left_alone() {
    let fixed = Grant { tenure: Tenure::Fixed, ..grant(2, 1) };
    let mut scene = Scene::new(Some(record(1, HostState::Live, 10)), vec![grant(1, 1), fixed]);
    for second in [2.0, 4.0, 6.0, 8.0] {
        scene.revision += 1;
        scene.record = Some((scene.revision, record(1, HostState::Live, 10)));
        scene.pass(at(second), at(second + 2.0));
    }
    assert!(scene.told.contains(&Output::NameInUse { incarnation: 1 }));
    let acts = |output: &Output| matches!(output, Output::Write { .. } | Output::PutOn { .. });
    assert!(!scene.told.iter().any(acts), "what is fixed to the name is the other's too: {:?}", scene.told);
    assert!(!scene.uses(1, at(10.0)) && !scene.uses(2, at(10.0)));
}

#[test]
fn a_host_whose_name_was_taken_uses_nothing_any_more() {
    let mut scene = Scene::new(None, vec![grant(1, 1)]);
    scene.revision += 1;
    scene.record = Some((scene.revision, record(2, HostState::Joining, 10)));
    scene.pass(at(0.0), at(2.5));
    assert!(scene.told.contains(&Output::Ousted { incarnation: 2 }));
    assert!(!scene.uses(1, at(2.5)) && scene.on.is_empty());
    assert_eq!(scene.lease.deadline(at(2.5)), None);
}

#[test]
fn what_is_asked_back_ends_what_is_in_flight_and_is_then_released_at_once() {
    let mut scene = Scene::new(None, vec![grant(1, 1), grant(2, 2)]);
    scene.grant(at(1.0), vec![Grant { standing: Standing::Releasing, ..grant(1, 1) }, grant(2, 2)]);
    assert!(!scene.uses(1, at(1.0)) && scene.uses(2, at(1.0)));
    assert!(scene.told.contains(&Output::End { address: address(1), epoch: 1 }));
    assert!(scene.on.contains(&address(1)), "what is in flight needs it");
    scene.tell(at(1.5), Input::Ended { address: address(1), epoch: 9 });
    assert!(scene.on.contains(&address(1)), "another epoch's end is not this one's");
    scene.tell(at(1.6), Input::Ended { address: address(1), epoch: 1 });
    assert_eq!(scene.on, [address(2)]);
    assert_eq!(scene.record.as_ref().unwrap().1.released, [(address(1), 1)]);
    scene.grant(at(1.7), vec![grant(2, 2)]);
    assert_eq!(scene.record.unwrap().1.released, []);
}

#[test]
fn what_does_not_end_is_cut_when_patience_ends() {
    let mut scene = Scene::new(None, vec![grant(1, 1)]);
    scene.grant(at(1.0), vec![Grant { standing: Standing::Releasing, ..grant(1, 1) }]);
    scene.pass(at(1.0), at(60.9));
    assert_eq!(scene.on, [address(1)]);
    scene.pass(at(60.9), at(61.0));
    assert!(scene.on.is_empty());
    assert_eq!(scene.record.unwrap().1.released, [(address(1), 1)]);
}

#[test]
fn what_was_given_up_comes_back_only_under_a_new_epoch() {
    let mut scene = Scene::new(None, vec![grant(1, 1)]);
    scene.grant(at(1.0), vec![Grant { standing: Standing::Releasing, ..grant(1, 1) }]);
    scene.grant(at(1.1), vec![grant(1, 1)]);
    assert!(!scene.uses(1, at(1.1)));
    scene.grant(at(1.2), vec![grant(1, 2)]);
    assert!(scene.uses(1, at(1.2)));
}

#[test]
fn what_was_taken_away_goes_off_at_once() {
    let mut scene = Scene::new(None, vec![grant(1, 1), grant(2, 2)]);
    scene.grant(at(1.0), vec![grant(2, 2)]);
    assert!(!scene.uses(1, at(1.0)));
    assert_eq!(scene.on, [address(2)]);
}

#[test]
fn a_fixed_address_is_used_without_keepalives_and_over_a_restart() {
    let fixed = Grant { tenure: Tenure::Fixed, ..grant(1, 1) };
    let mut scene = Scene::new(None, vec![fixed.clone(), grant(2, 2)]);
    assert!(scene.told.contains(&Output::Remember(vec![fixed.clone()])));
    scene.answers = false;
    scene.pass(at(0.0), at(100.0));
    assert!(scene.uses(1, at(100.0)) && !scene.uses(2, at(100.0)));
    let mut lease = Lease::new(at(0.0), Settings::new(OWN, Announcement::default()), vec![fixed]);
    assert_eq!(lease.poll(), Some(Output::PutOn { address: address(1), carrier: Carrier::HostChoice, until: None }));
    lease.handle(at(0.1), Input::Up { address: address(1) });
    assert!(lease.held().may_use(address(1), at(0.1)), "before the store has said anything");
}

#[test]
fn a_fixed_address_that_is_asked_back_is_forgotten_before_it_is_released() {
    let fixed = Grant { tenure: Tenure::Fixed, ..grant(1, 1) };
    let mut scene = Scene::new(None, vec![fixed.clone()]);
    scene.told.clear();
    scene.grant(at(1.0), vec![Grant { standing: Standing::Releasing, ..fixed }]);
    scene.tell(at(1.1), Input::Ended { address: address(1), epoch: 1 });
    let position = |wanted: fn(&Output) -> bool| scene.told.iter().position(wanted).unwrap();
    let forgotten = position(|output| *output == Output::Remember(Vec::new()));
    let released = position(|output| matches!(output, Output::Write { record, .. } if !record.released.is_empty()));
    assert!(forgotten < released);
}

#[test]
fn a_host_that_stops_ends_what_is_in_flight_and_then_says_so() {
    let mut scene = Scene::new(None, vec![grant(1, 1), grant(2, 2)]);
    scene.tell(at(1.0), Input::Stop);
    assert!(!scene.uses(1, at(1.0)));
    for (last, epoch) in [(1, 1), (2, 2)] {
        assert_ne!(scene.record.as_ref().unwrap().1.state, HostState::Stopped);
        scene.tell(at(1.5), Input::Ended { address: address(last), epoch });
    }
    let (_, last) = scene.record.clone().unwrap();
    assert_eq!(
        (last.state, last.held),
        (HostState::Stopped, Some(HeldUntil { boot: BOOT.to_owned(), until_ms: 8_500 }))
    );
    assert_eq!(scene.told.last(), Some(&Output::Stopped));
}

#[test]
fn a_host_that_waits_for_its_predecessor_does_not_speak_for_it_when_it_stops() {
    let mut scene = Scene::new(Some(record(1, HostState::Live, 10)), vec![grant(1, 1)]);
    scene.pass(at(0.0), at(5.0));
    assert_eq!(scene.lease.state(at(5.0)), StateName::Waiting);
    scene.tell(at(5.0), Input::Stop);
    assert_eq!(scene.told.last(), Some(&Output::Stopped));
    assert_eq!(scene.record.unwrap().1.state, HostState::Joining);
}

#[test]
fn a_host_that_waits_for_its_predecessor_releases_nothing_yet() {
    let releasing = Grant { standing: Standing::Releasing, ..grant(1, 1) };
    let mut scene = Scene::new(Some(record(1, HostState::Live, 10)), vec![releasing]);
    scene.pass(at(0.0), at(13.9));
    assert_eq!(scene.record.as_ref().unwrap().1.released, []);
    scene.pass(at(13.9), at(14.0));
    assert_eq!(scene.record.unwrap().1.released, [(address(1), 1)]);
}

#[test]
fn an_interface_that_refuses_is_asked_again_with_the_next_keepalive() {
    let mut lease = Lease::new(at(0.0), Settings::new(OWN, Announcement::default()), Vec::new());
    let view = |revision, record| View { revision, record: Some((revision, record)), grants: vec![grant(1, 1)] };
    lease.handle(at(0.0), Input::Found(View { revision: 1, ..View::default() }));
    let (_, record) = written(&mut lease);
    lease.handle(at(0.0), Input::Written { revision: 2, view: View { grants: Vec::new(), ..view(2, record.clone()) } });
    lease.handle(at(0.0), Input::Look);
    lease.handle(at(0.0), Input::Found(view(2, record)));
    lease.handle(at(0.0), Input::Down { address: address(1) });
    let is_put_on = |output: &Output| matches!(output, Output::PutOn { .. });
    assert_eq!(std::iter::from_fn(|| lease.poll()).filter(is_put_on).count(), 1);
    lease.handle(at(2.0), Input::Timeout);
    let (_, record) = written(&mut lease);
    lease.handle(at(2.0), Input::Written { revision: 3, view: view(3, record) });
    assert_eq!(std::iter::from_fn(|| lease.poll()).filter(is_put_on).count(), 1);
}

/// What is looked at and when, what is there then, and whether the host waits for a lease before it uses it again.
#[test]
fn a_store_that_lost_what_was_written_is_joined_again() {
    type Restore = fn(&mut Scene, (u64, HostRecord));
    let table: [(&str, bool, Restore); 6] = [
        ("nothing was lost", false, |scene, last| scene.restore(scene.revision, Some(last), scene.grants.clone())),
        ("an earlier record of ours is there", true, |scene, (_, last)| {
            scene.restore(6, Some((6, HostRecord { sequence: 1, ..last })), scene.grants.clone());
        }),
        ("so it is, and the store has overtaken what was seen", true, |scene, (_, last)| {
            scene.restore(500, Some((6, HostRecord { sequence: 1, ..last })), scene.grants.clone());
        }),
        ("no record is there", true, |scene, _| scene.restore(1, None, scene.grants.clone())),
        ("our record is there, and the store is older than what was read", true, |scene, last| {
            scene.restore(last.0, Some(last), scene.grants.clone());
        }),
        ("that of the process before is there", true, |scene, _| {
            scene.restore(5, Some((5, record(1, HostState::Stopped, 10))), scene.grants.clone());
        }),
    ];
    for (what, is_lost, restore) in table {
        for is_looked in [true, false] {
            let mut scene = Scene::new(None, vec![grant(1, 1)]);
            scene.pass(at(0.0), at(4.5));
            (0..3).for_each(|_| scene.grant(at(4.5), vec![grant(1, 1)]));
            let last = scene.record.clone().unwrap();
            restore(&mut scene, last);
            if is_looked {
                scene.tell(at(5.0), Input::Look);
            } else {
                scene.pass(at(4.5), at(6.0));
            }
            assert_eq!(!scene.uses(1, at(6.0)), is_lost, "{what}");
            assert_eq!(scene.told.contains(&Output::StoreLost), is_lost, "{what}");
            assert_eq!(scene.on.is_empty(), is_lost, "{what}");
            scene.pass(at(6.0), at(14.9));
            assert_eq!(!scene.uses(1, at(14.9)), is_lost, "{what}");
            scene.pass(at(14.9), at(16.0));
            assert!(scene.uses(1, at(16.0)), "{what}");
            assert_eq!(
                scene.told.iter().filter(|told| **told == Output::StoreLost).count(),
                usize::from(is_lost),
                "{what}"
            );
        }
    }
}

#[test]
fn what_an_earlier_state_of_the_store_says_is_taken_over_whole() {
    let mut scene = Scene::new(None, vec![grant(1, 1), grant(2, 2)]);
    scene.grant(at(1.0), vec![Grant { standing: Standing::Releasing, ..grant(1, 1) }, grant(2, 2)]);
    scene.tell(at(1.5), Input::Ended { address: address(1), epoch: 1 });
    scene.grant(at(1.6), vec![grant(2, 2), grant(3, 3)]);
    assert_eq!(scene.on, [address(2), address(3)]);
    let (_, last) = scene.record.clone().unwrap();
    scene.restore(
        6,
        Some((6, HostRecord { sequence: 1, released: Vec::new(), ..last })),
        vec![grant(1, 1), grant(2, 2)],
    );
    scene.pass(at(1.6), at(3.9));
    assert!(scene.on.is_empty(), "what it lost goes off at once, too");
    scene.pass(at(3.9), at(14.0));
    assert_eq!(
        scene.on,
        [address(1), address(2)],
        "and what it had given up is its own again, under the epoch of then"
    );
}

#[test]
fn a_fixed_address_that_an_earlier_state_of_the_store_gives_is_waited_for_as_well() {
    let fixed = |last, epoch| Grant { tenure: Tenure::Fixed, ..grant(last, epoch) };
    let mut scene = Scene::new(None, vec![fixed(1, 1)]);
    scene.pass(at(0.0), at(5.0));
    let (_, last) = scene.record.clone().unwrap();
    scene.restore(6, Some((6, HostRecord { sequence: 1, ..last })), vec![fixed(1, 1), fixed(2, 2)]);
    scene.told.clear();
    scene.pass(at(5.0), at(15.9));
    assert!(scene.uses(1, at(15.9)) && !scene.uses(2, at(15.9)), "another host may have been given it since");
    assert!(!scene.told.iter().any(|told| matches!(told, Output::Remember(_))));
    scene.pass(at(15.9), at(16.1));
    assert!(scene.uses(2, at(16.1)));
    assert!(scene.told.contains(&Output::Remember(vec![fixed(1, 1), fixed(2, 2)])));
}
