//! The machine: lookups that need answers, questions in flight, attempts on the wire.
//!
//! ```text
//! lookup --slots--> question --cache hit--------------------------> slot ready
//!                      \--miss--> flight --attempt--> query (UDP)  --TC--> query (TCP)
//!                                   ^  |                 | answer: cache, every waiting slot ready
//!                                   |  +--- waits while DNS_QUERIES_MAX queries are out
//!                                   +------ timeout, failure: next server, until `attempts` are used up
//! ```
//!
//! A lookup ends when none of its slots is pending, so nothing ever points at a lookup that has gone. Answers run
//! through a work list and not through recursion: a chain of aliases costs no stack.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use postrail_schema::limits::{
    CNAME_CHAIN_MAX, DNS_LOOKUPS_MAX, DNS_QUERIES_MAX, DNS_SERVER_REST, DNS_SERVER_STRIKES_MAX, DNS_SERVERS_MAX,
    DNS_STRAYS_MAX, DNS_TTL_MAX, DNS_TTL_MIN,
};
use slab::Slab;

use super::cache::{Cache, Facts, Kind, Known, Question};
use super::hosts::{self, Candidate};
use super::wire::{self, Reply};
use super::{DnsFailure, HostRule, Input, MailHosts, Output, ResolverConfig, ResolverState};
use crate::base::{Instant, Map, MapSeed, Random};
use crate::mail::Domain;

/// The resolver of one shard; see the module for its promises.
pub struct Resolver {
    config: ResolverConfig,
    random: Random,
    cache: Cache,
    lookups: Slab<Lookup>,
    flights: Slab<Flight>,
    flight_of: Map<Question, usize>,
    /// Flights that have not been sent: over `DNS_QUERIES_MAX`.
    unsent: VecDeque<usize>,
    /// Queries on the wire and their flights.
    queries: BTreeMap<u64, usize>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Slots whose question has just been answered.
    answered: VecDeque<(Waiter, Rc<Known>)>,
    outputs: VecDeque<Output>,
    last_query: u64,
    servers: Vec<Server>,
}

/// A name server and how it does.
struct Server {
    at: SocketAddr,
    /// Attempts in a row without any answer.
    strikes: u32,
    /// It is not asked first before then.
    rests_until: Instant,
}

/// One domain being looked up.
struct Lookup {
    tag: u64,
    domain: Domain,
    rule: HostRule,
    /// The MX question alone; then A and AAAA of each host in turn.
    slots: Vec<Slot>,
    pending: usize,
    exchange: Option<Exchange>,
}

/// The answer to the MX question, and the hosts that follow from it.
struct Exchange {
    mx: Rc<Known>,
    hosts: Vec<(u16, Domain)>,
}

/// A question of a lookup, with the aliases followed so far.
struct Slot {
    kind: Kind,
    aliases: usize,
    /// The earliest expiry and the least trust of the aliases on the way.
    expires: Instant,
    secure: bool,
    known: Option<Rc<Known>>,
}

#[derive(Clone, Copy)]
struct Waiter {
    lookup: usize,
    slot: usize,
}

/// One question being asked, for all that wait for it.
struct Flight {
    question: Question,
    waiters: Vec<Waiter>,
    attempts_left: u32,
    server: usize,
    edns: bool,
    over_tcp: bool,
    /// Of the attempt on the wire.
    query: u64,
    id: u16,
    deadline: Instant,
    strays: u32,
}

impl Resolver {
    /// A resolver with an empty cache. Without servers every question fails temporarily.
    pub fn new(config: ResolverConfig, seed: &mut Random) -> Self {
        let servers = config.servers.iter().take(DNS_SERVERS_MAX);
        let servers = servers.map(|at| Server { at: *at, strikes: 0, rests_until: Instant::ZERO }).collect();
        let map_seed = MapSeed::new(seed);
        Self {
            config,
            random: seed.fork(),
            cache: Cache::new(&map_seed),
            lookups: Slab::new(),
            flights: Slab::new(),
            flight_of: map_seed.map(),
            unsent: VecDeque::new(),
            queries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            answered: VecDeque::new(),
            outputs: VecDeque::new(),
            last_query: 0,
            servers,
        }
    }

    /// Looks up where mail of `domain` goes; an [`Output::Answer`] with `tag` follows, at once where it is known.
    pub fn mail_hosts(&mut self, now: Instant, tag: u64, domain: &Domain, rule: HostRule) {
        self.expire(now);
        if let Some(address) = domain.literal() {
            let result = hosts::literal(domain, address, rule, &self.config, now + DNS_TTL_MAX);
            self.answer(tag, domain.clone(), result);
        } else if self.lookups.len() >= DNS_LOOKUPS_MAX {
            let failure = DnsFailure::Temporary("too many domains are being looked up".to_owned());
            self.answer(tag, domain.clone(), Err(failure));
        } else {
            let lookup = Lookup { tag, domain: domain.clone(), rule, slots: Vec::new(), pending: 0, exchange: None };
            let lookup = self.lookups.insert(lookup);
            self.ask(now, lookup, domain.clone(), Kind::Mx);
        }
        self.settle(now);
    }

    /// Takes what became of a query; one that is no longer expected changes nothing.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { query, bytes } => self.receive(now, query, bytes, false),
            Input::Stream { query, bytes } => self.receive(now, query, bytes, true),
            Input::Failed { query, reason } => {
                if let Some(flight) = self.queries.get(&query).copied() {
                    self.unanswered(now, flight, reason);
                }
            }
            Input::Timeout => {}
        }
        self.expire(now);
        self.settle(now);
    }

    /// What the pump shall do next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// What is going on.
    pub fn state(&self) -> ResolverState {
        ResolverState {
            cached: self.cache.len(),
            lookups: self.lookups.len(),
            in_flight: self.queries.len(),
            waiting: self.unsent.len(),
        }
    }

    fn answer(&mut self, tag: u64, domain: Domain, result: Result<MailHosts, DnsFailure>) {
        self.outputs.push_back(Output::Answer { tag, domain, result: result.map(Rc::new) });
    }

    /// Adds a slot to a lookup and asks its question.
    fn ask(&mut self, now: Instant, lookup: usize, name: Domain, kind: Kind) {
        let entry = &mut self.lookups[lookup];
        let slot = entry.slots.len();
        entry.slots.push(Slot { kind, aliases: 0, expires: Instant::FAR, secure: true, known: None });
        entry.pending += 1;
        self.resolve(now, Question { name, kind }, Waiter { lookup, slot });
    }

    /// Answers from the cache, joins a flight, or starts one.
    fn resolve(&mut self, now: Instant, question: Question, waiter: Waiter) {
        if let Some(known) = self.cache.find(now, &question) {
            self.answered.push_back((waiter, known));
            return;
        }
        if let Some(flight) = self.flight_of.get(&question) {
            self.flights[*flight].waiters.push(waiter);
            return;
        }
        let flight = self.flights.insert(Flight {
            question: question.clone(),
            waiters: vec![waiter],
            attempts_left: self.config.attempts.max(1),
            server: self.servers.iter().position(|server| server.rests_until <= now).unwrap_or(0),
            edns: true,
            over_tcp: false,
            query: 0,
            id: 0,
            deadline: Instant::FAR,
            strays: 0,
        });
        self.flight_of.insert(question, flight);
        self.unsent.push_back(flight);
    }

    /// Works until nothing is left that could be done without a new input.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some((waiter, known)) = self.answered.pop_front() {
                self.fill(now, waiter, known);
            } else if self.queries.len() < DNS_QUERIES_MAX
                && let Some(flight) = self.unsent.pop_front()
            {
                self.send(now, flight);
            } else {
                return;
            }
        }
    }

    /// Puts an answer into its slot, or goes on to the target of an alias.
    fn fill(&mut self, now: Instant, waiter: Waiter, known: Rc<Known>) {
        let lookup = &mut self.lookups[waiter.lookup];
        let slot = &mut lookup.slots[waiter.slot];
        assert!(slot.known.is_none(), "a slot is filled once");
        slot.expires = slot.expires.min(known.expires);
        slot.secure &= known.secure;
        if let Facts::Alias(target) = &known.facts
            && slot.aliases < CNAME_CHAIN_MAX
        {
            slot.aliases += 1;
            let question = Question { name: target.clone(), kind: slot.kind };
            self.resolve(now, question, waiter);
            return;
        }
        slot.known = Some(match &known.facts {
            Facts::Alias(_) => Rc::new(Known {
                facts: Facts::Failed("the name is an alias of an alias without end".to_owned()),
                secure: false,
                expires: slot.expires,
            }),
            facts if slot.aliases > 0 => {
                Rc::new(Known { facts: facts.clone(), secure: slot.secure, expires: slot.expires })
            }
            _ => known,
        });
        lookup.pending -= 1;
        if lookup.pending == 0 {
            self.advance(now, waiter.lookup);
        }
    }

    /// All slots of a lookup are filled: asks for the hosts' addresses, or ends.
    fn advance(&mut self, now: Instant, lookup: usize) {
        let entry = &mut self.lookups[lookup];
        let mut known = std::mem::take(&mut entry.slots).into_iter().filter_map(|slot| slot.known);
        let result = match entry.exchange.take() {
            None => {
                let mx = known.next().expect("the MX slot was filled");
                match hosts::exchangers(&entry.domain, &mx, &self.config.own_names) {
                    Ok(hosts) => {
                        entry.exchange = Some(Exchange { mx, hosts: hosts.clone() });
                        for (_, name) in hosts {
                            self.ask(now, lookup, name.clone(), Kind::A);
                            self.ask(now, lookup, name, Kind::Aaaa);
                        }
                        return;
                    }
                    Err(failure) => Err(failure),
                }
            }
            Some(Exchange { mx, hosts }) => {
                let candidates = hosts.into_iter().map_while(|(preference, name)| {
                    Some(Candidate { preference, name, v4: known.next()?, v6: known.next()? })
                });
                hosts::choose(&mx, candidates.collect(), entry.rule, &self.config)
            }
        };
        let Lookup { tag, domain, .. } = self.lookups.remove(lookup);
        self.answer(tag, domain, result);
    }

    /// Puts the next attempt of a flight on the wire.
    fn send(&mut self, now: Instant, flight: usize) {
        let id = self.random.next_u64() as u16;
        let entry = &mut self.flights[flight];
        let Some(server) = self.servers.get(entry.server).map(|server| server.at) else {
            return self.give_up(now, flight, "no name server is configured");
        };
        let Some(wire) = wire::encode(id, &entry.question, entry.edns) else {
            return self.give_up(now, flight, "the name is too long for DNS");
        };
        self.last_query += 1;
        (entry.query, entry.id, entry.strays) = (self.last_query, id, 0);
        entry.deadline = now + self.config.timeout;
        self.queries.insert(entry.query, flight);
        self.deadlines.insert((entry.deadline, entry.query));
        self.outputs.push_back(Output::Query {
            query: entry.query,
            server,
            wire,
            over_tcp: entry.over_tcp,
            wait: self.config.timeout,
        });
    }

    /// Takes the attempt of a flight off the wire.
    fn retire(&mut self, flight: usize) {
        let entry = &self.flights[flight];
        self.queries.remove(&entry.query);
        self.deadlines.remove(&(entry.deadline, entry.query));
        self.outputs.push_back(Output::Done { query: entry.query });
    }

    fn receive(&mut self, now: Instant, query: u64, bytes: &[u8], stream: bool) {
        let Some(flight) = self.queries.get(&query).copied() else { return };
        let entry = &mut self.flights[flight];
        let server = &mut self.servers[entry.server];
        let reply = wire::decode(now, bytes, entry.id, &entry.question, server.at.ip().is_loopback());
        if reply != Reply::Stray {
            server.strikes = 0;
        }
        match reply {
            Reply::Known(known) => self.complete(now, flight, known),
            Reply::Stray if stream => self.attempt_failed(now, flight, "the answer is to another question"),
            Reply::Stray => {
                entry.strays += 1;
                if entry.strays > DNS_STRAYS_MAX {
                    self.send_again_by_tcp(flight);
                }
            }
            Reply::Truncated if stream => self.attempt_failed(now, flight, "the answer is truncated"),
            Reply::Truncated => self.send_again_by_tcp(flight),
            Reply::NoEdns if entry.edns => {
                entry.edns = false;
                self.retire(flight);
                self.unsent.push_front(flight);
            }
            Reply::NoEdns => self.attempt_failed(now, flight, "the name server does not understand the question"),
            Reply::Failed(reason) => self.attempt_failed(now, flight, reason),
        }
    }

    fn send_again_by_tcp(&mut self, flight: usize) {
        self.flights[flight].over_tcp = true;
        self.retire(flight);
        self.unsent.push_front(flight);
    }

    /// Ends an attempt that its server did not answer. A server that answers, if only with errors, is not to blame:
    /// else the owner of a broken domain could choose our server, and with it whether the AD bit counts.
    fn unanswered(&mut self, now: Instant, flight: usize, reason: &str) {
        let server = &mut self.servers[self.flights[flight].server];
        server.strikes += 1;
        if server.strikes >= DNS_SERVER_STRIKES_MAX {
            (server.strikes, server.rests_until) = (0, now + DNS_SERVER_REST);
        }
        self.attempt_failed(now, flight, reason);
    }

    /// Ends an attempt; the next one goes to the next server.
    fn attempt_failed(&mut self, now: Instant, flight: usize, reason: &str) {
        self.retire(flight);
        let entry = &mut self.flights[flight];
        entry.attempts_left -= 1;
        if entry.attempts_left == 0 {
            self.give_up(now, flight, reason);
        } else {
            (entry.server, entry.over_tcp, entry.edns) = ((entry.server + 1) % self.servers.len(), false, true);
            self.unsent.push_front(flight);
        }
    }

    /// Remembers a failure for a moment, so that a broken domain is not asked for again and again.
    fn give_up(&mut self, now: Instant, flight: usize, reason: &str) {
        let facts = Facts::Failed(reason.to_owned());
        self.spread(now, flight, Known { facts, secure: false, expires: now + DNS_TTL_MIN });
    }

    fn complete(&mut self, now: Instant, flight: usize, known: Known) {
        self.retire(flight);
        self.spread(now, flight, known);
    }

    /// Gives an answer to the cache and to all that wait for it.
    fn spread(&mut self, now: Instant, flight: usize, known: Known) {
        let Flight { question, waiters, .. } = self.flights.remove(flight);
        self.flight_of.remove(&question);
        let known = Rc::new(known);
        self.answered.extend(waiters.into_iter().map(|waiter| (waiter, Rc::clone(&known))));
        self.cache.insert(now, question, known);
    }

    /// Ends the attempts whose time is over.
    fn expire(&mut self, now: Instant) {
        while let Some((at, query)) = self.deadlines.first().copied() {
            if at > now {
                return;
            }
            match self.queries.get(&query).copied() {
                Some(flight) => self.unanswered(now, flight, "no name server answered in time"),
                None => unreachable!("a deadline belongs to a query on the wire"),
            }
        }
    }
}
