//! Who may reach etcd: TLS with client certificates, a user with a password and a role, and what is said when one of
//! them is wrong.

use std::path::Path;
use std::process::Command;

use postrail_tests::child::{run, try_run};
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::place::{Place, free_address};
use postrail_tests::postrail::binary;
use postrail_tests::receiver::Receiver;
use postrail_tests::wait;
use postrail_tests::zone::NameServer;
use serde_json::json;

use crate::durability::ZONE;

const PASSWORD: &str = "a pass word that no log has";
const ROOT: &str = "root:another one";

/// A certificate authority `<name>-ca.pem` in `place`, and a certificate of it for this host, `<name>.pem`.
fn authority(place: &Place, name: &str) {
    let file = |end: &str| place.join(&format!("{name}{end}")).display().to_string();
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509"];
    let openssl = |arguments: &[&str]| run(Command::new("openssl").args(new).args(arguments));
    openssl(&["-subj", "/CN=authority", "-out", &file("-ca.pem"), "-keyout", &file("-ca.key")]);
    let signed = ["-CA", &file("-ca.pem"), "-CAkey", &file("-ca.key"), "-addext", "subjectAltName=IP:127.0.0.1"];
    let own = ["-subj", "/CN=host", "-addext", "basicConstraints=critical,CA:FALSE"];
    let to = ["-out", &file(".pem"), "-keyout", &file(".key")];
    openssl(&[&signed[..], &own, &to].concat());
}

/// An etcd that wants a certificate and a user; `postrail` may use its keys, `guest` may not.
fn guarded(place: &Place) -> Etcd {
    let file = |name: &str| place.join(name).display().to_string();
    let (ca, own, key) = (file("good-ca.pem"), file("good.pem"), file("good.key"));
    let options = ["--cert-file", &own, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let proof = ["--cacert", &ca, "--cert", &own, "--key", &key];
    let mut etcd = Etcd::start_with(place, "https", &options, &proof);
    let (root, password) = ROOT.split_once(':').expect("a user and a password");
    etcd.control(&["user", "add", root, "--new-user-password", password]);
    etcd.control(&["user", "grant-role", root, "root"]);
    etcd.control(&["role", "add", "postrail"]);
    etcd.control(&["role", "grant-permission", "postrail", "--prefix=true", "readwrite", "/postrail/main/"]);
    for user in ["postrail", "guest"] {
        etcd.control(&["user", "add", user, "--new-user-password", PASSWORD]);
    }
    etcd.control(&["user", "grant-role", "postrail", "postrail"]);
    etcd.control(&["auth", "enable"]);
    etcd.prove(&["--user", ROOT]);
    etcd
}

#[test]
fn a_fleet_works_with_certificates_and_a_user_and_no_log_has_the_password() {
    let place = Place::new("fleet-access");
    authority(&place, "good");
    std::fs::write(place.join("password"), format!("{PASSWORD}\n")).expect("written");
    let etcd = guarded(&place);
    let (names, receiver) = (NameServer::start(&place, &[ZONE]), Receiver::local());
    let file = |name: &str| place.join(name).display().to_string();
    let options = [
        ["--resolver", &names.address().to_string()],
        ["--shards", "1"],
        ["--etcd-ca", &file("good-ca.pem")],
        ["--etcd-cert", &file("good.pem")],
        ["--etcd-key", &file("good.key")],
        ["--etcd-user", "postrail"],
        ["--etcd-password-file", &file("password")],
    ];
    let plan = |_: &str| Plan { options: options.as_flattened(), ..Plan::default() };
    let fleet = Fleet::start_as(&place, etcd, 1, plan);
    let route = json!({"domain": "*", "port": receiver.address().port(), "allow_private": true});
    fleet.change("POST", "/v2/routes", &route);
    fleet.settle();
    let job = fleet.accepted(0, "one@receiver.test");
    fleet.delivered(&job);
    // What etcd forgets of its users' sessions is asked for again.
    fleet.etcd.control(&["auth", "disable"]);
    fleet.etcd.control(&["auth", "enable"]);
    wait::until("a change to be possible again", || {
        let asked = fleet.control.control(&fleet.token, "PATCH", "/v2/tenants/default", Some(&json!({"weight": 5})));
        (asked.0 == 200).then_some(())
    });
    fleet.settle();
    for process in fleet.hosts.iter().chain([&fleet.control]) {
        assert!(!process.output().contains(PASSWORD));
        let line = std::fs::read(format!("/proc/{}/cmdline", process.id())).expect("it runs");
        assert!(!String::from_utf8_lossy(&line).contains(PASSWORD));
    }
}

/// What `postrail up --role control-plane` says where it cannot start.
fn refused(place: &Place, etcd: &Etcd, ca: &str, options: &[&str]) -> String {
    let [api, admin] = std::array::from_fn(|_| free_address().to_string());
    let data = place.join("refused");
    let _ = std::fs::remove_dir_all(&data);
    let mut command = Command::new(binary());
    command.args(["up", "--role", "control-plane", "--etcd", &etcd.url(), "--api", &api, "--admin", &admin]);
    command.args(["--hostname", "mail.sender.test", "--resolver", "127.0.0.1:1", "--data"]).arg(&data);
    command.args(["--log-level", "error", "--etcd-ca"]).arg(place.join(ca)).args(options);
    let (status, text) = try_run(command.env("POSTRAIL_ETCD_PASSWORD", PASSWORD));
    assert_eq!(status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
    assert!(text.starts_with("postrail: ") && !text.contains(PASSWORD), "{text}");
    text
}

#[test]
fn what_is_wrong_with_the_access_to_etcd_is_said_in_one_sentence() {
    let place = Place::new("fleet-access-refused");
    authority(&place, "good");
    authority(&place, "other");
    std::fs::write(place.join("password"), "not this one").expect("written");
    let etcd = guarded(&place);
    let file = |name: &str| place.join(name).display().to_string();
    let (certificate, key) = (file("good.pem"), file("good.key"));
    let own = ["--etcd-cert", &certificate, "--etcd-key", &key];
    let with = |further: &[&str]| refused(&place, &etcd, "good-ca.pem", &[&own, further].concat());

    let wrong_ca = refused(&place, &etcd, "other-ca.pem", &own);
    assert!(wrong_ca.contains("--etcd-ca"), "{wrong_ca}");
    let none = refused(&place, &etcd, "good-ca.pem", &["--etcd-user", "postrail"]);
    assert!(none.contains("--etcd-cert"), "{none}");
    let nobody = with(&[]);
    assert!(nobody.contains("--etcd-user"), "{nobody}");
    let wrong = with(&["--etcd-user", "postrail", "--etcd-password-file", &file("password")]);
    assert!(wrong.contains("password is wrong") && !wrong.contains("not this one"), "{wrong}");
    let unknown = with(&["--etcd-user", "nobody"]);
    assert!(unknown.contains("password is wrong"), "{unknown}");
    let guest = with(&["--etcd-user", "guest"]);
    assert!(guest.contains("readwrite /postrail/main/"), "{guest}");
    let missing = with(&["--etcd-user", "postrail", "--etcd-password-file", "/no/such/file"]);
    assert!(missing.contains("/no/such/file"), "{missing}");
    assert!(Path::new(&certificate).exists());
}
