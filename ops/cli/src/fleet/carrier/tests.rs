//! From a carrier to the admin listener of a real node: who is let in, for what, and what the shard hears.

use std::net::{SocketAddr, TcpListener};

use bytes::Bytes;
use postrail_control_plane::{FleetFacts, FleetIdentity};
use postrail_core::transfer::Offer;
use postrail_core::transfer::parcel::Draft;
use postrail_data_plane::admin::AdminAccess;
use postrail_data_plane::node::{self, NodeConfig, NodeHandle};
use postrail_schema::ids::{MessageId, ShardId};
use postrail_schema::sealed::{MasterKey, MasterKeys};

use super::*;

/// A node that takes mail, on loopback; its folder goes with it.
struct Taker {
    node: Option<NodeHandle>,
    admin: SocketAddr,
    data: std::path::PathBuf,
}

impl Taker {
    fn start(name: &str, admin_access: AdminAccess) -> Self {
        let data = std::env::temp_dir().join(format!("postrail-carrier-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&data).expect("a folder can be made");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let admin = free.expect("a free port");
        let config = NodeConfig {
            data: data.clone(),
            master_keys: masters(1),
            hostname: "mta.example.org".to_owned(),
            smtp: Vec::new(),
            smtps: Vec::new(),
            rest: Vec::new(),
            admin,
            shards: 1,
            pins: Vec::new(),
            resolvers: vec![admin],
            tls: None,
            receiver_authorities: None,
            drain: Duration::from_secs(5),
            control_url: "http://127.0.0.1:1".to_owned(),
            is_leasing: true,
            region: String::new(),
            host_name: "mta-2".to_owned(),
            admin_access,
        };
        let (node, _feed) = node::start(config).expect("the node starts");
        Self { node: Some(node), admin, data }
    }

    fn listening(&self, name: &str, scheme: &str) -> watch::Receiver<Arc<Listening>> {
        let listening = [(host(name), format!("{scheme}://{}", self.admin))].into();
        watch::Sender::new(Arc::new(listening)).subscribe()
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.drain();
            let _ = node.join();
        }
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

fn host(name: &str) -> HostName {
    HostName::new(name).expect("a host's name")
}

fn masters(octet: u8) -> MasterKeys {
    MasterKeys::only(MasterKey::new([octet; 32]))
}

fn identity(octet: u8, is_control_plane: bool, data_plane: Option<&str>) -> FleetIdentity {
    let facts = FleetFacts {
        cluster: "main".to_owned(),
        is_control_plane,
        data_plane: data_plane.map(host),
        hostname: "mta.example.org".to_owned(),
        addresses: Vec::new(),
    };
    FleetIdentity::new(&masters(octet), facts).expect("an identity")
}

fn access(identity: Option<FleetIdentity>, octet: u8) -> FleetAccess {
    FleetAccess { token: masters(octet).current.fleet_token(), identity }
}

/// By certificates, as `mta-2`.
fn certified() -> AdminAccess {
    let identity = identity(1, false, Some("mta-2"));
    AdminAccess::Certificate {
        tls: identity.server(&[FleetName::ControlPlane, FleetName::DataPlane]).expect("a listener"),
        control_planes: identity.server_name(&FleetName::ControlPlane).expect("a name"),
        data_planes: identity.server_name(&FleetName::DataPlane).expect("a name"),
    }
}

/// A parcel in the name of that host, which asks what became of a job.
fn parcel(giver: &str) -> Bytes {
    let offer = Offer { to: host("mta-2"), turn: 1, is_leaving: false, jobs: Vec::new() };
    let mut draft = Draft::new(&host(giver), ShardId(0), &offer);
    draft.push(MessageId::new(1, ShardId(0), 1), 1, None);
    draft.finish().0
}

/// What becomes of a parcel that is none, for `to`.
async fn send(access: FleetAccess, listening: watch::Receiver<Arc<Listening>>, to: &str) -> Arrival {
    send_parcel(access, listening, to, Bytes::from_static(b"no parcel")).await
}

async fn send_parcel(
    access: FleetAccess,
    listening: watch::Receiver<Arc<Listening>>,
    to: &str,
    parcel: Bytes,
) -> Arrival {
    let (departing, departures) = async_channel::bounded(1);
    let (stop, stopped) = watch::channel(false);
    let carrier = tokio::spawn(Carrier::new(access, listening).run(departures, stopped));
    let (answer, answers) = async_channel::bounded(1);
    let departure = Departure { to: host(to), parcel, answer };
    departing.send(departure).await.expect("the carrier runs");
    let arrival = answers.recv().await.expect("an answer");
    stop.send_replace(true);
    carrier.await.expect("the carrier ends");
    arrival
}

fn refused(arrival: Arrival) -> String {
    let Arrival::Refused(why) = arrival else { panic!("{arrival:?}") };
    why
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_to_the_host_that_it_is_for_and_a_stranger_is_not_let_in() {
    let taker = Taker::start("certificates", certified());
    let ours = || access(Some(identity(1, false, Some("mta-1"))), 1);
    // It is let in as far as the parcel itself, which is none.
    let why = refused(send(ours(), taker.listening("mta-2", "https"), "mta-2").await);
    assert!(why.contains("503") && why.contains("parcel"), "{why}");
    let why = refused(send(ours(), taker.listening("mta-3", "https"), "mta-3").await);
    assert!(why.contains("not valid for name"), "another host's name at its address: {why}");
    let stranger = access(Some(identity(2, false, Some("mta-1"))), 2);
    let why = refused(send(stranger, taker.listening("mta-2", "https"), "mta-2").await);
    assert!(why.contains("certificate"), "{why}");
    let why = refused(send(ours(), taker.listening("mta-3", "https"), "mta-2").await);
    assert!(why.contains("does not run"), "{why}");
    // The certificate of this host is not enough for anything else.
    let ask = async |identity: FleetIdentity, path: &str| {
        let config = identity.client(&FleetName::Host(host("mta-2"))).expect("a client");
        let client = Client::builder().no_proxy().tls_backend_preconfigured(config).build().expect("a client");
        let asked = client.get(format!("https://{}{path}", taker.admin)).send().await.expect("it answers");
        asked.status().as_u16()
    };
    for path in ["/journal?shard=0", "/queue", "/shards", "/quarantine", TRANSFERS] {
        assert_eq!(ask(identity(1, false, Some("mta-1")), path).await, 403, "{path}");
    }
    assert_eq!(ask(identity(1, false, Some("mta-1")), "/healthz").await, 200);
    assert_eq!(ask(identity(1, true, None), "/queue").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_gives_mail_in_no_other_name_than_that_of_its_certificate() {
    let taker = Taker::start("names", certified());
    let sent = async |is_control_plane, certificate, giver| {
        let access = access(Some(identity(1, is_control_plane, certificate)), 1);
        send_parcel(access, taker.listening("mta-2", "https"), "mta-2", parcel(giver)).await
    };
    for giver in ["mta-3", "mta", "data-plane"] {
        let why = refused(sent(false, Some("mta-1"), giver).await);
        assert!(why.contains("403") && why.contains(giver), "{giver}: {why}");
    }
    let why = refused(sent(true, None, "mta-1").await);
    assert!(why.contains("403"), "a control plane has no mail to give: {why}");
    for is_control_plane in [false, true] {
        let arrival = sent(is_control_plane, Some("mta-1"), "mta-1").await;
        assert!(!matches!(arrival, Arrival::Refused(_)), "{arrival:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_the_token_of_the_fleet_opens_and_plain_http_beyond_it_is_not_spoken() {
    let token = masters(1).current.fleet_token();
    let taker = Taker::start("tokens", AdminAccess::Tokens([token].into()));
    let why = refused(send(access(None, 1), taker.listening("mta-2", "http"), "mta-2").await);
    assert!(why.contains("503") && why.contains("parcel"), "{why}");
    let why = refused(send(access(None, 2), taker.listening("mta-2", "http"), "mta-2").await);
    assert!(why.contains("401"), "{why}");
    let beyond = [(host("mta-2"), "http://192.0.2.1:8082".to_owned())].into();
    let beyond = watch::Sender::new(Arc::new(beyond)).subscribe();
    let why = refused(send(access(None, 1), beyond, "mta-2").await);
    assert!(why.contains("is not https"), "{why}");
}
