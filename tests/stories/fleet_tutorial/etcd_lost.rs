//! `etcd-lost.md` as it stands: a snapshot that lacks a tenant is restored and an export applied, then everything is lost and
//! imported into nothing. Nobody sees another's events, mail that waits goes out with its own signature, and journals are
//! read once.

use super::*;

const API: &str = "--api https://10.0.0.1:8081";

/// A tenant with a credential and a domain of its own.
struct Customer {
    name: &'static str,
    secret: String,
}

impl Customer {
    fn new(tutorial: &mut Tutorial, name: &'static str) -> Self {
        tutorial.run(HOSTS[0], &format!("postrail tenant add {name} {API}"));
        tutorial.run(HOSTS[0], &format!("postrail credential add {name}-app --tenant {name} {API}"));
        let said = tutorial.said.clone();
        let secret = said.split_whitespace().find(|word| word.starts_with("pr_")).expect("a secret").to_owned();
        tutorial.run(HOSTS[0], &format!("postrail domain add {name}.example --tenant {name} {API}"));
        Self { name, secret }
    }

    fn asks(&self, tutorial: &mut Tutorial, path: &str) -> Value {
        let (user, secret) = (self.name, &self.secret);
        let ca = "/var/lib/postrail/fleet-ca.pem";
        let line = format!("curl -sS --fail --cacert {ca} -u {user}-app:{secret} https://10.0.0.1:8081{path}");
        tutorial.run(HOSTS[0], &line);
        serde_json::from_str(&tutorial.said).expect("JSON")
    }

    /// The recipients that it has events of.
    fn sees(&self, tutorial: &mut Tutorial) -> BTreeSet<String> {
        let events = self.asks(tutorial, "/v2/events?limit=1000");
        let items = events["items"].as_array().expect("events").iter();
        items.filter_map(|event| Some(event["address"].as_str()?.to_owned())).filter(|to| !to.is_empty()).collect()
    }

    /// Submits once the host knows of it.
    fn submits(&self, tutorial: &Tutorial, host: &str, to: &str) {
        let from = format!("hello@{}.example", self.name);
        wait::until(&format!("{host} to take mail of {}", self.name), || {
            let user = format!("{}-app", self.name);
            (submit_as(&tutorial.stations[host], &user, &self.secret, &from, to) == 202).then_some(())
        });
    }
}

/// A mail that is put off, and waits at a host.
fn wait_for_waiting(tutorial: &mut Tutorial, count: usize) {
    wait::until(&format!("{count} to wait"), || {
        tutorial.run(HOSTS[0], &format!("postrail queue {API}"));
        tutorial.said.contains(&format!("{count} recipients wait")).then_some(())
    });
}

/// Tries what waits, which arrives then, each with a signature of its domain.
fn goes_out(tutorial: &mut Tutorial, receiver: &Receiver, mails: &[(&str, &str)]) {
    tutorial.run(HOSTS[0], &format!("postrail queue retry --all {API}"));
    for (to, domain) in mails {
        let found = wait::until(&format!("{to} to be delivered"), || {
            receiver.arrived().into_iter().find(|mail| mail.rcpt.concat().contains(to))
        });
        let content = String::from_utf8_lossy(&found.content).into_owned();
        assert!(content.contains(&format!("d={domain}")), "{content}");
    }
}

/// The numbers of the hosts, which differ.
fn host_numbers(tutorial: &Tutorial) -> Vec<String> {
    let number = |host: &&str| std::fs::read_to_string(tutorial.folder(host).join("host.id")).expect("a number");
    let numbers: Vec<_> = HOSTS.iter().map(number).collect();
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), HOSTS.len(), "{numbers:?}");
    numbers
}

/// The events of all tenants: those that say accepted, and delivered.
fn counted(tutorial: &mut Tutorial) -> [usize; 2] {
    tutorial.run(HOSTS[0], &format!("postrail events --limit 1000 {API}"));
    ["accepted  ", "delivered  "].map(|kind| tutorial.said.matches(kind).count())
}

/// Runs that part; what a host takes before the import is looked at, and what the control plane says of it.
fn import_into_nothing(tutorial: &mut Tutorial, part: &str, secret: &str) {
    for block in blocks(part) {
        match block {
            Block::Commands(host, lines) => {
                for line in &lines {
                    if line.starts_with("postrail import") {
                        // A store with nothing in it says nothing.
                        assert_eq!(submit(&tutorial.stations[HOSTS[1]], secret, "meanwhile@receiver.test"), 202);
                        let log = tutorial.running[HOSTS[0]].output();
                        assert!(
                            log.contains("the configuration was lost") && !log.contains("first credential"),
                            "{log}"
                        );
                    }
                    tutorial.run(&host, line);
                }
            }
            Block::Printed(lines) => {
                wait::until("every host to be live", || {
                    tutorial.run(HOSTS[0], &format!("postrail host list {API}"));
                    lines.iter().all(|line| tutorial.prints(line, HOSTS[0])).then_some(())
                });
            }
        }
    }
}

pub(super) fn etcd_is_lost(
    tutorial: &mut Tutorial,
    etcd: Etcd,
    secret: &str,
    receiver: &Receiver,
    postgres: &Postgres,
) {
    tutorial.etcd = Some(etcd);
    std::fs::create_dir_all(tutorial.place.join("backups")).expect("a folder can be made");
    let [copies, snapshot, nothing] = sections("etcd-lost").try_into().expect("three parts");
    let numbers = host_numbers(tutorial);
    let before = counted(tutorial);
    tutorial.act(&copies);
    // What the snapshot lacks.
    let victim = Customer::new(tutorial, "victim");
    tutorial.run(HOSTS[0], &format!("postrail suppression add never@receiver.test --tenant victim {API}"));
    victim.submits(tutorial, HOSTS[1], "victim-one@receiver.test");
    wait::until("the victim to see it", || victim.sees(tutorial).contains("victim-one@receiver.test").then_some(()));
    receiver.script(Stage::Rcpt, Act::Say("451 4.3.0 Later\r\n".to_owned()), 2);
    victim.submits(tutorial, HOSTS[1], "victim-waits@receiver.test");
    assert_eq!(submit(&tutorial.stations[HOSTS[2]], secret, "default-waits@receiver.test"), 202);
    wait_for_waiting(tutorial, 2);
    let export = format!("postrail export --secrets {API} > /var/backups/postrail.toml");
    tutorial.run(HOSTS[0], &export);
    let late = Customer::new(tutorial, "late");
    late.submits(tutorial, HOSTS[1], "late-one@receiver.test");
    wait::until("the late one to see it", || late.sees(tutorial).contains("late-one@receiver.test").then_some(()));
    tutorial.act(&snapshot);
    let stranger = Customer::new(tutorial, "stranger");
    assert_eq!(stranger.sees(tutorial), BTreeSet::new(), "what was made since has a number of its own");
    assert_eq!(stranger.asks(tutorial, "/v2/suppressions")["items"], json!([]));
    assert!(victim.sees(tutorial).contains("victim-one@receiver.test"), "and what came back has its own");
    assert_eq!(victim.asks(tutorial, "/v2/suppressions")["items"].as_array().map(Vec::len), Some(1));
    goes_out(tutorial, receiver, &[("victim-waits@", "victim.example"), ("default-waits@", "example.org")]);
    assert_eq!(host_numbers(tutorial), numbers);

    // Two tenants send by one name, which an import into nothing has to take as well.
    tutorial.run(HOSTS[0], &format!("postrail domain add victim.example --tenant stranger {API}"));
    receiver.script(Stage::Rcpt, Act::Say("451 4.3.0 Later\r\n".to_owned()), 1);
    stranger.submits(tutorial, HOSTS[2], "stranger-waits@receiver.test");
    wait_for_waiting(tutorial, 1);
    import_into_nothing(tutorial, &nothing, secret);
    wait::until("the stranger to send by a name that the victim has, too", || {
        let (place, secret) = (&tutorial.stations[HOSTS[1]], &stranger.secret);
        let status = submit_as(place, "stranger-app", secret, "hello@victim.example", "stranger-too@receiver.test");
        (status == 202).then_some(())
    });
    let third = Customer::new(tutorial, "third");
    assert_eq!(third.sees(tutorial), BTreeSet::new());
    assert!(victim.sees(tutorial).contains("victim-one@receiver.test"));
    assert!(stranger.sees(tutorial).iter().all(|to| to.starts_with("stranger")), "{:?}", stranger.sees(tutorial));
    // A host is announced again when its lease would have ended.
    wait_for_waiting(tutorial, 1);
    goes_out(tutorial, receiver, &[("stranger-waits@", "stranger.example")]);
    for host in HOSTS {
        third.submits(tutorial, host, &format!("third-at-{host}@receiver.test"));
    }
    assert_eq!(host_numbers(tutorial), numbers);
    // Of the victim and the default tenant, of the late one, the stranger, the one meanwhile, and the last ones.
    let new = 3 + 1 + 2 + 1 + 3;
    wait::until("each new mail to be accepted once and delivered once", || {
        let now = counted(tutorial);
        (now == before.map(|count| count + new)).then_some(())
    });
    check_sequences(postgres);
    tutorial.run(HOSTS[0], &format!("postrail problems {API}"));
    assert!(!tutorial.said.contains("host_number_taken"), "{}", tutorial.said);
}
