//! `/v2/listeners`: where hosts take submissions; and `/v2/listening`: what they listen on now. The operator's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use postrail_schema::access::Network;
use postrail_schema::listener::{Listener, ListenerProtocol, ListenerTls};
use postrail_schema::tls::TlsVersion;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::extract::{Body, IfMatch, Operator, Path, Tagged};
use super::page::{Listing, Page, PageParams};
use super::problem::ProblemDocument;
use super::resource::{Resource, shown, unless_default};
use crate::app::{Listening, Unanswered};
use crate::plan::{Desired, ListenerEntry};

/// A listener but for its name, which is in the path.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerValue {
    /// `smtp`, `smtps` (TLS from the start) or `rest`.
    #[schema(value_type = String)]
    protocol: ListenerProtocol,
    /// Such as `0.0.0.0:587` or `[::]:587`; it must be on every host that has the listener.
    address: String,
    /// Hosts of the fleet by name; none: all.
    #[serde(default)]
    hosts: Vec<String>,
    /// Only hosts of this region have it.
    #[serde(default)]
    region: Option<String>,
    /// `off`, `offered` or `required`; `offered` by default, of smtps `required`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    tls: Option<ListenerTls>,
    /// The oldest version of TLS: `1.2`, by default, or `1.3`.
    #[serde(default, serialize_with = "unless_default")]
    #[schema(value_type = String, required = false)]
    minimum_version: TlsVersion,
    /// The host's files `certificates/NAME.pem` and `certificates/NAME.key` in its data folder; none: the host's own.
    #[serde(default)]
    certificate: Option<String>,
    /// Where clients may come from, such as `192.0.2.0/24`; none: anywhere.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    networks: Vec<Network>,
    /// Connections at once on each host, 1 to 1000000.
    #[serde(default)]
    connections: Option<u32>,
    /// Connections at once of one client on each host, 1 to 1000000.
    #[serde(default)]
    connections_per_client: Option<u32>,
    /// Octets of a message, 1024 to 20971520; of a REST body eight fifths of it.
    #[serde(default)]
    message_bytes_max: Option<u32>,
    /// Seconds that a client may say nothing, 10 to 3600; by default 300, of rest 60.
    #[serde(default)]
    idle_s: Option<u32>,
}

#[utoipa::path(get, path = "/v2/listeners", tag = "listeners", params(PageParams),
    responses((status = 200, body = Page<ListenerEntry>)))]
pub(crate) async fn list(State(shared): State<Shared>, _: Operator, listing: Listing) -> Json<Page<ListenerEntry>> {
    let desired = shared.app.desired();
    Json(listing.by_name(desired.listeners.values(), |found| &found.name, |found| found.view(&desired)))
}

#[utoipa::path(post, path = "/v2/listeners", tag = "listeners", request_body = ListenerEntry,
    responses((status = 201, body = ListenerEntry), (status = 409, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    _: Operator,
    Body(body): Body<ListenerEntry>,
) -> Result<(StatusCode, Tagged<ListenerEntry>), ProblemDocument> {
    shared.made(move |app| app.put_listener(&body, None)).await
}

#[utoipa::path(get, path = "/v2/listeners/{name}", tag = "listeners", params(("name" = String, Path)),
    responses((status = 200, body = ListenerEntry), (status = 404, body = ProblemDocument)))]
pub(crate) async fn show(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Tagged<ListenerEntry>, ProblemDocument> {
    let desired = shared.app.desired();
    shown(&desired, desired.listeners.get(&name), &name)
}

#[utoipa::path(put, path = "/v2/listeners/{name}", tag = "listeners", params(("name" = String, Path)),
    request_body = ListenerValue,
    responses((status = 200, body = ListenerEntry), (status = 404, body = ProblemDocument), (status = 422, body = ProblemDocument)))]
pub(crate) async fn replace(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
    Body(body): Body<ListenerValue>,
) -> Result<Tagged<ListenerEntry>, ProblemDocument> {
    let when = when.sending(&body);
    let entry = ListenerEntry {
        name,
        protocol: body.protocol,
        address: body.address,
        hosts: body.hosts,
        region: body.region,
        tls: body.tls,
        minimum_version: body.minimum_version,
        certificate: body.certificate,
        networks: body.networks,
        connections: body.connections,
        connections_per_client: body.connections_per_client,
        message_bytes_max: body.message_bytes_max,
        idle_s: body.idle_s,
    };
    shared.changed(move |app| app.put_listener(&entry, Some(&when))).await
}

/// Sessions of it finish their transaction and are told 421 4.3.2; a host that has no listener any more goes back to its
/// options.
#[utoipa::path(delete, path = "/v2/listeners/{name}", tag = "listeners", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemDocument)))]
pub(crate) async fn delete(
    State(shared): State<Shared>,
    _: Operator,
    Path(name): Path<String>,
    IfMatch(when): IfMatch,
) -> Result<StatusCode, ProblemDocument> {
    shared.removed(move |app| app.delete_listener(&name, &when)).await
}

/// What hosts listen on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListeningView {
    /// Each address that a host listens on or is to listen on: `host`, `listener` (empty: it is of the host's options),
    /// `protocol`, `address`, `is_open`, `connections` and `error`.
    items: Vec<Value>,
    /// Always null: there is one page.
    next_cursor: Option<String>,
    /// Hosts that run and did not answer.
    unanswered: Vec<Unanswered>,
}

/// Of all hosts that answer; those that do not are named, here and in `/v2/problems`.
#[utoipa::path(get, path = "/v2/listening", tag = "listeners", responses((status = 200, body = ListeningView)))]
pub(crate) async fn listening(State(shared): State<Shared>, _: Operator) -> Json<ListeningView> {
    let Listening { ports: items, unanswered } = shared.app.listening().await;
    Json(ListeningView { items, next_cursor: None, unanswered })
}

impl Resource for Listener {
    type View = ListenerEntry;
    type Entry = ListenerEntry;

    fn entry(&self, desired: &Desired) -> ListenerEntry {
        ListenerEntry::of(desired, self)
    }

    fn view(&self, desired: &Desired) -> ListenerEntry {
        self.entry(desired)
    }
}
