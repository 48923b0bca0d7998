//! Suppressions as data planes get them, and the limit of a tenant.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use postrail_schema::limits::{SUPPRESSIONS_MAX, SUPPRESSIONS_PER_TENANT_MAX};
use postrail_schema::snapshot::Suppression;
use postrail_schema::suppressions::{SuppressionDelta, SuppressionPoint, SuppressionTotal, Suppressions};
use postrail_schema::wire::decode_suppression_delta;
use rusqlite::Connection;

use super::state::Mortal;
use super::*;
use crate::app::SuppressionsAnswer;

impl World {
    async fn suppress(&self, address: &str) {
        let body = json!({ "address": address });
        assert_eq!(self.operator("POST", "/v2/suppressions?tenant=default", body).await.0, 201);
    }

    async fn unsuppress(&self, address: &str) {
        let path = format!("/v2/suppressions/{address}?tenant=default");
        assert_eq!(self.operator("DELETE", &path, Value::Null).await.0, 204);
    }

    fn suppressions(&self, has: Option<SuppressionPoint>) -> SuppressionsAnswer {
        self.app.suppressions_for(SuppressionsAsked { version: 0, has }).unwrap()
    }

    /// Does something to the ledger behind our back.
    fn by_hand(&self, statements: &str) {
        Connection::open(self._folder.path().join("ledger.db")).unwrap().execute_batch(statements).unwrap();
    }
}

fn whole(octets: &Bytes) -> Suppressions {
    decode_snapshot(octets).unwrap().suppressions.into_iter().collect()
}

fn addresses(suppressions: &[Suppression]) -> Vec<&str> {
    suppressions.iter().map(|one| one.address.as_str()).collect()
}

#[tokio::test]
async fn a_data_plane_is_told_what_has_changed_since_it_had_the_list_or_the_whole() {
    let world = World::new();
    for address in ["a@x.example", "b@x.example", "c@x.example"] {
        world.suppress(address).await;
    }
    let first = world.suppressions(None);
    let mut list = whole(&first.body);
    assert_eq!((first.since, first.total, list.total().count), (None, Some(list.total()), 3));
    // Nothing is compared before the rows were counted once.
    assert_eq!(world.suppressions(Some(first.at)).total, None);
    assert!(world.app.is_to_count_suppressions() && !world.app.is_to_count_suppressions(), "one counts");
    world.app.count_suppressions();
    assert!(!world.app.is_to_count_suppressions(), "not so soon again");

    world.suppress("d@x.example").await;
    world.unsuppress("a@x.example").await;
    world.unsuppress("d@x.example").await;
    let next = world.suppressions(Some(first.at));
    let delta = decode_suppression_delta(&next.body).unwrap();
    assert_eq!((addresses(&delta.added), addresses(&delta.removed)), (vec![], vec!["a@x.example", "d@x.example"]));
    assert_eq!((next.since, next.at.sequence), (Some(first.at.sequence), first.at.sequence + 3));
    assert!(next.version > first.version && next.body.len() < 1_024);
    list = list.with(&delta);
    assert_eq!(next.total, Some(list.total()));
    let none = world.suppressions(Some(next.at));
    assert_eq!(decode_suppression_delta(&none.body).unwrap(), SuppressionDelta::default());

    // Of another ledger, of what is not yet, and of what is forgotten, it cannot tell; nor is more told than the list has.
    let other = SuppressionPoint { ledger: next.at.ledger ^ 1, ..next.at };
    let ahead = SuppressionPoint { sequence: next.at.sequence + 2, ..next.at };
    world.unsuppress("b@x.example").await;
    for has in [other, ahead, first.at, SuppressionPoint { sequence: 0, ..next.at }] {
        let answer = world.suppressions(Some(has));
        assert_eq!((answer.since, whole(&answer.body).total().count), (None, 1), "{has}");
    }
}

#[tokio::test]
async fn a_mailbox_has_one_suppression_however_its_address_is_written() {
    let world = World::new();
    world.suppress("\"Gone\"@x.example").await;
    let path = "/v2/suppressions/%22g%5Cone%22@x.example?tenant=default";
    assert_eq!(world.get(path).await["address"], "gone@x.example");
    let (status, _) =
        world.operator("POST", "/v2/suppressions?tenant=default", json!({ "address": "GONE@x.example" })).await;
    assert_eq!(status, 200, "it is there");
    world.unsuppress("%22gone%22@x.example").await;
    assert_eq!(world.operator("GET", path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn whoever_can_be_sent_mail_can_be_suppressed_and_what_is_no_address_is_not_taken_for_one() {
    let world = World::new();
    let path = "/v2/suppressions?tenant=default";
    for (text, normal) in [
        ("user@[127.0.0.1]", "user@[127.0.0.1]"),
        ("User@[ipv6:2001:DB8::1]", "user@[IPv6:2001:db8::1]"),
        ("user@foo_bar.test", "user@foo_bar.test"),
        ("user@ab--shop.test.", "user@ab--shop.test"),
        ("\"odd one\"@receiver.test", "\"odd one\"@receiver.test"),
    ] {
        let (status, made) = world.operator("POST", path, json!({ "address": text })).await;
        assert_eq!((status, &made["address"]), (201, &json!(normal)), "{text}: {made}");
    }
    for text in [
        "mailto:bob@receiver.test",
        "a b@receiver.test",
        "Gone Person <g@receiver.test",
        "<g@receiver.test>",
        "a@b@receiver.test",
        "g@receiver..test",
        "receiver.test",
    ] {
        let (status, problem) = world.operator("POST", path, json!({ "address": text })).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/address")), "{text}: {problem}");
    }
}

#[tokio::test]
async fn a_suppression_that_an_earlier_version_wrote_in_another_form_holds_and_is_found_and_removed_by_any() {
    let world = World::new();
    world.by_hand("INSERT INTO suppressions VALUES (1, '\"gone\"@x.example', 'left', 5), (1, 'a b@x.example', '', 5)");
    let list = whole(&world.suppressions(None).body);
    for address in ["gone@x.example", "\"a b\"@x.example"] {
        assert!(list.contains(TenantId(1), address), "{address}");
    }
    let path = "/v2/suppressions/gone@x.example?tenant=default";
    assert_eq!(world.get(path).await["address"], "\"gone\"@x.example", "as the ledger has it");
    assert_eq!(
        world.operator("PUT", path, json!({ "reason": "again" })).await.0,
        200,
        "it is renewed, and not a second"
    );
    // One that was given both forms before has one suppression for who removes it.
    world.by_hand("INSERT INTO suppressions VALUES (1, 'gone@x.example', '', 6)");
    world.unsuppress("gone@x.example").await;
    world.unsuppress("a%20b@x.example").await;
    assert_eq!(whole(&world.suppressions(None).body).total().count, 0);
}

#[tokio::test]
async fn what_was_not_noted_of_suppressions_is_found_by_counting_and_everyone_gets_the_whole_list() {
    let world = World::new();
    world.suppress("a@x.example").await;
    world.suppress("b@x.example").await;
    world.app.count_suppressions();
    let first = world.suppressions(None);
    let triggers = "DROP TRIGGER suppression_added; DROP TRIGGER suppression_removed;";
    // As many as before, but others.
    let others = "UPDATE suppressions SET address = 'z@x.example' WHERE address = 'a@x.example';";
    let fewer = "DELETE FROM suppressions WHERE address = 'b@x.example';";
    let mut at = first.at;
    for (statements, left) in [(others.to_owned(), 2), (format!("{triggers} {fewer}"), 1)] {
        world.by_hand(&statements);
        assert_eq!(world.suppressions(Some(at)).since, Some(at.sequence), "nobody knows yet");
        let revision = world.app.revision();
        world.app.count_suppressions();
        assert_eq!(world.app.revision().0, revision.0 + 1, "it is announced");
        let answer = world.suppressions(Some(at));
        assert_eq!((answer.since, whole(&answer.body).total().count), (None, left));
        at = answer.at;
        world.app.count_suppressions();
        let total: Option<SuppressionTotal> = world.suppressions(Some(at)).total;
        assert_eq!(total, answer.total);
        let revision = world.app.revision();
        world.app.count_suppressions();
        assert_eq!(world.app.revision(), revision, "what is as it was noted is no news");
    }
}

#[tokio::test]
async fn hosts_that_take_the_whole_list_at_the_same_time_share_one() {
    let world = World::new();
    for n in 0..5 {
        world.suppress(&format!("{n}@x.example")).await;
    }
    let first = world.suppressions(None);
    let second = world.suppressions(None);
    assert_eq!(second.body.as_ptr(), first.body.as_ptr());
    // Whoever asks after a change has it.
    world.suppress("later@x.example").await;
    let third = world.suppressions(None);
    assert_eq!(whole(&third.body).total().count, 6);
    assert!(third.version > first.version);
    let delta = decode_suppression_delta(&world.suppressions(Some(first.at)).body).unwrap();
    assert_eq!(addresses(&delta.added), ["later@x.example"]);
}

#[tokio::test]
async fn a_tenant_is_told_its_own_limit_and_the_operator_of_the_limit_of_all() {
    let world = World::new();
    world.tenant("red").await;
    world.suppress("a@x.example").await;
    world.by_hand(&format!("UPDATE suppression_counts SET suppressions = {SUPPRESSIONS_PER_TENANT_MAX}"));
    let body = || json!({ "address": "b@x.example" });
    let (status, problem) = world.operator("POST", "/v2/suppressions?tenant=default", body()).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("the tenant has 500000 suppressions"), "{problem}");
    let (status, _) = world.operator("POST", "/v2/suppressions?tenant=red", body()).await;
    assert_eq!(status, 201, "others are not concerned");

    let told = |problems: &Value| {
        problems["items"].as_array().unwrap().iter().any(|item| item["code"] == "suppressions_near_limit")
    };
    assert!(!told(&world.get("/v2/problems").await));
    world.by_hand(&format!("UPDATE suppression_head SET suppressions = {}", SUPPRESSIONS_MAX * 9 / 10));
    assert!(told(&world.get("/v2/problems").await));
    world.by_hand(&format!("UPDATE suppression_head SET suppressions = {SUPPRESSIONS_MAX}"));
    let (status, problem) =
        world.operator("POST", "/v2/suppressions?tenant=red", json!({ "address": "c@x.example" })).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
    assert!(!problem["detail"].as_str().unwrap().contains(|letter: char| letter.is_ascii_digit()), "{problem}");
}

#[tokio::test]
async fn what_was_written_and_not_announced_is_announced_by_the_same_request_again_or_by_the_leader() {
    let folder = tempfile::tempdir().unwrap();
    let sound: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
    let mortal = Arc::new(Mortal { store: sound, is_dead: AtomicBool::new(false) });
    let world = World::on(folder, Arc::clone(&mortal) as Arc<dyn ConfigStore>);
    let version = || world.app.desired().head.suppressions;
    world.app.announce_changed_suppressions().unwrap();
    assert_eq!(version(), 0, "a first start has announced what there is");

    let add = || world.operator("POST", "/v2/suppressions", json!({ "address": "a@x.example" }));
    let remove = || world.operator("DELETE", "/v2/suppressions/a@x.example", Value::Null);
    let leader = async || (world.app.announce_changed_suppressions().map_or(503, |()| 0), Value::Null);
    let mut seen = version();
    for (write, again) in [(true, Some((true, 200))), (false, Some((false, 404))), (true, None), (false, None)] {
        mortal.is_dead.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            let answer = if write { add().await } else { remove().await };
            assert_eq!((answer.0, version()), (503, seen), "{}", answer.1);
        }
        assert_eq!(leader().await.0, 503);
        mortal.is_dead.store(false, Ordering::Relaxed);
        let (answer, wanted) = match again {
            Some((true, wanted)) => (add().await, wanted),
            Some((false, wanted)) => (remove().await, wanted),
            None => (leader().await, 0),
        };
        assert_eq!(answer.0, wanted, "{}", answer.1);
        assert!(version() > seen, "hosts are told");
        seen = version();
        assert_eq!((leader().await.0, version()), (0, seen), "what is announced is no news");
    }
}

#[tokio::test]
async fn a_tenant_is_not_removed_while_it_has_suppressions_and_those_of_one_that_is_gone_can_be_removed() {
    let world = World::new();
    for name in ["red", "blue"] {
        assert_eq!(world.operator("POST", "/v2/tenants", json!({ "name": name })).await.0, 201);
    }
    let path = |name: &str| format!("/v2/suppressions?tenant={name}");
    for (name, address) in [("red", "a@x.example"), ("red", "b@x.example"), ("blue", "a@x.example")] {
        assert_eq!(world.operator("POST", &path(name), json!({ "address": address })).await.0, 201);
    }
    let (status, problem) = world.operator("DELETE", "/v2/tenants/red", Value::Null).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("tenant red has 2 suppressions"), "{problem}");

    // Nor by a document that lacks it.
    let without = json!({ "tenants": [{ "name": "default" }, { "name": "blue" }] });
    let (_, plan) = world.operator("POST", "/v2/state/plan", without.clone()).await;
    let found = plan["problems"].as_array().unwrap().iter().find(|found| found["code"] == "tenant_has_suppressions");
    let found = found.map(|found| (found["severity"].clone(), found["subject"].clone()));
    assert_eq!(found, Some((json!("error"), json!("tenant/red"))), "{plan}");
    assert_eq!(plan["applicable"], false, "{plan}");
    let tag = plan["etag"].as_str().unwrap();
    let (status, _, problem) = world.guarded("Bearer po_token", "PUT", "/v2/state", tag, without).await;
    assert_eq!((status, world.app.tenant_id("red").is_ok()), (409, true), "{problem}");

    let id = world.app.tenant_id("red").unwrap();
    for name in ["red", "blue"] {
        let (status, refused) = world.operator("DELETE", "/v2/suppressions", Value::Null).await;
        assert_eq!(status, 422, "all of all tenants are not removed: {refused}");
        let count = if name == "red" { 2 } else { 1 };
        let removed = world.operator("DELETE", &path(name), Value::Null).await;
        assert_eq!(removed, (200, json!({ "removed": count })));
        assert_eq!(world.operator("DELETE", &format!("/v2/tenants/{name}"), Value::Null).await.0, 204);
    }
    // Of a tenant that was removed by an earlier version.
    world.by_hand(&format!(
        "INSERT INTO suppressions VALUES ({id}, 'a@x.example', '', 1), ({id}, 'b@x.example', '', 1)"
    ));
    let numbered = format!("/v2/suppressions?tenant_id={id}");
    let list = world.get(&numbered).await;
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][1]["tenant_id"]), (2, &json!(id.0)), "{list}");
    let both = world.operator("GET", &format!("{numbered}&tenant=default"), Value::Null).await;
    assert_eq!(both.0, 422, "{}", both.1);
    let version = world.app.desired().head.suppressions;
    assert_eq!(world.operator("DELETE", &numbered, Value::Null).await, (200, json!({ "removed": 2 })));
    assert!(world.app.desired().head.suppressions > version);
    let told = world.get("/v2/audit").await["items"][0]["detail"].to_string();
    assert!(told.contains(&format!("all 2 of tenant {id}, which is gone")), "{told}");
    assert_eq!(world.get(&numbered).await["items"], json!([]));
    let green = world.tenant("green").await;
    for method in ["GET", "DELETE"] {
        assert_eq!(world.call(&green, method, &numbered, Value::Null).await.0, 403, "{method}");
    }
}

#[tokio::test]
async fn an_address_that_is_named_in_the_wrong_region_is_in_no_record_there() {
    let world = World::new();
    for region in ["eu", "us"] {
        let made = json!({ "name": region, "submission_host": format!("mail.{region}.example") });
        assert_eq!(world.operator("POST", "/v2/regions", made).await.0, 201);
    }
    for (name, region) in [("blue", "us"), ("red", "eu")] {
        assert_eq!(world.operator("POST", "/v2/tenants", json!({ "name": name, "region": region })).await.0, 201);
    }
    let path = |query: &str| format!("/v2/suppressions/someone@x.example{query}");
    for (query, wanted) in [("?tenant=blue", 403), ("?tenant=blu", 404), ("?tenant=blue&x=1", 400)] {
        for (method, body) in [("PUT", json!({})), ("DELETE", Value::Null)] {
            let (status, problem) = world.operator(method, &path(query), body).await;
            assert_eq!(status, wanted, "{method} {query}: {problem}");
        }
    }
    let trail = world.get("/v2/audit").await.to_string();
    assert!(trail.contains("DELETE /v2/suppressions/(address)?tenant=blue") && !trail.contains("someone"), "{trail}");
    for query in ["?tenant=red", ""] {
        assert_eq!(world.operator("PUT", &path(query), json!({})).await.0, 201);
        let action = &world.get("/v2/audit").await["items"][0]["action"];
        assert_eq!(*action, json!(format!("PUT {}", path(query))));
    }
    let (status, problem) = world.operator("DELETE", "/v2/tenants/blue", Value::Null).await;
    assert_eq!(status, 204, "nobody knows of suppressions of a region without control planes: {problem}");
}
