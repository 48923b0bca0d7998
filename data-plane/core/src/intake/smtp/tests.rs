//! Policy of SMTP submission, case by case.

use postrail_schema::ids::{Revision, SendingDomainId, ShardId};
use postrail_schema::limits::{EXPIRY_DEFAULT, EXPIRY_TRANSACTIONAL, HEADER_FIELDS_MAX};
use postrail_schema::snapshot::{Credential, Route, SnapshotContent};
use postrail_schema::standing::{DomainRecord, Standing};
use proptest::prelude::*;

use super::*;
use crate::mail::{Address, Envelope, Notify, TlsFacts};

fn tenant(id: u32) -> Tenant {
    let bytes_max = 100_000;
    Tenant {
        id: TenantId(id),
        name: format!("t{id}"),
        quota_per_day: None,
        weight: 1,
        message_bytes_max: bytes_max,
        region: None,
        reserved_per_s: None,
        quarantines: false,
    }
}

fn domain(id: u32, tenant: u32, name: &str) -> SendingDomain {
    SendingDomain {
        id: SendingDomainId(id),
        tenant: TenantId(tenant),
        name: name.into(),
        keys: Vec::new(),
        pool: None,
        standing: Default::default(),
        is_platform: false,
        is_later: false,
    }
}

fn snapshot_with(change: impl FnOnce(&mut SnapshotContent)) -> Snapshot {
    let mut content = SnapshotContent {
        revision: Revision(9),
        tenants: vec![tenant(1), tenant(2)],
        credentials: vec![Credential {
            id: CredentialId(5),
            tenant: TenantId(1),
            username: "bob".into(),
            secret_hashes: Vec::new(),
            disabled: false,
            marks: Vec::new(),
            scopes: Default::default(),
            networks: Vec::new(),
            trusts_networks: false,
        }],
        domains: vec![domain(11, 1, "a.example"), domain(12, 1, "b.example"), domain(21, 2, "other.example")],
        ..SnapshotContent::default()
    };
    change(&mut content);
    Snapshot::new(content).unwrap()
}

fn snapshot() -> Snapshot {
    snapshot_with(|_| ())
}

fn principal() -> Principal {
    Principal { tenant: TenantId(1), credential: CredentialId(5), username: "bob".into() }
}

fn mail(from: &str) -> MailCommand {
    let reverse_path = (!from.is_empty()).then(|| Address::parse(from).unwrap());
    MailCommand { reverse_path, ..MailCommand::default() }
}

fn path(address: &str) -> ForwardPath {
    ForwardPath { address: Address::parse(address).unwrap(), notify: Notify::Never, orcpt: Some("rfc822;x".into()) }
}

fn transaction(content: &str) -> Transaction {
    Transaction {
        envelope: Envelope { recipients: vec![path("x@y.example"), path("z@y.example")], ..Envelope::default() },
        content: content.into(),
        helo: "Client.Example".into(),
        esmtp: true,
        tls: Some(TlsFacts { version: "TLSv1.3".into(), cipher: "AES".into(), verified: false }),
        username: Some("bob".into()),
    }
}

fn take_by(snapshot: &Snapshot, transaction: Transaction) -> Result<Job, Refusal> {
    let acceptance = Acceptance {
        snapshot,
        principal: &principal(),
        hostname: "mx.example",
        id: MessageId::new(1_795_464_845_123, ShardId(1), 7),
        now: Timestamp::from_unix_ms(1_795_464_845_123),
        peer: "192.0.2.7".parse().unwrap(),
    };
    accept(acceptance, transaction)
}

fn take(content: &str) -> Result<Job, Refusal> {
    take_by(&snapshot(), transaction(content))
}

fn parts(job: &Job) -> (String, String) {
    let Content::Mime { header, body } = &job.content else { panic!() };
    (String::from_utf8(header.to_vec()).unwrap(), String::from_utf8_lossy(body).into_owned())
}

#[test]
fn a_name_that_another_tenant_has_too_is_as_one_that_nobody_else_has() {
    let missing = DomainRecord::Ownership;
    for standing in [Standing::Unproved { missing }, Standing::Lapsed { missing }, Standing::Verified] {
        let own = || SendingDomain { standing, is_later: true, ..domain(13, 1, "shared.example") };
        let alone = snapshot_with(|content| content.domains.push(own()));
        let among = snapshot_with(|content| content.domains.extend([own(), domain(22, 2, "shared.example")]));
        let content = "From: x@shared.example\r\n\r\nHi\r\n";
        let answers = |snapshot: &Snapshot| {
            let taken = take_by(snapshot, transaction(content)).map(|job| job.domain);
            (check_sender(snapshot, &principal(), &mail("x@shared.example")), taken)
        };
        assert_eq!(answers(&alone), answers(&among));
        let (sender, taken) = answers(&among);
        assert_eq!(
            (sender.is_ok(), taken.ok()),
            (standing.may_send(), standing.may_send().then_some(SendingDomainId(13)))
        );
    }
}

#[test]
fn senders_are_domains_of_the_tenant_or_null() {
    let snapshot = snapshot();
    for (from, expected) in [
        ("", Ok(())),
        ("x@A.example", Ok(())),
        ("x@other.example", Err(Refusal::SenderDomain("other.example".into()))),
        ("x@sub.a.example", Err(Refusal::SenderDomain("sub.a.example".into()))),
    ] {
        assert_eq!(check_sender(&snapshot, &principal(), &mail(from)), expected, "{from:?}");
    }
    let large = MailCommand { size: Some(100_001), ..mail("") };
    assert_eq!(check_sender(&snapshot, &principal(), &large), Err(Refusal::TooBig { bytes_max: 100_000 }));
}

#[test]
fn a_domain_that_dns_does_not_let_send_is_refused_as_sender_and_as_from() {
    let snapshot = snapshot_with(|content| {
        let missing = DomainRecord::Ownership;
        content.domains.iter_mut().for_each(|domain| domain.standing = Standing::Unproved { missing });
    });
    let refused = check_sender(&snapshot, &principal(), &mail("x@a.example")).unwrap_err();
    let reply = refused.reply().to_string();
    assert!(reply.starts_with("550 5.7.1 ") && reply.contains("TXT _postrail.a.example"), "{reply}");
    assert_eq!(check_sender(&snapshot, &principal(), &mail("")), Ok(()), "the null sender is of no domain");
    let failing = snapshot_with(|content| content.domains[0].standing = Standing::Failing);
    assert_eq!(check_sender(&failing, &principal(), &mail("x@a.example")), Ok(()));
}

#[test]
fn mail_of_a_failing_domain_is_kept_for_a_person_where_the_tenant_wants_that() {
    let missing = DomainRecord::Dkim;
    for (standing, quarantines, kept) in [
        (Standing::Failing, true, Some(true)),
        (Standing::Failing, false, Some(false)),
        (Standing::Lapsed { missing }, true, Some(true)),
        (Standing::Lapsed { missing }, false, None),
        (Standing::Unproved { missing }, true, None),
        (Standing::Verified, true, Some(false)),
    ] {
        let snapshot = snapshot_with(|content| {
            content.tenants.iter_mut().for_each(|tenant| tenant.quarantines = quarantines);
            content.domains[0].standing = standing;
        });
        let taken = check_sender(&snapshot, &principal(), &mail("x@a.example")).is_ok();
        assert_eq!(taken, kept.is_some(), "{standing:?} {quarantines}");
    }
}

#[test]
fn a_revoked_credential_sends_no_more() {
    let changes: [fn(&mut SnapshotContent); 3] = [
        |content| content.credentials.clear(),
        |content| content.credentials[0].disabled = true,
        |content| content.credentials[0].id = CredentialId(6),
    ];
    for change in changes {
        let snapshot = snapshot_with(change);
        assert_eq!(check_sender(&snapshot, &principal(), &mail("")), Err(Refusal::CredentialRevoked));
        assert_eq!(check_recipient(&snapshot, &principal(), &path("x@y.example")), Err(Refusal::CredentialRevoked));
        let job = take_by(&snapshot, transaction("From: x@a.example\r\n\r\n"));
        assert_eq!(job.unwrap_err().reply().to_string(), "530 5.7.0 The credential is no longer valid");
    }
}

#[test]
fn recipients_need_a_domain_that_can_be_reached() {
    let snapshot = snapshot();
    for address in ["x@y.example", "x@[192.0.2.1]", "x@[IPv6:2001:db8::1]"] {
        assert_eq!(check_recipient(&snapshot, &principal(), &path(address)), Ok(()), "{address}");
    }
    let refused = Refusal::RecipientDomain("localhost".into());
    assert!(refused.reply().to_string().starts_with("550 5.1.2 "));
    assert_eq!(check_recipient(&snapshot, &principal(), &path("x@localhost")), Err(refused));
    let routed = snapshot_with(|content| {
        let domain = "localhost".into();
        content.routes.push(Route { domain, routing_domain: None, port: 25, allow_private: true });
    });
    assert_eq!(check_recipient(&routed, &principal(), &path("x@localhost")), Ok(()));
}

#[test]
fn an_accepted_message_is_a_job_with_our_fields() {
    let content = "Subject: hi\r\nBcc: secret@y.example\r\nFrom: X <x@a.example>\r\nX-Postrail-Reference: r1\r\n\
        x-retarus-m4a-campaign-id: c1\r\nX-Postrail-Cost-Center:\r\n k1\r\nX-Postrail-Class: person-to-person\r\n\
        Return-Path: <x@a.example>\r\n\r\nbody\r\n";
    let sent = transaction(content);
    let body_at = sent.content.as_ptr() as usize + content.find("body").unwrap();
    let job = take_by(&snapshot(), sent).unwrap();
    let id = job.id;
    let (header, body) = parts(&job);
    assert_eq!(
        header,
        format!(
            "Received: from client.example ([192.0.2.7])\r\n\tby mx.example (Postrail) with ESMTPSA id {id}\r\n\
             \t(TLSv1.3 AES);\r\n\tMon, 23 Nov 2026 20:14:05 +0000\r\nSubject: hi\r\nFrom: X <x@a.example>\r\n\
             Date: Mon, 23 Nov 2026 20:14:05 +0000\r\nMessage-ID: <{id}@a.example>\r\n\r\n"
        )
    );
    assert_eq!(body, "body\r\n");
    let Content::Mime { body, .. } = &job.content else { panic!() };
    assert_eq!(body.as_ptr() as usize, body_at, "the body is not copied");
    assert_eq!((job.reference.as_str(), job.campaign.as_str(), job.cost_center.as_str()), ("r1", "c1", "k1"));
    assert_eq!((job.class, job.domain, job.revision), (TrafficClass::PersonToPerson, SendingDomainId(11), Revision(9)));
    assert_eq!(job.expires_at, job.accepted_at + EXPIRY_DEFAULT);
    assert_eq!(job.message_id_header, format!("<{id}@a.example>"));
    assert_eq!((job.entries.len(), job.recipients.len(), job.body), (1, 2, BodyType::SevenBit));
    assert_eq!(job.recipients[1].address.as_str(), "z@y.example");
    assert_eq!((job.recipients[1].notify, job.recipients[1].orcpt.as_deref()), (Notify::Never, Some("rfc822;x")));
}

#[test]
fn date_and_message_id_of_the_client_are_kept() {
    let job = take("Date: then\r\nMessage-Id:\r\n <m@c>\r\nFrom: x@b.example\r\n").unwrap();
    let (header, body) = parts(&job);
    assert!(header.ends_with("+0000\r\nDate: then\r\nMessage-Id:\r\n <m@c>\r\nFrom: x@b.example\r\n\r\n"), "{header}");
    assert_eq!((body.as_str(), job.message_id_header.as_str()), ("", "<m@c>"));
    assert_eq!((job.class, job.domain), (TrafficClass::Transactional, SendingDomainId(12)));
    assert_eq!(job.expires_at, job.accepted_at + EXPIRY_TRANSACTIONAL);
    let job = take("Message-ID: \r\nFrom: x@b.example\r\n\r\n").unwrap();
    assert_eq!(parts(&job).0.matches("Message-ID: <").count(), 1, "an empty one is replaced");
    assert!(job.message_id_header.ends_with("@b.example>"));
}

#[test]
fn messages_that_break_a_rule_get_their_reply() {
    let ok = "From: x@a.example\r\n";
    let received = format!("{}{ok}\r\n", "Received: x\r\n".repeat(RECEIVED_FIELDS_MAX + 1));
    let fields = format!("{ok}{}\r\n", "X: y\r\n".repeat(HEADER_FIELDS_MAX));
    let label = format!("{ok}X-Postrail-Reference: {}\r\n\r\n", "x".repeat(51));
    let large = format!("{ok}\r\n{}", "x\r\n".repeat(40_000));
    for (content, expected) in [
        ("", "550 5.6.0 The message has no From field"),
        ("\r\nFrom: x@a.example\r\n", "550 5.6.0 The message has no From field"),
        ("From: x@a.example\r\nFROM: x@a.example\r\n\r\n", "550 5.6.0 The field From may occur once only"),
        ("Subject: a\r\nsubject: b\r\n\r\n", "550 5.6.0 The field Subject may occur once only"),
        ("From: bob\r\n\r\n", "550 5.6.0 From field: an address has the form local-part@domain"),
        ("From: x@y.example\r\n\r\n", "550 5.7.1 The From domain y.example is not registered for this account"),
        (
            "From: x@a.example, y@other.example\r\n\r\n",
            "550 5.7.1 The From domain other.example is not registered for this account",
        ),
        ("no field\r\n\r\n", "550 5.6.0 Not a message by RFC 5322: line 1 of the header section is not a field"),
        ("From: x@a.example\r\n\r\n\0\r\n", "550 5.6.0 The message holds a NUL octet"),
        ("From: \u{fc} <x@a.example>\r\n\r\n", "550 5.6.7 The header section is not ASCII"),
        (
            "From: x@a.example\r\nX-Postrail-Track: yes\r\n\r\n",
            "550 5.7.0 The field X-Postrail-Track asks for what is not available here",
        ),
        (
            "From: x@a.example\r\nX-RETARUS-M4A-NOTIFICATION-URL: x\r\n\r\n",
            "550 5.7.0 The field X-RETARUS-M4A-NOTIFICATION-URL asks for what is not available here",
        ),
        ("From: x@a.example\r\nX-Postrail-Class: bulk\r\n\r\n", "550 5.6.0 The field X-Postrail-Class is trans"),
        (
            "X-Postrail-Campaign: a\r\nX-RETARUS-M4A-CAMPAIGN-ID: b\r\n\r\n",
            "550 5.6.0 The field X-RETARUS-M4A-CAMPAIGN-ID has a value",
        ),
        (&label, "550 5.6.0 The field X-Postrail-Reference has a value of at most 50 printable characters"),
        (&received, "554 5.4.6 More than 50 Received fields"),
        (&fields, "550 5.6.0 Not a message by RFC 5322: the header section has more than 1000 fields"),
        (&large, "552 5.3.4 A message of this account has at most 100000 octets"),
    ] {
        let refusal = take(content).unwrap_err();
        let reply = refusal.reply().to_string();
        assert!(reply.starts_with(expected), "{reply:?} for {:?}", &content[..content.len().min(60)]);
    }
}

#[test]
fn the_number_of_recipients_is_bounded() {
    for count in [0, JOB_RECIPIENTS_MAX + 1] {
        let mut sent = transaction("From: x@a.example\r\n\r\n");
        sent.envelope.recipients = vec![path("x@y.example"); count];
        let reply = take_by(&snapshot(), sent).unwrap_err().reply().to_string();
        assert_eq!(reply, "554 5.5.1 A message has 1 to 1000 recipients");
    }
}

#[test]
fn eight_bit_content_is_recorded_as_such() {
    let job = take("From: x@a.example\r\n\r\n\u{fc}\r\n").unwrap();
    assert_eq!((job.body, job.smtp_utf8), (BodyType::EightBitMime, false));
    let mut utf8 = transaction("From: \u{fc} <x@a.example>\r\n\r\nx\r\n");
    utf8.envelope.smtp_utf8 = true;
    let job = take_by(&snapshot(), utf8.clone()).unwrap();
    assert_eq!((job.body, job.smtp_utf8), (BodyType::EightBitMime, true));
    assert!(parts(&job).0.contains("with UTF8SMTPSA id"));
    utf8.content = b"Subject: \xff\r\nFrom: x@a.example\r\n\r\n".to_vec();
    assert_eq!(take_by(&snapshot(), utf8).unwrap_err(), Refusal::HeaderEncoding);
}

#[test]
fn the_received_field_says_unknown_for_odd_names() {
    let mut odd = transaction("From: x@a.example\r\n\r\n");
    odd.helo = "a;b(c".into();
    odd.tls = None;
    let header = parts(&take_by(&snapshot(), odd).unwrap()).0;
    assert!(header.starts_with("Received: from unknown ([192.0.2.7])\r\n\tby mx.example (Postrail) with ESMTPA id"));
}

proptest! {
    #[test]
    fn any_content_is_judged_without_a_panic(octets: Vec<u8>, text in "[A-Fx@.:<>,\\s\r\n\"(-]{0,120}") {
        for tail in [octets, text.into_bytes()] {
            let mut sent = transaction("From: x@a.example\r\nX-Postrail-Reference: ");
            sent.content.extend_from_slice(&tail);
            sent.envelope.smtp_utf8 = true;
            let _ = take_by(&snapshot(), sent.clone());
            sent.content = tail;
            let _ = take_by(&snapshot(), sent);
        }
    }
}
