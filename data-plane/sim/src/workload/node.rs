//! A node under test: its configuration, and one life of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use async_channel::Receiver;
use postrail_core::dns::ResolverConfig;
use postrail_core::intake::listeners::ListeningHost;
use postrail_core::rules::SourceOwners;
use postrail_data_plane::admin::AdminAccess;
use postrail_data_plane::mesh::Mesh;
use postrail_data_plane::node::{ShardSetup, run_shard};
use postrail_data_plane::platform::Platform;
use postrail_data_plane::shard::NodeFacts;
use postrail_data_plane::tls::Connector;
use postrail_data_plane::transfer::{Departure, departures};
use postrail_schema::ids::{CredentialId, PoolId, Revision, SendingDomainId, ShardId, SourceId, TenantId};
use postrail_schema::listener::{Listener, ListenerProtocol};
use postrail_schema::policy::{RetryDelays, RetryPolicy};
use postrail_schema::sealed::{MasterKey, MasterKeys};
use postrail_schema::selector::Selector;
use postrail_schema::snapshot::{
    Credential, EgressPool, EgressSource, PoolMember, Route, SendingDomain, Snapshot, SnapshotContent, Tenant,
};

use super::{NAME_SERVER, client};
use crate::{NodeId, Sim};

/// What a node is started with.
pub(crate) struct Seat {
    /// Its own address, where it takes submissions.
    pub(crate) address: IpAddr,
    /// Its name in a fleet in which addresses move; empty: they do not.
    pub(crate) host: String,
    pub(crate) content: SnapshotContent,
}

/// Where the node at `address` takes submissions.
pub(crate) const fn submission(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 2_525)
}

/// The ways to and from a life of a node.
pub(crate) struct Started {
    pub(crate) mesh: Mesh,
    /// What goes to other hosts.
    pub(crate) departures: Receiver<Departure>,
}

/// Starts the next life of a node with one shard.
pub(crate) fn start(sim: &Sim, node: NodeId, seat: Seat) -> Started {
    let platform = sim.platform(node);
    let (mesh, inboxes) = Mesh::new(1);
    let (sender, receiver) = departures();
    let setup = ShardSetup {
        node: NodeFacts {
            data: PathBuf::from("data"),
            hostname: "node.example".into(),
            shards: 1,
            master_keys: Arc::new(MasterKeys::only(MasterKey::new([7; 32]))),
            acceptor: None,
            identity: None,
            listening: ListeningHost {
                options: vec![Listener::of_options(ListenerProtocol::Smtp, submission(seat.address))],
                name: seat.host.clone(),
                ..ListeningHost::default()
            },
            ports: Arc::default(),
            usage: Arc::default(),
            connector: Connector::with_roots(&PathBuf::from("no roots")).expect("the policies need no roots"),
            control_url: "http://127.0.0.1:8081".into(),
            owners: SourceOwners::default(),
            is_leasing: !seat.host.is_empty(),
            feed: Arc::default(),
            admin_access: AdminAccess::Anyone,
            departures: sender,
        },
        resolver: ResolverConfig::new(vec![NAME_SERVER]),
        admin: None,
        drain: Duration::from_secs(60),
        mesh: mesh.clone(),
        inboxes: inboxes.into(),
        snapshot: Arc::new(Snapshot::new(seat.content).expect("the content holds together")),
    };
    platform.clone().spawn("shard", async move {
        let ended = run_shard(platform, ShardId(0), setup, || {}).await;
        panic!("the shard ended: {ended:?}");
    });
    Started { mesh, departures: receiver }
}

/// One tenant with one domain, and one source for all: `address`.
pub fn content(address: IpAddr) -> SnapshotContent {
    let (tenant, source) = (TenantId(1), SourceId(1));
    SnapshotContent {
        revision: Revision(1),
        tenants: vec![Tenant {
            id: tenant,
            name: "tenant".to_owned(),
            quota_per_day: None,
            weight: 1,
            message_bytes_max: 10 << 20,
            region: None,
            reserved_per_s: None,
            quarantines: false,
        }],
        credentials: vec![Credential {
            id: CredentialId(1),
            tenant,
            username: "client".to_owned(),
            secret_hashes: vec![secret_hash()],
            disabled: false,
            marks: Vec::new(),
            scopes: Default::default(),
            networks: Vec::new(),
            trusts_networks: false,
        }],
        domains: vec![SendingDomain {
            id: SendingDomainId(1),
            tenant,
            name: "us.example".to_owned(),
            keys: Vec::new(),
            pool: None,
            standing: Default::default(),
            is_platform: false,
            is_later: false,
        }],
        sources: vec![EgressSource {
            id: source,
            name: "source".to_owned(),
            address,
            ehlo_name: "node.example".to_owned(),
            needs: Default::default(),
        }],
        pools: vec![EgressPool {
            id: PoolId(1),
            name: "default".to_owned(),
            tenant: None,
            members: vec![PoolMember { source, weight: 1 }],
            classes: Default::default(),
        }],
        // A run has ten minutes, not days.
        retry_policies: vec![RetryPolicy {
            name: "soon".to_owned(),
            selector: Selector::default(),
            delays: Some(RetryDelays { first_s: 5, factor_percent: 150, longest_s: 60 }),
            expiry_s: None,
        }],
        routes: vec![Route { domain: "*".to_owned(), routing_domain: None, port: 25, allow_private: true }],
        ..SnapshotContent::default()
    }
}

/// The hash of [`client::SECRET`], at the least cost and with a salt that is none.
fn secret_hash() -> String {
    let parameters = Params::new(8, 1, 1, None).expect("the least parameters");
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
    let hash = argon2.hash_password_with_salt(client::SECRET.as_bytes(), b"salt of no use..");
    hash.expect("the least parameters hash").to_string()
}
