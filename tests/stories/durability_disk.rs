//! Trouble with the disk: full, and damaged.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use postrail_tests::child::{run, try_run};
use postrail_tests::place::Place;
use postrail_tests::postrail::{Postrail, binary};
use postrail_tests::receiver::{Act, Receiver, Stage};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::{ZONE, job, job_id};

/// A small file system of its own, in a file; unmounted with this value.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(place: &Place, bytes: u64) -> Self {
        let image = place.join("disk.image");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image can be made");
        // Nothing reserved for root, so that what the file system says is full is full for us, too.
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        let at = place.join("disk");
        std::fs::create_dir_all(&at).expect("a folder can be made");
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        let _ = std::fs::remove_dir(at.join("lost+found"));
        Self { at }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

#[test]
fn the_demo_on_a_full_disk_says_so_at_once() {
    let place = Place::new("demo-full-disk");
    let disk = SmallDisk::mount(&place, 512 * 1024 * 1024);
    fill(&disk.at.join("filler"), &disk.at, 94);
    let begun = Instant::now();
    let (status, text) = try_run(Command::new(binary()).args(["demo", "--mails", "100"]).env("TMPDIR", &disk.at));
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("no mail would be accepted") && text.contains("full"), "{text}");
    assert!(text.contains(&disk.at.display().to_string()), "the place is named: {text}");
    assert!(begun.elapsed() < Duration::from_secs(5), "at once: {:?}", begun.elapsed());
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let place = Place::new("full-disk");
    let disk = SmallDisk::mount(&place, 1536 * 1024 * 1024);
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    let resolver = names.address().to_string();
    let data = disk.at.join("data");
    let options = ["--resolver", resolver.as_str(), "--shards", "2"];
    let mut postrail = Postrail::start_at(&place, &data, &options);
    postrail.route("*", receiver.address().port());
    postrail.control_ok("PATCH", "/v2/tenants/default", Some(&json!({"quota_per_day": 1_000_000})));
    postrail.settled_configuration();
    let id = job_id(&postrail.submit(&job("before@receiver.test")));
    postrail.wait_for_state(&id, "delivered");

    let filler = disk.at.join("filler");
    fill(&filler, &disk.at, 93);
    wait::until("REST to say 507", || {
        let (status, body) = postrail.submit(&job("full@receiver.test"));
        assert!([202, 507].contains(&status), "{status} {body}");
        (status == 507).then_some(())
    });
    // Each shard looks at the disk for itself.
    wait::until("every shard to refuse", || {
        let refused = (0..20).all(|_| postrail.submit(&job("full@receiver.test")).0 == 507);
        refused.then_some(())
    });
    let (accepted, transcript) = postrail.swaks(&["--from", "a@sender.test", "--to", "full@receiver.test"]);
    assert!(!accepted && transcript.contains("452 4.3.1"), "{transcript}");
    let ready = postrail.admin_get("/readyz");
    assert!(ready.0 == 503 && ready.1.contains("full"), "{ready:?}");
    let told = ready.1.split("% full").next().and_then(|before| before.rsplit(' ').next()?.parse::<u64>().ok());
    let of_df = run(Command::new("df").arg("--output=pcent").arg(&disk.at));
    let of_df = of_df.split_whitespace().find_map(|word| word.strip_suffix('%')?.parse::<u64>().ok());
    let (told, of_df) = told.zip(of_df).expect("both tell a number");
    assert!(told.abs_diff(of_df) <= 1, "{told}% here, {of_df}% by df");
    let waiting = postrail.metric("postrail_waiting_recipients");
    wait::until("what was accepted to go out while the disk is full", || {
        (postrail.metric("postrail_waiting_recipients") == 0).then_some(())
    });
    println!("{waiting} recipients waited while the disk was full");

    std::fs::remove_file(&filler).expect("removable");
    wait::until("the server to be ready by itself", || (postrail.admin_get("/readyz").0 == 200).then_some(()));
    let id = job_id(&postrail.submit(&job("after@receiver.test")));
    postrail.wait_for_state(&id, "delivered");
    let accepted = postrail.metric("postrail_accepted_recipients_total");
    let used = postrail.host_metric("postrail_quota_own_recipients");
    assert_eq!(used, accepted, "what the disk refused uses no quota up");
    assert_eq!(postrail.drain().code(), Some(0));
}

/// Takes room in `filler` until so many percent of the disk are used.
fn fill(filler: &Path, disk: &Path, percent: u64) {
    let text = run(Command::new("df").args(["--output=size,used", "-B1"]).arg(disk));
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [size, used] = numbers[..] else { panic!("df: {text}") };
    let more = (size * percent / 100).saturating_sub(used);
    run(Command::new("fallocate").args(["-l", &more.to_string()]).arg(filler));
}

#[test]
fn a_corrupt_segment_is_set_aside_and_the_rest_goes_on() {
    let place = Place::new("corrupt");
    let names = NameServer::start(&place, &[ZONE]);
    let receiver = Receiver::local();
    receiver.script(Stage::Rcpt, Act::Say("450 4.2.0 Later\r\n".to_owned()), usize::MAX);
    let resolver = names.address().to_string();
    let mut postrail = Postrail::start_with(&place, &["--resolver", &resolver, "--shards", "1"]);
    postrail.route("*", receiver.address().port());
    let mut jobs = Vec::new();
    for number in 0..20 {
        jobs.push(job_id(&postrail.submit(&job(&format!("corrupt+{number}@receiver.test")))));
    }
    for id in &jobs {
        postrail.wait_for_state(id, "deferred");
    }
    assert_eq!(postrail.drain().code(), Some(0));
    let segment = segment_with(postrail.data(), "corrupt+10@receiver.test");
    flip(&segment, "corrupt+10@receiver.test");
    let before = postrail.output().len();
    postrail.start_again();
    wait::until("the damage to be reported", || {
        let output = postrail.output();
        (output[before..].contains("damaged") && postrail.metric("postrail_spool_damaged") > 0).then_some(())
    });
    wait::until("the rest to be back", || (postrail.metric("postrail_waiting_recipients") == 19).then_some(()));
    receiver.script(Stage::Rcpt, Act::Wait(Duration::ZERO), usize::MAX);
    postrail.control_ok("POST", "/v2/queue/retry", Some(&json!({})));
    let arrived = receiver.wait_for(19);
    assert!(!arrived.iter().any(|mail| mail.rcpt[0].contains("corrupt+10@")), "the damaged job is not guessed");
    let id = job_id(&postrail.submit(&job("new@receiver.test")));
    postrail.wait_for_state(&id, "delivered");
    assert_eq!(postrail.drain().code(), Some(0));
    postrail.start_again();
    wait::until("the damage to be remembered", || (postrail.metric("postrail_spool_damaged") > 0).then_some(()));
    let kept = files(&postrail.data().join("spool")).iter().any(|path| path.to_string_lossy().contains("damaged"));
    assert!(kept, "the damaged segment is kept for the operator: {:?}", files(&postrail.data().join("spool")));
}

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn position(octets: &[u8], text: &str) -> Option<usize> {
    octets.windows(text.len()).position(|window| window == text.as_bytes())
}

/// The spool segment that holds `text`.
fn segment_with(data: &Path, text: &str) -> PathBuf {
    let holds = |path: &PathBuf| position(&std::fs::read(path).unwrap_or_default(), text).is_some();
    files(&data.join("spool")).into_iter().find(holds).unwrap_or_else(|| panic!("a segment holds {text}"))
}

/// Inverts eight octets at the place of `text`.
fn flip(segment: &Path, text: &str) {
    let octets = std::fs::read(segment).expect("readable");
    let at = position(&octets, text).expect("the text is there");
    let inverted: Vec<u8> = octets[at..at + 8].iter().map(|octet| !octet).collect();
    let file = File::options().write(true).open(segment).expect("writable");
    file.write_all_at(&inverted, at as u64).and_then(|()| file.sync_all()).expect("writable");
}
