//! Bad input by REST: a problem document that says what and where, nothing of it sent, and what is good goes on.

use std::net::SocketAddr;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::run;
use postrail_tests::postrail::{DOMAIN, Postrail};
use postrail_tests::scene::Scene;
use serde_json::{Value, json};

/// Status and problem of a body that is sent as it is.
fn post(postrail: &Postrail, body: impl Into<reqwest::blocking::Body>, kind: &str) -> (u16, Value) {
    post_to(postrail, "/v2/jobs", body, kind)
}

fn post_to(postrail: &Postrail, path: &str, body: impl Into<reqwest::blocking::Body>, kind: &str) -> (u16, Value) {
    let client = reqwest::blocking::Client::new();
    let request = client.post(format!("http://{}{path}", postrail.rest)).header("Content-Type", kind).body(body);
    let response = request.basic_auth(&postrail.username, Some(&postrail.secret)).send().expect("an answer");
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_problem = kind == "application/problem+json";
    let problem: Value = response.json().expect("a JSON body");
    assert!(is_problem && problem["status"] == status && problem["detail"].is_string(), "RFC 9457: {problem}");
    (status, problem)
}

/// Panics unless one good job is all that arrives.
fn only_one_more_arrives(scene: &Scene) {
    let (status, answer) = scene.postrail.submit(&scene.job(&["last@receiver.test"]));
    assert_eq!(status, 202, "{answer}");
    assert_eq!(scene.receiver.wait_for(1).len(), 1, "nothing that was refused arrives");
}

#[test]
fn malformed_json_is_refused_with_its_position() {
    let scene = Scene::new("json");
    for (body, code) in [
        ("{\"subject\": {\"content\": \"x\"},\n  \"body\": [}", "invalid_json"),
        ("", "invalid_json"),
        ("{} {}", "invalid_json"),
        ("{\"subject\": \"\u{1}\"}", "invalid_json"),
        (&"[".repeat(100_000), "json_too_deep"),
    ] {
        let (status, problem) = post(&scene.postrail, body.to_owned(), "application/json");
        assert_eq!((status, problem["code"].as_str()), (400, Some(code)), "{problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("line ") && detail.contains("column "), "{detail}");
    }
    let (status, problem) = post(&scene.postrail, b"{\"subject\": \"\xff\"}".to_vec(), "application/json");
    assert_eq!(status, 400, "{problem}");
    let (status, problem) = post(&scene.postrail, "{}", "text/plain");
    assert_eq!(status, 415, "{problem}");
    let job = scene.job(&["a@receiver.test"]).to_string();
    let (status, problem) = post_to(&scene.postrail, "/v2/jobs?tenant=other", job, "application/json");
    assert_eq!((status, problem["code"].as_str()), (400, Some("unknown_parameter")), "{problem}");
    only_one_more_arrives(&scene);
}

#[test]
fn impossible_values_are_refused_by_their_pointer() {
    let scene = Scene::new("values");
    let long = "x".repeat(501);
    for (pointer, value, status, code) in [
        ("/mail/from", json!({"email": "a@elsewhere.test"}), 422, "domain_not_registered"),
        ("/mail/mimeFrom", json!({"email": "a@elsewhere.test"}), 422, "domain_not_registered"),
        ("/mail/from/email", json!("@@"), 422, "invalid_address"),
        ("/mail/from/email", json!(7), 422, "wrong_type"),
        ("/subject/content", json!("x\r\nBcc: victim@receiver.test"), 422, "control_character"),
        ("/subject/content", json!(long), 422, "too_long"),
        ("/subject/content", json!(""), 422, "empty_value"),
        ("/subject/content", json!(null), 422, "empty_value"),
        ("/body/contentType", json!("text/markdown"), 422, "unknown_content_type"),
        ("/body/charset", json!("latin1"), 422, "unknown_charset"),
        ("/recipients/0/mail/xHeaders/X-One", json!("x\r\nBcc: victim@receiver.test"), 422, "control_character"),
        ("/recipients/0/mail/xHeaders/From", json!("x@y.test"), 422, "reserved_header"),
        ("/recipients/0/mail/replyTo/email", json!("a@b.test\r\nBcc: v@receiver.test"), 422, "invalid_address"),
        ("/recipients/0/mail/listUnsubscribe", json!("https://x\r\nBcc: v@receiver.test"), 422, "invalid_uri"),
        ("/recipients/0/mail/priority", json!("URGENT"), 422, "unknown_priority"),
        ("/recipients/0/reference", json!("r".repeat(51)), 422, "too_long"),
        ("/attachments/0/content", json!("%%%"), 422, "invalid_encoding"),
        ("/attachments/0/name", json!("a\r\nb"), 422, "invalid_name"),
        ("/recipients", json!([]), 422, "empty_value"),
        ("/surprise", json!(1), 400, "unknown_key"),
        ("/recipients/0/mail/To", json!([]), 400, "unknown_key"),
    ] {
        let mut job = scene.job(&["a@receiver.test"]);
        job["attachments"] = json!([{"name": "a", "content": "YQ=="}]);
        let entry = &mut job["recipients"][0]["mail"];
        entry["xHeaders"] = json!({"X-Two": "2"});
        entry["replyTo"] = json!({"email": "r@receiver.test"});
        job["mail"]["mimeFrom"] = json!({"email": format!("m@{DOMAIN}")});
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        job.pointer_mut(parent).expect("the parent is there")[name] = value;
        let (got, problem) = post(&scene.postrail, job.to_string(), "application/json");
        assert_eq!(got, status, "{pointer}: {problem}");
        let errors = problem["errors"].as_array().expect("errors");
        let found = errors.iter().any(|error| error["pointer"] == pointer && error["code"] == code);
        assert!(found && errors.len() == 1, "{pointer} {code}: {problem}");
    }
    only_one_more_arrives(&scene);
}

#[test]
fn too_much_is_refused() {
    let scene = Scene::new("too-much");
    let to: Vec<String> = (0..1_001).map(|n| format!("r{n}@receiver.test")).collect();
    let job = scene.job(&to.iter().map(String::as_str).collect::<Vec<_>>());
    let (status, problem) = post(&scene.postrail, job.to_string(), "application/json");
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/recipients")), "{problem}");
    assert_eq!(problem["errors"][0]["code"], "too_many_recipients", "{problem}");

    let mut job = scene.job(&["a@receiver.test"]);
    job["attachments"] = json!([{"name": "big", "content": STANDARD.encode(vec![7; 16 * 1024 * 1024])}]);
    let (status, problem) = post(&scene.postrail, job.to_string(), "application/json");
    assert_eq!((status, &problem["code"]), (413, &json!("message_too_large")), "{problem}");

    // A body over the limit: refused by its announced length, and as it comes.
    let body = scene.place.join("body");
    std::fs::write(&body, vec![b' '; 33 * 1024 * 1024]).expect("writable");
    for transfer in [None, Some("Transfer-Encoding: chunked")] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"]);
        command.args(["--user", &format!("{}:{}", scene.postrail.username, scene.postrail.secret)]);
        command.args(["-H", "Content-Type: application/json", "--data-binary", &format!("@{}", body.display())]);
        command.args(transfer.iter().flat_map(|field| ["-H", field]));
        let text = run(command.arg(format!("http://{}/v2/jobs", scene.postrail.rest)));
        assert!(text.ends_with("\n413") && text.contains("\"code\""), "{transfer:?}: {text}");
    }
    only_one_more_arrives(&scene);
}

#[test]
fn a_job_without_a_valid_recipient_is_refused_with_a_result_for_each() {
    let scene = Scene::new("no-recipient");
    let job = scene.job(&["broken", "a@", "a b@receiver.test"]);
    let (status, problem) = post(&scene.postrail, job.to_string(), "application/json");
    assert_eq!((status, &problem["code"]), (422, &json!("no_valid_recipient")), "{problem}");
    assert_eq!(problem["meta"]["state"]["type"], "REJECTED", "{problem}");
    let results = problem["content"]["recipients"].as_array().expect("results");
    assert_eq!(results.len(), 3, "{problem}");
    for (result, email) in results.iter().zip(["broken", "a@", "a b@receiver.test"]) {
        let result = &result["mail"]["to"][0];
        assert_eq!(
            (&result["email"], &result["validationResult"]["classifier"]),
            (&json!(email), &json!("INVALID_FORMAT"))
        );
    }
    only_one_more_arrives(&scene);
}

#[test]
fn wrong_credentials_are_refused_and_then_not_even_tried() {
    let scene = Scene::new("unauthorized");
    let rest = scene.postrail.rest;
    let body = scene.place.join("job.json");
    std::fs::write(&body, scene.job(&["a@receiver.test"]).to_string()).expect("writable");
    let curl = |from: &str, credentials: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--include", "--interface", from, "-H", "Content-Type: application/json"]);
        command.args(["--data-binary", &format!("@{}", body.display()), &format!("http://{rest}/v2/jobs")]);
        run(command.args(credentials))
    };
    let wrong = format!("{}:wrong", scene.postrail.username);
    for credentials in [
        vec![],
        vec!["--user", &wrong],
        vec!["--user", "nobody:wrong"],
        vec!["-H", "Authorization: Bearer pr_wrong"],
        vec!["-H", "Authorization: Basic %%%"],
        vec!["-H", "Authorization: Digest x"],
    ] {
        let answer = curl("127.0.0.1", &credentials);
        assert!(answer.starts_with("HTTP/1.1 401"), "{credentials:?}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("www-authenticate: "), "{credentials:?}: {answer}");
        assert!(answer.contains("application/problem+json"), "{credentials:?}: {answer}");
    }
    // Each shard counts for itself.
    let limited =
        (0..60).map(|_| curl("127.0.0.8", &["--user", &wrong])).find(|answer| answer.starts_with("HTTP/1.1 429"));
    let limited = limited.expect("after many failures the peer has to wait");
    assert!(limited.to_ascii_lowercase().contains("retry-after: "), "{limited}");
    only_one_more_arrives(&scene);
}

#[test]
fn requests_that_two_servers_could_read_differently_are_refused() {
    use std::io::{Read as _, Write as _};
    let scene = Scene::new("framing");
    let at: SocketAddr = scene.postrail.rest;
    let token = STANDARD.encode(format!("{}:{}", scene.postrail.username, scene.postrail.secret));
    for fields in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: +2\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Content-Length : 2\r\n",
    ] {
        let mut stream = std::net::TcpStream::connect(at).expect("it listens");
        let head = format!(
            "POST /v2/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\nContent-Type: application/json\r\n\
             {fields}\r\n{{}}"
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and closes");
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501"), "{fields}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields}: {answer}");
    }
    only_one_more_arrives(&scene);
}
