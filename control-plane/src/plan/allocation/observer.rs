//! When a host's holding has certainly ended, by this control plane's own clock and nobody else's.
//!
//! A host counts its lease from when it sent a keepalive. This observer counts the same lease from when it saw that
//! keepalive, which is later, so its count ends later. The store's clocks have no part in it: not when its leader
//! changes, nor when a leader that was replaced still answers.
//!
//! What it says holds for a revision of the host's record: the taker writes under the condition that the record is still
//! of that revision. A keepalive that arrived meanwhile makes the condition fail.
//!
//! Time is CLOCK_BOOTTIME of this host, since its boot. A while in which the observer heard nothing of the store is not
//! counted: hosts were not heard by it either, and would else all seem gone at once.

use std::collections::BTreeMap;
use std::time::Duration;

use postrail_schema::allocation::HostName;
use postrail_schema::limits::OBSERVER_SILENCE_MAX;

/// See the module head.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    sights: BTreeMap<HostName, Sight>,
    heard: Option<Duration>,
}

/// The last change of a record that was seen.
#[derive(Clone, Copy, Debug)]
struct Sight {
    revision: u64,
    since: Duration,
    lease: Duration,
}

impl Observer {
    /// The store answered at `now`.
    pub fn heard(&mut self, now: Duration) {
        let silence = self.heard.map_or(Duration::ZERO, |before| now.saturating_sub(before));
        if silence > OBSERVER_SILENCE_MAX {
            for sight in self.sights.values_mut() {
                sight.since += silence;
            }
        }
        self.heard = Some(now);
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
        let silent = self.heard.is_none_or(|heard| now.saturating_sub(heard) > OBSERVER_SILENCE_MAX);
        (!silent && now >= sight.since + sight.lease).then_some(sight.revision)
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
        (from..=to).for_each(|second| observer.heard(s(second)));
        observer.lapsed(s(to), &host())
    }

    #[test]
    fn a_host_lapses_a_whole_lease_after_its_last_keepalive_was_seen() {
        let mut observer = Observer::default();
        observer.heard(s(0));
        observer.saw(s(0), &host(), 7, s(10));
        observer.saw(s(4), &host(), 7, s(10));
        assert_eq!(after(&mut observer, 1, 9), None);
        assert_eq!(after(&mut observer, 10, 10), Some(7), "seeing the same record again is no keepalive");
        observer.saw(s(10), &host(), 8, s(10));
        assert_eq!(after(&mut observer, 11, 19), None);
        assert_eq!(after(&mut observer, 20, 20), Some(8));
    }

    #[test]
    fn a_while_without_the_store_is_not_counted() {
        let mut observer = Observer::default();
        observer.heard(s(0));
        observer.saw(s(0), &host(), 7, s(10));
        assert_eq!(after(&mut observer, 1, 9), None);
        assert_eq!(observer.lapsed(s(30), &host()), None, "nothing is known while the store is silent");
        observer.heard(s(30));
        assert_eq!(observer.lapsed(s(30), &host()), None, "a host that lives has a second to say so");
        assert_eq!(after(&mut observer, 31, 31), Some(7));
    }

    #[test]
    fn a_host_that_was_never_seen_is_not_known_to_be_gone() {
        assert_eq!(Observer::default().lapsed(s(100), &host()), None);
    }
}
