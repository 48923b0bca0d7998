//! Addresses that move between real network namespaces, under a real etcd, real clocks and the kernel's own lifetimes:
//! what `sim leases` models is here as it is.
//!
//! ```text
//!   etcd, control plane ---- bridge ---- veth ---- host one
//!                              \-------- veth ---- host two
//! ```

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postrail_control_plane::allocation::Demand;
use postrail_control_plane::store::{ConfigStore, EtcdOptions, EtcdStore, StoreError};
use postrail_control_plane::{Hosts, HostsError, allocate};
use postrail_core::lease::{Held, Settings, View};
use postrail_data_plane::address::Interfaces;
use postrail_data_plane::lease::{LeaseHandle, Registry, WriteError, boottime, hold};
use postrail_data_plane::mesh::{Letter, Mesh, Reply};
use postrail_schema::allocation::{Announcement, HostName, HostRecord};
use postrail_schema::keys::{HOSTS, grants};

const LEASE: Duration = Duration::from_secs(6);
const BRIDGE: Ipv4Addr = Ipv4Addr::new(198, 18, 199, 1);
const MOVING: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 199, 101), Ipv4Addr::new(198, 18, 199, 102)];

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip(8) is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The bridge, the namespaces and etcd; all go with the value.
struct Place {
    bridge: String,
    namespaces: Vec<String>,
    etcd: Option<Child>,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let bridge = format!("pl{}", std::process::id());
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("address add {BRIDGE}/24 dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        Self { bridge, namespaces: Vec::new(), etcd: None, folder: tempfile::tempdir().unwrap() }
    }

    fn start_etcd(&mut self) -> EtcdOptions {
        let free = |address| TcpListener::bind((address, 0)).unwrap().local_addr().unwrap();
        let client = format!("http://{}", free(IpAddr::from(BRIDGE)));
        let peer = format!("http://{}", free(IpAddr::from(Ipv4Addr::LOCALHOST)));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.folder.path().join("etcd")).arg("--unsafe-no-fsync");
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let log = File::create(self.folder.path().join("etcd.log")).unwrap();
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.etcd = Some(spawned.expect("etcd is installed (Debian: etcd-server)"));
        EtcdOptions { endpoints: vec![client], root: "/postrail/t/".into(), tls: None, user: None }
    }

    /// A namespace on the bridge; its number is the last part of its own address.
    fn add_host(&mut self, number: u8) -> String {
        let name = format!("{}-{number}", self.bridge);
        let near = format!("{}n{number}", self.bridge);
        ip(&format!("netns add {name}"));
        self.namespaces.push(name.clone());
        ip(&format!("link add {near} type veth peer name eth0 netns {name}"));
        ip(&format!("link set {near} master {} up", self.bridge));
        ip(&format!("-n {name} address add 198.18.199.{number}/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} link set lo up"));
        near
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(etcd) = &mut self.etcd {
            let _ = etcd.kill();
            let _ = etcd.wait();
        }
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).status();
    }
}

/// A host's keys in the store.
struct Keys(Hosts, HostName);

impl Registry for Keys {
    fn read(&mut self) -> Result<View, String> {
        let own = self.0.own(&self.1).map_err(|error| error.to_string())?;
        Ok(View { revision: own.revision, record: own.record, grants: own.grants })
    }

    fn write(&mut self, guard: u64, record: &HostRecord) -> Result<(u64, View), WriteError> {
        match self.0.keep_alive(&self.1, guard, record) {
            Ok(revision) => {
                let view = self.read().map_err(WriteError::Unknown)?;
                Ok((revision, view))
            }
            Err(HostsError::Store(StoreError::Conflict { .. })) => Err(WriteError::Refused),
            Err(error) => Err(WriteError::Unknown(error.to_string())),
        }
    }
}

/// A data plane as far as its addresses go, in a namespace of its own.
struct Host {
    namespace: String,
    handle: LeaseHandle,
    held: Arc<Mutex<Held>>,
}

impl Host {
    fn start(place: &mut Place, number: u8, options: EtcdOptions) -> Self {
        place.add_host(number);
        let namespace = place.namespaces.last().unwrap().clone();
        let held = Arc::new(Mutex::new(Held::default()));
        let (known, inside) = (Arc::clone(&held), File::open(format!("/run/netns/{namespace}")).unwrap());
        let data = place.folder.path().to_owned();
        let started = std::thread::spawn(move || {
            // SAFETY: the descriptor is open through the call, which moves this thread and those that it starts.
            assert_eq!(unsafe { libc::setns(inside.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            let store: Arc<dyn ConfigStore> = Arc::new(EtcdStore::open(&options).unwrap());
            let name = HostName::new(format!("host{number}")).unwrap();
            let nics = ["eth0".to_owned()].into();
            let announcement = Announcement { addresses_max: 10, share: 1, nics, ..Announcement::default() };
            let settings = Settings {
                lease: LEASE,
                patience: Duration::from_secs(1),
                ..Settings::new(u64::from(number), announcement)
            };
            let (mesh, inboxes) = Mesh::new(1);
            let interfaces = Interfaces::open(Some("eth0".to_owned())).unwrap();
            let mut watch = store.watch(&grants(&name), 0);
            let handle = hold(settings, &data, Keys(Hosts::new(Arc::clone(&store)), name), interfaces, mesh).unwrap();
            let waker = handle.waker();
            std::thread::spawn(move || {
                while futures_lite::future::block_on(watch.next()).is_some() {
                    waker.look();
                }
            });
            std::thread::spawn(move || {
                while let Ok(letter) = inboxes[0].recv_blocking() {
                    match letter {
                        Letter::Held(held) => *known.lock().unwrap() = held,
                        Letter::Ask(_, reply) => drop(reply.try_send(Reply::Affected(0))),
                        _ => {}
                    }
                }
            });
            handle
        });
        Self { namespace, handle: started.join().unwrap(), held }
    }

    fn may_use(&self, address: Ipv4Addr) -> bool {
        self.held.lock().unwrap().may_use(address.into(), boottime())
    }

    fn has_on(&self, address: Ipv4Addr) -> bool {
        let shown = Command::new("ip").args(["-n", &self.namespace, "-4", "address", "show", "dev", "eth0"]).output();
        String::from_utf8_lossy(&shown.unwrap().stdout).contains(&format!(" {address}/"))
    }
}

/// The hosts of which `is_so` holds, looked at one after the other. Of two, the first is asked again: only if it still
/// is so were both at one time.
fn all(hosts: &[Host], is_so: impl Fn(&Host) -> bool, what: &str) -> Vec<usize> {
    let found: Vec<_> = (0..hosts.len()).filter(|host| is_so(&hosts[*host])).collect();
    if let [first, _, ..] = *found {
        assert!(!is_so(&hosts[first]), "{what} at hosts {found:?}");
    }
    found
}

/// Who may use each address. Nobody shares one: neither the right to it nor the interface it is on.
fn users(hosts: &[Host]) -> BTreeMap<Ipv4Addr, usize> {
    let mut users = BTreeMap::new();
    for address in MOVING {
        let using = all(hosts, |host| host.may_use(address), &format!("{address} may be used"));
        all(hosts, |host| host.has_on(address), &format!("{address} is on"));
        users.extend(using.last().map(|host| (address, *host)));
    }
    users
}

/// Looks at the addresses until they are used as wanted, and says after what time they were.
fn until(hosts: &[Host], what: &str, wanted: impl Fn(&BTreeMap<Ipv4Addr, usize>) -> bool) -> Duration {
    let began = Instant::now();
    while !wanted(&users(hosts)) {
        assert!(began.elapsed() < Duration::from_secs(60), "waited too long for {what}: {:?}", users(hosts));
    }
    began.elapsed()
}

#[test]
fn a_host_that_is_cut_off_loses_its_addresses_before_another_has_them() {
    let mut place = Place::new();
    let options = place.start_etcd();
    let store: Arc<dyn ConfigStore> = Arc::new(EtcdStore::open(&options).unwrap());
    // etcd takes a moment to begin.
    while store.list(HOSTS).is_err() {}
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let wanted = || Some(MOVING.map(|address| (IpAddr::from(address), Demand::default())).into());
    let allocator = runtime.spawn(allocate(Hosts::new(store), wanted, stopped));
    let hosts = [11, 12].map(|number| Host::start(&mut place, number, options.clone()));
    until(&hosts, "each host to have one", |users| users.len() == 2 && users[&MOVING[0]] != users[&MOVING[1]]);

    let cut = format!("{}n11", place.bridge);
    ip(&format!("link set {cut} down"));
    let took = until(&hosts, "the other host to have both", |users| users.values().eq(&[1, 1]));
    assert!(took <= LEASE + Duration::from_secs(1), "taken over after {took:?}");
    println!("taken over {:.2} s after the cut, with a lease of {LEASE:?}", took.as_secs_f64());

    ip(&format!("link set {cut} up"));
    until(&hosts, "each host to have one again", |users| users.len() == 2 && users[&MOVING[0]] != users[&MOVING[1]]);
    for host in &hosts {
        host.handle.stop();
    }
    until(&hosts, "nobody to have any", BTreeMap::is_empty);
    for host in hosts {
        host.handle.join();
    }
    stop.send_replace(true);
    runtime.block_on(allocator).unwrap();
}
