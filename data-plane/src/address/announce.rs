//! Telling the neighbours that an address is here now: gratuitous ARP for IPv4 (RFC 5227 section 2.3: an ARP request for
//! the address by itself), unsolicited neighbour advertisement for IPv6 (RFC 4861 section 7.2.6).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, Socket, Type};

use super::netlink::Link;

/// Says that `address` is at `link`. An interface without hardware addresses has no neighbours to tell.
pub(super) fn announce(link: &Link, address: IpAddr) -> io::Result<()> {
    let Some(hardware) = link.hardware else { return Ok(()) };
    match address {
        IpAddr::V4(address) => arp(link, hardware, address),
        IpAddr::V6(address) => neighbour(link, hardware, address),
    }
}

/// The ARP packet, from its hardware type on (RFC 826).
fn arp_packet(hardware: [u8; 6], address: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0_u8; 28];
    // Ethernet, IPv4, lengths of both kinds of address, request.
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&hardware);
    packet[14..18].copy_from_slice(&address.octets());
    // The target's hardware address is what is asked for; its address is ours.
    packet[24..28].copy_from_slice(&address.octets());
    packet
}

fn arp(link: &Link, hardware: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
    let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::DGRAM, None)?;
    let packet = arp_packet(hardware, address);
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ARP as u16).to_be(),
        sll_ifindex: i32::try_from(link.index).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    // SAFETY: the descriptor is open, and both pointers are to values that outlive the call, with their sizes.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The ICMPv6 message; the kernel fills in the checksum.
fn advertisement(hardware: [u8; 6], address: Ipv6Addr) -> [u8; 32] {
    let mut message = [0_u8; 32];
    // Neighbour advertisement; override what is remembered.
    message[0] = 136;
    message[4] = 0x20;
    message[8..24].copy_from_slice(&address.octets());
    // Option: target link-layer address, one unit of eight octets.
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&hardware);
    message
}

fn neighbour(link: &Link, hardware: [u8; 6], address: Ipv6Addr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(link.index)?;
    socket.bind(&SocketAddrV6::new(address, 0, 0, 0).into())?;
    let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, link.index);
    socket.send_to(&advertisement(hardware, address), &all_nodes.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_announcements_name_the_address_and_where_it_is() {
        let hardware = [2, 0, 0, 0, 0, 7];
        let packet = arp_packet(hardware, Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(packet[6..18], [0, 1, 2, 0, 0, 0, 0, 7, 192, 0, 2, 1]);
        assert_eq!(packet[18..], [0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
        let message = advertisement(hardware, Ipv6Addr::LOCALHOST);
        assert_eq!((message[0], message[4], message[23]), (136, 0x20, 1));
        assert_eq!(message[24..], [2, 1, 2, 0, 0, 0, 0, 7]);
    }
}
