//! A region and its home: two control planes with a ledger each over one store, which speak HTTP with each other.

use std::collections::BTreeSet;

use postrail_schema::ids::TenantId;
use postrail_schema::keys;
use postrail_schema::limits::MIRROR_ROWS;
use postrail_schema::sealed::{MasterKey, MasterKeys};
use postrail_schema::snapshot::Suppression;
use postrail_schema::wire::decode_snapshot;
use tempfile::TempDir;

use super::*;
use crate::app::{
    Bootstrap, Hosts, KnownHosts, LedgerLook, NewRegion, NewTenant, OtherLedger, Parts, Precondition, SuppressionsAsked,
};
use crate::dns::Resolver;
use crate::identity::{FleetFacts, FleetIdentity, FleetName};
use crate::ledger::{SqliteLedger, SuppressionRecord};
use crate::listen::Door;
use crate::serve::{Limits, serve};
use crate::store::{ConfigStore, EmbeddedStore, Write};

struct World {
    folder: TempDir,
    store: Arc<dyn ConfigStore>,
    home: Arc<App>,
    region: Arc<App>,
    access: FleetAccess,
}

fn masters() -> MasterKeys {
    MasterKeys::only(MasterKey::new([9; 32]))
}

fn app(folder: &TempDir, store: &Arc<dyn ConfigStore>, region: &str) -> Arc<App> {
    let ledger = SqliteLedger::open(&folder.path().join(format!("ledger-{region}.db"))).unwrap();
    let parts = Parts {
        store: Arc::clone(store),
        ledger: Arc::new(ledger),
        hosts: KnownHosts::new(Vec::new()),
        allocation: Some(Hosts::new(Arc::clone(store))),
        masters: masters(),
        resolver: Resolver::new(Vec::new()),
        hostname: "mail.sender.example".into(),
        region: region.into(),
    };
    Arc::new(App::new(parts).unwrap())
}

fn record(tenant: TenantId, address: &str) -> SuppressionRecord {
    let suppression = Suppression { tenant, address: format!("{address}@receiver.example") };
    SuppressionRecord { suppression, reason: "asked to".into(), created_ms: 7 }
}

fn red_tenant() -> NewTenant {
    NewTenant {
        name: "red".into(),
        quota_per_day: None,
        weight: 1,
        message_bytes_max: 8_192,
        region: Some("eu".into()),
        reserved_per_s: None,
        quarantines: false,
    }
}

impl World {
    /// With the tenant `default` without a region, and `red` in region eu. The home does not lead yet.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
        let home = app(&folder, &store, "");
        let bootstrap = Bootstrap { hostname: "mail.sender.example".into(), ..Bootstrap::default() };
        home.bootstrap(&bootstrap, "po_token").unwrap();
        let region = NewRegion { name: "eu".into(), submission_host: "mail.eu.example".into() };
        home.put_region(&region, None).unwrap();
        home.create_tenant(&red_tenant()).unwrap();
        let facts = FleetFacts {
            cluster: "main".into(),
            is_control_plane: true,
            data_plane: None,
            hostname: "control".into(),
            addresses: Vec::new(),
        };
        let identity = FleetIdentity::new(&masters(), facts).unwrap();
        let access = FleetAccess { token: "pf_token".into(), identity };
        Self { region: app(&folder, &store, "eu"), folder, store, home, access }
    }

    /// The home answers, and is known to lead.
    async fn lead(&self) {
        self.lead_by(None).await;
    }

    /// The same by TLS, as beyond loopback.
    async fn lead_by(&self, tls: Option<Arc<rustls::ServerConfig>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let at = format!("{scheme}://{}", listener.local_addr().unwrap());
        let router = crate::api::router(Arc::clone(&self.home), Arc::default(), ["pf_token".to_owned()].into());
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            serve(Door::new(listener, tls), router, Limits::default(), stopped).await;
            drop(stop);
        });
        let put = |key, value: &str| Write::Put { key, value: value.into() };
        self.store.txn(&[], &[put(keys::leader(""), &at), put(keys::last_ledger(""), "{}")]).unwrap();
    }

    fn leave(&self) {
        self.store.txn(&[], &[Write::Delete { key: keys::leader("") }]).unwrap();
    }

    /// One look through all.
    async fn follow(&self) -> Result<Option<String>, AppError> {
        self.follow_by(&mut Mirror { is_owing: false, ..Mirror::new() }).await
    }

    async fn follow_by(&self, mirror: &mut Mirror) -> Result<Option<String>, AppError> {
        self.region.reload().unwrap();
        mirror.follow(&self.region, &self.access, self.region.desired().head.suppressions).await
    }

    fn tenant(&self, name: &str) -> TenantId {
        self.home.tenant_id(name).unwrap()
    }

    fn suppress(&self, app: &App, tenant: &str, address: &str) -> Result<(), AppError> {
        app.reload().unwrap();
        app.suppress(tenant, &format!("{address}@receiver.example"), "asked to", &Precondition::default()).map(drop)
    }

    fn unsuppress(&self, app: &App, tenant: &str, address: &str) -> Result<(), AppError> {
        app.unsuppress(self.tenant(tenant), &format!("{address}@receiver.example"), &Precondition::default())
    }

    /// Grows by one with what is announced.
    fn announced(&self) -> u64 {
        self.region.reload().unwrap();
        self.region.desired().head.revision.0
    }
}

/// What is in the ledger of a control plane, without the receiver's domain.
fn suppressed(app: &App) -> BTreeSet<String> {
    let mut all = Vec::new();
    app.ledger.each_suppression(&mut |suppression| all.push(suppression)).unwrap();
    all.into_iter().map(|one| one.address.split('@').next().unwrap().to_owned()).collect()
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_has_what_its_home_has_and_hands_over_what_it_had_by_itself() {
    let world = World::new();
    let (home, region) = (&world.home, &world.region);
    // Before there is a home each has its own.
    world.suppress(region, "default", "early").unwrap();
    world.suppress(region, "red", "reds").unwrap();
    assert_eq!(world.follow().await.unwrap(), None);
    assert!(region.suppressions_for(ASKED).is_ok());

    world.lead().await;
    assert!(matches!(region.suppressions_for(ASKED), Err(AppError::Unmirrored)), "what is at home was never here");
    world.suppress(home, "default", "stop").unwrap();
    assert_eq!(world.follow().await.unwrap(), None);
    assert_eq!(suppressed(region), names(&["early", "reds", "stop"]));
    assert_eq!(suppressed(home), names(&["early", "stop"]), "nothing of a region's tenant leaves it");
    let list = decode_snapshot(&region.suppressions_for(ASKED).unwrap().body).unwrap();
    assert_eq!(list.suppressions.len(), 3);

    // What is removed at home is removed, also what came from here; what is a region's own tenant's stays.
    for address in ["stop", "early"] {
        world.unsuppress(home, "default", address).unwrap();
    }
    world.suppress(home, "default", "later").unwrap();
    assert_eq!(world.follow().await.unwrap(), None);
    assert_eq!((suppressed(region), suppressed(home)), (names(&["later", "reds"]), names(&["later"])));
    let renewed = ("default", "later@receiver.example", "twice", Precondition::default());
    home.suppress(renewed.0, renewed.1, renewed.2, &renewed.3).unwrap();
    assert_eq!(world.follow().await.unwrap(), None);
    assert_eq!(region.suppression(world.tenant("default"), renewed.1).unwrap().reason, "twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_is_announced_once_and_then_it_is_quiet() {
    let world = World::new();
    world.lead().await;
    world.suppress(&world.home, "default", "stop").unwrap();
    let mut mirror = Mirror::new();
    let before = world.announced();
    for _ in 0..3 {
        assert_eq!(world.follow_by(&mut mirror).await.unwrap(), None);
        assert_eq!(world.announced(), before + 1);
    }
    // Whoever begins announces once: the one before may have ended between its ledger and that.
    world.follow_by(&mut Mirror::new()).await.unwrap();
    assert_eq!(world.announced(), before + 2);
    let put = [record(world.tenant("default"), "silent")];
    world.home.ledger.mirror(&put, &[]).unwrap();
    world.follow_by(&mut mirror).await.unwrap();
    assert_eq!(world.announced(), before + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_holds_while_the_home_is_away_or_has_another_ledger_and_changes_are_refused_with_the_place() {
    let world = World::new();
    let region = &world.region;
    world.lead().await;
    world.suppress(&world.home, "default", "stop").unwrap();
    world.follow().await.unwrap();
    let refused = |app: &App| world.suppress(app, "default", "more").unwrap_err().to_string();
    assert!(refused(region).contains("changed at control planes without one: ask one of these, http://127.0.0.1:"));
    assert!(world.unsuppress(region, "default", "stop").is_err());
    world.suppress(region, "red", "reds").unwrap();

    let other = OtherLedger::Last { place: "in PostgreSQL at other".into() };
    world.home.set_ledger_look(LedgerLook::Other(other));
    world.home.ledger.mirror(&[record(world.tenant("default"), "theirs")], &[]).unwrap();
    let error = world.follow().await.unwrap_err().to_string();
    assert_eq!(error, "the control plane without a region: it refuses with status 503");
    world.leave();
    assert!(refused(region).ends_with("and none of them runs"));
    let error = world.follow().await.unwrap_err().to_string();
    assert_eq!(error, "the control plane without a region: none runs");
    // Also for one that starts now.
    let again = app(&world.folder, &world.store, "eu");
    for app in [region, &again] {
        assert_eq!(suppressed(app), names(&["reds", "stop"]));
        assert!(app.suppressions_for(ASKED).is_ok());
    }
    let elsewhere = app(&world.folder, &world.store, "us");
    assert!(elsewhere.suppressions_for(ASKED).is_err(), "a region that never had them has no list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_goes_over_in_stretches_and_a_change_of_it_as_one() {
    let world = World::new();
    let (home, region, tenant) = (&world.home, &world.region, world.tenant("default"));
    world.lead().await;
    let all: Vec<_> = (0..5 * MIRROR_ROWS / 2 * 2).map(|n| record(tenant, &format!("a{n:06}"))).collect();
    home.ledger.mirror(&all, &[]).unwrap();
    // The region's own lie between.
    let red = world.tenant("red");
    for n in 0..3 {
        region.ledger.suppress(&record(red, &format!("b{n}")), None).unwrap();
    }
    assert_eq!(world.follow().await.unwrap(), None);
    let of_home = || region.ledger.suppressions(Some(tenant), None, u32::MAX).unwrap();
    assert_eq!(of_home(), all);

    let gone = [0, MIRROR_ROWS, all.len() - 1].map(|at| all[at].suppression.clone());
    home.ledger.mirror(&[record(tenant, "a000001b"), record(tenant, "z")], &gone).unwrap();
    let mut stretches = (0, 0);
    let (mut after, version) = (None, home.desired().head.suppressions);
    loop {
        let stretch = region.stretch(after).unwrap();
        let told = home.compare(stretch.comparison(version)).unwrap();
        after = told.through.clone();
        stretches.0 += 1;
        stretches.1 += usize::from(told.records.is_some());
        region.take_mirrored(&stretch, told).unwrap();
        if after.is_none() {
            break;
        }
    }
    assert!(stretches.0 > stretches.1 && stretches.1 <= 4, "what is the same is not sent: {stretches:?}");
    assert_eq!(of_home(), home.ledger.suppressions(Some(tenant), None, u32::MAX).unwrap());
    assert_eq!(region.ledger.suppressions(Some(red), None, 10).unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stretch_begins_or_ends_with_an_address_of_a_regions_own_tenant() {
    let world = World::new();
    let (tenant, red) = (world.tenant("default"), world.tenant("red"));
    let later = NewTenant { name: "later".into(), region: None, ..red_tenant() };
    let later = world.home.create_tenant(&later).unwrap().id;
    world.region.reload().unwrap();
    world.lead().await;
    let of = |tenant: TenantId, count: usize| (0..count).map(move |n| record(tenant, &format!("a{n:06}")));
    let own: Vec<_> = of(red, 3 * MIRROR_ROWS).collect();
    // That of a region in the ledger of the home is of before there were regions.
    for app in [&world.region, &world.home] {
        app.ledger.mirror(&own, &[]).unwrap();
    }
    let shared: Vec<_> = of(tenant, MIRROR_ROWS / 2).chain(of(later, 3)).collect();
    world.home.ledger.mirror(&shared, &[]).unwrap();
    let (region, home) = (&world.region, &world.home);
    for _ in 0..2 {
        let mut after = None;
        loop {
            let stretch = region.stretch(after).unwrap();
            let asked = stretch.comparison(home.desired().head.suppressions);
            let told = home.compare(asked.clone()).unwrap();
            for place in [&asked.after, &asked.through, &told.through].into_iter().flatten() {
                assert_ne!(place.tenant, red);
            }
            assert!(asked.own.iter().chain(told.records.iter().flatten()).all(|one| one.suppression.tenant != red));
            after = told.through.clone();
            region.take_mirrored(&stretch, told).unwrap();
            if after.is_none() {
                break;
            }
        }
        assert_eq!(region.ledger.suppressions(Some(later), None, 10).unwrap().len(), 3);
        assert_eq!(region.ledger.suppressions(Some(red), None, u32::MAX).unwrap().len(), own.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_the_home_is_asked_by_certificate_and_tells_nobody_else() {
    let mut world = World::new();
    world.suppress(&world.home, "default", "stop").unwrap();
    world.lead().await;
    world.access.token = "pf_other".into();
    let error = world.follow().await.unwrap_err().to_string();
    assert_eq!(error, "the control plane without a region: it refuses with status 401");
    let tls = world.access.identity.server(&[FleetName::DataPlane, FleetName::ControlPlane]).unwrap();
    world.lead_by(Some(tls)).await;
    assert_eq!(world.follow().await.unwrap(), None);
    assert_eq!(suppressed(&world.region), names(&["stop"]));
    // Of an earlier version, or of another fleet.
    world.lead_by(Some(world.access.identity.server(&[FleetName::DataPlane]).unwrap())).await;
    assert!(world.follow().await.is_err());
    assert_eq!(suppressed(&world.region), names(&["stop"]));
}

const ASKED: SuppressionsAsked = SuppressionsAsked { version: 0, has: None };
