//! Whole requests: what is accepted, and the place and name of every defect.

use std::net::Ipv4Addr;

use postrail_schema::ids::{CredentialId, Revision, SendingDomainId, ShardId};
use postrail_schema::limits::{EXPIRY_TRANSACTIONAL, TENANT_MESSAGE_BYTES_MIN};
use postrail_schema::snapshot::{SnapshotContent, Suppression, Tenant};
use postrail_schema::standing::{DomainRecord, Standing};
use serde_json::{Value, json};

use super::*;

const ID: u64 = 1_795_464_845_123;

fn snapshot(message_bytes_max: usize) -> Snapshot {
    let tenant = |id, name: &str| Tenant {
        id: TenantId(id),
        name: name.to_owned(),
        quota_per_day: None,
        weight: 1,
        message_bytes_max: message_bytes_max as u32,
        region: None,
        reserved_per_s: None,
        quarantines: false,
    };
    let domain = |id, tenant, name: &str| SendingDomain {
        id: SendingDomainId(id),
        tenant: TenantId(tenant),
        name: name.to_owned(),
        keys: Vec::new(),
        pool: None,
        standing: Default::default(),
        is_platform: false,
        is_later: false,
    };
    Snapshot::new(SnapshotContent {
        revision: Revision(9),
        tenants: vec![tenant(1, "one"), tenant(2, "two")],
        domains: vec![domain(1, 1, "shop.example"), domain(2, 1, "bounce.shop.example"), domain(3, 2, "other.example")],
        suppressions: vec![Suppression { tenant: TenantId(1), address: "gone@there.example".to_owned() }],
        ..SnapshotContent::default()
    })
    .unwrap()
}

fn accept_text(body: &[u8], key: Option<&str>) -> Result<Accepted, Problem> {
    accept_with(body, key, 100_000)
}

fn accept_with(body: &[u8], key: Option<&str>, message_bytes_max: usize) -> Result<Accepted, Problem> {
    let principal = Principal { tenant: TenantId(1), credential: CredentialId(5), username: "shop".to_owned() };
    let acceptance = Acceptance {
        snapshot: &snapshot(message_bytes_max),
        principal: &principal,
        id: MessageId::new(ID, ShardId(0), 7),
        now: Timestamp::from_unix_ms(ID),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        idempotency_key: key,
    };
    accept(acceptance, body)
}

fn accept_json(body: &Value) -> Result<Accepted, Problem> {
    accept_text(body.to_string().as_bytes(), None)
}

fn small() -> Value {
    json!({
        "subject": {"content": "Hello"},
        "body": {"contentType": "text/plain", "content": "one\ntwo"},
        "recipients": [{"mail": {"to": [{"email": "a@there.example"}]}}],
        "mail": {"mimeFrom": {"email": "Shop <news@shop.example>"}},
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut body = small();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value);
    body
}

fn content(job: &Job) -> &RestContent {
    match &job.content {
        Content::Rest(content) => content,
        Content::Mime { .. } => panic!("REST content"),
    }
}

#[test]
fn a_small_request_becomes_a_job() {
    let accepted = accept_json(&small()).unwrap();
    let job = accepted.job.unwrap();
    assert_eq!((job.tenant, job.domain, job.revision), (TenantId(1), SendingDomainId(1), Revision(9)));
    assert_eq!(job.reverse_path.as_ref().unwrap().as_str(), "news@shop.example");
    assert_eq!(job.message_id_header, format!("<{}@shop.example>", job.id));
    assert_eq!(job.expires_at.since(job.accepted_at), EXPIRY_TRANSACTIONAL);
    assert_eq!(content(&job).body, "one\r\ntwo");
    assert_eq!(job.recipients.len(), 1);
    let answer: Value = serde_json::from_slice(&accepted.answer.body).unwrap();
    let id = job.id.to_string();
    assert_eq!(accepted.answer.status, 202);
    assert_eq!(
        answer,
        json!({
            "meta": {"jobId": id, "receivedTs": "2026-11-23T20:14:05.123Z",
                     "state": {"type": "ACCEPTED", "subType": "FULL", "phase": "PRE_PROCESS"}},
            "content": {"recipients": [{"mail": {"to": [{"id": format!("{id}.0"), "email": "a@there.example"}]}}]},
        })
    );
    let response = accepted.answer.to_response();
    assert!(response.headers.contains(&("Location".to_owned(), format!("/v2/jobs/{id}"))));
}

#[test]
fn a_full_request_is_read_whole() {
    let body = json!({
        "subject": {"contentEncoding": "base64", "charset": "utf-8", "content": "R3LDvMOfZQ=="},
        "body": {"contentType": "text/html", "contentEncoding": "quoted-printable", "content": "<p>=C3=BC=\n</p>"},
        "alternative": {"content": "plain"},
        "attachments": [
            {"name": "a.pdf", "contentType": "application/pdf", "content": "JVBERg=="},
            {"name": "b.png", "contentType": "image/png", "contentId": "<logo>", "content": "AA==", "secureDocument": "false"},
        ],
        "recipients": [
            {"mail": {"to": [{"email": "Ann<ann@there.example>"}], "cc": [{"email": "c@there.example"}],
                      "bcc": [{"email": "b@there.example"}], "replyTo": {"email": "r@any.example"},
                      "inReplyTo": "<x@y>", "priority": "HIGH", "listUnsubscribe": "<https://shop.example/u>",
                      "xHeaders": {"X-Run": "1"}},
             "features": {"openTracking": {"active": false}}, "reference": "ref-1"},
            {"mail": {"to": [{"email": "d@there.example"}]}},
        ],
        "mail": {"from": {"email": "b@bounce.shop.example"}, "mimeFrom": {"email": "Shop<news@shop.example>"},
                 "replyTo": {"email": "help@shop.example"}, "priority": "NORMAL", "xHeaders": {"Feedback-ID": "f"}},
        "job": {"referenceJob": "rj", "costCenter": "cc", "campaignId": "spring", "class": "marketing",
                "features": {"linkTracking": {"active": false}}, "options": {}},
        "secureDocument": {"active": false, "filename": "x"},
    });
    let job = accept_json(&body).unwrap().job.unwrap();
    assert_eq!((job.reference.as_str(), job.campaign.as_str(), job.cost_center.as_str()), ("rj", "spring", "cc"));
    assert_eq!(job.class, TrafficClass::Marketing);
    assert_eq!(job.reverse_path.as_ref().unwrap().as_str(), "b@bounce.shop.example");
    let rest = content(&job);
    assert_eq!((rest.subject.as_str(), rest.body.as_str(), rest.body_is_html), ("Grüße", "<p>ü</p>", true));
    assert_eq!(rest.alternative.as_deref(), Some("plain"));
    assert_eq!(rest.attachments[0].content, &b"%PDF"[..]);
    assert_eq!(rest.attachments[1].content_id.as_deref(), Some("logo"));
    assert_eq!(rest.fields.from.as_ref().unwrap().name, "Shop");
    let first = job.entries[0].fields.as_ref().unwrap();
    assert_eq!((first.to.len(), first.cc.len(), first.headers.len()), (1, 1, 1));
    assert_eq!(job.entries[0].reference, "ref-1");
    let entries: Vec<_> = job.recipients.iter().map(|r| (r.address.as_str(), r.entry)).collect();
    assert_eq!(
        entries,
        [("ann@there.example", 0), ("c@there.example", 0), ("b@there.example", 0), ("d@there.example", 1)]
    );
}

#[test]
fn a_replay_lists_what_the_job_holds() {
    let body = with(
        "/recipients",
        json!([{"mail": {"to": [{"email": "x"}, {"email": "a@b\u{fc}cher.example"}], "bcc": [{"email": "b@there.example"}]}}]),
    );
    let job = accept_json(&body).unwrap().job.unwrap();
    let answer = Answer::replay(&job);
    let text: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(text["meta"]["state"], json!({"type": "ACCEPTED", "phase": "PRE_PROCESS"}));
    let mail = &text["content"]["recipients"][0]["mail"];
    assert_eq!(mail["to"], json!([{"id": format!("{}.0", job.id), "email": "a@b\u{fc}cher.example"}]));
    assert_eq!(mail["bcc"], json!([{"id": format!("{}.1", job.id), "email": "b@there.example"}]));
    assert!(answer.to_response().headers.iter().any(|(name, _)| name == "X-Idempotent-Replayed"));
}

#[test]
fn a_bad_address_does_not_fail_the_others() {
    let body = with(
        "/recipients",
        json!([
            {"mail": {"to": [{"email": "nobody"}, {"email": "a@there.example"}, {"email": "A@There.example"},
                             {"email": "gone@there.example"}]}},
            {"mail": {"to": [{"email": "@"}]}},
            {"mail": {"to": [{"email": "a@there.example"}]}},
        ]),
    );
    let accepted = accept_json(&body).unwrap();
    let job = accepted.job.unwrap();
    assert_eq!((job.entries.len(), job.recipients.len()), (2, 2));
    assert_eq!(job.recipients[1].entry, 1, "an entry without a valid address is no message");
    let answer: Value = serde_json::from_slice(&accepted.answer.body).unwrap();
    assert_eq!(answer["meta"]["state"]["subType"], "PART");
    let results = answer["content"]["recipients"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    let classifiers: Vec<_> = results[0]["mail"]["to"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["validationResult"]["classifier"].as_str().unwrap_or("ok"))
        .collect();
    assert_eq!(classifiers, ["INVALID_FORMAT", "ok", "DUPLICATE", "PREVIOUSLY_BOUNCED"]);
    assert_eq!(results[2]["mail"]["to"][0]["id"], format!("{}.1", job.id));
}

#[test]
fn a_job_without_a_valid_address_is_refused_with_its_results() {
    let accepted = accept_json(&with("/recipients", json!([{"mail": {"to": [{"email": "x"}]}}]))).unwrap();
    assert_eq!((accepted.job, accepted.answer.status), (None, 422));
    let answer: Value = serde_json::from_slice(&accepted.answer.body).unwrap();
    assert_eq!((&answer["code"], &answer["meta"]["state"]["type"]), (&json!("no_valid_recipient"), &json!("REJECTED")));
    assert_eq!(answer["content"]["recipients"][0]["mail"]["to"][0]["validationResult"]["classifier"], "INVALID_FORMAT");
}

#[test]
fn every_defect_has_its_place_and_name() {
    for (pointer, value, status, code) in [
        ("/x", json!(1), 400, "unknown_key"),
        ("/subject", json!(null), 422, "empty_value"),
        ("/subject", json!("text"), 422, "wrong_type"),
        ("/subject/content", json!(""), 422, "empty_value"),
        ("/subject/content", json!("a\r\nBcc: x@y"), 422, "control_character"),
        ("/subject/content", json!("y".repeat(501)), 422, "too_long"),
        ("/subject/template", json!("x"), 422, "not_supported"),
        ("/subject/contentTransferEncoding", json!("base64"), 422, "not_supported"),
        ("/subject/charset", json!("ISO-8859-1"), 422, "unknown_charset"),
        ("/subject/contentEncoding", json!("rot13"), 422, "unknown_encoding"),
        ("/body/contentType", json!("text/rtf"), 422, "unknown_content_type"),
        ("/body/content", json!("a\u{0}"), 422, "control_character"),
        ("/alternative", json!({"content": "x"}), 422, "alternative_without_html"),
        ("/attachments", json!([]), 422, "empty_value"),
        ("/attachments", json!({}), 422, "wrong_type"),
        ("/attachments", json!(vec![json!({"content": "AA=="}); 101]), 422, "too_many_attachments"),
        ("/mail/mimeFrom", json!({"email": "a@other.example"}), 422, "domain_not_registered"),
        ("/mail/from", json!({"email": "a@nowhere.example"}), 422, "domain_not_registered"),
        ("/mail/priority", json!("LOW"), 422, "unknown_priority"),
        ("/mail/inReplyTo", json!("x"), 422, "invalid_message_id"),
        ("/mail/listUnsubscribe", json!("x"), 422, "invalid_uri"),
        ("/mail/rewriteFrom", json!({"email": "x"}), 422, "not_supported"),
        ("/mail/to", json!([]), 400, "unknown_key"),
        ("/job", json!([1]), 422, "wrong_type"),
        ("/recipients", json!([]), 422, "empty_value"),
        ("/recipients", json!({}), 422, "wrong_type"),
        ("/notification", json!({"endPoint": {}}), 422, "not_supported"),
        ("/sendAt", json!("2030-01-01"), 422, "not_supported"),
        ("/template", json!("x"), 422, "not_supported"),
    ] {
        let problem = accept_json(&with(pointer, value.clone())).unwrap_err();
        let seen: Vec<_> = problem.errors.iter().map(|error| (error.pointer.as_str(), error.code)).collect();
        assert_eq!((problem.status, seen), (status, vec![(pointer, code)]), "{pointer} {value}");
    }
}

#[test]
fn a_defect_within_a_value_has_the_place_within() {
    let long = "x".repeat(51);
    for (pointer, value, at, code) in [
        ("/job", json!({"campaignId": long}), "/job/campaignId", "too_long"),
        ("/job", json!({"class": "urgent"}), "/job/class", "unknown_class"),
        ("/job", json!({"options": {"dkim": 1}}), "/job/options/dkim", "unknown_key"),
        (
            "/job",
            json!({"features": {"openTracking": {"active": true}}}),
            "/job/features/openTracking/active",
            "not_supported",
        ),
        ("/job", json!({"features": {"openTracking": {}}}), "/job/features/openTracking/active", "not_supported"),
        (
            "/job",
            json!({"features": {"templating": {"personalization": {}}}}),
            "/job/features/templating",
            "not_supported",
        ),
        ("/secureDocument", json!({"active": true}), "/secureDocument/active", "not_supported"),
        ("/attachments", json!([{"name": "x"}]), "/attachments/0/content", "missing"),
        ("/attachments", json!([{"content": "?"}]), "/attachments/0/content", "invalid_encoding"),
        ("/attachments", json!([{"content": "AA==", "name": "a/b"}]), "/attachments/0/name", "invalid_name"),
        (
            "/attachments",
            json!([{"content": "AA==", "secureDocument": "true"}]),
            "/attachments/0/secureDocument",
            "not_supported",
        ),
        ("/mail", json!({"priority": "HIGH"}), "/mail/from", "missing"),
        ("/mail", json!({"mimeFrom": {"email": "x"}}), "/mail/mimeFrom/email", "invalid_address"),
        ("/mail/xHeaders", json!({"Bcc": "x"}), "/mail/xHeaders/Bcc", "reserved_header"),
        ("/mail/xHeaders", json!({"X-A": "x\r\nBcc: y"}), "/mail/xHeaders/X-A", "control_character"),
        ("/mail/xHeaders", json!({"X/A~": ""}), "/mail/xHeaders/X~1A~0", "empty_value"),
        ("/recipients", json!([{"reference": "x"}]), "/recipients/0/mail", "missing"),
        ("/recipients", json!([{"mail": {"priority": "HIGH"}}]), "/recipients/0/mail/to", "missing"),
        ("/recipients", json!([{"mail": {"to": [{}]}}]), "/recipients/0/mail/to/0/email", "missing"),
        ("/recipients", json!([{"mail": {"to": [{"email": 1}]}}]), "/recipients/0/mail/to/0/email", "wrong_type"),
    ] {
        let problem = accept_json(&with(pointer, value.clone())).unwrap_err();
        let seen: Vec<_> = problem.errors.iter().map(|error| (error.pointer.as_str(), error.code)).collect();
        assert_eq!(seen, vec![(at, code)], "{pointer} {value}");
    }
}

#[test]
fn several_defects_are_told_together() {
    let problem = accept_json(&json!({"subject": {"content": ""}, "mail": {}, "colour": "red"})).unwrap_err();
    let seen: Vec<_> = problem.errors.iter().map(|error| (error.pointer.as_str(), error.code)).collect();
    assert_eq!(problem.status, 400);
    for expected in [
        ("/colour", "unknown_key"),
        ("/body", "missing"),
        ("/recipients", "missing"),
        ("/mail/from", "missing"),
        ("/subject/content", "empty_value"),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
}

#[test]
fn addresses_are_counted_over_the_whole_job() {
    let entries = |count: usize| -> Value {
        let entry = |i| json!({"mail": {"to": [{"email": format!("u{i}@there.example")}]}});
        Value::Array((0..count).map(entry).collect())
    };
    let job = accept_json(&with("/recipients", entries(1_000))).unwrap().job.unwrap();
    assert_eq!((job.entries.len(), job.recipients.len()), (1_000, 1_000));
    let problem = accept_json(&with("/recipients", entries(1_001))).unwrap_err();
    let seen: Vec<_> = problem.errors.iter().map(|error| (error.pointer.as_str(), error.code)).collect();
    assert_eq!((problem.status, seen), (422, vec![("/recipients", "too_many_recipients")]));
}

#[test]
fn the_least_bound_of_a_tenant_has_room_for_a_small_mail_beside_what_is_added() {
    let body = with("/body/content", json!("a line of some text\n".repeat(200)));
    assert!(accept_with(body.to_string().as_bytes(), None, TENANT_MESSAGE_BYTES_MIN).is_ok());
    let refused = accept_with(body.to_string().as_bytes(), None, TENANT_MESSAGE_BYTES_MIN / 2);
    assert_eq!(refused.unwrap_err().code, "message_too_large");
}

#[test]
fn what_would_be_too_large_is_refused() {
    let problem = accept_json(&with("/body/content", json!("x\n".repeat(60_000)))).unwrap_err();
    assert_eq!((problem.status, problem.code), (413, "message_too_large"));
}

#[test]
fn a_key_is_checked_and_kept_by_hash() {
    let body = small().to_string();
    let job = accept_text(body.as_bytes(), Some("order-1")).unwrap().job.unwrap();
    assert_eq!(job.idempotency, Some(idempotency(TenantId(1), "order-1", body.as_bytes()).unwrap()));
    let problem = accept_text(body.as_bytes(), Some("order 1")).unwrap_err();
    assert_eq!((problem.status, problem.code), (400, "idempotency_key_invalid"));
}

#[test]
fn invalid_json_says_where() {
    let problem = accept_text(b"{\n \"subject\": [}", None).unwrap_err();
    assert_eq!((problem.status, problem.code), (400, "invalid_json"));
    assert!(problem.detail.contains("line 2 column"), "{}", problem.detail);
}

#[test]
fn the_published_description_has_the_keys_that_are_read() {
    let text = include_str!("../../../../../docs/reference/openapi-submission.json");
    let document: Value = serde_json::from_str(text).unwrap();
    let keys = |schema: &str| -> Vec<String> {
        let properties = &document["components"]["schemas"][schema]["properties"];
        let mut keys: Vec<_> = properties.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let read = |known: &[&str], refused: &[&str]| -> Vec<String> {
        let mut keys: Vec<_> = known.iter().filter(|key| !refused.contains(key)).map(|key| (*key).to_owned()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys("JobRequest"), read(&REQUEST_KEYS, &["notification", "sendAt", "template"]));
    assert_eq!(keys("Body"), read(&content::BODY_KEYS, &["template", "contentTransferEncoding"]));
    assert_eq!(keys("Subject"), read(&content::TEXT_KEYS, &["template", "contentTransferEncoding"]));
    assert_eq!(keys("Attachment"), read(&content::ATTACHMENT_KEYS, &[]));
    assert_eq!(keys("Mail"), read(&mail::SENDER_KEYS, &["rewriteFrom"]));
    assert_eq!(keys("Recipient"), read(&recipients::ENTRY_KEYS, &["sendAt"]));
    let mut example =
        document["paths"]["/v2/jobs"]["post"]["requestBody"]["content"]["application/json"]["example"].clone();
    let accepted = accept_json(&example).unwrap().answer;
    assert_eq!(accepted.status, 202);
    example["job"]["extra"] = json!(1);
    assert_eq!(accept_json(&example).unwrap_err().status, 400);
}

proptest::proptest! {
    #[test]
    fn hostile_bodies_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0_usize..300) {
        let mut body = small().to_string().into_bytes();
        let at = at.min(body.len());
        body.splice(at..at, bytes);
        let _ = accept_text(&body, None);
    }

    #[test]
    fn hostile_texts_never_panic(
        subject in ".{0,40}", from in ".{0,40}", to in ".{0,40}", name in ".{0,20}", value in ".{0,40}"
    ) {
        let mut body = small();
        body["subject"]["content"] = json!(subject);
        body["mail"]["mimeFrom"]["email"] = json!(format!("{from}<a@shop.example>"));
        body["mail"]["xHeaders"] = json!({name: value});
        body["recipients"][0]["mail"]["to"][0]["email"] = json!(to);
        let _ = accept_json(&body);
    }
}

#[test]
fn a_domain_that_dns_does_not_let_send_is_a_403_that_names_the_record() {
    let snapshot = with_own_unproved(&[]);
    let problem = accept_by(&snapshot, &small()).unwrap_err();
    assert_eq!((problem.status, problem.code), (403, "domain_may_not_send"));
    assert!(problem.detail.ends_with("TXT _postrail.shop.example"), "{}", problem.detail);
    let mut both = small();
    both["subject"] = json!({});
    let problem = accept_by(&snapshot, &both).unwrap_err();
    assert!([400, 422].contains(&problem.status), "another error is told as ever");
}

#[test]
fn a_refusal_is_the_same_where_another_tenant_sends_by_the_name() {
    let own = SendingDomain::clone(&snapshot(100_000).domains[&SendingDomainId(1)]);
    let others = SendingDomain { id: SendingDomainId(9), tenant: TenantId(2), ..own };
    let refused = |others: &[SendingDomain]| {
        let problem = accept_by(&with_own_unproved(others), &small()).unwrap_err();
        (problem.status, problem.code, problem.detail)
    };
    assert_eq!(refused(&[others]), refused(&[]));
}

/// The first tenant's shop.example has to prove itself; `others` are there as well.
fn with_own_unproved(others: &[SendingDomain]) -> Snapshot {
    let mut domains: Vec<_> = snapshot(100_000).domains.values().map(|domain| SendingDomain::clone(domain)).collect();
    domains[0].standing = Standing::Unproved { missing: DomainRecord::Ownership };
    domains[0].is_later = !others.is_empty();
    domains.extend_from_slice(others);
    let tenants = snapshot(100_000).tenants.values().map(|tenant| Tenant::clone(tenant)).collect();
    Snapshot::new(SnapshotContent { tenants, domains, ..SnapshotContent::default() }).unwrap()
}

fn accept_by(snapshot: &Snapshot, body: &Value) -> Result<Accepted, Problem> {
    let principal = Principal { tenant: TenantId(1), credential: CredentialId(5), username: "shop".to_owned() };
    let acceptance = Acceptance {
        snapshot,
        principal: &principal,
        id: MessageId::new(ID, ShardId(0), 7),
        now: Timestamp::from_unix_ms(ID),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        idempotency_key: None,
    };
    accept(acceptance, body.to_string().as_bytes())
}

#[test]
fn a_query_is_refused_by_the_name_of_its_first_parameter() {
    assert_eq!((check_query(""), check_query("&")), (Ok(()), Ok(())));
    for (query, name) in [("x=1", "x"), ("dry", "dry"), ("&a=1&b=2", "a"), ("=1", "")] {
        let problem = check_query(query).unwrap_err();
        let told = format!("{problem:?}");
        assert!(told.contains("unknown_parameter") && told.contains(&format!("parameter {name}:")), "{told}");
    }
}
