//! What one run came to: the JSON that `run` writes, and that `compare`, `sla`, `history` and the page read.
//!
//! Invariants worth naming: the keys of [`RunResult`] up to `bytes_written_per_mail` are a contract and keep their names
//! and units; all totals and all "per mail" figures are in recipients, since that is what a customer pays for; a
//! figure that was not measured is `null` (or absent in files of older versions), never 0. Unknown keys are ignored,
//! so that an older binary reads a newer file. `docs/reference/bench.md` explains every key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run of a plan against one target.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RunResult {
    /// The plan's name.
    pub plan: String,
    /// The commit that the server was built from, with `-dirty` where files were changed before; where it does not tell,
    /// `bench_commit`.
    pub commit: String,
    pub machine: Machine,
    /// Recipients that were handed to the target, however it answered.
    pub sent: u64,
    /// Recipients that the target has acknowledged (250 or 202).
    pub accepted: u64,
    /// Recipients that a receiver has taken at least once.
    pub delivered: u64,
    /// Accepted, and at the end neither delivered nor rejected by their receiver, though the run waited for them.
    pub lost: u64,
    /// Deliveries beyond the first of a recipient.
    pub duplicated: u64,
    /// Delivered recipients a second, from the first planned time to the last delivery.
    pub rate_per_s: f64,
    /// CPU of all the target's processes, user plus system, microseconds a delivered recipient.
    pub cpu_us_per_mail: Option<f64>,
    /// From the planned time of a submission to its acknowledgement.
    pub ack_ms: Latency,
    /// From the planned time of a submission to the delivery.
    pub delivery_ms: Latency,
    /// Most resident memory of all the target's processes together, MiB.
    pub peak_rss_mb: Option<f64>,
    /// Octets that the target's processes have caused to be written to storage, a delivered recipient.
    pub bytes_written_per_mail: Option<f64>,

    // From here on: further keys.
    /// From the acknowledgement to the first time that a receiver heard of the recipient.
    #[serde(default)]
    pub first_attempt_ms: Latency,
    #[serde(default)]
    pub cpu_user_us_per_mail: Option<f64>,
    #[serde(default)]
    pub cpu_system_us_per_mail: Option<f64>,
    #[serde(default)]
    pub context_switches_per_mail: Option<f64>,
    /// The same figures for each of the target's processes.
    #[serde(default)]
    pub processes: Vec<ProgramCost>,
    /// CPU of the bench's own process (load and receivers), microseconds a delivered recipient: not in `cpu_us_per_mail`.
    #[serde(default)]
    pub bench_cpu_us_per_mail: Option<f64>,
    /// Recipients that the target refused for good at submission.
    #[serde(default)]
    pub refused: u64,
    /// Recipients whose connection broke before the answer: they may have been accepted.
    #[serde(default)]
    pub doubtful: u64,
    /// Accepted recipients that their receiver has rejected for good, as the plan told it to.
    #[serde(default)]
    pub rejected: u64,
    /// Times that a receiver has asked to come back later.
    #[serde(default)]
    pub deferred: u64,
    /// Deliveries with another recipient's content, or to an address that nobody sent to.
    #[serde(default)]
    pub misdelivered: u64,
    /// Reports (bounce messages) that came back to the sender.
    #[serde(default)]
    pub reports: u64,
    /// Connections that the receivers have accepted.
    #[serde(default)]
    pub receiver_sessions: u64,
    /// From the first planned time to the last delivery.
    #[serde(default)]
    pub seconds: f64,
    /// The rate that an open loop kept to, recipients a second; `null` for a closed loop.
    #[serde(default)]
    pub planned_rate_per_s: Option<f64>,
    /// The highest rate, as this run found it before it took a share of it.
    #[serde(default)]
    pub highest_rate_per_s: Option<f64>,
    /// One point a second, at most `SERIES_POINTS_MAX` of them (then of several seconds each).
    #[serde(default)]
    pub series: Vec<SeriesPoint>,
    /// Percentile curves for plots.
    #[serde(default)]
    pub curves: Curves,
    /// By the tenant's name, where a plan has several.
    #[serde(default)]
    pub tenants: BTreeMap<String, TenantResult>,
    /// What `waiting` plans measure.
    #[serde(default)]
    pub waiting: Option<WaitingResult>,
    /// The target's name, such as `postrail` or `external`.
    #[serde(default)]
    pub target: String,
    #[serde(default)]
    pub server_version: String,
    /// The commit of the checkout that the bench ran in, with `-dirty` where files differ; `unknown` outside of one.
    #[serde(default)]
    pub bench_commit: String,
    /// UTC, RFC 3339.
    #[serde(default)]
    pub started_at: String,
    /// Whether it was interrupted: the figures are of a part of the plan.
    #[serde(default)]
    pub interrupted: bool,
}

/// Where it ran.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpus: u32,
    pub cpu_model: String,
    pub kernel: String,
    pub memory_mb: u64,
}

/// Latency, milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// One process of the target.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ProgramCost {
    pub name: String,
    pub cpu_user_us_per_mail: f64,
    pub cpu_system_us_per_mail: f64,
    pub context_switches_per_mail: f64,
    pub peak_rss_mb: f64,
    pub bytes_written_per_mail: f64,
}

/// What happened in one stretch of the run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SeriesPoint {
    /// Start of the stretch, seconds since the first planned time.
    pub at_s: f64,
    pub sent_per_s: f64,
    pub accepted_per_s: f64,
    pub delivered_per_s: f64,
    /// Of those planned in this stretch.
    pub ack_p99_ms: f64,
    /// Of those planned in this stretch.
    pub delivery_p99_ms: f64,
}

/// Points of percentile curves.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Curves {
    pub ack: Vec<CurvePoint>,
    pub first_attempt: Vec<CurvePoint>,
    pub delivery: Vec<CurvePoint>,
}

/// `percentile` percent took at most `ms`.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CurvePoint {
    pub percentile: f64,
    pub ms: f64,
}

/// One tenant's part of a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TenantResult {
    pub sent: u64,
    pub accepted: u64,
    pub delivered: u64,
    pub lost: u64,
    pub rate_per_s: f64,
    pub ack_ms: Latency,
    pub delivery_ms: Latency,
    /// The same tenant's latencies without the others, where the plan measured them first.
    #[serde(default)]
    pub alone_ack_ms: Option<Latency>,
    #[serde(default)]
    pub alone_delivery_ms: Option<Latency>,
}

/// Mail that waits: what it costs, and how soon a killed server is back.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WaitingResult {
    /// Recipients that waited.
    pub recipients: u64,
    /// Resident memory with nothing waiting, MiB.
    pub empty_rss_mb: f64,
    /// Resident memory with all of them waiting, before the kill, MiB.
    pub waiting_rss_mb: f64,
    /// The same after the start that followed the kill, once all were read back, MiB.
    pub recovered_rss_mb: f64,
    /// What a waiting recipient costs beyond a fixed 64 MiB, after the start, octets.
    pub bytes_per_waiting_mail: f64,
    /// From the start after the kill to the first accepted submission.
    pub first_accepted_s: f64,
    /// From the start after the kill to the first delivery.
    pub first_delivery_s: f64,
    /// From the start after the kill until all of them waited again.
    pub recovered_s: f64,
}

/// Points of [`RunResult::series`] at most.
pub const SERIES_POINTS_MAX: usize = 1_200;

impl RunResult {
    /// Whether nothing was lost, duplicated or misdelivered.
    pub fn is_exact(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.misdelivered == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_keys_of_the_contract() {
        let json = serde_json::to_value(RunResult::default()).expect("serialises");
        for key in [
            "plan",
            "commit",
            "machine",
            "sent",
            "accepted",
            "delivered",
            "lost",
            "duplicated",
            "rate_per_s",
            "cpu_us_per_mail",
            "ack_ms",
            "delivery_ms",
            "peak_rss_mb",
            "bytes_written_per_mail",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for latency in ["ack_ms", "delivery_ms"] {
            for rank in ["p50", "p99", "max"] {
                assert!(json[latency].get(rank).is_some(), "{latency}.{rank}");
            }
        }
    }

    #[test]
    fn a_result_of_the_contracts_keys_alone_is_read() {
        let text = r#"{"plan": "w10", "commit": "x", "machine": {"cpus": 2, "cpu_model": "", "kernel": "", "memory_mb": 1},
            "sent": 1, "accepted": 1, "delivered": 1, "lost": 0, "duplicated": 0, "rate_per_s": 1.0,
            "cpu_us_per_mail": null, "ack_ms": {"p50": 1.0, "p99": 1.0, "max": 1.0},
            "delivery_ms": {"p50": 1.0, "p99": 1.0, "max": 1.0}, "peak_rss_mb": 1.0, "bytes_written_per_mail": null,
            "of_a_later_version": 1}"#;
        let result: RunResult = serde_json::from_str(text).expect("parses");
        assert!(result.is_exact() && result.series.is_empty());
    }
}
