//! The machine of the module head.

mod store;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrail_schema::allocation::{Grant, Standing, Tenure};

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
}
