//! What arrives is octet for octet what was handed in, and both signatures verify by opendkim and dkimpy.

use postrail_tests::clients::judge as read;
use postrail_tests::judge;
use postrail_tests::world::{Mail, World, message};

const ZONE: (&str, &str) = ("receiver.test.", "@ MX 10 mx\nmx A 127.0.0.21");
const GIVEN: &str =
    "Date: Mon, 23 Nov 2026 21:00:00 +0000\r\nMessage-ID: <given@sender.test>\r\nTo: someone@receiver.test\r\n";

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[test]
fn bodies_of_every_shape_arrive_as_they_were_and_verify() {
    let world = World::new("bodies", &[ZONE]);
    let receiver = world.receiver(21);
    let records = world.dkim_records();
    let bodies = [
        ("dots", ".\r\n..\r\n.leading\r\nin . the middle\r\n.\r\n".to_owned()),
        ("lines of 998 octets", format!("{}\r\n.{}\r\n", "x".repeat(998), "y".repeat(997))),
        ("trailing spaces", "spaces   \r\ntabs\t\t\r\n   \r\n\t\r\n".to_owned()),
        ("trailing empty lines", "text\r\n\r\n\r\n\r\n".to_owned()),
        ("no body", String::new()),
        ("one empty line", "\r\n".to_owned()),
        ("what looks like a header", "From: nobody\r\nDKIM-Signature: v=1\r\n\r\nFrom here on\r\n".to_owned()),
        ("many lines", "a line of a longer mail\r\n".repeat(20_000)),
    ];
    for (number, (what, body)) in bodies.iter().enumerate() {
        let given = message(GIVEN, body);
        let job = world.send("someone@receiver.test", &given);
        let arrived = receiver.wait_for(number + 1).swap_remove(number).content;
        assert!(arrived.ends_with(&given), "{what}:\n{}", String::from_utf8_lossy(&arrived));
        judge::verified(&world.place, &arrived, &records);
        world.wait(&job, "delivered");
    }
}

#[test]
fn a_body_without_a_final_line_end_gets_one() {
    let world = World::new("no-line-end", &[ZONE]);
    let receiver = world.receiver(21);
    world.send("someone@receiver.test", &message(GIVEN, "no line end"));
    let arrived = receiver.wait_for(1).swap_remove(0).content;
    assert!(arrived.ends_with(b"\r\n\r\nno line end\r\n"));
    judge::verified(&world.place, &arrived, &world.dkim_records());
}

#[test]
fn a_folded_and_a_long_header_arrive_as_they_were() {
    let world = World::new("headers", &[ZONE]);
    let receiver = world.receiver(21);
    let long = format!(
        "{GIVEN}X-Folded: one\r\n\ttwo\r\n   three\r\nX-Long: {}\r\nX-Empty:\r\nx-lower:  spaces  \r\n",
        "z".repeat(990)
    );
    let given = message(&long, "Hello.\r\n");
    world.send("someone@receiver.test", &given);
    let arrived = receiver.wait_for(1).swap_remove(0).content;
    assert!(arrived.ends_with(&given), "{}", String::from_utf8_lossy(&arrived));
    judge::verified(&world.place, &arrived, &world.dkim_records());
}

#[test]
fn a_field_added_to_a_signed_mail_breaks_its_signatures() {
    let world = World::new("over-signed", &[ZONE]);
    let receiver = world.receiver(21);
    let records = world.dkim_records();
    world.send("someone@receiver.test", &message(GIVEN, "Hello.\r\n"));
    let arrived = receiver.wait_for(1).swap_remove(0).content;
    judge::verified(&world.place, &arrived, &records);
    for added in [
        "From: Mallory <m@sender.test>\r\n",
        "Subject: another\r\n",
        "To: x@sender.test\r\n",
        "Reply-To: m@evil.test\r\n",
    ] {
        let end = position(&arrived, b"\r\n\r\n").expect("a header section ends") + 2;
        let forged = [&arrived[..end], added.as_bytes(), &arrived[end..]].concat();
        judge::not_verified(&world.place, &forged, &records);
        let forged = [added.as_bytes(), &arrived[..]].concat();
        judge::not_verified(&world.place, &forged, &records);
    }
    let altered = String::from_utf8_lossy(&arrived).replace("Hello.", "Hallo.").into_bytes();
    judge::not_verified(&world.place, &altered, &records);
}

#[test]
fn date_message_id_and_received_are_added_where_the_client_left_them_out() {
    let world = World::new("added", &[ZONE]);
    let receiver = world.receiver(21);
    let job = world.send("someone@receiver.test", &message("", "Hello.\r\n"));
    let arrived = receiver.wait_for(1).swap_remove(0).content;
    let mail = read(&world.place, &arrived);
    mail.has_no_defects();
    let message_id = mail.one("Message-ID");
    assert!(message_id.starts_with('<') && message_id.ends_with("@sender.test>"), "{message_id}");
    assert_eq!(world.postrail.control_ok("GET", &format!("/v2/jobs/{job}"), None)["message_id_header"], message_id);
    let date = mail.one("Date");
    assert!(date.ends_with("+0000") && date.contains(" 20"), "{date}");
    let received = mail.one("Received");
    for wanted in ["from client.test", "127.0.0.1", "by mail.sender.test", "with ESMTPSA", &job] {
        assert!(received.contains(wanted), "{wanted}: {received}");
    }
    judge::verified(&world.place, &arrived, &world.dkim_records());

    world.send("someone@receiver.test", &message(GIVEN, "Hello.\r\n"));
    let given = read(&world.place, &receiver.wait_for(2)[1].content);
    assert_eq!(given.one("Message-ID"), "<given@sender.test>");
    assert_eq!(given.one("Date"), "Mon, 23 Nov 2026 21:00:00 +0000");
}

#[test]
fn blind_copies_and_our_own_fields_do_not_leave() {
    let world = World::new("private", &[ZONE]);
    let receiver = world.receiver(21);
    let fields =
        format!("{GIVEN}Bcc: secret@receiver.test\r\nX-Postrail-Reference: order-7\r\nX-Postrail-Campaign: spring\r\n");
    let to = ["someone@receiver.test", "secret@receiver.test"];
    let job = world.submit(&Mail::new(&to, &message(&fields, "Hello.\r\n"))).expect("accepted");
    world.wait(&job, "delivered");
    for arrived in receiver.arrived() {
        let text = String::from_utf8_lossy(&arrived.content).into_owned();
        assert!(!text.contains("secret") && !text.to_ascii_lowercase().contains("x-postrail-"), "{text}");
        judge::verified(&world.place, &arrived.content, &world.dkim_records());
    }
    let told = world.postrail.control_ok("GET", &format!("/v2/jobs/{job}"), None);
    assert_eq!((&told["reference"], &told["campaign"]), (&"order-7".into(), &"spring".into()), "{told}");
}

#[test]
fn an_8_bit_body_is_sent_as_it_is_where_8bitmime_is_offered_and_encoded_elsewhere() {
    let world = World::new("8bitmime", &[ZONE]);
    let receiver = world.receiver(21);
    let records = world.dkim_records();
    let fields = format!(
        "{GIVEN}MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    );
    let given = message(&fields, "Gr\u{fc}\u{df}e aus K\u{f6}ln = gut \r\n.\r\n");
    let to = ["someone@receiver.test"];
    let mail = Mail { mail_options: &["BODY=8BITMIME"], ..Mail::new(&to, &given) };

    world.submit(&mail).expect("accepted");
    let arrived = receiver.wait_for(1).swap_remove(0);
    assert!(arrived.mail.contains("BODY=8BITMIME"), "{}", arrived.mail);
    assert!(arrived.content.ends_with(&given));
    judge::verified(&world.place, &arrived.content, &records);

    receiver.offer(&["PIPELINING", "SIZE 50000000"]);
    // A new connection learns what is offered now: the open one is closed after its idle time.
    let open = receiver.connections();
    postrail_tests::wait::until("the open connection to be idle for its time", || {
        std::thread::sleep(std::time::Duration::from_secs(6));
        Some(())
    });
    world.submit(&mail).expect("accepted");
    let arrived = receiver.wait_for(2).swap_remove(1);
    assert!(receiver.connections() > open);
    assert!(!arrived.mail.contains("BODY="), "{}", arrived.mail);
    assert!(arrived.content.is_ascii(), "{}", String::from_utf8_lossy(&arrived.content));
    let read = read(&world.place, &arrived.content);
    read.has_no_defects();
    assert_eq!(read.text("text/plain"), "Gr\u{fc}\u{df}e aus K\u{f6}ln = gut \n.\n");
    judge::verified(&world.place, &arrived.content, &records);
}

#[test]
fn a_mail_of_the_greatest_size_arrives_and_a_greater_one_is_refused() {
    let world = World::new("size", &[ZONE]);
    let receiver = world.receiver(21);
    let line = format!("{}\r\n", "QUJD".repeat(19));
    let fields = format!(
        "{GIVEN}MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
    );
    let given = message(&fields, &line.repeat(14 * 1024 * 1024 / 57));
    let job = world.send("someone@receiver.test", &given);
    let arrived = receiver.wait_for(1).swap_remove(0).content;
    assert!(arrived.ends_with(&given));
    judge::verified(&world.place, &arrived, &world.dkim_records());
    world.wait(&job, "delivered");
    let greater = message(&fields, &line.repeat(21 * 1024 * 1024 / line.len()));
    let refused = world.submit(&Mail::new(&["someone@receiver.test"], &greater)).expect_err("too large");
    assert!(refused.contains("5.3.4"), "{refused}");
}

#[test]
fn a_rendered_mail_verifies_whatever_is_in_it() {
    let world = World::new("rendered", &[ZONE]);
    let receiver = world.receiver(21);
    let bodies =
        ["", ".", ".\n..\n", "no line end", "Gr\u{fc}\u{df}e \u{1f600}\n", "trailing  \n\n\n", &"word ".repeat(5_000)];
    for (number, body) in bodies.iter().filter(|body| !body.is_empty()).enumerate() {
        let job = serde_json::json!({
            "subject": {"content": "Gr\u{fc}\u{df}e an alle, und noch eine sehr lange Betreffzeile, die umgebrochen werden will \u{1f600}"},
            "body": {"contentType": "text/plain", "content": body},
            "recipients": [{"mail": {"to": [{"email": "J\u{fc}rgen M\u{fc}ller<someone@receiver.test>"}]}}],
            "mail": {"from": {"email": "app@sender.test"}},
        });
        let (status, answer) = world.postrail.submit(&job);
        assert_eq!(status, 202, "{answer}");
        let arrived = receiver.wait_for(number + 1).swap_remove(number).content;
        assert!(arrived.is_ascii() && arrived.ends_with(b"\r\n"));
        judge::verified(&world.place, &arrived, &world.dkim_records());
        let read = read(&world.place, &arrived);
        read.has_no_defects();
        assert_eq!(read.text("text/plain").trim_end_matches('\n'), body.trim_end_matches('\n'));
    }
}
