//! Rendered copies, read back by another parser.

use mail_parser::{MessageParser, MimeHeaders as _};
use postrail_schema::ids::{CredentialId, MessageId, Revision, SendingDomainId, ShardId, TenantId};
use postrail_schema::snapshot::TrafficClass;

use super::*;
use crate::base::Timestamp;
use crate::mail::job::Interface;
use crate::mail::{BodyType, JobEntry};

fn mailbox(name: &str, address: &str) -> Mailbox {
    Mailbox { name: name.to_owned(), address: address.to_owned() }
}

fn job(content: RestContent, entries: Vec<MailFields>) -> Job {
    let at = Timestamp::from_unix_ms(1_795_464_845_123);
    let id = MessageId::new(at.unix_ms(), ShardId(1), 99);
    Job {
        id,
        interface: Interface::Rest,
        tenant: TenantId(1),
        credential: CredentialId(1),
        domain: SendingDomainId(1),
        class: TrafficClass::Transactional,
        revision: Revision(1),
        accepted_at: at,
        expires_at: at,
        peer: None,
        reverse_path: None,
        body: BodyType::SevenBit,
        smtp_utf8: false,
        ret: None,
        envid: None,
        reference: String::new(),
        campaign: String::new(),
        cost_center: String::new(),
        message_id_header: format!("<{id}@shop.example>"),
        quarantined: false,
        hop: 0,
        idempotency: None,
        entries: entries
            .into_iter()
            .map(|fields| JobEntry { reference: String::new(), fields: Some(fields) })
            .collect(),
        recipients: Vec::new(),
        content: Content::Rest(Box::new(content)),
    }
}

fn content() -> RestContent {
    RestContent {
        subject: "Grüße, und mehr".to_owned(),
        body: "<p>Grün</p>\r\n<img src=\"cid:logo\">".to_owned(),
        body_is_html: true,
        alternative: Some("plain".to_owned()),
        attachments: vec![
            Attachment {
                name: "Übersicht 1.pdf".to_owned(),
                content_type: "application/pdf".to_owned(),
                content_id: None,
                content: Bytes::from_static(b"%PDF\x00\xff\n"),
            },
            Attachment {
                name: "logo.png".to_owned(),
                content_type: "image/png".to_owned(),
                content_id: Some("logo".to_owned()),
                content: Bytes::from_static(&[7; 200]),
            },
            Attachment {
                name: "notes.txt".to_owned(),
                content_type: "text/plain".to_owned(),
                content_id: None,
                content: Bytes::from_static(b"a\nb\0c\rd"),
            },
        ],
        fields: MailFields {
            from: Some(mailbox("Jürgen's Shop", "news@shop.example")),
            reply_to: Some(mailbox("", "help@shop.example")),
            priority: Some(Priority::Normal),
            headers: vec![("X-Run".to_owned(), "1".to_owned()), ("X-Keep".to_owned(), "kept".to_owned())],
            ..MailFields::default()
        },
    }
}

fn entry() -> MailFields {
    MailFields {
        to: vec![mailbox("Ann, \"A\"", "ann@there.example"), mailbox("", "b@there.example")],
        cc: vec![mailbox("Cee", "c@there.example")],
        priority: Some(Priority::High),
        in_reply_to: Some("<x@y.example>".to_owned()),
        list_unsubscribe: Some("<https://shop.example/u?a=1>, mailto:u@shop.example".to_owned()),
        headers: vec![("x-run".to_owned(), "2".to_owned())],
        ..MailFields::default()
    }
}

fn bytes(message: &FinalMessage) -> Vec<u8> {
    [&message.header[..], &message.body[..]].concat()
}

fn assert_clean(message: &FinalMessage) {
    let all = bytes(message);
    assert!(all.is_ascii() && !message.eight_bit && !message.utf8_header);
    assert!(all.ends_with(b"\r\n"));
    let text = String::from_utf8(all).unwrap();
    assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "only CRLF ends lines");
    assert!(text.split("\r\n").all(|line| line.len() <= MESSAGE_LINE_BYTES_MAX));
}

#[test]
fn a_copy_has_all_that_was_asked_for() {
    let message = render(&job(content(), vec![entry()]), 0);
    assert_clean(&message);
    let all = bytes(&message);
    let text = String::from_utf8(all.clone()).unwrap();
    let parsed = MessageParser::default().parse(&all).unwrap();
    assert_eq!(parsed.subject(), Some("Grüße, und mehr"));
    assert_eq!(parsed.from().unwrap().first().unwrap().name(), Some("Jürgen's Shop"));
    assert_eq!(parsed.to().unwrap().first().unwrap().name(), Some("Ann, \"A\""));
    assert_eq!(parsed.to().unwrap().iter().count(), 2);
    assert_eq!(parsed.body_text(0).as_deref(), Some("plain"));
    assert_eq!(parsed.body_html(0).as_deref().map(str::trim_end), Some("<p>Grün</p>\r\n<img src=\"cid:logo\">"));
    let files: Vec<_> = parsed.attachments().map(|part| (part.attachment_name().unwrap(), part.contents())).collect();
    assert!(files.contains(&("Übersicht 1.pdf", b"%PDF\x00\xff\n")), "{files:?}");
    assert!(files.contains(&("notes.txt", b"a\nb\0c\rd")), "{files:?}");
    assert!(files.contains(&("logo.png", &[7; 200])), "{files:?}");
    for line in [
        "Date: Mon, 23 Nov 2026 20:14:05 +0000\r\n",
        "Cc: \"Cee\" <c@there.example>\r\n",
        "Reply-To: <help@shop.example>\r\n",
        "In-Reply-To: <x@y.example>\r\n",
        "X-Priority: 1\r\nImportance: high\r\n",
        "List-Unsubscribe: <https://shop.example/u?a=1>,\r\n <mailto:u@shop.example>\r\n",
        "X-Keep: kept\r\nx-run: 2\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Disposition: inline; filename=\"logo.png\"\r\n",
        "Content-ID: <logo>\r\n",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    assert!(!text.contains("X-Run: 1"), "an entry's field replaces the job's");
    let order: Vec<_> = ["multipart/mixed", "multipart/related", "multipart/alternative", "text/plain", "text/html"]
        .map(|kind| text.find(kind).unwrap())
        .to_vec();
    assert!(order.is_sorted(), "{text}");
}

#[test]
fn the_same_entry_gives_the_same_bytes() {
    let one = job(content(), vec![entry(), MailFields::default()]);
    assert_eq!(render(&one, 0), render(&one, 0));
    let (first, second) = (render(&one, 0), render(&one, 1));
    assert_eq!(first.body, second.body, "entries share the body");
    assert_ne!(first.header, second.header);
    let shared = body(&one);
    assert_eq!(render_with(&one, 1, &shared), second);
    assert_eq!(render_with(&one, 0, &shared).body.as_ptr(), shared.bytes().as_ptr(), "without a copy");
    let id = format!("Message-ID: <{}.1@shop.example>\r\n", one.id);
    assert!(String::from_utf8_lossy(&second.header).contains(&id));
}

#[test]
fn a_plain_text_is_one_part() {
    let plain = RestContent { body: "hello\r\n.dot".to_owned(), subject: "s".to_owned(), ..RestContent::default() };
    let message = render(&job(plain, vec![MailFields { cc: vec![mailbox("", "c@x")], ..MailFields::default() }]), 0);
    assert_clean(&message);
    assert_eq!(message.body, &b"hello\r\n.dot\r\n"[..]);
    let header = String::from_utf8(message.header.to_vec()).unwrap();
    assert!(header.contains("Content-Type: text/plain; charset=\"utf-8\"\r\n"), "{header}");
    assert!(!header.contains("\r\nTo:"), "{header}");
}

#[test]
fn a_copy_for_bcc_alone_shows_nobody() {
    let message = render(&job(content(), vec![MailFields::default()]), 0);
    let header = String::from_utf8(message.header.to_vec()).unwrap();
    assert!(header.contains("To: undisclosed-recipients:;\r\n") && !header.to_lowercase().contains("bcc"), "{header}");
}

#[test]
fn long_words_and_addresses_keep_to_the_line() {
    let word = "w".repeat(995);
    let fields = MailFields {
        to: (0..200).map(|i| mailbox(&format!("Näme {i}"), &format!("u{i}@there.example"))).collect(),
        headers: vec![("X".repeat(76), word.clone()), ("X-Utf8".to_owned(), "ü".repeat(490))],
        list_unsubscribe: Some(format!("https://shop.example/{}", "u".repeat(974))),
        ..MailFields::default()
    };
    let mut long = content();
    long.subject = "s".repeat(500);
    let message = render(&job(long, vec![fields]), 0);
    assert_clean(&message);
    let all = bytes(&message);
    let parsed = MessageParser::default().parse(&all).unwrap();
    assert_eq!(parsed.to().unwrap().iter().count(), 200);
    assert_eq!(parsed.subject().unwrap().len(), 500);
    assert!(String::from_utf8_lossy(&message.header).contains(&word));
}

#[test]
fn smtp_content_is_given_as_it_came() {
    let (header, text) = (Bytes::from_static(b"A: b\r\n\r\n"), Bytes::from("gr\u{fc}n\r\n"));
    let mut given = job(RestContent::default(), vec![MailFields::default()]);
    given.content = Content::Mime { header: header.clone(), body: text.clone() };
    let message = render(&given, 0);
    assert_eq!((&message.header, &message.body, message.eight_bit), (&header, &text, true));
    assert_eq!(message.body.as_ptr(), text.as_ptr(), "without a copy");
}

proptest::proptest! {
    #[test]
    fn whatever_is_rendered_is_clean(
        subject in "[^\\p{Cc}]{0,120}", text in "([a-zü€ \t=.]{0,40}\r\n){0,8}[a-zü]{0,1200}", name in "[^\\p{Cc}]{0,60}",
        value in "[^\\p{Cc}]{1,240}", html in proptest::bool::ANY
    ) {
        let fields = MailFields {
            to: vec![mailbox(&name, "a@there.example")],
            headers: vec![("X-Any".to_owned(), value)],
            ..MailFields::default()
        };
        let given = RestContent { subject, body: text, body_is_html: html, attachments: vec![], ..content() };
        assert_clean(&render(&job(given, vec![fields]), 0));
    }
}

#[test]
fn a_field_of_one_word_is_as_any_other() {
    for (name, text) in [("X-Run", "7-7"), ("Subject", "word"), ("X-Run", "x"), ("X-Equal", "a=b"), ("X-Long", LONG)] {
        let [mut plain, mut usual] = [Vec::new(), Vec::new()];
        FieldWriter { out: &mut plain }.put_text(name, text);
        FieldWriter { out: &mut usual }.put(name, Raw::new(text));
        assert_eq!(String::from_utf8_lossy(&plain), String::from_utf8_lossy(&usual));
    }
}

const LONG: &str =
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

#[test]
fn a_copy_is_the_same_whether_its_fields_are_shared_or_its_own() {
    let shared = content();
    let fields = MailFields { to: vec![mailbox("", "ann@there.example")], ..MailFields::default() };
    let own = MailFields { headers: Vec::new(), ..shared.fields.clone() };
    let job_of = |content: &RestContent, own: &MailFields| {
        let entry = MailFields { to: fields.to.clone(), ..own.clone() };
        job(content.clone(), vec![fields.clone(), entry])
    };
    let bare = RestContent {
        fields: MailFields { headers: shared.fields.headers.clone(), ..Default::default() },
        ..shared.clone()
    };
    let (with_shared, with_own) = (render(&job_of(&shared, &fields), 1), render(&job_of(&bare, &own), 1));
    assert_eq!(String::from_utf8_lossy(&with_shared.header), String::from_utf8_lossy(&with_own.header));
}
