//! Load and receivers: what an SLA is proved with, and what `postrail demo` runs on.
//!
//! - [`source`]: load generators over SMTP and REST, by the clock (open loop) or as fast as answers come (closed loop),
//! - [`sink`]: scripted SMTP receivers behind a name server of their own,
//! - [`tally`]: every recipient is numbered, and accounted for from the planned time to the last delivery,
//! - [`meter`]: the CPU time that the measured threads took,
//! - [`report`]: the summary,
//! - [`limit`]: what the machine can do at best,
//! - [`page`], [`compare`], [`sla`], [`history`]: what is done with results.
//!
//! Invariants worth naming: a recipient's number is in its address, so that losses and duplicates are counted a
//! recipient and not a mail; latency counts from the planned time, so that a slow server cannot hide behind a load
//! generator that waits for it. Deliberately absent: TLS, and the plans and peers of the bench product.

pub mod compare;
mod figures;
pub mod history;
pub mod limit;
pub mod machine;
pub mod meter;
pub mod page;
pub mod report;
pub mod result;
pub mod run;
pub mod sink;
pub mod sla;
pub mod source;
pub mod tally;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::report::Summary;
    use crate::sink::{Behaviour, ReceiverPlan, Sink, SinkPlan};
    use crate::source::{Composer, Interface, LoadPlan, Pace, run};
    use crate::tally::Tally;

    async fn straight(behaviour: Behaviour, pace: Pace) -> (Summary, u64) {
        let tally = Tally::new(300);
        let mut plan = SinkPlan::default();
        plan.receivers = vec![ReceiverPlan { behaviour, ..plan.receivers[0].clone() }];
        let sink = Sink::start(plan, tally.clone()).await.expect("loopback ports are free");
        let load = LoadPlan {
            interface: Interface::Smtp,
            target: ([127, 0, 0, 1], sink.port()).into(),
            login: None,
            numbers: 0..300,
            connections: 4,
            pace,
            composer: Arc::new(Composer::new("news@a.test", "demo.test", 10, 1_000..=50_000)),
        };
        run(load, tally.clone()).await;
        (Summary::new(&tally, None), sink.sessions())
    }

    #[tokio::test]
    async fn a_load_sent_straight_to_a_sink_is_complete() {
        let (summary, sessions) = straight(Behaviour::default(), Pace::Closed).await;
        assert!(summary.is_complete(), "{summary}");
        assert_eq!((summary.accepted, sessions), (300, 4));
    }

    #[tokio::test]
    async fn an_open_loop_keeps_to_its_rate_and_offers_again_what_is_deferred() {
        let behaviour = Behaviour { defer_share: 0.05, offers_pipelining: false, ..Behaviour::default() };
        let (summary, _) = straight(behaviour, Pace::Open { rate_per_s: 1_000.0 }).await;
        assert!(summary.is_complete(), "{summary}");
        assert!(summary.seconds >= 0.28, "{summary}");
    }

    #[tokio::test]
    async fn a_rejected_share_is_refused_and_nothing_is_lost() {
        let (summary, _) = straight(Behaviour { reject_share: 0.5, ..Behaviour::default() }, Pace::Closed).await;
        assert!((100..200).contains(&summary.refused), "{summary}");
        assert_eq!((summary.lost, summary.sent), (0, 300));
    }
}
