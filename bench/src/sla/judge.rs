//! Whether a result keeps a contract, clause by clause. Pure.
//!
//! Invariants worth naming: a clause whose figure was not measured is broken, since a contract is to be proven; a rate
//! "over every window" is judged where load was sent throughout, so that neither the start of the run nor the last mails
//! of it count as a shortfall.

use super::contract::{Contract, Rank, Ranks, TenantContract};
use crate::page::text::{number, round};
use crate::result::{CurvePoint, Latency, RunResult, SeriesPoint};

/// One condition, and what was found.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Clause {
    pub tenant: Option<String>,
    /// What is demanded, in words.
    pub what: String,
    pub bound: f64,
    /// Whether `bound` is the least (a rate) or the most (everything else).
    pub at_least: bool,
    /// `None`: not measured.
    pub found: Option<f64>,
    pub held: bool,
}

impl Clause {
    fn new(tenant: Option<&str>, what: impl Into<String>, bound: f64, at_least: bool, found: Option<f64>) -> Self {
        let held = found.is_some_and(|found| if at_least { found >= bound } else { found <= bound });
        Self { tenant: tenant.map(Into::into), what: what.into(), bound, at_least, found, held }
    }

    /// By how much it was missed; empty where it held.
    pub fn shortfall(&self) -> String {
        match self.found {
            _ if self.held => String::new(),
            None => "not measured".into(),
            Some(found) => {
                let by = (found - self.bound).abs();
                let direction = if self.at_least { "too little" } else { "too much" };
                let percent = if self.bound > 0.0 { format!(" ({:.1}%)", by / self.bound * 100.0) } else { "".into() };
                format!("{}{percent} {direction}", number(by))
            }
        }
    }
}

/// Every clause of `contract`, judged.
pub fn judge(contract: &Contract, result: &RunResult) -> Vec<Clause> {
    let most = |what: &str, bound: f64, found: Option<f64>| Clause::new(None, what, bound, false, found);
    let mut clauses = vec![
        most("lost", contract.lost as f64, Some(result.lost as f64)),
        most("duplicated", contract.duplicated as f64, Some(result.duplicated as f64)),
        most("misdelivered", 0.0, Some(result.misdelivered as f64)),
    ];
    if let Some(refused) = contract.refused {
        let found = result.refused + result.doubtful;
        clauses.push(most("refused or without an answer", refused as f64, Some(found as f64)));
    }
    if let Some(rate) = contract.rate_per_s {
        clauses.push(match contract.window_s {
            Some(window) => {
                let what = format!("mails a second, over every {} s", round(window));
                Clause::new(None, what, rate, true, lowest_rate(&result.series, window))
            }
            None => Clause::new(None, "mails a second", rate, true, Some(result.rate_per_s)),
        });
    }
    let curves = &result.curves;
    for (what, ranks, latency, curve) in [
        ("acknowledged", &contract.ack_ms, &result.ack_ms, &curves.ack),
        ("first attempt", &contract.first_attempt_ms, &result.first_attempt_ms, &curves.first_attempt),
        ("delivered", &contract.delivery_ms, &result.delivery_ms, &curves.delivery),
    ] {
        // Of nothing delivered there is no latency, and a zero would keep any contract.
        let latency = (result.delivered > 0).then_some(latency);
        latencies(None, what, ranks, latency, curve, &mut clauses);
    }
    for (what, bound, found) in [
        ("CPU a mail, µs", contract.cpu_us_per_mail, result.cpu_us_per_mail),
        ("peak memory, MiB", contract.peak_rss_mb, result.peak_rss_mb),
    ] {
        clauses.extend(bound.map(|bound| most(what, bound, found)));
    }
    for (name, promised) in &contract.tenant {
        tenant(name, promised, result, &mut clauses);
    }
    clauses
}

fn tenant(name: &str, promised: &TenantContract, result: &RunResult, clauses: &mut Vec<Clause>) {
    let part = result.tenants.get(name);
    let lost = part.map(|part| part.lost as f64);
    clauses.push(Clause::new(Some(name), "lost", promised.lost as f64, false, lost));
    if let Some(rate) = promised.rate_per_s {
        clauses.push(Clause::new(Some(name), "mails a second", rate, true, part.map(|part| part.rate_per_s)));
    }
    let measured = part.filter(|part| part.delivered > 0);
    latencies(Some(name), "acknowledged", &promised.ack_ms, measured.map(|part| &part.ack_ms), &[], clauses);
    latencies(Some(name), "delivered", &promised.delivery_ms, measured.map(|part| &part.delivery_ms), &[], clauses);
    for (what, bound, loaded, alone) in [
        (
            "acknowledged p99, times that alone",
            promised.ack_p99_times_alone,
            measured.map(|part| part.ack_ms.p99),
            measured.and_then(|part| part.alone_ack_ms),
        ),
        (
            "delivered p99, times that alone",
            promised.delivery_p99_times_alone,
            measured.map(|part| part.delivery_ms.p99),
            measured.and_then(|part| part.alone_delivery_ms),
        ),
    ] {
        let Some(bound) = bound else { continue };
        let ratio = loaded.zip(alone).filter(|(_, alone)| alone.p99 > 0.0).map(|(loaded, alone)| loaded / alone.p99);
        clauses.push(Clause::new(Some(name), what, bound, false, ratio));
    }
}

fn latencies(
    tenant: Option<&str>,
    what: &str,
    ranks: &Ranks,
    latency: Option<&Latency>,
    curve: &[CurvePoint],
    clauses: &mut Vec<Clause>,
) {
    for (name, ceiling) in ranks {
        let found = latency.and_then(|latency| match Rank::parse(name)? {
            Rank::Max => Some(latency.max),
            Rank::Percentile(50.0) => Some(latency.p50),
            Rank::Percentile(99.0) => Some(latency.p99),
            // The next point of the curve: never less than the true value.
            Rank::Percentile(rank) => curve.iter().find(|point| point.percentile >= rank).map(|point| point.ms),
        });
        let what = format!("{what} {}, ms", name.replace('_', "."));
        clauses.push(Clause::new(tenant, what, *ceiling, false, found));
    }
}

/// The lowest rate of delivery over any `window` seconds while load was sent; `None` where the run is shorter.
fn lowest_rate(series: &[SeriesPoint], window: f64) -> Option<f64> {
    let width = series.get(1).map(|second| second.at_s - series[0].at_s).filter(|width| *width > 0.0)?;
    // The last stretch with load is a part of one.
    let loaded = series.iter().rposition(|point| point.sent_per_s > 0.0)?;
    let full = &series[..loaded];
    let stretches = ((window / width).round() as usize).max(1);
    let rates = full.windows(stretches).map(|part| {
        let sum: f64 = part.iter().map(|point| point.delivered_per_s).sum();
        sum / part.len() as f64
    });
    rates.min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::TenantResult;

    fn series(rates: &[f64]) -> Vec<SeriesPoint> {
        (0_u32..)
            .zip(rates)
            .map(|(second, rate)| SeriesPoint {
                at_s: f64::from(second),
                sent_per_s: *rate,
                delivered_per_s: *rate,
                ..SeriesPoint::default()
            })
            .collect()
    }

    fn contract(section: &str) -> Contract {
        Contract::of_plan(&format!("[sla]\n{section}")).expect("reads")
    }

    fn broken(contract: &Contract, result: &RunResult) -> Vec<String> {
        judge(contract, result).into_iter().filter(|clause| !clause.held).map(|clause| clause.what).collect()
    }

    #[test]
    fn nothing_may_be_lost_unless_that_is_allowed() {
        let result = RunResult { lost: 2, duplicated: 1, ..RunResult::default() };
        assert_eq!(broken(&contract(""), &result), ["lost", "duplicated"]);
        assert!(broken(&contract("lost = 2\nduplicated = 1"), &result).is_empty());
    }

    #[test]
    fn a_rate_holds_over_every_window_and_not_only_on_average() {
        let mut result = RunResult { rate_per_s: 100.0, series: series(&[100.0; 20]), ..RunResult::default() };
        result.series[10].delivered_per_s = 20.0;
        assert!(broken(&contract("rate_per_s = 90"), &result).is_empty());
        assert!(broken(&contract("rate_per_s = 90\nwindow_s = 10"), &result).is_empty());
        let clauses = judge(&contract("rate_per_s = 90\nwindow_s = 5"), &result);
        let clause = clauses.iter().find(|clause| !clause.held).expect("broken");
        assert_eq!(clause.found, Some(84.0));
        assert_eq!(clause.shortfall(), "6.00 (6.7%) too little");
    }

    #[test]
    fn a_window_longer_than_the_run_is_not_proven() {
        let result = RunResult { rate_per_s: 100.0, series: series(&[100.0; 5]), ..RunResult::default() };
        let clauses = judge(&contract("rate_per_s = 1\nwindow_s = 60"), &result);
        assert_eq!(clauses.last().map(Clause::shortfall).as_deref(), Some("not measured"));
    }

    #[test]
    fn ranks_between_are_read_from_the_curve() {
        let mut result = RunResult { delivered: 1, ..RunResult::default() };
        result.ack_ms = Latency { p50: 1.0, p99: 9.0, max: 40.0 };
        result.curves.ack = vec![CurvePoint { percentile: 99.5, ms: 12.0 }, CurvePoint { percentile: 99.95, ms: 30.0 }];
        assert!(broken(&contract("ack_ms = { p50 = 1, p99 = 9, p99_9 = 30, max = 40 }"), &result).is_empty());
        assert_eq!(broken(&contract("ack_ms = { p99_9 = 29 }"), &result), ["acknowledged p99.9, ms"]);
        assert_eq!(broken(&contract("ack_ms = { p99_99 = 99 }"), &result), ["acknowledged p99.99, ms"]);
    }

    #[test]
    fn a_run_that_delivered_nothing_keeps_no_latency() {
        assert_eq!(broken(&contract("ack_ms = { p99 = 10 }"), &RunResult::default()).len(), 1);
    }

    #[test]
    fn a_tenants_clause_names_it() {
        let latency = |p99| Latency { p50: 1.0, p99, max: p99 };
        let part = TenantResult {
            delivered: 10,
            delivery_ms: latency(30.0),
            alone_delivery_ms: Some(latency(10.0)),
            ..TenantResult::default()
        };
        let mut result = RunResult::default();
        result.tenants.insert("reserved".into(), part);
        let text = "[sla.tenant.reserved]\ndelivery_p99_times_alone = 2.0\n[sla.tenant.gone]\nrate_per_s = 1\n";
        let clauses = judge(&contract(text), &result);
        let broken: Vec<_> = clauses.iter().filter(|clause| !clause.held).collect();
        assert!(broken.iter().any(|clause| clause.tenant.as_deref() == Some("reserved") && clause.found == Some(3.0)));
        assert_eq!(broken.iter().filter(|clause| clause.tenant.as_deref() == Some("gone")).count(), 2);
    }
}
