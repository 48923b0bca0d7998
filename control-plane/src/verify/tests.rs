//! Checks against zones in memory: what each usual mistake is told as.

use postrail_schema::snapshot::{KeyAlgorithm, KeyStage};

use super::*;
use crate::dns::zone::Zone;

/// 400 characters, so that a record of it needs two strings.
fn rsa_key() -> String {
    "QUJD".repeat(100)
}

const EDWARDS: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

fn subject() -> Subject {
    let key = |selector: &str, algorithm, public_key: &str| SubjectKey {
        selector: selector.into(),
        algorithm,
        public_key: public_key.into(),
        stage: KeyStage::Signing,
    };
    Subject {
        name: "a.example".into(),
        token: "0123456789abcdef".into(),
        keys: vec![key("r", KeyAlgorithm::RsaSha256, &rsa_key()), key("e", KeyAlgorithm::Ed25519Sha256, EDWARDS)],
        addresses: vec!["192.0.2.25".parse().unwrap()],
        hostname: "mail.example".into(),
        unbound: false,
        spf_include: None,
    }
}

/// A zone in which everything is right.
fn right() -> String {
    format!(
        "a.example TXT v=spf1 ip4:192.0.2.25 ~all
         _postrail.a.example TXT postrail-verification=0123456789abcdef
         r._domainkey.a.example TXT v=DKIM1; k=rsa; p={}
         e._domainkey.a.example TXT v=DKIM1; k=ed25519; p={EDWARDS}
         _dmarc.a.example TXT v=DMARC1; p=none
         bounce.a.example MX 10 mail.example
         click.a.example CNAME mail.example
         mail.example A 192.0.2.25",
        rsa_key()
    )
}

/// The right zone, with the lines of that name replaced.
fn with(name: &str, lines: &str) -> String {
    let kept =
        right().lines().filter(|line| line.trim().split(' ').next() != Some(name)).collect::<Vec<_>>().join("\n");
    format!("{kept}\n{lines}")
}

async fn look(zone: &str, purpose: Purpose, name: &str) -> RecordCheck {
    let checks = check(&subject(), &Zone::read(zone), None, 7).await;
    checks.into_iter().find(|check| check.purpose == purpose && check.name == name).expect("it is checked")
}

#[tokio::test]
async fn a_zone_that_has_everything_as_it_was_pasted_is_right() {
    let checks = check(&subject(), &Zone::read(&right()), None, 7).await;
    assert_eq!(checks.len(), 7);
    for check in checks {
        let said = (check.state, check.detail.as_str(), check.server.as_deref());
        assert_eq!(said, (RecordState::Ok, "", Some("192.0.2.1:53")), "{check:?}");
    }
}

#[tokio::test]
async fn an_empty_zone_lacks_everything_and_says_what_to_publish() {
    let checks = check(&subject(), &Zone::read(""), None, 7).await;
    for (check, record) in checks.iter().zip(records(&subject())) {
        assert_eq!(check.state, RecordState::Missing, "{check:?}");
        assert!(check.detail.contains("does not exist") && check.advice.contains(&record.zone_value), "{check:?}");
    }
}

#[tokio::test]
async fn servers_that_fail_make_records_unreachable_and_never_wrong() {
    for why in ["servfail", "refused", "timeout"] {
        let names = ["a", "_postrail.a", "r._domainkey.a", "e._domainkey.a", "_dmarc.a", "bounce.a", "click.a"];
        let zone: Vec<_> = names.iter().map(|name| format!("{name}.example FAIL {why}")).collect();
        for check in check(&subject(), &Zone::read(&zone.join("\n")), None, 7).await {
            assert_eq!(check.state, RecordState::Unreachable, "{check:?}");
            assert!(check.detail.contains("could not be looked up"), "{check:?}");
        }
    }
    let inner = with("a.example", "a.example TXT v=spf1 include:x.example ~all\nx.example FAIL servfail");
    assert_eq!(look(&inner, Purpose::Spf, "a.example").await.state, RecordState::Unreachable);
}

/// Each mistake: what is published instead, what is found of it, and words of what is said.
#[tokio::test]
async fn mistakes_are_told_in_words() {
    let key = rsa_key();
    let own = "_postrail.a.example";
    let text = "postrail-verification=0123456789abcdef";
    let rsa = "r._domainkey.a.example";
    let dmarc = "_dmarc.a.example";
    let cases: Vec<(Purpose, &str, String, &str)> = vec![
        (Purpose::Ownership, own, format!("{own} TXT \"{text}\""), "quotes"),
        (Purpose::Ownership, own, format!("{own}.a.example TXT {text}"), "a second time"),
        (Purpose::Ownership, own, format!("{own} TXT postrail-verification=ffff"), "another account's"),
        (
            Purpose::Ownership,
            own,
            format!("{own} CNAME w.example\nw.example A 192.0.2.1"),
            "alias (CNAME) of w.example",
        ),
        (
            Purpose::Ownership,
            own,
            format!("{own} TXT parked\npostrail-no-such-name.a.example TXT parked"),
            "wildcard record, *.a.example",
        ),
        (Purpose::Dkim, rsa, format!("{rsa} TXT v=DKIM1; k=rsa; p=QUJE"), "another key"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT v=DKIM1; k=rsa; p="), "revoked"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT v=DKIM1; k=rsa; p={}", &key[..239]), "cut after 239 of its 400"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT v=DKIM1; k=ed25519; p={key}"), "signs with rsa"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT v=DKIM1; h=sha1; p={key}"), "sha256"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT k=rsa; v=DKIM1; p={key}"), "first tag"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT v=DKIM1; p={key}; p={key}"), "occurs twice"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT v=DKIM1; k=rsa; p=*"), "base64"),
        (Purpose::Dkim, rsa, format!("{rsa} TXT \"v=DKIM1; k=rsa; p={key}\""), "quotes"),
        (
            Purpose::Dkim,
            rsa,
            format!("{rsa} TXT v=DKIM1; k=rsa; p={}\n{rsa} TXT {}", &key[..200], &key[200..]),
            "split into 2 records",
        ),
        (Purpose::Dmarc, dmarc, format!("{dmarc} TXT v=DMARC1; p=none\n{dmarc} TXT v=DMARC1; p=reject"), "2 DMARC"),
        (Purpose::Dmarc, dmarc, format!("{dmarc} TXT v=DMARC1; rua=mailto:x@a.example"), "no policy"),
        (Purpose::Dmarc, dmarc, format!("{dmarc} TXT v=DMARC1; p=block"), "policy is block"),
        (Purpose::Dmarc, dmarc, format!("{dmarc} TXT DMARC1; p=none"), "do not take for DMARC"),
        (Purpose::ReturnPath, "bounce.a.example", "bounce.a.example MX 5 mx.else.example".into(), "elsewhere"),
        (Purpose::Tracking, "click.a.example", "click.a.example A 192.0.2.99".into(), "elsewhere"),
    ];
    for (purpose, name, lines, words) in cases {
        let check = look(&with(name, &lines), purpose, name).await;
        assert_eq!(check.state, RecordState::Wrong, "{lines}: {check:?}");
        assert!(check.detail.contains(words), "{lines}: {check:?}");
    }
}

#[tokio::test]
async fn spf_mistakes_are_told_with_the_record_that_would_be_right() {
    let includes: Vec<_> = (1..=11).map(|n| format!("include:i{n}.example")).collect();
    let included: Vec<_> = (1..=11).map(|n| format!("i{n}.example TXT v=spf1 -all")).collect();
    let eleven = format!("a.example TXT v=spf1 {} ip4:192.0.2.25 -all\n{}", includes.join(" "), included.join("\n"));
    let cases = [
        ("a.example TXT v=spf1 mx -all", "~", "v=spf1 ip4:192.0.2.25 mx -all"),
        (
            "a.example TXT v=spf1 redirect=r.example\nr.example TXT v=spf1 -all",
            "redirect=r.example decides",
            "ip4:192.0.2.25 redirect=",
        ),
        (
            "a.example TXT v=spf1 a -all\na.example TXT v=spf1 mx ~all",
            "2 SPF records",
            "v=spf1 ip4:192.0.2.25 a mx -all",
        ),
        (
            "a.example TXT v=spf1 mx +all\na.example TXT v=spf1 a -all",
            "2 SPF records",
            "v=spf1 ip4:192.0.2.25 mx a -all",
        ),
        ("a.example TXT v=spf1 mx +all\na.example TXT v=spf1 all", "2 SPF records", "v=spf1 ip4:192.0.2.25 mx ~all"),
        (eleven.as_str(), "more than 10 DNS lookups (the one too many is include:i11.example", "Remove includes"),
        ("a.example TXT spf1 ip4:192.0.2.25 -all", "do not take for SPF", "begins with v=spf1"),
        ("a.example TXT v=spf1 ipv4:192.0.2.25 -all", "ipv4:192.0.2.25", "one wrong term"),
    ];
    for (lines, words, advice) in cases {
        let check = look(&with("a.example", lines), Purpose::Spf, "a.example").await;
        assert_eq!(check.state, RecordState::Wrong, "{lines}: {check:?}");
        assert!(words == "~" || check.detail.contains(words), "{lines}: {check:?}");
        assert!(check.advice.contains(advice), "{lines}: {check:?}");
    }
    let plain = look(&with("a.example", "a.example TXT hello"), Purpose::Spf, "a.example").await;
    assert_eq!((plain.state, plain.found.len()), (RecordState::Missing, 0), "other texts are nobody's concern");
}

#[tokio::test]
async fn other_ways_that_receivers_accept_are_right() {
    let key = rsa_key();
    let cases = [
        (
            Purpose::Dkim,
            "r._domainkey.a.example",
            format!("r._domainkey.a.example CNAME k.example\nk.example TXT v=DKIM1; p={key}"),
        ),
        (
            Purpose::Dkim,
            "r._domainkey.a.example",
            format!("r._domainkey.a.example TXT v=DKIM1; s=email; h=sha1:sha256; p={} {}", &key[..200], &key[200..]),
        ),
        (Purpose::Dmarc, "_dmarc.a.example", "_dmarc.a.example TXT v=DMARC1 ; p=Reject; aspf=r".into()),
        (
            Purpose::Spf,
            "a.example",
            "a.example TXT v=spf1 include:p.example ?all\np.example TXT v=spf1 ip4:192.0.2.0/24 -all".into(),
        ),
        (Purpose::ReturnPath, "bounce.a.example", "bounce.a.example CNAME mail.example".into()),
    ];
    for (purpose, name, lines) in cases {
        assert_eq!(look(&with(name, &lines), purpose, name).await.state, RecordState::Ok, "{lines}");
    }
}

#[tokio::test]
async fn a_policy_above_the_domain_holds_for_it() {
    let subject = Subject { name: "shop.a.co.uk".into(), ..subject() };
    let find = |zone: &'static str| {
        let subject = subject.clone();
        async move {
            let checks = check(&subject, &Zone::read(zone), None, 7).await;
            checks.into_iter().find(|check| check.purpose == Purpose::Dmarc).unwrap()
        }
    };
    let above = find("_dmarc.a.co.uk TXT v=DMARC1; p=reject").await;
    assert_eq!(above.state, RecordState::Ok);
    assert!(above.detail.contains("organisational"), "{above:?}");
    let suffix = find("_dmarc.co.uk TXT v=DMARC1; p=reject").await;
    assert_eq!(suffix.state, RecordState::Missing, "a public suffix is nobody's organisation");
}

#[tokio::test]
async fn servers_of_the_zone_that_differ_are_named() {
    let own = "_postrail.a.example";
    let servers =
        "a.example NS ns1.example\na.example NS ns2.example\nns1.example A 192.0.2.53\nns2.example A 192.0.2.54";
    let text = "postrail-verification=0123456789abcdef";
    let one = format!("{servers}\n@192.0.2.53 {own} TXT {text}");
    let check = look(&with(own, &one), Purpose::Ownership, own).await;
    assert!(check.detail.contains("ns1.example (192.0.2.53) do, ns2.example (192.0.2.54) do not"), "{check:?}");
    let both = format!("{one}\n@192.0.2.54 {own} TXT {text}");
    let check = look(&with(own, &both), Purpose::Ownership, own).await;
    assert!(check.detail.contains("still remembers"), "{check:?}");
}

#[tokio::test]
async fn a_record_that_is_right_at_our_server_and_stale_at_one_of_the_zones_is_wrong_and_the_server_is_named() {
    let servers =
        "a.example NS ns1.example\na.example NS ns2.example\nns1.example A 192.0.2.53\nns2.example A 192.0.2.54";
    let key = format!("v=DKIM1; k=ed25519; p={EDWARDS}");
    let names = ["_postrail.a.example", "a.example", "r._domainkey.a.example", "_dmarc.a.example"];
    let texts: Vec<String> =
        right().lines().filter(|line| line.contains(" TXT ")).map(|line| line.trim().to_owned()).collect();
    let at = |server: &str| texts.iter().map(|line| format!("@{server} {line}\n")).collect::<String>();
    let same = format!("{}\n{servers}\n{}{}", right(), at("192.0.2.53"), at("192.0.2.54"));
    for record in check(&subject(), &Zone::read(&same), None, 7).await {
        assert_eq!((record.state, record.detail.as_str()), (RecordState::Ok, ""), "{record:?}");
    }
    let stale = same.replace(
        &format!("@192.0.2.54 e._domainkey.a.example TXT {key}"),
        "@192.0.2.54 e._domainkey.a.example TXT v=DKIM1; k=ed25519; p=QUJD",
    );
    let found = look(&stale, Purpose::Dkim, "e._domainkey.a.example").await;
    assert_eq!(found.state, RecordState::Wrong);
    assert!(found.detail.contains("ns2.example (192.0.2.54) do not"), "{found:?}");
    let said: Vec<_> = found.servers.iter().map(|said| (said.is_right, said.found[0].as_str())).collect();
    assert_eq!(said, [(true, key.as_str()), (false, "v=DKIM1; k=ed25519; p=QUJD")]);
    for name in names {
        let purposes = check(&subject(), &Zone::read(&stale), None, 7).await;
        let record = purposes.into_iter().find(|record| record.name == name).expect("it is checked");
        assert_eq!(record.state, RecordState::Ok, "{record:?}");
    }
    // One that does not answer is told, and held against nobody.
    let silent = texts.iter().fold(same.clone(), |zone, line| zone.replace(&format!("@192.0.2.54 {line}\n"), ""));
    let name = |line: &String| format!("@192.0.2.54 {} FAIL timeout\n", line.split(' ').next().unwrap_or_default());
    let silent = format!("{silent}{}", texts.iter().map(name).collect::<String>());
    let found = look(&silent, Purpose::Ownership, "_postrail.a.example").await;
    assert_eq!(found.state, RecordState::Ok);
    assert!(found.detail.contains("not every server of the zone answers: ns2.example"), "{found:?}");
}

#[tokio::test]
async fn a_state_keeps_the_time_since_when_it_lasts() {
    let first = check(&subject(), &Zone::read(""), None, 7).await;
    let before = DomainCheck { checked_at_ms: 7, records: first, ..DomainCheck::default() };
    let now = check(&subject(), &Zone::read("a.example TXT v=spf1 ip4:192.0.2.25 -all"), Some(&before), 9).await;
    let since: Vec<_> = now.iter().map(|check| (check.purpose, check.since_ms)).take(2).collect();
    assert_eq!(since, [(Purpose::Ownership, 7), (Purpose::Spf, 9)]);
}
