//! The few messages of rtnetlink(7) that addresses need, each acknowledged by the kernel.
//!
//! Written out here, because they are five and fixed: the crates for all of netlink bring an actor, a runtime and a
//! hundred types for them (see `docs/decisions`).

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// A socket to the kernel's routing tables.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub name: String,
    pub index: u32,
    /// Its hardware address, where it has one of six octets.
    pub hardware: Option<[u8; 6]>,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let protocol = Protocol::from(libc::NETLINK_ROUTE);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface called `name`.
    pub(super) fn link(&mut self, name: &str) -> io::Result<Link> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // ifinfomsg: family, padding, type, index, flags, change.
        let mut body = vec![0_u8; 16];
        attribute(&mut body, libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        let answer = self.ask(libc::RTM_GETLINK, 0, &body)?;
        let index = answer.get(4..8).and_then(|octets| octets.try_into().ok()).map(u32::from_ne_bytes);
        let index = index.ok_or(io::ErrorKind::InvalidData)?;
        let hardware = attributes(answer.get(16..).unwrap_or_default());
        let hardware = hardware.into_iter().find(|(kind, _)| *kind == libc::IFLA_ADDRESS);
        let hardware = hardware.and_then(|(_, value)| value.try_into().ok());
        Ok(Link { name: name.to_owned(), index, hardware })
    }

    /// Puts an address on, or gives one that is on a new lifetime.
    pub(super) fn put_on(&mut self, link: &Link, address: IpAddr, lifetime: Option<Duration>) -> io::Result<()> {
        let mut body = address_body(link, address);
        attribute(&mut body, libc::IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        let seconds = lifetime.map_or(u32::MAX, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX - 1));
        // ifa_cacheinfo: preferred (none: nothing chooses it by itself), valid, and two times that the kernel sets.
        let times = [0, seconds, 0, 0].map(u32::to_ne_bytes).concat();
        attribute(&mut body, libc::IFA_CACHEINFO, &times);
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(libc::RTM_NEWADDR, flags, &body).map(drop)
    }

    /// Takes an address off; one that is not on is no error.
    pub(super) fn take_off(&mut self, link: &Link, address: IpAddr) -> io::Result<()> {
        match self.ask(libc::RTM_DELADDR, libc::NLM_F_ACK, &address_body(link, address)) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The addresses on interfaces that are there by the host's own configuration: see [`own`].
    pub(super) fn own(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        let flags = libc::NLM_F_ROOT | libc::NLM_F_MATCH;
        // ifaddrmsg: of any family.
        self.send(libc::RTM_GETADDR, flags, &[0; 8])?;
        let mut found = BTreeSet::new();
        let mut buffer = vec![0_u8; ANSWER_BYTES];
        for _ in 0..LISTING_DATAGRAMS_MAX {
            let length = self.socket.read(&mut buffer)?;
            for message in messages(&buffer[..length]).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return Err(refusal(message.body)),
                    _ => found.extend(own(message.body)),
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn send(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut request = Vec::with_capacity(length as usize);
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0_u32.to_ne_bytes());
        request.extend(body);
        self.socket.send(&request).map(drop)
    }

    /// Sends one request and gives the body of its answer, empty for an acknowledgement.
    fn ask(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(kind, flags, body)?;
        let mut buffer = vec![0_u8; ANSWER_BYTES];
        for _ in 0..STRAYS_MAX {
            let length = self.socket.read(&mut buffer)?;
            if let Some(answer) = answer(&buffer[..length], self.sequence) {
                return answer;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// One message of the kernel.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of a datagram, up to the first that is not whole.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let word = |at: usize| rest.get(at..at + 4).and_then(|octets| octets.try_into().ok()).map(u32::from_ne_bytes);
        let (length, sequence) = (word(0)? as usize, word(8)?);
        let kind = rest.get(4..6).and_then(|octets| octets.try_into().ok()).map(u16::from_ne_bytes)?;
        let body = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// What a datagram of the kernel answers to the request `sequence`; `None`: it is the late answer to another.
fn answer(datagram: &[u8], sequence: u32) -> Option<io::Result<Vec<u8>>> {
    let message = messages(datagram).next().filter(|message| message.sequence == sequence)?;
    Some(match message.kind {
        NLMSG_ERROR if message.body.get(..4) == Some(&[0; 4]) => Ok(Vec::new()),
        NLMSG_ERROR => Err(refusal(message.body)),
        _ => Ok(message.body.to_vec()),
    })
}

/// Why the kernel refuses, of the body of NLMSG_ERROR.
fn refusal(body: &[u8]) -> io::Error {
    let code = body.get(..4).and_then(|octets| octets.try_into().ok()).map(i32::from_ne_bytes);
    code.map_or(io::ErrorKind::InvalidData.into(), |code| io::Error::from_raw_os_error(code.saturating_neg()))
}

/// The address of an ifaddrmsg, if the host has it by its own configuration and others could reach it there: not by
/// [`Netlink::put_on`], on the loopback interface, of the link alone, of somebody else too, or soon another.
fn own(body: &[u8]) -> Option<IpAddr> {
    let [family, prefix, _, scope, index @ ..] = *body.first_chunk::<8>()?;
    let attributes = attributes(body.get(8..)?);
    let value = |wanted: u16| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let octets = value(libc::IFA_LOCAL).or_else(|| value(libc::IFA_ADDRESS))?;
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    let flags = u32::from_ne_bytes(value(libc::IFA_FLAGS)?.try_into().ok()?);
    let is_ours = flags & libc::IFA_F_DEPRECATED != 0 && usize::from(prefix) == octets.len() * 8;
    let is_useless = address.is_ipv6() && flags & (libc::IFA_F_TEMPORARY | libc::IFA_F_DADFAILED) != 0;
    let is_near = scope >= libc::RT_SCOPE_LINK || u32::from_ne_bytes(index) == LOOPBACK_INDEX;
    (!is_ours && !is_useless && !is_near).then_some(address)
}

/// ifaddrmsg with the address, as what it is and as what it is called.
fn address_body(link: &Link, address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let mut body = vec![u8::try_from(family).unwrap_or_default(), octets.len() as u8 * 8, 0, libc::RT_SCOPE_UNIVERSE];
    body.extend(link.index.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &octets);
    attribute(&mut body, libc::IFA_ADDRESS, &octets);
    body
}

/// Appends one rtattr.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes of a body: kind and value.
fn attributes(mut rest: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = rest.get(4..length) else { break };
        found.push((u16::from_ne_bytes([c, d]), value));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// How long the kernel may take for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);
const ANSWER_BYTES: usize = 32 * 1024;
/// Late answers to earlier requests that are passed over.
const STRAYS_MAX: usize = 8;
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// Datagrams of one listing: each has a hundred addresses, or more.
const LISTING_DATAGRAMS_MAX: usize = 10_000;
/// The kernel's number of `lo` in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        let mut body = Vec::new();
        attribute(&mut body, 3, b"abcde");
        attribute(&mut body, 1, b"xy");
        assert_eq!(attributes(&body), [(3, &b"abcde"[..]), (1, &b"xy"[..])]);
        for cut in 0..body.len() {
            assert!(attributes(&body[..cut]).len() <= 2);
        }
        assert_eq!(attributes(&[2, 0, 1, 0]), []);
        assert_eq!(attributes(&[0xff, 0xff, 1, 0, 1]), []);
    }

    #[test]
    fn addresses_that_are_cut_short_are_none() {
        let link = Link { name: "x".to_owned(), index: 2, hardware: None };
        let mut body = address_body(&link, [192, 0, 2, 1].into());
        attribute(&mut body, libc::IFA_FLAGS, &libc::IFA_F_PERMANENT.to_ne_bytes());
        assert_eq!(own(&body), Some([192, 0, 2, 1].into()));
        for cut in 0..body.len() {
            assert_eq!(own(&body[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let error = |code: i32| {
            let words = [20_u32, u32::from(NLMSG_ERROR), 7, 0].map(u32::to_ne_bytes).concat();
            [words, code.to_ne_bytes().to_vec()].concat()
        };
        assert!(answer(&error(0), 7).unwrap().unwrap().is_empty());
        assert_eq!(answer(&error(-1), 7).unwrap().unwrap_err().raw_os_error(), Some(1));
        assert!(answer(&error(0), 8).is_none(), "the answer to another request");
        for cut in 0..20 {
            assert!(answer(&error(0)[..cut], 7).is_none_or(|answer| answer.is_err() || cut >= 16));
        }
    }
}
