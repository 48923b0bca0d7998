//! The line that says how a run goes: rewritten on a terminal, else printed once a second.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::source::Load;
use crate::tally::Tally;

/// Recipients of a load whose latencies the line shows: the last so many.
const RECENT: u64 = 4_096;

/// The line.
pub(super) struct Live {
    plan: String,
    phase: &'static str,
    terminal: bool,
    start: Instant,
    /// When it was shown last, and what was delivered by then.
    shown: Option<(Instant, u64)>,
}

impl Live {
    pub(super) fn new(plan: &str) -> Self {
        Self {
            plan: plan.to_owned(),
            phase: "",
            terminal: std::io::stderr().is_terminal(),
            start: Instant::now(),
            shown: None,
        }
    }

    /// A phase begins.
    pub(super) fn phase(&mut self, name: &'static str) {
        (self.phase, self.start, self.shown) = (name, Instant::now(), None);
    }

    /// Shows it where it is time.
    pub(super) fn show(&mut self, tally: &Tally, loads: &[Load]) {
        let pause = Duration::from_millis(if self.terminal { 250 } else { 1_000 });
        if self.shown.is_none_or(|(at, _)| at.elapsed() >= pause) {
            self.print(tally, loads, if self.terminal { "" } else { "\n" });
        }
    }

    /// Shows it a last time.
    pub(super) fn end(&mut self, tally: &Tally, loads: &[Load]) {
        self.print(tally, loads, "\n");
    }

    fn print(&mut self, tally: &Tally, loads: &[Load], ending: &str) {
        let counts = tally.counts();
        let rate = self.shown.map_or(0.0, |(at, delivered)| {
            counts.delivered.saturating_sub(delivered) as f64 / at.elapsed().as_secs_f64().max(0.001)
        });
        self.shown = Some((Instant::now(), counts.delivered));
        let recent = loads.iter().flat_map(|load| {
            let (lane, to) = (load.lane(), load.position());
            tally.fates(lane.number(to.saturating_sub(RECENT))..lane.number(to), lane.stride)
        });
        let account = Account::of(recent);
        let start = if self.terminal { "\r\x1b[2K" } else { "" };
        // A closed terminal is no reason to stop.
        let _ = write!(
            std::io::stderr().lock(),
            "{start}{} {} {:>4.0} s: accepted {}, delivered {}, now {rate:.0}/s; recent p99: acknowledged {:.1} ms, delivered {:.1} ms{ending}",
            self.plan,
            self.phase,
            self.start.elapsed().as_secs_f64(),
            counts.accepted,
            counts.delivered,
            account.ack.latency().p99,
            account.delivery.latency().p99,
        );
    }
}
