//! Listeners that the control API adds, changes and takes away under running hosts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrail_tests::child::try_run;
use postrail_tests::fleet::Fleet;
use postrail_tests::place::{Place, free_address};
use postrail_tests::postrail::DOMAIN;
use postrail_tests::scene::Scene;
use postrail_tests::wait;
use serde_json::{Value, json};

/// Adds a listener, and waits until somebody answers there.
fn add(scene: &Scene, name: &str, at: SocketAddr, further: Value) {
    let mut listener = json!({ "name": name, "protocol": "smtp", "address": at.to_string() });
    listener.as_object_mut().expect("an object").extend(further.as_object().expect("fields").clone());
    scene.postrail.control_ok("POST", "/v2/listeners", Some(&listener));
    wait::until(name, || TcpStream::connect(at).ok());
}

fn swaks(scene: &Scene, at: SocketAddr, to: &str, tls: Option<&str>) -> (bool, String) {
    let mut command = Command::new("swaks");
    command.args(["--server", "127.0.0.1", "--port", &at.port().to_string()]).args(tls);
    command.args(["--auth", "PLAIN", "--auth-user", &scene.postrail.username]);
    command.args(["--auth-password", &scene.postrail.secret, "--from", &format!("swaks@{DOMAIN}"), "--to", to]);
    let (status, text) = try_run(&mut command);
    (status.success(), text)
}

fn refuses(at: SocketAddr) {
    wait::until("nobody to listen there", || TcpStream::connect(at).is_err().then_some(()));
}

/// A client that speaks SMTP by hand.
struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn open(at: SocketAddr) -> Self {
        let mut client = Self { reader: BufReader::new(TcpStream::connect(at).expect("somebody listens")) };
        assert!(client.reply().starts_with("220"));
        client
    }

    /// The last line of a reply.
    fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("a reply");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("it is heard");
        self.reply()
    }
}

#[test]
fn a_listener_is_added_and_changed_without_a_restart_and_takes_the_place_of_the_options() {
    let scene = Scene::new("listener-added");
    let at = free_address();
    add(&scene, "submission", at, json!({ "tls": "required" }));
    let (sent, text) = swaks(&scene, at, "added@receiver.test", Some("--tls"));
    assert!(sent, "{text}");
    scene.receiver.wait_for(1);
    let (sent, text) = swaks(&scene, at, "clear@receiver.test", None);
    assert!(!sent && !text.contains("queued as"), "{text}");
    refuses(scene.postrail.smtp);
    let changed = json!({ "protocol": "smtp", "address": at.to_string(), "tls": "off", "networks": ["192.0.2.0/24"] });
    scene.postrail.control_ok("PUT", "/v2/listeners/submission", Some(&changed));
    wait::until("the change to be in effect", || {
        let mut greeting = String::new();
        BufReader::new(TcpStream::connect(at).ok()?).read_line(&mut greeting).ok()?;
        greeting.starts_with("554 5.7.1").then_some(())
    });
    let (status, table) = scene.postrail.cli(&["listener", "status"]);
    assert!(status && table.contains(&at.to_string()) && table.contains("submission"), "{table}");
    // The last one goes: the options hold again.
    scene.postrail.control_ok("DELETE", "/v2/listeners/submission", None);
    refuses(at);
    wait::until("the options to hold again", || TcpStream::connect(scene.postrail.smtp).ok());
}

#[test]
fn a_listener_that_goes_lets_the_open_transaction_end_and_then_says_421() {
    let scene = Scene::new("listener-removed");
    let (at, other) = (free_address(), free_address());
    add(&scene, "staying", other, json!({}));
    add(&scene, "going", at, json!({}));
    let mut client = Client::open(at);
    client.say("EHLO client.test");
    let secret = format!("\0{}\0{}", scene.postrail.username, scene.postrail.secret);
    assert!(client.say(&format!("AUTH PLAIN {}", STANDARD.encode(secret))).starts_with("235"));
    assert!(client.say(&format!("MAIL FROM:<a@{DOMAIN}>")).starts_with("250"));
    assert!(client.say("RCPT TO:<last@receiver.test>").starts_with("250"));
    let mut idle = Client::open(at);
    scene.postrail.control_ok("DELETE", "/v2/listeners/going", None);
    refuses(at);
    assert!(idle.reply().starts_with("421 4.3.2"));
    assert!(client.say("DATA").starts_with("354"));
    assert!(client.say(&format!("From: a@{DOMAIN}\r\nSubject: the last\r\n\r\nHello.\r\n.")).starts_with("250 2.0.0"));
    assert!(client.reply().starts_with("421 4.3.2"));
    assert_eq!(client.reader.read(&mut [0]).expect("an end"), 0);
    assert!(TcpStream::connect(other).is_ok(), "no other listener is touched");
    scene.receiver.wait_for(1);
}

#[test]
fn a_listener_that_cannot_be_opened_is_a_finding_and_keeps_no_other_from_it() {
    let scene = Scene::new("listener-bind");
    let (at, taken) = (free_address(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let taken_at = taken.local_addr().expect("it has an address");
    add(&scene, "good", at, json!({ "connections_per_client": 1 }));
    let nowhere = json!({ "name": "taken", "protocol": "smtp", "address": taken_at.to_string() });
    scene.postrail.control_ok("POST", "/v2/listeners", Some(&nowhere));
    let strange = json!({ "name": "strange", "protocol": "rest", "address": "192.0.2.77:8080" });
    scene.postrail.control_ok("POST", "/v2/listeners", Some(&strange));
    let nameless = json!({ "name": "nameless", "protocol": "smtps", "address": free_address().to_string(), "certificate": "mail.example" });
    scene.postrail.control_ok("POST", "/v2/listeners", Some(&nameless));
    let found = wait::until("three findings", || {
        let problems = scene.postrail.control_ok("GET", "/v2/problems", None);
        let found = problems["items"].as_array()?.iter().filter(|item| item["code"] == "listener_not_open");
        let found: Vec<_> = found.cloned().collect();
        (found.len() == 3).then_some(found)
    });
    let said = |name: &str| {
        let subject = format!("listener/{name}");
        let found = found.iter().find(|item| item["subject"] == *subject);
        found.unwrap_or_else(|| panic!("{name} is told: {found:?}"))["detail"].to_string()
    };
    assert!(said("taken").contains("in use") && said("taken").contains(&taken_at.to_string()), "{}", said("taken"));
    assert!(said("strange").contains("assign requested address"), "{}", said("strange"));
    assert!(said("nameless").contains("mail.example.pem"), "{}", said("nameless"));
    let client = wait::until("the first connection to end", || {
        let mut greeting = String::new();
        let mut reader = BufReader::new(TcpStream::connect(at).ok()?);
        reader.read_line(&mut greeting).ok()?;
        greeting.starts_with("220").then_some(reader)
    });
    let mut second = String::new();
    BufReader::new(TcpStream::connect(at).expect("it listens")).read_line(&mut second).expect("a word");
    assert!(second.starts_with("421 4.7.0"), "{second}");
    drop((client, taken));
    // Whoever had the address has gone: it is opened.
    wait::until("the address that was taken", || {
        let mut greeting = String::new();
        BufReader::new(TcpStream::connect(taken_at).ok()?).read_line(&mut greeting).ok()?;
        greeting.starts_with("220").then_some(())
    });
}

#[test]
fn a_data_plane_that_starts_while_etcd_is_down_has_its_listeners_and_only_its_own() {
    let place = Place::new("listener-etcd-down");
    let mut fleet = Fleet::start(&place, 2, &["--shards", "1"]);
    let at = free_address();
    let listener = json!({ "name": "only-one", "protocol": "smtp", "address": at.to_string(), "hosts": ["host-1"] });
    fleet.change("POST", "/v2/listeners", &listener);
    fleet.settle();
    wait::until("the listener", || TcpStream::connect(at).ok());
    refuses(fleet.hosts[0].smtp);
    assert!(TcpStream::connect(fleet.hosts[1].smtp).is_ok(), "it is not that host's, whose options hold");
    fleet.etcd.kill();
    let host = &mut fleet.hosts[0];
    host.child().kill();
    refuses(at);
    host.start_again();
    host.wait_for(host.admin, "/readyz");
    assert!(TcpStream::connect(at).is_ok(), "what was kept on disk says it");
    refuses(fleet.hosts[0].smtp);
}
