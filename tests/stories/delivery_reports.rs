//! Reports to the sender: RFC 3464, as Python reads it, and the parameters of RFC 3461.

use postrail_tests::judge::report;
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::world::{Mail, World, message};
use serde_json::Value;

const ZONE: (&str, &str) = ("receiver.test.", "@ MX 10 mx\nmx A 127.0.0.21");
const FIELDS: &str = "Message-ID: <original@sender.test>\r\n";

/// A story with a receiver that rejects every recipient.
fn rejecting(name: &str) -> (World, Receiver) {
    let world = World::new(name, &[ZONE]);
    let receiver = world.receiver(21);
    receiver.script(Stage::Rcpt, Act::Say("550 5.1.1 <gone> no such mailbox here\r\n".to_owned()), usize::MAX);
    (world, receiver)
}

/// Submits with these parameters, waits for the bounce, and gives the report if one is due.
fn bounce(world: &World, mail_options: &[&str], rcpt_options: &[&str]) -> String {
    let content = message(FIELDS, "The body of the original.\r\n");
    let mail = Mail { mail_options, rcpt_options, ..Mail::new(&["gone@receiver.test"], &content) };
    let job = world.submit(&mail).expect("accepted");
    world.wait(&job, "bounced");
    job
}

fn newest_report(world: &World, count: usize) -> Value {
    report(&world.place, &world.sender.wait_for(count)[count - 1].content)
}

#[test]
fn a_report_has_the_fields_that_the_sender_asked_for() {
    let (world, _receiver) = rejecting("report");
    bounce(&world, &["ENVID=order+2B7", "RET=HDRS"], &["NOTIFY=FAILURE", "ORCPT=rfc822;first+2Bname@old.test"]);
    let told = newest_report(&world, 1);
    assert_eq!(told["message"]["original-envelope-id"], "order+7", "{told}");
    assert_eq!(told["message"]["reporting-mta"], "dns; mail.sender.test", "{told}");
    assert!(told["message"]["arrival-date"].is_string(), "{told}");
    let about = &told["recipients"][0];
    assert_eq!(about["original-recipient"], "rfc822; first+name@old.test", "{told}");
    assert_eq!(about["final-recipient"], "rfc822; gone@receiver.test", "{told}");
    assert_eq!(about["action"], "failed", "{told}");
    assert_eq!(about["status"], "5.1.1", "{told}");
    assert_eq!(about["remote-mta"], "dns; mx.receiver.test", "{told}");
    assert_eq!(about["diagnostic-code"], "smtp; 550 5.1.1 <gone> no such mailbox here", "{told}");
    assert_eq!(told["fields"]["auto-submitted"], "auto-replied", "{told}");
    assert_eq!(told["returned_type"], "text/rfc822-headers", "{told}");
    let returned = told["returned"].as_str().unwrap_or_default();
    assert!(returned.contains("<original@sender.test>") && !returned.contains("The body"), "{told}");
}

#[test]
fn ret_full_returns_the_whole_mail() {
    let (world, _receiver) = rejecting("ret-full");
    bounce(&world, &["RET=FULL"], &[]);
    let told = newest_report(&world, 1);
    assert_eq!(told["returned_type"], "message/rfc822", "{told}");
    assert!(told["returned"].as_str().is_some_and(|text| text.contains("The body of the original.")), "{told}");
}

#[test]
fn notify_never_and_notify_success_give_no_report_of_a_failure() {
    let (world, _receiver) = rejecting("never");
    bounce(&world, &[], &["NOTIFY=NEVER"]);
    bounce(&world, &[], &["NOTIFY=SUCCESS"]);
    bounce(&world, &["ENVID=marker"], &["NOTIFY=FAILURE"]);
    let told = newest_report(&world, 1);
    assert_eq!(told["message"]["original-envelope-id"], "marker", "{told}");
    assert_eq!(world.sender.arrived().len(), 1);
}

#[test]
fn a_mail_with_the_null_reverse_path_is_never_reported() {
    let (world, _receiver) = rejecting("null-path");
    let content = message(FIELDS, "Hello.\r\n");
    let mail = Mail { from: "", ..Mail::new(&["gone@receiver.test"], &content) };
    let job = world.submit(&mail).expect("accepted");
    world.wait(&job, "bounced");
    bounce(&world, &["ENVID=marker"], &[]);
    let told = newest_report(&world, 1);
    assert_eq!(told["message"]["original-envelope-id"], "marker", "{told}");
    assert_eq!(world.sender.arrived().len(), 1);
}

#[test]
fn a_report_that_cannot_be_delivered_is_not_reported() {
    let (world, _receiver) = rejecting("double");
    world.sender.script(Stage::Rcpt, Act::Say("550 5.1.1 nor here\r\n".to_owned()), 1);
    bounce(&world, &["ENVID=lost"], &[]);
    postrail_tests::wait::until("the sender's receiver to refuse", || (world.sender.connections() > 0).then_some(()));
    bounce(&world, &["ENVID=marker"], &[]);
    let told = newest_report(&world, 1);
    assert_eq!(told["message"]["original-envelope-id"], "marker", "{told}");
    assert_eq!(world.sender.arrived().len(), 1);
}

#[test]
fn success_is_reported_as_relayed_where_the_receiver_offers_no_dsn() {
    let world = World::new("relayed", &[ZONE]);
    let receiver = world.receiver(21);
    receiver.offer(&["PIPELINING", "8BITMIME"]);
    let content = message(FIELDS, "Hello.\r\n");
    let mail = Mail {
        mail_options: &["ENVID=q1", "RET=HDRS"],
        rcpt_options: &["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;someone@receiver.test"],
        ..Mail::new(&["someone@receiver.test"], &content)
    };
    let job = world.submit(&mail).expect("accepted");
    let told = newest_report(&world, 1);
    assert_eq!(told["recipients"][0]["action"], "relayed", "{told}");
    assert!(told["recipients"][0]["status"].as_str().is_some_and(|status| status.starts_with("2.")), "{told}");
    assert_eq!(told["message"]["original-envelope-id"], "q1", "{told}");
    world.wait(&job, "delivered");
    let arrived = &receiver.arrived()[0];
    assert!(!arrived.mail.contains("ENVID") && !arrived.rcpt[0].contains("NOTIFY"), "{arrived:?}");
}

#[test]
fn parameters_are_passed_on_to_a_receiver_that_offers_dsn() {
    let world = World::new("passed-on", &[ZONE]);
    let receiver = world.receiver(21);
    let content = message(FIELDS, "Hello.\r\n");
    let mail = Mail {
        mail_options: &["ENVID=q+2B1", "RET=FULL"],
        rcpt_options: &["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;some+2Bone@receiver.test"],
        ..Mail::new(&["someone@receiver.test"], &content)
    };
    let job = world.submit(&mail).expect("accepted");
    world.wait(&job, "delivered");
    let arrived = receiver.arrived().swap_remove(0);
    for wanted in ["ENVID=q+2B1", "RET=FULL"] {
        assert!(arrived.mail.contains(wanted), "{wanted}: {}", arrived.mail);
    }
    for wanted in ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;some+2Bone@receiver.test"] {
        assert!(arrived.rcpt[0].contains(wanted), "{wanted}: {}", arrived.rcpt[0]);
    }
    assert!(world.sender.arrived().is_empty(), "the receiver reports, and not we");
}

#[test]
fn one_report_tells_of_all_recipients_that_failed_together() {
    let (world, _receiver) = rejecting("together");
    let content = message(FIELDS, "Hello.\r\n");
    let to = ["a@receiver.test", "b@receiver.test", "c@receiver.test"];
    let job = world.submit(&Mail::new(&to, &content)).expect("accepted");
    world.wait(&job, "bounced");
    let told: usize = postrail_tests::wait::until("reports about all three", || {
        let reports = world.sender.arrived();
        let told =
            reports.iter().map(|mail| report(&world.place, &mail.content)["recipients"].as_array().map_or(0, Vec::len));
        let told: usize = told.sum();
        (told >= 3).then_some(told)
    });
    assert_eq!(told, 3);
}

#[test]
fn a_report_with_an_8_bit_original_reaches_a_sender_whose_host_takes_7_bit_only() {
    let (world, _receiver) = rejecting("eight-bit-report");
    world.sender.offer(&["PIPELINING"]);
    let fields = format!(
        "{FIELDS}MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    );
    let content = message(&fields, "Gr\u{fc}\u{df}e\r\n");
    let to = ["gone@receiver.test"];
    let mail = Mail { mail_options: &["BODY=8BITMIME", "RET=FULL"], ..Mail::new(&to, &content) };
    let job = world.submit(&mail).expect("accepted");
    world.wait(&job, "bounced");
    let arrived = world.sender.wait_for(1).swap_remove(0);
    assert!(arrived.content.is_ascii(), "{}", String::from_utf8_lossy(&arrived.content));
    let told = report(&world.place, &arrived.content);
    assert_eq!(told["recipients"][0]["status"], "5.1.1", "{told}");
    assert!(told["returned"].as_str().is_some_and(|text| text.contains("<original@sender.test>")), "{told}");
}

#[test]
fn an_internationalised_sender_gets_a_report() {
    let (world, _receiver) = rejecting("international-sender");
    let content = "From: <j\u{fc}rgen@sender.test>\r\nSubject: Gr\u{fc}\u{df}e\r\n\r\nHello.\r\n".as_bytes();
    let to = ["gone@receiver.test"];
    let mail = Mail {
        from: "j\u{fc}rgen@sender.test",
        mail_options: &["SMTPUTF8", "BODY=8BITMIME"],
        ..Mail::new(&to, content)
    };
    let job = world.submit(&mail).expect("accepted");
    world.wait(&job, "bounced");
    let arrived = world.sender.wait_for(1).swap_remove(0);
    assert!(arrived.mail.contains("SMTPUTF8"), "{}", arrived.mail);
    assert!(arrived.rcpt[0].starts_with("RCPT TO:<j\u{fc}rgen@sender.test>"), "{:?}", arrived.rcpt);
    let told = report(&world.place, &arrived.content);
    assert_eq!(told["recipients"][0]["final-recipient"], "rfc822; gone@receiver.test", "{told}");
}

#[test]
fn quoted_and_strange_local_parts_are_carried_and_reported_as_they_are() {
    let (world, receiver) = rejecting("quoted");
    let content = message(FIELDS, "Hello.\r\n");
    let to = ["\"two words\"@receiver.test", "o'brien+tag=1@receiver.test"];
    let job = world.submit(&Mail::new(&to, &content)).expect("accepted");
    world.wait(&job, "bounced");
    let told: Vec<String> = postrail_tests::wait::until("reports about both", || {
        let reports = world.sender.arrived();
        let reports = reports.iter().map(|mail| report(&world.place, &mail.content));
        let told: Vec<String> = reports
            .flat_map(|report| report["recipients"].as_array().cloned().unwrap_or_default())
            .map(|about| about["final-recipient"].as_str().unwrap_or_default().to_owned())
            .collect();
        (told.len() == 2).then_some(told)
    });
    for address in to {
        assert!(told.contains(&format!("rfc822; {address}")), "{address}: {told:?}");
    }
    assert!(receiver.arrived().is_empty());
}

#[test]
fn a_rest_job_that_bounces_is_told_by_events_and_not_by_mail() {
    let (world, _receiver) = rejecting("rest");
    let job = serde_json::json!({
        "subject": {"content": "A job"}, "body": {"contentType": "text/plain", "content": "Hello.\n"},
        "recipients": [{"mail": {"to": [{"email": "gone@receiver.test"}]}}],
        "mail": {"from": {"email": "app@sender.test"}},
    });
    let (status, answer) = world.postrail.submit(&job);
    assert_eq!(status, 202, "{answer}");
    world.wait(answer["meta"]["jobId"].as_str().unwrap_or_default(), "bounced");
    bounce(&world, &["ENVID=marker"], &[]);
    assert_eq!(newest_report(&world, 1)["message"]["original-envelope-id"], "marker");
}

#[test]
fn a_bounce_by_the_operator_is_reported() {
    let world = World::new("operator", &[ZONE]);
    let receiver = world.receiver(21);
    receiver.script(Stage::Rcpt, Act::Say("450 4.2.1 later\r\n".to_owned()), usize::MAX);
    let job = world.send("someone@receiver.test", &message(FIELDS, "Hello.\r\n"));
    world.wait(&job, "deferred");
    let (done, text) = world.postrail.cli(&["queue", "bounce", &job]);
    assert!(done, "{text}");
    world.wait(&job, "bounced");
    let told = newest_report(&world, 1);
    assert_eq!(told["recipients"][0]["action"], "failed", "{told}");
    let status = told["recipients"][0]["status"].as_str().unwrap_or_default();
    assert!(status.starts_with("5."), "{told}");
}
