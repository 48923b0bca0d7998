//! Mail leaves from the addresses that its domain's pool gives, and from no other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use postrail_tests::child::Running;
use postrail_tests::namespace::Namespace;
use postrail_tests::peers::postfix;
use postrail_tests::place::Place;
use postrail_tests::wait;
use postrail_tests::world::{World, message};
use serde_json::json;

const ZONE: (&str, &str) = ("receiver.test.", "@ MX 10 mx\nmx A 127.0.0.21");

/// From now on the sending domain's mail leaves from these addresses, each with a name of its own.
fn use_pool(world: &World, addresses: &[IpAddr]) {
    let mut members = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let name = format!("source-{address}").replace('.', "-");
        let source = json!({"name": name, "address": address, "ehlo_name": format!("out{number}.sender.test")});
        world.postrail.control_ok("POST", "/v2/sources", Some(&source));
        members.push(json!({"source": name}));
    }
    let pool = format!("pool-{}", addresses[0]).replace('.', "-");
    world.postrail.control_ok("POST", "/v2/pools", Some(&json!({"name": pool, "members": members})));
    world.postrail.control_ok("PATCH", "/v2/domains/sender.test", Some(&json!({"pool": pool})));
    world.postrail.settled_configuration();
}

/// Postfix's smtp-sink in a namespace, which writes down who connects.
struct Sink {
    dumps: PathBuf,
    _process: Running,
}

impl Sink {
    fn start(place: &Place, namespace: &Namespace, port: u16) -> Self {
        let dumps = place.join("sink");
        std::fs::create_dir_all(&dumps).expect("a folder can be made");
        let mut command = namespace.command(postfix::sink());
        command.env("LD_LIBRARY_PATH", postfix::libraries());
        command.args(["-u", "root", "-d"]).arg(dumps.join("%H%M%S."));
        let process =
            Running::start(command.arg(format!("[{}]:{port}", namespace.inside)).arg("10"), &place.join("sink.log"));
        let address = std::net::SocketAddr::new(namespace.inside, port);
        wait::until("the sink to listen", || std::net::TcpStream::connect(address).ok().map(drop));
        Self { dumps, _process: process }
    }

    /// The clients of the mails so far, in order.
    fn peers(&self) -> Vec<IpAddr> {
        let mut files: Vec<_> = std::fs::read_dir(&self.dumps).expect("our own folder").flatten().collect();
        files.sort_by_key(|file| file.metadata().and_then(|about| about.modified()).ok());
        let texts = files.iter().map(|file| std::fs::read(file.path()).unwrap_or_default());
        let peers = texts.filter_map(|text| {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().find_map(|line| line.strip_prefix("X-Client-Addr: ")?.trim().parse().ok())
        });
        peers.collect()
    }
}

#[test]
fn every_address_of_a_pool_is_used_and_only_they() {
    let world = World::new("sources", &[ZONE]);
    let receiver = world.receiver(21);
    let addresses: [IpAddr; 2] = [[127, 0, 0, 11].into(), [127, 0, 0, 12].into()];
    use_pool(&world, &addresses);
    let jobs: Vec<String> =
        (0..20).map(|number| world.send(&format!("user{number}@receiver.test"), &message("", "Hello.\r\n"))).collect();
    let arrived = receiver.wait_for(jobs.len());
    let used: BTreeSet<IpAddr> = arrived.iter().filter_map(|mail| Some(mail.peer?.ip())).collect();
    assert_eq!(used, BTreeSet::from(addresses));
    for mail in &arrived {
        let number = usize::from(mail.peer.map(|peer| peer.ip()) == Some(addresses[1]));
        assert_eq!(mail.ehlo, format!("EHLO out{number}.sender.test"), "each greets with its name");
    }
    world.wait(&jobs[0], "delivered");
    let attempt = world.wait_attempts(&jobs[0], 1).swap_remove(0);
    let told: IpAddr = attempt["source_address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let seen = arrived.iter().find(|mail| mail.rcpt[0].contains("user0@")).and_then(|mail| mail.peer);
    assert_eq!(seen.map(|peer| peer.ip()), Some(told), "the ledger tells the address that the receiver saw");
}

#[test]
fn a_receiver_in_another_network_sees_the_address_that_the_pool_gives() {
    let away = Namespace::new();
    let second = away.second_outside();
    let zone = format!("@ MX 10 mx\nmx A {}", away.inside);
    let world = World::new("namespace", &[("away.test.", &zone)]);
    let sink = Sink::start(&world.place, &away, world.port);
    for source in [second, away.outside] {
        use_pool(&world, &[source]);
        let before = sink.peers().len();
        let job = world.send("someone@away.test", &message("", "Hello.\r\n"));
        world.wait(&job, "delivered");
        assert_eq!(sink.peers()[before..], [source]);
    }
}

#[test]
fn an_address_that_this_host_does_not_have_loses_no_mail() {
    let world = World::new("foreign-source", &[ZONE]);
    let receiver = world.receiver(21);
    use_pool(&world, &["192.0.2.77".parse().expect("an address")]);
    let job = world.send("someone@receiver.test", &message("", "Hello.\r\n"));
    world.wait(&job, "deferred");
    assert!(receiver.arrived().is_empty());
    let source = json!({"address": "127.0.0.13", "ehlo_name": "out.sender.test"});
    world.postrail.control_ok("PUT", "/v2/sources/source-192-0-2-77", Some(&source));
    world.postrail.settled_configuration();
    wait::until("the mail to leave from the corrected address", || {
        world.retry();
        std::thread::sleep(std::time::Duration::from_millis(300));
        receiver.arrived().first().and_then(|mail| mail.peer).filter(|peer| peer.ip() == IpAddr::from([127, 0, 0, 13]))
    });
    world.wait(&job, "delivered");
}

#[test]
fn a_receiver_of_the_other_address_family_waits_with_its_reason() {
    let world = World::new("family", &[("six.test.", "@ MX 10 mx\nmx AAAA ::1"), ZONE]);
    let receiver = world.receiver(21);
    use_pool(&world, &[[127, 0, 0, 11].into()]);
    let job = world.send("someone@six.test", &message("", "Hello.\r\n"));
    let other = world.send("someone@receiver.test", &message("", "Hello.\r\n"));
    world.wait(&other, "delivered");
    let waiting = world.wait(&job, "deferred");
    assert!(waiting["last_reply"]["text"].as_str().is_some_and(|text| text.contains("address")), "{waiting}");
    assert_eq!(receiver.arrived().len(), 1);
}
