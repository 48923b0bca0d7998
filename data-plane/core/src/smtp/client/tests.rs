//! The client against scripted receivers. A script is a list of (what comes, what goes out); `|` stands for CRLF.

use bytes::Bytes;
use postrail_schema::limits::{CHUNK_PIPELINED_BYTES_MAX, SMTP_REPLY_TEXT_BYTES_MAX};
use proptest::prelude::*;

use super::*;
use crate::mail::{Address, BodyType, DsnReturn, FinalMessage, ForwardPath, Notify};

fn recipient(address: &str) -> ForwardPath {
    ForwardPath { address: Address::parse(address).unwrap(), notify: Notify::Unspecified, orcpt: None }
}

fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        tag: 7,
        reverse_path: Some(Address::parse("a@b.example").unwrap()),
        body: BodyType::SevenBit,
        smtp_utf8: false,
        ret: None,
        envid: None,
        recipients: recipients.iter().map(|address| recipient(address)).collect(),
        message: FinalMessage {
            signatures: Bytes::from_static(b"D: s\r\n"),
            header: Bytes::from_static(b"S: x\r\n\r\n"),
            body: Bytes::from_static(b".hi\r\n"),
            eight_bit: false,
            utf8_header: false,
        },
        chunk: true,
    }
}

fn client(start_tls: StartTls) -> Client {
    let config = ClientConfig { ehlo_name: "me.example".into(), start_tls, timeouts: Timeouts::DEFAULT };
    Client::new(config, Instant::ZERO)
}

fn settled_text(settled: &Settled) -> String {
    let word = Fault::of(&settled.reply).map_or(settled.reply.code.to_string(), |fault| fault.word().to_owned());
    format!("{} {word}{}", settled.phase.name(), if settled.maybe_delivered { " maybe" } else { "" })
}

/// Everything that goes out now, as one line.
fn drain(client: &mut Client) -> String {
    let mut seen = Vec::new();
    while let Some(output) = client.poll() {
        seen.push(match output {
            Output::Send(bytes) => String::from_utf8_lossy(&bytes).replace("\r\n", "|"),
            Output::StartTls => "(start tls)".into(),
            Output::Ready => "(ready)".into(),
            Output::Outcome { recipients, over, .. } => {
                let texts: Vec<_> = recipients.iter().map(settled_text).collect();
                format!("({}{})", texts.join(", "), if over { "; over" } else { "" })
            }
            Output::Closed(End::Done) => "(closed)".into(),
            Output::Closed(End::Failed { phase, reply }) => {
                format!("(failed {})", settled_text(&Settled { phase, reply, maybe_delivered: false }))
            }
        });
    }
    seen.join(" ")
}

fn feed(client: &mut Client, what: &str) {
    let now = Instant::ZERO;
    match what {
        "eof" => client.handle(now, Input::Eof),
        "timeout" => client.handle(now, Input::Timeout),
        "quit" => client.handle(now, Input::Quit),
        "tls" => client.handle(now, Input::TlsEstablished),
        "bad tls" => client.handle(now, Input::TlsFailed("bad certificate")),
        "one" => client.handle(now, Input::Transaction(transaction(&["x@y.example"]))),
        "two" => client.handle(now, Input::Transaction(transaction(&["x@y.example", "z@y.example"]))),
        reply => client.handle(now, Input::Bytes(reply.replace('|', "\r\n").as_bytes())),
    }
}

fn script(client: &mut Client, steps: &[(&str, &str)]) {
    for (at, (what, wanted)) in steps.iter().enumerate() {
        feed(client, what);
        assert_eq!(drain(client), *wanted, "step {at}: {what}");
    }
}

/// A client that is ready with a receiver that offers `keywords`.
fn ready(keywords: &str) -> Client {
    let mut client = client(StartTls::IfOffered);
    feed(&mut client, "220 mx|");
    drain(&mut client);
    let words: Vec<_> = std::iter::once("mx").chain(keywords.split_terminator(',')).collect();
    feed(&mut client, &Reply::plain(250, words.join("\n")).to_wire().escape_ascii().to_string().replace("\\r\\n", "|"));
    assert_eq!(drain(&mut client), "(ready)");
    client
}

const PLAIN_MAIL: &str = "MAIL FROM:<a@b.example>|";
const GROUP: &str = "MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|RCPT TO:<z@y.example>|DATA|";
const MESSAGE: &str = "D: s|S: x||..hi|.|";

#[test]
fn a_mail_goes_out_one_command_at_a_time_without_pipelining() {
    script(
        &mut client(StartTls::IfOffered),
        &[
            ("220 mx ESMTP|", "EHLO me.example|"),
            ("250 mx|", "(ready)"),
            ("two", PLAIN_MAIL),
            ("250 ok|", "RCPT TO:<x@y.example>|"),
            ("250 ok|", "RCPT TO:<z@y.example>|"),
            ("251 ok|", "DATA|"),
            ("354 go|", MESSAGE),
            ("250 taken|", "(end_of_data 250, end_of_data 250) (ready)"),
            ("quit", "QUIT|"),
            ("221 bye|", "(closed)"),
        ],
    );
}

#[test]
fn a_mail_goes_out_as_one_group_with_pipelining() {
    script(
        &mut ready("PIPELINING"),
        &[
            ("two", GROUP),
            ("250 ok|250 ok|550 5.1.1 no|354 ", ""),
            ("go|", MESSAGE),
            ("250 taken|", "(end_of_data 250, rcpt 550) (ready)"),
            ("one", "MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|DATA|"),
            ("250 ok|250 ok|354 go|", MESSAGE),
            ("554 spam|", "(end_of_data 554) (ready)"),
        ],
    );
}

const CHUNK: &str =
    "MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|RCPT TO:<z@y.example>|BDAT 19 LAST| D: s| S: x|| .hi|";

#[test]
fn a_small_mail_goes_out_with_its_envelope_as_one_chunk() {
    script(
        &mut ready("PIPELINING,CHUNKING"),
        &[
            ("two", CHUNK),
            ("250 ok|250 ok|", ""),
            ("250 ok|250 taken|", "(end_of_data 250, end_of_data 250) (ready)"),
            ("two", CHUNK),
            ("250 ok|250 ok|250 ok|554 5.7.1 spam|", "(end_of_data 554, end_of_data 554) RSET|"),
            ("250 ok|", "(ready)"),
            ("two", CHUNK),
        ],
    );
    script(&mut ready("CHUNKING"), &[("two", PLAIN_MAIL)]);
}

#[test]
fn after_a_refusal_the_next_message_waits_for_its_recipients() {
    script(
        &mut ready("PIPELINING,CHUNKING"),
        &[
            ("two", CHUNK),
            ("250 ok|550 5.1.1 no|450 4.2.1 later|503 no recipients|", "(rcpt 550, rcpt 450) RSET|"),
            ("250 ok|", "(ready)"),
            ("two", GROUP),
            ("250 ok|250 ok|250 ok|354 go|", MESSAGE),
            ("250 taken|", "(end_of_data 250, end_of_data 250) (ready)"),
            ("two", CHUNK),
        ],
    );
}

#[test]
fn a_retry_a_large_message_and_a_rested_connection_wait_for_their_recipients() {
    let mut second = transaction(&["x@y.example", "z@y.example"]);
    second.chunk = false;
    let mut large = transaction(&["x@y.example", "z@y.example"]);
    large.message.body = Bytes::from("0123456789\r\n".repeat(CHUNK_PIPELINED_BYTES_MAX / 12 + 1));
    for transaction in [second, large] {
        let mut client = ready("PIPELINING,CHUNKING");
        client.handle(Instant::ZERO, Input::Transaction(transaction));
        assert_eq!(drain(&mut client), GROUP);
    }
    let mut client = ready("PIPELINING,CHUNKING");
    let later = Instant::ZERO + Duration::from_secs(2);
    client.handle(later, Input::Transaction(transaction(&["x@y.example", "z@y.example"])));
    assert_eq!(drain(&mut client), GROUP);
}

#[test]
fn a_receiver_that_offers_bdat_and_has_none_defers() {
    script(
        &mut ready("PIPELINING,CHUNKING"),
        &[
            ("one", "MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|BDAT 19 LAST| D: s| S: x|| .hi|"),
            ("250 ok|250 ok|502 5.5.1 what?|", "(end_of_data protocol_error) RSET|"),
            ("502 what?|", "QUIT| (closed)"),
        ],
    );
}

#[test]
fn a_chunk_whose_replies_are_lost_may_have_been_delivered() {
    let end = "(end_of_data connection_lost maybe, end_of_data connection_lost maybe; over) (closed)";
    for replies in ["", "250 ok|", "250 ok|250 ok|250 ok|"] {
        let mut client = ready("PIPELINING,CHUNKING");
        script(&mut client, &[("two", CHUNK), (replies, ""), ("eof", end)]);
    }
    let mut client = ready("PIPELINING,CHUNKING");
    let end = "(rcpt 550, end_of_data timeout maybe; over) (closed)";
    script(&mut client, &[("two", CHUNK), ("250 ok|550 no|250 ok|", ""), ("timeout", end)]);
    let mut client = ready("PIPELINING,CHUNKING");
    script(&mut client, &[("two", CHUNK), ("421 bye|", "(mail 421, mail 421; over) (closed)")]);
    // Nothing was handed out yet.
    let mut client = ready("PIPELINING,CHUNKING");
    feed(&mut client, "one");
    feed(&mut client, "eof");
    assert_eq!(drain(&mut client), "(mail connection_lost; over) (closed)");
}

/// One recipient with its envelope, as the first and as one that goes ahead.
const ONE: &str = "MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|BDAT 19 LAST| D: s| S: x|| .hi|";
const AHEAD: &str = "RSET|MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|BDAT 19 LAST| D: s| S: x|| .hi|";

#[test]
fn transactions_that_come_together_go_out_together_and_end_in_their_order() {
    script(
        &mut ready("PIPELINING,CHUNKING"),
        &[
            ("one", ONE),
            ("two", &AHEAD.replace("BDAT", "RCPT TO:<z@y.example>|BDAT")),
            ("one", AHEAD),
            ("250 ok|250 ok|250 taken|", "(end_of_data 250)"),
            ("250 reset|250 ok|250 ok|550 5.1.1 no|250 taken|", "(end_of_data 250, rcpt 550)"),
            ("250 reset|250 ok|250 ok|554 5.7.1 spam|", "(end_of_data 554) RSET|"),
            ("250 reset|", "(ready)"),
        ],
    );
}

#[test]
fn what_was_sent_behind_a_refused_transaction_is_taken_all_the_same() {
    let waited = "(end_of_data 250) MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|BDAT 19 LAST| D: s| S: x|| .hi|";
    script(
        &mut ready("PIPELINING,CHUNKING"),
        &[
            ("one", ONE),
            ("one", AHEAD),
            ("250 ok|450 4.2.1 later|503 no recipient|", "(rcpt 450)"),
            // After a refusal nothing more is sent ahead until one has been taken.
            ("one", ""),
            ("250 reset|250 ok|250 ok|250 taken|", waited),
        ],
    );
    let mut client = ready("PIPELINING,CHUNKING");
    script(
        &mut client,
        &[
            ("one", ONE),
            ("250 ok|450 4.2.1 later|", ""),
            ("one", ""),
            ("503 no recipient|", "(rcpt 450) RSET|"),
            ("250 reset|", "MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|DATA|"),
            ("250 ok|250 ok|354 go|", MESSAGE),
            ("250 taken|", "(end_of_data 250) (ready)"),
        ],
    );
}

#[test]
fn transactions_that_may_not_go_ahead_wait_for_those_before_them() {
    script(
        &mut ready("PIPELINING"),
        &[
            ("two", GROUP),
            ("two", ""),
            ("quit", ""),
            ("250 ok|250 ok|250 ok|354 go|", MESSAGE),
            ("250 taken|", &format!("(end_of_data 250, end_of_data 250) {GROUP}")),
            ("250 ok|250 ok|250 ok|354 go|", MESSAGE),
            ("250 taken|", "(end_of_data 250, end_of_data 250; over) QUIT|"),
        ],
    );
}

#[test]
fn a_connection_that_breaks_leaves_all_that_was_sent_in_doubt_and_nothing_else() {
    let lost = "(end_of_data connection_lost maybe; over) (end_of_data connection_lost maybe; over) (closed)";
    let mut client = ready("PIPELINING,CHUNKING");
    script(&mut client, &[("one", ONE), ("one", AHEAD), ("eof", lost)]);
    // The first was answered, the third not handed out.
    let mut client = ready("PIPELINING,CHUNKING");
    script(&mut client, &[("one", ONE), ("one", AHEAD), ("250 ok|250 ok|250 taken|", "(end_of_data 250)")]);
    feed(&mut client, "one");
    feed(&mut client, "eof");
    let end = "(end_of_data connection_lost maybe; over) (mail connection_lost; over) (closed)";
    assert_eq!(drain(&mut client), end);
    // Whoever says 421 has taken nothing of what follows.
    let mut client = ready("PIPELINING,CHUNKING");
    script(
        &mut client,
        &[
            ("one", ONE),
            ("one", AHEAD),
            ("250 ok|250 ok|250 taken|421 4.7.0 enough|", "(end_of_data 250) (mail 421; over) (closed)"),
        ],
    );
    // A receiver that knows no RSET may have gone on.
    let mut client = ready("PIPELINING,CHUNKING");
    script(
        &mut client,
        &[
            ("one", ONE),
            ("one", AHEAD),
            (
                "250 ok|250 ok|250 taken|500 what?|",
                "(end_of_data 250) (end_of_data protocol_error maybe; over) (closed)",
            ),
        ],
    );
}

#[test]
fn a_connection_takes_so_many_transactions_and_no_more() {
    let mut client = ready("PIPELINING,CHUNKING");
    for _ in 0..SESSION_TRANSACTIONS_MAX {
        assert!(client.takes_transaction());
        feed(&mut client, "one");
        drain(&mut client);
    }
    assert!(!client.takes_transaction());
    feed(&mut client, "one");
    assert_eq!(drain(&mut client), "(mail session_not_ready)");
}

#[test]
fn a_message_without_a_final_line_end_is_sent_with_one() {
    let mut open = transaction(&["x@y.example"]);
    open.message.body = Bytes::from_static(b".hi");
    let mut client = ready("PIPELINING,CHUNKING");
    client.handle(Instant::ZERO, Input::Transaction(open));
    assert!(drain(&mut client).ends_with("BDAT 19 LAST| D: s| S: x|| .hi |"));
}

#[test]
fn a_receiver_without_ehlo_is_told_helo() {
    script(
        &mut client(StartTls::IfOffered),
        &[
            ("220 mx|", "EHLO me.example|"),
            ("502 what|", "HELO me.example|"),
            ("250 mx|", "(ready)"),
            ("one", PLAIN_MAIL),
        ],
    );
}

#[test]
fn tls_is_started_where_it_is_offered_and_ehlo_is_said_again() {
    script(
        &mut client(StartTls::Demanded),
        &[
            ("220 mx|", "EHLO me.example|"),
            ("250-mx|250-PIPELINING|250 STARTTLS|", "STARTTLS|"),
            ("220 go|", "(start tls)"),
            ("tls", "EHLO me.example|"),
            ("250-mx|250 STARTTLS|", "(ready)"),
            ("one", PLAIN_MAIL),
        ],
    );
}

#[test]
fn sessions_that_do_not_begin_say_where_they_failed() {
    let greeted = ("220 mx|", "EHLO me.example|");
    let offered = ("250-mx|250 STARTTLS|", "STARTTLS|");
    for steps in [
        &[("554 5.7.1 go away|", "QUIT| (failed greeting 554)")][..],
        &[("421 busy|", "(failed greeting 421)")],
        &[("354 what|", "(failed greeting protocol_error)")],
        &[("hello|", "(failed greeting protocol_error)")],
        &[("220 mx|250 early|", "(failed ehlo protocol_error)")],
        &[("eof", "(failed greeting connection_lost)")],
        &[("timeout", "(failed greeting timeout)")],
        &[greeted, ("450 later|", "QUIT| (failed ehlo 450)")],
        &[greeted, ("550 no|", "HELO me.example|"), ("550 no|", "QUIT| (failed ehlo 550)")],
        &[greeted, ("250 mx|", "QUIT| (failed starttls tls_unavailable)")],
        &[greeted, offered, ("454 no|", "QUIT| (failed starttls 454)")],
        &[greeted, offered, ("220 go|250 injected|", "(failed starttls protocol_error)")],
        &[greeted, offered, ("220 go|", "(start tls)"), ("bad tls", "(failed starttls tls_failed)")],
        &[greeted, offered, ("220 go|", "(start tls)"), ("eof", "(failed starttls connection_lost)")],
        &[greeted, offered, ("220 go|", "(start tls)"), ("timeout", "(failed starttls timeout)")],
    ] {
        script(&mut client(StartTls::Demanded), steps);
    }
}

#[test]
fn refusals_at_each_step_settle_and_leave_the_session_usable() {
    for steps in [
        &[("two", PLAIN_MAIL), ("451 later|", "(mail 451, mail 451) (ready)")][..],
        &[
            ("two", PLAIN_MAIL),
            ("250 ok|", "RCPT TO:<x@y.example>|"),
            ("550 no|", "RCPT TO:<z@y.example>|"),
            ("450 no|", "(rcpt 550, rcpt 450) RSET|"),
            ("250 ok|", "(ready)"),
        ],
        &[
            ("two", PLAIN_MAIL),
            ("250 ok|", "RCPT TO:<x@y.example>|"),
            ("550 no|", "RCPT TO:<z@y.example>|"),
            ("250 ok|", "DATA|"),
            ("451 no|", "(rcpt 550, data 451) RSET|"),
            ("500 no|", "QUIT| (closed)"),
        ],
    ] {
        script(&mut ready(""), steps);
    }
}

#[test]
fn a_group_that_is_refused_is_read_to_its_end() {
    for steps in [
        // MAIL refused, the rest out of sequence.
        &[("two", GROUP), ("550 no|503 mail|503 mail|503 rcpt|", "(mail 550, mail 550) (ready)")][..],
        // Every RCPT refused, DATA too.
        &[("two", GROUP), ("250 ok|550 no|551 no|554 none|", "(rcpt 550, rcpt 551) RSET|"), ("250 ok|", "(ready)")],
        // Every RCPT refused, DATA taken: a lone dot, whatever its reply.
        &[("two", GROUP), ("250 ok|550 no|551 no|354 go|", ".|"), ("250 what|", "(rcpt 550, rcpt 551) (ready)")],
        &[("two", GROUP), ("550 no|550 no|551 no|354 go|", ".|"), ("554 none|", "(mail 550, mail 550) (ready)")],
        // MAIL refused, RCPT and DATA taken: no dot, it might send an empty message.
        &[("two", GROUP), ("550 no|250 ok|250 ok|354 go|", "(mail 550, mail 550; over) (closed)")],
        &[("two", GROUP), ("250 ok|250 ok|550 no|451 later|", "(data 451, rcpt 550) RSET|")],
    ] {
        script(&mut ready("PIPELINING"), steps);
    }
}

#[test]
fn lost_connections_settle_by_how_far_the_mail_came() {
    for what in ["eof", "timeout", "garbage|", "421 4.3.2 going down|"] {
        let word = match what {
            "eof" => "connection_lost",
            "timeout" => "timeout",
            "garbage|" => "protocol_error",
            _ => "421",
        };
        let at = |phase: &str| format!("({phase} {word}, {phase} {word}; over) (closed)");
        script(&mut ready(""), &[("two", PLAIN_MAIL), (what, &at("mail"))]);
        script(&mut ready("PIPELINING"), &[("two", GROUP), ("250 ok|", ""), (what, &at("rcpt"))]);
        script(&mut ready("PIPELINING"), &[("two", GROUP), ("250 ok|250 ok|250 ok|", ""), (what, &at("data"))]);
        let data = format!("(data {word}, rcpt 550; over) (closed)");
        script(&mut ready("PIPELINING"), &[("two", GROUP), ("250 ok|250 ok|550 no|", ""), (what, &data)]);
        let maybe = if what.starts_with("421") { "" } else { " maybe" };
        let end = format!("(end_of_data {word}{maybe}, end_of_data {word}{maybe}; over) (closed)");
        script(&mut ready("PIPELINING"), &[("two", GROUP), ("250 ok|250 ok|250 ok|354 go|", MESSAGE), (what, &end)]);
    }
}

#[test]
fn a_reply_cut_off_at_the_end_of_data_may_have_been_a_delivery() {
    script(
        &mut ready("PIPELINING"),
        &[
            ("one", "MAIL FROM:<a@b.example>|RCPT TO:<x@y.example>|DATA|"),
            ("250 ok|250 ok|354 go|", MESSAGE),
            ("250 take", ""),
            ("eof", "(end_of_data connection_lost maybe; over) (closed)"),
        ],
    );
}

#[test]
fn a_connection_lost_before_the_end_of_data_was_handed_out_delivered_nothing() {
    for (what, wanted) in [
        ("eof", "(end_of_data connection_lost; over) (closed)"),
        ("552 too much|", "(end_of_data 552; over) (closed)"),
        ("250 ok|", "(end_of_data protocol_error; over) (closed)"),
    ] {
        let mut client = ready("PIPELINING");
        feed(&mut client, "one");
        drain(&mut client);
        feed(&mut client, "250 ok|250 ok|354 go|");
        feed(&mut client, what);
        assert_eq!(drain(&mut client), wanted, "{what}");
    }
}

#[test]
fn what_comes_while_idle_ends_the_session_without_harm() {
    for what in ["421 idle too long|", "250 what|", "nonsense|", "eof"] {
        script(
            &mut ready(""),
            &[(what, "(closed)"), ("two", "(mail session_not_ready, mail session_not_ready; over)")],
        );
    }
    script(&mut ready(""), &[("timeout", "")]);
}

#[test]
fn a_reply_before_its_command_is_out_of_step() {
    script(
        &mut ready(""),
        &[("two", PLAIN_MAIL), ("250 ok|250 ok|", "(rcpt protocol_error, rcpt protocol_error; over) (closed)")],
    );
}

#[test]
fn quit_waits_for_the_transaction_that_runs() {
    script(
        &mut ready(""),
        &[
            ("one", PLAIN_MAIL),
            ("quit", ""),
            ("one", "(mail session_not_ready; over)"),
            ("550 no|", "(mail 550; over) QUIT|"),
            ("eof", "(closed)"),
        ],
    );
}

#[test]
fn parameters_are_sent_where_they_are_offered_only() {
    let mut full = transaction(&["x@y.example"]);
    full.body = BodyType::EightBitMime;
    full.ret = Some(DsnReturn::Headers);
    full.envid = Some("QQ314159".into());
    full.recipients[0].notify = Notify::On { success: true, failure: true, delay: false };
    full.recipients[0].orcpt = Some("rfc822;x+40y@z.example".into());
    let mut never = transaction(&["x@y.example"]);
    never.reverse_path = None;
    never.ret = Some(DsnReturn::Full);
    never.envid = Some("a\r\nQUIT".into());
    never.recipients[0].notify = Notify::Never;
    for (keywords, transaction, mail, rcpt) in [
        ("", &full, "MAIL FROM:<a@b.example>|", "RCPT TO:<x@y.example>|"),
        (
            "SIZE 100,8BITMIME,DSN",
            &full,
            "MAIL FROM:<a@b.example> SIZE=19 BODY=8BITMIME RET=HDRS ENVID=QQ314159|",
            "RCPT TO:<x@y.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x+40y@z.example|",
        ),
        ("SIZE,8BITMIME,DSN", &never, "MAIL FROM:<> SIZE=19 RET=FULL|", "RCPT TO:<x@y.example> NOTIFY=NEVER|"),
    ] {
        let mut client = ready(keywords);
        client.handle(Instant::ZERO, Input::Transaction(transaction.clone()));
        assert_eq!(drain(&mut client), mail);
        feed(&mut client, "250 ok|");
        assert_eq!(drain(&mut client), rcpt);
    }
}

#[test]
fn internationalised_addresses_go_where_smtp_utf8_is_offered() {
    let mut mixed = transaction(&["jürgen@bücher.example", "x@bücher.example"]);
    let mut client = ready("PIPELINING,8BITMIME,SMTPUTF8");
    client.handle(Instant::ZERO, Input::Transaction(mixed.clone()));
    assert_eq!(
        drain(&mut client),
        "MAIL FROM:<a@b.example> SMTPUTF8|RCPT TO:<jürgen@bücher.example>|RCPT TO:<x@bücher.example>|DATA|"
    );
    let mut client = ready("PIPELINING");
    client.handle(Instant::ZERO, Input::Transaction(mixed.clone()));
    assert_eq!(drain(&mut client), "MAIL FROM:<a@b.example>|RCPT TO:<x@xn--bcher-kva.example>|DATA|");
    feed(&mut client, "250 ok|250 ok|354 go|");
    drain(&mut client);
    feed(&mut client, "250 ok|");
    assert_eq!(drain(&mut client), "(rcpt smtp_utf8_missing, end_of_data 250) (ready)");
    mixed.message.utf8_header = true;
    let mut client = ready("PIPELINING");
    client.handle(Instant::ZERO, Input::Transaction(mixed));
    assert_eq!(drain(&mut client), "(mail smtp_utf8_missing, mail smtp_utf8_missing) (ready)");
}

#[test]
fn nothing_is_sent_of_a_message_that_the_receiver_cannot_take() {
    let mut eight_bit = transaction(&["x@y.example"]);
    eight_bit.message.eight_bit = true;
    for (keywords, transaction, wanted) in [
        ("", eight_bit, "(mail eight_bit_mime_missing) (ready)"),
        ("SIZE 18", transaction(&["x@y.example"]), "(mail message_too_large) (ready)"),
    ] {
        let mut client = ready(keywords);
        client.handle(Instant::ZERO, Input::Transaction(transaction));
        assert_eq!(drain(&mut client), wanted);
    }
}

#[test]
fn every_state_has_the_time_of_the_standard() {
    let minutes = |minutes: u64| Some(Instant::ZERO + Duration::from_secs(60 * minutes));
    let mut client = client(StartTls::IfOffered);
    assert_eq!(client.deadline(), minutes(5), "greeting");
    feed(&mut client, "220 mx|");
    drain(&mut client);
    feed(&mut client, "250 mx|");
    drain(&mut client);
    assert_eq!(client.deadline(), None, "ready");
    for (what, wanted) in [("one", 5), ("250 ok|", 5), ("250 ok|", 2)] {
        feed(&mut client, what);
        drain(&mut client);
        assert_eq!(client.deadline(), minutes(wanted), "{what}");
    }
    feed(&mut client, "354 go|");
    assert_eq!(client.deadline(), minutes(3), "the first block");
    drain(&mut client);
    assert_eq!(client.deadline(), minutes(3 + 10), "the block and the reply to its end");
}

#[test]
fn long_replies_are_kept_in_part() {
    let mut client = ready("");
    feed(&mut client, "one");
    drain(&mut client);
    let line = format!("550-{}|", "\u{e9}".repeat(900));
    feed(&mut client, &(line.repeat(100) + "550 end|"));
    let Some(Output::Outcome { recipients, .. }) = client.poll() else { panic!("no outcome") };
    assert!(recipients[0].reply.text.len() <= SMTP_REPLY_TEXT_BYTES_MAX);
}

/// Pieces that receivers say, and noise.
fn anything() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "220 mx|",
        "250 ok|",
        "250-mx|250-PIPELINING|250-SIZE 100|250 STARTTLS|",
        "250-mx|250 PIPELINING|",
        "250-mx|250-CHUNKING|250 PIPELINING|",
        "354 go|",
        "421 bye|",
        "450 4.7.1 later|",
        "452 many|",
        "500 no|",
        "550 5.1.1 no|",
        "552 full|",
        "250-",
        "eof",
        "timeout",
        "quit",
        "tls",
        "bad tls",
        "one",
        "two",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => "[ -~|]{0,20}", 1 => "\\PC{0,8}"]
}

proptest! {
    #[test]
    fn whatever_a_receiver_does_each_recipient_is_settled_once(
        steps in proptest::collection::vec(anything(), 0..40),
        begun: bool,
        chunking: bool,
    ) {
        let offers = if chunking { "PIPELINING,CHUNKING" } else { "PIPELINING" };
        let mut client = if begun { ready(offers) } else { client(StartTls::IfOffered) };
        let (mut asked, mut settled, mut closed) = (0, 0, 0);
        for step in steps.iter().map(String::as_str).chain(["eof"]) {
            asked += match step { "one" => 1, "two" => 2, _ => 0 };
            feed(&mut client, step);
            while let Some(output) = client.poll() {
                match output {
                    Output::Outcome { recipients, .. } => {
                        settled += recipients.len();
                        for one in recipients {
                            prop_assert!(!one.maybe_delivered || one.phase == Phase::EndOfData);
                        }
                    }
                    Output::Closed(_) => closed += 1,
                    Output::Send(_) | Output::StartTls | Output::Ready => prop_assert_eq!(closed, 0),
                }
            }
            prop_assert_eq!(client.state() == State::Over, closed == 1);
        }
        prop_assert_eq!((asked, closed), (settled, 1));
    }
}
