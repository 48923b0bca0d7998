//! Load and receivers: what an SLA is proved with, and what `postrail demo` runs on.
//!
//! - [`run`]: a [`plan`] from start to [`result`], against a [`server`] that it starts or another one,
//! - [`source`]: load generators over SMTP and REST, by the clock (open loop) or as fast as answers come (closed loop),
//! - [`sink`]: scripted SMTP receivers behind a name server of their own,
//! - [`tally`]: every recipient is numbered, and accounted for from the planned time to the last delivery,
//! - [`processes`] and [`meter`]: what the measured processes or threads used,
//! - [`limit`]: what the machine can do at best,
//! - [`peers`]: other mail servers under the same plan,
//! - [`publication`]: how fast a change of configuration reaches many data planes,
//! - [`page`], [`compare`], [`sla`], [`history`]: what is done with results,
//! - [`sample`]: the mail that `limit` and the instruction counts take,
//! - [`report`]: the demo's summary.
//!
//! Invariants worth naming: a recipient's number is in its address, so that losses and duplicates are counted a
//! recipient and not a mail; latency counts from the planned time, so that a slow server cannot hide behind a load
//! generator that waits for it; load and receivers must stay cheap, since they share the machine with the server.

mod account;
mod clock;
pub mod compare;
mod figures;
pub mod history;
pub mod limit;
pub mod machine;
pub mod meter;
pub mod page;
pub mod peers;
pub mod plan;
pub mod processes;
pub mod publication;
pub mod report;
pub mod result;
pub mod run;
pub mod sample;
pub mod server;
pub mod sink;
pub mod sla;
pub mod source;
mod stream;
pub mod tally;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use crate::report::Summary;
    use crate::sink::{Behaviour, ReceiverPlan, Sink, SinkPlan};
    use crate::source::{Composer, Draw, Interface, Lane, Load, LoadPlan, Mix, Pace, Phase, Tls, run};
    use crate::stream;
    use crate::tally::Tally;

    const MAILS: u64 = 300;

    struct World {
        tally: Arc<Tally>,
        sink: Sink,
        load: LoadPlan,
    }

    impl World {
        async fn new(behaviour: Behaviour) -> Self {
            let tally = Tally::new(MAILS * 4);
            let mut plan = SinkPlan::default();
            plan.receivers = vec![ReceiverPlan { behaviour, ..plan.receivers[0].clone() }];
            let sink = Sink::start(plan, tally.clone()).await.expect("loopback ports are free");
            let domains = (0..10).map(|index| format!("d{index}.demo.test")).collect();
            let load = LoadPlan {
                interface: Interface::Smtp,
                target: ([127, 0, 0, 1], sink.port()).into(),
                tls: Tls::None,
                login: None,
                lane: Lane::ALL,
                connections: 4,
                composer: Arc::new(Composer::new(Mix::new("news@a.test", domains, Draw::even(1_000, 50_000)))),
            };
            Self { tally, sink, load }
        }

        async fn run(self, pace: Pace) -> (Summary, u64) {
            let phase = Phase { pace, until: None, recipients_max: Some(MAILS) };
            run(self.load, phase, self.tally.clone()).await;
            (Summary::new(&self.tally, None), self.sink.sessions())
        }
    }

    #[tokio::test]
    async fn a_load_sent_straight_to_a_sink_is_complete() {
        let (summary, sessions) = World::new(Behaviour::default()).await.run(Pace::Closed).await;
        assert!(summary.is_complete(), "{summary}");
        assert_eq!((summary.accepted, sessions), (MAILS, 4));
    }

    #[tokio::test]
    async fn a_load_over_starttls_is_complete() {
        let mut world = World::new(Behaviour { offers_starttls: true, ..Behaviour::default() }).await;
        world.load.tls = Tls::StartTls(stream::connector().expect("usable"));
        let (summary, _) = world.run(Pace::Closed).await;
        assert!(summary.is_complete(), "{summary}");
        assert_eq!(summary.accepted, MAILS);
    }

    #[tokio::test]
    async fn mails_of_several_recipients_arrive_for_each_of_them() {
        let mut world = World::new(Behaviour { reject_share: 0.1, ..Behaviour::default() }).await;
        let mix = Mix::new("news@a.test", vec!["d.demo.test".into()], Draw::Fixed(2_000));
        world.load.composer = Arc::new(Composer::new(Mix { recipients: Draw::Fixed(7), ..mix }));
        let tally = world.tally.clone();
        let (summary, _) = world.run(Pace::Closed).await;
        assert_eq!((summary.lost, summary.duplicated, summary.misdelivered, summary.sent), (0, 0, 0, MAILS));
        assert!(summary.refused > 0 && summary.refused == tally.counts().rejected, "{summary}");
    }

    #[tokio::test]
    async fn an_open_loop_keeps_to_its_rate_and_offers_again_what_is_deferred() {
        let behaviour = Behaviour { defer_share: 0.05, offers_pipelining: false, ..Behaviour::default() };
        let (summary, _) = World::new(behaviour).await.run(Pace::Open { rate_per_s: 1_000.0 }).await;
        assert!(summary.is_complete(), "{summary}");
        assert!(summary.seconds >= 0.28, "{summary}");
    }

    #[tokio::test]
    async fn a_rejected_share_is_refused_and_nothing_is_lost() {
        let world = World::new(Behaviour { reject_share: 0.5, ..Behaviour::default() }).await;
        let (summary, _) = world.run(Pace::Closed).await;
        assert!((100..200).contains(&summary.refused), "{summary}");
        assert_eq!((summary.lost, summary.sent), (0, MAILS));
    }

    #[tokio::test]
    async fn a_greylist_defers_everybody_once_and_takes_them_later() {
        let behaviour = Behaviour { greylist: Some(Duration::from_millis(50)), ..Behaviour::default() };
        let world = World::new(behaviour).await;
        let tally = world.tally.clone();
        let phase = Phase { pace: Pace::Closed, until: None, recipients_max: Some(8) };
        run(world.load, phase, tally.clone()).await;
        let counts = tally.counts();
        assert_eq!((counts.delivered, counts.accepted), (8, 8));
        assert!(counts.deferred >= 8, "{counts:?}");
    }

    #[tokio::test]
    async fn a_slow_receiver_delays_each_group_of_replies() {
        let behaviour = Behaviour { reply_delay: Duration::from_millis(5), ..Behaviour::default() };
        let world = World::new(behaviour).await;
        let tally = world.tally.clone();
        let phase = Phase { pace: Pace::Closed, until: None, recipients_max: Some(8) };
        run(world.load, phase, tally.clone()).await;
        assert_eq!(tally.counts().delivered, 8);
        assert!(tally.ack_ms().p50 >= 10.0, "{:?}", tally.ack_ms());
    }

    #[tokio::test]
    async fn a_passed_rate_closes_the_session_and_takes_no_more() {
        let behaviour = Behaviour { rate_per_minute_max: Some(10), closes_over_rate: true, ..Behaviour::default() };
        let (summary, sessions) = World::new(behaviour).await.run(Pace::Closed).await;
        assert_eq!((summary.accepted, summary.delivered, summary.lost), (10, 10, 0));
        assert!(summary.doubtful == MAILS - 10 && sessions > 4, "{summary}");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_turned_away() {
        let behaviour = Behaviour { connections_max: Some(2), ..Behaviour::default() };
        let mut world = World::new(behaviour).await;
        world.load.connections = 3;
        let tally = world.tally.clone();
        let load = Load::start(world.load, tally.clone());
        // By the clock and slowly: the two that are open stay open while the third is turned away.
        load.begin(Phase { pace: Pace::Open { rate_per_s: 100.0 }, until: None, recipients_max: Some(MAILS) });
        while tally.counts().doubtful == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        load.halt();
        idle(&load).await;
        assert_eq!((tally.counts().doubtful, tally.lost(), load.has_given_up()), (1, 0, false));
        assert!(world.sink.sessions() > 3);
    }

    #[tokio::test]
    async fn connections_stay_open_over_phases_and_a_halt_ends_one() {
        let World { tally, sink, load } = World::new(Behaviour::default()).await;
        let load = Load::start(load, tally.clone());
        let phase = Phase { pace: Pace::Closed, until: None, recipients_max: Some(MAILS) };
        for round in 0..2 {
            assert_eq!(load.begin(phase), round * MAILS);
            idle(&load).await;
            assert_eq!(load.position(), (round + 1) * MAILS);
        }
        load.begin(Phase { pace: Pace::Open { rate_per_s: 0.001 }, ..phase });
        load.halt();
        idle(&load).await;
        load.finish().await;
        assert!((2 * MAILS..=2 * MAILS + 1).contains(&tally.counts().accepted));
        assert_eq!(sink.sessions(), 4);
    }

    #[tokio::test]
    async fn a_bounded_load_waits_for_what_is_unsettled_and_a_halt_ends_that() {
        let World { tally, sink: _sink, load } = World::new(Behaviour::default()).await;
        let ahead = || 3 * MAILS..3 * MAILS + 5;
        ahead().for_each(|number| tally.plan(number, Instant::now()));
        let load = Load::start(load, tally.clone());
        let phase = Phase { pace: Pace::Bounded { unsettled_max: 5 }, until: None, recipients_max: Some(8) };
        load.begin(phase);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((load.position(), load.is_idle()), (0, false));
        load.halt();
        idle(&load).await;
        ahead().for_each(|number| tally.deliver(number, Instant::now()));
        load.begin(phase);
        idle(&load).await;
        assert_eq!((tally.counts().accepted, tally.counts().unsettled()), (8, 0));
        load.finish().await;
    }

    async fn idle(load: &Load) {
        while !load.is_idle() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_receiver_that_holds_turns_every_session_away_until_it_is_released() {
        let world = World::new(Behaviour { holds: true, ..Behaviour::default() }).await;
        let phase = Phase { pace: Pace::Closed, until: None, recipients_max: Some(1) };
        run(world.load.clone(), phase, world.tally.clone()).await;
        assert_eq!((world.tally.counts().doubtful, world.tally.counts().delivered), (1, 0));
        world.sink.release();
        let lane = Lane { first: 1, stride: 1 };
        run(LoadPlan { lane, ..world.load }, phase, world.tally.clone()).await;
        assert_eq!(world.tally.counts().delivered, 1);
    }
}
