//! Whether our listeners can be bound, asked before anything starts.
//!
//! The data plane listens with SO_REUSEPORT, so that a second server of the same user would silently share a port; a
//! plain bind tells.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// A listener that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error("{address} is in use by another program: stop it, or choose another address by --{option}")]
    InUse { address: SocketAddr, option: &'static str },
    #[error("ports below 1024 need privileges: cannot listen at {address} (--{option})")]
    Forbidden { address: SocketAddr, option: &'static str },
    #[error("{address} is no address of this host (--{option})")]
    Foreign { address: SocketAddr, option: &'static str },
    #[error("cannot listen at {address} (--{option}): {error}")]
    Other { address: SocketAddr, option: &'static str, error: io::Error },
}

/// Binds every listener at once, and lets go of them again.
///
/// # Errors
/// The first that cannot be bound.
pub(crate) fn check(listeners: &[(&'static str, SocketAddr)]) -> Result<(), PortError> {
    let mut bound = Vec::with_capacity(listeners.len());
    for (option, address) in listeners.iter().copied() {
        bound.push(TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => PortError::InUse { address, option },
            io::ErrorKind::PermissionDenied => PortError::Forbidden { address, option },
            io::ErrorKind::AddrNotAvailable => PortError::Foreign { address, option },
            _ => PortError::Other { address, option, error },
        })?);
    }
    Ok(())
}

/// As many loopback addresses with free ports, all different.
pub(crate) fn free<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let mut bound = Vec::with_capacity(N);
    let mut addresses = [SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        bound.push(listener);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_option() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = check(&[("smtp", address)]).expect_err("in use").to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--smtp"), "{error}");
        drop(taken);
        check(&[("smtp", address)]).expect("free again");
    }

    #[test]
    fn two_of_our_own_listeners_cannot_share_an_address() {
        let [address] = free().expect("a free port");
        assert!(matches!(check(&[("smtp", address), ("rest", address)]), Err(PortError::InUse { option: "rest", .. })));
    }
}
