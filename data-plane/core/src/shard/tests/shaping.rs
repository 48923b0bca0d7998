//! Scenarios of shaping rules: a receiver that answers at once, and what it saw when.

use postrail_schema::ids::{ProviderId, ShapingRuleId};
use postrail_schema::shaping::{Provider, ShapingMatch, ShapingRule};

use super::*;

/// What happened while time passed.
#[derive(Default)]
struct Seen {
    /// When a mail was begun, in milliseconds of virtual time, by recipient domain, campaign and class.
    mails: Vec<(u64, String, String, TrafficClass)>,
    /// Sessions by site, while they are open; and the most of each.
    open: std::collections::BTreeMap<u32, String>,
    most: std::collections::BTreeMap<String, usize>,
    opened: Vec<u64>,
}

impl Seen {
    fn at(&self, domain: &str) -> Vec<u64> {
        self.mails.iter().filter(|mail| mail.1 == domain).map(|mail| mail.0).collect()
    }

    fn of_campaign(&self, campaign: &str) -> Vec<u64> {
        self.mails.iter().filter(|mail| mail.2 == campaign).map(|mail| mail.0).collect()
    }
}

impl World {
    fn rule(&mut self, name: &str, matches: ShapingMatch, set: impl Fn(&mut ShapingRule)) {
        self.publish(|content| {
            content.shaping_rules.retain(|rule| rule.name != name);
            let id = ShapingRuleId(content.shaping_rules.iter().map(|rule| rule.id.0).max().unwrap_or(0) + 1);
            let mut rule = ShapingRule {
                id,
                name: name.to_owned(),
                matches,
                connections: None,
                mails_per_connection: None,
                mail_rate: None,
                connection_rate: None,
            };
            set(&mut rule);
            content.shaping_rules.push(rule);
        });
    }

    fn accept_of(&mut self, address: &str, campaign: &str, class: TrafficClass) {
        let mut job = (*self.job(&[address])).clone();
        (job.campaign, job.class) = (campaign.to_owned(), class);
        self.accept_job(Arc::new(job));
    }

    /// Answers everything that is asked: connections open in 20 ms, mails are taken in 20 ms.
    fn run(&mut self, seen: &mut Seen, time: Duration) {
        let step = Duration::from_millis(20);
        for _ in 0..time.as_millis() / step.as_millis() {
            self.resolve();
            while let Some((session, site)) = self.take(|output| match output {
                Output::Open { session, plan } => Some((*session, plan.hosts.site.to_string())),
                _ => None,
            }) {
                seen.opened.push(self.now.instant.nanos() / 1_000_000);
                seen.open.insert(session, site.clone());
                let now = seen.open.values().filter(|open| **open == site).count();
                let most = seen.most.entry(site).or_default();
                *most = now.max(*most);
                self.now.instant = self.now.instant + Duration::from_micros(1);
                self.ready(session);
            }
            while let Some((attempt, at)) = self.take(|output| match output {
                Output::Load { attempt, at } => Some((*attempt, *at)),
                _ => None,
            }) {
                let job = self.spool[&at.offset].clone();
                self.input(Input::Loaded { attempt, result: Ok(job) });
            }
            while let Some((session, transact)) = self.transact() {
                let recipient = &transact.job.recipients[usize::from(transact.recipients[0].0)];
                let domain = recipient.address.domain().to_string();
                let (campaign, class) = (transact.job.campaign.clone(), transact.job.class);
                seen.mails.push((self.now.instant.nanos() / 1_000_000, domain, campaign, class));
                self.outcome(session, &transact, DELIVERED, 250);
                self.ready(session);
            }
            while let Some(session) = self.take(|output| match output {
                Output::Quit { session } => Some(*session),
                _ => None,
            }) {
                seen.open.remove(&session);
                self.input(Input::Ended { session, end: SessionEnd::Done });
            }
            let until = self.now.instant + step;
            while self.shard.deadline() <= until {
                let due = self.shard.deadline().max(self.now.instant);
                self.pass(due.since(self.now.instant));
                if self.outputs.iter().any(|output| !matches!(output, Output::Record(_))) {
                    break;
                }
            }
            if self.outputs.iter().all(|output| matches!(output, Output::Record(_))) {
                self.pass(until.since(self.now.instant));
            }
        }
    }
}

fn site(host: &str) -> ShapingMatch {
    ShapingMatch { site: Some(host.to_owned()), ..ShapingMatch::default() }
}

fn rate(text: &str) -> Option<postrail_schema::shaping::Rate> {
    Some(text.parse().unwrap())
}

/// The most within any window.
fn most_in(times: &[u64], window_ms: u64) -> usize {
    times
        .iter()
        .map(|from| times.iter().filter(|at| (*from..*from + window_ms).contains(at)).count())
        .max()
        .unwrap_or(0)
}

const BULK: TrafficClass = TrafficClass::Marketing;

#[test]
fn a_throttle_of_a_site_holds_from_the_next_mail_on_and_leaves_other_sites_alone() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    let mut seen = Seen::default();
    world.rule("slow", site("one.test"), |rule| rule.mail_rate = rate("5/s"));
    for _ in 0..100 {
        world.accept(&["a@one.test"]);
        world.accept(&["a@two.test"]);
    }
    world.run(&mut seen, Duration::from_secs(4));
    assert_eq!(seen.at("two.test").len(), 100, "the other site is unaffected");
    let slow = seen.at("one.test");
    assert!((18..=21).contains(&slow.len()) && most_in(&slow, 1_000) <= 6, "{} {slow:?}", slow.len());
    let view = world.shard.queue_view(world.now);
    let domain = view.domains.iter().find(|row| row.domain == "one.test").unwrap();
    assert_eq!(domain.reasons["throttled"], domain.held_by["slow"]);
    assert!(domain.reasons["throttled"] + 1 >= domain.recipients, "one may be on its way");
    let path = view.paths.iter().find(|path| path.site == "mx.one.test").unwrap();
    assert_eq!((path.stopped, &path.held_by), (Some("throttled"), &vec!["slow".to_owned()]));
    let limit = path.limits.iter().find(|limit| limit.what == "mail_rate").unwrap();
    assert_eq!((limit.value.as_str(), limit.rule.as_deref()), ("5/s", Some("slow")));
    world.publish(|content| content.shaping_rules.clear());
    world.run(&mut seen, Duration::from_secs(1));
    assert_eq!(seen.at("one.test").len(), 100, "without the rule all goes at once");
}

#[test]
fn a_waiting_throttle_asks_for_no_time_before_its_next_mail() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    let mut seen = Seen::default();
    world.rule("slow", site("one.test"), |rule| rule.mail_rate = rate("1/h"));
    world.pass(Duration::from_secs(100));
    (0..3).for_each(|_| drop(world.accept(&["a@one.test"])));
    world.run(&mut seen, Duration::from_secs(1));
    assert_eq!(seen.at("one.test").len(), 1);
    let until = world.shard.deadline().since(world.now.instant);
    assert!(until > Duration::from_secs(3), "the idle connection, then nothing for an hour: {until:?}");
    world.run(&mut seen, Duration::from_secs(3_500));
    assert_eq!(seen.at("one.test").len(), 1);
    world.run(&mut seen, Duration::from_secs(120));
    assert_eq!(seen.at("one.test").len(), 2);
}

#[test]
fn a_mail_that_is_held_back_expires_in_time() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    let mut seen = Seen::default();
    world.rule("slow", site("one.test"), |rule| rule.mail_rate = rate("1/d"));
    world.rule("news", ShapingMatch { class: Some(BULK), ..ShapingMatch::default() }, |rule| {
        rule.mail_rate = rate("1/d")
    });
    for _ in 0..3 {
        world.accept(&["a@one.test"]);
        world.accept_of("a@two.test", "", BULK);
    }
    world.run(&mut seen, Duration::from_secs(90));
    assert_eq!((seen.mails.len(), world.shard.waiting()), (2, 4));
    world.pass(Duration::from_secs(86_400 - 90));
    world.pass(Duration::from_secs(31));
    let expired = world.events().iter().filter(|kind| **kind == EventKind::Expired).count();
    assert_eq!((expired, world.shard.waiting()), (4, 0));
}

#[test]
fn a_providers_limit_is_over_all_its_sites_and_each_has_its_turn() {
    let mut world = World::new(&["192.0.2.9", "192.0.2.10"], 0, 1);
    let mut seen = Seen::default();
    world.publish(|content| {
        content.pools[0].members.truncate(1);
        content.providers = vec![Provider { id: ProviderId(1), name: "p".to_owned(), hosts: vec![".test".to_owned()] }];
    });
    let provider = || ShapingMatch { provider: Some(ProviderId(1)), ..ShapingMatch::default() };
    world.rule("p", provider(), |rule| (rule.connections, rule.mails_per_connection) = (Some(2), Some(10)));
    for number in 0..40 {
        (0..30).for_each(|_| drop(world.accept(&["a@big.host.test"])));
        world.accept(&[&format!("a@{number}.host.test")]);
    }
    // The hosts that `resolve` gives have the domain's name.
    world.run(&mut seen, Duration::from_secs(4));
    assert_eq!((seen.mails.len(), world.shard.waiting()), (40 * 31, 0), "all have gone");
    assert!(seen.most.values().all(|most| *most <= 2), "{:?}", seen.most);
    assert!(seen.open.len() <= 2);
    let last_small = seen.mails.iter().rposition(|mail| mail.1 != "big.host.test").unwrap();
    assert!(last_small < 40 * 31 - 100, "one busy site did not keep the others from their turn: {last_small}");
}

#[test]
fn a_lower_limit_ends_connections_that_are_too_many_and_a_higher_one_opens_more() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    (0..50).for_each(|_| drop(world.accept(&["a@one.test"])));
    world.resolve();
    let sessions = world.opened();
    assert_eq!(sessions.len(), 10);
    world.rule("few", site("one.test"), |rule| rule.connections = Some(3));
    for session in &sessions {
        world.ready(*session);
    }
    let quits = world.outputs.iter().filter(|output| matches!(output, Output::Quit { .. })).count();
    assert_eq!(quits, 10, "as long as there are too many each that asks has to go");
    for session in sessions {
        world.input(Input::Ended { session, end: SessionEnd::Done });
    }
    world.outputs.retain(|output| !matches!(output, Output::Quit { .. }));
    assert_eq!(world.opened().len(), 3);
    world.rule("few", site("one.test"), |rule| rule.connections = Some(25));
    assert_eq!(world.opened().len(), 22, "at once, and beyond the default");
}

#[test]
fn connections_are_begun_at_their_rate_and_carry_so_many_mails() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    let mut seen = Seen::default();
    world.rule("shy", site("one.test"), |rule| {
        (rule.connection_rate, rule.mails_per_connection) = (rate("2/s"), Some(5));
    });
    (0..100).for_each(|_| drop(world.accept(&["a@one.test"])));
    world.run(&mut seen, Duration::from_secs(5));
    assert!(most_in(&seen.opened, 1_000) <= 3 && seen.opened.len() >= 8, "{:?}", seen.opened);
    assert!(seen.mails.len() <= 5 * seen.opened.len() && seen.mails.len() >= 40, "{}", seen.mails.len());
}

#[test]
fn a_campaign_is_throttled_over_all_sites_and_other_mail_of_its_tenant_is_not() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    let mut seen = Seen::default();
    for number in 0..60 {
        world.accept_of(&format!("a@{}.test", number % 6), "news", BULK);
        world.accept_of(&format!("a@{}.test", number % 6), "alerts", TrafficClass::Transactional);
    }
    let campaign =
        ShapingMatch { tenant: Some(TenantId(1)), campaign: Some("news".to_owned()), ..ShapingMatch::default() };
    world.rule("news", campaign, |rule| rule.mail_rate = rate("10/s"));
    world.run(&mut seen, Duration::from_secs(2));
    assert_eq!(seen.of_campaign("alerts").len(), 60);
    let news = seen.of_campaign("news");
    assert!((15..=21).contains(&news.len()) && most_in(&news, 1_000) <= 11, "{} {news:?}", news.len());
    let view = world.shard.queue_view(world.now);
    let held: usize = view.domains.iter().map(|row| row.held_by.get("news").copied().unwrap_or_default()).sum();
    assert!((60 - news.len() - 1..=60 - news.len()).contains(&held), "{held} held, {} gone", news.len());
    assert_eq!(view.domains.len(), 6, "each site has its turn: {:?}", seen.mails.len());
    world.run(&mut seen, Duration::from_secs(5));
    assert_eq!(seen.of_campaign("news").len(), 60);
    assert_eq!(world.shard.waiting(), 0);
}

#[test]
fn a_throttled_tenants_urgent_mail_comes_before_its_bulk() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    let mut seen = Seen::default();
    let tenant = ShapingMatch { tenant: Some(TenantId(1)), ..ShapingMatch::default() };
    world.rule("t", tenant, |rule| rule.mail_rate = rate("10/s"));
    (0..200).for_each(|_| world.accept_of("a@one.test", "bulk", BULK));
    world.run(&mut seen, Duration::from_secs(2));
    (0..5).for_each(|_| world.accept_of("a@one.test", "urgent", TrafficClass::Transactional));
    let before = seen.mails.len();
    world.run(&mut seen, Duration::from_secs(1));
    let urgent = seen.of_campaign("urgent");
    assert_eq!(urgent.len(), 5, "{before} of {}: {urgent:?}", seen.mails.len());
}

/// Another shard hands over its group's mail to one recipient.
fn hand(world: &mut World, group: u32, job: Arc<Job>) {
    let (origin, source, recipients) = (ShardId(1), SourceId(1), smallvec::smallvec![RecipientIndex(0)]);
    let work = Work { origin, group, source, job, entry: 0, recipients, attempts: 0, is_recalled: false };
    world.input(Input::Hand(Box::new(work)));
    world.resolve();
}

#[test]
fn of_what_another_shard_hands_over_little_waits_here() {
    let mut world = World::new(&["192.0.2.9"], 0, 2);
    world.rule("slow", site("one.test"), |rule| rule.mail_rate = rate("1/min"));
    for group in 0..100 {
        let job = world.job(&["a@one.test"]);
        hand(&mut world, group, job);
    }
    let mut waits = Vec::new();
    while let Some(back) = world.take(|output| match output {
        Output::HandBack { back, .. } => Some(back.clone()),
        _ => None,
    }) {
        let HandResult::Wait { reason: WaitReason::Throttled, nanos, .. } = back.result else { panic!("{back:?}") };
        waits.push(nanos / 1_000_000_000);
    }
    assert_eq!(waits.len(), 100 - 16);
    assert_eq!((waits[0], waits[1], waits[83]), (16 * 60, 17 * 60, 99 * 60), "each has a time of its own");
}

#[test]
fn what_is_reserved_does_not_go_home_behind_a_flood_that_another_shard_hands_over() {
    let mut world = World::new(&["192.0.2.9"], 0, 2);
    world.rule("slow", site("one.test"), |rule| rule.mail_rate = rate("1/min"));
    reserve(&mut world, 50);
    for group in 0..200 {
        let job = world.job(&["a@one.test"]);
        let job = if group < 100 { job } else { Arc::new(of_reserved(&job)) };
        hand(&mut world, group, job);
    }
    let mut waits = Vec::new();
    while let Some(back) = world.take(|output| match output {
        Output::HandBack { back, .. } if back.group >= 100 => Some(back.clone()),
        _ => None,
    }) {
        let HandResult::Wait { reason: WaitReason::Throttled, nanos, .. } = back.result else { panic!("{back:?}") };
        waits.push(nanos / 1_000_000_000 / 60);
    }
    assert_eq!(waits.len(), 100 - 16, "as many stay as of the flood");
    assert_eq!((waits[0], waits[83]), (16, 99), "and none of the others waits behind the flood");
}

#[test]
fn what_is_reserved_goes_ahead_of_what_a_rule_about_mail_holds_back() {
    let mut world = World::new(&["192.0.2.9"], 0, 1);
    let mut seen = Seen::default();
    reserve(&mut world, 3);
    let class = TrafficClass::Transactional;
    world.rule("all", ShapingMatch { class: Some(class), ..ShapingMatch::default() }, |rule| {
        rule.mail_rate = rate("10/s");
    });
    (0..200).for_each(|_| world.accept_of("a@one.test", "flood", class));
    world.run(&mut seen, Duration::from_secs(1));
    for _ in 0..5 {
        let job = of_reserved(&world.job(&["b@one.test"]));
        world.accept_job(Arc::new(Job { campaign: "reserved".to_owned(), class, ..job }));
    }
    world.run(&mut seen, Duration::from_secs(1));
    assert_eq!(seen.of_campaign("reserved").len(), 3, "what is reserved, and no more");
}
