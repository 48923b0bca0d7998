//! What was answered, for as long as it may be believed.
//!
//! Bounded by `DNS_CACHE_MAX`: over it, what would expire first goes first. Reading never extends a life.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use postrail_schema::limits::DNS_CACHE_MAX;

use crate::base::{Instant, Map, MapSeed};
use crate::mail::Domain;

/// The record types that are asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Kind {
    Mx,
    A,
    Aaaa,
}

/// A question of class IN.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Question {
    pub(super) name: Domain,
    pub(super) kind: Kind,
}

/// What is known about a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Facts {
    /// Mail exchangers, best first, at most `MX_HOSTS_MAX`. `null`: the root was among them (RFC 7505).
    Exchanges { hosts: Vec<(u16, Domain)>, null: bool },
    /// At most `HOST_ADDRESSES_MAX`, in the order given.
    Addresses(Vec<IpAddr>),
    /// The name is an alias, and what its target has is not known yet.
    Alias(Domain),
    /// The name exists without such records.
    NoData,
    /// The name does not exist.
    NoName,
    /// All attempts failed; why the last one did.
    Failed(String),
}

/// Facts with what qualifies them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub(super) facts: Facts,
    /// Marked authentic by a server on loopback.
    pub(super) secure: bool,
    pub(super) expires: Instant,
}

/// Questions and what is known about them.
pub(super) struct Cache {
    known: Map<Question, Rc<Known>>,
    by_expiry: BTreeSet<(Instant, Question)>,
    max: usize,
}

impl Cache {
    pub(super) fn new(seed: &MapSeed) -> Self {
        Self { known: seed.map(), by_expiry: BTreeSet::new(), max: DNS_CACHE_MAX }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// What is known and has not expired.
    pub(super) fn find(&self, now: Instant, question: &Question) -> Option<Rc<Known>> {
        self.known.get(question).filter(|known| known.expires > now).cloned()
    }

    pub(super) fn insert(&mut self, now: Instant, question: Question, known: Rc<Known>) {
        let expires = known.expires;
        if let Some(old) = self.known.insert(question.clone(), known) {
            self.by_expiry.remove(&(old.expires, question.clone()));
        }
        self.by_expiry.insert((expires, question));
        while self.by_expiry.first().is_some_and(|(expires, _)| *expires <= now || self.known.len() > self.max) {
            if let Some((_, question)) = self.by_expiry.pop_first() {
                self.known.remove(&question);
            }
        }
        assert_eq!(self.known.len(), self.by_expiry.len(), "every answer has one place in the order of expiry");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    fn question(number: u64) -> Question {
        Question { name: Domain::parse(&format!("n{number}.example")).unwrap(), kind: Kind::A }
    }

    fn known(expires: u64) -> Rc<Known> {
        Rc::new(Known { facts: Facts::NoData, secure: false, expires: Instant::from_nanos(expires) })
    }

    #[test]
    fn over_the_bound_the_first_to_expire_goes_first() {
        let mut cache = Cache::new(&MapSeed::new(&mut Random::new(1)));
        cache.max = 3;
        for (number, expires) in [(1, 50), (2, 20), (3, 40), (4, 30)] {
            cache.insert(Instant::ZERO, question(number), known(expires));
        }
        let held = |number| cache.find(Instant::ZERO, &question(number)).is_some();
        assert_eq!([1, 2, 3, 4].map(held), [true, false, true, true]);
    }

    #[test]
    fn what_has_expired_is_not_known_and_makes_room() {
        let mut cache = Cache::new(&MapSeed::new(&mut Random::new(1)));
        cache.insert(Instant::ZERO, question(1), known(10));
        assert!(cache.find(Instant::from_nanos(9), &question(1)).is_some());
        assert!(cache.find(Instant::from_nanos(10), &question(1)).is_none());
        cache.insert(Instant::from_nanos(10), question(2), known(30));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_newer_answer_replaces_the_older() {
        let mut cache = Cache::new(&MapSeed::new(&mut Random::new(1)));
        cache.insert(Instant::ZERO, question(1), known(10));
        cache.insert(Instant::ZERO, question(1), known(30));
        assert_eq!(cache.len(), 1);
        assert!(cache.find(Instant::from_nanos(20), &question(1)).is_some());
    }
}
