//! What an operator sees of a fleet of which a host does not answer, or is not like the others.

use postrail_tests::child::run_apart;
use postrail_tests::etcd::Etcd;
use postrail_tests::fleet::{Fleet, Plan};
use postrail_tests::place::Place;
use postrail_tests::postrail::binary;
use postrail_tests::wait;
use serde_json::{Value, json};

#[test]
fn a_view_of_all_hosts_is_of_those_that_answer_and_names_the_others() {
    let place = Place::new("fleet-view");
    // Nobody answers at the resolver, so mail waits; and a lease so long that a host that is killed stays announced.
    let mut fleet = Fleet::start(&place, 2, &["--resolver", "127.0.0.1:9", "--shards", "1", "--lease", "60"]);
    fleet.accepted(0, "one@receiver.test");
    let shown = |fleet: &Fleet, path: &str| fleet.change("GET", path, &Value::Null);
    let waiting = |queue: &Value| {
        let shards = queue["shards"].as_array().expect("a queue has shards").iter();
        shards.map(|shard| (shard["host"].to_string(), shard["waiting"].as_u64())).collect::<Vec<_>>()
    };
    let both = [(json!("host-1").to_string(), Some(1)), (json!("host-2").to_string(), Some(0))];
    let queue =
        wait::until("the mail to wait", || Some(shown(&fleet, "/v2/queue")).filter(|queue| waiting(queue) == both));
    assert_eq!(queue["unanswered"], json!([]));

    fleet.hosts[1].child().kill();
    let silent = json!([{"host": "host-2", "reason": "the data plane does not answer: no connection"}]);
    let queue = shown(&fleet, "/v2/queue");
    assert_eq!((waiting(&queue).as_slice(), &queue["unanswered"]), (&both[..1], &silent));
    for path in ["/v2/quarantine", "/v2/listening"] {
        assert_eq!(shown(&fleet, path)["unanswered"], silent, "{path}");
    }
    let retried = fleet.change("POST", "/v2/queue/retry", &json!({}));
    assert_eq!(retried, json!({"recipients": 1, "unanswered": silent}));

    let cli = |arguments: &[&str]| {
        let mut command = std::process::Command::new(binary());
        command.arg("--data").arg(&fleet.control.data).args(arguments);
        run_apart(command.args(["--api", &format!("http://{}", fleet.control.api)]))
    };
    let warning = "warning: host-2 is left out: the data plane does not answer: no connection\n";
    for command in [&["queue"][..], &["queue", "retry", "--all"], &["quarantine", "list"], &["listener", "status"]] {
        let (done, _, said) = cli(command);
        assert_eq!((done, said.as_str()), (true, warning), "{command:?}");
    }
    let (_, table, _) = cli(&["queue"]);
    assert!(table.starts_with("1 recipients wait\n") && table.contains("HOST") && table.contains("host-1"), "{table}");
    let (_, told, _) = cli(&["queue", "--json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON alone is on stdout");
    assert_eq!(told["unanswered"], silent);
}

#[test]
fn hosts_with_other_authorities_of_receivers_are_named_until_all_have_the_same() {
    let place = Place::new("fleet-authorities");
    let system = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").expect("the system's authorities");
    let end = "-----END CERTIFICATE-----\n";
    let file = place.join("receiver-ca.pem");
    let first = system.find(end).expect("a certificate") + end.len();
    std::fs::write(&file, &system[..first]).expect("a file can be written");
    let given = ["--shards", "1", "--receiver-ca", file.to_str().expect("a path of ours")];
    let plan = |name: &str| Plan { options: if name == "host-1" { &given } else { &given[..2] }, ..Plan::default() };
    let mut fleet = Fleet::start_as(&place, Etcd::start(&place), 2, plan);
    let finding = |fleet: &Fleet| {
        let problems = fleet.change("GET", "/v2/problems", &Value::Null);
        let found = problems["items"].as_array().expect("a list of findings").iter();
        found.filter(|one| one["code"] == "receiver_authorities_differ").map(|one| one["detail"].to_string()).next()
    };
    let told = wait::until("both hosts to be announced", || finding(&fleet));
    assert!(told.contains("host-2: none") && told.contains("host-1: "), "{told}");
    fleet.hosts[1].stop();
    // Who does not run is not compared.
    wait::until("it to be announced no more", || finding(&fleet).is_none().then_some(()));
}
