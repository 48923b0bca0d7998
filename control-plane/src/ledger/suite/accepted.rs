//! What was accepted, counted by day, tenant and host.

use super::*;

const A: JournalId = JOURNAL;
const B: JournalId = JournalId { host: HostId(2), ..JOURNAL };
const DAY: Day = Day(20_786);
const DAY_MS: u64 = 86_400_000;
/// In the midst of it.
const NOON: u64 = DAY.0 * DAY_MS + DAY_MS / 2;

fn accepted(tenant: u32, message: u128, at_ms: u64) -> Event {
    Event { tenant: TenantId(tenant), ..event(EventKind::Accepted, message, 0, at_ms) }
}

fn store(world: &World, journal: JournalId, events: &[Event]) {
    let begun = world.ledger.cursor(journal).unwrap();
    world.ledger.record(journal, begun, &Batch::of(events, 3), at(begun.offset + 1)).unwrap();
}

/// Tenant, host and recipients of what has grown on a day.
fn grown(world: &World, day: Day, tenant: Option<TenantId>, after: u64) -> Vec<(u32, u32, u64)> {
    let counts = world.ledger.accepted(day, tenant, after).unwrap();
    assert!(counts.iter().all(|count| count.day == day && count.sequence > after));
    let mut counts: Vec<_> = counts.iter().map(|count| (count.tenant.0, count.host.0, count.recipients)).collect();
    counts.sort_unstable();
    counts
}

pub(super) fn what_is_accepted_is_counted_by_day_tenant_and_host(mut world: World) {
    let last_ms = (DAY.0 + 1) * DAY_MS - 1;
    let many = (0..70).map(|index| event(EventKind::Accepted, 70, index, NOON));
    let other = |kind, message| Event { tenant: TenantId(2), ..event(kind, message, 0, NOON + 1) };
    let mut events = vec![accepted(1, 1, last_ms), accepted(1, 2, last_ms + 1), accepted(2, 3, DAY.0 * DAY_MS)];
    events.extend(many);
    // What becomes of it changes nothing, nor does a report that we make of it.
    events.extend([other(EventKind::Suppressed, 3), other(EventKind::Delivered, 3)]);
    let report = JobFacts { interface: "dsn".into(), recipients: 1, ..JobFacts::default() };
    events.push(Event { job: Some(report.into()), ..accepted(2, 4, NOON) });
    store(&world, A, &events);
    store(&world, B, &[accepted(1, 5, NOON), accepted(4_000_000_000, 6, NOON)]);
    world.reopen();
    assert_eq!(grown(&world, DAY, None, 0), [(1, 1, 71), (1, 2, 1), (2, 1, 1), (4_000_000_000, 2, 1)]);
    assert_eq!(grown(&world, Day(DAY.0 + 1), None, 0), [(1, 1, 1)]);
    assert_eq!(grown(&world, DAY, Some(TenantId(1)), 0), [(1, 1, 71), (1, 2, 1)]);
    assert_eq!(grown(&world, DAY, Some(TenantId(3)), 0), []);
}

pub(super) fn an_acceptance_is_counted_once_with_its_batch_or_not_at_all(mut world: World) {
    let first = [accepted(1, 1, NOON), accepted(1, 1, NOON), accepted(1, 2, NOON)];
    world.backend.fail_cursors(true);
    assert!(world.try_record(&first, 2).is_err());
    assert_eq!(grown(&world, DAY, None, 0), []);
    world.backend.fail_cursors(false);
    world.record(&first, 2);
    assert_eq!(grown(&world, DAY, None, 0), [(1, 1, 2)]);
    // A journal that is told again, as after a crash, and an acceptance that now says something else.
    world.reopen();
    let otherwise = Event { reason: "again".into(), ..accepted(1, 2, NOON) };
    world.record(&[accepted(1, 1, NOON), otherwise, accepted(1, 3, NOON)], 2);
    assert_eq!(grown(&world, DAY, None, 0), [(1, 1, 3)]);
    // Mail that moved: what its next host tells comes first, and the host that accepted it has it counted.
    store(&world, B, &[Event { tenant: TenantId(1), ..event(EventKind::Delivered, 4, 0, NOON + 5) }]);
    assert_eq!(grown(&world, DAY, None, 0), [(1, 1, 3)]);
    store(&world, A, &[accepted(1, 4, NOON)]);
    assert_eq!(grown(&world, DAY, None, 0), [(1, 1, 4)]);
}

pub(super) fn who_asks_again_is_told_what_has_grown_since_and_days_of_before_can_go(world: World) {
    store(&world, A, &[accepted(1, 1, NOON), accepted(2, 2, NOON), accepted(1, 3, NOON - DAY_MS)]);
    let newest = |counts: Vec<AcceptedCount>| counts.iter().map(|count| count.sequence).max().unwrap();
    let seen = newest(world.ledger.accepted(DAY, None, 0).unwrap());
    assert_eq!(grown(&world, DAY, None, seen), []);
    // Nothing of that day, and still something new.
    store(&world, A, &[accepted(1, 4, NOON - DAY_MS)]);
    assert_eq!(grown(&world, DAY, None, seen), []);
    store(&world, B, &[accepted(2, 5, NOON)]);
    assert_eq!(grown(&world, DAY, None, seen), [(2, 2, 1)]);
    world.ledger.forget_accepted(DAY.before()).unwrap();
    assert_eq!(grown(&world, DAY.before(), None, 0), [(1, 1, 2)]);
    world.ledger.forget_accepted(DAY).unwrap();
    assert_eq!(grown(&world, DAY.before(), None, 0), []);
    assert_eq!(grown(&world, DAY, None, 0), [(1, 1, 1), (2, 1, 1), (2, 2, 1)]);
}
