//! What of a tenant's quota is used up, as it is told.

use postrail_schema::day::Day;

use super::*;
use crate::app::now_ms;

#[tokio::test]
async fn what_of_a_quota_is_used_up_is_told_to_operators_and_to_the_tenant_itself() {
    let world = World::new();
    let (red, blue) = (world.tenant("red").await, world.tenant("blue").await);
    world.operator("PATCH", "/v2/tenants/red", json!({ "quota_per_day": 5 })).await;
    let now = now_ms();
    let accepted = |message, tenant, at_ms| event(EventKind::Accepted, message, tenant, at_ms);
    world.record(vec![
        accepted(7, 2, now),
        event(EventKind::Delivered, 7, 2, now),
        accepted(8, 2, now),
        accepted(9, 2, now - 2 * 86_400_000),
        accepted(10, 3, now),
    ]);
    let day = Day::of_ms(now).to_string();
    let told = |quota: Value, used: u64, host: Value| json!({ "day": day, "quota_per_day": quota, "used": used, "hosts": [{ "host": host, "used": used }] });
    assert_eq!(world.get("/v2/tenants/red/quota").await, told(json!(5), 2, Value::Null));
    assert_eq!(world.get("/v2/tenants/blue/quota").await, told(Value::Null, 1, Value::Null));
    assert_eq!(world.call(&red, "GET", "/v2/tenants/red/quota", Value::Null).await.1["used"], 2);
    assert_eq!(world.call(&blue, "GET", "/v2/tenants/red/quota", Value::Null).await.0, 404);
    assert_eq!(world.operator("GET", "/v2/tenants/nobody/quota", Value::Null).await.0, 404);
    let nothing = json!({ "day": day, "quota_per_day": null, "used": 0, "hosts": [] });
    assert_eq!(world.get("/v2/tenants/default/quota").await, nothing);

    // In a fleet hosts have names, while they run.
    let running = HostClient { name: "mta-1".into(), ..world.app.hosts.all()[0].clone() };
    world.app.hosts.set(vec![running]);
    let elsewhere = JournalId { host: HostId(9), shard: ShardId(0) };
    let batch = Batch::of(&[accepted(11, 2, now)], 1);
    world.app.ledger.record(elsewhere, Cursor::default(), &batch, Cursor { segment: 0, offset: 1 }).unwrap();
    let hosts = json!([{ "host": null, "used": 1 }, { "host": "mta-1", "used": 2 }]);
    let used = world.get("/v2/tenants/red/quota").await;
    assert_eq!((&used["used"], &used["hosts"]), (&json!(3), &hosts));
}

#[tokio::test]
async fn a_quota_has_a_bound_that_its_description_says_and_a_refusal_names() {
    const MOST: u64 = 100_000_000_000;
    let world = World::new();
    for (quota, status) in [(json!(MOST), 201), (json!(0), 201), (json!(MOST + 1), 422), (json!(u64::MAX), 422)] {
        let name = format!("t{quota}");
        let body = json!({ "name": name, "quota_per_day": quota });
        let made = world.operator("POST", "/v2/tenants", body.clone()).await;
        assert_eq!(made.0, status, "{}", made.1);
        let changed = world.operator("PATCH", "/v2/tenants/default", json!({ "quota_per_day": quota })).await;
        let document = json!({ "tenants": [{ "name": "default" }, body] });
        let planned = world.operator("POST", "/v2/state/plan", document).await;
        let pointers = [("", &made), ("", &changed), ("/tenants/1", &planned)];
        for (at, (answer, told)) in pointers.into_iter().filter(|_| status == 422) {
            let error = &told["errors"][0];
            assert_eq!((*answer, &error["pointer"]), (422, &json!(format!("{at}/quota_per_day"))), "{told}");
            assert!(error["detail"].as_str().unwrap().contains("0 to 100000000000 recipients"), "{told}");
        }
    }
    let description = world.get("/openapi.json").await;
    for schema in ["TenantBody", "TenantPatch", "TenantEntry"] {
        let field = &description["components"]["schemas"][schema]["properties"]["quota_per_day"]["description"];
        assert!(field.as_str().unwrap().contains("100,000,000,000"), "{schema}: {field}");
    }
}
