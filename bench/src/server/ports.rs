//! Free ports on loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// As many loopback addresses with free ports, all different. Whoever binds one first has it: they are only likely free.
///
/// # Errors
/// There are none left.
pub fn free_addresses<const N: usize>() -> io::Result<[SocketAddr; N]> {
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
    fn addresses_are_all_different_and_can_be_bound() {
        let addresses: [_; 3] = free_addresses().expect("free ports");
        let bound: Vec<_> = addresses.iter().map(|address| TcpListener::bind(address).expect("free")).collect();
        assert_eq!(bound.len(), 3);
    }
}
