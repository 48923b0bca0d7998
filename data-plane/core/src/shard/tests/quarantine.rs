//! Mail in quarantine, over restarts and moves within the spool.

use super::*;

/// A shard that starts on the spool of another one, whose journal has `events`.
fn restarted(job: &Job, events: &[Event], progress: Vec<crate::spool::Carried>) -> World {
    let mut after = World::new(&["0.0.0.0"], 0, 1);
    events.iter().for_each(|event| after.input(Input::Replayed(event.into())));
    let meta =
        JobMeta { job: job.clone(), content_bytes: 3, progress, moved_from: None, bound_to: None, chunks: Vec::new() };
    after.input(Input::Recovered { meta: Box::new(meta), at: Location { segment: 1, offset: 0, bytes: 1 } });
    after.pass(Duration::from_millis(1));
    after
}

fn full_events(world: &mut World) -> Vec<Event> {
    let mut all = Vec::new();
    while let Some(events) = world.take(|output| match output {
        Output::Record(record) => Some(record.events.clone()),
        _ => None,
    }) {
        all.extend(events);
    }
    all
}

#[test]
fn mail_in_quarantine_waits_for_a_person_over_restarts_and_moves() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let job = Arc::new(Job { quarantined: true, ..(*world.job(&["a@one.test", "b@two.test"])).clone() });
    world.accept_job(job.clone());
    world.pass(Duration::from_secs(3_600));
    let accepted = full_events(&mut world);
    let kinds: Vec<_> = accepted.iter().map(|event| (event.kind, event.index.0)).collect();
    use EventKind::{Accepted, Quarantined};
    assert_eq!(kinds, [(Accepted, 0), (Quarantined, 0), (Accepted, 1), (Quarantined, 1)]);
    assert!(world.outputs.is_empty(), "nothing is looked up or sent: {:?}", world.outputs);
    let retried = world.shard.command(world.now, &Command::Retry(CommandTarget::All));
    assert_eq!((retried, world.quarantined()[0].recipients), (Ok(0), 2));

    // A restart, and one after compaction has moved the job, change nothing.
    let carried = world.shard.carried_state(world.now, job.id, 2);
    for progress in [Vec::new(), carried] {
        let held = restarted(&job, if progress.is_empty() { &accepted } else { &[] }, progress);
        assert_eq!(held.quarantined().len(), 1);
        assert!(!held.outputs.iter().any(|output| matches!(output, Output::Resolve { .. })));
    }

    assert_eq!(world.shard.command(world.now, &Command::Release(job.id)), Ok(2));
    world.input(Input::Timeout);
    let released = full_events(&mut world);
    assert!(
        released.iter().all(|event| event.kind == EventKind::Deferred && event.reason == "released_from_quarantine")
    );
    assert_eq!(world.outputs.iter().filter(|output| matches!(output, Output::Resolve { .. })).count(), 2);
    assert!(world.quarantined().is_empty());
    assert_eq!(world.shard.command(world.now, &Command::Release(job.id)), Ok(0), "it is released once");
    assert_eq!(world.shard.command(world.now, &Command::Drop(job.id)), Ok(0), "and is not in quarantine any more");
    let events = [accepted, released].concat();
    let carried = world.shard.carried_state(world.now, job.id, 2);
    for (events, progress) in [(&events[..], Vec::new()), (&[], carried)] {
        let free = restarted(&job, events, progress);
        assert!(free.quarantined().is_empty());
        assert!(free.outputs.iter().any(|output| matches!(output, Output::Resolve { .. })));
    }
}

#[test]
fn mail_in_quarantine_is_dropped_or_expires_like_other_mail() {
    for (drops, kind) in [(true, EventKind::Cancelled), (false, EventKind::Expired)] {
        let mut world = World::new(&["0.0.0.0"], 0, 1);
        let job = Arc::new(Job { quarantined: true, ..(*world.job(&["a@one.test"])).clone() });
        world.accept_job(job.clone());
        world.events();
        if drops {
            assert_eq!(world.shard.command(world.now, &Command::Drop(job.id)), Ok(1));
            world.input(Input::Timeout);
        } else {
            world.pass(Duration::from_secs(86_400));
        }
        assert_eq!(world.events(), [kind]);
        assert_eq!(world.shard.waiting(), 0);
    }
}

#[test]
fn mail_in_quarantine_is_paged_to_its_end_and_counted_by_tenant() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    for n in 0..25_u64 {
        let tenant = TenantId(if n % 5 == 0 { 2 } else { 1 });
        // Some expire together.
        let expires_at = world.now.wall + Duration::from_secs(3_600 - 60 * (n / 2));
        let job = Job { quarantined: true, tenant, expires_at, ..(*world.job(&["a@one.test"])).clone() };
        world.accept_job(Arc::new(job));
    }
    world.pass(Duration::from_secs(1));
    for (tenant, total) in [(None, 25), (Some(TenantId(1)), 20), (Some(TenantId(2)), 5), (Some(TenantId(3)), 0)] {
        let (mut jobs, mut after) = (Vec::new(), None);
        for _ in 0..10 {
            let page = world.shard.quarantine_view(&QuarantineQuery { tenant, after, jobs_max: 4 });
            assert_eq!(page.total, total, "whatever the page");
            let Some(last) = page.jobs.last() else { break };
            after = Some((Timestamp::from_unix_ms(last.expires_ms), last.job.parse().unwrap()));
            jobs.extend(page.jobs.into_iter().map(|job| (job.expires_ms, job.job)));
        }
        assert_eq!(jobs.len(), total);
        assert!(jobs.is_sorted_by(|a, b| a < b), "each once, the first to expire first: {jobs:?}");
    }
}
