//! Several control planes over one store, one of which may die.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use postrail_schema::keys::{CHUNKS, DESIRED, HEAD, PENDING, STAGED};
use postrail_schema::snapshot::Tenant;

use super::state::Mortal;
use super::*;
use crate::app::{AppError, TenantChange};
use crate::plan::Desired;
use crate::store::{Guard, Hold, Listing, StoreError, Watch, move_configuration};

/// An installation whose control plane dies in its first large change.
fn mortal() -> (World, Arc<dyn ConfigStore>) {
    let folder = tempfile::tempdir().unwrap();
    let sound: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
    let mortal = Mortal { store: Arc::clone(&sound), is_dead: AtomicBool::new(false) };
    (World::on(folder, Arc::new(mortal)), sound)
}

/// A change of more records than one transaction takes.
fn make_many(app: &App, names: &str) -> Result<(), AppError> {
    app.change(|draft| {
        let first = draft.tenant("default")?.clone();
        for number in 0..MANY {
            let id = draft.counters().next_tenant();
            draft.put(Tenant { id, name: format!("{names}-{number}"), ..first.clone() })?;
        }
        Ok(())
    })
}

fn stored(store: &dyn ConfigStore) -> Desired {
    Desired::from_entries(&store.list(DESIRED).unwrap().entries).unwrap()
}

fn keys(store: &dyn ConfigStore, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

#[test]
fn of_two_large_changes_at_once_the_one_whose_control_plane_dies_is_finished_by_the_other() {
    let (world, sound) = mortal();
    let other = open(world._folder.path(), &sound);
    make_many(&world.app, "red").unwrap();
    assert_eq!(keys(&*sound, PENDING).len(), 1, "it died before it was at its places");
    // This one begins on what was before.
    make_many(&other, "blue").unwrap();
    assert_eq!((keys(&*sound, PENDING), keys(&*sound, STAGED)), (Vec::new(), Vec::new()));
    let stored = stored(&*sound);
    assert_eq!((stored.tenants.len(), &stored), (1 + 2 * MANY, &*other.desired()));
}

#[test]
fn a_large_change_whose_control_plane_dies_is_finished_by_another_that_changes_nothing() {
    let (world, sound) = mortal();
    let other = open(world._folder.path(), &sound);
    make_many(&world.app, "red").unwrap();
    other.reload().unwrap();
    assert_eq!(other.desired().tenants.len(), 1 + MANY, "it is whole for who reads");
    assert!(keys(&*sound, "desired/tenants/").len() < MANY, "and left to its own control plane at first");
    other.reload().unwrap();
    assert_eq!((keys(&*sound, PENDING), keys(&*sound, STAGED)), (Vec::new(), Vec::new()));
    assert_eq!(stored(&*sound), *other.desired());
}

#[test]
fn a_large_change_that_is_pending_moves_with_what_it_has_to_write() {
    let (world, sound) = mortal();
    make_many(&world.app, "red").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let moved: Arc<dyn ConfigStore> = Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
    move_configuration(&*sound, &*moved).unwrap();
    let app = open(world._folder.path(), &moved);
    assert_eq!(app.desired().tenants.len(), 1 + MANY);
    make_many(&app, "blue").unwrap();
    assert_eq!((stored(&*moved).tenants.len(), keys(&*moved, PENDING)), (1 + 2 * MANY, Vec::new()));
}

#[tokio::test]
async fn a_large_change_whose_parts_are_gone_is_said_by_name_and_can_be_given_up() {
    let (world, sound) = mortal();
    let other = open(world._folder.path(), &sound);
    make_many(&world.app, "red").unwrap();
    let [part] = keys(&*sound, STAGED).try_into().unwrap();
    sound.txn(&[], &[Write::Delete { key: part.clone() }]).unwrap();
    let torn = other.reload().unwrap_err();
    assert!(matches!(&torn, AppError::Torn { part: gone } if *gone == part), "{torn:?}");
    assert!(torn.to_string().contains(&part) && torn.to_string().contains("etcd-lost"), "{torn}");
    let router = router(Arc::new(other), Arc::default(), Default::default());
    let request = Request::builder().method("POST").uri("/v2/tenants").header("authorization", "Bearer po_token");
    let request = request.header("content-type", "application/json").body(Body::from(r#"{"name":"x"}"#)).unwrap();
    assert_eq!(router.oneshot(request).await.unwrap().status().as_u16(), 503);
    // As the runbook says: what is at its place stays, and the rest is made again.
    sound.txn(&[], &[Write::Delete { key: PENDING.into() }]).unwrap();
    let app = open(world._folder.path(), &sound);
    let half = app.desired().tenants.len();
    assert!((1..=MANY).contains(&half), "{half}");
    make_many(&app, "blue").unwrap();
    assert_eq!(stored(&*sound).tenants.len(), half + MANY);
}

/// A store that counts how often all that is desired, or published, was listed.
struct Counting {
    store: Arc<dyn ConfigStore>,
    listed: AtomicUsize,
}

impl Counting {
    /// Since it was asked last.
    fn listed(&self) -> usize {
        self.listed.swap(0, Ordering::Relaxed)
    }

    fn count(&self, prefix: &str) {
        self.listed.fetch_add(usize::from([DESIRED, CHUNKS].contains(&prefix)), Ordering::Relaxed);
    }
}

impl ConfigStore for Counting {
    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.count(prefix);
        self.store.list(prefix)
    }

    fn list_keys(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.count(prefix);
        self.store.list_keys(prefix)
    }

    fn get(&self, keys: &[String]) -> Result<Listing, StoreError> {
        self.store.get(keys)
    }

    fn txn(&self, guards: &[Guard], writes: &[Write]) -> Result<u64, StoreError> {
        self.store.txn(guards, writes)
    }

    fn within(&self, patience: Duration) -> Arc<dyn ConfigStore> {
        self.store.within(patience)
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        self.store.watch(prefix, after)
    }

    fn hold(&self, key: &str, value: &[u8], ttl: Duration) -> Hold {
        self.store.hold(key, value, ttl)
    }
}

#[test]
fn what_moves_the_head_alone_costs_another_control_plane_no_listing() {
    let world = World::new();
    let counting = Arc::new(Counting { store: Arc::clone(&world.store), listed: AtomicUsize::new(0) });
    let store: Arc<dyn ConfigStore> = Arc::clone(&counting) as _;
    let other = open(world._folder.path(), &store);
    let weigh = |app: &App, weight| {
        let change = TenantChange { weight: Some(weight), ..TenantChange::default() };
        app.change_tenant("default", &change, &Default::default()).unwrap();
    };
    counting.listed();
    for _ in 0..3 {
        world.app.announce_suppressions().unwrap();
        other.reload().unwrap();
        assert_eq!(*other.desired(), *world.app.desired());
    }
    // One that has not seen the latest makes a change on it, and publishes that.
    world.app.announce_suppressions().unwrap();
    weigh(&other, 7);
    assert_eq!(counting.listed(), 0);
    let latest = world.latest();
    assert_eq!((latest.revision, latest.tenants[0].weight), (other.revision(), 7));
    world.app.reload().unwrap();
    assert_eq!(*other.desired(), *world.app.desired());
    // What changes a record is read, also where the head is moved once more behind it.
    weigh(&world.app, 8);
    world.app.announce_suppressions().unwrap();
    other.reload().unwrap();
    assert_eq!((other.desired().tenant("default").unwrap().weight, counting.listed()), (8, 2));
    assert_eq!(*other.desired(), *world.app.desired());

    // A control plane of an earlier version writes no more than it knows.
    let head = world.store.get(&[HEAD.to_owned()]).unwrap().entries.remove(0);
    let mut before: Value = serde_json::from_slice(&head.value).unwrap();
    before.as_object_mut().unwrap().remove("records").unwrap();
    before["revision"] = json!(before["revision"].as_u64().unwrap() + 1);
    let mut tenant = other.desired().tenant("default").unwrap().clone();
    tenant.weight = 9;
    let write = |key: &str, value: Vec<u8>| Write::Put { key: key.to_owned(), value };
    let writes = [
        write(HEAD, before.to_string().into_bytes()),
        write("desired/tenants/1", serde_json::to_vec(&tenant).unwrap()),
    ];
    world.store.txn(&[], &writes).unwrap();
    other.reload().unwrap();
    assert_eq!((other.desired().tenant("default").unwrap().weight, counting.listed()), (9, 2));
}

#[test]
fn a_head_that_was_moved_behind_a_large_change_leaves_nothing_pending() {
    let (world, sound) = mortal();
    let [reader, finisher] = [(); 2].map(|()| open(world._folder.path(), &sound));
    make_many(&world.app, "red").unwrap();
    reader.reload().unwrap();
    finisher.announce_suppressions().unwrap();
    assert_eq!(keys(&*sound, PENDING), Vec::<String>::new());
    reader.reload().unwrap();
    assert_eq!(*reader.desired(), *finisher.desired());
    make_many(&reader, "blue").unwrap();
    assert_eq!(stored(&*sound), *reader.desired());
}

/// More than two transactions of records.
const MANY: usize = 300;
