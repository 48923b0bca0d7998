//! Whether our listeners can be bound, asked before anything starts.
//!
//! The data plane listens with SO_REUSEPORT, so that a second server of the same user would silently share a port; a
//! plain bind tells. A process that was killed lets go of its ports a little after its end, when the kernel has taken
//! its io_uring down: so a port in use is asked again for a while.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

/// How long a killed predecessor may take to let go of its ports.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two looks at a port in use.
const PAUSE: Duration = Duration::from_millis(25);

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

/// Binds every listener at once, and lets go of them again. Blocks up to `patience` for ports in use.
///
/// # Errors
/// The first that cannot be bound.
pub(crate) fn check(listeners: &[(&'static str, SocketAddr)], patience: Duration) -> Result<(), PortError> {
    let end = Instant::now() + patience;
    loop {
        match bind_all(listeners) {
            Err(PortError::InUse { .. }) if Instant::now() < end => thread::sleep(PAUSE),
            checked => return checked,
        }
    }
}

fn bind_all(listeners: &[(&'static str, SocketAddr)]) -> Result<(), PortError> {
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

#[cfg(test)]
mod tests {
    use postrail_bench::server::Reserved;

    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_option() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = check(&[("smtp", address)], Duration::ZERO).expect_err("in use").to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--smtp"), "{error}");
        drop(taken);
        check(&[("smtp", address)], Duration::ZERO).expect("free again");
    }

    #[test]
    fn a_port_that_is_let_go_in_time_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let owner = thread::spawn(move || {
            thread::sleep(2 * PAUSE);
            drop(taken);
        });
        check(&[("smtp", address)], Duration::from_secs(30)).expect("free by then");
        owner.join().expect("the owner ends");
    }

    #[test]
    fn two_of_our_own_listeners_cannot_share_an_address() {
        let reserved = Reserved::<1>::new().expect("a free port");
        let [address] = reserved.addresses();
        assert!(matches!(
            check(&[("smtp", address), ("rest", address)], Duration::ZERO),
            Err(PortError::InUse { option: "rest", .. })
        ));
    }
}
