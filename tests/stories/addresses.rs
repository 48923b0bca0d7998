//! Hosts that share addresses, a stream of mail at each, and a receiver in a network of its own that sees who sends from
//! where: what the stories of addresses that move have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use postrail_tests::child::try_run;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::lan::{Lan, Station};
use postrail_tests::load::Stream;
use postrail_tests::place::Place;
use postrail_tests::postrail::binary;
use postrail_tests::receiver::{Arrived, Receiver};
use postrail_tests::wait;
use postrail_tests::witness::Witness;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

/// The shortest lease that may be configured.
pub(crate) const LEASE: Duration = Duration::from_secs(6);

/// The ports that each host begins connections from: an address alone does not tell which of them sent.
pub(crate) const PORTS: [RangeInclusive<u16>; 2] = [20_000..=39_999, 40_000..=60_000];

/// How a world differs from the usual one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setting<'a> {
    /// Of every process of ours.
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// The addresses, and the receiver's, are of IPv6.
    pub(crate) is_ipv6: bool,
    /// The network brings the addresses, which are not of the hosts' own.
    pub(crate) is_routed: bool,
    /// etcd has three members, at stations.
    pub(crate) has_three_members: bool,
    /// Another MX host, at `.51`, comes before the receiver.
    pub(crate) has_first_mx: bool,
    /// `None`: [`LEASE`].
    pub(crate) lease: Option<Duration>,
    /// Further options of each host.
    pub(crate) of_hosts: [&'a [&'a str]; 2],
    /// There is another network, of which the second host is by its interface `eth1`.
    pub(crate) has_side: bool,
}

/// The other network, and who receives there: `side.receiver.test`.
pub(crate) struct Side {
    pub(crate) receiver: Receiver,
    pub(crate) lan: Lan,
}

/// Two hosts, and the addresses that they share.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) receiver: Receiver,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) lan: Lan,
    pub(crate) receiver_at: Station,
    pub(crate) side: Option<Side>,
    pub(crate) place: Place,
    options: Vec<String>,
    lease: Duration,
    is_routed: bool,
    _names: NameServer,
}

impl Setting<'_> {
    /// One of those that move.
    fn address(&self, lan: &Lan, last: u8) -> IpAddr {
        match (self.is_routed, self.is_ipv6) {
            (true, _) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, last)),
            (false, true) => IpAddr::V6(lan.at6(last)),
            (false, false) => IpAddr::V4(lan.at(last)),
        }
    }
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(Place::new(name), Setting::default())
    }

    pub(crate) fn with(place: Place, setting: Setting<'_>) -> Self {
        let lan = Lan::new();
        let receiver_at = lan.station(50);
        let (kind, receives_at) = match setting.is_ipv6 {
            false => ("A", IpAddr::V4(receiver_at.address)),
            true => ("AAAA", IpAddr::V6(lan.at6(50))),
        };
        let first =
            if setting.has_first_mx { format!("@ MX 5 first\nfirst A {}\n", lan.at(51)) } else { String::new() };
        let side = setting.has_side.then(Lan::new).map(|lan| {
            receiver_at.join(&lan, "eth1");
            let receiver = receiver_at.enter(|| Receiver::start(SocketAddr::from((lan.at(50), 2525))));
            Side { receiver, lan }
        });
        let of_side = side.as_ref().map(|side| format!("\nside MX 10 mx.side\nmx.side A {}", side.lan.at(50)));
        let of_side = of_side.unwrap_or_default();
        let zone = ("receiver.test.", format!("{first}@ MX 10 mx\nmx {kind} {receives_at}{of_side}"));
        let names = NameServer::start_at(&place, SocketAddr::from((lan.at(2), 5353)), &[(zone.0, &zone.1)]);
        let receiver = receiver_at.enter(|| Receiver::start(SocketAddr::from((receives_at, 2525))));
        let resolver = names.address().to_string();
        let lease = setting.lease.unwrap_or(LEASE).as_secs().to_string();
        let bringing: &[&str] = if setting.is_routed { &["--routed"] } else { &["--nic", "eth0"] };
        let options = [&["--resolver", &resolver, "--shards", "1", "--lease", &lease], bringing].concat();
        let of_each = setting.of_hosts.map(|further| [&options, further].concat());
        let etcd = match setting.has_three_members {
            false => Etcd::start_at(&place, SocketAddr::from((lan.at(1), 2379))),
            true => Etcd::start_three_at(&place, &lan),
        };
        let plan = |name: &str| {
            let last = name.strip_prefix("host-").map_or(10, |number| 10 + number.parse::<u8>().expect("a number"));
            let station = lan.station(last);
            let host = last.checked_sub(11).map(usize::from);
            if let Some(ports) = host.and_then(|host| PORTS.get(host)) {
                station.set_ports(ports.clone());
            }
            if let Some(side) = side.as_ref().filter(|_| host == Some(1)) {
                station.join(&side.lan, "eth1");
            }
            let options = host.and_then(|host| of_each.get(host)).unwrap_or(&options);
            Plan { options, environment: setting.environment, station: Some(station), ..Plan::default() }
        };
        let fleet = Fleet::start_as(&place, etcd, 2, plan);
        fleet.change("POST", "/v2/routes", &json!({"domain": "*", "port": 2525, "allow_private": true}));
        let addresses = [101, 102].map(|last| setting.address(&lan, last));
        let world = Self {
            fleet,
            receiver,
            addresses,
            lan,
            receiver_at,
            side,
            place,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            lease: setting.lease.unwrap_or(LEASE),
            is_routed: setting.is_routed,
            _names: names,
        };
        let mut members = Vec::new();
        for address in addresses {
            let name = world.source_of(address);
            let source = json!({"name": name, "address": address, "ehlo_name": format!("{name}.sender.test")});
            world.fleet.change("POST", "/v2/sources", &source);
            members.push(json!({"source": name}));
        }
        world.fleet.change("PUT", "/v2/pools/default", &json!({"members": members}));
        world.fleet.settle();
        world.until_each_has_one();
        world
    }

    /// A third host joins, with these further options.
    pub(crate) fn join(&mut self, further: &[&str]) {
        let options: Vec<&str> = self.options.iter().map(String::as_str).chain(further.iter().copied()).collect();
        let station = Some(self.lan.station(13));
        let plan = Plan { name: "host-3", options: &options, station, ..Plan::default() };
        self.fleet.join(&self.place, plan);
    }

    /// Changes what an address's source asks of a host.
    pub(crate) fn ask(&self, address: IpAddr, needs: Value) {
        let name = self.source_of(address);
        let mut source = json!({"address": address, "ehlo_name": format!("{name}.sender.test")});
        source.as_object_mut().expect("an object").extend(needs.as_object().cloned().into_iter().flatten());
        self.fleet.change("PUT", &format!("/v2/sources/{name}"), &source);
    }

    /// The name of an address's source.
    pub(crate) fn source_of(&self, address: IpAddr) -> String {
        let position = self.addresses.iter().position(|other| *other == address);
        format!("out-{}", position.expect("one of ours"))
    }

    pub(crate) fn station(&self, host: usize) -> &Station {
        self.fleet.hosts[host].station()
    }

    /// Whether a host has an address: on its interface, or where that is the network's, by grant.
    pub(crate) fn has(&self, host: usize, address: IpAddr) -> bool {
        if !self.is_routed {
            return self.station(host).has(address);
        }
        let shown = self.fleet.change("GET", &format!("/v2/hosts/{}", self.fleet.hosts[host].name), &Value::Null);
        let held = shown["held"].as_array().into_iter().flatten();
        held.into_iter().any(|one| one["address"] == json!(address) && one["state"] == "held")
    }

    /// The host that has each address.
    pub(crate) fn places(&self) -> [Option<usize>; 2] {
        self.addresses.map(|address| {
            let on: Vec<_> = (0..2).filter(|host| self.has(*host, address)).collect();
            if let [first, _] = on[..] {
                // They were not looked at in one moment.
                assert!(!self.has(first, address), "{address} is on both hosts");
            }
            on.last().copied()
        })
    }

    /// Who gives addresses listens for a lease first.
    pub(crate) fn until_each_has_one(&self) {
        wait::within(self.lease + Duration::from_secs(30), "each host to have one address", || {
            let places = self.places();
            (places.contains(&Some(0)) && places.contains(&Some(1))).then_some(())
        });
    }

    /// The address that a host has, of two that are spread.
    pub(crate) fn address_of(&self, host: usize) -> IpAddr {
        let at = self.places().iter().position(|place| *place == Some(host)).expect("each has one");
        self.addresses[at]
    }

    /// A host's grants in etcd, with the revision that wrote them.
    pub(crate) fn grants(&self, host: usize) -> Value {
        let key = format!("/postrail/main/allocation/grants/{}", self.fleet.hosts[host].name);
        let found: Value = serde_json::from_str(&self.fleet.etcd.control(&["get", &key, "-w", "json"])).expect("JSON");
        found["kvs"][0].clone()
    }

    /// `postrail host …` as the operator: whether it succeeded, and what it printed.
    pub(crate) fn host(&self, arguments: &[&str]) -> (bool, String) {
        let control = &self.fleet.control;
        let mut command = control.station().command(binary());
        command.arg("--data").arg(&control.data).arg("host").args(arguments);
        let (status, text) = try_run(command.args(["--api", &format!("https://{}", control.api)]));
        (status.success(), text)
    }

    /// The finding of that code, if there is one.
    pub(crate) fn problem(&self, code: &str) -> Option<Value> {
        let problems = self.fleet.change("GET", "/v2/problems", &Value::Null);
        problems["items"].as_array().expect("a list").iter().find(|one| one["code"] == code).cloned()
    }

    pub(crate) fn stream(&self, host: usize) -> Stream {
        let submitter = self.fleet.hosts[host].submitter(&self.fleet.username, &self.fleet.secret);
        // Each mail's address says by which host it was accepted.
        Stream::start(submitter, &format!("host{host}"))
    }

    /// Waits until every mail of the streams has arrived, and what is in the ledger of it.
    pub(crate) fn nothing_is_lost(&self, streams: Vec<Stream>) -> Vec<Arrived> {
        let accepted: BTreeMap<String, String> = streams.into_iter().flat_map(Stream::stop).collect();
        assert!(accepted.len() > 20, "the streams flowed: {}", accepted.len());
        wait::within(Duration::from_secs(45), "every accepted mail to arrive", || {
            let arrived: BTreeSet<_> = self.receiver.arrived().iter().map(recipient).collect();
            accepted.keys().all(|to| arrived.contains(to)).then_some(())
        });
        for job in accepted.values() {
            self.fleet.delivered(job);
        }
        self.receiver.arrived()
    }
}

pub(crate) fn recipient(mail: &Arrived) -> String {
    mail.rcpt[0].trim_start_matches("RCPT TO:<").split('>').next().unwrap_or_default().to_owned()
}

/// The host that sent it, whichever accepted it: what waits goes where its address is.
pub(crate) fn origin(mail: &Arrived) -> usize {
    let port = mail.peer.expect("a connection has two ends").port();
    PORTS.iter().position(|ports| ports.contains(&port)).expect("a host's port")
}

/// Which hosts began connections from an address, each as often as it took turns.
pub(crate) fn turns(witness: &Witness, address: IpAddr) -> Vec<usize> {
    let host = |port: u16| PORTS.iter().position(|ports| ports.contains(&port)).expect("a host's port");
    let mut hosts: Vec<_> = witness.connections_from(address).into_iter().map(|(_, port)| host(port)).collect();
    hosts.dedup();
    hosts
}

/// One host's use of an address, as the receiver saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) host: usize,
    pub(crate) first_connection: Instant,
    pub(crate) last_mail: Instant,
}

/// Who used `address`, one after the other. Nobody began a connection before the one before had begun its last mail.
pub(crate) fn uses(arrived: &[Arrived], address: IpAddr) -> Vec<Use> {
    let mut mails: Vec<_> = arrived.iter().filter(|mail| mail.peer.is_some_and(|peer| peer.ip() == address)).collect();
    mails.sort_by_key(|mail| mail.began);
    let mut uses: Vec<Use> = Vec::new();
    for mail in mails {
        let (host, began) = (origin(mail), mail.began.expect("a mail began"));
        let first_connection = mail.connected.expect("a connection was taken");
        match uses.last_mut().filter(|last| last.host == host) {
            Some(last) => last.last_mail = began,
            None => {
                if let Some(before) = uses.last() {
                    assert!(first_connection > before.last_mail, "{address} was used by both hosts at once: {uses:?}");
                }
                uses.push(Use { host, first_connection, last_mail: began });
            }
        }
    }
    uses
}

/// The most connections from `address` on which a mail was under way at one time, of mails that began since `since`.
pub(crate) fn connections_at_once(arrived: &[Arrived], address: IpAddr, since: Instant) -> usize {
    let of_address = |mail: &&Arrived| mail.peer.is_some_and(|peer| peer.ip() == address);
    let spans: Vec<_> = arrived.iter().filter(of_address).filter_map(|mail| Some((mail.began?, mail.at?))).collect();
    let spans: Vec<_> = spans.into_iter().filter(|(began, _)| *began >= since).collect();
    let at_once = |moment: Instant| spans.iter().filter(|(began, end)| *began <= moment && moment < *end).count();
    spans.iter().map(|(began, _)| at_once(*began)).max().unwrap_or(0)
}
