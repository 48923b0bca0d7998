//! The figures of a result by name: which way is better, and how to read each. What `compare` and `history` show.

use crate::result::{Latency, RunResult};

/// Which way a figure gets better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One figure of a result.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) better: Better,
    /// `None`: not measured.
    pub(crate) value: Option<f64>,
    /// Any rise from 0 is a fault and no noise.
    pub(crate) exact: bool,
}

/// All figures of `result` that can be set beside another's, tenants last.
pub(crate) fn of(result: &RunResult) -> Vec<Figure> {
    let lower = |name: &str, value| Figure { name: name.into(), better: Better::Lower, value, exact: false };
    let exact = |name: &str, value: u64| Figure { exact: true, ..lower(name, Some(value as f64)) };
    let rate = Figure { better: Better::Higher, ..lower("rate, 1/s", Some(result.rate_per_s)) };
    let mut figures = vec![
        exact("lost", result.lost),
        exact("duplicated", result.duplicated),
        exact("misdelivered", result.misdelivered),
        exact("refused", result.refused),
        exact("without an answer", result.doubtful),
        rate,
        lower("CPU a mail, µs", result.cpu_us_per_mail),
        lower("  user, µs", result.cpu_user_us_per_mail),
        lower("  system, µs", result.cpu_system_us_per_mail),
    ];
    let processes = result.processes.iter().map(|process| {
        let cpu = process.cpu_user_us_per_mail + process.cpu_system_us_per_mail;
        lower(&format!("  {}, µs", process.name), Some(cpu))
    });
    figures.extend(processes);
    figures.extend([
        lower("context switches a mail", result.context_switches_per_mail),
        lower("written a mail, B", result.bytes_written_per_mail),
        lower("peak memory, MiB", result.peak_rss_mb),
    ]);
    let mut latency = |name: &str, latency: &Latency| {
        for (rank, ms) in [("p50", latency.p50), ("p99", latency.p99), ("max", latency.max)] {
            figures.push(lower(&format!("{name} {rank}, ms"), Some(ms)));
        }
    };
    latency("acknowledged", &result.ack_ms);
    latency("first attempt", &result.first_attempt_ms);
    latency("delivered", &result.delivery_ms);
    for (tenant, part) in &result.tenants {
        figures.push(exact(&format!("{tenant}: lost"), part.lost));
        figures
            .push(Figure { better: Better::Higher, ..lower(&format!("{tenant}: rate, 1/s"), Some(part.rate_per_s)) });
        figures.push(lower(&format!("{tenant}: acknowledged p99, ms"), Some(part.ack_ms.p99)));
        figures.push(lower(&format!("{tenant}: delivered p99, ms"), Some(part.delivery_ms.p99)));
    }
    if let Some(waiting) = &result.waiting {
        figures.push(lower("memory of a waiting mail, B", Some(waiting.bytes_per_waiting_mail)));
        figures.push(lower("start to first accepted, s", Some(waiting.first_accepted_s)));
        figures.push(lower("start to first delivery, s", Some(waiting.first_delivery_s)));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::TenantResult;

    #[test]
    fn figures_of_tenants_carry_their_name() {
        let mut result = RunResult::default();
        result.tenants.insert("reserved".into(), TenantResult { rate_per_s: 50.0, ..TenantResult::default() });
        let figures = of(&result);
        let rate = figures.iter().find(|figure| figure.name == "reserved: rate, 1/s").expect("listed");
        assert_eq!((rate.value, rate.better), (Some(50.0), Better::Higher));
        assert!(figures.iter().any(|figure| figure.name == "CPU a mail, µs" && figure.value.is_none()));
    }
}
