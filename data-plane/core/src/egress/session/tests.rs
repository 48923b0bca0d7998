//! Sessions against scripted receivers. A script is a list of (what comes, what goes out); `|` stands for CRLF.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::egress::reason;
use crate::mail::{Address, BodyType, FinalMessage, ForwardPath, Notify};

fn target(host: &str, last: u8) -> Target {
    Target { host: Domain::parse(host).unwrap(), address: SocketAddr::from(([192, 0, 2, last], 25)) }
}

fn session(level: TlsLevel) -> Session {
    let mut config = PathConfig::new("me.example", vec![target("mx1.example", 1), target("mx2.example", 2)]);
    config.tls = TlsPolicy { level, ..TlsPolicy::default() };
    config.mails_max = 2;
    Session::new(config, Instant::ZERO)
}

fn transaction() -> Transaction {
    let address = Address::parse("x@y.example").unwrap();
    Transaction {
        tag: 7,
        reverse_path: None,
        body: BodyType::SevenBit,
        smtp_utf8: false,
        ret: None,
        envid: None,
        recipients: vec![ForwardPath { address, notify: Notify::Unspecified, orcpt: None }],
        message: FinalMessage { header: Bytes::from_static(b"S: x\r\n\r\n"), ..FinalMessage::default() },
        chunk: false,
    }
}

fn drain(session: &mut Session) -> String {
    let mut seen = Vec::new();
    while let Some(output) = session.poll() {
        seen.push(match output {
            Output::Connect(target) => format!("(connect {} {})", target.host, target.address.ip()),
            Output::StartTls { host, verify, .. } => format!("(tls {host}{})", if verify { " verify" } else { "" }),
            Output::Send(bytes) => String::from_utf8_lossy(&bytes).replace("\r\n", "|"),
            Output::Ready(capabilities) => {
                format!("(ready {}{})", capabilities.host, if capabilities.tls.is_some() { " tls" } else { "" })
            }
            Output::Outcome(outcome) => {
                let texts: Vec<_> = outcome
                    .recipients
                    .iter()
                    .map(|one| format!("{:?} {} {}", one.verdict, one.scope.name(), reason(one)))
                    .collect();
                format!("({}{})", texts.join(", "), if outcome.session_over { "; over" } else { "" })
            }
            Output::Close(SessionEnd::Done) => "(done)".into(),
            Output::Close(SessionEnd::Failed { scope, phase, reply, host, .. }) => {
                let host = host.map(|host| host.to_string()).unwrap_or_default();
                format!("(failed {} {} {} {host})", scope.name(), phase.name(), reply.code)
            }
        });
    }
    seen.join(" ")
}

fn feed(session: &mut Session, what: &str) {
    let now = Instant::ZERO;
    let facts = |verified| TlsFacts { version: "TLSv1.3".into(), cipher: "x".into(), verified };
    match what {
        "connected" => session.handle(now, Input::Connected),
        "refused" => session.handle(now, Input::ConnectFailed("Connection refused (os error 111)")),
        "reset" => session.handle(now, Input::Reset("Connection reset by peer")),
        "eof" => session.handle(now, Input::Eof),
        "timeout" => session.handle(now, Input::Timeout),
        "quit" => session.handle(now, Input::Quit),
        "tls" => session.handle(now, Input::TlsEstablished(facts(false))),
        "verified" => session.handle(now, Input::TlsEstablished(facts(true))),
        "bad tls" => session.handle(now, Input::TlsFailed("handshake failure")),
        "mail" => session.handle(now, Input::Transaction(transaction())),
        reply => session.handle(now, Input::Bytes(reply.replace('|', "\r\n").as_bytes())),
    }
}

fn script(session: &mut Session, steps: &[(&str, &str)]) {
    for (at, (what, wanted)) in steps.iter().enumerate() {
        if !what.is_empty() {
            feed(session, what);
        }
        assert_eq!(drain(session), *wanted, "step {at}: {what}");
    }
}

const FIRST: (&str, &str) = ("", "(connect mx1.example 192.0.2.1)");
const SECOND: &str = "(connect mx2.example 192.0.2.2)";
const GREETED: (&str, &str) = ("220 mx|", "EHLO me.example|");
const OFFERED: (&str, &str) = ("250-mx|250 STARTTLS|", "STARTTLS|");
const GROUP: &str = "MAIL FROM:<>|RCPT TO:<x@y.example>|DATA|";

#[test]
fn a_session_ends_in_order_after_its_last_mail() {
    script(
        &mut session(TlsLevel::Opportunistic),
        &[
            FIRST,
            ("connected", ""),
            GREETED,
            ("250-mx|250-DSN|250 PIPELINING|", "(ready mx1.example)"),
            ("mail", GROUP),
            ("250 ok|250 ok|354 go|", "S: x||.|"),
            ("250 ok|", "(Delivered { dsn_passed_on: true } recipient delivered) (ready mx1.example)"),
            ("mail", GROUP),
            ("250 ok|550 5.1.1 no|503 no|", "(Permanent recipient unknown_user; over) RSET|"),
            ("250 ok|", "QUIT|"),
            ("221 bye|", "(done)"),
            ("mail", "(Transient session session_not_ready; over)"),
        ],
    );
}

#[test]
fn targets_are_walked_until_one_is_ready() {
    for steps in [
        &[FIRST, ("refused", SECOND)][..],
        &[FIRST, ("timeout", SECOND)],
        &[FIRST, ("connected", ""), ("554 no|", "QUIT| (connect mx2.example 192.0.2.2)")],
        &[FIRST, ("connected", ""), ("421 no|", SECOND)],
        &[FIRST, ("connected", ""), ("junk|", SECOND)],
        &[FIRST, ("connected", ""), ("reset", SECOND)],
        &[FIRST, ("connected", ""), GREETED, ("451 no|", "QUIT| (connect mx2.example 192.0.2.2)")],
        &[FIRST, ("connected", ""), GREETED, ("timeout", SECOND)],
    ] {
        let mut session = session(TlsLevel::Opportunistic);
        script(&mut session, steps);
        script(&mut session, &[("connected", ""), GREETED, ("250 mx|", "(ready mx2.example)")]);
    }
}

#[test]
fn a_session_without_a_usable_target_tells_the_failure_that_came_farthest() {
    for (steps, wanted) in [
        (&[FIRST, ("refused", SECOND)][..], "(failed site connect 0 mx2.example)"),
        (
            &[FIRST, ("connected", ""), ("554 no|", "QUIT| (connect mx2.example 192.0.2.2)")],
            "(failed source greeting 554 mx1.example)",
        ),
        (&[FIRST, ("connected", ""), ("421 no|", SECOND)], "(failed site greeting 421 mx1.example)"),
    ] {
        let mut session = session(TlsLevel::Opportunistic);
        script(&mut session, steps);
        script(&mut session, &[("refused", wanted), ("mail", "(Transient session session_not_ready; over)")]);
        assert_eq!((session.state(), session.deadline()), ("over", None));
    }
}

#[test]
fn a_session_without_targets_fails_at_once() {
    let mut session = Session::new(PathConfig::new("me.example", Vec::new()), Instant::ZERO);
    script(&mut session, &[("", "(failed site connect 0 )")]);
}

#[test]
fn a_host_whose_tls_fails_is_tried_once_in_plaintext() {
    let first_again = "(connect mx1.example 192.0.2.1)";
    for failure in [
        &[("454 no|", "QUIT| (connect mx1.example 192.0.2.1)")][..],
        &[("220 go|", "(tls mx1.example)"), ("bad tls", first_again)],
        &[("220 go|", "(tls mx1.example)"), ("timeout", first_again)],
        &[("eof", first_again)],
    ] {
        let mut session = session(TlsLevel::Opportunistic);
        script(&mut session, &[FIRST, ("connected", ""), GREETED, OFFERED]);
        script(&mut session, failure);
        script(&mut session, &[("connected", ""), GREETED, ("250-mx|250 STARTTLS|", "(ready mx1.example)")]);
    }
    let mut session = session(TlsLevel::Opportunistic);
    script(&mut session, &[FIRST, ("connected", ""), GREETED, OFFERED, ("421 no|", SECOND)]);
    script(&mut session, &[("connected", ""), GREETED, OFFERED, ("220 go|", "(tls mx2.example)")]);
}

#[test]
fn a_demanded_tls_is_never_given_up() {
    for tls in [TlsLevel::Required, TlsLevel::Verified] {
        let verify = if tls == TlsLevel::Verified { " verify" } else { "" };
        let start = format!("(tls mx1.example{verify})");
        let quit = format!("QUIT| {SECOND}");
        for failure in [
            &[("250 mx|", quit.as_str())][..],
            &[OFFERED, ("454 no|", &quit)],
            &[OFFERED, ("220 go|", &start), ("bad tls", SECOND)],
        ] {
            let mut session = session(tls);
            script(&mut session, &[FIRST, ("connected", ""), GREETED]);
            script(&mut session, failure);
            feed(&mut session, "refused");
            assert!(drain(&mut session).starts_with("(failed site starttls "), "the next target is the last");
        }
    }
}

#[test]
fn a_certificate_that_was_not_verified_is_refused_where_it_must_be() {
    for (what, wanted) in [("tls", SECOND), ("verified", "EHLO me.example|")] {
        let mut session = session(TlsLevel::Verified);
        script(&mut session, &[FIRST, ("connected", ""), GREETED, OFFERED, ("220 go|", "(tls mx1.example verify)")]);
        script(&mut session, &[(what, wanted)]);
    }
}

#[test]
fn a_session_that_was_ready_tries_no_other_target() {
    for (what, wanted) in [
        ("421 4.3.2 down|", "(Transient session service_unavailable; over) (done)"),
        ("eof", "(Transient session connection_lost; over) (done)"),
        ("timeout", "(Transient session timeout; over) (done)"),
        ("junk|", "(Transient host protocol_error; over) (done)"),
    ] {
        let mut session = session(TlsLevel::Opportunistic);
        script(&mut session, &[FIRST, ("connected", ""), GREETED, ("250 mx|", "(ready mx1.example)")]);
        script(&mut session, &[("mail", "MAIL FROM:<>|"), (what, wanted)]);
    }
}

#[test]
fn quit_and_early_transactions_are_answered_while_connecting() {
    let mut session = session(TlsLevel::Opportunistic);
    assert_eq!(session.deadline(), Some(Instant::ZERO + Timeouts::DEFAULT.connect));
    script(&mut session, &[FIRST, ("mail", "(Transient session session_not_ready)"), ("quit", "(done)")]);
}

proptest! {
    #[test]
    fn whatever_happens_each_recipient_has_one_outcome(
        steps in proptest::collection::vec(
            prop_oneof![
                8 => proptest::sample::select(vec![
                    "connected", "refused", "reset", "eof", "timeout", "quit", "tls", "verified", "bad tls", "mail",
                    "mail", "220 mx|", "250 mx|", "250-mx|250-PIPELINING|250 STARTTLS|", "250 ok|250 ok|354 go|",
                    "354 go|", "250 ok|", "421 no|", "450 no|", "550 no|", "250-",
                ]).prop_map(str::to_owned),
                1 => "[ -~|]{0,20}",
            ],
            0..60,
        ),
        tls in proptest::sample::select(vec![
            TlsLevel::Opportunistic, TlsLevel::Required, TlsLevel::Verified,
        ]),
    ) {
        let mut session = session(tls);
        let (mut asked, mut told, mut closed, mut secured) = (0, 0, 0, false);
        for step in steps.iter().map(String::as_str).chain(["quit", "eof"]) {
            asked += usize::from(step == "mail");
            feed(&mut session, step);
            while let Some(output) = session.poll() {
                match output {
                    Output::Outcome(outcome) => told += outcome.recipients.len(),
                    Output::Close(_) => closed += 1,
                    Output::Connect(_) => secured = false,
                    Output::StartTls { .. } => secured = true,
                    Output::Send(bytes) => {
                        prop_assert!(secured || (tls == TlsLevel::Opportunistic) || !bytes.starts_with(b"MAIL"), "plaintext");
                    }
                    Output::Ready(capabilities) => prop_assert!((tls == TlsLevel::Opportunistic) || capabilities.tls.is_some()),
                }
            }
        }
        prop_assert_eq!((told, closed), (asked, 1));
    }
}
