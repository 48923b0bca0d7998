//! What a run came to: for people and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::measure::Measured;
use super::{Args, Change};
use crate::account::rounded;
use crate::machine;
use crate::result::Machine;
use crate::server::Version;

/// How long it took until changes could begin.
#[derive(Default)]
pub(super) struct Started {
    pub(super) filled: Duration,
    /// From the control plane's start to its first publication.
    pub(super) published: Duration,
    pub(super) chunks: usize,
    pub(super) bytes: usize,
    /// From a data plane's start to everything in effect: one alone, and all others at once.
    pub(super) one: Duration,
    pub(super) others: Duration,
}

/// Milliseconds at some ranks.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Ranks {
    pub(super) samples: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// Samples up to so many milliseconds.
#[derive(Clone, Copy, Serialize)]
struct Bucket {
    to_ms: f64,
    samples: u64,
}

/// All figures of a run: what `--json` writes.
#[derive(Serialize)]
pub(super) struct Figures {
    machine: Machine,
    commit: Option<String>,
    tenants: u32,
    domains: u32,
    keys: u32,
    data_planes: u8,
    change: Change,
    changes: u32,
    chunks: usize,
    published_mb: f64,
    filled_s: f64,
    published_s: f64,
    in_effect_on_one_s: f64,
    in_effect_on_others_s: f64,
    /// Of the chunk, the manifest and what leads to it, which a change writes.
    bytes_per_change: usize,
    pub(super) reached_ms: Ranks,
    last_ms: Ranks,
    answered_ms: Ranks,
    histogram: Vec<Bucket>,
    /// CPU of each program, milliseconds a change.
    cpu_ms_per_change: Vec<(String, f64)>,
}

impl Figures {
    pub(super) fn new(
        args: &Args,
        started: &Started,
        measured: &Measured,
        cpu_ms: Vec<(String, f64)>,
        binary: &Path,
    ) -> Self {
        let seconds = |time: Duration| rounded(time.as_secs_f64());
        let Args { tenants, data_planes, change, .. } = *args;
        Self {
            machine: machine::here(),
            commit: Version::of(binary).commit().map(str::to_owned),
            tenants,
            domains: 2 * tenants,
            keys: 4 * tenants,
            data_planes,
            change,
            changes: measured.changes,
            chunks: started.chunks,
            published_mb: rounded(started.bytes as f64 / 1e6),
            filled_s: seconds(started.filled),
            published_s: seconds(started.published),
            in_effect_on_one_s: seconds(started.one),
            in_effect_on_others_s: seconds(started.others),
            bytes_per_change: measured.bytes,
            reached_ms: ranks(&measured.reached),
            last_ms: ranks(&measured.last),
            answered_ms: ranks(&measured.answered),
            histogram: buckets(&measured.reached),
            cpu_ms_per_change: cpu_ms.into_iter().map(|(name, ms)| (name, rounded(ms))).collect(),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        let Self { tenants, domains, keys, data_planes, changes, chunks, .. } = self;
        writeln!(to, "{tenants} tenants, {domains} sending domains, {keys} DKIM keys; {data_planes} data planes")?;
        writeln!(to, "{chunks} chunks of {:.1} MB, published in {:.2} s", self.published_mb, self.published_s)?;
        let (one, others) = (self.in_effect_on_one_s, self.in_effect_on_others_s);
        writeln!(
            to,
            "in effect on an empty data plane {one:.2} s after its start, on all others at once {others:.2} s"
        )?;
        writeln!(
            to,
            "{changes} changes of {}: one chunk, the manifest and the way to it, {} octets",
            self.change.words(),
            self.bytes_per_change
        )?;
        writeln!(to, "\nms from the request     p50     p90     p99   p99.9     max")?;
        for (what, ranks) in [
            ("to a data plane", &self.reached_ms),
            ("to the last of them", &self.last_ms),
            ("to the answer", &self.answered_ms),
        ] {
            let Ranks { p50, p90, p99, p999, max, .. } = ranks;
            writeln!(to, "{what:<20}{p50:>8.2}{p90:>8.2}{p99:>8.2}{p999:>8.2}{max:>8.2}")?;
        }
        writeln!(to, "\nto a data plane, {} samples", self.reached_ms.samples)?;
        for Bucket { to_ms, samples } in &self.histogram {
            let share = samples * BAR / self.reached_ms.samples.max(1);
            writeln!(to, "{to_ms:>8.1} ms {samples:>7}  {}", "#".repeat(usize::try_from(share).unwrap_or(0)))?;
        }
        let costs: Vec<_> = self.cpu_ms_per_change.iter().map(|(name, ms)| format!("{name} {ms:.2}")).collect();
        writeln!(to, "\nCPU, ms a change: {}", costs.join(", "))
    }
}

fn ranks(times: &Histogram<u64>) -> Ranks {
    let at = |quantile| rounded(times.value_at_quantile(quantile) as f64 / 1e3);
    Ranks { samples: times.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0) }
}

fn buckets(times: &Histogram<u64>) -> Vec<Bucket> {
    let width = times.max().div_ceil(BUCKETS).max(1);
    let bucket = |bucket: hdrhistogram::iterators::IterationValue<u64>| Bucket {
        to_ms: rounded(bucket.value_iterated_to() as f64 / 1e3),
        samples: bucket.count_since_last_iteration(),
    };
    times.iter_linear(width).map(bucket).collect()
}

/// Rows of the histogram, and the characters of all samples together.
const BUCKETS: u64 = 20;
const BAR: u64 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_buckets_are_of_every_sample() {
        let mut times = Histogram::new(3).expect("a histogram");
        for ms in 1..=100_u64 {
            times.record(ms * 1_000).expect("in range");
        }
        let found = ranks(&times);
        assert!((found.p50 - 50.0).abs() < 0.1 && (found.p99 - 99.0).abs() < 0.1, "{} {}", found.p50, found.p99);
        assert!(found.max >= 100.0 && found.samples == 100);
        let all = buckets(&times);
        assert_eq!(all.iter().map(|bucket| bucket.samples).sum::<u64>(), 100);
        assert!(all.len() <= 21, "{}", all.len());
    }
}
