//! `/v2/hosts`: the hosts of a fleet, which addresses they have and why, and orders about them; the operator's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use postrail_schema::allocation::{Carrier, Grant, HostName, Order, Standing, Tenure};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use crate::app::{Elsewhere, FleetSeen, HostSeen, HostStatus, Precondition, sources_of};
use crate::plan::{Desired, entity_tag};

/// A host.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HostView {
    name: String,
    /// `live`; `joining`: it waits until its predecessor's lease is over; `draining`, `drained`; `stopped`: it ended in
    /// order; `gone`: nothing was heard of it for a lease; `forgotten`.
    standing: &'static str,
    /// `drain`, `forget` or null.
    #[schema(value_type = Option<String>)]
    order: Option<Order>,
    /// How many addresses it has.
    addresses: usize,
    /// How many of them are asked back.
    leaving: usize,
    region: Option<String>,
    /// Its part of the load beside other hosts: the shards that send.
    share: u32,
    nics: Vec<String>,
    routed: bool,
    capabilities: Vec<String>,
    lease_ms: u64,
    /// Its admin listener, while it runs.
    admin: Option<String>,
    /// Of a host of another region: the control planes to ask for what follows, which is null here; null: it is of ours.
    elsewhere: Option<Elsewhere>,
    /// Recipients that wait there; null: it does not run, does not answer, or still reads its spool.
    waiting: Option<u64>,
    /// The revision that is in effect there; null as above, and of a host of an earlier version. One that stays below those of others
    /// has not got what was published since, or cannot read it: its log says why.
    revision: Option<u64>,
    /// Octets of its events that the ledger does not have yet; null as above.
    journal_unread_bytes: Option<u64>,
    /// Whether it accepts mail; null as above, and of a host of an earlier version, which does until it is stopped. One that is
    /// drained goes on to while no other host of its region would.
    takes_mail: Option<bool>,
    /// Submissions that are open there, and may be accepted yet; null as above.
    submissions: Option<u64>,
    /// It is drained, accepts no mail, nothing waits or is being submitted there, and the ledger has all that happened there.
    safe_to_stop: bool,
}

/// A host with its addresses.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HostDetail {
    #[serde(flatten)]
    host: HostView,
    held: Vec<HeldAddress>,
}

/// An address that a host has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldAddress {
    #[schema(value_type = String)]
    address: IpAddr,
    /// Grows with every grant of the installation.
    epoch: u64,
    /// `leased` or `fixed`.
    #[schema(value_type = String)]
    tenure: Tenure,
    /// `held` or `releasing`.
    #[schema(value_type = String)]
    state: Standing,
    /// For which host it is asked back.
    next: Option<String>,
    /// The interface that its source names.
    nic: Option<String>,
    routed: bool,
    sources: Vec<String>,
    /// Why it is here.
    because: String,
}

#[utoipa::path(get, path = "/v2/hosts", tag = "hosts", params(PageParams),
    responses((status = 200, body = Page<HostView>), (status = 503, body = ProblemDocument)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    _: Operator,
    listing: Listing,
) -> Result<Json<Page<HostView>>, ProblemDocument> {
    let seen = shared.run(|app| app.fleet()).await?;
    let statuses = shared.app.hosts.statuses().await;
    Ok(Json(listing.by_name(seen.hosts.iter(), |host| host.name.as_str(), |host| view(host, &statuses))))
}

#[utoipa::path(get, path = "/v2/hosts/{name}", tag = "hosts", params(("name" = String, Path)),
    responses((status = 200, body = HostDetail), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<HostDetail>, ProblemDocument> {
    let seen = shared.run(|app| app.fleet()).await?;
    detail(&shared, &seen, &name).await
}

/// Moves its addresses to other hosts, each after what is in flight on it, and then the mail that waits there; it gets no
/// addresses until `resume`, is not ready, and accepts no mail once its addresses have gone, ten seconds after the order at the
/// soonest. The last host of a region that accepts mail goes on to, which `/v2/problems` tells (`region_drained`).
/// `safe_to_stop` tells when nothing is left.
#[utoipa::path(post, path = "/v2/hosts/{name}/drain", tag = "hosts",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = HostDetail), (status = 404, body = ProblemDocument),
        (status = 409, body = ProblemDocument)))]
pub(crate) async fn drain(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<HostDetail>, ProblemDocument> {
    order(&shared, name, Some(Order::Drain), when).await
}

/// Takes `drain` or `forget` back: it may have addresses again.
#[utoipa::path(post, path = "/v2/hosts/{name}/resume", tag = "hosts",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = HostDetail), (status = 404, body = ProblemDocument)))]
pub(crate) async fn resume(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<HostDetail>, ProblemDocument> {
    order(&shared, name, None, when).await
}

/// Vouches that the host is off for good: also what is fixed to it is nobody's now. It then is no longer listed.
#[utoipa::path(post, path = "/v2/hosts/{name}/forget", tag = "hosts",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = HostDetail), (status = 404, body = ProblemDocument),
        (status = 409, body = ProblemDocument)))]
pub(crate) async fn forget(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<Tagged<HostDetail>, ProblemDocument> {
    order(&shared, name, Some(Order::Forget), when).await
}

async fn order(
    shared: &Shared,
    name: String,
    order: Option<Order>,
    when: Precondition,
) -> Result<Tagged<HostDetail>, ProblemDocument> {
    let (host, when) = (name.clone(), when.sending(&json!({ "order": order })));
    let seen = shared.run(move |app| app.order_host(&host, order, &when)).await?;
    detail(shared, &seen, &name).await
}

fn view(host: &HostSeen, statuses: &BTreeMap<String, HostStatus>) -> HostView {
    let status = statuses.get(host.name.as_str()).filter(|status| status.is_known);
    let is_empty = status.is_some_and(|status| {
        let is_closed = status.takes_mail != Some(true) && status.submissions.is_none_or(|open| open == 0);
        is_closed && status.waiting == 0 && status.journal_unread_bytes == 0
    });
    let said = host.record.as_ref().map(|record| record.announcement.clone()).unwrap_or_default();
    HostView {
        name: host.name.to_string(),
        standing: host.standing,
        order: host.order,
        addresses: host.grants.len(),
        leaving: host.grants.iter().filter(|grant| grant.standing == Standing::Releasing).count(),
        region: said.region,
        share: said.share,
        nics: said.nics.into_iter().collect(),
        routed: said.routed,
        capabilities: said.capabilities.into_iter().collect(),
        lease_ms: host.record.as_ref().map_or(0, |record| record.lease_ms),
        admin: host.admin.clone(),
        elsewhere: host.elsewhere.clone(),
        waiting: status.map(|status| status.waiting),
        revision: status.and_then(|status| status.revision),
        journal_unread_bytes: status.map(|status| status.journal_unread_bytes),
        takes_mail: status.and_then(|status| status.takes_mail),
        submissions: status.and_then(|status| status.submissions),
        safe_to_stop: host.standing == "drained" && is_empty,
    }
}

async fn detail(shared: &Shared, seen: &FleetSeen, name: &str) -> Result<Tagged<HostDetail>, ProblemDocument> {
    let (host, desired) = (seen.host(name)?, shared.app.desired());
    let held = host.grants.iter().map(|grant| held(&desired, seen, &host.name, grant)).collect();
    let view = view(host, &shared.app.hosts.statuses().await);
    Ok(Tagged(entity_tag(&host.ordered()), HostDetail { host: view, held }))
}

fn held(desired: &Desired, seen: &FleetSeen, host: &HostName, grant: &Grant) -> HeldAddress {
    HeldAddress {
        address: grant.address,
        epoch: grant.epoch,
        tenure: grant.tenure,
        state: grant.standing,
        next: grant.next.as_ref().map(HostName::to_string),
        nic: match &grant.carrier {
            Carrier::Nic(nic) => Some(nic.clone()),
            Carrier::HostChoice | Carrier::Routed => None,
        },
        routed: grant.carrier == Carrier::Routed,
        sources: sources_of(desired, grant.address).into_iter().map(str::to_owned).collect(),
        because: seen.because(grant.address, host),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_host_is_safe_to_stop_once_it_is_drained_accepts_no_mail_and_has_nothing_left() {
        let is_safe = |standing, status: Value| {
            let name = HostName::new("mx1").unwrap();
            let (order, record, admin, elsewhere) = (None, None, None, None);
            let host = HostSeen { name, standing, order, record, admin, elsewhere, grants: Vec::new() };
            view(&host, &BTreeMap::from([("mx1".to_owned(), serde_json::from_value(status).unwrap())])).safe_to_stop
        };
        // As hosts of earlier versions say it.
        let earlier = json!({"waiting": 0, "journal_unread_bytes": 0, "is_known": true});
        assert!(is_safe("drained", earlier.clone()), "it can say no more");
        let with = |key: &str, value: Value| {
            let mut status = earlier.clone();
            (status["takes_mail"], status["submissions"]) = (json!(false), json!(0));
            status[key] = value;
            status
        };
        let empty = with("waiting", json!(0));
        assert!(is_safe("drained", empty.clone()));
        assert!(!is_safe("draining", empty.clone()) && !is_safe("live", empty), "it may be given addresses");
        for (key, value) in [
            ("takes_mail", json!(true)),
            ("submissions", json!(1)),
            ("waiting", json!(1)),
            ("journal_unread_bytes", json!(1)),
            ("is_known", json!(false)),
        ] {
            assert!(!is_safe("drained", with(key, value)), "{key}");
        }
    }
}
