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
