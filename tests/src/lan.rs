//! A network of hosts on one machine: a bridge, and namespaces that are joined to it, each with an address of its own.
//!
//! ```text
//! this side (.1, .2: etcd, control plane, name server) --- bridge --- veth --- station .11, .12, .50, …
//! ```
//!
//! Invariants worth naming: everything goes with its value; no packet leaves the machine.

use std::fs::File;
use std::net::Ipv4Addr;
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
        ip(&format!("link add {bridge} type bridge"));
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

    /// Whether an address is on its interface, also one that the kernel is about to take off.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        let shown = try_run(Command::new("ip").args(["-n", &self.namespace, "-4", "address", "show", "dev", "eth0"]));
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
