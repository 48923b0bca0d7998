//! What requests may say beside their path, over all operations that there are, and documents with every value in the
//! wrong form.

use super::hosts::fleet;
use super::state::{changes, fill};
use super::*;
use crate::ledger::{Counterpart, PostgresLedger};

/// Method, path, and what the description says of it.
type Operation = (String, String, Value);

async fn operations(world: &World) -> Vec<Operation> {
    let document = world.call("", "GET", "/openapi.json", Value::Null).await.1;
    let paths = document["paths"].as_object().unwrap().clone().into_iter();
    let methods = |(path, item): (String, Value)| {
        let item = item.as_object().unwrap().clone().into_iter();
        item.map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation)).collect::<Vec<_>>()
    };
    paths.flat_map(methods).filter(|(_, path, _)| path.starts_with("/v2")).collect()
}

/// A path without parameters, with a name for each; ids are numbers.
fn concrete(path: &str) -> String {
    path.replace("{id}", "7").replace(['{', '}'], "")
}

fn declares(operation: &Value, parameter: &str) -> bool {
    operation["parameters"].as_array().into_iter().flatten().any(|known| known["name"] == parameter)
}

impl World {
    /// A call with a body as it stands.
    async fn raw(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, "Bearer po_token");
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 1 << 24).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

#[tokio::test]
async fn every_route_is_described_and_every_description_is_of_a_route() {
    let routes = include_str!("../mod.rs").split(".route(").skip(1);
    let mut routed = BTreeSet::new();
    for route in routes {
        let path = route.split('"').nth(1).unwrap();
        // What the fleet's hosts and the description's readers ask is no part of it.
        if ["/openapi.json", "/fleet/suppressions"].contains(&path) {
            continue;
        }
        let outside = ["/", "/healthz", "/readyz", "/metrics"].contains(&path);
        for method in ["get", "put", "post", "patch", "delete"] {
            if route.contains(&format!("{method}(")) {
                routed.insert((method.to_uppercase(), format!("{}{path}", if outside { "" } else { "/v2" })));
            }
        }
    }
    let world = World::new();
    let document = world.call("", "GET", "/openapi.json", Value::Null).await.1;
    let paths = document["paths"].as_object().unwrap().iter();
    let described: BTreeSet<_> = paths
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    assert!(routed.len() > 100, "{routed:?}");
    assert_eq!(routed, described);
}

#[tokio::test]
async fn no_operation_ignores_a_parameter_a_body_or_a_condition_that_it_does_not_take() {
    let world = World::new();
    fill(&world).await;
    let before = world.get("/v2/state?secrets=true").await;
    for (method, path, operation) in operations(&world).await {
        let path = concrete(&path);
        let (status, problem) = world.operator(&method, &format!("{path}?nothing=1"), Value::Null).await;
        assert_eq!((status, &problem["code"]), (400, &json!("unknown_parameter")), "{method} {path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains("nothing"), "{method} {path}: {problem}");
        if !declares(&operation, "tenant") {
            let (status, problem) = world.operator(&method, &format!("{path}?tenant=red"), Value::Null).await;
            assert_eq!((status, &problem["code"]), (400, &json!("unknown_parameter")), "{method} {path}: {problem}");
        }
        if method != "GET" && path != "/v2/state/plan" && !declares(&operation, "If-Match") {
            let (status, _, problem) = world.guarded("Bearer po_token", &method, &path, "\"0\"", Value::Null).await;
            assert_eq!((status, &problem["code"]), (400, &json!("invalid_if_match")), "{method} {path}: {problem}");
        }
        if operation["requestBody"].is_null() {
            for (body, status, pointer) in [
                ("{\"x\":1}", 422, "/x"),
                ("\"junk\"", 422, ""),
                ("[1]", 422, ""),
                ("[]", 422, ""),
                ("null", 422, ""),
                ("{bad", 400, ""),
                ("{} {}", 400, ""),
            ] {
                let (found, problem) = world.raw(&method, &path, body).await;
                let at = &problem["errors"][0]["pointer"];
                assert_eq!((found, at), (status, &json!(pointer)), "{method} {path} {body}: {problem}");
            }
        }
    }
    assert_eq!(world.get("/v2/state?secrets=true").await, before);
}

/// An order to do something with what [`fill`] made, for each POST that has a condition.
fn orders() -> Vec<(&'static str, Value)> {
    vec![
        ("/v2/credentials/red-app/rotate", json!({})),
        ("/v2/operators/anna/rotate", json!({})),
        ("/v2/domains/red.example/check", json!({})),
        ("/v2/domains/red.example/keys", json!({ "algorithm": "rsa-sha256" })),
        ("/v2/domains/red.example/keys/rotate", json!({})),
        ("/v2/domains/red.example/keys/pr3e/sign", json!({})),
        ("/v2/domains/red.example/keys/pr3e/retire", json!({})),
        ("/v2/routes", json!({ "domain": "*", "port": 26 })),
        ("/v2/suspensions", json!({ "site": "slow.example", "reason": "another" })),
        ("/v2/suppressions", json!({ "address": "a@b.example", "reason": "another" })),
        ("/v2/hosts/mx1/drain", json!({})),
        ("/v2/hosts/mx1/resume", json!({})),
        ("/v2/hosts/mx1/forget", json!({})),
    ]
}

/// POSTs that make something, or whose subject is no state that could be read before.
const WITHOUT_CONDITION: [&str; 20] = [
    "/v2/credentials",
    "/v2/domains",
    "/v2/jobs/{id}/bounce",
    "/v2/jobs/{id}/cancel",
    "/v2/listeners",
    "/v2/master-key/rotate",
    "/v2/operators",
    "/v2/pools",
    "/v2/providers",
    "/v2/quarantine/{job}/drop",
    "/v2/quarantine/{job}/release",
    "/v2/queue/retry",
    "/v2/regions",
    "/v2/retry-policies",
    "/v2/routing-rules",
    "/v2/shaping-rules",
    "/v2/sources",
    "/v2/state/plan",
    "/v2/tenants",
    "/v2/tls-rules",
];

/// Whether `path` is `pattern` with names for its parameters.
fn is_of(path: &str, pattern: &str) -> bool {
    let (path, pattern): (Vec<_>, Vec<_>) = (path.split('/').collect(), pattern.split('/').collect());
    path.len() == pattern.len() && path.iter().zip(&pattern).all(|(is, wanted)| is == wanted || wanted.starts_with('{'))
}

#[tokio::test]
async fn every_order_about_what_was_read_is_refused_where_it_has_changed() {
    let world = fleet(&["mx1"]).await;
    fill(&world).await;
    let suppression = json!({ "address": "a@b.example", "reason": "asked" });
    assert_eq!(world.operator("POST", "/v2/suppressions", suppression).await.0, 201);
    for (method, path, operation) in operations(&world).await {
        if method != "POST" {
            continue;
        }
        if WITHOUT_CONDITION.contains(&path.as_str()) {
            assert!(!declares(&operation, "If-Match"), "{path}");
            continue;
        }
        let known: Vec<_> = orders().into_iter().filter(|(order, _)| is_of(order, &path)).collect();
        let best = known.iter().find(|(order, _)| order.ends_with(path.rsplit('/').next().unwrap_or_default()));
        let (order, body) = best.unwrap_or_else(|| panic!("orders() has no {path}, and it is not WITHOUT_CONDITION"));
        let before = world.get("/v2/state?secrets=true").await;
        let (status, now, problem) = world.guarded("Bearer po_token", "POST", order, "\"0\"", body.clone()).await;
        assert_eq!((status, &problem["code"]), (412, &json!("stale")), "{path}: {problem}");
        assert!(problem["difference"][0]["kind"].is_string(), "{path}: {problem}");
        assert!(!problem.to_string().contains("argon2id"), "{path}: {problem}");
        assert_eq!(world.get("/v2/state?secrets=true").await, before, "{path}");
        let thing = match *order {
            "/v2/routes" => "/v2/routes/*".to_owned(),
            "/v2/suspensions" => "/v2/suspensions/2".to_owned(),
            "/v2/suppressions" => "/v2/suppressions/a@b.example".to_owned(),
            about => about.split('/').take(4).collect::<Vec<_>>().join("/"),
        };
        let (_, tag, _) = world.guarded("Bearer po_token", "GET", &thing, "", Value::Null).await;
        assert_eq!(tag, now, "{path}");
        let (status, _, answer) = world.guarded("Bearer po_token", "POST", order, &tag, body.clone()).await;
        assert!(status != 412, "{path}: {answer}");
    }
    // What is not there is not as anybody has read it.
    for (path, body) in [
        ("/v2/routes", json!({ "domain": "new.example" })),
        ("/v2/suspensions", json!({ "site": "new.example", "reason": "" })),
        ("/v2/suppressions", json!({ "address": "new@b.example" })),
    ] {
        let (status, _, problem) = world.guarded("Bearer po_token", "POST", path, "\"0\"", body.clone()).await;
        assert_eq!(status, 404, "{path}: {problem}");
        let (status, _, made) = world.guarded("Bearer po_token", "POST", path, "", body).await;
        assert_eq!(status, 201, "{path}: {made}");
    }
}

/// Every document that differs from `document` in one array or object, which is something else: with its pointer.
fn mutations(document: &Value) -> Vec<(String, Value)> {
    let mut places = Vec::new();
    walk(document, &mut String::new(), &mut places);
    let mut mutated = Vec::new();
    for pointer in places {
        let is = document.pointer(&pointer).unwrap();
        let mut wrong = vec![json!("text"), json!(7), json!(true)];
        // Null as a whole is no body here.
        wrong.extend((!pointer.is_empty()).then_some(Value::Null));
        match is {
            Value::Object(fields) => {
                wrong.push(json!([]));
                wrong.push(fields.values().cloned().collect());
            }
            _ => wrong.push(json!({})),
        }
        for wrong in wrong {
            let mut document = document.clone();
            *document.pointer_mut(&pointer).unwrap() = wrong;
            mutated.push((pointer.clone(), document));
        }
    }
    mutated
}

fn walk(value: &Value, pointer: &mut String, places: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), field)).collect(),
        _ => return,
    };
    places.push(pointer.clone());
    for (name, value) in inner {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&name);
        walk(value, pointer, places);
        pointer.truncate(length);
    }
}

/// Asserts that `path` refuses what is wrong by its pointer; null may be as absence, where absence may be.
async fn refuse_mutations(world: &World, method: &str, path: &str, body: &Value) -> usize {
    let before = world.get("/v2/state").await;
    let mutations = mutations(body);
    for (pointer, wrong) in &mutations {
        let (status, _, answer) = world.guarded("Bearer po_token", method, path, "", wrong.clone()).await;
        if wrong.pointer(pointer).unwrap().is_null() {
            assert!([200, 422].contains(&status), "{method} {path} {pointer} {wrong}: {answer}");
            continue;
        }
        let found = (status, &answer["errors"][0]["pointer"]);
        assert_eq!(found, (422, &json!(pointer)), "{method} {path} {wrong}: {answer}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(!detail.contains("struct ") && !detail.contains(" line "), "{path} {wrong}: {detail}");
    }
    if !path.ends_with("/plan") {
        return mutations.len();
    }
    assert_eq!(world.get("/v2/state").await, before);
    mutations.len()
}

#[tokio::test]
async fn a_document_with_a_value_of_the_wrong_form_is_refused_by_its_pointer_in_every_kind() {
    let world = World::new();
    fill(&world).await;
    // Also what is left out where it is as by default.
    let mut document = world.get("/v2/state?secrets=true").await;
    let signed = document["domains"].as_array_mut().unwrap().iter_mut().find(|domain| domain["name"] == "red.example");
    signed.unwrap()["sealed_keys"][0]["stage"] = json!({ "state": "signing" });
    assert_eq!(document.as_object().unwrap().len(), 17);
    // In what is by names, any name may be.
    document.as_object_mut().unwrap().remove("numbers");
    assert_eq!(world.operator("POST", "/v2/state/plan", document.clone()).await.0, 200);
    let mut made = refuse_mutations(&world, "POST", "/v2/state/plan", &document).await;
    for (path, method, body, _) in changes() {
        made += refuse_mutations(&world, method, path, &body).await;
    }
    println!("{made} mutations");
    assert!(made > 400, "{made}");
}

#[tokio::test]
async fn a_refusal_says_in_our_words_what_is_wanted() {
    let world = World::new();
    for (path, body, pointer, detail) in [
        ("/v2/tenants", json!({}), "/name", "`name` is missing"),
        ("/v2/tenants", json!({ "name": 7 }), "/name", "a string is expected, not 7"),
        (
            "/v2/tenants",
            json!({ "name": "a", "weight": -1 }),
            "/weight",
            "a whole number of 0 or more is expected, not -1: Share among tenants when they compete, 1 to 1000; 1 by default.",
        ),
        (
            "/v2/tenants",
            json!({ "name": "a", "quota_per_day": 1e11 }),
            "/quota_per_day",
            "a whole number of 0 or more is expected, not 100000000000.0: Recipients a UTC day, over all hosts of a region, 0 to \
             100,000,000,000; no quota by default.",
        ),
        (
            "/v2/pools",
            json!({ "name": "px", "members": [["default", 3]] }),
            "/members/0",
            "an object is expected, not an array",
        ),
        ("/v2/pools", json!({ "name": "px", "members": [{}] }), "/members/0/source", "`source` is missing"),
    ] {
        let (status, problem) = world.operator("POST", path, body.clone()).await;
        let error = &problem["errors"][0];
        assert_eq!((status, &error["pointer"], &error["detail"]), (422, &json!(pointer), &json!(detail)), "{body}");
    }
    for (path, detail) in [
        ("/v2/tenants?limit=x", "limit is a whole number, and not so large a one"),
        ("/v2/tenants?limit=99999999999", "limit is a whole number, and not so large a one"),
        ("/v2/state?secrets=maybe", "secrets is true or false"),
        ("/v2/explain?from=a.example", "`to` is missing"),
        ("/v2/tenants?limit=1&limit=2", "`limit` is there twice"),
    ] {
        let (status, problem) = world.operator("GET", path, Value::Null).await;
        assert_eq!((status, &problem["detail"]), (400, &json!(detail)), "{path}");
    }
}

/// Cursors that no page tells, or not of every list.
fn cursors() -> Vec<String> {
    let numbers = [i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX, u64::from(u32::MAX) + 1, u64::from(u16::MAX) + 1];
    let numbers = numbers.map(|number| number.to_string()).into_iter();
    let texts = [
        "",
        "-1",
        "%00",
        "1:%00",
        "1:a%00@b.example",
        "%01",
        "x",
        ":",
        "1:",
        "4294967296:a@b.example",
        "0:a@b.example",
        "%ff",
        "18446744073709551616",
        "1.5",
        "%27%22%3b--",
        "1:%f0%9f%92%a9",
        "18446744073709551615.x",
        "1.0",
    ];
    let long = [600, 6_000].map(|length| "9".repeat(length));
    numbers.chain(texts.map(str::to_owned)).chain(long).collect()
}

/// Asks every list for pages that cannot be; what it answered, by list and cursor.
async fn pages(world: &World) -> Vec<(String, u16)> {
    let mut answers = Vec::new();
    for (method, path, operation) in operations(world).await {
        if method != "GET" || !declares(&operation, "cursor") {
            continue;
        }
        let path = path.replace("{id}", &MessageId::from_bits(7).to_string());
        for cursor in cursors() {
            let path = format!("{path}?cursor={cursor}");
            let (status, body) = world.operator("GET", &path, Value::Null).await;
            // The world has no data plane to ask.
            let is_away = status == 502 && path.starts_with("/v2/quarantine");
            assert!([200, 400].contains(&status) || is_away, "{path}: {status} {body}");
            if status == 400 {
                assert_eq!(body["code"], "invalid_query", "{path}: {body}");
            }
            answers.push((path, status));
        }
        for limit in ["0", "-1", "1001", "4294967296", "18446744073709551616", "", "x", "1.5", "%00"] {
            let (status, body) = world.operator("GET", &format!("{path}?limit={limit}"), Value::Null).await;
            assert_eq!((status, &body["code"]), (400, &json!("invalid_query")), "{path} {limit}: {body}");
        }
    }
    answers
}

#[test]
fn a_page_that_cannot_be_is_refused_alike_on_either_ledger() {
    let counterpart = Counterpart::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut answers = Vec::new();
    for on_postgres in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
        let ledger: Arc<dyn Ledger> = if on_postgres {
            Arc::new(PostgresLedger::open(&counterpart.address(), 7).unwrap())
        } else {
            Arc::new(SqliteLedger::open(&folder.path().join("ledger.db")).unwrap())
        };
        let world = World::with(folder, store, ledger);
        world.record(vec![event(EventKind::Accepted, 7, 1, 10)]);
        answers.push(runtime.block_on(impossible(&world)));
    }
    assert!(answers[0].len() > 300, "{}", answers[0].len());
    assert_eq!(answers[0], answers[1]);
}

/// Asks for what cannot be, then for [`pages`] of it.
async fn impossible(world: &World) -> Vec<(String, u16)> {
    let suppression = json!({ "address": "a@b.example" });
    assert_eq!(world.operator("POST", "/v2/suppressions", suppression).await.0, 201);
    for path in ["/v2/audit?cursor=9223372036854775808", "/v2/suppressions?cursor=%00", "/v2/events?cursor=x"] {
        assert_eq!(world.operator("GET", path, Value::Null).await.0, 400, "{path}");
    }
    for path in ["/v2/suppressions/a%00@b.example", "/v2/jobs/%00", "/v2/trace/%00.1", "/v2/tenants/%00"] {
        let (status, body) = world.operator("GET", path, Value::Null).await;
        assert!([404, 422].contains(&status), "{path}: {status} {body}");
    }
    for path in ["/v2/tenants/%ff", "/v2/domains/%ff/keys/%ff", "/v2/suppressions/%ff", "/v2/jobs/%ff"] {
        let method = if path.contains("keys") { "DELETE" } else { "GET" };
        let (status, body) = world.operator(method, path, Value::Null).await;
        assert_eq!((status, &body["code"]), (400, &json!("invalid_path")), "{path}: {body}");
    }
    pages(world).await
}

#[tokio::test]
async fn a_domain_is_found_by_any_form_of_its_name() {
    let world = World::new();
    fill(&world).await;
    let sharp = json!({ "name": "Straße.example", "verification": "operator" });
    let (_, made) = world.operator("POST", "/v2/domains", sharp).await;
    assert_eq!(made["name"], "xn--strae-oqa.example");
    let selector = made["keys"][0]["selector"].as_str().unwrap().to_uppercase();
    let retire = format!("/v2/domains/STRA%C3%9FE.example/keys/{selector}/retire");
    let route = json!({ "domain": "BÜCHER.example", "routing_domain": "relay.example" });
    assert_eq!(world.operator("POST", "/v2/routes", route).await.0, 201);
    for (path, name) in [
        ("/v2/domains/Stra%C3%9Fe.example", "xn--strae-oqa.example"),
        ("/v2/domains/XN--STRAE-OQA.example.", "xn--strae-oqa.example"),
        ("/v2/domains/Sender.Example", "sender.example"),
        ("/v2/domains/sender.example.", "sender.example"),
    ] {
        assert_eq!(world.get(path).await["name"], name, "{path}");
    }
    assert_eq!(world.get("/v2/routes/B%C3%9CCHER.example.").await["domain"], "xn--bcher-kva.example");
    assert_eq!(world.get("/v2/routes/*").await["domain"], "*");
    for path in ["/v2/domains/a..b", "/v2/domains/%20", "/v2/routes/a..b"] {
        assert_eq!(world.operator("GET", path, Value::Null).await.0, 404, "{path}");
    }
    for (method, path, status) in [
        ("POST", "/v2/domains/STRA%C3%9FE.example/check", 200),
        ("PATCH", "/v2/domains/STRA%C3%9FE.example", 200),
        ("POST", retire.as_str(), 200),
        ("DELETE", "/v2/domains/STRA%C3%9FE.example", 204),
        ("DELETE", "/v2/routes/b%C3%BCcher.EXAMPLE", 204),
    ] {
        let body = if method == "PATCH" { json!({ "pool": "default" }) } else { Value::Null };
        let (found, answer) = world.operator(method, path, body).await;
        assert_eq!(found, status, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn findings_are_paged_and_counted_and_a_plan_tells_only_its_own() {
    let world = World::new();
    let region = json!({ "name": "eu", "submission_host": "mail.eu.example" });
    let tenants: Vec<_> =
        (0..300).map(|n| json!({ "name": format!("t{n}") })).chain([json!({ "name": "default" })]).collect();
    let document = json!({ "regions": [region], "tenants": tenants });
    let (status, plan) = world.operator("POST", "/v2/state/plan", document.clone()).await;
    assert_eq!(status, 200, "{plan}");
    let without = |list: &Value| {
        let found = list.as_array().unwrap().iter().filter(|problem| problem["code"] == "tenant_without_region");
        found.map(|problem| problem["detail"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let told = without(&plan["problems"]);
    assert!(told.len() == 1 && told[0].starts_with("default and 300 more have no region"), "{plan}");
    let (status, ..) = world.guarded("Bearer po_token", "PUT", "/v2/state", "*", document.clone()).await;
    assert_eq!(status, 200);
    let all = world.get("/v2/problems").await;
    let total = all["items"].as_array().unwrap().len();
    assert_eq!((&all["total"], &all["next_cursor"]), (&json!(total), &Value::Null), "{all}");
    assert!(total >= 2, "{all}");
    let (mut seen, mut path) = (Vec::new(), "/v2/problems?limit=1".to_owned());
    for _ in 0..total {
        let page = world.get(&path).await;
        assert_eq!((page["items"].as_array().unwrap().len(), &page["total"]), (1, &json!(total)));
        seen.push(page["items"][0].clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v2/problems?limit=1&cursor={cursor}");
    }
    assert_eq!(json!(seen), all["items"]);
    // What hosts do not listen on is asked of them, and in no plan.
    let asked =
        all["items"].as_array().unwrap().iter().filter(|problem| problem["code"] == "listeners_unknown").count();
    let (_, plan) = world.operator("POST", "/v2/state/plan", json!({ "routes": [{ "domain": "a.example" }] })).await;
    assert_eq!((&plan["problems"], &plan["problems_before"]), (&json!([]), &json!(total - asked)), "{plan}");
}
