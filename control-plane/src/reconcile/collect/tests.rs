//! Chunks go when nobody names them, and never from under a reader who then sees half a publication.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use postrail_schema::ids::{Revision, TenantId};
use postrail_schema::keys::PUBLISHED;
use postrail_schema::publication::{Assembly, ChunkHash, ChunkKind, ChunkName, ChunkPlace, Manifest};
use postrail_schema::sealed::{MasterKey, MasterKeys};
use postrail_schema::snapshot::Tenant;
use postrail_schema::wire::encode_manifest;

use super::*;
use crate::app::{App, Bootstrap, KnownHosts, NewTenant, Parts};
use crate::dns::Resolver;
use crate::ledger::SqliteLedger;
use crate::store::EmbeddedStore;
use crate::store::suite::Etcd;

fn name(bucket: u32, hash: u128) -> ChunkName {
    ChunkName { place: ChunkPlace::everywhere(ChunkKind::Tenants, bucket), hash: ChunkHash(hash), length: 1 }
}

fn manifest(chunks: &[ChunkName]) -> Write {
    let chunks = chunks.iter().map(|name| (name.place, (name.hash, name.length))).collect();
    let manifest = Manifest { revision: Revision(1), chunks, ..Manifest::default() };
    Write::Put { key: MANIFEST.into(), value: encode_manifest(&manifest) }
}

fn chunk(name: ChunkName) -> Write {
    Write::Put { key: name.key(), value: vec![1] }
}

#[test]
fn a_chunk_goes_when_no_manifest_has_named_it_for_a_while_and_never_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("config.db")).unwrap();
    let keys = || store.list_keys(CHUNKS).unwrap().entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    let (old, new, other) = (name(0, 1), name(0, 2), name(1, 1));
    store.txn(&[], &[chunk(old), chunk(new), chunk(other), manifest(&[new])]).unwrap();
    let (mut unnamed, begun) = (Unnamed::default(), Instant::now());
    assert_eq!(unnamed.collect(&store, begun).unwrap(), 0);
    assert_eq!(unnamed.collect(&store, begun + GRACE / 2).unwrap(), 0);
    // Written again meanwhile, as by a change that goes back: it is as if it were new.
    store.txn(&[], &[chunk(other)]).unwrap();
    assert_eq!(unnamed.collect(&store, begun + GRACE).unwrap(), 1);
    assert_eq!(keys(), [new.key(), other.key()]);
    store.txn(&[], &[manifest(&[new, other])]).unwrap();
    assert_eq!(unnamed.collect(&store, begun + 3 * GRACE).unwrap(), 0);
    assert_eq!(keys(), [new.key(), other.key()]);
}

fn app(folder: &Path, store: &Arc<dyn ConfigStore>) -> App {
    App::new(Parts {
        store: Arc::clone(store),
        ledger: Arc::new(SqliteLedger::open(&folder.join("ledger.db")).unwrap()),
        hosts: KnownHosts::new(Vec::new()),
        allocation: None,
        masters: MasterKeys::only(MasterKey::new([9; 32])),
        resolver: Resolver::new(Vec::new()),
        hostname: "mail.sender.example".into(),
        region: String::new(),
    })
    .unwrap()
}

/// Tenants whose records are in different chunks; every change gives them one weight.
const TOGETHER: [TenantId; 3] = [TenantId(1), TenantId(70), TenantId(140)];

/// Gives them the weight; again, where the other control plane was faster all the time.
fn change(app: &App, weight: u32) {
    let once = || {
        app.change(|draft| {
            for id in TOGETHER {
                let tenant = draft.desired.tenants.get(&id).unwrap().clone();
                draft.put(Tenant { weight, ..tenant })?;
            }
            Ok(())
        })
    };
    let made = (0..50).map(|_| once()).find(Result::is_ok);
    made.expect("one of many tries is not overtaken").unwrap();
}

/// What a data plane does: read the manifest, fetch what is missing, apply. `false`: a chunk was gone.
fn step(store: &dyn ConfigStore, assembly: &mut Assembly) -> bool {
    let read = store.get(&[MANIFEST.to_owned()]).unwrap();
    let manifest = decode_manifest(&read.entries[0].value).unwrap();
    let mut chunks = Vec::new();
    for name in assembly.missing(&manifest) {
        // One at a time, so that much happens between two of them.
        let found = store.get(&[name.key()]).unwrap().entries.pop();
        let Some(entry) = found else { return false };
        chunks.push((name, entry.value.into()));
    }
    assembly.apply(manifest, &chunks).unwrap();
    let weights = TOGETHER.map(|id| assembly.snapshot().tenants[&id].weight);
    assert!(weights.iter().all(|weight| *weight == weights[0]), "half of a change: {weights:?}");
    true
}

/// Two control planes that change, a collector without patience, and readers who look all the while.
fn readers_see_whole_publications(store: &Arc<dyn ConfigStore>) {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let apps = folders.each_ref().map(|folder| app(folder.path(), store));
    let hostname = "mail.sender.example".to_owned();
    apps[0].bootstrap(&Bootstrap { hostname, ..Bootstrap::default() }, "po_token").unwrap();
    for n in 0..140 {
        let new = NewTenant {
            name: format!("t{n}"),
            quota_per_day: None,
            weight: 1,
            message_bytes_max: 8_192,
            region: None,
            reserved_per_s: None,
            quarantines: false,
        };
        apps[0].create_tenant(&new).unwrap();
    }
    change(&apps[0], 1);
    apps[1].reload().unwrap();
    let (done, begun) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        // Few weights, so that chunks come back that were gone.
        let writers: Vec<_> = (0..)
            .zip(&apps)
            .map(|(n, app)| scope.spawn(move || (0..40).for_each(|at| change(app, 1 + (at + n) % 3))))
            .collect();
        scope.spawn(|| {
            let mut unnamed = Unnamed::default();
            for round in 0.. {
                match unnamed.collect(store.as_ref(), begun + GRACE * round) {
                    Ok(_) | Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let (mut assembly, mut applied) = (Assembly::default(), 0);
                while !done.load(Ordering::Relaxed) || applied == 0 {
                    applied += u32::from(step(store.as_ref(), &mut assembly));
                }
                // Whatever was collected on the way, it comes to the present.
                assert!(step(store.as_ref(), &mut assembly));
                assert_eq!(
                    store.list(PUBLISHED).unwrap().entries.last().unwrap().value,
                    encode_manifest(assembly.manifest())
                );
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn readers_of_the_embedded_store_see_whole_publications_while_chunks_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    readers_see_whole_publications(&(Arc::new(EmbeddedStore::open(&folder.path().join("config.db")).unwrap()) as _));
}

#[test]
fn readers_of_etcd_see_whole_publications_while_chunks_come_and_go() {
    readers_see_whole_publications(&(Arc::new(Etcd::start(&[]).store()) as _));
}
