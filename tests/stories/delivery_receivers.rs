//! Mail reaches real receivers: Postfix, Exim and OpenSMTPD, found by MX in a real name server.

use postrail_tests::judge;
use postrail_tests::peers::exim::Exim;
use postrail_tests::peers::opensmtpd::OpenSmtpd;
use postrail_tests::peers::postfix::Postfix;
use postrail_tests::postrail::Postrail;
use postrail_tests::world::{Mail, World, message};

const POSTFIX: (&str, &str) = ("postfix.test.", "@ MX 10 mx\nmx A 127.0.0.5");
const EXIM: (&str, &str) = ("exim.test.", "@ MX 10 mx\nmx A 127.0.0.6");
const OPENSMTPD: (&str, &str) = ("opensmtpd.test.", "@ MX 10 mx\nmx A 127.0.0.7");

#[test]
fn a_mail_by_swaks_reaches_postfix_exim_and_opensmtpd_signed() {
    let world = World::new("three-receivers", &[POSTFIX, EXIM, OPENSMTPD]);
    let postfix = Postfix::start(&world.place, &[world.at(5)]);
    let exim = Exim::start(&world.place, world.at(6));
    let opensmtpd = OpenSmtpd::start(&world.place, world.at(7));
    let records = world.dkim_records();
    for (domain, inbox, tls) in [
        ("postfix.test", postfix.inbox(), true),
        ("exim.test", exim.inbox(), true),
        ("opensmtpd.test", opensmtpd.inbox(), false),
    ] {
        let to = format!("someone@{domain}");
        let subject = format!("Subject: to {domain}");
        let (sent, transcript) = world.postrail.swaks(&[
            "--from",
            "app@sender.test",
            "--to",
            &to,
            "--header",
            &subject,
            "--body",
            "One line.\n.\nAnother.\n",
        ]);
        assert!(sent, "{transcript}");
        let job = Postrail::queued_as(&transcript);
        let mail = inbox.wait_for(1).swap_remove(0);
        assert!(String::from_utf8_lossy(&mail).contains(&subject), "{domain}");
        assert!(String::from_utf8_lossy(&mail).contains("\n\nOne line.\n.\nAnother.\n"), "{domain}");
        judge::verified(&world.place, &mail, &records);
        let recipient = world.wait(&job, "delivered");
        assert_eq!(recipient["last_reply"]["code"], 250, "{domain}: {recipient}");
        let attempts = world.wait_attempts(&job, 1);
        assert_eq!(attempts[0]["tls"].as_str().is_some_and(|tls| tls.contains("TLS")), tls, "{domain}: {attempts:?}");
        assert_eq!(attempts[0]["host"], format!("mx.{domain}"), "{attempts:?}");
        assert_eq!(inbox.mails().len(), 1, "{domain}");
    }
}

#[test]
fn a_mail_reaches_a_receiver_by_ipv6() {
    let world = World::new("ipv6", &[("six.test.", "@ MX 10 mx\nmx AAAA ::1")]);
    let address = std::net::SocketAddr::new("::1".parse().expect("an address"), world.port);
    let postfix = Postfix::start(&world.place, &[address]);
    let job = world.send("someone@six.test", &message("", "Hello.\r\n"));
    postfix.inbox().wait_for(1);
    world.wait(&job, "delivered");
    assert_eq!(world.wait_attempts(&job, 1)[0]["host_address"], "::1");
}

#[test]
fn a_deferred_mail_is_taken_after_a_retry() {
    let world = World::new("deferred", &[POSTFIX]);
    let postfix = Postfix::start(&world.place, &[world.at(5)]);
    postfix.refuse(&[("later@postfix.test", "450 4.2.1 come back later")]);
    let job = world.send("later@postfix.test", &message("", "Hello.\r\n"));
    let deferred = world.wait(&job, "deferred");
    assert_eq!(deferred["last_reply"]["code"], 450, "{deferred}");
    assert_eq!(deferred["last_reply"]["enhanced_status"], "4.2.1", "{deferred}");
    assert!(deferred["last_reply"]["text"].as_str().is_some_and(|text| text.contains("come back later")), "{deferred}");
    assert!(deferred["next_attempt_ms"].as_u64() > deferred["changed_ms"].as_u64(), "{deferred}");
    postfix.refuse(&[]);
    // Postfix's processes notice within moments that they have been told to start anew: until then one may defer again.
    postrail_tests::wait::until("the mail to be taken", || {
        world.retry();
        std::thread::sleep(std::time::Duration::from_millis(500));
        (!postfix.inbox().mails().is_empty()).then_some(())
    });
    world.wait(&job, "delivered");
    assert_eq!(postfix.inbox().mails().len(), 1);
}

#[test]
fn a_rejected_recipient_bounces_and_the_others_of_its_mail_are_delivered() {
    let world = World::new("rejected", &[POSTFIX]);
    let postfix = Postfix::start(&world.place, &[world.at(5)]);
    postfix.refuse(&[("gone@postfix.test", "550 5.1.1 no such mailbox")]);
    let to = ["here@postfix.test", "gone@postfix.test", "there@postfix.test"];
    let message = message("Message-ID: <rejected-1@sender.test>\r\n", "Hello.\r\n");
    let job = world.submit(&Mail::new(&to, &message)).expect("accepted");
    postfix.inbox().wait_for(2);
    let reports = world.sender.wait_for(1);
    let recipients = world.postrail.all_recipients(&job, 3);
    for recipient in &recipients {
        let gone = recipient["address"] == "gone@postfix.test";
        assert_eq!(recipient["state"], if gone { "bounced" } else { "delivered" }, "{recipient}");
        if gone {
            assert_eq!(recipient["last_reply"]["code"], 550, "{recipient}");
            assert_eq!(recipient["last_reply"]["enhanced_status"], "5.1.1", "{recipient}");
        }
    }
    assert!(reports[0].mail.starts_with("MAIL FROM:<>"), "{}", reports[0].mail);
    assert!(reports[0].rcpt[0].starts_with("RCPT TO:<app@sender.test>"), "{:?}", reports[0].rcpt);
    let report = judge::report(&world.place, &reports[0].content);
    assert_eq!(report["recipients"].as_array().map(Vec::len), Some(1), "{report}");
    let about = &report["recipients"][0];
    assert_eq!(about["final-recipient"], "rfc822; gone@postfix.test");
    assert_eq!((&about["action"], &about["status"]), (&"failed".into(), &"5.1.1".into()), "{about}");
    assert_eq!(about["remote-mta"], "dns; mx.postfix.test");
    let diagnostic = about["diagnostic-code"].as_str().unwrap_or_default();
    assert!(diagnostic.starts_with("smtp; 550 5.1.1") && diagnostic.contains("no such mailbox"), "{diagnostic}");
    assert!(report["returned"].as_str().is_some_and(|text| text.contains("<rejected-1@sender.test>")), "{report}");
    judge::verified(&world.place, &reports[0].content, &world.dkim_records());
}

#[test]
fn an_internationalised_address_arrives_where_smtputf8_is_offered_and_bounces_elsewhere() {
    let world = World::new("smtputf8", &[POSTFIX, OPENSMTPD]);
    let postfix = Postfix::start(&world.place, &[world.at(5)]);
    let opensmtpd = OpenSmtpd::start(&world.place, world.at(7));
    let options = ["SMTPUTF8", "BODY=8BITMIME"];
    let message = message(
        "To: <j\u{fc}rgen@postfix.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
        "Gr\u{fc}\u{df}e\r\n",
    );
    let to = ["j\u{fc}rgen@postfix.test"];
    let mail = Mail { mail_options: &options, ..Mail::new(&to, &message) };
    let job = world.submit(&mail).expect("accepted");
    let arrived = postfix.inbox().wait_for(1).swap_remove(0);
    assert!(String::from_utf8_lossy(&arrived).contains("Gr\u{fc}\u{df}e"));
    assert!(String::from_utf8_lossy(&arrived).contains("Delivered-To: j\u{fc}rgen@postfix.test"));
    judge::verified(&world.place, &arrived, &world.dkim_records());
    world.wait(&job, "delivered");

    let to = ["j\u{fc}rgen@opensmtpd.test"];
    let job = world.submit(&Mail { mail_options: &options, ..Mail::new(&to, &message) }).expect("accepted");
    let bounced = world.wait(&job, "bounced");
    assert_eq!(bounced["last_reply"]["enhanced_status"], "5.6.7", "{bounced}");
    let report = judge::report(&world.place, &world.sender.wait_for(1)[0].content);
    assert_eq!(report["recipients"][0]["status"], "5.6.7", "{report}");
    assert!(opensmtpd.inbox().mails().is_empty());
}

#[test]
fn a_mail_with_14_megabytes_attached_reaches_all_three() {
    let world = World::new("large", &[POSTFIX, EXIM, OPENSMTPD]);
    let postfix = Postfix::start(&world.place, &[world.at(5)]);
    let exim = Exim::start(&world.place, world.at(6));
    let opensmtpd = OpenSmtpd::start(&world.place, world.at(7));
    let line = format!("{}\r\n", "QUJD".repeat(19));
    let attached = line.repeat(14 * 1024 * 1024 / 57);
    let fields = "MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n";
    let message = message(fields, &attached);
    assert!(message.len() > 19_000_000 && message.len() < 20 * 1024 * 1024, "{}", message.len());
    let to = ["a@postfix.test", "b@exim.test", "c@opensmtpd.test"];
    let job = world.submit(&Mail::new(&to, &message)).expect("accepted");
    let records = world.dkim_records();
    let lf = attached.replace("\r\n", "\n");
    for inbox in [postfix.inbox(), exim.inbox(), opensmtpd.inbox()] {
        let mail = inbox.wait_for(1).swap_remove(0);
        assert!(mail.ends_with(format!("\n\n{lf}").as_bytes()), "every octet of the attachment arrives");
        judge::verified(&world.place, &mail, &records);
    }
    world.wait(&job, "delivered");
}

#[test]
fn postfix_without_extensions_gets_what_it_can_take() {
    let world = World::new("postfix-without", &[POSTFIX]);
    let without = "smtpd_discard_ehlo_keywords = 8bitmime, dsn, pipelining, smtputf8, starttls, enhancedstatuscodes";
    let postfix = Postfix::start_with(&world.place, &[world.at(5)], &[without]);
    let fields = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n";
    let body = "--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}\u{df}e\r\n\
                --b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<p>K\u{f6}ln</p>\r\n\
                --b--\r\n";
    let content = message(fields, body);
    let to = ["someone@postfix.test"];
    let mail = Mail { mail_options: &["BODY=8BITMIME"], rcpt_options: &["NOTIFY=FAILURE"], ..Mail::new(&to, &content) };
    let job = world.submit(&mail).expect("accepted");
    let arrived = postfix.inbox().wait_for(1).swap_remove(0);
    assert!(arrived.is_ascii(), "{}", String::from_utf8_lossy(&arrived));
    judge::verified(&world.place, &arrived, &world.dkim_records());
    let read = postrail_tests::clients::judge(&world.place, &arrived);
    read.has_no_defects();
    assert_eq!(read.text("text/plain").trim_end(), "Gr\u{fc}\u{df}e");
    assert_eq!(read.text("text/html").trim_end(), "<p>K\u{f6}ln</p>");
    world.wait(&job, "delivered");
    assert_eq!(world.wait_attempts(&job, 1)[0]["tls"], "");
}

#[test]
fn recipients_over_the_receivers_limit_are_taken_by_a_retry() {
    let world = World::new("recipient-limit", &[POSTFIX]);
    let limits =
        ["smtpd_recipient_limit = 40", "smtpd_recipient_overshoot_limit = 1000", "smtpd_hard_error_limit = 1000"];
    let postfix = Postfix::start_with(&world.place, &[world.at(5)], &limits);
    let to: Vec<String> = (0..60).map(|number| format!("user{number}@postfix.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let job = world.submit(&Mail::new(&to, &message("", "Hello.\r\n"))).expect("accepted");
    postfix.inbox().wait_for(40);
    world.wait_attempts(&job, 60);
    world.retry();
    let recipients = world.postrail.all_recipients(&job, 60);
    assert!(recipients.iter().all(|recipient| recipient["state"] == "delivered"), "{recipients:?}");
    assert_eq!(postfix.inbox().wait_for(60).len(), 60);
}
