//! The resolver against scripted servers in memory: whole lookups, virtual time, no sockets.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use postrail_schema::limits::{
    CNAME_CHAIN_MAX, DNS_LOOKUPS_MAX, DNS_QUERIES_MAX, DNS_SERVER_REST, DNS_STRAYS_MAX, DNS_TTL_MAX, DNS_TTL_MIN,
    HOST_ADDRESSES_MAX, MX_HOSTS_MAX,
};
use proptest::prelude::*;

use super::*;
use crate::base::Random;

const ZONE: &str = "
    example.org 300 MX 20 backup.example.org
    example.org 300 MX 10 mx.example.org
    mx.example.org 600 A 192.0.2.1
    mx.example.org 600 AAAA 2001:db8::1
    backup.example.org 900 A 192.0.2.2
    plain.example 60 A 192.0.2.3
    null.example 60 MX 0 .
    nowhere.example 60 MX 10 missing.example.org
    inside.example 60 MX 10 inner.example
    inner.example 60 A 10.0.0.1
    inner.example 60 AAAA ::1
    empty.example 60 NS ns.example.org
    odd.example 60 MX 10 not!a!host
    odd.example 60 MX 20 [192.0.2.1]
    loop.example 60 MX 10 post.rail
    below.example 60 MX 10 mx.example.org
    below.example 60 MX 20 post.rail
    below.example 60 MX 20 backup.example.org
    below.example 60 MX 30 plain.example
    address.example 60 MX 10 here.example
    here.example 60 A 198.51.100.9
    alias.example 60 CNAME example.org
    host-alias.example 60 MX 10 www.example.org
    www.example.org 30 CNAME mx.example.org
    twin.example 60 MX 5 mx.example.org
    twin.example 60 MX 5 backup.example.org
    ring.example 60 CNAME gnir.example
    gnir.example 60 CNAME ring.example
";

#[test]
fn hosts_come_sorted_by_preference_with_both_families() {
    let hosts = World::new().ask("example.org").unwrap();
    assert_eq!(
        shown(&hosts),
        "backup.example.org,mx.example.org: \
         10 mx.example.org [2001:db8::1, 192.0.2.1]; 20 backup.example.org [192.0.2.2]"
    );
}

#[test]
fn a_domain_without_mx_is_its_own_mail_host() {
    let hosts = World::new().ask("plain.example").unwrap();
    assert_eq!(shown(&hosts), "plain.example: 0 plain.example [192.0.2.3]");
}

#[test]
fn aliases_are_followed_for_domains_and_for_hosts() {
    let mut world = World::new();
    let (alias, real) = (world.ask("alias.example").unwrap(), world.ask("example.org").unwrap());
    assert_eq!((&alias.site, &alias.hosts), (&real.site, &real.hosts));
    let hosts = world.ask("host-alias.example").unwrap();
    assert_eq!(shown(&hosts), "www.example.org: 10 www.example.org [2001:db8::1, 192.0.2.1]");
}

#[test]
fn the_target_of_an_alias_is_asked_for_where_the_answer_stops_there() {
    let mut world = World::new();
    world.server = Box::new(|sent| match sent.name.as_str() {
        "alias.example." => vec![sent.reply(&[record("alias.example", 60, cname("example.org"))])],
        _ => zone(sent),
    });
    assert_eq!(world.ask("alias.example").unwrap().hosts.len(), 2);
    world.server = Box::new(|sent| {
        let number: u32 = sent.name.trim_start_matches('n').trim_end_matches(".example.").parse().unwrap();
        let target = cname(&format!("n{}.example", number + 1));
        vec![sent.reply(&[record(&format!("n{number}.example"), 60, target)])]
    });
    let before = world.asked;
    assert_eq!(world.ask("n1.example").unwrap_err().status(), "4.4.3");
    assert_eq!(world.asked - before, CNAME_CHAIN_MAX + 1, "a chain of aliases is bounded");
}

#[test]
fn domains_without_mail_hosts_say_why() {
    for (domain, failure) in [
        ("missing.example", DnsFailure::NoSuchDomain),
        ("null.example", DnsFailure::NullMx),
        ("nowhere.example", DnsFailure::NoAddress),
        ("empty.example", DnsFailure::NoAddress),
        ("odd.example", DnsFailure::NoAddress),
        ("inside.example", DnsFailure::Forbidden),
        ("loop.example", DnsFailure::Loop),
        ("address.example", DnsFailure::Loop),
        ("[10.0.0.1]", DnsFailure::Forbidden),
        ("[IPv6:::1]", DnsFailure::Forbidden),
        ("[198.51.100.9]", DnsFailure::Loop),
    ] {
        let result = World::new().ask(domain);
        assert_eq!(result, Err(failure), "{domain}");
        assert!(result.unwrap_err().is_permanent());
    }
    let endless = World::new().ask("ring.example").unwrap_err();
    assert!(!endless.is_permanent(), "{endless}");
}

#[test]
fn our_own_host_drops_equal_and_worse_preferences() {
    let hosts = World::new().ask("below.example").unwrap();
    assert_eq!(shown(&hosts), "mx.example.org: 10 mx.example.org [2001:db8::1, 192.0.2.1]");
}

#[test]
fn private_addresses_are_answered_where_the_rule_allows() {
    let mut world = World::new();
    world.rule = HostRule { allow_private: true };
    assert_eq!(shown(&world.ask("inside.example").unwrap()), "inner.example: 10 inner.example [::1, 10.0.0.1]");
    assert_eq!(shown(&world.ask("[127.0.0.1]").unwrap()), "[127.0.0.1]: 0 [127.0.0.1] [127.0.0.1]");
    assert!(world.ask("address.example").is_ok());
}

#[test]
fn equal_mx_sets_share_a_site_and_long_ones_are_hashed() {
    let mut world = World::new();
    assert_eq!(world.ask("twin.example").unwrap().site, world.ask("example.org").unwrap().site);
    world.server = Box::new(|sent| {
        if sent.kind != RecordType::MX {
            return vec![sent.reply(&[record(sent.name.trim_end_matches('.'), 60, a("192.0.2.1"))])];
        }
        let last = if sent.name.starts_with("other") { 30 } else { 12 };
        let host = |n: u32| {
            let name = Name::from_ascii(format!("a-rather-long-host-name-{n:02}.example.")).unwrap();
            record(sent.name.trim_end_matches('.'), 60, RData::MX(MX::new(n as u16, name)))
        };
        let mut records: Vec<Record> = (0..last).map(host).collect();
        if sent.name.starts_with("turned") {
            records.reverse();
        }
        vec![sent.reply(&records)]
    });
    let long = world.ask("long.example").unwrap();
    assert!(long.site.as_str().starts_with("a-rather-long-host-name-00.example+11-"), "{}", long.site);
    assert_eq!(world.ask("turned.example").unwrap().site, long.site);
    let other = world.ask("other.example").unwrap();
    assert_ne!(other.site, long.site);
    assert_eq!(other.hosts.len(), MX_HOSTS_MAX);
}

#[test]
fn a_host_that_fails_for_now_does_not_stop_the_others() {
    let mut world = World::new();
    world.server = Box::new(|sent| match sent.name.as_str() {
        "mx.example.org." => vec![sent.error(ResponseCode::ServFail)],
        _ => zone(sent),
    });
    let hosts = world.ask("example.org").unwrap();
    assert_eq!(hosts.hosts.len(), 1);
    assert_eq!(hosts.expires, world.now + DNS_TTL_MIN, "it is asked again soon");
    world.server = Box::new(|sent| match sent.kind {
        RecordType::MX => zone(sent),
        _ => vec![sent.error(ResponseCode::ServFail)],
    });
    world.now = world.now + Duration::from_secs(1_000);
    let failure = world.ask("example.org").unwrap_err();
    assert_eq!(failure.to_string(), "name resolution failed: the name server failed (SERVFAIL)");
}

#[test]
fn a_truncated_answer_is_asked_again_by_tcp() {
    let mut world = World::new();
    world.server = Box::new(|sent| if sent.over_tcp { zone(sent) } else { vec![sent.truncated()] });
    assert_eq!(world.ask("example.org").unwrap().hosts.len(), 2);
    world.server = Box::new(|sent| vec![sent.truncated()]);
    assert!(!world.ask("plain.example").unwrap_err().is_permanent());
}

#[test]
fn a_silent_server_gives_way_to_the_next_and_rests() {
    let mut world = World::new();
    world.server = Box::new(|sent| if sent.server.port() == 1 { Vec::new() } else { zone(sent) });
    let before = world.now;
    assert!(world.ask("example.org").is_ok());
    assert_eq!(world.now.since(before), Duration::from_secs(4), "a timeout for the MX, one for the addresses");
    assert!(world.ask("plain.example").is_ok());
    assert_eq!(world.now.since(before), Duration::from_secs(4), "it rests after three strikes");
    world.now = world.now + DNS_SERVER_REST;
    world.server = Box::new(|sent| {
        assert_eq!(sent.server.port(), 1, "it is the first again");
        zone(sent)
    });
    assert!(world.ask("twin.example").is_ok());
    world.server = Box::new(|_| Vec::new());
    let before = world.now;
    let failure = world.ask("missing.example").unwrap_err();
    assert_eq!(failure.reason(), "name resolution failed: no name server answered in time");
    assert_eq!(world.now.since(before), Duration::from_secs(3 * 2), "three attempts");
}

#[test]
fn a_server_that_answers_with_errors_stays_the_first() {
    let mut world = World::new();
    world.server = Box::new(|sent| vec![sent.error(ResponseCode::ServFail)]);
    for number in 0..9 {
        assert!(world.ask(&format!("broken{number}.example")).is_err());
    }
    world.server = Box::new(|sent| {
        assert_eq!(sent.server.port(), 1);
        zone(sent)
    });
    assert!(world.ask("example.org").is_ok());
}

#[test]
fn a_server_without_edns_is_asked_without() {
    let mut world = World::new();
    world.server = Box::new(|sent| if sent.edns { vec![sent.bare(ResponseCode::FormErr)] } else { zone(sent) });
    assert!(world.ask("example.org").is_ok());
    world.server = Box::new(|sent| vec![sent.bare(ResponseCode::NotImp)]);
    assert!(!world.ask("plain.example").unwrap_err().is_permanent());
}

#[test]
fn what_does_not_answer_the_question_changes_nothing() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        let good = zone(sent).remove(0);
        let forged = sent.reply(&[record(sent.name.trim_end_matches('.'), 60, a("203.0.113.66"))]);
        let (mut other_id, mut other_name, mut other_type) = (forged.clone(), forged.clone(), forged.clone());
        other_id[1] ^= 1;
        other_name[13] ^= 1;
        other_type[12 + sent.name.len() + 2] ^= 0x40;
        vec![vec![], vec![0; 12], other_id, other_name, other_type, sent.wire.clone(), good]
    });
    let hosts = world.ask("example.org").unwrap();
    assert!(!shown(&hosts).contains("203.0.113.66"), "{}", shown(&hosts));
    assert_eq!(world.asked, 5, "MX, and A and AAAA of two hosts, once each");
}

#[test]
fn names_are_compared_without_regard_to_case() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        let mut bytes = zone(sent).remove(0);
        bytes[12..12 + sent.name.len() + 1].make_ascii_uppercase();
        vec![bytes]
    });
    let hosts = world.ask("example.org").unwrap();
    assert_eq!(hosts.hosts[0].name.as_str(), "mx.example.org");
}

#[test]
fn an_answer_that_promises_more_than_it_has_is_an_error() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        let mut bytes = zone(sent).remove(0);
        bytes[6..12].fill(0xff);
        vec![bytes]
    });
    let reason = world.ask("example.org").unwrap_err().reason();
    assert_eq!(reason, "name resolution failed: the answer promises more records than it has");
}

#[test]
fn under_a_flood_of_forgeries_the_question_goes_to_tcp() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        let forged = vec![vec![0; 40]; DNS_STRAYS_MAX as usize + 1];
        if sent.over_tcp { zone(sent) } else { forged }
    });
    assert!(world.ask("example.org").is_ok());
    assert_eq!(world.asked, 10);
}

#[test]
fn records_beside_the_question_are_not_believed() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        if sent.kind == RecordType::MX {
            let mut message = Message::from_vec(&zone(sent)[0]).unwrap();
            message.add_additional(record("mx.example.org", 60, a("203.0.113.66")));
            message.add_answer(record("mx.example.org", 60, a("203.0.113.66")));
            message.add_authority(record("mx.example.org", 60, a("203.0.113.66")));
            return vec![message.to_vec().unwrap()];
        }
        zone(sent)
    });
    let hosts = world.ask("example.org").unwrap();
    assert!(!shown(&hosts).contains("203.0.113.66"), "{}", shown(&hosts));
}

#[test]
fn a_referral_is_no_denial() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        let mut message = Message::from_vec(&sent.reply(&[])).unwrap();
        message.metadata.authoritative = false;
        message.add_authority(record("example", 60, RData::NS(NS(name("ns.example")))));
        vec![message.to_vec().unwrap()]
    });
    assert!(!world.ask("plain.example").unwrap_err().is_permanent());
}

#[test]
fn the_ad_bit_counts_from_loopback_only_and_of_every_answer() {
    for (server, unsigned, secure) in
        [("127.0.0.1:53", "", true), ("192.0.2.53:53", "", false), ("[::1]:53", "backup.example.org.", false)]
    {
        let mut world = World::new();
        world.resolver = resolver(&[server]);
        world.server = Box::new(move |sent| {
            let mut message = Message::from_vec(&zone(sent)[0]).unwrap();
            message.metadata.authentic_data = sent.name != unsigned;
            vec![message.to_vec().unwrap()]
        });
        assert_eq!(world.ask("example.org").unwrap().secure, secure, "{server} {unsigned}");
    }
}

#[test]
fn answers_are_remembered_for_their_ttl_within_bounds() {
    let mut world = World::new();
    let hosts = world.ask("example.org").unwrap();
    assert_eq!(hosts.expires.since(world.now), Duration::from_secs(60), "the denial of an AAAA is the shortest");
    let asked = world.asked;
    world.now = world.now + Duration::from_secs(59);
    assert!(world.ask("example.org").is_ok());
    assert_eq!(world.asked, asked);
    world.now = world.now + Duration::from_secs(1);
    assert!(world.ask("example.org").is_ok());
    assert_eq!(world.asked, asked + 1, "only what has expired is asked again");
    for (ttl, life) in [(0, DNS_TTL_MIN), (u32::MAX, DNS_TTL_MIN), (i32::MAX as u32, DNS_TTL_MAX)] {
        let mut world = World::new();
        world.server = Box::new(move |sent| match sent.kind {
            RecordType::MX => {
                vec![sent.reply(&[record("x.example", i32::MAX as u32, RData::MX(MX::new(1, name("y.example"))))])]
            }
            RecordType::A => vec![sent.reply(&[record("y.example", ttl, a("192.0.2.1"))])],
            _ => vec![sent.reply(&[record("y.example", ttl, aaaa("2001:db8::1"))])],
        });
        let expires = world.ask("x.example").unwrap().expires;
        assert_eq!(expires.since(world.now), life, "{ttl}");
    }
}

#[test]
fn a_failure_is_remembered_for_a_moment() {
    let mut world = World::new();
    world.server = Box::new(|sent| vec![sent.error(ResponseCode::Refused)]);
    assert!(world.ask("example.org").is_err());
    world.server = Box::new(zone);
    assert!(world.ask("example.org").is_err());
    world.now = world.now + DNS_TTL_MIN;
    assert!(world.ask("example.org").is_ok());
}

#[test]
fn equal_questions_in_flight_are_one_question() {
    let mut world = World::new();
    let domain = Domain::parse("example.org").unwrap();
    for tag in 0..100 {
        world.resolver.mail_hosts(world.now, tag, &domain, HostRule::default());
    }
    assert_eq!(world.run().len(), 100);
    assert_eq!(world.asked, 5);
}

#[test]
fn queries_and_lookups_over_their_bounds_wait_and_are_refused() {
    let mut world = World::new();
    world.server = Box::new(|sent| vec![sent.error(ResponseCode::NXDomain)]);
    for tag in 0..=DNS_LOOKUPS_MAX as u64 {
        let domain = Domain::parse(&format!("d{tag}.example")).unwrap();
        world.resolver.mail_hosts(world.now, tag, &domain, HostRule::default());
    }
    let state = world.resolver.state();
    assert_eq!((state.lookups, state.in_flight), (DNS_LOOKUPS_MAX, DNS_QUERIES_MAX));
    assert_eq!(state.waiting, DNS_LOOKUPS_MAX - DNS_QUERIES_MAX);
    let results = world.run();
    let refused = results.iter().filter(|(_, result)| !matches!(result, Err(DnsFailure::NoSuchDomain))).count();
    assert_eq!((results.len(), refused), (DNS_LOOKUPS_MAX + 1, 1));
    assert_eq!(world.resolver.deadline(), None);
}

#[test]
fn the_addresses_of_a_host_are_bounded_and_no_family_starves() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        let owner = sent.name.trim_end_matches('.');
        let records: Vec<Record> = match sent.kind {
            RecordType::A => (1..99).map(|n| record(owner, 60, a(&format!("192.0.2.{n}")))).collect(),
            RecordType::AAAA => (1..99).map(|n| record(owner, 60, aaaa(&format!("2001:db8::{n}")))).collect(),
            _ => Vec::new(),
        };
        vec![sent.reply(&records)]
    });
    let hosts = world.ask("many.example").unwrap();
    let addresses = &hosts.hosts[0].addresses;
    assert_eq!(addresses.len(), HOST_ADDRESSES_MAX);
    assert_eq!(addresses.iter().filter(|address| address.is_ipv4()).count(), HOST_ADDRESSES_MAX / 2);
}

#[test]
fn without_a_server_every_domain_fails_for_now() {
    let mut world = World::new();
    world.resolver = resolver(&[]);
    assert_eq!(
        world.ask("example.org").unwrap_err().to_string(),
        "name resolution failed: no name server is configured"
    );
}

#[test]
fn a_socket_that_fails_ends_its_attempt_and_a_late_answer_is_nothing() {
    let mut resolver = resolver(&["127.0.0.1:1"]);
    let domain = Domain::parse("example.org").unwrap();
    resolver.mail_hosts(Instant::ZERO, 7, &domain, HostRule::default());
    for attempt in 1..=3 {
        let Some(Output::Query { query, .. }) = resolver.poll() else { panic!("attempt {attempt}") };
        let failed = Input::Failed { query, reason: "connection refused" };
        resolver.handle(Instant::ZERO, failed);
        assert_eq!(resolver.poll(), Some(Output::Done { query }));
        resolver.handle(Instant::ZERO, failed);
        resolver.handle(Instant::ZERO, Input::Datagram { query, bytes: &[0; 12] });
    }
    let Some(Output::Answer { tag: 7, result: Err(failure), .. }) = resolver.poll() else { panic!("no answer") };
    assert_eq!(failure.to_string(), "name resolution failed: connection refused");
    assert_eq!(resolver.poll(), None);
}

#[test]
fn an_alias_lends_its_life_and_its_trust_to_what_it_leads_to() {
    for (signed, secure) in [(true, true), (false, false)] {
        let mut world = World::new();
        world.resolver = resolver(&["127.0.0.1:53"]);
        world.server = Box::new(move |sent| {
            let alias = sent.name == "alias.example.";
            let bytes = match alias {
                true => sent.reply(&[record("alias.example", 20, cname("example.org"))]),
                false => zone(sent).remove(0),
            };
            let mut message = Message::from_vec(&bytes).unwrap();
            message.metadata.authentic_data = signed || !alias;
            vec![message.to_vec().unwrap()]
        });
        let hosts = world.ask("alias.example").unwrap();
        assert_eq!((hosts.secure, hosts.expires.since(world.now)), (secure, Duration::from_secs(20)));
    }
}

#[test]
fn a_host_that_failed_for_now_outweighs_one_at_a_private_address() {
    for failing in ["backup.example.org.", "mx.example.org."] {
        let mut world = World::new();
        world.server = Box::new(move |sent| match (sent.kind, sent.name == failing) {
            (RecordType::MX, _) => zone(sent),
            (_, true) => vec![sent.error(ResponseCode::ServFail)],
            (_, false) => vec![sent.reply(&[record(sent.name.trim_end_matches('.'), 60, a("10.0.0.1"))])],
        });
        let failure = world.ask("example.org").unwrap_err();
        assert!(!failure.is_permanent(), "{failing} {failure}");
    }
}

#[test]
fn the_soa_of_another_zone_denies_nothing() {
    let mut world = World::new();
    world.server = Box::new(|sent| {
        let mut message = Message::from_vec(&zone(sent)[0]).unwrap();
        message.authorities.iter_mut().for_each(|soa| soa.name = name("unrelated.example"));
        vec![message.to_vec().unwrap()]
    });
    let domain = "missing.example";
    assert!(world.ask(domain).is_err());
    let asked = world.asked;
    world.now = world.now + DNS_TTL_MIN;
    assert!(world.ask(domain).is_err());
    assert_eq!(world.asked, asked + 1, "a denial without its SOA is remembered for a moment only");
}

#[test]
fn an_answer_in_between_takes_the_strikes_back() {
    let mut world = World::new();
    world.server = Box::new(|sent| match sent.server.port() {
        1 if sent.kind == RecordType::MX && sent.name.starts_with("slow") => Vec::new(),
        _ => zone(sent),
    });
    for number in 0..5 {
        let before = world.now;
        assert!(world.ask(&format!("slow{number}.example")).is_err());
        assert_eq!(world.now.since(before), Duration::from_secs(2), "the first server is still asked first");
        assert!(world.ask(&format!("fast{number}.example")).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Answers with octets changed, cut off or made up: every lookup ends, and nothing panics.
    #[test]
    fn hostile_answers_end_every_lookup(seed: u64, noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut random = Random::new(seed);
        let mut world = World::new();
        world.server = Box::new(move |sent| {
            let mut bytes = zone(sent).remove(0);
            match random.below(5) {
                0 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
                1 => bytes.truncate(12),
                2 => {}
                _ => for _ in 0..=random.below(8) {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = random.next_u64() as u8;
                },
            }
            if random.chance(50) {
                bytes.extend_from_slice(&noise);
            }
            vec![bytes]
        });
        for domain in ["example.org", "alias.example", "below.example", "ring.example", "plain.example"] {
            let _ = world.ask(domain);
        }
        prop_assert_eq!(world.resolver.state().lookups, 0);
    }

    /// Records of any kind and owner behind a proper header and question.
    #[test]
    fn strange_records_end_every_lookup(seed: u64) {
        let mut random = Random::new(seed);
        let names = ["example.org", "mx.example.org", "a.example", ".", "\0.example", "[192.0.2.1]", "*.example"];
        let mut world = World::new();
        world.server = Box::new(move |sent| {
            let mut records = Vec::new();
            for _ in 0..random.below(30) {
                let mut pick = || name(names[random.below(names.len() as u64) as usize]);
                let (owner, target) = (pick(), pick());
                let data = match random.below(4) {
                    0 => RData::CNAME(CNAME(target)),
                    1 => RData::MX(MX::new(random.next_u64() as u16, target)),
                    2 => RData::A(A((random.next_u64() as u32).into())),
                    _ => aaaa("2001:db8::1"),
                };
                records.push(Record::from_rdata(owner, random.next_u64() as u32, data));
            }
            vec![sent.reply(&records)]
        });
        for domain in ["example.org", "a.example"] {
            if let Ok(hosts) = world.ask(domain) {
                prop_assert!(!hosts.hosts.is_empty() && hosts.hosts.len() <= MX_HOSTS_MAX);
                prop_assert!(hosts.hosts.iter().all(|host| !host.addresses.is_empty()));
                prop_assert!(hosts.hosts.is_sorted_by_key(|host| host.preference));
            }
        }
    }
}

/// The messages that a query is answered with.
type Server = Box<dyn FnMut(&Sent) -> Vec<Vec<u8>>>;

/// A resolver, virtual time, and what answers its queries.
struct World {
    resolver: Resolver,
    now: Instant,
    rule: HostRule,
    server: Server,
    /// Queries seen.
    asked: usize,
}

impl World {
    /// Three servers on loopback that all serve [`ZONE`] with authority.
    fn new() -> Self {
        Self {
            resolver: resolver(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]),
            now: Instant::from_nanos(1_000_000_000),
            rule: HostRule::default(),
            server: Box::new(zone),
            asked: 0,
        }
    }

    fn ask(&mut self, domain: &str) -> Result<Rc<MailHosts>, DnsFailure> {
        let domain = Domain::parse(domain).unwrap();
        self.resolver.mail_hosts(self.now, 42, &domain, self.rule);
        let mut results = self.run();
        assert_eq!(results.len(), 1, "one question has one answer");
        let (tag, result) = results.remove(0);
        assert_eq!(tag, 42);
        result
    }

    /// Answers queries, and lets time pass where the server is silent, until no lookup is left.
    fn run(&mut self) -> Vec<(u64, Result<Rc<MailHosts>, DnsFailure>)> {
        let mut results = Vec::new();
        loop {
            match self.resolver.poll() {
                Some(Output::Answer { tag, result, .. }) => results.push((tag, result)),
                Some(Output::Done { .. }) => {}
                Some(Output::Query { query, server, wire, over_tcp, wait }) => {
                    assert_eq!(wait, Duration::from_secs(2));
                    self.asked += 1;
                    for bytes in (self.server)(&Sent::read(server, wire, over_tcp)) {
                        let input = match over_tcp {
                            true => Input::Stream { query, bytes: &bytes },
                            false => Input::Datagram { query, bytes: &bytes },
                        };
                        self.resolver.handle(self.now, input);
                    }
                }
                None => match self.resolver.deadline() {
                    Some(deadline) => {
                        self.now = deadline;
                        self.resolver.handle(self.now, Input::Timeout);
                    }
                    None => break,
                },
            }
        }
        let state = self.resolver.state();
        assert_eq!((state.lookups, state.in_flight, state.waiting), (0, 0, 0));
        results
    }
}

fn resolver(servers: &[&str]) -> Resolver {
    let config = ResolverConfig {
        servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
        timeout: Duration::from_secs(2),
        attempts: 3,
        own_names: vec![Domain::parse("post.rail").unwrap()],
        own_addresses: vec!["198.51.100.9".parse().unwrap()],
    };
    Resolver::new(config, &mut Random::new(1))
}

/// A query as a server sees it.
struct Sent {
    server: SocketAddr,
    wire: Vec<u8>,
    over_tcp: bool,
    message: Message,
    name: String,
    kind: RecordType,
    edns: bool,
}

impl Sent {
    fn read(server: SocketAddr, wire: Vec<u8>, over_tcp: bool) -> Self {
        let message = Message::from_vec(&wire).unwrap();
        let (name, kind) = (message.queries[0].name.to_ascii(), message.queries[0].query_type);
        let edns = message.edns.is_some();
        Self { server, wire, over_tcp, message, name, kind, edns }
    }

    fn empty(&self) -> Message {
        let mut message = Message::new(self.message.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        message.add_query(self.message.queries[0].clone());
        message
    }

    fn reply(&self, answers: &[Record]) -> Vec<u8> {
        let mut message = self.empty();
        message.add_answers(answers.iter().cloned());
        message.to_vec().unwrap()
    }

    fn error(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = self.empty();
        message.metadata.response_code = code;
        message.to_vec().unwrap()
    }

    /// An error that does not repeat the question.
    fn bare(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = self.empty();
        message.queries.clear();
        message.metadata.response_code = code;
        message.to_vec().unwrap()
    }

    fn truncated(&self) -> Vec<u8> {
        let mut message = self.empty();
        message.metadata.truncation = true;
        message.to_vec().unwrap()
    }
}

/// What an authoritative server of [`ZONE`] says: aliases within the zone are followed, denials carry an SOA.
fn zone(sent: &Sent) -> Vec<Vec<u8>> {
    let records: Vec<Record> = ZONE.lines().filter_map(parse).collect();
    let mut message = sent.empty();
    let mut owner = sent.message.queries[0].name.clone();
    for _ in 0..4 {
        let of_owner: Vec<&Record> = records.iter().filter(|record| record.name == owner).collect();
        if of_owner.is_empty() {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        let found: Vec<Record> =
            of_owner.iter().filter(|record| record.record_type() == sent.kind).map(|&record| record.clone()).collect();
        let alias = of_owner.iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(((*record).clone(), target.0.clone())),
            _ => None,
        });
        if !found.is_empty() {
            message.add_answers(found);
            return vec![message.to_vec().unwrap()];
        }
        let Some((record, target)) = alias else { break };
        message.add_answer(record);
        owner = target;
    }
    let soa = SOA::new(name("ns.example.org"), name("hostmaster.example.org"), 1, 1, 1, 1, 60);
    message.add_authority(Record::from_rdata(Name::root(), 3_600, RData::SOA(soa)));
    vec![message.to_vec().unwrap()]
}

/// A line of [`ZONE`]: owner, TTL, type, data.
fn parse(line: &str) -> Option<Record> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let data = match words.as_slice() {
        [_, _, "A", address] => a(address),
        [_, _, "AAAA", address] => aaaa(address),
        [_, _, "MX", preference, host] => RData::MX(MX::new(preference.parse().unwrap(), name(host))),
        [_, _, "CNAME", target] => cname(target),
        [_, _, "NS", host] => RData::NS(NS(name(host))),
        _ => return None,
    };
    Some(record(words[0], words[1].parse().unwrap(), data))
}

fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

fn name(text: &str) -> Name {
    let labels = text.split('.').filter(|label| !label.is_empty());
    Name::from_labels(labels.map(str::as_bytes)).unwrap()
}

fn a(address: &str) -> RData {
    RData::A(A(address.parse().unwrap()))
}

fn aaaa(address: &str) -> RData {
    RData::AAAA(AAAA(address.parse().unwrap()))
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

fn shown(hosts: &MailHosts) -> String {
    let line = |host: &MailHost| format!("{} {} {:?}", host.preference, host.name, host.addresses);
    format!("{}: {}", hosts.site, hosts.hosts.iter().map(line).collect::<Vec<_>>().join("; "))
}
