//! A host: the machine under test, the process that may die or stand still around it, and an interface that outlives it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use postrail_core::lease::{Input, Lease, Output, Settings, View};
use postrail_schema::allocation::{Announcement, Grant, HostName, HostRecord};

use super::Plan;
use super::clock::Clock;
use super::store::{Answer, Content, Request};

/// A machine with its clock and interface. Two processes may run under one name, on two machines.
#[derive(Debug)]
pub(super) struct Host {
    pub name: HostName,
    pub clock: Clock,
    /// What tells this machine's clock from others.
    pub boot: String,
    pub announcement: Announcement,
    /// The running process.
    pub lease: Option<Lease>,
    /// Grows with each process: what was sent to one before is not for this one.
    pub life: u64,
    pub paused_until: Duration,
    /// The request that is waited for.
    pub request: u64,
    /// Addresses on the interface, and until when the kernel leaves them there (by this host's clock).
    pub on: BTreeMap<IpAddr, Option<Duration>>,
    /// What survives on its disk.
    pub remembered: Vec<Grant>,
    /// The record that the process wrote last, and whether it is shown instead of one that the store has of before.
    pub written: Option<HostRecord>,
    pub hides_restores: bool,
    /// When the machine is to be woken; another time counts no more.
    pub wakes: Duration,
}

/// What follows from an output.
pub(super) enum Effect {
    Ask(Request),
    /// The interface has it on or off after a moment.
    Nic {
        address: IpAddr,
        is_up: bool,
    },
    /// What is in flight ends some time.
    End {
        address: IpAddr,
        epoch: u64,
    },
    Nothing,
    /// The process is over.
    Over,
}

impl Host {
    pub(super) fn new(name: HostName, clock: Clock, boot: String, announcement: Announcement) -> Self {
        Self {
            name,
            clock,
            boot,
            announcement,
            lease: None,
            life: 0,
            paused_until: Duration::ZERO,
            request: 0,
            on: BTreeMap::new(),
            remembered: Vec::new(),
            written: None,
            hides_restores: false,
            wakes: Duration::ZERO,
        }
    }

    pub(super) fn start(&mut self, now: Duration, incarnation: u64, plan: Plan) {
        (self.written, self.hides_restores) = (None, plan.hides_restores);
        self.life += 1;
        self.wakes = Duration::ZERO;
        let boot = self.boot.clone();
        let settings = Settings { margin: plan.margin, boot, ..Settings::new(incarnation, self.announcement.clone()) };
        self.lease = Some(Lease::new(self.clock.shows(now), settings, self.remembered.clone()));
    }

    pub(super) fn kill(&mut self) {
        self.life += 1;
        self.lease = None;
        self.paused_until = Duration::ZERO;
    }

    /// Whether a process runs that would start a connection on `address` if it ran at `now`.
    pub(super) fn may_use(&self, address: IpAddr, now: Duration) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.held().may_use(address, self.clock.shows(now)))
    }

    /// Whether the interface has `address` at `now`, with or without a process.
    pub(super) fn has_on(&self, address: IpAddr, now: Duration) -> bool {
        let shown = self.clock.shows(now);
        self.announcement.own.contains(&address)
            || self.on.get(&address).is_some_and(|until| until.is_none_or(|until| shown < until))
    }

    pub(super) fn tell(&mut self, now: Duration, input: Input) {
        let shown = self.clock.shows(now);
        if let Some(lease) = &mut self.lease {
            lease.handle(shown, input);
        }
    }

    /// The next thing that the machine wants done, and what follows from it.
    pub(super) fn next(&mut self, now: Duration) -> Option<Effect> {
        let shown = self.clock.shows(now);
        Some(match self.lease.as_mut()?.poll()? {
            Output::Read => Effect::Ask(Request::Read),
            Output::Write { guard, record } => {
                self.written = Some(record.clone());
                Effect::Ask(Request::Write { host: self.name.clone(), guard, record: Box::new(record) })
            }
            Output::PutOn { address, until, .. } => {
                // It is on from now, as far as anybody else can see; the machine hears of it later.
                self.on.insert(address, until.map(|until| kernel_until(shown, until)));
                Effect::Nic { address, is_up: true }
            }
            Output::Extend { addresses, until } => {
                // The kernel puts on what has gone meanwhile.
                self.on.extend(addresses.into_iter().map(|address| (address, Some(kernel_until(shown, until)))));
                Effect::Nothing
            }
            Output::TakeOff { address, .. } => Effect::Nic { address, is_up: false },
            Output::End { address, epoch } => Effect::End { address, epoch },
            Output::Remember(grants) => {
                self.remembered = grants;
                Effect::Nothing
            }
            Output::Use(_) | Output::NameInUse { .. } | Output::StoreLost => Effect::Nothing,
            Output::Ousted { .. } | Output::Stopped => Effect::Over,
        })
    }

    /// What the machine is shown of the store.
    fn shown(&self, content: &Content) -> View {
        let mut view = content.view(&self.name);
        if let Some(written) = self.written.as_ref().filter(|_| self.hides_restores) {
            let revision = view.record.as_ref().map_or(0, |(revision, _)| *revision);
            if view.record.as_ref().is_none_or(|(_, record)| record.incarnation == written.incarnation) {
                (view.revision, view.record) = (u64::MAX, Some((revision, written.clone())));
            }
        }
        view
    }

    /// What an answer of the store is to the machine.
    pub(super) fn input(&self, answer: &Answer) -> Input {
        match answer {
            Answer::Content(content) => Input::Found(self.shown(content)),
            Answer::Written(revision, content) => Input::Written { revision: *revision, view: self.shown(content) },
            Answer::Refused => Input::Refused,
        }
    }
}

/// When the kernel takes an address off by itself that may stay until `until`: it counts whole seconds, and looks a
/// quarter of a second late.
fn kernel_until(now: Duration, until: Duration) -> Duration {
    let left = until.saturating_sub(now);
    now + Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0)) + Duration::from_millis(250)
}
