//! What must hold, looked at whenever something may have changed it.

use super::*;

impl World {
    /// The interface has done what it was asked.
    pub(super) fn interface(&mut self, host: usize, life: u64, address: IpAddr, is_up: bool) {
        if !self.lives(host, life) {
            return;
        }
        if is_up {
            self.tell_later(host, Input::Up { address });
        } else {
            self.hosts[host].on.remove(&address);
            self.tell_later(host, Input::Down { address });
        }
    }

    /// Tells a process now, or when it goes on.
    fn tell_later(&mut self, host: usize, input: Input) {
        let until = self.hosts[host].paused_until;
        if until <= self.now {
            return self.tell(host, input);
        }
        let life = self.hosts[host].life;
        let (address, is_up) = match input {
            Input::Up { address } => (address, true),
            Input::Down { address } => (address, false),
            _ => return,
        };
        self.after(until - self.now, Event::Nic { host, life, address, is_up });
    }

    /// A host starts a connection on one of the addresses that it may use.
    pub(super) fn start(&mut self, host: usize) {
        let delay = Duration::from_millis(100) + below(&mut self.random, Duration::from_millis(900));
        self.after(delay, Event::Start { host });
        self.check_uses(host);
    }

    /// Everything that `host` may use at this moment is used, and nobody else may.
    pub(super) fn check_uses(&mut self, host: usize) {
        let Some(lease) = &self.hosts[host].lease else { return };
        let held = lease.held().clone();
        for (address, holding) in held.addresses.iter() {
            if !self.hosts[host].may_use(*address, self.now) {
                continue;
            }
            self.starts += 1;
            if !self.is_within(*address, host) {
                self.violate(format!("machine {host} uses {address} outside its region, or though another has it"));
            }
            if let Some(other) =
                (0..self.hosts.len()).find(|other| *other != host && self.hosts[*other].may_use(*address, self.now))
            {
                self.violate(format!("machines {host} and {other} may both use {address}"));
            }
            match self.used.insert(*address, (host, holding.epoch)) {
                Some((_, epoch)) if epoch > holding.epoch && !self.is_restored => {
                    self.violate(format!("machine {host} uses {address} under epoch {} after {epoch}", holding.epoch));
                }
                Some((before, _)) if before != host => self.moves += 1,
                _ => {}
            }
            if self.awaited.get(address).is_some_and(|dead| *dead != host) {
                self.awaited.remove(address);
                self.taken = self.now;
            }
        }
    }

    pub(super) fn check_interfaces(&mut self, host: usize, address: IpAddr) {
        let mut others = (0..self.hosts.len()).filter(|other| *other != host);
        if let Some(other) = others.find(|other| self.hosts[*other].has_on(address, self.now)) {
            self.violate(format!("machines {host} and {other} both have {address} on"));
        }
    }

    pub(super) fn violate(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(format!("at {:.3} s: {what}", self.now.as_secs_f64()));
        }
    }
}
