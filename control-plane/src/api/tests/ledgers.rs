//! A control plane whose ledger is not that of its region.

use super::*;
use crate::app::{LedgerLook, LedgerUse, OtherLedger};

#[tokio::test]
async fn nothing_is_changed_into_a_ledger_that_is_not_the_regions() {
    let world = World::new();
    let other = LedgerUse {
        ledger: "b".into(),
        server: Some("10.0.0.9:5432/ledger".into()),
        file: None,
        host: "two".into(),
        api: "https://10.0.0.2:8081".into(),
        master_keys: Vec::new(),
    };
    let tenant = || json!({ "name": "blue" });
    world.app.set_ledger_look(LedgerLook::Other(OtherLedger::Kept(other.clone())));
    let trail = world.get("/v2/audit").await["items"].as_array().unwrap().len();
    let (status, problem) = world.operator("POST", "/v2/tenants", tenant()).await;
    assert_eq!((status, &problem["code"]), (503, &json!("other_ledger")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("ask it at https://10.0.0.2:8081"), "{problem}");
    assert_eq!(world.get("/v2/audit").await["items"].as_array().unwrap().len(), trail, "nor is it in the trail");
    assert_eq!(world.call("", "GET", "/readyz", Value::Null).await.0, 503);
    assert!(world.app.suppressions_for(ASKED).is_err(), "data planes do not take its suppressions");
    let found = |problems: Value, code: &str| {
        let items = problems["items"].as_array().unwrap().clone();
        items.into_iter().find(|one| one["code"] == code)
    };
    let problem = found(world.get("/v2/problems").await, "other_ledger").unwrap();
    assert_eq!((&problem["severity"], &problem["subject"]), (&json!("error"), &json!("region/eu")));

    world.app.set_ledger_look(LedgerLook::Ours { is_new: true, twin: None });
    assert_eq!(world.operator("POST", "/v2/tenants", tenant()).await.0, 201);
    assert_eq!(world.call("", "GET", "/readyz", Value::Null).await.0, 200);
    assert!(found(world.get("/v2/problems").await, "other_ledger").is_none());
    assert!(world.app.suppressions_for(ASKED).is_ok());

    // Where it is a copy of ours, it is told, and nothing is in its way.
    world.app.set_ledger_look(LedgerLook::Ours { is_new: false, twin: Some(other) });
    let problem = found(world.get("/v2/problems").await, "ledger_servers_differ").unwrap();
    assert_eq!((&problem["severity"], &problem["subject"]), (&json!("warning"), &json!("region/eu")));
    assert!(problem["detail"].as_str().unwrap().contains("keeps it in PostgreSQL at 10.0.0.9:5432/ledger"));
    assert_eq!(world.call("", "GET", "/readyz", Value::Null).await.0, 200);
}

#[tokio::test]
async fn who_stood_still_while_another_took_the_region_is_believed_nothing_before_it_has_looked() {
    let world = World::new();
    let own = LedgerUse {
        ledger: "a".into(),
        server: Some("db".into()),
        file: None,
        host: "one".into(),
        api: "https://10.0.0.1:8081".into(),
        master_keys: Vec::new(),
    };
    world.app.keeps_ledger(own);
    assert_eq!(world.operator("POST", "/v2/tenants", json!({ "name": "blue" })).await.0, 201);
    let last = br#"{"ledger":"b","place":"in PostgreSQL at other"}"#.to_vec();
    world.store.txn(&[], &[Write::Put { key: "ledger/eu".into(), value: last }]).unwrap();
    let (status, problem) = world.operator("POST", "/v2/tenants", json!({ "name": "green" })).await;
    assert_eq!((status, &problem["code"]), (503, &json!("other_ledger")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("it was in PostgreSQL at other"), "{problem}");
    assert!(world.app.suppressions_for(ASKED).is_err(), "data planes do not take its suppressions");
}

const ASKED: SuppressionsAsked = SuppressionsAsked { version: 0, has: None };
