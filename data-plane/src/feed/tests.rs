//! Publications in effect, and what is left of them after every way to end.

use postrail_schema::ids::{Revision, TenantId};
use postrail_schema::publication::{Chunk, ManifestHash, divide};
use postrail_schema::snapshot::{SnapshotContent, Suppression, Tenant};
use postrail_schema::suppressions::{SuppressionDelta, SuppressionTotal, Suppressions};
use postrail_schema::wire::{encode_manifest, encode_snapshot, encode_suppression_delta};

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

fn suppression(address: &str) -> Suppression {
    Suppression { tenant: TenantId(1), address: address.into() }
}

fn whole(version: u64, at: Option<SuppressionPoint>, addresses: &[&str]) -> SuppressionAnswer {
    let suppressions: Vec<_> = addresses.iter().map(|address| suppression(address)).collect();
    let total = at.map(|_| suppressions.iter().cloned().collect::<Suppressions>().total());
    let octets = encode_snapshot(&SnapshotContent { suppressions, ..SnapshotContent::default() });
    SuppressionAnswer { asked: version, version, at, since: None, total, octets }
}

/// What leads to the list of `addresses`.
fn changes(version: u64, since: u64, added: &[&str], removed: &[&str], addresses: &[&str]) -> SuppressionAnswer {
    let list = |addresses: &[&str]| addresses.iter().map(|address| suppression(address)).collect();
    let octets = encode_suppression_delta(&SuppressionDelta { added: list(added), removed: list(removed) });
    let since_last = (added.len() + removed.len()) as u64;
    SuppressionAnswer { since: Some(since), octets, ..whole(version, point(since + since_last), addresses) }
}

fn point(sequence: u64) -> Option<SuppressionPoint> {
    Some(SuppressionPoint { ledger: 7, sequence })
}

fn take(feed: &mut Feed, answer: SuppressionAnswer) {
    let update = feed.suppressions().take(answer).unwrap();
    feed.apply_suppressions(update).unwrap();
}

fn listed(feed: &Feed) -> Vec<String> {
    feed.suppressions().iter().map(|suppression| suppression.address).collect()
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
    take(&mut feed, whole(2, None, &["a@b.example"]));
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
    take(&mut feed, whole(1, None, &["a@b.example"]));
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
    take(&mut feed, SuppressionAnswer { asked: 6, ..whole(7, None, &[]) });
    assert!(!feed.status().suppressions_behind() && !name(&feed, 7), "the answer had what was published since");
    assert!(name(&feed, 5), "the store has gone back");
    take(&mut feed, whole(5, None, &[]));
    assert!(!feed.status().suppressions_behind());
    assert!(name(&feed, 6), "and goes another way from there");
}

#[test]
fn changes_of_suppressions_are_in_effect_and_kept_without_the_list_being_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, letters) = open(folder.path());
    let many: Vec<_> = (0..2_000).map(|n| format!("{n:04}@b.example")).collect();
    let mut list: Vec<_> = many.iter().map(String::as_str).collect();
    take(&mut feed, whole(1, point(10), &list));
    assert_eq!(revision(&letters), Some(0), "shards have it");
    let length = || std::fs::metadata(folder.path().join("published.log")).unwrap().len();
    let before = length();
    list[0] = "0000@c.example";
    list.remove(9);
    let answer = changes(2, 10, &["0000@c.example"], &["0000@b.example", "0009@b.example"], &list);
    take(&mut feed, answer.clone());
    assert_eq!((revision(&letters), listed(&feed)), (Some(0), list.iter().map(|&one| one.to_owned()).collect()));
    assert_eq!((feed.status().suppressions_count(), feed.suppressions().at()), (1_999, point(13)));
    // The same again is about another list; nothing new is no work for shards.
    assert!(matches!(feed.suppressions().take(answer), Err(SuppressionError::Unrelated)));
    take(&mut feed, changes(3, 13, &[], &[], &list));
    assert_eq!((revision(&letters), feed.suppressions_version()), (None, 3));
    assert!(length() - before < 1_024, "{} octets", length() - before);

    for compact in [false, true] {
        if compact {
            feed.compact().unwrap();
            assert!(length() < before + 100, "what was removed is gone");
        }
        drop(feed);
        feed = open(folder.path()).0;
        assert_eq!(listed(&feed), list, "compacted: {compact}");
        assert_eq!((feed.suppressions_version(), feed.suppressions().at()), (3, point(13)));
    }
}

#[test]
fn a_list_that_has_drifted_is_found_and_changes_of_another_ledger_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, _letters) = open(folder.path());
    let answer = changes(1, 10, &["b@b.example"], &[], &["b@b.example"]);
    let unrelated = |taken| matches!(taken, Err(SuppressionError::Unrelated));
    assert!(unrelated(feed.suppressions().take(answer.clone())), "there is none yet");
    take(&mut feed, whole(1, None, &[]));
    assert!(unrelated(feed.suppressions().take(answer.clone())), "that of an earlier version has no point");
    take(&mut feed, whole(1, point(10), &["a@b.example"]));
    let other = SuppressionAnswer { at: Some(SuppressionPoint { ledger: 8, sequence: 11 }), ..answer.clone() };
    assert!(unrelated(feed.suppressions().take(other)));
    // The ledger has no "a", so it is not as this host has it.
    let drifted = feed.suppressions().take(answer.clone());
    assert!(matches!(drifted, Err(SuppressionError::Drifted { found: 2, wanted: 1 })), "{drifted:?}");
    assert_eq!(listed(&feed), ["a@b.example"], "nothing has changed");
    // One that cannot be compared yet is taken; and a whole list that is not what it should be, without a point.
    let taken = feed.suppressions().take(SuppressionAnswer { total: None, ..answer }).unwrap();
    assert_eq!((taken.is_compared(), taken.is_whole()), (Some(false), false));
    let wrong = SuppressionAnswer { total: Some(SuppressionTotal { count: 9, sum: 1 }), ..whole(2, point(11), &[]) };
    let taken = feed.suppressions().take(wrong).unwrap();
    assert_eq!((taken.is_compared(), taken.is_whole()), (None, true));
    let noise = SuppressionAnswer { octets: b"noise".to_vec(), ..changes(2, 10, &[], &[], &[]) };
    assert!(matches!(feed.suppressions().take(noise), Err(SuppressionError::Wire(_))));
}

#[test]
fn a_file_that_was_cut_anywhere_has_suppressions_with_the_version_and_point_that_are_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let (mut feed, _letters) = open(folder.path());
    take(&mut feed, whole(1, point(10), &["a@b.example"]));
    take(&mut feed, changes(2, 10, &["b@b.example"], &[], &["a@b.example", "b@b.example"]));
    take(&mut feed, changes(3, 11, &[], &["a@b.example"], &["b@b.example"]));
    drop(feed);
    let path = folder.path().join("published.log");
    let file = std::fs::read(&path).unwrap();
    let mut states = Vec::new();
    for cut in 0..=file.len() {
        std::fs::write(&path, &file[..cut]).unwrap();
        let feed = open(folder.path()).0;
        states.push((
            feed.suppressions_version(),
            feed.suppressions().at().map(|at| at.sequence),
            listed(&feed).concat(),
        ));
        states.dedup();
    }
    let wanted = [
        (0, None, ""),
        (1, None, "a@b.example"),
        (1, Some(10), "a@b.example"),
        (2, Some(11), "a@b.exampleb@b.example"),
        (3, Some(12), "b@b.example"),
    ];
    assert!(states.iter().map(|(version, at, list)| (*version, *at, list.as_str())).eq(wanted), "{states:?}");
}
