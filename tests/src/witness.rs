//! Who sees what happens at a station, with the time of it: packets that pass its interface, and addresses that come to it
//! and go.
//!
//! Invariants worth naming: both see from the moment that they are made until they are dropped; what is seen is kept in
//! the order in which it came.

use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lan::Station;

/// A packet that says something about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet {
    /// The first of a TCP connection, from there.
    Connection(SocketAddr),
    /// An ARP request of an address by itself: gratuitous, or of a conflict's detection where nobody has it yet.
    Arp(Ipv4Addr),
    /// A neighbour advertisement that nobody asked for, to all nodes.
    Advertisement(Ipv6Addr),
    /// Duplicate address detection for it.
    Detection(Ipv6Addr),
}

/// A packet, from whose hardware address, and when.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub at: Instant,
    pub hardware: String,
    pub packet: Packet,
}

/// Sees the packets at a station.
pub struct Witness {
    seen: Arc<Mutex<Vec<Sighting>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    pub fn at(station: &Station) -> Self {
        let socket = station.enter(|| {
            let every = i32::from((libc::ETH_P_ALL as u16).to_be());
            // SAFETY: no pointers; what is returned is checked.
            let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every) };
            assert!(socket >= 0, "root may look at packets: {}", std::io::Error::last_os_error());
            // SAFETY: it was opened above, and nobody else has it.
            UdpSocket::from(unsafe { OwnedFd::from_raw_fd(socket) })
        });
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout of a socket");
        let (seen, over) = (Arc::<Mutex<Vec<Sighting>>>::default(), Arc::new(AtomicBool::new(false)));
        let (list, ended) = (Arc::clone(&seen), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 128];
            while !ended.load(Ordering::Relaxed) {
                let length = match socket.recv(&mut frame) {
                    Ok(length) => length,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                    Err(error) => panic!("packets cannot be looked at: {error}"),
                };
                if let Some((hardware, packet)) = read(&frame[..length]) {
                    let hardware = hardware.map(|octet| format!("{octet:02x}")).join(":");
                    let sighting = Sighting { at: Instant::now(), hardware, packet };
                    list.lock().expect("no panic while locked").push(sighting);
                }
            }
        });
        Self { seen, over, thread: Some(thread) }
    }

    pub fn seen(&self) -> Vec<Sighting> {
        self.seen.lock().expect("no panic while locked").clone()
    }

    /// When connections began from an address, and from which port.
    pub fn connections_from(&self, address: IpAddr) -> Vec<(Instant, u16)> {
        let of_address = |sighting: Sighting| match sighting.packet {
            Packet::Connection(from) if from.ip() == address => Some((sighting.at, from.port())),
            _ => None,
        };
        self.seen().into_iter().filter_map(of_address).collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The sender's hardware address, and what an Ethernet frame says, if it is one of [`Packet`].
fn read(frame: &[u8]) -> Option<([u8; 6], Packet)> {
    let hardware: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let packet = frame.get(14..)?;
    let found = match i32::from(kind) {
        libc::ETH_P_IP => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let is_tcp = i32::from(*packet.get(9)?) == libc::IPPROTO_TCP;
            let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            first_of_tcp(packet.get(header..).filter(|_| is_tcp)?, from.into())
        }
        libc::ETH_P_ARP => {
            let [from, to] = [14, 24].map(|at| packet.get(at..at + 4));
            let from: [u8; 4] = from?.try_into().ok()?;
            (to? == from).then(|| Packet::Arp(from.into()))
        }
        libc::ETH_P_IPV6 => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            let (from, to, inner) = (address(8)?, address(24)?, packet.get(40..)?);
            match (i32::from(*packet.get(6)?), inner.first()?) {
                (libc::IPPROTO_TCP, _) => first_of_tcp(inner, from.into()),
                (libc::IPPROTO_ICMPV6, 135) if from.is_unspecified() => address(48).map(Packet::Detection),
                (libc::IPPROTO_ICMPV6, 136) if to == ALL_NODES => address(48).map(Packet::Advertisement),
                _ => None,
            }
        }
        _ => None,
    };
    found.map(|packet| (hardware, packet))
}

fn first_of_tcp(segment: &[u8], from: IpAddr) -> Option<Packet> {
    let (port, flags) = (u16::from_be_bytes(segment.get(..2)?.try_into().ok()?), segment.get(13)?);
    // SYN without ACK.
    (flags & 0x12 == 0x02).then(|| Packet::Connection(SocketAddr::new(from, port)))
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An address came to an interface, or was given a new lifetime, or went.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub at: Instant,
    pub address: IpAddr,
    pub is_on: bool,
    /// Duplicate address detection is not over.
    pub is_tentative: bool,
}

/// Sees the addresses of a station's interfaces change.
pub struct Changes {
    seen: Arc<Mutex<Vec<Change>>>,
    monitor: Child,
}

impl Changes {
    pub fn at(station: &Station) -> Self {
        let mut command: Command = station.command("ip");
        command.args(["-o", "monitor", "address"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut monitor = command.spawn().expect("ip(8) is installed");
        let lines = BufReader::new(monitor.stdout.take().expect("it is a pipe")).lines();
        let seen = Arc::<Mutex<Vec<Change>>>::default();
        let list = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                list.lock().expect("no panic while locked").extend(changed(&line));
            }
        });
        Self { seen, monitor }
    }

    /// What became of an address.
    pub fn of(&self, address: IpAddr) -> Vec<Change> {
        let seen = self.seen.lock().expect("no panic while locked");
        seen.iter().filter(|change| change.address == address).copied().collect()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

/// A line such as `Deleted 2: eth0    inet 192.0.2.1/32 scope global deprecated eth0 …`.
fn changed(line: &str) -> Option<Change> {
    let mut words = line.split_whitespace().skip_while(|word| !matches!(*word, "inet" | "inet6")).skip(1);
    let address = words.next()?.split('/').next()?.parse().ok()?;
    let is_tentative = words.any(|word| word == "tentative");
    Some(Change { at: Instant::now(), address, is_on: !line.starts_with("Deleted"), is_tentative })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_monitor_prints_is_read() {
        let on = changed("2: eth0    inet 192.0.2.1/32 scope global deprecated eth0\\       valid_lft 6sec").unwrap();
        assert_eq!((on.address, on.is_on, on.is_tentative), ([192, 0, 2, 1].into(), true, false));
        let gone = changed("Deleted 2: eth0    inet6 2001:db8::9/128 scope global tentative deprecated").unwrap();
        assert_eq!((gone.address, gone.is_on, gone.is_tentative), ("2001:db8::9".parse().unwrap(), false, true));
        assert!(changed("3: eth1: <BROADCAST>").is_none());
    }
}
