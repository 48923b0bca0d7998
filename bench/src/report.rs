//! The summary of a run, and its two forms: a table for people and one line of JSON for tools.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::account::rounded;
use crate::tally::Tally;

/// What a run came to. All totals are in recipients. The JSON keys are a contract.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    pub sent: u64,
    pub accepted: u64,
    pub delivered: u64,
    /// Accepted, and not delivered by the end of the run.
    pub lost: u64,
    pub duplicated: u64,
    pub refused: u64,
    pub doubtful: u64,
    /// Delivered with another recipient's content, or to an address that nobody sent to.
    pub misdelivered: u64,
    pub seconds: f64,
    pub rate_per_s: f64,
    pub ack_ms_p50: f64,
    pub ack_ms_p99: f64,
    pub delivery_ms_p50: f64,
    pub delivery_ms_p99: f64,
    /// CPU of the server's threads; `None` where the kernel does not tell.
    pub cpu_us_per_mail: Option<f64>,
}

impl Summary {
    /// Sums up `tally`; `cpu` is what the server took during the run.
    pub fn new(tally: &Tally, cpu: Option<Duration>) -> Self {
        let counts = tally.counts();
        let (ack, delivery) = (tally.ack_ms(), tally.delivery_ms());
        let seconds = tally.duration().as_secs_f64();
        let delivered = counts.delivered as f64;
        Self {
            sent: counts.accepted + counts.refused + counts.doubtful,
            accepted: counts.accepted,
            delivered: counts.delivered,
            lost: tally.lost(),
            duplicated: counts.duplicated,
            refused: counts.refused,
            doubtful: counts.doubtful,
            misdelivered: counts.unknown + counts.mixed_up,
            seconds: rounded(seconds),
            rate_per_s: if seconds > 0.0 { rounded(delivered / seconds) } else { 0.0 },
            ack_ms_p50: rounded(ack.p50),
            ack_ms_p99: rounded(ack.p99),
            delivery_ms_p50: rounded(delivery.p50),
            delivery_ms_p99: rounded(delivery.p99),
            cpu_us_per_mail: cpu
                .filter(|_| counts.delivered > 0)
                .map(|cpu| rounded(cpu.as_secs_f64() * 1e6 / delivered)),
        }
    }

    /// Whether everything that was sent was accepted, and delivered exactly once to whom it was meant for.
    pub fn is_complete(&self) -> bool {
        let failed = self.lost + self.refused + self.doubtful + self.misdelivered + self.duplicated;
        self.sent > 0 && failed == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<22}{value:>12}");
        row("accepted", self.accepted.to_string())?;
        row("delivered", self.delivered.to_string())?;
        row("lost", self.lost.to_string())?;
        row("duplicated", self.duplicated.to_string())?;
        for (name, count) in
            [("refused", self.refused), ("without an answer", self.doubtful), ("misdelivered", self.misdelivered)]
        {
            if count > 0 {
                row(name, count.to_string())?;
            }
        }
        row("seconds", format!("{:.2}", self.seconds))?;
        row("mails a second", format!("{:.0}", self.rate_per_s))?;
        row("acknowledged p50, ms", format!("{:.2}", self.ack_ms_p50))?;
        row("acknowledged p99, ms", format!("{:.2}", self.ack_ms_p99))?;
        row("delivered p50, ms", format!("{:.2}", self.delivery_ms_p50))?;
        row("delivered p99, ms", format!("{:.2}", self.delivery_ms_p99))?;
        if let Some(cpu) = self.cpu_us_per_mail {
            row("server CPU a mail, µs", format!("{cpu:.0}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_complete_only_when_every_recipient_is_accounted_for() {
        let tally = Tally::new(2);
        let now = tally.start();
        assert!(!Summary::new(&tally, None).is_complete(), "nothing was sent");
        for number in 0..2 {
            tally.plan(number, now);
            tally.accept(number, now);
        }
        tally.deliver(0, now + Duration::from_millis(10));
        assert!(!Summary::new(&tally, None).is_complete(), "one is lost");
        tally.deliver(1, now + Duration::from_millis(10));
        let summary = Summary::new(&tally, Some(Duration::from_micros(300)));
        assert!(summary.is_complete());
        assert_eq!(summary.rate_per_s, 200.0);
        assert_eq!(summary.cpu_us_per_mail, Some(150.0));
        tally.doubt(1);
        assert!(!Summary::new(&tally, None).is_complete(), "one has no answer");
    }

    #[test]
    fn the_json_has_the_keys_of_the_contract() {
        let json = serde_json::to_value(Summary::new(&Tally::new(1), None)).expect("serialises");
        for key in ["accepted", "delivered", "lost", "duplicated", "rate_per_s", "seconds", "delivery_ms_p99"] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}
