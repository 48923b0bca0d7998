//! Hosts of a fleet know each other by certificates that follow from the master key: who is let in, who is not and what
//! each side says, and certificates that are renewed, or of another time, while mail is on its way.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use postrail_tests::child::{Running, run, try_run};
use postrail_tests::clock::Clock;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::lan::{Lan, Station};
use postrail_tests::load::Stream;
use postrail_tests::place::Place;
use postrail_tests::postrail::binary;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::{Value, json};

use crate::submission_quotas::today;

/// A control plane and a host, each at a station, and one where a stranger is.
struct World {
    fleet: Fleet,
    receiver: Receiver,
    stranger: Station,
    clocks: [Clock; 2],
    place: Place,
    lan: Lan,
    _names: NameServer,
    _receiver_at: Station,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, 1, false)
    }

    /// With so many hosts, and with a wall clock for the control plane and the first of them, where that is wanted.
    fn with(name: &str, hosts: usize, has_clocks: bool) -> Self {
        let (place, lan) = (Place::new(name), Lan::new());
        let receiver_at = lan.station(50);
        let zone = ("receiver.test.", format!("@ MX 10 mx\nmx A {}", receiver_at.address));
        let names = NameServer::start_at(&place, SocketAddr::from((lan.at(2), 5353)), &[(zone.0, &zone.1)]);
        let receiver = receiver_at.enter(|| Receiver::start(SocketAddr::from((receiver_at.address, 2525))));
        let resolver = names.address().to_string();
        let options = ["--resolver", &resolver, "--shards", "1"];
        let etcd = Etcd::start_at(&place, SocketAddr::from((lan.at(1), 2379)));
        let clocks = ["control", "host-1"].map(|of| Clock::new(&place, &format!("clock-{of}")));
        // They begin two days ago: what they show then is good now as well, to the clients of the story.
        clocks.iter().for_each(|clock| clock.set(-46 * 3_600));
        let environments = clocks.each_ref().map(Clock::environment);
        let plan = |name: &str| {
            let number: u8 = name.strip_prefix("host-").map_or(0, |number| number.parse().expect("a number"));
            let environment = if has_clocks { &environments[usize::from(number)][..] } else { &[] };
            let station = Some(lan.station(10 + number));
            Plan { options: &options, environment, station, ..Plan::default() }
        };
        let fleet = Fleet::start_as(&place, etcd, hosts, plan);
        fleet.change("POST", "/v2/routes", &json!({"domain": "*", "port": 2525, "allow_private": true}));
        fleet.settle();
        let stranger = lan.station(66);
        Self { fleet, receiver, stranger, clocks, place, lan, _names: names, _receiver_at: receiver_at }
    }

    /// What `curl` says to a stranger: whether it got a successful answer, and all that it printed.
    fn curl(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = self.stranger.command("curl");
        let (status, text) = try_run(command.args(["-sS", "--fail-with-body", "--max-time", "10"]).args(arguments));
        (status.success(), text)
    }

    fn file(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    /// The fleet's authority, as the host keeps it.
    fn authority(&self) -> String {
        self.fleet.hosts[0].data.join("fleet-ca.pem").display().to_string()
    }

    /// A certificate with these names of an authority that is not the fleet's: `strange.pem`, `strange.key`.
    fn forge(&self, names: &str) {
        let (ca, key) = (self.file("strange-ca.pem"), self.file("strange-ca.key"));
        certify(&["-subj", "/CN=Postrail fleet", "-out", &ca, "-keyout", &key]);
        self.sign("strange", names, &ca, &key);
    }

    /// A certificate with these names, `NAME.pem` and `NAME.key`, of the authority with that certificate and key.
    fn sign(&self, name: &str, names: &str, ca: &str, key: &str) {
        let own = ["-subj", "/CN=x", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", names];
        let to = ["-out", &self.file(&format!("{name}.pem")), "-keyout", &self.file(&format!("{name}.key"))];
        certify(&[&own[..], &["-CA", ca, "-CAkey", key], &to].concat());
    }

    /// As [`Self::sign`], of the fleet's own authority: its key follows from the master key.
    fn sign_as_fleet(&self, name: &str, names: &str) {
        let master = std::fs::read(self.fleet.control.data.join("master.key")).expect("the master key");
        let hexadecimal: String = master.iter().map(|octet| format!("{octet:02x}")).collect();
        let (purpose, der, key) = (self.file("purpose"), self.file("fleet-ca.der"), self.file("fleet-ca.key"));
        std::fs::write(&purpose, "postrail fleet authority").expect("writable");
        let hmac = ["-sha256", "-mac", "HMAC", "-binary", "-macopt", &format!("hexkey:{hexadecimal}"), "-out", &der];
        run(Command::new("openssl").arg("dgst").args(hmac).arg(&purpose));
        // An Ed25519 key in PKCS #8.
        let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let seed = std::fs::read(&der).expect("what openssl has written");
        std::fs::write(&der, [&head[..], &seed].concat()).expect("writable");
        run(Command::new("openssl").args(["pkey", "-inform", "DER", "-in", &der, "-out", &key]));
        self.sign(name, names, &self.authority(), &key);
    }

    fn clock(&self, of: &str, hours: i64) {
        self.clocks[usize::from(of != "control")].set(hours * 3_600);
    }

    /// The serial number of the certificate that the host shows.
    fn serial(&self) -> String {
        let at = self.fleet.hosts[0].admin.to_string();
        let script = format!("openssl s_client -connect {at} </dev/null 2>/dev/null | openssl x509 -noout -serial");
        run(self.stranger.command("sh").args(["-c", &script])).trim().to_owned()
    }

    fn says(&self, what: &str, output: impl Fn(&Fleet) -> String) {
        wait::until(&format!("the log to say {what}"), || output(&self.fleet).contains(what).then_some(()));
    }
}

#[test]
fn hosts_are_let_in_by_their_certificates_and_strangers_are_not() {
    let world = World::new("fleet-tls");
    let (host, control) = (world.fleet.hosts[0].admin, world.fleet.control.api);
    let job = world.fleet.accepted(0, "one@receiver.test");
    world.fleet.delivered(&job);
    let suppressed = json!({"address": "never@receiver.test", "reason": "manual"});
    wait::until("the suppression to be made", || {
        let path = "/v2/suppressions?tenant=default";
        let (status, _) = world.fleet.control.control(&world.fleet.token, "POST", path, Some(&suppressed));
        (status < 300).then_some(())
    });
    wait::until("the host to have fetched the suppression", || {
        let submitted = world.fleet.hosts[0].submit(&world.fleet.username, &world.fleet.secret, "never@receiver.test");
        (submitted.0 == 422).then_some(())
    });

    let authority = world.authority();
    let trusting = |path: &str| world.curl(&["--cacert", &authority, &format!("https://{host}{path}")]);
    assert!(trusting("/readyz").0 && trusting("/metrics").0, "health and metrics are for monitoring");
    for path in ["/journal?shard=0", "/queue", "/shards"] {
        let (done, said) = trusting(path);
        assert!(!done && said.contains("which show their certificate"), "{path}: {said}");
    }
    let (done, said) = world.curl(&[&format!("http://{host}/metrics")]);
    assert!(!done, "{said}");
    world.says("does not speak TLS", |fleet| fleet.hosts[0].output());
    let suppressions = format!("https://{control}/fleet/suppressions?version=0");
    let (done, said) = world.curl(&["--cacert", &authority, &suppressions]);
    assert!(!done && said.contains("hosts of the fleet"), "{said}");
    assert!(!world.curl(&[&format!("http://{control}/healthz")]).0, "plain HTTP to the control API");

    world.forge("subjectAltName=DNS:control-plane.main.postrail.internal,DNS:data-plane.main.postrail.internal");
    let forged = ["--cert", &world.file("strange.pem"), "--key", &world.file("strange.key"), "--cacert", &authority];
    for url in [format!("https://{host}/journal?shard=0"), suppressions] {
        let (done, said) = world.curl(&[&forged[..], &[&url]].concat());
        assert!(!done && !said.contains("unauthorized"), "it does not come to a request: {said}");
    }
    world.says("unknown issuer", |fleet| fleet.hosts[0].output());
    world.says("UnknownIssuer", |fleet| fleet.control.output());
}

/// Makes a key and a certificate.
fn certify(arguments: &[&str]) {
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509"];
    run(Command::new("openssl").args(new).args(arguments));
}

#[test]
fn hosts_go_by_what_control_planes_alone_tell_them_of_quotas() {
    let day = today();
    let world = World::with("fleet-tls-quota", 2, false);
    world.fleet.change("PATCH", "/v2/tenants/default", &json!({"quota_per_day": 5}));
    world.fleet.settle();
    let knows = |host: usize, own: u64, others: u64| {
        let rows = [("own", own), ("others", others)].map(|(of, n)| format!("postrail_quota_{of}_recipients {n}\n"));
        wait::until(&format!("host {host} to know {own} and {others}"), || {
            let metrics = world.fleet.hosts[host].metrics();
            rows.iter().all(|row| metrics.contains(row)).then_some(())
        });
    };
    let submit =
        |host: usize| world.fleet.hosts[host].submit(&world.fleet.username, &world.fleet.secret, "a@receiver.test");
    // What one host has accepted the other one hears, over both ways of certificates.
    world.fleet.accepted(0, "one@receiver.test");
    world.fleet.accepted(0, "two@receiver.test");
    knows(1, 0, 2);
    world.fleet.accepted(1, "three@receiver.test");
    knows(0, 2, 1);

    // Nobody else is listened to, hosts of the fleet included.
    let tenant = world.fleet.control.control(&world.fleet.token, "GET", "/v2/tenants/default", None).1["id"].clone();
    let body = json!({"day": day, "tenants": [[tenant, 2, 3]]}).to_string();
    let (host, authority) = (world.fleet.hosts[0].admin, world.authority());
    let tell = |shown: &[&str]| {
        let url = format!("https://{host}/quotas");
        world.curl(&[&["--cacert", &authority, "--data", &body], shown, &[&url]].concat())
    };
    let zone = "main.postrail.internal";
    world.forge(&format!("subjectAltName=DNS:control-plane.{zone}"));
    world.sign_as_fleet("host", &format!("subjectAltName=DNS:host-2.data-plane.{zone},DNS:data-plane.{zone}"));
    world.sign_as_fleet("control", &format!("subjectAltName=DNS:control-plane.{zone}"));
    let shown = |name: &str| [format!("{name}.pem"), format!("{name}.key")].map(|file| world.file(&file));
    let [strange, host_2, control] = ["strange", "host", "control"].map(shown);
    let certificate = |[pem, key]: &[String; 2]| tell(&["--cert", pem, "--key", key]);
    let (done, said) = tell(&[]);
    assert!(!done && said.contains("which show their certificate"), "{said}");
    let (done, said) = certificate(&strange);
    assert!(!done && !said.contains("start"), "{said}");
    let (done, said) = certificate(&host_2);
    assert!(!done && said.contains("may ask for /transfers alone"), "{said}");
    knows(0, 2, 1);
    assert_eq!(submit(0).0, 202, "one more, and there is room for another");
    // A control plane's certificate it is that opens: by what is said now nothing is left.
    let (done, said) = certificate(&control);
    assert!(done && said.contains("\"start\""), "{said}");
    knows(0, 3, 3);
    let (status, refused) = submit(0);
    assert_eq!((status, &refused["code"]), (429, &json!("quota_exceeded")), "{refused}");
}

#[test]
fn a_host_that_another_authority_signed_is_not_spoken_to() {
    let world = World::new("fleet-tls-false");
    world.forge("subjectAltName=DNS:false.data-plane.main.postrail.internal");
    let at = format!("{}:8082", world.stranger.address);
    let mut server = world.stranger.command("openssl");
    server.args(["s_server", "-quiet", "-accept", &at, "-cert"]).arg(world.file("strange.pem"));
    let _server = Running::start(server.arg("-key").arg(world.file("strange.key")), &world.place.join("false.log"));
    let announce = |name: &str, admin: &str| {
        let said = json!({"id": 77, "admin": admin, "shards": 1, "version": "0"}).to_string();
        world.fleet.etcd.control(&["put", &format!("/postrail/main/hosts/{name}"), &said]);
    };
    announce("false", &format!("https://{at}"));
    world.says("its certificate is refused", |fleet| fleet.control.output());
    world.says("UnknownIssuer", |fleet| fleet.control.output());
    // Another's name at a good host's address, and a host of an earlier version.
    announce("other", &format!("https://{}", world.fleet.hosts[0].admin));
    world.says("not valid for name", |fleet| fleet.control.output());
    announce("plain", &format!("http://{at}"));
    world.says("is not https", |fleet| fleet.control.output());
    let job = world.fleet.accepted(0, "one@receiver.test");
    world.fleet.delivered(&job);
    assert!(world.lan.at(1).is_private());
}

#[test]
fn the_commands_reach_the_control_api_by_tls_and_say_whom_they_do_not_trust() {
    let world = World::new("fleet-tls-cli");
    let control = &world.fleet.control;
    let list = |data: &std::path::Path, api: &str, further: &[&str]| {
        let mut command = control.station().command(binary());
        let token = control.data.join("operator.token");
        command.arg("--data").arg(data).args(["tenant", "list", "--api", api, "--token-file"]).arg(token);
        let (status, text) = try_run(command.args(further));
        (status.success(), text)
    };
    let (api, elsewhere) = (format!("https://{}", control.api), world.place.join("elsewhere"));
    let (done, said) = list(&control.data, &api, &[]);
    assert!(done && said.contains("default"), "{said}");
    let (done, said) = list(&elsewhere, &api, &["--api-ca", &world.authority()]);
    assert!(done && said.contains("default"), "{said}");
    let (done, said) = list(&elsewhere, &api, &[]);
    assert!(!done && said.contains("--api-ca"), "{said}");
    let (done, said) = list(&control.data, &format!("http://{}", control.api), &[]);
    assert!(!done && said.contains("https://"), "{said}");
}

#[test]
fn certificates_are_renewed_under_load_and_those_of_another_time_are_refused_until_the_clock_is_right() {
    let mut world = World::with("fleet-tls-clock", 1, true);
    let stream = Stream::start(world.fleet.hosts[0].submitter(&world.fleet.username, &world.fleet.secret), "n");
    let more = |world: &World| {
        let before = world.receiver.arrived().len();
        world.receiver.wait_for(before + 20);
    };
    more(&world);
    let first = world.serial();
    // Twice less than a day, since a mail's life is a day: then the certificate is older than one.
    for hours in [-23, 0] {
        world.clock("control", hours);
        world.clock("host-1", hours);
        more(&world);
        let job = world.fleet.accepted(0, "between@receiver.test");
        world.fleet.delivered(&job);
    }
    let renewed = world.serial();
    assert_ne!(first, renewed, "it is another certificate, and nothing was restarted");
    assert_eq!(renewed, world.serial());
    // A control plane that begins meets the new one.
    world.fleet.control.stop();
    world.fleet.control.start_again();
    let job = world.fleet.accepted(0, "renewed@receiver.test");
    let api = world.fleet.control.api;
    world.fleet.control.wait_for(api, "/readyz");
    world.fleet.delivered(&job);

    for (hours, reason) in [(-48, "not valid yet"), (24 * 30, "expired")] {
        world.fleet.control.stop();
        world.clock("control", hours);
        world.fleet.control.start_again();
        world.says(reason, |fleet| fleet.control.output());
        world.says("an admin connection was refused", |fleet| fleet.hosts[0].output());
        more(&world);
    }
    world.fleet.control.stop();
    world.clock("control", 0);
    world.fleet.control.start_again();
    world.fleet.control.wait_for(api, "/readyz");
    let accepted = stream.stop().len() + 3;
    let mail = world.receiver.wait_for(accepted);
    assert_eq!(mail.len(), accepted, "nothing is lost or sent twice");
    assert!(mail.iter().all(|mail| mail.peer.is_some_and(|peer| matches!(peer.ip(), IpAddr::V4(_)))));
    wait::until("the ledger to have every event", || {
        let metrics = world.fleet.hosts[0].metrics();
        metrics.lines().find(|line| line.starts_with("postrail_journal_unread_bytes{") && line.ends_with(" 0"))?;
        Some(())
    });
    let job = world.fleet.accepted(0, "last@receiver.test");
    world.fleet.delivered(&job);
    let _: Value = world.fleet.change("PATCH", "/v2/tenants/default", &json!({"weight": 3}));
    world.fleet.settle();
}
