//! Bad input by SMTP: a clear answer, nothing of it sent, and what is good goes on.

use std::net::SocketAddr;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::{run, try_run};
use postrail_tests::dialogue::Dialogue;
use postrail_tests::namespace::Namespace;
use postrail_tests::postrail::{DOMAIN, Postrail};
use postrail_tests::receiver::Arrived;
use postrail_tests::scene::Scene;
use serde_json::json;

/// Sends one more good mail and gives everything that has arrived when it has.
fn after_one_more(scene: &Scene, expected: usize) -> Vec<Arrived> {
    let content = format!("From: last@{DOMAIN}\r\nSubject: last\r\n\r\nx\r\n");
    let mut session = Dialogue::authenticated(&scene.postrail);
    let reply = session.message(&format!("last@{DOMAIN}"), "last@receiver.test", content.as_bytes());
    assert!(reply.starts_with("250"), "{reply}");
    let arrived = scene.receiver.wait_for(expected + 1);
    assert_eq!(arrived.len(), expected + 1, "nothing that was refused arrives");
    arrived
}

#[test]
fn wrong_credentials_are_refused_and_then_not_even_tried() {
    let scene = Scene::new("credentials");
    let attempt = |secret: &str, from: &str| {
        let mut command = Command::new("swaks");
        command.args(["--server", "127.0.0.1", "--port", &scene.postrail.smtp.port().to_string()]);
        command.args(["--local-interface", from, "--auth", "LOGIN", "--auth-user", &scene.postrail.username]);
        command.args(["--auth-password", secret, "--from", &format!("a@{DOMAIN}"), "--to", "a@receiver.test"]);
        try_run(&mut command).1
    };
    let first = attempt("wrong", "127.0.0.7");
    assert!(first.contains("535 5.7.8"), "{first}");
    // Each shard counts for itself.
    let refused = (0..60).map(|_| attempt("wrong", "127.0.0.7")).position(|text| text.contains("454 4.7.0"));
    assert!(refused.is_some(), "after many failures the peer has to wait");
    let good = attempt(&scene.postrail.secret, "127.0.0.1");
    assert!(good.contains("queued as"), "other peers are not touched: {good}");
    scene.receiver.wait_for(1);
}

#[test]
fn a_session_ends_after_a_few_failures() {
    let scene = Scene::new("failures");
    let token = STANDARD.encode(format!("\0{}\0wrong", scene.postrail.username));
    let mut session = Dialogue::start(scene.postrail.smtp);
    for _ in 0..3 {
        let reply = session.say(&format!("AUTH PLAIN {token}"));
        assert!(reply.starts_with("535 5.7.8"), "{reply}");
    }
    assert!(session.say(&format!("AUTH PLAIN {token}")).starts_with("421 4.7.0"));
    assert_eq!(session.reply(), "", "the server closes");
    let mut session = Dialogue::start(scene.postrail.smtp);
    assert!(session.say(&format!("MAIL FROM:<a@{DOMAIN}>")).starts_with("530 5.7.0"));
    assert!(session.say("AUTH CRAM-MD5").starts_with("504 5.5.4"));
}

#[test]
fn a_transaction_is_decided_under_the_configuration_that_it_began_under() {
    let scene = Scene::new("one-revision");
    let from = format!("a@{DOMAIN}");
    let content = format!("From: {from}\r\nSubject: long\r\n\r\n{}", "0123456789\r\n".repeat(2_000));
    let mut session = Dialogue::authenticated(&scene.postrail);
    assert!(session.say(&format!("MAIL FROM:<{from}>")).starts_with("250"));
    let limit = json!({ "message_bytes_max": 10_000 });
    scene.postrail.control_ok("PATCH", "/v2/tenants/default", Some(&limit));
    scene.postrail.settled_configuration();
    assert!(session.say("RCPT TO:<a@receiver.test>").starts_with("250"));
    assert!(session.say("DATA").starts_with("354"));
    session.send(content.as_bytes());
    session.send(b"\r\n.\r\n");
    let reply = session.reply();
    assert!(reply.starts_with("250"), "it began before: {reply}");
    let id = Postrail::queued_as(&reply);
    let reply = session.message(&from, "b@receiver.test", content.as_bytes());
    assert!(reply.starts_with("552"), "this one did not: {reply}");
    scene.receiver.wait_for(1);
    scene.postrail.wait_for_state(&id, "delivered");
    let events = scene.postrail.control_ok("GET", "/v2/events", None);
    let of = |kind: &str| {
        let events = events["items"].as_array().expect("events").iter();
        events.filter(|event| event["kind"] == kind).map(|event| event["revision"].as_u64()).collect::<Vec<_>>()
    };
    let ([accepted], [delivered]) = (&of("accepted")[..], &of("delivered")[..]) else { panic!("{events}") };
    assert!(accepted < delivered, "each tells under which configuration it was decided: {events}");
}

#[test]
fn bare_line_ends_smuggle_nothing() {
    let scene = Scene::new("smuggling");
    let from = format!("a@{DOMAIN}");
    for (name, end) in [
        ("LF.LF", "\n.\n"),
        ("LF.CRLF", "\n.\r\n"),
        ("CRLF.LF", "\r\n.\n"),
        ("CR.CR", "\r.\r"),
        ("CRLF.CR", "\r\n.\r"),
        ("LF.CR.LF", "\n.\r\r\n"),
        ("CR.CRLF", "\r.\r\n"),
        ("bare LF", "\n"),
        ("bare CR", "\r"),
    ] {
        let mut session = Dialogue::authenticated(&scene.postrail);
        let content = format!(
            "From: {from}\r\nSubject: outer\r\n\r\nx{end}MAIL FROM:<{from}>\r\nRCPT TO:<victim@receiver.test>\r\n\
             DATA\r\nFrom: {from}\r\nSubject: smuggled\r\n\r\ny"
        );
        let reply = session.message(&from, "outer@receiver.test", content.as_bytes());
        assert!(reply.starts_with("550 5.6.0"), "{name}: {reply}");
        assert!(session.say("NOOP").starts_with("250 2.0.0 Ok"), "{name}: one message has one reply");
    }
    after_one_more(&scene, 0);
}

#[test]
fn broken_messages_are_taken_as_they_are_or_refused_clearly() {
    let scene = Scene::new("broken");
    let from = format!("a@{DOMAIN}");
    let good = |rest: &str| format!("From: {from}\r\n{rest}").into_bytes();
    let mixed = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n";
    let taken = [
        ("no end", good(&format!("Subject: no end\r\n{mixed}\r\n--b\r\n\r\npart\r\n"))),
        ("no parts", good(&format!("Subject: no parts\r\n{mixed}\r\nno boundary at all"))),
        ("no boundary", good("Subject: no boundary\r\nContent-Type: multipart/mixed\r\n\r\n--b\r\n")),
        ("bad base64", good("Subject: bad base64\r\nContent-Transfer-Encoding: base64\r\n\r\n%%%=\r\n")),
        ("bad type", good("Subject: bad type\r\nContent-Type: ;;;=\r\n\r\nx\r\n")),
        ("no body", good("Subject: no body\r\n")),
        ("unannounced 8 bit", good("Subject: unannounced 8 bit\r\n\r\n\u{fc}\r\n")),
        ("latin 1", [&good("Subject: latin 1\r\n\r\n")[..], b"\xfc\xff\r\n"].concat()),
    ];
    let long = "x".repeat(999);
    let refused = [
        ("no From", b"Subject: x\r\n\r\nx".to_vec(), "550 5.6.0"),
        ("two From", good(&format!("From: {from}\r\n\r\nx")), "550 5.6.0"),
        ("a From that is none", b"From: @@@\r\n\r\nx".to_vec(), "550 5.6.0"),
        ("another's From", b"From: x@elsewhere.test\r\n\r\nx".to_vec(), "550 5.7.1"),
        ("nothing at all", Vec::new(), "550 5.6.0"),
        ("another's beside our own", b"From: a@sender.test, b@elsewhere.test\r\n\r\nx".to_vec(), "550 5.7.1"),
        ("no colon", good("Subject\r\n\r\nx"), "550 5.6.0"),
        ("a space before the colon", good("Subject : x\r\n\r\nx"), "550 5.6.0"),
        ("a NUL", good("\r\nx\0y"), "550 5.6.0"),
        ("a long line", good(&format!("\r\n{long}")), "550 5.6.0"),
        ("8 bit in the header", good("Subject: \u{fc}\r\n\r\nx"), "550 5.6.7"),
        ("what is not built", good("X-Postrail-Tracking: on\r\n\r\nx"), "550 5.7.0"),
        ("a long label", good(&format!("X-Postrail-Campaign: {}\r\n\r\nx", "c".repeat(51))), "550 5.6.0"),
        (
            "a loop",
            good(&format!("{}\r\nx", "Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n".repeat(51))),
            "554 5.4.6",
        ),
    ];
    let mut session = Dialogue::authenticated(&scene.postrail);
    for (name, content) in &taken {
        let reply = session.message(&from, "a@receiver.test", content);
        assert!(reply.starts_with("250"), "{name}: {reply}");
    }
    for (name, content, code) in &refused {
        let reply = session.message(&from, "a@receiver.test", content);
        assert!(reply.starts_with(code), "{name}: {reply}");
    }
    let arrived = after_one_more(&scene, taken.len());
    for (name, content) in &taken {
        let line = format!("\r\nSubject: {name}\r\n");
        let mail = arrived.iter().find(|mail| String::from_utf8_lossy(&mail.content).contains(&line));
        let mail = mail.unwrap_or_else(|| panic!("{name} arrives"));
        let at = content.windows(4).position(|four| four == b"\r\n\r\n").map_or(content.len(), |at| at + 4);
        let body = [&content[at..], if content.ends_with(b"\r\n") { b"" } else { b"\r\n" }].concat();
        let end = &mail.content[mail.content.len().saturating_sub(body.len())..];
        // What was given ended with the CRLF of its last line, or got one before the dot.
        let spaced = [&body[..], b"\r\n"].concat();
        assert!(end == body || mail.content.ends_with(&spaced), "{name}: {}", String::from_utf8_lossy(&mail.content));
    }
}

#[test]
fn commands_that_are_none_are_named() {
    let scene = Scene::new("commands");
    let mut session = Dialogue::authenticated(&scene.postrail);
    for (line, expected) in [
        ("FOO", "500 5.5.1"),
        ("MAIL <a@b>", "501 5.5.4"),
        ("MAIL FROM:<a b@sender.test>", "5"),
        ("MAIL FROM:<a@sender.test> SIZE=x", "501 5.5.4"),
        ("MAIL FROM:<a@sender.test> FOO=1", "555 5.5.4"),
        ("MAIL FROM:<a@sender.test> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<\u{fc}@sender.test>", "553 5.6.7"),
        ("RCPT TO:<a@b.test>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("VRFY someone", "252"),
        ("EXPN list", "502 5.5.1"),
        ("NOOP", "250"),
        ("MAIL FROM:<a@elsewhere.test>", "550 5.7.1"),
        ("MAIL FROM:<a@sender.test>", "250 2.1.0"),
        ("RCPT TO:<nobody>", "553 5.1.3"),
        ("DATA", "554 5.5.1"),
        ("RSET", "250"),
    ] {
        let reply = session.say(line);
        assert!(reply.starts_with(expected), "{line}: {reply}");
    }
    session.send(b"NOOP\n");
    assert!(session.reply().starts_with("500 5.5.2"), "a command ends with CRLF");
    session.send(&[&vec![b'x'; 100_000][..], b"\r\n"].concat());
    assert!(session.reply().starts_with("500 5.5.2"), "a line has an end");
    let mut last = String::new();
    for _ in 0..25 {
        last = session.say("FOO");
        if last.starts_with("421") {
            break;
        }
    }
    assert!(last.starts_with("421 4.7.0"), "{last}");
    after_one_more(&scene, 0);
}

#[test]
fn beyond_loopback_a_secret_goes_by_tls_only() {
    let away = Namespace::new();
    let port = |at: SocketAddr| SocketAddr::new(away.outside, at.port());
    let [smtp, rest] = std::array::from_fn(|_| port(postrail_tests::place::free_on(away.outside)));
    let place = postrail_tests::place::Place::new("beyond");
    let (certificate, key) = (place.join("cert.pem"), place.join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=mail.sender.test", "-addext", &format!("subjectAltName=IP:{}", away.outside)]);
    run(openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key));
    let scene = Scene::with(
        place,
        &[
            "--smtp",
            &smtp.to_string(),
            "--rest",
            &rest.to_string(),
            "--tls-cert",
            &certificate.display().to_string(),
            "--tls-key",
            &key.display().to_string(),
        ],
    );
    let swaks = |tls: &[&str]| {
        let mut command = away.command("swaks");
        command.args(["--server", &smtp.ip().to_string(), "--port", &smtp.port().to_string(), "--auth", "PLAIN"]);
        command.args(["--auth-user", &scene.postrail.username, "--auth-password", &scene.postrail.secret]);
        command.args(["--from", &format!("a@{DOMAIN}"), "--to", "a@receiver.test"]).args(tls);
        try_run(&mut command).1
    };
    let plain = swaks(&[]);
    assert!(!plain.contains("queued as") && !plain.contains("AUTH PLAIN LOGIN"), "AUTH is not offered: {plain}");
    let forced = swaks(&["--quit-after", "EHLO"]);
    assert!(forced.contains("STARTTLS"), "{forced}");
    let secure = swaks(&["--tls", "--tls-ca-path", &certificate.display().to_string()]);
    assert!(secure.contains("queued as"), "{secure}");

    let body = scene.place.join("job.json");
    std::fs::write(&body, scene.job(&["b@receiver.test"]).to_string()).expect("writable");
    let curl = |scheme: &str| {
        let mut command = away.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "10", "--cacert"]).arg(&certificate);
        command.args(["--user", &format!("{}:{}", scene.postrail.username, scene.postrail.secret)]);
        command.args(["-H", "Content-Type: application/json", "--write-out", "%{http_code}"]);
        command.args(["--data-binary", &format!("@{}", body.display()), &format!("{scheme}://{rest}/v2/jobs")]);
        try_run(&mut command).1
    };
    assert!(!curl("http").contains("202"), "plain HTTP is not answered beyond loopback");
    let secure = curl("https");
    assert!(secure.ends_with("202"), "{secure}");
    scene.receiver.wait_for(2);
}
