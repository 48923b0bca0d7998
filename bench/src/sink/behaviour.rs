//! How a scripted receiver answers: which recipients it takes, defers or rejects. Pure: the clock is an argument.
//!
//! Invariants worth naming: a share is chosen by the recipient's address and not by chance, so that two runs of one
//! plan treat the same recipients alike; a deferred recipient is taken when it comes again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// Recipients whose first sight is remembered; past it the memory starts afresh.
const SEEN_MAX: usize = 1_000_000;

/// The script of one receiver. The default takes everything at once.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Share of the recipients that is answered 451 when first seen, 0 to 1.
    pub defer_share: f64,
    /// Share of the recipients that is always answered 550, 0 to 1.
    pub reject_share: f64,
    /// Every recipient is answered 450 until this long after it was first seen.
    pub greylist: Option<Duration>,
    /// Time before each group of replies.
    pub reply_delay: Duration,
    /// Open connections beyond this are answered 421.
    pub connections_max: Option<usize>,
    /// Recipients a minute beyond this are answered 450, or 421 with the end of the session.
    pub rate_per_minute_max: Option<u32>,
    /// Whether a rate that is passed ends the session.
    pub closes_over_rate: bool,
    /// Every session is answered 421 until the sink is told to release.
    pub holds: bool,
    pub offers_starttls: bool,
    pub offers_pipelining: bool,
    /// BDAT (RFC 3030), as most large receivers do.
    pub offers_chunking: bool,
    pub offers_8bitmime: bool,
    pub offers_smtputf8: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            defer_share: 0.0,
            reject_share: 0.0,
            greylist: None,
            reply_delay: Duration::ZERO,
            connections_max: None,
            rate_per_minute_max: None,
            closes_over_rate: false,
            holds: false,
            offers_starttls: false,
            offers_pipelining: true,
            offers_chunking: true,
            offers_8bitmime: true,
            offers_smtputf8: true,
        }
    }
}

/// What a receiver says to RCPT TO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Take,
    Defer(&'static str),
    Reject(&'static str),
    /// Not now, and no more in this session.
    Close(&'static str),
}

/// What a receiver remembers between recipients.
pub struct Memory {
    seen: HashMap<u64, Instant>,
    minute_start: Instant,
    minute_recipients: u32,
}

impl Memory {
    pub fn new(now: Instant) -> Self {
        Self { seen: HashMap::new(), minute_start: now, minute_recipients: 0 }
    }
}

impl Behaviour {
    /// Whether every recipient is taken, whatever came before.
    pub fn takes_all(&self) -> bool {
        self.defer_share <= 0.0
            && self.reject_share <= 0.0
            && self.greylist.is_none()
            && self.rate_per_minute_max.is_none()
    }

    /// The answer to a recipient that is offered at `now`.
    pub fn judge(&self, memory: &mut Memory, recipient: &[u8], now: Instant) -> Verdict {
        let key = fingerprint(recipient);
        let share = key as f64 / u64::MAX as f64;
        if share < self.reject_share {
            return Verdict::Reject("550 5.1.1 no such mailbox here");
        }
        if self.over_rate(memory, now) {
            return if self.closes_over_rate {
                Verdict::Close("421 4.7.28 too many mails from you, come back later")
            } else {
                Verdict::Defer("450 4.7.28 too many mails from you, come back later")
            };
        }
        let defers = share < self.reject_share + self.defer_share;
        if !defers && self.greylist.is_none() {
            return Verdict::Take;
        }
        let first_seen = memory.seen.get(&key).copied();
        if first_seen.is_none() {
            if memory.seen.len() >= SEEN_MAX {
                memory.seen.clear();
            }
            memory.seen.insert(key, now);
        }
        match (first_seen, self.greylist) {
            (None, Some(_)) => Verdict::Defer("450 4.2.0 greylisted, come back later"),
            (Some(then), Some(wait)) if now.saturating_duration_since(then) < wait => {
                Verdict::Defer("450 4.2.0 greylisted, come back later")
            }
            (None, None) => Verdict::Defer("451 4.3.0 not now, come back later"),
            (Some(_), _) => Verdict::Take,
        }
    }

    fn over_rate(&self, memory: &mut Memory, now: Instant) -> bool {
        let Some(limit) = self.rate_per_minute_max else { return false };
        if now.saturating_duration_since(memory.minute_start) >= Duration::from_secs(60) {
            memory.minute_start = now;
            memory.minute_recipients = 0;
        }
        memory.minute_recipients = memory.minute_recipients.saturating_add(1);
        memory.minute_recipients > limit
    }
}

/// A spread of addresses over all 64 bits, the same in every run.
fn fingerprint(recipient: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    recipient.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(behaviour: &Behaviour, memory: &mut Memory, number: u32, now: Instant) -> Verdict {
        behaviour.judge(memory, format!("m{number}@d.demo.test").as_bytes(), now)
    }

    #[test]
    fn shares_are_met_and_a_deferred_recipient_is_taken_the_second_time() {
        let behaviour = Behaviour { defer_share: 0.2, reject_share: 0.1, ..Behaviour::default() };
        let now = Instant::now();
        let mut memory = Memory::new(now);
        let first: Vec<_> = (0..10_000).map(|number| judged(&behaviour, &mut memory, number, now)).collect();
        let deferred = first.iter().filter(|verdict| matches!(verdict, Verdict::Defer(_))).count();
        let rejected = first.iter().filter(|verdict| matches!(verdict, Verdict::Reject(_))).count();
        assert!((1_800..2_200).contains(&deferred), "{deferred}");
        assert!((900..1_100).contains(&rejected), "{rejected}");
        let again = (0..10_000).map(|number| judged(&behaviour, &mut memory, number, now));
        assert!(!again.into_iter().any(|verdict| matches!(verdict, Verdict::Defer(_))));
    }

    #[test]
    fn a_greylist_takes_a_recipient_after_its_wait() {
        let behaviour = Behaviour { greylist: Some(Duration::from_secs(60)), ..Behaviour::default() };
        let now = Instant::now();
        let mut memory = Memory::new(now);
        assert!(matches!(judged(&behaviour, &mut memory, 1, now), Verdict::Defer(_)));
        assert!(matches!(judged(&behaviour, &mut memory, 1, now + Duration::from_secs(59)), Verdict::Defer(_)));
        assert_eq!(judged(&behaviour, &mut memory, 1, now + Duration::from_secs(60)), Verdict::Take);
    }

    #[test]
    fn a_rate_starts_afresh_with_the_next_minute() {
        let behaviour = Behaviour { rate_per_minute_max: Some(2), ..Behaviour::default() };
        let now = Instant::now();
        let mut memory = Memory::new(now);
        let verdicts: Vec<_> = (0..3).map(|number| judged(&behaviour, &mut memory, number, now)).collect();
        assert!(matches!(verdicts[..], [Verdict::Take, Verdict::Take, Verdict::Defer(_)]), "{verdicts:?}");
        assert_eq!(judged(&behaviour, &mut memory, 3, now + Duration::from_secs(60)), Verdict::Take);
        let behaviour = Behaviour { closes_over_rate: true, rate_per_minute_max: Some(0), ..Behaviour::default() };
        assert!(matches!(judged(&behaviour, &mut Memory::new(now), 1, now), Verdict::Close(_)));
    }
}
