//! Listeners as flatbuffers.

use std::net::SocketAddr;

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::snapshot::{put_list, put_network, read_network};
use super::{WireError, put_address, read_address};
use crate::allocation::HostName;
use crate::generated::snapshot as wire;
use crate::ids::RegionId;
use crate::listener::{Listener, ListenerLimits, ListenerProtocol, ListenerTls};
use crate::tls::TlsVersion;

pub(super) fn put_listener<'b>(to: &mut FlatBufferBuilder<'b>, listener: &Listener) -> WIPOffset<wire::Listener<'b>> {
    let hosts: Vec<_> = listener.hosts.iter().map(|host| to.create_string(host.as_str())).collect();
    let limits = &listener.limits;
    let args = wire::ListenerArgs {
        name: Some(to.create_string(&listener.name)),
        protocol: listener.protocol as u8,
        address: Some(put_address(to, listener.address.ip())),
        port: listener.address.port(),
        hosts: Some(to.create_vector(&hosts)),
        region: listener.region.map(|region| region.0),
        tls: listener.tls as u8,
        only_tls13: listener.minimum_version == TlsVersion::V1_3,
        certificate: listener.certificate.as_ref().map(|name| to.create_string(name)),
        networks: Some(put_list(to, &listener.networks, put_network)),
        connections: limits.connections,
        connections_per_client: limits.connections_per_client,
        message_bytes_max: limits.message_bytes_max,
        idle_s: limits.idle_s,
    };
    wire::Listener::create(to, &args)
}

pub(super) fn read_listener(listener: wire::Listener<'_>) -> Result<Listener, WireError> {
    let protocol = ListenerProtocol::ALL.into_iter().find(|known| *known as u8 == listener.protocol());
    let tls = ListenerTls::ALL.into_iter().find(|known| *known as u8 == listener.tls());
    let unknown = |field, value| WireError::UnknownValue { field, value };
    let host = |name: &str| HostName::new(name).map_err(|_| WireError::ListenerHost);
    Ok(Listener {
        name: listener.name().to_owned(),
        protocol: protocol.ok_or_else(|| unknown("protocol of a listener", listener.protocol()))?,
        address: SocketAddr::new(read_address("listener address", listener.address())?, listener.port()),
        hosts: listener.hosts().into_iter().flatten().map(host).collect::<Result<_, _>>()?,
        region: listener.region().map(RegionId),
        tls: tls.ok_or_else(|| unknown("TLS of a listener", listener.tls()))?,
        minimum_version: if listener.only_tls13() { TlsVersion::V1_3 } else { TlsVersion::V1_2 },
        certificate: listener.certificate().map(str::to_owned),
        networks: listener.networks().into_iter().flatten().map(read_network).collect::<Result<_, _>>()?,
        limits: ListenerLimits {
            connections: listener.connections(),
            connections_per_client: listener.connections_per_client(),
            message_bytes_max: listener.message_bytes_max(),
            idle_s: listener.idle_s(),
        },
    })
}
