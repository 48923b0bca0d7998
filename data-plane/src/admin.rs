//! The admin listener of a data plane: health, metrics, journal, queue and commands, for the control plane and for
//! monitoring. It runs on shard 0, asking the others by the mesh. On loopback it speaks plain HTTP; for others TLS, where
//! all but health and metrics want the certificate of a control plane, or for mail that moves here that of another data
//! plane. In a fleet on loopback that is a token instead.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz`, `/readyz` | 200, or 503 with the reason |
//! | `GET /metrics` | Prometheus text |
//! | `GET /shards` | `{"shards":N}` |
//! | `GET /journal?shard=&segment=&offset=&wait_ms=` | length-prefixed event buffers; `x-next-segment`, `x-next-offset` |
//! | `POST /journal/trim` | `{"shard":,"segment":,"offset":}`: the ledger holds all before |
//! | `GET /listeners` | what this host listens on, and what it cannot |
//! | `GET /status` | how many recipients wait, octets of events that the ledger does not have, whether that is known; how old the suppressions are |
//! | `GET /queue` | sites, what waits and why, by shard |
//! | `GET /quarantine?tenant=&after=&limit=` | jobs that wait for a person, the first to expire first; `total` of all |
//! | `POST /queue/retry` | `{}` or one of `site`, `domain`, `message` |
//! | `GET /messages/{id}` | what waits of one message |
//! | `POST /jobs/{id}/cancel`, `/jobs/{id}/bounce` | `{"recipients":N}`; 409 `being_moved` while another host may have it |
//! | `POST /quotas` | `{"day":,"tenants":[[id, own, others], …]}`: what the ledger counts; `{"start":,"day":}`: this process, its day |
//! | `POST /transfers` | a parcel of [`postrail_core::transfer::parcel`], from another host: its answer; 403 `forbidden` where it names another than who asks; 409 `stale` with `x-turn`; 503 `busy`, `refused` |

mod metrics;
mod quotas;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use futures_lite::future::or;
use futures_util::io::{AsyncRead, AsyncWrite};
use postrail_core::base::Timestamp;
use postrail_core::http::{Config, Method, Problem, Request, Response};
use postrail_core::shard::{Command, CommandTarget, Leaving, QuarantinePage, QuarantineQuery};
use postrail_core::transfer::parcel::Parcel;
use postrail_schema::allocation::HostName;
use postrail_schema::ids::{MessageId, ShardId, TenantId};
use postrail_schema::limits::{JOURNAL_PULL_BYTES_MAX, PAGE_RECORDS_MAX, TRANSFER_BYTES_MAX};
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use serde::Deserialize;

use crate::feed::Withheld;
use crate::http::{self, Handler};
use crate::journal::Cursor;
use crate::mesh::{Question, Reply, ShardStatus};
use crate::platform::{Listener, Net, Platform, Stream};
use crate::shard::Runtime;
use crate::tls::{Acceptor, MaybeTls};
use crate::transfer::Arrival;

/// The code of the problem by which `/readyz` says that intake refuses all mail until somebody does something about it.
pub const REFUSING: &str = "refusing";
/// Where data planes hand each other mail.
pub const TRANSFERS: &str = "/transfers";
/// Jobs in quarantine of one answer: a page of the control API, and one that says that more follow.
const QUARANTINE_PAGE_MAX: usize = PAGE_RECORDS_MAX as usize + 1;
/// Octets of the body of a request, but of a parcel.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest wait of a journal pull, milliseconds.
const WAIT_MS_MAX: u64 = 30_000;
/// How long a shard may take to say how it is: one that stands still keeps nobody waiting who asks after the others.
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections that the admin listener serves at once.
const CONNECTIONS_MAX: usize = 256;

/// How the listener knows who asks for more than health and metrics.
#[derive(Clone, Debug)]
pub enum AdminAccess {
    /// Plain HTTP on loopback, for every user of the host.
    Anyone,
    /// Plain HTTP on loopback, for who shows one of these.
    Tokens(Arc<[String]>),
    /// TLS, for hosts of the fleet; the configuration lets in no certificate but theirs.
    Certificate {
        tls: Arc<ServerConfig>,
        /// What the certificates of control planes are for; all others are data planes'.
        control_planes: ServerName<'static>,
        /// What those of data planes are for; that of a host's is for its name in front of this one, too.
        data_planes: ServerName<'static>,
    },
}

/// What who asks is, by the certificate that was shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asker {
    Unknown,
    DataPlane,
    ControlPlane,
}

impl Asker {
    fn of(access: &AdminAccess, shown: Option<&CertificateDer<'_>>) -> Self {
        let (AdminAccess::Certificate { control_planes, .. }, Some(shown)) = (access, shown) else {
            return Self::Unknown;
        };
        let certificate = ParsedCertificate::try_from(shown);
        match certificate.and_then(|certificate| verify_server_name(&certificate, control_planes)) {
            Ok(()) => Self::ControlPlane,
            Err(_) => Self::DataPlane,
        }
    }
}

/// Accepts until the node has drained: operators look while it drains, too.
pub async fn run<P: Platform>(
    runtime: Runtime<P>,
    listener: <P::Net as Net>::Listener,
    over: async_channel::Receiver<()>,
) {
    let platform = runtime.platform().clone();
    let acceptor = match &runtime.node().admin_access {
        AdminAccess::Certificate { tls, .. } => Some(Acceptor::new(Arc::clone(tls))),
        AdminAccess::Anyone | AdminAccess::Tokens(_) => None,
    };
    let connections = Rc::new(());
    let start = platform.entropy();
    loop {
        let accepted = or(async { Some(listener.accept().await) }, async {
            let _ = over.recv().await;
            None
        });
        match accepted.await {
            None => return,
            Some(Ok(stream)) => {
                if Rc::strong_count(&connections) > CONNECTIONS_MAX {
                    tracing::warn!(most = CONNECTIONS_MAX, "an admin connection over the limit was closed");
                    continue;
                }
                // Counted until its task is gone, also by a panic.
                let (runtime, counted, acceptor) = (runtime.clone(), Rc::clone(&connections), acceptor.clone());
                platform.spawn("admin connection", async move {
                    let _counted = counted;
                    if let Some(peer) = stream.peer() {
                        serve(runtime, stream, peer, acceptor.as_ref(), start).await;
                    }
                });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                platform.sleep_until(platform.now() + Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve<P, S>(runtime: Runtime<P>, stream: S, peer: SocketAddr, acceptor: Option<&Acceptor>, start: u64)
where
    P: Platform,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let platform = runtime.platform().clone();
    let mut stream = MaybeTls::Plain(stream);
    if let Some(acceptor) = acceptor {
        stream = match platform.timeout(HANDSHAKE_LIMIT, stream.accept(acceptor)).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return tracing::warn!(%peer, %error, "an admin connection was refused"),
            None => return,
        };
    }
    let shown = stream.client_certificate().cloned();
    let asker = Asker::of(&runtime.node().admin_access, shown.as_ref());
    http::serve(&platform, stream, peer, Config::new(TRANSFER_BYTES_MAX), &Admin { runtime, asker, shown, start })
        .await;
}

struct Admin<P: Platform> {
    runtime: Runtime<P>,
    asker: Asker,
    /// The certificate of who asks.
    shown: Option<CertificateDer<'static>>,
    /// Names this process: drawn when it began to listen.
    start: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trim {
    shard: u16,
    segment: u64,
    offset: u32,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Retry {
    site: Option<String>,
    domain: Option<String>,
    message: Option<String>,
}

/// Why what distributes submissions is to take the host out; the only one that would accept them it has to keep.
fn why_leaving(status: &ShardStatus) -> Option<&'static str> {
    match status.leaving {
        None | Some(Leaving::Alone) => None,
        Some(Leaving::Draining) => Some("it still accepts mail, and ends that once its addresses have gone"),
        Some(Leaving::Drained) => Some("it accepts no mail"),
    }
}

impl<P: Platform> Handler for Admin<P> {
    async fn answer(&self, request: Request, _peer: SocketAddr) -> Response {
        match self.route(&request).await {
            Ok(response) => response,
            Err(problem) => problem.to_response(),
        }
    }

    async fn admit(&self, head: &Request, _peer: SocketAddr) -> Option<Response> {
        self.check(head).err().map(|problem| problem.to_response())
    }

    /// Parcels of mail are counted; what else is asked here is small.
    fn hold(&self, before: usize, now: usize) -> bool {
        let counted = |bytes: usize| bytes.saturating_sub(BODY_BYTES_MAX);
        self.runtime.hold_parcel_bytes(counted(before), counted(now)) || counted(now) == 0
    }

    fn is_draining(&self) -> bool {
        false
    }
}

impl<P: Platform> Admin<P> {
    /// Whether who asks may ask this, and with so long a body, which may still be on its way.
    fn check(&self, head: &Request) -> Result<(), Problem> {
        if !matches!(head.path.trim_matches('/'), "healthz" | "readyz" | "metrics") {
            self.authorize(head)?;
        }
        let is_parcel = (head.method, head.path.as_str()) == (Method::Post, TRANSFERS);
        let bytes_max = if is_parcel { TRANSFER_BYTES_MAX } else { BODY_BYTES_MAX };
        if head.header("transfer-encoding").is_some() {
            return Err(Problem::new(411, "length_required", "a body is sent here with its Content-Length"));
        }
        let length = head.header("content-length").and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length > bytes_max) {
            let detail = format!("the body of such a request has at most {bytes_max} octets");
            return Err(Problem::new(413, "content_too_large", detail));
        }
        Ok(())
    }

    async fn route(&self, request: &Request) -> Result<Response, Problem> {
        self.check(request)?;
        let segments: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        match (request.method, segments.as_slice()) {
            (Method::Get, ["healthz"]) => Ok(Response::new(200, "text/plain", "ok\n")),
            (Method::Get, ["readyz"]) => self.ready().await,
            (Method::Get, ["metrics"]) => {
                let now = self.runtime.now().wall;
                let text = metrics::text(&self.statuses().await?, self.runtime.node(), now);
                Ok(Response::new(200, "text/plain; version=0.0.4", text))
            }
            (Method::Get, ["shards"]) => json(&serde_json::json!({ "shards": self.runtime.mesh().shards() })),
            (Method::Get, ["listeners"]) => json(&serde_json::json!({ "listeners": self.runtime.node().ports.view() })),
            (Method::Get, ["journal"]) => self.pull(&request.query).await,
            (Method::Post, ["journal", "trim"]) => self.trim(&request.body).await,
            (Method::Get, ["queue"]) => self.queue().await,
            (Method::Get, ["quarantine"]) => self.quarantine(&request.query).await,
            (Method::Get, ["status"]) => self.status().await,
            (Method::Post, ["queue", "retry"]) => self.retry(&request.body).await,
            (Method::Get, ["messages", id]) => self.message(id).await,
            (Method::Post, ["quotas"]) => {
                let day = quotas::tell(&self.runtime.node().usage, &request.body, self.runtime.now().wall)?;
                json(&serde_json::json!({ "start": format!("{:016x}", self.start), "day": day }))
            }
            (Method::Post, ["transfers"]) => self.take(&request.body).await,
            (Method::Post, ["jobs", id, "cancel"]) => self.command_one(id, Command::Cancel).await,
            (Method::Post, ["jobs", id, "bounce"]) => self.command_one(id, Command::Bounce).await,
            (Method::Post, ["quarantine", id, "release"]) => self.command_one(id, Command::Release).await,
            (Method::Post, ["quarantine", id, "drop"]) => self.command_one(id, Command::Drop).await,
            _ => Err(Problem::new(404, "not_found", format!("there is nothing at {}", request.path))),
        }
    }

    /// Whether who asks may ask this; the body may still be on its way.
    fn authorize(&self, request: &Request) -> Result<(), Problem> {
        let (is_allowed, detail) = match &self.runtime.node().admin_access {
            // Every user of the host: none of them submits mail in the name of others.
            AdminAccess::Anyone if request.path.trim_matches('/') == TRANSFERS.trim_matches('/') => {
                return Err(Problem::new(403, "forbidden", "this host is in no fleet: no other gives it mail"));
            }
            AdminAccess::Anyone => return Ok(()),
            AdminAccess::Tokens(tokens) => {
                let shown = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
                let shown = shown.unwrap_or_default().as_bytes();
                let is_one = |token: &String| verify_slices_are_equal(shown, token.as_bytes()).is_ok();
                (tokens.iter().any(is_one), "this is for hosts of the fleet")
            }
            AdminAccess::Certificate { .. } => match self.asker {
                Asker::ControlPlane => return Ok(()),
                Asker::DataPlane if request.method == Method::Post && request.path == TRANSFERS => return Ok(()),
                Asker::DataPlane => {
                    let detail = format!("data planes of the fleet may ask for {TRANSFERS} alone");
                    return Err(Problem::new(403, "forbidden", detail));
                }
                Asker::Unknown => (false, "this is for control planes of the fleet, which show their certificate"),
            },
        };
        if is_allowed { Ok(()) } else { Err(Problem::new(401, "unauthorized", detail)) }
    }

    async fn ask(&self, shard: ShardId, question: Question) -> Result<Reply, Problem> {
        let answer = self.runtime.mesh().ask(shard, question).await;
        answer.ok_or_else(|| Problem::new(503, "shard_gone", format!("shard {shard} does not answer")))
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<P> {
        (0..self.runtime.mesh().shards() as u16).map(ShardId)
    }

    async fn statuses(&self) -> Result<Vec<ShardStatus>, Problem> {
        let mut statuses = Vec::new();
        for shard in self.shards() {
            match self.runtime.platform().timeout(STATUS_LIMIT, self.ask(shard, Question::Status)).await {
                Some(Ok(Reply::Status(status))) => statuses.push(*status),
                Some(Ok(_)) => return Err(mismatch()),
                // A shard that has drained; the others still tell what they do.
                Some(Err(_)) => {}
                None => tracing::warn!(%shard, "a shard does not say how it is"),
            }
        }
        Ok(statuses)
    }

    async fn ready(&self) -> Result<Response, Problem> {
        if let Some(withheld) = self.runtime.withheld() {
            return Err(Problem::new(503, "not_ready", withheld.why()));
        }
        let statuses = self.statuses().await?;
        let missing = self.shards().find(|shard| !statuses.iter().any(|status| status.shard == shard.0));
        if let Some(shard) = missing {
            let detail = match self.runtime.mesh().has_ended(shard) {
                true => "draining: a shard has ended".to_owned(),
                false => format!("shard {shard} does not answer within {} s", STATUS_LIMIT.as_secs()),
            };
            return Err(Problem::new(503, "not_ready", detail));
        }
        for status in &statuses {
            let (code, why) = if status.draining {
                ("not_ready", "draining".to_owned())
            } else if status.revision == 0 {
                ("not_ready", "no configuration has been published yet".to_owned())
            } else if let Some(why) = &status.refusing {
                (REFUSING, why.clone())
            } else {
                continue;
            };
            return Err(Problem::new(503, code, format!("shard {}: {why}", status.shard)));
        }
        if let Some(why) = statuses.iter().find_map(why_leaving) {
            let detail = format!("drained by an operator's order: {why} (`postrail host resume` takes that back)");
            return Err(Problem::new(503, "not_ready", detail));
        }
        Ok(Response::new(200, "text/plain", format!("ready\n{}\n", self.freshness())))
    }

    /// What is in effect, and how old the word of the configuration store is.
    fn freshness(&self) -> String {
        let feed = &self.runtime.node().feed;
        let (revision, seen) = (self.runtime.snapshot().revision.0, feed.revision_seen());
        let mut text = format!("revision {revision} in effect");
        if seen != revision {
            let _ = write!(text, ", {seen} published");
        }
        if feed.suppressions_behind() {
            text.push_str(", newer suppressions are not here yet");
        }
        let now = self.runtime.platform().timestamp().unix_ms();
        let _ = match (feed.is_connected(), feed.heard_ms()) {
            (true, heard) => write!(text, ", configuration heard {} ms ago", now.saturating_sub(heard)),
            (false, 0) => write!(text, ", configuration not heard since the start"),
            (false, heard) => write!(text, ", configuration out of reach for {} ms", now.saturating_sub(heard)),
        };
        text
    }

    async fn pull(&self, query: &str) -> Result<Response, Problem> {
        let (mut shard, mut cursor, mut wait_ms) = (0, Cursor::default(), 0);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "shard" => shard = number(name, value)?,
                "segment" => cursor.segment = number(name, value)?,
                "offset" => cursor.offset = number(name, value)?,
                "wait_ms" => wait_ms = number::<u64>(name, value)?.min(WAIT_MS_MAX),
                _ => return Err(Problem::new(400, "unknown_parameter", format!("there is no parameter {name}"))),
            }
        }
        let question = Question::Pull { cursor, bytes_max: JOURNAL_PULL_BYTES_MAX, wait_ms };
        match self.ask(ShardId(shard), question).await? {
            Reply::Events { buffers, next } => Ok(Response::new(200, "application/octet-stream", buffers)
                .with_header("x-next-segment", next.segment.to_string())
                .with_header("x-next-offset", next.offset.to_string())),
            Reply::CursorTooOld { oldest } => {
                let detail = format!("the journal begins at segment {} offset {}", oldest.segment, oldest.offset);
                Err(Problem::new(410, "cursor_too_old", detail)
                    .with_header("x-oldest-segment", oldest.segment.to_string())
                    .with_header("x-oldest-offset", oldest.offset.to_string()))
            }
            Reply::Unavailable(why) => Err(Problem::new(503, "journal_unavailable", why)),
            _ => Err(mismatch()),
        }
    }

    async fn trim(&self, body: &[u8]) -> Result<Response, Problem> {
        let trim: Trim = parse(body)?;
        let cursor = Cursor { segment: trim.segment, offset: trim.offset };
        self.ask(ShardId(trim.shard), Question::Trim { cursor }).await?;
        Ok(Response::empty(204))
    }

    async fn queue(&self) -> Result<Response, Problem> {
        let mut shards = Vec::new();
        for shard in self.shards() {
            if let Reply::Queue(view) = self.ask(shard, Question::Queue).await? {
                shards.push(*view);
            }
        }
        json(&serde_json::json!({ "shards": shards }))
    }

    /// What waits here, and whether what happened here is told.
    async fn status(&self) -> Result<Response, Problem> {
        // Before all else: what was accepted at one shard may wait at another.
        let before = self.statuses().await?;
        let takes_mail = before.iter().any(|status| status.leaving != Some(Leaving::Drained));
        let statuses = self.statuses().await?;
        let shards = self.runtime.mesh().shards();
        let is_whole = before.len() == shards && statuses.len() == shards;
        json(&serde_json::json!({
            "revision": statuses.iter().map(|status| status.revision).min(),
            "takes_mail": takes_mail,
            "submissions": before.iter().map(|status| status.submissions).sum::<usize>(),
            "waiting": statuses.iter().map(|status| status.waiting).sum::<usize>(),
            "journal_unread_bytes": statuses.iter().map(|status| status.journal_unread_bytes).sum::<u64>(),
            "is_known": is_whole && !statuses.iter().any(|status| status.recovering),
            "suppressions_missed_ms": self.runtime.node().feed.suppressions_missed_ms(self.runtime.now().wall.unix_ms()),
            "awaits_suppressions": self.runtime.withheld() == Some(Withheld::Suppressions),
        }))
    }

    async fn quarantine(&self, query: &str) -> Result<Response, Problem> {
        let query = quarantine_query(query)?;
        let mut all = QuarantinePage::default();
        for shard in self.shards() {
            if let Reply::Quarantine(mut page) = self.ask(shard, Question::Quarantine(query)).await? {
                all.jobs.append(&mut page.jobs);
                all.total += page.total;
            }
        }
        all.jobs.sort_unstable_by(|a, b| (a.expires_ms, &a.job).cmp(&(b.expires_ms, &b.job)));
        all.jobs.truncate(query.jobs_max);
        json(&all)
    }

    async fn retry(&self, body: &[u8]) -> Result<Response, Problem> {
        let retry: Retry = if body.is_empty() { Retry::default() } else { parse(body)? };
        let target = match (retry.site, retry.domain, retry.message) {
            (None, None, None) => CommandTarget::All,
            (Some(site), None, None) => CommandTarget::Site(site),
            (None, Some(domain), None) => CommandTarget::Domain(domain.to_ascii_lowercase()),
            (None, None, Some(message)) => CommandTarget::Message(message_id(&message)?),
            _ => return Err(Problem::new(400, "ambiguous_target", "name one of site, domain or message")),
        };
        let mut recipients = 0;
        for shard in self.shards() {
            let command = Command::Retry(target.clone());
            if let Reply::Affected(affected) = self.ask(shard, Question::Command(command)).await? {
                recipients += affected;
            }
        }
        json(&serde_json::json!({ "recipients": recipients }))
    }

    async fn message(&self, id: &str) -> Result<Response, Problem> {
        let id = message_id(id)?;
        let asked = self.ask_for(id, Question::Message(id), |reply| !matches!(reply, Reply::Message(None)));
        match asked.await? {
            Some(Reply::Message(Some(view))) => json(&view),
            Some(_) => Err(mismatch()),
            None => Err(not_waiting(id)),
        }
    }

    async fn command_one(&self, id: &str, command: fn(MessageId) -> Command) -> Result<Response, Problem> {
        let id = message_id(id)?;
        let asked = self.ask_for(id, Question::Command(command(id)), |reply| !matches!(reply, Reply::Affected(0)));
        match asked.await? {
            Some(Reply::Affected(recipients)) => json(&serde_json::json!({ "recipients": recipients })),
            Some(Reply::BeingMoved(error)) => {
                Err(Problem::new(409, "being_moved", format!("{error}; ask again in a moment, when it is there")))
            }
            Some(_) => Err(mismatch()),
            None => Err(not_waiting(id)),
        }
    }

    /// Asks every shard until one `has` the job: what came from another host, or was stored when there were fewer or more
    /// shards, is not where its id says. `None`: none has it.
    async fn ask_for(
        &self,
        id: MessageId,
        question: Question,
        has: impl Fn(&Reply) -> bool,
    ) -> Result<Option<Reply>, Problem> {
        let (first, count) = (id.shard().0, self.runtime.mesh().shards() as u16);
        let mut gone = None;
        for shard in (0..count).map(|step| ShardId((first % count + step) % count)) {
            match self.ask(shard, question.clone()).await {
                Ok(reply) if has(&reply) => return Ok(Some(reply)),
                Ok(_) => {}
                Err(problem) => gone = Some(problem),
            }
        }
        gone.map_or(Ok(None), Err)
    }

    /// Whether who asks is that host, as far as it can be known: what is remembered of a giver is under its name.
    fn is_shown_to_be(&self, host: &HostName) -> bool {
        let AdminAccess::Certificate { data_planes, .. } = &self.runtime.node().admin_access else { return true };
        let certificate = self.shown.as_ref().and_then(|shown| ParsedCertificate::try_from(shown).ok());
        let name = ServerName::try_from(format!("{host}.{}", data_planes.to_str())).ok();
        certificate.zip(name).is_some_and(|(certificate, name)| verify_server_name(&certificate, &name).is_ok())
    }

    async fn take(&self, octets: &Bytes) -> Result<Response, Problem> {
        let unreadable = |error| Problem::new(503, "refused", format!("the parcel cannot be read: {error}"));
        let parcel = Parcel::decode(octets).map_err(unreadable)?;
        if !self.is_shown_to_be(&parcel.giver) {
            let detail = format!("the parcel is of {}, and the certificate of another host", parcel.giver);
            return Err(Problem::new(403, "forbidden", detail));
        }
        let Reply::Arrival(arrival) = self.ask(ShardId(0), Question::Take(Box::new(parcel))).await? else {
            return Err(mismatch());
        };
        Err(match arrival {
            Arrival::Answered(answer) => return Ok(Response::new(200, "application/octet-stream", answer)),
            Arrival::Stale { turn } => Problem::new(409, "stale", format!("turn {turn} of this shard has been here"))
                .with_header("x-turn", turn.to_string()),
            Arrival::Busy => Problem::new(503, "busy", "another parcel of this shard is being worked on"),
            Arrival::Refused(why) => Problem::new(503, "refused", why),
        })
    }
}

fn not_waiting(id: MessageId) -> Problem {
    let detail = format!("nothing of {id} waits: all its recipients have settled, or there is no such job");
    Problem::new(404, "not_waiting", detail)
}

fn json(value: &impl serde::Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value).map_err(|error| Problem::new(500, "encoding", error.to_string()))?;
    Ok(Response::new(200, "application/json", body))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(400, "invalid_json", error.to_string()))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Problem> {
    value.parse().map_err(|_| Problem::new(400, "invalid_parameter", format!("{name} is not a number in range")))
}

/// Of `tenant=ID&after=MS.JOB&limit=N`; all may be left out.
fn quarantine_query(query: &str) -> Result<QuarantineQuery, Problem> {
    let mut asked = QuarantineQuery { tenant: None, after: None, jobs_max: QUARANTINE_PAGE_MAX };
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "tenant" => asked.tenant = Some(TenantId(number(name, value)?)),
            "limit" => asked.jobs_max = number::<usize>(name, value)?.min(QUARANTINE_PAGE_MAX),
            "after" => {
                let (expires, job) = value.split_once('.').unwrap_or((value, ""));
                asked.after = Some((Timestamp::from_unix_ms(number(name, expires)?), message_id(job)?));
            }
            _ => return Err(Problem::new(400, "unknown_parameter", format!("there is no parameter {name}"))),
        }
    }
    Ok(asked)
}

fn message_id(text: &str) -> Result<MessageId, Problem> {
    text.parse().map_err(|_| Problem::new(400, "invalid_message_id", format!("{text:?} is not a message id")))
}

fn mismatch() -> Problem {
    Problem::new(500, "mismatch", "the shard answered another question")
}
