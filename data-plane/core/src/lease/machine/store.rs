//! What passes between the machine and the store: the record that is read and written, and whether the store still has it.

use std::net::IpAddr;
use std::time::Duration;

use postrail_schema::allocation::{HeldUntil, HostRecord, HostState};
use postrail_schema::limits::ADDRESS_KEEPALIVES;

use super::super::nic::Nic;
use super::super::{Output, View};
use super::{Asked, Lease, Phase, Spared};

impl Lease {
    pub(super) fn found(&mut self, now: Duration, view: View) {
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

    pub(super) fn written(&mut self, now: Duration, revision: u64, view: View) {
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

    pub(super) fn not_written(&mut self, now: Duration, is_refused: bool) {
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

    /// Asks the store what is due.
    pub(super) fn ask(&mut self, now: Duration) {
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
