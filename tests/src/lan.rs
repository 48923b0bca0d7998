//! A network of hosts on one machine: a bridge, and namespaces that are joined to it, each with an address of its own.
//!
//! ```text
//! this side (.1, .2: etcd, control plane, name server) --- bridge --- veth --- station .11, .12, .50, …
//! ```
//!
//! Invariants worth naming: everything goes with its value; no packet leaves the machine.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::child::{run, try_run};

/// The bridge.
pub struct Lan {
    bridge: String,
    network: [u8; 3],
}

/// A host on the bridge: a namespace, and the cable to it.
pub struct Station {
    namespace: String,
    near: String,
    pub address: Ipv4Addr,
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

impl Lan {
    /// Makes one with a /24 of its own out of 10.0.0.0/8, of which this side has `.1` and `.2`.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (id, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let number = id.wrapping_mul(8).wrapping_add(count);
        let network = [10, 128 + (number / 256 % 128) as u8, (number % 256) as u8];
        let made = Self { bridge: format!("lb{id}-{count}"), network };
        let bridge = &made.bridge;
        // A bridge without a hardware address of its own takes another with each station, and is not found for seconds then.
        let [_, b, c] = network;
        ip(&format!("link add {bridge} address 02:00:0a:{b:02x}:{c:02x}:01 type bridge"));
        for last in [1, 2] {
            ip(&format!("address add {}/24 dev {bridge}", made.at(last)));
        }
        ip(&format!("link set {bridge} up"));
        made
    }

    pub fn at(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The IPv6 address of the same host, in a /64 of ULAs.
    pub fn at6(&self, last: u8) -> Ipv6Addr {
        let [a, b, c] = self.network.map(u16::from);
        Ipv6Addr::new(0xfd00 + a, b, c, 0, 0, 0, 0, last.into())
    }

    /// A host at `.last`, whose interface is called `eth0`.
    pub fn station(&self, last: u8) -> Station {
        let bridge = &self.bridge;
        let (namespace, near) = (format!("{bridge}-{last}"), format!("{bridge}n{last}"));
        ip(&format!("netns add {namespace}"));
        let made = Station { namespace, near, address: self.at(last) };
        let (namespace, near) = (&made.namespace, &made.near);
        ip(&format!("link add {near} type veth peer name eth0 netns {namespace}"));
        ip(&format!("link set {near} master {bridge} up"));
        ip(&format!("-n {namespace} address add {}/24 dev eth0", made.address));
        ip(&format!("-n {namespace} address add {}/64 dev eth0 nodad", self.at6(last)));
        ip(&format!("-n {namespace} link set eth0 up"));
        ip(&format!("-n {namespace} link set lo up"));
        made
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        try_run(Command::new("ip").args(["link", "delete", &self.bridge]));
    }
}

impl Station {
    /// `program`, run there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// What `work` gives, done there: sockets and threads that it makes stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).expect("our own namespace is there");
        let inside = move || {
            // SAFETY: the descriptor is open through the call, which moves this thread alone.
            let moved = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "root may enter its own namespace");
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().expect("the work ends well"))
    }

    /// Joins it to another network too, by an interface of that name, at the same place there.
    pub fn join(&self, lan: &Lan, nic: &str) {
        let (namespace, [.., last]) = (&self.namespace, self.address.octets());
        let (bridge, near) = (&lan.bridge, format!("{}n{last}", lan.bridge));
        ip(&format!("link add {near} type veth peer name {nic} netns {namespace}"));
        ip(&format!("link set {near} master {bridge} up"));
        ip(&format!("-n {namespace} address add {}/24 dev {nic}", lan.at(last)));
        ip(&format!("-n {namespace} link set {nic} up"));
    }

    /// Whether an address is on its interface, also one that the kernel is about to take off.
    pub fn has(&self, address: impl Into<IpAddr>) -> bool {
        self.has_on("eth0", address)
    }

    /// As [`Self::has`], of another of its interfaces.
    pub fn has_on(&self, nic: &str, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        let shown = try_run(Command::new("ip").args(["-n", &self.namespace, "address", "show", "dev", nic]));
        shown.1.contains(&format!(" {address}/"))
    }

    /// From which ports its connections begin.
    pub fn set_ports(&self, ports: RangeInclusive<u16>) {
        let range = format!("{} {}", ports.start(), ports.end());
        let written = self.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range));
        written.expect("root may set what its own namespace does");
    }

    /// Puts an address on its interface by hand, for good, as an operator does.
    pub fn configure(&self, address: Ipv4Addr) {
        ip(&format!("-n {} address add {address}/24 dev eth0", self.namespace));
    }

    /// Takes [`Self::configure`] back.
    pub fn unconfigure(&self, address: Ipv4Addr) {
        ip(&format!("-n {} address delete {address}/24 dev eth0", self.namespace));
    }

    /// Takes what the network brings to this address, as a host does that is told `--routed`.
    pub fn take_routed(&self, address: Ipv4Addr) {
        ip(&format!("-n {} address add {address}/32 dev lo", self.namespace));
    }

    /// Sends what is for an address to another host, from now on.
    pub fn route(&self, address: Ipv4Addr, by: &Self) {
        ip(&format!("-n {} route replace {address}/32 via {}", self.namespace, by.address));
    }

    /// The hardware address of its interface.
    pub fn hardware(&self) -> String {
        let shown = run(Command::new("ip").args(["-n", &self.namespace, "-o", "link", "show", "dev", "eth0"]));
        let address = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        address.expect("it has one").to_owned()
    }

    /// What it knows of a neighbour, as ip(8) says it.
    pub fn neighbour(&self, address: IpAddr) -> String {
        let shown = Command::new("ip").args(["-n", &self.namespace, "neigh", "show", &address.to_string()]).output();
        String::from_utf8_lossy(&shown.expect("ip(8) is installed").stdout).trim().to_owned()
    }

    /// Pulls its cable, or plugs it in again: nothing goes either way, and no connection is told.
    pub fn set_plugged(&self, is_plugged: bool) {
        ip(&format!("link set {} {}", self.near, if is_plugged { "up" } else { "down" }));
    }

    /// Drops everything that it sends to `address`, and nothing else.
    pub fn cut_off(&self, address: Ipv4Addr) {
        ip(&format!("-n {} route add blackhole {address}/32", self.namespace));
    }

    /// Takes [`Self::cut_off`] back.
    pub fn reach(&self, address: Ipv4Addr) {
        ip(&format!("-n {} route delete blackhole {address}/32", self.namespace));
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        try_run(Command::new("ip").args(["netns", "delete", &self.namespace]));
        try_run(Command::new("ip").args(["link", "delete", &self.near]));
    }
}
