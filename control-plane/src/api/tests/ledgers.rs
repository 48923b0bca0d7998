//! A control plane whose ledger is not that of its region.

use super::*;
use crate::app::LedgerUse;

#[tokio::test]
async fn nothing_is_changed_into_a_ledger_that_is_not_the_regions() {
    let world = World::new();
    let other = LedgerUse {
        ledger: "b".into(),
        server: Some("10.0.0.9:5432/ledger".into()),
        file: None,
        host: "two".into(),
        api: "https://10.0.0.2:8081".into(),
    };
    let tenant = || json!({ "name": "blue" });
    world.app.set_other_ledger(Some(other));
    let trail = world.get("/v2/audit").await["items"].as_array().unwrap().len();
    let (status, problem) = world.operator("POST", "/v2/tenants", tenant()).await;
    assert_eq!((status, &problem["code"]), (503, &json!("other_ledger")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("ask it at https://10.0.0.2:8081"), "{problem}");
    assert_eq!(world.get("/v2/audit").await["items"].as_array().unwrap().len(), trail, "nor is it in the trail");
    assert_eq!(world.call("", "GET", "/readyz", Value::Null).await.0, 503);
    assert!(world.app.suppression_list(0).is_err(), "data planes do not take its suppressions");
    let found = |problems: Value| {
        let items = problems["items"].as_array().unwrap().clone();
        items.into_iter().find(|one| one["code"] == "other_ledger")
    };
    let problem = found(world.get("/v2/problems").await).unwrap();
    assert_eq!((&problem["severity"], &problem["subject"]), (&json!("error"), &json!("region/eu")));

    world.app.set_other_ledger(None);
    assert_eq!(world.operator("POST", "/v2/tenants", tenant()).await.0, 201);
    assert_eq!(world.call("", "GET", "/readyz", Value::Null).await.0, 200);
    assert!(found(world.get("/v2/problems").await).is_none() && world.app.suppression_list(0).is_ok());
}
