//! A backlog goes out several transactions at a time, to receivers that take it so.

use std::collections::BTreeSet;

use postrail_tests::judge;
use postrail_tests::peers::Maildir;
use postrail_tests::peers::exim::Exim;
use postrail_tests::peers::postfix::Postfix;
use postrail_tests::wait;
use postrail_tests::world::World;
use serde_json::{Value, json};

const ZONES: [(&str, &str); 2] =
    [("postfix.test.", "@ MX 10 mx\nmx A 127.0.0.5"), ("exim.test.", "@ MX 10 mx\nmx A 127.0.0.6")];
const MAILS: usize = 60;

/// One connection at a time to each site.
fn narrow(world: &World) {
    let rule = json!({"name": "one", "match": {}, "connections": 1});
    world.postrail.control_ok("POST", "/v2/shaping-rules", Some(&rule));
    world.postrail.settled_configuration();
}

/// A job of one mail for each of these.
fn submit(world: &World, to: &[String]) -> String {
    let recipient = |address: &String| json!({"mail": {"to": [{"email": address}]}});
    let job = json!({
        "subject": {"content": "A backlog"}, "body": {"content": "One line.\n.\nAnother.", "contentType": "text/plain"},
        "recipients": to.iter().map(recipient).collect::<Vec<Value>>(),
        "mail": {"from": {"email": "app@sender.test"}},
    });
    let (status, answer) = world.postrail.submit(&job);
    assert_eq!(status, 202, "{answer}");
    answer["meta"]["jobId"].as_str().expect("a job has an id").to_owned()
}

fn addresses(domain: &str) -> Vec<String> {
    (0..MAILS).map(|number| format!("user{number}@{domain}")).collect()
}

/// Each of `to` has one mail, whole and signed.
fn arrived_once(world: &World, inbox: &Maildir, to: &[String]) {
    let mails = inbox.wait_for(to.len());
    assert_eq!(mails.len(), to.len());
    let text = |mail: &Vec<u8>| String::from_utf8_lossy(mail).into_owned();
    let named = |mail: &Vec<u8>| to.iter().find(|address| text(mail).contains(&format!("To: <{address}>"))).cloned();
    let named: BTreeSet<_> = mails.iter().filter_map(named).collect();
    assert_eq!(named.len(), to.len());
    judge::verified(&world.place, mails.last().expect("there is one"), &world.dkim_records());
}

#[test]
fn postfix_and_exim_take_several_transactions_at_a_time() {
    let world = World::new("backlog", &ZONES);
    let postfix = Postfix::start(&world.place, &[world.at(5)]);
    let exim = Exim::start(&world.place, world.at(6));
    narrow(&world);
    for (domain, inbox) in [("postfix.test", postfix.inbox()), ("exim.test", exim.inbox())] {
        let before = world.postrail.metric("postrail_egress_pipelined_total");
        let to = addresses(domain);
        let job = submit(&world, &to);
        arrived_once(&world, inbox, &to);
        let recipients = wait::until("all to be delivered", || {
            let recipients = world.postrail.all_recipients(&job, MAILS);
            recipients.iter().all(|recipient| recipient["state"] == "delivered").then_some(recipients)
        });
        assert_eq!(recipients.len(), MAILS);
        let pipelined = world.postrail.metric("postrail_egress_pipelined_total") - before;
        assert!(pipelined > MAILS as u64 / 2, "{domain}: {pipelined}");
    }
}

#[test]
fn refusals_within_a_backlog_concern_their_own_recipients_alone() {
    let world = World::new("backlog-refusals", &ZONES);
    let postfix = Postfix::start(&world.place, &[world.at(5)]);
    let refused: Vec<_> = [20, 21, 35, 50].map(|number| format!("user{number}@postfix.test")).to_vec();
    let refusals: Vec<_> = refused.iter().map(|address| (address.as_str(), "550 5.1.1 no such mailbox")).collect();
    postfix.refuse(&refusals);
    narrow(&world);
    let job = submit(&world, &addresses("postfix.test"));
    let recipients = wait::until("all to settle", || {
        let recipients = world.postrail.all_recipients(&job, MAILS);
        let is_settled = |recipient: &Value| recipient["state"] == "delivered" || recipient["state"] == "bounced";
        recipients.iter().all(is_settled).then_some(recipients)
    });
    for recipient in recipients {
        let is_refused = refused.iter().any(|address| recipient["address"] == **address);
        assert_eq!(recipient["state"], if is_refused { "bounced" } else { "delivered" }, "{recipient}");
    }
    assert_eq!(postfix.inbox().wait_for(MAILS - refused.len()).len(), MAILS - refused.len());
    assert!(world.postrail.metric("postrail_egress_pipelined_total") > 10);
}
