//! The machine of the module head.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::{Grant, HostRecord, HostState, Standing, Tenure};
use postrail_schema::limits::ADDRESS_KEEPALIVES;

use super::nic::{Entry, Nic};
use super::{Held, Holding, Input, Output, Settings, StateName, View};

/// One host's holdings.
#[derive(Clone, Debug)]
pub struct Lease {
    settings: Settings,
    phase: Phase,
    asked: Asked,
    /// When the store is asked next, if nothing is asked of it at present.
    due: Duration,
    /// The revision of this host's record that was seen last.
    guard: u64,
    /// Whether a write was done is not known: the record is read before it is written again.
    is_unsure: bool,
    /// A record of this process was written.
    is_known: bool,
    sequence: u64,
    /// Until when what is leased is held.
    until: Duration,
    /// Of the last view of the grants.
    revision: u64,
    entries: BTreeMap<IpAddr, Entry>,
    /// The releases that were written last.
    said: Vec<(IpAddr, u64)>,
    remembered: Vec<Grant>,
    using: Held,
    /// That it has stopped was said.
    is_told: bool,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Reading,
    /// Another process's record is there; it is taken over if it does not change.
    Watching {
        incarnation: u64,
        revision: u64,
        seen: Duration,
    },
    /// The name is ours, and leases may be used from `live_at` on; `lease` is that of the process before, until then.
    Owning {
        live_at: Duration,
        lease: Duration,
    },
    /// Everything is being given up; `says_so`: the record may say so in the end.
    Stopping {
        deadline: Duration,
        says_so: bool,
    },
    Stopped,
    Ousted,
}

/// What the store was asked and has not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Asked {
    Nothing,
    Read,
    /// A keepalive that was sent then, with these releases.
    Write {
        sent: Duration,
        released: Vec<(IpAddr, u64)>,
        is_last: bool,
    },
}

impl Lease {
    /// A machine that begins at `now`, with the fixed grants that [`Output::Remember`] kept.
    pub fn new(now: Duration, settings: Settings, remembered: Vec<Grant>) -> Self {
        let fixed = remembered.iter().filter(|grant| grant.tenure == Tenure::Fixed && grant.standing == Standing::Held);
        let entries = fixed.map(|grant| (grant.address, Entry::new(grant.clone()))).collect();
        let mut made = Self {
            settings,
            phase: Phase::Reading,
            asked: Asked::Nothing,
            due: now,
            guard: 0,
            is_unsure: false,
            is_known: false,
            sequence: 0,
            until: Duration::ZERO,
            revision: 0,
            entries,
            said: Vec::new(),
            remembered,
            using: Held::default(),
            is_told: false,
            outputs: VecDeque::new(),
        };
        made.advance(now);
        made
    }

    /// Takes what happened at `now` (CLOCK_BOOTTIME).
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Found { record, view } if self.asked == Asked::Read => {
                self.asked = Asked::Nothing;
                self.found(now, record, view);
            }
            Input::Written { revision, view } => self.written(now, revision, view),
            Input::Refused | Input::Failed => self.not_written(now, input == Input::Refused),
            Input::Granted(view) => self.apply(now, view),
            Input::Up { address } => self.nic(address, true),
            Input::Down { address } => self.nic(address, false),
            Input::Ended { address, epoch } => {
                if let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.grant.epoch == epoch) {
                    entry.is_ended |= entry.is_asked_back();
                }
            }
            Input::Own(addresses) => self.settings.announcement.own = addresses,
            Input::Stop => self.stop(now),
            Input::Found { .. } | Input::Timeout => {}
        }
        self.advance(now);
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is to be handled at the latest.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        if matches!(self.phase, Phase::Stopped | Phase::Ousted) {
            return None;
        }
        let due = (self.asked == Asked::Nothing).then_some(self.due);
        let live_at = match self.phase {
            Phase::Owning { live_at: at, .. } | Phase::Stopping { deadline: at, .. } => Some(at),
            _ => None,
        };
        let ends = self.entries.values().filter_map(|entry| entry.ending);
        let later = [live_at, Some(self.until)].into_iter().flatten().chain(ends).filter(|at| *at > now);
        due.into_iter().chain(later).min()
    }

    pub fn state(&self, now: Duration) -> StateName {
        match self.phase {
            Phase::Reading => StateName::Reading,
            Phase::Watching { .. } => StateName::Watching,
            Phase::Owning { live_at, .. } if now < live_at => StateName::Waiting,
            Phase::Owning { .. } => StateName::Live,
            Phase::Stopping { .. } => StateName::Stopping,
            Phase::Stopped => StateName::Stopped,
            Phase::Ousted => StateName::Ousted,
        }
    }

    /// What may be used; the same as the last [`Output::Use`] said.
    pub fn held(&self) -> &Held {
        &self.using
    }

    fn found(&mut self, now: Duration, record: Option<(u64, HostRecord)>, view: View) {
        (self.due, self.is_unsure) = (now, false);
        let own = self.settings.incarnation;
        match (self.phase, record) {
            (Phase::Stopped | Phase::Ousted, _) => return,
            (Phase::Reading | Phase::Watching { .. }, None) => self.own(0, now, Duration::ZERO),
            (Phase::Reading | Phase::Watching { .. }, Some((revision, record))) => self.meet(now, revision, &record),
            (Phase::Owning { .. } | Phase::Stopping { .. }, None) => self.guard = 0,
            (_, Some((revision, record))) if record.incarnation == own => {
                (self.guard, self.is_known) = (revision, true);
            }
            // The first write was not done, and the process before has said nothing since.
            (_, Some((revision, _))) if !self.is_known && revision == self.guard => {}
            (_, Some((_, record))) if self.is_known => return self.oust(record.incarnation),
            (_, Some((revision, record))) => {
                self.outputs.push_back(Output::NameInUse { incarnation: record.incarnation });
                self.phase = Phase::Reading;
                self.meet(now, revision, &record);
            }
        }
        self.apply(now, view);
    }

    /// Another process's record is there, and none of ours.
    fn meet(&mut self, now: Duration, revision: u64, record: &HostRecord) {
        if record.state == HostState::Stopped {
            return self.own(revision, now, Duration::ZERO);
        }
        let lease = record.lease();
        let silence = lease / ADDRESS_KEEPALIVES * 2;
        match self.phase {
            Phase::Watching { revision: before, seen, .. } if before == revision => {
                if now >= seen + silence {
                    return self.own(revision, seen + lease, lease);
                }
                self.due = seen + silence;
            }
            before => {
                if matches!(before, Phase::Watching { incarnation, .. } if incarnation == record.incarnation) {
                    self.outputs.push_back(Output::NameInUse { incarnation: record.incarnation });
                }
                self.phase = Phase::Watching { incarnation: record.incarnation, revision, seen: now };
                self.due = now + silence;
            }
        }
    }

    fn own(&mut self, guard: u64, live_at: Duration, lease: Duration) {
        self.guard = guard;
        self.phase = Phase::Owning { live_at, lease };
    }

    fn written(&mut self, now: Duration, revision: u64, view: View) {
        let Asked::Write { sent, released, is_last } = self.asked.clone() else { return };
        self.asked = Asked::Nothing;
        (self.guard, self.is_known, self.said) = (revision, true, released);
        self.due = sent + self.settings.period();
        let is_renewed = view.revision >= revision;
        if is_renewed {
            self.until = self.until.max(sent + self.settings.lease.saturating_sub(self.settings.margin));
        }
        for entry in self.entries.values_mut().filter(|entry| entry.nic == Nic::Refused) {
            entry.nic = Nic::Off;
        }
        self.apply(now, view);
        if is_last {
            self.finish(Phase::Stopped);
        } else if is_renewed {
            self.extend();
        }
    }

    /// Has the interface keep what is on it and still granted.
    fn extend(&mut self) {
        let lasts = |entry: &&Entry| {
            entry.grant.tenure == Tenure::Leased && !entry.is_gone && matches!(entry.nic, Nic::On | Nic::PuttingOn)
        };
        let addresses: Vec<IpAddr> = self.entries.values().filter(lasts).map(|entry| entry.grant.address).collect();
        if !addresses.is_empty() {
            self.outputs.push_back(Output::Extend { addresses, until: self.until });
        }
    }

    fn not_written(&mut self, now: Duration, is_refused: bool) {
        if self.asked == Asked::Nothing {
            return;
        }
        self.asked = Asked::Nothing;
        self.due = if is_refused { now } else { now + self.settings.period() / 4 };
        self.is_unsure = true;
    }

    fn apply(&mut self, now: Duration, view: View) {
        if view.revision < self.revision || matches!(self.phase, Phase::Stopped | Phase::Ousted) {
            return;
        }
        self.revision = view.revision;
        for entry in self.entries.values_mut() {
            entry.is_gone = true;
        }
        let is_stopping = matches!(self.phase, Phase::Stopping { .. });
        for grant in view.grants {
            self.take_over(now, grant, is_stopping);
        }
        let lasting = |entry: &&Entry| entry.grant.tenure == Tenure::Fixed && entry.is_held(false);
        let fixed: Vec<Grant> = self.entries.values().filter(lasting).map(|entry| entry.grant.clone()).collect();
        if fixed != self.remembered && !is_stopping {
            self.remembered.clone_from(&fixed);
            self.outputs.push_back(Output::Remember(fixed));
        }
    }

    fn take_over(&mut self, now: Duration, mut grant: Grant, is_stopping: bool) {
        let address = grant.address;
        if is_stopping {
            grant.standing = Standing::Releasing;
        }
        let Some(entry) = self.entries.get_mut(&address) else {
            let mut entry = Entry::new(grant);
            if entry.is_asked_back() {
                // A process before this one may have put it on.
                entry.nic = Nic::TakingOff;
                self.outputs.push_back(Output::TakeOff { address, carrier: entry.grant.carrier.clone() });
            }
            self.entries.insert(address, entry);
            return;
        };
        entry.is_gone = false;
        let before = std::mem::replace(&mut entry.grant, grant);
        if before.epoch != entry.grant.epoch {
            if before.carrier != entry.grant.carrier {
                entry.is_misplaced = entry.nic != Nic::Off;
                entry.since = None;
            }
            (entry.ending, entry.is_ended) = (None, false);
        } else if before.standing == Standing::Releasing {
            // What is asked back stays so under its epoch.
            entry.grant.standing = Standing::Releasing;
            return;
        }
        if entry.is_asked_back() {
            self.end(now, address);
        }
    }

    /// Begins to give up an address.
    fn end(&mut self, now: Duration, address: IpAddr) {
        let patience = self.settings.patience;
        let Some(entry) = self.entries.get_mut(&address) else { return };
        entry.grant.standing = Standing::Releasing;
        entry.ending = Some(now + patience);
        if entry.nic == Nic::On {
            self.outputs.push_back(Output::End { address, epoch: entry.grant.epoch });
        } else {
            entry.is_ended = true;
        }
    }

    fn nic(&mut self, address: IpAddr, is_up: bool) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        entry.nic = match (entry.nic, is_up) {
            (Nic::PuttingOn, true) => Nic::On,
            (Nic::PuttingOn, false) => Nic::Refused,
            (Nic::TakingOff, false) => Nic::Off,
            (other, _) => other,
        };
        entry.is_misplaced &= is_up;
    }

    fn stop(&mut self, now: Duration) {
        let says_so = match self.phase {
            Phase::Owning { live_at, .. } => now >= live_at,
            Phase::Reading | Phase::Watching { .. } => false,
            Phase::Stopping { .. } | Phase::Stopped | Phase::Ousted => return,
        };
        // What ends by itself by then is followed by one more period for the record.
        let deadline = now + self.settings.patience + self.settings.period();
        self.phase = Phase::Stopping { deadline, says_so };
        let held: Vec<IpAddr> =
            self.entries.values().filter(|entry| !entry.is_asked_back()).map(|entry| entry.grant.address).collect();
        for address in held {
            self.end(now, address);
        }
        self.due = now;
    }

    fn oust(&mut self, incarnation: u64) {
        self.outputs.push_back(Output::Ousted { incarnation });
        self.finish(Phase::Ousted);
    }

    fn finish(&mut self, phase: Phase) {
        self.phase = phase;
        self.until = Duration::ZERO;
        for entry in self.entries.values_mut() {
            entry.is_gone = true;
        }
    }

    /// Whether leases may be used at `now`.
    fn is_live(&self, now: Duration) -> bool {
        match self.phase {
            Phase::Owning { live_at, .. } => now >= live_at,
            Phase::Stopping { says_so, .. } => says_so,
            _ => false,
        }
    }

    /// Does what time and what came have made due.
    fn advance(&mut self, now: Duration) {
        let is_over = match self.phase {
            Phase::Stopping { deadline, says_so } => now >= deadline || (!says_so && self.is_all_off()),
            _ => false,
        };
        if is_over {
            self.finish(Phase::Stopped);
        }
        let leased = self.is_live(now) && now < self.until;
        for (address, entry) in &mut self.entries {
            let belongs_on = entry.belongs_on(leased, now) && !entry.is_misplaced;
            match entry.nic {
                Nic::Off if belongs_on && !entry.is_asked_back() => {
                    entry.nic = Nic::PuttingOn;
                    let until = (entry.grant.tenure == Tenure::Leased).then_some(self.until);
                    let carrier = entry.grant.carrier.clone();
                    self.outputs.push_back(Output::PutOn { address: *address, carrier, until });
                }
                Nic::On if !belongs_on => {
                    entry.nic = Nic::TakingOff;
                    let carrier = entry.grant.carrier.clone();
                    self.outputs.push_back(Output::TakeOff { address: *address, carrier });
                }
                _ => {}
            }
        }
        self.entries.retain(|_, entry| !entry.is_gone || !matches!(entry.nic, Nic::Off | Nic::Refused));
        self.publish(now);
        self.ask(now);
        if matches!(self.phase, Phase::Stopped) && !self.is_told {
            self.is_told = true;
            self.outputs.push_back(Output::Stopped);
        }
    }

    fn is_all_off(&self) -> bool {
        self.entries.values().all(|entry| matches!(entry.nic, Nic::Off | Nic::Refused))
    }

    /// Tells what may be used, if that has changed.
    fn publish(&mut self, now: Duration) {
        let is_live = self.is_live(now);
        let mut addresses = BTreeMap::new();
        for (address, entry) in &mut self.entries {
            if entry.nic == Nic::On && entry.is_held(is_live) && !entry.is_misplaced {
                let since = *entry.since.get_or_insert(now);
                let holding = Holding { epoch: entry.grant.epoch, tenure: entry.grant.tenure, since };
                addresses.insert(*address, holding);
            }
        }
        let until = if is_live { self.until } else { Duration::ZERO };
        if until != self.using.until || addresses != *self.using.addresses {
            self.using = Held { until, addresses: Arc::new(addresses) };
            self.outputs.push_back(Output::Use(self.using.clone()));
        }
    }

    /// Asks the store what is due.
    fn ask(&mut self, now: Duration) {
        if self.asked != Asked::Nothing {
            return;
        }
        let is_due = now >= self.due;
        match self.phase {
            Phase::Stopped | Phase::Ousted => {}
            Phase::Reading | Phase::Watching { .. } if is_due => self.ask_read(),
            Phase::Reading | Phase::Watching { .. } => {}
            Phase::Owning { .. } | Phase::Stopping { .. } if self.is_unsure => {
                if is_due {
                    self.ask_read();
                }
            }
            Phase::Owning { .. } => {
                let released = self.released(now);
                if is_due || released != self.said {
                    self.write(now, released, false);
                }
            }
            Phase::Stopping { says_so, .. } => {
                let is_last = says_so && self.is_all_off();
                if is_last || is_due {
                    self.write(now, Vec::new(), is_last);
                }
            }
        }
    }

    fn ask_read(&mut self) {
        self.asked = Asked::Read;
        self.outputs.push_back(Output::Read);
    }

    /// Sends a keepalive; `is_last`: it says that nothing is used any more.
    fn write(&mut self, now: Duration, released: Vec<(IpAddr, u64)>, is_last: bool) {
        let settings = &self.settings;
        let (state, lease) = match self.phase {
            Phase::Owning { live_at, lease } if now < live_at => (HostState::Joining, settings.lease.max(lease)),
            _ if is_last => (HostState::Stopped, settings.lease),
            _ => (HostState::Live, settings.lease),
        };
        self.sequence += 1;
        let record = HostRecord {
            incarnation: settings.incarnation,
            sequence: self.sequence,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            state,
            released: released.clone(),
            announcement: settings.announcement.clone(),
        };
        self.asked = Asked::Write { sent: now, released, is_last };
        self.outputs.push_back(Output::Write { guard: self.guard, record });
    }

    /// What is given up, once no process before this one can be using it.
    fn released(&self, now: Duration) -> Vec<(IpAddr, u64)> {
        if !self.is_live(now) {
            return Vec::new();
        }
        let given_up = self.entries.values().filter(|entry| entry.is_released());
        given_up.map(|entry| (entry.grant.address, entry.grant.epoch)).collect()
    }
}
