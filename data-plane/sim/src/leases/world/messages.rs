//! What passes between processes and the store, and what goes wrong on the way.

use super::*;

impl World {
    /// Sends a request of `from` to the store.
    pub(super) fn send(&mut self, from: Node, life: u64, id: u64, request: Request) {
        if !self.is_cut(from, Way::There) {
            let delay = self.delay(from);
            let store = self.store.life;
            self.after(delay, Event::Arrive { from, life, id, store, request });
        }
    }

    pub(super) fn arrive(&mut self, from: Node, life: u64, id: u64, store: u64, request: Request) {
        if store != self.store.life {
            return;
        }
        if self.now < self.store.silent_until {
            // Some wait for the new leader, some are lost.
            if self.random.chance(60) {
                let delay = self.store.silent_until - self.now + below(&mut self.random, Duration::from_millis(200));
                self.after(delay, Event::Arrive { from, life, id, store, request });
            }
            return;
        }
        let before = self.store.content.revision;
        let answer = self.store.apply(self.now, &request);
        if self.store.content.revision > before {
            self.tell_watchers(&request);
        }
        if !self.is_cut(from, Way::Back) {
            let delay = self.delay(from);
            self.after(delay, Event::Reply { to: from, life, id, answer });
        }
    }

    /// Sends what a request changed to those who watch it.
    fn tell_watchers(&mut self, request: &Request) {
        let Request::Take { step, .. } = request else { return };
        let touched = |host: &Host| step.changed.contains_key(&host.name);
        let hosts = self.hosts.iter().enumerate().filter(|(_, host)| touched(host));
        let watchers: Vec<(usize, u64)> = hosts.map(|(index, host)| (index, host.life)).collect();
        for (host, life) in watchers {
            if !self.is_cut(Node::Host(host), Way::Back) {
                let delay = self.delay(Node::Host(host));
                self.after(delay, Event::Watch { host, life });
            }
        }
    }

    fn is_cut(&self, node: Node, way: Way) -> bool {
        self.troubles.iter().any(|trouble| {
            matches!(trouble.kind, TroubleKind::Cut(cut, ways) if cut == node && (ways == way || ways == Way::Both))
        })
    }

    fn delay(&mut self, node: Node) -> Duration {
        let slow = self.troubles.iter().find_map(|trouble| match trouble.kind {
            TroubleKind::Slow(slow, delay) if slow == node => Some(delay),
            _ => None,
        });
        below(&mut self.random, Duration::from_millis(15) + slow.unwrap_or_default())
    }

    pub(super) fn has_interface_trouble(&self) -> bool {
        self.troubles.iter().any(|trouble| matches!(trouble.kind, TroubleKind::Interface))
    }

    pub(super) fn tick(&mut self, control: usize, life: u64) {
        if self.controls[control].life != life || !self.controls[control].alive {
            return;
        }
        let shown = self.controls[control].clock.shows(self.now);
        // Whoever asks anew waits for the former answer no more.
        if self.controls[control].asked.is_none_or(|asked| shown >= asked + PATIENCE) {
            self.controls[control].asked = Some(shown);
            self.question += 1;
            self.controls[control].question = self.question;
            self.send(Node::Control(control), life, self.question, Request::Read);
        }
        self.send(Node::Control(control), life, 0, Request::Lead { control });
        self.after(TICK, Event::Tick { control, life });
    }

    pub(super) fn answered(&mut self, control: usize, life: u64, id: u64, answer: &Answer) {
        let this = &mut self.controls[control];
        if this.life != life || !this.alive {
            return;
        }
        match answer {
            Answer::Content(_) if id != this.question => return,
            Answer::Content(content) => this.read(self.now, content),
            Answer::Written(_, content) => {
                this.leads |= content.leader.is_some_and(|(leader, _)| leader == control);
                return;
            }
            // Of a step: somebody else wrote first. Of the lead: somebody else leads.
            Answer::Refused => {
                this.leads = false;
                return;
            }
        }
        if this.leads
            && let Some(request) = this.step(self.now, &self.demands, &self.orders)
        {
            self.send(Node::Control(control), life, 0, request);
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.troubles.retain(|trouble| trouble.until > self.now);
        let mut trouble = |lasts, kind| self.troubles.push(Trouble { until: self.now + lasts, kind });
        match fault {
            Fault::Crash { host, back } => {
                self.hosts[host].kill();
                self.after(back, Event::Begin { host });
            }
            Fault::Restart { host, back } => {
                if self.hosts[host].paused_until <= self.now {
                    self.tell(host, Input::Stop);
                }
                self.after(back, Event::Begin { host });
            }
            Fault::Pause { host, lasts } => self.hosts[host].paused_until = self.now + lasts,
            Fault::Cut { node, way, lasts } => trouble(lasts, TroubleKind::Cut(node, way)),
            Fault::Slow { node, delay, lasts } => trouble(lasts, TroubleKind::Slow(node, delay)),
            Fault::Interface { lasts } => trouble(lasts, TroubleKind::Interface),
            Fault::ControlCrash { control, back } => {
                self.controls[control].kill();
                self.after(back, Event::BeginControl { control });
            }
            Fault::ControlPause { control, lasts } => self.controls[control].paused_until = self.now + lasts,
            Fault::Leader { silence, is_revoked } => self.store.change_leader(self.now, silence, is_revoked),
            Fault::Restore { silence, age } => {
                // What a host has by its own configuration is known by its records alone.
                let owners = self.hosts.iter().filter(|host| !host.announcement.own.is_empty());
                let owners: Vec<_> = owners.map(|host| host.name.clone()).collect();
                self.store.restore(self.now, silence, age, &owners);
                self.is_restored = true;
            }
            Fault::Drain { host, lasts } => {
                self.orders.insert(self.hosts[host].name.clone(), Order::Drain);
                self.after(lasts, Event::Undrain { host });
            }
            Fault::Unwanted { address, lasts } => {
                if let Some(address) = self.address(address)
                    && self.demands.len() > 1
                {
                    self.demands.remove(&address);
                    self.after(lasts, Event::Want { address });
                }
            }
            Fault::Fixed { address, host, lasts } => {
                let name = self.hosts[host].name.clone();
                // What is fixed to a host outside its region is not published.
                if let Some(address) = self.address(address).filter(|address| self.is_within(*address, host)) {
                    self.demands.entry(address).or_default().fixed = Some(name);
                    self.after(lasts, Event::Unfix { address });
                }
            }
        }
    }

    fn address(&self, number: usize) -> Option<IpAddr> {
        self.demands.keys().nth(number).copied()
    }
}
