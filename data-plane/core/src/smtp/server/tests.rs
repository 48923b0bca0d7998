//! Whole dialogues, and properties of any dialogue.
//!
//! A script is a list of (what the client sends, what the session does): replies as they stand, and `<starttls>`,
//! `<close reason>` where it does that. Questions are answered at once: secret `pw` is right, senders and recipients
//! with local part `no` are refused.

use postrail_schema::limits::{
    INTAKE_IDLE, JOB_RECIPIENTS_MAX, SMTP_AUTH_FAILURES_MAX, SMTP_AUTH_LINE_BYTES_MAX, SMTP_COMMAND_BYTES_MAX,
    SMTP_ERRORS_MAX, SMTP_IDLE_COMMANDS_MAX, SMTP_PIPELINE_BYTES_MAX,
};
use proptest::prelude::*;

use super::*;
use crate::base::Instant;
use crate::mail::Notify;

fn config() -> SessionConfig {
    SessionConfig {
        hostname: "mx.test".into(),
        peer: "192.0.2.7:40000".parse().unwrap(),
        starttls: true,
        requires_tls: false,
        implicit_tls: false,
        message_bytes_max: 1_000,
        is_trusted: false,
        auth_without_tls: true,
        idle: INTAKE_IDLE,
    }
}

fn id() -> MessageId {
    MessageId::from_bits(7)
}

fn answer(question: &Question) -> Answer {
    let refused = |code, subject, detail| Answer::Refused(Reply::enhanced(code, subject, detail, "no"));
    match question {
        Question::Authenticate { secret, .. } if secret.expose() == b"pw" => Answer::Authenticated,
        Question::Authenticate { .. } => refused(535, 7, 8),
        Question::Sender(mail) => match &mail.reverse_path {
            Some(address) if address.local_part() == "no" => refused(550, 7, 1),
            _ => Answer::Ok,
        },
        Question::Recipient(path) if path.address.local_part() == "no" => refused(550, 1, 1),
        Question::Recipient(path) if path.address.local_part() == "end" => refused(421, 3, 2),
        Question::Recipient(_) => Answer::Ok,
        Question::Message(_) => Answer::Accepted(id()),
    }
}

/// A session with the pump's part played at once.
struct Dialogue {
    session: Session,
    transactions: Vec<Transaction>,
    sends: usize,
}

impl Dialogue {
    fn new(config: SessionConfig) -> Self {
        Self { session: Session::new(config, Instant::ZERO), transactions: Vec::new(), sends: 0 }
    }

    fn give(&mut self, input: Input<'_>) -> String {
        self.give_at(Instant::ZERO, input)
    }

    fn give_at(&mut self, now: Instant, input: Input<'_>) -> String {
        self.session.handle(now, input).unwrap();
        self.drain(now)
    }

    fn drain(&mut self, now: Instant) -> String {
        let mut text = String::new();
        while let Some(output) = self.session.poll() {
            match output {
                Output::Send(bytes) => {
                    self.sends += 1;
                    text.push_str(&String::from_utf8(bytes).unwrap());
                }
                Output::StartTls => text.push_str("<starttls>"),
                Output::Close(reason) => text.push_str(&format!("<close {}>", reason.name())),
                Output::Ask(tag, question) => {
                    let answer = answer(&question);
                    if let Question::Message(transaction) = question {
                        self.transactions.push(*transaction);
                    }
                    self.session.handle(now, Input::Answer(tag, answer)).unwrap();
                }
            }
        }
        text
    }

    fn run(&mut self, script: &[(&str, &str)]) {
        for (send, expected) in script {
            assert_eq!(self.give(Input::Bytes(send.as_bytes())), *expected, "to {send:?}");
        }
    }
}

/// A dialogue after EHLO and AUTH.
fn authenticated() -> Dialogue {
    let mut dialogue = Dialogue::new(config());
    dialogue.give(Input::Bytes(b"EHLO c.test\r\nAUTH PLAIN AGJvYgBwdw==\r\n"));
    assert_eq!(dialogue.session.state(), StateName::Command);
    dialogue
}

const EHLO: &str = "250-mx.test greets [192.0.2.7]\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
    250-CHUNKING\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250-HELP\r\n250-SIZE 1000\r\n";
const QUEUED: &str = "250 2.0.0 Ok: queued as 00000000-0000-0000-0000-000000000007\r\n";
const GO: &str = "354 End data with <CR><LF>.<CR><LF>\r\n";
const BARE: &str = "550 5.6.0 bare CR or LF in the message: lines end with CR and LF\r\n";
const ENVELOPE: &str = "MAIL FROM:<a@b.test>\r\nRCPT TO:<x@y.test>\r\n";
const ENVELOPE_OK: &str = "250 2.1.0 Sender ok\r\n250 2.1.5 Recipient ok\r\n";

#[test]
fn a_trusted_peer_needs_no_auth_and_may_give_it() {
    let mut dialogue = Dialogue::new(SessionConfig { is_trusted: true, ..config() });
    dialogue.drain(Instant::ZERO);
    let ehlo = format!("{EHLO}250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n");
    dialogue.run(&[
        ("EHLO c.test\r\n", &ehlo),
        ("RCPT TO:<a@b.test>\r\n", "503 5.5.1 Give MAIL first\r\n"),
        ("MAIL FROM:<a@b.test>\r\n", "250 2.1.0 Sender ok\r\n"),
        ("RSET\r\n", "250 2.0.0 Ok\r\n"),
        ("AUTH PLAIN AGJvYgBwdw==\r\n", "235 2.7.0 Authentication succeeded\r\n"),
    ]);
}

#[test]
fn a_listener_that_requires_tls_takes_nothing_in_clear() {
    let mut dialogue = Dialogue::new(SessionConfig { requires_tls: true, ..config() });
    dialogue.drain(Instant::ZERO);
    dialogue.run(&[
        ("EHLO c.test\r\n", &format!("{EHLO}250 STARTTLS\r\n")),
        ("AUTH PLAIN AGJvYgBwdw==\r\n", "538 5.7.11 AUTH needs TLS: give STARTTLS first\r\n"),
        ("MAIL FROM:<a@b.test>\r\n", "530 5.7.0 TLS is required: give STARTTLS first\r\n"),
    ]);
}

#[test]
fn a_message_is_submitted_over_starttls() {
    let mut dialogue = Dialogue::new(SessionConfig { auth_without_tls: false, ..config() });
    assert_eq!(dialogue.drain(Instant::ZERO), "220 mx.test ESMTP Postrail\r\n");
    let ehlo_tls = format!("{EHLO}250 STARTTLS\r\n");
    dialogue.run(&[
        ("EHLO c.test\r\n", &ehlo_tls),
        ("AUTH PLAIN AGJvYgBwdw==\r\n", "538 5.7.11 AUTH needs TLS: give STARTTLS first\r\n"),
        ("MAIL FROM:<a@b.test>\r\n", "530 5.7.0 Authentication required, and AUTH needs TLS: give STARTTLS first\r\n"),
        ("STARTTLS\r\nEHLO injected.test\r\n", "220 2.0.0 Ready to start TLS\r\n<starttls>"),
        ("NOOP\r\n", ""),
    ]);
    assert_eq!(dialogue.session.state(), StateName::Tls);
    let facts = TlsFacts { version: "TLSv1.3".into(), cipher: "X".into(), verified: false };
    assert_eq!(dialogue.give(Input::TlsEstablished(facts.clone())), "");
    let ehlo_auth = format!("{EHLO}250 AUTH PLAIN LOGIN\r\n");
    dialogue.run(&[
        ("AUTH PLAIN AGJvYgBwdw==\r\n", "503 5.5.1 Give EHLO first\r\n"),
        ("EHLO c.test\r\n", &ehlo_auth),
        ("STARTTLS\r\n", "503 5.5.1 TLS is active already\r\n"),
        ("AUTH PLAIN AGJvYgBwdw==\r\n", "235 2.7.0 Authentication succeeded\r\n"),
        ("MAIL FROM:<a@b.test> SIZE=20 RET=FULL ENVID=e1\r\n", "250 2.1.0 Sender ok\r\n"),
        ("RCPT TO:<x@y.test> NOTIFY=NEVER ORCPT=rfc822;x@y.test\r\n", "250 2.1.5 Recipient ok\r\n"),
        ("DATA\r\n", GO),
        ("From: a@b.test\r\n\r\n..dot\r\n.\r\n", QUEUED),
        ("QUIT\r\n", "221 2.0.0 Bye\r\n<close quit>"),
        ("NOOP\r\n", ""),
    ]);
    let transaction = &dialogue.transactions[0];
    assert_eq!(transaction.content, b"From: a@b.test\r\n\r\n.dot\r\n");
    assert_eq!((transaction.helo.as_str(), transaction.esmtp), ("c.test", true));
    assert_eq!((transaction.tls.as_ref(), transaction.username.as_deref()), (Some(&facts), Some("bob")));
    assert_eq!(transaction.envelope.recipients[0].notify, Notify::Never);
    assert_eq!(transaction.envelope.envid.as_deref(), Some("e1"));
    assert_eq!(dialogue.session.state(), StateName::Closed);
}

#[test]
fn with_implicit_tls_the_greeting_follows_the_handshake() {
    let mut dialogue = Dialogue::new(SessionConfig { implicit_tls: true, ..config() });
    assert_eq!(dialogue.drain(Instant::ZERO), "");
    assert_eq!(dialogue.give(Input::Bytes(b"EHLO x\r\n")), "");
    assert_eq!(dialogue.give(Input::TlsEstablished(TlsFacts::default())), "220 mx.test ESMTP Postrail\r\n");
    assert_eq!(
        dialogue.session.handle(Instant::ZERO, Input::TlsEstablished(TlsFacts::default())),
        Err(Error::UnexpectedTls)
    );
}

#[test]
fn starttls_forgets_who_the_client_was() {
    let mut dialogue = authenticated();
    dialogue.run(&[("STARTTLS\r\n", "220 2.0.0 Ready to start TLS\r\n<starttls>")]);
    dialogue.give(Input::TlsEstablished(TlsFacts::default()));
    dialogue.run(&[
        ("MAIL FROM:<a@b.test>\r\n", "503 5.5.1 Give EHLO first\r\n"),
        ("HELO c.test\r\n", "250 mx.test\r\n"),
        ("MAIL FROM:<a@b.test>\r\n", "530 5.7.0 Authentication required\r\n"),
    ]);
}

#[test]
fn a_pipelined_group_is_answered_in_one_send() {
    let mut dialogue = authenticated();
    let sends = dialogue.sends;
    dialogue.run(&[
        (
            "MAIL FROM:<a@b.test>\r\nRCPT TO:<x@y.test>\r\nRCPT TO:<no@y.test>\r\nDATA\r\n",
            "250 2.1.0 Sender ok\r\n250 2.1.5 Recipient ok\r\n550 5.1.1 no\r\n354 End data with <CR><LF>.<CR><LF>\r\n",
        ),
        (
            "a: b\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<x@y.test>\r\nBDAT 6 LAST\r\nc: d\r\nQUIT\r\n",
            "250 2.0.0 Ok: queued as 00000000-0000-0000-0000-000000000007\r\n250 2.1.0 Sender ok\r\n\
             250 2.1.5 Recipient ok\r\n250 2.0.0 Ok: queued as 00000000-0000-0000-0000-000000000007\r\n\
             221 2.0.0 Bye\r\n<close quit>",
        ),
    ]);
    assert_eq!(dialogue.sends - sends, 2);
    assert_eq!(dialogue.transactions[1].content, b"c: d\r\n");
    assert_eq!(dialogue.transactions[1].envelope.reverse_path, None);
}

#[test]
fn commands_out_of_order_are_refused() {
    let mut dialogue = Dialogue::new(config());
    dialogue.drain(Instant::ZERO);
    dialogue.run(&[
        ("MAIL FROM:<a@b.test>\r\n", "503 5.5.1 Give EHLO first\r\n"),
        ("RCPT TO:<a@b.test>\r\n", "530 5.7.0 Authentication required\r\n"),
        ("DATA\r\n", "530 5.7.0 Authentication required\r\n"),
        ("BDAT 6 LAST\r\nQUIT\r\n", "530 5.7.0 Authentication required\r\n"),
    ]);
    let mut dialogue = authenticated();
    dialogue.run(&[
        ("AUTH PLAIN AGJvYgBwdw==\r\n", "503 5.5.1 Authenticated already\r\n"),
        ("RCPT TO:<a@b.test>\r\n", "503 5.5.1 Give MAIL first\r\n"),
        ("DATA\r\n", "503 5.5.1 Give MAIL first\r\n"),
        ("MAIL FROM:<no@b.test>\r\n", "550 5.7.1 no\r\n"),
        ("MAIL FROM:<a@b.test>\r\n", "250 2.1.0 Sender ok\r\n"),
        ("MAIL FROM:<a@b.test>\r\n", "503 5.5.1 A transaction is open: end it, or give RSET\r\n"),
        ("RCPT TO:<\u{fc}@b.test>\r\n", "553 5.6.7 The address is not ASCII: give SMTPUTF8 with MAIL\r\n"),
        ("DATA\r\n", "554 5.5.1 No valid recipients\r\n"),
        ("STARTTLS\r\n", "503 5.5.1 STARTTLS within a transaction\r\n"),
        ("RSET\r\n", "250 2.0.0 Ok\r\n"),
        ("DATA\r\n", "503 5.5.1 Give MAIL first\r\n"),
        ("VRFY bob\r\n", "252 2.0.0 Not verified; send a message to find out\r\n"),
        ("EXPN list\r\n", "502 5.5.1 EXPN is not offered\r\n"),
        ("NOOP\r\n", "250 2.0.0 Ok\r\n"),
    ]);
    assert!(dialogue.give(Input::Bytes(b"HELP\r\n")).starts_with("214-2.0.0 EHLO"));
}

#[test]
fn authentication_has_its_steps_and_its_bound() {
    let mut dialogue = Dialogue::new(config());
    dialogue.give(Input::Bytes(b"EHLO c.test\r\n"));
    dialogue.run(&[
        ("AUTH LOGIN\r\n", "334 VXNlcm5hbWU6\r\n"),
        ("Ym9i\r\n", "334 UGFzc3dvcmQ6\r\n"),
        ("*\r\n", "501 5.7.0 Authentication cancelled\r\n"),
        ("AUTH PLAIN\r\n", "334 \r\n"),
        ("%\r\n", "501 5.5.2 The response is not base64\r\n"),
        ("AUTH PLAIN =\r\n", "501 5.5.2 The response does not hold a username and a secret\r\n"),
        ("AUTH GSSAPI\r\n", "504 5.5.4 Mechanism not offered: use PLAIN or LOGIN\r\n"),
    ]);
    for _ in 0..SMTP_AUTH_FAILURES_MAX {
        dialogue.run(&[("AUTH LOGIN Ym9i\r\n", "334 UGFzc3dvcmQ6\r\n"), ("bm8=\r\n", "535 5.7.8 no\r\n")]);
    }
    dialogue
        .run(&[("AUTH PLAIN AGJvYgBwdw==\r\n", "421 4.7.0 Too many failed authentications\r\n<close auth_failures>")]);
}

#[test]
fn lines_that_are_too_long_are_dropped_and_refused() {
    let mut dialogue = authenticated();
    let refused = "500 5.5.2 The line is too long\r\n";
    let noop = format!("NOOP {}\r\n", "x".repeat(SMTP_COMMAND_BYTES_MAX - 7));
    dialogue.run(&[(&noop, "250 2.0.0 Ok\r\n"), (&noop.replacen(' ', "  ", 1), refused)]);
    let long = "x".repeat(SMTP_AUTH_LINE_BYTES_MAX);
    dialogue.run(&[(&long, ""), (&long, ""), ("\r\nNOOP\r\n", &format!("{refused}250 2.0.0 Ok\r\n"))]);
    assert_eq!(dialogue.session.buffered_bytes(), 0);
    let endless = "x".repeat(2 * SMTP_PIPELINE_BYTES_MAX);
    dialogue.run(&[(&endless, "421 4.7.0 The line does not end\r\n<close flood>")]);

    let mut dialogue = Dialogue::new(config());
    dialogue.give(Input::Bytes(b"EHLO c.test\r\nAUTH PLAIN\r\n"));
    dialogue.run(&[(&long, ""), ("\r\n", "500 5.5.6 The line is too long\r\n"), ("NOOP\r\n", "250 2.0.0 Ok\r\n")]);
}

#[test]
fn lines_end_with_crlf_and_hold_no_control_characters() {
    let mut dialogue = authenticated();
    dialogue.run(&[
        ("NOOP\n", "500 5.5.2 Lines end with CR and LF, not with LF alone\r\n"),
        ("NOOP\rNOOP\r\n", "500 5.5.2 The line has characters that no command has\r\n"),
        ("NO\0OP\r\n", "500 5.5.2 The line has characters that no command has\r\n"),
    ]);
    assert!(dialogue.give(Input::Bytes(b"NOOP \xff\r\n")).starts_with("500 5.5.2"));
}

#[test]
fn nothing_but_crlf_dot_crlf_ends_data() {
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r"] {
        let mut dialogue = authenticated();
        let smuggled = format!("a: b{end}MAIL FROM:<evil@b.test>\r\nRCPT TO:<x@y.test>\r\nDATA\r\n");
        let data = format!("{ENVELOPE}DATA\r\n");
        dialogue.run(&[
            (&data, &format!("{ENVELOPE_OK}{GO}")),
            (&smuggled, ""),
            ("x\r\n.\r\n", BARE),
            ("NOOP\r\n", "250 2.0.0 Ok\r\n"),
        ]);
        assert!(dialogue.transactions.is_empty(), "{end:?}");
    }
}

#[test]
fn large_messages_are_refused_early_or_read_and_dropped() {
    let mut dialogue = authenticated();
    let refused = "552 5.3.4 A message has at most 1000 octets\r\n";
    let data = format!("{ENVELOPE}DATA\r\n");
    let go = format!("{ENVELOPE_OK}{GO}");
    let lines = "0123456789\r\n".repeat(100);
    dialogue.run(&[
        ("MAIL FROM:<a@b.test> SIZE=1001\r\n", refused),
        (&data, &go),
        (&lines, ""),
        (".\r\n", refused),
        (&data, &go),
        (&lines, ""),
        (&lines, "421 4.3.4 The message is far too large\r\n<close flood>"),
    ]);
    let mut dialogue = Dialogue::new(SessionConfig { message_bytes_max: 10_000, ..config() });
    dialogue.give(Input::Bytes(b"EHLO c.test\r\nAUTH PLAIN AGJvYgBwdw==\r\n"));
    let long = "x".repeat(999);
    dialogue.run(&[
        (&data, &go),
        (&format!("{long}\r\n.\r\n"), "550 5.6.0 a line is longer than 998 octets\r\n"),
        (&data, &go),
        (&format!("{}\r\n.\r\n", &long[1..]), QUEUED),
    ]);
}

#[test]
fn chunks_are_gathered() {
    let mut dialogue = authenticated();
    dialogue.run(&[
        (ENVELOPE, ENVELOPE_OK),
        ("BDAT 5\r\na: b\r", "250 2.0.0 5 octets received\r\n"),
        ("DATA\r\n", "503 5.5.1 DATA after BDAT\r\n"),
        ("RCPT TO:<z@y.test>\r\n", "503 5.5.1 RCPT after BDAT\r\n"),
        ("BDAT 8\r\n\n\r\n.\r\n.x", "250 2.0.0 8 octets received\r\n"),
        ("BDAT 0 LAST\r\n", QUEUED),
        ("BDAT 4 LAST\r\nQUIT", "503 5.5.1 Give MAIL first\r\n"),
    ]);
    assert_eq!(dialogue.transactions[0].content, b"a: b\r\n\r\n.\r\n.x\r\n");
}

#[test]
fn a_refused_chunk_fails_its_transaction() {
    let mut dialogue = authenticated();
    dialogue.run(&[
        ("MAIL FROM:<a@b.test>\r\nBDAT 4\r\nRSET", "250 2.1.0 Sender ok\r\n554 5.5.1 No valid recipients\r\n"),
        ("RCPT TO:<x@y.test>\r\n", "503 5.5.1 RCPT after BDAT\r\n"),
        ("BDAT 4 LAST\r\nRSET", "503 5.5.1 A chunk was refused: give RSET\r\n"),
        ("RSET\r\n", "250 2.0.0 Ok\r\n"),
        (ENVELOPE, ENVELOPE_OK),
        ("BDAT 4\r\na\nbc", BARE),
        ("BDAT 1 LAST\r\nx", "503 5.5.1 A chunk was refused: give RSET\r\n"),
        ("RSET\r\n", "250 2.0.0 Ok\r\n"),
        (ENVELOPE, ENVELOPE_OK),
        ("BDAT 2 LAST\r\na\r", BARE),
        ("NOOP\r\n", "250 2.0.0 Ok\r\n"),
    ]);
    let huge = format!("BDAT 99999\r\n{}", "x".repeat(3_000));
    dialogue.run(&[(&huge, "421 4.3.4 The message is far too large\r\n<close flood>")]);
    let mut dialogue = authenticated();
    let closing = "421 4.7.0 The form is BDAT octets [LAST]; the next command cannot be found, closing\r\n\
        <close framing>";
    dialogue.run(&[("BDAT x\r\n", closing)]);
}

#[test]
fn bounds_end_the_session() {
    let mut dialogue = authenticated();
    for _ in 0..SMTP_ERRORS_MAX {
        dialogue.run(&[("FOO\r\n", "500 5.5.1 Command not known\r\n")]);
    }
    dialogue.run(&[("FOO\r\n", "421 4.7.0 Too many errors\r\n<close errors>")]);

    let mut dialogue = authenticated();
    for _ in 0..SMTP_IDLE_COMMANDS_MAX - 2 {
        dialogue.run(&[("NOOP\r\n", "250 2.0.0 Ok\r\n")]);
    }
    dialogue.run(&[("NOOP\r\n", "421 4.7.0 Too many commands without a message\r\n<close idle_commands>")]);

    let mut dialogue = authenticated();
    dialogue.run(&[("MAIL FROM:<a@b.test>\r\n", "250 2.1.0 Sender ok\r\n")]);
    for _ in 0..JOB_RECIPIENTS_MAX {
        dialogue.run(&[("RCPT TO:<x@y.test>\r\n", "250 2.1.5 Recipient ok\r\n")]);
    }
    for _ in 0..SMTP_ERRORS_MAX + 1 {
        dialogue.run(&[("RCPT TO:<x@y.test>\r\n", "452 4.5.3 A message has at most 1000 recipients\r\n")]);
    }
    dialogue.run(&[("DATA\r\n", GO), ("a: b\r\n.\r\n", QUEUED)]);
    assert_eq!(dialogue.transactions[0].envelope.recipients.len(), JOB_RECIPIENTS_MAX);
}

#[test]
fn a_refusal_with_421_ends_the_session() {
    let mut dialogue = authenticated();
    dialogue.run(&[(
        "MAIL FROM:<a@b.test>\r\nRCPT TO:<end@y.test>\r\nNOOP\r\n",
        "250 2.1.0 Sender ok\r\n421 4.3.2 no\r\n<close refused>",
    )]);
}

#[test]
fn a_drained_session_finishes_its_transaction_first() {
    let mut dialogue = authenticated();
    assert_eq!(dialogue.give(Input::Drain), "421 4.3.2 Closing; connect again\r\n<close drain>");
    let mut dialogue = authenticated();
    dialogue.run(&[(ENVELOPE, ENVELOPE_OK)]);
    assert_eq!(dialogue.give(Input::Drain), "");
    let end = format!("{QUEUED}421 4.3.2 Closing; connect again\r\n<close drain>");
    dialogue.run(&[("DATA\r\n", GO), ("a: b\r\n.\r\nMAIL FROM:<a@b.test>\r\n", &end)]);
    let mut dialogue = Dialogue::new(SessionConfig { implicit_tls: true, ..config() });
    assert_eq!(dialogue.give(Input::Drain), "<close drain>");
}

#[test]
fn silence_ends_the_session_and_input_prolongs_it() {
    let mut dialogue = authenticated();
    let later = Instant::ZERO + INTAKE_IDLE / 2;
    assert_eq!(dialogue.session.deadline(), Some(Instant::ZERO + INTAKE_IDLE));
    dialogue.give_at(later, Input::Bytes(b"NO"));
    assert_eq!(dialogue.session.deadline(), Some(Instant::ZERO + INTAKE_IDLE), "half a line is no command");
    dialogue.give_at(later, Input::Bytes(b"OP\r\n"));
    assert_eq!(dialogue.session.deadline(), Some(later + INTAKE_IDLE));
    assert_eq!(dialogue.give_at(Instant::ZERO + INTAKE_IDLE, Input::Timeout), "");
    let end = dialogue.give_at(later + INTAKE_IDLE, Input::Timeout);
    assert_eq!(end, "421 4.4.2 No input for too long\r\n<close idle>");
    assert_eq!(dialogue.session.deadline(), None);
}

#[test]
fn what_was_sent_before_the_end_of_input_is_answered() {
    let mut session = authenticated().session;
    session.handle(Instant::ZERO, Input::Bytes(b"MAIL FROM:<a@b.test>\r\nQUIT\r\n")).unwrap();
    session.handle(Instant::ZERO, Input::Eof).unwrap();
    let Some(Output::Ask(tag, Question::Sender(_))) = session.poll() else { panic!() };
    assert!(session.poll().is_none());
    assert_eq!((session.state(), session.deadline()), (StateName::Question, None));
    assert_eq!(session.handle(Instant::ZERO, Input::Answer(Tag(99), Answer::Ok)), Err(Error::UnexpectedAnswer));
    session.handle(Instant::ZERO, Input::Answer(tag, Answer::Ok)).unwrap();
    assert!(matches!(session.poll(), Some(Output::Send(bytes)) if bytes.ends_with(b"Bye\r\n")));
    assert!(matches!(session.poll(), Some(Output::Close(CloseReason::Quit))));

    let mut dialogue = authenticated();
    dialogue.run(&[(ENVELOPE, ENVELOPE_OK), ("DATA\r\n", GO), ("a: b\r\n", "")]);
    assert_eq!(dialogue.give(Input::Eof), "<close peer_closed>");
    assert!(dialogue.transactions.is_empty());
}

#[test]
fn input_ahead_of_an_answer_is_bounded() {
    let mut session = authenticated().session;
    session.handle(Instant::ZERO, Input::Bytes(b"MAIL FROM:<a@b.test>\r\n")).unwrap();
    let piece = "NOOP\r\n".repeat(10_000);
    let mut given = 0;
    while given + piece.len() <= SMTP_PIPELINE_BYTES_MAX {
        session.handle(Instant::ZERO, Input::Bytes(piece.as_bytes())).unwrap();
        given += piece.len();
    }
    assert_eq!((session.buffered_bytes(), session.state()), (given, StateName::Question));
    while session.state() != StateName::Closed {
        session.handle(Instant::ZERO, Input::Bytes(piece.as_bytes())).unwrap();
        given += piece.len();
    }
    assert!(given <= SMTP_PIPELINE_BYTES_MAX + piece.len());
    assert_eq!(session.buffered_bytes(), 0);
}

#[test]
fn a_message_that_is_too_big_is_answered_alike_however_it_is_cut() {
    let begin = "EHLO c.test\r\nAUTH PLAIN AGJvYgBwdw==\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<x@y.test>\r\n";
    let refused = "552 5.3.4 A message has at most 1000 octets\r\n";
    let flooded = "421 4.3.4 The message is far too large\r\nflood";
    // Of one line, which is too long as well; with its end, `DATA` has five octets more.
    for (octets, told) in [(1_800, refused), (1_995, refused), (1_996, flooded), (2_700, flooded)] {
        let data = format!("{begin}DATA\r\n{}\r\n.\r\n", "x".repeat(octets));
        let chunk = format!("{begin}BDAT {} LAST\r\n{}", octets + 5, "x".repeat(octets + 5));
        for input in [data, chunk] {
            let (whole, transactions, _) = behaviour(input.as_bytes(), &[input.len()], 0);
            assert!(whole.ends_with(told) && transactions.is_empty(), "{octets}: {whole}");
            for cut in [1, 2, 7, 998, 999, 1_000, 1_001, 2_000] {
                assert_eq!(behaviour(input.as_bytes(), &[cut], 0).0, whole, "{octets} by {cut}");
            }
        }
    }
}

const SESSION: &str = "EHLO c.test\r\nAUTH LOGIN\r\nYm9i\r\ncHc=\r\nMAIL FROM:<a@b.test> SIZE=40\r\n\
    RCPT TO:<x@y.test>\r\nRCPT TO:<no@y.test>\r\nFOO\r\nDATA\r\nFrom: a@b.test\r\n\r\n..x\r\n.y\r\n.\r\n\
    MAIL FROM:<>\r\nRCPT TO:<x@y.test>\r\nBDAT 7\r\nA: b\r\n.BDAT 3 LAST\r\n\r\nxNOOP\r\nRSET\r\nQUIT\r\n";

/// All that a session does with `input` in the given pieces, answers coming `late` pieces after their questions.
fn behaviour(input: &[u8], cuts: &[usize], late: usize) -> (String, Vec<Transaction>, usize) {
    let mut session = Session::new(config(), Instant::ZERO);
    let (mut text, mut transactions, mut held_max) = (String::new(), Vec::new(), 0);
    let mut open: Option<(usize, Tag, Answer)> = None;
    let (mut at, mut cuts) = (0, cuts.iter().cycle());
    for turn in 0.. {
        while let Some(output) = session.poll() {
            match output {
                Output::Send(bytes) => text.push_str(&String::from_utf8(bytes).unwrap()),
                Output::StartTls => text.push_str("<starttls>"),
                Output::Close(reason) => text.push_str(reason.name()),
                Output::Ask(tag, question) => {
                    open = Some((turn + late, tag, answer(&question)));
                    if let Question::Message(transaction) = question {
                        transactions.push(*transaction);
                    }
                }
            }
        }
        held_max = held_max.max(session.buffered_bytes());
        if let Some((_, tag, answer)) = open.take_if(|(due, ..)| *due <= turn || at == input.len()) {
            session.handle(Instant::ZERO, Input::Answer(tag, answer)).unwrap();
        } else if at < input.len() {
            let end = input.len().min(at + cuts.next().copied().unwrap_or(1).max(1));
            session.handle(Instant::ZERO, Input::Bytes(&input[at..end])).unwrap();
            at = end;
        } else {
            break;
        }
    }
    (text, transactions, held_max)
}

proptest! {
    #[test]
    fn the_pieces_and_the_pace_of_answers_change_nothing(
        cuts in proptest::collection::vec(1_usize..60, 1..30),
        late in 0_usize..10,
    ) {
        let (text, transactions, _) = behaviour(SESSION.as_bytes(), &[SESSION.len()], 0);
        prop_assert!(text.ends_with("250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n221 2.0.0 Bye\r\nquit"), "{text}");
        prop_assert_eq!(transactions[1].content.as_slice(), b"A: b\r\n.\r\nx\r\n");
        let (cut_text, cut_transactions, _) = behaviour(SESSION.as_bytes(), &cuts, late);
        prop_assert_eq!(cut_text, text);
        prop_assert_eq!(cut_transactions, transactions);
    }

    #[test]
    fn any_input_is_taken_within_bounds(
        words in proptest::collection::vec(
            prop_oneof![
                Just(b"EHLO c.test\r\n".to_vec()),
                Just(b"AUTH PLAIN AGJvYgBwdw==\r\n".to_vec()),
                Just(b"AUTH LOGIN\r\n".to_vec()),
                Just(b"MAIL FROM:<a@b.test>\r\n".to_vec()),
                Just(b"RCPT TO:<x@y.test>\r\n".to_vec()),
                Just(b"DATA\r\n".to_vec()),
                Just(b"BDAT 10\r\n".to_vec()),
                Just(b"BDAT 0 LAST\r\n".to_vec()),
                Just(b"RSET\r\n".to_vec()),
                Just(b"STARTTLS\r\n".to_vec()),
                Just(b".\r\n".to_vec()),
                Just(b"\r\n.\r\n".to_vec()),
                Just(vec![b'x'; 900]),
                proptest::collection::vec(any::<u8>(), 0..40),
            ],
            0..60,
        ),
        cuts in proptest::collection::vec(1_usize..200, 1..10),
        late in 0_usize..5,
    ) {
        let input = words.concat();
        let (text, transactions, held_max) = behaviour(&input, &cuts, late);
        prop_assert!(held_max <= SMTP_PIPELINE_BYTES_MAX + 1_000);
        prop_assert!(text.split_inclusive("\r\n").all(|line| line.len() <= 512));
        for transaction in transactions {
            prop_assert!(transaction.username.is_some() && !transaction.envelope.recipients.is_empty());
            let content = String::from_utf8_lossy(&transaction.content).replace("\r\n", "");
            prop_assert!(!content.contains(['\r', '\n']));
        }
        prop_assert_eq!(behaviour(&input, &[input.len().max(1)], 0).0, text);
    }
}
