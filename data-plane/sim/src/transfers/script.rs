//! What a seed has happen in a storm, and when.

use std::time::Duration;

use postrail_core::base::Random;

use super::STORM;
use crate::workload::SITES;

#[derive(Clone, Debug)]
pub(super) enum Act {
    /// A client begins to hand in mail.
    Client {
        number: u32,
        mails: u32,
        bursts_at: Option<u8>,
    },
    /// An address is wanted at a host, or nowhere.
    Move {
        address: usize,
        to: Option<usize>,
    },
    /// A host loses its power. `forgotten_after`: an operator has it forgotten, if it is still away.
    Crash {
        host: usize,
        away: Duration,
        forgotten_after: Option<Duration>,
    },
    /// A host hears nothing from the control side.
    Cut {
        host: usize,
        lasts: Duration,
    },
    /// What a host knows of the others does not change.
    Lag {
        host: usize,
        lasts: Duration,
    },
    Leave {
        host: usize,
    },
    Return {
        host: usize,
    },
}

/// The acts of a storm in their order.
pub(super) fn draw(random: &mut Random, hosts: usize, addresses: usize, crashes_max: u64) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    let pick = |random: &mut Random, count: usize| random.below(count as u64) as usize;
    for address in 0..addresses {
        acts.push((Duration::ZERO, Act::Move { address, to: random.chance(80).then(|| pick(random, hosts)) }));
    }
    for number in 0..CLIENTS {
        acts.push((within(random, 100), Act::Client { number, mails: 6, bursts_at: None }));
    }
    if random.chance(40) {
        for number in CLIENTS..CLIENTS + 1 + random.below(3) as u32 {
            let (mails, site) = (10 + random.below(70) as u32, random.below(u64::from(SITES)) as u8);
            acts.push((within(random, 100), Act::Client { number, mails, bursts_at: Some(site) }));
        }
    }
    for _ in 0..6 + random.below(15) {
        let to = random.chance(85).then(|| pick(random, hosts));
        acts.push((within(random, 190), Act::Move { address: pick(random, addresses), to }));
    }
    for _ in 0..random.below(crashes_max + 1) {
        let is_long = random.chance(20);
        let away = if is_long { seconds(random, 60, 180) } else { millis(random, 100, 10_000) };
        let forgotten_after = (is_long && random.chance(50)).then(|| seconds(random, 25, 60));
        acts.push((within(random, 190), Act::Crash { host: pick(random, hosts), away, forgotten_after }));
    }
    for _ in 0..random.below(3) {
        acts.push((within(random, 180), Act::Cut { host: pick(random, hosts), lasts: seconds(random, 2, 60) }));
    }
    for _ in 0..random.below(4) {
        acts.push((within(random, 180), Act::Lag { host: pick(random, hosts), lasts: seconds(random, 5, 90) }));
    }
    if random.chance(50) {
        let (host, from) = (pick(random, hosts), within(random, 150));
        acts.push((from, Act::Leave { host }));
        if random.chance(40) {
            acts.push((from + seconds(random, 2, 60), Act::Return { host }));
        }
    }
    acts.retain(|(at, _)| *at < STORM);
    acts.sort_by_key(|(at, _)| *at);
    acts
}

fn within(random: &mut Random, seconds: u64) -> Duration {
    Duration::from_millis(random.below(seconds * 1_000))
}

fn millis(random: &mut Random, least: u64, most: u64) -> Duration {
    Duration::from_millis(least + random.below(most - least))
}

fn seconds(random: &mut Random, least: u64, most: u64) -> Duration {
    millis(random, least * 1_000, most * 1_000)
}

const CLIENTS: u32 = 6;
