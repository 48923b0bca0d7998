//! The name of an address in DNS (PTR, RFC 1035 section 3.5), and whether that name leads back to the address.
//!
//! One question at a time by UDP to the first name server that answers; a truncated answer is read as far as it goes,
//! since a name that needs more is of no use to a receiver either.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use postrail_schema::limits::{DNS_SERVERS_MAX, DNS_UDP_BYTES, HOST_ADDRESSES_MAX};

/// How long one name server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What DNS says of an address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Names {
    pub(crate) ptr: Vec<String>,
    /// Those of `ptr` that have the address.
    pub(crate) confirmed: Vec<String>,
}

/// Asks for the names of `address`.
///
/// # Errors
/// No name server answered; in words.
pub(crate) fn look_up(address: IpAddr, servers: &[SocketAddr]) -> Result<Names, String> {
    let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
    let mut names = Names::default();
    for data in ask(&reverse(address), RecordType::PTR, servers)? {
        let RData::PTR(name) = data else { continue };
        let text = name.0.to_ascii().trim_end_matches('.').to_owned();
        let addresses = ask(&name.0.to_ascii(), kind, servers)?;
        let leads_back = addresses.iter().any(|data| match data {
            RData::A(found) => IpAddr::V4(found.0) == address,
            RData::AAAA(found) => IpAddr::V6(found.0) == address,
            _ => false,
        });
        if leads_back {
            names.confirmed.push(text.clone());
        }
        names.ptr.push(text);
    }
    Ok(names)
}

/// The name that an address's PTR record has.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa."
        }
    }
}

fn ask(name: &str, kind: RecordType, servers: &[SocketAddr]) -> Result<Vec<RData>, String> {
    let name = Name::from_ascii(name).map_err(|error| format!("{name}: {error}"))?;
    let mut said = "no name server is known; name one by --resolver".to_owned();
    for server in servers.iter().take(DNS_SERVERS_MAX) {
        match ask_one(&name, kind, *server) {
            Ok(found) => return Ok(found),
            Err(error) => said = format!("the name server {server} does not tell: {error}"),
        }
    }
    Err(said)
}

fn ask_one(name: &Name, kind: RecordType, server: SocketAddr) -> Result<Vec<RData>, String> {
    let text = |error: std::io::Error| error.to_string();
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).map_err(text)?;
    socket.connect(server).map_err(text)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    // The kernel chose the port at random; this adds what the clock and the process differ by.
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let id = (nanos ^ std::process::id()).to_le_bytes();
    let id = u16::from_le_bytes([id[0] ^ id[2], id[1] ^ id[3]]);
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    socket.send(&question.to_vec().map_err(|error| error.to_string())?).map_err(text)?;
    let mut buffer = [0; DNS_UDP_BYTES as usize];
    let length = socket.recv(&mut buffer).map_err(text)?;
    let answer = Message::from_vec(&buffer[..length]).map_err(|error| error.to_string())?;
    if answer.metadata.id != id || answer.metadata.message_type != MessageType::Response {
        return Err("it answered another question".to_owned());
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let of_kind = answer.answers.into_iter().filter(|record| record.record_type() == kind);
            Ok(of_kind.take(HOST_ADDRESSES_MAX).map(|record| record.data).collect())
        }
        code => Err(code.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_reversed() {
        assert_eq!(reverse("192.0.2.10".parse().expect("an address")), "10.2.0.192.in-addr.arpa.");
        let six = reverse("2001:db8::1".parse().expect("an address"));
        assert!(six.starts_with("1.0.0.0.") && six.ends_with("8.b.d.0.1.0.0.2.ip6.arpa."), "{six}");
    }

    #[test]
    fn a_server_that_is_not_there_is_told() {
        let error = look_up("192.0.2.10".parse().expect("an address"), &[]).expect_err("nobody to ask");
        assert!(error.contains("--resolver"), "{error}");
    }
}
