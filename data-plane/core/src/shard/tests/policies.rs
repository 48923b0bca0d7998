//! Retry policies, routing rules and the classes of pools, over a shard driven by hand.

use super::*;

#[test]
fn the_next_attempt_comes_when_the_policy_in_force_then_says_so() {
    let policy = |first_s| RetryPolicy {
        name: "soon".to_owned(),
        selector: Selector { recipient_domain: Some("one.test".to_owned()), ..Selector::default() },
        delays: Some(RetryDelays { first_s, factor_percent: 100, longest_s: first_s }),
        expiry_s: None,
    };
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.publish(|content| content.retry_policies.push(policy(10)));
    let job = world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, Verdict::Transient, 451);
    world.ready(session);
    world.pass(Duration::from_secs(5));
    assert!(world.transact().is_none(), "ten seconds less a tenth are not over");
    world.publish(|content| content.retry_policies = vec![policy(1_000)]);
    world.pass(Duration::from_secs(6));
    let session = world.opened()[0];
    world.ready(session);
    let attempt = world.take(|output| match output {
        Output::Load { attempt, .. } => Some(*attempt),
        _ => None,
    });
    world.input(Input::Loaded { attempt: attempt.expect("what was said when it was deferred holds"), result: Ok(job) });
    let (session, transact) = world.transact().expect("the second attempt");
    world.outcome(session, &transact, Verdict::Transient, 451);
    world.pass(Duration::from_secs(800));
    assert!(world.opened().is_empty() && world.transact().is_none(), "the second delay is the new policy's");
    world.pass(Duration::from_secs(400));
    assert_eq!(world.opened().len(), 1);
}

#[test]
fn a_rule_about_a_site_is_applied_once_the_site_is_known() {
    let mut world = World::new(&["127.0.0.2", "127.0.0.3"], 0, 1);
    world.publish(|content| {
        let pool = |id, name: &str| EgressPool {
            id: PoolId(id),
            name: name.to_owned(),
            tenant: None,
            members: vec![PoolMember { source: SourceId(id), weight: 1 }],
            classes: Default::default(),
        };
        content.pools = vec![pool(1, "default"), pool(2, "big")];
        let selector = Selector { site: Some("mx.one.test".to_owned()), ..Selector::default() };
        content.routing_rules.push(RoutingRule { name: "big".to_owned(), selector, pool: PoolId(2) });
    });
    world.accept(&["a@one.test"]);
    world.accept(&["a@two.test"]);
    world.resolve();
    let mut opened = Vec::new();
    while let Some(plan) = world.take(|output| match output {
        Output::Open { plan, .. } => Some((plan.hosts.site.0.to_string(), plan.source)),
        _ => None,
    }) {
        opened.push(plan);
    }
    opened.sort();
    assert_eq!(opened, [("mx.one.test".to_owned(), SourceId(2)), ("mx.two.test".to_owned(), SourceId(1))]);
}

#[test]
fn work_of_another_shard_is_asked_for_its_pool_once_its_site_is_known() {
    let mut world = World::new(&["127.0.0.2", "127.0.0.3"], 1, 2);
    world.publish(|content| {
        content.pools[0].members.truncate(1);
        let big = EgressPool {
            id: PoolId(2),
            name: "big".to_owned(),
            members: vec![PoolMember { source: SourceId(2), weight: 1 }],
            ..content.pools[0].clone()
        };
        content.pools.push(big);
        let selector = Selector { site: Some("mx.one.test".to_owned()), ..Selector::default() };
        content.routing_rules.push(RoutingRule { name: "big".to_owned(), selector, pool: PoolId(2) });
    });
    for (address, is_sent) in [("a@one.test", true), ("a@two.test", false)] {
        let job = world.job(&[address]);
        let recipients = smallvec::smallvec![RecipientIndex(0)];
        let source = SourceId(2);
        let work =
            Work { origin: ShardId(0), group: 0, source, job, entry: 0, recipients, attempts: 0, is_recalled: false };
        world.input(Input::Hand(Box::new(work)));
        world.resolve();
        assert_eq!(world.opened().len(), usize::from(is_sent), "{address}");
        let back = world.take(|output| matches!(output, Output::HandBack { .. }).then_some(()));
        assert_eq!(back.is_none(), is_sent, "{address}");
    }
}

#[test]
fn what_is_ready_leaves_a_pool_that_is_not_its_own_any_more() {
    let mut world = World::new(&["127.0.0.2", "127.0.0.3"], 0, 1);
    let pool = |id, name: &str, tenant: Option<u32>| EgressPool {
        id: PoolId(id),
        name: name.to_owned(),
        tenant: tenant.map(TenantId),
        members: vec![PoolMember { source: SourceId(id), weight: 1 }],
        classes: Default::default(),
    };
    world.publish(|content| {
        content.pools = vec![pool(1, "default", None), pool(2, "own", Some(1))];
        content.domains[0].pool = Some(PoolId(2));
    });
    world.accept(&["a@one.test"]);
    world.resolve();
    let session = world.opened()[0];
    world.publish(|content| content.pools[1] = pool(2, "own", Some(2)));
    world.ready(session);
    assert!(world.transact().is_none(), "the pool is another tenant's now");
    let plan = world.take(|output| match output {
        Output::Open { plan, .. } => Some(plan.source),
        _ => None,
    });
    assert_eq!(plan, Some(SourceId(1)), "its domain's pool does not carry it, the default one does");
}

#[test]
fn mail_that_no_pool_carries_waits_until_one_does() {
    let mut world = World::new(&["127.0.0.2"], 0, 1);
    world.publish(|content| content.pools[0].classes = [TrafficClass::Marketing].into());
    world.accept(&["a@one.test"]);
    world.resolve();
    assert!(world.opened().is_empty());
    let queue = world.shard.queue_view(world.now);
    assert_eq!(queue.domains[0].reasons.keys().copied().collect::<Vec<_>>(), ["no_pool_for_class"]);
    world.publish(|content| content.pools[0].classes.clear());
    world.resolve();
    assert_eq!(world.opened().len(), 1);
}

#[test]
fn mail_that_a_change_lets_go_and_places_anew_goes_from_its_new_place() {
    let mut world = World::new(&["192.0.2.9", "192.0.2.10"], 0, 1);
    let place = |content: &mut SnapshotContent, source| {
        content.pools[0].members = vec![PoolMember { source: SourceId(source), weight: 1 }];
    };
    world.publish(|content| {
        place(content, 1);
        let rate = "1/h".parse().ok();
        content.shaping_rules = vec![postrail_schema::shaping::ShapingRule {
            id: postrail_schema::ids::ShapingRuleId(1),
            name: "slow".to_owned(),
            matches: Default::default(),
            connections: None,
            mails_per_connection: None,
            mail_rate: rate,
            connection_rate: None,
        }];
    });
    world.pass(Duration::from_secs(100));
    world.accept(&["a@one.test"]);
    let (session, transact) = world.reach_transaction();
    world.outcome(session, &transact, DELIVERED, 250);
    world.ready(session);
    world.accept(&["b@one.test"]);
    assert!(world.transact().is_none(), "the hour is not over, and a session rests");
    world.publish(|content| {
        content.shaping_rules.clear();
        place(content, 2);
    });
    assert!(world.transact().is_none(), "nothing leaves from the former address");
    let plan = world.take(|output| match output {
        Output::Open { plan, .. } => Some(plan.source),
        _ => None,
    });
    assert_eq!(plan, Some(SourceId(2)));
}
