//! A network namespace joined to this one by a veth pair: a peer that is not on loopback.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::child::{run, try_run};

/// A namespace; it goes with the value, and the pair with it.
pub struct Namespace {
    name: String,
    /// This side's address.
    pub outside: IpAddr,
    /// The namespace's address.
    pub inside: IpAddr,
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

impl Namespace {
    /// Makes one with a /30 of its own out of 198.18.0.0/15, which is for tests (RFC 2544).
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (id, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("story{id}-{count}");
        let (near, far) = (format!("sn{id}-{count}"), format!("sf{id}-{count}"));
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (id * 8 + count) % 0x4000 * 4;
        let [outside, inside] = [1, 2].map(|last| Ipv4Addr::from(base + last));
        ip(&format!("netns add {name}"));
        let made = Self { name, outside: outside.into(), inside: inside.into() };
        let name = &made.name;
        ip(&format!("link add {near} type veth peer name {far}"));
        ip(&format!("link set {far} netns {name}"));
        ip(&format!("address add {outside}/30 dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!("-n {name} address add {inside}/30 dev {far}"));
        ip(&format!("-n {name} link set {far} up"));
        ip(&format!("-n {name} link set lo up"));
        made
    }

    /// Gives this side one more address, that the namespace can answer: out of 198.19.0.0/16, with the bits of the first.
    pub fn second_outside(&self) -> IpAddr {
        let IpAddr::V4(first) = self.outside else { unreachable!("made of IPv4") };
        let [_, _, third, fourth] = first.octets();
        let second = Ipv4Addr::new(198, 19, third, fourth);
        let near = self.interface();
        ip(&format!("address add {second}/32 dev {near}"));
        ip(&format!("-n {} route add {second}/32 via {first}", self.name));
        second.into()
    }

    /// The name of this side's interface.
    pub fn interface(&self) -> String {
        self.name.replace("story", "sn")
    }

    /// Gives the namespace one more address, and this side a route to it through this pair; of several such routes to
    /// one address the one with the least `metric` is taken.
    pub fn add_inside(&self, address: Ipv4Addr, metric: u32) {
        ip(&format!("-n {} address add {address}/32 dev lo", self.name));
        ip(&format!("route add {address}/32 via {} dev {} metric {metric}", self.inside, self.interface()));
    }

    /// What `work` gives, done inside: sockets and threads that it makes stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("our own namespace is there");
        let inside = move || {
            // SAFETY: the descriptor is open through the call, which moves this thread alone.
            let moved = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "root may enter its own namespace");
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().expect("the work ends well"))
    }

    /// Has everything that arrives at this side's interface handled on one CPU, as an interrupt of a queue would.
    pub fn steer(&self, cpu: usize) {
        let path = format!("/sys/class/net/{}/queues/rx-0/rps_cpus", self.interface());
        std::fs::write(path, format!("{:x}", 1_u64 << cpu)).expect("root may steer packets");
    }

    /// `program`, run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        try_run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}
