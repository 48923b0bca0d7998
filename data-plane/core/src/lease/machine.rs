//! The machine of the module head.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::{Grant, HeldUntil, HostRecord, HostState, Standing, Tenure};
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
    /// The store may have what was not read yet.
    is_look_due: bool,
    /// The revision of this host's record that was seen last.
    guard: u64,
    /// Whether a write was done is not known: the record is read before it is written again.
    is_unsure: bool,
    /// A record of this process was written.
    is_known: bool,
    sequence: u64,
    /// A record of this process has at least this sequence, in the store that it was written to.
    floor: u64,
    /// What is held rests on keepalives without a gap, of which the last one holds until `until`.
    is_chained: bool,
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
    /// The name is ours, and leases may be used from `live_at` on: not before the first keepalive was written, and `lease`
    /// after that, unless `spared` says otherwise.
    Owning {
        live_at: Option<Duration>,
        lease: Duration,
        spared: Spared,
    },
    /// Everything is being given up; `says_so`: the record may say so in the end.
    Stopping {
        deadline: Duration,
        says_so: bool,
    },
    Stopped,
    Ousted,
}

/// Why the first keepalive of a process may be enough.
#[derive(Clone, Copy, Debug)]
enum Spared {
    Not,
    /// It has nothing that somebody could be using.
    Nothing,
    /// The process before has stopped, and until then nobody can have been given what it had.
    Until(Duration),
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
        let entries = fixed.map(|grant| (grant.address, Entry::remembered(grant.clone()))).collect();
        let mut made = Self {
            settings,
            phase: Phase::Reading,
            asked: Asked::Nothing,
            due: now,
            is_look_due: false,
            guard: 0,
            is_unsure: false,
            is_known: false,
            sequence: 0,
            floor: 0,
            is_chained: false,
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
            Input::Found(view) if self.asked == Asked::Read => {
                self.asked = Asked::Nothing;
                self.found(now, view);
            }
            Input::Written { revision, view } => self.written(now, revision, view),
            Input::Refused | Input::Failed => self.not_written(now, input == Input::Refused),
            Input::Look => self.is_look_due = true,
            Input::Up { address } => self.nic(address, true),
            Input::Down { address } => self.nic(address, false),
            Input::Ended { address, epoch } => {
                if let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.grant.epoch == epoch) {
                    entry.is_ended |= entry.is_asked_back();
                }
            }
            Input::Own(addresses) => self.settings.announcement.own = addresses,
            Input::Stop => self.stop(now),
            Input::Found(_) | Input::Timeout => {}
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
            Phase::Owning { live_at, .. } => live_at,
            Phase::Stopping { deadline: at, .. } => Some(at),
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
            Phase::Owning { live_at, .. } if live_at.is_none_or(|at| now < at) => StateName::Waiting,
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

    fn found(&mut self, now: Duration, view: View) {
        match self.phase {
            Phase::Stopped | Phase::Ousted => return,
            Phase::Reading | Phase::Watching { .. } => {
                self.due = now;
                match &view.record {
                    None if view.grants.is_empty() => self.own(0, Duration::ZERO, Spared::Nothing),
                    None => self.own(0, Duration::ZERO, Spared::Not),
                    Some((revision, record)) => self.meet(now, *revision, record),
                }
            }
            Phase::Owning { .. } | Phase::Stopping { .. } => {
                if self.is_unsure {
                    (self.due, self.is_unsure) = (now, false);
                }
                self.recognize(now, &view);
            }
        }
        self.apply(now, view);
    }

    /// Looks whether the store is the one that was written to: whether it has what this process knows to be written, and
    /// nothing of it is older than what was read. One that was restored from a snapshot, or begun anew, has not.
    fn recognize(&mut self, now: Duration, view: &View) -> bool {
        let is_later = view.revision >= self.revision;
        let is_ours = |record: &HostRecord| record.incarnation == self.settings.incarnation;
        match &view.record {
            Some((revision, record)) if is_ours(record) && is_later && record.sequence >= self.floor => {
                (self.guard, self.is_known, self.floor) = (*revision, true, record.sequence);
                return true;
            }
            Some((_, record)) if is_ours(record) => {}
            // The first write was not done, and the process before has said nothing since.
            Some((revision, _)) if !self.is_known && *revision == self.guard && is_later => return true,
            None if !self.is_known && self.guard == 0 && is_later => return true,
            // Ours is followed by it: had the store lost ours, it would be older.
            Some((revision, record)) if self.is_known && *revision > self.guard => {
                self.oust(record.incarnation);
                return false;
            }
            _ => {}
        }
        self.begin_again(now, view);
        false
    }

    /// The store has lost what was written to it: what is held rests on nothing that others can see. Nothing leased is used
    /// until those who were given it instead, in what the store has lost, have certainly ended.
    fn begin_again(&mut self, now: Duration, view: &View) {
        match &view.record {
            _ if self.is_known => self.outputs.push_back(Output::StoreLost),
            Some((_, record)) => self.outputs.push_back(Output::NameInUse { incarnation: record.incarnation }),
            None => {}
        }
        (self.until, self.revision, self.is_chained, self.is_known) = (Duration::ZERO, 0, false, false);
        self.said.clear();
        self.due = now;
        self.floor = self.sequence + 1;
        for entry in self.entries.values_mut() {
            entry.forget();
        }
        if let Phase::Stopping { says_so, .. } = &mut self.phase {
            *says_so = false;
            return;
        }
        match &view.record {
            Some((revision, record)) if record.incarnation == self.settings.incarnation => {
                self.floor = record.sequence;
                self.own(*revision, Duration::ZERO, Spared::Not);
            }
            Some((revision, record)) => {
                self.phase = Phase::Reading;
                self.meet(now, *revision, record);
            }
            None => self.own(0, Duration::ZERO, Spared::Not),
        }
    }

    /// Another process's record is there, and none of ours.
    fn meet(&mut self, now: Duration, revision: u64, record: &HostRecord) {
        if record.state == HostState::Stopped {
            let spared = match &record.held {
                Some(held) if held.boot == self.settings.boot => Spared::Until(Duration::from_millis(held.until_ms)),
                _ => Spared::Not,
            };
            return self.own(revision, record.lease(), spared);
        }
        let lease = record.lease();
        let silence = lease / ADDRESS_KEEPALIVES * 2;
        match self.phase {
            Phase::Watching { revision: before, seen, .. } if before == revision => {
                if now >= seen + silence {
                    return self.own(revision, lease, Spared::Not);
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

    /// Takes the name; `lease` is that of a process before.
    fn own(&mut self, guard: u64, lease: Duration, spared: Spared) {
        self.guard = guard;
        self.phase = Phase::Owning { live_at: None, lease: lease.max(self.settings.lease), spared };
    }

    fn written(&mut self, now: Duration, revision: u64, view: View) {
        let Asked::Write { sent, released, is_last } = self.asked.clone() else { return };
        self.asked = Asked::Nothing;
        (self.guard, self.is_known, self.floor, self.said) = (revision, true, self.sequence, released);
        self.due = sent + self.settings.period();
        let is_renewed = self.recognize(now, &view);
        if is_renewed {
            self.renew(now, sent, &view);
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

    /// Holds by a keepalive that was sent then. Where the one before had ended already, or there was none, what has been
    /// given to others meanwhile may have been lost with an earlier state of the store: they are waited for.
    fn renew(&mut self, now: Duration, sent: Duration, view: &View) {
        if !self.is_chained || now >= self.until {
            match &mut self.phase {
                Phase::Owning { live_at, lease, spared } => {
                    let is_spared = match std::mem::replace(spared, Spared::Not) {
                        Spared::Not => false,
                        Spared::Nothing => view.grants.is_empty(),
                        Spared::Until(until) => now < until,
                    };
                    *live_at = Some(if is_spared { now } else { now + *lease });
                }
                Phase::Stopping { says_so, .. } => *says_so = false,
                _ => {}
            }
        }
        self.is_chained = true;
        self.until = self.until.max(sent + self.settings.lease.saturating_sub(self.settings.margin));
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
        let is_look = self.asked == Asked::Read && matches!(self.phase, Phase::Owning { .. } | Phase::Stopping { .. });
        if self.asked == Asked::Nothing || (is_look && !self.is_unsure) {
            // The next keepalive reads, too.
            self.asked = Asked::Nothing;
            return;
        }
        self.asked = Asked::Nothing;
        self.due = if is_refused { now } else { now + self.settings.period() / 4 };
        self.is_unsure = true;
    }

    fn apply(&mut self, now: Duration, view: View) {
        if matches!(self.phase, Phase::Stopped | Phase::Ousted) {
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
    }

    /// Keeps what is fixed for the next process, once it is used without keepalives.
    fn remember(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Reading | Phase::Watching { .. } | Phase::Owning { .. }) {
            return;
        }
        if self.is_live(now) {
            for entry in self.entries.values_mut() {
                entry.is_lasting |= entry.grant.tenure == Tenure::Fixed;
            }
        }
        let held = self.entries.values().filter(|entry| entry.is_held(false));
        let fixed: Vec<Grant> = held.map(|entry| entry.grant.clone()).collect();
        if fixed != self.remembered {
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
            Phase::Owning { .. } => self.is_live(now),
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
            Phase::Owning { live_at, .. } => live_at.is_some_and(|at| now >= at),
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
        self.remember(now);
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
            _ if self.is_look_due => self.ask_read(),
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
        (self.asked, self.is_look_due) = (Asked::Read, false);
        self.outputs.push_back(Output::Read);
    }

    /// Sends a keepalive; `is_last`: it says that nothing is used any more.
    fn write(&mut self, now: Duration, released: Vec<(IpAddr, u64)>, is_last: bool) {
        let settings = &self.settings;
        let (state, lease) = match self.phase {
            Phase::Owning { live_at, lease, spared } => {
                let is_spared = match spared {
                    Spared::Not => false,
                    Spared::Nothing => true,
                    Spared::Until(until) => now < until,
                };
                let is_live = live_at.map_or(is_spared, |at| now >= at);
                if is_live { (HostState::Live, settings.lease) } else { (HostState::Joining, lease) }
            }
            _ if is_last => (HostState::Stopped, settings.lease),
            _ => (HostState::Live, settings.lease),
        };
        let is_held = is_last && self.is_chained && now < self.until && !settings.boot.is_empty();
        let held = is_held.then(|| HeldUntil { boot: settings.boot.clone(), until_ms: millis(self.until) });
        self.sequence += 1;
        let record = HostRecord {
            incarnation: settings.incarnation,
            sequence: self.sequence,
            lease_ms: millis(lease),
            state,
            released: released.clone(),
            announcement: settings.announcement.clone(),
            held,
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
