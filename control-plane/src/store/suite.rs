//! What every store must do, asked of the embedded one and of a real etcd alike.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// An etcd of one member in a temporary folder, on free ports; it ends with its owner.
pub(crate) struct Etcd {
    child: Option<Child>,
    folder: tempfile::TempDir,
    client: String,
    peer: String,
    further: Vec<String>,
}

impl Etcd {
    pub(crate) fn start(further: &[&str]) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let scheme = if further.iter().any(|option| option.contains("cert-file")) { "https" } else { "http" };
        let (client, peer) = (format!("{scheme}://{}", free()), format!("http://{}", free()));
        let further = further.iter().map(|option| (*option).to_owned()).collect();
        let mut etcd = Self { child: None, folder: tempfile::tempdir().unwrap(), client, peer, further };
        etcd.start_again();
        etcd
    }

    /// On the same data and ports.
    pub(crate) fn start_again(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("etcd.log")).unwrap();
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.folder.path().join("data")).arg("--unsafe-no-fsync");
        command.args(["--listen-client-urls", &self.client, "--advertise-client-urls", &self.client]);
        command.args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer]);
        command.args(["--initial-cluster", &format!("default={}", self.peer)]).args(&self.further);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(spawned.expect("etcd is installed (Debian: etcd-server)"));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions { endpoints: vec![self.client.clone()], root: "/postrail/t/".into(), tls: None, user: None }
    }

    pub(crate) fn store(&self) -> EtcdStore {
        let store = EtcdStore::open(&self.options()).unwrap();
        eventually("etcd answers", || store.list("").ok());
        store
    }

    /// etcd's own client, as its operator.
    pub(crate) fn control(&self, arguments: &[&str]) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.client]).args(arguments);
        let done = command.output().expect("etcdctl is installed (Debian: etcd-client)");
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `test` on each kind of store, empty.
fn each(test: impl Fn(&dyn ConfigStore)) {
    let folder = tempfile::tempdir().unwrap();
    test(&EmbeddedStore::open(&folder.path().join("config.db")).unwrap());
    test(&Etcd::start(&[]).store());
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

fn guard(key: &str, revision: u64) -> Guard {
    Guard { key: key.into(), revision }
}

fn keys(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|entry| entry.key.as_str()).collect()
}

/// The harness's own patience: looks until there is something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Every event until one changes `key`; signs of life are left out.
fn until_key(watch: &mut Watch, key: &str) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    loop {
        let event = watch.events.blocking_recv().expect("the watch goes on");
        if event == WatchEvent::Alive {
            continue;
        }
        let is_last =
            matches!(&event, WatchEvent::Changes { changes, .. } if changes.iter().any(|change| change.key == key));
        events.push(event);
        if is_last {
            return events;
        }
    }
}

fn changed(events: &[WatchEvent]) -> Vec<(String, Option<String>)> {
    let changes = events.iter().filter_map(|event| match event {
        WatchEvent::Changes { changes, .. } => Some(changes.clone()),
        _ => None,
    });
    let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
    changes.flatten().map(|change| (change.key, change.value.map(text))).collect()
}

#[test]
fn a_guard_that_fails_keeps_the_whole_transaction_out() {
    each(|store| {
        let first = store.txn(&[guard("a", 0)], &[put("a", "1")]).unwrap();
        let refused = store.txn(&[guard("a", 0)], &[put("a", "2"), put("b", "2")]);
        assert!(matches!(refused, Err(StoreError::Conflict { key }) if key == "a"));
        let listing = store.list("").unwrap();
        assert_eq!(listing.entries, [Entry { key: "a".into(), value: b"1".into(), revision: first }]);
        let second = store.txn(&[guard("a", first), guard("c", 0)], &[put("a", "2"), delete("c")]).unwrap();
        assert!(second > first);
        assert_eq!(store.list("").unwrap().revision, second);
    });
}

#[test]
fn a_prefix_is_no_pattern_and_a_listing_is_whole_and_in_order() {
    each(|store| {
        store.txn(&[], &[put("a%/1", ""), put("ab/1", ""), put("A%/2", ""), put("b", "")]).unwrap();
        assert_eq!(keys(&store.list("a%").unwrap()), ["a%/1"]);
        let many: Vec<_> = (0..500).map(|n| put(&format!("many/{n:03}"), "x")).collect();
        for some in many.chunks(100) {
            store.txn(&[], some).unwrap();
        }
        let listing = store.list("many/").unwrap();
        assert_eq!(listing.entries.len(), 500, "over several pages");
        assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key));
        let bare = store.list_keys("many/").unwrap();
        assert_eq!((bare.revision, keys(&bare)), (listing.revision, keys(&listing)));
        assert!(bare.entries.iter().all(|entry| entry.value.is_empty()));
    });
}

#[test]
fn named_keys_are_read_at_once_and_what_is_not_there_is_left_out() {
    each(|store| {
        let revision = store.txn(&[], &[put("x", "1"), put("y", "2"), put("z", "3")]).unwrap();
        let listing = store.get(&["z".into(), "none".into(), "x".into()]).unwrap();
        assert_eq!((listing.revision, keys(&listing)), (revision, vec!["x", "z"]));
        assert_eq!(listing.entries[1].value, b"3");
    });
}

#[test]
fn a_watch_tells_each_change_under_its_prefix_once_and_in_order() {
    each(|store| {
        let after = store.txn(&[], &[put("w/old", "0"), put("v", "0")]).unwrap();
        let mut watch = store.watch("w/", after);
        store.txn(&[], &[put("w/a", "1"), put("v", "1")]).unwrap();
        store.txn(&[], &[put("w/a", "2"), delete("w/old")]).unwrap();
        let last = store.txn(&[], &[put("w/end", "")]).unwrap();
        let events = until_key(&mut watch, "w/end");
        assert!(matches!(events.last(), Some(WatchEvent::Changes { revision, .. }) if *revision == last));
        let mut told = changed(&events);
        // Within one transaction the order is the store's.
        told[1..3].sort();
        let some = |text: &str| Some(text.to_owned());
        let expected = [("w/a", some("1")), ("w/a", some("2")), ("w/old", None), ("w/end", some(""))];
        assert_eq!(told, expected.map(|(key, value)| (key.to_owned(), value)));
    });
}

#[test]
fn a_key_is_held_while_its_hold_lives_and_gone_when_it_is_dropped() {
    each(|store| {
        let mut watch = store.watch("hosts/", store.list("").unwrap().revision);
        let hold = store.hold("hosts/a", b"1", Duration::from_secs(3));
        assert_eq!(changed(&until_key(&mut watch, "hosts/a")), [("hosts/a".to_owned(), Some("1".to_owned()))]);
        eventually("it knows", || hold.is_held().then_some(()));
        drop(hold);
        assert_eq!(changed(&until_key(&mut watch, "hosts/a")), [("hosts/a".to_owned(), None)]);
    });
}

#[test]
fn of_two_who_want_a_key_the_second_gets_it_when_the_first_lets_go() {
    let etcd = Etcd::start(&[]);
    let (one, two) = (etcd.store(), etcd.store());
    let first = one.hold("election/leader", b"one", Duration::from_secs(3));
    eventually("the first leads", || first.is_held().then_some(()));
    let second = two.hold("election/leader", b"two", Duration::from_secs(3));
    assert_eq!(one.list("election/").unwrap().entries[0].value, b"one");
    assert!(!second.is_held());
    drop(first);
    eventually("the second leads", || second.is_held().then_some(()));
    assert_eq!(one.list("election/").unwrap().entries[0].value, b"two");
}

#[test]
fn a_holder_that_cannot_renew_knows_before_the_key_is_gone() {
    let mut etcd = Etcd::start(&[]);
    let store = etcd.store();
    let hold = store.hold("election/leader", b"one", Duration::from_secs(2));
    eventually("it leads", || hold.is_held().then_some(()));
    etcd.kill();
    let cut = Instant::now();
    eventually("it knows", || (!hold.is_held()).then_some(()));
    assert!(cut.elapsed() < Duration::from_secs(3), "{:?}", cut.elapsed());
    etcd.start_again();
    eventually("it leads again", || hold.is_held().then_some(()));
}

#[test]
fn a_watch_goes_on_where_it_was_when_etcd_comes_back() {
    let mut etcd = Etcd::start(&[]);
    let store = etcd.store();
    let mut watch = store.watch("w/", store.list("").unwrap().revision);
    store.txn(&[], &[put("w/a", "1")]).unwrap();
    until_key(&mut watch, "w/a");
    etcd.kill();
    assert!(store.txn(&[], &[put("w/a", "2")]).is_err());
    etcd.start_again();
    let other = etcd.store();
    other.txn(&[], &[put("w/b", "3")]).unwrap();
    other.txn(&[], &[put("w/c", "4")]).unwrap();
    let events = until_key(&mut watch, "w/c");
    assert!(events.contains(&WatchEvent::Lost), "{events:?}");
    let told = changed(&events);
    // The write that was refused may have reached a disk; the others are told once each.
    assert_eq!(told.iter().filter(|(key, _)| key != "w/a").count(), 2, "{told:?}");
}

#[test]
fn a_watch_of_an_etcd_that_has_lost_what_it_told_ends() {
    let mut etcd = Etcd::start(&[]);
    let store = etcd.store();
    let last = (0..20).fold(0, |_, n| store.txn(&[], &[put("w/a", &n.to_string())]).unwrap());
    let mut watch = store.watch("w/", last);
    store.txn(&[], &[put("w/b", "1")]).unwrap();
    until_key(&mut watch, "w/b");
    etcd.kill();
    std::fs::remove_dir_all(etcd.folder.path().join("data")).unwrap();
    etcd.start_again();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ended = async { while watch.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends");
    });
}

#[test]
fn a_watch_that_a_compaction_has_overtaken_ends() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store();
    let begun = store.list("").unwrap().revision;
    let last = (0..20).fold(0, |_, n| store.txn(&[], &[put("w/a", &n.to_string())]).unwrap());
    etcd.control(&["compact", &last.to_string()]);
    let mut watch = store.watch("w/", begun);
    while let Some(event) = watch.events.blocking_recv() {
        assert_eq!(event, WatchEvent::Alive);
    }
    // From the present revision on it works.
    let mut watch = store.watch("w/", store.list("w/").unwrap().revision);
    store.txn(&[], &[put("w/b", "")]).unwrap();
    assert_eq!(changed(&until_key(&mut watch, "w/b")).len(), 1);
}

#[test]
fn what_is_larger_than_a_transaction_of_etcd_is_refused_before_it_is_sent() {
    let etcd = Etcd::start(&[]);
    let store = etcd.store();
    let many: Vec<_> = (0..129).map(|n| put(&format!("k/{n}"), "")).collect();
    assert!(matches!(store.txn(&[], &many), Err(StoreError::TooLarge { operations: 129, .. })));
    assert!(store.txn(&[], &many[..128]).is_ok(), "what etcd takes is taken");
    let large = Write::Put { key: "l".into(), value: vec![0; 1_500_000] };
    assert!(matches!(store.txn(&[], &[large]), Err(StoreError::TooLarge { .. })));
    let largest = postrail_schema::limits::ETCD_REQUEST_BYTES_MAX - 100;
    store.txn(&[], &[Write::Put { key: "l".into(), value: vec![7; largest] }]).unwrap();
    assert_eq!(store.get(&["l".into()]).unwrap().entries[0].value.len(), largest);
}

#[test]
fn a_call_ends_in_time_where_nothing_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = vec![format!("http://{}", listener.local_addr().unwrap())];
    let store =
        EtcdStore::open(&EtcdOptions { endpoints, root: "/postrail/t/".into(), tls: None, user: None }).unwrap();
    let begun = Instant::now();
    assert!(store.list("").is_err());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

/// A way to etcd that can be stuck: connections are taken, and nothing comes through. Or it is a long one.
struct Door {
    address: SocketAddr,
    is_stuck: Arc<AtomicBool>,
    is_long: Arc<AtomicBool>,
}

impl Door {
    fn new(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (is_stuck, is_long) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let address = listener.local_addr().unwrap();
        let door = Self { address, is_stuck: Arc::clone(&is_stuck), is_long: Arc::clone(&is_long) };
        let to = etcd.client.trim_start_matches("http://").to_owned();
        // Threads end with the test's process.
        std::thread::spawn(move || {
            for inside in listener.incoming().map_while(Result::ok) {
                let Ok(outside) = TcpStream::connect(&to) else { continue };
                for (from, to) in [(&inside, &outside), (&outside, &inside)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (is_stuck, is_long) = (Arc::clone(&is_stuck), Arc::clone(&is_long));
                    std::thread::spawn(move || relay(from, to, &is_stuck, &is_long));
                }
            }
        });
        door
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, is_stuck: &AtomicBool, is_long: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    loop {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                while is_stuck.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                if is_long.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_member_that_is_stuck_costs_one_call_its_patience_and_no_key_that_is_held() {
    let etcd = Etcd::start(&[]);
    etcd.store();
    let doors = [Door::new(&etcd), Door::new(&etcd)];
    let endpoints = doors.iter().map(|door| format!("http://{}", door.address)).collect();
    let store = EtcdStore::open(&EtcdOptions { endpoints, ..etcd.options() }).unwrap();
    let lease = Duration::from_secs(3);
    let hold = store.hold("hosts/a", b"1", lease);
    eventually("it is held", || hold.is_held().then_some(()));
    let written = || etcd.store().get(&["hosts/a".into()]).unwrap().entries[0].revision;
    let (first, hasty) = (written(), store.within(Duration::from_secs(1)));
    for door in &doors {
        door.is_stuck.store(true, Ordering::Relaxed);
        let (stuck, mut failed) = (Instant::now(), 0);
        while stuck.elapsed() < 2 * lease {
            let asked = Instant::now();
            failed += u32::from(hasty.txn(&[], &[put("a", "1")]).is_err());
            hasty.list("").unwrap();
            assert!(asked.elapsed() < Duration::from_millis(2_500), "{:?}", asked.elapsed());
            assert!(hold.is_held(), "the lease is renewed by the other, {:?} after", stuck.elapsed());
        }
        assert!(failed <= 1, "{failed} writes were given up");
        door.is_stuck.store(false, Ordering::Relaxed);
    }
    assert_eq!(written(), first, "it was held all the while");
}

#[test]
fn a_listing_whose_pages_come_one_by_one_is_read_however_many_there_are() {
    let etcd = Etcd::start(&[]);
    let near = etcd.store();
    let door = Door::new(&etcd);
    let endpoints = vec![format!("http://{}", door.address)];
    let mut far = EtcdStore::open(&EtcdOptions { endpoints, ..etcd.options() }).unwrap();
    let all: Vec<_> = (0..3_000).map(|n| put(&format!("desired/tenants/{n}"), "tenant")).collect();
    for some in all.chunks(128) {
        near.txn(&[], some).unwrap();
    }
    assert_eq!(far.list("desired/").unwrap().entries.len(), all.len());
    far.patience = Duration::from_millis(1_500);
    door.is_long.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    assert_eq!(far.list("desired/").unwrap(), near.list("desired/").unwrap());
    assert!(begun.elapsed() > far.patience, "one page was in time, and not all: {:?}", begun.elapsed());
    // Who says how long it may take is answered by then.
    let begun = Instant::now();
    assert!(matches!(far.within(far.patience).list("desired/"), Err(StoreError::Timeout { .. })));
    assert!(begun.elapsed() < 2 * far.patience, "{:?}", begun.elapsed());
    door.is_stuck.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    assert!(far.list("desired/").is_err());
    assert!(begun.elapsed() < 2 * far.patience, "a page that does not come: {:?}", begun.elapsed());
}

#[test]
fn a_cluster_with_tls_is_reached_by_who_has_its_certificates_only() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(at("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(at(&format!("{name}.pem")), certificate.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(at(&format!("{name}.key")), key.serialize_pem()).unwrap();
    };
    issue("server");
    // Of another issuer, until it is renewed.
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(at("client.pem"), stranger.cert.pem()).unwrap();
    std::fs::write(at("client.key"), stranger.signing_key.serialize_pem()).unwrap();
    let option = |option: &str, file: &str| format!("--{option}={}", at(file).display());
    let etcd = Etcd::start(&[
        &option("cert-file", "server.pem"),
        &option("key-file", "server.key"),
        &option("trusted-ca-file", "ca.pem"),
        "--client-cert-auth",
    ]);
    let tls = |identity| Some(EtcdTls { ca: at("ca.pem"), identity });
    let with = EtcdOptions { tls: tls(Some((at("client.pem"), at("client.key")))), ..etcd.options() };
    let store = EtcdStore::open(&with).unwrap();
    let refused = eventually("etcd to refuse", || {
        store.list("").err().map(|error| error.to_string()).filter(|error| error.contains("certificate"))
    });
    assert!(refused.contains("it wants a certificate that it trusts"), "{refused}");
    issue("client");
    eventually("etcd answers", || store.list("").ok());
    store.txn(&[], &[put("a", "1")]).unwrap();
    let without = EtcdStore::open(&EtcdOptions { tls: tls(None), ..etcd.options() }).unwrap();
    assert!(without.list("").is_err());
    let plain = EtcdStore::open(&EtcdOptions { tls: None, ..etcd.options() });
    assert!(matches!(plain, Err(StoreError::Setup { .. })), "https without a CA");
}

#[test]
fn a_user_may_do_what_its_role_says_and_nobody_else_anything() {
    let etcd = Etcd::start(&[]);
    etcd.store();
    let password = "pass word";
    etcd.control(&["user", "add", "root", "--new-user-password", password]);
    etcd.control(&["user", "grant-role", "root", "root"]);
    etcd.control(&["role", "add", "reader"]);
    etcd.control(&["role", "grant-permission", "reader", "--prefix=true", "read", "/postrail/t/"]);
    etcd.control(&["user", "add", "reader", "--new-user-password", password]);
    etcd.control(&["user", "grant-role", "reader", "reader"]);
    etcd.control(&["auth", "enable"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    let of = |user: Option<(&str, EtcdPassword)>| {
        let user = user.map(|(user, password)| (user.to_owned(), password));
        EtcdStore::open(&EtcdOptions { user, ..etcd.options() }).unwrap()
    };
    let known = EtcdPassword::Known(password.to_owned().into());
    let (nobody, root) = (of(None), of(Some(("root", known))));
    let reader = of(Some(("reader", EtcdPassword::File(file.clone()))));
    root.txn(&[], &[put("a", "1")]).unwrap();
    assert_eq!(keys(&reader.list("").unwrap()), ["a"]);
    assert!(reader.txn(&[], &[put("a", "2")]).is_err());
    assert!(nobody.list("").is_err());

    let by_root = |arguments: &[&str]| etcd.control(&[&["--user", "root:pass word"], arguments].concat());
    by_root(&["user", "delete", "reader"]);
    by_root(&["user", "add", "reader", "--new-user-password", "another"]);
    by_root(&["user", "grant-role", "reader", "reader"]);
    eventually("the former password to be refused", || reader.list("").err());
    assert!(reader.list("").is_err());
    std::fs::write(&file, "another").unwrap();
    eventually("the file to be read again", || reader.list("").ok());
}

#[test]
fn an_etcd_that_is_full_says_so_until_it_is_disarmed() {
    let etcd = Etcd::start(&["--quota-backend-bytes", "400000"]);
    let store = etcd.store();
    assert!(!store.is_full().unwrap());
    let write = |n: usize| Write::Put { key: format!("desired/x/{n}"), value: vec![7; 50_000] };
    // It looks at its size once it has committed, which is ten times a second.
    let mut numbers = 0..;
    let refused = eventually("a write to be refused", || store.txn(&[], &[write(numbers.next()?)]).err());
    assert!(matches!(refused, StoreError::Full), "{refused:?}");
    eventually("the alarm to be told", || store.is_full().ok().filter(|full| *full));
    assert!(store.list("desired/").is_ok(), "it is read");
    etcd.control(&["alarm", "disarm"]);
    assert!(!store.is_full().unwrap());
}
