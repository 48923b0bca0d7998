//! What goes wrong in a run, and when: drawn before it begins, so that a run can be read from its list of faults.

use std::time::Duration;

use postrail_core::base::Random;

/// One thing that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The process dies; a new one starts after that time.
    Crash {
        host: usize,
        back: Duration,
    },
    /// It ends in order, and starts again after that time.
    Restart {
        host: usize,
        back: Duration,
    },
    /// Nothing of it runs for that time; its clock does.
    Pause {
        host: usize,
        lasts: Duration,
    },
    /// Its messages to the store, or the answers, or both are lost.
    Cut {
        node: Node,
        way: Way,
        lasts: Duration,
    },
    /// Its messages take up to so much longer.
    Slow {
        node: Node,
        delay: Duration,
        lasts: Duration,
    },
    ControlCrash {
        control: usize,
        back: Duration,
    },
    ControlPause {
        control: usize,
        lasts: Duration,
    },
    /// The store changes its leader; leases of the old one may end too early.
    Leader {
        silence: Duration,
        is_revoked: bool,
    },
    /// All members are stopped, and begin after `silence` with what they had `age` before that; `None`: with nothing.
    Restore {
        silence: Duration,
        age: Option<Duration>,
    },
    Drain {
        host: usize,
        lasts: Duration,
    },
    /// An address is wanted no more for that time.
    Unwanted {
        address: usize,
        lasts: Duration,
    },
    /// An address is fixed to a host for that time.
    Fixed {
        address: usize,
        host: usize,
        lasts: Duration,
    },
    /// The interface answers late.
    Interface {
        lasts: Duration,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Host(usize),
    Control(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    There,
    Back,
    Both,
}

/// Draws restores of the store over `storm`: one, or two.
pub(super) fn draw_restores(random: &mut Random, storm: Duration) -> Vec<(Duration, Fault)> {
    let mut restores: Vec<_> = (0..1 + random.below(2))
        .map(|_| {
            let at = Duration::from_secs(15) + below(random, storm);
            let silence = match random.below(3) {
                0 => below(random, Duration::from_secs(1)),
                1 => below(random, Duration::from_secs(5)),
                _ => below(random, Duration::from_secs(15)),
            };
            let older = Duration::from_secs(if random.chance(50) { 10 } else { 60 });
            let age = RESTORED_AGE_MIN + below(random, older);
            (at, Fault::Restore { silence, age: random.chance(80).then_some(age) })
        })
        .collect();
    restores.sort_by_key(|(at, _)| *at);
    restores
}

/// Nobody saves a snapshot, stops all members, restores it and starts them in less.
const RESTORED_AGE_MIN: Duration = Duration::from_secs(5);

/// Draws faults over `storm`.
pub(super) fn draw(
    random: &mut Random,
    hosts: usize,
    controls: usize,
    addresses: usize,
    storm: Duration,
) -> Vec<(Duration, Fault)> {
    let count = 3 + random.below(22);
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let at = Duration::from_secs(15) + below(random, storm);
            (at, one(random, hosts, controls, addresses))
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn one(random: &mut Random, hosts: usize, controls: usize, addresses: usize) -> Fault {
    // Short and long alike: most of what matters happens near the length of a lease.
    let lasts = match random.below(4) {
        0 => below(random, Duration::from_secs(1)),
        1 => below(random, Duration::from_secs(5)),
        2 => Duration::from_secs(6) + below(random, Duration::from_secs(8)),
        _ => below(random, Duration::from_secs(40)),
    };
    let host = random.below(hosts as u64) as usize;
    let control = random.below(controls as u64) as usize;
    let node = if random.chance(70) { Node::Host(host) } else { Node::Control(control) };
    let address = random.below(addresses as u64) as usize;
    match random.below(16) {
        0 | 1 => Fault::Crash { host, back: lasts },
        2 => Fault::Restart { host, back: lasts },
        3..=5 => Fault::Pause { host, lasts },
        6..=8 => {
            let way = [Way::There, Way::Back, Way::Both][random.below(3) as usize];
            Fault::Cut { node, way, lasts }
        }
        9 => Fault::Slow { node, delay: below(random, Duration::from_secs(12)), lasts },
        10 => Fault::ControlCrash { control, back: lasts },
        11 => Fault::ControlPause { control, lasts },
        12 => Fault::Leader { silence: lasts / 4, is_revoked: random.chance(30) },
        13 => Fault::Drain { host, lasts },
        14 if random.chance(50) => Fault::Unwanted { address, lasts },
        14 => Fault::Fixed { address, host, lasts },
        _ => Fault::Interface { lasts },
    }
}

/// A time below `bound`.
pub(super) fn below(random: &mut Random, bound: Duration) -> Duration {
    Duration::from_nanos(random.below(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1)))
}
