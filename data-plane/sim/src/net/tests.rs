//! What the simulated network does to streams and datagrams.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use postrail_core::base::Instant;
use postrail_data_plane::platform::{Datagrams, Platform};

use super::*;
use crate::{Settings, Sim};

fn world(seed: u64, net: NetFaults) -> (Sim, NodeId, NodeId) {
    let sim = Sim::new(&Settings { seed, net, ..Settings::default() });
    let client = sim.add_node(&["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()]);
    let server = sim.add_node(&["10.0.1.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
    (sim, client, server)
}

fn server_address() -> SocketAddr {
    "10.0.1.1:25".parse().unwrap()
}

const LIMIT: Duration = Duration::from_secs(30);

/// Echoes one connection after the other; a broken one ends only itself.
fn serve_echo(sim: &Sim, server: NodeId) {
    let platform = sim.platform(server);
    let serving = platform.clone();
    platform.spawn("echo", async move {
        let listener = serving.net().listen(server_address()).unwrap();
        while let Ok(mut stream) = listener.accept().await {
            serving.spawn("echo connection", async move {
                let mut buffer = [0; 1_000];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
                // The peer may have broken it by now.
                let _ = stream.close().await;
            });
        }
    });
    sim.run_until(sim.now()).unwrap();
}

/// Sends 100,000 octets to an echo and returns how many came back right, and the error that ended it, if any.
fn echo_through(sim: &Sim, client: NodeId) -> (usize, Option<io::ErrorKind>) {
    let platform = sim.platform(client);
    let work = async move {
        let stream = platform.net().connect(None, server_address(), LIMIT).await?;
        let (mut reader, mut writer) = stream.split();
        let sent: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
        let expected = sent.clone();
        let send = async {
            writer.write_all(&sent).await?;
            writer.close().await
        };
        let mut back = Vec::new();
        let receive = async {
            let result = platform.timeout(Duration::from_secs(600), reader.read_to_end(&mut back)).await;
            result.unwrap_or(Err(io::Error::from(io::ErrorKind::TimedOut))).map(drop)
        };
        let result = futures_lite::future::race(async { (futures_lite::future::zip(send, receive).await).1 }, async {
            platform.sleep_until(platform.now() + Duration::from_secs(1_200)).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        })
        .await;
        assert!(expected.starts_with(&back), "octets changed or lost between others");
        io::Result::Ok((back.len(), result.err().map(|error| error.kind())))
    };
    sim.run(client, work).unwrap().unwrap_or_else(|error| (0, Some(error.kind())))
}

#[test]
fn streams_deliver_everything_in_order_through_short_reads_and_writes() {
    let mut traces = BTreeSet::new();
    for seed in 0..6 {
        let (sim, client, server) = world(seed, NetFaults::default());
        serve_echo(&sim, server);
        assert_eq!(echo_through(&sim, client), (100_000, None), "seed {seed}");
        traces.insert(sim.trace());
    }
    assert_eq!(traces.len(), 6, "seeds differ");
}

#[test]
fn resets_and_silences_break_connections_and_never_change_octets() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..40 {
        let faults = NetFaults { resets_per_million: 4_000, silences_per_million: 4_000, ..NetFaults::default() };
        let (sim, client, server) = world(seed, faults);
        serve_echo(&sim, server);
        outcomes.insert(echo_through(&sim, client).1.map(|kind| kind.to_string()));
    }
    for expected in [None, Some(io::ErrorKind::ConnectionReset), Some(io::ErrorKind::TimedOut)] {
        let expected = expected.map(|kind| kind.to_string());
        assert!(outcomes.contains(&expected), "{expected:?} is not among {outcomes:?}");
    }
}

#[test]
fn connects_are_refused_or_time_out_or_lack_a_source() {
    let (sim, client, server) = world(1, NetFaults::default());
    let platform = sim.platform(client);
    let work = async move {
        let net = platform.net();
        let refused = net.connect(None, server_address(), LIMIT).await.err().unwrap();
        let begin = platform.now();
        let nobody = net.connect(None, "10.9.9.9:25".parse().unwrap(), LIMIT).await.err().unwrap();
        assert_eq!(platform.now().since(begin), LIMIT);
        let foreign = net.connect("10.0.1.1".parse().ok(), server_address(), LIMIT).await.err().unwrap();
        let family = net.connect(None, "[2001:db8::1]:25".parse().unwrap(), LIMIT).await.err().unwrap();
        [refused, nobody, foreign, family].map(|error| error.kind())
    };
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, TimedOut};
    assert_eq!(sim.run(client, work).unwrap(), [ConnectionRefused, TimedOut, AddrNotAvailable, AddrNotAvailable]);
    serve_echo(&sim, server);
    sim.set_cut(client, server, true);
    let platform = sim.platform(client);
    let cut = async move { platform.net().connect(None, server_address(), LIMIT).await.err().unwrap().kind() };
    assert_eq!(sim.run(client, cut).unwrap(), TimedOut);
    sim.set_cut(client, server, false);
    let platform = sim.platform(client);
    let source = "10.0.0.2".parse().ok();
    let healed = async move { platform.net().connect(source, server_address(), LIMIT).await.unwrap().local() };
    assert_eq!(sim.run(client, healed).unwrap().map(|local| local.ip()), source);
}

#[test]
fn a_crash_of_the_peer_is_a_reset_or_silence_and_its_next_life_answers() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..20 {
        let (sim, client, server) = world(seed, NetFaults::default());
        serve_echo(&sim, server);
        let platform = sim.platform(client);
        let seen = Rc::new(RefCell::new(None));
        let outcome = Rc::clone(&seen);
        let reading = platform.clone();
        platform.spawn("client", async move {
            let mut stream = reading.net().connect(None, server_address(), LIMIT).await.unwrap();
            let mut buffer = [0; 1];
            let read = reading.timeout(LIMIT, stream.read(&mut buffer)).await;
            *outcome.borrow_mut() = Some(read.map(|result| result.unwrap_err().to_string()));
        });
        sim.run_until(sim.now() + Duration::from_secs(1)).unwrap();
        sim.crash(server);
        sim.run_until(sim.now() + LIMIT * 2).unwrap();
        outcomes.insert(seen.take().expect("the client noticed"));
        serve_echo(&sim, server);
        assert_eq!(echo_through(&sim, client), (100_000, None));
    }
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
}

#[test]
fn an_unread_octet_makes_a_drop_a_reset_and_its_absence_an_end() {
    let (sim, client, server) = world(4, NetFaults::default());
    let platform = sim.platform(server);
    let serving = platform.clone();
    platform.spawn("dropper", async move {
        let listener = serving.net().listen(server_address()).unwrap();
        for wait in [Duration::ZERO, Duration::from_secs(1)] {
            let stream = listener.accept().await.unwrap();
            serving.sleep_until(serving.now() + wait).await;
            drop(stream);
        }
    });
    let platform = sim.platform(client);
    let work = async move {
        platform.yield_now().await;
        let mut ended = platform.net().connect(None, server_address(), LIMIT).await.unwrap();
        let mut buffer = [0; 1];
        assert_eq!(ended.read(&mut buffer).await.unwrap(), 0);
        let mut reset = platform.net().connect(None, server_address(), LIMIT).await.unwrap();
        reset.write_all(b"unread").await.unwrap();
        assert_eq!(reset.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    };
    sim.run_until(sim.now()).unwrap();
    sim.run(client, work).unwrap();
}

#[test]
fn datagrams_are_lost_doubled_and_overtaken() {
    let faults = NetFaults {
        datagram_losses_percent: 20,
        datagram_doubles_percent: 20,
        datagram_detours_percent: 10,
        ..NetFaults::default()
    };
    let (sim, client, server) = world(7, faults);
    let platform = sim.platform(server);
    let serving = platform.clone();
    platform.spawn("server", async move {
        let socket = SimDatagramServer::bind(serving.net(), server_address()).unwrap();
        while let Ok((from, bytes)) = socket.receive().await {
            socket.send(from, &bytes);
        }
    });
    sim.run_until(sim.now()).unwrap();
    let platform = sim.platform(client);
    let work = async move {
        let socket = platform.net().datagrams(server_address()).await.unwrap();
        for number in 0..200_u8 {
            socket.send(&[number]).await.unwrap();
        }
        let (mut seen, mut buffer) = (Vec::new(), [0; 8]);
        while let Some(result) = platform.timeout(Duration::from_secs(10), socket.receive(&mut buffer)).await {
            assert_eq!(result.unwrap(), 1);
            seen.push(buffer[0]);
        }
        seen
    };
    let seen = sim.run(client, work).unwrap();
    let distinct: BTreeSet<u8> = seen.iter().copied().collect();
    assert!(distinct.len() < 200 && distinct.len() > 80, "{} of 200 came", distinct.len());
    assert!(seen.len() > distinct.len(), "none came twice");
    assert!(!seen.is_sorted(), "none was overtaken");
}

#[test]
fn a_datagram_to_a_closed_port_is_refused() {
    let (sim, client, _) = world(8, NetFaults::default());
    let platform = sim.platform(client);
    let work = async move {
        let socket = platform.net().datagrams(server_address()).await.unwrap();
        socket.send(b"hello").await.unwrap();
        socket.receive(&mut [0; 8]).await.unwrap_err().kind()
    };
    assert_eq!(sim.run(client, work).unwrap(), io::ErrorKind::ConnectionRefused);
    assert!(sim.now() < Instant::FAR);
}
