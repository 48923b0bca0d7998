//! Real SMTP clients hand in mail by every way there is, and what they gave is what arrives.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::{run, try_run};
use postrail_tests::clients::{judge, nodemailer, python};
use postrail_tests::postrail::{DOMAIN, Postrail};
use postrail_tests::receiver::Arrived;
use postrail_tests::scene::Scene;
use serde_json::{Value, json};
use std::process::Command;

/// The mail whose Subject is `subject`.
fn with_subject<'a>(arrived: &'a [Arrived], subject: &str) -> &'a Arrived {
    let line = format!("\r\nSubject: {subject}\r\n");
    let found = arrived.iter().find(|mail| String::from_utf8_lossy(&mail.content).contains(&line));
    found.unwrap_or_else(|| panic!("a mail with the subject {subject} arrived"))
}

/// What the content has after its header section.
fn body(content: &[u8]) -> &[u8] {
    let at = content.windows(4).position(|four| four == b"\r\n\r\n").expect("a header section ends");
    &content[at + 4..]
}

#[test]
fn swaks_sends_by_every_mechanism_and_kind_of_tls() {
    let scene = Scene::new("swaks");
    let (plain, implicit) = (scene.postrail.smtp.port().to_string(), scene.postrail.smtps.port().to_string());
    let ways = [
        ("starttls-plain", &plain, Some("--tls"), "PLAIN", "ESMTPSA"),
        ("starttls-login", &plain, Some("--tls"), "LOGIN", "ESMTPSA"),
        ("implicit-plain", &implicit, Some("--tls-on-connect"), "PLAIN", "ESMTPSA"),
        ("implicit-login", &implicit, Some("--tls-on-connect"), "LOGIN", "ESMTPSA"),
        ("loopback-plain", &plain, None, "PLAIN", "ESMTPA"),
        ("loopback-login", &plain, None, "LOGIN", "ESMTPA"),
    ];
    for (name, port, tls, mechanism, _) in &ways {
        let mut command = Command::new("swaks");
        command.args(["--server", "127.0.0.1", "--port", port.as_str(), "--auth", mechanism]).args(*tls);
        command.args(["--auth-user", &scene.postrail.username, "--auth-password", &scene.postrail.secret]);
        command.args(["--from", &format!("swaks@{DOMAIN}"), "--to", &format!("{name}@receiver.test")]);
        command.args(["--pipeline", "--header", &format!("Subject: {name}"), "--body", "A line\n.\n..two\nlast"]);
        Postrail::queued_as(&run(&mut command));
    }
    let arrived = scene.receiver.wait_for(ways.len());
    for (name, _, tls, _, protocol) in ways {
        let mail = with_subject(&arrived, name);
        assert_eq!(mail.rcpt.len(), 1, "{name}");
        assert!(mail.rcpt[0].starts_with(&format!("RCPT TO:<{name}@receiver.test>")), "{}", mail.rcpt[0]);
        assert!(mail.mail.starts_with(&format!("MAIL FROM:<swaks@{DOMAIN}>")), "{}", mail.mail);
        let text = String::from_utf8_lossy(body(&mail.content));
        assert!(text.starts_with("A line\r\n.\r\n..two\r\nlast\r\n"), "{name}: {text}");
        let received = judge(&scene.place, &mail.content).one("Received");
        assert!(received.contains(&format!("with {protocol} id")), "{name}: {received}");
        assert_eq!(received.contains("TLSv1"), tls.is_some(), "{name}: {received}");
    }
}

#[test]
fn smtplib_sends_several_mails_in_one_session() {
    let scene = Scene::new("smtplib");
    let text = |content: &str| STANDARD.encode(content.replace('\n', "\r\n"));
    let from = format!("python@{DOMAIN}");
    let eight_bit = format!(
        "From: {from}\nTo: a@receiver.test\nSubject: eight\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGr\u{fc}\u{df}e\n.\n"
    );
    let international = format!(
        "From: {from}\nTo: \u{fc}ber@b\u{fc}cher.test\nSubject: Gr\u{fc}\u{df}e\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n\u{43f}\u{440}\u{438}\u{432}\n"
    );
    let mails = [
        json!({"from": from, "to": ["a@receiver.test"], "mail_options": ["BODY=8BITMIME", "SIZE=300"],
            "content": text(&eight_bit)}),
        json!({"from": from, "to": ["\u{fc}ber@b\u{fc}cher.test"], "mail_options": ["BODY=8BITMIME", "SMTPUTF8"],
            "content": text(&international)}),
        json!({"from": from, "to": ["d@receiver.test"], "mail_options": ["RET=HDRS", "ENVID=order+2B7"],
            "rcpt_options": ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;D@receiver.test"],
            "content": text(&format!("From: {from}\nSubject: dsn\n\nx\n"))}),
    ];
    let answer = python(&scene.place, "session.py", &scene.session(scene.postrail.smtp, "starttls", "PLAIN", &mails));
    for offered in ["pipelining", "8bitmime", "smtputf8", "chunking", "dsn", "enhancedstatuscodes", "size", "auth"] {
        assert!(answer["features"].get(offered).is_some(), "{offered} is offered: {}", answer["features"]);
    }
    for mail in answer["answers"].as_array().expect("a list") {
        assert_eq!(mail["data"][0], 250, "{mail}");
    }
    let arrived = scene.receiver.wait_for(mails.len());

    let eight = with_subject(&arrived, "eight");
    assert!(eight.mail.contains("BODY=8BITMIME"), "{}", eight.mail);
    assert_eq!(body(&eight.content), "Gr\u{fc}\u{df}e\r\n.\r\n".as_bytes());

    let utf8 = with_subject(&arrived, "Gr\u{fc}\u{df}e");
    assert!(utf8.mail.contains(" SMTPUTF8"), "{}", utf8.mail);
    let domains = ["b\u{fc}cher.test", "xn--bcher-kva.test"];
    assert!(domains.iter().any(|name| utf8.rcpt[0].contains(&format!("<\u{fc}ber@{name}>"))), "{}", utf8.rcpt[0]);
    assert_eq!(body(&utf8.content), "\u{43f}\u{440}\u{438}\u{432}\r\n".as_bytes());

    let dsn = with_subject(&arrived, "dsn");
    for word in ["RET=HDRS", "ENVID=order+2B7"] {
        assert!(dsn.mail.contains(word), "{word} is passed on: {}", dsn.mail);
    }
    assert!(dsn.rcpt[0].contains("ORCPT=rfc822;D@receiver.test"), "{}", dsn.rcpt[0]);
    let notify = dsn.rcpt[0].split("NOTIFY=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let mut words: Vec<&str> = notify.split(',').collect();
    words.sort_unstable();
    assert_eq!(words, ["DELAY", "FAILURE"], "{}", dsn.rcpt[0]);
}

#[test]
fn smtplib_sends_over_implicit_tls_with_login() {
    let scene = Scene::new("smtplib-login");
    let from = format!("python@{DOMAIN}");
    let content = STANDARD.encode(format!("From: {from}\r\nSubject: login\r\n\r\nx\r\n"));
    let mail = json!({"from": from, "to": ["a@receiver.test"], "content": content});
    let task = scene.session(scene.postrail.smtps, "implicit", "LOGIN", &[mail]);
    let answer = python(&scene.place, "session.py", &task);
    assert_eq!(answer["answers"][0]["data"][0], 250, "{answer}");
    let arrived = scene.receiver.wait_for(1);
    let judged = judge(&scene.place, &arrived[0].content);
    // The client gave neither: both are ours.
    assert!(judged.one("Message-ID").ends_with(&format!("@{DOMAIN}>")));
    assert!(!judged.one("Date").is_empty());
    assert!(judged.one("Received").contains("from client.test"), "{}", judged.one("Received"));
}

#[test]
fn nodemailer_sends_html_with_attachments_on_pooled_connections() {
    let scene = Scene::new("nodemailer");
    let file: Vec<u8> = (0..200_000_u32).map(|n| (n * 7 % 256) as u8).collect();
    let mails: Vec<Value> = (0..20)
        .map(|n| {
            json!({
                "from": {"name": "Z\u{fc}rich \u{2708}", "address": format!("node@{DOMAIN}")},
                "to": format!("n{n}@receiver.test"), "subject": format!("Rechnung f\u{fc}r M\u{e4}rz {n}"),
                "text": "Sch\u{f6}ne Gr\u{fc}\u{df}e", "html": "<p>Sch\u{f6}ne Gr\u{fc}\u{df}e <img src=\"cid:logo\"></p>",
                "attachments": [
                    {"filename": "\u{dc}bersicht.bin", "content": STANDARD.encode(&file), "encoding": "base64"},
                    {"filename": "logo.png", "cid": "logo", "content": "iVBORw0KGgo=", "encoding": "base64"},
                ],
            })
        })
        .collect();
    let transport = json!({
        "host": "127.0.0.1", "port": scene.postrail.smtp.port(), "secure": false, "requireTLS": true,
        "pool": true, "maxConnections": 4, "tls": {"rejectUnauthorized": false},
        "auth": {"user": scene.postrail.username, "pass": scene.postrail.secret},
    });
    for result in nodemailer(&scene.place, transport, json!(mails)) {
        assert!(result["response"].as_str().is_some_and(|text| text.starts_with("250")), "{result}");
    }
    let arrived = scene.receiver.wait_for(mails.len());
    for mail in &arrived {
        let judged = judge(&scene.place, &mail.content);
        judged.has_no_defects();
        assert!(judged.one("Subject").starts_with("Rechnung f\u{fc}r M\u{e4}rz "), "{}", judged.one("Subject"));
        assert!(judged.one("From").contains("Z\u{fc}rich \u{2708}"), "{}", judged.one("From"));
        assert_eq!(judged.text("text/plain").trim_end(), "Sch\u{f6}ne Gr\u{fc}\u{df}e");
        assert!(judged.file("\u{dc}bersicht.bin") == file, "the file's octets arrive");
    }
    let implicit = json!({
        "host": "127.0.0.1", "port": scene.postrail.smtps.port(), "secure": true, "authMethod": "LOGIN",
        "tls": {"rejectUnauthorized": false},
        "auth": {"user": scene.postrail.username, "pass": scene.postrail.secret},
    });
    let mail = json!([{"from": format!("n@{DOMAIN}"), "to": "\u{fc}@receiver.test", "subject": "utf8", "text": "x"}]);
    let results = nodemailer(&scene.place, implicit, mail);
    assert!(results[0]["response"].as_str().is_some_and(|text| text.starts_with("250")), "{}", results[0]);
    let arrived = scene.receiver.wait_for(mails.len() + 1);
    assert!(with_subject(&arrived, "utf8").rcpt[0].starts_with("RCPT TO:<\u{fc}@receiver.test>"));
}

#[test]
fn curl_sends_by_smtp_and_smtps() {
    let scene = Scene::new("curl");
    let file = scene.place.join("mail");
    std::fs::write(&file, format!("From: curl@{DOMAIN}\r\nSubject: curl\r\n\r\nBy curl.\r\n")).expect("writable");
    let (smtp, smtps) = (scene.postrail.smtp, scene.postrail.smtps);
    for (url, tls) in [
        (format!("smtp://{smtp}/client.test"), Some("--ssl-reqd")),
        (format!("smtps://{smtps}/client.test"), None),
        (format!("smtp://{smtp}/client.test"), None),
    ] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--insecure", "--max-time", "20"]).args(tls).arg(&url);
        command.args(["--user", &format!("{}:{}", scene.postrail.username, scene.postrail.secret)]);
        command.args(["--mail-from", &format!("curl@{DOMAIN}"), "--mail-rcpt", "one@receiver.test"]);
        run(command.args(["--mail-rcpt", "two@receiver.test", "--upload-file"]).arg(&file));
    }
    for mail in scene.receiver.wait_for(3) {
        assert_eq!(mail.rcpt.len(), 2, "both recipients are in one transaction: {:?}", mail.rcpt);
        assert_eq!(body(&mail.content), b"By curl.\r\n");
    }
}

#[test]
fn chunks_arrive_as_one_message() {
    let scene = Scene::new("chunks");
    let task = json!({
        "host": "127.0.0.1", "port": scene.postrail.smtps.port(),
        "username": scene.postrail.username, "secret": scene.postrail.secret, "from": format!("bdat@{DOMAIN}"),
    });
    let replies = python(&scene.place, "chunks.py", &task);
    for (name, expected) in [
        ("whole", "250"),
        ("pieces", "250"),
        ("empty last", "250"),
        ("pipelined", "250"),
        ("bare line feed", "550"),
        ("data after chunk", "503"),
        ("after all", "250"),
    ] {
        let reply = replies[name].as_str().unwrap_or_default();
        assert!(reply.starts_with(expected), "{name}: {reply}");
    }
    let arrived = scene.receiver.wait_for(5);
    // A chunk has no dots to stuff, and a line may be split anywhere.
    for subject in ["whole", "pieces", "empty last", "pipelined"] {
        let mail = with_subject(&arrived, subject);
        assert_eq!(body(&mail.content), b"One\r\n.\r\n..two\r\n.three\r\n", "{subject}");
    }
    assert_eq!(arrived.len(), 5, "what was refused is not sent");
}

#[test]
fn a_transaction_takes_a_thousand_recipients_and_no_more() {
    let scene = Scene::new("thousand");
    let to: Vec<String> = (0..1_001).map(|n| format!("r{n}@d{}.test", n % 3)).collect();
    let from = format!("many@{DOMAIN}");
    let content = STANDARD.encode(format!("From: {from}\r\nSubject: many\r\n\r\nx\r\n"));
    let mail = json!({"from": from, "to": to, "content": content});
    let task = scene.session(scene.postrail.smtp, "none", "PLAIN", &[mail]);
    let answer = python(&scene.place, "session.py", &task);
    let replies = answer["answers"][0]["rcpt"].as_array().expect("a list");
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(reply[0], if n < 1_000 { 250 } else { 452 }, "recipient {n}: {reply}");
    }
    assert!(replies[1_000][1].as_str().is_some_and(|text| text.starts_with("4.5.3")), "{}", replies[1_000]);
    let text = answer["answers"][0]["data"][1].as_str().unwrap_or_default().to_owned();
    let id = Postrail::queued_as(&text);
    let recipients = scene.postrail.all_recipients(&id, 1_000);
    assert!(recipients.iter().all(|recipient| recipient["state"] == "delivered"));
    let mut seen: Vec<String> = scene.receiver.arrived().into_iter().flat_map(|mail| mail.rcpt).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1_000, "each once");
}

#[test]
fn the_announced_and_the_real_size_are_both_bounded() {
    let scene = Scene::new("size");
    let from = format!("big@{DOMAIN}");
    let mut content = format!("From: {from}\r\nSubject: big\r\n\r\n");
    while content.len() <= 20 * 1024 * 1024 {
        content.push_str(&"x".repeat(900));
        content.push_str("\r\n");
    }
    let small = STANDARD.encode(format!("From: {from}\r\nSubject: small\r\n\r\nx\r\n"));
    let mails = [
        json!({"from": from, "to": ["a@receiver.test"], "mail_options": ["SIZE=20971521"], "content": small}),
        json!({"from": from, "to": ["a@receiver.test"], "content": STANDARD.encode(content)}),
        json!({"from": from, "to": ["a@receiver.test"], "mail_options": ["SIZE=100"], "content": small}),
    ];
    let task = scene.session(scene.postrail.smtp, "starttls", "PLAIN", &mails);
    let answer = python(&scene.place, "session.py", &task);
    let answers = &answer["answers"];
    assert_eq!(answer["features"]["size"], "20971520", "{}", answer["features"]);
    for reply in [&answers[0]["mail"], &answers[1]["data"]] {
        assert_eq!(reply[0], 552, "{answers}");
        assert!(reply[1].as_str().is_some_and(|text| text.starts_with("5.3.4")), "{reply}");
    }
    assert_eq!(answers[2]["data"][0], 250, "the session goes on: {answers}");
    let arrived = scene.receiver.wait_for(1);
    with_subject(&arrived, "small");
}

#[test]
fn swaks_is_told_who_may_not_send() {
    let scene = Scene::new("swaks-refused");
    let (good, text) = scene.postrail.swaks(&["--from", "me@elsewhere.test", "--to", "a@receiver.test"]);
    assert!(!good && text.contains("550 5.7.1"), "{text}");
    let header = "From: me@elsewhere.test";
    let from = format!("me@{DOMAIN}");
    let (good, text) = scene.postrail.swaks(&["--from", &from, "--to", "a@receiver.test", "--header", header]);
    assert!(!good && text.contains("550 5.7.1"), "{text}");
    let (status, text) = try_run(Command::new("swaks").args([
        "--server",
        &scene.postrail.smtp.to_string(),
        "--from",
        &from,
        "--to",
        "a@receiver.test",
    ]));
    assert!(!status.success() && text.contains("530 5.7.0"), "{text}");
    assert!(scene.receiver.arrived().is_empty());
}
