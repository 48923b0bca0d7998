//! Ports on loopback that nobody else takes until the server has bound them.
//!
//! A port that is only looked for and let go may be gone when the server binds it, since every connection of this host
//! takes one from the same range. So a socket stays bound to it, without listening: the kernel then gives the port to
//! no client and to no one who asks for any port, while a server that binds it by its number with SO_REUSEADDR or
//! SO_REUSEPORT, as servers do, gets it (inet_csk_bind_conflict in the kernel's net/ipv4/inet_connection_sock.c).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

/// Addresses that are kept as long as this lives.
pub struct Reserved<const N: usize> {
    addresses: [SocketAddr; N],
    _sockets: Vec<OwnedFd>,
}

impl<const N: usize> Reserved<N> {
    /// As many addresses on loopback, all different.
    ///
    /// # Errors
    /// There are none left, or too many files are open.
    pub fn new() -> io::Result<Self> {
        let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
        let mut sockets = Vec::with_capacity(N);
        for address in &mut addresses {
            let held = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&held, address)?;
            *address = getsockname(&held)?.try_into()?;
            // Only now: while it was looked for, no port that another keeps was free.
            sockopt::set_socket_reuseaddr(&held, true)?;
            sockopt::set_socket_reuseport(&held, true)?;
            sockets.push(held);
        }
        Ok(Self { addresses, _sockets: sockets })
    }

    pub fn addresses(&self) -> [SocketAddr; N] {
        self.addresses
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn reserved_addresses_are_all_different_and_a_server_can_listen_on_each() {
        let reserved = Reserved::<3>::new().expect("free ports");
        let bound = reserved.addresses().map(|address| TcpListener::bind(address).expect("kept for us"));
        for (listener, address) in bound.iter().zip(reserved.addresses()) {
            let client = TcpStream::connect(address).expect("it listens");
            let (_, from) = listener.accept().expect("the client");
            assert_eq!(from, client.local_addr().expect("connected"));
        }
    }

    #[test]
    fn a_reserved_port_is_nobody_elses() {
        let reserved = Reserved::<1>::new().expect("a free port");
        let [address] = reserved.addresses();
        let other = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        assert_eq!(bind(&other, &address), Err(rustix::io::Errno::ADDRINUSE));
    }
}
