//! Mail that is accepted where its address is not: it goes to the host that has the address, and leaves from there. Hosts
//! in namespaces of their own, a real etcd, TLS between the hosts, and a receiver that sees who sends.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use postrail_tests::child::try_run;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::lan::{Lan, Station};
use postrail_tests::place::Place;
use postrail_tests::postrail::binary;
use postrail_tests::receiver::{Arrived, Receiver};
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

/// Two hosts with one address between them.
struct World {
    fleet: Fleet,
    receiver: Receiver,
    address: Ipv4Addr,
    _names: NameServer,
    _receiver_at: Station,
    _lan: Lan,
    _place: Place,
}

impl World {
    fn new(name: &str) -> Self {
        let (place, lan) = (Place::new(name), Lan::new());
        let receiver_at = lan.station(50);
        let zone = ("receiver.test.", format!("@ MX 10 mx\nmx A {}", receiver_at.address));
        let names = NameServer::start_at(&place, SocketAddr::from((lan.at(2), 5353)), &[(zone.0, &zone.1)]);
        let receiver = receiver_at.enter(|| Receiver::start(SocketAddr::from((receiver_at.address, 2525))));
        let resolver = names.address().to_string();
        let options = ["--resolver", &resolver, "--shards", "2", "--nic", "eth0", "--lease", "6"];
        let environment = [("POSTRAIL_LOG", "info,postrail_data_plane::transfer=debug")];
        let etcd = Etcd::start_at(&place, SocketAddr::from((lan.at(1), 2379)));
        let plan = |name: &str| {
            let last = name.strip_prefix("host-").map_or(10, |number| 10 + number.parse::<u8>().expect("a number"));
            Plan { options: &options, environment: &environment, station: Some(lan.station(last)), ..Plan::default() }
        };
        let fleet = Fleet::start_as(&place, etcd, 2, plan);
        fleet.change("POST", "/v2/routes", &json!({"domain": "*", "port": 2525, "allow_private": true}));
        let address = lan.at(101);
        let source = json!({"name": "out", "address": address, "ehlo_name": "out.sender.test"});
        fleet.change("POST", "/v2/sources", &source);
        fleet.change("PUT", "/v2/pools/default", &json!({"members": [{"source": "out"}]}));
        fleet.settle();
        let world =
            Self { fleet, receiver, address, _names: names, _receiver_at: receiver_at, _lan: lan, _place: place };
        world.holder();
        world
    }

    /// Which host has the address.
    fn holder(&self) -> usize {
        wait::until("a host to have the address", || {
            (0..2).find(|host| self.fleet.hosts[*host].station().has(self.address))
        })
    }

    /// `postrail` with these arguments as the operator: whether it succeeded, and what it printed.
    fn operator(&self, arguments: &[&str]) -> (bool, String) {
        let control = &self.fleet.control;
        let mut command: Command = control.station().command(binary());
        command.arg("--data").arg(&control.data).args(arguments);
        let (status, text) = try_run(command.args(["--api", &format!("https://{}", control.api)]));
        (status.success(), text)
    }

    /// All mail that has arrived came from the address, and each once.
    fn arrived(&self, count: usize) -> Vec<Arrived> {
        self.receiver.wait_for(count);
        let arrived = self.receiver.arrived();
        let mut once = BTreeSet::new();
        for mail in &arrived {
            assert_eq!(mail.peer.map(|peer| peer.ip()), Some(IpAddr::V4(self.address)), "{mail:?}");
            assert!(once.insert(mail.rcpt.clone()), "twice: {:?}", mail.rcpt);
        }
        arrived
    }
}

#[test]
fn mail_that_is_accepted_where_its_address_is_not_leaves_from_the_host_that_has_it() {
    let world = World::new("transfers-leave");
    let holder = world.holder();
    let jobs: Vec<_> = (0..20).map(|n| world.fleet.accepted(1 - holder, &format!("n{n}@receiver.test"))).collect();
    world.arrived(jobs.len());
    for job in &jobs {
        world.fleet.delivered(job);
    }
    // The one accepted it, the other sent it: the ledger has both.
    let (found, told) = world.operator(&["trace", &jobs[0]]);
    assert!(found && told.contains("accepted") && told.contains("delivered"), "{told}");
}

#[test]
fn mail_for_a_host_that_cannot_be_asked_is_told_of_once_and_goes_when_it_can() {
    let world = World::new("transfers-cut-off");
    let accepting = 1 - world.holder();
    let [holder, other] = [1 - accepting, accepting].map(|host| &world.fleet.hosts[host]);
    // As it is where a firewall lets hosts reach etcd, and not each other.
    other.station().cut_off(holder.station().address);
    let jobs: Vec<_> = (0..3).map(|n| world.fleet.accepted(accepting, &format!("n{n}@receiver.test"))).collect();
    let said = |what: &str| other.output().matches(what).count();
    wait::until("the host to have asked three times", || (said("a transfer was not answered") > 2).then_some(()));
    let (_, queue) = world.operator(&["queue"]);
    assert!(queue.contains("being_moved=") && queue.starts_with("3 recipients wait"), "{queue}");
    assert!(world.receiver.arrived().is_empty(), "it has no address to send from");
    other.station().reach(holder.station().address);
    world.arrived(jobs.len());
    for job in &jobs {
        world.fleet.delivered(job);
    }
    let told = ["mail for the host waits here", "mail goes to the host again"].map(said);
    assert_eq!(told, [1, 1], "{}", other.output());
}
