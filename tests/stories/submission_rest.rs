//! A job handed in by REST: what is answered, what arrives, and what the control API tells of it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::run;
use postrail_tests::clients::judge;
use postrail_tests::postrail::DOMAIN;
use postrail_tests::receiver::Arrived;
use postrail_tests::scene::Scene;
use serde_json::{Value, json};
use std::process::Command;

/// The id of the job that a 202 tells.
fn job_id(answer: &Value) -> String {
    answer["meta"]["jobId"].as_str().unwrap_or_else(|| panic!("a job id: {answer}")).to_owned()
}

fn to<'a>(arrived: &'a [Arrived], address: &str) -> &'a Arrived {
    let path = format!("RCPT TO:<{address}>");
    let found = arrived.iter().find(|mail| mail.rcpt.iter().any(|rcpt| rcpt.starts_with(&path)));
    found.unwrap_or_else(|| panic!("a mail to {address} arrived"))
}

fn full_job(file: &[u8]) -> Value {
    json!({
        "subject": {"content": "Ihre Bestellung \u{2013} \u{fc}bersicht \u{1f4e6}"},
        "body": {"contentType": "text/html", "contentEncoding": "base64",
            "content": STANDARD.encode("<p>Gr\u{fc}\u{df}e <img src=\"cid:logo@shop\"></p>\n")},
        "alternative": {"content": "Gr\u{fc}\u{df}e\n.\nEnde"},
        "attachments": [
            {"name": "\u{dc}bersicht.pdf", "contentType": "application/pdf", "content": STANDARD.encode(file)},
            {"name": "logo.png", "contentType": "image/png", "contentId": "logo@shop", "content": "iVBORw0KGgo="},
        ],
        "recipients": [
            {"mail": {
                "to": [{"email": "Anna M\u{fc}ller <anna@receiver.test>"}, {"email": "ben@receiver.test"}],
                "cc": [{"email": "carl@copies.test"}], "bcc": [{"email": "secret@hidden.test"}],
                "replyTo": {"email": "Service <service@sender.test>"}, "inReplyTo": "<first@sender.test>",
                "priority": "HIGH", "xHeaders": {"X-Order": "4711 \u{fc}"}}, "reference": "order-4711"},
            {"mail": {"to": [{"email": "dora@receiver.test"}]},
                "features": {"openTracking": {"active": false}, "linkTracking": {"active": false}}},
        ],
        "mail": {"from": {"email": format!("bounces@{DOMAIN}")}, "mimeFrom": {"email": format!("Shop <shop@{DOMAIN}>")},
            "replyTo": {"email": format!("all@{DOMAIN}")}, "xHeaders": {"X-Shop": "main"}},
        "job": {"referenceJob": "night-run", "costCenter": "cc-7", "campaignId": "spring"},
    })
}

#[test]
fn a_full_job_arrives_as_it_was_described() {
    let scene = Scene::new("rest-full");
    let file: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (status, answer) = scene.postrail.submit(&full_job(&file));
    assert_eq!(status, 202, "{answer}");
    assert_eq!(answer["meta"]["state"], json!({"type": "ACCEPTED", "subType": "FULL", "phase": "PRE_PROCESS"}));
    let id = job_id(&answer);
    let entries = &answer["content"]["recipients"];
    for (n, (pointer, email)) in [
        ("/0/mail/to/0", "anna@receiver.test"),
        ("/0/mail/to/1", "ben@receiver.test"),
        ("/0/mail/cc/0", "carl@copies.test"),
        ("/0/mail/bcc/0", "secret@hidden.test"),
        ("/1/mail/to/0", "dora@receiver.test"),
    ]
    .into_iter()
    .enumerate()
    {
        let result = entries.pointer(pointer).unwrap_or_else(|| panic!("a result at {pointer}: {answer}"));
        assert_eq!((result["email"].as_str(), result["id"].as_str()), (Some(email), Some(&*format!("{id}.{n}"))));
    }

    scene.postrail.all_recipients(&id, 5);
    let arrived = scene.receiver.arrived();
    for address in ["anna@receiver.test", "ben@receiver.test", "carl@copies.test", "secret@hidden.test"] {
        let mail = to(&arrived, address);
        assert!(mail.mail.starts_with(&format!("MAIL FROM:<bounces@{DOMAIN}>")), "{}", mail.mail);
        let text = String::from_utf8_lossy(&mail.content);
        assert!(text.is_ascii(), "what we render is 7 bit");
        assert!(!text.to_ascii_lowercase().contains("bcc") && !text.contains("secret@"), "Bcc is never visible");
        let judged = judge(&scene.place, &mail.content);
        judged.has_no_defects();
        assert_eq!(judged.one("Subject"), "Ihre Bestellung \u{2013} \u{fc}bersicht \u{1f4e6}");
        assert_eq!(judged.one("From"), format!("Shop <shop@{DOMAIN}>"));
        assert_eq!(judged.one("To"), "Anna M\u{fc}ller <anna@receiver.test>, ben@receiver.test");
        assert_eq!(judged.one("Cc"), "carl@copies.test");
        assert_eq!(judged.one("Reply-To"), "Service <service@sender.test>");
        assert_eq!(judged.one("In-Reply-To"), "<first@sender.test>");
        assert_eq!(judged.one("X-Order"), "4711 \u{fc}");
        assert!(judged.one("X-Priority").starts_with('1'), "{:?}", judged.all("X-Priority"));
        assert_eq!(judged.text("text/html").trim_end(), "<p>Gr\u{fc}\u{df}e <img src=\"cid:logo@shop\"></p>");
        assert_eq!(judged.text("text/plain").trim_end(), "Gr\u{fc}\u{df}e\n.\nEnde");
        assert!(judged.file("\u{dc}bersicht.pdf") == file, "the attachment's octets are the same");
        assert_eq!(judged.file("logo.png"), STANDARD.decode("iVBORw0KGgo=").expect("base64"));
        let logo = judged.parts().iter().find(|part| part["name"] == "logo.png").expect("the logo");
        assert_eq!((&logo["id"], &logo["disposition"]), (&json!("<logo@shop>"), &json!("inline")));
        for kind in ["multipart/mixed", "multipart/related", "multipart/alternative"] {
            assert!(judged.types().contains(&kind), "{kind}: {:?}", judged.types());
        }
    }
    let dora = judge(&scene.place, &to(&arrived, "dora@receiver.test").content);
    assert_eq!(dora.one("To"), "dora@receiver.test", "an entry's addresses are its own");
    assert!(dora.all("Cc").is_empty() && dora.all("X-Order").is_empty());
    assert_eq!(dora.one("Reply-To"), format!("all@{DOMAIN}"), "the job's field, where the entry has none");
    let anna = judge(&scene.place, &to(&arrived, "anna@receiver.test").content);
    assert_ne!(dora.one("Message-ID"), anna.one("Message-ID"), "each message has an id of its own");

    let job = scene.postrail.control_ok("GET", &format!("/v2/jobs/{id}"), None);
    assert_eq!(job["states"], json!({"delivered": 5}), "{job}");
    for (key, value) in [("interface", "rest"), ("campaign", "spring"), ("cost_center", "cc-7")] {
        assert_eq!(job[key], value, "{job}");
    }
}

#[test]
fn a_thousand_recipients_are_answered_in_order_and_delivered() {
    let scene = Scene::new("rest-thousand");
    let to: Vec<String> = (0..1_000).map(|n| format!("r{n}@d{}.test", n % 5)).collect();
    let mut job = scene.job(&to.iter().map(String::as_str).collect::<Vec<_>>());
    for (n, entry) in job["recipients"].as_array_mut().expect("entries").iter_mut().enumerate() {
        entry["mail"]["xHeaders"] = json!({"X-Number": n.to_string()});
    }
    let (status, answer) = scene.postrail.submit(&job);
    assert_eq!(status, 202, "{answer}");
    let id = job_id(&answer);
    let results = answer["content"]["recipients"].as_array().expect("results");
    assert_eq!(results.len(), to.len());
    for (n, (result, email)) in results.iter().zip(&to).enumerate() {
        let result = &result["mail"]["to"][0];
        assert_eq!(result["email"], **email);
        assert_eq!(result["id"], format!("{id}.{n}"));
    }
    let recipients = scene.postrail.all_recipients(&id, to.len());
    assert!(recipients.iter().all(|recipient| recipient["state"] == "delivered"));
    let arrived = scene.receiver.arrived();
    assert_eq!(arrived.len(), to.len(), "an entry is a message of its own");
    let mut seen = std::collections::BTreeSet::new();
    for mail in &arrived {
        let text = String::from_utf8_lossy(&mail.content);
        let number = text.split("X-Number: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or_default();
        let address = number.parse::<usize>().ok().and_then(|n| to.get(n));
        let address = address.unwrap_or_else(|| panic!("the mail has its number: {text}"));
        assert!(mail.rcpt[0].starts_with(&format!("RCPT TO:<{address}>")), "{number}: {:?}", mail.rcpt);
        assert!(text.contains(&format!("\r\nTo: <{address}>\r\n")), "{number}");
        seen.insert(number.to_owned());
    }
    assert_eq!(seen.len(), to.len());
}

#[test]
fn an_invalid_address_leaves_the_others_alone() {
    let scene = Scene::new("rest-part");
    let (status, answer) = scene.postrail.submit(&scene.job(&["a@receiver.test", "foo@", "b@receiver.test"]));
    assert_eq!((status, &answer["meta"]["state"]["subType"]), (202, &json!("PART")), "{answer}");
    let results = answer["content"]["recipients"].as_array().expect("results");
    assert_eq!(results.len(), 3, "a result for each, in order: {answer}");
    let bad = &results[1]["mail"]["to"][0];
    assert_eq!((&bad["email"], &bad["validationResult"]["classifier"]), (&json!("foo@"), &json!("INVALID_FORMAT")));
    assert!(bad.get("id").is_none(), "what is refused has no id: {bad}");
    let id = job_id(&answer);
    let recipients = scene.postrail.all_recipients(&id, 2);
    let addresses: Vec<_> = recipients.iter().map(|recipient| recipient["address"].as_str()).collect();
    assert_eq!(addresses, [Some("a@receiver.test"), Some("b@receiver.test")]);
    assert_eq!(scene.receiver.arrived().len(), 2);
}

#[test]
fn an_api_key_is_as_good_as_username_and_secret() {
    let scene = Scene::new("rest-bearer");
    let first = scene.postrail.control_ok("GET", &format!("/v2/credentials/{}", scene.postrail.username), None);
    let tenant = first["tenant"].as_str().expect("the first credential has a tenant");
    let body = json!({"username": "shop"});
    let issued = scene.postrail.control_ok("POST", &format!("/v2/credentials?tenant={tenant}"), Some(&body));
    let key = issued["secret"].as_str().unwrap_or_else(|| panic!("a secret, once: {issued}"));
    scene.postrail.settled_configuration();
    let body = scene.place.join("job.json");
    std::fs::write(&body, scene.job(&["a@receiver.test"]).to_string()).expect("writable");
    let url = format!("http://{}/v2/jobs", scene.postrail.rest);
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--include", "-H", "Content-Type: application/json", &url]);
    command.args(["-H", &format!("Authorization: Bearer {key}"), "--data-binary", &format!("@{}", body.display())]);
    let text = run(&mut command);
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
    assert!(text.to_ascii_lowercase().contains("location: "), "{text}");
    scene.receiver.wait_for(1);
}

#[test]
fn the_ledger_is_at_most_a_second_behind() {
    let scene = Scene::new("rest-ledger");
    for round in 0..3 {
        let (_, answer) = scene.postrail.submit(&scene.job(&["a@receiver.test"]));
        let id = job_id(&answer);
        let start = Instant::now();
        scene.receiver.wait_for(round + 1);
        let arrived = start.elapsed();
        scene.postrail.wait_for_state(&id, "delivered");
        let seen = start.elapsed();
        // A second of the ledger, and time for a busy machine to look.
        assert!(seen - arrived < Duration::from_secs(2), "arrived after {arrived:?}, seen after {seen:?}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_its_place() {
    let scene = Scene::new("rest-not-built");
    for (pointer, value) in [
        ("/subject/template", json!("SGFsbG8=")),
        ("/body/template", json!("SGFsbG8=")),
        ("/template", json!({"name": "welcome"})),
        ("/sendAt", json!("2030-01-01T00:00:00Z")),
        ("/notification", json!({"endPoint": {"url": "https://hooks.test/"}})),
        ("/secureDocument", json!({"active": true, "filename": "x"})),
        ("/attachments", json!([{"name": "a", "content": "YQ==", "secureDocument": "true"}])),
        ("/job", json!({"features": {"openTracking": {"active": true}}})),
        ("/job", json!({"features": {"linkTracking": {"active": true}}})),
        ("/job", json!({"features": {"templating": {"personalization": {"name": "Ignaz"}}}})),
        ("/recipients/0/features", json!({"openTracking": {"active": true}})),
        ("/recipients/0/features", json!({"templating": {"personalization": {"name": "Ignaz"}}})),
        ("/recipients/0/sendAt", json!("2030-01-01T00:00:00Z")),
    ] {
        let mut job = scene.job(&["a@receiver.test"]);
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        job.pointer_mut(parent).expect("the parent is there")[name] = value;
        let (status, answer) = scene.postrail.submit(&job);
        assert_eq!(status, 422, "{pointer}: {answer}");
        let found = answer["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert!(found.starts_with(pointer), "{pointer}: {answer}");
        assert_eq!(answer["errors"][0]["code"], "not_supported", "{answer}");
    }
    assert!(scene.receiver.arrived().is_empty());
}
