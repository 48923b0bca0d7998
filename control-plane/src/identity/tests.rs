//! Both ends of a handshake in memory: who is let in, and what each side says of who is not.

use std::io::{Read, Write};

use rustls::client::verify_server_name;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use rustls::{ClientConnection, ServerConnection};

use super::*;

fn masters(octet: u8) -> MasterKeys {
    MasterKeys::only(MasterKey::new([octet; 32]))
}

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn facts(is_control_plane: bool, data_plane: Option<&str>) -> FleetFacts {
    FleetFacts {
        cluster: "main".into(),
        is_control_plane,
        data_plane: data_plane.map(host),
        hostname: "mta.example.org".into(),
        addresses: vec!["10.0.0.2".parse().unwrap()],
    }
}

fn control_plane(masters: &MasterKeys) -> FleetIdentity {
    FleetIdentity::new(masters, facts(true, None)).unwrap()
}

fn data_plane(masters: &MasterKeys) -> FleetIdentity {
    FleetIdentity::new(masters, facts(false, Some("mta-2"))).unwrap()
}

/// What a failed handshake says to the client and to the server; the client's certificate as the server has it.
fn shake(client: ClientConfig, server: Arc<ServerConfig>) -> Result<Option<CertificateDer<'static>>, (String, String)> {
    let dialled = ServerName::try_from("10.0.0.2").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), dialled).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut at_client, mut at_server) = (None, None);
    for _ in 0..10 {
        let mut flight = Vec::new();
        while client.wants_write() && client.write_tls(&mut flight).unwrap() > 0 {}
        server.read_tls(&mut flight.as_slice()).unwrap();
        at_server = at_server.or(server.process_new_packets().err());
        let mut flight = Vec::new();
        while server.wants_write() && server.write_tls(&mut flight).unwrap() > 0 {}
        client.read_tls(&mut flight.as_slice()).unwrap();
        at_client = at_client.or(client.process_new_packets().err());
    }
    if at_client.is_some() || at_server.is_some() {
        let said = |error: Option<rustls::Error>| error.map_or_else(String::new, |error| error.to_string());
        return Err((said(at_client), said(at_server)));
    }
    client.writer().write_all(b"?").unwrap();
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    server.read_tls(&mut flight.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    let mut heard = [0];
    assert_eq!(server.reader().read(&mut heard).unwrap(), 1);
    Ok(server.peer_certificates().map(|chain| chain[0].clone()))
}

fn asks(
    client: &FleetIdentity,
    of: &FleetName,
    server: &FleetIdentity,
    peer: &FleetName,
) -> Result<(), (String, String)> {
    let shown = shake(client.client(of).unwrap(), server.server(std::slice::from_ref(peer)).unwrap())?;
    assert!(shown.is_some(), "the client is known");
    Ok(())
}

#[test]
fn planes_of_one_master_key_know_each_other_by_name() {
    let (control, data) = (control_plane(&masters(1)), data_plane(&masters(1)));
    let mta_2 = FleetName::Host(host("mta-2"));
    asks(&control, &mta_2, &data, &FleetName::ControlPlane).unwrap();
    asks(&data, &FleetName::ControlPlane, &control, &FleetName::DataPlane).unwrap();
    let other = FleetName::Host(host("mta-3"));
    let (client, server) = asks(&control, &other, &data, &FleetName::ControlPlane).unwrap_err();
    assert!(client.contains("not valid for name"), "{client}");
    assert!(server.contains("alert"), "{server}");
    let (client, server) = asks(&data, &mta_2, &data, &FleetName::ControlPlane).unwrap_err();
    assert!(client.contains("alert") && server.contains("not valid for name"), "{client} / {server}");
}

#[test]
fn a_listener_for_both_planes_lets_in_either_and_knows_which_it_was() {
    let both = [FleetName::ControlPlane, FleetName::DataPlane];
    let mta_2 = FleetName::Host(host("mta-2"));
    let listener = data_plane(&masters(1));
    let shown = |client: &FleetIdentity| {
        let shown = shake(client.client(&mta_2).unwrap(), listener.server(&both).unwrap())?.unwrap();
        let shown = ParsedCertificate::try_from(&shown).unwrap();
        let is = |name: &FleetName| verify_server_name(&shown, &listener.server_name(name).unwrap()).is_ok();
        Ok::<_, (String, String)>(both.each_ref().map(is))
    };
    assert_eq!(shown(&control_plane(&masters(1))), Ok([true, false]));
    assert_eq!(shown(&data_plane(&masters(1))), Ok([false, true]));
    let joined = FleetIdentity::new(&masters(1), facts(true, Some("mta-3"))).unwrap();
    assert_eq!(shown(&joined), Ok([true, true]));
    // Of the authority of another fleet, and of our authority with none of the names.
    for stranger in [data_plane(&masters(2)), FleetIdentity::new(&masters(1), facts(false, None)).unwrap()] {
        let (client, server) = shown(&stranger).unwrap_err();
        assert!(client.contains("alert") || client.contains("UnknownIssuer"), "{client} / {server}");
    }
}

#[test]
fn another_master_key_and_another_cluster_are_strangers() {
    let (control, data) = (control_plane(&masters(2)), data_plane(&masters(1)));
    let (client, server) =
        asks(&control, &FleetName::Host(host("mta-2")), &data, &FleetName::ControlPlane).unwrap_err();
    assert!(client.contains("UnknownIssuer") && server.contains("alert"), "{client} / {server}");
    let elsewhere = FleetFacts { cluster: "eu".into(), ..facts(true, None) };
    let elsewhere = FleetIdentity::new(&masters(1), elsewhere).unwrap();
    assert!(asks(&elsewhere, &FleetName::Host(host("mta-2")), &data, &FleetName::ControlPlane).is_err());
}

#[test]
fn hosts_know_each_other_while_the_master_key_changes() {
    let (one, two) = (MasterKey::new([1; 32]), MasterKey::new([2; 32]));
    let before = MasterKeys { next: Some(two.clone()), ..MasterKeys::only(one.clone()) };
    let after = MasterKeys { former: Some(one), ..MasterKeys::only(two) };
    let mta_2 = FleetName::Host(host("mta-2"));
    asks(&control_plane(&before), &mta_2, &data_plane(&after), &FleetName::ControlPlane).unwrap();
    asks(&control_plane(&after), &mta_2, &data_plane(&before), &FleetName::ControlPlane).unwrap();
    assert!(asks(&control_plane(&masters(2)), &mta_2, &data_plane(&masters(1)), &FleetName::ControlPlane).is_err());
}

#[test]
fn who_shows_no_certificate_is_let_in_as_nobody() {
    let data = data_plane(&masters(1));
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).unwrap();
    // As monitoring does: with the authority's certificate, by the host's address.
    let client = builder.with_root_certificates(Arc::clone(&data.0.roots)).with_no_client_auth();
    assert_eq!(shake(client, data.server(&[FleetName::ControlPlane]).unwrap()), Ok(None));
}

#[test]
fn a_certificate_is_renewed_by_the_day_and_known_for_a_week() {
    let data = data_plane(&masters(1));
    let start = SystemTime::now();
    let leaf = |at| data.0.issue(at).unwrap().cert[0].clone();
    let first = leaf(start);
    assert_eq!(leaf(start + RENEWAL / 2), first);
    let later = leaf(start + RENEWAL + Duration::from_secs(60));
    assert_ne!(later, first);
    assert_ne!(leaf(start - RENEWAL), later, "a clock that went back does not show what is not valid yet");
    let checks = WebPkiServerVerifier::builder_with_provider(Arc::clone(&data.0.roots), provider()).build().unwrap();
    let verifier = AnswersTo { checks, name: data.server_name(&FleetName::DataPlane).unwrap() };
    let dialled = ServerName::try_from("10.0.0.2").unwrap();
    let is_good = |at: SystemTime| {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = rustls::pki_types::UnixTime::since_unix_epoch(at);
        use rustls::client::danger::ServerCertVerifier;
        verifier.verify_server_cert(&first, &[], &dialled, &[], now).map_err(|error| error.to_string())
    };
    let hour = Duration::from_secs(3600);
    assert!(is_good(start + TERM - hour).is_ok() && is_good(start - EARLY + hour).is_ok());
    assert!(is_good(start + TERM + hour).unwrap_err().contains("expired"));
    assert!(is_good(start - EARLY - hour).unwrap_err().contains("not valid yet"));
}

#[test]
fn the_authority_is_the_same_wherever_it_is_made_and_no_secret_is_printed() {
    let (control, data) = (control_plane(&masters(1)), data_plane(&masters(1)));
    assert_eq!(control.authorities(), data.authorities());
    assert!(!control.authorities().contains("PRIVATE") && !format!("{control:?}").contains("authority"));
}
