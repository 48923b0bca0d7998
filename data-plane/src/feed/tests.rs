//! Publications in effect, and what is left of them after every way to end.

use postrail_schema::ids::{Revision, TenantId};
use postrail_schema::publication::{Chunk, ManifestHash, divide};
use postrail_schema::snapshot::{SnapshotContent, Suppression, Tenant};
use postrail_schema::wire::{encode_manifest, encode_snapshot};

use super::*;

type Published = (Manifest, Vec<(ChunkName, Arc<[u8]>)>);

fn publication(revision: u64, tenants: u32) -> Published {
    let tenant = |id| Tenant {
        id: TenantId(id),
        name: format!("t{id}"),
        quota_per_day: None,
        weight: 1,
        message_bytes_max: 1_024 + (revision as u32) * u32::from(id == 1),
        region: None,
        reserved_per_s: None,
        quarantines: false,
    };
    let content = SnapshotContent { tenants: (1..=tenants).map(tenant).collect(), ..SnapshotContent::default() };
    let mut manifest = Manifest { revision: Revision(revision), ..Manifest::default() };
    let mut chunks = Vec::new();
    for (place, part) in divide(content, |_| None) {
        let chunk = Chunk::encode(place, &part).unwrap();
        manifest.chunks.insert(place, (chunk.name.hash, chunk.name.length));
        chunks.push((chunk.name, chunk.bytes));
    }
    (manifest, chunks)
}

fn suppressions() -> Vec<u8> {
    let suppression = Suppression { tenant: TenantId(1), address: "a@b.example".into() };
    encode_snapshot(&SnapshotContent { suppressions: vec![suppression], ..SnapshotContent::default() })
}

fn open(data: &Path) -> (Feed, async_channel::Receiver<Letter>) {
    let (mesh, mut inboxes) = Mesh::new(1);
    (Feed::open(data, "", mesh).unwrap(), inboxes.remove(0))
}

fn revision(letters: &async_channel::Receiver<Letter>) -> Option<u64> {
    match letters.try_recv() {
        Ok(Letter::Snapshot(snapshot)) => Some(snapshot.revision.0),
        _ => None,
    }
}

#[test]
fn what_was_in_effect_is_in_effect_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, letters) = open(folder.path());
    assert_eq!(feed.snapshot().revision, Revision(0));
    for at in 1..=3 {
        let (manifest, chunks) = publication(at, 200);
        let manifest = feed.read(&encode_manifest(&Manifest { suppressions: 2, ..manifest })).unwrap();
        assert_eq!(feed.missing(&manifest).len(), if at == 1 { 4 } else { 1 });
        feed.apply(manifest, &chunks).unwrap();
        assert_eq!(revision(&letters), Some(at));
    }
    assert!(feed.status().suppressions_behind());
    feed.apply_suppressions(2, &suppressions()).unwrap();
    assert!(!feed.status().suppressions_behind());
    let seen = kept_snapshot(folder.path()).unwrap().expect("also while the node runs");
    assert_eq!((seen.revision, seen.tenants.len()), (Revision(3), 200));
    drop(feed);
    let (feed, _letters) = open(folder.path());
    assert_eq!((feed.snapshot().revision, feed.suppressions_version()), (Revision(3), 2));
    assert!(feed.snapshot().is_suppressed(TenantId(1), || "a@b.example".to_owned()));
    assert_eq!(feed.snapshot().tenants[&TenantId(1)].message_bytes_max, 1_027);
    assert_eq!(feed.manifest(), &Manifest { suppressions: 2, ..publication(3, 200).0 });
}

#[test]
fn what_names_suppressions_is_not_in_effect_after_a_restart_where_none_ever_came() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, _letters) = open(folder.path());
    assert_eq!(feed.status().withheld(), Some(Withheld::Configuration));
    let (manifest, chunks) = publication(1, 70);
    feed.apply(manifest.clone(), &chunks).unwrap();
    assert_eq!(feed.status().withheld(), None, "there are none");
    // As a host of an earlier version has it.
    let manifest =
        feed.read(&encode_manifest(&Manifest { revision: Revision(2), suppressions: 1, ..manifest })).unwrap();
    assert_eq!(feed.status().withheld(), None, "it had what there was: these are newer ones");
    feed.apply(manifest.clone(), &[]).unwrap();
    drop(feed);
    let (mut feed, _letters) = open(folder.path());
    let status = feed.status();
    assert_eq!((feed.snapshot().revision, status.withheld()), (Revision(0), Some(Withheld::Suppressions)));
    assert!(status.suppressions_behind(), "so they are fetched");
    status.missed_suppressions(1_000);
    status.missed_suppressions(5_000);
    assert_eq!(status.suppressions_missed_ms(6_000), 5_000);
    feed.apply_suppressions(1, &suppressions()).unwrap();
    assert_eq!((status.withheld(), status.suppressions_missed_ms(6_000)), (Some(Withheld::Configuration), 0));
    feed.apply(manifest, &chunks).unwrap();
    assert_eq!(status.withheld(), None);
    status.set_foreign(true);
    assert_eq!(status.withheld(), Some(Withheld::MasterKey));
    drop(feed);
    assert_eq!(open(folder.path()).0.snapshot().revision, Revision(2));
}

#[test]
fn an_advance_from_what_is_in_effect_leads_on_with_the_chunks_that_came_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, letters) = open(folder.path());
    let (former, chunks) = publication(1, 200);
    feed.apply(former.clone(), &chunks).unwrap();
    let (next, chunks) = publication(2, 200);
    let chunks: Vec<_> = chunks.into_iter().map(|(name, bytes)| Chunk { name, bytes }).collect();
    let hash = |manifest: &Manifest| ManifestHash::of(&encode_manifest(manifest));
    let advance = Advance::between(Some((hash(&former), &former)), (hash(&next), &next), &chunks);
    let (led, came) = (feed.advance(&advance), advance.chunks());
    assert_eq!((&led, came.len(), feed.status().revision_seen()), (&next, 1, 2));
    assert_eq!(feed.missing(&led), [came[0].0]);
    feed.apply(led, &came).unwrap();
    assert_eq!((revision(&letters), revision(&letters)), (Some(1), Some(2)));
    drop(feed);
    assert_eq!(open(folder.path()).0.manifest(), &next);
}

#[test]
fn what_is_in_effect_is_kept_over_a_kill_before_it_was_synced() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, letters) = open(folder.path());
    let (manifest, chunks) = publication(1, 200);
    feed.apply(manifest, &chunks).unwrap();
    assert_eq!(revision(&letters), Some(1));
    // As if it were killed: nothing of it runs any more.
    std::mem::forget(feed);
    assert_eq!(open(folder.path()).0.snapshot().revision, Revision(1));
}

#[test]
fn a_torn_publication_changes_nothing_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, letters) = open(folder.path());
    let (manifest, chunks) = publication(1, 200);
    feed.apply(manifest, &chunks).unwrap();
    assert_eq!(revision(&letters), Some(1));
    let (manifest, mut chunks) = publication(2, 400);
    chunks.pop();
    assert!(feed.apply(manifest, &chunks).is_err());
    assert!(feed.read(b"noise").is_err());
    assert_eq!((revision(&letters), feed.snapshot().revision, feed.status().refused()), (None, Revision(1), 2));
    drop(feed);
    assert_eq!(open(folder.path()).0.snapshot().revision, Revision(1));
}

#[test]
fn a_file_that_was_cut_anywhere_holds_the_last_whole_publication() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, _letters) = open(folder.path());
    let mut ends = Vec::new();
    let path = folder.path().join("published.log");
    for at in 1..=3 {
        let (manifest, chunks) = publication(at, 70);
        feed.apply(manifest, &chunks).unwrap();
        ends.push(std::fs::metadata(&path).unwrap().len());
    }
    drop(feed);
    let whole = std::fs::read(&path).unwrap();
    for cut in (0..=whole.len()).step_by(7).chain([whole.len()]) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let expected = ends.iter().filter(|end| **end <= cut as u64).count() as u64;
        let (mut feed, _letters) = open(folder.path());
        assert_eq!(feed.snapshot().revision, Revision(expected), "cut at {cut}");
        // What comes next is kept behind what was whole.
        let (manifest, chunks) = publication(9, 70);
        feed.apply(manifest, &chunks).unwrap();
        drop(feed);
        assert_eq!(open(folder.path()).0.snapshot().revision, Revision(9), "cut at {cut}");
    }
    for at in (0..whole.len()).step_by(11) {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        std::fs::write(&path, &damaged).unwrap();
        assert!(open(folder.path()).0.snapshot().revision < Revision(4), "damaged at {at}");
    }
}

#[test]
fn the_file_does_not_grow_with_the_number_of_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, _letters) = open(folder.path());
    let one = publication(1, 5_000).1.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() as u64;
    for at in 1..=400 {
        let (manifest, chunks) = publication(at, 5_000);
        feed.apply(manifest, &chunks).unwrap();
        match feed.is_long() {
            true => feed.compact().unwrap(),
            false => feed.unsynced().unwrap().expect("something was kept").sync().unwrap(),
        }
        assert!(feed.unsynced().unwrap().is_none(), "all is synced");
    }
    let length = std::fs::metadata(folder.path().join("published.log")).unwrap().len();
    assert!(length < 2 * one + 5 * 1024 * 1024, "{length} octets, of which {one} are in effect");
    drop(feed);
    assert_eq!(open(folder.path()).0.snapshot().revision, Revision(400));
}

#[test]
fn suppressions_of_any_other_version_are_fetched_and_newer_ones_than_were_named_are_those() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, _letters) = open(folder.path());
    let name = |feed: &Feed, version| {
        let manifest = Manifest { suppressions: version, ..publication(1, 1).0 };
        feed.read(&encode_manifest(&manifest)).unwrap();
        feed.status().suppressions_behind()
    };
    assert!(name(&feed, 6));
    feed.apply_suppressions(7, &suppressions()).unwrap();
    assert!(!feed.status().suppressions_behind() && !name(&feed, 7), "the answer had what was published since");
    assert!(name(&feed, 5), "the store has gone back");
    feed.apply_suppressions(5, &suppressions()).unwrap();
    assert!(!feed.status().suppressions_behind());
    assert!(name(&feed, 6), "and goes another way from there");
}
