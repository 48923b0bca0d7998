//! The evaluation against zones in memory: what RFC 7208 fixes, and what people publish wrongly.

use super::*;
use crate::dns::zone::Zone;

async fn eval(zone: &str, ip: &str) -> Evaluation {
    check_host(&Zone::read(zone), ip.parse().unwrap(), "a.example").await
}

#[tokio::test]
async fn the_first_term_that_matches_decides() {
    let zone = "
        a.example TXT v=spf1 ip4:192.0.2.0/28 -ip4:192.0.2.16 a:host.example mx/24 include:inc.example ?exists:%{i}.e.example ~all
        a.example TXT something else
        a.example MX 10 mx.example
        host.example A 198.51.100.1
        host.example AAAA 2001:db8::1
        mx.example A 203.0.113.200
        inc.example TXT v=spf1 ip4:198.51.100.77 -all
        192.0.2.99.e.example A 127.0.0.2
    ";
    for (ip, result, matched) in [
        ("192.0.2.5", SpfResult::Pass, "ip4:192.0.2.0/28"),
        ("192.0.2.16", SpfResult::Fail, "-ip4:192.0.2.16"),
        ("198.51.100.1", SpfResult::Pass, "a:host.example"),
        ("2001:db8::1", SpfResult::Pass, "a:host.example"),
        ("203.0.113.9", SpfResult::Pass, "mx/24"),
        ("198.51.100.77", SpfResult::Pass, "include:inc.example"),
        ("192.0.2.99", SpfResult::Neutral, "?exists:%{i}.e.example"),
        ("192.0.2.98", SpfResult::SoftFail, "~all"),
    ] {
        let evaluation = eval(zone, ip).await;
        assert_eq!((evaluation.result, evaluation.matched.as_str()), (result, matched), "{ip}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_where_nothing_matches_and_never_beside_all() {
    let zone = "
        a.example TXT v=spf1 ip4:192.0.2.1 redirect=r.example
        r.example TXT v=spf1 ip4:192.0.2.2 -all
    ";
    assert_eq!(eval(zone, "192.0.2.2").await.result, SpfResult::Pass);
    assert_eq!(eval(zone, "192.0.2.3").await.result, SpfResult::Fail);
    let beside = "a.example TXT v=spf1 ?all redirect=r.example\nr.example TXT v=spf1 +all";
    assert_eq!(eval(beside, "192.0.2.3").await.result, SpfResult::Neutral);
    let nowhere = "a.example TXT v=spf1 redirect=r.example";
    assert!(matches!(eval(nowhere, "192.0.2.3").await.result, SpfResult::PermError(PermError::NoRecord { .. })));
}

#[tokio::test]
async fn ten_lookups_pass_and_the_eleventh_is_named() {
    let record = |count: u32| {
        let terms: Vec<_> = (1..=count).map(|n| format!("include:i{n}.example")).collect();
        let mut zone = format!("a.example TXT v=spf1 {} ip4:192.0.2.1 -all\n", terms.join(" "));
        for n in 1..=count {
            zone.push_str(&format!("i{n}.example TXT v=spf1 -all\n"));
        }
        zone
    };
    let ten = eval(&record(10), "192.0.2.1").await;
    assert_eq!((ten.result, ten.lookups), (SpfResult::Pass, 10));
    let eleven = eval(&record(11), "192.0.2.1").await.result;
    let (domain, term) = ("a.example".to_owned(), "include:i11.example".to_owned());
    assert_eq!(eleven, SpfResult::PermError(PermError::TooManyLookups { domain, term }));
}

#[tokio::test]
async fn a_record_that_includes_itself_ends_at_the_limit() {
    let zone = "a.example TXT v=spf1 include:a.example -all";
    assert!(matches!(eval(zone, "192.0.2.1").await.result, SpfResult::PermError(PermError::TooManyLookups { .. })));
}

#[tokio::test]
async fn two_void_lookups_are_borne_and_the_third_is_not() {
    let two = "a.example TXT v=spf1 a:n1.example a:n2.example ip4:192.0.2.1 -all";
    assert_eq!(eval(two, "192.0.2.1").await.result, SpfResult::Pass);
    let three = "a.example TXT v=spf1 a:n1.example a:n2.example mx:n3.example ip4:192.0.2.1 -all";
    let name = "n3.example".to_owned();
    assert_eq!(eval(three, "192.0.2.1").await.result, SpfResult::PermError(PermError::TooManyVoids { name }));
}

#[tokio::test]
async fn errors_are_told_by_whose_they_are() {
    let two = "a.example TXT v=spf1 -all\na.example TXT v=spf1 ip4:192.0.2.1 -all";
    let several = PermError::Several { domain: "a.example".into(), count: 2 };
    assert_eq!(eval(two, "192.0.2.1").await.result, SpfResult::PermError(several));
    let wrong = "a.example TXT v=spf1 ip4:192.0.2.1 ipv4:192.0.2.2 -all";
    let syntax = PermError::Syntax { domain: "a.example".into(), term: "ipv4:192.0.2.2".into() };
    assert_eq!(eval(wrong, "192.0.2.1").await.result, SpfResult::PermError(syntax), "before a term is tried");
    let broken = "a.example TXT v=spf1 include:b.example -all\nb.example FAIL servfail";
    let temp = SpfResult::TempError { failure: Failure::ServFail, name: "b.example".into() };
    assert_eq!(eval(broken, "192.0.2.1").await.result, temp);
    assert_eq!(eval("a.example TXT hello", "192.0.2.1").await.result, SpfResult::None);
    let included = "a.example TXT v=spf1 include:b.example -all";
    assert!(matches!(eval(included, "192.0.2.1").await.result, SpfResult::PermError(PermError::NoRecord { .. })));
}

#[tokio::test]
async fn a_name_that_points_back_matches_ptr() {
    let zone = "
        a.example TXT v=spf1 ptr -all
        1.2.0.192.in-addr.arpa PTR out.a.example
        out.a.example A 192.0.2.1
        2.2.0.192.in-addr.arpa PTR out.a.example
        3.2.0.192.in-addr.arpa PTR nota.example
        nota.example A 192.0.2.3
    ";
    assert_eq!(eval(zone, "192.0.2.1").await.result, SpfResult::Pass);
    assert_eq!(eval(zone, "192.0.2.2").await.result, SpfResult::Fail, "the name does not lead back");
    assert_eq!(eval(zone, "192.0.2.3").await.result, SpfResult::Fail, "the name is elsewhere");
}
