//! What hosts are told, and when.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use postrail_schema::snapshot::Tenant;
use serde_json::{Value, json};

use super::*;
use crate::app::DataPlane;

const DAY: Day = Day(20_786);
const A: HostId = HostId(1);
const B: HostId = HostId(2);

/// Tenants 1 and 2 have a quota, 3 has none.
fn desired() -> Desired {
    let mut desired = Desired::default();
    for id in [1, 2, 3] {
        let tenant = Tenant {
            id: TenantId(id),
            name: format!("tenant-{id}"),
            quota_per_day: (id != 3).then_some(100),
            weight: 1,
            message_bytes_max: 4_096,
            region: None,
            reserved_per_s: None,
            quarantines: false,
        };
        desired.tenants.insert(tenant.id, tenant);
    }
    desired
}

fn today(counts: &[(u32, HostId, u64, u64)]) -> Today {
    let counts = counts.iter().map(|(tenant, host, recipients, sequence)| AcceptedCount {
        day: DAY,
        tenant: TenantId(*tenant),
        host: *host,
        recipients: *recipients,
        sequence: *sequence,
    });
    Today { day: DAY, ..Today::default() }.take(counts.collect())
}

/// What host A is to be told: tenant, its own and all others' recipients. Panics where it is left alone.
fn news(told: &mut Told, today: &Today, desired: &Desired) -> Vec<(u32, u64, u64)> {
    let news = told.news(today, A, desired).expect("news, or a question");
    news.tells.iter().map(|tell| (tell.tenant.0, tell.own, tell.others)).collect()
}

/// The same, answered by a process.
fn answered(told: &mut Told, today: &Today, desired: &Desired, start: &str, day: Day) -> Vec<(u32, u64, u64)> {
    let News { tells, up_to } = told.news(today, A, desired).expect("news, or a question");
    let is_all = told.answered(start.to_owned(), day, &tells);
    told.up_to = is_all.then_some(up_to);
    tells.iter().map(|tell| (tell.tenant.0, tell.own, tell.others)).collect()
}

#[test]
fn a_host_is_told_its_own_count_and_that_of_all_others_where_there_is_a_quota() {
    let today = today(&[(1, A, 5, 1), (1, B, 7, 2), (1, HostId(3), 1, 3), (2, B, 4, 4), (3, A, 9, 5)]);
    assert_eq!(news(&mut Told::default(), &today, &desired()), [(1, 5, 8), (2, 0, 4)]);
    let of_b: Vec<_> = today.quotas(B, &desired(), 0).map(|tell| (tell.tenant.0, tell.own, tell.others)).collect();
    assert_eq!(of_b, [(1, 7, 6), (2, 4, 0)]);
}

#[test]
fn what_was_answered_is_told_again_only_when_it_has_grown() {
    let (desired, mut told) = (desired(), Told::default());
    let counts = today(&[(1, A, 5, 1), (2, B, 4, 2)]);
    assert_eq!(answered(&mut told, &counts, &desired, "one", DAY), [(1, 5, 0), (2, 0, 4)]);
    assert_eq!(answered(&mut told, &counts, &desired, "one", DAY), [], "it is asked whether it still is that one");
    let grown = today(&[(1, A, 5, 1), (2, B, 4, 2), (2, B, 6, 3)]);
    assert_eq!(news(&mut told, &grown, &desired), [(2, 0, 6)]);
    assert_eq!(answered(&mut told, &grown, &desired, "one", DAY), [(2, 0, 6)], "what it did not answer is told again");
    assert_eq!(news(&mut told, &grown, &desired), []);
}

#[test]
fn a_host_that_was_started_anew_is_told_everything_and_another_day_begins_with_nothing() {
    let (desired, mut told) = (desired(), Told::default());
    let counts = today(&[(1, A, 5, 1), (2, B, 4, 2)]);
    let all = [(1, 5, 0), (2, 0, 4)];
    answered(&mut told, &counts, &desired, "one", DAY);
    assert_eq!(answered(&mut told, &counts, &desired, "two", DAY), [], "it was asked, and is another one");
    // A host whose day is still another has no use for what it is told.
    assert_eq!(answered(&mut told, &counts, &desired, "two", DAY.before()), all);
    assert_eq!(answered(&mut told, &counts, &desired, "two", DAY), all);
    assert_eq!(news(&mut told, &counts, &desired), []);
    let next = Today { day: Day(DAY.0 + 1), ..Today::default() };
    assert!(told.news(&next, A, &desired).is_none(), "nothing was accepted yet");
}

#[test]
fn a_quota_that_a_tenant_gets_is_told_though_nothing_was_accepted_since() {
    let (mut desired, mut told) = (desired(), Told::default());
    let counts = today(&[(1, A, 5, 1), (3, B, 9, 2)]);
    answered(&mut told, &counts, &desired, "one", DAY);
    desired.head.revision = Revision(7);
    let tenant = Tenant { quota_per_day: Some(10), ..desired.tenants[&TenantId(3)].clone() };
    desired.tenants.insert(tenant.id, tenant);
    assert_eq!(news(&mut told, &counts, &desired), [(3, 0, 9)]);
}

#[test]
fn a_request_names_a_bounded_number_of_tenants_and_one_without_any_is_made() {
    let tell = |id: usize| QuotaTell { tenant: TenantId(id as u32), own: 1, others: 1 };
    let sizes = |count: usize| parts(&(0..count).map(tell).collect::<Vec<_>>()).map(<[_]>::len).collect::<Vec<_>>();
    assert_eq!(sizes(0), [0]);
    assert_eq!(sizes(QUOTA_TELLS_MAX), [QUOTA_TELLS_MAX]);
    assert_eq!(sizes(2 * QUOTA_TELLS_MAX + 1), [QUOTA_TELLS_MAX, QUOTA_TELLS_MAX, 1]);
}

async fn listen(router: Router) -> HostClient {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = DataPlane::beside(&admin).unwrap();
    HostClient { name: "mta-1".into(), id: A, admin, master_keys: Vec::new(), client }
}

#[tokio::test]
async fn a_host_of_a_version_that_cannot_be_told_is_left_alone_and_one_that_is_away_is_not() {
    let (desired, counts) = (desired(), today(&[(1, A, 5, 1)]));
    let told_by = async |host| {
        let mut told = Told::default();
        let news = told.news(&counts, A, &desired).expect("news");
        told.tell(news, host).await.1
    };
    let mut earlier = told_by(listen(Router::new()).await).await;
    assert!(earlier.news(&counts, A, &desired).is_none());
    let gone = HostClient { client: DataPlane::beside("http://127.0.0.1:1").unwrap(), ..listen(Router::new()).await };
    assert_eq!(news(&mut told_by(gone).await, &counts, &desired), [(1, 5, 0)]);
}

#[tokio::test]
async fn who_answers_as_another_each_time_is_told_at_once_but_not_time_after_time() {
    let (desired, counts) = (desired(), today(&[(1, A, 5, 1)]));
    // Each answer is of another process.
    let answer = async |State(starts): State<Arc<AtomicU64>>, Json(body): Json<Value>| {
        let start = starts.fetch_add(1, Ordering::Relaxed);
        Json(json!({ "start": format!("{start:016x}"), "day": body["day"] }))
    };
    let host = listen(Router::new().route("/quotas", post(answer)).with_state(Arc::default())).await;
    let mut known = Told::default();
    let mut haste = Vec::new();
    for _ in 0..4 {
        let news = known.news(&counts, A, &desired).expect("news, or a question");
        known = known.tell(news, host.clone()).await.1;
        haste.push(known.is_in_haste);
    }
    assert_eq!(haste, [false, true, false, true]);
}
