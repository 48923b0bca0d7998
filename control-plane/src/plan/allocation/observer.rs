//! When a host's holding has certainly ended, by this control plane's own clock and nobody else's.
//!
//! A host counts its lease from when it sent a keepalive. This observer counts the same lease from when it saw that
//! keepalive, which is later, so its count ends later. The store's clocks have no part in it: not when its leader
//! changes, nor when a leader that was replaced still answers.
//!
//! What it says holds for a revision of the host's record: the taker writes under the condition that the record is still
//! of that revision. A keepalive that arrived meanwhile makes the condition fail.
//!
//! Time is CLOCK_BOOTTIME of this host, since its boot. After a while in which the observer heard nothing of the store it begins
//! anew, as at its start: hosts were not heard by the store either, and would else all seem gone at once.
//!
//! So it does where the store is another one than it was: restored from a snapshot, or begun anew. What hosts wrote and were
//! given since is lost then, and may be held for a lease more by those who do not know it yet. Until that is over this
//! observer is not [settled](Observer::is_settled), and nothing that it sees to be free may be given to anybody. One that hears the
//! store too seldom never is: for how long, it [says](Observer::waits).

use std::collections::BTreeMap;
use std::time::Duration;

use postrail_schema::allocation::HostName;
use postrail_schema::limits::OBSERVER_SILENCE_MAX;

/// See the module head.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    sights: BTreeMap<HostName, Sight>,
    heard: Option<Duration>,
    /// Since when it hears of one store without a gap.
    since: Duration,
    /// Of the store, as it was heard last.
    revision: u64,
    /// Since when it is not settled, although the store answers.
    waits_since: Option<Duration>,
}

/// The last change of a record that was seen.
#[derive(Clone, Copy, Debug)]
struct Sight {
    revision: u64,
    since: Duration,
    lease: Duration,
}

impl Observer {
    /// The store answered at `now`, and was of `revision`. Whether it is another one than before, as far as that tells.
    pub fn heard(&mut self, now: Duration, revision: u64) -> bool {
        let is_other = revision < self.revision;
        if self.is_silent(now) || is_other {
            self.begin(now);
        }
        (self.heard, self.revision) = (Some(now), revision);
        is_other
    }

    /// Whether a host's record was seen as written by a later revision than this, which the store has lost.
    pub fn has_seen_later(&self, host: &HostName, revision: u64) -> bool {
        self.sights.get(host).is_some_and(|sight| sight.revision > revision)
    }

    /// Forgets what was seen: it is counted from `now` on.
    pub fn begin(&mut self, now: Duration) {
        self.sights.clear();
        self.since = now;
    }

    /// Whether all that was given in a state that the store has lost has certainly ended, where hosts hold for `lease` at most.
    pub fn is_settled(&self, now: Duration, lease: Duration) -> bool {
        !self.is_silent(now) && now >= self.since + lease
    }

    /// Keeps in mind since when it is not settled.
    pub fn note(&mut self, now: Duration, lease: Duration) {
        self.waits_since = if self.is_settled(now, lease) { None } else { self.waits_since.or(Some(now)) };
    }

    /// The store did not answer: what is waited for begins when it does.
    pub fn failed(&mut self) {
        self.waits_since = None;
    }

    /// For how long it is not settled, although the store answers.
    pub fn waits(&self, now: Duration) -> Duration {
        self.waits_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    fn is_silent(&self, now: Duration) -> bool {
        self.heard.is_none_or(|heard| now.saturating_sub(heard) > OBSERVER_SILENCE_MAX)
    }

    /// A host's record was of `revision` at `now`, and holds for `lease`. The same revision again changes nothing.
    pub fn saw(&mut self, now: Duration, host: &HostName, revision: u64, lease: Duration) {
        let sight = Sight { revision, since: now, lease };
        let entry = self.sights.entry(host.clone()).or_insert(sight);
        if revision != entry.revision {
            *entry = sight;
        }
    }

    /// Forgets hosts that have neither record nor grants.
    pub fn retain(&mut self, mut keep: impl FnMut(&HostName) -> bool) {
        self.sights.retain(|host, _| keep(host));
    }

    /// The revision of the host's record under which nothing that it holds by lease is in use any more; `None`: it may
    /// still be.
    pub fn lapsed(&self, now: Duration, host: &HostName) -> Option<u64> {
        let sight = self.sights.get(host)?;
        (!self.is_silent(now) && now >= sight.since + sight.lease).then_some(sight.revision)
    }

    /// One that has heard of a store since boot, and has seen no host yet.
    #[cfg(test)]
    pub(crate) fn at(now: Duration) -> Self {
        Self { heard: Some(now), ..Self::default() }
    }

    /// When the next host lapses if nothing comes.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        self.sights.values().map(|sight| sight.since + sight.lease).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn host() -> HostName {
        HostName::new("a").unwrap()
    }

    /// What is heard every second from `from` until `to`, and what is said of the host then.
    fn after(observer: &mut Observer, from: u64, to: u64) -> Option<u64> {
        for second in from..=to {
            observer.heard(s(second), 9);
        }
        observer.lapsed(s(to), &host())
    }

    #[test]
    fn a_host_lapses_a_whole_lease_after_its_last_keepalive_was_seen() {
        let mut observer = Observer::default();
        observer.heard(s(0), 9);
        observer.saw(s(0), &host(), 7, s(10));
        observer.saw(s(4), &host(), 7, s(10));
        assert_eq!(after(&mut observer, 1, 9), None);
        assert_eq!(after(&mut observer, 10, 10), Some(7), "seeing the same record again is no keepalive");
        observer.saw(s(10), &host(), 8, s(10));
        assert_eq!(after(&mut observer, 11, 19), None);
        assert_eq!(after(&mut observer, 20, 20), Some(8));
    }

    #[test]
    fn after_a_while_without_the_store_it_is_counted_anew() {
        let mut observer = Observer::default();
        observer.heard(s(0), 9);
        observer.saw(s(0), &host(), 7, s(10));
        assert_eq!(after(&mut observer, 1, 9), None);
        assert_eq!(observer.lapsed(s(30), &host()), None, "nothing is known while the store is silent");
        assert!(!observer.is_settled(s(30), s(10)));
        observer.heard(s(30), 9);
        observer.saw(s(30), &host(), 7, s(10));
        assert_eq!(after(&mut observer, 31, 39), None);
        assert!(!observer.is_settled(s(39), s(10)));
        assert_eq!(after(&mut observer, 40, 40), Some(7));
        assert!(observer.is_settled(s(40), s(10)));
    }

    #[test]
    fn what_was_seen_in_a_state_that_the_store_has_lost_counts_no_more() {
        let mut observer = Observer::default();
        observer.heard(s(0), 9);
        observer.saw(s(0), &host(), 7, s(10));
        assert_eq!(after(&mut observer, 1, 9), None);
        assert!(observer.has_seen_later(&host(), 6) && !observer.has_seen_later(&host(), 7));
        assert!(!observer.heard(s(9), 9) && observer.heard(s(10), 8));
        observer.saw(s(10), &host(), 7, s(10));
        for second in 11..20 {
            observer.heard(s(second), 8);
        }
        assert_eq!((observer.lapsed(s(19), &host()), observer.is_settled(s(19), s(10))), (None, false));
        observer.heard(s(20), 8);
        assert_eq!((observer.lapsed(s(20), &host()), observer.is_settled(s(20), s(10))), (Some(7), true));
    }

    #[test]
    fn for_how_long_it_is_not_settled_is_counted_while_the_store_answers() {
        let mut observer = Observer::default();
        for second in (0..40).step_by(4) {
            observer.heard(s(second), 9);
            observer.note(s(second), s(10));
            assert_eq!(observer.waits(s(second)), s(second), "each answer is a beginning");
        }
        observer.failed();
        assert_eq!(observer.waits(s(40)), s(0));
        for second in 40..=50 {
            observer.heard(s(second), 9);
            observer.note(s(second), s(10));
        }
        assert!(observer.is_settled(s(50), s(10)) && observer.waits(s(50)) == s(0));
    }

    #[test]
    fn a_host_that_was_never_seen_is_not_known_to_be_gone() {
        assert_eq!(Observer::default().lapsed(s(100), &host()), None);
    }
}
