//! What the simulated disk keeps over crashes.

use std::collections::BTreeSet;

use postrail_data_plane::platform::Platform;

use super::*;
use crate::{NodeId, Settings, Sim, SimPlatform};

fn world(seed: u64, disk: DiskFaults) -> (Sim, NodeId) {
    let sim = Sim::new(&Settings { seed, disk, ..Settings::default() });
    let node = sim.add_node(&[]);
    (sim, node)
}

/// Makes `spool/a` of four blocks, with the first synced as ones, the second written as twos and not synced.
async fn prepare(platform: SimPlatform) {
    let disk = platform.disk();
    disk.create_dir(Path::new("spool")).await.unwrap();
    let file = disk.open(Path::new("spool/a"), Some(4 * BLOCK_BYTES as u64)).await.unwrap();
    disk.sync_dir(Path::new("spool")).await.unwrap();
    let mut ones = file.buffer(BLOCK_BYTES);
    ones.fill(1);
    file.write(0, ones).await.unwrap();
    file.sync().await.unwrap();
    let mut twos = file.buffer(BLOCK_BYTES);
    twos.fill(2);
    file.write(BLOCK_BYTES as u64, twos).await.unwrap();
}

async fn content(platform: SimPlatform) -> Vec<u8> {
    let file = platform.disk().open(Path::new("spool/a"), None).await.unwrap();
    file.read(0, 1 << 20).await.unwrap()
}

#[test]
fn synced_blocks_survive_and_unsynced_ones_tear_at_sectors() {
    let mut survivors = BTreeSet::new();
    for seed in 0..100 {
        let (sim, node) = world(seed, DiskFaults::default());
        sim.run(node, prepare(sim.platform(node))).unwrap();
        sim.crash(node);
        let content = sim.run(node, content(sim.platform(node))).unwrap();
        let (durable, rest) = content.split_at(BLOCK_BYTES);
        assert!(durable.iter().all(|octet| *octet == 1), "seed {seed}: a synced block changed");
        let (torn, untouched) = rest.split_at(BLOCK_BYTES);
        assert!(untouched.len() == 2 * BLOCK_BYTES && untouched.iter().all(|octet| *octet == 0));
        let sectors: Vec<_> = torn.chunks(512).collect();
        assert!(sectors.iter().all(|sector| **sector == [0; 512] || **sector == [2; 512]), "seed {seed}: torn inside");
        survivors.insert(sectors.iter().filter(|sector| sector[0] == 2).count());
    }
    assert!(survivors.len() > 4, "only {survivors:?} sectors ever survived");
    assert!(survivors.contains(&0) && survivors.contains(&8));
}

#[test]
fn names_are_durable_after_the_sync_of_their_folder_and_a_rename_is_whole() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..60 {
        let (sim, node) = world(seed, DiskFaults::default());
        let platform = sim.platform(node);
        let (a, b) = (Path::new("spool/a"), Path::new("spool/b"));
        let work = async move {
            prepare(platform.clone()).await;
            let disk = platform.disk();
            disk.rename(a, b).await.unwrap();
            disk.open(Path::new("spool/c"), Some(1)).await.unwrap();
            assert_eq!(disk.list(Path::new("spool")).await.unwrap(), ["b", "c"]);
        };
        sim.run(node, work).unwrap();
        sim.crash(node);
        let platform = sim.platform(node);
        let names = sim.run(node, async move { platform.disk().list(Path::new("spool")).await.unwrap() }).unwrap();
        outcomes.insert(names);
    }
    let expected = [vec!["a"], vec!["b"], vec!["b", "c"]];
    assert_eq!(outcomes, expected.map(|names| names.into_iter().map(str::to_owned).collect()).into());
}

#[test]
fn a_small_file_is_the_old_or_the_new_one_wherever_the_crash_falls() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let (sim, node) = world(seed, DiskFaults::default());
        let platform = sim.platform(node);
        let cursor = Path::new("journal/cursor");
        let first = platform.clone();
        let old = async move {
            first.disk().create_dir(Path::new("journal")).await.unwrap();
            first.disk().write_file(cursor, b"old").await.unwrap();
        };
        sim.run(node, old).unwrap();
        let writing = platform.clone();
        platform.spawn("writer", async move { writing.disk().write_file(cursor, b"new").await.unwrap() });
        sim.run_until(sim.now() + Duration::from_micros(seed * 40)).unwrap();
        sim.crash(node);
        let platform = sim.platform(node);
        outcomes.insert(sim.run(node, async move { platform.disk().read_file(cursor).await.unwrap() }).unwrap());
    }
    assert_eq!(outcomes, [b"old".to_vec(), b"new".to_vec()].into());
}

#[test]
fn writes_before_a_failed_sync_are_not_made_durable_by_the_next() {
    let mut lost = 0;
    for seed in 0..50 {
        let (sim, node) = world(seed, DiskFaults::default());
        sim.run(node, prepare(sim.platform(node))).unwrap();
        sim.set_disk_faults(node, DiskFaults { sync_errors_per_million: 1_000_000, ..DiskFaults::default() });
        let platform = sim.platform(node);
        let failing = async move {
            let file = platform.disk().open(Path::new("spool/a"), None).await.unwrap();
            assert_eq!(file.sync().await.unwrap_err().raw_os_error(), Some(EIO));
        };
        sim.run(node, failing).unwrap();
        sim.set_disk_faults(node, DiskFaults::default());
        let platform = sim.platform(node);
        let again = async move {
            let file = platform.disk().open(Path::new("spool/a"), None).await.unwrap();
            file.sync().await.unwrap();
            file.read(BLOCK_BYTES as u64, 1).await.unwrap()
        };
        assert_eq!(sim.run(node, again).unwrap(), [2], "a lost page is still seen");
        sim.crash(node);
        let content = sim.run(node, content(sim.platform(node))).unwrap();
        lost += usize::from(content[BLOCK_BYTES..2 * BLOCK_BYTES].contains(&0));
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_full_disk_and_a_failing_one_say_so() {
    let faults = DiskFaults { capacity_bytes: 4 * BLOCK_BYTES as u64, ..DiskFaults::default() };
    let (sim, node) = world(1, faults);
    let platform = sim.platform(node);
    let work = async move {
        prepare(platform.clone()).await;
        let disk = platform.disk();
        let full = disk.open(Path::new("spool/b"), Some(1)).await.err().unwrap();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let usage = disk.usage(Path::new("spool")).await.unwrap();
        assert_eq!(usage, DiskUsage { used_percent: 100, free_bytes: 0 });
    };
    sim.run(node, work).unwrap();
    sim.set_disk_faults(node, DiskFaults { write_errors_per_million: 1_000_000, ..DiskFaults::default() });
    let platform = sim.platform(node);
    let work = async move {
        let file = platform.disk().open(Path::new("spool/a"), None).await.unwrap();
        file.write(0, file.buffer(1)).await.unwrap_err().raw_os_error()
    };
    assert_eq!(sim.run(node, work).unwrap(), Some(EIO));
}
