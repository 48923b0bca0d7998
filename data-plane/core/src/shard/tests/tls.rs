//! TLS rules over a shard driven by hand: lanes, what they share, and what is told of a demand that is not met.

use postrail_schema::tls::{TlsLevel, TlsPolicy, TlsRule, TlsVersion};

use super::*;
use crate::mail::TlsFacts;

fn rule(name: &str, selector: Selector, level: TlsLevel) -> TlsRule {
    TlsRule { name: name.to_owned(), selector, level, minimum_version: TlsVersion::V1_2, hosts: Vec::new() }
}

fn letters() -> Selector {
    Selector { class: Some(TrafficClass::Marketing), ..Selector::default() }
}

impl World {
    fn accept_class(&mut self, address: &str, class: TrafficClass) {
        let mut job = (*self.job(&[address])).clone();
        job.class = class;
        self.accept_job(Arc::new(job));
    }

    /// Sessions that are to be opened, with the level that their connections have to meet.
    fn opened_levels(&mut self) -> Vec<(u32, TlsLevel)> {
        let opened = |output: &Output| match output {
            Output::Open { session, plan } => Some((*session, plan.tls.level)),
            _ => None,
        };
        std::iter::from_fn(|| self.take(opened)).collect()
    }

    fn ready_in_tls(&mut self, session: u32) {
        let facts = TlsFacts { version: "TLSv1.3".into(), cipher: "x".into(), verified: true };
        self.ready_over(session, false, Some(facts));
    }

    fn fail_tls(&mut self, session: u32) {
        let end = SessionEnd::Failed {
            scope: Scope::Site,
            verdict: Verdict::Transient,
            phase: Phase::StartTls,
            reply: crate::egress::Fault::TlsUnavailable.reply("the receiver does not offer STARTTLS"),
            host: None,
            address: None,
        };
        self.input(Input::Ended { session, end });
    }

    fn deferrals(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(events) = self.take(|output| match output {
            Output::Record(record) => Some(record.events.clone()),
            _ => None,
        }) {
            let deferred = events.into_iter().filter(|event| event.kind == EventKind::Deferred);
            texts.extend(deferred.map(|event| format!("{} {}", event.reason, event.attempt.unwrap_or_default().reply)));
        }
        texts
    }
}

#[test]
fn mail_of_different_demands_to_one_site_never_shares_a_connection() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.publish(|content| content.tls_rules.push(rule("letters", letters(), TlsLevel::Verified)));
    world.accept_class("a@one.test", TrafficClass::Marketing);
    world.accept_class("b@one.test", TrafficClass::Transactional);
    world.resolve();
    let opened = world.opened_levels();
    assert_eq!(opened.iter().map(|one| one.1).collect::<Vec<_>>(), [TlsLevel::Verified, TlsLevel::Opportunistic]);
    world.ready(opened[1].0);
    let (session, transact) = world.transact().expect("mail without a demand");
    assert_eq!((session, transact.job.class), (opened[1].0, TrafficClass::Transactional));
    world.outcome(session, &transact, DELIVERED, 250);
    world.ready(session);
    assert!(world.transact().is_none(), "what demands more waits for its own connection");
    world.ready_in_tls(opened[0].0);
    assert_eq!(world.transact().expect("its own").1.job.class, TrafficClass::Marketing);
}

#[test]
fn a_demand_that_is_not_met_defers_its_mail_by_name_and_no_other() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.publish(|content| content.tls_rules.push(rule("letters", letters(), TlsLevel::Required)));
    world.accept_class("a@one.test", TrafficClass::Marketing);
    world.accept_class("b@one.test", TrafficClass::Transactional);
    world.resolve();
    let opened = world.opened_levels();
    world.fail_tls(opened[0].0);
    let told =
        "tls_unavailable tls_unavailable: the receiver does not offer STARTTLS; TLS rule letters demands required TLS";
    assert_eq!(world.deferrals(), [told]);
    world.ready(opened[1].0);
    assert!(world.transact().is_some(), "the lane of a demand fails alone");
    world.accept_class("c@one.test", TrafficClass::Marketing);
    assert!(world.opened_levels().is_empty(), "it backs off");
    let view = world.shard.queue_view(world.now);
    assert_eq!(view.domains[0].tls_rules.get("letters"), Some(&2));
    assert!(view.paths.iter().any(|path| path.tls.as_deref() == Some("required TLS") && path.stopped.is_some()));
}

#[test]
fn a_rule_that_comes_holds_for_what_is_ready_and_for_what_is_being_read() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.accept(&["a@one.test"]);
    world.accept(&["b@one.test"]);
    world.resolve();
    let opened = world.opened_levels();
    world.publish(|content| content.tls_rules.push(rule("all", Selector::default(), TlsLevel::Required)));
    for (session, level) in &opened {
        assert_eq!(*level, TlsLevel::Opportunistic);
        world.ready(*session);
        assert!(world.transact().is_none(), "no mail under a demand goes in plaintext");
    }
    let levels: Vec<_> = world.opened_levels().iter().map(|one| one.1).collect();
    assert!(!levels.is_empty() && levels.iter().all(|level| *level == TlsLevel::Required));
    world.publish(|content| content.tls_rules.clear());
    world.resolve();
    let plain = world.opened_levels().into_iter().find(|one| one.1 == TlsLevel::Opportunistic);
    let idle = world.transact();
    assert!(plain.is_some() || idle.is_some(), "without the rule it goes as before");
}

#[test]
fn the_lanes_of_a_path_have_its_connections_together() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    world.publish(|content| content.tls_rules.push(rule("letters", letters(), TlsLevel::Required)));
    for number in 0..8 {
        world.accept_class(&format!("a{number}@one.test"), TrafficClass::Marketing);
    }
    for number in 0..8 {
        world.accept_class(&format!("b{number}@one.test"), TrafficClass::Transactional);
    }
    world.resolve();
    let opened = world.opened_levels();
    assert_eq!(opened.len(), postrail_schema::limits::PATH_CONNECTIONS_MAX);
    let ends = |level| opened.iter().find(|one| one.1 == level).expect("both lanes have some").0;
    let session = ends(TlsLevel::Required);
    world.ready_in_tls(session);
    let (_, transact) = world.transact().expect("a mail");
    world.outcome(session, &transact, DELIVERED, 250);
    world.input(Input::Ended { session, end: SessionEnd::Done });
    assert_eq!(world.opened_levels().iter().map(|one| one.1).collect::<Vec<_>>(), [TlsLevel::Opportunistic]);
}

#[test]
fn no_connection_is_made_to_a_host_that_a_rule_does_not_allow() {
    let mut world = World::new(&["0.0.0.0"], 0, 1);
    let pinned = |hosts: &str| TlsRule {
        hosts: vec![hosts.to_owned()],
        ..rule("pinned", Selector::default(), TlsLevel::Verified)
    };
    world.publish(|content| content.tls_rules.push(pinned(".other.test")));
    world.accept(&["a@one.test"]);
    world.resolve();
    assert!(world.opened_levels().is_empty());
    let told = "tls_unavailable tls_unavailable: none of the MX hosts is allowed: one.test; \
                TLS rule pinned demands verified TLS of a host in .other.test";
    assert_eq!(world.deferrals(), [told]);
    world.publish(|content| content.tls_rules = vec![pinned("one.test")]);
    world.accept(&["b@one.test"]);
    assert_eq!(world.opened_levels().len(), 1);
}

#[test]
fn of_the_hosts_of_a_site_only_those_that_a_policy_allows_are_connected_to_even_if_none_is_left() {
    let host = |name: &str| MailHost { name: Domain::parse(name).unwrap(), preference: 10, addresses: Vec::new() };
    let hosts = vec![host("a.one.test"), host("b.two.test")];
    let expires = Instant::ZERO;
    let site = Rc::new(MailHosts { site: SiteName("mx".into()), hosts, secure: false, expires });
    for (pattern, wanted) in
        [(".one.test", &["a.one.test"][..]), (".test", &["a.one.test", "b.two.test"]), ("x.test", &[])]
    {
        let policy =
            TlsPolicy { level: TlsLevel::Verified, hosts: vec![vec![pattern.to_owned()]], ..TlsPolicy::default() };
        let allowed = super::super::tls::allowed_hosts(&policy, &site);
        assert_eq!(allowed.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), wanted);
    }
}
